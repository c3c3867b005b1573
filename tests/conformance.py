"""What every sampler must satisfy (neighbours: conformance_objectives.py, conformance_metrics.py).

A new row of the table is checked without new code here.

Each check is a function that raises AssertionError; tests/<room>/test_conformance.py runs them for every row, and shows
with planted bugs that each of them can fail.
Shapes: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from io import BytesIO
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from remask.core.canvas import Canvas, blank, infill
from remask.core.sampler import Law, run, sample
from remask.core.stream import Stream
from remask.samplers import SAMPLERS
from remask.samplers.blocks import Blocks
from remask.samplers.gibbs import Gibbs
from tests.oracle import (
    Oracle,
    Watched,
    frequencies,
    noise_floor,
    total_variation,
)

MOST_STEPS = 600  # a sampler that takes more on six cells does not end
EXACT_ROWS = 20_000
LIMIT_ROWS, LIMIT_BUDGET, LIMIT_SLACK = 3_000, 500, 1.5
SMALL_BLOCK = 2
FEW_STEPS = 6  # so that several cells open in one step, and in some steps none does
SMALL = ("markov_chain", "copy_pairs")  # laws for the checks that are not about the law


def samplers() -> dict[str, Any]:
    """Every row of the table with its default fields."""
    return {name: SAMPLERS.load(name)() for name in SAMPLERS}


def with_budget(sampler: Any, steps: int) -> Any:
    """The same sampler with another budget, where it has one."""
    return replace(sampler, steps=steps) if "steps" in {f.name for f in fields(sampler)} else sampler


def in_small(sampler: Any) -> Any:
    """The same sampler with blocks that are smaller than the laws are long, where it has blocks."""
    return replace(sampler, size=SMALL_BLOCK) if "size" in {f.name for f in fields(sampler)} else sampler


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a State, those of the samplers inside too."""
    return [x for leaf in state for x in (leaves(leaf) if isinstance(leaf, tuple) else [leaf])]


def rebuilt(state: Any, tensors: list[Tensor]) -> Any:
    """A State like `state` out of the tensors that `leaves` gave."""
    left = iter(tensors)

    def build(node: Any) -> Any:
        return type(node)(*(build(leaf) if isinstance(leaf, tuple) else next(left) for leaf in node))

    return build(state)


