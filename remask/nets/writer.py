"""A left-to-right writer with the shape, and if asked the weights, of a masked ModernBERT; and the way back.

What a masked model learnt can warm-start a decoder (Rothe et al. 2020, arXiv 1907.12461), and what a writer learnt a
parallel decoder (Li et al. 2024, arXiv 2407.21046, who begin with T5's): ModernBERT-decoder has ModernBERT's layers,
its queries, keys and values in three tables instead of one, and sees nothing behind a cell.
Directional heads become the causal twin's (nets/directional.py): those that looked right would see a cell alone. On the
way back they are those of any fresh masked net.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import ModernBertConfig, ModernBertDecoderConfig, ModernBertDecoderForCausalLM, ModernBertForMaskedLM

from remask.core.errors import BadInput
from remask.nets.convert import seeded
from remask.nets.directional import (
    DirectionalConfig,
    DirectionalDecoderConfig,
    DirectionalForCausalLM,
    DirectionalForMaskedLM,
    default_directions,
    default_slopes,
)
from remask.nets.hf import HuggingFaceNet
from remask.nets.share import plain_state

FAMILIES = ("modernbert", "remask-modernbert")
WRITERS = ("modernbert-decoder", "remask-modernbert-decoder")
SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "hidden_activation",
    "num_hidden_layers",
    "num_attention_heads",
    "norm_eps",
    "norm_bias",
    "max_position_embeddings",
    "layer_types",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "decoder_bias",
    "classifier_bias",
    "classifier_activation",
    "initializer_range",
    "initializer_cutoff_factor",
    "tie_word_embeddings",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "cls_token_id",
    "sep_token_id",
)
"""Fields that both configs have."""


def writer(net: HuggingFaceNet, *, begun: bool, seed: int = 0) -> HuggingFaceNet:
    """A causal net of the shape of a masked one.

    begun: with its weights, or fresh ones of `seed`. Raises BadInput for a net of another family.
    """
    config = net.model.config
    if net.family not in FAMILIES or getattr(config, "time_conditioning", False):
        raise BadInput(
            f"a '{net.family}' net came to begin a writer that goes left to right: take a masked ModernBERT, as remask "
            "train mdlm leaves one, without --time-conditioning."
        )
    shape = _shape(config)
    if "sliding_attention" in config.layer_types:
        shape["local_attention"] = 2 * (config.sliding_window + 1)  # its half is the first distance that is not seen
    with seeded(seed):
        if net.family == "modernbert":
            model: Any = ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**shape))
        else:
            slopes = default_slopes(config.num_attention_heads)
            model = DirectionalForCausalLM(DirectionalDecoderConfig(**shape, **slopes))
    if begun:
        model.load_state_dict(_renamed(plain_state(net.model)))
        model.tie_weights()
    like = next(net.model.parameters())
    return HuggingFaceNet(model.to(like.device, like.dtype).train(net.training))


def bidirectional(net: HuggingFaceNet, mask: int) -> HuggingFaceNet:
    """The masked net that a causal ModernBERT becomes: all of its weights, and cells that see both sides.

    mask: id of the mask token. Shown nothing behind a cell, it says what the writer says, but for directional heads.
    Raises BadInput for a net of another family.
    """
    config = net.model.config
    if net.family not in WRITERS:
        raise BadInput(
            f"a '{net.family}' net came to fill gaps instead of going left to right: take a ModernBERT-decoder."
        )
    shape = _shape(config)
    if "sliding_attention" in config.layer_types:
        shape["local_attention"] = 2 * (config.sliding_window - 1)
    with seeded(0):  # every weight is given another value
        if net.family == "modernbert-decoder":
            model: Any = ModernBertForMaskedLM(ModernBertConfig(**shape))
        else:
            directions = default_directions(config.num_attention_heads)
            model = DirectionalForMaskedLM(DirectionalConfig(**shape, **directions, mask_token_id=mask))
    model.load_state_dict(_joined(plain_state(net.model)))
    model.tie_weights()
    like = next(net.model.parameters())
    return HuggingFaceNet(model.to(like.device, like.dtype).train(net.training))


def _shape(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SHAPE if hasattr(config, name)}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A masked ModernBERT's weights under the names that its decoder has for them."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("head."):
            found[f"lm_{name}"] = tensor
        elif ".attn.Wqkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3)):
                found[name.replace("Wqkv", f"{part}_proj")] = piece
        else:
            found[name] = tensor
    return found


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A writer's weights under the names that ModernBERT has for them: `_renamed` undone."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("lm_head."):
            found[name.removeprefix("lm_")] = tensor
        elif ".attn.q_proj." in name:
            found[name.replace("q_proj", "Wqkv")] = torch.cat(
                [state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            )
        elif not re.search(r"\.attn\.[kv]_proj\.", name):
            found[name] = tensor
    return found
