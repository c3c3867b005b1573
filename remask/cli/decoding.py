"""The work of `remask decode`: prompts in, texts out, with what is known of each."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from remask.cli.decode import MOST_TOKENS, STREAMS
from remask.cli.show import console, say
from remask.cli.translating import STANDARD_INPUT, standard_input
from remask.cli.words import emit
from remask.core.decoder import Budget, Decoded, Decoder
from remask.core.errors import BadData, BadInput
from remask.core.stream import Stream
from remask.data.file import read_text
from remask.train.frozen import Frozen, load_causal


def decode(values: argparse.Namespace, decoder: Decoder) -> int:
    """Decode every prompt and print the texts."""
    texts = prompts(values)
    frozen = load_causal(values.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    ids = frozen.prompts(texts)
    decoder = furnished(decoder, values, frozen)
    longest = known(decoder, frozen)
    if 0 < (values.tokens or longest) < longest and hasattr(decoder, "posterior") and values.length is None:
        say(
            f"--tokens {values.tokens} came, and the classifier tells what texts of up to {longest} tokens "
            "will be: fit one with as many for the best beams."
        )
    budgets = [budget(values, frozen, prompt, number, longest) for number, prompt in enumerate(ids, start=1)]
    for number, record in enumerate(answers(frozen, decoder, ids, budgets, values.seed), start=1):
        if values.json:
            emit(record)
            continue
        if len(ids) > 1:
            console.rule(f"{number}", align="left")
        say(remark(record))
        print(record["text"], flush=True)
    return 0


def prompts(values: argparse.Namespace) -> list[str]:
    """The prompts, as they were typed or line by line."""
    if values.data is None:
        return [values.prompt or ""]
    if values.data == STANDARD_INPUT:
        found = list(standard_input())
    else:
        found = read_text(Path(values.data)).removesuffix("\n").split("\n")
    if not any(found):
        raise BadData(f"{values.data} holds no prompt: type a text with a prompt in each line.")
    return found


def furnished(decoder: Any, values: argparse.Namespace, frozen: Frozen) -> Any:
    """The decoder with the attribute that was asked for, if it wants one, and the classifier of it."""
    if not hasattr(values, "attribute"):
        return decoder
    from remask.decoders.attributes import Length, parse
    from remask.train.attribute_directory import load_attribute

    specs = [*(values.attribute or []), *([] if values.length is None else [f"length={values.length}"])]
    attribute = parse(specs or ["ends"], frozen.text)
    if isinstance(attribute, Length):
        values.length = attribute.tokens  # however it was typed, `budget` gives it its room
    if values.classifier is None:
        return dataclasses.replace(decoder, attribute=attribute)
    posterior = load_attribute(values.classifier, frozen.model, attribute)
    return dataclasses.replace(decoder, attribute=attribute, posterior=posterior)


def known(decoder: Any, frozen: Frozen) -> int:
    """Tokens of the longest text that the model and the classifier, if there is one, were made for."""
    return min(frozen.longest, getattr(getattr(decoder, "posterior", None), "longest", frozen.longest))


def budget(values: argparse.Namespace, frozen: Frozen, prompt: Sequence[int], number: int, longest: int) -> Budget:
    """What may be spent on a prompt; BadInput where the model has no room for it. longest: see `known`."""
    room = min(frozen.model.window - len(prompt), frozen.longest)
    length = getattr(values, "length", None)
    usual = (
        min(MOST_TOKENS, longest if values.decoder in STREAMS else min(room, longest))
        if length is None
        else max(length, 0) + 1
    )
    tokens = values.tokens or max(usual, 1)
    if values.decoder not in STREAMS and tokens > room:
        which = f"the prompt in line {number}" if values.data is not None else "the prompt"
        less = f", or type --tokens {room} or less" if room > 0 else ""
        raise BadInput(
            f"{which} has {len(prompt)} tokens, a text of up to {tokens} was asked for, and {frozen.path}, which reads "
            f"{frozen.model.window}, has room for {max(room, 0)}: shorten the prompt{less}."
        )
    return Budget(tokens, values.budget)


def answers(
    frozen: Frozen, decoder: Decoder, ids: Sequence[Sequence[int]], budgets: Sequence[Budget], seed: int
) -> Iterator[dict[str, Any]]:
    """What is told of each text, prompt after prompt."""
    for row, (prompt, allowed) in enumerate(zip(ids, budgets)):
        began = time.monotonic()
        decoded = decoder(frozen.model, [prompt], Stream.of(seed, torch.tensor([row])), allowed)
        yield record(frozen, decoded, time.monotonic() - began)


def record(frozen: Frozen, decoded: Decoded, seconds: float) -> dict[str, Any]:
    """What is told of one text."""
    (tokens,) = decoded.texts(frozen.model.end)
    written = int(decoded.canvas.unknown.sum())
    return {
        "text": frozen.text(tokens),
        "log_prob": float(decoded.log_prob),
        "certified": bool(decoded.info.certified),
        "gap": float(decoded.info.gap),
        "calls": int(decoded.info.calls),
        "seconds": round(seconds, 4),
        "tokens": len(tokens),
        "ended": written > len(tokens),
    }


def remark(record: dict[str, Any]) -> str:
    """The same for a person, without the text."""
    if record["log_prob"] == -math.inf:
        why = "there is none" if record["certified"] else "type a larger --beam or --top-k, or give a --classifier"
        return f"no text with the attribute was found ({why}), {record['calls']} calls, {record['seconds']:.1f} s"
    known = "no text is better" if record["certified"] else f"no text is better by more than {record['gap']:.2f} nats"
    facts = [f"log p {record['log_prob']:.3f}", *([] if math.isnan(record["gap"]) else [known])]
    facts.append(f"{record['tokens']} tokens{'' if record['ended'] else ', cut'}")
    return ", ".join([*facts, f"{record['calls']} calls, {record['seconds']:.1f} s"])
