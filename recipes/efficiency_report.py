"""What the study of `electra_efficiency` found: headlines, paired differences, tokens to a level, table and figure.

The headline is the share of the way from what a word alone says (0) to what the whole sentence says (1), the mean over
class and topic. Arms are compared after equal tokens, equal FLOPs and equal seconds: the largest amount that every
trained run of the comparison came to.
Shapes: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.hidden_language import Accuracy
from recipes.paired_curves import Curve, Interval, Panel, figure, interval, paired, reach, read, table

Point = Mapping[str, Any]
LEVEL = 0.9
SPENT = {"tokens": "training tokens", "flops": "training FLOPs", "seconds": "training seconds (CPU, one thread)"}
BASELINES = ("mlm-15", "mlm-40")
AMONG = (
    ("electra", "all-tokens"),
    ("electra", "replace-mlm"),
    ("electra", "electra-15-masked"),
    ("electra", "electra-15-random"),
    ("electra-15-masked", "electra-15-random"),
    ("all-tokens", "replace-mlm"),
    ("mlm-40", "mlm-15"),
    ("electra", "electra-50"),
    ("electra", "electra-balanced"),
    ("electra-balanced", "electra-15-masked"),
    ("electra-15-uniform", "electra-15-masked"),
    ("electra-15-sum", "electra-15-masked"),
    ("electra", "mlm-15-as-dear"),
)


class Truth(NamedTuple):
    """Accuracies (class, topic) by the word alone and by the whole sentence, on the probe's test cells."""

    word: tuple[float, float]
    sentence: tuple[float, float]

    @classmethod
    def of(cls, word: Accuracy, sentence: Accuracy) -> Truth:
        """From the language's own answers."""
        return cls(*((a.classes.value, a.topic.value) for a in (word, sentence)))

    def shares(self, point: Point) -> tuple[float, float]:
        """How much of the way a point went, for class and topic."""
        got = point["class"], point["topic"]
        a, b = ((x - low) / (high - low) for x, low, high in zip(got, self.word, self.sentence))
        return a, b

    def headline(self, point: Point) -> float:
        """Their mean."""
        return sum(self.shares(point)) / 2


class Found(NamedTuple):
    """rates: of each arm; points: arm -> seed -> the run's points (none if it diverged)."""

    truth: Truth
    rates: Mapping[str, float]
    points: Mapping[str, Mapping[int, Sequence[Point]]]

    def curves(self, arm: str, spent: str, value: Callable[[Point], float] | None = None) -> dict[int, Curve]:
        """Seed -> curve of the headline (or of `value`)."""
        value = value or self.truth.headline
        runs = self.points.get(arm, {})
        return {seed: [(p[spent], value(p)) for p in points] for seed, points in runs.items() if points}

    def last(self, arm: str, value: Callable[[Point], float] | None = None) -> dict[int, float]:
        """Seed -> the value at the end of training."""
        return {seed: curve[-1][1] for seed, curve in self.curves(arm, "tokens", value).items()}

    def after(self, arm: str, spent: str, amount: float) -> dict[int, float]:
        """Seed -> headline after `amount`."""
        read_off = {seed: read(curve, amount) for seed, curve in self.curves(arm, spent).items()}
        return {seed: y for seed, y in read_off.items() if y is not None}


class Compared(NamedTuple):
    """ours - theirs in the headline, after equal `spent` of `amount`."""

    ours: str
    theirs: str
    spent: str
    amount: float
    difference: Interval


def comparisons(found: Found) -> Iterator[Compared]:
    """Every planned pair that the study has, after equal tokens, FLOPs and seconds."""
    trained = [arm for arm in found.points if any(p and p[-1]["tokens"] for p in found.points[arm].values())]
    pairs = [(arm, base) for base in BASELINES for arm in trained if arm not in BASELINES] + list(AMONG)
    for ours, theirs in dict.fromkeys(pairs):
        if ours not in trained or theirs not in trained:
            continue
        for spent in SPENT:
            ends = [c[-1][0] for arm in (ours, theirs) for c in found.curves(arm, spent).values()]
            difference = paired(found.after(ours, spent, min(ends)), found.after(theirs, spent, min(ends)))
            if difference is not None:
                yield Compared(ours, theirs, spent, min(ends), difference)


