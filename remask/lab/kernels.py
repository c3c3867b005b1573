"""Kernels: the transition matrices of chains over all states of a law, their gaps, and the time that they need.

`block_kernel` is k-Gibbs: reversible, and p is its stationary law. The two that one network call can do are not:
`synchronous_kernel` tends to a law of its own (for Ising laws pi(x) ~ exp(sum_i h_i x_i) prod_i cosh(h_i + sum_j J_ij
x_j): Little 1974, Mathematical Biosciences 19), and so does `mask_independent_kernel`.
Times and stationary laws are found by eliminating one state after the other without a subtraction, so they are right to
the last digits however slow the chain is (Grassmann, Taksar & Heyman 1985, Operations Research 33). Reversible gaps are
Dirichlet forms (Levin, Peres & Wilmer 2009, Markov Chains and Mixing Times, section 13.2), for the same reason.
Shapes: S states, in the order of the law's `states`; L length, A symbols; kernel [S, S], rows sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.lab.laws import Law

MOST_STATES = 2**12  # a kernel of so many is 128 MiB
DENSE = 256  # states up to which all eigenvalues are computed
KRYLOV = 600  # vectors at most, above it
CHECK = 20  # vectors between two looks at the residual
RESIDUAL = 1e-12
BLOCK = 64  # states eliminated between two matrix products
LOST = 1e-24  # a gap that is smaller is rounding
LOST_OTHER = 1e-12  # the same for chains that are not reversible
ALIKE = 1e-9  # relative difference of two flows that detailed balance forgives


def block_kernel(law: Law, k: int) -> Tensor:
    """k-Gibbs: choose one of the subsets of k cells, each equally likely, and redraw it jointly from p(. | the rest).

    k = 1 is random-scan Gibbs, k = L a fresh sample. BadInput for k outside 1..L, or more than 2^12 states.
    """
    return _redrawn(law, k, lambda given, shape: given)


def mask_independent_kernel(law: Law, k: int) -> Tensor:
    """Mask a uniform subset of k cells and draw each from p(x_j | the unmasked rest) by itself, a product of marginals:
    one step of Mask-Predict or masked diffusion at k tokens a step. For k = 1 the same as `block_kernel`."""
    return _redrawn(law, k, _product_of_marginals)


def synchronous_kernel(law: Law) -> Tensor:
    """Every cell at once from p(x_i | all others), as the state before the step has them."""
    check_kernel(law)
    joint = law.joint.view([law.symbols] * law.length)
    kernel = torch.ones(len(law.joint), 1, dtype=torch.float64)
    for i in range(law.length):
        given = _normalised(joint.movedim(i, -1), law.symbols).unsqueeze(i)
        rows = given.expand([law.symbols] * law.length + [-1]).reshape(-1, 1, law.symbols)
        kernel = (kernel[:, :, None] * rows).flatten(1)
    return kernel


def check_kernel(law: Law, k: int = 1) -> None:
    """BadInput for a law with too many states for a matrix, or a block that it does not have."""
    if len(law.joint) > MOST_STATES:
        raise BadInput(
            f"{law.length} cells of {law.symbols} symbols have {law.symbols}^{law.length} states, more than the 2^12 "
            "whose transition matrix is made: take fewer cells, or measure the autocorrelation of a run instead."
        )
    if not 1 <= k <= law.length:
        raise BadInput(f"blocks of {k} cells were asked for, of a law of {law.length}: k must be 1 to {law.length}.")


def _redrawn(law: Law, k: int, refill: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """Mean over all blocks of the kernel that draws the block from refill(p(block | rest) [rest, block], its shape)."""
    check_kernel(law, k)
    symbols, length, states = law.symbols, law.length, len(law.joint)
    number, joint = torch.arange(states).view([symbols] * length), law.joint.view([symbols] * length)
    kernel = torch.zeros(states * states, dtype=torch.float64)
    for block in combinations(range(length), k):
        order = [i for i in range(length) if i not in block] + list(block)
        state = number.permute(order).reshape(-1, symbols**k)
        given = _normalised(joint.permute(order).reshape(-1, symbols**k), symbols**k)
        drawn = refill(given, [symbols] * k)[:, None, :].expand(-1, symbols**k, -1)
        kernel.index_add_(0, (state[:, :, None] * states + state[:, None, :]).flatten(), drawn.flatten())
    return kernel.view(states, states) / math.comb(length, k)


def _normalised(mass: Tensor, outcomes: int) -> Tensor:
    """Rows that sum to 1; uniform where a context cannot occur."""
    total = mass.sum(-1, keepdim=True)
    return torch.where(total > 0, mass / total, 1 / outcomes)


def _product_of_marginals(given: Tensor, shape: list[int]) -> Tensor:
    joint, product = given.view(-1, *shape), torch.ones(len(given), 1, dtype=torch.float64)
    for cell in range(1, len(shape) + 1):
        marginal = joint.movedim(cell, 1).reshape(len(given), shape[cell - 1], -1).sum(2)
        product = (product[:, :, None] * marginal[:, None, :]).flatten(1)
    return product


def probabilities(law: Law | Tensor) -> Tensor:
    """Of every state, [S] float64."""
    return law.joint if isinstance(law, Law) else law.double()


def total_variation(law: Law | Tensor, other: Law | Tensor) -> float:
    """Half the L1 distance, 0 to 1."""
    return float((probabilities(law) - probabilities(other)).abs().sum() / 2)


def detailed_balance(kernel: Tensor, law: Law | Tensor) -> float:
    """The largest |p(x) P(x, y) - p(y) P(y, x)|: 0 (to rounding) where the chain is reversible and keeps p."""
    flow = probabilities(law)[:, None] * kernel
    return float((flow - flow.T).abs().max())


def distance_to(law: Law | Tensor, kernel: Tensor, start: int | Tensor, steps: int) -> Tensor:
    """Total variation to `law` after 0, 1, ... steps, [steps + 1]; start: a state's number, or a law [S]."""
    now = torch.nn.functional.one_hot(torch.tensor(start), len(kernel)).double() if isinstance(start, int) else start
    aim, found = probabilities(law), []
    for _ in range(steps + 1):
        found.append((now - aim).abs().sum() / 2)
        now = now @ kernel
    return torch.stack(found)


