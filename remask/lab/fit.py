"""Fits: minimise a loss of masked cells over the parameters of an exponential family, and see how the fits scatter.

The joint block loss -log p(x_K | x_-K) of an exponential family is convex, so Newton's method finds its minimum from
anywhere, many fits at once. The factorised loss, the sum over j in K of -log p(x_j | x_-K), is not convex: it gets
L-BFGS (Liu & Nocedal 1989, Mathematical Programming 45) from where the caller starts it. A sample counts as one (row,
mask) pair; what a fit reads is the share of every pair.
Shapes: R fits, S states, L length, P parameters, M masks, C contexts of a mask, D blocks of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.lab.information import Family, but_one, by_context, contexts, pieces, uniform

STEPS = 60  # of Newton: it needs about 6 where there is a minimum
HALVINGS = 40
CLOSE = 1e-9  # the last step's largest component
FAR = 25.0  # a parameter that has moved so far is on its way to infinity
ROUNDING = 1e-12  # nats by which a loss may seem to rise
ENTRIES = 2**22  # numbers held at a time


class BlockLoss(NamedTuple):
    """-log p(x_K | x_-K, K). masks: [M, L] bool; log_given: log p(K | x), [M, S], of masks that depend on the row, or
    None: the factor that the conditional then carries."""

    family: Family
    masks: Tensor
    log_given: Tensor | None = None

    def _pieces(self, theta: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some masks at a time: the states by context [M, C, D], their log weights and their shares [R, M, C, D]."""
        statistics = self.family.statistics
        energy = (theta @ statistics.T)[:, None]
        given = torch.zeros(1).expand(len(self.masks), len(statistics)) if self.log_given is None else self.log_given
        for masks, factor, part in pieces(statistics, self.masks, given, weights.transpose(0, 1), fits=len(theta)):
            index = contexts(masks, len(statistics))
            yield index, by_context(energy + factor, index), by_context(part.transpose(0, 1), index)

    def __call__(self, theta: Tensor, weights: Tensor) -> Tensor:
        """The loss at theta [R, P], nats, its weights [R, M, S] the shares of (mask, row): [R]."""
        total = torch.zeros(len(theta), dtype=torch.float64)
        for _, energy, part in self._pieces(theta, weights):
            total = total - torch.where(part > 0, part * energy.log_softmax(3), 0.0).sum((1, 2, 3))
        return total

    def derivatives(self, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [R, P] and Hessian [R, P, P]: means and covariances of T, context by context."""
        statistics = self.family.statistics
        expected = torch.zeros(len(theta), len(statistics), dtype=torch.float64)
        less = torch.zeros(len(theta), *2 * statistics.shape[1:], dtype=torch.float64)
        for index, energy, part in self._pieces(theta, weights):
            share, mass = energy.softmax(3), part.sum(3, keepdim=True)
            mean = torch.einsum("rmcd,mcdp->rmcp", share, statistics[index])
            less += (mean * mass).flatten(1, 2).mT @ mean.flatten(1, 2)
            expected.index_add_(1, index.flatten(), (share * mass).flatten(1))
        gradient = (expected - weights.sum(1)) @ statistics
        return gradient, (expected[:, :, None] * statistics).mT @ statistics - less


class Fits(NamedTuple):
    """parameters: [R, P]; found: which fits have a minimum, [R] bool (the others run to infinity)."""

    parameters: Tensor
    found: Tensor


def newton(loss: BlockLoss, weights: Tensor, start: Tensor) -> Fits:
    """Minimise the loss for every set of weights [R, M, S] from start [P], by Newton steps that are halved until the
    loss falls."""
    theta = start.expand(len(weights), -1).clone()
    found = torch.zeros(len(weights), dtype=torch.bool)
    open_ = torch.arange(len(weights))
    for _ in range(STEPS):
        now, part = theta[open_], weights[open_]
        gradient, hessian = loss.derivatives(now, part)
        move, _ = torch.linalg.solve_ex(hessian, gradient[:, :, None])
        move = _halved(loss, now, part, move[:, :, 0])
        theta[open_] = now - move
        close = move.abs().amax(1) < CLOSE
        found[open_[close]] = True
        lost = ~((theta[open_] - start).abs().amax(1) < FAR)
        open_ = open_[~(close | lost)]
        if not len(open_):
            break
    return Fits(theta, found)


def _halved(loss: BlockLoss, theta: Tensor, weights: Tensor, move: Tensor) -> Tensor:
    before = loss(theta, weights)
    for _ in range(HALVINGS):
        rises = loss(theta - move, weights) > before + ROUNDING
        if not rises.any():
            break
        move = torch.where(rises[:, None], move / 2, move)
    return move


def factorised_loss(family: Family, masks: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
    """The sum over the masked cells of -log p(x_j | x_-K), as a function of theta [P]; weights: [M, S]."""
    index = contexts(masks, len(family.statistics))
    terms = [(index, by_context(weights, index).sum(2) * int(masks[0].sum()))]
    for rest in but_one(masks):
        index = contexts(rest, len(family.statistics))
        terms.append((index, -by_context(weights, index).sum(2)))

    def loss(theta: Tensor) -> Tensor:
        energy = family.statistics @ theta
        return torch.stack([(mass * energy[index].logsumexp(2)).sum() for index, mass in terms]).sum()

    return loss


def lbfgs(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """A minimum of a differentiable loss of theta [P], near start: [P]. BadInput where it runs away."""
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=1000,
        history_size=len(start),
        tolerance_grad=CLOSE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)
    found = theta.detach()
    if not (found - start).abs().max() < FAR:
        raise BadInput("the loss has no minimum near the start: its estimate runs to infinity; take more samples.")
    return found


def draw(law: Tensor, masks: Tensor, samples: int, repeats: int, seed: int, given: Tensor | None = None) -> Tensor:
    """Shares of the (mask, row) pairs in `repeats` sets of `samples` pairs, [R, M, S].

    law: [S]; given: p(K | x), [M, S]; default: each of the masks [M, L] equally likely.
    """
    both = uniform(law, masks) if given is None else law * given
    share = (both / both.sum()).flatten().numpy()
    counts = np.random.default_rng(seed).multinomial(samples, share / share.sum(), size=repeats)
    return torch.from_numpy(counts).double().view(repeats, len(masks), -1) / samples


def monte_carlo(family: Family, theta: Tensor, masks: Tensor, samples: int, repeats: int, seed: int) -> Estimate:
    """samples * squared error, summed over the parameters: mean over `repeats` fits of the joint block loss, each to
    `samples` rows of the law at theta [P] with one random mask each. BadInput where a fit has no minimum."""
    weights = draw(family.law(theta).joint, masks, samples, repeats, seed)
    loss, (states, parameters) = BlockLoss(family, masks), family.statistics.shape
    fits = [newton(loss, part, theta) for part in weights.split(max(1, ENTRIES // (states * parameters)))]
    lost = sum(int((~fit.found).sum()) for fit in fits)
    if lost:
        raise BadInput(
            f"{lost} of {repeats} fits to {samples} samples at k = {int(masks[0].sum())} run to infinity: "
            "what they would have to tell apart was not drawn; type more --samples."
        )
    error = samples * (torch.cat([fit.parameters for fit in fits]) - theta).square().sum(1)
    spread = float(error.std()) / math.sqrt(repeats) if repeats > 1 else math.nan
    return Estimate(float(error.mean()), spread, "samples * squared error", repeats)
