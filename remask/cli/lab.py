"""remask lab NAME: the theory lab. Each experiment is a table, a plot, and what it means."""

from __future__ import annotations

from typing import Any

from remask.cli.flags import add, describe, fields, required, take
from remask.cli.words import emit, parser
from remask.lab import EXPERIMENTS

DIRECTORY = "checkpoint"  # the field of an experiment that reads a model
KIND = "kind"  # rows of another kind have other columns, and a table of their own
WIDEST = 48  # characters of a cell: longer texts are in the JSON, and in the sentences


def main(arguments: list[str]) -> int:
    """Run one experiment."""
    if not arguments or arguments[0].startswith("-"):
        words = parser("lab", "NAME [DIR] [...]")
        told = "; ".join(f"{name}: {describe(EXPERIMENTS[name]).summary}" for name in EXPERIMENTS)
        words.add_argument("name", choices=list(EXPERIMENTS), metavar="NAME", help=told)
        words.parse_args(arguments)
        return 2
    name = arguments[0]
    place = EXPERIMENTS[name]
    may, must = DIRECTORY in {field.name for field in fields(place)}, DIRECTORY in required(place)
    shown = "DIR " if must else "[DIR] " if may else ""
    words = parser(f"lab {name}", f"{shown}[...] [--json] [--plot FILE.png]")
    if may or must:
        text = "a checkpoint: ours, or a Hugging Face masked language model"
        words.add_argument(DIRECTORY, nargs=None if must else "?", metavar="DIR", help=text)
    words.add_argument("--json", action="store_true", help="one JSON object a row")
    words.add_argument("--plot", metavar="FILE", help="draw the findings into a .png or .svg")
    names = add(words, place, describe(place).summary, skip=(DIRECTORY,))
    values = words.parse_args(arguments[1:])
    given = take(values, names)
    if getattr(values, DIRECTORY, None):
        given[DIRECTORY] = values.checkpoint
    if values.plot:
        from remask.lab.plot import check

        check(values.plot)  # before minutes of work, not after
    findings = _run(EXPERIMENTS.load(name)(**given), name, values.json)
    if values.plot:
        from remask.lab.plot import plot

        plot(findings.panels, values.plot, f"remask lab {' '.join(arguments)}".split(" --plot")[0])
    if values.json:
        for row in findings.rows:
            emit(row)
        return 0
    _show(name, findings)
    return 0


def _run(experiment: Any, name: str, quiet: bool) -> Any:
    from remask.cli.show import console

    if quiet:
        return experiment.run()
    with console.status(f"lab {name}"):
        return experiment.run()


def _show(name: str, findings: Any) -> None:
    from rich.console import Console

    console = Console()
    kinds = list(dict.fromkeys(row.get(KIND) for row in findings.rows))
    for kind in kinds:
        rows = [{k: v for k, v in row.items() if k != KIND} for row in findings.rows if row.get(KIND) == kind]
        console.print(_table(f"lab {name}" if kind is None else f"lab {name}: {kind}", rows))
        console.print()
    for sentence in findings.says:
        console.print(f"* {sentence}", highlight=False, markup=False)


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    """The rows without columns that are empty, or too wide for a cell."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    kept = [key for key in keys if 0 < max(len(_cell(row.get(key))) for row in rows) <= WIDEST]
    for key in kept:
        words = any(isinstance(row.get(key), str) for row in rows)
        shown.add_column(key.replace("_", " "), justify="left" if words else "right", no_wrap=words)
    for row in rows:
        shown.add_row(*(_cell(row.get(key)) for key in kept))
    return shown


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
