"""Few-shot classification by frozen left-to-right models: a plain prompt, or one that was learned from.

    REMASK_DATA=... python -m recipes.frozen_models runs/frozen
    REMASK_DATA=... python -m recipes.few_shot runs/frozen
    python -m recipes.few_shot runs/frozen --report

The encyclopedia net of recipes/frozen_models.py reads 4, 8 or 16 labelled texts (each class as often as the others, as
far as that goes) and scores label words after a query: 20 draws of examples and their order, the same for all ways of
reading; hidden states take a step after each chunk of the prompt, at three rates, none of them chosen. With and without
contextual calibration (Zhao et al. 2021, arXiv 2102.09690). Prompts beyond the net's 256 tokens are read as any long
text is: what is oldest goes. Claim (Yoshida & Gimpel 2021, arXiv 2112.08653): learning from the prompt helps. What
guessing and the most frequent class would do stands beside it; a net of 2 million parameters is a weak few-shot
learner, so this shows what the method does and not how good models are.
Hardware: one thread of a 2-core CPU, some 12 CPU minutes. Finished parts are kept in few_shot.json.
Expected: see docs/results.md, "Few-shot classification with hidden states that learn".
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.frozen_models import data, fit
from remask.data.labelled import Labelled, read_labelled
from remask.decoders.baselines import Cached
from remask.decoders.few_shot import classify
from remask.decoders.hidden_state import HiddenState
from remask.train.frozen import load_causal
from remask.train.prompting import Template, accuracy, drawn, put

WORDS = {
    "sms_spam": {"ham": "personal", "spam": "advertisement"},
    "snips": {
        "AddToPlaylist": "playlist",
        "BookRestaurant": "restaurant",
        "GetWeather": "weather",
        "PlayMusic": "music",
        "RateBook": "rating",
        "SearchCreativeWork": "title",
        "SearchScreeningEvent": "cinema",
    },
}
TEMPLATE = Template("Message : {text}\nKind : {label}\n")
SHOTS, DRAWS, QUERIES, LONGEST = (4, 8, 16), 20, 140, 160  # LONGEST: characters of a text
CHUNK = 16
READERS: dict[str, Any] = {
    "plain cache": Cached(chunk=CHUNK),
    **{f"hidden states, {rate:g}": HiddenState(lr=rate, chunk=CHUNK) for rate in (0.003, 0.01, 0.03)},
}


class Lot(NamedTuple):
    """Texts and the numbers of their labels."""

    texts: list[str]
    labels: list[int]


def lot(name: str, split: str) -> Lot:
    """A split of a task."""
    found: Labelled = read_labelled(data() / name / f"{split}.tsv.gz", "label,text", "classify")
    numbers = {label: number for number, label in enumerate(WORDS[name])}
    return Lot([text[:LONGEST] for text in found.texts], [numbers[str(label)] for label in found.labels])


def queries(found: Lot, classes: int) -> Lot:
    """Of each class as many, spread over the file."""
    chosen: list[int] = []
    for number in range(classes):
        here = [k for k, label in enumerate(found.labels) if label == number]
        chosen += [here[round(i)] for i in np.linspace(0, len(here) - 1, QUERIES // classes)]
    return Lot([found.texts[k] for k in chosen], [found.labels[k] for k in chosen])


def measure(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Everything, kept as it is found."""
    file, frozen = out / "few_shot.json", load_causal(fit(out, "encyclopedia"))
    kept: dict[str, list[dict[str, Any]]] = json.loads(file.read_text()) if file.is_file() else {}
    for name, words in WORDS.items():
        train, asked = lot(name, "train"), queries(lot(name, "test"), len(words))
        for shots in SHOTS:
            for way, reader in READERS.items():
                found = kept.setdefault(f"{name}, {shots}, {way}", [])
                for draw in range(len(found), DRAWS):
                    began = time.process_time()
                    chosen = drawn(train.labels, len(words), shots, [shots, draw])
                    examples = [(train.texts[k], train.labels[k]) for k in chosen]
                    task = put(frozen.tokenizer, TEMPLATE, list(words.values()), examples, asked.texts)
                    answers = classify(frozen.model, task, range(shots), reader)  # type: ignore[arg-type]
                    found.append({**accuracy(answers, asked.labels), "seconds": time.process_time() - began})
                    file.write_text(json.dumps(kept))
                print(f"{name}, {shots}, {way}: {np.mean([one['plain'] for one in found]):.3f}", flush=True)
    return kept


def table(kept: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: accuracy, mean of the draws ± their spread, and the paired difference to the plain cache."""
    lines = ["| task | examples | way | accuracy | calibrated | minus plain cache | calibrated |"]
    lines.append("|---|---|---|---|---|---|---|")
    for key, found in kept.items():
        name, shots, way = key.split(", ", 2)
        base = kept[f"{name}, {shots}, plain cache"]
        cells = []
        for kind in ("plain", "calibrated"):
            values = [100 * one[kind] for one in found]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
        for kind in ("plain", "calibrated"):
            apart = [100 * (a[kind] - b[kind]) for a, b in zip(found, base)]
            error = np.std(apart, ddof=1) / math.sqrt(len(apart))
            cells.append("" if way == "plain cache" else f"{np.mean(apart):+.1f} ± {error:.1f}")
        lines.append(f"| {name} | {shots} | {way} | {' | '.join(cells)} |")
    guesses = ", ".join(f"{name} {100 / len(words):.1f}" for name, words in WORDS.items())
    return "\n".join([*lines, "", f"Guessing, and any one class: {guesses} (queries are balanced)."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and tell."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--report", action="store_true", help="of what is there")
    values = words.parse_args(arguments)
    kept = json.loads((values.out / "few_shot.json").read_text()) if values.report else measure(values.out)
    print(table(kept))


if __name__ == "__main__":
    main()
