"""Wrappers: one conditional in, another law out. A law is changed by wrapping it, not by a flag of a sampler.

    Temperature         p^(1/T) (Ackley, Hinton & Sejnowski 1985, Cognitive Science 9)
    TopK                the k most probable tokens (Fan et al. 2018, arXiv 1805.04833)
    TopP                the nucleus of mass p (Holtzman et al. 2020, arXiv 1904.09751)
    Ban                 ids that are never written (for ids that must be: nets/require.py)
    RepetitionPenalty   ids that the row shows already are less probable (Keskar et al. 2019, arXiv 1909.05858)
    LeaveOneOut         visible cells are answered as if they were masked (Wang & Cho 2019, arXiv 1902.04094)

The inner wrapper acts first. Bans and required ids belong next to the model and cuts around them, as in
TopP(Temperature(restrict(net, banned, required), 0.8), 0.9): a ban around a cut may leave a cell with nothing, which is
an error. Each wrapper passes `rows` and `given` down, keeps the float type, and gives log p that is normalised. A call
is one network call, whatever a wrapper does inside; where that is more than one pass, its docstring says so.
Shapes: B batch, L length, V vocabulary, N cells asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Conditional, Visible
from remask.core.errors import BadInput
from remask.core.sampler import ask

LARGEST = 1e6  # of penalties, scales and weights: the products stay far inside float32
COLDEST, HOTTEST = 1e-20, 1e20  # temperatures beyond these cannot be told from them, and would overflow float32
CHUNK = 64  # rows of one forward pass of LeaveOneOut


@dataclass(frozen=True)
class Wrapper:
    """What the wrappers of one conditional share: its alphabet, what it says at visible cells, its rows and cache."""

    conditional: Conditional

    @property
    def alphabet(self) -> Alphabet:
        """The inner conditional's."""
        return self.conditional.alphabet

    @property
    def visible(self) -> Visible:
        """The inner conditional's."""
        return self.conditional.visible

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        return self.conditional(tokens, at)

    def rows(self, index: Tensor) -> Self:
        """The same law for some of the rows."""
        return replace(self, conditional=self.conditional.rows(index))

    def given(self, tokens: Tensor, upto: Tensor) -> Self:
        """The same law, with the inner conditional's cache."""
        return replace(self, conditional=self.conditional.given(tokens, upto))


def renormalised(scores: Tensor, advice: str) -> Tensor:
    """Scores [..., V] as log p. Raises BadInput, which ends in `advice`, where a cell has -inf only."""
    total = scores.logsumexp(-1, keepdim=True)
    if torch.isneginf(total).any():
        raise BadInput(f"a cell has no token left that may be written: {advice}")
    return scores - total


def cells_of(tokens: Tensor, at: Tensor | None) -> Tensor:
    """The cells asked about, [B, L] bool."""
    return torch.ones_like(tokens, dtype=torch.bool) if at is None else at


def shaped(log_prob: Tensor, tokens: Tensor, at: Tensor | None) -> Tensor:
    """Log p of the cells asked about, [N, V], in the shape that the caller wants."""
    return log_prob.view(*tokens.shape, -1) if at is None else log_prob


@dataclass(frozen=True)
class Temperature(Wrapper):
    """Proportional to p^(1/T). Below 1 sharper, above 1 flatter; 1 changes nothing. One pass."""

    temperature: float

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise BadInput("temperature 0 is not a law but a choice: draw greedily instead (the draw Greedy()).")
        if not 0 < self.temperature < math.inf:
            raise BadInput(f"the temperature came as {self.temperature}: it must be a number above 0, such as 0.8.")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        log_prob = self.conditional(tokens, at)
        if self.temperature == 1:
            return log_prob
        # the best token is brought to 0 first: a quotient cannot overflow to -inf everywhere
        below = log_prob - log_prob.amax(-1, keepdim=True)
        return (below / min(max(self.temperature, COLDEST), HOTTEST)).log_softmax(-1)


