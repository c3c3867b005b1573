"""A transformers left-to-right model as a CausalModel: what a search over its texts needs, with keys and values kept.

The keys and values of a prefix are tuples of tensors that nobody writes to, so a search can go on from any prefix.
Shapes: N prefixes, M of them, H heads, T tokens read, E width of a head, V vocabulary, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from remask.core.decoder import Prefixes
from remask.core.errors import BadCheckpoint

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values [N, H, T, E] of every layer."""
FARTHEST = 1_000_000
KEPT = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers whose states are keys and values."""


class CausalNet:
    """A frozen left-to-right model of transformers.

    model: with a language-modelling head; end: id of the end token; start: read before every prompt, None where
    prompts begin by themselves; silent: ids whose probability is 0 (a mask that no text holds), the others are
    renormalised as in training; size: V, ids beyond it are silent too; ends: other ids that end a text as well, whose
    probability counts to `end`: whichever it was, the text is the same.
    Raises BadCheckpoint for a model with an encoder, or one that keeps no keys and values.
    """

    def __init__(
        self,
        model: Any,
        end: int,
        start: int | None,
        silent: Sequence[int] = (),
        size: int | None = None,
        ends: Sequence[int] = (),
    ):
        config = model.config
        if getattr(config, "is_encoder_decoder", False):
            raise BadCheckpoint(
                f"a '{config.model_type}' model has an encoder and wants a source: decoders here take left-to-right "
                "models without one; open this one with remask.train.frozen.load_causal, as remask decode does."
            )
        text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        if {*(getattr(text, "layer_types", None) or ())} - KEPT:
            raise BadCheckpoint(
                f"a '{config.model_type}' model keeps other states than keys and values: take one with attention in "
                "every layer."
            )
        self.model, self.end, self.start = model.eval(), end, start
        outputs = model.get_output_embeddings()
        rows = int(outputs.weight.shape[0] if outputs is not None else config.vocab_size)
        self.size = min(size or rows, rows)
        self.silent = torch.tensor(sorted({*silent}), dtype=torch.int64, device=model.device)
        others = {one for one in ends if one != end and one not in {*silent} and 0 <= one < self.size}
        self.ends = torch.tensor([end, *sorted(others)] if others else [], dtype=torch.int64, device=model.device)
        reach = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or FARTHEST
        self.window = int(reach) - (start is not None)
        known = inspect.signature(model.forward).parameters
        self.few = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        if "past_key_values" not in known:
            raise BadCheckpoint(
                f"a '{config.model_type}' model keeps no keys and values, so every token would cost the whole text: "
                "take a causal model with a cache."
            )

    @torch.no_grad()
    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: the prompt."""
        ids = [*([] if self.start is None else [self.start]), *prompt]
        if not ids:
            raise BadCheckpoint("an empty prompt came for a model without a token to begin with: type a --prompt.")
        return self.read(torch.tensor([ids], device=self.model.device), ())

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more, [N] int64; the old prefixes stay valid."""
        return self.read(tokens.to(self.model.device)[:, None], prefixes.cache)

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes, [M] int64."""
        index = index.to(self.model.device)
        cache = tuple((keys[index], values[index]) for keys, values in prefixes.cache)
        assert prefixes.hidden is not None
        return Prefixes(prefixes.log_prob[index], prefixes.hidden[index], cache)

    def read(self, tokens: Tensor, layers: Layers) -> Prefixes:
        """Prefixes with more tokens, [N, T] int64, after those whose keys and values are given (none at first)."""
        out = self.forward(tokens, layers, **self.few)
        cache = taken(out.past_key_values)
        if not cache:
            raise BadCheckpoint(
                f"this '{self.model.config.model_type}' model returned no keys and values: take a model with a cache."
            )
        return Prefixes(self.law(out.logits[:, -1]), out.hidden_states[-1][:, -1], cache)

    def forward(self, tokens: Tensor, layers: Layers, **rest: Any) -> Any:
        """The model's own output for tokens [N, T] after `layers`; gradients flow where they are wanted."""
        return self.model(
            input_ids=tokens, past_key_values=given(layers), use_cache=True, output_hidden_states=True, **rest
        )

    def law(self, logits: Tensor) -> Tensor:
        """Log p of the next token, [..., V] float64, of logits [..., V or more]."""
        kept = logits[..., : self.size].double()
        log_prob = kept.index_fill(-1, self.silent, -torch.inf).log_softmax(-1)
        if not len(self.ends):
            return log_prob
        over = log_prob[..., self.ends].logsumexp(-1, keepdim=True)
        return log_prob.index_fill(-1, self.ends[1:], -torch.inf).index_copy(-1, self.ends[:1], over)


def taken(cache: Any) -> Layers:
    """The tensors of transformers' cache; none where a model keeps none."""
    return () if cache is None else tuple((layer.keys, layer.values) for layer in cache.layers)


def given(layers: Layers) -> DynamicCache:
    """transformers' cache made of tensors, which it will not write to."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache
