"""Certainty: how sure a conditional is of a cell, as one number. Higher is surer.

    top_probability   p of the most probable token (Chang et al. 2022, arXiv 2202.04200)
    margin            p of the best minus p of the second (Kim et al. 2025, arXiv 2502.06768)
    entropy           minus the entropy, in nats
    drawn             p of the token that was drawn (Nie et al. 2025, arXiv 2502.09992: low-confidence remasking)

Shapes: N cells, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Certainty = Callable[[Tensor, Tensor], Tensor]
"""log p [N, V] and drawn tokens [N] to certainties [N], float64."""


def top_probability(log_prob: Tensor, drawn: Tensor) -> Tensor:
    """Log p of the best token."""
    del drawn
    return log_prob.amax(1).double()


def margin(log_prob: Tensor, drawn: Tensor) -> Tensor:
    """p of the best token minus p of the second."""
    del drawn
    best = log_prob.topk(2, dim=1).values.double().exp()
    return best[:, 0] - best[:, 1]


def entropy(log_prob: Tensor, drawn: Tensor | None = None) -> Tensor:
    """Minus the entropy, nats; log p must be normalised."""
    del drawn
    log_prob = log_prob.double()
    return torch.where(log_prob > -torch.inf, log_prob.exp() * log_prob, 0.0).sum(1)


def drawn(log_prob: Tensor, drawn: Tensor) -> Tensor:
    """Log p of the drawn token."""
    return log_prob.gather(1, drawn[:, None])[:, 0].double()


CERTAINTIES: dict[str, Certainty] = {
    "top_probability": top_probability,
    "margin": margin,
    "entropy": entropy,
    "drawn": drawn,
}
