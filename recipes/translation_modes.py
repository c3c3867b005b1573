"""The most probable translations of a model, and the most probable of a length: exact search beside beams.

    REMASK_DATA=... python -m recipes.translation_modes runs/translation
    python -m recipes.translation_modes runs/translation --report

The left-to-right teacher of recipes/translation.py, English to German, on test sentences drawn evenly from four lengths
of source. `modes`: the most probable target, certified or with its gap, and the one of the reference's length.
How many are empty, cut short (under half the reference's tokens) or stutter, beside greedy, beam search and a drawn
text. `lengths`: for the reference's length, beams that are forced to it and beams that know the chance of reaching it
(p(length | prefix) of a classifier fitted to the model's own samples): log p at equal length, how often the certified
mode is found, BLEU, seconds. Claims (Stahlberg & Byrne 2019, arXiv 1908.10090; Yoshida et al. 2023, arXiv 2311.08817):
modes are often empty, more so for longer sources; those of a length are not.
Hardware: one thread of a 2-core CPU, some 35 CPU minutes. Finished parts are kept in modes.json.
Expected: see docs/results.md, "Modes of a translation model".
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.translation import place, prepare
from remask.core.decoder import Budget, Decoder
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.data.pairs import read_pairs
from remask.decoders.attributes import Length
from remask.decoders.beam import Beam
from remask.decoders.conditional_beam import ConditionalBeam
from remask.decoders.exact_mode import ExactMode
from remask.decoders.sampling import Sampling
from remask.lab.experiment import Line, Panel
from remask.lab.plot import plot
from remask.train.attribute import AttributeTraining, train_attribute
from remask.train.attribute_directory import load_attribute
from remask.train.frozen import Frozen, load_causal
from remask.translate.scores import scores

EDGES = (0, 7, 10, 14, 40)  # tokens of sources: four bins
EACH = 40  # sentences of a bin
TOKENS, NODES, SEED = 64, 3_000, 0
BEAMS = (1, 2, 5, 10, 20)
SAME = 1e-3  # nats between two sums of one text's float32 terms, taken in different batches
PROMPTS, SAMPLES = 2_000, 6_000  # sources whose drawn translations the classifier learns from
Row = dict[str, Any]


def sentences(out: Path, frozen: Frozen) -> list[Row]:
    """Test pairs, EACH of every bin, spread over the file; bin: its number."""
    pairs = read_pairs([str(prepare(out)["test"])], "source,target")
    sources = frozen.prompts([pair.source for pair in pairs])
    bins = np.digitize([len(ids) for ids in sources], EDGES) - 1
    chosen = []
    for number in range(len(EDGES) - 1):
        here = np.flatnonzero(bins == number)
        chosen += here[np.linspace(0, len(here) - 1, min(EACH, len(here))).astype(int)].tolist()
    found: list[Row] = []
    for k in chosen:
        target = pairs[k].target
        length = len(frozen.tokenizer(target, add_special_tokens=False)["input_ids"])
        found.append({"ids": sources[k], "reference": target, "length": length, "bin": int(bins[k])})
    return [row for row in found if row["length"] < TOKENS]


def decode(frozen: Frozen, row: Mapping[str, Any], number: int, decoder: Decoder, nodes: int | None = None) -> Row:
    """One text, with what is known of it; none where nothing was found within the nodes."""
    began = time.process_time()
    try:
        made = decoder(frozen.model, [row["ids"]], Stream.of(SEED, torch.tensor([number])), Budget(TOKENS, nodes))
    except BadInput as error:  # a budget that ended before one text was found
        return {"text": None, "why": str(error), "seconds": time.process_time() - began}
    (tokens,) = made.texts(frozen.model.end)
    return {
        "text": frozen.text(tokens),
        "tokens": len(tokens),
        "stutters": any(a == b for a, b in pairwise(tokens)),
        "log_prob": float(made.log_prob),
        "certified": bool(made.info.certified),
        "gap": float(made.info.gap),
        "calls": int(made.info.calls),
        "seconds": time.process_time() - began,
    }


def classifier(out: Path, frozen: Frozen) -> Path:
    """p(length | prefix), fitted to drawn translations of training sources; made once."""
    made = out / "modes-length"
    if not (made / "attribute.json").is_file():
        pairs = read_pairs([str(prepare(out)["raw"])], "source,target")
        chosen = np.random.default_rng(SEED).choice(len(pairs), PROMPTS, replace=False)
        prompts = frozen.prompts([pairs[k].source for k in chosen])
        training = AttributeTraining(samples=SAMPLES, tokens=TOKENS, epochs=8)
        found = train_attribute(frozen.model, Length(), made, training, prompts)
        print(f"classifier: { ({k: round(v.value, 4) for k, v in found.metrics.items()}) }", flush=True)
    return made


def ways(out: Path, frozen: Frozen) -> dict[str, tuple[Callable[[Row], Decoder], int | None]]:
    """Name to the decoder of a sentence, and its nodes."""
    path = classifier(out, frozen)
    posteriors: dict[int, Any] = {}

    def mode(row: Row) -> Decoder:
        return ExactMode()

    def drawn(row: Row) -> Decoder:
        return Sampling()

    def mode_of_length(row: Row) -> Decoder:
        return ExactMode(length=row["length"])

    def free(size: int, row: Row) -> Decoder:
        return Beam(size)

    def forced(size: int, row: Row) -> Decoder:
        return Beam(size, length=row["length"])

    def knowing(size: int, row: Row) -> Decoder:
        length = Length(row["length"])
        if row["length"] not in posteriors:
            posteriors[row["length"]] = load_attribute(path, frozen.model, length)
        return ConditionalBeam(beam=size, attribute=length, posterior=posteriors[row["length"]])

    beams = {"beam": free, "forced": forced, "conditional": knowing}
    return {
        "mode": (mode, NODES),
        "draw": (drawn, None),
        "mode of the length": (mode_of_length, NODES),
        **{f"{name} {size}": (partial(make, size), None) for name, make in beams.items() for size in BEAMS},
    }


def measure(out: Path) -> Row:
    """Everything, kept as it is found."""
    file, frozen = out / "modes.json", load_causal(place(out, "teacher", 0))
    kept: Row = json.loads(file.read_text()) if file.is_file() else {"rows": sentences(out, frozen), "found": {}}
    for name, (make, nodes) in ways(out, frozen).items():
        if name not in kept["found"]:
            began = time.process_time()
            kept["found"][name] = [decode(frozen, row, k, make(row), nodes) for k, row in enumerate(kept["rows"])]
            file.write_text(json.dumps(kept, ensure_ascii=False))
            print(f"{name}: {time.process_time() - began:.0f} CPU seconds", flush=True)
    return kept


# ---- what is told ----------------------------------------------------------------------------------------------------


def faults(rows: Sequence[Row], found: Sequence[Row]) -> dict[str, float]:
    """Shares of empty texts, of short ones, and of those that stutter."""
    n = max(len(found), 1)
    return {
        "empty": sum(one["text"] == "" for one in found) / n,
        "short": sum((one["tokens"] or 0) < row["length"] / 2 for row, one in zip(rows, found)) / n,
        "stutters": sum(one["stutters"] for one in found) / n,
    }


def share_error(value: float, n: int) -> float:
    """Of a share of n: the posterior's standard deviation under a flat prior, which is not 0 where the share is."""
    hits, misses = value * n + 1, (1 - value) * n + 1
    return math.sqrt(hits * misses / ((n + 2) ** 2 * (n + 3)))


