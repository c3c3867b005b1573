"""Small causal models of four families, and recurrent nets around them."""

from __future__ import annotations

import pytest
import torch
import transformers

from remask.nets.recurrent import RecurrentNet
from tests.nets import tiny

V, WIDTH = 23, 32
_SHAPE = {"vocab_size": V, "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}


def gpt2(**more):
    sizes = {"vocab_size": V, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **more}))


def _llama(**more):
    shape = {**_SHAPE, "intermediate_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 16}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **more}))


MODELS = {
    "gpt2": gpt2,
    "llama": _llama,
    "modernbert-decoder": lambda: tiny.make("modernbert-decoder").model,
    "remask-modernbert-decoder": lambda: tiny.make("remask-modernbert-decoder").model,
}
every_model = pytest.mark.parametrize("family", MODELS)


def model_of(family: str, seed: int = 0):
    """A small model in float64, with weights large enough to matter."""
    torch.manual_seed(seed)
    return tiny.shake(MODELS[family]().double().eval(), seed)


def net_of(family: str = "gpt2", window: int = 4, **rest) -> RecurrentNet:
    """A recurrent net whose slots say something."""
    net = RecurrentNet(model_of(family), window, **rest)
    torch.manual_seed(1)
    for layer in net.adapter.values.values():
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net.eval()


def rows(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def total(net: RecurrentNet, tokens: torch.Tensor, **rest) -> torch.Tensor:
    """The loss of rows that predict themselves, shifted by one."""
    documents = rest.pop("documents", torch.zeros_like(tokens))
    inputs, targets = tokens.roll(1, 1), tokens
    return net.total_nll_of_rows(inputs, targets, torch.ones(tokens.shape), documents, **rest)
