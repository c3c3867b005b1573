"""What sample and fill share: a sampler with its flags (and those of the sampler inside it), how tokens are drawn, and
the loop that writes rows batch by batch.

The first half reads flags and imports nothing heavy; the rest imports torch where it begins to work.
Shapes: B batch, L length.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from remask.cli.flags import READERS, add, describe, fields, flag_of, parts, take
from remask.cli.words import Parser, peek
from remask.core.errors import BadInput
from remask.samplers import SAMPLERS

if TYPE_CHECKING:
    from remask.core.canvas import Canvas
    from remask.core.conditional import Conditional
    from remask.core.draw import Draw
    from remask.core.sampler import Sampler
    from remask.train.checkpoint import Checkpoint

INSIDE = "first_hitting"  # the sampler inside another one, where that one names none
MOST_ROWS = 1_000_000  # more is a slip of the keyboard
APPROXIMATE = ("prefix", "dual")  # caches of plain nets: rows of nets/approximate_cache.py
ALMOST = 0.95  # the share of a row that is full and not done

# ---- flags -----------------------------------------------------------------------------------------------------------


class Nest(NamedTuple):
    """A sampler that flags describe: its row, the prefix and the names of its flags, and the samplers inside it."""

    name: str
    prefix: str
    names: list[str]
    inside: dict[str, Nest]


def add_sampler(
    words: Parser, arguments: Sequence[str], name: str, prefix: str = "", around: Sequence[str] = ()
) -> Nest:
    """The flags of the sampler `name` and, each with a longer prefix, of those inside it.

    arguments: what was typed, which says who is inside. around: the samplers that this one lies in; none of them can be
    inside itself.
    """
    title = f"the sampler {name}: {describe(SAMPLERS[name]).summary}"
    names = add(words, SAMPLERS[name], title, prefix=prefix)
    group, lower = words.add_argument_group(f"the sampler inside {name}"), {}
    for part in parts(SAMPLERS[name], "Sampler"):
        key = prefix + part.name
        default = next((row for row in SAMPLERS if SAMPLERS[row].endswith(f":{part.default}")), INSIDE)
        group.add_argument(
            flag_of(key),
            default=default,
            metavar="NAME",
            help=f"{part.help or 'one of ' + ', '.join(SAMPLERS)} [default: {default}]",
        )
        chosen = peek(arguments, flag_of(key), default)
        if chosen in (*around, name):
            raise BadInput(f"{flag_of(key)} came as {chosen}, which would lie in itself: type another, as {default}.")
        lower[part.name] = add_sampler(words, arguments, chosen, f"{key}_", (*around, name))
    return Nest(name, prefix, names, lower)


def add_draw(words: Parser) -> None:
    """The flags that say how tokens are drawn, whatever the sampler."""
    group = words.add_argument_group("how tokens are drawn")
    number = READERS["float"]
    group.add_argument(
        "--temperature", type=number, metavar="T", help="divide log p by T; 0 takes the most probable token"
    )
    group.add_argument("--top-k", type=READERS["int"], metavar="K", help="draw from the K most probable tokens")
    group.add_argument("--top-p", type=number, metavar="P", help="draw from the smallest set of tokens with mass P")
    lists = {
        "--ban": "tokens never to write, with or without a space before them",
        "--require": "tokens that must come up somewhere in what is written",
    }
    for flag, text in lists.items():
        group.add_argument(flag, nargs="+", action="extend", default=[], metavar="TEXT", help=text)
    group.add_argument(
        "--repetition-penalty", type=number, metavar="X", help="make tokens that are already there less probable, X > 1"
    )


def parse(words: Parser, arguments: Sequence[str], name: str) -> argparse.Namespace:
    """What was typed; BadInput for a flag that other samplers than `name` have, and who has it."""
    values, rest = words.parse_known_args(arguments)
    for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
        having = [row for row, place in SAMPLERS.items() if flag in _flags(place)]
        if having:
            raise BadInput(f"{name} has no {flag}, which belongs to {', '.join(having)}: type --sampler NAME.")
    if rest:
        words.error(f"unrecognized arguments: {' '.join(rest)}")
    return values


def _flags(place: str) -> set[str]:
    """How the fields of a sampler can be typed."""
    found = {flag_of(field.name) for field in (*fields(place), *parts(place, "Sampler"))}
    return found | {flag_of(f"no_{field.name}") for field in fields(place) if field.annotation == "bool"}


def check(values: argparse.Namespace) -> None:
    """Raise BadInput for numbers that no model could make good."""
    for flag in ("n", "batch"):
        came = getattr(values, flag)
        if came is not None and not 1 <= came <= MOST_ROWS:
            raise BadInput(f"--{flag} came as {came}: type 1 or more, up to {MOST_ROWS}.")
    for flag in ("ban", "require"):
        if "" in getattr(values, flag):
            raise BadInput(f"--{flag} came empty: type a token, or leave the flag out.")
    t, k, p, x = values.temperature, values.top_k, values.top_p, values.repetition_penalty
    if t is not None and not 0 <= t < math.inf:
        raise BadInput(f"--temperature came as {t}: type 0 (the most probable token) or more; 1 changes nothing.")
    if k is not None and k < 1:
        raise BadInput(f"--top-k came as {k}: type 1 or more.")
    if p is not None and not 0 < p <= 1:
        raise BadInput(f"--top-p came as {p}: it must lie in (0, 1].")
    if x is not None and not 1 <= x < math.inf:
        raise BadInput(f"--repetition-penalty came as {x}: type a number above 1, as 1.2; 1 changes nothing.")


# ---- the sampler -----------------------------------------------------------------------------------------------------


def build(nest: Nest, values: argparse.Namespace) -> Sampler:
    """The sampler that the flags describe, with the samplers inside it; BadInput for fields that cannot be."""
    key = nest.prefix[:-1] or "sampler"
    if getattr(values, key) != nest.name:
        raise BadInput(f"{flag_of(key)} came as {nest.name} and as {getattr(values, key)}: type it once.")
    parts = {name: build(part, values) for name, part in nest.inside.items()}
    return SAMPLERS.load(nest.name)(**take(values, nest.names, nest.prefix), **parts)


def inside(sampler: Any) -> dict[str, Any]:
    """The samplers that lie in the fields of a sampler."""
    found = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}
    return {name: value for name, value in found.items() if hasattr(value, "step")}


def chain(sampler: Any) -> Iterator[Any]:
    """A sampler and all that lie in it."""
    yield sampler
    for part in inside(sampler).values():
        yield from chain(part)


def adapt(sampler: Any, change: Callable[[Any], Any]) -> Any:
    """A sampler after it and all that lie in it went through `change`, the innermost first."""
    parts = {name: adapt(part, change) for name, part in inside(sampler).items()}
    return change(dataclasses.replace(sampler, **parts) if parts else sampler)


def drawing(sampler: Any, draw: Callable[[Draw], Draw]) -> Any:
    """A sampler whose draws (of those in the chain that have one) went through `draw`."""
    return adapt(sampler, lambda one: dataclasses.replace(one, draw=draw(one.draw)) if hasattr(one, "draw") else one)


def draw_of(values: argparse.Namespace, usual: Draw) -> Draw:
    """The draw that --temperature asks for, or else the usual one."""
    from remask.core.draw import Categorical, Greedy

    if values.temperature is None:
        return usual
    return Greedy() if values.temperature == 0 else Categorical()


def remark(sampler: Any, values: argparse.Namespace, conditional: Conditional) -> None:
    """Say so where cuts were asked for and nothing is drawn, and where a cache breaks the sampler's promise."""
    from remask.cli.show import say
    from remask.core.draw import Greedy
    from remask.nets.approximate_cache import promised

    if promised(sampler.law, conditional) is not sampler.law:
        say(f"--cache {values.cache} is approximate: the texts are not from the law of the sampler (heuristic)")

    greedy = any(isinstance(getattr(one, "draw", None), Greedy) for one in chain(sampler))
    if greedy and (values.top_k is not None or values.top_p is not None):
        say("the most probable token is taken, so --top-k and --top-p change nothing: --temperature 1 draws")


