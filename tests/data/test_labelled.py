"""Labelled texts: the three formats say the same, columns in every spelling, and a sentence for every kind of mess."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadData, BadInput, UnknownName
from remask.data.labelled import Labelled, check_seen, class_names, read_labelled

ROWS = [("play a song", "music"), ('say "hi", twice', "talk"), ("naïve", "music")]


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return to


def as_csv(rows, header=("text", "label"), **rest):
    out = io.StringIO()
    csv.writer(out, **rest).writerows([header, *rows] if header else rows)
    return out.getvalue()


def as_jsonl(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


FORMS = {
    "a.tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "b.tsv": ("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS)).replace("\n", "\r\n"),
    "c.tsv.gz": "\ufefflabel\ttext\n" + "\n".join(f"{label}\t{text}" for text, label in ROWS),
    "d.csv": as_csv(ROWS),
    "e.csv.gz": as_csv(ROWS, lineterminator="\n"),
    "f.jsonl": as_jsonl(ROWS),
    "g.ndjson.gz": as_jsonl(ROWS) + "\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_says_the_same(write, name):
    found = read_labelled(write(name, FORMS[name]))
    assert found.texts == [text for text, _ in ROWS]
    assert found.labels == [label for _, label in ROWS]
    assert found.pairs is None


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, st.sampled_from(["yes", "no"])), min_size=1, max_size=5))
def test_what_was_written_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.csv").write_text(as_csv(rows), encoding="utf-8", newline="")
    (folder / "a.jsonl").write_text(as_jsonl(rows), encoding="utf-8")
    (folder / "a.tsv").write_text("".join(f"{label}\t{text}\n" for text, label in rows), encoding="utf-8")
    for name, columns in (("a.csv", None), ("a.jsonl", None), ("a.tsv", "label,text")):
        found = read_labelled(folder / name, columns)
        assert list(zip(found.texts, found.labels)) == rows


def test_a_quoted_field_may_hold_line_ends_and_a_tab_separated_one_stray_quotes(write):
    found = read_labelled(write("a.csv", 'text,label\r\n"one\r\ntwo, three",x\r\nfour,y\r\n'))
    assert found.texts == ["one\ntwo, three", "four"]
    assert read_labelled(write("a.tsv", 'x\t"open\ny\tclosed"\n'), "label,text").texts == ['"open', 'closed"']


@pytest.mark.parametrize(
    ("columns", "text", "texts"),
    [
        ("label,text", "x\tone\ny\ttwo\n", ["one", "two"]),
        ("label,_,text", "x\t17\tone\ny\t18\ttwo\n", ["one", "two"]),
        ("text,label", "text\tlabel\none\tx\n", ["one"]),
        ("text,label", "label\ttext\nx\tone\n", ["one"]),  # the header knows better than the flag
        ("_,text,label", "id\ttext\tlabel\n1\tone\tx\n", ["one"]),
        ("text=question,label=intent", "id\tquestion\tintent\n1\tone\tx\n", ["one"]),
    ],
)
def test_columns(write, columns, text, texts):
    assert read_labelled(write("a.tsv", text), columns).texts == texts


def test_pairs_and_numbers(write):
    pairs = read_labelled(write("a.tsv", "x\tone\ttwo\n"), "label,text,text_pair", "pairs")
    assert (pairs.texts, pairs.pairs, pairs.labels) == (["one"], ["two"], ["x"])
    assert read_labelled(write("b.tsv", "text\tlabel\none\t2.5\ntwo\t-1e3\n"), task="regress").labels == [2.5, -1000.0]
    found = read_labelled(write("c.jsonl", '{"text": "a", "text_pair": "b", "label": 3}'), task="regress")
    assert (found.pairs, found.labels) == (["b"], [3.0])
    assert read_labelled(write("d.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 0}')).labels == [
        "true",
        "0",
    ]


LATIN = "text\tlabel\ncafé\tx\n".encode("latin-1")
MESSES = {
    "missing": (None, {}, BadData, "there is no file"),
    "suffix": (("a.txt", "x"), {}, BadInput, "ends in none of .tsv, .csv"),
    "empty": (("a.tsv", ""), {}, BadData, "holds no rows"),
    "header only": (("a.tsv", "text\tlabel\n"), {}, BadData, "holds no rows"),
    "latin-1": (("a.tsv", LATIN), {}, BadData, "is not UTF-8: byte 0xe9"),
    "gzip": (("a.tsv.gz", FORMS["a.tsv"]), {"cut": 30}, BadData, "not a whole gzip"),
    "no header": (("a.tsv", "x\tone\n"), {}, BadInput, r"no column 'text' \(its first row has: x, one\).*--columns"),
    "other names": (("a.csv", "text,category\na,b\n"), {}, BadInput, "type --columns text=text,label=category"),
    "a header after all": (
        ("a.csv", "text,category\na,b\n"),
        {"columns": "text,label"},
        BadInput,
        "looks like a header.*--columns text=text,label=category",
    ),
    "no such name": (("a.csv", "text,label\na,b\n"), {"columns": "text=t,label=label"}, BadInput, "no column 't'"),
    "two of a name": (("a.csv", "text,label,text\na,b,c\n"), {}, BadInput, "two columns named 'text'"),
    "twice": (("a.csv", "a,b\n"), {"columns": "text,text,label"}, BadInput, "names 'text' twice"),
    "mixed": (("a.csv", "a,b\n"), {"columns": "text=a,label"}, BadInput, "neither a list of names nor"),
    "no label": (("a.csv", "a,b\n"), {"columns": "text,_"}, BadInput, "names no label"),
    "pairs of one": (("a.tsv", "x\ta\n"), {"columns": "label,text", "task": "pairs"}, BadInput, "names no text_pair"),
    "pairs without": (("a.tsv", "label\ttext\nx\ta\n"), {"task": "pairs"}, BadInput, "no column 'text_pair'"),
    "classify of two": (
        ("a.tsv", "label\ttext\ttext_pair\nx\ta\tb\n"),
        {},
        BadInput,
        "has a text_pair, which --task classify",
    ),
    "uneven": (
        ("a.tsv", "x\ta\ny\tb\tc\nz\nz\n"),
        {"columns": "label,text"},
        BadData,
        r"row 2 of .* has 3 columns where 2 were wanted \(and 2 rows more\)",
    ),
    "open quote": (("a.csv", 'text,label\n"a,b\nc,d\n'), {}, BadData, "is no CSV"),
    "empty texts": (
        ("a.tsv", "x\t \ny\tb\nz\t\n"),
        {"columns": "label,text"},
        BadData,
        r"2 empty text fields \(rows 1, 3\)",
    ),
    "empty label": (("a.csv", "text,label\na,\nb,x\n"), {}, BadData, r"1 empty label field \(row 2\)"),
    "null text": (("a.jsonl", '{"text": null, "label": "x"}'), {}, BadData, "1 empty text field"),
    "a number for a text": (("a.jsonl", '{"text": 3, "label": "x"}'), {}, BadData, "row 1 of .* is a int"),
    "a list for a label": (("a.jsonl", '{"text": "a", "label": [1]}'), {}, BadData, "names no class|name no class"),
    "no object": (("a.jsonl", "[1]"), {}, BadData, "row 1 of .* is a list"),
    "a field lacks": (("a.jsonl", '{"text":"a","label":"x"}\n{"text":"b"}'), {}, BadData, "row 2 .* no field 'label'"),
    "broken json": (("a.jsonl", '{"text":"a","label":"x"}\n{'), {}, BadData, "line 2 is not JSON"),
    "half a character": (("a.jsonl", '{"text":"\\ud800","label":"x"}'), {}, BadData, "surrogate"),
    "words for numbers": (
        ("a.tsv", "1\ta\nnan\tb\ngood\tc\n"),
        {"columns": "label,text", "task": "regress"},
        BadData,
        r"2 labels that are no number \('nan', rows 2, 3\)",
    ),
    "task": (("a.tsv", "x\ta\n"), {"task": "guess"}, UnknownName, "no task named 'guess'"),
}


@pytest.mark.parametrize("mess", MESSES)
def test_every_mess_is_a_sentence(write, tmp_path, mess):
    file, rest, kind, says = MESSES[mess]
    path = tmp_path / "a.tsv" if file is None else write(*file)
    if "cut" in rest:
        path.write_bytes(path.read_bytes()[: rest["cut"]])
    flags = {name: value for name, value in rest.items() if name != "cut"}
    with pytest.raises(kind, match=says) as caught:
        read_labelled(path, **flags)
    assert str(caught.value).endswith((".", "converted.txt"))


def test_classes():
    train = Labelled(["a", "b", "c"], None, ["x", "10", "x"], "train")
    assert class_names(train) == ["10", "x"]
    check_seen(train, ["10", "x"])
    with pytest.raises(BadData, match=r"one class only \('x', 2 rows\)"):
        class_names(Labelled(["a", "b"], None, ["x", "x"], "train"))
    with pytest.raises(BadData, match="valid has the label 'x' in 2 rows that training never saw"):
        check_seen(train._replace(name="valid"), ["10"])
    with pytest.raises(BadData, match=r"2 labels \('10', 'x'\) in 3 rows"):
        check_seen(train, [])


@pytest.mark.parametrize(
    ("file", "columns", "task", "rows", "classes"),
    [
        ("banking77/train.csv.gz", "text=text,label=category", "classify", 10_003, 77),
        ("snips/test.tsv.gz", "label,text", "classify", 700, 7),
        ("sms_spam/test.tsv.gz", "label,text", "classify", 1119, 2),
        ("uci_splice/test.tsv.gz", "label,_,text", "classify", 637, 3),
        ("snli_small/test.tsv.gz", "label,text,text_pair", "pairs", 9824, 3),
    ],
)
def test_real_files(real_data, file, columns, task, rows, classes):
    found = read_labelled(real_data / file, columns, task)
    assert len(found.texts) == rows and len(class_names(found)) == classes


@pytest.mark.parametrize(("name", "glue"), [("rows.tsv", "\t"), ("rows.csv", ",")])
def test_a_row_of_empty_fields_is_refused_and_a_blank_line_is_not(tmp_path, name, glue):
    path = tmp_path / name
    path.write_text(f"text{glue}label\na b{glue}x\n\nc d{glue}y\n")
    assert read_labelled(path).texts == ["a b", "c d"]
    path.write_text(f"text{glue}label\na b{glue}x\n{glue}\nc d{glue}y\n")
    with pytest.raises(BadData, match="3"):
        read_labelled(path)
