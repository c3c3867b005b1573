"""Masked language modelling: hide a share of the tokens and predict them from the rest.

BERT chooses 15 % of the tokens and shows 80 % of them as the mask, 10 % as a random token, 10 % as they are (Devlin et
al. 2019, arXiv 1810.04805, section 3.1 and appendix A.1). Larger rates learn faster (Wettig et al. 2023, arXiv
2202.08005), falling ones too (Yang et al. 2023, arXiv 2305.15096); spans are SpanBERT's (Joshi et al. 2020, arXiv
1907.10529, section 3.1). Rows have the same share of chosen cells, drawn without replacement (whole words: at most).
Shapes: B batch, L length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.choose import exactly, spans, words
from remask.core.errors import BadInput
from remask.core.net import Net
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.objectives.random_text import random_tokens

Choose = Callable[["MLM", Batch, Tensor, Tensor, Stream], Tensor]


def text_cells(batch: Batch) -> Tensor:
    """Cells that hold text and not an end, a mask or padding, [B, L] bool: only these are ever chosen."""
    special = torch.tensor(sorted(batch.alphabet.special), device=batch.tokens.device)
    return ~torch.isin(batch.tokens, special)


def share_of(among: Tensor, rate: float) -> Tensor:
    """How many cells of each row a rate means: rounded, at least one where there is any, [B] int64."""
    available = among.sum(1)
    return torch.minimum((rate * available).round().long().clamp(min=1), available)


def _tokens(objective: MLM, batch: Batch, among: Tensor, count: Tensor, stream: Stream) -> Tensor:
    return exactly(stream.uniform(0, Purpose.MASK, among.shape[1]), among, count)


def _words(objective: MLM, batch: Batch, among: Tensor, count: Tensor, stream: Stream) -> Tensor:
    if not batch.alphabet.continues:
        raise BadInput("--unit word came with a tokenizer whose tokens do not say where words begin: type --unit span.")
    inside = torch.isin(batch.tokens, torch.tensor(sorted(batch.alphabet.continues), device=among.device))
    return words(stream.uniform(0, Purpose.MASK, among.shape[1]), among, count, inside, batch.documents)


def _spans(objective: MLM, batch: Batch, among: Tensor, count: Tensor, stream: Stream) -> Tensor:
    length = among.shape[1]
    where, size = stream.uniform(0, Purpose.MASK, length), stream.uniform(0, Purpose.SPAN, length)
    return spans(where, size, among, count, objective.span_length)


UNITS: dict[str, Choose] = {"token": _tokens, "word": _words, "span": _spans}


@dataclass(frozen=True)
class MLM:
    """Masked language modelling (Devlin et al. 2019): hide a share of the tokens, predict them from both sides."""

    mask_rate: float = 0.3
    """Share of each row's tokens that is chosen and predicted."""
    final_mask_rate: float | None = None
    """Rate at the end of training; the rate moves there in a straight line. Default: it stays."""
    random: float = 0.1
    """Share of the chosen tokens that shows a random token and not the mask."""
    keep: float = 0.1
    """Share of the chosen tokens that stays as it is; 0 with --random 0 shows nothing but masks."""
    unit: str = "token"
    """What is chosen: token, word (all pieces of a word, or none) or span."""
    span_length: float = 3.0
    """Mean length of a span (geometric, at most ten tokens)."""

    causal = False
    bounds = False
    writes = False
    law = "no bound"

    def __post_init__(self) -> None:
        for name in ("mask_rate", "final_mask_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 1:
                raise BadInput(f"--{name.replace('_', '-')} came as {rate}: it must lie in (0, 1].")
        if not (self.random >= 0 and self.keep >= 0 and self.random + self.keep <= 1):
            raise BadInput(
                f"--random came as {self.random} and --keep as {self.keep}: they are shares, and add up to at most 1."
            )
        if self.unit not in UNITS:
            raise BadInput(f"there is no unit '{self.unit}': type --unit {'|'.join(UNITS)}.")
        if not 1 <= self.span_length < math.inf:
            raise BadInput(f"--span-length came as {self.span_length}: it must be 1 or more, and finite.")

    def rate(self, progress: float) -> float:
        """The mask rate at this share of the training."""
        last = self.mask_rate if self.final_mask_rate is None else self.final_mask_rate
        return self.mask_rate + (last - self.mask_rate) * progress

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Choose cells and show most of them as the mask."""
        among = text_cells(batch)
        at = UNITS[self.unit](self, batch, among, share_of(among, self.rate(batch.progress)), stream)
        show = stream.uniform(0, Purpose.SHOW, at.shape[1])
        shown = torch.full_like(batch.tokens, batch.alphabet.mask)
        shown = torch.where(show < self.keep + self.random, random_tokens(batch, stream), shown)
        shown = torch.where(show < self.keep, batch.tokens, shown)
        return Question(
            tokens=torch.where(at, shown, batch.tokens),
            targets=batch.tokens,
            at=at,
            weight=torch.ones_like(batch.tokens, dtype=torch.float32),
            documents=batch.documents,
            counts=at.sum().double().clamp(min=1).reshape(1),
            alphabet=batch.alphabet,
        )

    def __call__(self, net: Net, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of the chosen cells, summed; the head sees these cells only."""
        del stream
        at = question.at
        hidden = net.hidden(question.tokens, documents=question.documents)[at]
        total = net.total_nll(hidden, question.targets[at], question.weight[at], question.alphabet.mask)
        return Loss((Term("mlm", total, question.counts[0]),))
