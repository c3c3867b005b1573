"""What `sudoku` found: solved shares, paired differences to random order, tables and a figure.

A share is a mean over puzzles with the standard error of a mean; where none or all were solved that error is 0, and the
95 % bound is about 3 / n (the rule of three: Hanley & Lippman-Hand 1983).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.sudoku_data import CELLS, SINGLES
from remask.core.errors import BadData, MissingExtra
from remask.core.metric import Estimate, ratio

Outcomes = Mapping[tuple[int, int, str], Mapping[str, Any]]
"""(clues, cells a step, order) to what became of the puzzles."""

BASE = "random"
COLOURS = {"random": "0.45", "top probability": "tab:blue", "margin": "tab:red", "entropy": "tab:green"}


def mean(values: Sequence[float]) -> Estimate:
    """The mean of one number for each puzzle."""
    return ratio([float(value) for value in values], [1.0] * len(values), "share")


def solved(one: Mapping[str, Any]) -> Estimate:
    """The share of puzzles of which every cell is right."""
    return mean(one["solved"])


def cells_right(one: Mapping[str, Any]) -> Estimate:
    """The share of the empty cells that got their digit."""
    empty = CELLS - one["clues"]
    return mean([right / empty for right in one["right"]])


def gain(one: Mapping[str, Any], base: Mapping[str, Any]) -> Estimate:
    """How many more are solved than by `base`, puzzle by puzzle, so that hard puzzles are hard for both."""
    return mean([a - b for a, b in zip(one["solved"], base["solved"], strict=True)])


def read(out: Path) -> tuple[dict[str, Any], Outcomes]:
    """What `solve` left."""
    file = out / "outcomes.json"
    if not file.is_file():
        raise BadData(f"there is no {file}: first type python recipes/sudoku.py solve {out}.")
    found = json.loads(file.read_text(encoding="utf-8"))
    return found, {(one["clues"], one["together"], one["order"]): one for one in found["outcomes"]}


def percent(estimate: Estimate, sign: str = "") -> str:
    """A share with its standard error, in percent."""
    return f"{100 * estimate.value:{sign}.1f} ± {100 * estimate.stderr:.1f}"


def _orders(outcomes: Outcomes) -> list[str]:
    return [order for order in dict.fromkeys(order for _, _, order in outcomes) if order not in SINGLES]


def by_clues(outcomes: Outcomes) -> str:
    """The table of one cell a step: a line a number of clues."""
    orders = [*_orders(outcomes), *SINGLES]
    others = [order for order in _orders(outcomes) if order != BASE]
    head = ["clues", *(f"{order}, %" for order in orders), *(f"{order} - {BASE}" for order in others)]
    lines = [f"| {' | '.join(head)} |", "|--:" * len(head) + "|"]
    for clues in sorted({clues for clues, together, _ in outcomes if together == 1}):
        here = {order: outcomes[clues, 1, order] for order in orders if (clues, 1, order) in outcomes}
        row = [str(clues), *(percent(solved(here[order])) if order in here else "" for order in orders)]
        row += [percent(gain(here[order], here[BASE]), "+") if order in here else "" for order in others]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def by_cells(outcomes: Outcomes) -> str:
    """The table of the empty cells that got their digit, one cell a step."""
    orders = _orders(outcomes)
    lines = [f"| clues | {' | '.join(f'{order}, % of cells' for order in orders)} |", "|--:" * (len(orders) + 1) + "|"]
    for clues in sorted({clues for clues, together, _ in outcomes if together == 1}):
        row = [percent(cells_right(outcomes[clues, 1, o])) if (clues, 1, o) in outcomes else "" for o in orders]
        lines.append(f"| {clues} | {' | '.join(row)} |")
    return "\n".join(lines)


def by_calls(outcomes: Outcomes) -> str:
    """The table of several cells a step, on the levels that have them."""
    orders = _orders(outcomes)
    levels = {clues for clues, together, _ in outcomes if together > 1}
    lines = [f"| clues | cells a step | {' | '.join(f'{o}, % (calls)' for o in orders)} |"]
    lines += ["|--:" * (len(orders) + 2) + "|"]
    for clues, together in sorted({key[:2] for key in outcomes if key[0] in levels}):
        here = [outcomes.get((clues, together, order)) for order in orders]
        row = [f"{percent(solved(one))} ({one['calls']:.1f})" if one else "" for one in here]
        lines.append(f"| {clues} | {together} | {' | '.join(row)} |")
    return "\n".join(lines) if levels else ""


def figure(outcomes: Outcomes, path: Path) -> None:
    """Solved share against clues, a line an order, with standard errors; MissingExtra without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "the figure") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(6.4, 3.8))
    levels = sorted({clues for clues, together, _ in outcomes if together == 1})
    for shift, order in enumerate([*_orders(outcomes), *SINGLES]):
        points = [(clues, solved(outcomes[clues, 1, order])) for clues in levels if (clues, 1, order) in outcomes]
        y, bars = ([100 * getattr(one, name) for _, one in points] for name in ("value", "stderr"))
        x = [clues for clues, _ in points]
        if order in SINGLES:
            axes.plot(x, y, ":" if SINGLES[order] else "--", color="0.6", linewidth=1, label=f"no net: {order}")
            continue
        x = [at + 0.15 * shift for at in x]  # else error bars would lie on one another
        axes.errorbar(x, y, bars, marker="o", markersize=4, capsize=2, color=COLOURS.get(order), label=order)
    axes.set_xlabel("clues (of 81 cells)")
    axes.set_ylabel("puzzles solved, %")
    axes.set_ylim(-3, 103)
    axes.set_xticks(levels)
    axes.grid(alpha=0.3)
    axes.legend(title="next cell by", frameon=False)
    axes.set_title("One net, one cell at a time: the order decides", fontsize=11)
    drawn.tight_layout()
    part = path.with_name(f".{path.stem}.{os.getpid()}.png")
    drawn.savefig(part, dpi=110)
    part.replace(path)
    pyplot.close(drawn)


def write_up(out: Path) -> str:
    """Tables as Markdown; the figure and results.json (without single puzzles) go into `out`."""
    found, outcomes = read(out)
    figure(outcomes, out / "sudoku.png")
    facts = [_line(one, outcomes) for one in outcomes.values()]
    write(out / "results.json", json.dumps({**found["study"], **found["facts"], "results": facts}, indent=1) + "\n")
    tables = (by_clues(outcomes), by_cells(outcomes), by_calls(outcomes))
    return "\n\n".join([json.dumps(found["facts"]), *filter(None, tables)])


def _line(one: Mapping[str, Any], outcomes: Outcomes) -> dict[str, Any]:
    kept = {name: one[name] for name in ("clues", "together", "order", "calls", "seconds")}
    base = outcomes.get((one["clues"], one["together"], BASE), one)
    shares = {"solved": solved(one), "cells": cells_right(one), "gain": gain(one, base)}
    return {**kept, **{name: estimate.json() for name, estimate in shares.items()}}


def write(path: Path, text: str) -> None:
    """All or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
