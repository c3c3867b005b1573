"""Patterns: regular expressions and lists of texts, as automata over the tokens of a vocabulary.

A pattern is first an automaton over bytes: outlines-core compiles regular expressions (Willard & Louf 2023, arXiv
2307.09702), lists of texts become a graph of their letters that shares beginnings and ends (Daciuk et al. 2000). Every
token is then walked through it from every state. The bytes are walked here and not in outlines-core, so that a state in
which the vocabulary is at a loss only costs the texts that lead through it.

Expressions are those of Rust's regex crate, always about the whole text, without look-around, back-references and
\\b. [0-9] is what it says; \\d and \\w are the digits and letters of every script, which makes hundreds of states, and
as many again for every turn of a counted repeat. Shapes: S states.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from remask.core.automaton import Automaton
from remask.core.errors import BadInput, MissingExtra
from remask.data.spelling import speller
from remask.data.tokenizers import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["from_regex", "from_strings", "lead_of"]

EOS = 256  # outlines-core wants an id for the end of a text
LAST = "\U0010ffff"  # put behind a pattern: the one character (no text has it) that an expression cannot speak of
MOST = 10_000_000  # transitions between tokens, before they are put in groups: two gigabytes while they are made
CHUNK = 1 << 22  # pairs of a state and a token looked at together
PROBE = "A"  # a letter of every vocabulary


class Bytes(NamedTuple):
    """An automaton over bytes. after: [S, 256] int32, the next state, -1 = none; accept: [S] bool."""

    start: int
    after: np.ndarray
    accept: np.ndarray


def from_regex(
    pattern: str, spelling: Sequence[bytes | None], *, lead: bytes = b"", banned: frozenset[int] = frozenset()
) -> Automaton:
    """The token strings that spell `lead` and then a text that `pattern` matches from its first letter to its last.

    spelling: the bytes of each id; banned: ids that may not occur. Raises MissingExtra without outlines-core, BadInput
    for what is no pattern, for one that nothing matches or that the vocabulary cannot spell, and for one too large.
    Large counted repeats ({0,50} and more) after alternatives can take minutes to compile.
    """
    return _tokens(_after(lead, _compiled(pattern)), spelling, banned, f"the pattern '{pattern}'")


def from_strings(
    strings: Iterable[str], spelling: Sequence[bytes | None], *, lead: bytes = b"", banned: frozenset[int] = frozenset()
) -> Automaton:
    """The token strings that spell `lead` and then one of the `strings`.

    Raises BadInput for no string at all, and for one that the vocabulary cannot spell.
    """
    texts = sorted({lead + text.encode() for text in strings})
    if not texts:
        raise BadInput("a list of texts came empty: give at least one text.")
    words = {word for number, word in enumerate(spelling) if word and number not in banned}
    longest = max(map(len, words), default=0)
    for text in texts:
        if not _spellable(text, words, longest):
            raise BadInput(
                f"the vocabulary cannot spell '{text.decode()}': write it as the tokenizer does, or leave it out."
            )
    return _tokens(_graph(texts), spelling, banned, f"one of {len(texts)} texts")


def lead_of(tokenizer: PreTrainedTokenizerFast, before: str) -> bytes:
    """What a gap after the text `before` must begin with: the space that its mask swallows, or that words come with.

    Ours and RoBERTa's masks take the space before them; WordPiece has no word without one.
    """
    spell, special = speller(tokenizer), set(tokenizer.all_special_ids)

    def spelled(ids: list[int]) -> bytes:
        return b"".join(b"\0" if i in special else spell(tokenizer.convert_ids_to_tokens(i)) for i in ids)

    for text in (before, PROBE + before[len(before.rstrip()) :]):
        word, gap = (one.ids for one in encode(tokenizer, [text + PROBE, text + tokenizer.mask_token], special=True))
        whole, begun = spelled(word), spelled(gap[:-1])
        lead = whole[len(begun) : -len(PROBE)]
        blank = not lead.decode(errors="replace").strip()  # of any script: a no-break space is two bytes
        if whole.startswith(begun) and whole[-len(PROBE) :].upper() == PROBE.encode() and blank:
            return lead
    return b""


def _compiled(pattern: str) -> Bytes:
    try:
        import outlines_core
    except ImportError as error:
        raise MissingExtra("outlines_core", "pattern", "a pattern") from error
    whole = pattern.removeprefix("^")  # it means the whole text anyway
    if re.search(r"(?<!\\)(\\\\)*\$$", whole):
        whole = whole[:-1]
    # outlines-core 0.2.14 loses most of what goes on from a state in which a text may end ((ab)* matches only "",
    # 1(\.5)? only 1): with LAST behind it no text ends before LAST
    try:
        bytewise = outlines_core.Vocabulary(EOS, {bytes([value]): [value] for value in range(EOS)})
        index = outlines_core.Index(f"(?:{whole}){LAST}", bytewise)
    except ValueError as error:
        raise BadInput(f"'{pattern}' cannot be used as a pattern: {_reason(whole, str(error))}.") from error
    transitions = index.get_transitions()
    number = {state: place for place, state in enumerate(sorted(transitions))}
    after = np.full((len(number) + 1, EOS + 1), -1, dtype=np.int32)  # the last row: no state, from which nothing goes
    for state, goes in transitions.items():
        after[number[state], list(goes)] = [number[other] for other in goes.values()]
    accept = np.zeros(len(after), dtype=bool)
    accept[[number[state] for state in index.get_final_states()]] = True
    ends = np.arange(len(number))
    for value in LAST.encode():
        ends = after[ends, value]
    return Bytes(number[index.get_initial_state()], after[:-1, :EOS], accept[ends])


def _reason(pattern: str, said: str) -> str:
    """Why a pattern was refused; Python's own parser names the place where outlines-core does not."""
    if "no transitions" in said:
        return "nothing can match all of it; look for ^ or $ inside it, or an empty [...]"
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except re.error as error:
        return str(error)
    return "look-around, back-references, ^, $ and \\b have no automaton; write without them what the whole text may be"


def _graph(texts: list[bytes]) -> Bytes:
    """Their letters; states with the same future are one."""
    children: list[dict[int, int]] = [{}]
    ends: set[int] = set()
    for text in texts:
        state = 0
        for letter in text:
            if letter not in children[state]:
                children[state][letter] = len(children)
                children.append({})
            state = children[state][letter]
        ends.add(state)
    same: dict[tuple, int] = {}
    place = [0] * len(children)
    for state in reversed(range(len(children))):  # children come after their parents
        future = (state in ends, *((letter, place[child]) for letter, child in sorted(children[state].items())))
        place[state] = same.setdefault(future, len(same))
    after = np.full((len(same), EOS), -1, dtype=np.int32)
    for (_, *goes), state in same.items():
        for letter, child in goes:
            after[state, letter] = child
    return Bytes(place[0], after, np.array([future[0] for future in same]))


def _spellable(text: bytes, words: set[bytes], longest: int) -> bool:
    """Is it a string of words?"""
    reached = [True] + [False] * len(text)
    for end in range(1, len(text) + 1):
        reached[end] = any(reached[i] and text[i:end] in words for i in range(max(0, end - longest), end))
    return reached[-1]


def _after(lead: bytes, machine: Bytes) -> Bytes:
    """The same texts with `lead` before each."""
    start, after, accept = machine
    for letter in reversed(lead):
        row = np.full((1, EOS), -1, dtype=np.int32)
        row[0, letter] = start
        start, after, accept = len(after), np.concatenate([after, row]), np.append(accept, False)
    return Bytes(start, after, accept)


def _tokens(machine: Bytes, spelling: Sequence[bytes | None], banned: frozenset[int], name: str) -> Automaton:
    """The token strings whose bytes the machine accepts."""
    words = [(word, number) for number, word in enumerate(spelling) if word and number not in banned]
    if not words:
        raise BadInput("the vocabulary has no token left that may be written: ban fewer tokens.")
    words.sort()
    ids = np.array([number for _, number in words])
    widths = np.array([len(word) for word, _ in words])
    flat = np.frombuffer(b"".join(word for word, _ in words), dtype=np.uint8)
    places = np.cumsum(widths) - widths
    found = [np.zeros((3, 0), dtype=np.int32)]
    count = 0
    first = np.bincount(flat[places], minlength=EOS)  # tokens by their first byte
    pairs = ((machine.after >= 0) @ first).cumsum()
    for states in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(pairs // CHUNK)) + 1):
        source, word, state = _begun(machine.after, states, first)
        depth = 1
        while len(word):
            ends = widths[word] == depth
            found.append(np.stack([source[ends], ids[word[ends]], state[ends]]).astype(np.int32))
            count += int(ends.sum())
            if count > MOST:
                raise BadInput(f"{name} needs more than {MOST:,} transitions: shorten its repeats.")
            source, word, state = source[~ends], word[~ends], state[~ends]
            state = machine.after[state, flat[places[word] + depth]]
            goes = state >= 0
            source, word, state, depth = source[goes], word[goes], state[goes], depth + 1
    source, token, target = torch.from_numpy(np.concatenate(found, axis=1)).long()
    try:
        return Automaton.of(len(spelling), machine.start, torch.from_numpy(machine.accept), source, token, target)
    except BadInput as error:
        raise BadInput(
            f"the vocabulary cannot spell any text that matches {name}: write it as the tokenizer does (lower case? "
            "a space before a word?)."
        ) from error


def _begun(after: np.ndarray, states: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every state, token and next state such that the state can read the first byte of the token.

    first: [256] how many tokens begin with each byte; tokens are numbered in the order of their bytes.
    """
    row, letter = np.nonzero((after[states] >= 0) & (first > 0))
    count = first[letter]
    start = np.cumsum(first)[letter] - count
    word = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - start, count)
    return np.repeat(states[row], count), word, np.repeat(after[states[row], letter], count)
