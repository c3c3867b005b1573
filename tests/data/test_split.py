"""Nothing that can be learnt by heart stands on both sides of a split."""

import random
import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadData, BadInput
from remask.data.split import drop_repeated, fingerprint, hold_out, shared_passages
from remask.data.text import Document, read

laws = settings(deadline=None, database=None, max_examples=60)


def passages(documents):
    """The same notion, written anew: normalised paragraphs of at least 40 characters."""
    parts = (re.sub(r"\s+", " ", part).strip() for one in documents for part in re.split(r"\n\s*\n", one.text))
    return {part for part in parts if len(part) >= 40}


def prose(number, length=300):
    words = random.Random(number)
    return " ".join(f"w{words.randrange(10**6)}" for _ in range(length // 7))


def planted(counts, repeats, seed):
    """Documents of fresh paragraphs, with some paragraphs copied (white space changed) into others."""
    draw = random.Random(seed)
    parts = [[prose((seed, i, k).__hash__()) for k in range(count)] for i, count in enumerate(counts)]
    for _ in range(repeats):
        copied = draw.choice(draw.choice(parts))
        draw.choice(parts).append(copied.replace(" ", "\n" if draw.random() < 0.5 else "  "))
    return [Document(f"d{i}", "\n\n".join(part)) for i, part in enumerate(parts)]


corpora = st.builds(
    planted,
    st.lists(st.integers(1, 6), min_size=20, max_size=40),
    st.integers(1, 8),
    st.integers(0, 10**6),
)


@laws
@given(corpora, st.integers(0, 100), st.sampled_from([0.05, 0.1, 0.3]))
def test_no_passage_on_both_sides_and_nothing_lost(documents, seed, share):
    train, held = hold_out(documents, share, seed)
    assert train and held
    assert not passages(train) & passages(held)
    assert shared_passages(train, held) == 0
    assert sorted(train + held) == sorted(documents)
    assert [one for one in documents if one in train] == train
    assert hold_out(documents, share, seed) == (train, held)


def test_a_naive_split_fails_that_check():
    """The planted bug: documents drawn one by one, blind to what they share."""
    caught = 0
    for seed in range(20):
        documents = planted([3] * 30, 8, seed)
        random.Random(seed).shuffle(documents)
        train, held = documents[3:], documents[:3]
        assert bool(passages(train) & passages(held)) == bool(shared_passages(train, held))
        caught += bool(passages(train) & passages(held))
    assert caught > 5


@laws
@given(st.lists(st.integers(50, 1000), min_size=30, max_size=60), st.integers(0, 100))
def test_the_share_is_about_what_was_asked(lengths, seed):
    documents = [Document(str(k), prose(k, length)) for k, length in enumerate(lengths)]
    held = hold_out(documents, 0.1, seed)[1]
    assert 0.05 <= sum(len(one.text) for one in held) / sum(len(one.text) for one in documents) <= 0.2


def test_a_giant_among_dwarfs_is_never_held_out():
    documents = [Document("giant", prose(0, 20_000)), *(Document(str(k), prose(k, 1000)) for k in range(1, 15))]
    total = sum(len(one.text) for one in documents)
    for seed in range(20):
        assert sum(len(one.text) for one in hold_out(documents, 0.1, seed)[1]) <= 0.2 * total


def test_another_seed_is_another_split():
    documents = [Document(str(k), prose(k)) for k in range(50)]
    assert len({tuple(hold_out(documents, 0.1, seed)[1]) for seed in range(10)}) > 5


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("\n\n".join(prose(k) for k in range(60)), "\n\n"),
        ("A Title\n\n" + "\n".join(prose(k) for k in range(60)), "\n"),
        (" ".join(prose(k) for k in range(60)), " "),
    ],
)
def test_few_documents_are_cut_into_pieces_of_whole_parts(text, cut):
    train, held = hold_out([Document("book", text)], 0.1, 3)
    pieces = sorted(train + held, key=lambda one: int(one.name.removeprefix("book#")))
    assert [one.name for one in pieces] == [f"book#{k}" for k in range(1, len(pieces) + 1)]
    assert all(len(one.text) >= 1500 - len(cut) for one in pieces)
    assert cut.join(one.text for one in pieces) == text
    assert 0.05 <= sum(len(one.text) for one in held) / len(text) <= 0.2
    assert not passages(train) & passages(held)


def test_documents_tied_together_by_one_passage_are_cut():
    licence = prose("licence")
    documents = [Document(str(i), "\n\n".join([licence, *(prose(100 * i + k) for k in range(20))])) for i in range(12)]
    train, held = hold_out(documents)
    assert not passages(train) & passages(held)
    assert 0.05 <= sum(len(one.text) for one in held) / sum(len(one.text) for one in documents) <= 0.2


@pytest.mark.parametrize("text", ["short", "\n\n".join([prose(1)] * 50), "x" * 10_000])
def test_what_cannot_be_split_asks_for_valid(text):
    with pytest.raises(BadData, match=r"nothing can be held out .*--valid FILE"):
        hold_out([Document("a", text)])


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_and_1(share):
    with pytest.raises(BadInput, match=r"between 0 and 1"):
        hold_out([Document("a", prose(1, 9000))], share)


def test_drop_repeated_counts_what_it_drops():
    long, other = prose(1), prose(2)
    documents = [
        Document("a", f"Example:\n\n{long}\n\n\n{other}\n"),
        Document("b", f"Example:\n\n{long.replace(' ', chr(10))}\n\nmore"),
        Document("c", f"\n{other}\n"),
    ]
    left, repeats = drop_repeated(documents)
    assert left == [documents[0], Document("b", "Example:\n\nmore")]
    assert repeats.paragraphs == 2
    assert repeats.characters == len(long) + len(other)
    assert repeats.share == pytest.approx(repeats.characters / sum(len(one.text) for one in documents))
    assert drop_repeated(left) == (left, (0, 0, 0.0))


@laws
@given(corpora)
def test_drop_repeated_keeps_every_passage_once(documents):
    left, _ = drop_repeated(documents)
    assert passages(left) == passages(documents)
    words = [" ".join(part.split()) for one in left for part in one.text.split("\n\n")]
    assert len(words) == len(set(words))


def test_embedded_text():
    documents, repeats = drop_repeated(read(["embedded"]))
    assert repeats.paragraphs > 0
    train, held = hold_out(documents)
    assert not passages(train) & passages(held)
    share = sum(len(one.text) for one in held) / sum(len(one.text) for one in documents)
    assert 0.05 <= share <= 0.2


def test_fingerprint_knows_texts_order_and_boundaries_but_not_names():
    def mark(*texts, name="n"):
        return fingerprint([Document(name, text) for text in texts])

    assert re.fullmatch("[0-9a-f]{16}", mark("ab"))
    assert mark("ab", "c", name="m") == mark("ab", "c")
    marks = [mark("ab", "c"), mark("a", "bc"), mark("abc"), mark("c", "ab"), mark("ab", "c", ""), mark()]
    assert len(set(marks)) == len(marks)
    assert mark("ä") == sha256(b"\0\0\0\0\0\0\0\2" + b"\xc3\xa4").hexdigest()[:16]