def stationary(kernel: Tensor) -> Tensor:
    """The law that the chain keeps, [S], each entry to about 14 digits; states that it leaves for ever have 0.

    BadInput where there is more than one such law, because the chain cannot get from one part of the states to another.
    """
    closed, reaching = _closed(kernel, 0)
    if not reaching.all():
        raise BadInput(_stuck(closed, int((~reaching).long().argmax())))
    keep = torch.nonzero(closed)[:, 0]
    rates, _ = _eliminated(kernel[keep][:, keep], len(keep) - 1)
    weight = torch.ones(len(keep), dtype=torch.float64)
    for state in reversed(range(len(keep) - 1)):
        weight[state] = weight[state + 1 :] @ rates[state + 1 :, state]
    if not weight.isfinite().all():
        raise BadInput("the stationary law's ratios overflow: take smaller couplings and fields.")
    law = torch.zeros(len(kernel), dtype=torch.float64)
    law[keep] = weight / weight.sum()
    return law


def escape_time(kernel: Tensor, start: int, target: Tensor) -> float:
    """Mean number of steps from a state until one of the `target` states [S] bool; inf where it may never come.

    Solves t(x) = 1 + sum_y P(x, y) t(y) off the target, t = 0 on it.
    """
    if target[start]:
        return 0.0
    edges = kernel > 0
    begin = torch.zeros_like(target)
    begin[start] = True
    met = _reached(edges & ~target[:, None], begin)
    keep = torch.nonzero(met & ~target)[:, 0]
    if not _reached(edges.T, target)[keep].all():
        return math.inf
    leave = kernel[keep][:, target].sum(1, keepdim=True)
    rates, exits = _eliminated(torch.cat([kernel[keep][:, keep], leave], 1), len(keep))
    time = torch.ones(len(keep), dtype=torch.float64)
    for state in range(len(keep)):
        time[state + 1 :] += rates[state + 1 :, state] * time[state]
    for state in reversed(range(len(keep))):
        later = rates[state, state + 1 : len(keep)] @ time[state + 1 :]
        time[state] = (time[state] + later) / exits[state]
    found = float(time[int((keep == start).long().argmax())])
    return found if math.isfinite(found) else math.inf


def gap(kernel: Tensor, law: Law | Tensor, must_mix: bool = True) -> float:
    """Absolute spectral gap, 1 - the largest |eigenvalue| but for the 1 that every chain has; per step of the chain.

    A chain that is reversible with respect to `law` (block kernels, which have no eigenvalue below 0, so that this is
    1 - the second; synchronous ones with their own stationary law) is symmetrised, sqrt(p(x)) P(x, y) / sqrt(p(y)), and
    its gap is the Dirichlet form of the slowest function f over the variance of f, whose digits are right down to
    gaps of 1e-24. For any other it is 1 - |second eigenvalue| of the matrix as it is, to about 1e-12, and says how fast
    the chain converges in the end, not how far it is at first.
    Only states that can be reached from those with p > 0 count. BadInput where the gap is 0: the chain cannot get from
    one part of the states to another, swings for ever, or is too slow for float64; must_mix=False returns 0.
    """
    law = probabilities(law)
    seen = _reached(kernel > 0, law > 0)
    keep = torch.nonzero(seen)[:, 0]
    kernel, law = kernel[keep][:, keep], law[keep] / law.sum()
    closed, reaching = _closed(kernel, 0)
    if not reaching.all():
        if must_mix:
            raise BadInput(_stuck(closed, int((~reaching).long().argmax()), keep))
        return 0.0
    if len(keep) == 1:
        return 1.0
    found = _reversible_gap(kernel, law) if _reversible(kernel, law) else _other_gap(kernel)
    if found <= 0 and must_mix:
        raise BadInput(
            "the chain swings for ever, or cannot leave a part of the states within as many steps as float64 can tell, "
            "so its gap is 0: take smaller couplings, or larger blocks."
        )
    return found


