"""Which lengths are tried, and how translations are compared."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.translate.lengths import RANKS, Lengths, candidates, canvas
from remask.translate.usual import RANKED, TRAINED, lengths_of

LOG_PROB = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.6, 0.1, 0.1, 0.2]]).log()


def test_the_most_probable_lengths_come_first():
    assert candidates(LOG_PROB, 1).tolist() == [[2], [1]]
    assert candidates(LOG_PROB, 3).tolist() == [[2, 3, 1], [1, 4, 2]]
    assert candidates(LOG_PROB, 9).shape == (2, 4)


def test_shifts_come_after_the_length_itself_and_no_number_comes_twice():
    assert candidates(LOG_PROB, 1, shifts=3).tolist() == [[2, 1, 3], [1, 0, 2]]  # 0 is clipped to 1, which is there
    assert candidates(LOG_PROB, 2, shifts=3).tolist() == [[2, 1, 3, 0, 0, 4], [1, 0, 2, 4, 3, 0]]


def test_the_factor_makes_room_before_the_shifts():
    assert candidates(LOG_PROB, 1, shifts=3, factor=1.5).tolist() == [[3, 2, 4], [2, 1, 3]]
    assert candidates(LOG_PROB, 1, factor=10).tolist() == [[4], [4]]
    assert candidates(LOG_PROB, 1, factor=0.01).tolist() == [[1], [1]]


def test_a_factor_below_one_writes_shorter():
    assert Lengths(length_factor=0.5).of(LOG_PROB).tolist() == [[1], [1]]
    assert Lengths(length_factor=0.5, lengths=4).of(LOG_PROB)[0].tolist() == [1, 2, 0, 0]


def test_given_lengths_take_the_place_of_predicted_ones():
    assert candidates(LOG_PROB, 2, oracle=torch.tensor([4, 0])).tolist() == [[4, 0], [1, 4]]
    assert candidates(LOG_PROB, 1, shifts=3, oracle=torch.tensor([9, 3])).tolist() == [[4, 0, 0], [3, 2, 4]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-9, 0), min_size=1, max_size=7),
    st.integers(1, 8),
    st.sampled_from([1, 3, 5]),
    st.floats(0.5, 2.0),
)
def test_the_tried_lengths_are_the_set_that_a_loop_finds(log_prob, top, shifts, factor):
    table = torch.tensor([log_prob])
    best = sorted(range(len(log_prob)), key=lambda n: (-float(table[0, n]), n))[:top]
    wanted = {
        min(max(max(round((n + 1) * factor), 1) + shift, 1), len(log_prob))
        for n in best
        for shift in range(-(shifts // 2), shifts // 2 + 1)
    }
    found = [n for n in candidates(table, top, shifts, factor)[0].tolist() if n]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert found[0] == min(max(round((best[0] + 1) * factor), 1), len(log_prob))


def test_a_canvas_is_masks_then_an_end_that_is_given():
    alphabet = Alphabet(9, mask=1, pad=0, end=2)
    begun = canvas(torch.tensor([3, 1]), alphabet)
    assert begun.tokens.tolist() == [[1, 1, 1, 2], [1, 2, 0, 0]]
    assert begun.frozen.tolist() == [[False, False, False, True], [False, True, True, True]]
    with pytest.raises(BadInput, match="pad and an end"):
        canvas(torch.tensor([3]), Alphabet(9, mask=1, pad=0))


def test_ranks():
    total, count = torch.tensor([-6.0, -8.0]), torch.tensor([3, 8])
    assert Lengths().score(total, count).tolist() == [-6, -8]
    assert Lengths(rank="mean").score(total, count).tolist() == [-2, -1]
    penalised = Lengths(length_penalty=0.6).score(total, count)
    assert penalised.tolist() == pytest.approx([-6 / (8 / 6) ** 0.6, -8 / (13 / 6) ** 0.6])
    assert torch.equal(Lengths(length_penalty=0.0).score(total, count), total)


@pytest.mark.parametrize(
    "fields",
    [
        {"lengths": 0},
        {"shifts": 2},
        {"shifts": -1},
        {"length_factor": 0.0},
        {"length_factor": float("nan")},
        {"length_penalty": float("nan")},
        {"length_penalty": 1.0, "rank": "mean"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(BadInput, match="--"):
        Lengths(**fields)


def test_an_unknown_rank():
    with pytest.raises(UnknownName, match="mean, sum"):
        Lengths(rank="median")


def test_lengths_are_compared_as_the_net_was_trained_to_be():
    assert Lengths(**lengths_of({"name": "cmlm", "stratified": True})) == Lengths(rank="mean")
    assert Lengths(**lengths_of({"name": "axe", "length_factor": 1.5})) == Lengths(length_factor=1.5)
    for objective in ({"name": "axe"}, {"name": "padir"}, {"name": "sundae"}, {"name": "mdlm"}, {}):
        assert Lengths(**lengths_of(objective)) == Lengths()
    assert RANKED.keys() <= TRAINED.keys()
    assert set(RANKED.values()) <= RANKS.keys()
