"""remask train OBJECTIVE: train a model on a text."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from remask.cli.flags import add, describe, take
from remask.cli.words import Parser, emit, parser, peek
from remask.core.errors import BadInput
from remask.objectives import OBJECTIVES

ATTRIBUTE = "attribute"  # a classifier of a model's texts: no objective, since it changes no net
ROOMS = {
    "text": ("remask.train.recipe:Text", "the text"),
    "start": ("remask.train.recipe:Start", "the net"),
    "training": ("remask.train.settings:Training", "the training"),
}


def build(name: str) -> tuple[Parser, dict[str, list[str]]]:
    """The parser of one objective, and which flags belong to which dataclass."""
    words = parser(f"train {name}", "--data F [F ...] --out DIR (--steps N | --minutes M) [...]")
    words.add_argument("--out", required=True, metavar="DIR", help="where the run goes")
    words.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out")
    words.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    words.add_argument("--json", action="store_true", help="print the result as one JSON object")
    names = {room: add(words, place, title) for room, (place, title) in ROOMS.items()}
    names["fields"] = add(words, OBJECTIVES[name], f"the objective {name}: {describe(OBJECTIVES[name]).summary}")
    return words, names


def main(arguments: list[str]) -> int:
    """Train."""
    if not arguments or arguments[0].startswith("-"):
        words = parser("train", "OBJECTIVE --data F [F ...] --out DIR (--steps N | --minutes M) [...]")
        words.epilog = "objectives: " + ", ".join(OBJECTIVES) + " (remask train OBJECTIVE --help shows the flags)"
        words.epilog += (
            f"; remask train {ATTRIBUTE} --help: what a left-to-right model's texts will be, for remask decode"
        )
        words.add_argument("objective", choices=list(OBJECTIVES), metavar="OBJECTIVE", help=", ".join(OBJECTIVES))
        words.parse_args(arguments)
        return 2
    name = arguments[0]
    if name == ATTRIBUTE:
        from remask.cli.attribute import main as attribute

        return attribute(arguments[1:])
    words, names = build(name)
    values = words.parse_args(arguments[1:])
    size = peek(arguments, "--net", "")
    if size and values.init is not None:
        raise BadInput(
            f"--net {size} came with --init {values.init}, which brings its own size: leave one of them out."
        )
    rooms = {room: take(values, fields) for room, fields in names.items()}
    return _train(name, rooms, values, "remask train " + shlex.join(arguments))


def sizes(notes: dict[str, Any]) -> str:
    """How much text there is, of a corpus's notes."""
    train, valid = notes["train"], notes["valid"]
    if "kept" not in train:
        return f"{train['tokens']:,} tokens of training text, {valid['tokens']:,} held out"
    gone = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in train["dropped"].items() if n]
    dropped = f" ({', '.join(gone)} left out)" if gone else ""
    return f"{train['kept']:,} pairs to learn from{dropped}, {valid['kept']:,} held out"


def _next(result: Any) -> str:
    place = shlex.quote(str(result.path))
    if hasattr(result.net, "read"):
        return f"remask translate {place} --data FILE"
    if hasattr(result.net, "discriminator"):
        return f"remask export {place} --part discriminator --out DIR, or remask finetune {place}"
    if hasattr(result.net, "read_window"):
        return f"remask evaluate {place} --data FILE"
    return f"remask decode {place}" if result.net.causal else f"remask sample {place}"


def _train(name: str, rooms: dict[str, dict[str, Any]], values: Any, command: str) -> int:
    from remask.train.settings import Training

    training = Training(**rooms["training"])  # bad settings fail before torch is loaded
    from remask.cli.show import TrainingLine, estimates, say
    from remask.train.run import Recipe, Start, Text, rank, train

    recipe = Recipe(name, training, Text(**rooms["text"]), Start(**rooms["start"]), rooms["fields"])
    quiet = values.json or not sys.stderr.isatty() or rank() > 0

    def told(event: str, what: dict[str, Any]) -> None:
        if rank() > 0:  # one of several processes speaks
            return
        if event == "corpus":
            say(f"{sizes(what)}, {what['parameters']:,} parameters, text {what['fingerprint']}")
        if event == "remark":
            say(f"note: {what['text']}")
        if event == "resumed":
            say(f"going on from {what['from']}")

    with TrainingLine(quiet) as line:
        result = train(
            recipe, values.out, resume=values.resume, overwrite=values.overwrite, watch=line, told=told, command=command
        )
    if rank() > 0:
        return 0
    if values.json:
        emit(
            {
                "out": str(result.path),
                **{key: e.json() for key, e in result.metrics.items()},
                **{key: result.facts[key] for key in ("step", "tokens", "seconds", "parameters")},
                "fingerprint": result.corpus.fingerprint,
            }
        )
        return 0
    from remask.cli.show import console

    console.print(estimates("held-out text", result.metrics))
    say(f"the checkpoint is in {result.path}: try  {_next(result)}")
    return 0
