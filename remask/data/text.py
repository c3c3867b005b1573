"""Text: whatever the user names, as a list of documents.

    text files (any suffix)     a file, its paragraphs or its lines are documents
    .jsonl .ndjson .json        one record one document, its text in field `column`
    .parquet                    likewise
    .fa .fasta .fna .ffn        FASTA: one sequence one document, its lines joined, upper case
    a folder of those           recursively, in sorted order, hidden files skipped
    hf:NAME@CONFIG:SPLIT        a data set of the Hugging Face hub, or of a local folder
    embedded                    the English documentation that ships inside Python

Everything but Parquet may be gzipped (`.gz`). Text is UTF-8; every newline comes out as a line feed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remask.core.errors import BadData, BadInput, MissingExtra, UnknownName
from remask.data.dna import FASTA, parse_fasta
from remask.data.file import newlines
from remask.data.file import read_text as _text

__all__ = ["Document", "paragraphs", "read"]


class Document(NamedTuple):
    """A text with a name.

    name: where it comes from: a path, `path#k` for the k-th part, `path:k` for the k-th record, `path:id`
        for a FASTA sequence, or a topic.
    text: what it says; valid Unicode, newlines are line feeds.
    """

    name: str
    text: str


def read(sources: Sequence[str], *, column: str = "text", document: str = "file") -> list[Document]:
    """Read every source, in the order given.

    sources: files, folders, `hf:NAME@CONFIG:SPLIT` or `embedded` (see the head of this module).
    column: the field that holds the text of a record (JSON, Parquet, hf).
    document: what is one document of a plain text file: "file", "paragraph" or "line".

    Documents of nothing but white space are left out; a source that has no others is an error. Raises BadData for
    a source that is missing, empty, broken, binary or not UTF-8, UnknownName for an unknown `document`, and
    MissingExtra where `datasets` or `pyarrow` is needed and not installed.
    """
    if document not in _CUTS:
        raise UnknownName("document", document, _CUTS)
    if isinstance(sources, str):
        sources = [sources]
    if not sources:
        raise BadInput("no data was given; name a text file, a folder, hf:NAME, or the word embedded.")
    documents: list[Document] = []
    for source in sources:
        found = [one for one in _read(source, column, document) if one.text.strip()]
        if not found:
            raise BadData(f"'{source}' holds no text (it is empty, or only white space); name a source with some text.")
        documents += found
    return documents


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a text: runs of lines between blank lines, words and indentation as they are."""
    found: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            found.append("\n".join(lines))
            lines = []
    return found


_CUTS: dict[str, Callable[[str], list[str]]] = {
    "file": lambda text: [text],
    "paragraph": paragraphs,
    "line": lambda text: [line for line in text.split("\n") if line.strip()],
}


def _read(source: str, column: str, document: str) -> Iterator[Document]:
    """Documents of one source."""
    if source == "embedded":
        yield from _embedded()
    elif source.startswith("hf:"):
        yield from _records(_hugging_face(source), source, column)
    else:
        path = Path(source)
        if not path.exists():
            raise BadData(f"there is no file or folder '{source}'; name a text file, a folder, hf:NAME, or embedded.")
        for file in _files(path) if path.is_dir() else [path]:
            yield from _file(file, column, document)


def _files(folder: Path) -> list[Path]:
    """Files of a folder, sorted; what is hidden, or lies in a hidden folder, is not data."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _file(path: Path, column: str, document: str) -> Iterator[Document]:
    """Documents of one file, by its suffix."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind == [".parquet"] and not packed:
        yield from _records(_parquet(path), str(path), column)
        return
    text = _text(path, packed)
    if kind in ([".jsonl"], [".ndjson"]):
        yield from _records(_json_lines(text, path), str(path), column)
    elif kind == [".json"]:
        yield from _records(_json(text, path), str(path), column)
    elif kind and kind[0] in FASTA:
        yield from (Document(f"{path}:{one.name}", one.sequence) for one in parse_fasta(text, str(path)))
    elif document == "file":
        yield Document(str(path), text)
    else:
        yield from (Document(f"{path}#{k}", part) for k, part in enumerate(_CUTS[document](text), 1))


def _parse(text: str, path: Path, first: int) -> Any:
    """One JSON value; `first` is the number of its first line, for the message."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = first + getattr(error, "lineno", 1) - 1
        raise BadData(f"'{path}' line {line} is not JSON ({error}); mend the line, or name a text file.") from error


def _json_lines(text: str, path: Path) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parse(line, path, number)


def _json(text: str, path: Path) -> Iterable[Any]:
    """A list, one object, or one object per line: `.json` is used for all three."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
        return _json_lines(text, path)
    if not lines:
        return []
    whole = _parse(text, path, 1)
    return whole if isinstance(whole, list) else [whole]


def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", "reading .parquet files") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"'{path}' is not a whole Parquet file ({_first_line(error)}); make it again.") from error


def _hugging_face(source: str) -> Iterator[Any]:
    """Records of `hf:NAME`, `hf:NAME@CONFIG`, `hf:NAME@CONFIG:SPLIT` or `hf:NAME:SPLIT`, streamed."""
    match = re.fullmatch(r"hf:(?P<name>[^@:]+)(@(?P<config>[^:]*))?(:(?P<split>.+))?", source)
    if match is None:
        raise BadInput(f"'{source}' does not name a data set; type hf:NAME, hf:NAME@CONFIG or hf:NAME@CONFIG:SPLIT.")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data", "reading hf: names") from error
    try:
        yield from datasets.load_dataset(
            match["name"], match["config"] or None, split=match["split"] or "train", streaming=True
        )
    except Exception as error:  # the library raises its own, fsspec's, Arrow's and the network's errors
        raise BadData(
            f"'{source}' could not be read ({type(error).__name__}: {_first_line(error)}); check the name, the "
            "network, and the form hf:NAME@CONFIG:SPLIT."
        ) from error


def _records(records: Iterable[Any], source: str, column: str) -> Iterator[Document]:
    """One document per record; a null is no text, anything else that is not text is an error."""
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            wanted = '{"' + column + '": "..."}'
            raise BadData(f"record {number} of '{source}' is a {type(record).__name__}; wanted is {wanted}.")
        if column not in record:
            known = ", ".join(sorted(record)) or "none"
            raise BadData(
                f"record {number} of '{source}' has no field '{column}' (it has: {known}); type --column NAME."
            )
        text = record[column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise BadData(
                f"field '{column}' of record {number} of '{source}' is a {type(text).__name__}, not text; "
                "type --column with the name of a field of text."
            )
        # JSON can smuggle in halves of surrogate pairs, which no tokenizer takes.
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise BadData(f"record {number} of '{source}' holds half a surrogate pair, not Unicode; drop the record.")
        yield Document(f"{source}:{number}", newlines(text))


def _embedded() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise BadData("this Python ships without its documentation (pydoc_data); name a text file instead.") from error
    yield from (Document(name, newlines(topics[name])) for name in sorted(topics))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
