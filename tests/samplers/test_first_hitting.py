"""First-hitting: one cell a step, in a uniformly random order, one call each."""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import permutations

import pytest
import torch

from remask.core.canvas import blank
from remask.core.draw import inverse_cdf
from remask.core.sampler import run, sample
from remask.core.stream import Stream
from remask.samplers.first_hitting import FirstHitting
from tests.conformance import mixed_canvas
from tests.oracle import LAWS, Watched


@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_as_many_calls_as_unknown_cells(oracle):
    canvas = mixed_canvas(oracle, 40, 0)
    watched = Watched(oracle, 40)
    infos = [info for _, info in run(FirstHitting(), watched, canvas, Stream.of(0, 40))]
    assert torch.equal(watched.ledger.calls, canvas.unknown.sum(1))
    assert all((info.changed.sum(1) <= 1).all() for info in infos)
    assert len(infos) == oracle.length


def test_every_order_is_equally_likely():
    oracle, rows = LAWS["markov_chain"], 12_000
    canvas = blank(rows, 4, oracle.alphabet)
    opened = torch.stack(
        [info.changed.long().argmax(1) for _, info in run(FirstHitting(), oracle, canvas, Stream.of(1, rows))], 1
    )
    counts = Counter(map(tuple, opened.tolist()))
    assert set(counts) == set(permutations(range(4)))
    expected = rows / 24
    chi = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi - 23) < 4 * math.sqrt(2 * 23)


@dataclass(frozen=True)
class SeesAll:
    """A joint draw without a constraint: it is told of every open cell and draws each by itself."""

    joint: bool = True
    told: list = field(default_factory=list)

    def __call__(self, log_prob, uniform, at, tokens):
        assert len(log_prob) == len(uniform) == int(at.sum())
        self.told.append(at.sum(1))
        return inverse_cdf(log_prob, uniform)


def test_a_joint_draw_sees_every_open_cell_and_writes_only_the_chosen_one():
    oracle = LAWS["random_table"]
    draw, canvas, stream = SeesAll(), blank(50, 4, oracle.alphabet), Stream.of(2, 50)
    joint = sample(FirstHitting(draw=draw), oracle, canvas, stream)
    assert [told.unique().tolist() for told in draw.told] == [[4], [3], [2], [1]]
    assert torch.equal(joint.tokens, sample(FirstHitting(), oracle, canvas, stream).tokens)
