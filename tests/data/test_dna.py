"""DNA: FASTA is read whole, both strands agree, tokens are those of a plain reading, strangers are counted."""

import gzip
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from remask.core.errors import BadData, BadInput
from remask.data import split, tokenizers
from remask.data.corpus import prepare
from remask.data.dna import Record, ambiguous, canonical, parse_fasta, read_fasta, reverse_complement
from remask.data.split import hold_out, shared_passages
from remask.data.text import Document, read
from remask.data.tokenizers import Encoded, alphabet, build, encode, load, word_width

laws = settings(deadline=None, database=None, max_examples=60)
NAMES = ["dna", *(f"dna:{k}" for k in range(1, 7))]
TOKENIZERS = {name: build(name, []) for name in NAMES}
IUPAC = "ACGTRYSWKMBDHVN"
bases = st.text("ACGT", max_size=40)
sequences = st.text(IUPAC + IUPAC.lower() + "ACGT" * 20 + "Uu\n", max_size=60)


def genome(length, seed=0):
    return "".join(random.Random(seed).choices("ACGT", k=length))


def fasta(path, *sequences, width=60):
    lines = []
    for number, sequence in enumerate(sequences, 1):
        lines += [f">s{number} some words", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# ---- FASTA -----------------------------------------------------------------------------------------------------------


def test_fasta_is_joined_and_in_upper_case(tmp_path):
    text = "\r\n>chr1 a chromosome\r\nacgt\r\nACG \r\n\r\n>chr2\nNN\n>p1 protein\nMKV*\n"
    (tmp_path / "a.fna.GZ").write_bytes(gzip.compress(text.encode()))
    wanted = [Record("chr1", "ACGTACG"), Record("chr2", "NN"), Record("p1", "MKV*")]
    assert read_fasta(tmp_path / "a.fna.GZ") == wanted
    for suffix in ("fa", "fasta", "fna", "ffn", "FA"):
        path = tmp_path / f"b.{suffix}"
        path.write_text(text)
        assert read([str(path)]) == [Document(f"{path}:{name}", sequence) for name, sequence in wanted]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ACGT\n>a\nACGT\n", r"is not FASTA: it begins with 'ACGT'.*'>chr1'"),
        ("", r"holds no FASTA record"),
        (">a\nACGT\n>b\n\n>c\nA\n", r"record 2 of .* \('b'\) holds no sequence"),
        (">a\nA\n> \nA\n", r"record 2 of .* has no name"),
        (">a x\nA\n>b\nA\n>a y\nA\n", r"two records named 'a'"),
    ],
)
def test_bad_fasta(tmp_path, text, said):
    with pytest.raises(BadData, match=said):
        parse_fasta(text, "x.fa")
    (tmp_path / "x.fa").write_text(text)
    with pytest.raises(BadData, match=said):
        read([str(tmp_path / "x.fa")])


def test_no_fasta_file(tmp_path):
    with pytest.raises(BadData, match=r"there is no file '.*x.fa'"):
        read_fasta(tmp_path / "x.fa")


# ---- strands ---------------------------------------------------------------------------------------------------------

