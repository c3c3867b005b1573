"""Tables of the race of recipes/translation.py; translation_report.py finds what stands in them.

A figure of an arm with several seeds is their mean; ± is the standard error over sentences, the mean of the seeds' own,
and sd the spread of the seeds. The bar: 2.5 times as fast as greedy decoding at batch 1 on joined inputs, with BLEU
less than 2 points below it. A difference is told with its 95 % interval, over seeds where there are three and else over
resampled sentences: `yes` if all of it is above -2, `no` if all of it is below, and `open` if -2 lies inside.
Shapes: none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from recipes.paired_curves import interval, table
from recipes.translation import ARMS
from recipes.translation_decodings import BASE, ROOM, TWIN
from recipes.translation_faults import dependence_table, mixtures_table, percent

BATCHES = (1, 32)
FAST, BEHIND, HONEST = 2.5, -2.0, 0.8
SETS = {"test": "all test pairs", "joined": "joined inputs"}
STEPS = ("1", "2", "4", "8")
ENOUGH = 3  # seeds, for an interval over them
Record = Mapping[str, Any]


class Found(NamedTuple):
    """What is there.

    quality: arm to seed to "set decoding" to what was weighed; speed: set to records of races; faults: arm to what was
    found of seed 0; curves: arm to seed to minutes, steps and points.
    """

    quality: dict[str, dict[int, Record]]
    speed: dict[str, Any]
    faults: dict[str, Record]
    curves: dict[str, dict[int, Record]]

    def of(self, arm: str, key: str) -> dict[int, Record]:
        """What was weighed of each seed's net under "set decoding"."""
        return {seed: made[key] for seed, made in self.quality.get(arm, {}).items() if key in made}

    @property
    def base(self) -> str:
        """What others are weighed against: the T5 from left to right, or its twin where there is none."""
        return BASE if BASE in self.quality or TWIN not in self.quality else TWIN

    def any(self) -> Record | None:
        """One record of the test set, for what is common to all."""
        return next(
            (one for arm in self.quality for key in ("test greedy", "test 4") for one in self.of(arm, key).values()),
            None,
        )


class Gap(NamedTuple):
    """A difference of BLEU: over seeds, with its 95 % interval; each: of every seed, with its standard error."""

    value: float
    low: float
    high: float
    each: dict[int, tuple[float, float]]

    @property
    def verdict(self) -> str:
        """Whether it is less than 2 points below zero."""
        return "yes" if self.low > BEHIND else "no" if self.high < BEHIND else "open"

    def text(self) -> str:
        """Value and interval."""
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def gap(ours: Mapping[int, Record], theirs: Mapping[int, Record]) -> Gap | None:
    """Of BLEU within each seed that both have; None without one."""
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    drawn = {seed: np.subtract(ours[seed]["drawn"], theirs[seed]["drawn"]) for seed in seeds}
    each = {seed: (ours[seed]["bleu"] - theirs[seed]["bleu"], float(drawn[seed].std(ddof=1))) for seed in seeds}
    if len(seeds) >= ENOUGH:
        over = interval([value for value, _ in each.values()])
        return Gap(over.mean, over.low, over.high, each)
    low, high = (fmean(float(np.quantile(drawn[seed], q)) for seed in seeds) for q in (0.025, 0.975))
    return Gap(fmean(value for value, _ in each.values()), low, high, each)


def mean(ones: Mapping[int, Record], name: str = "bleu") -> str:
    """A score over seeds."""
    if not ones or any(one.get(name) is None for one in ones.values()):
        return ""
    values = [one[name] for one in ones.values()]
    errors = [one[f"{name}_stderr"] for one in ones.values()]
    spread = f" (sd {stdev(values):.1f})" if len(values) > 1 else ""
    return f"{fmean(values):.1f} ± {fmean(errors):.1f}{spread}"


def share(ones: Mapping[int, Record], name: str) -> str:
    """A fault over seeds, in percent."""
    found = [one["faults"][name] for one in ones.values()]
    known = [one["stderr"] or 0.0 for one in found]
    return percent({"value": fmean(one["value"] for one in found), "stderr": fmean(known)}) if found else ""


def number(ones: Mapping[int, Record], pick: Callable[[Record], float], form: str) -> str:
    """Another figure over seeds."""
    return format(fmean(pick(one) for one in ones.values()), form) if ones else ""


def seeds_of(found: Found, arm: str) -> str:
    """An arm with the number of its seeds."""
    count = len(found.quality[arm])
    return f"{arm} ({count} seeds)" if count > 1 else arm


