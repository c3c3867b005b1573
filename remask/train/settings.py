"""Training settings: one frozen dataclass; its fields are flags of `remask train`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from remask.core.errors import BadInput

OPTIMIZERS = ("muon", "adamw")
DECAYS = ("linear", "cosine", "constant")
RATES = ("learning_rate", "rest_learning_rate")
ABOVE_ZERO = ("steps", "minutes", "batch", "accumulate", "save_minutes", "save_steps", *RATES)
NOT_BELOW_ZERO = ("weight_decay", "clip", "evaluations")
SHARES = ("warmup", "ema")


@dataclass(frozen=True)
class Training:
    """How long, how large, how fast."""

    steps: int | None = None
    """Optimizer steps to take; give this or --minutes."""
    minutes: float | None = None
    """Wall-clock budget for training (evaluation pauses excluded); the learning rate follows the clock."""
    batch: int = 32
    """Rows of one forward pass on one device."""
    accumulate: int = 1
    """Forward passes per optimizer step; sums and counts keep the gradient exact."""
    optimizer: str = "muon"
    """muon: Muon for the block matrices and AdamW for the rest; adamw: fused AdamW for all."""
    learning_rate: float | None = None
    """Peak rate of the matrices; default 4e-3 for Muon, 1e-3 for AdamW, 1e-4 when training starts with --init."""
    rest_learning_rate: float | None = None
    """Peak rate of what Muon does not handle (embeddings, norms, biases); default 3e-3, or 1e-4 with --init."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; embeddings, norms and biases have none."""
    warmup: float = 0.05
    """Share of training in which the rate rises from 0."""
    decay: str = "linear"
    """linear: straight to 0 over the last --cooldown; cosine: half a cosine from the warm-up on; constant: no fall."""
    cooldown: float = 0.9
    """Share of training in which the linear decay falls to 0."""
    clip: float = 1.0
    """Largest gradient norm; 0 = no clipping."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights that is saved instead of them; 0 = none."""
    bf16: bool | None = None
    """bfloat16 autocast; default: where the processor has it."""
    save_minutes: float = 5.0
    """Save a checkpoint this often."""
    save_steps: int | None = None
    """Save a checkpoint every so many steps instead."""
    evaluations: int = 8
    """How often along the way the bound on held-out text is taken."""
    seed: int = 0
    """Of the initial weights, the data order and the masks."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            came = "neither" if self.steps is None else "both"
            raise BadInput(f"training needs either --steps or --minutes; {came} came: type --steps N or --minutes M.")
        for names, least, fits in (
            (ABOVE_ZERO, "above 0", lambda x: x > 0),
            (NOT_BELOW_ZERO, "0 or more", lambda x: x >= 0),
            (SHARES, "in [0, 1)", lambda x: 0 <= x < 1),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not (fits(value) and math.isfinite(value)):
                    raise BadInput(f"--{name.replace('_', '-')} came as {value}: it must be {least}.")
        if not 0 <= self.cooldown <= 1:
            raise BadInput(f"--cooldown came as {self.cooldown}: it must be in [0, 1].")
        if self.optimizer not in OPTIMIZERS:
            raise BadInput(f"there is no optimizer '{self.optimizer}': type --optimizer {'|'.join(OPTIMIZERS)}.")
        if self.decay not in DECAYS:
            raise BadInput(f"there is no decay '{self.decay}': type --decay {'|'.join(DECAYS)}.")

    def rates(self, fresh: bool) -> tuple[float, float]:
        """Peak learning rates (matrices, rest); `fresh` = the net starts from random weights."""
        matrices = {"muon": 4e-3, "adamw": 1e-3}[self.optimizer] if fresh else 1e-4
        rest = {"muon": 3e-3, "adamw": 1e-3}[self.optimizer] if fresh else 1e-4
        matrices = matrices if self.learning_rate is None else self.learning_rate
        if self.rest_learning_rate is not None:
            return matrices, self.rest_learning_rate
        return matrices, rest if self.optimizer == "muon" and self.learning_rate is None else min(rest, matrices)