MEANING = {  # which bases a letter stands for: the table of Cornish-Bowden 1985, typed by hand
    **{"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}
OTHER = {"A": "T", "C": "G", "G": "C", "T": "A"}


@pytest.mark.parametrize("letter", MEANING)
def test_the_complement_of_a_letter_stands_for_the_complements(letter):
    turned = reverse_complement(letter)
    assert sorted(MEANING[turned]) == sorted(OTHER[base] for base in MEANING[letter])
    assert reverse_complement(letter.lower()) == turned.lower()


@laws
@given(st.text(IUPAC + IUPAC.lower()), st.text(IUPAC))
def test_the_other_strand_of_the_other_strand_is_the_first(left, right):
    assert reverse_complement(reverse_complement(left)) == left
    assert reverse_complement(left + right) == reverse_complement(right) + reverse_complement(left)
    assert canonical(left) == canonical(reverse_complement(left)) in (left.upper(), reverse_complement(left).upper())


def test_strands_by_hand():
    assert reverse_complement("ATGCRYKM") == "KMRYGCAT"
    assert reverse_complement("AUGU") == "ACAT"
    with pytest.raises(BadData, match=r"holds 2 letters that are no nucleotides \(E 2\)"):
        reverse_complement("AECE")
    with pytest.raises(BadData, match=r"space 1"):
        reverse_complement("AC\n")


# ---- tokens ----------------------------------------------------------------------------------------------------------


def plain(text, width):
    """Tokens and bytes of a text, letter by letter."""
    letters = []  # (letter, bytes up to and with it)
    for place, letter in enumerate(text):
        if letter != "\n":
            letter = letter.upper().replace("U", "T")
            letters.append((letter if letter in "ACGT" else "N", place + 1))
    tokens, ends = [], []
    for start in range(0, len(letters), width):
        window = letters[start : start + width]
        whole = "".join(letter for letter, _ in window)
        parts = [(whole, window[-1][1])] if len(whole) == width and "N" not in whole else window
        tokens += [token for token, _ in parts]
        ends += [end for _, end in parts]
    if ends:
        ends[-1] = len(text)
    return tokens, [stop - start for start, stop in zip([0, *ends], ends)]


@pytest.mark.parametrize("name", NAMES)
@laws
@given(text=sequences)
@example(text="\nacgu\nNACGTTTRACG\n\n")
@example(text="\n")
def test_tokens_are_those_of_a_plain_reading(name, text):
    tokenizer = TOKENIZERS[name]
    tokens, widths = plain(text, word_width(tokenizer))
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    assert 3 not in ids
    assert encode(tokenizer, [text]) == [Encoded(ids, widths)]
    assert encode(tokenizer, [text], special=True) == [Encoded(ids, widths)]  # the library's own reading
    assert tokenizer(text)["input_ids"] == ids
    letters = "".join(letter if letter in "ACGT\n" else "N" for letter in text.upper().replace("U", "T"))
    assert tokenizer.decode(ids) == letters.replace("\n", "")
    assert sum(widths) == (len(text.encode()) if ids else 0)


def test_words_that_overlap_would_fail_that_check():
    """The planted bug."""
    text = "ACGTAC"
    overlapping = [text[i : i + 3] for i in range(len(text) - 2)]
    assert plain(text, 3)[0] == ["ACG", "TAC"] != overlapping


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary(name):
    tokenizer = TOKENIZERS[name]
    width = int(name.partition(":")[2] or 1)
    assert word_width(tokenizer) == width
    assert len(tokenizer) == 4 + 5 + (4**width if width > 1 else 0)
    found = alphabet(tokenizer)
    assert (found.mask, found.pad, found.end, found.special) == (1, 0, 2, frozenset({0, 1, 2, 3}))
    assert [tokenizer.convert_tokens_to_ids(letter) for letter in "ACGTN"] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["dna", "dna:3", "dna:6"])
def test_saved_and_loaded(tmp_path, name):
    text = "acgtnRYACGTGGGTTACAUACGAAT"
    tokenizer = TOKENIZERS[name]
    tokenizer.save_pretrained(tmp_path)
    wanted = encode(tokenizer, [text])
    for again in (AutoTokenizer.from_pretrained(tmp_path), load(tmp_path), load(tmp_path / "tokenizer.json")):
        assert word_width(again) == word_width(tokenizer)
        assert encode(again, [text]) == wanted
        assert again(text)["input_ids"] == wanted[0].ids
        assert alphabet(again) == alphabet(tokenizer)
        blank = again("ACGACG [MASK] TTT")["input_ids"]
        assert blank == [*again("ACGACG")["input_ids"], 1, *again("TTT")["input_ids"]]
        assert again.decode(blank) == "ACGACG[MASK]TTT"


def test_other_tokenizers_are_not_taken_for_dna():
    assert word_width(build("character", ["ACGTN"])) is None
    assert word_width(build("byte", [])) is None
    larger = build("dna", [])
    larger.add_tokens(["X"])
    assert word_width(larger) is None
    assert encode(larger, ["AXC"])[0].ids == [4, 9, 5]


@pytest.mark.parametrize("name", ["dna:", "dna:0", "dna:7", "dna:three", "dna:-1"])
def test_words_that_cannot_be(name):
    with pytest.raises(BadInput, match=r"dna:1 to dna:6"):
        build(name, [])


# ---- letters that are none -------------------------------------------------------------------------------------------


def test_strangers_are_counted_and_named():
    texts = ["ACGE" * 200 + "\n", "acgz" * 112, "NRYU"]
    with pytest.raises(BadData) as caught:
        ambiguous(texts, "the training text")
    said = "the training text holds 312 letters that are no nucleotides (E 200, Z 112)"
    assert str(caught.value).startswith(said)
    with pytest.raises(BadData, match=r"the text holds 312 letters"):
        encode(TOKENIZERS["dna:3"], texts)
    with pytest.raises(BadData, match=r"1 letter that is no nucleotide \(é 1\)"):
        ambiguous(["ACGé"], "it")
    with pytest.raises(BadData, match=r"\(tab 1, - 1, 0 1, 1 1, 2 1, 3 1, 4 1, 5 1 and 4 others\)"):
        ambiguous(["0123456789-\t"], "it")
    assert ambiguous(["RYSWKMBDHV", "rn\nACGTU"], "it") == 11


def test_ambiguous_letters_are_noted_and_strangers_refused(tmp_path):
    text = genome(9000)
    train = fasta(tmp_path / "a.fa", "RRY" + text)
    valid = fasta(tmp_path / "b.fa", genome(2000, 1))
    notes = prepare([train], valid=[valid], tokenizer="dna:3").notes
    assert notes["train"]["ambiguous"] == 3
    assert "ambiguous" not in notes["valid"]
    assert "ambiguous" not in prepare([train], valid=[valid], tokenizer="byte").notes["train"]
    wrong = fasta(tmp_path / "c.fa", "EE" + text)
    with pytest.raises(BadData, match=r"the training text holds 2 letters .*\(E 2\)"):
        prepare([wrong], valid=[valid], tokenizer="dna")
    with pytest.raises(BadData, match=r"the validation text holds 2 letters .*\(E 2\)"):
        prepare([train], valid=[wrong], tokenizer="dna:6")
    with pytest.raises(BadData, match=r"the training text holds 2 letters"):
        prepare([wrong], valid=[valid], tokenizer="byte", reverse_complement=True)


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_a_genome_is_cut_and_nothing_is_lost():
    text = genome(400_000)
    train, held = hold_out([Document("g", text)])
    pieces = sorted(train + held, key=lambda one: int(one.name.removeprefix("g#")))
    assert "".join(one.text for one in pieces) == text
    odd = [len(one.text) for one in pieces if len(one.text) != split.WINDOW]
    assert odd == [400_000 % split.WINDOW] and split.WINDOW % 60 == 0
    assert 0.05 <= sum(len(one.text) for one in held) / len(text) <= 0.2


def test_a_small_genome_is_cut_finer():
    for length in (3000, 5386, 48_502):
        train, held = hold_out([Document("g", genome(length))], 0.1)
        assert sum(len(one.text) for one in train + held) == length
        assert train and held


@pytest.mark.parametrize("length", [20_000, 23_456, 101_000])
def test_both_strands_stay_on_one_side(length):
    text = genome(length)
    for seed in range(5):
        documents = [Document("a", text), Document("b", reverse_complement(text))]
        train, held = hold_out(documents, 0.1, seed)
        assert shared_passages(train, held) == 0
        strands = {strand for one in train for strand in (one.text, reverse_complement(one.text))}
        assert held and not strands & {one.text for one in held}


def test_a_split_blind_to_strands_fails_that_check(monkeypatch):
    """The planted bug."""
    monkeypatch.setattr(split, "canonical", lambda text: text)
    text, caught = genome(20 * split.WINDOW), 0  # windows fit without a rest, so that both strands are cut alike
    for seed in range(5):
        train, held = hold_out([Document("a", text), Document("b", reverse_complement(text))], 0.1, seed)
        strands = {reverse_complement(one.text) for one in train}
        caught += bool(strands & {one.text for one in held})
    assert caught > 0


def test_records_on_both_strands_stay_together():
    documents = [Document(str(k), genome(500, k)) for k in range(40)]
    documents += [Document(f"{one.name}'", reverse_complement(one.text).lower()) for one in documents]
    for seed in range(5):
        train, held = hold_out(documents, 0.1, seed)
        assert {one.name.removesuffix("'") for one in train}.isdisjoint(one.name.removesuffix("'") for one in held)


def test_the_other_strand_of_the_training_side_is_added(tmp_path):
    source = fasta(tmp_path / "a.fa", *(genome(700, k) for k in range(30)))
    once = prepare([source], tokenizer="dna", length=64)
    twice = prepare([source], tokenizer="dna", length=64, reverse_complement=True)
    assert once.held == twice.held and (once.valid.tokens == twice.valid.tokens).all()
    assert twice.notes["train"]["documents"] == 2 * once.notes["train"]["documents"]
    assert twice.notes["train"]["tokens"] == 2 * once.notes["train"]["tokens"]
    assert twice.notes["valid"] == once.notes["valid"]
    assert twice.notes["shared_passages"] == 0
    assert twice.fingerprint != once.fingerprint
    whole = "".join(once.tokenizer.decode(row, skip_special_tokens=True) for row in twice.train.tokens)
    kept = [one.sequence for one in read_fasta(source) if one.sequence not in once.held]
    assert "".join(one + reverse_complement(one) for one in kept).startswith(whole)


def test_the_other_strand_of_validation_text_shows_in_the_notes(tmp_path):
    text = genome(3000)
    train, valid = fasta(tmp_path / "a.fa", text), fasta(tmp_path / "b.fa", reverse_complement(text))
    assert prepare([train], valid=[valid], tokenizer="dna").notes["shared_passages"] == 1
    (tmp_path / "c.txt").write_text("\n".join(text[i : i + 50].lower() for i in range(0, 3000, 50)))
    assert prepare([str(tmp_path / "c.txt")], valid=[valid], tokenizer="dna").notes["shared_passages"] == 1


# ---- real data -------------------------------------------------------------------------------------------------------


def test_ecoli_goes_there_and_back(real_data):
    (record,) = read_fasta(real_data / "ecoli_k12" / "NC_000913.3.fna.gz")
    assert record.name == "NC_000913.3" and len(record.sequence) == 4_641_652
    (one,) = encode(TOKENIZERS["dna:6"], [record.sequence])
    assert len(one.ids) == 4_641_652 // 6 + 4_641_652 % 6
    assert sum(one.bytes) == 4_641_652
    part = record.sequence[:60_002]
    (one,), (own,) = (encode(TOKENIZERS["dna:6"], [part], special=special) for special in (False, True))
    assert one == own and TOKENIZERS["dna:6"].decode(one.ids) == part


def test_splice_junctions_with_rare_letters(real_data):
    with gzip.open(real_data / "uci_splice" / "train.tsv.gz", "rt") as file:
        texts = [line.rstrip("\n").split("\t")[2] for line in file]
    assert set("".join(texts)) - set("ACGT")
    for name in ("dna", "dna:3", "dna:6"):
        found = encode(TOKENIZERS[name], texts)
        assert all(sum(one.bytes) == len(text) == 60 and 3 not in one.ids for one, text in zip(found, texts))
        assert [TOKENIZERS[name](text)["input_ids"] for text in texts[:200]] == [one.ids for one in found[:200]]
    assert tokenizers.UNK not in TOKENIZERS["dna"].decode(found[0].ids)
