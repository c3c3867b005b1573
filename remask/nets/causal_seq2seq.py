"""Any encoder-decoder of transformers as a CausalModel: the prompt is a source, and what is written is its target.

Marian, BART, mBART, Pegasus and whatever else keeps keys and values in a decoder and of its source (our own
nets and T5s have nets/causal_encoder_decoder.py, which costs less). Log p is that of the model's own output layer, its
biases included; ids that no text holds keep theirs and are not written, as generate() has it with `bad_words_ids`.
Shapes: N prefixes, M of them, S source, T tokens read, H heads, E width of a head, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from remask.core.decoder import Prefixes
from remask.core.errors import BadCheckpoint, BadInput
from remask.nets.causal import Layers, given, taken

ALIKE = 1e-2  # nats, float32: log p of a token after four passes and after one
MANY_LANGUAGES = {"mbart", "m2m_100", "nllb-moe"}
"""Families whose targets begin with a language; fine-tuned to one, they may begin with that at once."""
FARTHEST = 512  # tokens of a source, for models whose config does not say


class Kept(NamedTuple):
    """What is kept of N targets that have one source.

    source: what the encoder said, states [1, S, D]; crossed: their keys and values [1, H, S, E] in every layer of the
    decoder; layers: those of the targets, [N, H, T, E].
    """

    source: Any
    crossed: Layers
    layers: Layers


class CausalSeq2SeqLM:
    """A frozen encoder-decoder of transformers.

    model: with a language-modelling head on its decoder; end: id of the end token; silent: ids that are never written;
    size: V, ids beyond it are never written either. A target begins as the model's generation config has it: with its
    start token, and a forced first one (a language) where it names one; neither counts for log p.
    Raises BadCheckpoint for a model that names no start, one of many languages that names none to write in, and an end
    that is not among its ids.
    """

    def __init__(self, model: Any, end: int, silent: Sequence[int] = (), size: int | None = None):
        config, settings = model.config, getattr(model, "generation_config", model.config)
        start = _first("decoder_start_token_id", settings, config, default=_first("bos_token_id", settings, config))
        if start is None:
            raise BadCheckpoint(
                f"this '{config.model_type}' model does not say what a target begins with: give its config a "
                "decoder_start_token_id."
            )
        forced = _first("forced_bos_token_id", settings, config)
        if config.model_type in MANY_LANGUAGES and forced is None and start == end:
            raise BadCheckpoint(
                f"this '{config.model_type}' model writes many languages and is told none: set forced_bos_token_id in "
                "its generation_config.json to the id of one."
            )
        rows = int(model.get_output_embeddings().weight.shape[0])
        if end >= rows:
            raise BadCheckpoint(
                f"the tokenizer's end token has id {end}, and the model writes {rows} ids: give its own tokenizer."
            )
        self.begun = [start] if forced is None else [start, forced]
        self.model, self.end = model.eval(), end
        self.size = min(size or rows, rows)
        known = sorted(one for one in {*silent} - {end} if one < self.size)
        self.silent = torch.tensor(known, dtype=torch.int64, device=model.device)
        self.source_length = _reach(config, "encoder")
        self.longest = _reach(config, "decoder") - len(self.begun) + 1  # the last token is never read
        self.window = self.source_length + self.longest

    @torch.no_grad()
    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: an empty target of the source `prompt`, its model's special tokens in it.

        Raises BadInput for a source that is empty, or longer than the model reads.
        """
        if not 0 < len(prompt) <= self.source_length:
            raise BadInput(
                f"a source of {len(prompt)} tokens came, and the model reads 1 to {self.source_length}: "
                f"{'shorten it' if prompt else 'type one'}."
            )
        ids = torch.tensor([[*prompt]], device=self.model.device)
        source = self.model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
        return self._read(torch.tensor([self.begun], device=self.model.device), Kept(source, (), ()))

    @torch.no_grad()
    def check(self) -> None:
        """Raise BadCheckpoint for a model of which a target, read token by token, is not what it is as a whole.

        A few of transformers' keep states of a shape of their own, or count places otherwise with a cache.
        """
        source = [self.end, *(n for n in range(min(self.size, 8)) if n not in self.silent.tolist())]
        try:
            prefixes = self.begin(source[: self.source_length])
            tokens = [int(prefixes.log_prob[0].argmax()), *source[1:3]]
            for token in tokens:
                prefixes = self.extend(prefixes, torch.tensor([token]))
            ids, written = (torch.tensor([row], device=self.model.device) for row in (source, [*self.begun, *tokens]))
            whole = self.model(input_ids=ids, decoder_input_ids=written, use_cache=False).logits[:, -1]
            seen = prefixes.log_prob.isfinite()
            same = torch.allclose(prefixes.log_prob[seen], self._law(whole)[seen], atol=ALIKE)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            same = False
        if not same:
            raise BadCheckpoint(
                f"a '{self.model.config.model_type}' model keeps its states in a way of its own, which no decoder here "
                "goes on from: take a Marian, a BART, an mBART, a Pegasus or a T5."
            )

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more, [N] int64; the old prefixes stay valid."""
        return self._read(tokens.to(self.model.device)[:, None], prefixes.cache)

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes, [M] int64; the source is kept once."""
        index = index.to(self.model.device)
        layers = tuple((keys[index], values[index]) for keys, values in prefixes.cache.layers)
        assert prefixes.hidden is not None
        return Prefixes(prefixes.log_prob[index], prefixes.hidden[index], prefixes.cache._replace(layers=layers))

    def _read(self, tokens: Tensor, kept: Kept) -> Prefixes:
        """Prefixes with more tokens, [N, T]; BadInput for targets that are longer than the model writes."""
        count = len(tokens)
        past = kept.layers[0][0].shape[2] if kept.layers else 0
        if past + tokens.shape[1] > self.longest + len(self.begun) - 1:
            raise BadInput(f"a target of more than {self.longest} tokens came, and the model has no places for it.")
        crossed = tuple((k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in kept.crossed)
        out = self.model(
            encoder_outputs=replace(kept.source, last_hidden_state=kept.source[0].expand(count, -1, -1)),
            decoder_input_ids=tokens,
            past_key_values=EncoderDecoderCache(given(kept.layers), given(crossed)),
            use_cache=True,
            output_hidden_states=True,
        )
        cache = out.past_key_values
        layers = taken(getattr(cache, "self_attention_cache", None))
        if not layers:
            raise BadCheckpoint(
                f"this '{self.model.config.model_type}' model returned no keys and values: take a model with a cache."
            )
        after = Kept(kept.source, kept.crossed or taken(cache.cross_attention_cache), layers)
        return Prefixes(self._law(out.logits[:, -1]), out.decoder_hidden_states[-1][:, -1], after)

    def _law(self, logits: Tensor) -> Tensor:
        """Log p of the next token, [N, V] float64, of logits [N, V or more]."""
        return logits.double().log_softmax(-1)[:, : self.size].index_fill(-1, self.silent, -torch.inf)


def _reach(config: Any, half: str) -> int:
    """Places that one half of a model has."""
    own = getattr(config, half, None)
    names = (f"max_{half}_position_embeddings", "max_position_embeddings")
    return next((int(n) for one in (own, config) for name in names if (n := getattr(one, name, None))), FARTHEST)


def _first(name: str, *configs: Any, default: int | None = None) -> int | None:
    """What the first config that says anything says."""
    return next((found for one in configs if (found := getattr(one, name, None)) is not None), default)
