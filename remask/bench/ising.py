"""Sampler errors on learned conditionals: does the order that the exact theory predicts hold for a trained net?

A small masked net is trained on samples of a clique, p ~ exp(J sum_{i<j} s_i s_j + h sum_i s_i), a law on which
parallel sampling is known to fail (Li et al. 2024, arXiv 2407.21046). Its answers to every pattern of masks fit into a
table, so each sampler runs on as many rows as the error bars need. What the same sampler does with the exact
conditionals is a product of transition matrices over the 3^N patterns of a row. Errors are those of the rows drawn;
what the net has learned badly is in the distance of all arms, the exact ones too.
Shapes: N cells, S = 2^N states, P = 3^N patterns, n rows, A arms; symbols 0 and 1 are the letters a and b, 2 the mask.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional, Visible
from remask.core.errors import BadInput, UnknownName
from remask.core.sampler import Sampler, run
from remask.core.stream import Stream
from remask.nets import encoder
from remask.nets.wrap import Ban
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.gibbs import Gibbs
from remask.samplers.parallel_gibbs import ParallelGibbs

LETTERS = "ab"
MOST_CELLS = 7  # 3^7 patterns have a matrix of 38 MB
MOVES = 12  # of the chains
HELD_OUT = 256  # rows to weigh the net on
SURE = 2  # standard errors between two distances whose order is certain
ALIKE = 1e-9  # predicted distances that are one


@dataclass(frozen=True)
class Ising:
    """Distances of samplers from an Ising law: with a trained net, and with the exact conditionals (Li et al. 2024)."""

    size: int = 6
    """Cells."""
    coupling: float = 0.25
    """J of every pair."""
    field: float = 0.05
    """h of every cell."""
    steps: int = 200
    """Training steps."""
    batch: int = 256
    """Rows in a training step; each is seen once."""
    net: str = "tiny"
    """Size of the net."""
    samples: int = 20000
    """Rows drawn by each sampler."""
    seed: int = 0
    """Of the text, the training and the samplers."""

    def __post_init__(self) -> None:
        if not 2 <= self.size <= MOST_CELLS:
            raise BadInput(f"--size came as {self.size}: all patterns are enumerated; type 2 to {MOST_CELLS}.")
        for name in ("steps", "batch", "samples"):
            if getattr(self, name) < 2:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type 2 or more.")
        if self.net not in encoder.SIZES:
            raise UnknownName("net", self.net, encoder.SIZES)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each arm; the agreement of the two orders stands in all of them."""
        law = clique(self.size, self.coupling, self.field)
        learned = self.train(law)
        exact = conditionals(law)
        arms = {name: arm for name, arm in ARMS.items() if arm.least <= self.size}
        theory, through = (
            [total_variation(arm.law(prob), law) for arm in arms.values()] for prob in (exact, learned.letters)
        )
        measured = [self._measure(arm, learned, law, number) for number, arm in enumerate(arms.values())]
        calls, distance, error = zip(*measured)
        agreement = agree(theory, distance, error)._asdict()
        for at, (name, arm) in enumerate(arms.items()):
            yield {
                "arm": name,
                "what": arm.what,
                "calls": round(calls[at], 2),
                "distance_net": round(distance[at], 5),
                "distance_theory": round(theory[at], 5),
                "se": round(error[at], 5),
                "distance_net_enumerated": round(through[at], 5),
                **{key: round(value, 4) for key, value in agreement.items()},
            }

    def train(self, law: Tensor) -> Table:
        """The answers of a net trained on samples of the law [S], through remask's own training."""
        from remask.train.api import train

        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("train.txt", "valid.txt")]
            for number, (file, rows) in enumerate(zip(files, (self.steps * self.batch, HELD_OUT))):
                file.write_text(text_of(draw(law, rows, (self.seed, number))), encoding="utf-8")
            model: Any = train(
                "mdlm",
                out=Path(folder) / "run",
                data=files[0],
                valid=files[1],
                tokenizer="character",
                document="line",
                length=self.size + 1,  # a line and its end
                net=self.net,
                steps=self.steps,
                batch=self.batch,
                seed=self.seed,
                evaluations=0,
                low_rates=0.0,
            )
            ids = model.tokenizer.convert_tokens_to_ids(list(LETTERS))
            return tabulate(model.conditional(), self.size, torch.tensor([*ids, model.alphabet.mask]))

    def _measure(self, arm: Arm, learned: Table, law: Tensor, number: int) -> tuple[float, float, float]:
        """Calls a row, total variation to the law, and its standard error."""
        canvas, calls = learned.canvas(self.samples), torch.zeros(self.samples, dtype=torch.int64)
        tokens = canvas.tokens
        for state, info in run(arm.sampler, learned, canvas, Stream.of(self.seed, self.samples).child(number)):
            calls, tokens = calls + info.calls, state.tokens
        return float(calls.double().mean()), *crossed(learned.number(tokens), law)


