"""remask bench NAME: speed against named baselines, in one run."""

from __future__ import annotations

from typing import Any

from remask.bench import BENCHES
from remask.cli.flags import add, describe, fields, take
from remask.cli.words import emit, parser

DIRECTORIES = "checkpoints"  # the field of a bench that reads models
KIND = "kind"  # rows of another kind have other columns, and a table of their own


def main(arguments: list[str]) -> int:
    """Bench."""
    if not arguments or arguments[0].startswith("-"):
        words = parser("bench", "NAME [...]")
        words.add_argument("name", choices=list(BENCHES), metavar="NAME", help=", ".join(BENCHES))
        words.parse_args(arguments)
        return 2
    name = arguments[0]
    reads = DIRECTORIES in {field.name for field in fields(BENCHES[name])}
    words = parser(f"bench {name}", "CHECKPOINT... [...] [--json]" if reads else "[...] [--json]")
    if reads:
        words.add_argument(DIRECTORIES, nargs="+", metavar="CHECKPOINT", help="directories of checkpoints, or hf:NAME")
    words.add_argument("--json", action="store_true", help="one JSON object a row")
    names = add(words, BENCHES[name], describe(BENCHES[name]).summary, skip=(DIRECTORIES,))
    values = words.parse_args(arguments[1:])
    bench = BENCHES.load(name)(**take(values, [*names, *([DIRECTORIES] if reads else [])]))
    for remark in bench.remarks() if hasattr(bench, "remarks") else ():
        from remask.cli.show import say

        say(f"note: {remark}")
    rows = bench.rows()
    if values.json:
        for row in rows:
            emit(row)
        return 0
    from remask.cli.show import console

    with console.status("measuring: keep the machine quiet"):
        found = list(rows)
    _show(name, found, getattr(bench, "shown", found[0]))
    return 0


def _show(name: str, found: list[dict[str, Any]], usual: Any) -> None:
    """A table of every kind of rows; --json has all columns."""
    from rich.console import Console
    from rich.table import Table

    for kind in dict.fromkeys(row.get(KIND) for row in found):
        rows = [row for row in found if row.get(KIND) == kind]
        shown = Table(title=f"bench {name}" if kind is None else f"bench {name}: {kind}", title_justify="left")
        keys = [key for key in (usual if kind is None else rows[0]) if key not in ("what", KIND)]
        for key in keys:
            shown.add_column(key.replace("_", " "), justify="left" if key == "arm" else "right")
        for row in rows:
            shown.add_row(*(_cell(row[key]) for key in keys))
        Console().print(shown)
    for arm, what in {row["arm"]: row["what"] for row in found}.items():
        Console().print(f"[bold]{arm}[/bold]: {what}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)
