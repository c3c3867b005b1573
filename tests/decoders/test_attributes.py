"""What is asked of a finished text: what a prefix settles is what its finished texts say, all of them."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput, UnknownName
from remask.data.tokenizers import encode, train_bpe
from remask.decoders.attributes import (
    ATTRIBUTES as TABLE,
)
from remask.decoders.attributes import (
    All,
    Attribute,
    Avoids,
    Contains,
    Ends,
    Judged,
    Length,
    NoRepeats,
    NotEmpty,
    parse,
)
from remask.decoders.outcomes import Remaining
from tests.decoders.attribute_laws import ATTRIBUTES

TOKENS, LONGEST = (1, 2, 3), 5


def finished(prefix):
    """Every finished text that begins so, and whether it ended."""
    for more in range(LONGEST - len(prefix) + 1):
        for rest in product(TOKENS, repeat=more):
            text = [*prefix, *rest]
            yield text, len(text) < LONGEST


def contradictions(attribute):
    """Prefixes of which an attribute says that something is settled that is not."""
    found = []
    for length in range(LONGEST - 1):
        for prefix in product(TOKENS, repeat=length):
            for token, said in zip(TOKENS, attribute.settled(list(prefix), TOKENS), strict=True):
                answers = {attribute(*one) for one in finished((*prefix, token))}
                found += [(prefix, token)] if said is not None and answers != {said} else []
    return found


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_is_settled_is_true_of_every_finished_text(name):
    assert contradictions(ATTRIBUTES[name]) == []


def test_a_planted_lie_is_caught():
    class Hasty(NoRepeats):
        def settled(self, text, tokens):
            return [token not in text for token in tokens]

    assert contradictions(Hasty(2))


@pytest.mark.parametrize("name", ["no repeats of 1", "no repeats of 2", "contains", "avoids", "not empty"])
def test_what_can_be_known_is_known(name):
    attribute, unknown = ATTRIBUTES[name], 0
    for prefix in product(TOKENS, repeat=3):
        for token, said in zip(TOKENS, attribute.settled(list(prefix), TOKENS)):
            here = attribute([*prefix, token], True)
            if said is None:
                unknown += 1
                # what is left open is still open: the text as it stands says the opposite of what would be settled
                assert here == isinstance(attribute, NoRepeats | Avoids)
    assert (unknown == 0) == (name in ("not empty", "no repeats of 1"))


def test_attributes_of_finished_texts():
    assert Length(2)([5, 5], True)
    assert not Length(2)([5, 5], False)
    assert not Length(2)([5], True)
    assert Length()([5], True)
    assert not Length()([5], False)
    assert NotEmpty()([5], False)
    assert not NotEmpty()([], True)
    assert NoRepeats(2)([1, 2, 3, 1, 3], True)
    assert not NoRepeats(2)([1, 2, 3, 1, 2], True)
    assert not NoRepeats(2)([1, 1, 1], True)
    assert Contains(((1, 2), (7,)))([3, 1, 2], True)
    assert not Contains(((1, 2),))([1, 3, 2], True)
    assert Avoids(((1, 2),))([1, 3, 2], True)
    assert not Avoids(((1, 2),))([1, 2], True)
    assert All((Ends(), NotEmpty()))([1], True)
    assert not All((Ends(), NotEmpty()))([], True)


@pytest.mark.parametrize("longest", [1, 2, 5, 33, 200])
@pytest.mark.parametrize("exact", [1, 4, 32])
def test_every_length_has_one_bin_and_the_bins_of_a_length_add_up(longest, exact):
    law = Remaining(None, longest, exact)
    for length in range(1, longest):
        labels = law.labels([7] * length, True)
        assert len(labels) == length
        assert all(0 <= label < law.size - 1 for label in labels)
        assert labels == sorted(labels, reverse=True)
        assert labels[-1] == 0
    assert law.labels([7] * longest, False) == [law.size - 1] * longest
    scores = torch.randn(1, 1, law.size, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    each = [Remaining(n, longest, exact).log_prob(scores, 1) for n in range(1, longest + 1)]
    ends = law.log_prob(scores, 1).exp()
    if longest > 1:
        # the numbers of every bin share its probability: all that can follow one token adds up to ending at all
        assert torch.stack(each).exp().sum() == pytest.approx(float(ends), abs=1e-12)
    exactly = min(exact, longest - 1)
    for rest in range(exactly):
        assert Remaining(rest + 1, longest, exact).log_prob(scores, 1) == pytest.approx(float(scores[0, 0, rest]))


def test_a_length_out_of_reach():
    scores = torch.zeros(2, 3, Remaining(3, 8, 4).size)
    assert (Remaining(3, 8, 4).log_prob(scores, 4) == -math.inf).all()
    with pytest.raises(BadInput, match="20 tokens was asked of a classifier that knows texts of up to 7"):
        Remaining(20, 8, 4).log_prob(scores, 1)


def decode(tokens):
    return "".join(chr(token) for token in tokens)


def test_attributes_are_typed_as_name_and_value():
    assert parse(["length=12"], decode) == Length(12)
    assert parse(["length"], decode) == Length(None)
    assert parse(["no_repeats"], decode) == NoRepeats(4)
    assert parse(["no_repeats=3"], decode) == NoRepeats(3)
    assert parse(["contains=a=b"], decode) == Contains(("a=b",), decode)
    assert parse(["ends", "avoids=a"], decode) == All((Ends(), Avoids(("a",), decode)))
    assert parse([], decode) == All(())
    assert set(TABLE) >= {"length", "ends", "not_empty", "no_repeats", "contains", "avoids"}
    assert all(issubclass(TABLE.load(name), Attribute) for name in TABLE)


BPE = train_bpe(["red card", "redder", "a red dress, a hatred", "bread and cred"] * 3, 290)
LETTERS = {letter: BPE.convert_tokens_to_ids(letter) for letter in "abcdehnrst"}
WORDS = st.lists(st.sampled_from([" red", "red", "r", "e", "d", " ", "é", " h", "ä", "dd"]), max_size=7)


def cut(parts):
    """Tokens of pieces of text, each tokenised alone: a text in one of its many spellings."""
    return [token for part in parts for token in encode(BPE, [part])[0].ids]


@given(WORDS, WORDS, st.sampled_from(["red", " red", "ed d", "é", "dä", "d"]))
@settings(max_examples=150, deadline=None)
def test_a_string_is_found_however_its_tokens_are_cut(before, behind, string):
    """In finished texts, and as soon as a token completes it; not a token earlier."""
    contains, avoids = Contains((string,), BPE.decode), Avoids((string,), BPE.decode)
    tokens, text = cut([*before, *behind]), "".join([*before, *behind])
    assert contains(tokens, True) == (string in text) != avoids(tokens, True)
    prefix, candidates = cut(before), [*LETTERS.values(), *cut([" red", "é"])]
    for token, won, lost in zip(candidates, contains.settled(prefix, candidates), avoids.settled(prefix, candidates)):
        here = string in BPE.decode([*prefix, token])
        assert won == (True if here else None)
        assert lost == (False if here else None)


def test_a_long_text_is_looked_at_from_its_tail():
    """The string may lie on as many tokens as it has bytes, with tokens between them that show nothing."""
    silent, prefix = BPE.pad_token_id, cut(["a"] * 40)

    def shown(tokens):
        return BPE.decode(tokens, skip_special_tokens=True)

    contains = Contains(("bread",), shown)
    letters = [LETTERS[letter] for letter in "brea"]
    for between in range(5):
        spread = [*prefix, *letters[:2], *[silent] * between, *letters[2:]]
        assert contains.settled(spread, [LETTERS["d"], LETTERS["s"]]) == [True, None]
    assert Contains((tuple(letters),)).settled([*prefix, *letters[:3]], [letters[3], letters[0]]) == [True, None]


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("lenght=3", UnknownName, "did you mean 'length'"),
        ("length=three", BadInput, "length=20"),
        ("length=-3", BadInput, "whole number"),
        ("no_repeats=0", BadInput, "from 1"),
        ("ends=now", BadInput, "no use for"),
        ("contains", BadInput, "NAME=TEXT"),
    ],
)
def test_what_is_typed_wrong_says_so(spec, error, said):
    with pytest.raises(error, match=said):
        parse([spec], decode)


def test_two_questions_share_a_classifier_only_if_they_are_one():
    different = [Length(3), NotEmpty(), NoRepeats(2), NoRepeats(3), Contains(((1,),)), Avoids(((1,),))]
    different += [All((Length(3), Ends())), All((Length(4), Ends())), Judged(len, "a"), Judged(len, "b")]
    assert len({one.asks for one in different}) == len(different)
    assert Length(3).asks == Length(9).asks == Ends().asks
    assert Length(3) in All((Ends(), Length(3))).parts()


def test_the_least_room_that_an_attribute_takes():
    assert Length(3).least == 4
    assert All((Length(3), Ends(), Length(5))).least == 6
    assert All(()).least == Ends().least == 1
