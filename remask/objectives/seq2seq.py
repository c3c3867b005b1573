"""seq2seq: the same trunk from left to right, p(target | source) = prod_i p(y_i | y_<i, source).

The baseline of every parallel decoder (Sutskever et al. 2014, arXiv 1409.3215; Raffel et al. 2020, arXiv 1910.10683,
whose decoder reads the pad token first). The end token is predicted, so lengths need no head of their own and the sum
is the exact -log p of the target.
Shapes: B batch, L target length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Stream
from remask.objectives.paired import ask, given, read


@dataclass(frozen=True)
class Seq2Seq:
    """Left to right (the baseline, Sutskever et al. 2014): pairs of sources and targets; the likelihood is exact."""

    pairs = True
    causal = True
    bounds = False
    writes = True
    law = "exact"

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Shift right; nothing random."""
        del stream
        at, pad = given(batch), batch.alphabet.pad
        shifted = batch.tokens.roll(1, 1)
        shifted[:, 0] = 0 if pad is None else pad
        return ask(batch, shifted, at, [at.sum()])

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of every token and of the end token, summed."""
        del stream
        reading, at = read(net, question), question.at
        hidden = reading.hidden(question.tokens)[at]  # padding comes after the text, where nobody looks
        total = reading.total_nll(hidden, question.targets[at], question.weight[at], question.alphabet.mask)
        return Loss((Term("seq2seq", total, question.counts[0]),))