USUAL = {"axe": "1", "padir": "4, linear, no stutters"}
"""By objective: AXE was made for one step; PaDIR's decoding was chosen on validation pairs."""


def usual(arm: str) -> str:
    """The decoding that an arm is told of."""
    return USUAL.get(ARMS[arm].objective, "4")


# ---- quality ---------------------------------------------------------------------------------------------------------


def main_table(found: Found, texts: str) -> str:
    """A line a parallel arm of the full budget, on one set of texts."""
    rows = []
    for arm in found.quality:
        if arm.startswith("half") or ARMS[arm].objective == "seq2seq" or not found.of(arm, f"{texts} 4"):
            continue
        told = found.of(arm, f"{texts} {usual(arm)}")
        rows.append(
            [
                seeds_of(found, arm),
                *(mean(found.of(arm, f"{texts} {how}")) for how in (*STEPS, "4, 3 lengths")),
                f"{mean(told)} ({usual(arm)})",
                mean(told, "oracle_bleu"),
                mean(told, "chrf"),
                share(told, "length_exact"),
                share(told, "length_within_1"),
                number(told, lambda one: one["faults"]["length_error"]["value"], "+.2f"),
                share(told, "stutter_rate"),
                number(found.of(arm, f"{texts} 8"), lambda one: one["calls"], ".1f"),
            ]
        )
    head = [f"{how} step{'s' * (how != '1')}" for how in STEPS]
    head = ["BLEU of", *head, "4 steps, 3 lengths", "usual", "usual, true length", "usual, chrF", "length exact, %"]
    return table([*head, "within 1, %", "length error, tokens", "stutters, %", "calls of 8 steps"], rows)


def left_table(found: Found, texts: str) -> str:
    """A line a left-to-right arm and decoding."""
    rows = []
    for arm, those in found.quality.items():
        if ARMS[arm].objective != "seq2seq":
            continue
        for key in dict.fromkeys(key for made in those.values() for key in made if key.startswith(f"{texts} ")):
            ones = found.of(arm, key)
            faults = [share(ones, name) for name in ("length_exact", "length_within_1", "stutter_rate")]
            name = f"{arm}, {key.removeprefix(f'{texts} ')}" + (f" ({len(ones)} seeds)" if len(ones) > 1 else "")
            rows.append([name, mean(ones), mean(ones, "chrf"), *faults, number(ones, lambda one: one["calls"], ".1f")])
    return table(["left to right", "BLEU", "chrF", "length exact, %", "within 1, %", "stutters, %", "calls"], rows)


def gap_table(found: Found) -> str:
    """Every arm and decoding of the full budget against greedy decoding of the same seed, on both sets of texts."""
    rows, base = [], found.base
    for arm in found.quality:
        ways = dict.fromkeys(key.split(" ", 1)[1] for made in found.quality[arm].values() for key in made)
        for how in [] if arm.startswith("half") else [how for how in ways if (arm, how) != (base, "greedy")]:
            cells = []
            for texts in SETS:
                one = gap(found.of(arm, f"{texts} {how}"), found.of(base, f"{texts} greedy"))
                each = one and "; ".join(f"{value:+.1f} ± {error:.1f}" for value, error in one.each.values())
                cells += [one.text(), each or "", one.verdict] if one else ["", "", ""]
            rows.append([f"{arm}, {how}", *cells])
    head = [part for texts in SETS for part in (f"{texts}: 95 %", f"{texts}: each seed", "within 2")]
    return table([f"BLEU minus {base}, greedy", *head], rows)