@dataclass(frozen=True)
class TopK(Wrapper):
    """The k most probable tokens, renormalised (Fan et al. 2018); of equal ones the lower ids. One pass."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"top-k came with k {self.k}: it must be 1 or more.")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        log_prob = self.conditional(tokens, at)
        if self.k >= log_prob.shape[-1]:
            return log_prob
        last = log_prob.topk(self.k).values[..., -1:]
        above, equal = log_prob > last, log_prob == last
        room = self.k - above.sum(-1, keepdim=True)
        keep = above | (equal & (equal.cumsum(-1) <= room))
        return log_prob.masked_fill(~keep, -torch.inf).log_softmax(-1)


@dataclass(frozen=True)
class TopP(Wrapper):
    """The most probable tokens up to mass p, renormalised (Holtzman et al. 2020, section 3.1). One pass.

    The token that crosses the line belongs; of equal ones the lower ids come first. The draw `Nucleus` does the same at
    the end of the chain; as a wrapper, other laws can be built around it.
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise BadInput(f"top-p came with p {self.p}: it must lie in (0, 1].")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        log_prob = self.conditional(tokens, at)
        if self.p == 1:
            return log_prob  # sums round: the rarest tokens would lie behind 1
        ordered, order = log_prob.sort(dim=-1, descending=True, stable=True)
        mass = ordered.double().exp()
        mass = mass / mass.sum(-1, keepdim=True)
        outside = mass.cumsum(-1) - mass >= self.p
        outside = torch.zeros_like(outside).scatter(-1, order, outside)
        return log_prob.masked_fill(outside, -torch.inf).log_softmax(-1)


def known_ids(tokens: tuple[int, ...], alphabet: Alphabet, what: str) -> None:
    """Raise BadInput where an id lies outside the vocabulary."""
    strange = sorted({t for t in tokens if not 0 <= t < alphabet.size})
    if strange:
        raise BadInput(f"{what} came with the ids {strange}, but the vocabulary has 0 to {alphabet.size - 1}.")


@dataclass(frozen=True)
class Ban(Wrapper):
    """Without the ids in `tokens`, renormalised. One pass.

    Special ids may be banned too (the end token, so that texts stay long). A masked cell that is left with nothing
    raises BadInput; a visible one (it holds a banned token, which was given) is answered with the uniform law over the
    text that is not banned.
    """

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        known_ids(self.tokens, self.alphabet, "a ban")
        text = self.alphabet.size - len(self.alphabet.special | {self.alphabet.mask})
        if len(set(self.tokens) - self.alphabet.special - {self.alphabet.mask}) >= text:
            raise BadInput("a ban came with every id that is text: leave one that may be written.")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        log_prob = self.conditional(tokens, at)
        if not self.tokens:
            return log_prob
        scores = log_prob.index_fill(-1, tokens.new_tensor(sorted(set(self.tokens))), -torch.inf)
        seen = tokens != self.alphabet.mask
        seen = seen if at is None else seen[at]
        if seen.any():
            lost = seen & torch.isneginf(scores.amax(-1))
            scores = torch.where(lost[..., None], self._level(scores), scores)
        return renormalised(
            scores, "ban fewer tokens, and cut outside the ban, as in TopP(Ban(...)), not inside, as in Ban(TopP(...))."
        )

    def _level(self, like: Tensor) -> Tensor:
        """Scores [V] of the uniform law over text that is not banned."""
        never = sorted({*self.tokens, *self.alphabet.special, self.alphabet.mask})
        level = torch.zeros(like.shape[-1], dtype=like.dtype, device=like.device)
        return level.index_fill_(0, torch.tensor(never, device=like.device), -torch.inf)


