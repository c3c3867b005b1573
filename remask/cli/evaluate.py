"""remask evaluate DIR --data F: weigh a model on a text."""

from __future__ import annotations

from remask.cli.flags import READERS
from remask.cli.words import emit, parser


def main(arguments: list[str]) -> int:
    """Evaluate."""
    words = parser("evaluate", "DIR --data F [F ...] [--json]")
    words.add_argument("checkpoint", metavar="DIR", help="a checkpoint: ours, or a Hugging Face masked language model")
    words.add_argument("--data", nargs="+", required=True, metavar="F", help="texts, as for remask train")
    words.add_argument(
        "--length",
        type=READERS["int"],
        metavar="N",
        help="tokens in a row; default: what the net can read, at most 512",
    )
    words.add_argument("--column", default="text", help="field of JSONL, Parquet and hub records that holds the text")
    words.add_argument(
        "--document", default="file", help="what one document of a plain text is: file, paragraph or line"
    )
    words.add_argument(
        "--draws", type=READERS["int"], default=8, metavar="N", help="masks drawn for each row [default: 8]"
    )
    words.add_argument("--estimator", default="count", help="of the bound: count or time [default: count]")
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the masks [default: 0]")
    words.add_argument("--json", action="store_true", help="print one JSON object")
    values = words.parse_args(arguments)

    from remask.core.errors import BadInput
    from remask.data.pack import pack
    from remask.data.split import fingerprint
    from remask.data.text import read
    from remask.data.tokenizers import encode
    from remask.train.checkpoint import load
    from remask.train.evaluate import weigh

    if values.draws < 1:
        raise BadInput(f"--draws came as {values.draws}: type 1 or more.")
    model = load(values.checkpoint)
    length = values.length if values.length is not None else min(model.length, 512)
    if not 1 <= length <= model.length:
        raise BadInput(
            f"--length {length} is beyond the {model.length} that {model.path} can read: type 1 to {model.length}."
        )
    documents = read(values.data, column=values.column, document=values.document)
    rows = pack(encode(model.tokenizer, [d.text for d in documents]), length, model.alphabet.end)
    metrics = weigh(model.net, model.alphabet, rows, draws=values.draws, estimator=values.estimator, seed=values.seed)
    kind = "exact likelihood" if model.net.causal else f"upper bound ({values.estimator}, {values.draws} draws a row)"
    if values.json:
        emit(
            {
                **{name: e.json() for name, e in metrics.items()},
                "kind": kind,
                "rows": len(rows.tokens),
                "length": length,
                "fingerprint": fingerprint(documents),
                "seed": values.seed,
            }
        )
        return 0
    from rich.console import Console

    from remask.cli.show import estimates

    Console().print(estimates(f"{kind}, {len(rows.tokens)} rows of {length} tokens", metrics))
    return 0
