"""Planners: a second judge that reads a whole draft and says which tokens should stay.

A planner scores every cell of a filled canvas on a log scale, 0 or less, higher = keep (Peng et al. 2025, arXiv
2502.03540, section on planners: the denoiser itself, a BERT, or a trained one). `WithPlanner` hands it to a sampler
together with the conditional that drafts; wrap it last, around everything else.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from remask.core.conditional import Conditional, Visible
from remask.core.errors import BadInput
from remask.nets.detector import Detector
from remask.nets.wrap import Wrapper


class Planner(Protocol):
    """A judge of drafts. One that closed over its rows also has `rows(index)`, as conditionals do."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Scores [B, L] float64 of the tokens in place [B, L]: 0 or less, higher = keep."""
        ...


@dataclass(frozen=True)
class WithPlanner(Wrapper):
    """A conditional that also answers `plan`; everything else goes to the conditional inside. It is wrapped last."""

    planner: Planner

    def plan(self, tokens: Tensor) -> Tensor:
        """The planner's scores of a draft, [B, L] float64. Raises BadInput if they are not log-probabilities."""
        score = self.planner(tokens).double()
        if score.shape != tokens.shape or not (score <= 0).all():  # NaN too
            raise BadInput(
                f"a planner answered a draft {tuple(tokens.shape)} with scores {tuple(score.shape)} that are not all 0 "
                "or less: give it one score a token, a log-probability (logsigmoid of a logit, say)."
            )
        return score

    def rows(self, index: Tensor) -> WithPlanner:
        """Some of the rows, of both."""
        rows = getattr(self.planner, "rows", None)
        return WithPlanner(self.conditional.rows(index), self.planner if rows is None else rows(index))


@dataclass(frozen=True)
class ConditionalPlanner:
    """Log p of the token in place under a masked language model that has something to say of visible tokens."""

    conditional: Conditional

    def __call__(self, tokens: Tensor) -> Tensor:
        """Scores [B, L]; a mask left in the draft has -inf."""
        log_prob = self.conditional(tokens, torch.ones_like(tokens, dtype=torch.bool))
        return log_prob.gather(1, tokens.flatten()[:, None]).view(tokens.shape).double().clamp(max=0)

    def rows(self, index: Tensor) -> ConditionalPlanner:
        """Some of the rows."""
        return ConditionalPlanner(self.conditional.rows(index))


@dataclass(frozen=True)
class DetectorPlanner:
    """Log p(real) of every token: logsigmoid of minus the score of a replaced-token detector.

    attend: [B, L] bool, False = padding.
    """

    detector: Detector
    attend: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Scores [B, L]."""
        hidden = self.detector.hidden(tokens, attend=self.attend)
        replaced = self.detector.scores(hidden.flatten(0, 1)).view(tokens.shape)
        return torch.nn.functional.logsigmoid(-replaced.double())

    def rows(self, index: Tensor) -> DetectorPlanner:
        """Some of the rows."""
        return self if self.attend is None else DetectorPlanner(self.detector, self.attend[index])


def from_conditional(conditional: Conditional) -> ConditionalPlanner:
    """Another masked language model as the judge. Raises BadInput if it says nothing of visible tokens."""
    if conditional.visible is Visible.NONE:
        raise BadInput(
            "a planner came from a conditional that says nothing of written tokens: give one whose `visible` is "
            "DENOISE or LEAVE_ONE_OUT."
        )
    return ConditionalPlanner(conditional)


def from_detector(detector: Detector, attend: Tensor | None = None) -> DetectorPlanner:
    """A replaced-token detector (ELECTRA's discriminator) as the judge; attend: [B, L] bool, False = padding."""
    return DetectorPlanner(detector, attend)
