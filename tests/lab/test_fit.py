"""Fits: derivatives by autograd, Newton against L-BFGS, and whether fits scatter as the theory says."""

import math

import pytest
import torch

from remask.core.errors import BadInput
from remask.lab.adaptive import corrected, random_given, uncorrected
from remask.lab.fit import BlockLoss, draw, factorised_loss, lbfgs, monte_carlo, newton
from remask.lab.graphs import edges_of
from remask.lab.information import (
    averaged,
    block_information,
    factorised,
    inverse,
    ising_family,
    masks_of_size,
    uniform,
)

CLIQUE = ising_family(4, edges_of("clique", 4))
TRUTH = torch.tensor([0.1] * 4 + [0.5] * 6, dtype=torch.float64)
TRIANGLE = ising_family(3, edges_of("clique", 3))
WEAK = torch.tensor([0.2, -0.1, 0.3, 0.4, -0.3, 0.2], dtype=torch.float64)


def trace(family, theta, k):
    information = block_information(family.law(theta).joint, family.statistics, masks_of_size(family.length, k))
    return float(inverse(information, family.names).trace())


def scatter(parameters, centre, samples):
    """samples * squared distance from the centre: mean and standard error."""
    error = samples * (parameters - centre).square().sum(1)
    return float(error.mean()), float(error.std()) / math.sqrt(len(error))


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_derivatives_are_those_of_the_loss(k, adapt):
    masks = masks_of_size(3, k)
    given = random_given(len(masks), 8, k) if adapt else None
    loss = BlockLoss(TRIANGLE, masks, None if given is None else given.log())
    weights = draw(TRIANGLE.law(WEAK).joint, masks, 50, 2, seed=k, given=given)
    theta = torch.stack([WEAK, -WEAK])
    gradient, hessian = loss.derivatives(theta, weights)
    for fit in range(2):
        one = lambda t, fit=fit: loss(t[None], weights[fit : fit + 1])[0]  # noqa: E731
        torch.testing.assert_close(gradient[fit], torch.autograd.functional.jacobian(one, theta[fit]))
        torch.testing.assert_close(hessian[fit], torch.autograd.functional.hessian(one, theta[fit]))


def test_the_loss_is_the_mean_of_minus_log_p():
    """By the law's own answers, block by block and cell by cell."""
    law, masks = TRIANGLE.law(WEAK), masks_of_size(3, 2)
    weights = draw(law.joint, masks, 40, 1, seed=0)
    joint = parts = 0.0
    for mask, part in zip(masks, weights[0]):
        hidden = torch.where(mask, law.alphabet.mask, law.states)
        asked = law(hidden).gather(2, law.states[:, :, None])[:, :, 0]
        parts -= float(part @ asked[:, mask].sum(1))
        joint -= float(part @ torch.stack([law.posterior(h)[s] for s, h in enumerate(hidden)]).log())
    torch.testing.assert_close(float(BlockLoss(TRIANGLE, masks)(WEAK[None], weights)), joint)
    torch.testing.assert_close(float(factorised_loss(TRIANGLE, masks, weights[0])(WEAK)), parts)


def test_few_masks_at_a_time_give_the_same(monkeypatch):
    masks = masks_of_size(4, 2)
    loss, weights = BlockLoss(CLIQUE, masks), draw(CLIQUE.law(TRUTH).joint, masks, 100, 3, seed=1)
    theta = TRUTH.expand(3, -1)
    whole = (loss(theta, weights), *loss.derivatives(theta, weights))
    monkeypatch.setattr("remask.lab.information.ENTRIES", 1)
    torch.testing.assert_close((loss(theta, weights), *loss.derivatives(theta, weights)), whole, rtol=0, atol=1e-14)


