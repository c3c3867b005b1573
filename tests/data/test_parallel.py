"""Parallel text: nothing leaks, nothing is dropped uncounted, and rows are what they should be."""

import gzip
import json
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from remask.core.alphabet import Alphabet
from remask.core.errors import BadData, BadInput, UnknownName
from remask.data.parallel import (
    REASONS,
    Pair,
    Pairs,
    Ragged,
    hold_out_pairs,
    prepare_pairs,
    read_pairs,
)
from remask.data.tokenizers import alphabet, byte_tokenizer

laws = settings(deadline=None, database=None, max_examples=60)
ENDS = Alphabet(300, 1, 0, 2)


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return to


def lines(*columns):
    return "".join("\t".join(cells) + "\n" for cells in zip(*columns))


ids = st.lists(st.lists(st.integers(3, 299), max_size=6), min_size=1, max_size=7)


@laws
@given(ids, st.data())
def test_rows_are_what_padding_one_by_one_gives(rows, data):
    turned = [[*row[::-1], 5] for row in rows]
    pairs = Pairs(Ragged.of(rows), Ragged.of(turned), torch.arange(len(rows)) * 10)
    numbers = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    mask = torch.zeros(len(rows), dtype=torch.bool).index_fill(0, torch.tensor(numbers), True)
    for index, chosen in (
        (numbers, numbers),
        (torch.tensor(numbers), numbers),
        (slice(1, None), range(1, len(rows))),
        (mask, sorted(set(numbers))),
    ):
        some, chosen = pairs.select(index), list(chosen)
        assert len(some) == len(chosen) and some.index.tolist() == [10 * k for k in chosen]
        assert some.source_lengths.tolist() == [len(rows[k]) for k in chosen]
        assert some.target_lengths.tolist() == [len(turned[k]) for k in chosen]
        if chosen:
            for found, side in zip(pairs.rows(index, ENDS), (rows, turned)):
                wanted = [torch.tensor([*side[k], ENDS.end]) for k in chosen]
                assert torch.equal(found, pad_sequence(wanted, batch_first=True, padding_value=ENDS.pad))
    nothing = pairs.select([])
    assert len(nothing) == 0 and nothing.rows([], ENDS)[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (ENDS._replace(pad=None), r"no pad token .*'pad_token': '\[PAD\]'"),
        (ENDS._replace(end=None), r"no end token .*'eos_token': '\[END\]'"),
        (ENDS._replace(pad=2), r"no pad token of its own"),
    ],
)
def test_an_alphabet_without_ends_is_refused(ends, says):
    pairs = Pairs(Ragged.of([[5]]), Ragged.of([[6]]), torch.arange(1))
    with pytest.raises(BadInput, match=says):
        pairs.rows([0], ends)


# --- held out


