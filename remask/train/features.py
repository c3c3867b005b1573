"""Frozen features of texts: what a linear probe reads.

The mean over a text's tokens of the net's last hidden states, below any head; beside them the counts of its tokens,
which any encoder must beat. Pairs of texts become [u, v, |u - v|, u * v] (Conneau et al. 2017, arXiv 1705.02364,
section 3.1), and for counts [a, b, min(a, b)].
Shapes: T texts, L length, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.train.opening import Opened
from remask.train.pairs import BATCH_TOKENS, Progress, Sentence, by_length, opened, sentences


class Features(NamedTuple):
    """What a probe reads.

    hidden: [T, D] float32 (pairs: [T, 4D]); counts: log(1 + c), [T, V] sparse (pairs: [T, 3V]); cut: texts too long.
    """

    hidden: Tensor
    counts: Tensor
    cut: int


def features(
    model: Opened,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Features:
    """Features of texts, or of pairs of texts; a text longer than the net can read is cut there (and counted).

    progress: called with tokens read and tokens in all. A text without tokens has zeros.
    """
    if batch_tokens < 1:
        raise BadInput(f"--batch-tokens came as {batch_tokens}: type 1 or more, for example {BATCH_TOKENS}.")
    each = [*texts, *(pairs or [])]
    unique = {text: number for number, text in enumerate(dict.fromkeys(each))}
    rows = sentences(model.tokenizer, list(unique), model.alphabet.end)
    if model.net.causal:
        rows = [opened(row, model) for row in rows]
    whole = [len(row.ids) for row in rows]
    rows = [_cut(row, model.net.length) for row in rows]
    place = torch.tensor([unique[text] for text in each])
    hidden = _means(model, rows, batch_tokens, progress)[place]
    counts = _counts(rows, model.alphabet.size).index_select(0, place)
    cut = sum(whole[number] > model.net.length for number in place.tolist())
    if pairs is None:
        return Features(hidden, _log(counts), cut)
    u, v = hidden.split(len(texts))
    a, b = (counts.index_select(0, at) for at in torch.arange(len(each)).split(len(texts)))
    both = ((a + b) - _absolute(a - b)) / 2  # the smaller of the two
    return Features(torch.cat([u, v, (u - v).abs(), u * v], 1), _log(torch.cat([a, b, both], 1)), cut)


def _cut(row: Sentence, length: int) -> Sentence:
    """The first tokens of a row that is too long, and its closing ones."""
    if len(row.ids) <= length:
        return row
    tail = 0
    while tail < length and not row.scored[-1 - tail]:
        tail += 1
    head = length - tail
    return Sentence(row.ids[:head] + row.ids[len(row.ids) - tail :], row.scored[:head] + [False] * tail)


@torch.inference_mode()
def _means(model: Opened, rows: Sequence[Sentence], batch_tokens: int, progress: Progress | None) -> Tensor:
    net = model.net
    training, device = net.training, next(net.parameters()).device
    net.eval()
    found: Tensor | None = None
    done, total = 0, sum(len(row.ids) for row in rows)
    try:
        for group in by_length([row if any(row.scored) else Sentence([], []) for row in rows], device):
            length = group.tokens.shape[1]
            for part in group.split(max(1, batch_tokens // length)) if length else ():
                hidden = net.hidden(part.tokens) * part.scored[..., None]
                mean = (hidden.sum(1) / part.scored.sum(1, keepdim=True)).float().cpu()
                found = mean.new_zeros(len(rows), mean.shape[1]) if found is None else found
                found[part.number.cpu()] = mean
                done += part.tokens.numel()
                if progress is not None:
                    progress(done, total)
    finally:
        net.train(training)
    if found is None:
        raise BadInput(f"the tokenizer of {model.path} turns every text into no tokens: type another checkpoint.")
    return found.clone()


def _counts(rows: Sequence[Sentence], size: int) -> Tensor:
    """How often each id stands in each text, [T, V] sparse."""
    row = [number for number, one in enumerate(rows) for own in one.scored if own]
    ids = [token for one in rows for token, own in zip(one.ids, one.scored) if own]
    index = torch.tensor([row, ids], dtype=torch.int64).view(2, -1)
    ones = torch.ones(len(ids), dtype=torch.float64)
    return torch.sparse_coo_tensor(index, ones, (len(rows), size), check_invariants=True).coalesce()


def _log(counts: Tensor) -> Tensor:
    return torch.log1p(counts.coalesce())


def _absolute(counts: Tensor) -> Tensor:
    return torch.abs(counts.coalesce())
