"""Scoring: a head applied to a few cells, whatever trunk and family it sits on.

Shapes: N cells, D width, V vocabulary, K candidates.
"""

from __future__ import annotations

from torch import Tensor

from remask.nets import cross_entropy
from remask.nets.heads import Head, linear_scores


class Scoring:
    """The half of a Net that turns hidden states into probabilities; whoever takes it in has a `head`."""

    @property
    def head(self) -> Head:
        """The transform, the output matrix and its bias."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        """Ids that the output layer has, V."""
        return int(self.head.weight.shape[0])

    def logits(self, hidden_at: Tensor) -> Tensor:
        """[N, D] -> [N, V], the model's own logits."""
        return linear_scores(self.head, hidden_at)

    def nll(self, hidden_at: Tensor, targets: Tensor, ban: int | None = None) -> Tensor:
        """-log p of the targets, [N, D] and [N] -> [N], nats."""
        head = self.head
        return cross_entropy.nll(head.transform(hidden_at), head.weight, head.bias, targets, ban)

    def total_nll(self, hidden_at: Tensor, targets: Tensor, weight: Tensor, ban: int | None = None) -> Tensor:
        """Sum of weight [N] times -log p [N], a float64 scalar."""
        head = self.head
        return cross_entropy.total_nll(head.transform(hidden_at), head.weight, head.bias, targets, weight, ban)

    def total_nll_and_draw(
        self,
        hidden_at: Tensor,
        targets: Tensor,
        weight: Tensor,
        uniform: Tensor,
        ban: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """`total_nll`, and one token [N] drawn from each distribution, in one pass over the vocabulary."""
        head = self.head
        return cross_entropy.total_nll_and_draw(
            head.transform(hidden_at), head.weight, head.bias, targets, weight, uniform, ban, temperature
        )

    def log_prob(self, hidden_at: Tensor, candidates: Tensor, ban: int | None = None) -> Tensor:
        """Log p of candidate ids, [N, D] and [N, K] -> [N, K]."""
        return self.log_probs(hidden_at, ban).gather(1, candidates)

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        """Log p of every id, [N, D] -> [N, V], float32 (float64 for float64 nets)."""
        head = self.head
        return cross_entropy.scores(head.transform(hidden_at), head.weight, head.bias, ban).log_softmax(1)
