"""What an encoder-decoder knows once it has read its sources: a Net that answers about targets.

Keys and values for cross-attention are computed once a source, so every further pass costs the decoder alone.
Shapes: B batch, S source length, L target length, D width, H heads, E width of a head, M longest target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput


class Memory(NamedTuple):
    """What is left of sources.

    keys, values: a tensor [B, H, S, E] for every decoder layer; attend: [B, S] bool, False = padding; summary: [B, D],
    what the length is read off.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    attend: Tensor
    summary: Tensor

    def rows(self, index: Tensor) -> Memory:
        """Keep or repeat sources."""
        keys, values = (tuple(x[index] for x in layers) for layers in (self.keys, self.values))
        return Memory(keys, values, self.attend[index], self.summary[index])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each source, its end token not counted, [B]."""
        return self.attend.sum(1) - 1


class Guide(NamedTuple):
    """Where a target's cells stand and look: what every pass over it needs, and none changes.

    places: [1 or B, L, D], added to what the cells read; cross: the bias of cross-attention [B, H, L, S].
    """

    places: Tensor
    cross: Tensor


class Past(NamedTuple):
    """Keys and values of cells already written, for every layer [B, H, L, E]: what left-to-right decoding keeps."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def rows(self, index: Tensor) -> Past:
        """Keep or repeat rows."""
        return Past(*(tuple(x[index] for x in layers) for layers in self))


@dataclass(frozen=True)
class Reading:
    """A Net over targets, given sources.

    net: an encoder-decoder with `decode` and `length_head`, and a head (nets/scoring.py); memory: of the sources. From
    a net that has a `guide`, it is kept for as long as the same targets are asked about and no gradient is wanted.
    """

    net: Any
    memory: Memory
    _guides: dict[Tensor | int, Guide | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of targets, [B, L, D]; one target a row, from its first cell on."""
        if documents is not None or positions is not None:
            raise BadInput("targets stand one to a row and begin at its first cell: leave out documents and positions.")
        known = {}
        if not torch.is_grad_enabled() and hasattr(self.net, "guide"):
            known["guide"] = self._guide(tokens.shape[1], attend)
        return self.net.decode(tokens, self.memory, attend=attend, sees=sees, **known)

    def _guide(self, length: int, attend: Tensor | None) -> Guide | None:
        """That of targets with these cells; one is kept."""
        cells = length if attend is None else attend  # tensors are told apart by what they are, not what they hold
        if cells not in self._guides:
            self._guides.clear()
            self._guides[cells] = self.net.guide(self.memory, length, attend)
        return self._guides[cells]

    def rows(self, index: Tensor) -> Reading:
        """Keep or repeat sources."""
        return Reading(self.net, self.memory.rows(index))

    def length_log_prob(self) -> Tensor:
        """Log p of the targets' lengths 1..M, [B, M] float32."""
        return self.net.length_head(self.memory.summary, self.memory.lengths)

    def logits(self, hidden_at: Tensor) -> Tensor:
        """[N, D] -> [N, V]."""
        return self.net.logits(hidden_at)

    def nll(self, hidden_at: Tensor, targets: Tensor, ban: int | None = None) -> Tensor:
        """-log p of the targets, [N, D] and [N] -> [N], nats."""
        return self.net.nll(hidden_at, targets, ban)

    def total_nll(self, hidden_at: Tensor, targets: Tensor, weight: Tensor, ban: int | None = None) -> Tensor:
        """Sum of weight [N] times -log p [N]."""
        return self.net.total_nll(hidden_at, targets, weight, ban)

    def total_nll_and_draw(
        self,
        hidden_at: Tensor,
        targets: Tensor,
        weight: Tensor,
        uniform: Tensor,
        ban: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """`total_nll`, and one token [N] drawn from each distribution."""
        return self.net.total_nll_and_draw(hidden_at, targets, weight, uniform, ban, temperature)

    def log_prob(self, hidden_at: Tensor, candidates: Tensor, ban: int | None = None) -> Tensor:
        """Log p of candidate ids, [N, D] and [N, K] -> [N, K]."""
        return self.net.log_prob(hidden_at, candidates, ban)

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        """Log p of every id, [N, D] -> [N, V]."""
        return self.net.log_probs(hidden_at, ban)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """[1, queries, keys] bool: each of the last `queries` cells sees itself and what lies before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None]
