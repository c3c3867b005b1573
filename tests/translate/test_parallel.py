"""Parallel decoding against enumerated laws, and against itself row by row."""

from itertools import pairwise, product

import pytest
import torch

from remask.core.canvas import Canvas
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.mask_predict import MaskPredict
from remask.samplers.padir import PaDIR
from remask.samplers.sundae import Sundae
from remask.translate.lengths import Lengths
from remask.translate.parallel import texts, translate
from tests.oracle import surprise
from tests.translate.laws import END, FIRST, MASK, PAD, LawTranslator
from tests.translate.nets import ALPHABET, parallel, sources

N = 4000


def decoded(net, numbers, sampler, seed=0, **rest):
    source, attend = net.source(numbers)
    return translate(net, source, attend, net.alphabet, sampler, Stream.of(seed, len(numbers)), **rest)


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_an_exact_sampler_writes_the_law_of_its_source_and_length():
    net = LawTranslator(2, symbols=2, longest=3, seed=4)
    outcome = decoded(net, [0, 1] * N, FirstHitting())
    other = 0.0
    for k in (0, 1):
        n = int(net.lengths[k].argmax()) + 1
        assert outcome.length[k::2].unique().tolist() == [n]
        counts = torch.bincount(torch.tensor([net.number(t) for t in outcome.tokens[k::2]]), minlength=2**n)
        assert surprise(counts, net.joint[k, n].flatten()) < 4
        other = max(other, surprise(counts, net.joint[1 - k, n].flatten()))
    assert other > 50, "texts of the wrong source would be noticed"
    assert (outcome.calls == outcome.length).all()


def test_log_p_is_that_of_the_text():
    """One token a step with exact conditionals: the summed log p is the joint one, whatever the order."""
    net = LawTranslator(3, symbols=3, longest=3, seed=1)
    outcome = decoded(net, [0, 1, 2] * 5, FirstHitting(), seed=2)
    for row, text in enumerate(outcome.tokens):
        joint = net.joint[row % 3, len(text)].flatten()
        assert float(outcome.log_prob[row]) == pytest.approx(float(joint[net.number(text)].log()), abs=1e-9)


def best_by_hand(net, k, longest, lengths):
    """The best (length, text) of source k where every cell is written by its own marginal, over all of them."""
    found = []
    for n in longest:
        marginals = [
            net.joint[k, n].movedim(cell, 0).flatten(1).sum(1) if n > 1 else net.joint[k, 1] for cell in range(n)
        ]
        for text in product(range(net.symbols), repeat=n):
            total = sum(float(m[t].log()) for m, t in zip(marginals, text))
            score = lengths.score(torch.tensor(total, dtype=torch.float64), torch.tensor(n))
            found.append((float(score), n, [FIRST + t for t in text], total))
    return max(found)


@pytest.mark.parametrize("lengths", [Lengths(lengths=4), Lengths(4, rank="mean"), Lengths(4, length_penalty=1.5)])
def test_the_length_beam_finds_the_best_of_all_lengths_and_texts(lengths):
    net = LawTranslator(12, symbols=3, longest=4, seed=7)
    outcome = decoded(net, range(12), MaskPredict(steps=1), lengths=lengths)
    for k in range(12):
        _, n, text, total = best_by_hand(net, k, range(1, 5), lengths)
        assert (outcome.tokens[k], int(outcome.length[k])) == (text, n)
        assert float(outcome.log_prob[k]) == pytest.approx(total, abs=1e-9)


def test_without_a_beam_it_would_not():
    net = LawTranslator(12, symbols=3, longest=4, seed=7)
    alone = decoded(net, range(12), MaskPredict(steps=1))
    wanted = [best_by_hand(net, k, range(1, 5), Lengths()) for k in range(12)]
    assert sum(text != found[2] for text, found in zip(alone.tokens, wanted)) >= 3


def test_a_given_length_is_kept():
    net = LawTranslator(4, symbols=2, longest=4, seed=0)
    outcome = decoded(net, range(4), MaskPredict(steps=2), oracle=torch.tensor([1, 2, 3, 4]))
    assert outcome.length.tolist() == [1, 2, 3, 4]
    assert [len(text) for text in outcome.tokens] == [1, 2, 3, 4]
    free = decoded(net, range(4), MaskPredict(steps=2), oracle=torch.zeros(4, dtype=torch.int64))
    assert free.tokens == decoded(net, range(4), MaskPredict(steps=2)).tokens


def test_calls_are_those_of_the_longest_running_hypothesis():
    net = LawTranslator(3, symbols=2, longest=4, seed=3)
    beam = decoded(net, range(3), FirstHitting(), lengths=Lengths(lengths=4))
    assert beam.calls.tolist() == [4, 4, 4]
    assert decoded(net, range(3), MaskPredict(steps=3), lengths=Lengths(lengths=4)).calls.tolist() == [3, 3, 3]