def in_view(sampler: Any, length: int, asked: Mapping[str, object]) -> None:
    """Raise BadInput where a window would hide parts of the text from what must see it whole.

    asked: flag to its value; flags that came with nothing do not count.
    """
    windows = [one.window for one in chain(sampler) if getattr(one, "window", None) is not None]
    came = [flag for flag, value in asked.items() if value]
    if came and any(window < length for window in windows):
        raise BadInput(
            f"{' and '.join(came)} came with a text of {length} tokens and a window of {min(windows)}, which hides "
            "some of it: make the text shorter, or the window wider."
        )


# ---- the conditional -------------------------------------------------------------------------------------------------


def conditional_of(model: Checkpoint, values: argparse.Namespace, sampler: Any = None) -> Conditional:
    """The model's conditional as the flags change it: bans and required tokens, then penalty, temperature and cuts.

    sampler: whose blocks an approximate cache follows.
    """
    from remask.nets.require import restrict
    from remask.nets.wrap import RepetitionPenalty, Temperature, TopK, TopP

    conditional = restrict(law_of(model, values, sampler), banned_ids(model, values), required_ids(model, values))
    if values.repetition_penalty is not None:
        conditional = RepetitionPenalty(conditional, values.repetition_penalty)
    if values.temperature:  # 0 is a draw, not a law
        conditional = Temperature(conditional, values.temperature)
    if values.top_k is not None:
        conditional = TopK(conditional, values.top_k)
    return conditional if values.top_p is None else TopP(conditional, values.top_p)


def law_of(model: Checkpoint, values: argparse.Namespace, sampler: Any = None) -> Conditional:
    """The model's conditional, with the cache that was asked for.

    Raises BadInput for a cache that the net cannot have, and for an approximate one of a sampler without blocks.
    """
    cache = getattr(values, "cache", None)
    if cache in APPROXIMATE:
        return _approximate(model, cache, sampler)
    if cache == "exact" or (hasattr(model.net, "block") and hasattr(values, "cache")):
        return model.in_blocks(cache != "none")
    return model.conditional()


