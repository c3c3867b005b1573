"""Exact modes: brute force says the same, the certificate is true exactly when it is given, and the gap is a bound."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.decoder import Budget
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders import exact_mode
from remask.decoders.beam import Beam, Rule
from remask.decoders.exact_mode import ExactMode, Node, Search
from remask.nets.causal_encoder_decoder import CausalEncoderDecoder
from remask.translate import left_to_right
from tests.decoders.laws import Watched, mode, random_law, score, spoken, table_law, texts, whole_law, written
from tests.translate.causal import TINY, sources, tiny

END, WIDE = 0, 4 * 3**3
LAWS = {
    "sharp": lambda seed, size: random_law(seed, size, 0.3),
    "flat": lambda seed, size: random_law(seed, size, 3.0),
    "long": lambda seed, size: random_law(seed, size, 3.0, ending=0.05),
    "uniform": lambda seed, size: random_law(seed, size, 0.0),
    "whole": whole_law,
}
small = {
    "kind": st.sampled_from(list(LAWS)),
    "seed": st.integers(0, 10_000),
    "size": st.integers(2, 4),
    "longest": st.integers(1, 6),
    "beam": st.sampled_from([0, 0, 1, 3]),
    "batch": st.sampled_from([1, 2, 16]),
}


def found(decoder, law, budget, prompt=(), model=None):
    """Text, log p, calls, certified and gap."""
    decoded = decoder(model or spoken(law), [list(prompt)], Stream.of(0, 1), budget)
    told = decoded.info
    return written(decoded)[0], float(decoded.log_prob), int(told.calls), bool(told.certified), float(told.gap)


def agrees(decoder, law, longest, prompt=()):
    """Whether the mode is that of brute force, certified, and scored as the model scores it."""
    best = mode(law, END, longest, prompt, decoder.length)
    budget = Budget(longest if decoder.length is None else decoder.length + 1)
    if best == -math.inf:
        with pytest.raises(BadInput, match="any probability"):
            found(decoder, law, budget, prompt)
        return True
    text, log_prob, _, certified, gap = found(decoder, law, budget, prompt)
    everything = {one.tokens: one.log_prob for one in texts(law, END, longest, prompt, decoder.length)}
    right = abs(log_prob - best) < 1e-9 and abs(everything[tuple(text)] - best) < 1e-9
    return right and certified and gap == 0.0 and abs(score(spoken(law), prompt, text) - log_prob) < 1e-9


@settings(max_examples=100, deadline=None)
@given(**small, prompt=st.lists(st.integers(1, 1), max_size=2))
def test_the_mode_of_all_texts_is_that_of_brute_force(kind, seed, size, longest, beam, batch, prompt):
    assert agrees(ExactMode(beam=beam, batch=batch), LAWS[kind](seed, size), longest, prompt)


@settings(max_examples=40, deadline=None)
@given(**small)
def test_so_is_the_mode_of_every_length(kind, seed, size, longest, beam, batch):
    for length in range(longest):
        assert agrees(ExactMode(length=length, beam=beam, batch=batch), LAWS[kind](seed, size), longest)


def test_all_texts_are_enumerated():
    """Their probabilities add up to one, those of the lengths and of what is cut too."""
    law = random_law(3, 3)
    every = texts(law, END, 5)
    assert math.fsum(math.exp(one.log_prob) for one in every) == pytest.approx(1)
    ended = [one for length in range(5) for one in texts(law, END, 5, length=length)]
    cut = [one for one in every if one.tokens[-1] != END]
    assert sorted(ended + cut) == sorted(every)
    assert len(every) == sum(2**n for n in range(5)) + 2**5


def test_modes_are_of_many_lengths():
    sizes = {len(found(ExactMode(), LAWS["sharp"](seed, 3), Budget(6))[0]) for seed in range(40)}
    assert sizes >= {1, 2, 3, 4, 6}


def viterbi(table, length, end=END):
    """Log p of the best text of a Markov chain of so many tokens; row: the token before, or the end."""
    best = table[end].copy()
    best[end] = -math.inf
    for _ in range(length - 1):
        best = (best[:, None] + table).max(0)
        best[end] = -math.inf
    return (best + table[:, end]).max()


@pytest.mark.parametrize("seed", range(3))
def test_modes_of_a_chain_are_those_of_dynamic_programming(seed):
    """Seven tokens out of five: 78 thousand texts, of which few are looked at."""
    table = np.log(np.random.default_rng(seed).dirichlet(np.full(6, 0.4), size=6))
    for length in (1, 3, 7):
        _, log_prob, calls, certified, _ = found(
            ExactMode(length=length), lambda prefix: table[prefix[-1] if prefix else END], Budget(length + 1)
        )
        assert certified
        assert log_prob == pytest.approx(viterbi(table, length), abs=1e-9)
        assert calls < 1_000


def test_the_empty_text_may_be_the_mode_and_a_length_brings_the_others_back():
    """Nine tenths of all texts have three tokens, but there are many of these; the best of them has p = 0.09 * 0.89."""
    rows = {(): {0: 0.1, **dict.fromkeys(range(1, 11), 0.09)}}
    rows |= {(k,): {1: 0.1 + 0.01 * k, 2: 0.9 - 0.01 * k} for k in range(1, 11)}
    rows |= {(k, j): {1: 1.0} for k in range(1, 11) for j in (1, 2)}
    law = table_law(11, END, rows)
    assert found(ExactMode(), law, Budget(4))[:2] == ([END], pytest.approx(math.log(0.1)))
    text, log_prob, *_ = found(ExactMode(length=3), law, Budget(4))
    assert text == [1, 2, 1, END]
    assert math.exp(log_prob) == pytest.approx(0.09 * 0.89)


def test_a_mode_with_its_end_is_that_of_longer_budgets():
    """What is cut bounds all that it could become."""
    for seed in range(20):
        law = random_law(seed, 3, 0.5)
        text, log_prob, *_ = found(ExactMode(), law, Budget(3))
        longer, more, *_ = found(ExactMode(), law, Budget(6))
        assert more <= log_prob
        assert text[-1] != END or longer == text


# ---- what is read ----------------------------------------------------------------------------------------------------


def audit(law, decoder, budget):
    """Every prefix that is read has, when it is read, more log p than the best whole text so far; None or the first."""
    model = Watched(spoken(law))
    found(decoder, law, budget, model=model)
    assert len(model.read) == len(set(model.read)), "a prefix was read twice"
    best = -math.inf
    for prefix in model.read:
        log_prob = math.fsum(law(prefix[:n])[prefix[n]] for n in range(len(prefix)))
        if log_prob <= best:
            return prefix
        last = len(prefix) + 1 == budget.tokens
        best = max(best, log_prob + (max(law(prefix)) if last else law(prefix)[END]))
    return None


TIED = [whole_law(seed, 3, 1) for seed in range(20)]  # after many prefixes there is one token that can come


def test_nothing_is_read_that_cannot_lead_to_something_better():
    assert all(audit(law, ExactMode(beam=0, batch=1), Budget(5)) is None for law in TIED)


class Patient(Search):
    """The planted bug: goes into what is as good as the best, too."""

    def worth(self, bounds):
        return bounds >= self.log_prob


def test_pruning_that_keeps_ties_is_caught(monkeypatch):
    monkeypatch.setattr(exact_mode, "Search", Patient)
    assert any(audit(law, ExactMode(beam=0, batch=1), Budget(5)) is not None for law in TIED)


class Hasty(Search):
    """The planted bug: leaves out what is hardly better than the best."""

    def worth(self, bounds):
        return bounds > self.log_prob + 0.3


def test_pruning_too_much_is_caught(monkeypatch):
    monkeypatch.setattr(exact_mode, "Search", Hasty)
    assert not all(agrees(ExactMode(beam=0), LAWS["long"](seed, 3), 5) for seed in range(30))


def test_an_end_that_is_banned_with_renormalising_is_caught(monkeypatch):
    plain = Rule.__call__

    def renormalised(self, log_prob, written):
        return plain(self, log_prob, written).log_softmax(1) if self.length is not None else log_prob

    monkeypatch.setattr(Rule, "__call__", renormalised)
    assert agrees(ExactMode(), LAWS["flat"](0, 3), 4)
    assert not agrees(ExactMode(length=3), LAWS["flat"](0, 3), 4)


# ---- budgets ---------------------------------------------------------------------------------------------------------


def sweep(decoder, law, tokens):
    """Every budget from one node to one that is not used up: nodes, and answer or None."""
    free, nodes = found(decoder, law, Budget(tokens))[2], 0
    while True:
        nodes += 1
        try:
            answer = found(decoder, law, Budget(tokens, nodes))
        except BadInput:
            answer = None
        yield nodes, answer
        if answer is not None and nodes > free and answer[2] < nodes:
            return


def check_budgets(decoder, law, longest, dead_ends=False):
    """Certified exactly when the search ended; else the truth is at most `gap` better; no budget is overspent.

    Returns in how many budgets something was left open.
    """
    truth = mode(law, END, longest, length=decoder.length)
    tokens, uncertain = longest if decoder.length is None else decoder.length + 1, 0
    for nodes, answer in sweep(decoder, law, tokens):
        if answer is None:
            assert nodes < tokens or dead_ends, "a text fits and none was found"
            continue
        _, log_prob, calls, certified, gap = answer
        assert calls <= nodes, "more was read than the budget holds"
        assert truth <= log_prob + gap + 1e-9, f"a text is better by {truth - log_prob} and the gap is {gap}"
        assert certified == (gap == 0.0)
        assert certified or calls == nodes, "the search stopped with nodes to spend"
        assert not certified or log_prob == pytest.approx(truth, abs=1e-9), "certified, and there is a better text"
        uncertain += not certified
    assert certified, "no budget was enough"
    return uncertain


@settings(max_examples=20, deadline=None)
@given(**small, length=st.sampled_from([None, None, 1, 2, 3]))
def test_every_budget_is_kept_and_tells_the_truth(kind, seed, size, longest, beam, batch, length):
    law = LAWS[kind](seed, size)
    if mode(law, END, min(longest, 4), length=length) > -math.inf:
        check_budgets(ExactMode(length=length, beam=beam, batch=batch), law, min(longest, 4), kind == "whole")


FLAT = [(LAWS["long"](seed, 3), batch) for seed in range(5) for batch in (1, 4)]


def test_most_budgets_leave_something_open():
    assert sum(check_budgets(ExactMode(beam=0, batch=batch), law, 4) for law, batch in FLAT) > 40


def test_the_flag_is_true_exactly_when_nothing_better_is_left_unread():
    """The prefixes that were read tell by themselves what is open: their children, where these beat the text found."""
    flags = []
    for law, batch in FLAT:
        for nodes in (1, 3, 6, 10, 20, 200):
            model = Watched(spoken(law))
            _, best, _, certified, gap = found(ExactMode(beam=0, batch=batch), law, Budget(4, nodes), model=model)
            sums = {prefix: sum(law(prefix[:n])[prefix[n]] for n in range(len(prefix))) for prefix in model.read}
            longer = {(*prefix, t): total + law(prefix)[t] for prefix, total in sums.items() for t in (1, 2)}
            unread = [total for one, total in longer.items() if one not in sums and len(one) < 4 and total > best]
            assert certified == (not unread)
            assert certified or gap == pytest.approx(max(unread) - best, abs=1e-12)
            flags.append(certified)
    assert 10 < sum(flags) < len(flags) - 10


def test_a_gap_that_forgets_what_was_read_and_not_gone_into_is_caught(monkeypatch):
    def bound(self):
        return max(self.bounds[self.at : self.at + 1].tolist(), default=-math.inf)

    monkeypatch.setattr(Node, "bound", property(bound))
    with pytest.raises(AssertionError, match=r"a text is better|certified|calls"):
        for law, batch in FLAT:
            check_budgets(ExactMode(beam=0, batch=batch), law, 5)


def test_the_beam_helps_the_search_and_may_be_proof_enough():
    """What a beam has found need not be searched for, and where it dropped nothing better nothing is searched."""
    law = random_law(5, 4, 0.2)
    alone, proved = found(ExactMode(beam=0, batch=1), law, Budget(6)), found(ExactMode(beam=50), law, Budget(6))
    wide = found(Beam(beam=50), law, Budget(6))
    assert alone[:2] == proved[:2] == wide[:2]
    assert proved[2:] == wide[2:] == (wide[2], True, 0.0)


# ---- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_mode_of_a_translation_is_that_of_a_beam_that_drops_nothing(seed):
    source, attend = sources(3, 5, TINY, seed)
    net = tiny(seed)
    whole = left_to_right.beam(net, source, attend, TINY, 4, WIDE, 0.0)
    rows = [row[seen][:-1].tolist() for row, seen in zip(source, attend)]
    decoded = ExactMode()(CausalEncoderDecoder(net, TINY, 8), rows, Stream.of(0, 3), Budget(4))
    assert decoded.texts(TINY.end) == whole.tokens
    assert torch.allclose(decoded.log_prob, whole.log_prob, atol=1e-9)
    assert decoded.info.certified.all()


# ---- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be():
    law = random_law(0, 3)
    for fields, said in (({"length": -1}, "--length"), ({"beam": -1}, "--beam 0"), ({"batch": 0}, "--batch 1")):
        with pytest.raises(BadInput, match=said):
            ExactMode(**fields)
    with pytest.raises(BadInput, match=r"length of 4 came, .* 5 tokens .* holds 4 tokens"):
        found(ExactMode(length=4), law, Budget(4))
    with pytest.raises(BadInput, match=r"5 tokens and as many nodes.* holds 9 tokens and 4 nodes"):
        found(ExactMode(length=4), law, Budget(9, 4))
    endless = table_law(3, END, {(1,) * n: {1: 1.0} for n in range(5)})
    with pytest.raises(BadInput, match="2 nodes was spent before one text was whole: type --budget 4"):
        found(ExactMode(), endless, Budget(4, 2))
    with pytest.raises(BadInput, match="no text of 2 tokens has any probability"):
        found(ExactMode(length=2), endless, Budget(4))
    assert found(ExactMode(), endless, Budget(4)) == ([1, 1, 1, 1], 0.0, 4, True, 0.0)


def test_a_length_that_just_fits_is_found():
    for seed in range(10):
        text, log_prob, calls, *_ = found(ExactMode(length=3), random_law(seed, 4), Budget(4, 4))
        assert len(text) == calls == 4
        assert log_prob > -math.inf


def test_a_length_of_nothing():
    law = random_law(1, 3)
    assert found(ExactMode(length=0), law, Budget(1, 1)) == ([END], pytest.approx(law(())[END]), 1, True, 0.0)
