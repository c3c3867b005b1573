"""AXE: aligned cross-entropy, for parallel decoders that see no token of the target.

Cross-entropy punishes a translation that is right but one cell late as if all of it were wrong. AXE charges the
cheapest monotonic alignment instead, in which predictions may say nothing and targets may be skipped (Ghazvininejad et
al. 2020, arXiv 2004.01655, section 3; the dynamic programme is in objectives/alignment.py). The blank is the pad id: it
stands in no text, and whoever prints a translation drops it. A canvas longer than its target has room for blanks
(section 4); a partly observed target is CMLM's (Ghazvininejad et al. 2019, arXiv 1904.09324): its masked tokens, in
their order, are aligned with the masked cells.
Shapes: B batch, N cells asked, K candidates, n targets, m predictions, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as extend
from torch.utils.checkpoint import checkpoint

from remask.core.alphabet import Alphabet
from remask.core.choose import exactly
from remask.core.errors import BadInput
from remask.core.net import Reading
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.objectives.alignment import Alignment, align, canvas_lengths
from remask.objectives.chunks import CELLS
from remask.objectives.length import length_term
from remask.objectives.paired import ask, levels, read, rows_of, text_cells

MASKINGS = ("all", "uniform")


@dataclass(frozen=True)
class AXE:
    """Aligned cross-entropy (Ghazvininejad et al. 2020): a right word in the wrong place is charged for its place."""

    skip_penalty: float = 1.0
    """What leaving out a target token costs, as a multiple of its cross-entropy; more than 1 for raw (noisy) pairs."""
    length_factor: float = 1.0
    """Cells of a canvas for every token of its text, in training and in translating: 1, or more to give blanks room."""
    masking: str = "all"
    """all: the decoder sees masks only; uniform: it sees the target but for 1..n of its n tokens, as CMLM does."""

    pairs = True
    causal = False
    bounds = False
    writes = True
    law = "aligned cross-entropy"

    def __post_init__(self) -> None:
        if not 0 < self.skip_penalty < math.inf:
            raise BadInput(f"--skip-penalty came as {self.skip_penalty}: it must be more than 0, and finite.")
        if not 1 <= self.length_factor < math.inf:
            raise BadInput(
                f"--length-factor came as {self.length_factor}: a canvas must hold its target, so type 1 or more."
            )
        if self.masking not in MASKINGS:
            raise BadInput(f"there is no masking '{self.masking}': type --masking {'|'.join(MASKINGS)}.")
        if self.masking == "uniform" and self.length_factor != 1:
            raise BadInput(
                f"--masking uniform came with --length-factor {self.length_factor}: a partly visible target has one"
                " cell a token; type --masking all, or leave the factor out."
            )

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Show masks; the question's `at` are the cells that predict, its `weight` is 1 at the targets to be aligned.

        Canvas and target may differ in length: both are padded to one width, a function of the batch's alone.
        """
        mask, pad, end = _ids(batch.alphabet)
        batch = self._widened(batch, pad)
        aligned = text_cells(batch)
        length = aligned.sum(1)
        if self.masking == "uniform":
            count = (levels(batch, stream, stratified=True) * length).long() + 1
            at = aligned = exactly(stream.uniform(0, Purpose.MASK, aligned.shape[1]), aligned, count)
            tokens = torch.where(at, mask, batch.tokens)
        else:
            cells = canvas_lengths(length, self.length_factor)[:, None]
            place = torch.arange(aligned.shape[1], device=cells.device)
            at = place < cells
            tokens = torch.where(at, mask, torch.where(place == cells, end, pad))
        question = ask(batch, tokens, at, [aligned.sum().clamp(min=1), rows_of(batch)])
        return question._replace(weight=aligned.float())

    def _widened(self, batch: Batch, pad: int) -> Batch:
        """The batch in rows that hold the canvas of a target as long as they are, its end included."""
        width = batch.tokens.shape[1]
        canvas = 1 + int(canvas_lengths(torch.tensor([width - 1]), self.length_factor))
        tokens = extend(batch.tokens, (0, canvas - width), value=pad)
        return batch._replace(tokens=tokens, documents=torch.zeros_like(tokens))

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Nats of the best alignments, summed, over target tokens; and those of the lengths, over rows."""
        del stream
        reading = read(net, question)
        total = self.aligned(reading, question).loss.sum()
        length = length_term(reading, question.targets, question.alphabet, question.counts[1])
        return Loss((Term("axe", total, question.counts[0]), length))

    def aligned(self, reading: Reading, question: Question) -> Alignment:
        """The best alignment of every row: target i is the i-th of positive weight, prediction j the j-th asked."""
        mask, pad, _ = _ids(question.alphabet)
        hidden = reading.hidden(question.tokens, attend=question.tokens != pad)  # the canvas, longer than the target
        wanted, predictions = question.weight > 0, question.at.sum(1)
        first = (~wanted).long().argsort(dim=1, stable=True)[:, : max(int(wanted.sum(1).max()), 1)]
        candidates = extend(question.targets.gather(1, first), (0, 1), value=pad)  # [B, n + 1], the blank last
        row = question.at.nonzero()[:, 0]
        log_prob = _log_prob(reading, hidden[question.at], candidates[row], mask)
        filled = torch.arange(max(int(predictions.max()), 1), device=row.device) < predictions[:, None]
        table = log_prob.new_zeros(*filled.shape, candidates.shape[1])
        table[filled] = log_prob
        return align(table[..., :-1].transpose(1, 2), table[..., -1], wanted.sum(1), predictions, self.skip_penalty)


def _ids(alphabet: Alphabet) -> tuple[int, int, int]:
    """Mask, pad (the blank) and end."""
    if alphabet.pad is None or alphabet.end is None:
        raise BadInput("AXE needs a tokenizer with a pad and an end token, and this one lacks one of them.")
    return alphabet.mask, alphabet.pad, alphabet.end


def _log_prob(reading: Reading, hidden: Tensor, candidates: Tensor, ban: int) -> Tensor:
    """Log p of candidates [N, K], hidden states [N, D]; where N is large, logits are made again for the gradient."""
    parts = list(zip(hidden.split(CELLS), candidates.split(CELLS)))
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([reading.log_prob(*part, ban) for part in parts])
    return torch.cat([checkpoint(reading.log_prob, *part, ban, use_reentrant=False) for part in parts])
