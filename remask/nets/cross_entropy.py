"""Linear layer and cross-entropy in one, in chunks, so that [N, V] is never whole.

Two forms of -log softmax(h W^T + b)[target]: `total_nll` is a weighted sum whose gradients are computed in the forward
pass while each chunk of logits is still in the cache; `nll` gives every cell's value and computes its chunks again in
the backward pass. `total_nll_and_draw` also draws a token from every cell's distribution in the same pass over the
vocabulary. Logits are made in the autocast dtype, the log-sum-exp in float32 (float64 for float64 nets).
Shapes: N cells, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from remask.core.draw import inverse_cdf_of

CELLS = 1 << 22  # logits alive at a time; smaller is cache-friendlier, larger launches fewer kernels
LEAST_ROWS = 512


def _chunk(size: int) -> int:
    return max(LEAST_ROWS, CELLS // size)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ban: int | None,
    narrow: Tensor | None = None,
    wide: Tensor | None = None,
) -> Tensor:
    """Logits [N, V] in at least float32, the banned id at -inf.

    narrow, wide: [N, V] buffers to work in, of the dtype of `hidden` and of the result (one and the same where these
    agree): fresh memory for every chunk would cost more than the arithmetic on it.
    """
    if narrow is None or wide is None:
        logits = hidden @ weight.T
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    else:
        torch.mm(hidden, weight.T, out=narrow)
        logits = wide if narrow is wide else wide.copy_(narrow)
    if bias is not None:
        logits += bias
    if ban is not None:
        logits[:, ban] = -torch.inf
    return logits


def _exponentials_(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of the targets [N], and the sum [N] of the logits' exponentials, which replace them in place."""
    highest = logits.amax(1, keepdim=True)
    aimed = logits.gather(1, targets[:, None])
    total = logits.sub_(highest).exp_().sum(1)
    return (highest - aimed)[:, 0] + total.log(), total


def _tempered(exponentials: Tensor, temperature: float) -> Tensor:
    """exp(z / T) from exp(z), where max z = 0."""
    return exponentials if temperature == 1 else exponentials.pow(1 / temperature)


class _TotalNLL(torch.autograd.Function):
    """sum_n w_n (logsumexp(z_n) - z_n[target]); d/dz_n = w_n (softmax(z_n) - onehot)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        cell_weight: Tensor,
        ban: int | None,
        dtype: torch.dtype,
        needs: bool,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        drawn = targets.new_zeros(0 if uniform is None else len(targets))
        ctx.mark_non_differentiable(drawn)
        needs = needs and any(ctx.needs_input_grad[:3])
        h, w = hidden.to(dtype), weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.float64)
        grad_hidden = torch.empty_like(hidden) if needs else None
        grad_weight = torch.zeros_like(weight) if needs else None
        grad_bias = torch.zeros_like(bias) if needs and bias is not None else None
        step = min(_chunk(weight.shape[0]), max(len(h), 1))
        narrow = torch.empty(step, weight.shape[0], dtype=dtype, device=h.device)
        wide_dtype = torch.promote_types(dtype, torch.float32)
        wide = narrow if wide_dtype == dtype else torch.empty_like(narrow, dtype=wide_dtype)
        for start in range(0, len(h), step):
            part = slice(start, start + step)
            rows = len(targets[part])
            low = narrow[:rows]
            exponentials = scores(h[part], w, bias, ban, low, low if narrow is wide else wide[:rows])
            nll, sums = _exponentials_(exponentials, targets[part])
            counted = cell_weight[part] != 0  # a cell that does not count may have a target of probability zero
            total += torch.where(counted, nll * cell_weight[part], 0.0).sum(dtype=torch.float64)
            if uniform is not None and bool(sums.isfinite().all()):  # else the loss is not finite, and says so
                drawn[part] = inverse_cdf_of(_tempered(exponentials, temperature), uniform[part])
            if not needs:
                continue
            gradient = exponentials.mul_((cell_weight[part] / sums)[:, None])
            gradient[torch.arange(rows, device=h.device), targets[part]] -= cell_weight[part]
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            low = gradient if narrow is wide else low.copy_(gradient)
            grad_hidden[part] = low @ w  # type: ignore[index]
            grad_weight += low.T @ h[part]  # type: ignore[operator]
        ctx.save_for_backward(*(g for g in (grad_hidden, grad_weight, grad_bias) if g is not None))
        return total, drawn

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0]
        saved = [grad * scale.to(grad.dtype) for grad in ctx.saved_tensors]
        grad_bias = saved[2] if len(saved) > 2 else None
        return saved[0], saved[1], grad_bias, None, None, None, None, None, None, None


class _NLL(torch.autograd.Function):
    """logsumexp(z_n) - z_n[target] for every n; chunks are computed again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ban: int | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets, *(() if bias is None else (bias,)))
        ctx.ban, ctx.dtype = ban, dtype
        h, w = hidden.to(dtype), weight.to(dtype)
        step = _chunk(weight.shape[0])
        parts = []
        for start in range(0, len(h), step):
            logits = scores(h[start : start + step], w, bias, ban)
            parts.append(logits.logsumexp(1) - logits.gather(1, targets[start : start + step, None])[:, 0])
        return torch.cat(parts) if parts else hidden.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, *rest = ctx.saved_tensors
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        leaves += [bias.detach().requires_grad_() for bias in rest]
        with torch.enable_grad():
            # the upstream gradient is the cell weight of the fused form, whose gradients then are this one's
            bias = leaves[2] if rest else None
            total, _ = _TotalNLL.apply(*leaves[:2], bias, targets, upstream[0], ctx.ban, ctx.dtype, True)
            grads = torch.autograd.grad(total, leaves)
        return grads[0], grads[1], grads[2] if rest else None, None, None, None


def total_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cell_weight: Tensor, ban: int | None = None
) -> Tensor:
    """Sum over cells of cell_weight [N] * -log softmax(hidden W^T + bias)[targets]: a float64 scalar.

    hidden: [N, D]; weight: [V, D]; bias: [V] or None; targets: [N] int64; ban: an id of probability zero.
    """
    needs = torch.is_grad_enabled()  # inside the function it never is, and needs_input_grad is true under no_grad too
    return _TotalNLL.apply(hidden, weight, bias, targets, cell_weight, ban, _compute_dtype(hidden), needs)[0]


def total_nll_and_draw(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cell_weight: Tensor,
    uniform: Tensor,
    ban: int | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`total_nll`, and a token [N] int64 drawn from every cell's distribution in the same pass over the vocabulary.

    uniform: [N] float64, one number a cell (inverse CDF, sums in float64, no gradient); temperature: of the draw only.
    """
    needs = torch.is_grad_enabled()
    dtype = _compute_dtype(hidden)
    return _TotalNLL.apply(hidden, weight, bias, targets, cell_weight, ban, dtype, needs, uniform.detach(), temperature)


def nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ban: int | None = None) -> Tensor:
    """-log softmax(hidden W^T + bias)[targets], [N], for any upstream gradient."""
    return _NLL.apply(hidden, weight, bias, targets, ban, _compute_dtype(hidden))
