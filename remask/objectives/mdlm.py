"""MDLM: masked diffusion as a weighted mean of masked-language-model losses.

In continuous time, with zero masking (the mask is never predicted) and carry-over (visible cells are copied), the
negative evidence lower bound collapses to

    L = E_t E_{z_t | x}  -alpha'_t / (1 - alpha_t)  sum over masked i of  -log p(x_i | z_t)

(Sahoo et al. 2024, arXiv 2406.07524, eq. 10: the Rao-Blackwellised SUBS bound; Shi et al. 2024, arXiv 2406.04329).
It does not depend on the schedule. With exactly k of L cells masked, k uniform on 1..L, the same bound is
E_k [L/k * sum over masked i of -log p(x_i | z)], which varies less.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.choose import each, exactly
from remask.core.errors import BadInput
from remask.core.net import Net
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream

WEIGHTINGS = ("count", "elbo", "flat")


@dataclass(frozen=True)
class MDLM:
    """Masked diffusion (Sahoo et al. 2024): predict what a random share of masks hides."""

    weighting: str = "count"
    """count: mask exactly k cells, weight L/k (the bound, least variance); elbo: mask each cell by itself, weight
    -alpha'/(1-alpha) (the bound as published); flat: every masked cell counts 1 (not the bound; low variance)."""
    schedule: str = "linear"
    """Noise schedule of the elbo and flat weightings: linear, log_linear or cosine."""
    stratified: bool = True
    """Spread the noise levels evenly over the global batch instead of drawing each row's by itself."""
    smallest_time: float = 1e-3
    """Noise levels of the elbo and flat weightings are drawn from [smallest_time, 1]; the bound below it is dropped."""

    causal = False
    law = "upper bound"
    writes = True

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise BadInput(f"there is no weighting '{self.weighting}': type --weighting {'|'.join(WEIGHTINGS)}.")
        if self.schedule not in SCHEDULES:
            raise BadInput(f"there is no schedule '{self.schedule}': type --schedule {'|'.join(SCHEDULES)}.")
        if not 0 <= self.smallest_time < 1:
            raise BadInput(f"--smallest-time came as {self.smallest_time}: it must lie in [0, 1).")

    @property
    def bounds(self) -> bool:
        """Whether the loss is a bound on -log p per token."""
        return self.weighting != "flat"

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Mask cells; `stream` has one seed a row."""
        rows, length = batch.tokens.shape
        time = stream.uniform(0, Purpose.TIME, 1)[:, 0]
        if self.stratified:
            time = (batch.slot + time) / batch.slots
        uniform = stream.uniform(0, Purpose.MASK, length)
        everywhere = torch.ones_like(batch.tokens, dtype=torch.bool)
        if self.weighting == "count":
            count = (time * length).long() + 1  # uniform on 1..L
            at = exactly(uniform, everywhere, count)
            weight = (length / count.double())[:, None].expand(rows, length)
        else:
            schedule = SCHEDULES[self.schedule]
            time = self.smallest_time + (1 - self.smallest_time) * time
            at = each(uniform, everywhere, (1 - schedule.alpha(time))[:, None])
            weight = self._weight(schedule.weight(time) * (1 - self.smallest_time), rows, length)
        counted = at.sum() if self.weighting == "flat" else at.numel()
        return Question(
            tokens=torch.where(at, batch.alphabet.mask, batch.tokens),
            targets=batch.tokens,
            at=at,
            weight=weight.float(),
            documents=batch.documents,
            counts=torch.as_tensor(counted, dtype=torch.float64, device=at.device).reshape(1),
            alphabet=batch.alphabet,
        )

    def _weight(self, weight: Tensor, rows: int, length: int) -> Tensor:
        flat = self.weighting == "flat"
        return torch.ones(rows, length, device=weight.device) if flat else weight[:, None].expand(rows, length)

    def __call__(self, net: Net, question: Question, stream: Stream) -> Loss:
        """Weighted cross-entropy of the masked cells, summed; the head sees masked cells only."""
        del stream
        at = question.at
        hidden = net.hidden(question.tokens, documents=question.documents)[at]
        total = net.total_nll(hidden, question.targets[at], question.weight[at], question.alphabet.mask)
        return Loss((Term("mdlm", total, question.counts[0]),))
