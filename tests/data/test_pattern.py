"""Patterns: the token strings of an automaton are those whose text Python's own `re` matches; so is every fill."""

import re
import sys
from importlib.util import find_spec
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remask.core.canvas import blank, infill
from remask.core.conditional import Visible
from remask.core.constrain import Constrained, Span
from remask.core.errors import BadInput, MissingExtra
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.data import tokenizers
from remask.data.pattern import from_regex, from_strings, lead_of
from remask.data.spelling import spelling
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests.core.test_automaton import accepts
from tests.data.test_spelling import built
from tests.data.test_tokenizers import TEXTS

laws = settings(deadline=None, database=None, max_examples=80)
needs_compiler = pytest.mark.skipif(find_spec("outlines_core") is None, reason="outlines-core is not installed")
# A part of é, two ids for "b", one that is special, and a gap: 6 and 9 must never occur.
SPELLED = [b"a", b"b", b"ab", b"ba", "é".encode(), b"\xc3", None, b"\xa9", b"b", b"", b"aab"]


def texts_of(automaton, longest, spelled=SPELLED):
    """Every token string of an automaton up to a length, as bytes, with repetition where there are several."""
    for length in range(longest + 1):
        for text in product(range(len(spelled)), repeat=length):
            if accepts(automaton, text):
                yield b"".join(spelled[token] for token in text)


def check_language(automaton, longest, wanted, spelled=SPELLED):
    """Exactly the token strings whose bytes are wanted, in every way that they can be spelled."""
    usable = [token for token, word in enumerate(spelled) if word]
    for length in range(longest + 1):
        for text in product(usable, repeat=length):
            assert accepts(automaton, text) == wanted(b"".join(spelled[token] for token in text)), text
    assert set(automaton.used.tolist()) <= set(usable)


def matches(pattern):
    """Does Python's `re` match the whole of some bytes?"""
    compiled = re.compile(pattern)

    def match(text):
        try:
            return compiled.fullmatch(text.decode()) is not None
        except UnicodeDecodeError:
            return False

    return match


# ---- regular expressions ---------------------------------------------------------------------------------------------


def expressions():
    letters = st.sampled_from(["a", "b", "é", ".", "[ab]", "[^a]", "ab", "b?", ""])
    wrapped = lambda inner: st.one_of(  # noqa: E731
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,1}"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
    )
    return st.recursive(letters, wrapped, max_leaves=5)


@needs_compiler
@laws
@given(expressions())
@example("(ab)*")
@example("a(é)?")
@example("a*?b|(ba)+$")
@example("^a|ab$")
@example(".*")
def test_an_expression_matches_what_python_matches(pattern):
    """Texts that may end or go on among them: outlines-core loses those when it is asked without care."""
    check_language(from_regex(pattern, SPELLED), 3, matches(pattern))


@needs_compiler
def test_the_compiler_alone_would_lose_texts():
    """Why `LAST` is there; when this fails, outlines-core has been mended and `LAST` may go."""
    import outlines_core

    index = outlines_core.Index("(ab)*", outlines_core.Vocabulary(9, {b"a": [0], b"b": [1]}))
    assert list(index.get_transitions()[index.get_initial_state()]) == [9], "only the end: no 'a'"
    assert from_regex("(ab)*", [b"a", b"b"]).lengths(6) == [0, 2, 4, 6]


@needs_compiler
def test_digits_are_those_of_any_script_unless_they_are_listed():
    digits = [b"3", "٣".encode(), b"x"]
    assert from_regex(r"\d", digits).used.tolist() == [0, 1]
    assert from_regex("[0-9]", digits).used.tolist() == [0]


@needs_compiler
def test_two_ways_to_spell_a_text_are_two_token_strings():
    found = sorted(texts_of(from_regex("aab", SPELLED), 3))
    assert found == [b"aab"] * 4  # aab, a+ab, a+a+b with either b


