"""p(x_i | the visible rest of its block, and the blocks before it) of a net of blocks, with the exact cache.

What is kept of a row is the keys and values of its settled blocks, as `given` names them. A block that was finished by
the last call has none yet, since its cells held masks then: its clean pass is merged into the next call, which reads
the finished block and the new one together. So a block filled in k steps costs k calls.
A state that is kept is used only where the tokens that it was made of still stand before it, so a conditional asked
about other texts is right all the same.
Shapes: B rows, L length, N cells asked for, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.nets.blockwise import BlockNet, States


@dataclass
class Held:
    """What is kept of rows. tokens: [B, K] int64, those that states were made of; sizes: [B] int64, how many."""

    states: States | None = None
    tokens: Tensor | None = None
    sizes: Tensor | None = None

    def fit(self, rows: int, cells: int, device: torch.device) -> None:
        """Make room; what was kept is forgotten where there was too little."""
        if self.states is None or self.states.rows < rows or self.states.keys < cells:
            self.states = States(rows, cells)
            self.tokens = torch.full((rows, cells), -1, device=device)
            self.sizes = torch.zeros(rows, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class BlockConditional:
    """The law of a net of blocks.

    cache: whether to keep states; index: [B] int64, rows of the first conditional; leading: those are its first ones,
    in order.
    """

    net: BlockNet
    alphabet: Alphabet
    cache: bool = True
    held: Held = field(default_factory=Held)
    index: Tensor | None = None
    leading: bool = True
    upto: Tensor | None = None
    visible: Visible = Visible.DENOISE

    @property
    def block(self) -> int:
        """Cells of a block."""
        return self.net.block

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`; the mask id has -inf."""
        if at is None:
            hidden = self.net.hidden(tokens)
            return self.net.log_probs(hidden.flatten(0, 1), self.alphabet.mask).view(*tokens.shape, -1)
        if not bool(at.any()):
            return torch.zeros(0, self.alphabet.size, device=tokens.device)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(at, place, -1).amax(1)
        width = min(int(last.max()) // self.block * self.block + self.block, tokens.shape[1])
        if self.upto is None or not self.cache:  # nothing behind the last block that is asked about matters
            hidden = self.net.hidden(tokens[:, :width])[at[:, :width]]
        else:
            hidden = self._extended(tokens, at, last, width)
        return self.net.log_probs(hidden, self.alphabet.mask)

    def _extended(self, tokens: Tensor, at: Tensor, last: Tensor, width: int) -> Tensor:
        """Hidden states of the cells asked for, [N, D]: what is not kept of each row is read, up to its last block."""
        held, block, device, length = self.held, self.block, tokens.device, tokens.shape[1]
        rows = torch.arange(len(tokens), device=device) if self.index is None else self.index
        held.fit(int(rows.max()) + 1, 2 * length + block, device)
        assert held.states is not None and held.tokens is not None and held.sizes is not None and self.upto is not None
        every = self.leading and len(rows) == held.states.rows
        place = torch.arange(length, device=device)
        seen, sizes = (held.tokens, held.sizes) if every else (held.tokens[rows], held.sizes[rows])
        use = seen[:, :length].eq(tokens) & (place < sizes[:, None]) & ~at
        first = torch.where(use, width, place).amin(1) // block * block  # from the first cell that is of no use
        end = (last // block * block + block).clamp(max=length)
        whole = None if every else rows
        begin, count = int(first.min()), int((end - first).max())
        if begin == int(first.max()):  # as rows that are filled side by side are
            part = slice(begin, begin + count)
            hidden = self.net.extend(tokens[:, part], begin, held.states, whole, at[:, part])
        else:
            cells = first[:, None] + torch.arange(count, device=device)
            inside, cells = cells < length, cells.clamp(max=length - 1)
            fed = tokens.gather(1, cells).masked_fill(~inside, self.alphabet.mask)
            hidden = self.net.extend(fed, first, held.states, whole, at.gather(1, cells) & inside)
        settled = torch.where(self.upto >= length, end, torch.minimum(self.upto // block * block, end))
        held.sizes[rows] = torch.maximum(settled, first)
        held.tokens[rows, :length] = tokens
        return hidden

    def rows(self, index: Tensor) -> BlockConditional:
        """Some of the rows; rows that repeat are kept apart."""
        upto = None if self.upto is None else self.upto[index]
        if len(index) != len(index.unique()):
            return replace(self, held=Held(), index=None, leading=True, upto=upto)
        whole = index if self.index is None else self.index[index]
        leading = bool((whole == torch.arange(len(whole), device=whole.device)).all())
        return replace(self, index=whole, leading=leading, upto=upto)

    def given(self, tokens: Tensor, upto: Tensor) -> BlockConditional:
        """The same law with the cells before `upto` [B] settled: the states of their whole blocks are kept."""
        del tokens  # kept with the states, and compared when they are used
        return replace(self, upto=upto) if self.cache else self


def need_blocks(net: object) -> BlockNet:
    """The net, if it is one of blocks; BadInput for others, whose states change with every token that falls."""
    if not isinstance(net, BlockNet):
        raise BadInput(
            "an exact cache was asked of a net whose cells see text behind them, so that every token changes all "
            "states: train with remask train block_diffusion, or leave the cache out."
        )
    return net
