"""Autoregressive: the same trunk, causal, learning p(x_i | x_<i). The baseline that every frontier needs.

Factorises p(x) = prod_i p(x_i | x_<i) (Shannon 1951; Radford et al. 2018). The end token opens every document, so that
all L tokens of a row are predicted and the sum is the exact -log p of the row, comparable with a masked model's bound.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.documents import starts
from remask.core.errors import BadInput
from remask.core.net import Net
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Stream


def shifted(tokens: Tensor, documents: Tensor, end: int | None) -> Tensor:
    """What a causal net sees: the token before, and the end token where a document (or the row) begins, [B, L]."""
    if end is None:
        raise BadInput("the autoregressive objective opens every text with the end token, and this tokenizer has none.")
    return torch.where(starts(documents), end, tokens.roll(1, dims=1))


@dataclass(frozen=True)
class Autoregressive:
    """Left to right (the baseline): predict every token from the ones before it; the likelihood is exact."""

    causal = True
    law = "exact"
    bounds = True
    writes = True

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Shift right; nothing random."""
        del stream
        return Question(
            tokens=shifted(batch.tokens, batch.documents, batch.alphabet.end),
            targets=batch.tokens,
            at=torch.ones_like(batch.tokens, dtype=torch.bool),
            weight=torch.ones_like(batch.tokens, dtype=torch.float32),
            documents=batch.documents,
            counts=torch.tensor([batch.tokens.numel()], dtype=torch.float64, device=batch.tokens.device),
            alphabet=batch.alphabet,
        )

    def __call__(self, net: Net, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of every token, summed."""
        del stream
        hidden = net.hidden(question.tokens, documents=question.documents).flatten(0, 1)
        total = net.total_nll(hidden, question.targets.flatten(), question.weight.flatten(), question.alphabet.mask)
        return Loss((Term("autoregressive", total, question.counts[0]),))