@needs_compiler
def test_what_must_come_first_and_what_is_banned():
    automaton = from_regex("(ab|é)+", [*SPELLED, b" ", b" a", b" \xc3"], lead=b" ", banned=frozenset((0, 4)))
    spelled = [*SPELLED, b" ", b" a", b" \xc3"]
    assert not {0, 4} & set(automaton.used.tolist())
    found = set(texts_of(automaton, 3, spelled))
    assert {b" ab", " é".encode(), " éab".encode(), " éé".encode()} & found == {b" ab", " é".encode(), " éab".encode()}
    assert all(re.fullmatch(" (ab|é)+", text.decode()) for text in found)


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", r"'\(a' cannot be used as a pattern: missing \)"),
        ("[b-a]", "bad character range"),
        ("a{3,2}", "min repeat greater than max repeat"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "back-references"),
        (r"a\b", "look-around, back-references"),
        ("a$b", "nothing can match all of it"),
        ("[a&&b]", "nothing can match all of it"),
        ("c+", r"cannot spell any text that matches the pattern 'c\+'"),
        ("A", "lower case"),
    ],
)
def test_patterns_that_cannot_be_are_sentences(pattern, said):
    with pytest.raises(BadInput, match=said):
        from_regex(pattern, SPELLED)


@needs_compiler
def test_a_pattern_that_grows_without_end_is_a_sentence(monkeypatch):
    monkeypatch.setattr("remask.data.pattern.MOST", 1000)
    with pytest.raises(BadInput, match=r"more than 1,000 transitions: shorten its repeats"):
        from_regex("[ab]{0,500}", SPELLED)


def test_without_the_compiler_an_expression_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(MissingExtra, match=r"pip install 'remask\[pattern\]'"):
        from_regex("a", SPELLED)
    assert from_strings(["a"], SPELLED).lengths(3) == [1], "a list needs none"


# ---- lists of texts --------------------------------------------------------------------------------------------------

some = st.lists(st.text("abé", max_size=5), min_size=1, max_size=6)


@laws
@given(some)
def test_a_list_is_its_texts_in_every_spelling(strings):
    check_language(from_strings(strings, SPELLED), 3, {text.encode() for text in strings}.__contains__)


@needs_compiler
@settings(laws, max_examples=25)
@given(some)
def test_a_list_is_the_expression_of_its_texts(strings):
    one, other = from_strings(strings, SPELLED), from_regex("|".join(strings), SPELLED)
    assert sorted(texts_of(one, 3)) == sorted(texts_of(other, 3))


def test_texts_share_their_beginnings_and_ends():
    """Every text of six letters: as many states as letters, not as texts."""
    automaton = from_strings(map("".join, product("ab", repeat=6)), [b"a", b"b"])
    assert (automaton.states, len(automaton.source), automaton.groups) == (7, 6, 1)


def test_lists_that_cannot_be_are_sentences():
    with pytest.raises(BadInput, match="cannot spell 'c'"):
        from_strings(["a", "c"], SPELLED)
    with pytest.raises(BadInput, match="cannot spell 'ab'"):
        from_strings(["ab"], SPELLED, banned=frozenset((0, 2)))
    with pytest.raises(BadInput, match="came empty"):
        from_strings([], SPELLED)
    with pytest.raises(BadInput, match="no token left"):
        from_strings([""], [None, b""])
    assert from_strings([""], SPELLED).lengths(3) == [0]


# ---- what a gap begins with ------------------------------------------------------------------------------------------

LEADS = {
    "bpe": {"": b"", "The ": b" ", "un": b"", "foo(": b"", "The  ": b"  ", "a\n": b"\n", "☃ ": b" ", "[MASK] ": b" "},
    "byte": {"": b"", "The ": b"", "un": b"", "a\n": b""},  # its blank takes nothing: the space is a token of its own
    "wordpiece": {"": b" ", "The ": b" ", "un": b"", "foo(": b" ", "The  ": b" ", "a\n": b" ", "☃ ": b" "},
    "unigram": {"": b" ", "The ": b"", "un": b""},
    "roberta": {"": b" ", "The ": b" ", "un": b""},
    "dna:3": {"": b"", "ACG": b"", "AC ": b""},
}


@pytest.mark.parametrize("kind", LEADS)
def test_a_gap_begins_with_what_its_blank_swallows(kind):
    assert {before: lead_of(built(kind), before) for before in LEADS[kind]} == LEADS[kind]


