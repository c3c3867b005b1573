"""Parallel decoding: read the sources once, write all lengths that are tried side by side, keep the best.

Any sampler writes: a hypothesis is a row of masks with a given end, its conditional has closed over the source. Its
score is the log p of its tokens (Ghazvininejad et al. 2019, arXiv 1904.09324, section 3.3; Li et al. 2024, arXiv
2407.21046). Which log p: that with which each token was written last. Samplers that write every cell in every step
(padir) are thus scored by their last step, those that keep tokens by older ones; mask_predict with `fresh` has weighed
the kept ones anew, and that is used. A blank of AXE counts like any token, since it was predicted; a stutter that was
deleted does not. A cell that sundae never came to rewrite counts as certain.
Shapes: B sources, S source length, C candidates of a source, N hypotheses, L their longest with its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.net import EncoderDecoder
from remask.core.sampler import Sampler, run
from remask.core.stream import Stream
from remask.nets.conditional import NetConditional
from remask.samplers.mask_predict import MaskPredictState
from remask.translate.lengths import Lengths, canvas
from remask.translate.outcome import Outcome


class Written(NamedTuple):
    """N finished hypotheses.

    tokens: [N, L] int64; total: [N] float64, summed log p; scored: [N] int64, tokens that it is of; calls: [N] int64.
    """

    tokens: Tensor
    total: Tensor
    scored: Tensor
    calls: Tensor


@torch.no_grad()
def translate(
    net: EncoderDecoder,
    source: Tensor,
    attend: Tensor,
    alphabet: Alphabet,
    sampler: Sampler,
    stream: Stream,
    lengths: Lengths | None = None,
    oracle: Tensor | None = None,
) -> Outcome:
    """The best translations of B sources, [B, S] int64 and [B, S] bool (False = padding).

    stream: of B rows; what a hypothesis draws depends on its row's seed and its length, so the others change nothing.
    lengths: which are tried (default: the most probable); oracle: [B] int64, true lengths, 0 where there is none.
    Raises BadInput for a net that writes from left to right, or an alphabet without a pad or an end.
    """
    if net.causal:
        raise BadInput("this net writes from left to right: decode it with remask.translate.left_to_right.")
    lengths = lengths or Lengths()
    with resting(net):
        reading: Any = net.read(source, attend)
        tried = lengths.of(reading.length_log_prob(), oracle)
        row, column = tried.nonzero(as_tuple=True)
        cells = tried[row, column]
        begun = canvas(cells, alphabet)
        present = torch.arange(begun.tokens.shape[1], device=row.device) <= cells[:, None]
        padded = None if present.all() else present
        conditional = NetConditional(reading.rows(row), alphabet, attend=padded)
        written = write(sampler, conditional, begun, stream.rows(row).child(cells))
    score = torch.full(tried.shape, -torch.inf, dtype=torch.float64, device=tried.device)
    score[row, column] = lengths.score(written.total, written.scored)
    number = torch.zeros_like(tried)
    number[row, column] = torch.arange(len(row), device=row.device)
    best = number.gather(1, score.argmax(1, keepdim=True))[:, 0]
    calls = torch.zeros_like(tried)
    calls[row, column] = written.calls
    ended = begun.rows(best)._replace(tokens=written.tokens[best])
    return Outcome(texts(ended, alphabet), written.total[best], cells[best], calls.amax(1))


def write(sampler: Sampler, conditional: Conditional, begun: Canvas, stream: Stream) -> Written:
    """Let a sampler fill N canvases, and add up the log p of what it wrote."""
    tokens, unknown, state = begun.tokens, begun.unknown, None
    log_prob = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    calls = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    for state, info in run(sampler, conditional, begun, stream):
        tokens, calls = state.tokens, calls + info.calls
        log_prob = torch.where(info.changed, info.log_prob, log_prob)
    if isinstance(state, MaskPredictState):
        log_prob = state.confidence
    log_prob = torch.where(unknown, log_prob, 0.0)
    deleted = (tokens == conditional.alphabet.pad) & (log_prob == 0)
    return Written(tokens, log_prob.sum(1), (unknown & ~deleted).sum(1).clamp(min=1), calls)


def texts(ended: Canvas, alphabet: Alphabet) -> list[list[int]]:
    """The text tokens of every row's cells: what is left without blanks (the pad id) and all other special ids."""
    silent = alphabet.special | {alphabet.mask, alphabet.pad, alphabet.end}
    rows = zip(ended.tokens.tolist(), ended.unknown.sum(1).tolist())
    return [[token for token in row[:cells] if token not in silent] for row, cells in rows]


@contextmanager
def resting(net: Any) -> Iterator[None]:
    """The net without dropout, for the time being."""
    training = getattr(net, "training", False)
    if training:
        net.eval()
    try:
        yield
    finally:
        if training:
            net.train()
