"""An approximate cache for plain bidirectional nets: states outside a block stand still while the block is filled.

Where every cell sees every other, each token that falls changes all states, so no cache is exact but in nets of blocks
(nets/block_conditional.py). Fast-dLLM (Wu et al. 2025, arXiv 2505.22618) keeps them all the same: the first call of a
block reads the whole canvas and keeps the keys and values of all cells; the others read the block against what is kept
of the cells around it (`dual`), or all cells from the block on against what is kept of those before it (`prefix`). So
the first call of a block is exact, later ones are not, and texts have a law that nobody wrote down: HEURISTIC, whatever
the sampler promises.

What is kept is used only while the canvas is the one that was read with some masks of the block filled, or masked
again; a canvas that differs elsewhere is read anew. So an answer is exact, or made of states of this very canvas.
Rows with no settled cell are always read whole: alone, they would be asked without `given`.
Shapes: B rows, R rows of the first conditional, L length, C cells that are read, N cells asked for, H heads, E width of
a head, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.modernbert.modeling_modernbert import ModernBertModel

from remask.core.alphabet import Alphabet
from remask.core.conditional import Conditional, Visible
from remask.core.errors import BadInput, UnknownName
from remask.core.sampler import Law
from remask.nets.attention import Kept
from remask.nets.directional import DirectionalModel
from remask.nets.hf import HuggingFaceNet
from remask.nets.masks import ajar, directional_bias
from remask.nets.time import masked_share

FAMILIES = ("modernbert", "remask-modernbert")
KINDS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "prefix": lambda first, size, length: torch.full_like(first, length),
    "dual": lambda first, size, length: (first + size).clamp(max=length),
}
"""(first cell of the block [B], its size, L) -> where the cells that every call reads end, [B]."""


@dataclass
class Held:
    """What is kept of R rows, each of L cells.

    tokens: [R, L] int64, the canvas that was read whole; first: [R] int64, the first cell of the block that it was read
    for, -1 where nothing is kept; layers: keys and values [R, L + 1, H, E], the last cell of which is waste paper.
    """

    tokens: Tensor | None = None
    first: Tensor | None = None
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def fit(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for so many rows of the length of `like` [B, L]; other lengths are forgotten. Returns tokens, first."""
        if self.tokens is None or self.first is None or self.tokens.shape[1] != like.shape[1]:
            self.tokens = like.new_full((rows, like.shape[1]), -1)
            self.first, self.layers = like.new_full((rows,), -1), []
        more = rows - len(self.first)
        if more > 0:  # what is kept of other rows stays, or their texts would depend on who joins them
            self.tokens = torch.cat([self.tokens, self.tokens.new_full((more, like.shape[1]), -1)])
            self.first = torch.cat([self.first, self.first.new_full((more,), -1)])
            self.layers = [(_longer(keys, more), _longer(values, more)) for keys, values in self.layers]
        return self.tokens, self.first

    def whole(self, rows: Tensor) -> Kept:
        """For a pass over whole rows [B]: their states are kept, and seen as they are."""

        def exchange(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            for store, new in zip(self._layer(layer, key), (key, value)):
                store[rows, :-1] = new.transpose(1, 2)
            return key, value

        return exchange

    def part(self, rows: Tensor, place: Tensor) -> Kept:
        """For a pass over the cells at `place` [B, C] (L: no cell) of rows [B]: theirs are put among those kept."""
        assert self.first is not None
        every = len(rows) == len(self.first) and bool((rows[1:] > rows[:-1]).all())

        def exchange(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            found = []
            for store, new in zip(self._layer(layer, key), (key, value)):
                store[rows[:, None], place] = new.transpose(1, 2)
                found.append((store if every else store[rows])[:, :-1].transpose(1, 2))
            return found[0], found[1]

        return exchange

    def _layer(self, layer: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """Where the keys and values of a layer lie; `key` [B, H, C, E] says of what shape they are."""
        assert self.tokens is not None
        if layer == len(self.layers):
            shape = (len(self.tokens), self.tokens.shape[1] + 1, key.shape[1], key.shape[3])
            self.layers.append((key.new_zeros(shape), key.new_zeros(shape)))
        return self.layers[layer]


def _longer(store: Tensor, rows: int) -> Tensor:
    return torch.cat([store, store.new_zeros(rows, *store.shape[1:])])


@dataclass(frozen=True)
class ApproximateCache:
    """The law of a plain masked net at the beginning of a block, and about that inside it. For the sampler Blocks.

    size: cells of a block, the sampler's; kind: `prefix` or `dual`; index: [B] int64, rows of the first conditional;
    upto: [B] int64, settled cells: the block begins behind them. Raises BadInput for nets that it cannot be right for.
    """

    net: HuggingFaceNet
    alphabet: Alphabet
    size: int = 32
    kind: str = "dual"
    held: Held = field(default_factory=Held, repr=False)
    index: Tensor | None = None
    upto: Tensor | None = None
    visible: Visible = Visible.DENOISE
    law = Law.HEURISTIC  # no field: nothing makes it another

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("cache", self.kind, KINDS)
        if self.size < 1:
            raise BadInput(f"a cache came with blocks of {self.size} cells: type 1 or more, the size of the sampler's.")
        need_plain(self.net)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`; the mask id has -inf."""
        if at is None:
            hidden = self.net.hidden(tokens)
            return self.net.log_probs(hidden.flatten(0, 1), self.alphabet.mask).view(*tokens.shape, -1)
        if not bool(at.any()):
            return torch.zeros(0, self.alphabet.size, device=tokens.device)
        hidden = self.net.hidden(tokens)[at] if self.upto is None else self._hidden(tokens, at, self.upto)
        return self.net.log_probs(hidden, self.alphabet.mask)

    def _hidden(self, tokens: Tensor, at: Tensor, upto: Tensor) -> Tensor:
        """Hidden states of the cells asked for, [N, D]; rows that are asked nothing are not read."""
        rows = torch.arange(len(tokens), device=tokens.device) if self.index is None else self.index
        self.held.fit(int(rows.max()) + 1, tokens)
        asked = at.any(1)
        stale = asked & self._stale(tokens, at, rows, upto)
        owner = torch.nonzero(at)[:, 0]
        found: Tensor | None = None
        for chosen, read in ((stale, self._anew), (asked & ~stale, self._inside)):
            some = torch.nonzero(chosen)[:, 0]
            if len(some):
                part = read(tokens[some], at[some], rows[some], upto[some])
                found = part.new_empty(len(owner), part.shape[1]) if found is None else found
                found[chosen[owner]] = part
        assert found is not None
        return found

    def _stale(self, tokens: Tensor, at: Tensor, rows: Tensor, upto: Tensor) -> Tensor:
        """Rows that must be read whole, [B] bool: at a new block, on another canvas, or asked about other cells."""
        before, first = self.held.fit(0, tokens)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (place >= upto[:, None]) & (place < (upto + self.size)[:, None])
        open_then = inside & (before[rows] == self.alphabet.mask)
        same = ((tokens == before[rows]) | open_then).all(1) & (first[rows] == upto)
        return ~same | (at & ~inside).any(1) | (upto == 0)

    def _anew(self, tokens: Tensor, at: Tensor, rows: Tensor, upto: Tensor) -> Tensor:
        """Read whole rows and keep their states, [N, D]."""
        before, first = self.held.fit(0, tokens)
        model = self.net.model.base_model
        masks = None if isinstance(model, DirectionalModel) else {"full_attention": None}
        hidden = model(input_ids=tokens, attention_mask=masks, kept=self.held.whole(rows))[0]
        before[rows], first[rows] = tokens, upto
        return hidden[at]

    def _inside(self, tokens: Tensor, at: Tensor, rows: Tensor, upto: Tensor) -> Tensor:
        """Read the block, or all from it on, against what is kept of the rest, [N, D]."""
        length = tokens.shape[1]
        end = KINDS[self.kind](upto, self.size, length)
        cells = upto[:, None] + torch.arange(int((end - upto).max()), device=tokens.device)
        real = cells < end[:, None]
        place = torch.where(real, cells, 0)  # rows that end earlier read cell 0 besides, and keep nothing of it
        kept = self.held.part(rows, torch.where(real, cells, length))
        return read_part(self.net.model.base_model, tokens, place, kept)[at.gather(1, place) & real]

    def rows(self, index: Tensor) -> ApproximateCache:
        """Some of the rows; rows that repeat are kept apart."""
        upto = None if self.upto is None else self.upto[index]
        if len(index) != len(index.unique()):
            return replace(self, held=Held(), index=None, upto=upto)
        return replace(self, index=index if self.index is None else self.index[index], upto=upto)

    def given(self, tokens: Tensor, upto: Tensor) -> ApproximateCache:
        """The same with the cells before `upto` [B] settled: the block begins there."""
        del tokens  # compared with those kept when they are asked about
        return replace(self, upto=upto)


def read_part(model: Any, tokens: Tensor, place: Tensor, kept: Kept) -> Tensor:
    """Hidden states [B, C, D] of the cells of `tokens` [B, L] at `place` [B, C], which see all L through `kept`.

    model: a ModernBertModel whose layers are all global, or a DirectionalModel.
    """
    fed: dict[str, Tensor] = {"input_ids": tokens.gather(1, place)}
    if len(place) > 1 and bool((place == place[:1]).all()):
        place = place[:1]  # one bias for all rows
    if not isinstance(model, DirectionalModel):
        return ModernBertModel.forward(
            model, attention_mask={"full_attention": None}, position_ids=place, kept=kept, **fed
        )[0]
    config, mask = model.config, model.config.mask_token_id
    assert config.head_directions is not None and config.head_slopes is not None
    offset = place[:, :, None] - torch.arange(tokens.shape[1], device=tokens.device)
    every = directional_bias(config.head_directions, config.head_slopes, offset, config.opened).transpose(0, 1)
    first = every
    masked = torch.zeros_like(tokens, dtype=torch.bool) if mask is None else tokens.eq(mask)
    if config.skip_masked_keys and config.opened < 1:
        hidden = masked[:, None, :] & (offset != 0)
        first = torch.where(hidden[:, None], every + ajar(config.opened), every)
    if config.time_conditioning:  # the share of masks on the canvas as it is now
        share = masked_share(masked)[:, :1].expand(fed["input_ids"].shape)
        fed = {"inputs_embeds": model.embeddings.tok_embeddings(fed["input_ids"]) + model.time(share)}
    return model.layered(every, fed.pop("input_ids", None), place, first_layer_mask=first, kept=kept, **fed)[0]


def need_plain(net: object) -> HuggingFaceNet:
    """The net, if states of its cells can be kept and shown to others; BadInput for one of another kind."""
    family = getattr(net, "family", type(net).__name__)
    if hasattr(net, "block"):
        raise BadInput("an approximate cache was asked of a net of blocks, which has an exact one: type --cache exact.")
    if not isinstance(net, HuggingFaceNet) or family not in FAMILIES:
        raise BadInput(
            f"an approximate cache was asked of a '{family}' net: take a masked {' or '.join(FAMILIES)}, or leave the "
            "cache out."
        )
    if "sliding_attention" in net.model.config.layer_types:
        raise BadInput(
            "an approximate cache was asked of a net with sliding windows: take one whose layers attend globally, or "
            "leave the cache out."
        )
    return net


def promised(law: Law, conditional: Conditional) -> Law:
    """What is left of a sampler's promise: HEURISTIC where a cache in the conditional is approximate."""
    if getattr(conditional, "law", None) is Law.HEURISTIC:
        return Law.HEURISTIC
    parts = getattr(conditional, "__dict__", {}).values()
    inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    laws = [promised(law, one) for one in inner if hasattr(one, "given") and hasattr(one, "rows")]
    return Law.HEURISTIC if Law.HEURISTIC in laws else law
