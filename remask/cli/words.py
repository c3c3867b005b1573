"""The words of the command line: one small module each, named here with its one-line help."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import remask
from remask.core.errors import BadInput, RemaskError, UnknownName
from remask.core.metric import finite

WORDS = {
    "demo": "train, weigh and read a small model, on text that ships with Python",
    "train": "train a model on your text",
    "finetune": "teach a pretrained model to classify texts, pairs of texts, or to predict numbers",
    "sample": "write new text",
    "fill": "fill the blanks of a text",
    "translate": "translate lines of text, or make a student's pairs",
    "decode": "better text from a left-to-right model: exact modes, beams, draws",
    "score": "-log p of every line of a text",
    "evaluate": "weigh a model on a text, on minimal pairs, or by a linear probe",
    "windows": "cut labelled windows of DNA out of an annotated genome",
    "export": "write a run as a directory for plain transformers",
    "report": "make the HTML report of a run",
    "lab": "the theory, exact: what masking more buys, when parallel sampling lies, what a checkpoint can bear",
    "bench": "measure speed against named baselines",
    "list": "every objective, sampler, decoder and metric",
}

CHECKPOINT = (
    "a checkpoint: ours, or a Hugging Face masked language model (a directory, or hf:NAME); default: the model that "
    "ships with remask"
)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence and what to type."""

    def error(self, message: str) -> NoReturn:
        """Say it and exit with status 2."""
        self.exit(2, f"remask: {message}; type {self.prog} --help to see what is possible.\n")


def overview() -> str:
    """What `remask --help` prints."""
    width = max(map(len, WORDS))
    lines = [f"  {word:<{width}}   {text}" for word, text in WORDS.items()]
    return "\n".join(
        [
            f"remask {remask.__version__}: masked language models",
            "",
            "usage: remask WORD ...        (remask WORD --help explains a word)",
            "",
            *lines,
            "",
            "start here: remask demo",
        ]
    )


def run(arguments: list[str]) -> int:
    """Dispatch; every error of ours becomes a sentence and its exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(remask.__version__)
        return 0
    word, rest = arguments[0], arguments[1:]
    try:
        _readable(arguments)
        if word not in WORDS:
            raise UnknownName("command", word, WORDS)
        return import_module(f"remask.cli.{WORD_MODULES.get(word, word)}").main(rest)
    except RemaskError as error:
        print(f"remask: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("remask: interrupted.", file=sys.stderr)
        return 130


WORD_MODULES = {"list": "listing"}


def _readable(arguments: Sequence[str]) -> None:
    """Raise BadInput for an argument that came in bytes that are no UTF-8: no tokenizer could read it."""
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput(
                f"an argument came as {text!a}, which is not UTF-8: type it as UTF-8, or set PYTHONUTF8=1."
            ) from None


def parser(word: str, usage: str) -> Parser:
    """The parser of a word."""
    return Parser(
        prog=f"remask {word}",
        usage=f"remask {word} {usage}",
        description=WORDS[word.split(maxsplit=1)[0]],
        formatter_class=argparse.HelpFormatter,
        allow_abbrev=False,
    )


def emit(value: Any) -> None:
    """One JSON object on one line."""
    print(json.dumps(finite(value), ensure_ascii=False, allow_nan=False), flush=True)


def peek(arguments: Sequence[str], flag: str, default: str) -> str:
    """The value of a flag before the parser that needs it is built."""
    for at, word in enumerate(arguments):
        if word == flag and at + 1 < len(arguments):
            return arguments[at + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return default
