"""From names of texts to rows: the parts fit together, and the notes tell the truth."""

import json

import pytest

from remask.core.errors import BadCheckpoint, BadData
from remask.data.corpus import prepare
from remask.data.tokenizers import alphabet, byte_tokenizer, encode


@pytest.fixture(scope="module")
def embedded():
    return prepare(["embedded"], unique=True, tokenizer="bpe:400", length=64)


def test_embedded_text_is_enough_for_a_first_run(embedded):
    notes = embedded.notes
    for rows, side in ((embedded.train, "train"), (embedded.valid, "valid")):
        assert rows.tokens.shape == rows.documents.shape == (notes[side]["rows"], 64)
        assert rows.bytes.shape == (notes[side]["rows"],)
        total = notes[side]["tokens"] + notes[side]["documents"]  # one end each
        assert total - 64 < rows.tokens.numel() <= total
        assert notes[side]["bytes"] - 64 * 40 < int(rows.bytes.sum()) <= notes[side]["bytes"]
        assert not (rows.tokens == 1).any() and not (rows.tokens == 0).any()
        assert int((rows.tokens == 2).sum()) >= notes[side]["documents"] - 1
    assert notes["shared_passages"] == 0
    assert notes["repeats"]["paragraphs"] > 100
    assert 0.05 <= notes["valid"]["characters"] / (notes["valid"]["characters"] + notes["train"]["characters"]) <= 0.2
    assert len(notes["held_out"]) == notes["valid"]["documents"]
    assert json.loads(json.dumps(notes)) == notes
    assert alphabet(embedded.tokenizer)[:5] == (400, 1, 0, 2, frozenset({0, 1, 2, 3}))


def test_the_same_again_is_the_same_and_another_seed_is_not(embedded):
    again = prepare(["embedded"], unique=True, tokenizer="bpe:400", length=64)
    assert again.fingerprint == embedded.fingerprint
    assert (again.train.tokens == embedded.train.tokens).all()
    other = prepare(["embedded"], unique=True, tokenizer="byte", seed=1)
    assert other.fingerprint != embedded.fingerprint
    assert other.notes["held_out"] != embedded.notes["held_out"]


def test_the_tokenizer_sees_the_training_text_only(tmp_path):
    (tmp_path / "train.txt").write_text("abab " * 500)
    (tmp_path / "valid.txt").write_text("xyz " * 500)
    corpus = prepare([str(tmp_path / "train.txt")], valid=[str(tmp_path / "valid.txt")], tokenizer="character")
    assert len(corpus.tokenizer) == 4 + 3
    assert encode(corpus.tokenizer, ["xyz "])[0].ids[:3] == [3, 3, 3]
    assert corpus.notes["held_out"] == [str(tmp_path / "valid.txt")]
    assert corpus.notes["train"] == {"documents": 1, "characters": 2500, "bytes": 2500, "tokens": 2500, "rows": 19}


def test_a_leak_into_text_that_was_given_shows_in_the_notes(tmp_path):
    (tmp_path / "train.txt").write_text("a line of text that both of them have, word for word\n\n" * 40)
    (tmp_path / "valid.txt").write_text("a line of text that both of them have, \n word for word\n\n" * 40)
    corpus = prepare([str(tmp_path / "train.txt")], valid=[str(tmp_path / "valid.txt")], tokenizer=byte_tokenizer())
    assert corpus.notes["shared_passages"] == 1


def test_sides_that_are_too_short_are_named(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 500)
    (tmp_path / "short.txt").write_text("word")
    long, short = str(tmp_path / "long.txt"), str(tmp_path / "short.txt")
    with pytest.raises(BadData, match=r"the validation text has 5 tokens, shorter than one row of 128"):
        prepare([long], valid=[short], tokenizer="byte")
    with pytest.raises(BadData, match=r"the training text has 5 tokens"):
        prepare([short], valid=[long], tokenizer="byte")
    with pytest.raises(BadData, match=r"nothing can be held out"):
        prepare([short], tokenizer="byte")


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    (tmp_path / "long.txt").write_text("word " * 5000)
    with pytest.raises(BadCheckpoint, match=r"no mask token"):
        prepare([str(tmp_path / "long.txt")], tokenizer=tokenizer)
    found = prepare([str(tmp_path / "long.txt")], tokenizer=tokenizer, masked=False)  # for nets that never mask
    assert len(found.train.tokens) > 0
