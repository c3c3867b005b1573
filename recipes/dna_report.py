"""What `dna` found: bits a base of Markov models and nets, paired differences, splice junctions, a figure.

    python recipes/dna_report.py runs/dna [--figure docs/dna.png]

All models are weighed on the same stretches, so a difference is a mean of differences and its standard error is over
stretches; neighbours share genes and islands of another composition, so they are joined in blocks. Several seeds of a
net are first averaged for each stretch: that error holds the text and the masks, not the training, which the spread of
the seeds shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.paired_curves import table
from remask.core.errors import BadData, MissingExtra, UserError
from remask.core.metric import Estimate, ratio

STRETCH = 768  # bases
BLOCK = 10  # stretches that are one observation, 7,680 bases: over single ones the error is only half as large
Bits = Sequence[float]
"""Bits of every stretch of held-out text."""


class Found(NamedTuple):
    """markov: kind to order to bits; nets: arm to seed to what was weighed; splice: arm to seed to right or wrong."""

    markov: Mapping[str, Sequence[Bits]]
    nets: Mapping[str, Mapping[int, Mapping[str, Any]]]
    splice: Mapping[str, Mapping[int, Sequence[int]]]


def read(out: Path) -> Found:
    """What is there of a study; BadData where nothing is."""
    file = out / "markov.json"
    if not file.is_file():
        raise BadData(f"there is no {file}: first type python recipes/dna.py {out}.")
    nets: dict[str, dict[int, Any]] = {}
    right: dict[str, dict[int, Any]] = {}
    for folder, into in (("weighed", nets), ("splice", right)):
        for path in sorted((out / folder).glob("*.json")):
            one = json.loads(path.read_text(encoding="utf-8"))
            into.setdefault(one["arm"], {})[one["seed"]] = one if folder == "weighed" else one["right"]
    return Found(json.loads(file.read_text(encoding="utf-8")), nets, right)


def per_base(bits: Bits, block: int = BLOCK) -> Estimate:
    """Bits a base, standard error over blocks of stretches (the last one may be shorter)."""
    blocks = [bits[at : at + block] for at in range(0, len(bits), block)]
    return ratio([sum(one) for one in blocks], [float(STRETCH * len(one)) for one in blocks], "bits/base")


def difference(ours: Bits, theirs: Bits, block: int = BLOCK) -> Estimate:
    """Ours minus theirs, stretch by stretch."""
    return per_base([a - b for a, b in zip(ours, theirs, strict=True)], block)


def average(runs: Sequence[Bits]) -> list[float]:
    """The mean over seeds, stretch by stretch."""
    return [sum(bits) / len(runs) for bits in zip(*runs, strict=True)]


def against(ours: Bits, theirs: Sequence[Bits], block: int = BLOCK) -> dict[str, list[int]]:
    """The orders that a model beats, ties with and loses to, by two standard errors of the paired difference."""
    found: dict[str, list[int]] = {"beats": [], "ties with": [], "loses to": []}
    for order, bits in enumerate(theirs):
        gap = difference(ours, bits, block)
        sign = (gap.value > 2 * gap.stderr) - (gap.value < -2 * gap.stderr)
        found[("ties with", "loses to", "beats")[sign]].append(order)
    return found


def spans(orders: Sequence[int]) -> str:
    """0 1 2 5 as "0-2, 5"."""
    runs: list[list[int]] = []
    for order in orders:
        if runs and order == runs[-1][-1] + 1:
            runs[-1].append(order)
        else:
            runs.append([order])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def text(estimate: Estimate, sign: str = "") -> str:
    """Value and standard error."""
    return f"{estimate.value:{sign}.4f} ± {estimate.stderr:.4f}"


def seeds_of(found: Found, arm: str) -> list[Bits]:
    """The bits of every seed of an arm."""
    return [found.nets[arm][seed]["bits"] for seed in sorted(found.nets[arm])]


def strands_of(arm: str) -> str:
    """What an arm's Markov models were counted on."""
    return "both strands" if "both strands" in arm else "one strand"


def best(models: Sequence[Bits]) -> int:
    """The order that costs least on the held-out text: chosen there, so in the baselines' favour."""
    return min(range(len(models)), key=lambda order: sum(models[order]))


