"""The hidden language against enumeration of every hidden path, its samples against its law, and its numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from recipes.hidden_language import FIRST, MASK, PAD, HiddenLanguage
from remask.core.stream import Purpose, Stream
from tests.oracle import noise_floor, total_variation

SMALL = HiddenLanguage(
    seed=5, topics=2, classes=3, words=4, length=4, readings=2, topical=2, agreeing=1, plain=0.3, leak=0.1
)
SENTENCES = torch.tensor(list(product(range(FIRST, FIRST + SMALL.words), repeat=SMALL.length)))


@cache
def joint() -> np.ndarray:
    """p(topic, bit, path, sentence) of SMALL by multiplying it out, [T, 2, paths, sentences]."""
    start, step, emission = SMALL.law
    paths = list(product(range(SMALL.classes), repeat=SMALL.length))
    table = np.zeros((SMALL.topics, 2, len(paths), len(SENTENCES)))
    words = SENTENCES.numpy() - FIRST
    for topic, bit, (number, path) in product(range(SMALL.topics), range(2), enumerate(paths)):
        p = start[path[0]] / (2 * SMALL.topics)
        for a, b in pairwise(path):
            p *= step[a, b]
        said = np.ones(len(words))
        for i, c in enumerate(path):
            said = said * emission[words[:, i], topic, bit, c]
        table[topic, bit, number] = p * said
    return table


def agreeing(seen: torch.Tensor) -> np.ndarray:
    """Sentences that the visible cells of one row allow, bool."""
    return ((seen == SENTENCES) | (seen == MASK)).all(1).numpy()


def partly_masked(n: int, seed: int) -> torch.Tensor:
    tokens = SMALL.sample(n, seed).tokens
    return tokens.masked_fill(Stream.of(seed, n).uniform(0, Purpose.MASK, SMALL.length) < 0.4, MASK)


def worst_posterior(language: HiddenLanguage) -> float:
    """Largest distance of its posteriors from the enumeration of SMALL, over rows with and without masks."""
    rows = torch.cat([SENTENCES[::17], partly_masked(30, 5)])
    known = language.posterior(rows)
    paths = np.array(list(product(range(SMALL.classes), repeat=SMALL.length)))
    worst = 0.0
    for row, seen in enumerate(rows):
        law = joint()[..., agreeing(seen)].sum(-1)
        law /= law.sum()
        classes = np.array([[law[..., paths[:, i] == c].sum() for c in range(3)] for i in range(SMALL.length)])
        for ours, theirs in (
            (known.topic[row], law.sum((1, 2))),
            (known.agreement[row], law.sum((0, 2))),
            (known.classes[row], classes),
        ):
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()))
    return worst


def turned(language: HiddenLanguage) -> HiddenLanguage:
    """A planted bug: the classes' matrix the wrong way round."""
    twin = replace(language)
    twin.__dict__["law"] = language.law._replace(step=language.law.step.T.copy())
    return twin


def test_posteriors_are_those_of_enumeration():
    assert worst_posterior(SMALL) < 1e-12
    assert worst_posterior(turned(SMALL)) > 1e-2


def test_log_prob_is_that_of_enumeration_and_sums_to_one():
    law = joint().sum((0, 1, 2))
    np.testing.assert_allclose(SMALL.log_prob(SENTENCES).exp().numpy(), law, rtol=1e-12)
    assert math.isclose(law.sum(), 1.0, rel_tol=1e-12)
    seen = partly_masked(20, 6)
    expected = [law[agreeing(row)].sum() for row in seen]
    np.testing.assert_allclose(SMALL.log_prob(seen).exp().numpy(), expected, rtol=1e-12)


def test_masked_log_prob_is_that_of_enumeration():
    clean = SMALL.sample(40, 8).tokens
    masked = Stream.of(9, 40).uniform(0, Purpose.MASK, SMALL.length) < 0.5
    masked[0] = True  # with nothing visible it is the marginal
    ours, twins = SMALL.masked_log_prob(clean, masked), turned(SMALL).masked_log_prob(clean, masked)
    law, off = joint().sum((0, 1, 2)), 0.0
    for row, at in zip(*torch.nonzero(masked, as_tuple=True)):
        seen = clean[row].masked_fill(masked[row], MASK)
        alone = seen.clone()
        alone[at] = clean[row, at]
        expected = math.log(law[agreeing(alone)].sum() / law[agreeing(seen)].sum())
        assert math.isclose(ours[row, at], expected, abs_tol=1e-12)
        off = max(off, abs(twins[row, at].item() - expected))
    assert off > 1e-2
    assert (ours[~masked] == 0).all()