@dataclass(frozen=True)
class RepetitionPenalty(Wrapper):
    """Log p of ids that the row shows is multiplied by `penalty`, renormalised (Keskar et al. 2019).

    The paper divides scores; on log p, which is never positive, that is a product, and a certain token stays certain.
    Special ids are free. A visible cell's own token does not count as a repetition of itself, only as one of other
    cells: a token is weighed again by the law that it was written by, and the wrapper commutes with `LeaveOneOut`.
    1.2 is usual, 1 changes nothing. One pass.
    """

    penalty: float

    def __post_init__(self) -> None:
        if not 1 <= self.penalty <= LARGEST:
            raise BadInput(
                f"the repetition penalty came as {self.penalty}: it must lie between 1 and {LARGEST:.0f}, such as 1.2."
            )

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        if self.penalty == 1:
            return self.conditional(tokens, at)
        cells = cells_of(tokens, at)
        log_prob = self.conditional(tokens, cells)
        shown = tokens.new_zeros(len(tokens), log_prob.shape[1]).scatter_add(1, tokens, torch.ones_like(tokens))
        free = tokens.new_tensor(sorted(self.alphabet.special | {self.alphabet.mask}))
        shown = shown.index_fill(1, free, 0)
        row, own = torch.nonzero(cells)[:, 0], tokens[cells]
        repeated = (shown > 0)[row].scatter(1, own[:, None], (shown[row, own] > 1)[:, None])
        return shaped(torch.where(repeated, log_prob * self.penalty, log_prob).log_softmax(1), tokens, at)


@dataclass(frozen=True)
class LeaveOneOut(Wrapper):
    """p(x_i | all other visible cells) at visible cells too: each is asked about with its own token masked.

    Passes a row: one for each visible cell asked about (in batches of 64), and one for all of its masked cells
    together, which are answered as they are; samplers count one call. An inner conditional that leaves one out itself
    is asked directly. It goes beneath the other wrappers of this file: that is the same law cell by cell, and `Require`
    can then see all the cells that are redrawn at once.

    uncached, upto: what `given` was called on, and how many cells [B] are settled in `conditional`: masking one of
    those cells would contradict the cache.
    """

    uncached: Conditional | None = None
    upto: Tensor | None = None

    @property
    def visible(self) -> Visible:
        """p(x_i | the rest), the cell's own token unseen."""
        return Visible.LEAVE_ONE_OUT

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        inner = self.conditional
        if inner.visible is Visible.LEAVE_ONE_OUT:
            return inner(tokens, at)
        if isinstance(inner, Wrapper):
            uncached = self.uncached.conditional if isinstance(self.uncached, Wrapper) else None
            beneath = replace(self, conditional=inner.conditional, uncached=uncached)
            return replace(inner, conditional=beneath)(tokens, at)
        cells, blanks = cells_of(tokens, at), tokens == self.alphabet.mask
        parts, places = [], []
        if (cells & blanks).any():
            parts.append(ask(inner, tokens, cells & blanks)[0])
            places.append(torch.nonzero(blanks[cells])[:, 0])
        row, cell = torch.nonzero(cells & ~blanks, as_tuple=True)
        place = torch.nonzero(~blanks[cells])[:, 0]
        settled = torch.zeros_like(row, dtype=torch.bool) if self.upto is None else cell < self.upto[row]
        for source, chosen in ((inner, ~settled), (self.uncached or inner, settled)):
            parts += [left_out(source, tokens, r, c) for r, c in _chunks(row[chosen], cell[chosen])]
            places.append(place[chosen])
        if not parts:
            return tokens.new_zeros(0, self.alphabet.size, dtype=torch.float32)
        return shaped(torch.cat(parts)[torch.cat(places).argsort()], tokens, at)

    def rows(self, index: Tensor) -> Self:
        """The same law for some of the rows."""
        return replace(
            self,
            conditional=self.conditional.rows(index),
            uncached=self.uncached and self.uncached.rows(index),
            upto=None if self.upto is None else self.upto[index],
        )

    def given(self, tokens: Tensor, upto: Tensor) -> Self:
        """The same law; settled cells that are asked about go around the cache."""
        most = upto if self.upto is None else torch.maximum(upto, self.upto)
        return replace(
            self,
            conditional=self.conditional.given(tokens, upto),
            uncached=self.uncached or self.conditional,
            upto=most,
        )


def _chunks(row: Tensor, cell: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(row.split(CHUNK), cell.split(CHUNK))) if len(row) else []


def left_out(conditional: Conditional, tokens: Tensor, row: Tensor, cell: Tensor) -> Tensor:
    """Log p [N, V] at the cells (row [N], cell [N]), each in a copy of its row with that cell masked: N rows."""
    one = torch.arange(tokens.shape[1], device=tokens.device) == cell[:, None]
    return conditional.rows(row)(torch.where(one, conditional.alphabet.mask, tokens[row]), one)