def bare(text):
    """Another way to say what makes two sentences the same."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def leaks(pairs, train, held):
    """Held-out pairs whose source or target stands in train."""
    seen = [{bare(pairs[k][side]) for k in train} for side in (0, 1)]
    return sum(any(bare(pairs[k][side]) in seen[side] for side in (0, 1)) for k in held)


def entangled(count, words, seed):
    """Pairs that share many sentences, in other case and punctuation."""
    draw = random.Random(seed)
    return [
        Pair(*(draw.choice(("s{}.", "S {}", " s{}!")).format(draw.randrange(words)) for _ in range(2)))
        for _ in range(count)
    ]


@laws
@given(st.integers(1, 60), st.integers(1, 90), st.floats(0.01, 0.99), st.integers(0, 999))
def test_no_sentence_stands_on_both_sides(count, words, share, seed):
    pairs = entangled(count, words, seed)
    try:
        train, held = hold_out_pairs(pairs, share, seed)
    except BadData:
        assert leaks(pairs, range(1), range(1, count)) or count == 1  # all hang together: in particular with the first
        return
    assert sorted(train + held) == list(range(count)) and train and held
    assert train == sorted(train) and held == sorted(held)
    assert leaks(pairs, train, held) == 0


def test_a_split_pair_by_pair_leaks():
    pairs = entangled(400, 600, 0)
    train, held = hold_out_pairs(pairs, 0.1, 0)
    assert len(held) == 40 and leaks(pairs, train, held) == 0
    drawn = random.Random(0).sample(range(400), 40)
    assert leaks(pairs, set(range(400)) - set(drawn), drawn) > 20  # the twin


def test_the_share_is_met_and_the_seed_draws():
    pairs = [Pair(f"s{k}", f"t{k}") for k in range(1000)]
    held = [tuple(hold_out_pairs(pairs, 0.05, seed)[1]) for seed in (0, 0, 1, 2)]
    assert [len(one) for one in held] == [50] * 4
    assert held[0] == held[1] and len(set(held)) == 3
    counts = Counter(k for seed in range(400) for k in hold_out_pairs(pairs[:20], 0.1, seed)[1])
    assert sum((counts[k] - 40) ** 2 / 36 for k in range(20)) < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_empty_sides_tie_nothing_together_and_bad_shares_are_refused():
    pairs = [Pair(f"s{k}", " ") for k in range(10)]
    assert len(hold_out_pairs(pairs, 0.3, 0)[1]) == 3
    assert (
        len(hold_out_pairs([Pair("?", "a"), Pair("!", "b")], 0.5, 0)[1]) == 1
    )  # punctuation alone is compared as it is
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(BadInput, match=r"between 0 and 1"):
            hold_out_pairs(pairs, share)
    with pytest.raises(BadData, match=r"all 2 hang together"):
        hold_out_pairs([Pair("a", "x"), Pair("A!", "y")])


# --- made ready


MESS = [
    ("abc", "ABCD"),
    ("", "x"),  # empty
    ("x", " \u3000"),  # empty
    ("abc", "ABCD"),  # repeats
    ("abc ", " ABCD"),  # repeats, up to white space
    ("abcdefghi", "x"),  # 9 > 1 * 2 + 5 at ratio 2
    ("abcdefg", "x"),  # 7 is just let through
    ("abcdefghij", "abcdefghi"),  # 10 + 1 tokens: too long for 10
    ("abcdefghi", "abcdefghi"),  # 9 + 1: just let through
]


def test_every_pair_that_is_dropped_is_counted_once(write):
    train, valid = write("t.tsv", lines(*zip(*MESS))), write("v.tsv", lines(*zip(*MESS[3:], ("new", "neu"))))
    corpus = prepare_pairs([train], valid=[valid], tokenizer=byte_tokenizer(), length=10, ratio=2, unique=True)
    assert corpus.notes == {
        "train": {
            "read": 9,
            "dropped": {"empty": 2, "duplicate": 2, "special": 0, "too_long": 1, "ratio": 1},
            "kept": 3,
            "source_tokens": 3 + 7 + 9,
            "target_tokens": 4 + 1 + 9,
            "source_unknown": 0,
            "target_unknown": 0,
        },
        "valid": {  # neither cleaned nor thinned: only what cannot be asked goes
            "read": 7,
            "dropped": {"empty": 0, "duplicate": 0, "special": 0, "too_long": 1, "ratio": 0},
            "kept": 6,
            "source_tokens": 3 + 4 + 9 + 7 + 9 + 3,
            "target_tokens": 4 + 5 + 1 + 1 + 9 + 3,
            "source_unknown": 0,
            "target_unknown": 0,
        },
        "shared": 5,
    }
    assert tuple(corpus.notes["train"]["dropped"]) == REASONS
    assert json.loads(json.dumps(corpus.notes)) == corpus.notes
    assert corpus.train.index.tolist() == [0, 6, 8]
    assert corpus.valid.index.tolist() == [0, 1, 2, 3, 5, 6]
    assert corpus.held == tuple(Pair(*MESS[3:][k]) if k < 6 else Pair("new", "neu") for k in (0, 1, 2, 3, 5, 6))
    source, target = corpus.train.rows([0, 1], alphabet(corpus.tokenizer))
    assert source.tolist() == [[*(b + 4 for b in b"abc"), 2, 0, 0, 0, 0], [*(b + 4 for b in b"abcdefg"), 2]]
    assert target.tolist() == [[*(b + 4 for b in b"ABCD"), 2], [ord("x") + 4, 2, 0, 0, 0]]


def test_filters_can_be_off(write):
    path = write("t.tsv", lines(*zip(*MESS)))
    corpus = prepare_pairs([path], valid=[path], tokenizer="byte", ratio=0)
    assert corpus.notes["train"]["dropped"] == {**dict.fromkeys(REASONS, 0), "empty": 2}


@pytest.mark.parametrize("side", [0, 1])
def test_the_ratio_goes_both_ways(write, side):
    rows = [("a" * n, "b" * m)[:: 1 - 2 * side] for m in (1, 2, 4) for n in range(1, 25)]
    path = write("t.tsv", lines(*zip(*rows)))
    kept = prepare_pairs([path], valid=[path], tokenizer="byte", ratio=3).train.index.tolist()
    lengths = [sorted(map(len, row)) for row in rows]
    assert kept == [k for k, (short, long) in enumerate(lengths) if long <= 3 * short + 5]


def test_unknown_characters_are_counted_on_their_side(write):
    train, valid = write("t.tsv", "ab\tcd\n" * 3), write("v.tsv", "abx\tcdyz\nyab\tcd\n")
    notes = prepare_pairs([train], valid=[valid], tokenizer="character").notes
    assert (notes["valid"]["source_unknown"], notes["valid"]["target_unknown"]) == (2, 2)
    assert (notes["train"]["source_unknown"], notes["train"]["target_unknown"]) == (0, 0)
    turned = prepare_pairs([train], valid=[valid], tokenizer="character", columns="target,source").notes
    assert (turned["valid"]["source_tokens"], turned["valid"]["target_tokens"]) == (6, 6)
    assert (turned["train"]["source_tokens"], turned["train"]["target_tokens"]) == (6, 6)


def test_the_tokenizer_sees_both_sides_of_train_and_nothing_else(write):
    train, valid = write("t.tsv", "ab\tcd\n"), write("v.tsv", "xy\tzw\n")
    tokenizer = prepare_pairs([train], valid=[valid], tokenizer="character").tokenizer
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[MASK]", "[END]", "[UNK]", *"abcd"}
    drawn = prepare_pairs([write("d.tsv", lines("abcdefghij", "klmnopqrst"))], tokenizer="character", share=0.3)
    assert len(drawn.tokenizer) == 4 + 2 * 7
    assert drawn.notes["valid"]["source_unknown"] == drawn.notes["valid"]["target_unknown"] == 3


def test_one_file_is_split_without_a_leak(write):
    pairs = entangled(300, 400, 1)
    corpus = prepare_pairs([write("t.tsv", lines(*zip(*pairs)))], tokenizer="bpe:280", share=0.1, seed=3)
    numbers = [side.index.tolist() for side in (corpus.train, corpus.valid)]
    assert sorted(numbers[0] + numbers[1]) == list(range(300)) and len(numbers[1]) == 30
    assert leaks(pairs, *numbers) == corpus.notes["shared"] == 0
    assert corpus.held == tuple(pairs[k] for k in numbers[1])
    for side in (corpus.train, corpus.valid):
        for row, number in enumerate(side.index.tolist()):
            for ragged, text in zip((side.source, side.target), pairs[number]):
                here = ragged.ids[ragged.offsets[row] : ragged.offsets[row + 1]]
                assert corpus.tokenizer.decode(here.tolist()) == text


def test_text_that_holds_the_end_itself_is_dropped(write):
    """A sentence-piece vocabulary has its specials among its pieces, and finds them in the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    path = write("t.tsv", "a b\tb a\na </s> b\tb\nb\ta <pad>\na x\tb\n")
    notes = prepare_pairs([path], valid=[path], tokenizer=tokenizer).notes
    for side in ("train", "valid"):
        assert notes[side]["dropped"] == {**dict.fromkeys(REASONS, 0), "special": 2}
        assert (notes[side]["source_unknown"], notes[side]["target_unknown"]) == (1, 0)


