"""remask evaluate DIR: weigh a model on a text, on minimal pairs, by a linear probe, or by a prompt of examples.

With --adapt a left-to-right model reads the text as one, and may learn from what it has read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from remask.cli.flags import READERS, add, describe, fields, flag_of, take
from remask.cli.words import Parser, parser, peek
from remask.core.errors import BadInput
from remask.decoders.adapt import ADAPT

OF_PROMPTS: dict[str, Any] = {"shots": 8, "orders": 20, "template": "Text: {text}\\nLabel: {label}\\n", "words": None}
OF_DECODING = ("temperature",)  # fields that change no score
# what only the usual evaluations have, where it is not typed
USUAL: dict[str, Any] = {"length": None, "draws": 8, "estimator": "count", "pairs": None, "columns": None}


def main(arguments: list[str]) -> int:
    """Evaluate."""
    usage = (
        "DIR (--data F [F ...] [--adapt NAME | --clips] | --minimal-pairs F | --probe F --data F | "
        "--few-shot F --data F [--adapt NAME]) [...] [--json]"
    )
    words = parser("evaluate", usage)
    words.add_argument(
        "checkpoint",
        metavar="DIR",
        help="a checkpoint: ours, or a Hugging Face masked language model or detector; with --adapt and --few-shot a "
        "left-to-right model",
    )
    words.add_argument("--json", action="store_true", help="print one JSON object")
    words.add_argument("--data", nargs="+", default=[], metavar="F", help="texts, as for remask train")
    _text(words)
    _pairs(words)
    _probe(words)
    _few_shot(words)
    name = peek(arguments, "--adapt", "")
    names = _adapt(words, name)
    values = _parse(words, arguments)
    if values.adapt != name:
        raise BadInput(f"--adapt came as {name} and as {values.adapt}: type it once.")
    return _weigh(values, names)


def _weigh(values: argparse.Namespace, names: Sequence[str]) -> int:
    if values.minimal_pairs and (values.data or values.probe):
        raise BadInput("--minimal-pairs came with --data or --probe: type one of them at a time.")
    if values.few_shot and (values.minimal_pairs or values.probe):
        raise BadInput("--few-shot came with --minimal-pairs or --probe: type one of them at a time.")
    if not values.minimal_pairs and not values.data:
        of = next((flag for flag in ("probe", "few_shot") if getattr(values, flag)), None)
        raise BadInput(
            f"{flag_of(of)} came without --data: type --data with the labelled texts to test on."
            if of
            else "nothing to weigh on: type --data F, or --minimal-pairs F."
        )
    if values.clips and (values.minimal_pairs or values.probe or values.adapt or values.few_shot):
        raise BadInput("--clips came with --minimal-pairs, --probe, --few-shot or --adapt: type it with --data alone.")
    if values.few_shot:
        return _prompted(values, names)
    if typed := _typed(values, OF_PROMPTS):
        raise BadInput(f"{flag_of(typed[0])} came without --few-shot F, to which it belongs: type both.")
    if values.adapt:
        return _adapted(values, names)
    if values.clips:
        from remask.cli import clipping

        return clipping.by_clips(values)
    from remask.cli import weighing

    if values.minimal_pairs:
        return weighing.by_pairs(values)
    return weighing.by_probe(values) if values.probe else weighing.by_text(values)


def _text(words: Parser) -> None:
    group = words.add_argument_group("--data F: the likelihood of a text (a bound, for masked nets)")
    group.add_argument(
        "--length",
        type=READERS["int"],
        metavar="N",
        help="tokens in a row; default: what the net can read, at most 512",
    )
    group.add_argument("--column", default="text", help="field of JSONL, Parquet and hub records that holds the text")
    group.add_argument(
        "--document", default="file", help="what one document of a plain text is: file, paragraph or line"
    )
    group.add_argument(
        "--draws", type=READERS["int"], default=8, metavar="N", help="masks drawn for each row [default: 8]"
    )
    group.add_argument("--estimator", default="count", help="of the bound: count or time [default: count]")
    group.add_argument(
        "--seed", type=READERS["int"], default=0, metavar="N", help="of the masks, or of draws [default: 0]"
    )
    group.add_argument(
        "--clips",
        action="store_true",
        help="of a net of blocks: the variance of the training loss for each part of the noise levels, to choose "
        "--clip-low and --clip-high by",
    )


def _pairs(words: Parser) -> None:
    group = words.add_argument_group("--minimal-pairs F: how often the good sentence of a pair scores higher")
    group.add_argument(
        "--minimal-pairs",
        metavar="F",
        help="JSON lines with sentence_good, sentence_bad and UID, as BLiMP has them; plain or .gz",
    )
    group.add_argument(
        "--pairs",
        type=READERS["int"],
        metavar="N",
        help="at most N pairs of each UID, evenly spread; default: all (slow for masked nets: a row for each token)",
    )
    group.add_argument(
        "--batch-tokens",
        type=READERS["int"],
        default=4096,
        metavar="N",
        help="tokens that the net reads at a time, here and in a probe [default: 4096; a GPU likes more]",
    )


def _probe(words: Parser) -> None:
    group = words.add_argument_group("--probe F --data F: a linear classifier on the frozen hidden states")
    group.add_argument(
        "--probe", metavar="F", help="labelled texts to fit it on: TSV, CSV or JSONL; --data: to test on"
    )
    group.add_argument(
        "--columns",
        metavar="NAMES",
        help="what is in which column, for example label,text (or text,text_pair,label); default: the header's names",
    )


def _few_shot(words: Parser) -> None:
    group = words.add_argument_group(
        "--few-shot F --data F: a left-to-right model scores label words after a prompt of examples, for many draws; "
        "--adapt hidden_state lets its cached states learn from the examples first"
    )
    group.add_argument("--few-shot", metavar="F", help="labelled texts to draw examples from; --columns as for --probe")
    for name, what in (("shots", "examples in a prompt"), ("orders", "draws of examples, in an order")):
        usual = OF_PROMPTS[name]
        group.add_argument(
            f"--{name}", type=READERS["int"], default=usual, metavar="N", help=f"{what} [default: {usual}]"
        )
    group.add_argument(
        "--template",
        default=OF_PROMPTS["template"],
        metavar="TEXT",
        help="an example, \\n being a new line [default: %(default)s]",
    )
    group.add_argument(
        "--words", nargs="+", metavar="LABEL=WORD", help="what stands for a label; default: its own name"
    )


def _adapt(words: Parser, name: str) -> list[str]:
    """The flags of a way to adapt, if one was typed; the names of its fields."""
    group = words.add_argument_group("--data F --adapt NAME: a left-to-right model reads the text as one, and adapts")
    group.add_argument(
        "--adapt",
        default="",
        metavar="NAME",
        help=f"one of {', '.join(ADAPT)}: overlapping windows, a plain cache, steps on the weights, steps on the "
        "cached states; each has flags of its own: type --adapt NAME --help",
    )
    if not name:
        return []
    group.add_argument(
        "--streams",
        type=READERS["int"],
        default=1,
        metavar="N",
        help="parts of the text that are read side by side, each from its beginning [default: 1]",
    )
    row = describe(ADAPT[name])
    names = add(words, ADAPT[name], f"--adapt {name}: {row.summary.removesuffix('.')}", skip=OF_DECODING)
    if "lr" not in names:  # so that one command line serves all
        group.add_argument("--lr", type=READERS["float"], help=argparse.SUPPRESS)
    return names


def _parse(words: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """What was typed; BadInput for a flag of another way to adapt, and whose it is."""
    values, rest = words.parse_known_args(arguments)
    for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
        having = [row for row, place in ADAPT.items() if flag in map(flag_of, (f.name for f in fields(place)))]
        if having and flag.removeprefix("--") not in OF_DECODING:
            raise BadInput(f"{flag} came, which belongs to --adapt {' and '.join(having)}: type that with it.")
    if rest:
        words.error(f"unrecognized arguments: {' '.join(rest)}")
    return values


def _typed(values: argparse.Namespace, usual: dict[str, Any]) -> list[str]:
    """Names of the flags that were typed otherwise than they are by themselves."""
    return [name for name, value in usual.items() if getattr(values, name, value) != value]


def _prompted(values: argparse.Namespace, names: Sequence[str]) -> int:
    usual = {name: value for name, value in USUAL.items() if name != "columns"}
    if typed := _typed(values, {**usual, "streams": 1}):
        raise BadInput(f"{flag_of(typed[0])} came with --few-shot, whose rows are texts with labels: leave it out.")
    adaptation = ADAPT.load(values.adapt)(**take(values, names)) if values.adapt else None

    from remask.cli import prompting

    return prompting.by_examples(values, adaptation)


def _adapted(values: argparse.Namespace, names: Sequence[str]) -> int:
    if values.minimal_pairs or values.probe:
        raise BadInput("--adapt came with --minimal-pairs or --probe: it weighs a text, type it with --data alone.")
    if typed := _typed(values, USUAL):
        raise BadInput(f"{flag_of(typed[0])} came with --adapt, which reads the text as one: leave it out.")
    adaptation = ADAPT.load(values.adapt)(**take(values, names))

    from remask.cli import adapting

    return adapting.by_adapting(values, adaptation)