def _reversible(kernel: Tensor, law: Tensor) -> bool:
    flow = law[:, None] * kernel
    return bool((law > 0).all() and ((flow - flow.T).abs() <= ALIKE * (flow + flow.T)).all())


def _reversible_gap(kernel: Tensor, law: Tensor) -> float:
    root = law.sqrt()
    symmetric = (kernel * kernel.T).sqrt() - root[:, None] * root
    value, vector = _leading(symmetric, symmetric=True)
    if abs(value) < 0.5:
        return 1 - abs(value)  # nothing cancels; and where all is 0, any vector is the slowest
    vector = vector - (vector @ root) * root
    function = vector / root
    differs = function[:, None] - math.copysign(1.0, value) * function
    found = float((law[:, None] * kernel * differs**2).sum() / 2 / (vector**2).sum())
    return found if found > LOST else 0.0


def _other_gap(kernel: Tensor) -> float:
    value, _ = _leading(kernel - stationary(kernel), symmetric=False)
    found = 1 - abs(value)
    return found if found > LOST_OTHER else 0.0


def _leading(matrix: Tensor, symmetric: bool) -> tuple[float, Tensor]:
    """The largest eigenvalue in absolute value (its modulus where it is not real) and a vector for it, [S]."""
    if len(matrix) <= DENSE:
        return _largest(matrix, symmetric)
    noise = Stream.of(0).uniform(0, Purpose.START, len(matrix))[0] - 0.5
    basis, projected = [noise / noise.norm()], torch.zeros(KRYLOV + 1, KRYLOV, dtype=torch.float64)
    for n in range(1, KRYLOV + 1):  # Arnoldi 1951: the matrix as seen from the space of v, Mv, M^2 v ...
        image, known = matrix @ basis[-1], torch.stack(basis)
        for _ in range(2):  # once more, against rounding
            share = known @ image
            projected[:n, n - 1] += share
            image = image - share @ known
        size = image.norm()
        projected[n, n - 1] = size
        if n % CHECK == 0 or size < RESIDUAL:
            small = projected[:n, :n]
            value, vector = _largest((small + small.T) / 2 if symmetric else small, symmetric)
            if float(size * vector[-1].abs()) < RESIDUAL * float(vector.norm()):
                return value, vector @ known
        basis.append(image / size)
    return _largest(matrix, symmetric)


def _largest(matrix: Tensor, symmetric: bool) -> tuple[float, Tensor]:
    if symmetric:
        values, vectors = torch.linalg.eigh(matrix)
        place = int(values.abs().argmax())
        return float(values[place]), vectors[:, place]
    values, vectors = torch.linalg.eig(matrix)
    place = int(values.abs().argmax())
    return float(values[place].abs()), vectors[:, place].abs()


def _eliminated(kernel: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` states taken out one after the other, each replaced by the ways that lead through it.

    kernel: [R, C]; a column beyond the rows is a state that is never left. Diagonals are never read, so nothing is
    subtracted. Returns the rates [R, C] (of state k: right of the diagonal to later states when it was taken out; below
    it from later states, over its exit) and exits [count], the rate at which each was left.
    """
    rates, exits = kernel.clone(), torch.zeros(count, dtype=torch.float64)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        for k in range(first, last):
            exits[k] = rates[k, k + 1 :].sum()
            rates[k + 1 :, k] /= exits[k]
            rates[k + 1 :, k + 1 : last] += rates[k + 1 :, k, None] * rates[k, k + 1 : last]
            rates[k + 1 : last, last:] += rates[k + 1 : last, k, None] * rates[k, last:]
        rates[last:, last:] += rates[last:, first:last] @ rates[first:last, last:]
    return rates, exits


def _reached(edges: Tensor, start: Tensor) -> Tensor:
    """The states that can be reached from `start` [S] bool, itself included, along edges [S, S] bool."""
    seen = frontier = start
    while frontier.any():
        frontier = edges[frontier].any(0) & ~seen
        seen = seen | frontier
    return seen


def _closed(kernel: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """A set of states, reached from `start`, that the chain cannot leave and moves about in, [S] bool; and which states
    lead to it, [S] bool."""
    edges, at = kernel > 0, torch.zeros(len(kernel), dtype=torch.bool)
    at[start] = True
    while True:
        ahead, behind = _reached(edges, at), _reached(edges.T, at)
        beyond = ahead & ~behind
        if not beyond.any():
            return ahead, behind
        at = torch.zeros_like(at)
        at[int(beyond.long().argmax())] = True


def _stuck(closed: Tensor, other: int, number: Tensor | None = None) -> str:
    first = int(closed.long().argmax())
    names = (first, other) if number is None else (int(number[first]), int(number[other]))
    part = f"{int(closed.sum())} of {len(closed)}"
    return (
        f"the chain cannot leave the part of the states around number {names[0]} ({part}; "
        f"it never meets number {names[1]} there), so its gap is 0 and it has no single stationary law: take smaller "
        "couplings, or larger blocks."
    )