def reached(found: Found, arm: str, spent: str, level: float = LEVEL) -> list[float]:
    """What each seed that came to the level had spent."""
    return [x for curve in found.curves(arm, spent).values() if (x := reach(curve, level)) is not None]


def _plain(value: Interval, digits: int = 3) -> str:
    return f"{value.mean:.{digits}f} ± {(value.high - value.low) / 2:.{digits}f}"


def _arms(found: Found) -> str:
    head = ["arm", "rate", "class", "topic", "headline", "MFLOP/token", "tokens/s"]
    head += [f"{name} to {LEVEL:g} of the way" for name in SPENT]
    rows = []
    for arm, runs in found.points.items():
        done = [points for points in runs.values() if points]
        if not done:
            rows.append([arm, f"{found.rates[arm]:g}", "diverged", *["-"] * (len(head) - 3)])
            continue
        values: list[Callable[[Point], float]] = [lambda p: p["class"], lambda p: p["topic"], found.truth.headline]
        cells = [_plain(interval(list(found.last(arm, value).values()))) for value in values]
        ends = [points[-1] for points in done]
        tokens = sum(p["tokens"] for p in ends)
        if not tokens:
            rows.append([arm, "-", *cells, *["-"] * (len(head) - 5)])
            continue
        cells += [f"{sum(p['flops'] for p in ends) / tokens / 1e6:.2f}"]
        cells += [f"{tokens / max(sum(p['seconds'] for p in ends), 1e-9):.0f}"]
        for spent in SPENT:
            got = reached(found, arm, spent)
            cells.append(f"{sum(got) / len(got):.3g} ({len(got)}/{len(done)})" if got else "not reached")
        rows.append([arm, f"{found.rates[arm]:g}", *cells])
    return table(head, rows)


def _pairs(found: Found) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for c in comparisons(found):
        sure = " **" if c.difference.sure else " "
        rows.setdefault((c.ours, c.theirs), []).append(f"{c.difference.text()}{sure.rstrip()}")
    return table(["ours - theirs", *(f"equal {s}" for s in SPENT)], [[" - ".join(k), *v] for k, v in rows.items()])


def write_up(found: Found, out: Path) -> str:
    """The Markdown report; draws figure.png and figure.svg into `out`."""
    truth = found.truth
    panels = []
    for spent, label in SPENT.items():
        curves = {}
        for arm in found.points:
            runs = list(found.curves(arm, spent).values())
            steps = [step for step in zip(*runs) if step[0][0] > 0]
            if steps:
                curves[arm] = [(sum(x for x, _ in step) / len(step), interval([y for _, y in step])) for step in steps]
        panels.append(Panel(label, curves))
    levels = {"word alone": 0.0, f"{LEVEL:g}": LEVEL, "oracle": 1.0}
    untrained = found.last("untrained")
    if untrained:
        levels["untrained net"] = sum(untrained.values()) / len(untrained)
    figure(panels, levels, "share of the way from word alone to oracle", out / "figure")
    return "\n".join(
        [
            f"Word alone: class {truth.word[0]:.3f}, topic {truth.word[1]:.3f}. "
            f"Whole sentence: class {truth.sentence[0]:.3f}, topic {truth.sentence[1]:.3f}.\n",
            "Ends of training, mean ± half of the 95 % interval over seeds; in brackets how many seeds came there.\n",
            _arms(found),
            "Paired differences of the headline with 95 % intervals, not corrected for their number; ** excludes zero. "
            "Equal tokens of one schedule are both annealed; at equal FLOPs or seconds the dearer arm is read before "
            "its learning rate has fallen to zero, which tells against it.\n",
            _pairs(found),
        ]
    )


def facts(found: Found) -> dict[str, Any]:
    """Everything in the report, for machines."""
    ends = {
        arm: {
            "rate": found.rates[arm],
            "headline": found.last(arm),
            "class": found.last(arm, lambda p: p["class"]),
            "topic": found.last(arm, lambda p: p["topic"]),
            "reached": {spent: reached(found, arm, spent) for spent in SPENT},
        }
        for arm in found.points
    }
    pairs = [
        {**c._asdict(), "difference": c.difference._asdict(), "sure": c.difference.sure} for c in comparisons(found)
    ]
    return {"truth": found.truth._asdict(), "level": LEVEL, "arms": ends, "pairs": pairs}
