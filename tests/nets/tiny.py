"""Tiny random models of every family, and small helpers. V = 61 ids everywhere."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.nets.directional import (
    DirectionalConfig,
    DirectionalDecoderConfig,
    DirectionalForCausalLM,
    DirectionalForMaskedLM,
)
from remask.nets.hf import HuggingFaceNet

V = 61
MASK = 1
ALPHABET = Alphabet(V, MASK, 0, 2, frozenset({0, 1, 2, 3}))
TEXT = 4  # the first id that no family gives a meaning to
LONGEST = 40


def shake(model: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """Add noise to every parameter, biases and norms too, large enough that any difference shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def text(rows: int, length: int, seed: int = 0) -> Tensor:
    """Random tokens without a special one, [rows, length]."""
    return torch.randint(TEXT, V - 1, (rows, length), generator=torch.Generator().manual_seed(seed))


def masked(tokens: Tensor, mask: int = MASK, share: float = 0.4, seed: int = 1) -> Tensor:
    """The tokens with a share of them masked."""
    hide = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(hide, mask, tokens)


def padding(lengths: list[int], longest: int, left: bool = False) -> Tensor:
    """[B, L] bool, True at the `lengths` first (or last) cells."""
    place = torch.arange(longest)
    place = longest - 1 - place if left else place
    return place[None] < torch.tensor(lengths)[:, None]


@torch.no_grad()
def logits(net: HuggingFaceNet, tokens: Tensor, **rest: Any) -> Tensor:
    """Logits at every position, [B, L, V]."""
    return net.logits(net.hidden(tokens, **rest).flatten(0, 1)).view(*tokens.shape, -1)


@torch.no_grad()
def theirs(model: Any, tokens: Tensor, **rest: Any) -> Tensor:
    """What plain transformers says."""
    return model(input_ids=tokens, **rest).logits


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest entry of b where that is above 1; nan if there is one."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


_SHAPE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
}
_LOW = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2, "cls_token_id": 2, "sep_token_id": 2}
_ROBERTA = {**_SHAPE, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_PUBLISHED = {  # as ModernBERT-base: every third layer global, a theta for each kind; and with every bias it may have
    **_SHAPE,
    **_LOW,
    "num_hidden_layers": 5,
    "local_attention": 8,
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias"), True),
}
_DEBERTA = {
    **_SHAPE,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 8,
}
_FOUR = {"num_attention_heads": 4, "layer_types": ["full_attention"] * 3, "num_hidden_layers": 3}
DIRECTIONS = {"head_directions": ["left", "right", "free", "left"], "head_slopes": [1.0, 0.5, 0.25, 0.0]}

MAKE: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**_SHAPE)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**_ROBERTA)),
    "xlm-roberta": lambda: transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**_ROBERTA)),
    "camembert": lambda: transformers.CamembertForMaskedLM(transformers.CamembertConfig(**_ROBERTA)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(
            vocab_size=V, dim=32, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=LONGEST
        )
    ),
    "electra": lambda: transformers.ElectraForMaskedLM(transformers.ElectraConfig(**_SHAPE, embedding_size=16)),
    "deberta-legacy": lambda: transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**_DEBERTA)),
    "deberta-new": lambda: transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**_DEBERTA, legacy=False)),
    "modernbert": lambda: transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**_PUBLISHED)),
    "modernbert-decoder": lambda: transformers.ModernBertDecoderForCausalLM(
        transformers.ModernBertDecoderConfig(**_PUBLISHED)
    ),
    "remask-modernbert": lambda: DirectionalForMaskedLM(
        DirectionalConfig(**{**_SHAPE, **_LOW, **_FOUR}, **DIRECTIONS, mask_token_id=MASK)
    ),
    "remask-modernbert-decoder": lambda: DirectionalForCausalLM(
        DirectionalDecoderConfig(**{**_SHAPE, **_LOW, **_FOUR}, head_slopes=DIRECTIONS["head_slopes"])
    ),
}
CAUSAL = [name for name in MAKE if name.endswith("decoder")]
OWN_POSITIONS = [name for name in MAKE if "modernbert" in name]  # packing keeps the row; the rest are unpacked


def make(name: str, seed: int = 0) -> HuggingFaceNet:
    """A shaken net of a family; weights are functions of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HuggingFaceNet(shake(MAKE[name](), seed))
