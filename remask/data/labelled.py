"""Labelled texts: a text (or a pair of texts) and a class or a number, from TSV, CSV or JSON lines.

    .tsv             columns between tabs, one row a line, no quoting: a quote is a character like any other
    .csv             as Python's csv module reads them: quoted fields may hold commas and line ends
    .jsonl .ndjson   one object a line

All may be gzipped (`.gz`). Text is UTF-8; every newline comes out as a line feed. What is in which column:

    (nothing)                     the first row is a header with the names text, label and, for pairs, text_pair
    label,text                    these columns in this order; a first row of those same names is a header, any other
                                  one is data; further names (`_`, `id`) stand for columns to leave out
    text=question,label=intent    a file with a header (or fields of JSON) that has other names
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remask.core.errors import BadData, BadInput, UnknownName
from remask.data.file import read_text
from remask.data.text import _json_lines

__all__ = ["ROLES", "TASKS", "Labelled", "check_seen", "class_names", "read_labelled"]

ROLES = ("text", "text_pair", "label")
TASKS = ("classify", "pairs", "regress")
SHOWN = 5  # row numbers, names or labels that a message lists
Row = tuple[int, Sequence[Any]]


class Labelled(NamedTuple):
    """Texts and what they are labelled with; one entry a row.

    pairs: the second texts, None where a row has one text only.
    labels: class names (str) for classify and pairs, numbers (float) for regress.
    name: where they come from, for messages.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[Any]
    name: str = "the data"


def read_labelled(path: str | Path, columns: str | None = None, task: str = "classify") -> Labelled:
    """Read a file of labelled texts.

    columns: which column is what, see the head of this module; task: classify, pairs or regress (which reads a pair of
    texts where there is a column text_pair). Class names lose the white space around them, texts stay as they are.

    Raises BadInput for columns that are not there or do not fit the task, BadData for a file that is missing, not
    UTF-8, without rows, with rows of unequal width, empty texts or labels, or (regress) labels that are no numbers.
    """
    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    file = Path(path)
    if not file.is_file():
        raise BadData(f"there is no file '{path}'; name a .tsv, .csv or .jsonl file (plain or .gz).")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if not kind or kind[0] not in _KINDS:
        raise BadInput(f"'{path}' ends in none of {', '.join(_KINDS)} (or these and .gz): rename it to what it is.")
    text = read_text(file, packed)
    wanted = _Columns.of(columns, task)
    rows = _objects(text, file, wanted) if kind[0] in _OBJECTS else _table(_KINDS[kind[0]](text, file), file, wanted)
    if not rows[0]:
        raise BadData(f"'{path}' holds no rows; name a file with labelled texts.")
    return _labelled(*rows, file, task)


def class_names(labels: Labelled) -> list[str]:
    """The classes of training labels, sorted: their place is their id. BadData for fewer than two."""
    found = sorted(set(labels.labels))
    if len(found) < 2:
        raise BadData(
            f"{labels.name} has one class only ('{_cut(found[0])}', {len(labels.labels)} rows) where two or more are "
            "wanted; check which column is the label and type --columns."
        )
    return found


def check_seen(labels: Labelled, known: Collection[str], flag: str = "--data") -> None:
    """BadData when labels (of valid or test) hold classes that training, the file behind `flag`, has not."""
    known = set(known)
    unseen = sorted({label for label in labels.labels if label not in known})
    if unseen:
        rows = sum(label not in known for label in labels.labels)
        raise BadData(
            f"{labels.name} has {_list([repr(_cut(u)) for u in unseen], 'labels')} in {_count(rows, 'row')} that "
            f"training never saw; drop those rows, or add such rows to {flag}."
        )


