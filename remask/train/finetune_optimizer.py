"""AdamW with layer-wise learning-rate decay (Howard & Ruder 2018, arXiv 1801.06146; Clark et al. 2020, 2003.10555).

A parameter of depth d in a trunk of n layers has the rate times decay^(n + 1 - d): the embeddings are depth 0, layer l
(from 1) is depth l, and the head is depth n + 1, so it has the full rate and the top layer decay^1. The published
ELECTRA code counted n + 2 - d for the layers, which gave its top layer decay^2; its authors call that a bug
(google-research/electra, issues 51 and 64).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from remask.core.errors import BadCheckpoint


class Depths(NamedTuple):
    """Depth of every parameter by name, and the number of layers n; the head is n + 1."""

    depth: dict[str, int]
    layers: int


def depths(model: Any) -> Depths:
    """Depths of the parameters of a transformers model with any head.

    The layers are the longest ModuleList of the trunk. Of the rest of the trunk, what is an embedding (or stands beside
    a table of embeddings, as DeBERTa's norm of relative positions does) is depth 0; final norms and poolers count with
    the head. Raises BadCheckpoint for a trunk without layers.
    """
    trunk, prefix = model.base_model, f"{model.base_model_prefix}."
    lists = {name: module for name, module in trunk.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise BadCheckpoint(f"the trunk of a '{model.config.model_type}' model has no list of layers to fine-tune.")
    where = max(lists, key=lambda name: len(lists[name]))
    layers = len(lists[where])
    found = {}
    for name, _ in model.named_parameters():
        inside = name.removeprefix(prefix)
        if not name.startswith(prefix):
            found[name] = layers + 1
        elif inside.startswith(f"{where}."):
            found[name] = int(inside[len(where) + 1 :].split(".")[0]) + 1
        else:
            found[name] = 0 if _embeds(trunk, inside) else layers + 1
    return Depths(found, layers)


def _embeds(trunk: nn.Module, name: str) -> bool:
    """Whether a parameter outside the layers belongs to the embeddings."""
    if "embed" in name:
        return True
    above = name.split(".")[:-2]  # the module that holds the parameter's module
    parent = trunk.get_submodule(".".join(above))
    return any(isinstance(child, nn.Embedding) for child in parent.children())


def groups(model: Any, rate: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: one for each depth, with and without weight decay (norms and biases)."""
    found = depths(model)
    gathered: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gathered.setdefault((found.depth[name], parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * decay ** (found.layers + 1 - depth),
            "weight_decay": weight_decay if matrices else 0.0,
        }
        for (depth, matrices), parameters in sorted(gathered.items(), key=lambda item: item[0])
    ]


def build(model: Any, rate: float, decay: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of a fine-tuning run."""
    return torch.optim.AdamW(groups(model, rate, decay, weight_decay), lr=rate, betas=(0.9, 0.999), eps=1e-6)
