"""What every sampler costs: network calls of a row with n unknown cells, as its fields' help and docs/choose.md say."""

import pytest
import torch

from remask.core.sampler import run
from remask.core.stream import Stream
from tests.conformance import FEW_STEPS, SMALL_BLOCK, in_small, mixed_canvas, samplers, with_budget
from tests.oracle import LAWS, Watched

ROWS, STEPS, SIZE, MOVES = 80, FEW_STEPS, SMALL_BLOCK, 16


def kept_at(n):
    """The first step i of T after which no cell is masked again: n (1 - i / T) < 1."""
    return (STEPS * (n - 1)) // n.clamp(min=1) + 1


DOCUMENTED = {  # least and most, for n >= 1
    "ancestral": lambda n: (torch.ones_like(n), n.clamp(max=STEPS)),  # a step that opens nothing is free
    "first_hitting": lambda n: (n, n),
    "confidence": lambda n: (n.clamp(max=STEPS), n.clamp(max=STEPS)),
    "entropy_bound": lambda n: (torch.ones_like(n), n),
    "mask_predict": lambda n: (n * 0 + STEPS, n * 0 + STEPS),
    "padir": lambda n: (n * 0 + 2, n * 0 + 2),  # the oracles have seen the tokens: the second pass gives back the first
    "remdm": lambda n: (torch.ones_like(n), n * 0 + STEPS),
    "p2": lambda n: (kept_at(n), kept_at(n)),
    "sundae": lambda n: (n * 0 + STEPS, n * 0 + STEPS),
    "gibbs": lambda n: (n + MOVES * n.clamp(max=SIZE), n + MOVES * n.clamp(max=SIZE)),
    "parallel_gibbs": lambda n: (1 + MOVES * n, 1 + MOVES * n),  # the oracles have seen the tokens they are asked about
    "blocks": lambda n: (n, n),
}


def test_every_row_has_a_documented_number():
    assert set(DOCUMENTED) == set(samplers())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_calls_are_the_documented_number(name):
    oracle = LAWS["ring_ising"]
    sampler = in_small(with_budget(samplers()[name], STEPS))
    canvas, watched = mixed_canvas(oracle, ROWS, 5), Watched(oracle, ROWS)
    list(run(sampler, watched, canvas, Stream.of(1, ROWS)))
    n, calls = canvas.unknown.sum(1), watched.ledger.calls
    least, most = DOCUMENTED[name](n)
    some = n > 0
    assert (calls[some] >= least[some]).all()
    assert (calls[some] <= most[some]).all()
    assert not calls[~some].any()
    if not torch.equal(least, most):
        assert (calls[some] == most[some]).any() or name == "remdm", "the bound is reached by some row"
