"""Slots: one more key and value in any layer of a transformers model, for the time of one forward pass.

A slot enters where the families hand over their queries, keys and values, and not as a key of their cache: so it may be
in some layers only, is never rotated, pays no distance penalty and lies in every sliding window, and cells that do not
see it get the very numbers of the model alone.
Shapes: B batch, S cells, H heads of the keys, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from remask.core.errors import BadCheckpoint
from remask.nets import attention

Attend = Callable[..., tuple[Tensor, Any]]
"""An attention function of transformers: (module, query, key, value, mask, ...) -> ([B, S, H, E], weights or None)."""


class Slot(NamedTuple):
    """Key and value for one layer, [B, H, 1, E]."""

    key: Tensor
    value: Tensor


class Look(NamedTuple):
    """What attention is to know besides.

    slots: by layer, from 0; seen: [B, S] bool, who sees them; all_see: whether everybody does; apart: [B, 1, S, S]
    bool, which cells are of one document, None where all are; heads: notes H and E of each layer that asks, None where
    nobody wants to know.
    """

    slots: Mapping[int, Slot]
    seen: Tensor | None = None
    all_see: bool = False
    apart: Tensor | None = None
    heads: dict[int, tuple[int, int]] | None = None


_LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


@contextmanager
def reading(look: Look) -> Iterator[None]:
    """While it lasts, models whose config says `implementation(...)` have these slots."""
    before = _LOOK.set(look)
    try:
        yield
    finally:
        _LOOK.reset(before)


def _with_slots(inner: Attend) -> Attend:
    """An attention function that also looks into the slots."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
    ) -> tuple[Tensor, Any]:
        now = _LOOK.get()
        if now is None:
            return inner(module, query, key, value, mask, **rest)
        if now.heads is not None:
            now.heads[module.layer_idx] = (key.shape[1], key.shape[3])
        if now.apart is not None:
            mask = _narrowed(_causal(query) if mask is None else mask, now.apart)
        slot = now.slots.get(module.layer_idx)
        if slot is None:
            return inner(module, query, key, value, mask, **rest)
        wide = _widened(_causal(query) if mask is None else mask)
        keys, values = (torch.cat([s.to(x.dtype), x], 2) for s, x in zip(slot, (key, value)))
        found, _ = inner(module, query, keys, values, wide, **rest)
        if not now.all_see:  # who sees no slot gets what the model alone computes, to the last bit
            assert now.seen is not None
            alone, _ = inner(module, query, key, value, mask, **rest)
            found = torch.where(now.seen[:, :, None, None], found, alone)
        return found, None

    return attend


def _causal(query: Tensor) -> Tensor:
    size = query.shape[2]
    return torch.ones(size, size, dtype=torch.bool, device=query.device).tril()[None, None]


def _narrowed(mask: Tensor, allowed: Tensor) -> Tensor:
    return mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, -torch.inf)


def _widened(mask: Tensor) -> Tensor:
    """A mask, bool or additive, with a key in front that is in view."""
    return nn.functional.pad(mask, (1, 0), value=True if mask.dtype == torch.bool else 0.0)


SLOTTED = "-slot"
INNER: dict[str, Attend] = {"sdpa": sdpa_attention_forward, attention.NAME: attention.attention}
"""The attention functions that slots can be added to."""
for _name, _inner in INNER.items():
    AttentionInterface.register(f"{_name}{SLOTTED}", _with_slots(_inner))
    AttentionMaskInterface.register(f"{_name}{SLOTTED}", sdpa_mask)


def implementation(name: str | None) -> str:
    """What `config._attn_implementation` must say instead of `name` for slots to be seen."""
    plain = (name or "sdpa").removesuffix(SLOTTED)
    return f"{plain if plain in INNER else 'sdpa'}{SLOTTED}"


class Reached(NamedTuple):
    """heads: H and E of the keys, by layer; width: D of the last states; depth: layers."""

    heads: dict[int, tuple[int, int]]
    width: int
    depth: int


CLOSE = 1e-3  # of the largest logit: two kernels of one softmax differ by less


@torch.no_grad()
def reach(model: Any, scores: Callable[[Tensor], Tensor]) -> Reached:
    """Let a causal model's attention look into slots from now on.

    scores: last states to logits, as whoever uses the model will make them. Raises BadCheckpoint unless the logits are
    the model's own, and those of a cell are blind to the next one: then there is attention, or a head, of another kind.
    """
    config, training = model.config, model.training
    own, heads = config._attn_implementation, dict[int, tuple[int, int]]()
    tokens = torch.tensor([[0, 0], [0, 1]], device=model.device)
    model.eval()
    try:
        before = model(input_ids=tokens).logits
        config._attn_implementation = implementation(own)
        with reading(Look({}, heads=heads)):
            out = model.base_model(input_ids=tokens, use_cache=False, output_hidden_states=True)
        after, states = scores(out[0]), out.hidden_states
        most = CLOSE * before.abs().max().clamp(min=1)
        reached = bool((before - after).abs().max() <= most and (after[0, 0] - after[1, 0]).abs().max() <= most)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # no such head, or scores that sdpa cannot make
        reached = False
    finally:
        model.train(training)
    if not reached or not heads:
        config._attn_implementation = own
        raise BadCheckpoint(
            f"the attention or the output layer of a '{config.model_type}' model cannot be reached, so nothing can be "
            "carried between its windows: take a GPT-2, a Llama-like one, or a causal ModernBERT."
        )
    return Reached(heads, out[0].shape[-1], len(states) - 1)
