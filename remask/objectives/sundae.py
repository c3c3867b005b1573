"""SUNDAE: step-unrolled denoising, which learns to correct random tokens and then its own.

Each token of a target is replaced, with a probability drawn anew for each target, by a random one; the net corrects all
of it, a text is drawn from what it says, and it corrects that as well; the loss is the mean over these steps, with no
gradient through what was drawn (Savinov et al. 2022, arXiv 2112.06749, sections 2.2-2.3; two steps are the paper's). A
masked LM that is to become a decoder may begin with masks in the place of random tokens (Yoshida 2024, arXiv
2408.16241).
Shapes: B batch, L target length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from remask.core.choose import each
from remask.core.errors import BadInput
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.objectives.length import length_term
from remask.objectives.paired import ask, levels, present, read, rows_of, text_cells
from remask.objectives.random_text import random_tokens


@dataclass(frozen=True)
class SUNDAE:
    """Step-unrolled denoising (Savinov et al. 2022): pairs of sources and targets."""

    unroll: int = 2
    """Steps of the loss: in every one after the first the net reads a text drawn from its own answer."""
    noise: str = "random"
    """What a corrupted token shows: random (a random token) or mask."""
    temperature: float = 1.0
    """Of the draws that later steps read."""
    stratified: bool = True
    """Spread the corruption rates evenly over the global batch instead of drawing each target's by itself."""

    pairs = True
    causal = False
    bounds = False
    writes = True
    law = "cross-entropy of unrolled corrections"

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise BadInput(f"--unroll came as {self.unroll}: type 1 or more.")
        if self.noise not in ("random", "mask"):
            raise BadInput(f"there is no noise '{self.noise}': type --noise random|mask.")
        if not 0 < self.temperature < math.inf:
            raise BadInput(f"--temperature came as {self.temperature}: it must be above 0, and finite.")

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Replace each token by itself with its target's probability; all are asked for."""
        among, length = text_cells(batch), batch.tokens.shape[1]
        rate = levels(batch, stream, self.stratified)[:, None]
        replaced = each(stream.uniform(0, Purpose.MASK, length), among, rate)
        mask = torch.full_like(batch.tokens, batch.alphabet.mask)
        noise = mask if self.noise == "mask" else random_tokens(batch, stream)
        counts = [among.sum().clamp(min=1)] * self.unroll
        return ask(batch, torch.where(replaced, noise, batch.tokens), among, [*counts, rows_of(batch)])

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of all tokens in every step, each weighed 1 / steps, and of the length."""
        alphabet, reading, at, tokens = question.alphabet, read(net, question), question.at, question.tokens
        targets, terms = question.targets[at], []
        for step in range(self.unroll):
            hidden = reading.hidden(tokens, attend=present(question))[at]
            uniform = stream.uniform(step + 1, Purpose.TOKEN, tokens.shape[1])[at]
            total, drawn = reading.total_nll_and_draw(
                hidden, targets, question.weight[at], uniform, alphabet.mask, self.temperature
            )
            terms.append(Term(f"step_{step + 1}", total, question.counts[step], 1 / self.unroll))
            tokens = tokens.masked_scatter(at, drawn)
        return Loss((*terms, length_term(reading, question.targets, alphabet, question.counts[-1])))
