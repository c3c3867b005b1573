"""PaDIR: parallel decoding with iterative refinement, which learns to correct a whole target at once.

A target's noise rate is uniform on [0, 1]; of the noised tokens, 80 % show the mask, 10 % a random token, 10 %
themselves; the loss is on all tokens, on the noised ones, or on the masked ones. With several stages the net's own best
guesses are shown to it again, and it learns from its own errors; no gradient passes through the guesses. (Li et al.
2024, arXiv 2407.21046; the proportions are those of the released code.)
Shapes: B batch, L target length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remask.core.choose import each
from remask.core.errors import BadInput
from remask.core.net import Reading
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.objectives.length import length_term
from remask.objectives.paired import ask, levels, present, read, rows_of, text_cells
from remask.objectives.random_text import random_tokens

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
SCORES: dict[str, Score] = {
    "all": lambda text, noised, masked: text,
    "noised": lambda text, noised, masked: noised,
    "masked": lambda text, noised, masked: masked,
}


@dataclass(frozen=True)
class PaDIR:
    """Parallel decoding with iterative refinement (Li et al. 2024): pairs of sources and targets."""

    score: str = "all"
    """Tokens that the loss is on: all, noised or masked."""
    keep: float = 0.1
    """Share of the noised tokens that show themselves."""
    random: float = 0.1
    """Share of the noised tokens that show a random token; the rest shows the mask."""
    rate: float | None = None
    """Share of a target's tokens that is noised; default: uniform on [0, 1], anew for each target."""
    stages: int = 1
    """Passes of a step: in every one after the first the net reads its own best guesses."""
    stratified: bool = True
    """Spread the noise rates evenly over the global batch instead of drawing each target's by itself."""

    pairs = True
    causal = False
    bounds = False
    writes = True
    law = "cross-entropy of noised targets"

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise BadInput(f"there is no score '{self.score}': type --score {'|'.join(SCORES)}.")
        if not (min(self.keep, self.random) >= 0 and self.keep + self.random <= 1):
            raise BadInput(
                f"--keep came as {self.keep} and --random as {self.random}: they are shares and add up to at most 1."
            )
        if self.rate is not None and not 0 < self.rate <= 1:
            raise BadInput(f"--rate came as {self.rate}: it must be a share above 0, at most 1.")
        if self.stages < 1:
            raise BadInput(f"--stages came as {self.stages}: type 1 or more.")

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Noise each token by itself with its target's rate."""
        among, length = text_cells(batch), batch.tokens.shape[1]
        rate = levels(batch, stream, self.stratified)
        rate = rate if self.rate is None else torch.full_like(rate, self.rate)
        noised = each(stream.uniform(0, Purpose.MASK, length), among, rate[:, None])
        shown = stream.uniform(0, Purpose.SHOW, length)
        masked = noised & (shown >= self.keep + self.random)
        changed = noised & (shown < self.random)
        tokens = torch.where(changed, random_tokens(batch, stream), batch.tokens).masked_fill(
            masked, batch.alphabet.mask
        )
        at = SCORES[self.score](among, noised, masked)
        counts = [at.sum().clamp(min=1), *[among.sum().clamp(min=1)] * (self.stages - 1), rows_of(batch)]
        return ask(batch, tokens, at, counts)

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of the scored tokens, of all of them in later stages, and of the length."""
        del stream
        alphabet, reading, at, tokens = question.alphabet, read(net, question), question.at, question.tokens
        seen = present(question)
        text = seen & (question.targets != alphabet.end)
        terms = []
        for stage in range(self.stages):
            hidden = reading.hidden(tokens, attend=seen)
            asked = hidden[at]
            total = reading.total_nll(asked, question.targets[at], torch.ones_like(asked[:, 0]), alphabet.mask)
            terms.append(Term("padir" if stage == 0 else f"stage_{stage + 1}", total, question.counts[stage]))
            if stage + 1 < self.stages:
                tokens, at = guesses(reading, hidden, tokens, text, alphabet.mask), text
        return Loss((*terms, length_term(reading, question.targets, alphabet, question.counts[-1])))


@torch.no_grad()
def guesses(reading: Reading, hidden: Tensor, tokens: Tensor, at: Tensor, ban: int) -> Tensor:
    """The canvas [B, L] with the most probable token in every cell of `at` [B, L], of hidden states [B, L, D]."""
    best = reading.log_probs(hidden[at], ban).argmax(1)
    return tokens.masked_scatter(at, best)
