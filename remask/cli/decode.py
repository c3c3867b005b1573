"""remask decode MODEL: better text from a frozen left-to-right model, with proof where there is one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from remask.cli.flags import READERS, add, describe, fields, flag_of, parts, take
from remask.cli.words import Parser, parser, peek
from remask.core.errors import BadInput
from remask.decoders import DECODERS

USUAL = "beam"
MOST_TOKENS = 64  # of a text, where nobody says
MOST_NODES = 100_000  # beyond what any beam takes: exact search alone would go on for days
STREAMS = frozenset({"hidden_state"})
"""Decoders that read prompts longer than the model's window."""


def build(arguments: Sequence[str]) -> tuple[Parser, str, list[str]]:
    """The parser for the decoder that was typed, its name, and the names of its fields."""
    words = parser("decode", "MODEL [--decoder NAME] [--prompt TEXT | --data F|-] [--length N] [--json]")
    words.add_argument(
        "checkpoint",
        metavar="MODEL",
        help="a causal model (a GPT-2, a Llama, a run of autoregressive), or an encoder-decoder (a T5, a Marian, a "
        "BART, a run of seq2seq), whose prompts are sources; a directory, or hf:NAME",
    )
    words.add_argument("--prompt", metavar="TEXT", help="how the text begins, or the source [default: nothing]")
    words.add_argument("--data", metavar="F", help="a text (or .gz), each line a prompt; - is standard input")
    words.add_argument(
        "--decoder", default=USUAL, metavar="NAME", help=f"one of {', '.join(DECODERS)} [default: {USUAL}]"
    )
    words.add_argument(
        "--tokens",
        type=READERS["int"],
        metavar="N",
        help=f"tokens of a text at most, its end counted; default: one more than --length, or {MOST_TOKENS}, or what "
        "the model has room for",
    )
    words.add_argument(
        "--budget",
        type=READERS["int"],
        default=MOST_NODES,
        metavar="NODES",
        help="prefixes that the model may read for a prompt: minutes of a small model [default: %(default)s]",
    )
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the draws [default: 0]")
    words.add_argument("--json", action="store_true", help="one JSON object a text")
    name = peek(arguments, "--decoder", USUAL)
    names = add(words, DECODERS[name], f"the decoder {name}: {describe(DECODERS[name]).summary}")
    if parts(DECODERS[name], "Attribute"):
        add_attribute(words)
    return words, name, names


def add_attribute(words: Parser) -> None:
    """The flags that say which attribute texts are to have."""
    group = words.add_argument_group("the attribute that texts are to have")
    group.add_argument(
        "--attribute",
        nargs="+",
        metavar="NAME",
        help="length=N, ends, not_empty, no_repeats=N (n-grams), contains=TEXT, avoids=TEXT; "
        "several are meant together [default: ends]",
    )
    group.add_argument("--length", type=READERS["int"], metavar="N", help="the same as --attribute length=N")
    group.add_argument(
        "--classifier",
        metavar="DIR",
        help="what remask train attribute left; default: none, and only what a prefix settles is known",
    )


ATTRIBUTE_FLAGS = ["--attribute", "--length", "--classifier"]


def _flags(place: str) -> list[str]:
    """Those of a row, its attribute's among them."""
    return [*(flag_of(f.name) for f in fields(place)), *(ATTRIBUTE_FLAGS if parts(place, "Attribute") else [])]


def parse(words: Parser, arguments: Sequence[str], name: str) -> argparse.Namespace:
    """What was typed; BadInput for a flag that other decoders than `name` have, and who has it."""
    values, rest = words.parse_known_args(arguments)
    for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
        having = [row for row, place in DECODERS.items() if flag in _flags(place)]
        if having:
            raise BadInput(f"{name} has no {flag}, which belongs to {', '.join(having)}: type --decoder NAME.")
    if rest:
        words.error(f"unrecognized arguments: {' '.join(rest)}")
    if values.decoder != name:
        raise BadInput(f"--decoder came as {name} and as {values.decoder}: type it once.")
    return values


def main(arguments: list[str]) -> int:
    """Decode."""
    words, name, names = build(arguments)
    values = parse(words, arguments, name)
    if values.prompt is not None and values.data is not None:
        raise BadInput("--prompt came with --data: type one of them.")
    for flag in ("tokens", "budget"):
        came = getattr(values, flag)
        if came is not None and came < 1:
            raise BadInput(f"--{flag} came as {came}: type 1 or more.")
    decoder = DECODERS.load(name)(**take(values, names))

    from remask.cli.decoding import decode

    return decode(values, decoder)
