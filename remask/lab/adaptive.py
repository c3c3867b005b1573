"""Adaptive masks: which cells are hidden depends on the row, K ~ p(K | x), as where a trainer masks what is hard.

The pair (x, K) has the joint law p(x) p(K | x), so the conditional of the block is

    p(x_K | x_-K, K) ~ p(x) p(K | x)      over the blocks x_K.

With the factor p(K | x), redrawing the block is Gibbs on the pair: reversible, and p is kept; the loss is consistent
and its information is E Cov(T | x_-K, K). Without it, p is not kept and the loss's minimum is not the truth
(Li et al. 2024, arXiv 2407.21046). p(K | x) is part of the data: it does not move with the parameters.
Shapes: S states, L length, P parameters, M masks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.lab.fit import BlockLoss, newton
from remask.lab.information import (
    Family,
    Sandwich,
    block_information,
    contexts,
    gram,
    pieces,
    score,
    uniform,
)

SMALLEST = 1e-300  # a mask that is never chosen


class Minimum(NamedTuple):
    """Where a loss that may be wrong has its minimum, and how fits to n rows scatter about it.

    parameters: [P]; gradient: of the mean loss at the truth, [P] (0 for a consistent loss); covariance: of
    sqrt(n) (estimate - parameters), [P, P].
    """

    parameters: Tensor
    gradient: Tensor
    covariance: Tensor


def random_given(masks: int, states: int, seed: int) -> Tensor:
    """Any p(K | x) at all: for every state a uniform draw from the simplex, [M, S]."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([1.0] * masks, size=states)).T.contiguous()


def hard_given(law: Tensor, masks: Tensor, strength: float) -> Tensor:
    """p(K | x) ~ exp(strength * sum over K of -log p(x_i | all others)), [M, S]: surprising cells are hidden more
    often; strength 0 hides all masks [M, L] alike."""
    index, log_law = contexts(torch.eye(masks.shape[1], dtype=torch.bool), len(law)), law.log()
    nats = log_law[index].logsumexp(2, keepdim=True) - log_law[index]
    hardness = torch.empty(masks.shape[1], len(law), dtype=torch.float64)
    hardness.scatter_(1, index.flatten(1), nats.flatten(1))
    hardness = torch.where(law > 0, hardness, 0.0)  # a row that never comes may hide what it likes
    return (strength * (masks.double() @ hardness)).softmax(0)


def adaptive_kernel(law: Tensor, masks: Tensor, given: Tensor, corrected: bool = True) -> Tensor:
    """Choose K ~ p(K | x), redraw x_K from p(x_K | x_-K, K): transition matrix [S, S]. corrected=False leaves the
    factor p(K | x) out of the redraw."""
    kernel = torch.zeros(len(law), len(law), dtype=torch.float64)
    for index, chosen in zip(contexts(masks, len(law)), given):
        mass = (law * chosen if corrected else law)[index]
        total = mass.sum(1, keepdim=True)
        redrawn = torch.where(total > 0, mass / total, 1 / index.shape[1])
        kernel[index[:, :, None], index[:, None, :]] += chosen[index][:, :, None] * redrawn[:, None, :]
    return kernel


def corrected(family: Family, theta: Tensor, masks: Tensor, given: Tensor) -> Minimum:
    """The loss that carries p(K | x): its minimum is theta [P], its covariance the inverse of its information."""
    law = family.law(theta).joint
    information = block_information(law, family.statistics, masks, given)
    covariance = Sandwich(information, information).covariance(family.names, "the adaptive loss")
    loss = BlockLoss(family, masks, given.clamp_min(SMALLEST).log())
    return Minimum(theta, loss.derivatives(theta[None], (law * given)[None])[0][0], covariance)


def uncorrected(family: Family, theta: Tensor, masks: Tensor, given: Tensor) -> Minimum:
    """The loss -log p(x_K | x_-K) as if K had not looked at the row: where its minimum lies when theta [P] is true.

    The covariance is the sandwich there (White 1982, Econometrica 50). BadInput where there is no minimum.
    """
    both = family.law(theta).joint * given
    loss = BlockLoss(family, masks)
    fit = newton(loss, both[None], theta)
    if not fit.found[0]:
        raise BadInput("the adaptive loss without its factor has no minimum: take smaller couplings and fields.")
    wrong, model = fit.parameters[0], family.law(fit.parameters[0]).joint
    variability = torch.zeros(2 * family.statistics.shape[1:], dtype=torch.float64)
    for some, part, own in pieces(family.statistics, masks, both, uniform(model, masks)):
        variability += gram(part, score(own, family.statistics, some))
    sandwich = Sandwich(loss.derivatives(wrong[None], both[None])[1][0], variability)
    covariance = sandwich.covariance(family.names, "the adaptive loss without its factor")
    return Minimum(wrong, loss.derivatives(theta[None], both[None])[0][0], covariance)
