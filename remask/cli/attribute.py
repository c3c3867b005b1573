"""remask train attribute: fit a classifier of what a left-to-right model's texts will be, on texts that it writes."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from remask.cli.flags import add, take
from remask.cli.words import Parser, emit, parser

SETTINGS = "remask.train.attribute:AttributeTraining"
REPORT = "report.html"


def build() -> tuple[Parser, list[str]]:
    """The parser, and the names of the fields of the settings."""
    words = parser("train attribute", "--model MODEL --attribute NAME [NAME ...] --out DIR [--data F] [...]")
    words.add_argument("--model", required=True, metavar="MODEL", help="a causal model: a directory, or hf:NAME")
    words.add_argument(
        "--attribute",
        nargs="+",
        required=True,
        metavar="NAME",
        help="length (one classifier serves every length), ends, no_repeats=N (n-grams), contains=TEXT, "
        "avoids=TEXT; several are meant together",
    )
    words.add_argument("--out", required=True, metavar="DIR", help="where the classifier goes")
    words.add_argument("--data", metavar="F", help="a text whose lines are prompts to write after; default: none")
    words.add_argument("--overwrite", action="store_true", help="replace the classifier in --out")
    words.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return words, add(words, SETTINGS, "the classifier")


def main(arguments: list[str]) -> int:
    """Fit."""
    words, names = build()
    values = words.parse_args(arguments)
    return _fit(values, take(values, names), "remask train attribute " + shlex.join(arguments))


def _fit(values: argparse.Namespace, settings: dict[str, Any], command: str) -> int:
    import torch

    import remask
    from remask.cli.decoding import prompts
    from remask.cli.show import console, estimates, say
    from remask.decoders.attributes import parse
    from remask.report.forecasts import tell
    from remask.train.attribute import AttributeTraining, train_attribute
    from remask.train.frozen import load_causal

    training = AttributeTraining(**settings)
    values.prompt = None
    texts = prompts(values)
    frozen = load_causal(values.model, "cuda" if torch.cuda.is_available() else "cpu")
    attribute = parse(values.attribute, frozen.text)

    def told(event: str, what: dict[str, Any]) -> None:
        if event == "drawn" and not values.json:
            say(f"{what['texts']:,} texts drawn, {what['satisfied']:,} have the attribute, {what['ended']:,} ended")
        if event == "epoch" and sys.stderr.isatty() and not values.json:
            say(f"epoch {what['epoch']} of {what['epochs']}: {what['nats']:.4f} nats")

    notes = {"remask": remask.__version__, "command": command, "of": frozen.path, "attribute": values.attribute}
    out = Path(values.out)
    found = train_attribute(
        frozen.model,
        attribute,
        out,
        training,
        frozen.prompts(texts),
        overwrite=values.overwrite,
        told=told,
        notes=notes,
    )
    recipe = {name: str(value) for name, value in {**settings, "model": frozen.path}.items()}
    part = out / f"{REPORT}.part"
    part.write_text(tell(found.facts, command, recipe, {"remask": remask.__version__}), encoding="utf-8")
    os.replace(part, out / REPORT)
    if values.json:
        emit(
            {
                "out": str(out),
                "drawn": found.drawn,
                "satisfied": found.satisfied,
                **{name: estimate.json() for name, estimate in found.metrics.items()},
                "reliability": found.facts["reliability"],
            }
        )
        return 0
    console.print(estimates("texts that nothing was learned from", found.metrics))
    place = f"remask decode {shlex.quote(values.model)} --decoder conditional_beam --classifier {shlex.quote(str(out))}"
    say(f"the classifier is in {out}: try  {place} --attribute {shlex.join(values.attribute)}")
    return 0
