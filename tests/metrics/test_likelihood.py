"""Exact likelihood by the chain rule."""

import math

import pytest
import torch

from remask.metrics.likelihood import likelihood
from remask.objectives.autoregressive import shifted
from tests.oracle import LAWS, causal_net


@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_equals_the_joint_of_every_row(oracle):
    """On a net that knows the law: the mean of -log p of the rows, not an estimate of it."""
    tokens = oracle.sample(150, 0)
    documents = torch.zeros_like(tokens)
    inputs = shifted(tokens, documents, oracle.alphabet.end)
    found = dict(
        likelihood(causal_net(oracle), inputs, tokens, documents, oracle.alphabet, bytes=torch.full((150,), 7))
    )
    nats = -oracle.joint[oracle.number(tokens)].log()
    per_token = float(nats.mean()) / oracle.length
    assert found["nats_per_token"].value == pytest.approx(per_token, rel=1e-12)
    assert found["nats_per_token"].stderr == pytest.approx(float(nats.std()) / oracle.length / math.sqrt(150), rel=1e-9)
    assert found["perplexity"].value == pytest.approx(math.exp(per_token), rel=1e-12)
    assert found["bits_per_byte"].value == pytest.approx(float(nats.mean()) / 7 / math.log(2), rel=1e-12)


def test_bytes_may_be_unknown():
    oracle = LAWS["parity"]
    tokens = oracle.sample(5, 0)
    documents = torch.zeros_like(tokens)
    arguments = (
        causal_net(oracle),
        shifted(tokens, documents, oracle.alphabet.end),
        tokens,
        documents,
        oracle.alphabet,
    )
    for unknown in (None, torch.zeros(5, dtype=torch.int64)):
        assert "bits_per_byte" not in dict(likelihood(*arguments, bytes=unknown))
