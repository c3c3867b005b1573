"""Weighing a net on held-out rows: the bound of a masked one, the exact likelihood of a causal one, in the same units.

Shapes: R rows, L length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import Diverged
from remask.core.metric import Estimate, ratio
from remask.core.stream import Stream
from remask.data.pack import Rows
from remask.data.tokenizers import encode
from remask.metrics.block_nelbo import block_draws
from remask.metrics.likelihood import likelihood, nats_of_cells
from remask.metrics.nelbo import draws_of_rows, nelbo
from remask.metrics.units import in_units
from remask.nets.blockwise import BlockNet
from remask.nets.conditional import NetConditional
from remask.nets.hf import HuggingFaceNet
from remask.nets.recurrent import RecurrentNet
from remask.objectives.autoregressive import shifted
from remask.train.checkpoint import Checkpoint

GROUP = 64  # windows scored together


def weigh(
    net: HuggingFaceNet | RecurrentNet,
    alphabet: Alphabet,
    rows: Rows,
    *,
    draws: int = 8,
    estimator: str = "count",
    seed: int = 0,
) -> dict[str, Estimate]:
    """nats_per_token, perplexity, bits_per_byte of packed rows, with standard errors over rows.

    The masks depend on `seed` and the row number only, so two nets are weighed with the same ones. Raises Diverged
    for a net so wrong that its perplexity is beyond what a float can hold.
    """
    training, device = net.training, next(net.parameters()).device
    rows = Rows(*(part.to(device) for part in rows))
    net.eval()
    try:
        if net.causal or isinstance(net, RecurrentNet):
            inputs = shifted(rows.tokens, rows.documents, alphabet.end)
            return dict(likelihood(net, inputs, rows.tokens, rows.documents, alphabet, bytes=rows.bytes))
        if isinstance(net, BlockNet):
            stream = Stream.of(seed, len(rows.tokens), device)
            values = block_draws(net, rows.tokens, alphabet, stream, draws=draws)
            return dict(in_units(values.mean(1), torch.full((len(values),), rows.tokens.shape[1]), rows.bytes))
        conditional = NetConditional(net, alphabet)  # told where documents end, it would bound less than -log p
        stream = Stream.of(seed, len(rows.tokens), device)
        return dict(nelbo(conditional, rows.tokens, stream, bytes=rows.bytes, draws=draws, estimator=estimator))
    except OverflowError as error:
        raise Diverged(
            "the text costs more than 700 nats a token under this net, whose weights have diverged: lower "
            "--learning-rate (or --rest-learning-rate, or --clip) and train it again."
        ) from error
    finally:
        net.train(training)


def score(
    checkpoint: Checkpoint, texts: Sequence[str], *, draws: int = 16, estimator: str = "count", seed: int = 0
) -> list[Estimate]:
    """-log p of each text in nats: a bound with its standard error (over draws), or exact with error 0 if causal.

    Texts longer than the net's rows are cut into windows whose bounds are added. An empty text has 0 nats.
    """
    length = checkpoint.length
    encoded = [e.ids for e in encode(checkpoint.tokenizer, list(texts))]
    windows = [(text, ids[i : i + length]) for text, ids in enumerate(encoded) for i in range(0, len(ids), length)]
    values, errors = [0.0] * len(encoded), [0.0] * len(encoded)
    order = sorted(range(len(windows)), key=lambda w: len(windows[w][1]))  # like lengths together: little padding
    for first in range(0, len(order), GROUP):
        group = order[first : first + GROUP]
        for w, part in zip(group, _group(checkpoint, [windows[w][1] for w in group], group, seed, draws, estimator)):
            values[windows[w][0]] += part.value
            errors[windows[w][0]] += part.stderr**2
    return [Estimate(v, e**0.5, "nats", len(ids)) for v, e, ids in zip(values, errors, encoded)]


def _group(
    checkpoint: Checkpoint, rows: list[list[int]], numbers: list[int], seed: int, draws: int, estimator: str
) -> list[Estimate]:
    """One estimate a row; rows are padded to one length, and the padding is neither seen nor counted."""
    longest = max(map(len, rows))
    pad = checkpoint.alphabet.pad or 0
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    among = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    if checkpoint.net.causal:  # padding comes after the text, where a causal net cannot see it
        documents = torch.zeros_like(tokens)
        inputs = shifted(tokens, documents, checkpoint.alphabet.end)
        nats = nats_of_cells(checkpoint.net, inputs, tokens, documents, checkpoint.alphabet)
        return [Estimate(float(n), 0.0, "nats", 1) for n in (nats * among).sum(1)]
    stream = Stream.of(seed, torch.tensor(numbers))
    if isinstance(checkpoint.net, BlockNet):
        values = block_draws(checkpoint.net, tokens, checkpoint.alphabet, stream, draws=draws, among=among)
    else:
        conditional = checkpoint.conditional(attend=among)
        values = draws_of_rows(conditional, tokens, stream, draws=draws, estimator=estimator, among=among)
    return [ratio(row.tolist(), [1.0] * draws, "nats") for row in values]
