"""The race of left-to-right decoders: both write the same, and the ratio is of the times that the clock gives."""

from itertools import count

import pytest
import torch

from remask.bench.decoding import _compare, race
from remask.core.errors import BadInput
from remask.nets.t5 import T5Net
from remask.translate.left_to_right import greedy
from tests.translate.causal import ALPHABET, model, net, sources
from tests.translate.test_left_to_right import Forgetful

SOURCE, ATTEND = sources(7, 9, seed=5)
ROWS = [row[seen].tolist() for row, seen in zip(SOURCE, ATTEND)]


def test_both_write_the_same_and_are_timed_in_turns():
    ticks = count()
    found = race(net(5), ROWS, ALPHABET, batches=(1, 3), longest=12, rounds=3, clock=lambda: float(next(ticks)))
    written = greedy(net(5), SOURCE, ATTEND, ALPHABET, 12)
    assert [row["batch"] for row in found] == [1, 3]
    for row in found:
        assert row["tokens"] == int(written.calls.sum())
        assert row["tokens_per_second"] == row["generate_tokens_per_second"] == row["tokens"]
        assert (row["speed_over_generate"], row["least"], row["most"], row["tied"]) == (1, 1, 1, 0)
    assert next(ticks) == 2 * 2 * 2 * 3


def test_a_race_between_decoders_that_disagree_is_refused():
    with pytest.raises(BadInput, match="different texts"):
        race(Forgetful(model(seed=0)), ROWS, ALPHABET, longest=12, rounds=1)


def test_only_equal_probabilities_are_a_tie():
    made = model(seed=5)
    with torch.no_grad():
        made.lm_head.weight[9] = made.lm_head.weight[7]
    padded = [(SOURCE[:1], ATTEND[:1])]
    assert _compare(T5Net(made), padded, ALPHABET, [[5, 7]], [[5, 9, 4]]) == 1
    assert _compare(T5Net(made), padded, ALPHABET, [[5, 7]], [[5, 7]]) == 0
    with pytest.raises(BadInput, match="different texts"):
        _compare(T5Net(made), padded, ALPHABET, [[5, 7]], [[5, 8]])


def test_nothing_to_race():
    with pytest.raises(BadInput, match="without sources"):
        race(net(5), [], ALPHABET)
    with pytest.raises(BadInput, match="below 1"):
        race(net(5), ROWS, ALPHABET, batches=(0,))
