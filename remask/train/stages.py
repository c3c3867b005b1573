"""Stages of a run: reading left to right before masks, and directional heads that open. They never go back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from remask.core.errors import BadInput
from remask.nets import encoder
from remask.nets.detector import Detector
from remask.nets.directional import directional_configs
from remask.nets.hf import HuggingFaceNet
from remask.train import checkpoint
from remask.train.recipe import Start

READING = 0.2  # share of a small net's training that is spent left to right (docs/results.md, "Beyond the plateau")
LOW_RATES = 0.6  # share of a small net's rows that have low mask rates, ibid.


def check_opening(start: Start, objective: Any, net: HuggingFaceNet | Detector) -> None:
    """Refuse to open what is not there, and what no longer learns."""
    if not directional_configs(net):
        raise BadInput(
            f"--open-heads came, but {start.init or 'this net'} has no directional heads to open: leave it out, or "
            "type another --init."
        )
    if getattr(objective, "freeze_generator", False):
        raise BadInput("--open-heads came with --freeze-generator, whose heads would open and not learn it: type one.")
    if getattr(objective, "two_stage", False) and start.opening[1] > 0.5:
        raise BadInput(
            "--open-heads came with --two-stage, whose generator rests from half of the training on: type "
            "--open-until 0.5 or less."
        )


def reading_share(start: Start, objective: Any) -> float:
    """The share of training in which the net reads left to right."""
    if start.causal_first is not None:
        return start.causal_first
    return READING if _small_writer(start, objective) else 0.0


def _small_writer(start: Start, objective: Any) -> bool:
    """Whether a run begins with a small masked net with directional heads that is to write text by itself."""
    size = encoder.SIZES[start.net]
    small = start.init is None and size.directional and start.directional_heads is not False
    return small and objective.writes and not objective.causal and not getattr(objective, "pairs", False)


def with_low_rates(start: Start, objective: Any) -> Any:
    """The objective with its share of low rates settled, where it has such a share and nobody typed one."""
    if getattr(objective, "low_rates", 0.0) is not None:
        return objective
    fit = objective.weighting == "count" and objective.timesteps is None and objective.zero_masking
    return replace(objective, low_rates=LOW_RATES if fit and _small_writer(start, objective) else 0.0)


def has_read(facts: dict[str, Any]) -> bool:
    """Whether the run of a checkpoint had done with reading left to right, by the budget that it then had."""
    training, start = facts["recipe"]["training"], facts["recipe"]["start"]
    whole, done = training["steps"], facts["step"]
    if whole is None:
        whole, done = 60 * training["minutes"], facts["seconds"]
    return done / whole >= (start.get("causal_first") or 0.0)


def opened_at(found: Path) -> float:
    """How far the heads of a training checkpoint are open: one that holds plain nets has opened them all."""
    config = checkpoint.read_config(found)
    return config.get("opened", 1.0)