def digits_of(size: int, base: int) -> Tensor:
    """All rows of `size` digits, in counting order, [base^N, N]."""
    return torch.arange(base**size)[:, None] // base ** torch.arange(size).flip(0) % base


def clique(size: int, coupling: float, field: float) -> Tensor:
    """Probability of every state, [S] float64."""
    total = (2 * digits_of(size, 2) - 1).sum(1).double()
    energy = coupling * (total**2 - size) / 2 + field * total
    if not energy.isfinite().all():
        raise BadInput("the energies of this clique overflow: take smaller couplings and fields.")
    return energy.softmax(0)


def draw(law: Tensor, rows: int, seed: tuple[int, int]) -> Tensor:
    """True rows of digits, [n, N]."""
    number = np.random.default_rng(seed).choice(len(law), rows, p=law.numpy())
    return digits_of(int(math.log2(len(law))), 2)[torch.from_numpy(number)]


def text_of(rows: Tensor) -> str:
    """One line a row."""
    return "\n".join("".join(LETTERS[i] for i in row) for row in rows.tolist()) + "\n"


def conditionals(law: Tensor) -> Tensor:
    """p(letter | what a pattern shows elsewhere) of every cell, masked or not, [P, N, 2]."""
    size = int(math.log2(len(law)))
    mass = law.view([2] * size)
    for axis in range(size):
        mass = torch.cat([mass, mass.sum(axis, keepdim=True)], axis)
    patterns, stride = digits_of(size, 3), 3 ** torch.arange(size).flip(0)
    hidden = torch.arange(len(patterns))[:, None] - patterns * stride
    both = mass.flatten()[hidden[:, :, None] + torch.arange(2) * stride[:, None]]
    return both / both.sum(2, keepdim=True)


