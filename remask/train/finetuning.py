"""Fine-tuning settings: one frozen dataclass; its fields are flags of `remask finetune`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from remask.core.errors import BadInput

ABOVE_ZERO = ("epochs", "batch", "seeds", "learning_rate", "layer_decay", "length", "evaluations")
NOT_BELOW_ZERO = ("weight_decay", "clip")
SHARES = ("warmup", "dropout")


@dataclass(frozen=True)
class FineTuning:
    """How a pretrained trunk is taught a task."""

    seeds: int = 5
    """Runs from seeds 0, 1, ...: each draws its own head, order and dropout; the median is what to quote."""
    epochs: int = 5
    """Passes over the training rows."""
    batch: int = 32
    """Rows of one step."""
    learning_rate: float | None = None
    """Peak rate of the head; default 1e-4, or 1e-3 for nets trained here and with --fresh."""
    layer_decay: float | None = None
    """Factor of the rate from each layer to the one below it; default 0.8, or 1 with --fresh."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises from 0; from there it falls linearly to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; norms and biases have none."""
    clip: float = 1.0
    """Largest gradient norm; 0 = no clipping."""
    dropout: float | None = None
    """In the fresh head; default what the config says, or 0.1 for nets trained here."""
    length: int | None = None
    """Tokens of a row, longer ones are cut; default 128, or what the net can read if that is less."""
    evaluations: int | None = None
    """How often --valid is weighed along the way, the last time at the end; the best weights are kept; default: once
    an epoch."""
    fresh: bool = False
    """Forget the pretrained weights: a trunk drawn anew from each seed, the baseline that pretraining must beat."""
    bf16: bool | None = None
    """bfloat16 autocast in training; default: where the processor has it. Weighing is in float32 always."""

    def __post_init__(self) -> None:
        for names, least, fits in (
            (ABOVE_ZERO, "above 0", lambda x: x > 0),
            (NOT_BELOW_ZERO, "0 or more", lambda x: x >= 0),
            (SHARES, "in [0, 1)", lambda x: 0 <= x < 1),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not (fits(value) and math.isfinite(value)):
                    raise BadInput(f"--{name.replace('_', '-')} came as {value}: it must be {least}.")
        if self.layer_decay is not None and self.layer_decay > 1:
            raise BadInput(f"--layer-decay came as {self.layer_decay}: it must be above 0 and at most 1.")

    def rate(self, ours: bool) -> float:
        """Peak learning rate of the head; ours = the trunk was pretrained with remask."""
        default = 1e-3 if self.fresh or ours else 1e-4
        return default if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        """Layer-wise decay of the learning rate."""
        default = 1.0 if self.fresh else 0.8
        return default if self.layer_decay is None else self.layer_decay
