"""The probe against scikit-learn, and on trunks that know everything or the word alone."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from recipes.hidden_language import HiddenLanguage
from recipes.hidden_probe import PENALTY, Probe, logistic


def test_logistic_is_multinomial_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = torch.Generator().manual_seed(0)
    x = torch.randn(900, 7, generator=rng, dtype=torch.float64) * torch.arange(1, 8) + 3
    teacher = torch.randn(7, 6, generator=rng, dtype=torch.float64)
    noise = torch.randn(900, 6, generator=rng, dtype=torch.float64)
    scores = (x - x.mean(0)) / x.std(0) @ teacher + noise
    labels = [scores[:, :4].argmax(1), scores[:, 4:].argmax(1)]
    for y, ours in zip(labels, logistic(x[:600], [y[:600] for y in labels], x[600:], iterations=300)):
        z = (x - x[:600].mean(0)) / x[:600].std(0)
        theirs = LogisticRegression(C=1 / (PENALTY * 600), tol=1e-10, max_iter=5000).fit(z[:600], y[:600])
        assert (torch.from_numpy(theirs.predict(z[600:])) == ours).double().mean() > 0.995
        assert (ours == y[600:]).double().mean() > 0.6


class Knows:
    """A trunk whose hidden states are the posterior's logarithms."""

    def __init__(self, language: HiddenLanguage):
        self.language = language

    def hidden(self, tokens):
        known = self.language.posterior(tokens)
        topic = known.topic[:, None].expand(*tokens.shape, -1)
        return torch.cat([known.classes, topic], 2).clamp(min=1e-4).log()


class Word:
    """A trunk that says which word it sees."""

    def __init__(self, language: HiddenLanguage):
        self.size = language.alphabet.size

    def hidden(self, tokens):
        return one_hot(tokens, self.size).float()


def test_a_probe_reads_what_is_there_and_no_more():
    language = HiddenLanguage()
    probe = Probe(language, sentences=400)
    word, sentence = (f(probe.test[0]) for f in (language.word_accuracy, language.oracle_accuracy))
    all_known, word_known = probe(Knows(language)), probe(Word(language))
    for known, ceiling in zip(all_known, sentence):
        assert ceiling.value - 0.02 < known.value <= ceiling.value + 0.005
    for known, floor in zip(word_known, word):
        assert floor.value - 0.06 < known.value < floor.value + 4 * floor.stderr


def test_fitted_and_tested_text_differ_and_cells_are_ambiguous():
    language = HiddenLanguage()
    probe = Probe(language, sentences=50, cells=3)
    (fit, few), (test, at) = probe.fit, probe.test
    assert not torch.equal(fit.tokens, test.tokens)
    assert (few.sum(1) <= 3).all() and few.sum() > 140
    assert language.ambiguous(fit.tokens)[few].all()
    assert torch.equal(at, language.ambiguous(test.tokens))
    again = Probe(HiddenLanguage(), sentences=50, cells=3)
    assert torch.equal(again.fit[1], few) and torch.equal(again.test[0].tokens, test.tokens)
