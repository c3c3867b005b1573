"""Recurrence against overlap: one vector between windows, or windows that read the last tokens again, at equal cost.

    REMASK_DATA=... python -m recipes.frozen_models runs/frozen --domain encyclopedia --near
    REMASK_DATA=... python -m recipes.recurrence runs/frozen --stage train
    REMASK_DATA=... python -m recipes.recurrence runs/frozen

The encyclopedia net of recipes/frozen_models.py, trained on for 300 steps of 4,096 tokens in windows of 32, 3 times:
`recurrent` (rows of 8 windows, a vector between them, gradients through all) and `plain` (rows of one window: the same
text, steps and rates, nothing between them). Then `test` is weighed: the plain net with windows that read 0, 4, 8, 16
and 24 of their 32 tokens again, the recurrent net with its vector. Nats against FLOPs for a token scored; what the
vector saves beside overlap at its own FLOPs (between two overlaps on a line); and nats by place in the window, where
the claim (Yoshida et al. 2020, arXiv 2008.07027) has its gain: in the first ones.
Hardware: one thread of a 2-core CPU with bfloat16: some 30 CPU minutes of training, 5 of weighing.
Expected: see docs/results.md, "Recurrence against overlap".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished
from recipes.frozen_models import fit, sources, texts, tokenizer
from recipes.paired_curves import Interval, interval
from remask.cli.adapting import stretch
from remask.data.text import read
from remask.decoders.recurrence import Overlap, Point, Recurrence, Recurring, equal_cost, score
from remask.lab.experiment import Line, Panel
from remask.lab.plot import plot
from remask.nets.causal import CausalNet
from remask.nets.recurrent import RecurrentNet
from remask.train.api import train
from remask.train.checkpoint import load
from remask.train.frozen import load_causal

WINDOW, WINDOWS, TOKENS, STEPS, SEEDS = 32, 8, 4_096, 300, (0, 1, 2)
REREADS = (0, 4, 8, 16, 24)
STREAMS, LENGTH = 32, 1_024
RATE = 1e-3
ARMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "recurrent": ("recurrent", WINDOW * WINDOWS, {"window": WINDOW}),
    "plain": ("autoregressive", WINDOW, {}),
}


def place(out: Path, arm: str, seed: int) -> Path:
    """Where a net is."""
    return out / f"windows-{arm}-seed{seed}"


def fit_arm(out: Path, arm: str, seed: int) -> Path:
    """One net, unless it is there."""
    run, (objective, length, fields) = place(out, arm, seed), ARMS[arm]
    if not finished(run):
        train(
            objective,
            out=run,
            resume=(run / "recipe.json").is_file(),
            data=list(map(str, sources("encyclopedia"))),
            valid=[str(texts(out, "encyclopedia")["tune"])],
            tokenizer=str(tokenizer(out)),
            init=str(fit(out, "encyclopedia", near=True)),
            length=length,
            batch=TOKENS // length,
            steps=STEPS,
            learning_rate=RATE,
            evaluations=2,
            save_minutes=2.0,
            seed=seed,
            **fields,
        )
    return run


def weigh(out: Path, seed: int) -> dict[str, Any]:
    """The points of a seed's curve, and nats by place."""
    frozen = load_causal(place(out, "plain", seed))
    plain = frozen.model
    assert isinstance(plain, CausalNet)
    opened = load(place(out, "recurrent", seed))
    net, end = opened.net, opened.alphabet.end
    assert isinstance(net, RecurrentNet)
    assert end is not None
    inner = CausalNet(net.model, end, end, [opened.alphabet.mask], len(opened.tokenizer))
    text = read([str(texts(out, "encyclopedia")["test"])])
    tokens = stretch(frozen, text, STREAMS).tokens[:, :LENGTH]
    points, places = [], {}
    for reread in REREADS:
        found = score(Overlap(WINDOW, reread), plain, tokens)
        points.append(Point("overlap", reread, found.flops_per_token, found.nats_per_token))
        places[f"overlap {reread}"] = [one.value for one in found.by_place()]
    found = score(Recurrence(), Recurring(net, inner), tokens)
    points.append(Point("recurrence", 0, found.flops_per_token, found.nats_per_token))
    places["recurrence"] = [one.value for one in found.by_place()]
    return {
        "points": [[p.way, p.reread, p.flops, p.nats.value, p.nats.stderr] for p in points],
        "saved": equal_cost(points),
        "places": places,
    }


def measure(out: Path) -> dict[str, Any]:
    """All seeds, kept."""
    file = out / "recurrence.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for seed in SEEDS:
        if str(seed) not in kept and all(finished(place(out, arm, seed)) for arm in ARMS):
            kept[str(seed)] = weigh(out, seed)
            file.write_text(json.dumps(kept))
    return kept


def over_seeds(kept: Mapping[str, Any], way: str, reread: int) -> tuple[float, Interval]:
    """FLOPs and nats of one point."""
    rows = [row for one in kept.values() for row in one["points"] if row[:2] == [way, reread]]
    return rows[0][2], interval([row[3] for row in rows])


def table(kept: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [f"| way, windows of {WINDOW} | MFLOPs a token | nats a token, {len(kept)} seeds |", "|---|---|---|"]
    for way, reread in [*(("overlap", reread) for reread in REREADS), ("recurrence", 0)]:
        flops, nats = over_seeds(kept, way, reread)
        name = f"overlap, {reread} read again" if way == "overlap" else "recurrence"
        lines.append(f"| {name} | {flops / 1e6:.2f} | {nats.mean:.4f} [{nats.low:.4f}, {nats.high:.4f}] |")
    saved = [one["saved"] for one in kept.values() if one["saved"] is not None]
    if saved:
        lines += ["", f"Saved beside overlap at equal FLOPs: {interval(saved).text(4)} nats a token."]
    return "\n".join(lines)


def figure(kept: Mapping[str, Any], path: Path) -> None:
    """Left: nats against FLOPs, bars are 95 % over seeds. Right: nats by place in the window."""
    cost = []
    for way, rereads in (("overlap", REREADS), ("recurrence", (0,))):
        flops, nats = zip(*(over_seeds(kept, way, reread) for reread in rereads))
        bars = [one.high - one.mean for one in nats]
        cost.append(Line(way, [one / 1e6 for one in flops], [one.mean for one in nats], bars))
    places = []
    for name in ("overlap 0", "overlap 16", "recurrence"):
        curve = [fmean(values) for values in zip(*(one["places"][name] for one in kept.values()))]
        places.append(Line(name, list(map(float, range(len(curve)))), curve))
    left = Panel("What the cost buys", "MFLOPs for a token scored", "nats a token", cost, log_x=True)
    right = Panel("Where", "place among the window's new tokens, from 0", "nats", places)
    plot([left, right], path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or measure and tell."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--stage", choices=["train"])
    words.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    values = words.parse_args(arguments)
    if values.stage:
        for seed in map(int, values.seeds.split(",")):
            for arm in ARMS:
                print(fit_arm(values.out, arm, seed), flush=True)
        return
    kept = measure(values.out)
    print(table(kept))
    figure(kept, values.out / "recurrence.png")


if __name__ == "__main__":
    main()
