"""Automata: against plain walks over the transitions as they were given, text by text."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.automaton import Automaton
from remask.core.errors import BadInput

laws = settings(deadline=None, database=None, max_examples=60)
LONGEST = 4


class Plain:
    """The same machine, slow and plain: moves {(state, token): state}."""

    def __init__(self, states, size, moves, accept, start=0):
        self.states, self.size, self.moves, self.accept, self.start = states, size, moves, accept, start

    def path(self, text):
        """The states of a text, or None where it is not of the language."""
        path = [self.start]
        for token in text:
            if (path[-1], token) not in self.moves:
                return None
            path.append(self.moves[path[-1], token])
        return path if path[-1] in self.accept else None

    def texts(self, length):
        """Every text of the language with so many tokens."""
        return [text for text in product(range(self.size), repeat=length) if self.path(text)]

    def automaton(self):
        accept = torch.tensor([state in self.accept for state in range(self.states)])
        moves = torch.tensor([(s, t, n) for (s, t), n in self.moves.items()], dtype=torch.int64).view(-1, 3).T
        return Automaton.of(self.size, self.start, accept, *moves)


def random_plain(seed, states=4, size=4, share=0.5, spared=()):
    """Moves with probability `share` each, none that reads a token of `spared`; some language is left."""
    rng = np.random.default_rng(seed)
    tokens = [token for token in range(size) if token not in spared]
    while True:
        pairs = [pair for pair in product(range(states), tokens) if rng.random() < share]
        accept = set(np.flatnonzero(rng.random(states) < 0.4).tolist())
        plain = Plain(
            states, size, {pair: int(rng.integers(states)) for pair in pairs}, accept, int(rng.integers(states))
        )
        if any(plain.texts(length) for length in range(1, LONGEST)):
            return plain


def walk(automaton, text):
    """The state after a text, or None; by the groups."""
    moves = {(s, g): t for s, g, t in edges(automaton)}
    state = automaton.start
    for token in text:
        state = moves.get((state, int(automaton.group[token])))
        if state is None:
            return None
    return state


def accepts(automaton, text):
    state = walk(automaton, text)
    return state is not None and bool(automaton.accept[state])


@laws
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.floats(0.1, 0.9))
def test_the_same_language(seed, states, size, share):
    plain = random_plain(seed, states, size, share)
    automaton = plain.automaton()
    for length in range(LONGEST + 1):
        for text in product(range(size), repeat=length):
            assert accepts(automaton, text) == (plain.path(text) is not None)
    lengths = [length for length in range(LONGEST + 1) if plain.texts(length)]
    assert automaton.lengths(LONGEST) == lengths


def edges(automaton):
    """(source, group, target) of every transition."""
    return list(zip(*(x.tolist() for x in (automaton.source, automaton.label, automaton.target))))


@laws
@given(st.integers(0, 10**6), st.floats(0.2, 0.8))
def test_nothing_is_kept_that_no_text_goes_through(seed, share):
    automaton = random_plain(seed, share=share).automaton()
    reached = {automaton.start}
    for _ in range(automaton.states):
        reached |= {t for s, _, t in edges(automaton) if s in reached}
    assert reached == set(range(automaton.states)), "a state that cannot be reached"
    assert automaton.remaining(automaton.states).any(0).all(), "a state from which no text ends"
    assert {g for _, g, _ in edges(automaton)} == set(range(automaton.groups)), "a group that nothing reads"
    assert automaton.used.tolist() == torch.nonzero(automaton.group >= 0)[:, 0].tolist()
    assert automaton.source.tolist() == sorted(automaton.source.tolist())


@laws
@given(st.integers(0, 10**6))
def test_tokens_are_in_one_group_when_they_are_alike(seed):
    automaton = random_plain(seed, states=3, size=6).automaton()
    moves = [frozenset((s, t) for s, g, t in edges(automaton) if g == number) for number in range(automaton.groups)]
    assert len(set(moves)) == len(moves), "two groups that are alike"
    assert len({(s, g) for s, g, _ in edges(automaton)}) == len(automaton.source), "two moves for one group"


@laws
@given(st.integers(0, 10**6), st.integers(1, LONGEST))
def test_a_cell_holds_what_some_text_of_that_length_does_there(seed, width):
    plain = random_plain(seed)
    automaton = plain.automaton()
    texts = plain.texts(width)
    for place, cell in enumerate(automaton.cells(width)):
        moves = {(walk(automaton, text[:place]), text[place], walk(automaton, text[: place + 1])) for text in texts}
        found = {
            (s, token, t)
            for s, g, t in zip(cell.source.tolist(), cell.label.tolist(), cell.target.tolist())
            for token in cell.tokens[cell.group == g].tolist()
        }
        assert found == moves
        assert cell.tokens.tolist() == sorted({token for _, token, _ in moves})


def test_many_tokens_that_are_alike_are_one_transition():
    """Any of 1,000 words, then a point, twice: K is four, not two thousand."""
    words, point = range(1000), 1000
    moves = {(s, w): s + 1 for s in (0, 2) for w in words} | {(s, point): s + 1 for s in (1, 3)}
    automaton = Plain(5, 1200, moves, {4}).automaton()
    assert (automaton.states, automaton.groups, len(automaton.source), len(automaton.used)) == (5, 2, 4, 1001)
    assert repr(automaton) == "Automaton(5 states, 4 transitions, 1001 tokens)"
    assert automaton.lengths(10) == [4]


def test_another_device_is_the_same_automaton():
    automaton = random_plain(3).automaton()
    moved = automaton.to("meta")
    assert moved.accept.device.type == moved.used.device.type == "meta"
    assert moved.start == automaton.start
    assert automaton.to("cpu").lengths(6) == automaton.lengths(6)


def test_the_empty_text_is_a_language():
    automaton = Plain(1, 3, {}, {0}).automaton()
    assert (automaton.lengths(5), automaton.groups, len(automaton.used)) == ([0], 0, 0)


@pytest.mark.parametrize("moves", [{}, {(0, 1): 0}, {(1, 1): 2}, {(0, 1): 1}])
def test_a_language_without_texts_is_a_sentence(moves):
    with pytest.raises(BadInput, match="no text matches"):
        Plain(3, 3, moves, {2}).automaton()


def test_a_machine_with_two_minds_is_a_bug():
    accept = torch.tensor([False, True])
    with pytest.raises(ValueError, match="same token"):
        Automaton.of(3, 0, accept, torch.tensor([0, 0]), torch.tensor([2, 2]), torch.tensor([1, 0]))
