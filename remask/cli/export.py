"""remask export DIR --part discriminator|generator --out E: a directory for plain transformers."""

from __future__ import annotations

import shlex

from remask.cli.words import emit, parser


def main(arguments: list[str]) -> int:
    """Export."""
    words = parser("export", "DIR [--part discriminator|generator] --out E [--json]")
    words.add_argument("checkpoint", metavar="DIR", help="a run, or any checkpoint that remask opens")
    words.add_argument(
        "--part",
        default="discriminator",
        metavar="PART",
        help="of an ELECTRA run: discriminator (the encoder, and the whole of any other run) or generator "
        "[default: discriminator]",
    )
    words.add_argument("--out", required=True, metavar="E", help="the directory to write; it must not exist")
    words.add_argument("--json", action="store_true", help="print what was written as one JSON object")
    values = words.parse_args(arguments)

    from remask.cli.show import say
    from remask.train.checkpoint import read_config
    from remask.train.export import export

    path = export(values.checkpoint, values.part, values.out)
    kind = read_config(path)["architectures"][0]
    if values.json:
        emit({"out": str(path), "part": values.part, "class": kind})
    else:
        say(f"{path} is a {kind}: transformers.{kind}.from_pretrained({shlex.quote(str(path))!r}) opens it")
    return 0
