"""Relative positions: T5's buckets as transformers counts them, and tables that keep or begin with a meaning."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from remask.nets.relative import bucket, buckets, directed, two_sided, typical

SHAPES = [(32, 128), (16, 64), (8, 20), (32, 300)]
OFFSETS = torch.arange(-300, 301)


def theirs(offset, number, far, two_ways):
    return T5Attention._relative_position_bucket(offset, bidirectional=two_ways, num_buckets=number, max_distance=far)


@pytest.mark.parametrize("two_ways", [True, False])
@pytest.mark.parametrize(("number", "far"), SHAPES)
def test_buckets_are_those_of_transformers(number, far, two_ways):
    found = bucket(OFFSETS, number, far, two_ways)
    assert torch.equal(found, theirs(OFFSETS, number, far, two_ways))
    assert found.min() == 0
    assert found.max() == number - 1
    assert not torch.equal(found, bucket(-OFFSETS, number, far, two_ways))  # the side counts


@pytest.mark.parametrize("two_ways", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 9), (3, 50), (1, 1)])
def test_queries_are_the_last_of_the_keys(queries, keys, two_ways):
    place = torch.arange(keys)
    whole = bucket(place[None] - place[:, None], 8, 20, two_ways)
    found = buckets(queries, keys, 8, 20, two_ways, torch.device("cpu"))
    assert torch.equal(found, whole[keys - queries :])


def test_what_inference_cached_can_be_trained_with():
    with torch.inference_mode():
        buckets(5, 11, 8, 20, True, torch.device("cpu"))
    table = torch.zeros(8, 2, requires_grad=True)
    table[buckets(5, 11, 8, 20, True, torch.device("cpu"))].sum().backward()
    assert table.grad.sum() == 5 * 11 * 2


@pytest.mark.parametrize("two_ways", [True, False])
@pytest.mark.parametrize(("number", "far"), SHAPES)
def test_the_typical_distance_falls_into_its_bucket_and_is_the_nearest_that_does(number, far, two_ways):
    distance = typical(number, far, two_ways)
    empty = {number // 2} if two_ways else set()  # nothing lies to the right at distance 0
    assert set(range(number)) - set(bucket(torch.arange(-far, far + 1), number, far, two_ways).tolist()) == empty
    for index in set(range(number)) - empty:
        at = distance[index].long()
        assert bucket(at, number, far, two_ways) == index
        if at != 0:
            assert bucket(at - at.sign(), number, far, two_ways) != index


@pytest.mark.parametrize(("number", "far"), SHAPES)
def test_a_table_made_two_sided_keeps_the_bias_of_every_exact_distance_on_both_sides(number, far):
    table = torch.randn(number, 3, generator=torch.Generator().manual_seed(0))
    both = two_sided(table, far)
    assert both.shape == table.shape
    distance = torch.arange(0, 300)
    left, right = (both[bucket(sign * distance, number, far, True)] for sign in (-1, 1))
    before = table[bucket(-distance, number, far, False)]
    exact = number // 4
    assert torch.equal(left, right)
    assert torch.equal(left[:exact], before[:exact])
    assert not torch.equal(left, before)  # beyond, half as many buckets hold what they can


def test_directed_heads_begin_with_a_side_and_a_slope():
    directions, slopes = ["left", "right", "free"], [1.0, 0.5, 0.25]
    table = directed(32, 128, directions, slopes, True, 6.0)
    assert table.shape == (32, 3)
    for offset in range(-7, 8):  # exact buckets
        row = table[bucket(torch.tensor(offset), 32, 128, True)]
        wrong = torch.tensor([6.0 * (offset > 0), 6.0 * (offset < 0), 0.0])
        assert torch.allclose(row, -torch.tensor(slopes) * abs(offset) - wrong)


def test_a_directed_causal_table_has_slopes_alone():
    table = directed(32, 128, ["free", "free"], [1.0, 0.5], False, 6.0)
    for distance in range(16):
        row = table[bucket(torch.tensor(-distance), 32, 128, False)]
        assert torch.allclose(row, -torch.tensor([1.0, 0.5]) * distance)
    assert (table[1:] < table[:-1]).all()
