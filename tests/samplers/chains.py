"""Transition matrices of chains over the states of an oracle, by enumeration. Shapes: S states, L length."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from remask.core.conditional import Visible
from tests.oracle import Oracle


def clique(length: int, coupling: float, field: float, visible: Visible = Visible.DENOISE) -> Oracle:
    """Ising on the complete graph, p ~ exp(J sum_{i<j} x_i x_j + h sum x_i); the first symbol is -1."""
    spins = spins_of(length)
    total = spins.sum(1)
    energy = coupling * (total**2 - length) / 2 + field * total
    return Oracle("clique", energy.exp().view([2] * length), mask=0, end=2, visible=visible)


def spins_of(length: int) -> Tensor:
    """All states of -1 and 1, in the order of an oracle's, [S, L]."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * length)


def product_of(oracle: Oracle, context: Tensor, cells: list[int]) -> Tensor:
    """Law of the next state [S, S] when `cells` are drawn at once, each by itself, given `context` [S, L]; the other
    cells stay as the state has them."""
    states, size = oracle.states, len(oracle.states)
    log_prob = oracle(context)
    matrix = torch.ones(size, size, dtype=torch.float64)
    for i in range(oracle.length):
        if i in cells:
            matrix *= log_prob[:, i].exp()[:, states[:, i]]
        else:
            matrix *= (states[:, None, i] == states[None, :, i]).double()
    return matrix


def mask_then_independent(oracle: Oracle, size: int) -> Tensor:
    """Mask a random subset of `size` cells and draw them as a product of marginals, [S, S]."""
    subsets = list(combinations(range(oracle.length), size))
    total = torch.zeros(len(oracle.states), len(oracle.states), dtype=torch.float64)
    for subset in subsets:
        context = oracle.states.clone()
        context[:, list(subset)] = oracle.alphabet.mask
        total += product_of(oracle, context, list(subset))
    return total / len(subsets)


def synchronous(oracle: Oracle) -> Tensor:
    """Every cell at once from p(x_i | all others), [S, S]; the oracle must answer leave-one-out."""
    assert oracle.visible is Visible.LEAVE_ONE_OUT
    return product_of(oracle, oracle.states, list(range(oracle.length)))


def marginals(oracle: Oracle) -> Tensor:
    """The product of the marginals: what one parallel step from nothing but masks gives, [S]."""
    blank = torch.full((1, oracle.length), oracle.alphabet.mask)
    return oracle(blank)[0].exp().gather(1, oracle.states.T).prod(0)


def stationary(matrix: Tensor) -> Tensor:
    """The law that a chain tends to, [S]."""
    law = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
    return law @ torch.linalg.matrix_power(matrix, 2**20)