# ---- minima ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_fit_to_the_law_itself_is_the_law(k):
    """From far away too: the loss is convex."""
    masks = masks_of_size(4, k)
    weights = uniform(CLIQUE.law(TRUTH).joint, masks)[None]
    for start in (torch.zeros(10, dtype=torch.float64), -2 * TRUTH):
        fit = newton(BlockLoss(CLIQUE, masks), weights, start)
        assert fit.found.all()
        torch.testing.assert_close(fit.parameters[0], TRUTH, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_newton_and_lbfgs_meet(k):
    masks = masks_of_size(3, k)
    loss, weights = BlockLoss(TRIANGLE, masks), draw(TRIANGLE.law(WEAK).joint, masks, 300, 3, seed=k)
    fits = newton(loss, weights, WEAK)
    assert fits.found.all()
    for one, part in zip(fits.parameters, weights.split(1)):
        other = lbfgs(lambda theta, part=part: loss(theta[None], part)[0], torch.zeros_like(WEAK))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_fits_do_not_depend_on_their_company():
    masks = masks_of_size(4, 2)
    loss, weights = BlockLoss(CLIQUE, masks), draw(CLIQUE.law(TRUTH).joint, masks, 500, 5, seed=2)
    together = newton(loss, weights, TRUTH).parameters
    alone = torch.cat([newton(loss, part, TRUTH).parameters for part in weights.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_a_fit_without_a_minimum_is_not_found():
    """Rows that are all the same tell nothing apart; the other fit does not mind."""
    masks = masks_of_size(3, 3)
    weights = torch.stack([torch.eye(8)[:1].double(), uniform(TRIANGLE.law(WEAK).joint, masks)])
    fits = newton(BlockLoss(TRIANGLE, masks), weights, torch.zeros_like(WEAK))
    assert fits.found.tolist() == [False, True]
    with pytest.raises(BadInput, match="no minimum near the start"):
        lbfgs(lambda theta: theta.sum(), torch.zeros_like(WEAK))


def test_too_few_samples_are_refused():
    with pytest.raises(BadInput, match=r"of 20 fits to 10 samples at k = 1 run to infinity: .* type more --samples"):
        monte_carlo(CLIQUE, TRUTH, masks_of_size(4, 1), samples=10, repeats=20, seed=0)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_shares_are_of_whole_samples_and_of_the_law():
    law, masks = TRIANGLE.law(WEAK).joint, masks_of_size(3, 2)
    given = random_given(3, 8, seed=4)
    for chosen, both in ((None, law / 3 * torch.ones(3, 1)), (given, law * given)):
        shares = draw(law, masks, 1000, 400, seed=5, given=chosen)
        assert torch.equal(shares * 1000, (shares * 1000).round()) and torch.allclose(
            shares.sum((1, 2)), torch.ones(()).double()
        )
        noise = (both / (1000 * 400)).sqrt()
        assert ((shares.mean(0) - both).abs() < 4.5 * noise).all()
    assert torch.equal(draw(law, masks, 9, 2, seed=1), draw(law, masks, 9, 2, seed=1))
    assert not torch.equal(draw(law, masks, 9, 2, seed=1), draw(law, masks, 9, 2, seed=2))


# ---- do fits scatter as the theory says? -----------------------------------------------------------------------------

NOTES = {1: (109.0, 3.4), 2: (59.1, 2.1), 3: (47.5, 1.7), 4: (47.4, 1.8)}


@pytest.mark.parametrize("k", NOTES)
def test_fits_scatter_as_the_theory_says(k):
    """4000 samples, 200 repeats: within 3 standard errors of the theory, and of what the notes measured."""
    found = monte_carlo(CLIQUE, TRUTH, masks_of_size(4, k), samples=4000, repeats=200, seed=k)
    value, error = NOTES[k]
    assert abs(found.value - trace(CLIQUE, TRUTH, k)) < 3 * found.stderr
    assert abs(found.value - value) < 3 * math.hypot(found.stderr, error)
    assert found.n == 200 and found.stderr == pytest.approx(error, rel=0.4)
    assert found == monte_carlo(CLIQUE, TRUTH, masks_of_size(4, k), samples=4000, repeats=200, seed=k)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_averaging_over_all_masks_scatters_less(k):
    """As its own sandwich says; the information of one mask a sample would be far off (planted: 3 errors see it)."""
    masks, samples = masks_of_size(4, k), 40000
    shares = draw(CLIQUE.law(TRUTH).joint, masks, samples, 200, seed=k).sum(1, keepdim=True) / len(masks)
    fits = newton(BlockLoss(CLIQUE, masks), shares.expand(-1, len(masks), -1), TRUTH)
    value, error = scatter(fits.parameters, TRUTH, samples)
    sandwich = averaged(CLIQUE.law(TRUTH).joint, CLIQUE.statistics, masks)
    assert fits.found.all()
    assert abs(value - float(sandwich.covariance(CLIQUE.names).trace())) < 3 * error
    if k < 3:
        assert abs(value - trace(CLIQUE, TRUTH, k)) > 3 * error


@pytest.mark.parametrize("k", [1, 2])
def test_adaptive_fits_scatter_about_the_truth_with_the_factor_and_elsewhere_without(k):
    masks, samples = masks_of_size(3, k), 40000
    given = random_given(len(masks), 8, seed=k)
    shares = draw(TRIANGLE.law(WEAK).joint, masks, samples, 200, seed=k, given=given)
    for loss, theory in (
        (BlockLoss(TRIANGLE, masks, given.log()), corrected(TRIANGLE, WEAK, masks, given)),
        (BlockLoss(TRIANGLE, masks), uncorrected(TRIANGLE, WEAK, masks, given)),
    ):
        fits = newton(loss, shares, WEAK)
        value, error = scatter(fits.parameters, theory.parameters, samples)
        assert fits.found.all() and abs(value - float(theory.covariance.trace())) < 3 * error
    assert scatter(fits.parameters, WEAK, samples)[0] > 20 * value


def test_the_factorised_loss_of_the_law_itself_has_its_minimum_there():
    for k in (1, 2):
        masks = masks_of_size(3, k)
        loss = factorised_loss(TRIANGLE, masks, uniform(TRIANGLE.law(WEAK).joint, masks))
        assert torch.autograd.functional.jacobian(loss, WEAK).abs().max() < 1e-15
        torch.testing.assert_close(lbfgs(loss, WEAK + 0.1), WEAK, rtol=0, atol=1e-6)
        hessian = torch.autograd.functional.hessian(loss, WEAK)
        torch.testing.assert_close(
            factorised(TRIANGLE.law(WEAK).joint, TRIANGLE.statistics, masks).sensitivity, hessian, rtol=0, atol=1e-14
        )


@pytest.mark.slow
def test_factorised_fits_scatter_as_their_sandwich_says():
    """Neither the joint block's covariance nor the inverse Hessian would do (planted: 3 errors see both)."""
    masks, samples, law = masks_of_size(4, 3), 40000, CLIQUE.law(TRUTH).joint
    shares = draw(law, masks, samples, 60, seed=3)
    fits = torch.stack([lbfgs(factorised_loss(CLIQUE, masks, part), TRUTH) for part in shares])
    value, error = scatter(fits, TRUTH, samples)
    theory = factorised(law, CLIQUE.statistics, masks)
    assert abs(value - float(theory.covariance(CLIQUE.names).trace())) < 3 * error
    for wrong in (trace(CLIQUE, TRUTH, 3), float(inverse(theory.sensitivity, CLIQUE.names).trace())):
        assert abs(value - wrong) > 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_many_fits_scatter_as_the_theory_says(k):
    """A standard error of one percent; 4000 samples scatter by a percent or two more than the theory, 10^6 do not."""
    masks, theory = masks_of_size(4, k), trace(CLIQUE, TRUTH, k)
    many = monte_carlo(CLIQUE, TRUTH, masks, samples=10**6, repeats=5000, seed=k)
    few = monte_carlo(CLIQUE, TRUTH, masks, samples=4000, repeats=5000, seed=k)
    assert abs(many.value - theory) < 3 * many.stderr < 0.04 * theory
    assert abs(few.value - theory) < 3 * few.stderr + 0.03 * theory
