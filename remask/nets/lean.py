"""ModernBERT's layers in as few operations as they need: what transformers computes, bit for bit, at less cost a call.

A call at batch 1 costs a small net more in wrappers than in arithmetic, and decoding is many such calls. So where no
gradient is wanted, layers with directional heads (nets/directional.py) turn queries and keys together and hand them to
the attention kernel themselves. Everything else is transformers' own forward: training, dropout, hooks on the
attention, outputs that are asked for, masks that are missing. Modules inside are called as ever, so that their hooks
and replacements hold.
Shapes: B batch, H heads, C cells that are read now, K keys, E width of a head, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer
from transformers.models.modernbert_decoder.modeling_modernbert_decoder import ModernBertDecoderLayer

from remask.nets.attention import NAME

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of places, [1 or B, C, E]."""


class LeanEncoderLayer(ModernBertEncoderLayer):
    """ModernBERT's layer, with queries, keys and values from one product."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: Turns | None = None,
        **rest: Any,
    ) -> Tensor:
        """Hidden states [B, C, D], or [N, D] of the N cells of `only` [B, C]; rest: see attention.attention."""
        if attention_mask is None or position_embeddings is None or not _lean(self, hidden_states, rest):
            only = rest.pop("only", None)
            found = super().forward(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **rest
            )
            return found if only is None else found[only]
        attn, kept = self.attn, rest.get("kept")
        shape = hidden_states.shape[:-1]
        every = attn.Wqkv(self.attn_norm(hidden_states)).view(*shape, 3, -1, attn.head_dim).permute(2, 0, 3, 1, 4)
        query, key = turned(every[:2], position_embeddings)
        value = every[2]
        if kept is not None:
            key, value = kept(attn.layer_idx, key, value)
        first = rest.get("first_layer_mask")
        mask = attention_mask if attn.layer_idx or first is None else first
        found = attended(query, key, value, mask, attn.head_dim**-0.5)
        return _after(self, hidden_states, found, rest.get("only"))


class LeanDecoderLayer(ModernBertDecoderLayer):
    """ModernBERT-decoder's layer, which writes into transformers' cache as that one does."""

    def forward(  # type: ignore[override]  # theirs promises a tuple, and returns this
        self,
        hidden_states: Tensor,
        position_embeddings: Turns | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **rest: Any,
    ) -> Tensor:
        """Hidden states [B, C, D]."""
        if attention_mask is None or position_embeddings is None or not _lean(self, hidden_states, rest):
            return super().forward(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **rest,
            )
        attn, x = self.attn, self.attn_norm(hidden_states)
        shape = (*x.shape[:-1], -1, attn.head_dim)
        query, key, value = (part(x).view(shape).transpose(1, 2) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
        query, key = turned(torch.stack((query, key)), position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, attn.layer_idx)
        return _after(self, hidden_states, attended(query, key, value, attention_mask, attn.scaling))


def _lean(layer: Any, hidden: Tensor, rest: dict[str, Any]) -> bool:
    """Whether the call is a small one, and nothing is wanted that only transformers' own forward gives."""
    attn = layer.attn
    if (
        hidden.shape[0] * hidden.shape[1] > MOST
        or layer.training
        or torch.is_grad_enabled()
        or attn._forward_hooks
        or attn._forward_pre_hooks
    ):
        return False
    return not rest.keys() - KNOWN and attn.config._attn_implementation == NAME


def _after(layer: Any, hidden: Tensor, found: Tensor, only: Tensor | None = None) -> Tensor:
    """The rest of a layer, once attention has found [B, H, C, E]; of N cells [N, D] where `only` [B, C] names them."""
    found = found.transpose(1, 2).flatten(2)
    if only is not None:
        hidden, found = hidden[only], found[only]
    hidden = hidden + layer.attn.Wo(found)
    return hidden + layer.mlp(layer.mlp_norm(hidden))


def turned(both: Tensor, turns: Turns) -> Tensor:
    """Queries and keys [2, B, H, C, E], turned by their places; from float32, as transformers has it."""
    cos, sin = turns
    x, half = both.float(), both.shape[-1] // 2
    other = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos[:, None] + other * sin[:, None]).to(both.dtype)


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """softmax(q k^T * scaling + mask) v, [B, H, C, E]; mask: bool (True = seen) or additive."""
    if mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


class LeanModel:
    """Part of a ModernBERT or ModernBERT-decoder whose layers are lean: its own forward, as lean."""

    config: Any
    embeddings: Any
    layers: Any
    final_norm: Any
    rotary_emb: Any
    _tabled: tuple[tuple[Any, ...], Turns] | None = None

    def passed(
        self, every: Tensor, tokens: Tensor | None, place: Tensor | None, past: int, **rest: Any
    ) -> Tensor | None:
        """Last hidden states [B, C, D] of tokens [B, C]; None where transformers' own forward has to give them.

        every: what the layers see, [1 or B, H, C, K]; place: [1 or B, C], or None for those from `past` on; rest: what
        else the layers are told. With `only` [B, C] bool, the states [N, D] of its cells: the last layer then does
        the others' attention, which is little of its work, for nothing, and all the rest for these alone.
        """
        config, rest = self.config, {name: value for name, value in rest.items() if value is not None}
        only = rest.pop("only", None)
        if tokens is None or torch.is_grad_enabled() or rest.keys() - TOLD or len({*config.layer_types}) > 1:
            return None
        if config.output_hidden_states or config.output_attentions or not config.return_dict:
            return None
        hidden = self.embeddings(input_ids=tokens)
        turns = self._turns(hidden, place, past)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            if number == last and only is not None:
                rest["only"] = only
            hidden = layer(hidden, attention_mask=every, position_embeddings=turns, **rest)
        return self.final_norm(hidden)

    def _turns(self, hidden: Tensor, place: Tensor | None, past: int) -> Turns:
        """Those of C cells, from a table: places are few, and are asked for at every call."""
        kind, rotary = self.config.layer_types[0], self.rotary_emb
        usual = rotary.rope_type.get(kind) == "default"  # others may depend on the length
        if place is None and not usual:
            place = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
        if place is not None and (not usual or place.numel() > MOST or place.is_cuda):  # to look would be to wait
            return rotary(hidden, place, kind)
        end = past + hidden.shape[1] if place is None else int(place.max()) + 1
        frequencies = getattr(rotary, f"{kind}_inv_freq")
        key = (hidden.device, hidden.dtype, frequencies.dtype, frequencies.data_ptr())
        if self._tabled is None or self._tabled[0] != key or self._tabled[1][0].shape[1] < end:
            with torch.inference_mode(False):  # what inference keeps, others must be able to use
                places = torch.arange(max(LEAST, 2 * end), device=hidden.device)[None]
                self._tabled = key, rotary(torch.empty(0, device=hidden.device, dtype=hidden.dtype), places, kind)
        cos, sin = self._tabled[1]
        return (cos[:, past:end], sin[:, past:end]) if place is None else (cos[0, place], sin[0, place])


LEAST = 256  # places in a table
MOST = 512  # cells of a call: beyond, arithmetic is what costs, and queries and keys turned together leave the cache
KNOWN = frozenset({"first_layer_mask", "kept", "only", "position_ids"})
"""What a lean layer knows what to do with."""
TOLD = frozenset({"first_layer_mask", "kept", "past_key_values"})
"""What layers may be told beside their masks and places."""


def make_lean(layers: Iterable[nn.Module], kind: type[nn.Module]) -> None:
    """Let layers that are there already have another forward; building them anew would draw other weights."""
    for layer in layers:
        layer.__class__ = kind
