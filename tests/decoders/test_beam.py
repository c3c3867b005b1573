"""Beams and draws: greedy at one, exhaustive where nothing is dropped, laws by frequency, and honest certificates."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.decoder import Budget, Spoken
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders import beam as module
from remask.decoders.beam import Beam, leading
from remask.decoders.exact_mode import ExactMode
from remask.decoders.sampling import Sampling
from remask.nets.causal_encoder_decoder import CausalEncoderDecoder
from remask.translate import left_to_right
from tests.decoders.laws import mode, random_law, spoken, table_law, texts, whole_law, written
from tests.translate.causal import ALPHABET, net, sources

END, LONGEST = 0, 12
LAWS = [*(random_law(seed, 4, 2.0, ending=0.2) for seed in range(6)), *(whole_law(seed, 4) for seed in range(6))]


def found(decoder, law, budget, prompts=((),), seed=0):
    return decoder(spoken(law), prompts, Stream.of(seed, len(prompts)), budget)


def greedy(law, longest):
    """The most probable next token, again and again; of equal ones the lower id."""
    text = ()
    while len(text) < longest and text[-1:] != (END,):
        after = law(text)
        text = (*text, after.index(max(after)))
    return list(text)


def test_a_beam_of_one_is_greedy():
    for law in LAWS:
        assert written(found(Beam(beam=1), law, Budget(8))) == [greedy(law, 8)]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_a_beam_that_drops_nothing_finds_the_best_of_all(penalty):
    for law in LAWS:
        best = max(one.log_prob / len(one.tokens) ** penalty for one in texts(law, END, 4))
        decoded = found(Beam(beam=3**4, length_penalty=penalty), law, Budget(4))
        assert float(decoded.log_prob) / len(written(decoded)[0]) ** penalty == pytest.approx(best, abs=1e-9)
        assert bool(decoded.info.certified) == (penalty == 0)


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize(("seed", "width"), [(0, 2), (5, 5), (2, 1)])
def test_it_is_the_beam_that_translates(seed, width, penalty):
    source, attend = sources(4, 9, seed=seed)
    theirs = left_to_right.beam(net(seed), source, attend, ALPHABET, LONGEST, width, penalty)
    model = CausalEncoderDecoder(net(seed), ALPHABET, LONGEST)
    rows = [row[seen][:-1].tolist() for row, seen in zip(source, attend)]
    ours = Beam(beam=width, length_penalty=penalty)(model, rows, Stream.of(0, 4), Budget(LONGEST))
    assert ours.texts(ALPHABET.end) == theirs.tokens
    assert torch.allclose(ours.log_prob, theirs.log_prob, atol=1e-5)


def test_a_forced_length_is_kept_and_scored_without_renormalising():
    for law in (random_law(seed, 4) for seed in range(6)):
        for length in range(4):
            decoded = found(Beam(beam=3**4, length=length), law, Budget(9))
            assert len(decoded.texts(END)[0]) == length
            assert float(decoded.log_prob) == pytest.approx(mode(law, END, 9, length=length), abs=1e-9)


def test_a_forced_beam_loses_texts_that_a_wider_one_keeps():
    """Six tokens like a text of three best: one of them is kept, and what follows it is unlikely (Yoshida et al.)."""
    rows = {(): {1: 0.7, 2: 0.3}, **{(1,) * n: {1: 0.05, END: 0.95} for n in range(1, 6)}}
    rows |= {(2,) * n: {2: 1.0} for n in range(1, 6)}
    law = table_law(3, END, rows)
    narrow, wide = (float(found(Beam(beam=width, length=6), law, Budget(7)).log_prob) for width in (1, 2))
    assert wide == pytest.approx(math.log(0.3))
    assert narrow == pytest.approx(math.log(0.7) + 5 * math.log(0.05))


budgets = given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 5),
    longest=st.integers(1, 6),
    nodes=st.one_of(st.none(), st.integers(1, 30)),
    length=st.sampled_from([None, None, 0, 2]),
)


def honest(seed, width, longest, nodes, length):
    law = random_law(seed, 3, 2.0, ending=0.2)
    if length is not None:
        longest = length + 1
    try:
        decoded = found(Beam(beam=width, length=length), law, Budget(longest, nodes))
    except BadInput:
        assert nodes is not None
        assert nodes < longest
        return
    truth = mode(law, END, longest, length=length)
    gap = float(decoded.info.gap)
    assert nodes is None or int(decoded.info.calls) <= nodes
    assert truth <= float(decoded.log_prob) + gap + 1e-9
    assert bool(decoded.info.certified) == (gap == 0)
    assert not bool(decoded.info.certified) or float(decoded.log_prob) == pytest.approx(truth, abs=1e-9)


@settings(max_examples=200, deadline=None)
@budgets
def test_what_was_dropped_bounds_what_was_missed(**given):
    honest(**given)


def test_a_beam_that_forgets_what_it_dropped_is_caught(monkeypatch):
    """The planted bug: of what is outside the best `beam`, nothing is told."""
    monkeypatch.setattr(module, "leading", lambda scores, count: leading(scores, count // 2))
    with pytest.raises(AssertionError):
        for seed in range(100):
            honest(seed, 1, 6, None, None)


def test_of_equal_scores_the_lower_index_comes_first():
    scores = torch.tensor([0.0, 2.0, 1.0, 2.0, -torch.inf, 1.0])
    assert leading(scores, 3).tolist() == [1, 3, 2]
    assert leading(scores, 9).tolist() == [1, 3, 2, 5, 0]
    assert leading(torch.full((3,), -torch.inf), 2).tolist() == []


# ---- draws -----------------------------------------------------------------------------------------------------------


def unlike(decoder, law, rows=400):
    """Chi-square of the frequencies of texts of up to three tokens out of two: four cells, 3 degrees of freedom."""
    seen = Counter(map(tuple, written(found(decoder, law, Budget(3), prompts=[()] * rows, seed=3))))
    expected = {one.tokens: rows * math.exp(one.log_prob) for one in texts(law, END, 3)}
    assert set(seen) <= set(expected)
    return sum((seen[text] - e) ** 2 / e for text, e in expected.items())


def test_draws_follow_the_law():
    law = random_law(3, 2)
    assert unlike(Sampling(), law) < 16.3 < unlike(Sampling(temperature=0.5), law)  # the 0.1 % point


def test_draws_do_not_depend_on_how_many_there_are():
    law = random_law(4, 4, 2.0, ending=0.2)
    prompts = [(1,), (2, 3), (), (1,)]
    together = found(Sampling(n=3), law, Budget(6), prompts, seed=9)
    for row, prompt in enumerate(prompts):
        stream = Stream.of(9, torch.tensor([row]))
        alone = Sampling(n=3)(spoken(law), [prompt], stream, Budget(6))
        assert written(alone)[0] == written(together)[row]
    best = [[float(found(Sampling(n=n), law, Budget(6), seed=s).log_prob) for n in (1, 2, 4, 8)] for s in range(6)]
    assert all(some == sorted(some) for some in best)  # the first draws are the same, so the best of more is no worse
    assert sum(some[0] < some[-1] for some in best) >= 3


def test_the_smallest_nucleus_and_the_coldest_draw_are_greedy():
    for law in LAWS[:6]:
        assert written(found(Sampling(top_p=1e-9), law, Budget(8))) == [greedy(law, 8)]
        assert written(found(Sampling(temperature=1e-4), law, Budget(8))) == [greedy(law, 8)]


def test_nodes_are_shared_by_whole_draws():
    law = random_law(4, 4, 2.0, ending=0.05)
    for nodes in (6, 11, 30, 100):
        told = found(Sampling(n=9), law, Budget(6, nodes)).info
        assert int(told.calls) <= nodes
    with pytest.raises(BadInput, match="3 nodes was spent"):
        found(Sampling(), table_law(2, END, {(1,) * n: {1: 1.0} for n in range(9)}), Budget(6, 3))


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Beam(beam=0), "--beam 1 to"),
        (lambda: Beam(beam=10**6), "--beam 1 to"),
        (lambda: Beam(length=-2), "-2 tokens .* --length 0"),
        (lambda: Beam(length_penalty=math.nan), "length penalty nan"),
        (lambda: Sampling(n=0), "--n 1 to"),
        (lambda: Sampling(temperature=0.0), "--beam 1"),
        (lambda: Sampling(top_p=0.0), "top_p 0.0"),
        (lambda: found(Beam(length=5), LAWS[0], Budget(5)), "length of 5 .* 6 tokens"),
        (lambda: found(Beam(), table_law(2, END, {(): {1: 1.0}, (1,): {1: 1.0}}), Budget(3, 1)), "1 nodes was spent"),
        (lambda: found(Beam(length=2), table_law(2, END, {}), Budget(3)), "no text of 2 tokens that the beam reached"),
        (lambda: Spoken(lambda prefix: [-0.1, -0.1], END), "add up to 1.8"),
    ],
)
def test_what_cannot_be(make, said):
    with pytest.raises(BadInput, match=said):
        make()


def test_a_mode_is_never_below_a_beam_or_a_draw():
    for law in LAWS:
        best = float(found(ExactMode(), law, Budget(6)).log_prob)
        for other in (Beam(beam=1), Beam(beam=3), Sampling(n=4)):
            assert float(found(other, law, Budget(6)).log_prob) <= best + 1e-12
