"""Block diffusion nets: a row in blocks, each of which sees itself and the blocks before it, and nothing behind.

A block's cells see one another both ways, so a block may be masked and filled in any order; blocks follow one another
from left to right (Arriola et al. 2025, arXiv 2503.09573). What a finished block's cells are to later ones never
changes, so their keys and values can be kept: that is the exact cache.

In training a row is read twice in one pass: as it is, and with masks. A masked block sees itself and, of the row as it
is, the blocks before it (section 3.2 there). The heads may have directions (nets/directional.py): a head that looks
right sees the rest of its block.
Shapes: B batch, H heads, L length, C cells that are read now, K keys, E width of a head, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
from transformers.models.modernbert.modeling_modernbert import ModernBertForMaskedLM

from remask.core.errors import BadInput
from remask.nets.convert import seeded
from remask.nets.directional import DirectionalConfig, DirectionalModel, OnDirectionalTrunk
from remask.nets.hf import HuggingFaceNet
from remask.nets.masks import ajar, directional_bias

FAMILY = "remask-modernbert-blocks"
MOST = 256  # cells whose sights are tabled: more are a long prompt, read once
LEAST = 256  # keys before a block in a table of what its cells see


class BlockConfig(DirectionalConfig):
    """DirectionalConfig with the cells of a block, S; the last block of a row may be shorter."""

    model_type = FAMILY
    block: int = 16


class BlockModel(DirectionalModel):
    """The trunk: builds its mask in forward, so no caller can forget it."""

    config: BlockConfig
    config_class = BlockConfig
    _tabled_for: tuple[Any, int, int] | None = None
    _table: tuple[Tensor, Tensor]

    def __init__(self, config: BlockConfig):
        if config.block < 1 or config.time_conditioning:
            raise BadInput(
                f"a block net came with blocks of {config.block} cells and time conditioning "
                f"{config.time_conditioning}: a block has a cell or more, and no net of blocks is told the time."
            )
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **rest: Any,
    ) -> Any:
        """As ModernBertModel's: a cell sees its block and those before; `attention_mask` as DirectionalModel's."""
        source = input_ids if input_ids is not None else rest["inputs_embeds"]
        place = torch.arange(source.shape[1], device=source.device)[None] if position_ids is None else position_ids
        block = place // self.config.block
        sees = block[:, :, None] >= block[:, None, :]
        if attention_mask is not None:
            itself = torch.eye(source.shape[1], dtype=torch.bool, device=source.device)
            keys = attention_mask.bool()
            sees = sees & (keys[:, 0] if keys.ndim == 4 else keys[:, None, :] | itself)
        return self.read(place, place, sees, self.masked(input_ids), input_ids=input_ids, **rest)

    def streams(self, noisy: Tensor, clean: Tensor, attend: Tensor | None = None) -> Tensor:
        """Hidden states [B, L, D] of `noisy` [B, L], whose blocks see those before them in `clean` [B, L].

        attend: [B, L] bool, False where nobody but the cell itself is to see it (padding).
        """
        length = noisy.shape[1]
        place = torch.arange(length, device=noisy.device)
        block = place // self.config.block
        own, before = block[:, None] == block, block[:, None] > block
        sees = torch.cat([torch.cat([own, before], 1), torch.cat([torch.zeros_like(own), own | before], 1)])[None]
        if attend is not None:
            itself = torch.eye(2 * length, dtype=torch.bool, device=noisy.device)
            sees = sees & (attend.repeat(1, 2)[:, None, :] | itself)
        both, twice = torch.cat([noisy, clean], 1), place.repeat(2)[None]
        masked = self.masked(noisy)
        if masked is not None:
            masked = torch.cat([masked, torch.zeros_like(masked)], 1)
        return self.read(twice, twice, sees, masked, input_ids=both)[0][:, :length]

    def read(self, place: Tensor, key_place: Tensor, sees: Tensor, masked: Tensor | None, **rest: Any) -> Any:
        """Cells at `place` [1 or B, C] that see keys at `key_place` [1 or B, K] where `sees` [1 or B, C, K] says so.

        masked: [B, K] bool, keys that nobody but themselves sees in layer 0, or None; of the keys that a cell sees, the
        one at its own place is itself.
        """
        offset = place[:, :, None] - key_place[:, None, :]
        return self.read_seen(self._bias_of(offset, sees), offset != 0, place, masked, **rest)

    def read_seen(self, every: Tensor, others: Tensor, place: Tensor, masked: Tensor | None, **rest: Any) -> Any:
        """The same, of what cells see as a bias `every` [1 or B, H, C, K]; others: [1 or B, C, K] bool, not itself."""
        first, opened = every, self.config.opened
        if masked is not None and opened < 1:
            first = torch.where((masked[:, None, :] & others)[:, None], every + ajar(opened), every)
        return self.layered(every, rest.pop("input_ids", None), place, first_layer_mask=first, **rest)

    def _bias_of(self, offset: Tensor, sees: Tensor) -> Tensor:
        config = self.config
        assert config.head_directions is not None and config.head_slopes is not None
        bias = directional_bias(config.head_directions, config.head_slopes, offset, config.opened).transpose(0, 1)
        return bias.masked_fill(~sees[:, None], -torch.inf)

    def seen(self, first: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`every` and `others` of `count` cells from `first` on, where a block begins, and of all keys up to the last.

        They depend on distances alone, so they are parts of a table, which is made again when it is too small.
        """
        config = self.config
        key = (device, config.opened, config.block, *(config.head_directions or ()), *(config.head_slopes or ()))
        if self._tabled_for is None or self._tabled_for[0] != key:
            self._tabled_for = key, 0, 0
        _, reach, cells = self._tabled_for
        if reach < first or cells < count:
            blocks = -(-max(2 * first, reach, LEAST) // config.block)
            reach, cells = blocks * config.block, max(cells, count, 2 * config.block)
            with torch.inference_mode(False):  # or training could not use what inference kept
                place, key_place = torch.arange(reach, reach + cells), torch.arange(reach + cells)
                offset = (place[:, None] - key_place)[None].to(device)
                sees = (place // config.block)[:, None] >= key_place // config.block
                self._table = self._bias_of(offset, sees[None].to(device)), offset != 0
            self._tabled_for = key, reach, cells
        every, others = self._table
        part = slice(reach - first, reach + count)
        return every[:, :, :count, part], others[:, :count, part]

    def masked(self, tokens: Tensor | None) -> Tensor | None:
        """Which cells hold the mask, where that makes a difference."""
        mask = self.config.mask_token_id
        return tokens.eq(mask) if self.config.skip_masked_keys and mask is not None and tokens is not None else None


class BlockForMaskedLM(OnDirectionalTrunk, ModernBertForMaskedLM):
    """ModernBertForMaskedLM on the trunk of blocks."""

    config_class = BlockConfig
    trunk_class = BlockModel


class BlockNet(HuggingFaceNet):
    """A Net of blocks. Asked as any Net, it reads rows as they are: right where blocks before masks are whole."""

    @property
    def block(self) -> int:
        """Cells of a block, S."""
        return int(self.model.config.block)

    def hidden_in_blocks(self, noisy: Tensor, clean: Tensor, attend: Tensor | None = None) -> Tensor:
        """Hidden states [B, L, D] of `noisy` [B, L], whose blocks see those before them as they are in `clean`.

        attend: [B, L] bool, False = padding.
        """
        return self.model.base_model.streams(noisy, clean, attend)

    def extend(
        self,
        tokens: Tensor,
        first: Tensor | int,
        states: States,
        rows: Tensor | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, C, D] of the cells from `first` [B] on, given what is kept of those before them.

        first: where a block begins; an int for all rows, which costs least, or [B] int64; only: [B, C] bool, for the
        states [N, D] of its N cells alone.
        The keys and values of these cells go into `states`, whose `rows` [B] they are (None: all of them, in order);
        what lay there is overwritten. What lies behind a cell's block is not seen.
        """
        model, count = self.model.base_model, tokens.shape[1]
        masked = model.masked(tokens)
        if isinstance(first, int) and count <= MOST:
            every, others = model.seen(first, count, tokens.device)
            place = torch.arange(first, first + count, device=tokens.device)[None]
            if masked is not None:  # what is kept of a cell was made of its token, not of a mask
                masked = torch.nn.functional.pad(masked, (first, 0))
            kept = states.between(first, first + count, rows)
            return model.read_seen(every, others, place, masked, input_ids=tokens, kept=kept, only=only)[0]
        begin = torch.full((len(tokens),), first, device=tokens.device) if isinstance(first, int) else first
        place = begin[:, None] + torch.arange(count, device=tokens.device)
        kept = states.at(place, rows)
        key_place = torch.arange(kept.keys, device=tokens.device)[None]
        may = (place // self.block)[:, :, None] >= (key_place // self.block)[:, None, :]
        if masked is not None:
            masked = may.new_zeros(len(tokens), kept.keys).scatter(1, place, masked)
        return model.read(place, key_place, may, masked, input_ids=tokens, kept=kept, only=only)[0]


class Store:
    """Room for keys and values of B rows, for every layer [B, K, H, E], made when a layer first writes."""

    def __init__(self, rows: int, keys: int):
        self.rows, self.keys = rows, keys
        self.layers: list[tuple[Tensor, Tensor]] = []

    def of(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a layer; like: [B', H, C, E]."""
        if layer == len(self.layers):
            shape = (self.rows, self.keys, like.shape[1], like.shape[3])
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[layer]


class States(Store):
    """What is kept; which of it is valid is another's to know."""

    _again: tuple[tuple[int, int], _Side] | None = None

    def at(self, place: Tensor, rows: Tensor | None = None) -> _Writing:
        """A cache that writes at `place` [B', C] of `rows` [B'] (None: all of them) and returns whole rows."""
        index = torch.arange(len(place), device=place.device) if rows is None else rows
        return _Writing(self, (index[:, None], place), rows, int(place.max()) + 1)

    def between(self, start: int, stop: int, rows: Tensor | None = None) -> _Writing | _Side:
        """The same for the cells from `start` to `stop` of every row; a block is written so several times in turn."""
        if rows is not None:
            return _Writing(self, (rows, slice(start, stop)), rows, stop)
        if self._again is None or self._again[0] != (start, stop):
            store = Store(self.rows, self.keys)  # not itself: a circle of references would outlive its last user
            store.layers = self.layers
            self._again = (start, stop), _Side(store, start, stop)
        return self._again[1]


class _Writing:
    """See attention.Kept. where: an index of rows and cells; keys: how many a query is shown."""

    def __init__(self, store: Store, where: tuple[Any, Any], rows: Tensor | None, keys: int):
        self.store, self.where, self.keys = store, where, keys
        self.shown = (slice(None) if rows is None else rows, slice(keys))

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write these cells' states; all that lie up to the last of them."""
        found = []
        for store, new in zip(self.store.of(layer, key), (key, value)):
            store[self.where] = new.transpose(1, 2)
            found.append(store[self.shown].transpose(1, 2))
        return found[0], found[1]


class _Side:
    """The same for all rows side by side, from `start` to `stop`: through views, which are made once."""

    def __init__(self, store: Store, start: int, stop: int):
        self.store, self.parts = store, (slice(start, stop), slice(stop))
        self.views: list[tuple[Tensor, ...]] = []  # of a layer: where keys and values go, and all that are shown

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As _Writing's."""
        if layer == len(self.views):
            both = self.store.of(layer, key)
            self.views.append(tuple(store[:, part].transpose(1, 2) for part in self.parts for store in both))
        into_keys, into_values, keys, values = self.views[layer]
        into_keys.copy_(key)
        into_values.copy_(value)
        return keys, values


def in_blocks(net: HuggingFaceNet, block: int, seed: int = 0) -> BlockNet:
    """A net of blocks with the weights of a masked ModernBERT; one that is one already comes back if its blocks agree.

    A plain ModernBERT gets free heads without a slope: what it was, seen block by block. Raises BadInput for another
    family, one that is told the time, or blocks of another size.
    """
    if isinstance(net, BlockNet):
        if net.block != block:
            raise BadInput(f"--block {block} came for a net of blocks of {net.block}: leave it out.")
        return net
    if net.family not in ("modernbert", "remask-modernbert") or getattr(net.model.config, "time_conditioning", False):
        raise BadInput(
            f"a '{net.family}' net cannot be read in blocks: take a masked ModernBERT, as remask train mdlm "
            "leaves one, without --time-conditioning."
        )
    config = net.model.config
    if "sliding_attention" in config.layer_types:
        raise BadInput("a net with sliding windows cannot be read in blocks: take one whose layers attend globally.")
    own = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    if net.family == "modernbert":
        from remask.nets.directional import no_directions

        own |= no_directions(config.num_attention_heads)
    with seeded(seed):
        model = BlockForMaskedLM(BlockConfig(**own, block=block))
    model.load_state_dict(net.model.state_dict())
    model.tie_weights()
    return BlockNet(model.train(net.training))


def register() -> None:
    """Let transformers' Auto classes open these checkpoints."""
    AutoConfig.register(FAMILY, BlockConfig, exist_ok=True)
    AutoModel.register(BlockConfig, BlockModel, exist_ok=True)
    AutoModelForMaskedLM.register(BlockConfig, BlockForMaskedLM, exist_ok=True)


register()
