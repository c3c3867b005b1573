"""Required ids: every finished canvas holds them, whoever samples. And bans and requirements together: restrict.

As hard lexical constraints on left-to-right models are (Hokamp & Liu 2017, arXiv 1704.07138), but with no search: a
masked model knows at every step where a missing word is most probable, so that cell is kept for it.
Shapes: B batch, L length, V vocabulary, N cells asked for, D different required ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.nets.wrap import Ban, Wrapper, cells_of, known_ids, renormalised, shaped

LEAST = -1e5  # in place of log p = -inf, since a cell must be found all the same
FAR = 1e6  # more than any log p: cells behind an end token come last


@dataclass(frozen=True)
class Require(Wrapper):
    """Every finished canvas holds each id in `tokens` (an id that stands there twice: twice).

    Ids that a row does not show yet are missing. Each has a masked cell reserved: of all pairs (missing id, masked
    cell) the one with the highest log p first, and so on. A reserved cell is answered with its id and nothing else,
    always and not only when blanks run out: the id falls where it is most probable, and the text around it is written
    with it in view, instead of at whatever cells happen to be opened last. A visible cell keeps a required id that the
    row cannot spare (the first ones in the row). So whichever of the cells asked about are written or masked again,
    never more ids are missing than cells are masked, and a canvas without masks holds them all.

    Text behind an end token is not read: the end token may only be written behind all of the ids, and ids are missing
    that stand behind it only, as long as there is room before it (an end token that is given may leave none). End
    tokens that a row begins with end nothing.

    The law is not that of canvases conditioned on holding the ids: that would need the probability that an id still
    comes by itself. Where cells are chosen by certainty, reserved ones are certain and fall first. Masks that are
    frozen count as blanks, so there must be none. A sampler that begins with random text instead of masks finds no room
    for what is missing and is refused (BadInput), not left to chance. In a sliding window, ids that it no longer shows
    are missing again.

    One pass; in rows where ids are missing it is asked about all masked cells. Wrap it around bans and inside cuts:
    where a cut leaves an id no chance, all cells are alike to it and the first masked one is taken.
    """

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        known_ids(self.tokens, self.alphabet, "required tokens")
        special = sorted(set(self.tokens) & (self.alphabet.special | {self.alphabet.mask}))
        if special:
            raise BadInput(f"required tokens came with the special ids {special}: only text can be required.")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]. Raises BadInput where more ids are missing from a row than it has masks."""
        if not self.tokens:
            return self.conditional(tokens, at)
        counts = sorted(Counter(self.tokens).items())
        ids, wanted = tokens.new_tensor([t for t, _ in counts]), tokens.new_tensor([n for _, n in counts])
        cells, blanks = cells_of(tokens, at), tokens == self.alphabet.mask
        here = (tokens[:, :, None] == ids).long()  # [B, L, D]
        read = self._read(tokens)
        missing = (wanted - (here * read[:, :, None]).sum(1)).clamp(min=0)
        fits = missing.sum(1) <= (blanks & read).sum(1)
        missing = torch.where(fits[:, None], missing, (wanted - here.sum(1)).clamp(min=0))
        _check_room(missing.sum(1), blanks.sum(1), cells.any(1))
        needy = cells.any(1) & missing.any(1)
        wide = cells | (blanks & needy[:, None])
        log_prob = self.conditional(tokens, wide)
        before = here.cumsum(1) - here
        must = torch.where(((here > 0) & (before < wanted)).any(2), tokens, -1)  # kept: the row cannot spare them
        if needy.any():
            chance = torch.zeros(here.shape, dtype=torch.float64, device=tokens.device)
            chance[wide] = log_prob[:, ids].double().clamp(min=LEAST)
            chance = torch.where(blanks[:, :, None], chance - FAR * (~read).double()[:, :, None], -torch.inf)
            must = torch.where(blanks, reserved(chance, missing, ids), must)
            log_prob = log_prob[cells[wide]]
        unmet = (before < wanted).any(2) & (must < 0)
        return shaped(only(self._end_later(log_prob, tokens[cells], unmet[cells]), must[cells]), tokens, at)

    def _read(self, tokens: Tensor) -> Tensor:
        """The cells before the first end token that ends something, [B, L] bool."""
        if self.alphabet.end is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        end = (tokens == self.alphabet.end).long()
        return (end - end.cumprod(1)).cumsum(1) == 0

    def _end_later(self, log_prob: Tensor, own: Tensor, unmet: Tensor) -> Tensor:
        """No end token in cells [N] that have required ids still to come, unless it stands there already."""
        end = self.alphabet.end
        if end is None:
            return log_prob
        early = unmet & (own != end) & (log_prob[:, end] > -torch.inf)
        if not early.any():
            return log_prob
        without = log_prob.index_fill(1, own.new_tensor([end]), -torch.inf)
        return renormalised(
            torch.where(early[:, None], without, log_prob),
            "the end token must wait for the required ones; put cuts around Require, as in TopK(Require(...)).",
        )


def _check_room(missing: Tensor, blanks: Tensor, asked: Tensor) -> None:
    """Raise BadInput where a row that is asked about has more missing ids [B] than blanks [B]."""
    bad = torch.nonzero(asked & (missing > blanks))[:, 0]
    if len(bad):
        lack, room = int(missing[bad[0]]), int(blanks[bad[0]])
        raise BadInput(
            f"required tokens missing from a row: {lack}, but its blanks are {room}: leave more cells open, require "
            f"fewer tokens, or take a sampler that begins with masks and not with a draft or with random text."
        )


def reserved(chance: Tensor, missing: Tensor, ids: Tensor) -> Tensor:
    """A cell for every missing id, greedily by the highest of `chance` [B, L, D]: ids [B, L], -1 where none is.

    missing: [B, D], how often each id is; ids: [D]. Of equal chances the first cell, then the lower id. -inf = never.
    """
    rows, kinds = torch.arange(len(chance), device=chance.device), len(ids)
    place = torch.full(chance.shape[:2], -1, dtype=torch.int64, device=chance.device)
    for _ in range(int(missing.sum(1).max())):
        chance = torch.where((missing > 0)[:, None, :], chance, -torch.inf)
        best = chance.flatten(1).amax(1)
        pair = chance.flatten(1).argmax(1)  # of equal ones the first, which max does not promise
        cell, kind = pair // kinds, pair % kinds
        found = best > -torch.inf
        place[rows, cell] = torch.where(found, ids[kind], place[rows, cell])
        missing = missing.scatter_add(1, kind[:, None], -found.long()[:, None])
        chance[rows, cell] = -torch.inf
    return place


def only(log_prob: Tensor, must: Tensor) -> Tensor:
    """Log p [N, V] with all mass on `must` [N] where that is an id and not -1."""
    fixed = must >= 0
    if not fixed.any():
        return log_prob
    point = torch.full_like(log_prob, -torch.inf).scatter(1, must.clamp(min=0)[:, None], 0.0)
    return torch.where(fixed[:, None], point, log_prob)


def restrict(conditional: Conditional, banned: tuple[int, ...] = (), required: tuple[int, ...] = ()) -> Conditional:
    """`Require` around `Ban`. Raises BadInput where an id is both."""
    both = sorted(set(banned) & set(required))
    if both:
        raise BadInput(f"required tokens that are also banned: the ids {both}; take them out of one of the lists.")
    if banned:
        conditional = Ban(conditional, tuple(banned))
    return Require(conditional, tuple(required)) if required else conditional
