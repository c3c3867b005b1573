"""Net: tokens to hidden states to logits, with the head applied only where it is asked for.

Shapes: B batch, L length, S source length, D width, V vocabulary, N cells, K candidates, M longest target.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Net(Protocol):
    """A torch module with these methods; the full [B, L, V] is never built in training."""

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, L, D].

        tokens, positions, documents: [B, L] int64; attention never crosses from one document to another.
        attend: [B, L] bool, False where a key must not be seen (padding).
        sees: [B or 1, L, L] bool, which keys each query may see, where that is less than all; not every family can.
        """
        ...

    def logits(self, hidden_at: Tensor) -> Tensor:
        """[N, D] -> [N, V]."""
        ...

    def nll(self, hidden_at: Tensor, targets: Tensor, ban: int | None = None) -> Tensor:
        """-log p of the targets, [N, D] and [N] -> [N], nats, float32, never holding [N, V] whole.

        ban: an id whose probability is zero (the mask, for laws over texts).
        """
        ...

    def total_nll(self, hidden_at: Tensor, targets: Tensor, weight: Tensor, ban: int | None = None) -> Tensor:
        """Sum of weight [N] times -log p [N]: a scalar, gradients computed in the forward pass, the fast path."""
        ...

    def total_nll_and_draw(
        self,
        hidden_at: Tensor,
        targets: Tensor,
        weight: Tensor,
        uniform: Tensor,
        ban: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """`total_nll`, and one token [N] drawn from each distribution with uniform [N], in one pass, no gradient."""
        ...

    def log_prob(self, hidden_at: Tensor, candidates: Tensor, ban: int | None = None) -> Tensor:
        """Log p of candidate ids, [N, D] and [N, K] -> [N, K]."""
        ...


class Reading(Net, Protocol):
    """A Net that has closed over its sources: what an encoder-decoder is once it has read them."""

    def rows(self, index: Tensor) -> Reading:
        """Keep or repeat sources; `index`: int64 [B']."""
        ...

    def length_log_prob(self) -> Tensor:
        """Log p of the targets' lengths 1..M, [B, M], float32."""
        ...

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        """Log p of every id, [N, D] -> [N, V]."""
        ...


class EncoderDecoder(Protocol):
    """A torch module that reads sources and answers about targets."""

    @property
    def causal(self) -> bool:
        """Whether a target's cell sees nothing after it."""
        ...

    def read(self, source: Tensor, attend: Tensor) -> Reading:
        """Encode sources once, [B, S] int64 and [B, S] bool (False = padding)."""
        ...