@pytest.mark.parametrize("space", ["\u00a0", " \u00a0", "\u2003"])
def test_a_blank_swallows_every_kind_of_space(space):
    assert lead_of(built("bpe"), f"The{space}") == space.encode()


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@pytest.mark.parametrize("before", ["", "The", "The ", "The\u00a0", "a \n ", "(", "é", " "])
def test_a_filled_gap_reads_as_it_was_written(kind, before):
    tokenizer = built(kind)
    automaton = from_strings(["form", "é if"], spelling(tokenizer), lead=lead_of(tokenizer, before))
    (ids,) = (one.ids for one in tokenizers.encode(tokenizer, [before + "[MASK]"], special=True))
    length = max(automaton.lengths(9))
    tokens = torch.tensor([ids[:-1] + [tokenizer.mask_token_id] * length] * 4)
    filled = fill(tokenizer, automaton, infill(tokens, tokenizers.alphabet(tokenizer)), Ancestral, 0)
    assert {tokenizer.decode(row) for row in filled} <= {f"{before}form", f"{before}é if"}


# ---- a thousand fills ------------------------------------------------------------------------------------------------


class Noise:
    """A conditional without any sense in it: log p depends on the visible tokens, but tells nothing about them."""

    visible = Visible.NONE

    def __init__(self, alphabet, best):
        self.alphabet, self.best = alphabet, best
        self.table = torch.randn(97, alphabet.size, generator=torch.Generator().manual_seed(0)) * 3
        self.table[:, list(alphabet.special)] = -torch.inf

    def __call__(self, tokens, at=None):
        weights = torch.arange(1, tokens.shape[1] + 1)
        row = (tokens * weights * 31).sum(1, keepdim=True) + weights * 7
        logits = self.table[(row % 97)[at]]
        if self.best:
            logits = logits.masked_fill(logits < logits.topk(self.best, dim=1).values[:, -1:], -torch.inf)
        return logits.log_softmax(1)

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


SAMPLERS = {FirstHitting: FirstHitting, Ancestral: lambda draw: Ancestral(4, "linear", draw)}


def fill(tokenizer, automaton, canvas, kind, best):
    """The ids of the unknown cells, which are the last ones of each row, and those before them."""
    start, length = int((~canvas.unknown[0]).sum()), canvas.tokens.shape[1]
    draw = Constrained((Span(start, length, automaton),), tokenizer.mask_token_id)
    noise = Noise(tokenizers.alphabet(tokenizer), best)
    return sample(SAMPLERS[kind](draw), noise, canvas, Stream.of(best, len(canvas.tokens))).tokens.tolist()


PATTERNS = {  # with the number of tokens of a fill
    "date": (r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", 8),
    "mail": (r"[a-z0-9]{1,10}(\.[a-z0-9]{1,10})?@[a-z]{2,12}\.(com|org|net)", 9),
    "json": (r'\{"name": "[^"\\\x00-\x1f]{0,20}", "tags": \[("[a-z]+"(, "[a-z]+")*)?\]\}', 23),
}


@pytest.fixture(scope="module")
def bpe():
    """With tokens of several letters, two ways to write most texts, and pieces of letters."""
    dates = " 2019-10-21 1999-12-31 2024-01-02 .com .org"
    return tokenizers.train_bpe([*TEXTS, dates * 300], 700)


def check_fills(bpe, name, rows):
    """`rows` fills by each sampler from the whole conditional and from its three best tokens, all of which match."""
    pattern, length = PATTERNS[name]
    automaton = from_regex(pattern, spelling(bpe), lead=b" ")
    texts = []
    for kind, best in product(SAMPLERS, (0, 3)):
        canvas = blank(rows, length, tokenizers.alphabet(bpe))
        texts += [bpe.decode(row) for row in fill(bpe, automaton, canvas, kind, best)]
    assert [text for text in texts if not re.fullmatch(f" {pattern}", text)] == []
    return texts


@needs_compiler
@pytest.mark.parametrize("name", ["mail", "json"])
def test_every_fill_matches(bpe, name):
    assert len(set(check_fills(bpe, name, 20))) > 40


@needs_compiler
@pytest.mark.parametrize("name", ["date", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mail", "json"))])
def test_a_thousand_fills_match_a_thousand_times(bpe, name):
    texts = check_fills(bpe, name, 250)
    assert len(texts) == 1000
    assert len(set(texts)) > 500


@needs_compiler
def test_an_unconstrained_fill_does_not_match(bpe):
    """The check can fail."""
    canvas = blank(100, 10, tokenizers.alphabet(bpe))
    tokens = sample(FirstHitting(), Noise(tokenizers.alphabet(bpe), 0), canvas, Stream.of(0, 100)).tokens
    assert not any(re.fullmatch(" " + PATTERNS["date"][0], bpe.decode(row)) for row in tokens)
