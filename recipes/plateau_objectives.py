"""Ways of training a masked-diffusion net that were tried against the plateau; recipes/plateau.py runs them as arms.

None of them is a row of remask: they reach `remask train explored` through an entry point, as any other package would.
Only training differs; every arm is judged by the same bound. Laws of the mask rate are functions of a uniform number
and of the progress of training.
Shapes: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from remask.core.choose import exactly
from remask.core.net import Net
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream

Law = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def uniform(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Rate u."""
    return u, torch.ones_like(u)


def low(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Three rows of ten at rates of .15 to .30, weights kept: no longer the bound."""
    few = u < 0.3
    return torch.where(few, 0.15 + 0.15 * u / 0.3, (u - 0.3) / 0.7), torch.ones_like(u)


def mostly_low(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Six rows of ten at rates of .15 to .30, weights kept."""
    few = u < 0.6
    return torch.where(few, 0.15 + 0.15 * u / 0.6, (u - 0.6) / 0.4), torch.ones_like(u)


def rising(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Rates up to .3 at first, up to 1 from half of the training on."""
    return u * min(1.0, 0.3 + 1.4 * progress), torch.ones_like(u)


def bell(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Beta(2, 2) rates, weighed by 1 / density (at most 4): nearly the bound, fewer rows at the ends."""
    angle = torch.acos(1 - 2 * u) / 3
    rate = 0.5 + torch.cos(angle + 4 * torch.pi / 3)  # the root in [0, 1] of 3 t^2 - 2 t^3 = u
    return rate, (1 / (6 * rate * (1 - rate))).clamp(max=4)


def bell_flat(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Beta(2, 2) rates, weights kept."""
    return bell(u, progress)[0], torch.ones_like(u)


def tilted(u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Density 2 (1 - t): low rates more often, weights kept."""
    return 1 - (1 - u).sqrt(), torch.ones_like(u)


LAWS: dict[str, Law] = {f.__name__: f for f in (uniform, low, mostly_low, rising, bell, bell_flat, tilted)}


@dataclass(frozen=True)
class Explored:
    """Masked diffusion (Sahoo et al. 2024) with other laws of the mask rate, complementary pairs and causal rows."""

    rates: str = "uniform"
    """The law of the mask rate."""
    complementary: bool = False
    """Half as many texts, each twice, with complementary masks."""
    causal_share: float = 0.0
    """Share of the rows that are read left to right and predict their next token."""
    causal_until: float = 1.0
    """Share of training after which no row is."""
    both_ways: bool = False
    """Every second one of those rows is read right to left and predicts the token before."""
    flat: bool = False
    """Every masked cell counts 2 (its mean weight), whatever the rate."""

    causal = False
    bounds = False
    writes = True
    law = "upper bound"

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Mask cells; causal rows come first and show everything."""
        rows, length = batch.tokens.shape
        tokens = batch.tokens
        reading = round(rows * self.causal_share) if batch.progress < self.causal_until else 0
        time = (batch.slot - reading).clamp(min=0) + stream.uniform(0, Purpose.TIME, 1)[:, 0]
        time = time / max(
            1, batch.slots - reading
        )  # spread over the rows that are masked, or some rates would be missing
        time, factor = LAWS[self.rates](time, batch.progress)
        count = ((time * length).long() + 1).clamp(max=length)
        dice = stream.uniform(0, Purpose.MASK, length)
        at = exactly(dice, torch.ones_like(tokens, dtype=torch.bool), count)
        if self.complementary:
            twin = torch.arange(rows, device=at.device) % ((rows + 1) // 2)
            first = torch.arange(rows, device=at.device) < (rows + 1) // 2
            tokens = tokens[twin]
            at = torch.where(first[:, None], at, ~at[twin])
        masked = at.sum(1).clamp(min=1).double()
        weight = torch.full_like(masked, 2.0) if self.flat else factor * length / masked
        shown, targets = torch.where(at, batch.alphabet.mask, tokens), tokens
        if reading:
            shown, targets = shown.clone(), targets.clone()
            shown[:reading] = tokens[:reading]
            at[:reading] = True
            weight[:reading] = 1.0
            backwards = torch.arange(rows, device=at.device)[:reading] % 2 == (1 if self.both_ways else 2)
            for turned, step, gone in ((~backwards, 1, -1), (backwards, -1, 0)):
                which = torch.nonzero(turned)[:, 0]
                targets[which] = tokens[which].roll(-step, 1)
                at[which, gone] = False
        counts = torch.tensor([at.numel()], dtype=torch.float64, device=at.device)
        weight = weight[:, None].expand(rows, length).float()
        return Question(shown, targets, at, weight, batch.documents, counts, batch.alphabet)

    def __call__(self, net: Net, question: Question, stream: Stream) -> Loss:
        """Weighted cross-entropy; rows that show what they are asked about are read left to right."""
        at = question.at
        reading = (at & (question.tokens != question.alphabet.mask)).any(1)
        hidden = net.hidden(question.tokens[~reading]) if not reading.all() else None
        parts = []
        if hidden is not None:
            parts.append((hidden[at[~reading]], ~reading))
        if reading.any():
            length = at.shape[1]
            before = torch.ones(length, length, dtype=torch.bool, device=at.device).tril()
            forwards = at[reading][:, 0][:, None, None]  # the first token has no token before it to predict
            seen = net.hidden(question.tokens[reading], sees=torch.where(forwards, before, before.T))
            parts.append((seen[at[reading]], reading))
        total = torch.zeros((), dtype=torch.float64, device=at.device)
        for cells, who in parts:
            targets, weight = question.targets[who][at[who]], question.weight[who][at[who]]
            total = total + net.total_nll(cells, targets, weight, question.alphabet.mask)
        return Loss((Term("explored", total, question.counts[0]),))


def announce(directory: Path) -> Path:
    """Write what makes `explored` a row of remask where `directory` is on the path; returns the directory."""
    info = directory / "remask_plateau-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: remask-plateau\nVersion: 0\n", encoding="utf-8")
    row = f"objectives.explored = {__name__}:{Explored.__name__}"
    (info / "entry_points.txt").write_text(f"[remask]\n{row}\n", encoding="utf-8")
    return directory


FLAGS = tuple(f.name for f in fields(Explored))
