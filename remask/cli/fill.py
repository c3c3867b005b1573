"""remask fill [DIR] TEXT: fill the blanks, freely or after patterns.

By default every blank gets its most probable token, the easiest blank first. With patterns each blank matches its own,
whatever the model would rather write: its tokens are drawn jointly under an automaton (core/constrain.py).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from remask.cli import drawing, naming
from remask.cli.flags import READERS
from remask.cli.words import CHECKPOINT, Parser, emit, parser, peek
from remask.core.errors import BadInput
from remask.samplers import SAMPLERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from remask.core.automaton import Automaton
    from remask.core.canvas import Canvas
    from remask.core.conditional import Conditional
    from remask.core.draw import Draw
    from remask.train.checkpoint import Checkpoint

BEST = 5  # candidates shown for a blank of one token
FEW = 8  # blanks shown to a person one by one
UNSAID = ""  # no sampler named
FARTHER = 256  # tokens beyond its blank that a pattern may have, in a proposal


class Gap(NamedTuple):
    """A blank: its cells in the row, and the text before it, with earlier blanks as masks."""

    first: int
    stop: int
    before: str


NOTHING = "no TEXT came: type it before the flags, or after -- if it begins with '-'; remask fill --help says more."


class Wanted(NamedTuple):
    """What a gap must match: the expression, the automaton of its tokens, and the space that these begin with.

    spelled: the bytes of each id; matches: whether the expression matches a text, read byte by byte.
    """

    gap: Gap
    pattern: str
    automaton: Automaton
    lead: bytes
    spelled: Sequence[bytes | None]
    matches: Callable[[bytes], bool]


def build(arguments: Sequence[str]) -> tuple[Parser, drawing.Nest | None]:
    """The parser, and the flags of the sampler if one was named."""
    words = parser("fill", '[DIR] "The [MASK] statement ..." [--pattern REGEX] [--json]')
    words.add_argument(
        "--pattern",
        action="append",
        default=[],
        metavar="REGEX",
        help="what a blank must match as a whole: once for each blank, in order; '' lets one be; large counted repeats "
        "({0,50} and more) after alternatives can take minutes to compile",
    )
    words.add_argument(
        "--n",
        type=READERS["int"],
        metavar="N",
        help="draw N fillings at random instead of one, the easiest blank first, each with its most probable token",
    )
    words.add_argument(
        "--batch",
        type=READERS["int"],
        default=16,
        metavar="N",
        help="fillings at a time; changes nothing but speed [default: 16]",
    )
    words.add_argument(
        "--seed", type=READERS["int"], default=0, metavar="N", help="of the order and the draws [default: 0]"
    )
    words.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a filling; log_prob is null where a pattern took a token that --top-k, --top-p or "
        "--require had ruled out",
    )
    words.add_argument(
        "--sampler",
        default=UNSAID,
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)}; default: confidence, one token a step, and first_hitting with --n",
    )
    drawing.add_draw(words)
    name = peek(arguments, "--sampler", UNSAID)
    nest = drawing.add_sampler(words, arguments, name) if name else None
    count = naming.count(words, arguments)
    if count == 0 and arguments:
        raise BadInput(NOTHING)
    if count != 1:
        words.add_argument("checkpoint", metavar="DIR", help=CHECKPOINT)
    words.add_argument(
        "text",
        metavar="TEXT",
        help="a text with blanks: [MASK], or the model's own mask token; [MASK:k] for a blank of k tokens; - is read "
        "from standard input",
    )
    words.set_defaults(checkpoint=None)
    return words, nest


def main(arguments: list[str]) -> int:
    """Fill."""
    if not arguments:
        raise BadInput(NOTHING)
    words, nest = build(arguments)
    values = drawing.parse(words, arguments, nest.name if nest else "the usual sampler")
    drawing.check(values)
    naming.check_lists(values)
    naming.settle(values)
    sampler = drawing.build(nest, values) if nest else None

    from remask.cli.show import say
    from remask.train.shipped import load

    if values.checkpoint is None and not values.json:
        say(naming.SHIPPED)
    record: dict[str, Any] = {}
    for record in fillings(load(values.checkpoint), values, sampler):
        if values.json:
            emit(record)
        else:
            print(record["text"])
    if not values.json:
        _explain(record, alone=not values.n)
    return 0


# ---- the question ----------------------------------------------------------------------------------------------------


def question(model: Checkpoint, text: str) -> tuple[list[int], list[Gap]]:
    """A text's ids and its blanks; BadInput for a blank of no length, or a text that is too long."""
    from remask.data.tokenizers import encode

    mask = model.tokenizer.mask_token
    masked, sizes, before, place = "", [], [], 0
    for blank in re.finditer(rf"\[MASK(?::(?P<size>[^\]]*))?\]|{re.escape(mask)}", text):
        before.append(masked + text[place : blank.start()])
        sizes.append(_size(model, blank["size"]))
        masked, place = before[-1] + mask * sizes[-1], blank.end()
    masked += text[place:]
    ids = encode(model.tokenizer, [masked], special=True)[0].ids if masked else []
    if len(ids) > model.length:
        raise BadInput(f"the text has {len(ids)} tokens, but {model.path} reads at most {model.length}: shorten it.")
    cells = [cell for cell, number in enumerate(ids) if number == model.alphabet.mask]
    groups = [cells[first:stop] for first, stop in pairwise(accumulate(sizes, initial=0))]
    if len(cells) != sum(sizes) or any(group[-1] - group[0] != len(group) - 1 for group in groups):
        raise BadInput(f"the tokenizer of {model.path} does not read every blank as one: put a space around each.")
    return ids, [Gap(group[0], group[-1] + 1, text) for group, text in zip(groups, before)]