class _Columns(NamedTuple):
    """What --columns says.

    order: names by position, None where it was not said; names: role -> name in the header or JSON object.
    """

    order: list[str] | None
    names: dict[str, str]
    task: str
    typed: bool

    @classmethod
    def of(cls, columns: str | None, task: str) -> _Columns:
        """Parse; BadInput for what makes no sense."""
        if columns is None:
            return cls(None, {role: role for role in ROLES}, task, False)
        parts = [part.strip() for part in columns.split(",")]
        mapped = [part.partition("=") for part in parts]
        if any(sign for _, sign, _ in mapped):
            roles = [role.strip() for role, _, _ in mapped]
            if not all(sign and name.strip() for _, sign, name in mapped) or not set(roles) <= set(ROLES):
                raise BadInput(
                    f"--columns {columns} is neither a list of names nor text=NAME,label=NAME (text_pair=NAME for the "
                    "second text): type one of them."
                )
            found = cls(None, {role: name.strip() for role, (_, _, name) in zip(roles, mapped)}, task, True)
        else:
            roles = [part for part in parts if part in ROLES]
            found = cls(parts, {role: role for role in roles}, task, True)
        twice = sorted({role for role in roles if roles.count(role) > 1})
        if twice:
            raise BadInput(f"--columns {columns} names '{twice[0]}' twice: type it once.")
        missing = [role for role in found.needed if role not in found.names]
        if missing:
            raise BadInput(
                f"--columns {columns} names no {' and no '.join(missing)}, which --task {task} needs: "
                f"type for example --columns {','.join(found.needed)}."
            )
        found.check_pairs(found.names, f"--columns {columns}")
        return found

    @property
    def needed(self) -> tuple[str, ...]:
        """Roles that the task cannot do without."""
        return ROLES if self.task == "pairs" else ("text", "label")

    def check_pairs(self, roles: Collection[str], where: str) -> None:
        """A second text that the task would not read is a mistake, not something to drop unseen."""
        if self.task == "classify" and "text_pair" in roles:
            raise BadInput(
                f"{where} has a text_pair, which --task classify does not read: type --task pairs, or leave that "
                "column out with --columns."
            )

    def within(self, header: Sequence[str], path: Path) -> dict[str, int]:
        """The place of each role in a header."""
        names = [str(name).strip() for name in header]
        has = ", ".join(_cut(name) for name in names)
        for role in self.needed:
            if self.names[role] not in names:
                example = ",".join(f"{role}={_cut(n)}" for role, n in zip(self.needed, _guess(names, self.needed)))
                raise BadInput(
                    f"'{path}' has no column '{self.names[role]}' (its first row has: {has}): type --columns {example} "
                    f"with its names, or --columns {','.join(self.needed)} in its order if it has no header."
                )
        there = {role: names.index(name) for role, name in self.names.items() if name in names}
        twice = [self.names[role] for role in there if names.count(self.names[role]) > 1]
        if twice:
            raise BadInput(f"'{path}' has two columns named '{twice[0]}' (its first row has: {has}): rename one.")
        if absent := [name for role, name in self.names.items() if self.typed and role not in there]:
            raise BadInput(f"'{path}' has no column '{absent[0]}' (its first row has: {has}): mend --columns.")
        self.check_pairs(there, f"'{path}'")
        return there


def _guess(names: Sequence[str], roles: Sequence[str]) -> Iterator[str]:
    """A header's names for an example: the role's own where it is there, the others in order."""
    rest = iter([name for name in names if name not in roles] + ["NAME"] * len(roles))
    for role in roles:
        yield role if role in names else next(rest)


def _tab_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() or "\t" in line:  # a row of empty fields is a row, and refused as one
            yield number, line.split("\t")


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, cells in enumerate(reader, 1):
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise BadData(
            f"'{path}' line {reader.line_num} is no CSV ({error}); mend its quotes, or name the file .tsv if its "
            "columns stand between tabs."
        ) from error


def _table(rows: Iterator[Row], path: Path, columns: _Columns) -> tuple[list[int], dict[str, list[Any]]]:
    """Row numbers, and the cells of each role."""
    body = list(rows)
    if not body:
        return [], {}
    if columns.order is not None and not _is_header(body[0][1], columns.order, path):
        places = {role: columns.order.index(role) for role in columns.names}
        wide = len(columns.order)
    else:
        places, wide = columns.within(body[0][1], path), len(body[0][1])
        body = body[1:]
    uneven = [(number, len(cells)) for number, cells in body if len(cells) != wide]
    if uneven:
        number, came = uneven[0]
        more = f" (and {_count(len(uneven) - 1, 'row')} more)" if len(uneven) > 1 else ""
        hint = "mend the row" if columns.order is None else "mend the row, or name every column in --columns"
        raise BadData(f"row {number} of '{path}' has {_count(came, 'column')} where {wide} were wanted{more}; {hint}.")
    return [n for n, _ in body], {role: [cells[at] for _, cells in body] for role, at in places.items()}


def _is_header(first: Sequence[str], order: Sequence[str], path: Path) -> bool:
    """Whether a first row names columns; BadInput where it seems to, but with other names."""
    names = [cell.strip() for cell in first]
    roles = [role for role in order if role in ROLES]
    if sorted(names) == sorted(order):
        return True
    here = [name for name, role in zip(names, order) if name == role]
    if len(names) == len(order) and here == roles:  # the rest are columns to leave out
        return True
    if any(name in ROLES for name in here):
        mapping = ",".join(f"{role}={_cut(name)}" for name, role in zip(names, order) if role in ROLES)
        raise BadInput(
            f"the first row of '{path}' ({', '.join(map(_cut, names))}) looks like a header with other names than "
            f"--columns has: type --columns {mapping}."
        )
    return False


