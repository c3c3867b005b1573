"""remask sample DIR: write new text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from remask.cli.flags import READERS, add, describe, take
from remask.cli.words import Parser, emit, parser, peek
from remask.samplers import SAMPLERS


def build(name: str) -> tuple[Parser, list[str]]:
    """The parser for one sampler, and the names of the sampler's own fields."""
    words = parser("sample", "DIR [--n 8] [--length 128] [--sampler NAME] [--json]")
    words.add_argument("checkpoint", metavar="DIR", help="a checkpoint: ours, or a Hugging Face masked language model")
    words.add_argument("--n", type=READERS["int"], default=8, metavar="N", help="texts to write [default: 8]")
    words.add_argument(
        "--length",
        type=READERS["int"],
        metavar="N",
        help="tokens in a text, prompt included; default: what the net can read, at most 128",
    )
    words.add_argument("--prompt", default="", metavar="TEXT", help="how every text begins; [MASK] in it is a blank")
    words.add_argument("--sampler", default="first_hitting", metavar="NAME", help=f"one of {', '.join(SAMPLERS)}")
    words.add_argument(
        "--top-p", type=READERS["float"], metavar="P", help="draw from the smallest set of tokens with mass P"
    )
    words.add_argument(
        "--batch",
        type=READERS["int"],
        default=16,
        metavar="N",
        help="texts at a time; changes nothing but speed [default: 16]",
    )
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the draws [default: 0]")
    words.add_argument("--json", action="store_true", help="one JSON object a text")
    return words, add(words, SAMPLERS[name], f"the sampler {name}: {describe(SAMPLERS[name]).summary}")


def main(arguments: list[str]) -> int:
    """Sample."""
    words, names = build(peek(arguments, "--sampler", "first_hitting"))
    values = words.parse_args(arguments)

    from remask.core.errors import BadInput

    for flag in ("n", "batch"):
        if getattr(values, flag) < 1:
            raise BadInput(f"--{flag} came as {getattr(values, flag)}: type 1 or more.")
    from remask.cli.show import console
    from remask.train.checkpoint import load

    model = load(values.checkpoint)
    sampler = _sampler(values, take(values, names))
    canvas = _canvas(model, values)
    shown = _write(model, sampler, canvas, values)
    for number, text in enumerate(shown, start=1):
        if values.json:
            emit(text)
        else:
            console.rule(f"{number}  ({text['calls']} calls, {text['seconds']:.1f} s)", align="left")
            print(text["text"])
    return 0


def _sampler(values: Any, fields: dict[str, Any]) -> Any:
    from remask.core.draw import Nucleus
    from remask.core.errors import BadInput

    if values.top_p is None:
        return SAMPLERS.load(values.sampler)(**fields)
    if not 0 < values.top_p <= 1:
        raise BadInput(f"--top-p came as {values.top_p}: it must lie in (0, 1].")
    return SAMPLERS.load(values.sampler)(**fields, draw=Nucleus(values.top_p))


def _canvas(model: Any, values: Any) -> Any:
    from remask.core.canvas import prompted
    from remask.core.errors import BadInput
    from remask.data.tokenizers import encode

    length = values.length if values.length is not None else min(model.length, 128)
    if not 1 <= length <= model.length:
        raise BadInput(
            f"--length came as {length}, but {model.path} reads 1 to {model.length} tokens: type one of those."
        )
    text = values.prompt.replace("[MASK]", model.tokenizer.mask_token)
    prompt = encode(model.tokenizer, [text], special=True)[0].ids if text else []
    return prompted(prompt, values.n, length, model.alphabet)


def _write(model: Any, sampler: Any, canvas: Any, values: Any) -> Iterator[dict[str, Any]]:
    """One record a text, in order; `seconds` runs from the start of the text's batch to its last token."""
    import torch

    from remask.core.sampler import run
    from remask.core.stream import Stream

    stream = Stream.of(values.seed, values.n)
    for index in torch.arange(values.n).split(values.batch):
        part = canvas.rows(index)
        began = time.monotonic()
        tokens, calls = part.tokens, torch.zeros(len(index), dtype=torch.int64)
        seconds = [0.0] * len(index)
        open_rows = [bool(x) for x in part.unknown.any(1)]
        for state, info in run(sampler, model.conditional(), part, stream.rows(index)):
            tokens, calls = state.tokens, calls + info.calls
            for row, done in enumerate(state.done.tolist()):
                if done and open_rows[row]:
                    seconds[row], open_rows[row] = time.monotonic() - began, False
        for row in range(len(index)):
            text = model.tokenizer.decode(tokens[row], skip_special_tokens=False)
            yield {"text": text, "calls": int(calls[row]), "seconds": round(seconds[row], 4)}