@dataclass(frozen=True)
class Table:
    """A conditional's answers to every pattern of masks: the same conditional, without the net.

    log_prob: [P, N + 1, V]; ids: [3], of the letters and the mask; the last cell of a row holds the end.
    """

    log_prob: Tensor
    ids: Tensor
    alphabet: Alphabet
    visible: Visible = Visible.DENOISE

    @property
    def letters(self) -> Tensor:
        """p(letter), [P, N, 2]; true of masked cells."""
        return self.log_prob[:, :-1, self.ids[:2]].exp()

    def canvas(self, rows: int) -> Canvas:
        """Masks and the end, which is given."""
        return _closed(torch.full((rows, self.log_prob.shape[1] - 1), 2), self.ids, self.alphabet)

    def digits(self, tokens: Tensor) -> Tensor:
        """Which pattern each row shows, as digits [n, N]."""
        return (tokens[:, :-1, None] == self.ids).long().argmax(2)

    def number(self, tokens: Tensor) -> Tensor:
        """Which state each full row is, [n]."""
        digits = self.digits(tokens)
        return (digits * 2 ** torch.arange(digits.shape[1]).flip(0)).sum(1)

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`."""
        digits = self.digits(tokens)
        found = self.log_prob[(digits * 3 ** torch.arange(digits.shape[1]).flip(0)).sum(1)]
        return found if at is None else found[at]

    def rows(self, index: Tensor) -> Table:
        """Itself: it has no rows."""
        del index
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Table:
        """Itself: there is nothing to keep."""
        del tokens, upto
        return self


def _closed(digits: Tensor, ids: Tensor, alphabet: Alphabet) -> Canvas:
    tokens = torch.nn.functional.pad(ids[digits], (0, 1), value=alphabet.end)
    frozen = torch.zeros_like(tokens, dtype=torch.bool)
    frozen[:, -1] = True
    return Canvas(tokens, frozen)


def tabulate(conditional: Conditional, size: int, ids: Tensor) -> Table:
    """Ask a conditional about every pattern, with all ids but the letters banned."""
    alphabet = conditional.alphabet
    others = tuple(i for i in range(alphabet.size) if i not in ids.tolist())
    canvas = _closed(digits_of(size, 3), ids, alphabet)
    return Table(Ban(conditional, others)(canvas.tokens).double(), ids, alphabet)


def opened(prob: Tensor, rate: float) -> Tensor:
    """Every mask opens by itself with probability `rate` and is drawn from prob [P, N, 2] of the pattern, [P, P]."""
    patterns = digits_of(prob.shape[1], 3)
    size = len(patterns)
    kernel = torch.ones(size, size, dtype=torch.float64)
    for i in range(prob.shape[1]):
        masked = torch.cat([rate * prob[:, i], torch.full((size, 1), 1 - rate)], 1)
        stays = torch.nn.functional.one_hot(patterns[:, i], 3).double()
        kernel *= torch.where(patterns[:, i, None] == 2, masked, stays)[:, patterns[:, i]]
    return kernel


def one_opened(prob: Tensor) -> Tensor:
    """One of the masks, each as likely, is drawn; full rows stay, [P, P]."""
    patterns, stride = digits_of(prob.shape[1], 3), 3 ** torch.arange(prob.shape[1]).flip(0)
    masks = (patterns == 2).sum(1)
    kernel = torch.diag((masks == 0).double())
    for i in range(prob.shape[1]):
        here = torch.nonzero(patterns[:, i] == 2)[:, 0]
        for letter in range(2):
            kernel[here, here + (letter - 2) * stride[i]] += prob[here, i, letter] / masks[here]
    return kernel


def masked_again(size: int, k: int) -> Tensor:
    """A random subset of k cells is masked, [P, P]."""
    patterns, stride = digits_of(size, 3), 3 ** torch.arange(size).flip(0)
    kernel = torch.zeros(len(patterns), len(patterns), dtype=torch.float64)
    rows = torch.arange(len(patterns))
    for block in map(list, combinations(range(size), k)):
        kernel[rows, rows + ((2 - patterns[:, block]) * stride[block]).sum(1)] += 1 / math.comb(size, k)
    return kernel


def redrawn(prob: Tensor) -> Tensor:
    """Every cell of a full row at once, each given all others, [P, P]."""
    patterns, stride = digits_of(prob.shape[1], 3), 3 ** torch.arange(prob.shape[1]).flip(0)
    kernel = torch.ones(len(patterns), len(patterns), dtype=torch.float64)
    for i in range(prob.shape[1]):
        alone = torch.arange(len(patterns)) + (2 - patterns[:, i]) * stride[i]
        kernel *= torch.nn.functional.pad(prob[alone, i], (0, 1))[:, patterns[:, i]]
    return kernel


def after(size: int, *kernels: Tensor) -> Tensor:
    """The law of states [S] that masks everywhere become, one matrix after the other."""
    now = torch.zeros(3**size, dtype=torch.float64)
    now[-1] = 1.0
    for kernel in kernels:
        now = now @ kernel
    return now[(digits_of(size, 3) < 2).all(1)]


class Arm(NamedTuple):
    """A sampler, and the law of its rows [S] for conditionals [P, N, 2]; for rows of `least` cells or more."""

    what: str
    sampler: Sampler
    law: Callable[[Tensor], Tensor]
    least: int = 2


def _first_hitting(prob: Tensor) -> Tensor:
    return after(prob.shape[1], *[one_opened(prob)] * prob.shape[1])


def _ancestral(steps: int) -> Arm:
    def law(prob: Tensor) -> Tensor:
        return after(prob.shape[1], *(opened(prob, 1 / (steps - t)) for t in range(steps)))

    cells = "all cells at once" if steps == 1 else f"random parts in {steps} steps"
    return Arm(f"{cells}, as products of marginals", Ancestral(steps=steps), law)


def _gibbs(k: int) -> Arm:
    def law(prob: Tensor) -> Tensor:
        one = one_opened(prob)
        move = [masked_again(prob.shape[1], k), *[one] * k]
        return after(prob.shape[1], *[one] * prob.shape[1], *move * MOVES)

    return Arm(f"{MOVES} moves, {k} cells refilled one by one", Gibbs(size=k, moves=MOVES), law, k)


def _masked(k: int) -> Arm:
    def law(prob: Tensor) -> Tensor:
        whole = opened(prob, 1.0)
        return after(prob.shape[1], whole, *[masked_again(prob.shape[1], k), whole] * MOVES)

    sampler = Gibbs(inner=Ancestral(steps=1), size=k, moves=MOVES)
    return Arm(f"{MOVES} moves, {k} cells refilled as a product of marginals", sampler, law, k)


def _parallel(prob: Tensor) -> Tensor:
    return after(prob.shape[1], opened(prob, 1.0), *[redrawn(prob)] * MOVES)


ARMS: dict[str, Arm] = {
    "first_hitting": Arm("one cell a step in random order (exact)", FirstHitting(), _first_hitting),
    "gibbs_2": _gibbs(2),
    "gibbs_3": _gibbs(3),
    "mask_independent_2": _masked(2),
    "mask_independent_3": _masked(3),
    "ancestral_3": _ancestral(3),
    "ancestral_2": _ancestral(2),
    "ancestral_1": _ancestral(1),
    "parallel_gibbs": Arm(f"{MOVES} sweeps, all cells at once given all others", ParallelGibbs(moves=MOVES), _parallel),
}


def total_variation(law: Tensor, other: Tensor) -> float:
    """Half the L1 distance."""
    return float((law - other).abs().sum() / 2)


def crossed(number: Tensor, law: Tensor) -> tuple[float, float]:
    """Total variation of rows, by the number of their state [n], to a law [S], and its standard error.

    The plain distance of samples is never 0. Here one half of the rows says which states are too frequent, and the
    other half by how much, and then the other way round: 0 in the mean where the laws agree, never too large.
    """
    halves = [number[0::2], number[1::2]]
    found = []
    for one, other in (halves, halves[::-1]):
        share = torch.bincount(one, minlength=len(law)).double() / len(one)
        sign = (share - law).sign()
        each = sign[other] / 2
        found.append((float(each.mean() - law @ sign / 2), float(each.var()) / len(other)))
    return (found[0][0] + found[1][0]) / 2, math.sqrt(found[0][1] + found[1][1]) / 2


class Agreement(NamedTuple):
    """How the measured order agrees with the predicted one.

    spearman: of the ranks, ties at their mean; kendall: (held - not held) / pairs, over pairs of arms whose predictions
    differ; beyond_noise, against: pairs whose measured distances differ by two standard errors or more, in the
    predicted order and in the other.
    """

    spearman: float
    kendall: float
    pairs: int
    beyond_noise: int
    against: int


def ranks(values: Sequence[float]) -> Tensor:
    """1 for the smallest; equal ones share their mean rank, [A]."""
    x = torch.tensor(values, dtype=torch.float64)
    below = (x[None] < x[:, None] - ALIKE).sum(1)
    alike = ((x[None] - x[:, None]).abs() <= ALIKE).sum(1)
    return below + (alike + 1) / 2


def agree(theory: Sequence[float], measured: Sequence[float], stderr: Sequence[float]) -> Agreement:
    """Compare two orders of A arms."""
    both = torch.stack([ranks(theory), ranks(measured)]).double()
    centred = both - both.mean(1, keepdim=True)
    spearman = float(centred.prod(0).sum() / centred.square().sum(1).prod().sqrt().clamp(min=ALIKE))
    pulls = [
        (measured[far] - measured[near]) / max(math.hypot(stderr[near], stderr[far]), ALIKE)
        for near, far in permutations(range(len(theory)), 2)
        if theory[far] - theory[near] > ALIKE
    ]
    held = sum((pull > 0) - (pull < 0) for pull in pulls)
    sure, against = sum(pull >= SURE for pull in pulls), sum(pull <= -SURE for pull in pulls)
    return Agreement(spearman, held / max(len(pulls), 1), len(pulls), sure, against)