def _objects(text: str, path: Path, columns: _Columns) -> tuple[list[int], dict[str, list[Any]]]:
    """Row numbers, and the fields of each role; a field that the first object lacks is not there at all."""
    numbered = [n for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    objects = list(_json_lines(text, path))
    for number, record in zip(numbered, objects):
        if not isinstance(record, dict):
            wanted = '{"text": "...", "label": "..."}'
            raise BadData(f"row {number} of '{path}' is a {type(record).__name__} where {wanted} was wanted.")
    if not objects:
        return [], {}
    there = columns.within(list(objects[0]), path)
    for number, record in zip(numbered, objects):
        if lacks := [columns.names[role] for role in there if columns.names[role] not in record]:
            has = ", ".join(map(_cut, record)) or "none"
            raise BadData(f"row {number} of '{path}' has no field '{lacks[0]}' (it has: {has}); mend the row.")
    return numbered, {role: [record[columns.names[role]] for record in objects] for role in there}


_OBJECTS = (".jsonl", ".ndjson")
_KINDS: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    ".tsv": _tab_rows,
    ".csv": _csv_rows,
    **dict.fromkeys(_OBJECTS, _tab_rows),  # not read by rows
}


def _labelled(numbers: list[int], cells: dict[str, list[Any]], path: Path, task: str) -> Labelled:
    texts = {role: _texts(cells[role], numbers, path, role) for role in ("text", "text_pair") if role in cells}
    labels = (_numbers if task == "regress" else _classes)(cells["label"], numbers, path)
    return Labelled(texts["text"], texts.get("text_pair"), labels, f"'{path}'")


def _texts(values: list[Any], numbers: list[int], path: Path, role: str) -> list[str]:
    """Texts as they are; an empty one has nothing to be judged by."""
    for value, number in zip(values, numbers):
        if value is not None and not isinstance(value, str):
            raise BadData(f"the {role} in row {number} of '{path}' is a {type(value).__name__}; wanted is a string.")
        if value and not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise BadData(f"row {number} of '{path}' holds half a surrogate pair, not Unicode; drop the row.")
    empty = [number for value, number in zip(values, numbers) if not (value or "").strip()]
    if empty:
        raise BadData(
            f"'{path}' has {_count(len(empty), f'empty {role} field')} ({_rows(empty)}); drop or mend "
            f"{'that row' if len(empty) == 1 else 'those rows'}."
        )
    return values


def _classes(values: list[Any], numbers: list[int], path: Path) -> list[str]:
    """Class names; whole numbers and truth values of JSON are read as they are written."""
    odd = [n for v, n in zip(values, numbers) if v is not None and not isinstance(v, str | int)]
    if odd:
        raise BadData(
            f"'{path}' has {_count(len(odd), 'label')} that name no class ({_rows(odd)}); wanted are strings."
        )
    names = ["" if v is None else str(v).lower() if isinstance(v, bool) else str(v).strip() for v in values]
    empty = [number for name, number in zip(names, numbers) if not name]
    if empty:
        raise BadData(f"'{path}' has {_count(len(empty), 'empty label field')} ({_rows(empty)}); drop or label them.")
    return names


def _numbers(values: list[Any], numbers: list[int], path: Path) -> list[float]:
    """Labels to regress on."""
    found = [_number(value) for value in values]
    bad = [i for i, value in enumerate(found) if not math.isfinite(value)]
    if bad:
        raise BadData(
            f"'{path}' has {_count(len(bad), 'label')} that {'is' if len(bad) == 1 else 'are'} no number "
            f"('{_cut(str(values[bad[0]]))}', {_rows([numbers[i] for i in bad])}); --task regress wants numbers: "
            "type --task classify for names, or name the right column in --columns."
        )
    return found


def _number(value: Any) -> float:
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _cut(name: str) -> str:
    """A name that fits into a sentence."""
    name = " ".join(str(name).split())
    return name if len(name) <= 40 else name[:39] + "…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _rows(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > SHOWN else ""
    return f"row{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers[:SHOWN]))}{more}"


def _list(names: Sequence[str], what: str) -> str:
    """A few names and how many there are in all."""
    if len(names) == 1:
        return f"the label {names[0]}"
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