ABLATIONS: dict[str, Sequence[str]] = {
    "init: T5": ("padir", "padir from T5"),
    "init: our own trunk": ("masked LM's shape", "cmlm from left to right"),
    "init: masked LM": ("masked LM's shape", "masked LM's encoder", "masked LM's decoder", "masked LM's both", "cmlm"),
    "loss on": ("half padir", "half padir noised", "half padir masked"),
    "noise": ("half padir", "half padir masks only"),
    "stages": ("half padir", "half padir two stages"),
    "length head": ("half padir", "half padir classifier", "half padir affine"),
    "text: half padir": ("half padir", "half padir raw"),
    "text: cmlm": ("cmlm", "cmlm raw"),
    "text: axe": ("axe", "axe raw"),
}
"""What is compared with the first of each."""
WAYS = {
    "stutter removal, 1 step": ("padir", ("1", "1, no stutters")),
    "stutter removal, 4 steps": ("padir", ("4", "4, no stutters")),
    **{
        f"stutter removal, cmlm, {n} steps": ("cmlm", (n, f"{n}, no stutters", f"{n}, no stutters, {ROOM} cells"))
        for n in "24"
    },
    "linear rejection, 4 steps": ("padir", ("4", "4, linear", "4, linear, no stutters")),
    "linear rejection, 8 steps": ("padir", ("8", "8, linear", "8, linear, no stutters")),
    "steps": ("padir", STEPS),
    "lengths tried, padir": ("padir", ("4", "4, 3 lengths")),
    "lengths tried, cmlm": ("cmlm", ("4", "4, 3 lengths", "4, 5 lengths")),
}
"""Decodings of one net that are compared with the first of them."""


def ablation_table(found: Found) -> str:
    """Nets that differ in one thing, and decodings of one net, on the test set."""
    rows = []
    for what, arms in ABLATIONS.items():
        there = [arm for arm in arms if found.of(arm, f"test {usual(arm)}")]
        for arm in there if len(there) > 1 else []:
            key = f"test {usual(arm)}"
            ones = found.of(arm, key)
            scores = [mean(found.of(arm, f"test {how}")) for how in STEPS]
            rows.append([what, arm, *scores, *_beside(ones, found.of(arms[0], key), arm != arms[0])])
    for what, (arm, ways) in WAYS.items():
        for how in ways:
            ones, columns = found.of(arm, f"test {how}"), [""] * len(STEPS)
            columns[STEPS.index(how.split(",")[0])] = mean(ones)
            base = found.of(arm, f"test {ways[0]}")
            rows += [[what, f"{arm}, {how}", *columns, *_beside(ones, base, how != ways[0])]] * bool(ones)
    head = ["ablation", "BLEU of", *(f"{how} step{'s' * (how != '1')}" for how in STEPS), "minus the first"]
    return table([*head, "chrF", "length exact, %", "stutters, %"], rows)


def _beside(ones: Mapping[int, Record], base: Mapping[int, Record], differs: bool) -> list[str]:
    """The difference to the first, chrF and faults."""
    one = gap(ones, base) if differs else None
    return [one.text() if one else "", mean(ones, "chrf"), share(ones, "length_exact"), share(ones, "stutter_rate")]


# ---- speed, faults, curves -------------------------------------------------------------------------------------------


def timed(found: Found, lot: str, batch: int, length: str = "all") -> dict[str, Record]:
    """System to what was timed."""
    return {one["system"]: one for one in found.speed.get(lot, []) if (one["batch"], one["length"]) == (batch, length)}


def ratio_text(one: Record | None) -> str:
    """How many times as fast, with the slowest and the fastest round."""
    return f"{one['speed_over_baseline']:.2f} [{one['least']:.2f}, {one['most']:.2f}]" if one else ""


def speed_table(found: Found) -> str:
    """A line a system: quality beside speed, and the bar."""
    rows, base = [], found.base
    for name, fast in timed(found, "joined", 1).items():
        arm, how = name.split("; ")
        gaps = [gap(found.of(arm, f"{texts} {how}"), found.of(base, f"{texts} greedy")) for texts in SETS]
        ratios = [ratio_text(timed(found, texts, batch).get(name)) for texts in SETS for batch in BATCHES]
        quick = "yes" if fast["speed_over_baseline"] >= FAST else "no"
        near = ", ".join(f"{one.verdict if one else 'not weighed'} ({texts})" for texts, one in zip(SETS, gaps))
        bleu = [mean(found.of(arm, f"{texts} {how}")) for texts in SETS]
        rows.append([name.replace(";", ","), *bleu, *ratios, f"{fast['sentences_per_second']:.1f}", quick, near])
    head = ["system", *(f"BLEU, {texts}" for texts in SETS)]
    head += [f"{texts}, batch {batch}" for texts in SETS for batch in BATCHES]
    return table([*head, "joined/s, batch 1", f"{FAST} times", "within 2 BLEU"], rows)


def length_table(found: Found) -> str:
    """Speed at batch 1 by the length of sources."""
    records = found.speed.get("by length", [])
    lengths = {one["length"]: one["sentences"] for one in records if one["length"] != "all"}
    columns = [timed(found, "by length", 1, length) for length in lengths]
    rows = [[name.replace(";", ","), *(ratio_text(one[name]) for one in columns)] for name in (columns or [{}])[0]]
    return table(["source tokens", *(f"{length} ({count})" for length, count in lengths.items())], rows)


