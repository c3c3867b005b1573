"""Every row of SAMPLERS, and planted bugs that the checks must catch."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from remask.core.canvas import Canvas
from remask.core.choose import exactly
from remask.core.draw import Categorical, Greedy, Nucleus
from remask.core.refill import refill
from remask.core.sampler import Info, Law, State, ask
from remask.core.stream import Purpose, Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests import conformance
from tests.conformance import FEW_STEPS, SAMPLER_CHECKS, SMALL, in_small, with_budget
from tests.oracle import LAWS

every_sampler = pytest.mark.parametrize("sampler", conformance.samplers().values(), ids=conformance.samplers())
COSTLY = ("gibbs",)  # tens of calls a row: on laws that are not SMALL in the slow suite


def on(laws):
    """Every sampler on some laws."""
    return pytest.mark.parametrize(
        ("sampler", "oracle"),
        [
            pytest.param(
                sampler,
                LAWS[law],
                id=f"{name}-{law}",
                marks=[pytest.mark.slow] if name in COSTLY and law not in SMALL else [],
            )
            for name, sampler in conformance.samplers().items()
            for law in laws
        ],
    )


@pytest.mark.parametrize("law", SMALL)
@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@every_sampler
def test_contract(sampler, check, law):
    check(in_small(with_budget(sampler, FEW_STEPS)), LAWS[law])


@on(LAWS)
def test_law(sampler, oracle):
    conformance.check_law(sampler, oracle)


@pytest.mark.slow
@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", [name for name, s in conformance.samplers().items() if s.law is Law.EXACT])
def test_law_with_five_times_the_rows(name, oracle, seed):
    conformance.check_law(conformance.samplers()[name], oracle, seed, times=5)


@on([*SMALL, "parity", "random_table"])
def test_infilling(sampler, oracle):
    conformance.check_infill(sampler, oracle)


# ---- planted bugs: each fails exactly the checks named next to it ----------------------------------------------------


def masked_cells(state, conditional):
    return (state.tokens == conditional.alphabet.mask) & ~state.frozen


@dataclass(frozen=True)
class WritesFrozen(FirstHitting):
    """Looks only at what the step before it wrote: a given cell is redrawn with the rest."""

    def step(self, stream, state, conditional):
        state, info = super().step(stream, state, conditional)
        log_prob = conditional(torch.full_like(state.tokens, conditional.alphabet.mask))
        return state._replace(tokens=torch.where(state.frozen, log_prob.argmax(2), state.tokens)), info


@dataclass(frozen=True)
class GoesByToken(FirstHitting):
    """Takes every mask for an open cell, given or not."""

    def init(self, stream, canvas, conditional):
        return super().init(stream, Canvas(canvas.tokens, canvas.tokens != conditional.alphabet.mask), conditional)


@dataclass(frozen=True)
class OnePass(FirstHitting):
    """All cells at once from the marginals of one pass."""

    def step(self, stream, state, conditional):
        masked = masked_cells(state, conditional)
        return refill(self.draw, stream, state, conditional, masked, masked)


@dataclass(frozen=True)
class OnePassInTheLimit(OnePass):
    law = Law.LIMIT


@dataclass(frozen=True)
class OneUniformForAllSteps(FirstHitting):
    """A row's token uniform is the same at every step and cell."""

    def step(self, stream, state, conditional):
        masked = masked_cells(state, conditional)
        one = exactly(stream.uniform(state.step, Purpose.WHERE, masked.shape[1]), masked, torch.ones_like(state.step))
        log_prob, calls = ask(conditional, state.tokens, one)
        tokens = state.tokens.clone()
        uniform = stream.uniform(0, Purpose.TOKEN, 1).expand_as(masked)[one]
        tokens[one] = self.draw(log_prob, uniform, one, state.tokens)
        written = torch.zeros_like(masked, dtype=torch.float64)
        written[one] = log_prob.gather(1, tokens[one][:, None])[:, 0]
        done = ~(masked & ~one).any(1)
        return state._replace(tokens=tokens, done=done, step=state.step + 1), Info(one, calls, written)


@dataclass(frozen=True)
class OnePurpose(FirstHitting):
    """The number that chose the cell (the smallest of its row) draws the token too."""

    def step(self, stream, state, conditional):
        masked = masked_cells(state, conditional)
        where = stream.uniform(state.step, Purpose.TOKEN, masked.shape[1])
        return refill(
            self.draw, stream, state, conditional, exactly(where, masked, torch.ones_like(state.step)), masked
        )


@dataclass(frozen=True)
class BlindToThePrompt(FirstHitting):
    """The conditional is asked with the given cells hidden."""

    def step(self, stream, state, conditional):
        hidden = state._replace(tokens=torch.where(state.frozen, conditional.alphabet.mask, state.tokens))
        after, info = super().step(stream, hidden, conditional)
        return after._replace(tokens=torch.where(state.frozen, state.tokens, after.tokens)), info


@dataclass(frozen=True)
class GlobalGenerator(FirstHitting):
    def step(self, stream, state, conditional):
        seeds = torch.randint(2**62, stream.seeds.shape)
        return super().step(Stream(seeds), state, conditional)


@dataclass(frozen=True)
class RowNumbers(FirstHitting):
    """Seeds its rows by their place in the batch."""

    def step(self, stream, state, conditional):
        return super().step(Stream.of(0, len(state.tokens)), state, conditional)


