"""Which token: exact categorical draws by inverse CDF, and their relatives.

One 53-bit uniform a cell, sums in float64. There is no Gumbel noise: drawn in float32 it truncates rare tokens, lowers
entropy and flatters generative perplexity (Zheng et al. 2024, arXiv 2409.02908).
Shapes: N cells, V vocabulary, B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from remask.core.errors import BadInput

BLOCK = 128  # tokens summed together: the CDF is searched over blocks first, then inside one block
NOTHING = "a cell has no token left that may be drawn: ban fewer tokens, or look for NaN in the net."
CHUNK = 64  # rows handled at a time, so that the scratch space stays in the cache


class Draw(Protocol):
    """How tokens are drawn at open cells."""

    @property
    def joint(self) -> bool:
        """True when the draw must see all open cells at once (a constraint); False when cells are independent."""
        ...

    @property
    def faithful(self) -> bool:
        """True when tokens follow the conditionals as they are, so that an exact sampler stays exact."""
        ...

    def __call__(self, log_prob: Tensor, uniform: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """Tokens [N] for log p [N, V] and uniforms [N] float64 at the N True cells of `at` [B, L].

        tokens: [B, L] the canvas, for draws that must agree with what is already written.
        """
        ...


def inverse_cdf(log_prob: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the CDF of each row passes its uniform, [N].

    log_prob: [N, V] in any float type, need not be normalised; -inf = never drawn.
    uniform: [N] float64 in [0, 1).
    """
    parts = [_invert(_exponentials(rows), u) for rows, u in zip(log_prob.split(CHUNK), uniform.split(CHUNK))]
    return torch.cat(parts) if parts else uniform.new_zeros(0, dtype=torch.int64)


def inverse_cdf_of(prob: Tensor, uniform: Tensor) -> Tensor:
    """The same for probabilities [N, V] (float32 or float64) that need not sum to 1."""
    parts = [_invert(*rows) for rows in zip(prob.split(CHUNK), uniform.split(CHUNK))]
    return torch.cat(parts) if parts else uniform.new_zeros(0, dtype=torch.int64)


def _exponentials(log_prob: Tensor) -> Tensor:
    if log_prob.dtype != torch.float64:
        log_prob = log_prob.float()  # a bfloat16 difference would move rare tokens by percents
    return (log_prob - log_prob.amax(1, keepdim=True)).exp()


def _invert(prob: Tensor, uniform: Tensor) -> Tensor:
    rows, size = prob.shape
    prob = torch.nn.functional.pad(prob, (0, -size % BLOCK)).view(rows, -(-size // BLOCK), BLOCK)
    edges = prob.sum(2, dtype=torch.float64).cumsum(1)
    total = edges[:, -1:]
    if not (total > 0).all():  # NaN too
        raise BadInput(NOTHING)
    # u * total may round up to total, where no token lies
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    block = torch.searchsorted(edges, target, right=True)
    before = torch.where(block > 0, edges.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = prob.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(1)
    place = torch.searchsorted(inside, target - before, right=True)
    # the two sums round differently: never step past the last token of the block that has any probability
    last = torch.searchsorted(inside, inside[:, -1:].contiguous())
    return (block * BLOCK + torch.minimum(place, last))[:, 0]


@dataclass(frozen=True)
class Categorical:
    """Each cell by itself from its own distribution: exact."""

    joint = False
    faithful = True

    def __call__(self, log_prob: Tensor, uniform: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """Tokens [N]."""
        del at, tokens
        return inverse_cdf(log_prob, uniform)


@dataclass(frozen=True)
class Greedy:
    """Each cell's most probable token; the uniforms that it is given may be none."""

    joint = False
    faithful = False
    certain = True

    def __call__(self, log_prob: Tensor, uniform: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """Tokens [N]."""
        del uniform, at, tokens
        found = log_prob.argmax(1)  # of NaN, where there is one
        if not (log_prob.gather(1, found[:, None]) > -torch.inf).all():
            raise BadInput(NOTHING)
        return found


@dataclass(frozen=True)
class Nucleus:
    """Each cell from the smallest set of tokens with `top_p` of its mass (Holtzman et al. 2020, arXiv 1904.09751)."""

    top_p: float = 0.9
    joint = False
    faithful = False

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise BadInput(f"nucleus sampling came with top_p {self.top_p}: it must lie in (0, 1].")

    def __call__(self, log_prob: Tensor, uniform: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """Tokens [N]."""
        del at, tokens
        ordered, order = log_prob.sort(1, descending=True)
        mass = ordered.double().exp()
        mass = mass / mass.sum(1, keepdim=True)
        outside = mass.cumsum(1) - mass >= self.top_p  # the token that crosses the line still belongs
        return order.gather(1, inverse_cdf(ordered.masked_fill(outside, -torch.inf), uniform)[:, None])[:, 0]
