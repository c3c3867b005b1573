"""Correlation: what is lost when cells that depend on each other are opened in one step, exactly, for known laws.

Cells K opened together given the cells V that are seen are drawn as a product of marginals, which costs the total
correlation TC(K | V) = sum_{i in K} H(x_i | V) - H(K | V) (Watanabe 1960, IBM Journal 4). A sampler with exact
conditionals that opens K_1, K_2, ... so has KL(data || sampler) = sum_t TC(K_t | K_1..K_{t-1}) = sum of the entropies
of all cells, each given what was seen when it was opened, less the entropy of the row.

For a random order only the information curve counts, f(m) = H(x_i | m random other cells): opening k cells after m
costs k f(m) - f(m) - ... - f(m + k - 1) on average, so a schedule costs the left Riemann sum of f less its integral
(Chen, Cong & Li 2025, arXiv 2511.04647). f falls (Han 1978, Information and Control 36), so T even steps cost at most
(ceil(L / T) - 1) (f(0) - f(L - 1)), the shape of the bound of Li & Cai (2025, arXiv 2505.21400).
Given the order, that is: the rows of all orders together are a mixture, which is closer to the data.
Shapes: L length, A symbols, S = A^L states, T steps. A set of cells is a number whose bit i says whether i is in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.schedule import SCHEDULES, due
from remask.core.stream import Purpose, Stream
from remask.lab.laws import Law, check_states, mixture

MOST_PATTERNS = 5_000_000  # visible patterns, (A + 1)^L: 14 spins
MOST_PARTITIONED = 12  # cells of which all partitions are searched: 3^L pairs of sets
EXACT = 2**22  # orders * states * cells that are enumerated
WORK = 2**21  # steps * orders * states * cells where orders are drawn
LEAST_ORDERS, MOST_ORDERS = 8, 256  # of those that are drawn
KEPT = 2**24  # numbers of a table of conditionals

Blocks = tuple[tuple[int, ...], ...]


# ---- laws to try -----------------------------------------------------------------------------------------------------


def copy_pairs(size: int, symbols: int) -> Law:
    """Every second cell repeats the one before it, all else even; the last of an odd number is by itself."""
    check_states(symbols, size)
    joint = torch.ones((), dtype=torch.float64)
    for _ in range(size // 2):
        joint = joint[..., None, None] * torch.eye(symbols, dtype=torch.float64)
    return Law("copied pairs", joint[..., None].expand(*joint.shape, symbols) if size % 2 else joint)


def parity(size: int, symbols: int) -> Law:
    """All rows alike whose symbols sum to a multiple of A: any L - 1 cells are independent, all L are not."""
    check_states(symbols, size)
    total = sum(torch.meshgrid(*[torch.arange(symbols)] * size, indexing="ij"), torch.tensor(0))
    return Law("parity", (total % symbols == 0).double())


def random_chain(symbols: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Start [A] and transitions [A, A] of a Markov chain, each a Dirichlet(1/2) draw."""
    chance, even = np.random.default_rng(seed), [0.5] * symbols
    start, transition = chance.dirichlet(even), chance.dirichlet(even, size=symbols)
    return torch.from_numpy(start), torch.from_numpy(transition)


def topics(size: int, symbols: int, preference: float) -> Law:
    """Every row has a favourite symbol that each of its cells prefers by this many nats, all else by chance."""
    check_states(symbols, size)
    laws = []
    for cell in (preference * torch.eye(symbols, dtype=torch.float64)).softmax(1):
        joint = torch.ones((), dtype=torch.float64)
        for _ in range(size):
            joint = joint[..., None] * cell
        laws.append(Law("independent cells", joint))
    return mixture(laws, [1.0] * symbols)


# ---- entropies of sets of cells --------------------------------------------------------------------------------------