def _share(value: float, n: int) -> str:
    return f"{100 * value:.0f} ± {100 * share_error(value, n):.0f}"


def table(kept: Row) -> str:
    """Markdown: modes by source length, then texts of the reference's length."""
    rows, lines = kept["rows"], ["| tokens of source | way | n | certified | empty % | short % | stutters % | tokens |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for number, (low, high) in enumerate(pairwise(EDGES)):
        for name in ("mode", "mode of the length", "beam 1", "beam 5", "beam 20", "draw"):
            both = [(r, f) for r, f in zip(rows, kept["found"][name]) if r["bin"] == number and f["text"] is not None]
            some, found = [r for r, _ in both], [f for _, f in both]
            share, n = faults(some, found), len(found)
            proved = sum(f["certified"] for f in found)
            size = sum(f["tokens"] for f in found) / max(n, 1)
            shares = " | ".join(_share(share[key], n) for key in ("empty", "short", "stutters"))
            lines.append(f"| {low + 1}-{high} | {name} | {n} | {proved} | {shares} | {size:.1f} |")
    return "\n".join([*lines, "", *_of_length(kept)])


def _of_length(kept: Row) -> list[str]:
    rows, modes = kept["rows"], kept["found"]["mode of the length"]
    lines = ["| way | log p at the reference's length | below the mode, nats | mode found % | BLEU | ms a sentence |"]
    lines.append("|---|---|---|---|---|---|")
    for name in ("mode of the length", *(f"{kind} {size}" for kind in ("forced", "conditional") for size in BEAMS)):
        found = kept["found"][name]
        both = [(f, m) for f, m in zip(found, modes) if f["text"] is not None and m["text"] is not None]
        proved = [(f, m) for f, m in both if m["certified"]]
        below = [m["log_prob"] - f["log_prob"] for f, m in proved]
        hit = sum(gap < SAME for gap in below) / max(len(below), 1)
        mean = sum(f["log_prob"] for f, _ in both) / max(len(both), 1)
        error = float(np.std(below, ddof=1) / math.sqrt(len(below))) if len(below) > 1 else math.nan
        score = scores([f["text"] or "" for f in found], [row["reference"] for row in rows]).bleu.estimate
        cost = 1000 * sum(f["seconds"] for f in found) / len(found)
        apart = f"{sum(below) / max(len(below), 1):.3f} ± {error:.3f}"
        lines.append(f"| {name} | {mean:.3f} | {apart} | {_share(hit, len(below))} | {score.value:.1f} | {cost:.0f} |")
    for name in ("draw", *(f"beam {size}" for size in BEAMS), "mode"):
        found = kept["found"][name]
        score = scores([f["text"] or "" for f in found], [row["reference"] for row in rows]).bleu.estimate
        cost = 1000 * sum(f["seconds"] for f in found) / len(found)
        lines.append(f"| {name} (any length) | | | | {score.value:.1f} | {cost:.0f} |")
    return lines


def figure(kept: Row, path: Path) -> None:
    """Left: texts cut short by length of source. Right: how far beams stay below the mode of the length."""
    plot([_short(kept), _below(kept)], path)


def _short(kept: Row) -> Panel:
    rows, lines = kept["rows"], []
    sizes = [[len(row["ids"]) for row in rows if row["bin"] == number] for number in range(len(EDGES) - 1)]
    for name in ("mode", "beam 20", "beam 5", "beam 1", "draw"):
        points = []
        for number in range(len(sizes)):
            both = [(r, f) for r, f in zip(rows, kept["found"][name]) if r["bin"] == number and f["text"] is not None]
            share, n = faults([r for r, _ in both], [f for _, f in both])["short"], max(len(both), 1)
            points.append((100 * share, 100 * share_error(share, n)))
        shares, errors = map(list, zip(*points))
        lines.append(Line(name, [sum(size) / len(size) for size in sizes], shares, errors))
    return Panel("Translations under half of the reference", "tokens of the source", "%", lines)


def _below(kept: Row) -> Panel:
    modes, lines = kept["found"]["mode of the length"], []
    for kind in ("forced", "conditional"):
        points = []
        for size in BEAMS:
            both = zip(kept["found"][f"{kind} {size}"], modes)
            gaps = [
                m["log_prob"] - f["log_prob"]
                for f, m in both
                if m["text"] is not None and m["certified"] and f["text"] is not None
            ]
            points.append((sum(gaps) / len(gaps), float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps))))
        below, errors = map(list, zip(*points))
        lines.append(Line(kind, list(map(float, BEAMS)), below, errors))
    return Panel("Texts of the reference's length", "beam", "nats below their mode", lines, log_x=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and tell."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--report", action="store_true", help="of what is there")
    values = words.parse_args(arguments)
    kept = json.loads((values.out / "modes.json").read_text()) if values.report else measure(values.out)
    print(table(kept))
    figure(kept, values.out / "modes.png")


if __name__ == "__main__":
    main()
