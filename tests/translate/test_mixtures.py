"""Mixtures of translations: by hand, by the definition for two, by laws whose rate is known, and on people's own."""

import gzip
import math
import os
from itertools import islice, pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from remask.translate.mixtures import (
    Counted,
    alternatives,
    difference,
    holders,
    mixed,
    mixture_rate,
    mixtures,
    seam_rate,
    seams,
)
from remask.translate.parallel import translate
from tests.translate.laws import FIRST, LawTranslator

few = settings(max_examples=100, deadline=None)
texts = some.lists(some.integers(0, 6), max_size=7)
references = some.lists(texts, max_size=4)

# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_a_seam_joins_what_no_alternative_holds_together():
    known = [["vielen", "dank"], ["danke", "schön"]]
    assert seams(["vielen", "schön"], known) == [True]
    assert seams(["danke", "dank"], known) == [True]
    assert mixed(["vielen", "schön"], known)
    for text in known:
        assert not any(seams(text, known)) and not mixed(text, known)


def test_order_and_number_are_other_faults_and_unknown_words_none():
    known = [["vielen", "dank"], ["danke", "schön"]]
    for text in (["dank", "vielen"], ["danke", "danke"], ["merci", "dank"], ["merci"], []):
        assert not any(seams(text, known)) and not mixed(text, known)


def test_a_mixture_may_change_alternatives_behind_a_word_that_they_share():
    known = [["ich", "mag", "hunde"], ["hunde", "mag", "er"]]
    assert seams(["ich", "mag", "er"], known) == [False, False]
    assert mixed(["ich", "mag", "er"], known)
    assert holders(["ich", "mag", "uns"], known) == [{0}, {0, 1}, set()]


def test_a_third_alternative_that_holds_both_makes_them_one():
    known = [[1, 2], [3, 4]]
    assert seams([1, 4], known) == [True]
    assert seams([1, 4], [*known, [4, 9, 1]]) == [False]
    assert mixed([1, 4], known) and not mixed([1, 4], [*known, [4, 9, 1]])
    # every two of them have one in common, but none holds all three: a mixture without a seam
    assert mixed([1, 2, 3], [[1, 2], [2, 3], [1, 3]]) and not any(seams([1, 2, 3], [[1, 2], [2, 3], [1, 3]]))


def test_alternatives_of_pairs():
    pairs = [("a", "x"), ("b", "y"), ("a", "z"), ("a", "x")]
    assert alternatives(pairs) == {"a": ["x", "z"], "b": ["y"]}
    assert alternatives([]) == {}


def test_rates_by_hand():
    known = [[[1, 2], [3, 4]], [[1, 2], [1, 2]], [[1, 2, 5], [3, 4, 5]]]
    outputs = [[1, 4], [1, 4], [1, 2, 5, 4]]  # the second source has one translation, twice
    assert mixture_rate(outputs, known).value == 1.0
    assert mixture_rate(outputs, known).n == 2
    found = seam_rate([[1, 4], [1, 4], [1, 2, 3]], known)
    assert found.value == pytest.approx(2 / 3)  # of 1 + 2 neighbours
    assert seam_rate([[1], [1, 4], []], known).value == 0


def test_rates_held_out_by_hand():
    known = [[[1, 2], [3, 4], [1, 4]], [[1, 2], [3, 4]]]
    found = dict(mixtures([[3, 2], [1, 2]], known))
    # [3, 2] without the first: 2 is unknown; without the second: 3 is; without the third: a mixture
    assert found["mixture_rate"].value == 1 / 2 and found["mixture_rate"].n == 2
    assert found["mixture_matched"].value == pytest.approx(1 / 3) and found["mixture_matched"].n == 1
    # of the alternatives only [1, 4] is a mixture of the others
    assert found["mixture_floor"].value == pytest.approx(1 / 3)
    assert found["seam_floor"].value == pytest.approx(1 / 3)
    assert found["mixture_excess"].value == pytest.approx(0)
    assert set(dict(mixtures([[1, 2]], known[1:]))) == {"mixture_rate", "seam_rate"}


