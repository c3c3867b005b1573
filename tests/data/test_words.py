"""Words: tokens of every kind of vocabulary, put together again."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from remask.data import tokenizers
from remask.data.text import read
from remask.data.words import continuing

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = [
    "Unless otherwise noted the arguments of a function are evaluated before the call is attempted",
    "Überraschenderweise naïve Größenordnungen élémentaires Ωμέγα",
    "x1 and y22 are extraordinarily uncharacteristic identifiers of 1984",
]
PUNCTUATED = ["The function's argument is a list, (see below) and it's returned as-is: foo.bar(42)."]
TEXTS = [one.text for one in read(["embedded"])[:12]] + SENTENCES


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return fast(tokenizer)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    options = {"special_tokens": SPECIAL, "unk_token": "[UNK]", "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=400, **options))
    return fast(tokenizer)


def roberta():
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": SPECIAL, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, show_progress=False, **options))
    return fast(tokenizer)


def fast(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]"
    )


KINDS = {
    "bpe": lambda: tokenizers.train_bpe(TEXTS, 500),
    "byte": tokenizers.byte_tokenizer,
    "character": lambda: tokenizers.character_tokenizer(TEXTS),
    "wordpiece": wordpiece,
    "unigram": unigram,
    "roberta": roberta,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


def words(tokenizer, text, inside):
    """Tokens joined to words by the ids that go on with one."""
    found = []
    for number in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if found and number in inside:
            found[-1].append(number)
        else:
            found.append([number])
    return [tokenizer.decode(word).strip() for word in found]


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_fall_into_their_words(tokenizer, text):
    found = words(tokenizer, text, continuing(tokenizer))
    assert found == text.split()
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) > len(found), "some words have several tokens"
    assert words(tokenizer, text, frozenset()) != text.split(), "what is checked is not the tokens alone"


def test_punctuation_ends_a_word(tokenizer):
    """What follows a sign without a space belongs to it in vocabularies that mark beginnings; only ## tells more."""
    text = PUNCTUATED[0]
    found = [word for word in words(tokenizer, text, continuing(tokenizer)) if word]
    pieces = re.findall(r"\w+|[^\w\s]", text)
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text), "nothing is lost"
    if isinstance(tokenizer.backend_tokenizer.model, models.WordPiece):
        assert found == pieces
    for word in found:
        assert re.fullmatch(r"\w+|[^\w\s]+\w*", word), f"'{word}' has a sign inside"


def test_special_tokens_are_no_part_of_a_word(tokenizer):
    alphabet = tokenizers.alphabet(tokenizer)
    assert not alphabet.continues & alphabet.special
    assert alphabet.continues
    assert alphabet.continues == continuing(tokenizer) - alphabet.special


@pytest.mark.parametrize("width", [1, 3])
def test_dna_has_no_words(width):
    """A vocabulary in which everything goes on: the whole row would be one word."""
    assert not continuing(tokenizers.dna_tokenizer(width))


def test_text_without_spaces_has_no_words():
    assert not continuing(tokenizers.character_tokenizer(["acgt"]))
    assert continuing(tokenizers.character_tokenizer(["ac gt"]))