def test_fresh_weights_are_those_of_the_last_pass():
    """Kept tokens are weighed anew by a net that has seen the others, so scores differ from stale ones."""
    net = LawTranslator(8, symbols=3, longest=4, seed=2)
    stale, fresh = (decoded(net, range(8), MaskPredict(steps=2, fresh=f), oracle=torch.full((8,), 4)) for f in (0, 1))
    assert stale.tokens == fresh.tokens
    assert (stale.log_prob != fresh.log_prob).any()


# ---- rows ------------------------------------------------------------------------------------------------------------

TEXTS = ["a", "Hello.", "The cat sat.", "xyz xyz", "To be or not to be", "ja"]
SAMPLERS = [MaskPredict(steps=3), PaDIR(steps=3, reject="linear"), Sundae(steps=3), FirstHitting()]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_a_batch_is_its_rows_one_by_one(sampler):
    net, seeds, lengths = parallel(), Stream.of(11, len(TEXTS)), Lengths(lengths=2, shifts=3)
    source, attend = sources(TEXTS)
    whole = translate(net, source, attend, ALPHABET, sampler, seeds, lengths)
    for row, text in enumerate(TEXTS):
        part = translate(net, *sources([text]), ALPHABET, sampler, seeds.rows(torch.tensor([row])), lengths)
        assert part.tokens[0] == whole.tokens[row]
        assert float(part.log_prob[0]) == pytest.approx(float(whole.log_prob[row]), abs=1e-8)
        assert int(part.length[0]) == int(whole.length[row])
        assert int(part.calls[0]) == int(whole.calls[row])
    assert len(set(map(tuple, whole.tokens))) > 3, "the net says something about its sources"


def test_streams_that_belong_to_places_would_be_noticed():
    """The planted twin: seeds that go by the place in the batch."""
    net = parallel()
    whole = translate(net, *sources(TEXTS), ALPHABET, FirstHitting(), Stream.of(11, len(TEXTS)))
    alone = [translate(net, *sources([text]), ALPHABET, FirstHitting(), Stream.of(11, 1)) for text in TEXTS]
    assert sum(part.tokens[0] != text for part, text in zip(alone, whole.tokens)) >= 3


def test_further_hypotheses_change_nothing_in_the_others():
    net, stream = parallel(), Stream.of(5, len(TEXTS))
    source, attend = sources(TEXTS)
    each = [
        translate(net, source, attend, ALPHABET, FirstHitting(), stream, oracle=torch.full((len(TEXTS),), n))
        for n in range(1, 6)
    ]
    five = torch.full((len(TEXTS),), 3)
    beam = translate(net, source, attend, ALPHABET, FirstHitting(), stream, Lengths(shifts=5), five)
    for row in range(len(TEXTS)):
        best = max(each, key=lambda one: float(one.log_prob[row]))
        assert beam.tokens[row] == best.tokens[row]
        assert float(beam.log_prob[row]) == pytest.approx(float(best.log_prob[row]), abs=1e-8)


def test_a_net_in_training_rests_meanwhile():
    net = parallel()
    sampler, stream = MaskPredict(steps=2), Stream.of(0, len(TEXTS))
    still = translate(net, *sources(TEXTS), ALPHABET, sampler, stream)
    net.train()
    try:
        assert translate(net, *sources(TEXTS), ALPHABET, sampler, stream).tokens == still.tokens
        assert net.training
    finally:
        net.eval()


def test_special_ids_are_not_text():
    alphabet = LawTranslator(1, 2, 2, 0).alphabet
    tokens = torch.tensor([[FIRST, PAD, MASK, FIRST + 1, END, PAD], [PAD, END, FIRST, END, PAD, PAD]])
    frozen = torch.tensor([[False] * 4 + [True] * 2, [False] * 3 + [True] * 3])
    assert texts(Canvas(tokens, frozen), alphabet) == [[FIRST, FIRST + 1], [FIRST]]


def test_deleted_stutters_do_not_count():
    net, stream = parallel(), Stream.of(0, len(TEXTS))
    source, attend = sources(TEXTS)
    plain, clean = (
        translate(net, source, attend, ALPHABET, PaDIR(steps=1, remove_stutter=removed), stream) for removed in (0, 1)
    )
    stuttered = torch.tensor([any(a == b for a, b in pairwise(text)) for text in plain.tokens])
    assert stuttered.any()
    assert [[t for t, before in zip(text, [None, *text]) if t != before] for text in plain.tokens] == clean.tokens
    assert torch.equal(clean.log_prob > plain.log_prob, stuttered)
    assert torch.equal(clean.length, plain.length)


def test_a_causal_net_is_refused():
    net = LawTranslator(1, 2, 2, 0)
    net.causal = True
    with pytest.raises(BadInput, match="left to right"):
        decoded(net, [0], MaskPredict(steps=1))
