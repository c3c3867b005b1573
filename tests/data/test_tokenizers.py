"""Round trips are exact, bytes add up, and a bad tokenizer is told apart from a good one."""

import gzip
import json
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from remask.core.errors import BadCheckpoint, BadData, BadInput, UnknownName
from remask.data import tokenizers
from remask.data.text import read
from remask.data.tokenizers import Encoded, alphabet, build, encode, load

laws = settings(deadline=None, database=None, max_examples=80)
TEXTS = [one.text for one in read(["embedded"])[:10]] + ["Grüße aus Köln, ça va? 漢字かな交じり文 😀👩‍👩‍👧 e\u0301"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]"
    )


def wordpiece():
    """Like BERT's: lower case, accents stripped, white space dropped, [CLS] and [SEP] added, truncated and padded."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    fast = trained(tokenizer, trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False))
    backend = fast.backend_tokenizer
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(8)
    backend.enable_padding(length=8)
    return fast


def unigram():
    """Like XLM-R's: compatibility forms folded, a space put before the first word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    options = {"special_tokens": SPECIAL, "unk_token": "[UNK]", "show_progress": False}
    return trained(tokenizer, trainers.UnigramTrainer(vocab_size=600, **options))


def roberta():
    """Byte-level with a space put before the first word, and a mask that swallows the white space before it."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL[:4], AddedToken("[MASK]", lstrip=True, special=True)]
    fast = trained(tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    fast.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return fast


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train_bpe(TEXTS, 500)


KINDS = {
    "bpe": lambda: tokenizers.train_bpe(TEXTS, 500),
    "byte": tokenizers.byte_tokenizer,
    "character": lambda: tokenizers.character_tokenizer(TEXTS),
    "wordpiece": wordpiece,
    "unigram": unigram,
    "roberta": roberta,
}


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request):
    return KINDS[request.param]()


# Ordinary text of hypothesis, and text with more of what tokenizers treat specially.
odd = st.lists(
    st.sampled_from(["[MASK]", "[END]", "[UNK]", " ", "\n", "\t", "\u3000", "a", "é", "漢", "😀", "ﬁ", "the"])
)
texts = st.one_of(st.text(), odd.map("".join))


@laws
@given(text=texts)
@example(text=" [MASK]  [END] x")
def test_byte_level_loses_nothing(bpe, text):
    for tokenizer in (bpe, tokenizers.byte_tokenizer()):
        (one,) = encode(tokenizer, [text])
        assert tokenizer.decode(one.ids) == text
        assert not {0, 1, 2, 3} & set(one.ids)
        if "[MASK]" not in text:  # as a special token, a blank takes the space before it
            assert tokenizer.decode(tokenizer.encode(text)) == text


@laws
@given(text=texts)
def test_bytes_are_byte_values(text):
    (one,) = encode(tokenizers.byte_tokenizer(), [text])
    assert one.ids == [value + 4 for value in text.encode()]
    assert one.bytes == [1] * len(text.encode())


@laws
@given(batch=st.lists(texts, min_size=1, max_size=4), special=st.booleans())
@example(batch=["", " ", " \n the e\u0301 [MASK] \u3000 ", "x" * 300], special=True)
def test_bytes_sum_exactly(any_tokenizer, batch, special):
    try:
        found = encode(any_tokenizer, batch, special=special)
    except BadData:
        assert not special and any("[MASK]" in text for text in batch)
        return
    assert len(found) == len(batch)
    for text, one in zip(batch, found):
        assert len(one.ids) == len(one.bytes)
        assert all(width >= 0 for width in one.bytes)
        if one.ids:
            assert sum(one.bytes) == len(text.encode())
        else:
            assert one == Encoded([], [])


@laws
@given(batch=st.lists(texts, min_size=2, max_size=4))
def test_a_batch_is_its_texts_one_by_one(any_tokenizer, batch):
    found = encode(any_tokenizer, batch, special=True)
    assert found == [encode(any_tokenizer, [text], special=True)[0] for text in batch]


def test_dropped_white_space_counts_to_the_next_token_and_the_rest_to_the_last():
    (one,) = encode(wordpiece(), ["  The  é . \n"])
    assert one.bytes[-1] == 1 + 1 + 2  # " . \n"
    assert one.bytes[0] >= 3
    assert sum(one.bytes) == 13


def test_offsets_that_step_back_take_no_bytes_away():
    """None of the tokenizers tried does that; a third party's normalizer may."""
    record = SimpleNamespace(offsets=[(0, 1), (2, 3), (1, 2), (3, 3)])
    assert tokenizers._bytes("aéb ", [5, 6, 7, 8], record, None, None) == [1, 3, 0, 1]


def test_encoding_leaves_the_settings_of_the_tokenizer_alone():
    tokenizer = wordpiece()
    assert len(encode(tokenizer, ["the quick brown fox " * 20])[0].ids) > 8
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 8
    assert tokenizer.backend_tokenizer.padding["length"] == 8
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_special_tokens_in_a_text_are_read_only_when_asked(bpe):
    assert 1 not in encode(bpe, ["a [MASK] b"])[0].ids
    (prompt,) = encode(bpe, ["a [MASK] b"], special=True)
    assert prompt.ids.count(1) == 1
    assert bpe.decode(prompt.ids) == "a[MASK] b"  # the blank takes the space before it, as " if" does
    assert prompt.bytes[prompt.ids.index(1)] == 7


