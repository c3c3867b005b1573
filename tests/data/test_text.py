"""Every kind of source gives its documents, and every bad one a sentence that helps."""

import gzip
import json
import sys

import pytest

from remask.core.errors import BadData, BadInput, MissingExtra, UnknownName
from remask.data.text import Document, paragraphs, read


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(*sources, **options):
    return [one.text for one in read(sources, **options)]


def test_plain_text_loses_only_its_byte_order_mark_and_carriage_returns(tmp_path):
    source = write(tmp_path / "a.log", b"\xef\xbb\xbfone\r\ntwo\rthree \xc3\xa9\n")
    assert read([source]) == [Document(source, "one\ntwo\nthree é\n")]
    assert read(source) == read([source])


def test_gzip_reads_like_what_is_in_it(tmp_path):
    plain = write(tmp_path / "a.txt", "one\n\ntwo\n")
    packed = write(tmp_path / "b.txt.gz", gzip.compress(b"one\n\ntwo\n"))
    assert texts(plain) == texts(packed)
    records = write(tmp_path / "c.jsonl.GZ", gzip.compress(b'{"text": "x"}\n'))
    assert texts(records) == ["x"]


def test_a_file_is_cut_into_paragraphs_or_lines(tmp_path):
    source = write(tmp_path / "a.txt", "one\ntwo\n \t\n\n  three\n")
    assert texts(source) == ["one\ntwo\n \t\n\n  three\n"]
    assert read([source], document="paragraph") == [
        Document(f"{source}#1", "one\ntwo"),
        Document(f"{source}#2", "  three"),
    ]
    assert texts(source, document="line") == ["one", "two", "  three"]
    assert paragraphs("\n\n".join(paragraphs("\n \n a\n\n\n\nb\n"))) == [" a", "b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\r\n\n{"text": "two\\r\\nlines", "n": 1}\n'),
        ("a.ndjson", '{"text": "one"}\n{"text": "two\\nlines"}'),
        ("a.json", '{"text": "one"}\n{"text": "two\\nlines"}'),
        ("a.json", '[{"text": "one"},\n {"text": "two\\nlines"},\n {"text": null}, {"text": " "}]'),
    ],
)
def test_json_in_its_three_shapes(tmp_path, name, content):
    source = write(tmp_path / name, content)
    assert texts(source) == ["one", "two\nlines"]


def test_one_json_object_over_many_lines_is_one_record(tmp_path):
    source = write(tmp_path / "a.json", json.dumps({"body": "one", "n": 1}, indent=1))
    assert read([source], column="body") == [Document(f"{source}:1", "one")]


def test_json_lines_may_hold_the_other_line_ends_of_unicode(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"text": "one\u2028two\x85three"}\n')
    assert texts(source) == ["one\u2028two\x85three"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"], "label": [0, 1, 2]}), path)
    assert read([str(path)]) == [Document(f"{path}:1", "one"), Document(f"{path}:3", "two")]
    with pytest.raises(BadData, match=r"no field 'body' \(it has: label, text\); type --column"):
        read([str(path)], column="body")
    with pytest.raises(BadData, match=r"'label'.* is a int, not text"):
        read([str(path)], column="label")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadData, match=r"not a whole Parquet file"):
        read([str(path)])


def test_a_folder_is_read_in_sorted_order_without_what_is_hidden(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    write(tmp_path / "b" / ".git" / "config", b"\0")
    write(tmp_path / ".hidden", b"\0")
    write(tmp_path / "c.txt", "three")
    write(tmp_path / "b" / "x.jsonl", '{"text": "two"}')
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "empty.txt", "")
    assert texts(str(tmp_path)) == ["one", "two", "three"]


def test_embedded_topics_come_sorted_by_name():
    documents = read(["embedded"])
    names = [one.name for one in documents]
    assert names == sorted(names) and len(names) > 50
    assert sum(len(one.text) for one in documents) > 300_000


def test_hugging_face_name_of_a_local_folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "train.jsonl", '{"text": "one", "n": 1}\n{"text": "two", "n": 2}\n')
    write(tmp_path / "test.jsonl", '{"text": "three", "n": 3}\n')
    source = f"hf:{tmp_path}"
    assert read([source]) == [Document(f"{source}:1", "one"), Document(f"{source}:2", "two")]
    assert texts(f"{source}@default:test") == texts(f"{source}:test") == ["three"]
    with pytest.raises(BadData, match=r"no field 'body' \(it has: n, text\); type --column"):
        read([source], column="body")
    with pytest.raises(BadData, match=r"could not be read .*other.*hf:NAME@CONFIG:SPLIT"):
        read([f"{source}:other"])
    with pytest.raises(BadData, match=r"could not be read .*check the name"):
        read([f"{source}/nowhere"])


def test_a_missing_library_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'remask\[data\]'"):
        read(["hf:anything"])
    with pytest.raises(MissingExtra, match=r"reading .parquet files"):
        read([write(tmp_path / "a.parquet", "x")])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\t\n", "only white space"),
        ("a.jsonl", b'{"text": ""}\n', "holds no text"),
        ("a.json", b"", "holds no text"),
        ("a.bin", b"ab\0cd", "binary: there is a NUL at byte 2"),
        ("a.bin", b"\xff\xd8\0", "binary: there is a NUL at byte 2"),
        ("a.txt", "wide".encode("utf-16"), "iconv -f UTF-16"),
        ("a.txt", b"caf\xe9 au lait", "byte 0xe9 at position 3 .*iconv"),
        ("a.txt.gz", b"not gzip at all", "not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"word " * 1000, mtime=0)[:-12], "not a whole gzip file"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.json", b'[{"text": "x"},\n {"text" "y"}]', "line 2 is not JSON"),
        ("a.json", b'{"text": "x"}\n{"text": "y"\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n["y"]\n', "record 2 .* is a list; wanted is"),
        ("a.jsonl", b'{"body": "x", "id": 1}', r"no field 'text' \(it has: body, id\); type --column"),
        ("a.jsonl", b'{"text": 3}', "is a int, not text"),
        ("a.jsonl", b'{"text": "half \\ud83d"}', "half a surrogate pair"),
    ],
)
def test_a_bad_file_is_told_what_is_wrong_with_it(tmp_path, name, content, sentence):
    source = write(tmp_path / name, content)
    with pytest.raises(BadData, match=sentence) as caught:
        read([source])
    assert name in str(caught.value)


def test_other_mistakes(tmp_path):
    with pytest.raises(BadData, match=r"there is no file or folder '.*nowhere.txt'; name a text file"):
        read([str(tmp_path / "nowhere.txt")])
    with pytest.raises(BadData, match=r"holds no text"):
        read([str(tmp_path)])
    with pytest.raises(BadInput, match=r"no data was given"):
        read([])
    with pytest.raises(BadInput, match=r"type hf:NAME"):
        read(["hf:"])
    with pytest.raises(UnknownName, match=r"did you mean 'paragraph'.*file, line, paragraph"):
        read(["embedded"], document="paragraf")


def test_an_unreadable_file(tmp_path, monkeypatch):
    source = write(tmp_path / "a.txt", "x")

    def deny(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)  # root may read everything, so chmod proves nothing
    with pytest.raises(BadData, match=r"cannot be read .Permission denied.; check its permissions"):
        read([source])


def test_real_wikitext(real_data):
    (document,) = read([str(real_data / "wikitext-2" / "valid.txt.gz")])
    assert len(document.text.encode()) == 1_121_681
    assert len(read([str(real_data / "wikitext-2" / "valid.txt.gz")], document="line")) < 3760