def test_samples_have_the_frequencies_of_the_law():
    n = 40_000
    drawn = SMALL.sample(n, 1)
    place = SMALL.words ** torch.arange(SMALL.length).flip(0)
    number = ((drawn.tokens - FIRST) * place).sum(1)
    hidden = drawn.topic * 2 + drawn.agreement
    for index, law in (
        (number, joint().sum((0, 1, 2))),
        (hidden * len(SENTENCES) + number, joint().sum(2)),
        (hidden * 81 + (drawn.classes * 3 ** torch.arange(4).flip(0)).sum(1), joint().sum(3)),
    ):
        truth = torch.from_numpy(law.ravel().copy())
        floor = noise_floor(truth, n)
        got = torch.bincount(index, minlength=len(truth)).double() / n
        assert total_variation(got, truth) < floor.mean + 5 * floor.sd
    wrong = turned(SMALL).log_prob(SENTENCES).exp()
    got = torch.bincount(number, minlength=len(wrong)).double() / n
    assert total_variation(got, wrong) > 2 * noise_floor(wrong, n).mean


def test_samples_are_a_pure_function_of_the_seed():
    language = HiddenLanguage()
    first, again, other = (language.sample(5, seed) for seed in ((1, 0, 7), (1, 0, 7), (1, 0, 8)))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.tokens, other.tokens)
    assert (first.tokens >= FIRST).all() and (first.tokens < language.alphabet.size).all()
    assert torch.equal(HiddenLanguage().sample(5, (1, 0, 7)).tokens, first.tokens)
    assert not torch.equal(HiddenLanguage(1).sample(5, (1, 0, 7)).tokens, first.tokens)


def miscalibration(language: HiddenLanguage, n: int = 1500) -> float:
    """Largest |z| of (was so) - (said so), over the deciles of what was said of classes; sentences are independent."""
    drawn = HiddenLanguage().sample(n, 4)
    said = language.posterior(drawn.tokens).classes
    was = torch.nn.functional.one_hot(drawn.classes, language.classes)
    worst = 0.0
    for low in torch.arange(10) / 10:
        cells = (said >= low) & (said < low + 0.1)
        error = torch.where(cells, was - said, 0.0).sum((1, 2))
        worst = max(worst, float(error.sum().abs() / error.square().sum().sqrt()))
    return worst


def test_the_posterior_is_calibrated():
    assert miscalibration(HiddenLanguage()) < 4
    assert miscalibration(turned(HiddenLanguage())) > 20


def test_the_default_language_leaves_room_for_context():
    language = HiddenLanguage()
    drawn = language.sample(1500, 2)
    word, sentence = language.word_accuracy(drawn), language.oracle_accuracy(drawn)
    rate = language.entropy_rate(1000)
    assert 4.0 < rate.value < 4.5 and rate.stderr < 0.02
    assert word.classes.value < 0.45 and sentence.classes.value > 0.85
    assert word.topic.value < 0.40 and sentence.topic.value > 0.90
    assert 0.3 < float(language.ambiguous(drawn.tokens).double().mean()) < 0.8
    # more context never hurts the expected log-likelihood: hide 15 %, hide 60 %
    uniform = Stream.of(1, 300).uniform(0, Purpose.MASK, language.length)
    tokens, cells = drawn.tokens[:300], uniform < 0.15
    little, much = (-language.masked_log_prob(tokens, uniform < share)[cells].mean().item() for share in (0.15, 0.6))
    assert little < much < math.log(language.words)
    assert little < rate.value, "both sides tell more than the past alone"


def test_word_accuracy_is_the_best_a_table_of_words_can_do():
    language = HiddenLanguage()
    drawn = language.sample(2000, 3)
    at = language.ambiguous(drawn.tokens)
    counts = torch.zeros(language.words, language.classes)
    counts.index_put_((drawn.tokens[at] - FIRST, drawn.classes[at]), torch.ones(int(at.sum())), accumulate=True)
    hindsight = (counts.max(1).values.sum() / counts.sum()).item()  # fitted on these very tokens, so a little higher
    known = language.word_accuracy(drawn).classes
    assert known.value - 4 * known.stderr < hindsight < known.value + 0.03


def test_accuracy_counts_ambiguous_tokens_only():
    language = HiddenLanguage()
    drawn = language.sample(50, 5)
    at = language.ambiguous(drawn.tokens)
    right = drawn.topic[:, None].expand_as(drawn.tokens)
    perfect = language.accuracy(drawn, torch.where(at, drawn.classes, -1), torch.where(at, right, -1))
    nothing = language.accuracy(drawn, torch.where(at, -1, drawn.classes), torch.where(at, -1, right))
    assert [x.value for x in (*perfect, *nothing)] == [1, 1, 0, 0]


def test_padding_lies_outside_the_language():
    with pytest.raises(AssertionError, match="words and masks"):
        SMALL.log_prob(torch.full((1, 4), PAD))
