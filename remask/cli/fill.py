"""remask fill DIR TEXT: fill the blanks."""

from __future__ import annotations

from typing import Any

from remask.cli.flags import READERS
from remask.cli.words import emit, parser

BEST = 5  # candidates shown for each blank


def main(arguments: list[str]) -> int:
    """Fill."""
    words = parser("fill", 'DIR "The [MASK] statement ..." [--json]')
    words.add_argument("checkpoint", metavar="DIR", help="a checkpoint: ours, or a Hugging Face masked language model")
    words.add_argument(
        "text", metavar="TEXT", help="a text with blanks, each written as the model's mask token, [MASK] for ours"
    )
    words.add_argument(
        "--n", type=READERS["int"], metavar="N", help="draw N fillings at random instead of one most probable one"
    )
    words.add_argument(
        "--seed", type=READERS["int"], default=0, metavar="N", help="of the order and the draws [default: 0]"
    )
    words.add_argument("--json", action="store_true", help="one JSON object a filling")
    values = words.parse_args(arguments)

    from remask.core.errors import BadInput

    if values.n is not None and values.n < 1:
        raise BadInput(f"--n came as {values.n}: type 1 or more.")
    from remask.train.checkpoint import load

    model = load(values.checkpoint)
    records = fillings(model, values.text, values.n, values.seed)
    for record in records:
        if values.json:
            emit(record)
        else:
            print(record["text"])
    if not values.json:
        _explain(records[0]["candidates"])
    return 0


def ids_of(model: Any, text: str) -> list[int]:
    """The text's ids, its mask tokens as masks; BadInput when it has none, or is too long."""
    from remask.core.errors import BadInput
    from remask.data.tokenizers import encode

    name = model.tokenizer.mask_token
    text = text.replace("[MASK]", name)
    ids = encode(model.tokenizer, [text], special=True)[0].ids if text else []
    if model.alphabet.mask not in ids:
        raise BadInput(f"there is no blank in the text: write {name} where something is to be filled in.")
    if len(ids) > model.length:
        raise BadInput(f"the text has {len(ids)} tokens, but {model.path} reads at most {model.length}: shorten it.")
    return ids


def fillings(model: Any, text: str, n: int | None, seed: int) -> list[dict[str, Any]]:
    """Records with `text`, `gaps` (what fell into each blank), `calls`, and the first pass's best `candidates`."""
    import torch

    from remask.core.canvas import infill
    from remask.core.draw import Categorical, Greedy
    from remask.core.sampler import run
    from remask.core.stream import Stream
    from remask.samplers.first_hitting import FirstHitting

    ids = ids_of(model, text)
    rows = n or 1
    canvas = infill(torch.tensor([ids] * rows), model.alphabet)
    conditional = model.conditional()
    log_prob, order = conditional(canvas.tokens[:1], canvas.unknown[:1]).topk(BEST, dim=1)
    candidates = [
        [(model.tokenizer.decode([t]), round(p, 4)) for t, p in zip(ts, ps)]
        for ts, ps in zip(order.tolist(), log_prob.exp().tolist())
    ]
    sampler = FirstHitting(draw=Greedy() if n is None else Categorical())
    tokens, calls = canvas.tokens, torch.zeros(rows, dtype=torch.int64)
    for state, info in run(sampler, conditional, canvas, Stream.of(seed, rows)):
        tokens, calls = state.tokens, calls + info.calls
    return [
        {
            "text": model.tokenizer.decode(row),
            "gaps": [model.tokenizer.decode([t]) for t in row[canvas.unknown[0]].tolist()],
            "calls": int(calls[number]),
            "candidates": candidates,
        }
        for number, row in enumerate(tokens)
    ]


def _explain(candidates: list[list[tuple[str, float]]]) -> None:
    from rich.table import Table

    from remask.cli.show import console

    table = Table(box=None, pad_edge=False, title="most probable, each blank by itself", title_justify="left")
    table.add_column("blank", justify="right")
    table.add_column("candidates")
    for number, best in enumerate(candidates, start=1):
        table.add_row(str(number), "   ".join(f"{token.strip() or repr(token)} {p:.0%}" for token, p in best))
    console.print(table)
