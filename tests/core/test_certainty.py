"""Certainties: closed forms, orders, and what they make of equal and impossible tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.certainty import CERTAINTIES, drawn, entropy, margin, top_probability

HALF = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64).log()


def test_closed_forms():
    first, second = torch.tensor([0]), torch.tensor([1])
    assert top_probability(HALF, second).item() == pytest.approx(math.log(0.5))
    assert margin(HALF, first).item() == pytest.approx(0.25)
    assert entropy(HALF).item() == pytest.approx(-1.5 * math.log(2))
    assert drawn(HALF, second).item() == pytest.approx(math.log(0.25))


@settings(deadline=None, database=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_they_lie_between_a_certain_cell_and_a_uniform_one(seed, size):
    generator = torch.Generator().manual_seed(seed)
    some = (torch.randn(5, size, generator=generator) * 3).double().log_softmax(1)
    uniform = torch.full((1, size), -math.log(size), dtype=torch.float64)
    certain = torch.full((1, size), -torch.inf, dtype=torch.float64)
    certain[0, 1] = 0.0
    for name in ("top_probability", "margin", "entropy"):
        low, high = (CERTAINTIES[name](x, torch.tensor([1])).item() for x in (uniform, certain))
        found = CERTAINTIES[name](some, torch.ones(5, dtype=torch.int64))
        assert ((found >= low - 1e-9) & (found <= high + 1e-9)).all()
        assert found.dtype == torch.float64


def test_float32_and_impossible_tokens_make_no_nan():
    rows = torch.tensor([[0.0, -torch.inf, -torch.inf], [-1e4, 0.0, -torch.inf]], dtype=torch.float32)
    for certainty in CERTAINTIES.values():
        assert certainty(rows, torch.tensor([0, 1])).isfinite().all()


def test_orders_may_disagree():
    """Two good candidates and a long tail: the best token is surer in one cell, the margin larger in the other."""
    two = torch.tensor([[0.45, 0.44, 0.11], [0.40, 0.30, 0.30]], dtype=torch.float64).log()
    none = torch.zeros(2, dtype=torch.int64)
    assert top_probability(two, none).argmax() == 0
    assert margin(two, none).argmax() == 1
