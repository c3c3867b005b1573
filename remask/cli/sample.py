"""remask sample [DIR]: write new text."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

from remask.cli import drawing, naming
from remask.cli.flags import READERS
from remask.cli.words import CHECKPOINT, Parser, emit, parser, peek
from remask.core.errors import BadInput
from remask.samplers import SAMPLERS

if TYPE_CHECKING:
    from rich.console import Console

    from remask.core.canvas import Canvas
    from remask.train.checkpoint import Checkpoint

CACHES = ("exact", *drawing.APPROXIMATE, "none")
LONGEST = 1_000_000  # tokens: more is a slip of the keyboard


def build(arguments: list[str]) -> tuple[Parser, drawing.Nest]:
    """The parser for the sampler that was typed, and the sampler's own flags."""
    words = parser("sample", "[DIR] [--n 8] [--length 128] [--sampler NAME] [--json]")
    words.add_argument("checkpoint", nargs="?", metavar="DIR", help=CHECKPOINT)
    words.add_argument("--n", type=READERS["int"], default=8, metavar="N", help="texts to write [default: 8]")
    words.add_argument(
        "--length",
        type=READERS["int"],
        metavar="N",
        help="tokens in a text, prompt included; default: what the net can read, at most 128; longer with "
        "--sampler blocks",
    )
    words.add_argument("--prompt", default="", metavar="TEXT", help="how every text begins; [MASK] in it is a blank")
    words.add_argument(
        "--sampler",
        default="first_hitting",
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} [default: first_hitting]",
    )
    words.add_argument(
        "--batch",
        type=READERS["int"],
        default=16,
        metavar="N",
        help="texts at a time; changes nothing but speed [default: 16]",
    )
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the draws [default: 0]")
    words.add_argument(
        "--cache",
        choices=CACHES,
        metavar="NAME",
        help="states to keep between calls: exact (nets of blocks; their default); approximate ones for plain masked "
        "nets in blocks: prefix (what lies before the block stands still while it is filled), dual (all around it); "
        "or none",
    )
    words.add_argument("--no-cache", dest="cache", action="store_const", const="none", help="the same as --cache none")
    words.add_argument("--json", action="store_true", help="one JSON object a text")
    drawing.add_draw(words)
    return words, drawing.add_sampler(words, arguments, peek(arguments, "--sampler", "first_hitting"))


def main(arguments: list[str]) -> int:
    """Sample."""
    words, nest = build(arguments)
    values = drawing.parse(words, arguments, nest.name)
    drawing.check(values)
    naming.check_lists(values)
    sampler = drawing.drawing(drawing.build(nest, values), lambda usual: drawing.draw_of(values, usual))

    from remask.cli.show import console, say
    from remask.train.shipped import load

    if values.checkpoint is None and not values.json:
        say(naming.SHIPPED)
    model = load(values.checkpoint)
    if model.net.causal:
        model.conditional()  # says what to type instead
    sampler = drawing.in_blocks(model, sampler)
    canvas = _canvas(model, values, sampler)
    sampler = _fitted(model, values, sampler, canvas)
    drawing.in_view(sampler, canvas.tokens.shape[1], {"--require": values.require})
    conditional = drawing.conditional_of(model, values, sampler)
    drawing.remark(sampler, values, conditional)
    stops = any(getattr(one, "stop", False) for one in drawing.chain(sampler))
    with WritingLine(values.n, int(canvas.unknown.sum()), values.json or not sys.stderr.isatty()) as line:
        for number, row in enumerate(drawing.write(sampler, conditional, canvas, values, line), start=1):
            tokens = _trimmed(row.tokens, model) if stops else row.tokens
            text = model.tokenizer.decode(tokens, skip_special_tokens=False)
            if values.json:
                emit({"text": text, "calls": row.calls, "seconds": row.seconds})
                continue
            line.pause()
            console.rule(f"{number}  ({row.calls} calls, {row.seconds:.1f} s)", align="left")
            print(text)
    return 0


def _canvas(model: Checkpoint, values: argparse.Namespace, sampler: Any) -> Canvas:
    """The prompt and masks after it, [1, L]; BadInput for more than the sampler can fill."""
    from remask.core.canvas import prompted
    from remask.data.tokenizers import encode

    length = values.length if values.length is not None else min(model.length, 128)
    slides = any(hasattr(one, "window") for one in drawing.chain(sampler))
    if not 1 <= length <= (LONGEST if slides else model.length):
        more = f"; {LONGEST} at most" if slides else ", or --sampler blocks, which has a window that slides"
        raise BadInput(
            f"--length came as {length}, but {model.path} reads 1 to {model.length} tokens: type one of those{more}."
        )
    text = values.prompt.replace("[MASK]", model.tokenizer.mask_token)
    prompt = encode(model.tokenizer, [text], special=True)[0].ids if text else []
    return prompted(prompt, 1, length, model.alphabet)


def _fitted(model: Checkpoint, values: argparse.Namespace, sampler: Any, canvas: Canvas) -> Any:
    """The sampler, with a window no longer than the net where the canvas is longer; BadInput where that cannot be."""
    if canvas.tokens.shape[1] <= model.length:
        return sampler

    def narrow(one: Any) -> Any:
        if not hasattr(one, "window"):
            return one
        if one.size + one.ahead > model.length:
            raise BadInput(
                f"blocks came with {one.size} cells and {one.ahead} ahead, but {model.path} reads {model.length} "
                f"tokens: type --size {max(1, model.length - one.ahead)} or less."
            )
        if one.window is not None and one.window > model.length:
            raise BadInput(
                f"blocks came with a window of {one.window} cells, but {model.path} reads {model.length} tokens: "
                f"type --window {model.length} or less."
            )
        return dataclasses.replace(one, window=one.window or model.length)

    return drawing.adapt(sampler, narrow)


def _trimmed(tokens: list[int], model: Checkpoint) -> list[int]:
    """A row without the padding behind its end token."""
    end, pad = model.alphabet.end, model.alphabet.pad
    filler = end if pad is None else pad
    stop = len(tokens)
    while stop and tokens[stop - 1] == filler:
        stop -= 1
    return tokens[: stop + 1] if pad is None else tokens[:stop]


class WritingLine:
    """The progress line of a writing: texts, tokens/s, time left; gone while a text is printed.

    cells: unknown ones in a text; shown: where the line goes, standard error by default.
    """

    def __init__(self, texts: int, cells: int, quiet: bool = False, shown: Console | None = None):
        from rich.progress import BarColumn, Progress, TextColumn

        from remask.cli.show import console

        self.texts, self.cells, self.began = texts, cells, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[facts]}"))
        self.progress = Progress(
            *columns, console=shown or console, disable=quiet, expand=True, transient=True, redirect_stdout=False
        )
        self.task = self.progress.add_task("writing", total=texts, facts="")

    def __enter__(self) -> WritingLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def __call__(self, done: float) -> None:
        """So many texts are written, unfinished ones as shares."""
        from remask.cli.show import clock

        self.progress.start()
        seconds = time.monotonic() - self.began
        left = clock(seconds * (self.texts - done) / done if done else None)
        rate = f"{done * self.cells / seconds:,.0f} tokens/s" if seconds else ""
        self.progress.update(self.task, completed=done, facts=f"{int(done)}/{self.texts} texts  {rate}  {left} left")

    def pause(self) -> None:
        """Make room for a text."""
        if self.progress.live.is_started:
            self.progress.stop()
