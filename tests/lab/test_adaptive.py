"""Adaptive masks: with the factor p(K | x) everything holds, without it p is lost and the fit is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.lab.adaptive import adaptive_kernel, corrected, hard_given, random_given, uncorrected
from remask.lab.fit import BlockLoss
from remask.lab.graphs import edges_of
from remask.lab.information import (
    block_information,
    contexts,
    fisher,
    gram,
    inverse,
    ising_family,
    masks_of_size,
)
from remask.lab.kernels import block_kernel, detailed_balance, gap, stationary
from remask.lab.laws import ising

TRIANGLE = ising_family(3, edges_of("clique", 3))
TRUTH = torch.tensor([0.2] * 3 + [0.6] * 3, dtype=torch.float64)  # the notes: N = 3, J = .6, h = .2
LAW = TRIANGLE.law(TRUTH).joint
cases = pytest.mark.parametrize(("k", "seed"), [(1, 0), (1, 1), (2, 0), (2, 1)])


def table(k, seed):
    masks = masks_of_size(3, k)
    return masks, random_given(len(masks), 8, seed)


# ---- the chain -------------------------------------------------------------------------------------------------------


@cases
def test_with_the_factor_the_chain_is_reversible(k, seed):
    masks, given = table(k, seed)
    kernel = adaptive_kernel(LAW, masks, given)
    torch.testing.assert_close(kernel.sum(1), torch.ones(8).double())
    assert detailed_balance(kernel, LAW) < 1e-15
    assert (LAW @ kernel - LAW).abs().max() < 1e-15


@cases
def test_without_the_factor_the_law_is_not_kept(k, seed):
    masks, given = table(k, seed)
    kernel = adaptive_kernel(LAW, masks, given, corrected=False)
    torch.testing.assert_close(kernel.sum(1), torch.ones(8).double())
    assert 1e-3 < (LAW @ kernel - LAW).abs().max() < 5e-2  # the notes: about 5e-3
    assert (stationary(kernel) - LAW).abs().sum() > 1e-2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_masks_that_do_not_look_are_k_gibbs(k):
    law, masks = ising(3, 0.6, 0.2), masks_of_size(3, k)
    given = torch.full((len(masks), 8), 1 / len(masks), dtype=torch.float64)
    for factor in (True, False):
        torch.testing.assert_close(adaptive_kernel(law.joint, masks, given, factor), block_kernel(law, k))


def test_hard_cells_are_hidden_more_often():
    masks = masks_of_size(3, 1)
    law = ising(3, 0.6, 0.2)
    given = hard_given(law.joint, masks, 1.0)
    torch.testing.assert_close(given.sum(0), torch.ones(8).double())
    state = 3  # the first spin is down, the others are up
    hidden = torch.where(masks, law.alphabet.mask, law.states[state])
    own = law(hidden)[torch.arange(3), torch.arange(3), law.states[state]].exp()  # p(x_i | all others)
    torch.testing.assert_close(given[:, state], (1 / own) / (1 / own).sum())
    assert given[0, state] > given[1, state]
    torch.testing.assert_close(hard_given(law.joint, masks, 0.0), torch.full((3, 8), 1 / 3, dtype=torch.float64))
    impossible = hard_given(torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5]).double(), masks, 1.0)
    assert impossible.isfinite().all()


# ---- the loss --------------------------------------------------------------------------------------------------------


@cases
def test_the_loss_is_consistent_with_the_factor_only(k, seed):
    masks, given = table(k, seed)
    assert corrected(TRIANGLE, TRUTH, masks, given).gradient.norm() < 1e-15
    wrong = uncorrected(TRIANGLE, TRUTH, masks, given)
    assert wrong.gradient.norm() > 1e-2
    assert (wrong.parameters - TRUTH).norm() > 1e-2
    loss, weights = BlockLoss(TRIANGLE, masks), (LAW * given)[None]
    assert loss.derivatives(wrong.parameters[None], weights)[0].abs().max() < 1e-12
    assert float(loss(wrong.parameters[None], weights)) < float(loss(TRUTH[None], weights)) - 1e-4


@cases
def test_gradients_and_covariances_are_those_of_the_losses(k, seed):
    """By autograd of the mean loss, written from its definition."""
    masks, given = table(k, seed)
    index = contexts(masks, 8)

    def rows(theta, factor):  # -log p(x_K | x_-K, K) of every mask and state
        energy = TRIANGLE.statistics @ theta + (given.log() if factor else torch.zeros_like(given))
        found = torch.zeros_like(given)
        for at in range(len(masks)):
            part = energy[at][index[at]]
            found[at, index[at]] = part.logsumexp(1, keepdim=True) - part
        return found

    for factor, theory in (
        (True, corrected(TRIANGLE, TRUTH, masks, given)),
        (False, uncorrected(TRIANGLE, TRUTH, masks, given)),
    ):

        def mean(theta, factor=factor):
            return (LAW * given * rows(theta, factor)).sum()

        torch.testing.assert_close(theory.gradient, torch.autograd.functional.jacobian(mean, TRUTH), rtol=0, atol=1e-14)
        hessian = torch.autograd.functional.hessian(mean, theory.parameters)
        slopes = torch.autograd.functional.jacobian(
            lambda t, factor=factor: rows(t, factor).flatten(), theory.parameters
        )
        variance = gram((LAW * given).flatten(), slopes)
        bread = torch.linalg.inv(hessian)
        torch.testing.assert_close(theory.covariance, bread @ variance @ bread, rtol=1e-9, atol=0)


def test_masks_that_do_not_look_need_no_factor():
    masks = masks_of_size(3, 2)
    given = torch.full((3, 8), 1 / 3, dtype=torch.float64)
    plain = inverse(block_information(LAW, TRIANGLE.statistics, masks), TRIANGLE.names)
    for make in (corrected, uncorrected):
        found = make(TRIANGLE, TRUTH, masks, given)
        torch.testing.assert_close(found.parameters, TRUTH, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.covariance, plain, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 4), st.data())
def test_the_poincare_bound_holds_for_adaptive_masks(size, data):
    """Gamma <= I^-1 / gap of the adaptive chain."""
    k, seed = data.draw(st.integers(1, size)), data.draw(st.integers(0, 10**6))
    family, masks = ising_family(size, edges_of("clique", size)), masks_of_size(size, k)
    generator = torch.Generator().manual_seed(seed)
    theta = 0.5 * torch.randn(len(family.names), generator=generator, dtype=torch.float64)
    law, given = family.law(theta).joint, random_given(len(masks), 2**size, seed)
    mixing = gap(adaptive_kernel(law, masks, given), law)
    bound = inverse(fisher(law, family.statistics), family.names) / mixing
    found = corrected(family, theta, masks, given)
    assert found.gradient.abs().max() < 1e-14
    assert float(torch.linalg.eigvalsh(bound - found.covariance)[0]) > -1e-9 * float(bound.trace())


def test_masks_that_give_the_row_away_are_refused():
    """Where every row has a mask of its own, the few contexts that two rows share do not identify the law."""
    masks = masks_of_size(3, 1)
    given = torch.zeros(3, 8, dtype=torch.float64)
    given[torch.arange(8) % 3, torch.arange(8)] = 1.0
    with pytest.raises(BadInput, match="the adaptive loss is singular"):
        corrected(TRIANGLE, TRUTH, masks, given)
