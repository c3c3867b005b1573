"""Optimizers: fused AdamW, or Muon for the block matrices with AdamW for the rest; and the learning-rate curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from remask.nets.share import Derived
from remask.train.settings import Training


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one, with one list of parameter groups and one state dict."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]):
        self.parts = tuple(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        # the groups are the parts' own dictionaries, so that a scheduler that writes "lr" here reaches them
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step every part."""
        del closure
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The parts' state dicts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the parts."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def split(net: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters as (block matrices, embedding matrices, vectors); tied ones come once."""
    embeddings = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    embeddings |= {id(p) for m in net.modules() if isinstance(m, Derived) for p in (m.base, getattr(m, "delta", None))}
    blocks: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
    for parameter in net.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or min(parameter.shape) == 1:  # the one row of a score head is a vector
            vectors.append(parameter)
        elif parameter.ndim == 2 and id(parameter) not in embeddings:
            blocks.append(parameter)
        else:
            tables.append(parameter)
    return blocks, tables, vectors


def build(net: nn.Module, settings: Training, fresh: bool) -> torch.optim.Optimizer:
    """The optimizer of a run."""
    rate, rest = settings.rates(fresh)
    blocks, tables, vectors = split(net)
    betas = (0.9, 0.98)
    adamw: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if settings.optimizer == "adamw":
        groups = [
            {"params": blocks, "weight_decay": settings.weight_decay},
            {"params": tables + vectors, "weight_decay": 0.0},
        ]
        return adamw(groups, lr=rate, betas=betas, fused=True)
    muon = torch.optim.Muon(
        blocks, lr=rate, weight_decay=settings.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return Together([muon, adamw(tables + vectors, lr=rest, betas=betas, weight_decay=0.0, fused=True)])


def rate_factor(settings: Training, progress: float) -> float:
    """The share of the peak rate at `progress` in [0, 1] of the training budget."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < settings.warmup:
        return progress / settings.warmup
    if settings.decay == "constant":
        return 1.0
    if settings.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (progress - settings.warmup) / (1 - settings.warmup)))
    return min(1.0, (1 - progress) / settings.cooldown) if settings.cooldown > 0 else 1.0
