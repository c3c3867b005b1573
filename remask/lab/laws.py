"""Laws that are known: the joint law of L cells by enumeration, and p(x_i | the visible rest) for any cells masked.

Every law is a Conditional, exact in float64, so that a sampler, an objective or a metric can be held to the truth.
Built in log space: a coupling is too large only when its energies are not finite. What has more states than the limit
may still have a transfer matrix: see `chains.py`.
Shapes: B batch, L length, A symbols, S = A^L states, V ids of the alphabet, N cells asked for, H hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.lab.graphs import edges_of

MOST_STATES = 2**20
TABLE = 2**24  # entries of the table of all visible patterns, where it is kept


class Law:
    """A law over S states, and p(x_i | visible rest) of it for every pattern of masks, in float64.

    joint: [A, ..., A], one axis a cell, need not be normalised. mask, end: their ids, anywhere among the A + 2 of the
    alphabet; by default the two last. A context that cannot occur (parallel samplers meet some) is answered with the
    uniform law over symbols. Raises BadInput for more than 2^20 states.
    """

    def __init__(
        self,
        name: str,
        joint: Tensor,
        mask: int | None = None,
        end: int | None = None,
        visible: Visible = Visible.DENOISE,
    ):
        self.name, self.length, self.symbols, self.visible = name, joint.dim(), joint.shape[0], visible
        check_states(self.symbols, self.length)
        mask, end = self.symbols if mask is None else mask, self.symbols + 1 if end is None else end
        size = self.symbols + 2
        self.alphabet = Alphabet(size, mask, end=end, special=frozenset((mask, end)))
        self.ids = torch.tensor([i for i in range(size) if i not in (mask, end)])
        if not (joint.isfinite().all() and (joint >= 0).all() and joint.sum() > 0):
            raise BadInput(f"the law '{name}' has no finite probabilities: take smaller couplings and fields.")
        self.joint = (joint / joint.sum()).double().flatten()
        """Probability of every state, [S], in the order of `states`."""
        self._digit = torch.full((size,), -1)
        self._digit[self.ids] = torch.arange(self.symbols)
        self._digit[mask] = self.symbols
        self._stride = (self.symbols + 1) ** torch.arange(self.length).flip(0)

    @cached_property
    def digits(self) -> Tensor:
        """Symbols 0..A-1 of every state, [S, L]."""
        cells = torch.arange(len(self.joint))[:, None] // self.symbols ** torch.arange(self.length).flip(0)
        return cells % self.symbols

    @cached_property
    def states(self) -> Tensor:
        """Ids of every state, [S, L]."""
        return self.ids[self.digits]

    @property
    def entropy(self) -> float:
        """Of a whole row, nats."""
        return float(-torch.xlogy(self.joint, self.joint).sum())

    @property
    def conditional(self) -> Law:
        """p(x_i | visible rest): the law itself answers."""
        return self

    @property
    def marginals(self) -> Tensor:
        """p(x_i), [L, A]."""
        joint = self.joint.view([self.symbols] * self.length)
        others = [[j for j in range(self.length) if j != i] for i in range(self.length)]
        return torch.stack([joint.sum(axes) if axes else joint for axes in others])

    @cached_property
    def _mass(self) -> Tensor | None:
        """Mass of every pattern of visible cells, [(A + 1)^L], where that is not too much to keep."""
        if (self.symbols + 1) ** self.length > TABLE:
            return None
        mass = self.joint.view([self.symbols] * self.length)
        for axis in range(self.length):
            mass = torch.cat([mass, mass.sum(axis, keepdim=True)], axis)
        return mass.flatten()

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`."""
        cells = torch.ones_like(tokens, dtype=torch.bool) if at is None else at
        log_prob = self._log_prob(tokens, cells)
        return log_prob.view(*tokens.shape, -1) if at is None else log_prob

    def _log_prob(self, tokens: Tensor, cells: Tensor) -> Tensor:
        digits = self._digit[tokens]
        if int(digits.min()) < 0:
            raise ValueError("the end token lies outside the law")
        row, cell = torch.nonzero(cells, as_tuple=True)
        mass, total = self._candidates(digits, row, cell)
        prob = torch.where(total > 0, mass / total, 1 / self.symbols)
        if self.visible is Visible.DENOISE:
            own = digits[row, cell]
            point = torch.nn.functional.one_hot(own, self.symbols + 1)[:, : self.symbols].double()
            prob = torch.where((own < self.symbols)[:, None], point, prob)
        log_prob = torch.full((len(row), self.alphabet.size), -torch.inf, dtype=torch.float64)
        log_prob[:, self.ids] = prob.log()
        return log_prob

    def _candidates(self, digits: Tensor, row: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Mass of each symbol in an asked cell together with what is visible elsewhere, [N, A]; and of all, [N, 1]."""
        if self._mass is None:
            return self._enumerated(digits, row, cell)
        stride = self._stride[cell]
        hidden = (digits * self._stride).sum(1)[row] + (self.symbols - digits[row, cell]) * stride
        mass = self._mass[hidden[:, None] + (torch.arange(self.symbols) - self.symbols) * stride[:, None]]
        return mass, self._mass[hidden][:, None]

    def _enumerated(self, digits: Tensor, row: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The same without the table: one slice of the joint law a cell."""
        joint = self.joint.view([self.symbols] * self.length)
        found = []
        for r, c in zip(row.tolist(), cell.tolist()):
            seen = digits[r].tolist()
            index = tuple(slice(None) if i == c or d == self.symbols else d for i, d in enumerate(seen))
            axes = [i for i in range(self.length) if isinstance(index[i], slice)]
            part = joint[index]
            others = [k for k, i in enumerate(axes) if i != c]
            found.append(part.sum(others) if others else part)
        mass = torch.stack(found) if found else joint.new_zeros(0, self.symbols)
        return mass, mass.sum(1, keepdim=True)

    def rows(self, index: Tensor) -> Law:
        """Itself: it has no rows."""
        del index
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Law:
        """Itself: there is nothing to keep."""
        del tokens, upto
        return self

    def sample(self, n: int, stream: Stream | int) -> Tensor:
        """True rows [n, L]; `stream` (or a seed) gives one uniform a row."""
        stream = Stream.of(stream, n) if isinstance(stream, int) else stream
        edges = self.joint.cumsum(0)
        last = int(torch.nonzero(self.joint)[-1])
        index = torch.searchsorted(edges, stream.uniform(0, Purpose.START, 1)[:, 0] * edges[-1], right=True)
        return self.states[index.clamp(max=last)]

    def number(self, tokens: Tensor) -> Tensor:
        """Which state each row is, [B]; ValueError where a row holds a mask or the end token."""
        digits = self._digit[tokens]
        if not ((digits >= 0) & (digits < self.symbols)).all():
            raise ValueError("a row holds a mask or the end token")
        return (digits * self.symbols ** torch.arange(self.length).flip(0)).sum(1)

    def posterior(self, tokens: Tensor) -> Tensor:
        """The law of whole states given the visible cells of one row [L], [S]."""
        agrees = ((self.states == tokens) | (tokens == self.alphabet.mask)).all(1)
        law = torch.where(agrees, self.joint, 0.0)
        return law / law.sum()


def check_states(symbols: int, length: int) -> None:
    """BadInput for a law with too many states to enumerate."""
    if symbols < 1 or length < 1:
        raise BadInput(f"a law of {length} cells and {symbols} symbols was asked for: both must be 1 or more.")
    if symbols**length > MOST_STATES:
        raise BadInput(
            f"{length} cells of {symbols} symbols have {symbols}^{length} states, more than the 2^20 that are "
            "enumerated: take fewer cells, or a chain (path, Markov, hidden Markov), which needs no enumeration."
        )


def from_energy(name: str, energy: Tensor, mask: int | None = None, end: int | None = None) -> Law:
    """The law p ~ exp(energy) of energies [A, ..., A]; BadInput where they are not finite."""
    energy = energy.double()
    if not energy.isfinite().all():
        raise BadInput(f"the energies of '{name}' overflow: take smaller couplings and fields.")
    return Law(name, (energy - energy.amax()).exp(), mask, end)


def spins_of(length: int) -> Tensor:
    """All states of -1 and +1, [2^L, L] float64: symbol 0 is -1."""
    check_states(2, length)
    bits = torch.arange(2**length)[:, None] >> torch.arange(length).flip(0)
    return (bits % 2).double() * 2 - 1


def ising(
    size: int,
    coupling: float,
    field: float = 0.0,
    graph: str = "clique",
    seed: int = 0,
    *,
    mask: int | None = None,
    end: int | None = None,
) -> Law:
    """p ~ exp(J sum_edges s_i s_j + h sum_i s_i), s = -1, +1 (symbols 0 and 1)."""
    spins, edges = spins_of(size), edges_of(graph, size, seed)
    pairs = sum((spins[:, i] * spins[:, j] for i, j in edges), torch.zeros(len(spins), dtype=torch.float64))
    energy = coupling * pairs + field * spins.sum(1)
    return from_energy(f"ising on a {graph}", energy.view([2] * size), mask, end)


def potts(
    size: int,
    symbols: int,
    coupling: float,
    field: float = 0.0,
    graph: str = "clique",
    seed: int = 0,
    *,
    mask: int | None = None,
    end: int | None = None,
) -> Law:
    """p ~ exp(J sum_edges [x_i = x_j] + h sum_i [x_i = 0])."""
    check_states(symbols, size)
    cells = torch.arange(symbols**size)[:, None] // symbols ** torch.arange(size).flip(0) % symbols
    energy = field * (cells == 0).double().sum(1)
    for i, j in edges_of(graph, size, seed):
        energy = energy + coupling * (cells[:, i] == cells[:, j]).double()
    return from_energy(f"potts on a {graph}", energy.view([symbols] * size), mask, end)


def mixture(laws: Sequence[Law], weights: Sequence[float]) -> Law:
    """The law that first chooses one of `laws` with probability in proportion to its weight."""
    shapes = {(law.symbols, law.length, law.alphabet) for law in laws}
    if len(shapes) != 1 or len(laws) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
        raise BadInput("a mixture wants laws of one shape and a weight for each, none negative, not all zero.")
    share = [w / sum(weights) for w in weights]
    joint = sum((w * law.joint for w, law in zip(share, laws)), torch.zeros_like(laws[0].joint))
    first = laws[0]
    shape = [first.symbols] * first.length
    return Law("mixture", joint.view(shape), first.alphabet.mask, first.alphabet.end)


def markov_chain(
    start: Tensor, transition: Tensor, length: int, *, mask: int | None = None, end: int | None = None
) -> Law:
    """p(x_1) = start [A], p(x_{i+1} | x_i) = transition [A, A]."""
    check_states(len(start), length)
    joint = start.double()
    for _ in range(length - 1):
        joint = joint[..., None] * transition.double()
    return Law("markov chain", joint, mask, end)


def hidden_markov(
    start: Tensor,
    transition: Tensor,
    emission: Tensor,
    length: int,
    *,
    mask: int | None = None,
    end: int | None = None,
) -> Law:
    """Hidden states start [H], transition [H, H]; each shows a symbol with probability emission [H, A]."""
    check_states(emission.shape[1], length)
    ahead = start.double()[:, None] * emission.double()  # [H, A]: the hidden state now, and what was shown
    for _ in range(length - 1):
        moved = torch.einsum("h...,hg->g...", ahead, transition.double())
        shape = (len(start), *[1] * (moved.dim() - 1), emission.shape[1])
        ahead = moved[..., None] * emission.double().view(shape)
    return Law("hidden markov model", ahead.sum(0), mask, end)


def random_table(
    length: int,
    symbols: int,
    concentration: float = 0.5,
    seed: int = 0,
    *,
    mask: int | None = None,
    end: int | None = None,
) -> Law:
    """Any law at all: one Dirichlet draw over the states."""
    check_states(symbols, length)
    if not concentration > 0:
        raise BadInput(f"a Dirichlet law came with concentration {concentration}: it must be above 0.")
    joint = torch.from_numpy(np.random.default_rng(seed).dirichlet([concentration] * symbols**length))
    return Law("random table", joint.view([symbols] * length), mask, end)
