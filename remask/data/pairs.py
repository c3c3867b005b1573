"""Pairs: sentences and their translations, whatever files hold them.

    .tsv                           columns between tabs, one pair a line, no quoting: a quote is a character like others
    .jsonl .ndjson .parquet        one record one pair
    hf:NAME@CONFIG:SPLIT           a data set of the Hugging Face hub, or of a local folder
    two files of any other name    plain text, aligned: line k of the one translates line k of the other

Everything but Parquet may be gzipped (`.gz`). Text is UTF-8; every newline comes out as a line feed. Which text is
where, `columns` says:

    source,target          TSV columns, or the two aligned files, in this order; other names (`_`, `id`) stand for
                           columns to leave out. A first line of these very names is a header, any other one is data.
                           Records have fields of these names
    source=en,target=de    a TSV with a header, or records, that have other names; `translation.en` is the field `en`
                           within the field `translation`

Sentences stay as they are, empty ones too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from remask.core.errors import BadData, BadInput
from remask.data.file import newlines, read_text
from remask.data.labelled import _tab_rows
from remask.data.text import _hugging_face, _json_lines, _parquet

__all__ = ["ROLES", "Pair", "read_pairs"]

ROLES = ("source", "target")
SHOWN = 80  # characters of a list of names that a message shows


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


def read_pairs(sources: Sequence[str], columns: Sequence[str] | str = ROLES) -> list[Pair]:
    """Read every pair, in the order given; sides that are empty are kept.

    sources: files of pairs and hf: names, or exactly two aligned files of plain text (see the head of this module).
    columns: what is where, likewise; exactly one source and one target.

    Raises BadInput for columns that make no sense or are not there, or sources that do not go together; BadData for a
    file that is missing, broken, not UTF-8 or without pairs, a line with more or fewer columns than `columns` names,
    or aligned files with unequal numbers of lines; MissingExtra where `datasets` or `pyarrow` is not installed.
    """
    sources = [sources] if isinstance(sources, str) else sources
    if not sources:
        raise BadInput("no pairs were given; name a .tsv file, or two aligned files of plain text.")
    wanted = _Columns.of(columns)
    plain = [source for source in sources if _kind(source) not in _READERS]
    if len(plain) == len(sources):
        return _aligned(sources, wanted)
    if plain:
        raise BadInput(
            f"'{plain[0]}' is plain text beside files of pairs; name it .tsv if its columns stand between tabs, or "
            "give two aligned files and nothing else."
        )
    pairs: list[Pair] = []
    for source in sources:
        before = len(pairs)
        pairs.extend(_READERS[_kind(source)](source, wanted))
        if len(pairs) == before:
            raise BadData(f"'{source}' holds no pairs; name a file with a sentence and its translation on each line.")
    return pairs


class _Columns(NamedTuple):
    """What `columns` says: names by position (None where names of fields were given), and the name of each role."""

    order: list[str] | None
    names: tuple[str, str]
    shown: str

    @classmethod
    def of(cls, columns: Sequence[str] | str) -> _Columns:
        """Parse; BadInput for what makes no sense."""
        parts = [part.strip() for part in (columns.split(",") if isinstance(columns, str) else columns)]
        mapped = [(role.strip(), name.strip()) for role, _, name in (part.partition("=") for part in parts)]
        roles = [role for role, _ in mapped]
        named = any("=" in part for part in parts)
        fair = all(roles.count(role) == 1 for role in ROLES)
        if not fair or (named and (len(mapped) != len(ROLES) or not all(name for _, name in mapped))):
            raise BadInput(
                f"--columns {','.join(parts)} does not name exactly one source and one target; type for example "
                "--columns target,source, or --columns source=en,target=de for columns or fields of other names."
            )
        where = dict(mapped)
        names = (where["source"], where["target"]) if named else ("source", "target")
        return cls(None if named else roles, names, ",".join(parts))


def _kind(source: str) -> str:
    """What reads a source: hf:, or the suffix before any .gz."""
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    kind = (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:]
    return "hf:" if source.startswith("hf:") else "".join(kind)


def _table(source: str, columns: _Columns) -> Iterator[Pair]:
    """Pairs of a TSV."""
    path = Path(source)
    rows = _tab_rows(read_text(path), path)
    first = next(rows, None)
    if first is None:
        return
    names = columns.order or [name.strip() for name in first[1]]
    if lacks := [name for name in columns.names if names.count(name) != 1]:
        shown = ", ".join(names)[:SHOWN]
        raise BadInput(
            f"'{source}' has not exactly one column named '{lacks[0]}' (its first line has: {shown}); mend the "
            "names in --columns, or type --columns source,target in its order if it has no header."
        )
    left, right = map(names.index, columns.names)
    if columns.order is not None and not _is_header(first[1], left, right, source):
        rows = chain([first], rows)
    for number, cells in rows:
        if len(cells) != len(names):
            raise BadData(
                f"line {number} of '{source}' has {len(cells)} column{'' if len(cells) == 1 else 's'} where "
                f"{len(names)} were wanted ({','.join(names)[:SHOWN]}); mend the line, or name every column in "
                "--columns (`_` for one to leave out)."
            )
        yield Pair(cells[left], cells[right])


def _is_header(first: Sequence[str], left: int, right: int, source: str) -> bool:
    """Whether a first line names the roles; BadInput where it names them the other way round."""
    names = [cell.strip().lower() for cell in first]
    here = [names[at] for at in (left, right) if at < len(names)]
    if here == [*reversed(ROLES)]:
        raise BadInput(f"the first line of '{source}' has source and target the other way round: turn --columns round.")
    return here == [*ROLES]


def _objects(records: Iterable[Any], source: str, columns: _Columns) -> Iterator[Pair]:
    """Pairs of records."""
    for number, record in enumerate(records, 1):
        sides = [_field(record, name, f"record {number} of '{source}'") for name in columns.names]
        yield Pair(*sides)


def _field(record: Any, name: str, where: str) -> str:
    """A text field of a record, or of a record within it (`translation.en`); a null is an empty text."""
    value = record
    for part in [name] if isinstance(record, dict) and name in record else name.split("."):
        if not isinstance(value, dict) or part not in value:
            has = (
                ", ".join(map(str, record))[:SHOWN] if isinstance(record, dict) else f"it is a {type(record).__name__}"
            )
            raise BadData(f"{where} has no field '{name}' ({has}); type --columns source=NAME,target=NAME.")
        value = value[part]
    if value is not None and not isinstance(value, str):
        raise BadData(f"field '{name}' of {where} is a {type(value).__name__}; wanted is text, name another field.")
    if value and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise BadData(f"{where} holds half a surrogate pair, not Unicode; drop it.")
    return newlines(value or "")


_READERS: dict[str, Callable[[str, _Columns], Iterator[Pair]]] = {
    ".tsv": _table,
    ".jsonl": lambda source, wanted: _objects(_json_lines(read_text(Path(source)), Path(source)), source, wanted),
    ".parquet": lambda source, wanted: _objects(_parquet(Path(source)), source, wanted),
    "hf:": lambda source, wanted: _objects(_hugging_face(source), source, wanted),
}
_READERS[".ndjson"] = _READERS[".jsonl"]


def _aligned(sources: Sequence[str], columns: _Columns) -> list[Pair]:
    """Pairs of two files of plain text."""
    if len(sources) != len(ROLES) or columns.order is None or len(columns.order) != len(ROLES):
        raise BadInput(
            "plain text wants two aligned files and --columns source,target (or target,source), but there came "
            f"{len(sources)} ({', '.join(sources)[: 2 * SHOWN]}) with --columns {columns.shown}; a file with columns "
            "between tabs must end in .tsv."
        )
    texts = [read_text(Path(source)) for source in sources]
    lines = [text.removesuffix("\n").split("\n") if text else [] for text in texts]
    first, second = map(len, lines)
    if first != second:
        raise BadData(
            f"'{sources[0]}' has {first} lines and '{sources[1]}' has {second}, but line k of the one must translate "
            "line k of the other; make them again from pairs."
        )
    if not first:
        raise BadData(f"'{sources[0]}' and '{sources[1]}' hold no lines; name files with some text.")
    left, right = (lines[columns.order.index(role)] for role in ROLES)
    return [Pair(*both) for both in zip(left, right)]