def mixed_canvas(oracle: Oracle, rows: int, seed: int) -> Canvas:
    """True rows with different cells given: the first wholly open, the second wholly given."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(rows, oracle.length, generator=generator) < torch.rand(rows, 1, generator=generator)
    hidden[0], hidden[1] = True, False
    return infill(torch.where(hidden, oracle.alphabet.mask, oracle.sample(rows, seed)), oracle.alphabet)


def steps_of(sampler: Any, conditional: Any, canvas: Canvas, stream: Stream, state: Any = None) -> list[tuple]:
    """Every (State, Info) of a run; fails if it does not end."""
    found = list(islice(run(sampler, conditional, canvas, stream, state), MOST_STEPS))
    assert len(found) < MOST_STEPS, "the sampler does not end"
    return found


def check_ends(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """All unknown cells end up filled with text, whatever is given."""
    canvas = mixed_canvas(oracle, 12, seed)
    states = [state for state, _ in steps_of(sampler, oracle, canvas, Stream.of(seed, 12))]
    assert states[-1].done.all(), "the run stopped before every row was done"
    special = torch.tensor(sorted(oracle.alphabet.special))
    assert not torch.isin(states[-1].tokens, special).any(), "a special token was left or written"
    assert all((a.done <= b.done).all() for a, b in pairwise(states)), "a row that was done came back"


def check_frozen(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """Given cells keep their tokens at every step, and Info tells of every change."""
    canvas = mixed_canvas(oracle, 24, seed)
    before = canvas.tokens
    told = torch.zeros_like(canvas.frozen)
    for state, info in steps_of(sampler, oracle, canvas, Stream.of(seed, 24)):
        assert torch.equal(state.tokens[canvas.frozen], canvas.tokens[canvas.frozen]), "a frozen cell was written"
        assert not (info.changed & canvas.frozen).any(), "Info tells of a change in a frozen cell"
        assert not ((state.tokens != before) & ~info.changed).any(), "a cell changed that Info does not tell of"
        before, told = state.tokens, told | info.changed
    assert torch.equal(told, canvas.unknown), "Info does not tell of every cell that was written"


def check_frozen_masks(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """A mask that is frozen stays: the sampler goes by the canvas, not by the token."""
    canvas = mixed_canvas(oracle, 8, seed)
    tokens, frozen = canvas.tokens.clone(), canvas.frozen.clone()
    tokens[:, 1], frozen[:, 1] = oracle.alphabet.mask, True
    state, _ = steps_of(sampler, oracle, Canvas(tokens, frozen), Stream.of(seed, 8))[-1]
    left = state.tokens == oracle.alphabet.mask
    assert left[:, 1].all(), "a frozen mask was written"
    left[:, 1] = False
    assert not left.any(), "a mask was left"


def check_seed(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """The same seed gives the same canvas, whatever the global generator does; of a law, another seed another one."""
    canvas = blank(32, oracle.length, oracle.alphabet)
    first = sample(sampler, oracle, canvas, Stream.of(seed, 32)).tokens
    torch.rand(7)
    state = torch.random.get_rng_state()
    again = sample(sampler, oracle, canvas, Stream.of(seed, 32)).tokens
    assert torch.equal(first, again), "the same seed gave another canvas"
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    other = sample(sampler, oracle, canvas, Stream.of(seed + 1, 32)).tokens
    assert sampler.law is Law.HEURISTIC or not torch.equal(first, other), "another seed gave the same canvas"


def check_batched(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """A row's canvas does not depend on the rows beside it."""
    canvas, stream = mixed_canvas(oracle, 12, seed), Stream.of(seed, 12)
    together = sample(sampler, oracle, canvas, stream).tokens
    for i in range(12):
        index = torch.tensor([i])
        alone = sample(sampler, oracle.rows(index), canvas.rows(index), stream.rows(index)).tokens
        assert torch.equal(alone[0], together[i]), f"row {i} alone is another canvas than in its batch"


def check_permuted(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """Rows in another order are the same canvases in that order; repeated rows are equal."""
    canvas, stream = mixed_canvas(oracle, 16, seed), Stream.of(seed, 16)
    index = torch.cat([torch.randperm(16, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, 0])])
    plain = sample(sampler, oracle, canvas, stream).tokens
    moved = sample(sampler, oracle.rows(index), canvas.rows(index), stream.rows(index)).tokens
    assert torch.equal(moved, plain[index]), "permuted rows are other canvases"


