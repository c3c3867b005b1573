"""What a person sees while something runs: a progress line, tables of estimates, panels of text. All on standard error,
so that standard output stays clean for results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from remask.core.metric import Estimate

console = Console(stderr=True)


def clock(seconds: float | None) -> str:
    """Seconds as m:ss."""
    return "-:--" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class TrainingLine:
    """The progress line of a training: loss, bound, tokens/s, time left."""

    def __init__(self, quiet: bool = False):
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            console=console,
            disable=quiet,
            expand=True,
        )
        self.task = self.progress.add_task("training", total=1.0, facts="")

    def __enter__(self) -> TrainingLine:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Show the newest step."""
        facts = [f"step {line['step']:,}"]
        if line["loss"] is not None:
            facts.append(f"loss {line['loss']:.3f}")
        if line["bound"] is not None:
            unit = "bits/byte" if line["bound"].unit == "bits/byte" else line["bound"].unit
            facts.append(f"held-out {line['bound'].value:.3f} {unit}")
        if line["tokens_per_second"] is not None:
            facts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
        facts.append(f"{clock(line['left'])} left")
        self.progress.update(self.task, completed=min(line["progress"], 1.0), facts="  ".join(facts))


def estimates(title: str, metrics: Mapping[str, Estimate]) -> Table:
    """A table of estimates."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "value", "± standard error", "unit", "n"):
        table.add_column(column, justify="left" if column in ("", "unit") else "right")
    for name, e in metrics.items():
        table.add_row(name.replace("_", " "), f"{e.value:.4f}", f"{e.stderr:.4f}", e.unit, f"{e.n:,}")
    return table


def say(message: str) -> None:
    """A line for the person at the terminal."""
    console.print(message, highlight=False)
