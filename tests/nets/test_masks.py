"""Masks and biases against matrices written by hand."""

import pytest
import torch

from remask.core.errors import UnknownName
from remask.nets.masks import both, directional_bias, offsets, same_document, window

INF = float("inf")


def test_the_bias_of_each_direction_by_hand():
    """notes/plateau.md, "The change", queries down, keys across."""
    left, right, free, flat = directional_bias(
        ["left", "right", "free", "free"], [1.0, 0.5, 2.0, 0.0], offsets(4, 4)
    ).tolist()
    assert left == [[0, -INF, -INF, -INF], [-1, 0, -INF, -INF], [-2, -1, 0, -INF], [-3, -2, -1, 0]]
    assert right == [[0, -0.5, -1, -1.5], [-INF, 0, -0.5, -1], [-INF, -INF, 0, -0.5], [-INF, -INF, -INF, 0]]
    assert free == [[0, -2, -4, -6], [-2, 0, -2, -4], [-4, -2, 0, -2], [-6, -4, -2, 0]]
    assert flat == [[0] * 4] * 4


def test_offsets_put_the_queries_last():
    assert offsets(2, 4).tolist() == [[2, 1, 0, -1], [3, 2, 1, 0]]
    assert torch.equal(offsets(5, 5)[-2:], offsets(2, 5))


def test_an_unknown_direction_is_not_quietly_a_free_one():
    with pytest.raises(UnknownName, match="did you mean 'left'"):
        directional_bias(["lefft"], [1.0], offsets(2, 2))


def test_directions_and_slopes_must_pair_up():
    with pytest.raises(ValueError, match="zip"):
        directional_bias(["left", "right"], [1.0], offsets(2, 2))


def test_windows_by_hand():
    """Bidirectional windows include their edge, causal ones do not: as in transformers' masking_utils."""
    assert window(1, False, offsets(4, 4)).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert window(2, True, offsets(4, 4)).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_documents_by_hand():
    assert same_document(torch.zeros(2, 3, dtype=torch.long)) is None
    assert same_document(torch.tensor([[0, 0], [3, 3]])) is None
    mask = same_document(torch.tensor([[0, 0, 1], [0, 0, 0]]))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert mask[1].all()


def test_both_masks():
    a, b = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    assert both(None, None) is None
    assert both(a, None) is a
    assert both(None, b) is b
    assert both(a, b).tolist() == [True, False, False]