def generate_table(found: Found) -> str:
    """Our greedy decoding against transformers' generate()."""
    rows = [
        [
            f"{texts}, batch {one['batch']}",
            f"{one['tokens_per_second']:.0f}",
            f"{one['generate_tokens_per_second']:.0f}",
            f"{one['speed_over_generate']:.2f} [{one['least']:.2f}, {one['most']:.2f}]",
            "yes" if one["speed_over_generate"] >= HONEST else "no",
        ]
        for texts in SETS
        for one in found.speed.get(f"{texts} generate", [])
    ]
    return table(["greedy", "ours, tokens/s", "generate(), tokens/s", "ratio", f"{HONEST} or more"], rows)


def stutter_table(found: Found) -> str:
    """Share of neighbours that are equal, by steps."""
    ways = (*STEPS, "1, no stutters", "4, no stutters", "4, linear", "4, linear, no stutters", "greedy")
    arms = {arm: [share(found.of(arm, f"test {how}"), "stutter_rate") for how in ways] for arm in found.quality}
    rows = [[arm, *cells] for arm, cells in arms.items() if any(cells)]
    return table(["stutters, %", *ways], rows)


def curve_table(found: Found) -> str:
    """Whether a run was still rising in its last sixth."""
    rows = []
    for arm, seeds in found.curves.items():
        for seed, curve in seeds.items():
            points = curve["points"]
            line = [
                f"{arm}, seed {seed}",
                f"{curve['minutes']:.1f}",
                " / ".join(f"{one['bleu']:.1f}" for one in points),
            ]
            slopes = [_slope(points, curve, name) for name in ("bleu", "nats")]
            rows.append([*line, *slopes])
    return table(["run", "CPU minutes", "BLEU along the way", "last part: BLEU", "last part: nats/token"], rows)


def _slope(points: Sequence[Record], curve: Record, name: str) -> str:
    """What the last two points differ by, in a CPU minute; errors as though each had sentences of its own."""
    last = [one for one in points if one.get(name) is not None][-2:]
    if len(last) < 2 or last[-1]["step"] < curve["steps"]:
        return "" if last else "none"
    minutes = (last[1]["step"] - last[0]["step"]) * curve["minutes"] / curve["steps"]
    rise = (last[1][name] - last[0][name]) / minutes
    error = math.hypot(*(one[f"{name}_stderr"] or 0.0 for one in last)) / minutes
    better = rise if name == "bleu" else -rise
    return f"{rise:+.3f} ± {error:.3f} a minute, {'still better' if better > 2 * error else 'level'}"


def faults_of(found: Found, prefix: str) -> dict[str, dict[str, Record]]:
    """Arm to decoding to what was found under `prefix`."""
    made = {
        arm: {key.removeprefix(f"{prefix} "): one for key, one in those.items() if key.startswith(f"{prefix} ")}
        for arm, those in found.faults.items()
    }
    return {arm: those for arm, those in made.items() if those}


def tables(found: Found) -> Iterator[str]:
    """All of them, in Markdown."""
    one = found.any()
    if one is not None:
        yield f"BLEU: {one['signature']}; chrF: {one['chrf_signature']}.\n"
    for texts, name in SETS.items():
        first = next((ones for arm in found.quality for ones in [found.of(arm, f"{texts} {usual(arm)}")] if ones), {})
        yield f"### Quality, {name}\n"
        yield main_table(found, texts)
        yield f"Stutters of the references: {share(first, 'reference_stutter_rate')} %.\n" if first else ""
        yield left_table(found, texts)
    yield f"### Against {found.base}\n\n{gap_table(found)}"
    yield f"### Ablations, {SETS['test']}\n\n{ablation_table(found)}"
    yield f"### Speed over greedy decoding: median round, slowest and fastest\n\n{speed_table(found)}"
    yield length_table(found)
    yield generate_table(found)
    if "machine" in found.speed:
        yield "Timed with {threads} thread(s) on {processors} processors, load {load:.1f} before.\n".format(
            **found.speed["machine"]
        )
    yield f"### Faults\n\n{stutter_table(found)}"
    yield mixtures_table(faults_of(found, "mixed"))
    yield dependence_table(faults_of(found, "probed"))
    yield f"### Curves, on a sample of the validation pairs\n\n{curve_table(found)}"
