"""Every row of OBJECTIVES, and planted bugs that the checks must catch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from remask.core.objective import Loss
from remask.core.schedule import SCHEDULES
from remask.objectives.autoregressive import Autoregressive
from remask.objectives.electra import ELECTRA
from remask.objectives.mdlm import MDLM
from remask.objectives.mlm import MLM
from tests import conformance_objectives as conformance
from tests.conformance_objectives import OBJECTIVE_CHECKS
from tests.oracle import LAWS

found = conformance.objectives()
every_objective = pytest.mark.parametrize("objective", found.values(), ids=found)
every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)


@every_objective
def test_declares_what_it_is(objective):
    conformance.check_declares(objective)


@every_objective
def test_finite_on_a_real_net(objective):
    conformance.check_finite(objective, LAWS["markov_chain"])


@every_law
@pytest.mark.parametrize("check", OBJECTIVE_CHECKS, ids=lambda check: check.__name__)
@every_objective
def test_contract(objective, check, oracle):
    check(objective, oracle)


# ---- planted bugs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightWithoutLength(MDLM):
    """1/k where the bound has L/k."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(weight=question.weight / batch.tokens.shape[1])


@dataclass(frozen=True)
class Unweighted(MDLM):
    """The mean over masked cells, sold as the bound."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(
            weight=torch.ones_like(question.weight), counts=question.at.sum(dtype=torch.float64).reshape(1)
        )


@dataclass(frozen=True)
class OneOff(MDLM):
    """Weighs k masked cells with L/(k + 1)."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        k = question.at.sum(1, keepdim=True)
        return question._replace(weight=question.weight * k / (k + 1))


@dataclass(frozen=True)
class AnotherSchedule(MDLM):
    """Masks by the cosine schedule and weighs by the linear one."""

    def corrupt(self, batch, stream):
        ours = MDLM("elbo", "cosine").corrupt(batch, stream)
        return ours._replace(weight=MDLM("elbo", "linear").corrupt(batch, stream).weight)


@dataclass(frozen=True)
class EveryCell(MDLM):
    """Counts the visible cells' cross-entropy too, with the weight of the masked ones: a mask is weighed as 1."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(weight=torch.ones_like(question.weight), at=torch.ones_like(question.at))


@dataclass(frozen=True)
class Peeks(MDLM):
    """Forgets to hide one of the cells it asks for."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        tokens = question.tokens.clone()
        tokens[:, 0] = batch.tokens[:, 0]
        return question._replace(tokens=tokens)


@dataclass(frozen=True)
class Unshifted(Autoregressive):
    """The net is shown the token that it is asked for."""

    def corrupt(self, batch, stream):
        return super().corrupt(batch, stream)._replace(tokens=batch.tokens)


@dataclass(frozen=True)
class ChoosesByToken(MDLM):
    """Masks the cells of one token first."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(at=question.at | (batch.tokens == batch.tokens.min()))


@dataclass(frozen=True)
class LocalStrata(MDLM):
    """Spreads the noise levels over the rows it sees, not over the global batch."""

    def corrupt(self, batch, stream):
        rows = len(batch.tokens)
        return super().corrupt(batch._replace(slot=torch.arange(rows), slots=rows), stream)


@dataclass(frozen=True)
class Mean(MDLM):
    """A mean where the contract wants a sum."""

    def __call__(self, net, question, stream):
        loss = super().__call__(net, question, stream)
        return Loss(tuple(term._replace(total=term.total / len(question.tokens)) for term in loss.terms))


@dataclass(frozen=True)
class LocalCount(MDLM):
    def __call__(self, net, question, stream):
        loss = super().__call__(net, question, stream)
        return Loss(tuple(term._replace(count=question.at.sum()) for term in loss.terms))


@dataclass(frozen=True)
class Infinite(MDLM):
    """Divides by the number of masked cells of every row before the first one is masked."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(weight=question.weight / torch.zeros(1))


class Undecided:
    causal, bounds, law = False, False, "no bound"


@dataclass(frozen=True)
class KeepsTooMuch(MLM):
    """Shows every chosen token of the first half, where a tenth is kept."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        tokens = question.tokens.clone()
        tokens[:, :2] = batch.tokens[:, :2]
        return question._replace(tokens=tokens)


@dataclass(frozen=True)
class ShowsNeighbours(MLM):
    """A random token is the token that it replaces, moved on by one."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        shown = question.at & (question.tokens != batch.alphabet.mask)
        ids = torch.tensor([i for i in range(batch.alphabet.size) if i not in batch.alphabet.special])
        moved = ids[(torch.searchsorted(ids, batch.tokens.clamp(max=int(ids[-1]))) + 1) % len(ids)]
        return question._replace(tokens=torch.where(shown, moved, question.tokens))


@dataclass(frozen=True)
class GeneratorPeeks(ELECTRA):
    """Masks nothing: the generator sees what it is asked for."""

    def corrupt(self, batch, stream):
        return super().corrupt(batch, stream)._replace(tokens=batch.tokens)


@dataclass(frozen=True)
class CountsByTheWrongTerm(ELECTRA):
    """The counts of the question are not those of the terms."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(counts=question.counts.flip(0))

    def __call__(self, net, question, stream):
        return super().__call__(net, question._replace(counts=question.counts.flip(0)), stream)


CAUGHT = [
    (KeepsTooMuch(keep=0.1, random=0.1), "check_no_leak", "show their token"),
    (KeepsTooMuch(keep=0.0, random=0.0), "check_no_leak", "can see the token"),
    (ShowsNeighbours(keep=0.0, random=0.5), "check_no_leak", "can see the token"),
    (GeneratorPeeks(), "check_no_leak", "show their token"),
    (CountsByTheWrongTerm(), "check_split", "means do not add up"),
    (WeightWithoutLength(), "check_bound", "entropy"),
    (Unweighted(), "check_bound", "entropy"),
    (OneOff(), "check_bound", "entropy"),
    (AnotherSchedule(), "check_bound", "entropy"),
    (EveryCell(), "check_bound", "entropy"),
    (Peeks(), "check_bound", "entropy"),
    (Peeks(), "check_no_leak", "can see the token"),
    (Unshifted(), "check_no_leak", "can see the token"),
    (ChoosesByToken(), "check_no_leak", "depends on the tokens"),
    (LocalStrata(), "check_parts_are_asked_the_same", "differs from that of the whole"),
    (Mean(), "check_split", "do not add up"),
    (LocalCount(), "check_split", "another count"),
    (Infinite(), "check_finite", "not finite"),
]


@pytest.mark.parametrize(("twin", "check", "says"), CAUGHT, ids=lambda value: getattr(type(value), "__name__", None))
def test_planted_bugs_are_caught(twin, check, says):
    with pytest.raises(AssertionError, match=says):
        getattr(conformance, check)(twin, LAWS["markov_chain"])


def test_an_objective_that_does_not_say_what_it_is_is_caught():
    with pytest.raises(AssertionError, match="writes"):
        conformance.check_declares(Undecided())


def test_schedules_are_all_checked():
    """A schedule that is added must be added to the variants."""
    checked = {objective.schedule for objective in found.values() if getattr(objective, "weighting", "") == "elbo"}
    assert checked == set(SCHEDULES)
