"""GFF3: the features of a genome, with coordinates as Python counts (Stein 2020, Generic Feature Format 3, v1.26).

A file counts from 1 and includes both ends; a Feature counts from 0 and excludes its stop. A feature of several parts
(a CDS of several exons) is several rows, and so several Features; `phase` makes each of them readable by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from remask.core.errors import BadData
from remask.data.dna import Record
from remask.data.file import read_text

__all__ = ["Feature", "check_features", "check_lengths", "read_gff"]

COLUMNS = 9
REGION = ("##sequence-region", "name", "1", "length")
NAMED = 3  # sequences named in an error


class Feature(NamedTuple):
    """One row.

    sequence: name of the sequence it lies on; kind: its type, such as CDS.
    start, stop: bases start .. stop - 1, from 0; on a circle, stop may be beyond the end of the sequence.
    strand: "+" or "-", "." where it has none, "?" where nobody knows.
    phase: bases from the feature's own beginning (its right end on "-") to the first base of a codon; 0 if not said.
    pseudo: marked as a pseudogene (pseudo=true), so with a broken frame.
    circular: marked as lying on, or being, a circle (Is_circular=true).
    line: its line in the file.
    """

    sequence: str
    kind: str
    start: int
    stop: int
    strand: str
    phase: int
    pseudo: bool
    circular: bool
    line: int


def read_gff(path: str | Path) -> list[Feature]:
    """The features of a GFF3 file (plain or `.gz`), in order; comments, directives and a ##FASTA part are skipped.

    Raises BadData for a line that is not nine columns between tabs, or has bad coordinates, strand or phase.
    """
    features: list[Feature] = []
    for number, line in enumerate(read_text(Path(path)).split("\n"), 1):
        if line.startswith(("##FASTA", ">")):
            break
        if line.strip() and not line.startswith("#"):
            features.append(_feature(line.split("\t"), number, path))
    if not features:
        raise BadData(f"'{path}' holds no features; wanted is GFF3: nine columns between tabs.")
    return features


def check_lengths(records: Sequence[Record], path: str | Path) -> None:
    """BadData where a `##sequence-region` line gives a sequence another length than the FASTA file does."""
    sizes = {one.name: len(one.sequence) for one in records}
    for number, line in enumerate(read_text(Path(path)).split("\n"), 1):
        words = line.split()
        if len(words) != len(REGION) or words[0] != REGION[0] or words[2] != "1" or not words[3].isdecimal():
            continue
        name, said = unquote(words[1]), int(words[3])
        if name in sizes and sizes[name] != said:
            raise BadData(
                f"line {number} of '{path}' says that {name} has {said} bases, and in the FASTA file it has "
                f"{sizes[name]}: name the FASTA file that the annotation was made for."
            )


def check_features(records: Sequence[Record], features: Sequence[Feature], kind: str) -> None:
    """BadData unless every feature lies on a sequence of the FASTA file and within it, and some are of the kind wanted.

    A feature may run over the end of a circular sequence, once.
    """
    sizes = {one.name: len(one.sequence) for one in records}
    strange = Counter(one.sequence for one in features if one.sequence not in sizes)
    if strange:
        raise BadData(
            f"the GFF file describes {_names(strange)} ({strange.total()} features), which the FASTA file does not "
            f"hold (it has {_names(sizes)}); name the FASTA file that the annotation was made for."
        )
    circles = {one.sequence for one in features if one.circular}
    beyond = [one for one in features if one.stop > sizes[one.sequence] * (2 if one.sequence in circles else 1)]
    if beyond:
        first = beyond[0]
        raise BadData(
            f"{len(beyond)} features of the GFF file lie beyond the end of their sequence, the first on line "
            f"{first.line} ({first.kind} {first.start + 1}..{first.stop}, but {first.sequence} has "
            f"{sizes[first.sequence]} bases); name the FASTA file that the annotation was made for."
        )
    if not any(one.kind == kind for one in features):
        known = ", ".join(f"{name} {n}" for name, n in Counter(one.kind for one in features).most_common())
        raise BadData(f"the GFF file has no features of the kind {kind} (it has: {known}); name a whole annotation.")
    lost = [one for one in features if one.kind == kind and one.strand not in ("+", "-")]
    if lost:
        raise BadData(
            f"{len(lost)} {kind} features have no strand, the first on line {lost[0].line} of the GFF file "
            f"('{lost[0].strand}' where + or - is wanted); mend or remove them."
        )


def _feature(cells: Sequence[str], number: int, path: str | Path) -> Feature:
    if len(cells) != COLUMNS:
        raise BadData(
            f"line {number} of '{path}' has {len(cells)} columns where {COLUMNS} between tabs are wanted; "
            "name a GFF3 file."
        )
    name, _, kind, first, last, _, strand, phase, notes = cells
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise BadData(
            f"line {number} of '{path}' goes from {first!r} to {last!r}; wanted are two whole numbers, from 1 up, the "
            "smaller first."
        )
    if strand not in ("+", "-", ".", "?"):
        raise BadData(f"line {number} of '{path}' has the strand {strand!r}; wanted is one of + - . ?")
    if phase not in ("0", "1", "2", "."):
        raise BadData(f"line {number} of '{path}' has the phase {phase!r}; wanted is one of 0 1 2 .")
    marks = {mark.strip().lower() for mark in notes.split(";")}
    return Feature(
        unquote(name),
        kind,
        int(first) - 1,
        int(last),
        strand,
        0 if phase == "." else int(phase),
        "pseudo=true" in marks,
        "is_circular=true" in marks,
        number,
    )


def _names(names: dict[str, int]) -> str:
    shown = ", ".join(f"'{name}'" for name in list(names)[:NAMED])
    return shown + (f" and {len(names) - NAMED} others" if len(names) > NAMED else "")
