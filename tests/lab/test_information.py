"""Information matrices: against derivatives by autograd, closed forms, the digits of the notes, and the theorems."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.lab.graphs import edges_of
from remask.lab.information import (
    Sandwich,
    averaged,
    block_information,
    by_context,
    conditional_mean,
    contexts,
    factorised,
    fisher,
    inverse,
    ising_family,
    masks_of_size,
    null_space,
    score,
    spelled,
)
from remask.lab.kernels import block_kernel, gap
from remask.lab.laws import ising, potts

SLACK = 1e-9  # eigenvalues of covariances near 1: rounding


def clique(size, coupling, field):
    family = ising_family(size, edges_of("clique", size))
    return family, ising(size, coupling, field).joint


def random_model(size, graph, seed, scale=0.5):
    family = ising_family(size, edges_of(graph, size, seed))
    generator = torch.Generator().manual_seed(seed)
    return family, scale * torch.randn(len(family.names), generator=generator, dtype=torch.float64)


def smallest(matrix):
    return float(torch.linalg.eigvalsh(matrix)[0])


def covariances(make, family, law):
    """Of every k, [P, P] each."""
    return [make(law, family.statistics, masks_of_size(family.length, k)) for k in range(1, family.length + 1)]


def joint_block(law, statistics, masks):
    return inverse(block_information(law, statistics, masks), [str(i) for i in range(statistics.shape[1])])


def all_averaged(law, statistics, masks):
    return averaged(law, statistics, masks).covariance([str(i) for i in range(statistics.shape[1])])


models = st.builds(
    random_model,
    st.integers(3, 5),
    st.sampled_from(["clique", "ring", "path", "random"]),
    st.integers(0, 10**6),
)
many = settings(deadline=None, max_examples=25)

# ---- the pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["clique", "ring", "path", "grid", "random"])
def test_the_family_is_the_law(graph):
    family = ising_family(5, edges_of(graph, 5, 3))
    theta = torch.tensor([0.1] * 5 + [0.4] * (len(family.names) - 5), dtype=torch.float64)
    torch.testing.assert_close(family.law(theta).joint, ising(5, 0.4, 0.1, graph, 3).joint, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("size", "k"), [(4, 1), (4, 3), (5, 5), (1, 1)])
def test_contexts_share_what_is_visible(size, k):
    masks = masks_of_size(size, k)
    assert len(masks) == math.comb(size, k) == len(masks.unique(dim=0)) and (masks.sum(1) == k).all()
    law = potts(size, 3, 0.3)
    index = contexts(masks, len(law.joint))
    assert index.shape == (len(masks), 3 ** (size - k), 3**k)
    assert torch.equal(index.flatten(1).sort().values, torch.arange(3**size).expand(len(masks), -1))
    for mask, rows in zip(masks, law.digits[index]):
        assert (rows[:, :, ~mask] == rows[:, :1, ~mask]).all()


def test_masks_of_several_sizes_are_refused():
    masks = torch.tensor([[True, False, False], [True, True, False]])
    with pytest.raises(ValueError, match="several sizes"):
        contexts(masks, 8)


def test_conditional_means_are_the_laws_own():
    law = ising(4, 0.7, 0.2)
    mask = torch.tensor([[True, False, True, False]])
    mean = conditional_mean(law.joint[None], law.digits.double(), mask)[0]
    hidden = torch.where(mask[0], law.alphabet.mask, law.states)
    own = law(hidden)[:, :, law.ids[1]].exp()
    torch.testing.assert_close(mean[:, mask[0]], own[:, mask[0]], rtol=0, atol=1e-14)
    torch.testing.assert_close(mean[:, ~mask[0]], law.digits[:, ~mask[0]].double())


def test_a_context_that_cannot_occur_adds_nothing():
    family, law = clique(3, 0.5, 0.1)
    law = torch.where(torch.arange(8) < 2, 0.0, law)
    information = block_information(law / law.sum(), family.statistics, masks_of_size(3, 1))
    assert information.isfinite().all() and smallest(information) > -1e-15


# ---- against derivatives ---------------------------------------------------------------------------------------------


def log_mass(family, theta, shown):
    """Log of the mass, up to a constant, of the states that agree with the cells `shown`, a dict cell -> spin."""
    states = family.statistics[:, : family.length]
    agrees = torch.stack([states[:, i] == spin for i, spin in shown.items()] or [states[:, 0] < 2]).all(0)
    return torch.logsumexp((family.statistics @ theta)[agrees], 0)


def nats(family, theta, state, mask, joint):
    """-log p(x_K | x_-K) of one state, or its factorised twin, straight from the definition."""
    spins = family.statistics[state, : family.length].tolist()
    visible = {i: spins[i] for i in range(family.length) if not mask[i]}
    context = log_mass(family, theta, visible)
    if joint:
        return context - log_mass(family, theta, dict(enumerate(spins)))
    parts = [context - log_mass(family, theta, {**visible, i: spins[i]}) for i in range(family.length) if mask[i]]
    return torch.stack(parts).sum()


def by_autograd(family, theta, masks, joint, average):
    law, count = family.law(theta).joint.tolist(), len(theta)
    sensitivity, variability = torch.zeros(count, count).double(), torch.zeros(count, count).double()
    for state, weight in enumerate(law):
        gradients = []
        for mask in masks.tolist():
            one = partial(nats, family, state=state, mask=mask, joint=joint)
            gradients.append(torch.autograd.functional.jacobian(one, theta))
            sensitivity += weight * torch.autograd.functional.hessian(one, theta) / len(masks)
        rows = torch.stack(gradients)
        rows = rows.mean(0, keepdim=True) if average else rows
        variability += weight * rows.T @ rows / len(rows)
    return Sandwich(sensitivity, variability)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_information_is_the_mean_hessian_and_the_variance_of_the_gradient(k):
    family, theta = random_model(3, "clique", k)
    law, masks = family.law(theta).joint, masks_of_size(3, k)
    truth = by_autograd(family, theta, masks, joint=True, average=False)
    found = block_information(law, family.statistics, masks)
    torch.testing.assert_close(found, truth.sensitivity, rtol=0, atol=1e-13)
    torch.testing.assert_close(found, truth.variability, rtol=0, atol=1e-13)
    truth = by_autograd(family, theta, masks, joint=True, average=True)
    torch.testing.assert_close(averaged(law, family.statistics, masks), truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_factorised_sandwich_is_that_of_its_loss(k):
    family, theta = random_model(3, "clique", 10 + k)
    law, masks = family.law(theta).joint, masks_of_size(3, k)
    truth = by_autograd(family, theta, masks, joint=False, average=False)
    torch.testing.assert_close(factorised(law, family.statistics, masks), truth, rtol=0, atol=1e-13)
    if k > 1:
        assert (truth.sensitivity - truth.variability).abs().max() > 1e-3  # no information equality here


@many
@given(models)
def test_the_factorised_hessian_is_a_difference_of_informations(model):
    """Sum over j of E Var(E[T | x_j, x_-K] | x_-K) telescopes to k (I_k - I_(k-1))."""
    family, theta = model
    law, less = family.law(theta).joint, 0.0
    for k in range(1, family.length + 1):
        masks = masks_of_size(family.length, k)
        more = block_information(law, family.statistics, masks)
        torch.testing.assert_close(
            factorised(law, family.statistics, masks).sensitivity, k * (more - less), rtol=0, atol=1e-12
        )
        less = more


@pytest.mark.parametrize("size", [2, 3, 5])
def test_independent_fair_spins_have_closed_forms(size):
    """A field is seen where its cell is hidden, a coupling where one of its cells is (factorised: just one)."""
    family, law = clique(size, 0.0, 0.0)
    pairs = math.comb(size, 2)
    for k in range(1, size + 1):
        masks = masks_of_size(size, k)
        seen = 1 - math.comb(size - 2, k) / math.comb(size, k)
        trace = float(joint_block(law, family.statistics, masks).trace())
        assert trace == pytest.approx(size * size / k + pairs / seen, rel=1e-12)
        if k < size:
            apart = 2 * k * (size - k) / (size * (size - 1))
            trace = float(factorised(law, family.statistics, masks).covariance(family.names).trace())
            assert trace == pytest.approx(size * size / k + pairs / apart, rel=1e-12)


def test_few_masks_at_a_time_give_the_same(monkeypatch):
    family, law = clique(5, 0.4, 0.1)
    masks = masks_of_size(5, 2)
    whole = [make(law, family.statistics, masks) for make in (averaged, factorised)]
    monkeypatch.setattr("remask.lab.information.ENTRIES", 3 * family.statistics.numel())
    parts = [make(law, family.statistics, masks) for make in (averaged, factorised)]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)


# ---- E1: masking more is better --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coupling", "traces", "digits", "gaps"),
    [
        (0.5, [114.015, 61.119, 47.202, 44.699], 3, [0.02160, 0.06417, 0.17267, 1]),
        (0.2, [34.988, 18.880, 14.257, 12.833], 3, [0.11601, 0.28265, 0.54190, 1]),
        (1.0, [2802.4, 1597.8, 1326.3, 1293.7], 1, [0.00070, 0.00298, 0.00917, 1]),
    ],
)
def test_traces_and_gaps_of_the_notes(coupling, traces, digits, gaps):
    family, law = clique(4, coupling, 0.1)
    found = [float(matrix.trace()) for matrix in covariances(joint_block, family, law)]
    assert [round(trace, digits) for trace in found] == traces
    assert float(inverse(fisher(law, family.statistics), family.names).trace()) == pytest.approx(found[-1], rel=1e-12)
    ising_law = ising(4, coupling, 0.1)
    assert [round(gap(block_kernel(ising_law, k), law), 5) for k in (1, 2, 3, 4)] == gaps


@many
@given(models)
def test_masking_more_is_never_worse(model):
    """Gamma_(k+1) <= Gamma_k, and I_k <= I_(k+1), in the order of matrices."""
    family, theta = model
    found = covariances(joint_block, family, family.law(theta).joint)
    assert all(smallest(less - more) > -SLACK * float(less.trace()) for less, more in pairwise(found))
    found = covariances(block_information, family, family.law(theta).joint)
    assert all(smallest(more - less) > -1e-13 for less, more in pairwise(found))


@many
@given(models)
def test_the_poincare_bound_holds(model):
    family, theta = model
    law = family.law(theta)
    best = inverse(fisher(law.joint, family.statistics), family.names)
    for k, found in enumerate(covariances(joint_block, family, law.joint), 1):
        bound = best / gap(block_kernel(law, k), law.joint)
        assert smallest(bound - found) > -SLACK * float(bound.trace())


def test_a_bound_from_the_next_gap_would_be_caught():
    """The check can fail: without interaction the bound is tight for the fields, and k + 1 promises too much."""
    family, law = clique(4, 0.0, 0.0)
    best, found = inverse(fisher(law, family.statistics), family.names), covariances(joint_block, family, law)
    gaps = [gap(block_kernel(ising(4, 0.0), k), law) for k in (1, 2, 3, 4)]
    assert abs(smallest(best / gaps[0] - found[0])) < 1e-12
    assert smallest(best / gaps[1] - found[0]) < -1


# ---- E2: the factorised loss, and averages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coupling", "traces", "digits"), [(0.5, [114.0, 80.8, 119.2], 1), (1.0, [2802, 3282, 7846], 0)]
)
def test_the_factorised_loss_breaks_the_order(coupling, traces, digits):
    family, law = clique(4, coupling, 0.1)
    found = [factorised(law, family.statistics, masks_of_size(4, k)).covariance(family.names) for k in (1, 2, 3)]
    assert [round(float(matrix.trace()), digits) for matrix in found] == traces
    assert smallest(found[1] - found[2]) < -1  # 3 masked cells are worse than 2
    with pytest.raises(BadInput, match=r"singular: it says nothing about J\(3,4\) .* \(6 such combinations\)"):
        factorised(law, family.statistics, masks_of_size(4, 4)).covariance(family.names)


@pytest.mark.parametrize(("graph", "size"), [("clique", 4), ("ring", 5), ("path", 3), ("clique", 2)])
def test_single_site_marginals_do_not_identify_couplings(graph, size):
    """At k = L every direction of no information leaves all E[x_i] where they are: one for each edge."""
    family, theta = random_model(size, graph, 7)
    law, edges = family.law(theta).joint, edges_of(graph, size, 7)
    free = null_space(factorised(law, family.statistics, masks_of_size(size, size)).sensitivity)
    assert len(free) == len(edges)
    moved = fisher(law, family.statistics)[:size] @ free.T
    assert moved.abs().max() < 1e-12
    torch.testing.assert_close(free[:, size:].flip(0), torch.eye(len(edges)).double(), rtol=0, atol=1e-12)
    assert not len(null_space(factorised(law, family.statistics, masks_of_size(size, size - 1)).sensitivity))


def test_averages_over_all_masks_are_nearly_maximum_likelihood():
    family, law = clique(4, 0.5, 0.1)
    found = covariances(all_averaged, family, law)
    assert [round(float(matrix.trace()), 3) for matrix in found] == [44.906, 44.699, 44.699, 44.699]


@many
@given(models)
def test_averages_lie_between_one_mask_and_maximum_likelihood(model):
    family, theta = model
    law = family.law(theta).joint
    best = inverse(fisher(law, family.statistics), family.names)
    for one, mean in zip(covariances(joint_block, family, law), covariances(all_averaged, family, law)):
        assert smallest(one - mean) > -SLACK * float(one.trace())
        assert smallest(mean - best) > -SLACK * float(mean.trace())


@pytest.mark.parametrize(("seed", "lowest"), [(3, -1.01e-4), (7, -1.12e-4)])
def test_the_order_of_averages_can_fail_slightly(seed, lowest):
    """It is no theorem: from k = 1 to k = 2 some direction is estimated worse, by less than a percent; the trace
    falls."""
    family, theta = random_model(5, "clique", seed)
    law = family.law(theta).joint
    one, two = (all_averaged(law, family.statistics, masks_of_size(5, k)) for k in (1, 2))
    assert smallest(one - two) == pytest.approx(lowest, rel=0.01)
    assert smallest(1.01 * one - two) > 0 and two.trace() < one.trace()


# ---- singular matrices -----------------------------------------------------------------------------------------------


def test_a_direction_is_spelled_from_its_largest_parameter():
    names = ["h(1)", "h(2)", "J(1,2)"]
    assert spelled(torch.tensor([0.42, 0.0, -2.0]), names) == "J(1,2) - 0.21 h(1)"
    assert spelled(torch.tensor([0.5, 0.5, 1e-9]), names) == "h(1) + 1 h(2)"
    assert spelled(torch.arange(1.0, 7.0), list("abcdef")) == "f + 0.83 e + 0.67 d + 0.5 c + ..."


def test_the_inverse_names_what_cannot_be_learned():
    names = ["a", "b", "c"]
    one = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    seen = torch.diag(torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)) + torch.outer(one, one)
    with pytest.raises(
        BadInput, match=r"of this law is singular: it says nothing about a \+ 0.5 b \(1 such combination\)"
    ):
        inverse(seen, names, "this law")
    with pytest.raises(BadInput, match="3 such combinations"):
        inverse(torch.zeros(3, 3, dtype=torch.float64), names)


def test_the_inverse_does_not_mind_units():
    """Parameters of very different size are not singular."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    unit = torch.diag(torch.tensor([1e-6, 1.0, 1e3, 1e5], dtype=torch.float64))
    matrix = root @ root.T
    found = inverse(unit @ matrix @ unit, list("abcd"))
    torch.testing.assert_close(unit @ found @ unit, torch.linalg.inv(matrix), rtol=1e-9, atol=0)
    assert not len(null_space(unit @ matrix @ unit))


def test_scores_have_mean_zero_in_every_context():
    family, law = clique(4, 0.6, 0.2)
    masks = masks_of_size(4, 2)
    weights = law.expand(len(masks), -1)
    scores = score(weights, family.statistics, masks)
    index = contexts(masks, 16)
    for at in range(len(masks)):
        means = torch.einsum("cd,cdp->cp", by_context(weights, index)[at], scores[at][index[at]])
        assert means.abs().max() < 1e-15


@pytest.mark.parametrize("k", [0, 5, -1])
def test_k_outside_the_law_is_refused(k):
    with pytest.raises(BadInput, match=rf"k came as {k}: type a number of masked cells from 1 to 4"):
        masks_of_size(4, k)
