"""Stutters and wrong lengths, counted by hand and against chance."""

import math

import numpy as np
import pytest

from remask.core.errors import BadInput
from remask.translate.faults import faults, length_faults, stutter_rate


def test_a_stutter_is_a_token_that_repeats_its_neighbour():
    found = stutter_rate([[5, 5, 5, 6], [7], [], [8, 9]])
    assert found.value == pytest.approx(2 / 4)  # of 3 + 0 + 0 + 1 neighbours
    assert stutter_rate([[1], []]).value == 0


def test_chance_alone_stutters_at_the_chance_of_two_equal_tokens():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 10, size=rng.integers(2, 30)).tolist() for _ in range(800)]
    found = stutter_rate(rows)
    assert abs(found.value - 0.1) < 4 * found.stderr
    assert 0 < found.stderr < 0.01
    planted = stutter_rate([[*row, row[-1]] for row in rows])
    assert planted.value - found.value > 4 * planted.stderr


def test_lengths():
    found = dict(length_faults([3, 4, 5, 9], [3, 3, 6, 5]))
    assert found["length_exact"].value == 1 / 4
    assert found["length_within_1"].value == 3 / 4
    assert found["length_error"].value == (0 + 1 - 1 + 4) / 4
    assert found["length_error_size"].value == 6 / 4
    assert found["length_error"].stderr == pytest.approx(np.std([0, 1, -1, 4], ddof=1) / math.sqrt(4))


def test_all_of_them():
    found = dict(faults([[1, 1], [2]], [[1, 2], [2, 2]], [3, 1]))
    assert {name: e.value for name, e in found.items()} == {
        "stutter_rate": 1.0,
        "reference_stutter_rate": 0.5,
        "length_exact": 0.0,
        "length_within_1": 1.0,
        "length_error": 0.0,
        "length_error_size": 1.0,
    }
    with pytest.raises(BadInput, match="2 translations came with 1"):
        list(faults([[1], [2]], [[1]], [1, 1]))
