"""Information: what a loss of masked cells tells about a law's parameters, and the covariance that follows from it.

Minimising a mean loss over n samples gives sqrt(n) (estimate - truth) -> N(0, H^-1 V H^-1): H the mean Hessian, V the
variance of the gradient, both at the truth (Godambe 1960; Huber 1967). For an exponential family p ~ exp<theta, T(x)>:

    joint block   -log p(x_K | x_-K), one mask a sample: H = V = I_K = E Cov(T | x_-K)   (Li et al. 2024,
                  arXiv 2407.21046; k = 1 is Besag 1975, k = L maximum likelihood)
    averaged      the mean of the same over all masks of each sample: the same H, a smaller V (Lindsay 1988)
    factorised    sum over j in K of -log p(x_j | x_-K): H and V differ, and H may be singular

With a Poincare constant 1 / gap of the block dynamics, Gamma = I_K^-1 <= I^-1 / gap in the order of matrices.
Everything is by enumeration; a mask costs one pass over the states.
Shapes: S = A^L states, L length, P parameters, M masks, C contexts (values of the visible cells), D = S / C blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.lab.graphs import Edges
from remask.lab.laws import Law, from_energy, spins_of

SINGULAR = 1e-11  # of the largest eigenvalue, once every parameter is measured in units of its own information
NOTHING = 1e-24  # information that cannot be told from rounding: scores are differences of numbers near 1
ENTRIES = 2**20  # numbers held at a time
SHOWN = 4  # parameters of a direction that are spelled out


class Family(NamedTuple):
    """p ~ exp<theta, T(x)>. statistics: T, [S, P]; names: of the P parameters; length: cells."""

    statistics: Tensor
    names: tuple[str, ...]
    length: int

    def law(self, theta: Tensor) -> Law:
        """The member with parameters theta [P]; BadInput where its energies overflow."""
        symbols = symbols_of(len(self.statistics), self.length)
        return from_energy("exponential family", (self.statistics @ theta).view([symbols] * self.length))


class Sandwich(NamedTuple):
    """sensitivity: H, the mean Hessian of a loss, [P, P]; variability: V, the variance of its gradient, [P, P]."""

    sensitivity: Tensor
    variability: Tensor

    def covariance(self, names: Sequence[str], of: str = "this loss") -> Tensor:
        """H^-1 V H^-1, [P, P]; BadInput where H is singular."""
        bread = inverse(self.sensitivity, names, of)
        return bread @ self.variability @ bread


def ising_family(size: int, edges: Edges) -> Family:
    """All fields h(i) and the couplings J(i,j) of the edges, cells counted from 1; spins as in `laws.ising`."""
    spins = spins_of(size)
    pairs = [spins[:, i] * spins[:, j] for i, j in edges]
    names = [f"h({i + 1})" for i in range(size)] + [f"J({i + 1},{j + 1})" for i, j in edges]
    return Family(torch.stack([*spins.T, *pairs], 1), tuple(names), size)


def symbols_of(states: int, length: int) -> int:
    """How many symbols a cell has."""
    return round(states ** (1 / length))


def masks_of_size(length: int, k: int) -> Tensor:
    """All masks that hide k of the cells, [M, L] bool; BadInput for k outside 1..L."""
    if not 1 <= k <= length:
        raise BadInput(f"k came as {k}: type a number of masked cells from 1 to {length}.")
    hidden = torch.tensor(list(combinations(range(length), k)))
    return torch.zeros(len(hidden), length, dtype=torch.bool).scatter_(1, hidden, True)


def contexts(masks: Tensor, states: int) -> Tensor:
    """The states by what is visible under each of `masks` [M, L], which hide equally many cells: [M, C, D] numbers of
    states, a row a context."""
    count, length = masks.shape
    symbols, hidden = symbols_of(states, length), int(masks[0].sum())
    if (masks.sum(1) != hidden).any():
        raise ValueError("masks of several sizes were put together")
    stride = (symbols ** torch.arange(length).flip(0)).expand(count, -1)
    seen, block = stride[~masks].view(count, -1), stride[masks].view(count, -1)
    return (seen @ _rows(symbols, length - hidden).T)[:, :, None] + (block @ _rows(symbols, hidden).T)[:, None, :]


def _rows(symbols: int, length: int) -> Tensor:
    """All rows of so many cells, [A^length, length]."""
    return torch.arange(symbols**length)[:, None] // symbols ** torch.arange(length).flip(0) % symbols


def by_context(weights: Tensor, index: Tensor) -> Tensor:
    """Weights of states [..., M, S] as `contexts` [M, C, D] orders them, [..., M, C, D]."""
    order = index.flatten(1).expand(*weights.shape[:-2], -1, -1)
    return weights.gather(-1, order).unflatten(-1, index.shape[1:])


def conditional_mean(weights: Tensor, values: Tensor, masks: Tensor) -> Tensor:
    """E[values [S, P] | the cells visible under each mask] of laws ~ weights [M, S], for every state: [M, S, P]; 0
    where the context cannot occur."""
    index = contexts(masks, len(values))
    part = by_context(weights, index)
    mass = part.sum(2, keepdim=True)
    share = torch.where(mass > 0, part / mass, 0.0)
    mean = torch.einsum("mcd,mcdp->mcp", share, values[index])
    row = torch.arange(mean[..., 0].numel()).repeat_interleave(index.shape[2]).view(len(masks), -1)
    return mean.flatten(0, 1)[torch.empty_like(row).scatter_(1, index.flatten(1), row)]


def score(weights: Tensor, statistics: Tensor, masks: Tensor) -> Tensor:
    """Gradient of log p(x_K | x_-K) at every state, T(x) - E[T | x_-K], of laws ~ weights [M, S]: [M, S, P]."""
    return statistics - conditional_mean(weights, statistics, masks)


def gram(weights: Tensor, scores: Tensor) -> Tensor:
    """Sum over masks and states of weight * score score', [P, P]; weights: [..., S], scores: [..., S, P]."""
    rows = scores.flatten(0, -2)
    return rows.T @ (weights.flatten()[:, None] * rows)


