"""Objective: what a net is taught. Corruption comes before the net, so that global counts precede the backward pass.

Shapes: B batch, L length, S source length, K terms.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.stream import Stream


class Batch(NamedTuple):
    """Rows of text, possibly a slice of a larger global batch.

    tokens: [B, L] int64.
    documents: [B, L] int64, which document of the row each cell belongs to.
    slot: [B] int64, each row's place in the global batch.
    slots: rows in the global batch (all devices, all accumulation steps): time is stratified over these.
    alphabet: what the ids mean.
    progress: share of the training that is done, in [0, 1]: mask rates may change with it.
    source: [B, S] int64 where rows are targets of a source, padded with the alphabet's pad, as `tokens` then are.
    """

    tokens: Tensor
    documents: Tensor
    slot: Tensor
    slots: int
    alphabet: Alphabet
    progress: float = 0.0
    source: Tensor | None = None

    @classmethod
    def of(
        cls, tokens: Tensor, alphabet: Alphabet, documents: Tensor | None = None, source: Tensor | None = None
    ) -> Batch:
        """A whole global batch."""
        documents = torch.zeros_like(tokens) if documents is None else documents
        slot = torch.arange(len(tokens), device=tokens.device)
        return cls(tokens, documents, slot, len(tokens), alphabet, source=source)

    def part(self, index: Tensor) -> Batch:
        """Some of its rows, as a part of the same global batch."""
        source = None if self.source is None else self.source[index]
        return self._replace(
            tokens=self.tokens[index], documents=self.documents[index], slot=self.slot[index], source=source
        )


class Question(NamedTuple):
    """What the net is asked.

    tokens: [B, L] int64, what the net sees.
    targets: [B, L] int64, what it should have said.
    at: [B, L] bool, where it is asked.
    weight: [B, L] float32, how much the cell's cross-entropy counts.
    documents: [B, L] int64; neither attention nor positions cross a change.
    counts: [K] float64, what each term's total is a sum over.
    alphabet: what the ids mean.
    causal: whether rows are read left to right: a cell sees itself and what lies before it.
    source: [B, S] int64, what rows are to be targets of, padded; None for text by itself.
    """

    tokens: Tensor
    targets: Tensor
    at: Tensor
    weight: Tensor
    documents: Tensor
    counts: Tensor
    alphabet: Alphabet
    causal: bool = False
    source: Tensor | None = None

    def part(self, rows: Tensor | slice) -> Question:
        """Some of its rows, with the counts of the whole."""
        return self._replace(
            tokens=self.tokens[rows],
            targets=self.targets[rows],
            at=self.at[rows],
            weight=self.weight[rows],
            documents=self.documents[rows],
            source=None if self.source is None else self.source[rows],
        )


class Term(NamedTuple):
    """One part of a loss: `total` in nats, SUMMED over `count`; the loss adds weight * total / count."""

    name: str
    total: Tensor
    count: Tensor  # type: ignore[assignment]  # the name is the field's; tuple.count is not wanted here
    weight: float = 1.0


class Loss(NamedTuple):
    """The terms of a loss. Sum and count stay apart so that accumulation and sharding are exact."""

    terms: tuple[Term, ...]

    def mean(self, counts: Tensor | None = None) -> Tensor:
        """The scalar to differentiate; `counts` [K] are global ones where the batch is a part of a larger one."""
        given = [term.count for term in self.terms] if counts is None else list(counts)
        return torch.stack([term.weight * term.total / c for term, c in zip(self.terms, given)]).sum()


class Objective(Protocol):
    """A frozen dataclass that is its own config: its fields are its flags."""

    @property
    def causal(self) -> bool:
        """Whether it needs a net that sees nothing to the right."""
        ...

    @property
    def bounds(self) -> bool:
        """Whether its loss is a bound on -log p per token (or that itself)."""
        ...

    @property
    def writes(self) -> bool:
        """Whether the net is to write text; else it is an encoder, whose checkpoint plain transformers must open."""
        ...

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Ask the question; `stream` has one seed for each row of the batch."""
        ...

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Hear the answer of a Net, or of what the objective makes of one (a generator and a discriminator)."""
        ...
