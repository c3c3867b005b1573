"""Hidden states that learn while reading, in the model's own domain and out of it, beside its three baselines.

    REMASK_DATA=... python -m recipes.frozen_models runs/frozen
    REMASK_DATA=... python -m recipes.adaptation runs/frozen
    python -m recipes.adaptation runs/frozen --report

Two frozen nets (recipes/frozen_models.py), each on the text of its own domain and on the other's: overlapping windows,
a plain cache, dynamic evaluation (steps on weights) and hidden-state optimization (steps on cached keys and values).
Both ways of learning get the same number of learning rates, chosen on `tune` for each net and text, and are reported on
`test`, which chooses nothing. What each costs in seconds stands beside it. Differences are paired, token by token, with
errors over blocks of 128 tokens. Claims (Yoshida & Gimpel 2021, arXiv 2112.08653): perplexity falls, out of domain
most; here also: a U in the learning rate.
Hardware: one thread of a 2-core CPU, some 20 CPU minutes. Finished parts are kept in adaptation.json.
Expected: see docs/results.md, "Hidden states that learn".
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.frozen_models import DOMAINS, fit, texts
from remask.cli.adapting import BLOCK, stretch
from remask.core.errors import Diverged
from remask.data.text import read
from remask.decoders.adapt import score
from remask.decoders.baselines import Cached, Dynamic, Windows
from remask.decoders.hidden_state import HiddenState
from remask.lab.experiment import Line, Panel
from remask.lab.plot import plot
from remask.train.frozen import Frozen, load_causal

if TYPE_CHECKING:
    from remask.decoders.adapt import Adaptation

CHUNK = 16
RATES = {
    "hidden states": (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
    "dynamic evaluation": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}
STEPS = (1, 3)  # of hidden states, at the rate that one step likes
STREAMS, LENGTHS = 16, {"tune": 512, "test": 1536}  # rows read side by side, tokens of a row


class Weighed(NamedTuple):
    """blocks: nats a token of each block of tokens; seconds: of reading all."""

    blocks: list[float]
    seconds: float

    @property
    def nats(self) -> float:
        """Mean."""
        return math.fsum(self.blocks) / len(self.blocks)


def way(name: str, rate: float = 0.0, steps: int = 1) -> Adaptation:
    """How a text is read."""
    rows = {"windows": Windows, "cache": lambda: Cached(chunk=CHUNK)}
    if name in rows:
        return rows[name]()  # type: ignore[return-value,operator]
    if name == "dynamic evaluation":
        return Dynamic(lr=rate, chunk=CHUNK)
    return HiddenState(lr=rate, chunk=CHUNK, steps=steps)


def weigh(adaptation: Adaptation, frozen: Frozen, tokens: Tensor) -> Weighed:
    """Read a text [N, T]; no figure where a rate is so high that it diverges."""
    began = time.process_time()
    try:
        nats = score(adaptation, frozen.model, tokens).nats  # type: ignore[arg-type]
    except Diverged:
        return Weighed([math.inf], time.process_time() - began)
    blocks = torch.cat([part.mean(1) for part in nats.split(BLOCK, 1) if part.shape[1] == BLOCK])
    return Weighed(blocks.tolist(), time.process_time() - began)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean difference of blocks, and its standard error."""
    apart = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    return float(apart.mean()), float(apart.std() / math.sqrt(len(apart)))


def measure(out: Path) -> dict[str, dict[str, Any]]:
    """Everything, kept as it is found."""
    file = out / "adaptation.json"
    kept: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    for model in DOMAINS:
        frozen = load_causal(fit(out, model))
        for domain in DOMAINS:
            found = kept.setdefault(f"{model} reads {domain}", {})
            _measured(out, frozen, domain, found, lambda: file.write_text(json.dumps(kept)))
    return kept


def _measured(out: Path, frozen: Frozen, domain: str, found: dict[str, Any], save: Any) -> None:
    parts = {name: _row(frozen, place, LENGTHS[name]) for name, place in texts(out, domain).items()}

    def once(key: str, part: str, adaptation: Adaptation) -> Weighed:
        if key not in found:
            found[key] = weigh(adaptation, frozen, parts[part])._asdict()
            save()
            print(f"{frozen.path}, {domain}, {key}: {Weighed(**found[key]).nats:.4f} nats", flush=True)
        return Weighed(**found[key])

    for name in ("windows", "cache"):
        once(f"test {name}", "test", way(name))
    once("tune cache", "tune", way("cache"))
    for name, rates in RATES.items():
        best = min(rates, key=lambda rate: once(f"tune {name} {rate:g}", "tune", way(name, rate)).nats)
        found[f"{name} rate"] = best
        steps = STEPS if name == "hidden states" else STEPS[:1]
        for count in steps:
            key = f"test {name}" + (f", {count} steps" if count > 1 else "")
            once(key, "test", way(name, best, count))


def _row(frozen: Frozen, place: Path, length: int) -> Tensor:
    return stretch(frozen, read([str(place)]), STREAMS).tokens[:, : length + 1]


# ---- what is told ----------------------------------------------------------------------------------------------------


def table(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: nats a token, the difference to the plain cache, cost."""
    lines = ["| net, text | way | rate | nats a token | minus plain cache | seconds |", "|---|---|---|---|---|---|"]
    for case, found in kept.items():
        for key, one in found.items():
            if not key.startswith("test "):
                continue
            name = key.removeprefix("test ")
            mean, error = paired(one["blocks"], found["test cache"]["blocks"])
            apart = "" if name == "cache" else f"{mean:+.4f} ± {error:.4f}"
            rate = found.get(f"{name.split(',')[0]} rate", "")
            lines.append(f"| {case} | {name} | {rate} | {Weighed(**one).nats:.4f} | {apart} | {one['seconds']:.0f} |")
    return "\n".join(lines)


def figure(kept: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The sweep of each net and text: nats beside the plain cache against the learning rate."""
    plot([_sweep(case, found) for case, found in kept.items()], path)


def _sweep(case: str, found: Mapping[str, Any]) -> Panel:
    base, lines = found["tune cache"]["blocks"], []
    for name, rates in RATES.items():
        shown = [rate for rate in rates if math.isfinite(Weighed(**found[f"tune {name} {rate:g}"]).nats)]
        means, errors = zip(*(paired(found[f"tune {name} {rate:g}"]["blocks"], base) for rate in shown))
        lines.append(Line(name, list(shown), list(means), list(errors)))
    low = min(0.0, *(value for line in lines for value in line.y))
    limits = (low * 1.3 - 0.01, -low * 0.8 + 0.03)  # far above lies only what learned too fast
    return Panel(case, "learning rate", "nats a token minus plain cache", lines, log_x=True, limits=limits)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and tell."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--report", action="store_true", help="of what is there")
    values = words.parse_args(arguments)
    file = values.out / "adaptation.json"
    kept = json.loads(file.read_text()) if values.report else measure(values.out)
    print(table(kept))
    figure(kept, values.out / "adaptation.png")


if __name__ == "__main__":
    main()
