"""remask evaluate DIR: weigh a model on a text, on minimal pairs, or by a linear probe of its hidden states."""

from __future__ import annotations

import argparse

from remask.cli.flags import READERS
from remask.cli.words import Parser, parser


def main(arguments: list[str]) -> int:
    """Evaluate."""
    words = parser("evaluate", "DIR (--data F [F ...] | --minimal-pairs F | --probe F --data F) [...] [--json]")
    words.add_argument(
        "checkpoint", metavar="DIR", help="a checkpoint: ours, or a Hugging Face masked language model or detector"
    )
    words.add_argument("--json", action="store_true", help="print one JSON object")
    words.add_argument("--data", nargs="+", default=[], metavar="F", help="texts, as for remask train")
    _text(words)
    _pairs(words)
    _probe(words)
    values = words.parse_args(arguments)
    return _weigh(values)


def _weigh(values: argparse.Namespace) -> int:
    from remask.cli import weighing
    from remask.core.errors import BadInput

    if values.minimal_pairs and (values.data or values.probe):
        raise BadInput("--minimal-pairs came with --data or --probe: type one of them at a time.")
    if values.minimal_pairs:
        return weighing.by_pairs(values)
    if not values.data:
        of = "--probe came without --data: type --data with the labelled texts to test on"
        raise BadInput(f"{of}." if values.probe else "nothing to weigh on: type --data F, or --minimal-pairs F.")
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
    group.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the masks [default: 0]")


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
