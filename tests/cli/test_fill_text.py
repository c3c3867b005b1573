"""fill: a gap is told as the text says it, without the space that its blank swallowed."""

import json
import re

import pytest

from remask.cli import fill
from remask.data.pattern import lead_of
from remask.data.spelling import spelling
from tests.data.test_spelling import built
from tests.train.runs import refused, trained

KINDS = ("bpe", "wordpiece", "roberta")


def spoken(kind, before, tokens):
    tokenizer = built(kind)
    return fill.spoken(tokenizer, spelling(tokenizer), tokens, lead_of(tokenizer, before))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["the", "the fox", "foxes"])
def test_a_word_is_told_as_it_was_typed(kind, word):
    """In the middle of a text, in the tokens that it has there."""
    tokenizer = built(kind)
    tokens = tokenizer(f"the {word}", add_special_tokens=False)["input_ids"]
    begun = tokenizer("the", add_special_tokens=False)["input_ids"]
    assert tokens[: len(begun)] == begun
    assert spoken(kind, "the ", tokens[len(begun) :]) == word


def test_a_part_of_a_word_has_no_sharps():
    tokenizer = built("wordpiece")
    number = next(number for token, number in tokenizer.get_vocab().items() if re.fullmatch("##[a-z]", token))
    letter = tokenizer.convert_ids_to_tokens(number)[2:]
    assert spoken("wordpiece", "un", [number]) == spoken("wordpiece", "the ", [number]) == letter
    assert tokenizer.decode([number]) == f"##{letter}"  # what its decoder says of it alone


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_decoded(kind):
    tokenizer = built(kind)
    assert spoken(kind, "the ", [tokenizer.unk_token_id]) == tokenizer.unk_token


def test_a_part_of_a_letter_is_no_error():
    whole = built("byte")("é", add_special_tokens=False)["input_ids"]
    assert len(whole) == 2
    assert spoken("byte", "", whole) == "é"
    assert spoken("byte", "", whole[:1]) == "\ufffd"


def test_text_and_gaps_agree(lines):
    for one in lines("fill", trained(), "On [MASK:4] we met[MASK] .", "--n", 20):
        long, short = one["gaps"]
        assert one["text"] in (f"On{space}{long} we met{short} ." for space in ("", " "))


def test_log_prob_is_null_where_a_cut_ruled_the_pattern_out(remask):
    pytest.importorskip("outlines_core", reason="patterns need outlines_core: pip install 'remask[pattern]'")
    words = ["x[MASK:2]", "--pattern", "%[0-9]", "--n", 1, "--json"]
    assert json.loads(remask("fill", trained(), *words, "--top-k", 1).out)["log_prob"] is None
    assert json.loads(remask("fill", trained(), *words).out)["log_prob"] < 0


def test_a_flag_of_another_sampler(remask):
    refused(
        remask("fill", trained(), "[MASK]", "--moves", 1), "the usual sampler has no --moves, which belongs to gibbs"
    )
    refused(remask("fill", trained(), "[MASK]", "--movez", 1), "unrecognized arguments: --movez 1")
