"""MDLM: masked diffusion as a weighted mean of masked-language-model losses.

In continuous time, with zero masking (the mask is never predicted) and carry-over (visible cells are copied), the
negative evidence lower bound collapses to

    L = E_t E_{z_t | x}  -alpha'_t / (1 - alpha_t)  sum over masked i of  -log p(x_i | z_t)

(Sahoo et al. 2024, arXiv 2406.07524, eq. 10: the Rao-Blackwellised SUBS bound; Shi et al. 2024, arXiv 2406.04329).
It does not depend on the schedule. With exactly k of L cells masked, k uniform on 1..L, the same bound is
E_k [L/k * sum over masked i of -log p(x_i | z)], which varies less.

The fields `timesteps`, `carry_over` and `zero_masking` take the paper's ablation (its table of LM1B) apart; every
combination is a bound. The definitions are those of the authors' code (parameterization d3pm, subs_masking on or off):
* In T steps a masked cell opens with probability (alpha_s - alpha_t) / (1 - alpha_t), which is its weight. A
  net that knew the truth would pay more than the entropy, since the cells that open in one step are independent.
* Without carry-over the reverse process still keeps visible cells, as its posterior does whatever the net says.
  What changes is the reconstruction: the net must name every token of the whole text that it sees, and pays for it.
  The paper's text leaves open whether visible cells cost something at every step; this reading keeps the bound.
* Without zero masking the net's law holds the mask id with probability m, and a masked cell that opens in the step
  from s to t costs, besides -log p(x), log(1 + a_t m) + (1 - c) / c * (log(1 + a_t m) - log(1 + a_s m)) with
  a = alpha / (1 - alpha) and c the probability to open: the two terms of D3PM. In continuous time, where the paper has
  no such row, its limit is log(1 + a_t m) - m / (1 - alpha_t + alpha_t m).
Shapes: B batch, L length, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from remask.core.choose import each, exactly
from remask.core.errors import BadInput
from remask.core.net import Net
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream
from remask.core.timesteps import Step, count_weights, draw_number, opened_counts, step_of
from remask.objectives.chunks import summed

WEIGHTINGS = ("count", "elbo", "flat")
LOW = (0.15, 0.30)  # the rates that --low-rates adds: where a small net learns most (docs/results.md)
AGAIN = 1  # the step of the stream from which noise levels are drawn once more


def check_schedule(schedule: str) -> None:
    """BadInput for a schedule that there is not."""
    if schedule not in SCHEDULES:
        raise BadInput(f"there is no schedule '{schedule}': type --schedule {'|'.join(SCHEDULES)}.")


def check_timesteps(timesteps: int | None) -> None:
    """BadInput for fewer steps than one."""
    if timesteps is not None and timesteps < 1:
        raise BadInput(f"--timesteps came as {timesteps}: type 1 or more, or leave it out for continuous time.")


def times(batch: Batch, stream: Stream, stratified: bool) -> Tensor:
    """A time in [0, 1) for every row, [B] float64, spread evenly over the global batch if `stratified`."""
    time = stream.uniform(0, Purpose.TIME, 1)[:, 0]
    return (batch.slot + time) / batch.slots if stratified else time


def ask(batch: Batch, at: Tensor, weight: Tensor, counts: list[Tensor | int]) -> Question:
    """The question with the cells `at` [B, L] masked, each with its row's weight [B].

    A row is one stream, whatever documents it holds: attention that stopped at their ends would show masked cells where
    these are, and the loss would bound the likelihood given all lengths instead of the likelihood.
    """
    return Question(
        tokens=torch.where(at, batch.alphabet.mask, batch.tokens),
        targets=batch.tokens,
        at=at,
        weight=weight[:, None].expand(at.shape).float(),
        documents=torch.zeros_like(batch.documents),
        counts=torch.stack([torch.as_tensor(n, dtype=torch.float64, device=at.device) for n in counts]),
        alphabet=batch.alphabet,
    )


def reconstruction(net: Net, question: Question, ban: int | None) -> Term:
    """-log p(x | x): what a net without carry-over pays for the text that it sees whole (its last count)."""
    hidden = net.hidden(question.targets, documents=question.documents).flatten(0, 1)
    targets = question.targets.flatten()
    weight = torch.ones_like(targets, dtype=torch.float32)
    return Term("reconstruction", net.total_nll(hidden, targets, weight, ban), question.counts[-1])


def excess_in_step(mask: Tensor, step: Step) -> Tensor:
    """What probability `mask` [N] on the mask id costs a cell that opens in `step` (of every cell), [N]; see above."""
    tiny = torch.finfo(torch.float64).tiny  # alpha_s is 1 in the first step, in which every cell opens
    now = torch.log1p(step.alpha_t / (1 - step.alpha_t) * mask)
    later = torch.log1p(step.alpha_s / (1 - step.alpha_s).clamp(min=tiny) * mask)
    return now + step.stays / step.opens * (now - later)


def excess_in_time(mask: Tensor, alpha: Tensor) -> Tensor:
    """The same in continuous time, where a share `alpha` [N] of the cells is visible, [N]."""
    return torch.log1p(alpha / (1 - alpha) * mask) - mask / (1 - alpha + alpha * mask)


@dataclass(frozen=True)
class MDLM:
    """Masked diffusion (Sahoo et al. 2024): predict what a random share of masks hides."""

    weighting: str = "count"
    """count: mask exactly k cells, weight L/k (the bound, least variance); elbo: mask each cell by itself, weight
    -alpha'/(1-alpha) (the bound as published); flat: every masked cell counts 1 (not the bound; low variance)."""
    schedule: str = "linear"
    """Noise schedule of the elbo and flat weightings, and of --timesteps: linear, log_linear or cosine."""
    stratified: bool = True
    """Spread the noise levels evenly over the global batch instead of drawing each row's by itself."""
    smallest_time: float = 1e-3
    """Noise levels of the elbo and flat weightings are drawn from [smallest_time, 1]; the bound below it is dropped."""
    timesteps: int | None = None
    """Steps of a discrete-time bound, which has no smallest time; default: continuous time."""
    carry_over: bool = True
    """Copy what is visible; off: the net must also name every token of the whole text (a second forward pass)."""
    zero_masking: bool = True
    """Never predict the mask; off: the net's law holds it, and the bound charges for it."""
    low_rates: float | None = None
    """Share of the rows that have 15 to 30 % of their cells masked, whatever the rest has; above 0 the training loss is
    not the bound. Weighting count only; default: 0.6 for fresh tiny and mini nets with directional heads, which learn
    most where much is visible, else 0."""

    causal = False
    law = "upper bound"
    writes = True

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise BadInput(f"there is no weighting '{self.weighting}': type --weighting {'|'.join(WEIGHTINGS)}.")
        check_schedule(self.schedule)
        check_timesteps(self.timesteps)
        if not 0 <= self.smallest_time < 1:
            raise BadInput(f"--smallest-time came as {self.smallest_time}: it must lie in [0, 1).")
        if self.low_rates is not None and not 0 <= self.low_rates < 1:
            raise BadInput(f"--low-rates came as {self.low_rates}: it must be a share of the rows in [0, 1).")
        if self.low_rates and (self.weighting != "count" or self.timesteps is not None or not self.zero_masking):
            raise BadInput(
                "--low-rates came with another --weighting than count, with --timesteps or with --no-zero-masking, "
                "which need every rate's own weight: type one of them."
            )

    @property
    def bounds(self) -> bool:
        """Whether the loss is a bound on -log p per token."""
        return self.weighting != "flat" and not self.low_rates

    @property
    def weighed(self) -> MDLM:
        """The objective by which a net is judged: without low rates."""
        return replace(self, low_rates=0.0)

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Mask cells; `stream` has one seed a row."""
        time = times(batch, stream, self.stratified)
        uniform = stream.uniform(0, Purpose.MASK, batch.tokens.shape[1])
        everywhere = torch.ones_like(batch.tokens, dtype=torch.bool)
        if self.weighting == "count":
            count = (self._lowered(time) * everywhere.shape[1]).long() + 1  # uniform on 1..L, but for --low-rates
            at = exactly(uniform, everywhere, count)
            weight = self._count_weight(count, everywhere.shape[1])
        else:
            rate, weight = self._level(time)
            at = each(uniform, everywhere, rate[:, None])
            weight = torch.ones_like(weight) if self.weighting == "flat" else weight
        counted = at.sum() if self.weighting == "flat" else at.numel()
        return ask(batch, at, weight, [counted] if self.carry_over else [counted, at.numel()])

    def _lowered(self, time: Tensor) -> Tensor:
        """Times in [0, 1) with a share of them moved to the low rates, and the others spread over all rates, [B]."""
        if not self.low_rates:
            return time
        low, high = LOW
        few = low + (high - low) * time / self.low_rates
        return torch.where(time < self.low_rates, few, (time - self.low_rates) / (1 - self.low_rates))

    def _count_weight(self, count: Tensor, length: int) -> Tensor:
        if self.timesteps is None:
            return length / count.double()
        return length * count_weights(self.schedule, self.timesteps, length).to(count.device)[count]

    def _level(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """The probability of a mask at each row's time, and the weight of a masked cell there, [B] each."""
        if self.timesteps is not None:
            step = step_of(self.schedule, self.timesteps, (time * self.timesteps).long() + 1)
            return 1 - step.alpha_t, self.timesteps * step.opens
        schedule = SCHEDULES[self.schedule]
        time = self.smallest_time + (1 - self.smallest_time) * time
        return 1 - schedule.alpha(time), schedule.weight(time) * (1 - self.smallest_time)

    def __call__(self, net: Net, question: Question, stream: Stream) -> Loss:
        """Weighted cross-entropy of the masked cells, summed; the head sees masked cells only."""
        at, mask = question.at, question.alphabet.mask
        hidden = net.hidden(question.tokens, documents=question.documents)[at]
        if self.zero_masking:
            total = net.total_nll(hidden, question.targets[at], question.weight[at], mask)
        else:
            total = self._with_the_mask(net, hidden, question, stream)
        terms = [Term("mdlm", total, question.counts[0])]
        if not self.carry_over:
            terms.append(reconstruction(net, question, mask if self.zero_masking else None))
        return Loss(tuple(terms))

    def _with_the_mask(self, net: Net, hidden: Tensor, question: Question, stream: Stream) -> Tensor:
        """The masked cells' total where the net's law holds the mask id.

        The noise level is drawn anew from its law given how many cells are masked, of which the weight, given them, is
        independent: the expectation is the bound's in every weighting, and a question needs no place for its time.
        """
        at = question.at
        level = self._level_again(at, stream)
        cells = [x[:, None].expand(at.shape)[at] for x in level]

        def charge(hidden: Tensor, targets: Tensor, weight: Tensor, *cells: Tensor) -> Tensor:
            ids = torch.stack([targets, torch.full_like(targets, question.alphabet.mask)], 1)
            target, mask = net.log_prob(hidden, ids).double().unbind(1)
            excess = excess_in_time if self.timesteps is None else lambda mask, *step: excess_in_step(mask, Step(*step))
            return weight * (excess(mask.exp(), *cells) - target)

        return summed(charge, hidden, question.targets[at], question.weight[at], *cells)

    def _level_again(self, at: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Shares of visible cells [B], (alpha_t, alpha_s) in T steps or (alpha_t,), given the cells masked."""
        masked, length = at.sum(1), at.shape[1]
        if self.timesteps is not None:
            table = opened_counts(self.schedule, self.timesteps, length)
            uniform = stream.uniform(AGAIN, Purpose.TIME, 1)[:, 0]
            return step_of(self.schedule, self.timesteps, draw_number(table, masked, uniform))
        # the density of the rate u is u^(k-1) (1-u)^(L-k): the k-th smallest of L uniforms
        ordered = stream.uniform(AGAIN, Purpose.TIME, length).sort(1).values
        return (1 - ordered.gather(1, (masked - 1).clamp(min=0)[:, None])[:, 0],)