def test_bad_input():
    with pytest.raises(BadInput, match="1 translations came with alternatives of 2 sources"):
        mixture_rate([[1]], [[[1], [2]], [[1], [2]]])
    with pytest.raises(BadInput, match="none of 2 sources has two translations"):
        seam_rate([[1], [2]], [[[1], [1]], []])
    with pytest.raises(BadInput, match="none of 0"):
        list(mixtures([], []))


# ---- properties ------------------------------------------------------------------------------------------------------


@few
@given(texts, texts, texts)
def test_of_two_alternatives_one_has_the_left_only_and_the_other_the_right_only(output, one, other):
    for found, (a, b) in zip(seams(output, [one, other]), pairwise(output), strict=True):
        split = any(a in x and a not in y and b in y and b not in x for x, y in ((one, other), (other, one)))
        assert found == split
        if found:
            assert (a, b) not in {*pairwise(one), *pairwise(other)}
    only = [any(t in x and t not in y for t in output) for x, y in ((one, other), (other, one))]
    assert mixed(output, [one, other]) == all(only)


@few
@given(texts, references, some.randoms(use_true_random=False))
def test_what_does_not_matter(output, known, random):
    found = seams(output, known)
    shuffled = [*known, *known]
    random.shuffle(shuffled)
    assert seams(output, [sorted(text) * 2 for text in shuffled]) == found
    assert seams(output[::-1], known) == found[::-1]
    words = [[f"w{token}" for token in text] for text in known]
    assert seams([f"w{token}" for token in output], words) == found
    assert mixed(output, shuffled) == mixed(output[::-1], known) == mixed(output * 2, known) == mixed(output, known)
    assert mixed([*output, 99], known) == mixed(output, known)
    assert mixed(output, known) or not any(found)
    assert not mixed(output, [*known, output])


# ---- laws ------------------------------------------------------------------------------------------------------------

WAYS = 2  # paraphrases of a symbol, of two tokens each


def phrase(symbol, way):
    return [10 * symbol + 2 * way, 10 * symbol + 2 * way + 1]


def combined(ways):
    return [token for symbol, way in enumerate(ways) for token in phrase(symbol, way)]


def parallel(rng, symbols):
    """What independent cells write: every token follows a paraphrase of its own."""
    ways = rng.integers(0, WAYS, size=(symbols, 2))
    return [phrase(symbol, way)[cell] for symbol in range(symbols) for cell, way in enumerate(ways[symbol])]


@pytest.mark.parametrize("symbols", [1, 2, 3])
def test_independent_cells_mix_half_of_the_ambiguous_symbols(symbols):
    rng = np.random.default_rng(symbols)
    known = [combined(ways) for ways in product(range(WAYS), repeat=symbols)]
    outputs = [parallel(rng, symbols) for _ in range(2000)]
    everyone = [known] * len(outputs)
    whole, local = mixture_rate(outputs, everyone), seam_rate(outputs, everyone)
    assert abs(whole.value - (1 - 0.5**symbols)) < 4 * whole.stderr < 0.06
    assert abs(local.value - 0.5 * symbols / (2 * symbols - 1)) < 4 * local.stderr < 0.06
    # the twin takes every new bigram for a seam: an unknown word, an inversion are counted too
    broken = [[99, *combined([0] * symbols)]]

    def twin(output):
        return any(pair not in {p for text in known for p in pairwise(text)} for pair in pairwise(output))

    assert twin(broken[0]) and seam_rate(broken, [known]).value == 0


def test_a_decoder_of_one_step_mixes_half_and_one_of_single_cells_none():
    """The law "p q" or "r s" decoded: all at once, and one token after the other."""
    net = LawTranslator(1, symbols=4, longest=2, seed=0)
    net.lengths = torch.tensor([[1e-9, 1.0]], dtype=torch.float64).log()
    net.joint[0, 2] = torch.zeros(4, 4, dtype=torch.float64)
    net.joint[0, 2][0, 1] = net.joint[0, 2][2, 3] = 0.5
    known = [[FIRST, FIRST + 1], [FIRST + 2, FIRST + 3]]
    n = 2000
    source, attend = net.source([0] * n)
    rates = []
    for sampler in (Ancestral(steps=1), FirstHitting()):
        outputs = translate(net, source, attend, net.alphabet, sampler, Stream.of(1, n)).tokens
        assert all(len(text) == 2 for text in outputs)
        rates.append(mixture_rate(outputs, [known] * n))
        assert seam_rate(outputs, [known] * n).value == rates[-1].value
    at_once, in_turn = rates
    assert abs(at_once.value - 0.5) < 4 * at_once.stderr < 0.05
    assert in_turn.value == 0


