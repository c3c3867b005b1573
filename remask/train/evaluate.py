"""Weighing a net on held-out rows: the bound of a masked one, the exact likelihood of a causal one, in the same units.

Shapes: R rows, L length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from remask.core.alphabet import Alphabet
from remask.core.metric import Estimate, ratio
from remask.core.stream import Stream
from remask.data.pack import Rows
from remask.data.tokenizers import encode
from remask.metrics.likelihood import likelihood, nats_of_rows
from remask.metrics.nelbo import draws_of_rows, nelbo
from remask.nets.conditional import NetConditional
from remask.nets.hf import HuggingFaceNet
from remask.objectives.autoregressive import shifted
from remask.train.checkpoint import Checkpoint


def weigh(
    net: HuggingFaceNet,
    alphabet: Alphabet,
    rows: Rows,
    *,
    draws: int = 8,
    estimator: str = "count",
    seed: int = 0,
) -> dict[str, Estimate]:
    """nats_per_token, perplexity, bits_per_byte of packed rows, with standard errors over rows.

    The masks depend on `seed` and the row number only, so two nets are weighed with the same ones.
    """
    training = net.training
    net.eval()
    try:
        if net.causal:
            inputs = shifted(rows.tokens, rows.documents, alphabet.end)
            return dict(likelihood(net, inputs, rows.tokens, rows.documents, alphabet, bytes=rows.bytes))
        conditional = NetConditional(net, alphabet, documents=rows.documents)
        stream = Stream.of(seed, len(rows.tokens))
        return dict(
            nelbo(conditional, rows.tokens, stream, bytes=rows.bytes, draws=draws, estimator=estimator)
        )
    finally:
        net.train(training)


def score(
    checkpoint: Checkpoint, texts: Sequence[str], *, draws: int = 16, estimator: str = "count", seed: int = 0
) -> list[Estimate]:
    """-log p of each text in nats: a bound with its standard error (over draws), or exact with error 0 if causal.

    Texts longer than the net's rows are cut into windows whose bounds are added. An empty text has 0 nats.
    """
    length = checkpoint.length
    results = []
    for number, ids in enumerate(e.ids for e in encode(checkpoint.tokenizer, list(texts))):
        windows = [ids[i : i + length] for i in range(0, len(ids), length)]
        parts = [_window(checkpoint, w, seed, number, k, draws, estimator) for k, w in enumerate(windows)]
        error = sum(p.stderr**2 for p in parts) ** 0.5
        results.append(Estimate(sum(p.value for p in parts), error, "nats", len(ids)))
    return results


def _window(
    checkpoint: Checkpoint, ids: list[int], seed: int, number: int, window: int, draws: int, estimator: str
) -> Estimate:
    tokens = torch.tensor([ids], dtype=torch.int64)
    documents = torch.zeros_like(tokens)
    if checkpoint.net.causal:
        inputs = shifted(tokens, documents, checkpoint.alphabet.end)
        nats = nats_of_rows(checkpoint.net, inputs, tokens, documents, checkpoint.alphabet)
        return Estimate(float(nats[0]), 0.0, "nats", len(ids))
    stream = Stream.of(seed, torch.tensor([number])).child(window)
    # all draws of one text make one batch: `draws` rows, each with the noise level of its own stratum
    values = draws_of_rows(checkpoint.conditional(), tokens, stream, draws=draws, estimator=estimator)[0]
    return ratio(values.tolist(), [1.0] * draws, "nats")
