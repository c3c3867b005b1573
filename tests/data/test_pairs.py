"""Pairs: every form says the same, nothing is misaligned, and a sentence for every kind of mess."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadData, BadInput
from remask.data.file import read_text
from remask.data.pairs import Pair, read_pairs

laws = settings(deadline=None, database=None, max_examples=60)
PAIRS = [
    Pair("I am.", "Ich bin."),
    Pair('He said "go".', "Er sagte \u201egeh\u201c."),
    Pair("", "leer"),
    Pair(" a ", "ä"),
]


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return to


def lines(*columns):
    return "".join("\t".join(cells) + "\n" for cells in zip(*columns))


SOURCES, TARGETS = zip(*PAIRS)
FORMS = {
    "plain": ({"a.tsv": lines(SOURCES, TARGETS)}, "source,target"),
    "turned": ({"a.tsv": lines(TARGETS, SOURCES)}, ("target", "source")),
    "left out": ({"a.tsv.gz": lines("1234", TARGETS, "xxxx", SOURCES)}, "id,target,_,source"),
    "same name left out": ({"a.tsv": lines("1234", TARGETS, "xxxx", SOURCES)}, "_,target,_,source"),
    "header": ({"a.tsv": "Target\tSource\n" + lines(TARGETS, SOURCES)}, "target,source"),
    "named": ({"a.tsv": "id\tde\ten\n" + lines("1234", TARGETS, SOURCES)}, "target=de,source=en"),
    "windows": ({"a.tsv": ("\ufeff" + lines(SOURCES, TARGETS)).replace("\n", "\r\n")}, "source,target"),
    "blank lines": ({"a.tsv": "\n" + lines(SOURCES, TARGETS).rstrip("\n") + "\n\n"}, "source,target"),
    "two": ({"a.tsv": lines(SOURCES[:1], TARGETS[:1]), "b.tsv.gz": lines(SOURCES[1:], TARGETS[1:])}, "source,target"),
    "aligned": ({"a.en": lines(SOURCES), "a.de.gz": lines(TARGETS).rstrip("\n")}, "source,target"),
    "aligned turned": ({"a.de": lines(TARGETS), "a.en": lines(SOURCES)}, "target,source"),
    "records": (
        {"a.jsonl": "".join(json.dumps({"source": s or None, "target": t}) + "\n" for s, t in PAIRS)},
        "source,target",
    ),
    "nested": (
        {"a.ndjson.gz": "".join(json.dumps({"translation": {"en": s, "de": t}}) + "\n" for s, t in PAIRS)},
        "source=translation.en,target=translation.de",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(write, form):
    files, columns = FORMS[form]
    assert read_pairs([write(name, text) for name, text in files.items()], columns) == PAIRS


def test_a_data_set_of_the_hub_is_read_by_its_fields(tmp_path):
    datasets = pytest.importorskip("datasets")
    fields = {"translation": [{"en": s, "de": t} for s, t in PAIRS]}
    datasets.Dataset.from_dict(fields).to_parquet(str(tmp_path / "train.parquet"))
    columns = "source=translation.en,target=translation.de"
    assert read_pairs([f"hf:{tmp_path}"], columns) == PAIRS
    assert read_pairs([str(tmp_path / "train.parquet")], columns) == PAIRS


sentences = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\0\ufeff"), max_size=12)


@laws
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=8))
def test_files_come_back_as_they_were_written(tmp_path_factory, pairs):
    """U+2028, form feeds and the like end no line; quotes and white space are characters like any other."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "a.tsv").write_text("x\ty\n" + lines(*zip(*pairs)), encoding="utf-8", newline="")
    assert read_pairs([str(folder / "a.tsv")]) == [("x", "y"), *pairs]
    sides = []
    for name, side in zip(("a.en", "a.de"), zip(*pairs)):
        (folder / name).write_text(lines(side), encoding="utf-8", newline="")
        sides.append(str(folder / name))
    assert read_pairs(sides) == pairs


def refuses_unequal(reader, write):
    """Whether a reader of two aligned files refuses a file that lost a line."""
    try:
        reader([write("u.en", "a\nb\nc\n"), write("u.de", "A\nC\n")])
    except BadData as error:
        return "3 lines" in str(error) and "has 2" in str(error)
    return False


