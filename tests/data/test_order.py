"""Each epoch is a permutation, and any slice of the sequence can be had without the rest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.data.order import Order

laws = settings(deadline=None, database=None, max_examples=100)


@laws
@given(st.integers(1, 40), st.integers(-(2**63), 2**64))
def test_every_epoch_is_a_permutation(rows, seed):
    draws = Order(rows, seed).take(0, 4 * rows).view(4, rows)
    assert draws.dtype == torch.int64
    assert (draws.sort(dim=1).values == torch.arange(rows)).all()


@laws
@given(st.integers(1, 40), st.integers(0, 99), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 60)), max_size=5))
def test_any_slice_equals_that_slice_of_the_whole(rows, seed, slices):
    whole = Order(rows, seed).take(0, 300)
    order = Order(rows, seed)
    for start, count in slices:  # in any order, on one object: the cached epoch is no state
        assert order.take(start, count).tolist() == whole[start : start + count].tolist()


def test_seeds_and_epochs_differ():
    epochs = [tuple(part.tolist()) for seed in range(5) for part in Order(100, seed).take(0, 500).view(5, 100)]
    assert len(set(epochs)) == 25


def test_the_sequence_is_fixed_for_good():
    assert Order(8, 0).take(0, 16).tolist() == [0, 2, 1, 5, 4, 3, 6, 7, 5, 3, 7, 2, 4, 1, 0, 6]


def test_order_looks_random():
    """How often row r comes at place p, over 4000 epochs of 6 rows: 36 cells, chi-square with 25 degrees of freedom."""
    draws = Order(6, 1).take(0, 24_000).view(4000, 6)
    counts = torch.stack([(draws == row).sum(0) for row in range(6)]).double()
    assert float(((counts - 4000 / 6) ** 2 / (4000 / 6)).sum()) < 52.6  # p = 0.001


def test_bad_arguments():
    with pytest.raises(BadInput, match=r"at least one"):
        Order(0, 1)
    with pytest.raises(BadInput, match=r"0 or more"):
        Order(3, 1).take(-1, 2)