BASE = ([("a", "b"), ("c", "d"), ("e", "f")], [("g", "h"), ("i", "j")])
CHANGES = {
    "a letter": ([("a", "b"), ("c", "D"), ("e", "f")], BASE[1]),
    "two pairs swapped": ([("c", "d"), ("a", "b"), ("e", "f")], BASE[1]),
    "a pair turned round": ([("b", "a"), ("c", "d"), ("e", "f")], BASE[1]),
    "two targets swapped": ([("a", "d"), ("c", "b"), ("e", "f")], BASE[1]),
    "a letter moved between columns": ([("ab", ""), ("c", "d"), ("e", "f")], BASE[1]),
    "a letter moved to the next pair": ([("a", ""), ("bc", "d"), ("e", "f")], BASE[1]),
    "a pair moved to valid": (BASE[0][:2], [BASE[0][2], *BASE[1]]),
    "the sides exchanged": (BASE[1], BASE[0]),
    "white space": ([("a ", "b"), ("c", "d"), ("e", "f")], BASE[1]),
    "an empty pair, which is dropped": ([*BASE[0], ("", "")], BASE[1]),
}


def prints(write, sides):
    paths = [write(name, lines(*zip(*pairs))) for name, pairs in zip(("t.tsv", "v.tsv"), sides)]
    return prepare_pairs(paths[:1], valid=paths[1:], tokenizer=byte_tokenizer()).fingerprint


