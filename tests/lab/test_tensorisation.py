"""Tensorisation constants: the notes' figures, an independent maximisation, and the bound on random laws."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.errors import BadInput
from remask.lab.kernels import block_kernel, gap
from remask.lab.laws import Law, ising, random_table
from remask.lab.tensorisation import block_divergence, blocks_of, bound, divergence, tensorisation

# cells, J: for each k the largest quotient of the notes, and 1 / gap; h = .1
NOTES = {
    (3, 0.5): ((12.53, 12.29), (3.87, 3.82), (1, 1)),
    (4, 0.3): ((14.62, 14.26), (5.52, 5.40), (2.50, 2.46), (1, 1)),
}


def quotient(r, q, length, k):
    """KL(r || q) over its block average, term by term in numpy; binary cells."""
    r, q = r.reshape([2] * length), q.reshape([2] * length)
    whole, parts = (r * np.log(r / q)).sum(), []
    for block in combinations(range(length), k):
        given_r, given_q = r / r.sum(block, keepdims=True), q / q.sum(block, keepdims=True)
        parts.append((r * np.log(given_r / given_q)).sum())
    return whole / np.mean(parts), float(np.mean(parts))


def many_laws(law, n, seed):
    """Random laws [n, S]: near and far from `law`, smooth and concentrated."""
    rng, size = np.random.default_rng(seed), len(law.joint)
    tilted = law.joint.log() + torch.from_numpy(rng.standard_normal((n // 3, size)) * rng.exponential(1.5, (n // 3, 1)))
    wells = law.digits.double().sum(1)[None] * torch.from_numpy(rng.standard_normal((n // 3, 1)))
    tipped = law.joint.log() + wells + 0.1 * torch.from_numpy(rng.standard_normal((n // 3, size)))
    loose = torch.from_numpy(rng.dirichlet([0.5] * size, n - 2 * (n // 3))).clamp(min=1e-12).log()
    return torch.cat([tilted, tipped, loose]).log_softmax(1)


@pytest.mark.parametrize("model", NOTES)
def test_constants_of_the_notes(model):
    law, last = ising(*model, 0.1), math.inf
    for k, (constant, poincare) in enumerate(NOTES[model], 1):
        found = tensorisation(law, k)
        assert found.poincare == pytest.approx(poincare, abs=5.1e-3)
        assert found.poincare == pytest.approx(1 / gap(block_kernel(law, k), law), rel=1e-9)
        assert found.constant >= constant - 5e-3  # a lower bound: better may be found, never worse
        assert found.constant == pytest.approx(constant, abs=5.1e-3)  # and none was
        assert found.poincare <= found.constant <= last
        last = found.constant


def test_the_law_that_is_found_has_the_quotient():
    law = ising(3, 0.5, 0.1)
    found = tensorisation(law, 1)
    assert quotient(found.law.numpy(), law.joint.numpy(), 3, 1)[0] == pytest.approx(found.constant, rel=1e-9)
    assert found.constant > found.poincare + 0.2  # not what is left of it at the law itself


def test_an_independent_maximisation_finds_no_more():
    optimize = pytest.importorskip("scipy.optimize")
    law, rng = ising(3, 0.5, 0.1), np.random.default_rng(0)
    q = law.joint.numpy()

    def falls(logits):
        r = np.exp(logits - logits.max())
        return -quotient(r / r.sum(), q, 3, 1)[0]

    best = max(-optimize.minimize(falls, rng.standard_normal(8), method="BFGS").fun for _ in range(5))
    assert best == pytest.approx(tensorisation(law, 1).constant, rel=1e-4)


def test_no_random_law_breaks_the_bound():
    law = ising(3, 0.5, 0.1)
    constant, laws = tensorisation(law, 1).constant, many_laws(law, 3000, seed=0)
    excess = block_divergence(laws, law.joint.log(), blocks_of(law, 1))
    distance = (laws.exp() - law.joint).abs().sum(1) / 2
    needed = 2 * distance**2 / excess
    assert (needed <= constant).all()
    assert needed.max() > 7.5  # the check can fail: a constant of that size would
    assert (divergence(laws, law.joint.log()) / excess <= constant).all()
    assert all(d <= bound(constant, e) for d, e in zip(distance.tolist(), excess.tolist()))
    smaller = tensorisation(law, 2).constant  # the constant of larger blocks does not serve single cells
    assert not (needed <= smaller).all()


def test_excess_loss_by_hand():
    law, r = random_table(4, 2, 1.0, seed=1), random_table(4, 2, 1.0, seed=2)
    for k in range(1, 5):
        found = block_divergence(r.joint.log()[None], law.joint.log(), blocks_of(law, k))
        assert float(found) == pytest.approx(quotient(r.joint.numpy(), law.joint.numpy(), 4, k)[1], rel=1e-12)
    near = (law.joint.log() + 1e-6 * torch.linspace(-1, 1, 16, dtype=torch.float64)).log_softmax(0)
    tilt = near - law.joint.log()
    second_order = float(law.joint @ (tilt - law.joint @ tilt) ** 2) / 2
    assert float(divergence(near, law.joint.log())) == pytest.approx(second_order, rel=1e-4)


@given(some.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_constants_of_random_laws(seed):
    law, last = random_table(3, 2, 2.0, seed), math.inf
    if law.joint.min() < 1e-6:
        return
    for k in (1, 2, 3):
        found = tensorisation(law, k, steps=100)
        assert found.constant >= found.poincare - 1e-12
        assert found.constant <= last * (1 + 1e-3)  # each is a lower bound, so up to what the search leaves
        last = found.constant
    assert last == 1


def test_independent_cells_need_no_more_than_their_share():
    law = ising(3, 0.0, 0.4)
    for k in (1, 2, 3):
        assert tensorisation(law, k).constant == pytest.approx(3 / k, rel=1e-6)


def test_the_same_seed_the_same_constant():
    law = ising(3, 0.4, 0.1, "path")
    first, again = tensorisation(law, 1, seed=3, steps=40), tensorisation(law, 1, seed=3, steps=40)
    assert first.constant == again.constant
    assert torch.equal(first.law, again.law)


def test_what_cannot_be_served():
    with pytest.raises(BadInput, match=r"more than the 2\^8"):
        tensorisation(ising(9, 0.1), 1)
    with pytest.raises(BadInput, match="probability 0"):
        tensorisation(Law("copy", torch.eye(2, dtype=torch.float64)), 1)
    with pytest.raises(BadInput, match="must be 1 to 3"):
        tensorisation(ising(3, 0.1), 4)
    with pytest.raises(BadInput, match="0 or more"):
        bound(2.0, -0.1)
    assert bound(2.0, 0.04) == pytest.approx(0.2)
    assert bound(1e6, 1.0) == 1
