"""What objectives on pairs share: which cells hold text, the question, the targets' attention.

A target is its tokens, the end token, padding. The end token is given to parallel decoders, never asked.
Shapes: B batch, S source length, L target length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.net import Reading
from remask.core.objective import Batch, Question
from remask.core.stream import Purpose, Stream
from remask.objectives.length import filled


def given(batch: Batch) -> Tensor:
    """Cells of targets that are no padding, [B, L] bool. Raises BadInput for text without sources."""
    if batch.source is None:
        raise BadInput("this objective learns from sources and targets, and text by itself came: type --pairs FILE.")
    return filled(batch.tokens, batch.alphabet)


def text_cells(batch: Batch) -> Tensor:
    """Cells of targets that hold a token, neither the end nor padding, [B, L] bool. Raises what `given` raises."""
    return given(batch) & (batch.tokens != batch.alphabet.end)


def levels(batch: Batch, stream: Stream, stratified: bool) -> Tensor:
    """A noise level in [0, 1) for every target, [B] float64, spread evenly over the global batch if `stratified`."""
    level = stream.uniform(0, Purpose.TIME, 1)[:, 0]
    return (batch.slot + level) / batch.slots if stratified else level


def ask(batch: Batch, tokens: Tensor, at: Tensor, counts: list[Tensor]) -> Question:
    """The question of a batch of pairs: targets shown as `tokens` [B, L], asked `at` [B, L]; `counts`: of its terms."""
    return Question(
        tokens=tokens,
        targets=batch.tokens,
        at=at,
        weight=at.float(),
        documents=batch.documents,
        counts=torch.stack([torch.as_tensor(n, dtype=torch.float64, device=at.device) for n in counts]),
        alphabet=batch.alphabet,
        source=batch.source,
    )


def read(net: Any, question: Question) -> Reading:
    """The net after it has read the question's sources."""
    assert question.source is not None
    return net.read(question.source, question.source != question.alphabet.pad)


def present(question: Question) -> Tensor:
    """Cells of targets that are no padding, [B, L] bool: what attention may see."""
    return filled(question.targets, question.alphabet)


def rows_of(batch: Batch) -> Tensor:
    """How many targets there are, as a count of the length term."""
    return torch.tensor(len(batch.tokens), dtype=torch.float64, device=batch.tokens.device)
