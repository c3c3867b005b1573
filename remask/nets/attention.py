"""Attention for transformers' modules: SDPA, or plain matrix products where they are faster (training on CPU).

Measured on two CPU cores in bfloat16 (32 rows of 128, 4 heads of 64): torch's CPU flash kernel takes 6.5 ms forward and
26.6 ms backward, the plain products 5.4 and 7.0. They hold [B, H, L, K] whole, so only short rows take that path.
Shapes: B batch, H heads, L queries, K keys, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "remask"
Kept = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(layer, keys, values [B, H, L, E]) -> keys, values [B, H, K, E]: a cache."""
SHORT = 512  # keys; beyond it the scores of a layer cost more memory than the products save time


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    first_layer_mask: Tensor | None = None,
    kept: Kept | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T * scaling + mask) v, [B, L, H, E]; queries, keys and values [B, H, L or K, E].

    attention_mask: [B or 1, H or 1, L, K], bool (True = seen) or additive, or None (causal if the module is);
    first_layer_mask: takes its place in layer 0 (the models hand one mask to all layers of a type); kept: exchanges the
    keys and values of these L cells for those that the queries are to see.
    """
    if kept is not None:
        key, value = kept(module.layer_idx, key, value)
    if module.layer_idx == 0 and first_layer_mask is not None:
        attention_mask = first_layer_mask
    if torch.is_grad_enabled() and query.device.type == "cpu" and key.shape[2] <= SHORT and not rest.get("dropout"):
        return _products(query, key, value, _mask(module, query, key, attention_mask), rest["scaling"]), None
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask.to(query.dtype)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)


def _mask(module: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
    if mask is None and module.is_causal and query.shape[2] > 1:
        return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    return mask


def _products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    scores = torch.matmul(query * scaling, key.transpose(-1, -2))
    if scores.dtype != torch.float64:
        scores = scores.float()  # bfloat16 sums of scores and penalties would round neighbours together
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.matmul(scores.softmax(-1).to(value.dtype), value).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # else the models would build no masks of their own
