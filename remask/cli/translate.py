"""remask translate DIR --data F: one translation a line, in order; or a teacher's translations for a student.

A parallel checkpoint is decoded as it was trained to be, a left-to-right one greedily, where nothing else is typed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remask.cli import drawing
from remask.cli.flags import READERS, add, fields, flag_of, parts
from remask.cli.words import Parser, parser, peek
from remask.core.errors import BadInput
from remask.samplers import SAMPLERS
from remask.translate.usual import FEW, LEARNED, TRAINED, USUAL, lengths_of

FACTS = "remask.json"
LENGTHS = "remask.translate.lengths:Lengths"


def build(arguments: Sequence[str]) -> tuple[Parser, drawing.Nest, list[str]]:
    """The parser, the flags of the sampler, and all flags that only parallel decoding has."""
    words = parser("translate", "DIR --data F|- [--reference F] [--steps K] [--lengths N] [--out FILE] [--json]")
    words.add_argument(
        "checkpoint",
        metavar="DIR",
        help="an encoder-decoder: a run of cmlm, padir, axe, sundae or seq2seq, or a T5 (a directory, or hf:NAME)",
    )
    _add_texts(words)
    _add_work(words)
    objective = trained(arguments)
    name, defaults = TRAINED.get(objective.get("name", ""), (USUAL, {}))
    usual = ", ".join(f"{sampler} for {row}" for row, (sampler, _) in TRAINED.items())
    words.add_argument(
        "--sampler", metavar="NAME", help=f"one of {', '.join(SAMPLERS)} [default: what DIR was trained for: {usual}]"
    )
    chosen = peek(arguments, "--sampler", "") or name
    learned = {flag: objective[field] for field, flag in LEARNED.items() if field in objective}
    usually = FEW.get(chosen, {}) | (defaults | learned if chosen == name else {})
    names = add(words, LENGTHS, "how long translations are", defaults=_lengths(arguments, objective))
    nest = _add_sampler(words, arguments, chosen, usually)
    words.set_defaults(sampler=chosen)
    return words, nest, ["sampler", *names, *_all(nest)]


def _add_texts(words: Parser) -> None:
    group = words.add_argument_group("texts")
    group.add_argument(
        "--data",
        required=True,
        metavar="F",
        help="a text (or .gz), each line a source; - is standard input; or pairs, as .tsv, with --columns",
    )
    group.add_argument(
        "--columns", metavar="C", help="of --data with pairs, as source,target; their targets are the references"
    )
    group.add_argument(
        "--reference", metavar="F", help="a text whose line k is a translation of line k: gives BLEU and chrF"
    )
    group.add_argument(
        "--tokenize",
        default="13a",
        metavar="NAME",
        help="sacrebleu's tokenizer for BLEU; char or zh for languages without spaces [default: 13a]",
    )
    group.add_argument(
        "--oracle-length", action="store_true", help="give parallel decoders the true lengths, off the references"
    )
    group.add_argument(
        "--long",
        default="split",
        metavar="HOW",
        help="sources longer than the net reads: split (at sentence ends, then at spaces), or truncate "
        "[default: split]",
    )
    group.add_argument(
        "--out",
        metavar="FILE",
        help="write source<TAB>translation to FILE.tsv, for remask train --pairs, and nothing to standard output",
    )
    group.add_argument("--resume", action="store_true", help="go on with --out where it was stopped")
    group.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    group.add_argument("--json", action="store_true", help="one JSON object a line, and a last one with the summary")


def _add_work(words: Parser) -> None:
    words.add_argument(
        "--batch",
        type=READERS["int"],
        default=32,
        metavar="N",
        help="sources at a time; changes nothing but speed [default: 32]",
    )
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the draws [default: 0]")
    words.add_argument(
        "--bf16",
        action="store_true",
        help="weights and arithmetic in bfloat16, which suits parallel decoders on machines made for it; a few tokens "
        "come out otherwise",
    )
    words.add_argument(
        "--beam",
        type=READERS["int"],
        metavar="N",
        help="hypotheses of a left-to-right net, ranked by log p / n ** A, A from --length-penalty or 1 [default: 1, "
        "greedy]",
    )


def _add_sampler(words: Parser, arguments: Sequence[str], name: str, defaults: dict[str, Any]) -> drawing.Nest:
    """The flags of a sampler, with defaults for translating."""
    if parts(SAMPLERS[name], "Sampler"):
        return drawing.add_sampler(words, arguments, name)
    return drawing.Nest(name, "", add(words, SAMPLERS[name], f"the sampler {name}", defaults=defaults), {})


def _lengths(arguments: Sequence[str], objective: dict[str, Any]) -> dict[str, Any]:
    """The defaults of Lengths that are not those of the class; a penalty that is typed divides the sum."""
    usual = lengths_of(objective)
    return {k: v for k, v in usual.items() if k != "rank" or not _came(arguments, "length_penalty")}


def _all(nest: drawing.Nest) -> list[str]:
    """The fields of a sampler and of those inside it, as their flags are named."""
    inner = [name for part in nest.inside.values() for name in _all(part)]
    return [*(nest.prefix + name for name in nest.names), *nest.inside, *inner]


def trained(arguments: Sequence[str]) -> dict[str, Any]:
    """The objective of the first word that is a directory of a run, with its fields; empty where there is none.

    It is read before the parser is made, since it says which flags there are. What is damaged is told when loading.
    """
    for word in arguments:
        try:
            facts = json.loads((Path(word) / FACTS).read_text(encoding="utf-8"))
            return dict(facts["objective"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return {}


def main(arguments: list[str]) -> int:
    """Translate."""
    words, nest, parallel = build(arguments)
    values = drawing.parse(words, arguments, nest.name)
    check(values)
    sampler = drawing.build(nest, values)

    from remask.cli.translating import translate

    values.typed = [flag_of(name) for name in parallel if _came(arguments, name)]
    return translate(values, sampler, [field.name for field in fields(LENGTHS)])


def _came(arguments: Sequence[str], name: str) -> bool:
    """Whether a flag was typed."""
    flags = (flag_of(name), flag_of(f"no_{name}"))
    return any(word.split("=")[0] in flags for word in arguments)


def check(values: argparse.Namespace) -> None:
    """Raise BadInput for flags that do not go together, whatever the checkpoint is."""
    if values.beam is not None and not 1 <= values.beam <= 1000:
        raise BadInput(f"--beam came as {values.beam}: type 1 (greedy) or more, up to 1000.")
    for name in ("resume", "overwrite"):
        if getattr(values, name) and values.out is None:
            raise BadInput(f"--{name} came without --out: type the FILE that is to be written.")
    if values.out is not None and values.reference is not None:
        raise BadInput("--reference came with --out, which writes pairs and weighs nothing: leave one of them out.")
    if values.oracle_length and (values.out is not None or (values.reference is None and values.columns is None)):
        raise BadInput("--oracle-length wants references: type --reference F, or --columns, and no --out.")
    if values.columns is not None and values.reference is not None:
        raise BadInput("--reference came with --columns, whose target is the reference: leave one of them out.")