def subset_entropies(law: Law) -> Tensor:
    """H of every set of cells in nats, [2^L] float64; BadInput for more than five million visible patterns."""
    if (law.symbols + 1) ** law.length > MOST_PATTERNS:
        raise BadInput(
            f"{law.length} cells of {law.symbols} symbols have {law.symbols + 1}^{law.length} visible patterns, more "
            "than the five million that are enumerated: take fewer cells, or --law markov, which is measured instead."
        )
    mass = law.joint.view([law.symbols] * law.length)
    for axis in range(law.length):
        mass = torch.cat([mass, mass.sum(axis, keepdim=True)], axis)
    entropy = -torch.xlogy(mass, mass)
    for axis in range(law.length):  # hidden, visible
        seen, hidden = entropy.split([law.symbols, 1], axis)
        entropy = torch.cat([hidden, seen.sum(axis, keepdim=True)], axis)
    return entropy.permute(*reversed(range(law.length))).reshape(-1)


def set_of(cells: Sequence[int]) -> int:
    """The number of a set."""
    return sum(1 << cell for cell in cells)


def total_correlation(entropies: Tensor, opened: Sequence[int], seen: Sequence[int] = ()) -> float:
    """TC(x_opened | x_seen), nats."""
    known = set_of(seen)
    alone = entropies[[known | 1 << cell for cell in opened]] - entropies[known]
    return float(alone.sum() - (entropies[known | set_of(opened)] - entropies[known]))


def partition_loss(entropies: Tensor, blocks: Sequence[Sequence[int]]) -> float:
    """Sum of the total correlations of blocks opened one after the other, nats: KL(data || sampler)."""
    seen = list(accumulate(map(set_of, blocks), initial=0))
    alone = [known | 1 << cell for known, block in zip(seen, blocks) for cell in block]
    before = [known for known, block in zip(seen, blocks) for _ in block]
    return float((entropies[alone] - entropies[before]).sum() - entropies[seen].diff().sum())


def information_curve(entropies: Tensor) -> Tensor:
    """f(m) = E H(x_i | m others), set and cell uniform, [L] nats: the differences of the mean entropies of m cells."""
    length = len(entropies).bit_length() - 1
    number = torch.arange(len(entropies))
    size = sum(((number >> cell) & 1 for cell in range(length)), torch.zeros_like(number))
    mean = torch.zeros(length + 1, dtype=entropies.dtype).index_add_(0, size, entropies)
    mean = mean / torch.tensor([math.comb(length, m) for m in range(length + 1)], dtype=entropies.dtype)
    return mean.diff()


# ---- schedules in random order ---------------------------------------------------------------------------------------


def step_losses(curve: Tensor, sizes: Sequence[int]) -> Tensor:
    """Expected loss of each step of a schedule in random order, nats, [..., T] of curves [..., L]."""
    if sum(sizes) != curve.shape[-1] or min(sizes, default=0) < 1:
        raise BadInput(
            f"the schedule {','.join(map(str, sizes)) or 'of no steps'} does not open {curve.shape[-1]} cells: type "
            f"sizes of 1 or more that sum to {curve.shape[-1]}."
        )
    parts = curve.split(list(sizes), -1)
    return torch.stack([k * part[..., 0] - part.sum(-1) for k, part in zip(sizes, parts)], -1)


def schedule_loss(curve: Tensor, sizes: Sequence[int]) -> Tensor:
    """Expected loss of a schedule in random order, nats, [...] of curves [..., L]."""
    return step_losses(curve, sizes).sum(-1)


def bound(curve: Tensor, sizes: Sequence[int]) -> float:
    """(largest step - 1) (f(0) - f(L - 1)), which no schedule of these sizes exceeds where the curve falls."""
    return (max(sizes) - 1) * float(curve[0] - curve[-1])


