"""--low-rates: which rates rows have, which share of them, and what is refused."""

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives.mdlm import LOW, MDLM

LENGTH, ROWS = 100, 1000
ALPHABET = Alphabet(12, 0)


def counts(objective, seed=0):
    """Masked cells of every row; one row in each of ROWS strata of time."""
    tokens = torch.randint(1, 12, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    return objective.corrupt(Batch.of(tokens, ALPHABET), Stream.of(seed, ROWS)).at.sum(1)


def expected(share, low, high):
    """The law of the count: `share` of the rows uniform on low..high percent, the others uniform on 1..LENGTH."""
    law = torch.full((LENGTH + 1,), (1 - share) / LENGTH)
    law[0] = 0
    law[round(low * LENGTH) + 1 : round(high * LENGTH) + 1] += share / (round(high * LENGTH) - round(low * LENGTH))
    return law


def distance(objective, share, low=LOW[0], high=LOW[1]):
    """Largest difference of the two cumulative laws."""
    found = torch.bincount(counts(objective), minlength=LENGTH + 1) / ROWS
    return float((found.cumsum(0) - expected(share, low, high).cumsum(0)).abs().max())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_law_of_the_count(share):
    """Strata leave but one row's worth of chance on either side of an edge."""
    assert distance(MDLM(low_rates=share), share) < 2.5 / LENGTH * 0.3
    assert share == 0 or distance(MDLM(), share) > 0.1  # the check can fail
    assert share == 0 or distance(MDLM(low_rates=share), share, 0.1, 0.3) > 0.01


def test_weights_are_kept_so_it_bounds_nothing():
    objective = MDLM(low_rates=0.3)
    question = objective.corrupt(Batch.of(torch.ones(8, LENGTH, dtype=torch.int64), ALPHABET), Stream.of(0, 8))
    k = question.at.sum(1, keepdim=True)
    assert torch.allclose(question.weight, (LENGTH / k).expand_as(question.weight))
    assert not objective.bounds
    assert MDLM().bounds


@pytest.mark.parametrize(
    "fields",
    [{"weighting": "elbo"}, {"weighting": "flat"}, {"timesteps": 4}, {"zero_masking": False}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_needs_weights_of_its_own_is_refused(fields):
    with pytest.raises(BadInput, match="--low-rates came with"):
        MDLM(low_rates=0.3, **fields)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(BadInput, match="share of the rows"):
        MDLM(low_rates=share)