def markov_table(found: Found) -> str:
    """A line an order."""
    one, both, words = (found.markov[key] for key in ("1 one strand", "1 both strands", "3 one strand"))
    running = found.markov["1 one strand, running"]
    rows = [
        [
            str(order),
            text(per_base(bits)),
            text(per_base(both[order])),
            text(difference(both[order], bits), "+"),
            text(difference(running[order], bits), "+"),
            text(per_base(words[order // 3])) if order % 3 == 0 and order // 3 < len(words) else "",
        ]
        for order, bits in enumerate(one)
    ]
    head = ["order k", "bits a base", "both strands", "both - one", "running text - rows", "3-mers (k bases before)"]
    return table(head, rows)


def nets_table(found: Found) -> str:
    """A line an arm, beside the Markov models of letters counted on the same strands."""
    rows = []
    for arm in found.nets:
        runs, models = seeds_of(found, arm), found.markov[f"1 {strands_of(arm)}"]
        mean, rival = average(runs), best(models)
        facts = next(iter(found.nets[arm].values()))
        verdicts = {verdict: spans(orders) for verdict, orders in against(mean, models).items()}
        rows.append(
            [
                f"{arm} ({'bound' if arm.startswith('masked') else 'exact'})",
                f"{facts['tokens'] / 1e6:.2f}M",
                text(per_base(mean)),
                ", ".join(f"{per_base(bits).value:.4f}" for bits in runs),
                f"{text(difference(mean, models[rival]), '+')} (k = {rival})",
                *(verdicts[verdict] or "none" for verdict in ("beats", "ties with", "loses to")),
            ]
        )
    head = ["net", "tokens read", "bits a base", "each seed", "minus the best order", "beats k =", "ties", "loses to"]
    return table(head, rows)


def pairs_table(found: Found) -> str:
    """Pairs of arms: masked minus autoregressive, both strands minus one, 3-mers minus letters."""
    pairs = [(arm, arm.replace("masked", "autoregressive")) for arm in found.nets if arm.startswith("masked")]
    pairs += [(arm, arm.split(",")[0]) for arm in found.nets if ", " in arm]
    rows = []
    for ours, theirs in pairs:
        if theirs not in found.nets:
            continue
        a, b = average(seeds_of(found, ours)), average(seeds_of(found, theirs))
        each = [difference(x, y).value for x, y in zip(seeds_of(found, ours), seeds_of(found, theirs))]
        p, q = per_base(a).value, per_base(b).value
        rows.append(
            [
                f"{ours} - {theirs}",
                text(difference(a, b), "+"),
                ", ".join(f"{value:+.4f}" for value in each),
                f"{2**p:.3f} / {2**q:.3f} = {2 ** (p - q):.4f}",
                f"{(2 - p) / (2 - q):.2f}",
            ]
        )
    return table(["pair", "bits a base", "each seed", "perplexities of a base", "share of its gain on 2 bits"], rows)


def splice_table(found: Found, base: str = "the same net from scratch") -> str:
    """A line a classifier: mean accuracy over seeds, its error over test rows, and the difference to `base`."""
    rows = []
    for arm, seeds in found.splice.items():
        runs = [seeds[seed] for seed in sorted(seeds)]
        ours, theirs = (average(one) for one in (runs, list(found.splice.get(base, seeds).values())))
        ones = [1.0] * len(ours)
        gap = ratio([a - b for a, b in zip(ours, theirs, strict=True)], ones, "share")
        shares = [sum(run) / len(run) for run in runs]
        spread = f"{100 * min(shares):.1f} to {100 * max(shares):.1f} ({len(runs)})" if len(runs) > 1 else ""
        gained = "" if arm == base else f"{100 * gap.value:+.1f} ± {100 * gap.stderr:.1f}"
        mean = ratio(ours, ones, "share")
        rows.append([arm, f"{100 * mean.value:.1f} ± {100 * mean.stderr:.1f}", spread, gained])
    return table(["classifier", "accuracy, %", "seeds", f"minus {base}"], rows)


def figure(found: Found, path: Path) -> None:
    """Bits a base against the order of a Markov model, the nets as lines with bands of one standard error."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "the figure") from error
    sheet = Figure(figsize=(7.6, 4.6), layout="constrained")
    FigureCanvasAgg(sheet)
    axes: Any = sheet.subplots()
    levels = [2.0]
    for name, mark in (("one strand", "o"), ("both strands", "s")):
        points = [per_base(bits) for bits in found.markov[f"1 {name}"]]
        y, bars = [p.value for p in points], [p.stderr for p in points]
        axes.errorbar(range(len(y)), y, bars, marker=mark, markersize=4, capsize=2, label=f"Markov, {name}")
        levels += [min(y)]
    words = [per_base(bits) for bits in found.markov["3 one strand"]]
    y, bars = [p.value for p in words], [p.stderr for p in words]
    axes.errorbar(
        [3 * k for k in range(len(y))], y, bars, marker="^", markersize=5, capsize=2, label="Markov of 3-mers"
    )
    for number, arm in enumerate(found.nets, 3):
        one = per_base(average(seeds_of(found, arm)))
        dashes = "-" if arm.startswith("masked") else "--"
        bound = " (bound)" if arm.startswith("masked") else ""
        axes.axhline(one.value, color=f"C{number}", linestyle=dashes, linewidth=1.3, label=f"net: {arm}{bound}")
        axes.axhspan(one.value - one.stderr, one.value + one.stderr, color=f"C{number}", alpha=0.12, linewidth=0)
        levels.append(one.value)
    low, high = min(levels), max(levels)
    axes.set(xlabel="order k of the Markov model (bases)", ylabel="bits a base, held out", xticks=range(13))
    axes.set_ylim(low - 0.01, high + 0.05)
    axes.axhline(2.0, color="0.8", linewidth=0.8, zorder=0)
    axes.annotate("guessing", (axes.get_xlim()[1], 2.0), ha="right", va="bottom", fontsize=8, color="0.5")
    axes.set_title("E. coli, held-out bases (bands and bars: one standard error)")
    axes.title.set_fontsize(10)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    part = path.with_name(f".{path.name}.part")
    sheet.savefig(part, format="png", dpi=130)
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="where to draw; default: OUT/dna.png")
    given = parser.parse_args(arguments)
    try:
        found = read(given.out)
        tables = [markov_table(found)]
        tables += [nets_table(found), pairs_table(found)] if found.nets else []
        tables += [splice_table(found)] if found.splice else []
        print("\n".join(tables))
        figure(found, given.figure or given.out / "dna.png")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
