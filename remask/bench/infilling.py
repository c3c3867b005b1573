"""Infilling: the hidden middle of held-out rows, by nets that see both sides of it and by one that sees what is before.

A masked net is told both sides, a left-to-right one the text before the span only, which is all that it can use
(Bavarian et al. 2022, arXiv 2207.14255, on nets taught to do more). Measured are how often a span is found exactly, and
-log p of the true span, nats a token. A masked net has no single log p: the chain rule over one random order a row
(block by block in nets of blocks) gives -log p given the order, whose mean bounds -log p from above (Uria et al. 2014,
arXiv 1310.1757). On a law that is known, its own posterior is the ceiling: of both sides, and of the text before alone.
Shapes: R rows, L length, S tokens of a span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.bench.frontier_field import Field
from remask.bench.frontier_quality import Coding, Truth
from remask.bench.frontier_systems import fill
from remask.core.alphabet import Alphabet
from remask.core.canvas import infill
from remask.core.conditional import Conditional
from remask.core.draw import Greedy
from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.core.sampler import Sampler
from remask.core.stream import Purpose, Stream
from remask.data.pack import pack
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.decoders.batched import Written, write
from remask.nets.blockwise import BlockNet
from remask.nets.causal import CausalNet
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from remask.samplers.first_hitting import FirstHitting

KIND = "infill"
AT_ONCE = 16
HELD_OUT = 1 << 20  # seed of the law's texts: none that a net was trained on, nor that the frontier weighs


class Filler(NamedTuple):
    """A way to fill a span of S cells: its sampler."""

    name: str
    sampler: Callable[[int], Sampler]


FILLERS = (
    Filler("drawn", lambda span: FirstHitting()),
    Filler("surest first", lambda span: Confidence(span, draw=Greedy())),
    Filler("four a call", lambda span: Confidence(max(1, -(-span // 4)), draw=Greedy())),
    Filler("all at once", lambda span: Confidence(1, draw=Greedy())),
)
"""Of nets that see both sides; all but the first take the most probable tokens."""
TEMPERATURES = {"drawn": 1.0, "most probable": 0.0}
"""Of the left-to-right baseline."""


def held_out_rows(data: Sequence[str], tokenizer: Any, alphabet: Alphabet, length: int) -> Tensor:
    """Text as rows [R, length] in one stream, documents ended as in training; BadData where there is not one row."""
    documents = read(list(data))
    return pack(encode(tokenizer, [one.text for one in documents]), length, alphabet.end, "the held-out text").tokens


def infilling(
    field: Field,
    length: int,
    spans: Sequence[int],
    *,
    texts: int = 64,
    seed: int = 0,
    truth: Truth | None = None,
    rows: Tensor | None = None,
) -> Iterator[dict[str, Any]]:
    """One record for each net, way and span: exact matches, -log p of the truth, calls; errors over rows.

    truth: a law whose fresh texts are filled in and whose posterior is the ceiling; rows: held-out text [R, L] else.
    Rows whose span holds a special token are left out. Raises BadInput for spans that leave nothing on both sides, and
    where there is nothing to fill.
    """
    alphabet = next(iter(field.models.values())).alphabet
    coding = None if truth is None else Coding.of(truth, alphabet)
    if truth is not None and coding is not None:
        rows = coding.ids[truth.sample(texts, length, seed + HELD_OUT)]
    if rows is None:
        raise BadInput("infilling came without text: type --data F with held-out text, or --law SEED.")
    for span in spans:
        if not 1 <= span <= length - 2:
            raise BadInput(f"--spans came with {span} in rows of {length}: type 1 to {length - 2}.")
        begin = (length - span) // 2
        whole = _without(rows, alphabet, begin, span)[:texts]
        if len(whole) < 2:
            raise BadInput(f"fewer than two held-out rows have a span of {span} tokens of text: give more --data.")
        case = Case(whole, begin, span, seed, field.device)
        for name, model in field.models.items():
            block = model.net.block if isinstance(model.net, BlockNet) else None
            conditional = model.conditional() if block is None else model.in_blocks()
            yield from _both_sides(name, conditional, case, block)
        yield from _prefix_only(f"{field.name} left to right", field, case)
        if truth is not None and coding is not None:
            yield from _ceiling(truth, coding, case)


class Case(NamedTuple):
    """Rows [R, L] whose cells `begin` to `begin + span` are hidden."""

    rows: Tensor
    begin: int
    span: int
    seed: int
    device: torch.device

    @property
    def end(self) -> int:
        """The first cell behind the span."""
        return self.begin + self.span

    @property
    def middle(self) -> Tensor:
        """The true spans, [R, S]."""
        return self.rows[:, self.begin : self.end]

    def parts(self) -> Iterator[tuple[Tensor, Stream]]:
        """Rows, some at a time, with their streams."""
        for numbers in torch.arange(len(self.rows)).split(AT_ONCE):
            yield self.rows[numbers].to(self.device), Stream.of(self.seed, numbers.to(self.device))

    def hidden(self, part: Tensor, mask: int) -> Tensor:
        """Rows with masks for the span."""
        found = part.clone()
        found[:, self.begin : self.end] = mask
        return found


def _without(rows: Tensor, alphabet: Alphabet, begin: int, span: int) -> Tensor:
    """Rows whose span is text."""
    special = torch.tensor(sorted(alphabet.special))
    return rows[~torch.isin(rows[:, begin : begin + span], special).any(1)]


# ---- nets ------------------------------------------------------------------------------------------------------------


def _both_sides(arm: str, conditional: Conditional, case: Case, block: int | None) -> Iterator[dict[str, Any]]:
    nats = torch.cat([chain(conditional, part, case, stream, block) for part, stream in case.parts()])
    sees = "both sides" if block is None else f"what is before, and the rest of its block of {block}"
    for filler in FILLERS:
        sampler = filler.sampler(case.span)
        if block is not None:
            sampler = Blocks(sampler, size=block, aligned=True, stop=False)
        found = [
            fill(sampler, conditional, infill(case.hidden(part, conditional.alphabet.mask), conditional.alphabet), of)
            for part, of in case.parts()
        ]
        yield _row(arm, sees, filler.name, case, found, nats, "bound")


@torch.inference_mode()
def chain(conditional: Conditional, part: Tensor, case: Case, stream: Stream, block: int | None = None) -> Tensor:
    """-log p of the true spans of rows [R, L] given the rest, by the chain rule in a random order a row, nats [R].

    block: cells of a block, which are then filled one block after the other.
    """
    order = stream.uniform(0, Purpose.WHERE, part.shape[1])[:, case.begin : case.end]
    if block is not None:
        order = order + torch.arange(case.begin, case.end, device=part.device) // block
    turn = torch.full(part.shape, -1, device=part.device)
    turn[:, case.begin : case.end] = order.argsort(1).argsort(1)
    nats = torch.zeros(len(part), dtype=torch.float64, device=part.device)
    for step in range(case.span):
        tokens, at = torch.where(turn >= step, conditional.alphabet.mask, part), turn == step
        nats -= conditional(tokens, at).gather(1, part[at][:, None])[:, 0].double()
    return nats.cpu()


def _prefix_only(arm: str, field: Field, case: Case) -> Iterator[dict[str, Any]]:
    nats = torch.cat([_left(field.baseline.model, part, case) for part, _ in case.parts()])  # type: ignore[arg-type]
    for name, temperature in TEMPERATURES.items():
        found = []
        for part, stream in case.parts():
            one = write(field.causal, part[:, : case.begin], case.span, stream, temperature, stop=False)
            found.append(one._replace(tokens=torch.cat([part[:, : case.begin], one.tokens], 1)))
        yield _row(arm, "what is before", name, case, found, nats, "exact")


@torch.inference_mode()
def _left(net: CausalNet, part: Tensor, case: Case) -> Tensor:
    """-log p of the true spans given what is before them, nats [R]."""
    before = part[:, : case.end]
    start = before.new_full((len(part), 1 if net.start is not None else 0), net.start or 0)
    read = torch.cat([start, before], 1)[:, :-1]
    law = net.law(net.model(input_ids=read, use_cache=False).logits[:, -case.span :])
    return -law.gather(2, before[:, case.begin :, None])[..., 0].sum(1).cpu()


def _ceiling(truth: Any, coding: Coding, case: Case) -> Iterator[dict[str, Any]]:
    """The law's own posterior, of both sides and of the text before; in words of the law, which are as many as ids."""
    words = case._replace(rows=coding.words[case.rows], device=torch.device("cpu"))
    for sees, upto in (("both sides", case.rows.shape[1]), ("what is before", case.end)):
        mine = words._replace(rows=words.rows[:, :upto])
        hidden = mine.hidden(mine.rows, truth.alphabet.mask)
        nats = truth.log_prob(hidden) - truth.log_prob(mine.rows)
        for filler in FILLERS[:2]:
            sampler = filler.sampler(case.span)
            canvases = (
                (infill(mine.hidden(part, truth.alphabet.mask), truth.alphabet), of) for part, of in mine.parts()
            )
            found = [fill(sampler, truth, canvas, of) for canvas, of in canvases]
            yield _row("the law itself", sees, filler.name, mine, found, nats, "exact")


def _row(
    arm: str, sees: str, how: str, case: Case, found: Sequence[Written], nats: Tensor, path: str
) -> dict[str, Any]:
    """path: whether -log p is exact or a bound from above."""
    each = [1.0] * len(case.rows)
    right = torch.cat([one.tokens.cpu()[:, case.begin : case.end] for one in found]) == case.middle
    calls = torch.cat([one.calls.cpu() for one in found])
    measures: dict[str, Estimate] = {
        "exact_match": ratio(right.all(1).double().tolist(), each, "share"),
        "token_match": ratio(right.double().mean(1).tolist(), each, "share"),
        "nats": ratio(nats.tolist(), [float(case.span)] * len(each), "nats/token"),
        "calls": ratio(calls.double().tolist(), each, "calls"),
    }
    told = {
        **{"kind": KIND, "arm": arm, "what": f"fills a span, seeing {sees}", "sampler": KIND, "sees": sees, "how": how},
        **{"length": case.rows.shape[1], "span": case.span, "rows": len(case.rows), "nats_is": path},
    }
    for name, estimate in measures.items():
        told |= {name: round(estimate.value, 6), f"{name}_stderr": round(estimate.stderr, 6)}
    return told
