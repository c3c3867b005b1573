"""Every row of DECODERS, and planted bugs that the checks must catch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from remask.core.decoder import Decoded
from remask.decoders.beam import Beam
from remask.decoders.sampling import Sampling
from tests import conformance_decoders
from tests.conformance_decoders import DECODER_CHECKS, OWN_SCORE, check_score

found = conformance_decoders.decoders()


@pytest.mark.parametrize("check", DECODER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", found)
def test_contract(name, check):
    fields = OWN_SCORE.get(name, {}) if check is check_score else {}
    check(dataclasses.replace(found[name], **fields))


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def with_canvas(decoded, tokens=None, frozen=None):
    canvas = decoded.canvas
    return decoded._replace(
        canvas=canvas._replace(
            tokens=canvas.tokens if tokens is None else tokens, frozen=canvas.frozen if frozen is None else frozen
        )
    )


@dataclass(frozen=True)
class Trains(Beam):
    """Changes a weight."""

    def __call__(self, model, prompts, stream, budget):
        if hasattr(model, "model"):
            with torch.no_grad():
                next(model.model.parameters()).add_(1e-9)
        return super().__call__(model, prompts, stream, budget)


@dataclass(frozen=True)
class Thawed(Beam):
    """Leaves prompts open."""

    def __call__(self, model, prompts, stream, budget):
        decoded = super().__call__(model, prompts, stream, budget)
        return with_canvas(decoded, frozen=decoded.canvas.frozen & (decoded.canvas.tokens == model.end))


@dataclass(frozen=True)
class Long(Beam):
    """Takes a token more than it may."""

    def __call__(self, model, prompts, stream, budget):
        return super().__call__(model, prompts, stream, budget._replace(tokens=budget.tokens + 1))


@dataclass(frozen=True)
class Divided(Beam):
    """Tells of log p a token."""

    def __call__(self, model, prompts, stream, budget):
        decoded = super().__call__(model, prompts, stream, budget)
        return decoded._replace(log_prob=decoded.log_prob / decoded.canvas.unknown.sum(1))


@dataclass(frozen=True)
class Company(Sampling):
    """Draws from a stream that knows of the rows beside it."""

    def __call__(self, model, prompts, stream, budget):
        return super().__call__(model, prompts, stream.child(len(prompts)), budget)


@dataclass(frozen=True)
class Global(Sampling):
    """Draws from torch's own generator."""

    def __call__(self, model, prompts, stream, budget):
        return super().__call__(model, prompts, stream.child(torch.randint(100, (len(prompts),))), budget)


@dataclass(frozen=True)
class Spendthrift(Beam):
    """Knows no budget."""

    def __call__(self, model, prompts, stream, budget):
        return super().__call__(model, prompts, stream, budget._replace(nodes=None))


@dataclass(frozen=True)
class Boaster(Beam):
    """Believes that what it finds is the best."""

    def __call__(self, model, prompts, stream, budget) -> Decoded:
        decoded = super().__call__(model, prompts, stream, budget)
        told = decoded.info
        return decoded._replace(
            info=told._replace(certified=torch.ones_like(told.certified), gap=torch.zeros_like(told.gap))
        )


PLANTED = {
    "check_weights": [Trains()],
    "check_canvas": [Thawed()],
    "check_ends": [Long()],
    "check_score": [Divided(beam=1)],
    "check_batched": [Company()],
    "check_repeats": [Global()],
    "check_budget": [Spendthrift()],
    "check_told": [Boaster(beam=1)],
}


@pytest.mark.parametrize("check", DECODER_CHECKS, ids=lambda check: check.__name__)
def test_planted_bugs_are_caught(check):
    try:
        for decoder in PLANTED[check.__name__]:
            with pytest.raises(AssertionError):
                check(decoder)
    finally:
        conformance_decoders.net.cache_clear()