def test_every_change_changes_the_fingerprint(write):
    found = [prints(write, sides) for sides in (BASE, *CHANGES.values())]
    assert len(set(found)) == len(found)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in found)
    assert found[0] == prints(write, BASE)
    joined = {"".join(map("".join, BASE[0])), "".join(map("".join, CHANGES["a letter moved between columns"][0]))}
    assert len(joined) == 1  # a print of the bare text would not see it


def test_the_same_pairs_in_another_form_have_the_same_print_and_rows(write):
    rows, held = BASE
    tsv, turned = write("t.tsv", lines(*zip(*rows))), write("u.tsv.gz", lines(*[*zip(*rows)][::-1]))
    sides = [write(name, lines(side)) for name, side in zip(("t.en", "t.de"), zip(*rows))]
    valid = write("v.jsonl", "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in held))
    made = [
        prepare_pairs([tsv], valid=[valid], tokenizer="byte"),
        prepare_pairs([turned], valid=[valid], tokenizer="byte", columns="target,source"),
        prepare_pairs(sides, valid=[valid], tokenizer="byte"),
    ]
    assert len({one.fingerprint for one in made}) == 1
    assert all(torch.equal(one.train.source.ids, made[0].train.source.ids) for one in made)


def test_bad_arguments_and_nothing_left(write):
    path = write("t.tsv", "abcdef\tx\n\tx\nabcdef ghij\tabcdef ghi\n")
    ok = write("v.tsv", "ab\tx\n")
    bad = [("length", 1), ("ratio", 0.5), ("ratio", -1), ("ratio", float("nan")), ("ratio", float("inf"))]
    for name, value in bad:
        with pytest.raises(BadInput, match=rf"{name} of {value}"):
            prepare_pairs([path], valid=[ok], tokenizer="byte", **{name: value})
    left = r"none of the 3 training pairs is left \(dropped: 1 empty, 2 too long; .* 6 tokens\)"
    with pytest.raises(BadData, match=left):
        prepare_pairs([path], valid=[ok], tokenizer="byte", length=6)
    with pytest.raises(BadData, match=r"none of the 3 validation pairs"):
        prepare_pairs([ok], valid=[path], tokenizer="byte", length=6)
    with pytest.raises(UnknownName, match=r"no tokenizer named 'wordpeace'"):
        prepare_pairs([path], valid=[ok], tokenizer="wordpeace")
    with pytest.raises(BadData, match=r"mask token"):
        prepare_pairs([write("m.tsv", "a\tb\n")], valid=[ok], tokenizer=_reads_masks())


def _reads_masks():
    """A tokenizer to which the letter a is the mask."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "a"})
    return tokenizer


# --- real text


def test_tatoeba(real_data):
    files = [str(real_data / "tatoeba_en_de" / f"{name}.tsv.gz") for name in ("test", "valid")]
    corpus = prepare_pairs(files[:1], valid=files[1:], tokenizer="bpe:400")
    notes = corpus.notes
    assert [notes[side]["read"] for side in ("train", "valid")] == [2000, 2000]
    for side in ("train", "valid"):
        assert notes[side]["kept"] + sum(notes[side]["dropped"].values()) == 2000
        assert notes[side]["dropped"]["empty"] == notes[side]["source_unknown"] == 0
        assert notes[side]["kept"] > 1980
    source, target = corpus.valid.rows([0], alphabet(corpus.tokenizer))
    assert corpus.tokenizer.decode(source[0], skip_special_tokens=True) == corpus.held[0].source
    assert corpus.tokenizer.decode(target[0], skip_special_tokens=True) == corpus.held[0].target


def test_tanaka(real_data):
    files = [str(real_data / "tanaka_en_ja" / f"dev.{language}.gz") for language in ("en", "ja")]
    pairs = read_pairs(files)
    assert len(pairs) == 500
    assert pairs[0] == ("show your own business .", "自分 の 事 を しろ 。")
    train, held = hold_out_pairs(pairs, 0.1)
    assert len(held) == 50 and leaks(pairs, train, held) == 0
    mixed = [str(real_data / "tanaka_en_ja" / name) for name in ("dev.en.gz", "train.ja.gz")]
    with pytest.raises(BadData, match=r"has 500 lines and .* has 50000"):
        read_pairs(mixed)
