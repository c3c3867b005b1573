"""What `remask bench frontier ... --json` found, as Markdown and one picture: systems, bars, crossings, infilling.

    python -m recipes.frontier_report runs/frontier/law-256.jsonl runs/frontier/law-512.jsonl --plot frontier.png

Rows of several runs stand side by side: each is held against the baseline of its own run. A loss is a share of the
baseline's number (nats a token on a law that is known, perplexity under a scorer) at the system's own unigram entropy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.paired_curves import table
from remask.bench import frontier_plot

Row = dict[str, Any]
FEWER_CALLS, LOSS, FASTER, TOGETHER = 4.0, 0.05, 2.0, 4.0
"""The bars: calls fewer than one cell a call, share lost; times as fast as left to right, tokens a call."""


def load(paths: Iterable[Path]) -> list[Row]:
    """Rows of all files, in order."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.startswith("{")]


def number(value: float | None, error: float | None = None, digits: int = 3, sign: bool = False) -> str:
    """value ± error, or a dash."""
    if value is None:
        return "–"
    told = f"{value:{'+' if sign else ''}.{digits}f}"
    return told if error is None else f"{told} ± {error:.{digits}f}"


def share(value: float | None, error: float | None) -> str:
    """In percent, with its sign."""
    return "–" if value is None else number(100 * value, error and 100 * error, 1, sign=True)


def times(row: Row | None) -> str:
    """The median ratio to left to right, with the least and the most round."""
    if row is None or row["ratio"] is None:
        return "–"
    told = f"{row['ratio']:.2f}"
    return told if row["rounds"] < 2 else f"{told} [{row['least']:.2f}, {row['most']:.2f}]"


def named(row: Row) -> str:
    """System, budget and temperature."""
    budget = "" if row["budget"] is None else f", {row['budget']:g} {row['unit']}"
    warm = "" if row["temperature"] in (None, 1) else f", T = {row['temperature']:g}"
    return f"{row['arm']}{budget}{warm}"


def systems(rows: Sequence[Row]) -> Iterator[str]:
    """A table a length: calls, quality, losses, and speed at every batch."""
    every = [row for row in rows if row.get("kind") is None]
    for length in dict.fromkeys(row["length"] for row in every):
        mine = [row for row in every if row["length"] == length]
        batches = list(dict.fromkeys(row["batch"] for row in mine if row["batch"]))
        head = [
            "system",
            "calls",
            "tokens a call",
            "quality",
            "KL",
            "entropy",
            "loss, %",
            "over exact, %",
            "calls, times fewer",
        ]
        head += [f"batch {batch}: tokens/s; times left to right" for batch in batches]
        lines = []
        for name in dict.fromkeys(map(named, mine)):
            first = next(row for row in mine if named(row) == name)
            at = {row["batch"]: row for row in mine if named(row) == name}
            lines.append(
                [
                    name,
                    number(first["calls"], digits=0),
                    number(first["tokens_per_call"], digits=1),
                    number(first["quality"], quality_error(first)),
                    divergence(first),
                    number(first["entropy"]),
                    share(first["loss"], first["loss_stderr"]),
                    share(first["loss_over_exact"], first["loss_over_exact_stderr"]),
                    number(first["calls_over_exact"], digits=1),
                    *(
                        "–" if batch not in at else f"{at[batch]['tokens_per_second']:.0f} ; {times(at[batch])}"
                        for batch in batches
                    ),
                ]
            )
        yield f"**{length} tokens**\n\n" + table(head, lines)


def quality_error(row: Row) -> float | None:
    """Of the number that `quality` repeats."""
    for name in ("true_cross_entropy", "generative_perplexity"):
        if f"{name}_stderr" in row:
            return row[f"{name}_stderr"]
    return None


def divergence(row: Row) -> str:
    """KL of what wrote from the law, nats a token, where it is known; with a drawn order a bound from above."""
    told = number(row.get("divergence"), row.get("divergence_stderr"))
    return f"≤ {told}" if row.get("path") == "bound" and row.get("divergence") is not None else told


def fewer_calls(rows: Sequence[Row]) -> Iterator[str]:
    """Parallel systems with a quarter of the exact sampler's calls, or less: who loses no more than LOSS."""
    for row in once(rows):
        if (row["calls_over_exact"] or 0) >= FEWER_CALLS and row["loss_over_exact"] is not None:
            met = "met" if row["loss_over_exact"] <= LOSS else "missed"
            lost = share(row["loss_over_exact"], row["loss_over_exact_stderr"])
            yield f"* {row['length']} tokens, {named(row)}: {row['calls_over_exact']:.1f} times fewer, {lost} %: {met}"


def once(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows of nets, the first batch of each."""
    seen = set()
    for row in rows:
        key = row.get("length"), row.get("kind") or named(row)
        if row.get("kind") is None and row["calls"] is not None and key not in seen:
            seen.add(key)
            yield row


def faster(rows: Sequence[Row]) -> Iterator[str]:
    """Systems that beat left to right in seconds, the least loss first, for every length and batch."""
    every = [row for row in rows if row.get("kind") is None and row["batch"] and row["sampler"] != "left_to_right"]
    for length, batch in dict.fromkeys((row["length"], row["batch"]) for row in every):
        mine = [row for row in every if (row["length"], row["batch"]) == (length, batch)]
        ahead = [row for row in mine if row["ratio"] > 1 and row["loss"] is not None]
        best = sorted(ahead, key=lambda row: row["loss"])[:3]
        told = "; ".join(f"{named(r)}: {times(r)} times, {share(r['loss'], r['loss_stderr'])} %" for r in best)
        yield f"* {length} tokens, batch {batch}: {len(ahead)} of {len(mine)} are faster" + (
            f" ({told})" if told else ""
        )


def in_blocks(rows: Sequence[Row]) -> Iterator[str]:
    """Nets of blocks with their exact cache and four tokens a call or more, at batch 1."""
    for row in rows:
        mine = row.get("kind") is None and (row["sampler"], row["cache"], row["batch"]) == ("blocks", "exact", 1)
        if mine and row["tokens_per_call"] >= TOGETHER:
            met = "met" if row["ratio"] >= FASTER else "missed"
            lost = share(row["loss"], row["loss_stderr"])
            yield f"* {row['length']} tokens, {named(row)}: {times(row)} times left to right, loss {lost} %: {met}"


def infilled(rows: Sequence[Row]) -> str:
    """A table of held-out spans."""
    head = ["net", "length", "span", "sees", "how", "exact, %", "tokens, %", "nats a token", "calls"]
    lines = [
        [
            *(str(row[name]) for name in ("arm", "length", "span", "sees", "how")),
            *(number(100 * row[name], 100 * row[f"{name}_stderr"], 1) for name in ("exact_match", "token_match")),
            number(row["nats"], row["nats_stderr"]) + (" (bound)" if row["nats_is"] == "bound" else ""),
            number(row["calls"], digits=0),
        ]
        for row in rows
        if row.get("kind") == "infill"
    ]
    return table(head, lines) if lines else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, and draw."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("files", type=Path, nargs="+")
    words.add_argument("--plot", default="", help="a .png or .svg")
    words.add_argument("--brief", action="store_true", help="no other temperatures than 1, no exact cache left out")
    values = words.parse_args(arguments)
    path = frontier_plot.check(values.plot) if values.plot else None
    rows = load(values.files)
    told = [row for row in frontier_plot.shown(rows) if row.get("cache") != "none"] if values.brief else rows
    print("\n\n".join(systems(told)))
    for title, part in (
        ("A quarter of the calls", fewer_calls(rows)),
        ("Faster than left to right", faster(rows)),
        ("In blocks, four tokens a call or more", in_blocks(rows)),
    ):
        print(f"\n**{title}**\n\n" + "\n".join(part))
    print("\n" + infilled(rows))
    if path is not None:
        frontier_plot.draw([row for row in rows if row.get("kind") is None], path)


if __name__ == "__main__":
    main()