def fisher(law: Tensor, statistics: Tensor) -> Tensor:
    """Full information Cov(T) of the law [S], [P, P]."""
    return gram(law, statistics - law @ statistics)


def pieces(statistics: Tensor, masks: Tensor, *weights: Tensor, fits: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Some masks at a time with their weights (of M rows each), so that [fits, M, S, P] numbers fit in memory."""
    size = max(1, ENTRIES // (statistics.numel() * fits))
    return zip(*(rows.split(size) for rows in (masks, *weights)))


def uniform(law: Tensor, masks: Tensor) -> Tensor:
    """p(K, x) where every mask is as likely and does not look at the row, [M, S]."""
    return (law / len(masks)).expand(len(masks), -1)


def block_information(law: Tensor, statistics: Tensor, masks: Tensor, given: Tensor | None = None) -> Tensor:
    """I_K = E Cov(T | x_-K, K) of the joint block loss, [P, P].

    given: p(K | x), [M, S], where the mask depends on the row (the loss then carries that factor); default: uniform.
    """
    both = uniform(law, masks) if given is None else law * given
    parts = [gram(part, score(part, statistics, some)) for some, part in pieces(statistics, masks, both)]
    return torch.stack(parts).sum(0)


def averaged(law: Tensor, statistics: Tensor, masks: Tensor) -> Sandwich:
    """The joint block loss averaged over all `masks` of every sample."""
    sensitivity = law.new_zeros(2 * statistics.shape[1:])
    mean = torch.zeros_like(statistics)
    for some, part in pieces(statistics, masks, uniform(law, masks)):
        scores = score(part, statistics, some)
        sensitivity += gram(part, scores)
        mean += scores.sum(0) / len(masks)
    return Sandwich(sensitivity, gram(law, mean))


def factorised(law: Tensor, statistics: Tensor, masks: Tensor) -> Sandwich:
    """The sum over the masked cells of -log p(x_j | x_-K), one uniform mask of `masks` a sample.

    The score of cell j is E[T | x_j, x_-K] - E[T | x_-K]; at the truth its variance is the mean Hessian of its term, so
    H is the sum over j of variances and V the variance of the sum.
    """
    sensitivity = law.new_zeros(2 * statistics.shape[1:])
    variability = torch.zeros_like(sensitivity)
    for some, part in pieces(statistics, masks, uniform(law, masks)):
        less = conditional_mean(part, statistics, some)
        total = torch.zeros_like(less)
        for rest in but_one(some):
            own = conditional_mean(part, statistics, rest) - less
            sensitivity += gram(part, own)
            total += own
        variability += gram(part, total)
    return Sandwich(sensitivity, variability)


def but_one(masks: Tensor) -> Iterator[Tensor]:
    """The masks [M, L] with the first of their hidden cells shown, then with the second, ..."""
    hidden = torch.nonzero(masks)[:, 1].view(len(masks), -1)
    return (masks.scatter(1, cell[:, None], False) for cell in hidden.T)


def _spectrum(information: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit of every parameter [P], then eigenvalues [P] and vectors [P, P] of the information in these units."""
    diagonal = information.diagonal()
    unit = torch.where(diagonal > NOTHING, diagonal, 1.0).rsqrt()
    known = (diagonal > NOTHING).double()
    values, vectors = torch.linalg.eigh(information * torch.outer(unit * known, unit * known))
    return unit, values, vectors


def null_space(information: Tensor) -> Tensor:
    """Combinations of parameters that the information says nothing about, [d, P], each with a parameter of its own.

    In echelon form from the last parameter on: a combination has a 1 where the others have 0.
    """
    unit, values, vectors = _spectrum(information)
    rows = (vectors[:, values < SINGULAR] * unit[:, None]).T
    for done in range(len(rows)):
        last = int(torch.nonzero(rows[done:].abs().amax(0) > SINGULAR * rows[done:].abs().max())[-1])
        best = done + int(rows[done:, last].abs().argmax())
        rows[[done, best]] = rows[[best, done]]
        rows[done] = rows[done] / rows[done, last]
        others = torch.arange(len(rows)) != done
        rows[others] -= rows[others, last, None] * rows[done]
    return rows


def spelled(direction: Tensor, names: Sequence[str]) -> str:
    """A combination of parameters [P] in words, the largest first: "J(1,2) - 0.21 h(1)"."""
    size = (direction / direction[direction.abs().argmax()]).tolist()
    order = sorted(range(len(size)), key=lambda i: -round(abs(size[i]), 4))
    order = [i for i in order if abs(size[i]) > 1e-4]
    text = names[order[0]]
    for i in order[1:SHOWN]:
        text += f" {'-' if size[i] < 0 else '+'} {abs(size[i]):.2g} {names[i]}"
    return f"{text} + ..." if len(order) > SHOWN else text


def inverse(information: Tensor, names: Sequence[str], of: str = "this loss") -> Tensor:
    """Inverse of an information matrix, [P, P]; BadInput that names a direction where it is singular."""
    unit, values, vectors = _spectrum(information)
    if not (len(values) and values[0] >= SINGULAR):
        free = null_space(information)
        raise BadInput(
            f"the information of {of} is singular: it says nothing about {spelled(free[0], names)} "
            f"({len(free)} such combination{'s' if len(free) > 1 else ''}); take smaller couplings and fields, "
            "or another loss."
        )
    scaled = unit[:, None] * vectors
    return scaled @ (scaled / values).T