def best_sizes(curve: Tensor, steps: int) -> tuple[int, ...]:
    """The sizes of T steps that lose least in random order: dynamic programming over sizes, O(L^2 T)."""
    length = len(curve)
    check_steps(steps, length)
    place = torch.arange(length + 1)
    ahead = (place - place[:, None]).double()  # from m cells, in one step, to m'
    cost = torch.where(ahead > 0, ahead * torch.cat([curve.double(), curve.new_zeros(1)])[:, None], torch.inf)
    best = torch.where(place == 0, 0.0, torch.inf).double()
    before = []
    for _ in range(steps):
        best, came = (best[:, None] + cost).min(0)
        before.append(came)
    ends = [length]
    for came in reversed(before):
        ends.append(int(came[ends[-1]]))
    return tuple(after - earlier for earlier, after in zip(ends[:0:-1], ends[-2::-1]))


def sizes_of(schedule: str, steps: int, length: int) -> tuple[int, ...]:
    """How many cells the samplers open in each step: `linear` (even) or `cosine`."""
    check_steps(steps, length)
    left, sizes = torch.tensor([length]), []
    for step in range(steps):
        count = due(SCHEDULES[schedule], steps, torch.tensor([step]), torch.tensor([length]), left)
        left = left - count
        sizes.append(int(count))
    return tuple(size for size in sizes if size)


def check_steps(steps: int, length: int) -> None:
    """BadInput for a number of steps that does not lie in 1..L."""
    if not 1 <= steps <= length:
        raise BadInput(f"{steps} steps were asked for {length} cells: type 1 to {length}.")


# ---- fixed partitions ------------------------------------------------------------------------------------------------


def in_order(sizes: Sequence[int], order: Sequence[int] | None = None) -> Blocks:
    """Cells in order (left to right by default), cut into blocks."""
    ends = list(accumulate(sizes))
    cells = range(ends[-1]) if order is None else order
    return tuple(tuple(cells[end - size : end]) for size, end in zip(sizes, ends))


def best_partitions(entropies: Tensor) -> list[tuple[float, Blocks]]:
    """The loss and the blocks of the best partition in T = 1..L steps; BadInput for more than twelve cells.

    Dynamic programming over chains of sets: to see W after V costs sum_{i in W - V} H(x_i | V), whatever the rest.
    Sets are met in order of their numbers, in which every set comes after its subsets: 3^L pairs, for all T at once.
    """
    length = len(entropies).bit_length() - 1
    if length > MOST_PARTITIONED:
        raise BadInput(f"partitions of {length} cells are too many to search: take {MOST_PARTITIONED} or fewer.")
    whole = len(entropies) - 1
    best = torch.full((length + 1, whole + 1), torch.inf, dtype=torch.float64)
    best[0, 0] = 0.0
    before = torch.zeros(length + 1, whole + 1, dtype=torch.int64)
    for seen in range(whole):
        after, cost = torch.tensor([seen]), torch.zeros(1, dtype=torch.float64)
        for cell in (c for c in range(length) if not seen >> c & 1):
            alone = entropies[seen | 1 << cell] - entropies[seen]
            after, cost = torch.cat([after, after | 1 << cell]), torch.cat([cost, cost + alone])
        after, reached = after[1:], best[:-1, seen, None] + cost[1:]
        better = reached < best[1:, after]
        best[1:, after] = torch.where(better, reached, best[1:, after])
        before[1:, after] = torch.where(better, seen, before[1:, after])
    return [_traced(entropies, before, steps) for steps in range(1, length + 1)]


def _traced(entropies: Tensor, before: Tensor, steps: int) -> tuple[float, Blocks]:
    now, blocks = len(entropies) - 1, []
    for step in range(steps, 0, -1):
        earlier = int(before[step, now])
        opened = now & ~earlier
        blocks.append(tuple(cell for cell in range(opened.bit_length()) if opened >> cell & 1))
        now = earlier
    chosen = tuple(reversed(blocks))
    return partition_loss(entropies, chosen), chosen


# ---- the sampler's law by enumeration --------------------------------------------------------------------------------


