"""remask windows FASTA --gff GFF --out DIR: labelled windows of DNA, for remask finetune.

DIR/train.tsv, valid.tsv, test.tsv    label<TAB>text, with a header
DIR/windows.bed                       where each window lies (0-based, half-open), its side:label and its strand
DIR/windows.json                      the record: command, settings, counts, blocks, fingerprint; written last
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remask.cli.flags import READERS
from remask.cli.words import emit, parser

if TYPE_CHECKING:
    from remask.data.windows import Cut, Window

RECORD, PLACES = "windows.json", "windows.bed"


def main(arguments: list[str]) -> int:
    """Cut windows."""
    words = parser("windows", "FASTA --gff GFF --out DIR [--length N] [...]")
    words.add_argument("fasta", metavar="FASTA", help="the genome: .fa .fasta .fna, plain or .gz")
    words.add_argument("--gff", required=True, metavar="GFF", help="its annotation: GFF3, plain or .gz")
    words.add_argument("--out", required=True, metavar="DIR", help="where train.tsv, valid.tsv and test.tsv go")
    words.add_argument("--overwrite", action="store_true", help="replace the windows in --out")
    words.add_argument(
        "--length", type=READERS["int"], default=200, metavar="N", help="bases in a window [default: 200]"
    )
    words.add_argument(
        "--label", default="cds", help="what is told from the rest: cds (coding, noncoding) [default: cds]"
    )
    words.add_argument(
        "--frame", default="any", help="0: coding windows begin with the first base of a codon; any [default: any]"
    )
    words.add_argument(
        "--n", type=READERS["int"], default=10_000, metavar="N", help="windows in all, at most [default: 10000]"
    )
    words.add_argument(
        "--held-out",
        type=READERS["float"],
        default=0.1,
        metavar="S",
        help="share of the genome for valid, and again for test [default: 0.1]",
    )
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the drawing [default: 0]")
    words.add_argument("--json", action="store_true", help="print the record as one JSON object")
    values = words.parse_args(arguments)

    from remask.data.dna import read_fasta
    from remask.data.gff import check_lengths, read_gff
    from remask.data.windows import cut_windows

    out = _free(Path(values.out), values.overwrite)
    records, features = read_fasta(values.fasta), read_gff(values.gff)
    check_lengths(records, values.gff)
    settings = {name: getattr(values, name) for name in ("length", "seed", "label", "frame")}
    cut = cut_windows(records, features, count=values.n, share=values.held_out, **settings)
    record = {
        "command": "remask windows " + shlex.join(arguments),
        "fasta": values.fasta,
        "gff": values.gff,
        "n": values.n,
        "held_out": values.held_out,
        **settings,
        "bases": sum(len(one.sequence) for one in records),
        **_write(out, cut),
    }
    _finish(out, record)
    if values.json:
        emit(record)
        return 0
    from remask.cli.show import say

    counts = ", ".join(f"{side} {sum(labels.values())}" for side, labels in record["counts"].items())
    say(f"windows of {values.length} bases, half of them coding: {counts}; they are in {out}")
    if (found := len(cut.windows)) < values.n - 1:
        say(f"the genome has room for {found} of the {values.n} windows asked for.")
    return 0


def _free(out: Path, overwrite: bool) -> Path:
    """The output directory, if nothing of anybody else's would be lost."""
    from remask.core.errors import OutputExists

    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out} is a file: type another --out.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / RECORD).is_file():
            raise OutputExists(f"{out} holds files that are not windows of remask: type another --out.")
        if not overwrite:
            raise OutputExists(f"{out} holds windows: type --overwrite to replace them, or another --out.")
    return out


def _write(out: Path, cut: Cut) -> dict[str, Any]:
    """Write the tables; returns what the record says of them."""
    from remask.data.split import fingerprint
    from remask.data.text import Document
    from remask.data.windows import SIDES
    from remask.report.write import write

    tables = {side: _table([one for one in cut.windows if one.side == side]) for side in SIDES}
    for side, text in tables.items():
        write(out / f"{side}.tsv", text)
    write(
        out / PLACES,
        (f"{w.sequence}\t{w.start}\t{w.stop}\t{w.side}:{w.label}\t0\t{w.strand}\n" for w in cut.windows),
    )
    return {
        "counts": {
            side: dict(sorted(Counter(one.label for one in cut.windows if one.side == side).items())) for side in SIDES
        },
        "left_out": cut.left_out,
        "blocks": [list(block) for block in cut.blocks],
        "fingerprint": fingerprint([Document(side, text) for side, text in tables.items()]),
    }


def _table(windows: Sequence[Window]) -> str:
    return "".join(["label\ttext\n", *(f"{one.label}\t{one.text}\n" for one in windows)])


def _finish(out: Path, record: dict[str, Any]) -> None:
    """The record comes last: where it stands, all else does."""
    import json

    import remask
    from remask.report.write import write

    write(out / RECORD, json.dumps({"remask": remask.__version__, **record}, indent=1) + "\n")
