"""Chains: hidden Markov models of any length, exact by forward and backward messages instead of enumeration.

p(x_i | the visible rest) costs one pass over the row in each direction (Rabiner 1989, Proceedings of the IEEE 77), so
a language of 256 symbols and 512 cells is as well known as one of 4 spins. A Markov chain is one whose symbols show the
state; an Ising path is one too.
Shapes: B batch, L length, A symbols, H hidden states, V ids of the alphabet, N cells asked for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.draw import inverse_cdf_of
from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.core.stream import Purpose, Stream

SPIN = torch.tensor([-1.0, 1.0], dtype=torch.float64)
WIDEST = 8  # cells of a grid's smaller side


class Chain:
    """A hidden Markov model as a Conditional, exact in float64.

    start: [H], p of the first hidden state; transition: [H, H], or [L - 1, H, H] where it depends on the place,
    rows sum to 1; emission: [H, A], what a state shows.
    Ids are the symbols 0..A-1, then the mask and the end token, which is never drawn.
    """

    def __init__(
        self, start: Tensor, transition: Tensor, emission: Tensor, length: int, visible: Visible = Visible.DENOISE
    ):
        if length < 1:
            raise BadInput(f"a chain of {length} cells was asked for: type --size 1 or more.")
        for name, rows in (("start", start), ("transition", transition), ("emission", emission)):
            sums = rows.double().sum(-1)
            if not torch.allclose(sums, torch.ones_like(sums)) or (rows < 0).any():
                raise BadInput(f"the {name} of a chain must hold probabilities whose rows sum to 1.")
        self.start, self.emission = start.double(), emission.double()
        self.transition = transition.double().expand(max(length - 1, 1), -1, -1)
        self.length, self.symbols, self.visible = length, emission.shape[1], visible
        mask, end = self.symbols, self.symbols + 1
        self.alphabet = Alphabet(self.symbols + 2, mask, end=end, special=frozenset((mask, end)))

    @property
    def conditional(self) -> Chain:
        """p(x_i | visible rest): the chain itself answers."""
        return self

    def rows(self, index: Tensor) -> Chain:
        """Itself: it has no rows."""
        del index
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Chain:
        """Itself: messages are not kept."""
        del tokens, upto
        return self

    def _likelihood(self, tokens: Tensor) -> Tensor:
        """p(what is visible in a cell | hidden state), 1 at masks, [B, L, H]."""
        table = torch.cat([self.emission.T, torch.ones(1, len(self.start), dtype=torch.float64)])
        if int(tokens.max()) > self.alphabet.mask:
            raise ValueError("the end token lies outside the law")
        return table[tokens]

    def messages(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every cell: p(hidden | what is visible before it) [B, L, H]; what is visible after it, as weights of the
        hidden states [B, L, H]; and log p of what is visible, [B]."""
        seen = self._likelihood(tokens)
        prior, total, before = self.start.expand(len(tokens), -1), torch.zeros(len(tokens), dtype=torch.float64), []
        for i in range(tokens.shape[1]):
            before.append(prior)
            both = prior * seen[:, i]
            scale = both.sum(1, keepdim=True)
            total = total + scale[:, 0].log()
            now = torch.where(scale > 0, both / scale, 1 / len(self.start))
            prior = now @ self.transition[min(i, len(self.transition) - 1)]
        weight, after = torch.ones_like(prior), []
        for i in reversed(range(tokens.shape[1])):
            after.append(weight)
            weight = (seen[:, i] * weight) @ self.transition[max(i - 1, 0)].T
            top = weight.amax(1, keepdim=True)
            weight = torch.where(top > 0, weight / top, 1.0)
        return torch.stack(before, 1), torch.stack(after[::-1], 1), total

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`."""
        cells = torch.ones_like(tokens, dtype=torch.bool) if at is None else at
        before, after, _ = self.messages(tokens)
        hidden = (before * after)[cells]
        total = hidden.sum(1, keepdim=True)
        prob = torch.where(total > 0, hidden / total, 1 / len(self.start)) @ self.emission
        if self.visible is Visible.DENOISE:
            own = tokens[cells]
            point = torch.nn.functional.one_hot(own, self.symbols + 1)[:, : self.symbols].double()
            prob = torch.where((own < self.symbols)[:, None], point, prob)
        log_prob = torch.full((len(prob), self.alphabet.size), -torch.inf, dtype=torch.float64)
        log_prob[:, : self.symbols] = prob.log()
        return log_prob if at is not None else log_prob.view(*tokens.shape, -1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log p of what is visible in each row, nats, [B]."""
        return self.messages(tokens)[2]

    def sample(self, n: int, stream: Stream | int) -> Tensor:
        """True rows [n, L]."""
        stream = Stream.of(stream, n) if isinstance(stream, int) else stream
        which = stream.uniform(0, Purpose.START, self.length)
        shown = stream.uniform(0, Purpose.TOKEN, self.length)
        prior, tokens = self.start.expand(n, -1), []
        for i in range(self.length):
            hidden = inverse_cdf_of(prior, which[:, i])
            tokens.append(inverse_cdf_of(self.emission[hidden], shown[:, i]))
            prior = self.transition[min(i, len(self.transition) - 1)][hidden]
        return torch.stack(tokens, 1)

    def entropy(self, n: int = 4000, seed: int = 0) -> Estimate:
        """Of a whole row, nats: the mean of -log p over n true rows."""
        nats = -self.log_prob(self.sample(n, seed))
        return Estimate(float(nats.mean()), float(nats.std()) / math.sqrt(n), "nats", n)


def markov(start: Tensor, transition: Tensor, length: int) -> Chain:
    """p(x_1) = start [A], p(x_{i+1} | x_i) = transition [A, A]."""
    return Chain(start, transition, torch.eye(len(start), dtype=torch.float64), length)


def ising_path(size: int, coupling: float, field: float = 0.0) -> Chain:
    """p ~ exp(J sum s_i s_{i+1} + h sum s_i) on a path of any length, by its transfer matrices (Ising 1925)."""
    step = coupling * SPIN[:, None] * SPIN + field * SPIN
    return _from_potentials(field * SPIN, [step] * (size - 1), torch.eye(2, dtype=torch.float64))


def ising_ring(size: int, coupling: float, field: float = 0.0) -> Chain:
    """The same on a ring: the hidden state is the first spin and the present one, and the last step closes the ring."""
    if size < 3:
        return ising_path(size, coupling, field)
    pairs = torch.cartesian_prod(SPIN, SPIN)  # [4, 2]: first, present
    first, now = pairs.T
    begun = torch.where(first == now, field * now, -torch.inf)
    same = torch.where(first[:, None] == first, 0.0, -torch.inf)
    step = coupling * now[:, None] * now + field * now + same
    steps = [step] * (size - 2) + [step + coupling * first * now]
    return _from_potentials(begun, steps, (now[:, None] == SPIN).double())


def ising_grid(width: int, height: int, coupling: float, field: float = 0.0) -> Chain:
    """The same on a rectangle, cell after cell in reading order: the hidden state is the last `width` spins.

    Raises BadInput for a width over 8: there are 2^width hidden states.
    """
    if not 1 <= width <= WIDEST or height < 1:
        raise BadInput(f"a grid of {width} by {height} was asked for: its smaller side must be 1 to {WIDEST}.")
    last = torch.cartesian_prod(*[SPIN] * width).view(-1, width)  # oldest first
    now, shift = last[:, -1], (last[:, None, 1:] == last[None, :, :-1]).all(2)
    begun = torch.where((last[:, :-1] < 0).all(1), field * now, -torch.inf)  # cells before the first: all -1
    steps = []
    for cell in range(1, width * height):
        energy = (field * now).expand(len(last), -1)
        if cell % width:
            energy = energy + coupling * last[:, -1:] * now
        if cell >= width:
            energy = energy + coupling * last[:, :1] * now
        steps.append(torch.where(shift, energy, -torch.inf))
    return _from_potentials(begun, steps, (now[:, None] == SPIN).double())


def _from_potentials(first: Tensor, steps: list[Tensor], shows: Tensor) -> Chain:
    """The chain p(h_1, h_2, ...) ~ exp(first[h_1] + sum steps[i][h_i, h_{i+1}]); shows: [H, A]."""
    if not all((x.isfinite() | (x == -torch.inf)).all() for x in (first, *steps)):
        raise BadInput("the energies of this law overflow: take smaller couplings and fields.")
    tail, moves = torch.zeros_like(first), []  # log of the sum over all that follows a state, up to a constant
    for step in reversed(steps):
        log_step = step + tail
        tail = log_step.logsumexp(1)
        moves.append(torch.where(tail[:, None] > -torch.inf, (log_step - tail[:, None]).exp(), 1 / len(tail)))
        tail = tail - tail.amax()
    moves = moves[::-1] or [torch.eye(len(first), dtype=torch.float64)]
    return Chain((first + tail).softmax(0), torch.stack(moves), shows, len(steps) + 1)
