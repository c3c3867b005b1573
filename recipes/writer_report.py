"""What recipes/writer.py found, as Markdown: bounds, bounds by mask rate, fine-tuned accuracies, probes.

Errors of bounds and probes are over held-out rows and test texts, paired where two nets are compared (the same rows,
masks and texts); errors over seeds stand in Student's intervals. Bounds are in nats a token; a quarter of the mask
rates is in nats a masked cell; the bound is the mean of the four (Nie et al. 2025, arXiv
2502.09992). The interval over fine-tunings counts two encoders times three seeds as six: encoders are too few for one.
Shapes: R rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.paired_curves import interval, table

ARMS = {
    "mlm": "MLM",
    "short": "MLM, then diffusion",
    "scratch": "diffusion from scratch",
    "alone": "the short part alone",
}
SHARES = ("0-25 %", "25-50 %", "50-75 %", "75-100 %")


class Sure(NamedTuple):
    """A mean over rows and its standard error."""

    value: float
    error: float

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """As value ± error."""
        return f"{self.value:{'+' if sign else ''}.{digits}f} ± {self.error:.{digits}f}"


def over_rows(values: Tensor) -> Sure:
    """Of [R] values."""
    values = values.double()
    return Sure(float(values.mean()), float(values.std() / math.sqrt(len(values))))


def bound(out: Path, run: str) -> Tensor:
    """Nats a masked cell by row and quarter, [R, 4]."""
    return torch.tensor(json.loads((out / "bounds" / f"{run}.json").read_text())["nats"], dtype=torch.float64)


def weighed(out: Path, run: str) -> bool:
    """Whether a run was made and weighed: some arms have one seed."""
    return (out / "bounds" / f"{run}.json").is_file()


def perplexity(nats: Sure) -> str:
    """With the error carried over."""
    value = math.exp(nats.value)
    return f"{value:.1f} ± {value * nats.error:.1f}"


def bounds(out: Path, seeds: Sequence[int]) -> Iterator[str]:
    """Every arm's bound, by quarters; and the differences within a seed."""
    rows = []
    for arm, name in ARMS.items():
        for seed in [seed for seed in seeds if weighed(out, f"{arm}-seed{seed}")]:
            nats = bound(out, f"{arm}-seed{seed}")
            whole = over_rows(nats.mean(1))
            parts = [over_rows(part).text(2) for part in nats.T]
            rows.append([f"{name}, seed {seed}", perplexity(whole), whole.text(), *parts])
    yield table(["net", "perplexity (bound)", "nats/token", *SHARES], rows)
    rows = []
    for first, second in (("short", "mlm"), ("short", "scratch"), ("mlm", "scratch"), ("short", "alone")):
        for seed in [seed for seed in seeds if weighed(out, f"{second}-seed{seed}")]:
            gap = bound(out, f"{first}-seed{seed}") - bound(out, f"{second}-seed{seed}")
            parts = [over_rows(part).text(2, sign=True) for part in gap.T]
            rows.append(
                [f"{ARMS[first]} - {ARMS[second]}, seed {seed}", over_rows(gap.mean(1)).text(sign=True), *parts]
            )
    yield table(["paired difference", "nats/token", *SHARES], rows)


def accuracies(out: Path, task: str, run: str) -> list[float]:
    """Test accuracy in % of every seed of a fine-tuning."""
    found = json.loads((out / "finetuned" / f"{task}-{run}.json").read_text())
    return [100 * one["test"]["accuracy"] for one in found["seeds"]]


def downstream(out: Path, seeds: Sequence[int], tasks: Sequence[str]) -> Iterator[str]:
    """Fine-tuned accuracies, after minus before over all pairs of seeds."""
    rows = []
    for task in tasks:
        before, after = (
            [x for s in seeds for x in accuracies(out, task, f"{arm}-seed{s}")] for arm in ("mlm", "short")
        )
        fresh = accuracies(out, task, "fresh")
        cells = [f"{mean(values):.1f} (sd {stdev(values):.1f})" for values in (fresh, before, after)]
        change = interval([b - a for a, b in zip(before, after, strict=True)])
        rows.append([task, *cells, change.text(1)])
    yield table(
        ["fine-tuned, test accuracy in %", "not pretrained", "MLM", "MLM, then diffusion", "change, 95 %"], rows
    )


def right(out: Path, task: str, run: str, kind: str = "probe") -> Tensor:
    """Which test texts a probe got right, in %, [R]."""
    found = json.loads((out / "probed" / f"{task}-{run}.json").read_text())
    return 100 * torch.tensor(found[kind], dtype=torch.float64)


def probes(out: Path, seeds: Sequence[int], tasks: Sequence[str]) -> Iterator[str]:
    """Accuracies of linear probes, and what the short part changed text by text."""
    rows = []
    for task in tasks:
        words, none = right(out, task, "untrained", "bag of tokens"), right(out, task, "untrained")
        for seed in seeds:
            mlm, short, scratch = (right(out, task, f"{arm}-seed{seed}") for arm in ("mlm", "short", "scratch"))
            cells = [over_rows(values).text(1) for values in (words, none, mlm, short, scratch)]
            rows.append([f"{task}, seed {seed}", *cells, over_rows(short - mlm).text(1, sign=True)])
    names = ["bag of tokens", "untrained", *(ARMS[arm] for arm in ("mlm", "short", "scratch"))]
    yield table(["linear probe, test accuracy in %", *names, "change (paired)"], rows)


def tries(out: Path) -> Iterator[str]:
    """The learning rates that were tried."""
    rows = []
    for run in sorted(out.glob("try-rate*")):
        facts = json.loads((run / "remask.json").read_text())
        rate, nats = facts["recipe"]["training"]["learning_rate"], facts["metrics"]["nats_per_token"]
        rows.append((rate, [f"{rate:g}", f"{nats['value']:.3f} ± {nats['stderr']:.3f}"]))
    yield table(["rate of the short part", "nats/token after the try"], [cells for _, cells in sorted(rows)])


def tell(out: Path, seeds: Sequence[int], tasks: Sequence[str]) -> str:
    """All tables."""
    parts = [*tries(out), *bounds(out, seeds), *downstream(out, seeds, tasks), *probes(out, seeds, tasks)]
    return "\n".join(parts)
