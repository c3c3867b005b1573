"""Quality of samples: perplexity and unigram entropy, always together."""

import math

import pytest
import torch

from remask.metrics.generative import generative, unigram_entropy
from tests.oracle import LAWS


def test_entropy_of_known_rows():
    rows = torch.tensor([[5, 5, 5, 5], [1, 1, 2, 2], [1, 2, 3, 4], [9, 9, 9, 1]])
    expected = [0, math.log(2), math.log(4), -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert unigram_entropy(rows).tolist() == pytest.approx(expected, abs=1e-12)


def test_both_values_come_always_and_in_their_units():
    oracle = LAWS["markov_chain"]
    found = dict(generative(oracle.sample(50, 0), oracle.nats_of_cells, draw_dtype="float32"))
    assert list(found) == ["perplexity", "unigram_entropy"]
    assert all("float32" in estimate.unit and estimate.n == 50 for estimate in found.values())


def test_repetition_scores_superbly_and_the_entropy_tells():
    """Why they come together: the one most probable state, all spins alike, again and again."""
    oracle = LAWS["ring_ising"]
    cheat = oracle.states[oracle.joint.argmax()].expand(50, -1)
    honest = dict(generative(oracle.sample(2000, 1), oracle.nats_of_cells))
    cheating = dict(generative(cheat, oracle.nats_of_cells))
    assert cheating["perplexity"].value < honest["perplexity"].value / 1.2
    assert cheating["unigram_entropy"].value < honest["unigram_entropy"].value / 1.3


def test_perplexity_is_of_the_mean_nats_not_the_mean_of_perplexities():
    nats = torch.tensor([[1.0, 2.0], [5.0, 0.0]], dtype=torch.float64)
    found = dict(generative(torch.zeros(2, 2, dtype=torch.int64), lambda tokens: nats))
    assert found["perplexity"].value == pytest.approx(math.exp(2))