def test_data_that_turns_into_masks_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"[MASK]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", unk_token="[UNK]")
    with pytest.raises(BadData, match=r"holds the mask token '.MASK.' itself"):
        encode(fast, ["[MASK]"])


def test_characters_come_back_and_strangers_are_unknown():
    tokenizer = tokenizers.character_tokenizer(["abc\n é😀"])
    assert len(tokenizer) == 4 + 7
    assert tokenizer.decode(encode(tokenizer, ["c\n a😀é"])[0].ids) == "c\n a😀é"
    assert encode(tokenizer, ["aéz漢"]) == [
        Encoded([tokenizer.convert_tokens_to_ids(c) for c in "aé"] + [3, 3], [1, 2, 1, 3])
    ]


def test_training_is_deterministic_and_never_larger_than_asked():
    first = tokenizers.train_bpe(TEXTS, 400).backend_tokenizer.to_str()
    assert first == tokenizers.train_bpe(TEXTS, 400).backend_tokenizer.to_str()
    for size in (260, 261, 400):
        tokenizer = tokenizers.train_bpe(TEXTS, size)
        assert len(tokenizer) == size == alphabet(tokenizer).size
    assert len(tokenizers.train_bpe(["aa"], 5000)) <= 262
    with pytest.raises(BadInput, match=r"bpe:260 or more"):
        tokenizers.train_bpe(TEXTS, 259)


@pytest.mark.parametrize("name", ["bpe:300", "byte", "character"])
def test_those_built_here_survive_saving(tmp_path, name):
    tokenizer = build(name, TEXTS)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert", "vocab_size": 1000}))
    wanted = encode(tokenizer, TEXTS)
    for again in (load(tmp_path), build(str(tmp_path), []), load(tmp_path / "tokenizer.json")):
        assert encode(again, TEXTS) == wanted
        assert alphabet(again) == alphabet(tokenizer)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("ab [MASK]")["input_ids"] == encode(tokenizer, ["ab [MASK]"], special=True)[0].ids
    assert (plain.mask_token, plain.pad_token, plain.unk_token) == ("[MASK]", "[PAD]", "[UNK]")
    assert {plain.eos_token, plain.bos_token, plain.sep_token, plain.cls_token} == {"[END]"}


def test_a_bare_tokenizer_file_finds_its_special_tokens(tmp_path, bpe):
    bpe.backend_tokenizer.save(str(tmp_path / "mine.json"))
    assert alphabet(load(tmp_path / "mine.json")) == alphabet(bpe)


def test_alphabet(bpe):
    assert alphabet(bpe)[:5] == (500, 1, 0, 2, frozenset({0, 1, 2, 3}))
    assert alphabet(bpe, 503)[:5] == (503, 1, 0, 2, frozenset({0, 1, 2, 3, 500, 501, 502}))
    with pytest.raises(BadCheckpoint, match=r"has 500 ids, but its model only 499"):
        alphabet(bpe, 499)
    found = alphabet(wordpiece())
    assert (found.mask, found.pad, found.end) == (4, 0, 3)
    assert found.special == frozenset(range(5))
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(BadCheckpoint, match=r"has no mask token.*mask_token"):
        alphabet(bare)


def test_long_text_prints_no_warning(tmp_path, caplog, capfd):
    tokenizer = tokenizers.byte_tokenizer()
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(tmp_path)
    assert len(encode(load(tmp_path), ["long text " * 100])[0].ids) == 1000
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_names_that_nobody_has():
    with pytest.raises(UnknownName, match=r"did you mean 'character'.*bpe:4096, byte, character"):
        build("charakter", TEXTS)
    for name in ("bpe", "bpe:", "bpe:many", "bpe:-3"):
        with pytest.raises(BadInput, match=r"type for example bpe:4096"):
            build(name, TEXTS)
    with pytest.raises(BadInput, match=r"bpe:260 or more"):
        build("bpe:7", TEXTS)


def test_broken_checkpoints(tmp_path, bpe):
    with pytest.raises(BadCheckpoint, match=r"there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadCheckpoint, match="holds no tokenizer"):
        load(tmp_path)
    bpe.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(BadCheckpoint, match="holds no tokenizer"):
            load(path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"whole tokenizer.json"):
        load(tmp_path / "notes.txt")


def test_real_text_goes_there_and_back(real_data, bpe):
    with gzip.open(real_data / "tatoeba_en_de" / "valid.tsv.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    for tokenizer in (bpe, tokenizers.character_tokenizer(lines)):
        found = encode(tokenizer, lines)
        assert [tokenizer.decode(one.ids) for one in found] == lines
        assert sum(sum(one.bytes) for one in found) == len("".join(lines).encode())
    assert sum(sum(one.bytes) for one in encode(wordpiece(), lines)) == len("".join(lines).encode())
