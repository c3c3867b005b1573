"""Spelling: what the tokens of every kind of vocabulary say, against what their tokenizer decodes."""

import functools
import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from remask.core.errors import BadCheckpoint
from remask.data import tokenizers
from remask.data.spelling import speller, spelling
from tests.data.test_tokenizers import KINDS as OTHERS
from tests.data.test_tokenizers import SPECIAL, TEXTS


def fast(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", unk_token="[UNK]", clean_up_tokenization_spaces=False
    )


def fallback():
    """Like Llama's: sentence-piece with its 256 bytes of last resort, its decoder a sequence of small ones."""
    words = [
        *SPECIAL,
        *(f"<0x{value:02X}>" for value in range(256)),
        *"abxyz,é漢",
        "\u2581",
        "\u2581the",
        "ing",
        "\u2581é",
    ]
    vocabulary = {token: number for number, token in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]", byte_fallback=True))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return fast(tokenizer)


def suffixed():
    """Like the first GPT's: the last part of a word says so."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    options = {"special_tokens": SPECIAL, "end_of_word_suffix": "</w>", "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, **options))
    return fast(tokenizer)


def plain_wordpiece():
    """A decoder that leaves the space before a point."""
    tokenizer = OTHERS["wordpiece"]()
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def words():
    """A table of words without a decoder: they are put together with spaces."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, "the", "quick", "fox"])}
    return fast(Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]")))


def with_additions():
    """Like ModernBERT's: byte-level, and runs of spaces and other words added later that are text."""
    tokenizer = tokenizers.train_bpe(TEXTS, 400)
    tokenizer.add_tokens(["   ", "the quick", "日本", AddedToken("PHONE", normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EXTRA]"]})
    return tokenizer


KINDS = {
    **OTHERS,
    "dna": tokenizers.dna_tokenizer,
    "dna:3": lambda: tokenizers.dna_tokenizer(3),
    "fallback": fallback,
    "suffixed": suffixed,
    "plain wordpiece": plain_wordpiece,
    "words": words,
    "additions": with_additions,
}
built = functools.cache(lambda kind: KINDS[kind]())
BYTEWISE = ("bpe", "byte", "roberta", "additions")


def told(pieces):
    """Their text, and whether it is whole letters."""
    text = b"".join(pieces)
    try:
        return text.decode(), True
    except UnicodeDecodeError:
        return text.decode(errors="replace"), False


@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_are_spelled_as_the_tokenizer_decodes_them(kind):
    """All tokens, in random order: exactly so for byte-level ones, but for the first token's space for the others."""
    tokenizer, rng = KINDS[kind](), random.Random(0)
    spelled = spelling(tokenizer)
    known = [number for number, text in enumerate(spelled) if text]
    begins = [n for n in known if spelled[n].isascii() and not tokenizer.convert_ids_to_tokens(n).startswith("##")]
    assert len(known) > 2
    for _ in range(300):
        ids = [rng.choice(begins), *rng.choices(known, k=rng.randint(0, 12))]
        text, whole = told(spelled[n] for n in ids)
        if kind in BYTEWISE:
            assert tokenizer.decode(ids) == text
        elif whole:
            assert tokenizer.decode(ids).strip(" ") == text.strip(" ")


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_spelled_as_they_are(kind):
    """What the tokenizer makes of a text spells that text, for those that lose nothing."""
    tokenizer = built(kind)
    spelled = spelling(tokenizer)
    text = "ACGTTNACG" if kind.startswith("dna") else "the quick, brown fox: is it a list? (see below)"
    ids = tokenizers.encode(tokenizer, [text])[0].ids
    if tokenizer.unk_token_id in ids:
        return
    found = b"".join(spelled[n] for n in ids).decode()
    lossless = kind in ("bpe", "byte", "character", "additions") or kind.startswith("dna")
    assert found == text if lossless else found.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_spell_nothing_and_all_others_something(kind):
    tokenizer = built(kind)
    spelled = spelling(tokenizer)
    special = tokenizers.alphabet(tokenizer).special
    assert len(spelled) == len(tokenizer)
    assert {number for number, text in enumerate(spelled) if text is None} == special
    assert b"" not in spelled


def test_what_each_kind_of_token_spells():
    def say(kind, *tokens):
        tokenizer = built(kind)
        return [spelling(tokenizer)[tokenizer.convert_tokens_to_ids(token)] for token in tokens]

    assert say("wordpiece", "the", "##ing", ".", "(") == [b" the", b"ing", b".", b" ("]
    assert say("plain wordpiece", "the", "##ing", ".") == [b" the", b"ing", b" ."]
    assert say("unigram", "\u2581the", "s") == [b" the", b"s"]
    assert say("fallback", "<0x0A>", "<0xC3>", "\u2581the", "ing", "漢") == [
        b"\n",
        b"\xc3",
        b" the",
        b"ing",
        "漢".encode(),
    ]
    assert say("bpe", "\u0120the", "\u010a", "\u00c3") == [b" the", b"\n", b"\xc3"]
    assert say("additions", "   ", "日本", "the quick") == [b"   ", "日本".encode(), b"the quick"]
    assert say("words", "fox") == [b" fox"]
    assert say("dna:3", "ACG", "N") == [b"ACG", b"N"]


def test_every_byte_can_be_spelled():
    for kind in ("bpe", "byte", "fallback"):
        assert {bytes([value]) for value in range(256)} <= set(spelling(built(kind)))


def test_holes_and_empty_tokens_are_none():
    vocabulary = {"[MASK]": 0, "##": 1, "the": 2, "##s": 5}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    holes = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]")
    assert spelling(holes) == [None, None, b" the", None, None, b"s"]
    assert speller(holes)("[MASK]") == b" [MASK]"


def test_a_space_that_is_forgotten_is_caught():
    """The planted bug: the tokens' names for their spelling."""
    tokenizer = OTHERS["wordpiece"]()
    names = [token.removeprefix("##").encode() for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    ids = tokenizers.encode(tokenizer, ["the quick brown fox"])[0].ids
    assert told(names[n] for n in ids)[0] != tokenizer.decode(ids)


def test_a_tokenizer_without_a_mask_is_a_sentence():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(BadCheckpoint, match="no mask token"):
        spelling(tokenizer)
