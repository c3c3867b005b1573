"""BLEU and chrF are sacrebleu's; their errors are those of resampled sentences."""

import math
import sys

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU

from remask.core.errors import BadInput, MissingExtra
from remask.translate.scores import resampled, scores

WORDS = ["der", "die", "das", "Haus", "Hund", "geht", "schläft", "nicht", "heute", "morgen", ",", ".", "gern"]


def corpus(n, seed, wrong=0.3):
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for _ in range(n)]
    outputs = [" ".join(w if rng.random() > wrong else rng.choice(WORDS) for w in r.split()) for r in references]
    return outputs, references


def test_they_equal_sacrebleu():
    outputs, references = corpus(60, 0)
    found = scores(outputs, references)
    bleu, chrf = sacrebleu.corpus_bleu(outputs, [references]), sacrebleu.corpus_chrf(outputs, [references])
    assert found.bleu.estimate.value == pytest.approx(bleu.score, abs=1e-12)
    assert found.chrf.estimate.value == pytest.approx(chrf.score, abs=1e-12)
    assert 20 < bleu.score < 80
    assert found.bleu.signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "nc:6|nw:0" in found.chrf.signature
    assert found.bleu.estimate.n == 60


def test_the_tokenizer_can_be_chosen():
    outputs, references = corpus(20, 1)
    found = scores(outputs, references, tokenize="char")
    assert found.bleu.estimate.value == pytest.approx(
        sacrebleu.corpus_bleu(outputs, [references], tokenize="char").score
    )
    with pytest.raises(BadInput, match="13a"):
        scores(outputs, references, tokenize="nonsense")


def test_the_error_is_the_spread_of_fresh_corpora():
    """Against the truth: other sentences from the same source of sentences."""
    fresh = [corpus(40, seed) for seed in range(80)]
    spread = np.std([sacrebleu.corpus_bleu(outputs, [references]).score for outputs, references in fresh])
    found = [scores(*one).bleu.estimate.stderr for one in fresh[:4]]
    assert np.mean(found) == pytest.approx(spread, rel=0.3)


def test_the_interval_is_sacrebleus_own():
    outputs, references = corpus(80, 3)
    found = scores(outputs, references).bleu
    theirs = BLEU().corpus_score(outputs, [references], n_bootstrap=1000)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert low < found.estimate.value < high


def test_the_same_numbers_every_time_and_no_more_memory_than_needed():
    outputs, references = corpus(30, 4)
    assert scores(outputs, references) == scores(outputs, references)
    table = np.array(BLEU()._extract_corpus_statistics(outputs, [references]), dtype=float)
    assert len(resampled(BLEU(), table, resamples=73)) == 73
    assert np.array_equal(resampled(BLEU(), table, 50), resampled(BLEU(), table, 100)[:50])


def test_edges():
    perfect = scores(["ein Hund schläft heute gern"], ["ein Hund schläft heute gern"]).bleu.estimate
    assert perfect.value == pytest.approx(100)
    assert math.isnan(perfect.stderr)
    empty = scores(["", ""], ["ein Hund", "zwei Hunde"])
    assert empty.bleu.estimate.value == empty.chrf.estimate.value == 0
    with pytest.raises(BadInput, match="2 translations came with 1"):
        scores(["a", "b"], ["a"])
    with pytest.raises(BadInput, match="0 translations"):
        scores([], [])


def test_without_sacrebleu_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtra, match=r"remask\[eval\]"):
        scores(["a"], ["a"])