class Sampled:
    """Laws of samplers that open given blocks, by enumeration of what they write. It knows no entropies."""

    def __init__(self, law: Law):
        self.law = law
        self._kept: dict[int, Tensor] | None = {} if len(law.joint) * law.length << law.length <= KEPT else None

    def log_prob(self, blocks: Sequence[Sequence[int]]) -> Tensor:
        """Log p that the sampler writes each state, [S]."""
        seen: list[int] = []
        total = torch.zeros_like(self.law.joint)
        for block in blocks:
            total = total + self._given(seen)[:, list(block)].sum(1)
            seen += block
        return total

    def _given(self, seen: list[int]) -> Tensor:
        """Log p(x_i | x_seen) of what every state has in cell i, [S, L]."""
        number = set_of(seen)
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        states = self.law.states
        hidden = torch.ones(self.law.length, dtype=torch.bool)
        hidden[seen] = False
        log_prob = self.law(torch.where(hidden, self.law.alphabet.mask, states))
        found = log_prob.gather(2, states[:, :, None])[:, :, 0]
        if self._kept is not None:
            self._kept[number] = found
        return found


def divergence(joint: Tensor, log_prob: Tensor) -> float:
    """KL(p || q) of p [S] and log q [S], nats; infinite where q forbids what p allows."""
    held = joint > 0
    return float((joint[held] * (joint[held].log() - log_prob[held])).sum())


def ordered_partitions(sizes: Sequence[int], cells: Sequence[int]) -> Iterator[Blocks]:
    """Every way to open `cells` in steps of these sizes."""
    if not sizes:
        yield ()
        return
    for block in combinations(cells, sizes[0]):
        rest = [cell for cell in cells if cell not in block]
        yield from ((block, *blocks) for blocks in ordered_partitions(sizes[1:], rest))


class RandomOrder(NamedTuple):
    """A schedule in random order, by enumeration.

    kl: of (order, row) pairs, that is the mean over orders of KL(data || sampler given the order), nats.
    kl_stderr: over orders that were drawn; 0 where all were enumerated.
    total_correlation: mean over the same orders of the sum of conditional total correlations.
    kl_mixture, total_variation: between the data and the rows of all (or all drawn) orders together.
    orders: how many.
    """

    kl: float
    kl_stderr: float
    total_correlation: float
    kl_mixture: float
    total_variation: float
    orders: int


def random_order(sampled: Sampled, entropies: Tensor, sizes: Sequence[int], seed: int = 0) -> RandomOrder:
    """Enumerate the sampler that opens cells in random order, k_t in step t; orders are drawn where they are many."""
    law, each, correlations = sampled.law, [], []
    partitions, exact = _partitions(law, sizes, seed)
    mixture = torch.zeros_like(law.joint)
    for blocks in partitions:
        log_prob = sampled.log_prob(blocks)
        each.append(divergence(law.joint, log_prob))
        correlations.append(partition_loss(entropies, blocks))
        mixture += log_prob.exp()
    mixture /= len(each)
    kl = torch.tensor(each, dtype=torch.float64)
    return RandomOrder(
        float(kl.mean()),
        0.0 if exact else float(kl.std()) / math.sqrt(len(each)),
        math.fsum(correlations) / len(each),
        divergence(law.joint, mixture.log()),
        float((mixture - law.joint).abs().sum()) / 2,
        len(each),
    )


def _partitions(law: Law, sizes: Sequence[int], seed: int) -> tuple[Iterator[Blocks], bool]:
    """All ordered partitions and True, or some that are drawn and False."""
    orders = math.factorial(law.length) // math.prod(map(math.factorial, sizes))
    numbers = len(law.joint) * law.length
    if orders * numbers <= EXACT:
        return ordered_partitions(sizes, range(law.length)), True
    drawn = min(max(WORK // (numbers * len(sizes)), LEAST_ORDERS), MOST_ORDERS)
    uniform = Stream.of(seed, drawn).uniform(0, Purpose.WHERE, law.length)
    return (in_order(sizes, order) for order in uniform.argsort(1).tolist()), False