def check_resumes(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """From any State on the run goes the same way, and a State that was handed out never changes."""
    canvas, stream = mixed_canvas(oracle, 10, seed), Stream.of(seed, 10)
    states = [sampler.init(stream, canvas, oracle)]
    copies = [[leaf.clone() for leaf in leaves(states[0])]]
    for state, _ in islice(run(sampler, oracle, canvas, stream), MOST_STEPS):
        states.append(state)
        copies.append([leaf.clone() for leaf in leaves(state)])
    for state, copy in zip(states, copies):
        assert all(torch.equal(a, b) for a, b in zip(leaves(state), copy)), "a State changed after it was handed out"
        assert all(len(leaf) == 10 for leaf in copy), "a leaf of State does not lead with B"
    for i, copy in list(enumerate(copies))[:: max(1, len(copies) // 8)]:
        file = BytesIO()
        torch.save(copy, file)
        file.seek(0)
        rest = steps_of(sampler, oracle, canvas, stream, rebuilt(states[i], torch.load(file, weights_only=True)))
        end = rest[-1][0] if rest else states[i]
        assert torch.equal(end.tokens, states[-1].tokens), f"resumed after step {i} the run ends elsewhere"
        assert len(rest) == len(states) - 1 - i, f"resumed after step {i} the run takes another number of steps"


def check_nothing_unknown(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """A canvas with nothing unknown comes back as it is, and costs nothing."""
    tokens = oracle.sample(4, seed)
    watched = Watched(oracle, 4)
    result = sample(sampler, watched, infill(tokens, oracle.alphabet), Stream.of(seed, 4))
    assert torch.equal(result.tokens, tokens), "a full canvas was changed"
    assert not watched.ledger.calls.any(), "a full canvas cost calls"


def check_calls(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """The calls that Info counts are the rows that the conditional was asked about; settled cells stay settled."""
    canvas = mixed_canvas(oracle, 16, seed)
    watched = Watched(oracle, 16)
    told = sum(info.calls for _, info in steps_of(sampler, watched, canvas, Stream.of(seed, 16)))
    assert torch.equal(told, watched.ledger.calls), "Info counts other calls than the conditional does"
    assert told[canvas.unknown.any(1)].min() > 0, "a row was filled without a call"


def check_inside(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """Inside `blocks` and `gibbs` it ends, keeps to its canvas, counts its calls and does not mind other rows."""
    going_on = replace(sampler, stop=False) if hasattr(sampler, "stop") else sampler  # gibbs refuses one that stops
    for outer in (Blocks(inner=sampler, size=3), Gibbs(inner=going_on, size=2, moves=3)):
        check_ends(outer, oracle, seed)
        check_frozen(outer, oracle, seed)
        check_batched(outer, oracle, seed)
        check_calls(outer, oracle, seed)


def check_log_prob(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """Info's log p belongs to cells that were written; one cell a step, it adds up to the law of the row."""
    canvas = mixed_canvas(oracle, 12, seed)
    steps = steps_of(sampler, oracle, canvas, Stream.of(seed, 12))
    for _, info in steps:
        assert (info.log_prob <= 1e-9).all(), "a probability above one"
        assert not info.log_prob[~info.changed].any(), "log p of a cell that was not written"
    written = torch.stack([info.changed for _, info in steps]).sum(0)
    one_by_one = all((info.changed.sum(1) <= 1).all() for _, info in steps) and int(written.max()) == 1
    if one_by_one:
        told = torch.stack([info.log_prob for _, info in steps]).sum((0, 2))
        for row, total in zip(range(12), told.tolist()):
            truth = oracle.posterior(canvas.tokens[row])[oracle.number(steps[-1][0].tokens[row : row + 1])].log()
            assert abs(float(truth) - total) < 1e-9, "the log p of the cells is not that of the row"


SAMPLER_CHECKS: tuple[Callable[..., None], ...] = (
    check_ends,
    check_frozen,
    check_frozen_masks,
    check_seed,
    check_batched,
    check_permuted,
    check_resumes,
    check_nothing_unknown,
    check_calls,
    check_inside,
    check_log_prob,
)


def _on_the_floor(sampler: Any, oracle: Oracle, prompt: Tensor, seed: int, times: int = 1) -> None:
    exact = sampler.law is Law.EXACT
    rows = times * (EXACT_ROWS if exact else LIMIT_ROWS)
    sampler = in_small(sampler) if exact else with_budget(in_small(sampler), LIMIT_BUDGET)
    canvas = infill(prompt.expand(rows, -1).clone(), oracle.alphabet)
    tokens = sample(sampler, oracle, canvas, Stream.of(seed, rows)).tokens
    law = oracle.posterior(prompt)
    found, floor = frequencies(oracle, tokens), noise_floor(law, rows)
    distance = total_variation(found, law)
    bound = floor.mean + 4 * floor.sd if exact else LIMIT_SLACK * floor.mean
    assert distance <= bound, (
        f"total variation {distance:.4f}; a perfect sampler shows {floor.mean:.4f}, at most {bound:.4f}"
    )
    if exact:
        assert not found[law == 0].any(), "a state of probability zero was drawn"


def check_law(sampler: Any, oracle: Oracle, seed: int = 0, times: int = 1) -> None:
    """From a blank canvas: the law, as the sampler's own promise has it; `times` as many rows as usual."""
    if sampler.law is not Law.HEURISTIC:
        _on_the_floor(sampler, oracle, torch.full((oracle.length,), oracle.alphabet.mask), seed, times)


def check_infill(sampler: Any, oracle: Oracle, seed: int = 0) -> None:
    """From a canvas with the second and the last cell given: the conditional law."""
    if sampler.law is not Law.HEURISTIC:
        prompt = torch.full((oracle.length,), oracle.alphabet.mask)
        prompt[[1, -1]] = oracle.states[oracle.joint.argmax()][[1, -1]]
        _on_the_floor(sampler, oracle, prompt, seed)