def _approximate(model: Checkpoint, kind: str, sampler: Any) -> Conditional:
    from remask.nets.approximate_cache import ApproximateCache, need_plain
    from remask.samplers.blocks import Blocks

    net = need_plain(model.net)
    if not isinstance(sampler, Blocks):
        raise BadInput(f"--cache {kind} came without blocks, inside which states stand still: type --sampler blocks.")
    return ApproximateCache(net, model.alphabet, sampler.size, kind)


def in_blocks(model: Checkpoint, sampler: Any) -> Any:
    """The sampler as a net of blocks needs it: its blocks are the net's; BadInput for one that fills other cells."""
    size = getattr(model.net, "block", None)
    if size is None:
        return sampler
    from remask.samplers.blocks import Blocks

    if not isinstance(sampler, Blocks):
        model.conditional()  # says what to type instead
    usual = next(field.default for field in dataclasses.fields(Blocks) if field.name == "size")
    if sampler.size not in (usual, size) or sampler.ahead or sampler.window is not None:
        raise BadInput(
            f"{model.path} is a net of blocks of {size} cells, which are filled one after the other: leave out --size, "
            "--ahead and --window."
        )
    return dataclasses.replace(sampler, size=size, aligned=True)


def banned_ids(model: Checkpoint, values: argparse.Namespace) -> tuple[int, ...]:
    """The ids of --ban, each with and without a space before it."""
    return tuple(sorted({number for text in values.ban for number in _forms(model, text, "--ban")}))


def required_ids(model: Checkpoint, values: argparse.Namespace) -> tuple[int, ...]:
    """The ids of --require: the form with a space before it, as inside a text, where there is one.

    Raises BadInput for one that is also banned.
    """
    banned = banned_ids(model, values)
    found = []
    for text in values.require:
        forms = _forms(model, text, "--require")
        if set(forms) & model.alphabet.special:
            raise BadInput(f"--require came with '{text}', which is no text: type tokens that can be read.")
        if set(forms) & set(banned):
            raise BadInput(f"'{text}' came with --require and with --ban: take it out of one of them.")
        found.append(forms[-1])
    return tuple(found)


def _forms(model: Checkpoint, text: str, flag: str) -> list[int]:
    """The ids of a text that is one token as it stands, and of one that is one with a space before it."""
    from remask.data.tokenizers import encode

    if text in model.tokenizer.all_special_tokens:
        return [model.tokenizer.convert_tokens_to_ids(text)]
    spellings = [one.ids for one in encode(model.tokenizer, [text, f" {text}"])]
    found = [ids[0] for ids in spellings if len(ids) == 1 and ids[0] not in model.alphabet.special]
    if not found:
        pieces = " ".join(f"'{model.tokenizer.decode([number])}'" for number in spellings[0])
        raise BadInput(
            f"{flag} came with '{text}', which is {len(spellings[0])} tokens here ({pieces}): type single tokens."
        )
    return list(dict.fromkeys(found))


# ---- the loop --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A finished row.

    tokens: L ids; calls: network calls spent on it; seconds: from the start of its batch to its last token; log_prob:
    log p of its tokens, each as it was written last by the law that was drawn from, nats.
    """

    tokens: list[int]
    calls: int
    seconds: float
    log_prob: float


def write(
    sampler: Sampler,
    conditional: Conditional,
    canvas: Canvas,
    values: argparse.Namespace,
    tell: Callable[[float], None] = lambda done: None,
) -> Iterator[Row]:
    """--n copies of a canvas [1, L], --batch at a time, each row with a stream of its own from --seed.

    tell: called after every step with the number of rows written so far, unfinished ones as shares.
    """
    import torch

    from remask.core.sampler import run
    from remask.core.stream import Stream

    rows = values.n or 1
    for first in range(0, rows, values.batch):
        numbers = torch.arange(first, min(first + values.batch, rows))
        part = canvas.rows(torch.zeros_like(numbers))
        began = time.monotonic()
        tokens, calls, seconds = part.tokens, torch.zeros_like(numbers), [0.0] * len(numbers)
        log_prob = torch.zeros_like(tokens, dtype=torch.float64)
        waiting = set(range(len(numbers))) if part.unknown.any() else set()
        with torch.inference_mode():  # or every small operation would be written down for a gradient
            for state, info in run(sampler, conditional, part, Stream.of(values.seed, numbers)):
                tokens, calls = state.tokens, calls + info.calls
                log_prob = torch.where(info.changed, info.log_prob, log_prob)
                finished = {row for row in waiting if state.done[row]}
                for row in finished:
                    seconds[row] = time.monotonic() - began
                waiting -= finished
                left = ((tokens == conditional.alphabet.mask) & part.unknown).double().sum(1) / part.unknown.sum(1)
                tell(first + float(torch.where(state.done, 1.0, (1 - left).clamp(max=ALMOST)).sum()))
        for row in range(len(numbers)):
            total = float(log_prob[row].sum())
            yield Row(tokens[row].tolist(), int(calls[row]), round(seconds[row], 4), total)
