"""CMLM: a conditional masked language model, which predicts any part of a target from its source and the rest.

The number of masked tokens is uniform on 1..N, so that decoding may begin with all of them masked; the loss is on
masked tokens and on the length (Ghazvininejad et al. 2019, arXiv 1904.09324, section 3). The released code never draws
N; here it is drawn as often as any other number.
Shapes: B batch, L target length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from remask.core.choose import exactly
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.objectives.length import length_term
from remask.objectives.paired import ask, levels, present, read, rows_of, text_cells


@dataclass(frozen=True)
class CMLM:
    """Conditional masked language model for mask-predict (Ghazvininejad et al. 2019): pairs of sources and targets."""

    stratified: bool = True
    """Spread the shares of masked tokens evenly over the global batch instead of drawing each target's by itself."""

    pairs = True
    causal = False
    bounds = False
    writes = True
    law = "cross-entropy of masked tokens"

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Mask n of a target's N tokens, n uniform on 1..N."""
        among = text_cells(batch)
        count = (levels(batch, stream, self.stratified) * among.sum(1)).long() + 1
        at = exactly(stream.uniform(0, Purpose.MASK, among.shape[1]), among, count)
        return ask(
            batch, torch.where(at, batch.alphabet.mask, batch.tokens), at, [at.sum().clamp(min=1), rows_of(batch)]
        )

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of the masked tokens, and of the length."""
        del stream
        reading, at = read(net, question), question.at
        hidden = reading.hidden(question.tokens, attend=present(question))[at]
        total = reading.total_nll(hidden, question.targets[at], question.weight[at], question.alphabet.mask)
        length = length_term(reading, question.targets, question.alphabet, question.counts[1])
        return Loss((Term("cmlm", total, question.counts[0]), length))