@dataclass(frozen=True)
class HiddenState(FirstHitting):
    """Remembers something outside State."""

    seen: list[int] = field(default_factory=list)

    def init(self, stream, canvas, conditional):
        self.seen.clear()
        return super().init(stream, canvas, conditional)

    def step(self, stream, state, conditional):
        self.seen.append(1)
        return super().step(stream.child(len(self.seen)), state, conditional)


@dataclass(frozen=True)
class StopsEarly(FirstHitting):
    """Calls a row done while one mask is left."""

    def step(self, stream, state, conditional):
        state, info = super().step(stream, state, conditional)
        return state._replace(done=(state.tokens == conditional.alphabet.mask).sum(1) <= 1), info


@dataclass(frozen=True)
class NeverEnds(FirstHitting):
    def step(self, stream, state, conditional):
        state, info = super().step(stream, state, conditional)
        return state._replace(done=torch.zeros_like(state.done)), info


@dataclass(frozen=True)
class AsksTwice(FirstHitting):
    """Spends a second pass that Info does not count."""

    def step(self, stream, state, conditional):
        conditional(state.tokens)
        return super().step(stream, state, conditional)


@dataclass(frozen=True)
class Secretive(FirstHitting):
    """Info tells of no change."""

    def step(self, stream, state, conditional):
        state, info = super().step(stream, state, conditional)
        return state, info._replace(changed=torch.zeros_like(info.changed))


@dataclass(frozen=True)
class Restless(FirstHitting):
    """Takes a full canvas for unfinished work."""

    def init(self, stream, canvas, conditional):
        state = super().init(stream, canvas, conditional)
        return state._replace(done=torch.zeros_like(state.done))

    def step(self, stream, state, conditional):
        calls = torch.ones_like(state.step)
        conditional(state.tokens)
        after, info = super().step(stream, state, conditional)
        return after, info._replace(calls=info.calls + calls)


CAUGHT = [
    (WritesFrozen, "check_frozen", "a frozen cell was written"),
    (GoesByToken, "check_frozen_masks", "a frozen mask was written"),
    (OnePass, "check_law", "total variation"),
    (OnePassInTheLimit, "check_law", "total variation"),
    (OneUniformForAllSteps, "check_law", "total variation"),
    (OnePurpose, "check_law", "total variation"),
    (BlindToThePrompt, "check_infill", "total variation"),
    (GlobalGenerator, "check_seed", "same seed gave another canvas"),
    (RowNumbers, "check_seed", "another seed gave the same canvas"),
    (RowNumbers, "check_batched", "alone is another canvas"),
    (RowNumbers, "check_permuted", "permuted rows are other canvases"),
    (HiddenState, "check_resumes", "the run ends elsewhere"),
    (StopsEarly, "check_ends", "a special token was left"),
    (NeverEnds, "check_ends", "does not end"),
    (AsksTwice, "check_calls", "Info counts other calls"),
    (Secretive, "check_frozen", "Info does not tell of"),
    (Restless, "check_nothing_unknown", "a full canvas cost calls"),
]


@pytest.mark.parametrize(("twin", "check", "says"), CAUGHT, ids=lambda value: getattr(value, "__name__", None))
def test_planted_bugs_are_caught(twin, check, says):
    with pytest.raises(AssertionError, match=says):
        getattr(conformance, check)(twin(), LAWS["random_table"])


def test_a_state_that_changes_later_is_caught():
    """A step that writes into the tensor it was given: `run` hands it copies, so this must be shown by hand."""

    @dataclass(frozen=True)
    class Shared(FirstHitting):
        kept: list[State] = field(default_factory=list)

        def init(self, stream, canvas, conditional):
            self.kept.append(super().init(stream, Canvas(canvas.tokens.clone(), canvas.frozen), conditional))
            return self.kept[-1]

        def step(self, stream, state, conditional):
            after, info = super().step(stream, state, conditional)
            self.kept[0].tokens[0, 0] = conditional.alphabet.end
            return after, info

    with pytest.raises(AssertionError, match="changed after it was handed out"):
        conformance.check_resumes(Shared(), LAWS["markov_chain"])


def test_the_unharmed_twin_passes_every_check():
    """What the twins are made from is not caught by anything."""
    for check in (*SAMPLER_CHECKS, conformance.check_law, conformance.check_infill):
        check(FirstHitting(), LAWS["random_table"])


@dataclass(frozen=True)
class HoldsNoPromise(OnePass):
    law = Law.HEURISTIC


def test_a_heuristic_promises_no_law():
    conformance.check_law(HoldsNoPromise(), LAWS["copy_pairs"])


def test_a_draw_is_a_field_and_changes_the_law():
    """Greedy first-hitting is no sample, and says so; sold as exact, the check sees through it."""

    class Sold(Greedy):
        faithful = True

    assert FirstHitting(draw=Greedy()).law is Ancestral(draw=Nucleus(0.9)).law is Law.HEURISTIC
    with pytest.raises(AssertionError, match="total variation"):
        conformance.check_law(FirstHitting(draw=Sold()), LAWS["ring_ising"])
    conformance.check_law(FirstHitting(draw=Categorical()), LAWS["ring_ising"])


def test_too_small_a_budget_is_seen():
    """Ancestral sampling on a coarse grid is not the law: the tolerance for LIMIT is not a free pass."""

    @dataclass(frozen=True)
    class Coarse:
        inner: Ancestral = field(default_factory=lambda: Ancestral(steps=4))
        law = Law.LIMIT

        def init(self, *args):
            return self.inner.init(*args)

        def step(self, *args):
            return self.inner.step(*args)

    with pytest.raises(AssertionError, match="total variation"):
        conformance.check_law(Coarse(), LAWS["copy_pairs"])