def _size(model: Checkpoint, typed: str | None) -> int:
    """Tokens of a blank: one, or as many as stand behind the colon."""
    if typed is None:
        return 1
    if not (typed.isascii() and typed.isdecimal() and typed.strip("0")):
        raise BadInput(f"a blank came as [MASK:{typed}]: type a number of tokens, 1 or more, as in [MASK:10].")
    if len(typed) > len(str(model.length)) or int(typed) > model.length:
        raise BadInput(
            f"a blank came as [MASK:{typed}], but {model.path} reads at most {model.length} tokens: type fewer."
        )
    return int(typed)


# ---- the answer ------------------------------------------------------------------------------------------------------


def fillings(model: Checkpoint, values: argparse.Namespace, sampler: Any = None) -> Iterator[dict[str, Any]]:
    """Records with `text`, `gaps`, `log_prob`, `calls`, and the first pass's best `candidates` of blanks of one token.

    sampler: the one that was named. A gap is told without the space that its blank swallowed. A text without a blank
    comes back as it is, at no call.
    """
    import torch

    from remask.core.canvas import infill
    from remask.core.draw import Greedy
    from remask.data.pattern import lead_of
    from remask.data.spelling import spelling

    if model.net.causal:
        model.conditional()  # says what to type instead
    ids, gaps = question(model, values.text)
    wanted = _wanted(model, values, ids, gaps)
    conditional = drawing.conditional_of(model, values)
    if not gaps:
        yield from _as_it_is(values)
        return

    def draw(usual: Draw) -> Draw:
        return _constrained(model, drawing.draw_of(values, usual if values.n else Greedy()), wanted)

    canvas = infill(torch.tensor([ids]), model.alphabet)
    sampler = drawing.drawing(sampler or _usual(values, int(canvas.unknown.sum())), draw)
    drawing.in_view(sampler, len(ids), {"--pattern": wanted, "--require": values.require})
    drawing.remark(sampler, values, conditional)
    bound = {one.gap for one in wanted}
    leads = {gap: lead_of(model.tokenizer, gap.before) for gap in gaps if gap not in bound}
    candidates = _candidates(model, conditional, canvas, list(leads))
    spelled = spelling(model.tokenizer)
    for row in drawing.write(sampler, conditional, canvas, values):
        texts = {
            gap: spoken(model.tokenizer, spelled, row.tokens[gap.first : gap.stop], lead) for gap, lead in leads.items()
        }
        texts |= {one.gap: _matched(one, row.tokens) for one in wanted}
        if wanted:
            _holds_required(model, values, row.tokens)
        yield {
            "text": model.tokenizer.decode(row.tokens),
            "gaps": [texts[gap] for gap in gaps],
            "log_prob": round(row.log_prob, 4) + 0.0,  # no -0.0
            "calls": row.calls,
            "candidates": [candidates.get(gap, []) for gap in gaps],
        }


