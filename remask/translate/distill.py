"""Distillation: a teacher's translations of many sources, in a file that survives being killed.

Students of parallel decoding learn from one translation a source, the teacher's own, instead of many people's (Kim &
Rush 2016, arXiv 1606.07947, sequence-level knowledge distillation; Gu et al. 2018, arXiv 1711.02281).

    FILE            source<TAB>translation, a line for each source; there only when all of it is
    FILE.partial    what is done so far, whole buffers of lines
    FILE.json       the record: the settings that it is made with

Going on means: the settings and sources are the same, what is left of a broken buffer is cut off, and the next buffer
is the one that would have come. Batches and draws are thus those of a run that was never stopped, and so is every byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remask.core.errors import BadData, BadInput, OutputExists, SaveFailed
from remask.translate.lines import Lines, buffers, one_line

Progress = Callable[[int, int], None]


def distill(
    translator: Lines,
    sources: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, of: None,
) -> int:
    """Translate every source into `out`; returns how many lines were there already.

    settings: plain data, all that the translations depend on. progress: told of the lines done, and of all.
    Raises OutputExists where something is there and neither resume nor overwrite came, BadInput where it was begun with
    other settings, BadData where it was begun with other sources, SaveFailed where the disk would not take it.
    """
    partial, record = place(out, ".partial"), place(out, ".json")
    try:
        done = _begin(out, settings, sources, translator.batch, resume, overwrite)
        if out.exists():
            return done
        with partial.open("ab") as file:
            for first, chunk in buffers(sources, translator.batch):
                if first < done:
                    continue
                found = translator.buffer(chunk, first)
                lines = (f"{one_line(source)}\t{one.text}\n" for source, one in zip(chunk, found))
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                progress(first + len(chunk), len(sources))
        os.replace(partial, out)
    except OSError as error:
        raise SaveFailed(
            f"could not write {error.filename or partial} ({error.strerror or error}): free some space and type the "
            f"same command with --resume; what is whole in {partial} and {record} stays."
        ) from error
    return done


def place(out: Path, ending: str) -> Path:
    """A file beside `out`."""
    return out.with_name(out.name + ending)


def check(out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise BadInput or OutputExists before anything costly is done."""
    if out.suffix != ".tsv":
        raise BadInput(f"--out came as {out}: type a name that ends in .tsv, since it will hold pairs.")
    if resume and overwrite:
        raise BadInput("--resume came with --overwrite: type one of them.")
    found = [path for path in (out, place(out, ".partial")) if path.exists()]
    if found and not (resume or overwrite):
        raise OutputExists(
            f"{found[0]} is there already: type --resume to go on with it, --overwrite to begin anew, or another --out."
        )


def _begin(
    out: Path, settings: Mapping[str, Any], sources: Sequence[str], batch: int, resume: bool, overwrite: bool
) -> int:
    """Make the files ready; returns how many lines are done."""
    check(out, resume=resume, overwrite=overwrite)
    partial, record = place(out, ".partial"), place(out, ".json")
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = out if out.exists() else partial
    if resume and begun.exists():
        _same(record, settings)
        lines = begun.read_bytes().split(b"\n")[:-1]
        _agree(begun, lines, sources)
        ends = [0, *(first + len(chunk) for first, chunk in buffers(sources, batch))]
        if begun == out and len(lines) < len(sources):
            raise BadData(
                f"{out} has {len(lines)} lines for {len(sources)} sources: type --overwrite, or another --out."
            )
        done = max(end for end in ends if end <= len(lines))
        if begun == partial:
            os.truncate(partial, sum(len(line) + 1 for line in lines[:done]))
        return done
    for path in (out, partial):
        path.unlink(missing_ok=True)
    record.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _same(record: Path, settings: Mapping[str, Any]) -> None:
    """Raise BadInput where the record has other settings."""
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise BadInput(f"{record} cannot be read, so nobody knows what was begun: type --overwrite.") from error
    wanted = json.loads(json.dumps(settings))
    other = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name)]
    if other:
        name = other[0]
        raise BadInput(
            f"{record} was begun with {name} {before.get(name)}, and now it is {wanted.get(name)}: type the same "
            "command as before, --overwrite to begin anew, or another --out."
        )


def _agree(begun: Path, lines: Sequence[bytes], sources: Sequence[str]) -> None:
    """Raise BadData where the lines are not those of these sources."""
    for number, line in enumerate(lines):
        source = one_line(sources[number]).encode() if number < len(sources) else None
        if line.split(b"\t")[0] != source:
            raise BadData(
                f"line {number + 1} of {begun} is of another source than the data's: type the --data that it was begun "
                "with, --overwrite, or another --out."
            )