def references_of(rng, symbols, n):
    ways = list(product(range(WAYS), repeat=symbols))
    return [combined(ways[k]) for k in rng.permutation(len(ways))[:n]]


def test_a_translation_of_the_references_kind_is_at_the_floor_and_parallel_ones_are_above():
    rng = np.random.default_rng(4)
    drawn = [references_of(rng, 3, 4) for _ in range(400)]
    known = [texts[:3] for texts in drawn]
    real = dict(mixtures([texts[3] for texts in drawn], known))
    assert 0.05 < real["mixture_floor"].value < 0.95, "people mix, where few of their texts are known"
    assert abs(real["mixture_excess"].value) < 4 * real["mixture_excess"].stderr
    assert abs(real["seam_excess"].value) < 4 * real["seam_excess"].stderr
    written = dict(mixtures([parallel(rng, 3) for _ in drawn], known))
    assert written["mixture_floor"] == real["mixture_floor"]
    assert written["seam_excess"].value > 8 * written["seam_excess"].stderr
    assert written["seam_matched"].value - written["seam_floor"].value == pytest.approx(written["seam_excess"].value)
    # the twin does not hold the reference out, and finds no floor at all
    assert not any(mixed(text, texts) for texts in known for text in texts)


def test_a_difference_is_a_paired_mean_and_its_error():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=50), rng.normal(size=50)
    ones = [1.0] * 50
    found = difference(Counted(one.tolist(), ones), Counted(other.tolist(), ones), "share")
    assert found.value == pytest.approx((one - other).mean())
    assert found.stderr == pytest.approx((one - other).std(ddof=1) / math.sqrt(50))
    places = rng.integers(1, 9, size=(2, 50)).astype(float)
    first, second = Counted((one * places[0]).tolist(), places[0].tolist()), Counted(other.tolist(), places[1].tolist())
    found, back = difference(first, second, "share"), difference(second, first, "share")
    assert found.value == pytest.approx(-back.value) and found.stderr == pytest.approx(back.stderr)
    times = rng.multinomial(50, np.full(50, 1 / 50), size=4000)
    resampled = (times @ first.faults) / (times @ places[0]) - (times @ second.faults) / (times @ places[1])
    assert found.stderr == pytest.approx(resampled.std(), rel=0.1)
    assert math.isnan(difference(Counted([1.0], [2.0]), Counted([1.0], [1.0]), "share").stderr)


# ---- people ----------------------------------------------------------------------------------------------------------


def test_peoples_translations_have_few_seams_and_blends_of_two_have_more():
    """Tatoeba: token by token from one of two German texts of a source, against what people write."""
    default = Path(__file__).resolve().parents[2] / "../shared/data"
    path = Path(os.environ.get("REMASK_DATA", default)) / "tatoeba_en_de" / "train.tsv.gz"
    if not path.exists():
        pytest.skip(f"no tatoeba_en_de in {path.parent.parent}; set REMASK_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in islice(lines, 60_000)]
    rng = np.random.default_rng(0)
    known, blends = [], []
    for texts in list(alternatives((source, target) for source, target in pairs).values()):
        if len(texts) > 2 and len(known) < 400:
            known.append([text.lower().split() for text in texts])
            one, other = (known[-1][k] for k in rng.permutation(len(texts))[:2])
            blends.append([pair[rng.integers(2)] for pair in zip(one, other)])
    found = dict(mixtures(blends, known))
    assert found["seam_floor"].value < 0.03
    assert found["seam_excess"].value > 4 * found["seam_excess"].stderr
    assert found["mixture_excess"].value > 4 * found["mixture_excess"].stderr
    assert 0.05 < found["mixture_floor"].value < 0.25
