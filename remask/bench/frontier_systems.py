"""The systems of the frontier: every sampler at every budget that a net allows, and its left-to-right baseline.

A masked net is asked by samplers that open one cell a call (exact), by parallel ones on a budget of steps or of nats,
and in blocks; a net of blocks only in blocks, with its exact cache and without (Arriola et al. 2025, arXiv 2503.09573);
the baseline writes with its cache of keys and values. All write texts of one length and no special token: those would
end a text, or stand for no text, and are banned alike everywhere.

A path says what log p of a text, added up as it was written, is. EXACT: of the text itself, where the visible tokens
alone decide which cell comes next. BOUND: of the text given an order that was drawn, so its mean lies below the entropy
and the divergence made of it above the true one. None: of another law than the one that wrote (a temperature).
Shapes: B texts, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch

from remask.bench.frontier_field import Field
from remask.core.canvas import Canvas, blank
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.sampler import Sampler, run
from remask.core.stream import Stream
from remask.decoders.batched import Written, write
from remask.nets.approximate_cache import KINDS, ApproximateCache, need_plain
from remask.nets.blockwise import BlockNet
from remask.nets.causal import CausalNet
from remask.nets.wrap import Ban, Temperature
from remask.samplers.ancestral import Ancestral
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from remask.samplers.entropy_bound import EntropyBound
from remask.samplers.first_hitting import FirstHitting
from remask.train.checkpoint import Checkpoint

EXACT, BOUND = "exact", "bound"
SIZE = 32  # cells of a block, in nets that are not of blocks
INNERS: dict[str, Any] = {"ancestral": FirstHitting(), "confidence": Confidence()}
"""What fills the blocks of a net of blocks; given a number of steps, first-hitting becomes ancestral."""
LEFT_TO_RIGHT = "left_to_right"
EXACT_CACHE, NO_CACHE = "exact", "none"
BLOCK_CACHES = (EXACT_CACHE, NO_CACHE)
CACHES = (NO_CACHE, *KINDS)
"""In blocks of plain nets, whose caches are approximate."""

Writer = Callable[[int, Stream], Written]
"""A length and a stream of B rows to B texts."""


class Plan(NamedTuple):
    """What is tried.

    budgets: shares of a length; gammas: nats; exact, parallel: temperatures of such samplers; caches: of plain nets in
    blocks; block_caches: of nets of blocks.
    """

    samplers: Sequence[str]
    budgets: Sequence[Fraction]
    gammas: Sequence[float]
    steps_per_block: Sequence[int]
    inners: Sequence[str]
    exact: Sequence[float]
    parallel: Sequence[float]
    caches: Sequence[str] = (NO_CACHE,)
    block_caches: Sequence[str] = (EXACT_CACHE, NO_CACHE)


class Budget(NamedTuple):
    """A sampler at one setting of its dial, a value and unit.

    path: see above; exact: one cell a call; size: of its blocks, in plain nets.
    """

    value: float
    unit: str
    sampler: Sampler
    path: str | None
    exact: bool = False
    how: str = ""
    size: int = 0


class System(NamedTuple):
    """A net and a way to write with it; arm: what its budgets have in common."""

    arm: str
    what: str
    sampler: str
    budget: float
    unit: str
    temperature: float
    cache: str | None
    path: str | None
    exact: bool
    write: Writer
    quality_key: tuple[Any, ...]
    """Systems that write the same texts share it: a cache changes none."""
    time_key: tuple[Any, ...]
    """Systems that take the same time share it: a temperature changes no number of calls where all cells are asked."""


# ---- budgets ---------------------------------------------------------------------------------------------------------


def steps_of(budgets: Sequence[Fraction], cells: int) -> list[int]:
    """Shares of so many cells as numbers of steps, each once, 1 or more."""
    return list(dict.fromkeys(max(1, round(share * cells)) for share in budgets))


def _first_hitting(plan: Plan, length: int) -> Iterator[Budget]:
    del plan
    yield Budget(length, "calls", FirstHitting(), BOUND, exact=True)


def _ancestral(plan: Plan, length: int) -> Iterator[Budget]:
    for steps in steps_of(plan.budgets, length):
        yield Budget(steps, "steps", Ancestral(steps), BOUND)


def _confidence(plan: Plan, length: int) -> Iterator[Budget]:
    for steps in steps_of(plan.budgets, length):
        yield Budget(steps, "steps", Confidence(steps), EXACT)


def _entropy_bound(plan: Plan, length: int) -> Iterator[Budget]:
    del length
    for gamma in plan.gammas:
        yield Budget(gamma, "nats", EntropyBound(gamma), EXACT)


def _blocks(plan: Plan, length: int) -> Iterator[Budget]:
    size = min(SIZE, length)
    for steps in steps_of(plan.budgets, size):
        yield Budget(steps, "steps a block", Blocks(size=size, steps_per_block=steps, stop=False), BOUND, size=size)


BUDGETS: dict[str, Callable[[Plan, int], Iterator[Budget]]] = {
    "first_hitting": _first_hitting,
    "ancestral": _ancestral,
    "confidence": _confidence,
    "entropy_bound": _entropy_bound,
    "blocks": _blocks,
}
"""Sampler to its budgets, for plain masked nets."""
PATHS = {"ancestral": BOUND, "confidence": EXACT}


def budgets_in_blocks(plan: Plan, block: int) -> Iterator[Budget]:
    """Those of a net of blocks of so many cells."""
    every: dict[str, Any] = {"size": block, "aligned": True, "stop": False}
    yield Budget(block, "steps a block", Blocks(**every), BOUND, exact=True, how="first_hitting")
    for inner in plan.inners:
        for steps in (steps for steps in plan.steps_per_block if steps <= block):
            sampler = Blocks(INNERS[inner], **every, steps_per_block=steps)
            yield Budget(steps, "steps a block", sampler, PATHS[inner], how=inner)


# ---- writing ---------------------------------------------------------------------------------------------------------


def fill(sampler: Sampler, conditional: Conditional, canvas: Canvas, stream: Stream) -> Written:
    """Canvases filled: their tokens, the calls spent on each, and log p of each as it was written, nats."""
    tokens, log_prob = canvas.tokens, torch.zeros_like(canvas.tokens, dtype=torch.float64)
    calls = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    with torch.inference_mode():  # as left to right
        for state, info in run(sampler, conditional, canvas, stream):
            tokens, calls = state.tokens, calls + info.calls
            log_prob = torch.where(info.changed, info.log_prob, log_prob)
    return Written(tokens.clone(), calls.clone(), log_prob.sum(1))


def fresh(sampler: Sampler, ask: Callable[[], Conditional], temperature: float = 1.0) -> Writer:
    """Texts from nothing. ask: makes the conditional anew, so that no text finds states of another in its cache."""

    def writer(length: int, stream: Stream) -> Written:
        conditional = ask() if temperature == 1 else Temperature(ask(), temperature)
        canvas = blank(len(stream.seeds), length, conditional.alphabet, stream.seeds.device)
        return fill(sampler, conditional, canvas, stream)

    return writer


def from_left(net: CausalNet, temperature: float = 1.0) -> Writer:
    """Texts from left to right that do not end, with the cache."""

    def writer(length: int, stream: Stream) -> Written:
        return write(net, None, length, stream, temperature, stop=False)

    return writer


def write_texts(write: Writer, length: int, texts: int, seed: int, at_once: int, device: torch.device) -> Written:
    """Texts of a writer, some at a time; a text is a function of its number and the seed. On the CPU."""
    parts = [
        write(length, Stream.of(seed, numbers.to(device))) for numbers in torch.arange(texts).split(max(1, at_once))
    ]
    return Written(*(torch.cat([part[at].cpu() for part in parts]) for at in range(3)))


# ---- systems ---------------------------------------------------------------------------------------------------------


def baselines(field: Field, temperatures: Sequence[float], length: int) -> list[System]:
    """The baseline at several temperatures, all of which take the same time."""
    return [
        System(
            arm=f"{field.name} left to right",
            what="left to right, keys and values kept",
            sampler=LEFT_TO_RIGHT,
            budget=length,
            unit="calls",
            temperature=temperature,
            cache="exact",
            path=EXACT if temperature == 1 else None,
            exact=False,
            write=from_left(field.causal, temperature),
            quality_key=(field.name, LEFT_TO_RIGHT, temperature),
            time_key=(field.name, LEFT_TO_RIGHT),
        )
        for temperature in temperatures
    ]


def systems(name: str, model: Checkpoint, plan: Plan, length: int) -> list[System]:
    """Those of a checkpoint, the exact ones first."""
    if isinstance(model.net, BlockNet):
        found = [
            one
            for budget in budgets_in_blocks(plan, model.net.block)
            for cache in plan.block_caches
            for one in _at_temperatures(
                name, "blocks", budget, plan, partial(in_blocks, model, cache == EXACT_CACHE), cache
            )
        ]
    else:
        found = [
            one
            for sampler in plan.samplers
            for budget in BUDGETS[sampler](plan, length)
            for cache in (map(KEPT.get, plan.caches) if budget.size and keeps(model.net) else (None,))
            for one in _at_temperatures(name, sampler, budget, plan, partial(plain, model, budget.size, cache), cache)
        ]
    return sorted(found, key=lambda one: not one.exact)


def keeps(net: object) -> bool:
    """Whether a plain net can have an approximate cache."""
    try:
        need_plain(net)
    except BadInput:
        return False
    return True


def plain(model: Checkpoint, size: int = 0, cache: str | None = None) -> Conditional:
    """p(x_i | the visible rest) without special tokens; about that, with an approximate cache for blocks of a size."""
    if cache in KINDS:
        return Ban(ApproximateCache(need_plain(model.net), model.alphabet, size, cache), banned(model))
    return Ban(model.conditional(), banned(model))


def in_blocks(model: Checkpoint, cache: bool) -> Conditional:
    """That of a net of blocks, with or without its exact cache."""
    return Ban(model.in_blocks(cache), banned(model))


def banned(model: Checkpoint) -> tuple[int, ...]:
    """Special ids."""
    return tuple(sorted(model.alphabet.special))


KEPT = {NO_CACHE: None, **{kind: kind for kind in KINDS}}  # a plain net without a cache needs no word of it
NAMED: dict[str | None, str] = {NO_CACHE: ", no cache", **{kind: f", {kind} cache" for kind in KINDS}}


def _at_temperatures(
    name: str, sampler: str, budget: Budget, plan: Plan, ask: Callable[[], Conditional], cache: str | None = None
) -> Iterator[System]:
    how = f"{sampler} {budget.how}".strip()
    arm = f"{name} {how}{NAMED.get(cache, '')}"
    for temperature in plan.exact if budget.exact else plan.parallel:
        yield System(
            arm=arm,
            what=f"{how}, budget in {budget.unit}" + ("" if cache is None else f", cache: {cache}"),
            sampler=sampler,
            budget=budget.value,
            unit=budget.unit,
            temperature=temperature,
            cache=cache,
            path=budget.path,
            exact=budget.exact,
            write=fresh(budget.sampler, ask, temperature),
            quality_key=(name, how, budget.value, temperature, cache if cache in KINDS else None),
            time_key=(arm, budget.value, None if budget.exact else temperature),
        )
