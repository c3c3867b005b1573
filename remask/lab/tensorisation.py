"""Tensorisation: what a small loss in predicting masked blocks promises for the joint law.

q has the constant C_AT if KL(r || q) <= C_AT E_K E_{X ~ r} KL(r(. | X_-K) || q(. | X_-K)) for every law r, K uniform
among the blocks of k cells: block-generalised approximate tensorisation of entropy (Caputo & Parisi 2021,
arXiv 2004.10574; for masked language models Li et al. 2024, arXiv 2407.21046). With r the data and q the model,
Pinsker's inequality gives TV(r, q) <= sqrt(C_AT eps / 2), eps the model's excess loss a block. C_AT is at least 1 over
the spectral gap of k-Gibbs (r near q), 1 where k = L, and never smaller for smaller blocks.
The supremum is searched by gradient ascent: what is found is a lower bound on C_AT, and usually C_AT itself.
Shapes: R laws, S states, M blocks; logarithms throughout, float64.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.lab.kernels import block_kernel, check_kernel, gap, probabilities
from remask.lab.laws import Law

MOST_STATES = 2**8
SCALES = (0.03, 0.3, 1.0, 2.0)  # of the starts along the slowest function, to either side
RANDOM = 8  # starts in random directions
STEPS, RATE = 250, 0.1  # of the ascent, in log r - log q
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
LEAST = 1e-7  # nats of KL(r || q): below it the quotient is rounding


class Tensorisation(NamedTuple):
    """What the search found.

    constant: the largest quotient, a lower bound on C_AT; poincare: 1 / gap of k-Gibbs, another, which the constant
    includes; law: [S], the r of the largest quotient.
    """

    constant: float
    poincare: float
    law: Tensor


def blocks_of(law: Law, k: int) -> Tensor:
    """The numbers of all states, by block of k cells, what is outside it, and what is in it, [M, A^(L-k), A^k]."""
    check_kernel(law, k)
    number = torch.arange(len(law.joint)).view([law.symbols] * law.length)
    rests = [[i for i in range(law.length) if i not in block] for block in combinations(range(law.length), k)]
    inside = [[i for i in range(law.length) if i not in rest] for rest in rests]
    return torch.stack([number.permute(a + b).reshape(-1, law.symbols**k) for a, b in zip(rests, inside)])


def divergence(log_r: Tensor, log_q: Tensor) -> Tensor:
    """KL(r || q) over the last axis, nats; both normalised. No cancellation where r is near q."""
    log_ratio = log_r - log_q
    return (log_q.exp() * (log_ratio * log_ratio.exp() - log_ratio.expm1())).sum(-1)


def block_divergence(log_r: Tensor, log_q: Tensor, blocks: Tensor) -> Tensor:
    """E_K E_{X ~ r} KL(r(. | X_-K) || q(. | X_-K)), nats a block: the excess loss of model q where the data are r, [R].

    log_r: [R, S] normalised; log_q: [S]; blocks: [M, rest, block] from `blocks_of`.
    """
    r, q = log_r[:, blocks], log_q[blocks]
    rest_r, rest_q = r.logsumexp(-1, keepdim=True), q.logsumexp(-1, keepdim=True)
    within = divergence(r - rest_r, q - rest_q)
    return (rest_r[..., 0].exp() * within).sum(-1).mean(-1)


def bound(constant: float, excess: float) -> float:
    """sqrt(C_AT eps / 2), at most 1: the total variation that an excess loss of eps nats a block allows."""
    if not excess >= 0:
        raise BadInput(f"an excess loss of {excess} nats came: it is a divergence, 0 or more.")
    return min(math.sqrt(constant * excess / 2), 1.0)


def tensorisation(law: Law, k: int, seed: int = 0, steps: int = STEPS) -> Tensorisation:
    """C_AT of q = law for blocks of k cells, from below.

    The starts lie along the slowest function of k-Gibbs, where the quotient tends to 1 / gap, and in random directions.
    BadInput for more than 2^8 states, for a law with states of probability 0, and where the gap is 0 (no C_AT exists).
    """
    if len(law.joint) > MOST_STATES:
        raise BadInput(
            f"{law.length} cells of {law.symbols} symbols have {law.symbols}^{law.length} states, more than the 2^8 "
            "over which the tensorisation constant is maximised: take fewer cells."
        )
    if not (law.joint > 0).all():
        raise BadInput(
            f"the law '{law.name}' has states of probability 0: no tensorisation constant is searched there."
        )
    if k == law.length:
        return Tensorisation(1.0, 1.0, law.joint)
    blocks, log_q = blocks_of(law, k), law.joint.log()
    kernel = block_kernel(law, k)
    poincare = 1 / gap(kernel, law)
    best, worst = _ascend(_starts(kernel, law, seed), log_q, blocks, steps)
    return Tensorisation(max(best, poincare), poincare, worst)


def _starts(kernel: Tensor, law: Law, seed: int) -> Tensor:
    """log r - log q to begin with, [R, S]."""
    root = probabilities(law).sqrt()
    symmetric = root[:, None] * kernel / root
    slowest = torch.linalg.eigh((symmetric + symmetric.T) / 2 - root[:, None] * root)[1][:, -1] / root
    slowest = slowest / slowest.abs().max()
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((RANDOM, len(root))))
    return torch.cat([torch.stack([sign * scale * slowest for scale in SCALES for sign in (1, -1)]), noise])


def _ascend(tilt: Tensor, log_q: Tensor, blocks: Tensor, steps: int) -> tuple[float, Tensor]:
    """The largest quotient met on the way up from each start [R, S], and its law [S]."""
    best, worst = 1.0, log_q.exp()
    mean, square = torch.zeros_like(tilt), torch.zeros_like(tilt)
    for step in range(1, steps + 1):
        tilt = tilt.detach().requires_grad_()
        log_r = (tilt + log_q).log_softmax(1)
        whole = divergence(log_r, log_q)
        up = (whole / block_divergence(log_r, log_q, blocks)).log()
        quotient = torch.where(whole > LEAST, up, -torch.inf).detach().exp()
        top = int(quotient.argmax())
        if quotient[top] > best:
            best, worst = float(quotient[top]), log_r[top].detach().exp()
        # Adam (Kingma & Ba 2015, arXiv 1412.6980) by hand: importing torch.optim takes longer than the whole ascent
        (slope,) = torch.autograd.grad(up.sum(), tilt)
        mean, square = mean.lerp(slope, 1 - FIRST), square.lerp(slope**2, 1 - SECOND)
        size = RATE * (1 + math.cos(math.pi * step / steps)) / 2 / (1 - FIRST**step)
        tilt = tilt + size * mean / ((square / (1 - SECOND**step)).sqrt() + TINY)
    return best, worst