def spoken(
    tokenizer: PreTrainedTokenizerFast, spelled: Sequence[bytes | None], tokens: Sequence[int], lead: bytes
) -> str:
    """What tokens say inside a text, after `lead`, the space that their blank swallowed.

    spelled: the bytes of each id; those that have none (special ones) are decoded. A part of a letter reads as U+FFFD.
    """
    written = b"".join(spelled[number] or tokenizer.decode([number]).encode() for number in tokens)
    return written.removeprefix(lead).decode(errors="replace")


def _as_it_is(values: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A text without a blank."""
    from remask.cli.show import say

    say("there is no blank in the text, so it comes back as it is: write \\[MASK] where something is to be filled in.")
    for _ in range(values.n or 1):
        yield {"text": values.text, "gaps": [], "log_prob": 0.0, "calls": 0, "candidates": []}


def _usual(values: argparse.Namespace, unknown: int) -> Any:
    """The sampler when none is named: the easiest cell first, or, for random fillings, the exact one."""
    from remask.samplers.confidence import Confidence
    from remask.samplers.first_hitting import FirstHitting

    return FirstHitting() if values.n else Confidence(steps=unknown, score="top_probability", schedule="equal")


def _candidates(
    model: Checkpoint, conditional: Conditional, canvas: Canvas, gaps: Sequence[Gap]
) -> dict[Gap, list[tuple[str, float]]]:
    """The most probable tokens of the gaps of one token, each by itself."""
    import torch

    short = [gap for gap in gaps if gap.stop - gap.first == 1]
    if not short:
        return {}
    at = torch.zeros_like(canvas.frozen)
    at[0, [gap.first for gap in short]] = True
    log_prob, order = conditional(canvas.tokens, at).topk(min(BEST, model.alphabet.size), dim=1)
    return {
        gap: [(model.tokenizer.decode([t]), round(p, 4)) for t, p in zip(tokens, chances) if p > 0]
        for gap, tokens, chances in zip(short, order.tolist(), log_prob.exp().tolist())
    }


# ---- patterns --------------------------------------------------------------------------------------------------------


def _wanted(model: Checkpoint, values: argparse.Namespace, ids: Sequence[int], gaps: Sequence[Gap]) -> list[Wanted]:
    """What the gaps with a pattern must match; BadInput where that cannot be, with the nearest length that can."""
    if not values.pattern:
        return []
    if len(values.pattern) != len(gaps):
        raise BadInput(
            f"there are {len(gaps)} blanks in the text, but --pattern came {len(values.pattern)} times: "
            "type one for each blank, in their order, '' for a blank that may be anything."
        )
    from remask.data.pattern import from_regex, lead_of
    from remask.data.spelling import spelling

    spelled, banned = spelling(model.tokenizer), frozenset(drawing.banned_ids(model, values))
    found = []
    for gap, pattern in zip(gaps, values.pattern):
        if not pattern:
            continue
        lead = lead_of(model.tokenizer, gap.before)
        automaton = from_regex(pattern, spelled, lead=lead, banned=banned)
        _check_length(pattern, automaton, gap.stop - gap.first, model.length - len(ids))
        letters = from_regex(pattern, [bytes([value]) for value in range(256)])
        found.append(Wanted(gap, pattern, automaton, lead, spelled, reader(letters)))
    return found


def _constrained(model: Checkpoint, draw: Draw, wanted: Sequence[Wanted]) -> Draw:
    """A draw that heeds the patterns, if there are any."""
    if not wanted:
        return draw
    from remask.core.constrain import Constrained, Span
    from remask.core.draw import Greedy

    spans = tuple(Span(one.gap.first, one.gap.stop, one.automaton) for one in wanted)
    return Constrained(spans, mask=model.alphabet.mask, inner=draw, greedy=isinstance(draw, Greedy))


def _check_length(pattern: str, automaton: Automaton, width: int, room: int) -> None:
    """Raise BadInput, with the nearest numbers of tokens, where a pattern has no text of `width` tokens."""
    if width in automaton.lengths(width):
        return
    longest = width + min(room, FARTHER)
    possible = [length for length in automaton.lengths(longest) if length]
    near = [*[n for n in possible if n < width][-1:], *[n for n in possible if n > width][:1]]
    came = f"the pattern '{pattern}' cannot be written with {width} token{'s' * (width > 1)}"
    if not near:
        raise BadInput(f"{came}, nor with any other number up to {longest}: shorten the pattern.")
    said = "lengths are" if len(near) > 1 else "length is"
    nearest = min(near, key=lambda length: abs(length - width))
    raise BadInput(f"{came}; the nearest {said} {' and '.join(map(str, near))}: type [MASK:{nearest}].")


def _matched(wanted: Wanted, tokens: Sequence[int]) -> str:
    """The gap's text, after a second look: its bytes are read by the pattern alone, whatever tokens they came in."""
    written = b"".join(wanted.spelled[number] or b"" for number in tokens[wanted.gap.first : wanted.gap.stop])
    text = written.removeprefix(wanted.lead)
    if not (written.startswith(wanted.lead) and wanted.matches(text)):
        raise AssertionError(f"a bug of remask: {written!r} was written for the pattern '{wanted.pattern}'")
    return text.decode()


def reader(automaton: Automaton) -> Callable[[Sequence[int]], bool]:
    """A function that tells whether an automaton accepts a string of ids, one after the other."""
    columns = (automaton.source.tolist(), automaton.label.tolist(), automaton.target.tolist())
    goes = {(source, label): target for source, label, target in zip(*columns)}
    group, accept = automaton.group.tolist(), automaton.accept.tolist()

    def reads(numbers: Sequence[int]) -> bool:
        state = automaton.start
        for number in numbers:
            state = goes.get((state, group[number]), -1)
        return state >= 0 and accept[state]

    return reads


def _holds_required(model: Checkpoint, values: argparse.Namespace, tokens: Sequence[int]) -> None:
    """Raise BadInput where the patterns left no place for a required token."""
    for text, number in zip(values.require, drawing.required_ids(model, values)):
        if number not in tokens:
            raise BadInput(f"the required '{text}' does not fit the patterns: take away one or the other.")


# ---- for a person ----------------------------------------------------------------------------------------------------


def _explain(record: dict[str, Any], alone: bool) -> None:
    """What else could stand in the blanks of one token; and, of a record that is alone, what fell into the others."""
    from rich.markup import escape
    from rich.table import Table

    from remask.cli.show import console

    table = Table(box=None, pad_edge=False)
    table.add_column("blank", justify="right")
    table.add_column("candidates, each blank by itself" if any(record["candidates"]) else "text")
    for number, (text, best) in enumerate(zip(record["gaps"], record["candidates"]), start=1):
        tokens = "   ".join(f"{token.strip() or repr(token)} {p:.0%}" for token, p in best)
        if number <= FEW and (best or alone):
            table.add_row(str(number), escape(tokens or repr(text)))
    if table.rows:
        console.print(table)
    if len(record["gaps"]) > FEW:
        console.print(f"... and {len(record['gaps']) - FEW} more blanks", highlight=False)
    if alone and record["gaps"]:
        console.print(f"log p {record['log_prob']:.2f} nats, {record['calls']} calls", highlight=False)
