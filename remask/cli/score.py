"""remask score DIR --data F: -log p of every line."""

from __future__ import annotations

from remask.cli.flags import READERS
from remask.cli.words import emit, parser


def main(arguments: list[str]) -> int:
    """Score."""
    words = parser("score", "DIR --data F [--json]")
    words.add_argument("checkpoint", metavar="DIR", help="a checkpoint: ours, or a Hugging Face masked language model")
    words.add_argument(
        "--data", required=True, metavar="F", help="a plain text (or .gz); every line is scored by itself"
    )
    words.add_argument(
        "--draws", type=READERS["int"], default=16, metavar="N", help="masks drawn for each line [default: 16]"
    )
    words.add_argument("--estimator", default="count", help="of the bound: count or time [default: count]")
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the masks [default: 0]")
    words.add_argument("--json", action="store_true", help="one JSON object a line")
    values = words.parse_args(arguments)

    from remask.core.errors import BadInput
    from remask.data.text import read
    from remask.train.checkpoint import load
    from remask.train.evaluate import score

    if values.draws < 2:
        raise BadInput(f"--draws came as {values.draws}: type 2 or more, so that there is a standard error.")
    model = load(values.checkpoint)
    documents = read([values.data])
    if len(documents) > 1:
        raise BadInput(f"{values.data} holds {len(documents)} texts: score reads one plain text, line by line.")
    lines = documents[0].text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    estimates = score(model, lines, draws=values.draws, estimator=values.estimator, seed=values.seed)
    for number, (line, e) in enumerate(zip(lines, estimates), start=1):
        if values.json:
            emit({"line": number, "nats": e.value, "stderr": e.stderr, "tokens": e.n, "text": line})
        else:
            print(f"{e.value:10.2f} ± {e.stderr:<7.2f} nats  {e.n:5d} tokens  {line[:80]}")
    return 0
