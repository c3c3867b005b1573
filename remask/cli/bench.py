"""remask bench NAME: speed against named baselines, in one run."""

from __future__ import annotations

from remask.bench import BENCHES
from remask.cli.flags import add, describe, take
from remask.cli.words import emit, parser


def main(arguments: list[str]) -> int:
    """Bench."""
    if not arguments or arguments[0].startswith("-"):
        words = parser("bench", "NAME [...]")
        words.add_argument("name", choices=list(BENCHES), metavar="NAME", help=", ".join(BENCHES))
        words.parse_args(arguments)
        return 2
    name = arguments[0]
    words = parser(f"bench {name}", "[...] [--json]")
    words.add_argument("--json", action="store_true", help="one JSON object a row")
    names = add(words, BENCHES[name], describe(BENCHES[name]).summary)
    values = words.parse_args(arguments[1:])
    bench = BENCHES.load(name)(**take(values, names))
    rows = bench.rows()
    if values.json:
        for row in rows:
            emit(row)
        return 0
    from rich.console import Console
    from rich.table import Table

    from remask.cli.show import console

    with console.status("measuring: keep the machine quiet"):
        found = list(rows)
    shown = Table(title=f"bench {name}", title_justify="left")
    keys = [key for key in getattr(bench, "shown", found[0]) if key != "what"]  # --json has all of them
    for key in keys:
        shown.add_column(key.replace("_", " "), justify="left" if key == "arm" else "right")
    for row in found:
        shown.add_row(*(f"{row[key]:,}" if isinstance(row[key], int) else str(row[key]) for key in keys))
    Console().print(shown)
    for arm, what in {row["arm"]: row["what"] for row in found}.items():
        Console().print(f"[bold]{arm}[/bold]: {what}")
    return 0