def test_files_of_unequal_length_are_refused(write):
    def zipped(sources):
        return list(map(Pair, *(read_text(Path(source)).split("\n") for source in sources)))

    assert refuses_unequal(read_pairs, write)
    assert not refuses_unequal(zipped, write)  # the twin that zips, and pairs b with C


BAD_DATA = [
    ({"a.tsv": "a\tb\nc\n"}, "source,target", r"line 2 of '.*a\.tsv' has 1 column where 2 were wanted"),
    ({"a.tsv": "\na\tb\n\nc\td\te\n"}, "source,target", r"line 4 of .* has 3 columns .*`_` for one to leave out"),
    ({"a.tsv": "en\tde\nx\n"}, "source=en,target=de", r"line 2 of .* has 1 column where 2 were wanted \(en,de\)"),
    ({"a.tsv": ""}, "source,target", r"'.*a\.tsv' holds no pairs"),
    ({"a.tsv": "source\ttarget\n"}, "source,target", r"holds no pairs"),
    ({"a.en": "", "a.de": ""}, "source,target", r"hold no lines"),
    ({"a.en": "a\n\n", "a.de": "A\n"}, "source,target", r"a\.en' has 2 lines and '.*a\.de' has 1, .*line k"),
    ({"a.en": b"\xff\n", "a.de": "A\n"}, "source,target", r"is not UTF-8"),
    ({"a.jsonl": '{"source": "a"}\n'}, "source,target", r"record 1 of .* has no field 'target' \(source\)"),
    (
        {"a.jsonl": '{"source": "a", "target": 3}\n'},
        "source,target",
        r"'target' of record 1 .* is a int; wanted is text",
    ),
    ({"a.jsonl": "[1]\n"}, "source,target", r"it is a list"),
    ({"a.jsonl": '{"source": "\\ud800", "target": ""}\n'}, "source,target", r"half a surrogate"),
    ({"a.jsonl": '{"t": {"en": ""}}\n'}, "source=t.en,target=t.de", r"no field 't\.de'"),
    ({"a.jsonl": "{\n"}, "source,target", r"line 1 is not JSON"),
    ({"a.tsv.gz": b""}, "source,target", r"no pairs"),
]
BAD_COLUMNS = ["source", "en,de", "source,source,target", "source=en,target", "source=en,target="]
BAD_COLUMNS += ["source=en,target=de,_", ""]
BAD_INPUT = [
    ({}, "source,target", r"no pairs were given"),
    *(({"a.tsv": "a\tb\n"}, columns, r"exactly one source and one target") for columns in BAD_COLUMNS),
    ({"a.tsv": "target\tsource\nb\ta\n"}, "source,target", r"other way round: turn --columns round"),
    ({"a.tsv": "en\tfr\nb\ta\n"}, "source=en,target=de", r"exactly one column named 'de' .*has: en, fr"),
    ({"a.tsv": "en\ten\tde\nb\ta\tc\n"}, "source=en,target=de", r"exactly one column named 'en'"),
    ({"a.en": "a\n"}, "source,target", r"two aligned files .* there came 1 .* must end in \.tsv"),
    ({"a.en": "a\n", "a.de": "b\n", "a.fr": "c\n"}, "source,target", r"there came 3"),
    ({"a.en": "a\n", "a.de": "b\n"}, "source,target,_", r"with --columns source,target,_"),
    ({"a.en": "a\n", "a.de": "b\n"}, "source=en,target=de", r"with --columns source=en,target=de"),
    ({"a.tsv": "a\tb\n", "a.de": "b\n"}, "source,target", r"'.*a\.de' is plain text beside files of pairs"),
]


@pytest.mark.parametrize(
    ("kind", "files", "columns", "says"),
    [(BadData, *case) for case in BAD_DATA] + [(BadInput, *case) for case in BAD_INPUT],
    ids=range(len(BAD_DATA) + len(BAD_INPUT)),
)
def test_what_cannot_be_read_is_answered_with_a_sentence(write, kind, files, columns, says):
    with pytest.raises(kind, match=says):
        read_pairs([write(name, text) for name, text in files.items()], columns)


def test_a_file_that_is_not_there(tmp_path):
    for names in (["a.tsv"], ["a.en", "a.de"], ["a.jsonl"]):
        with pytest.raises(BadData, match=r"there is no file"):
            read_pairs([str(tmp_path / name) for name in names])
