"""Opening frozen left-to-right models for the decoders: causal models of transformers, with a source or without one.

What stands before a prompt is the model's affair: our own runs read the end token first, as in training, published
models their token for the beginning. No code of a directory is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from remask.core.decoder import CausalModel
from remask.core.errors import BadCheckpoint, BadInput
from remask.data import tokenizers
from remask.nets.causal import CausalNet
from remask.nets.causal_seq2seq import CausalSeq2SeqLM
from remask.nets.configs import check_attention, check_weights, read_config
from remask.nets.heads import FAMILIES
from remask.nets.recurrent import BASE
from remask.nets.recurrent import FAMILY as RECURRENT
from remask.nets.trunk import CAUSAL
from remask.train.checkpoint import open_model, quiet, read_facts
from remask.train.hub import locate
from remask.train.translator import CROSSED, LEFT_TO_RIGHT, PARALLEL, load_translator


class Frozen(NamedTuple):
    """A loaded left-to-right model.

    facts: what `remask.json` says (objective, recipe, data fingerprint, metrics), empty for foreign directories.
    """

    model: CausalModel
    tokenizer: Any
    facts: dict[str, Any]
    path: str

    @property
    def module(self) -> torch.nn.Module:
        """The network itself, whose weights no decoder changes."""
        foreign = isinstance(self.model, CausalNet | CausalSeq2SeqLM)
        return self.model.model if foreign else self.model.net  # type: ignore[attr-defined]

    @property
    def longest(self) -> int:
        """Tokens of a text, its end counted, that the model has room for after no prompt."""
        return min(self.model.window, getattr(self.model, "longest", self.model.window))

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompts, or of sources; BadInput for a prompt that holds the mask token."""
        if isinstance(self.model, CausalSeq2SeqLM):
            return [sourced(self.tokenizer, text) for text in texts]
        special = isinstance(self.model, CausalNet)  # a prompt may name its model's own tokens, a source is only text
        found = [one.ids for one in tokenizers.encode(self.tokenizer, texts, special=special)]
        mask = self.tokenizer.mask_token_id
        for text, ids in zip(texts, found):
            if mask is not None and mask in ids:
                raise BadInput(
                    f"the prompt '{text[:40]}' holds the mask token, and a left-to-right model fills no blanks: type "
                    "a prompt without it, or remask fill with a masked model."
                )
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        special = not isinstance(self.model, CausalNet)
        return self.tokenizer.decode(ids, skip_special_tokens=special) if ids else ""


def load_causal(path: str | Path, device: str = "cpu") -> Frozen:
    """Open a directory or `hf:NAME`: a causal model, a run of autoregressive or seq2seq, or another encoder-decoder.

    Raises BadCheckpoint for a masked model, one that keeps no keys and values, a tokenizer without an end, and what is
    damaged.
    """
    path = locate(path)
    config = read_config(path)
    if config["model_type"] in LEFT_TO_RIGHT or _crossed(config):
        return _translator(path, device)
    check(config, path)
    check_attention(config, path)
    check_weights(path)
    import transformers

    from remask.nets import directional

    directional.register()
    if config.get("is_encoder_decoder"):
        return _seq2seq(path, device)
    model = _opened(path, transformers.AutoModelForCausalLM)
    with quiet():  # transformers does not know our model types, and says so
        tokenizer = tokenizers.load(path)
    facts = read_facts(path)
    end = end_of(tokenizer, model.config, path)
    start = end if facts.get("objective") else start_of(tokenizer, model.config, end)
    silent = [] if tokenizer.mask_token_id is None else [tokenizer.mask_token_id]
    rows = model.get_output_embeddings().weight.shape[0]
    if max(end, start, *silent) >= rows:
        raise BadCheckpoint(
            f"the tokenizer in {path} names ids beyond the {rows} of its model: give the model's own tokenizer, or "
            "resize its embeddings."
        )
    causal = CausalNet(model.to(device), end, start, silent, len(tokenizer), ends_of(model, tokenizer))
    return Frozen(causal, tokenizer, facts, str(path))


def _opened(path: str, opener: Any) -> Any:
    """A model of transformers; BadCheckpoint where weights are missing."""
    model, report = open_model(path, opener)
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join(missing[:3]) or str(sorted(report["mismatched_keys"])[0])
        raise BadCheckpoint(f"{path} lacks weights that its config asks for ({names} ...): it predicts no next token.")
    return model


def _seq2seq(path: str, device: str) -> Frozen:
    """A foreign encoder-decoder: a Marian, a BART, a Pegasus."""
    import transformers

    from remask.data.marian import is_marian, load_marian, target_size

    tokenizer = load_marian(path) if is_marian(path) else tokenizers.load(path)
    model = _opened(path, transformers.AutoModelForSeq2SeqLM)
    end = end_of(tokenizer, model.config, path)
    silent = {*tokenizer.all_special_ids, *(n for n, token in tokenizer.added_tokens_decoder.items() if token.special)}
    causal = CausalSeq2SeqLM(model.to(device), end, sorted(silent - {end}), target_size(tokenizer))
    causal.check()
    return Frozen(causal, tokenizer, {}, path)


def sourced(tokenizer: Any, text: str) -> list[int]:
    """A source as a foreign model was taught to read it, with the special tokens that its tokenizer adds."""
    settings = {"split_special_tokens": True, "truncation": False, "verbose": False}
    return [int(one) for one in tokenizer(text, **settings)["input_ids"]]


def _crossed(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a masked model and a writer that goes left to right."""
    half = config.get("decoder") if config["model_type"] == CROSSED else None
    return isinstance(half, dict) and half.get("model_type") in CAUSAL


def _translator(path: str, device: str) -> Frozen:
    """A left-to-right encoder-decoder."""
    from remask.nets.causal_encoder_decoder import CausalEncoderDecoder

    opened = load_translator(path)
    opened.net.to(device)
    causal = CausalEncoderDecoder(opened.net, opened.alphabet, opened.window)
    return Frozen(causal, opened.tokenizer, opened.facts, opened.path)


def check(config: Mapping[str, Any], path: str) -> None:
    """Raise BadCheckpoint for a config of another kind of model, with what to type instead."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    family = config["model_type"]
    if family == RECURRENT:
        raise BadCheckpoint(
            f"{path} carries a vector from window to window, which no decoder does: type {Path(path) / BASE} for the "
            f"model alone, or remask evaluate {path} --data F."
        )
    if family in (PARALLEL, CROSSED):
        raise BadCheckpoint(
            f"{path} is a '{family}' model, which writes in parallel: type remask translate, or the directory of a "
            "left-to-right model."
        )
    if config.get("is_encoder_decoder"):
        if family not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            raise BadCheckpoint(
                f"{path} is a '{family}' model, which reads something else than text: type one that goes from text to "
                "text, as a Marian, a BART or a T5, or a left-to-right model without an encoder."
            )
        return
    known = {*FAMILIES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES} - CAUSAL
    if family in known and not config.get("is_decoder"):
        raise BadCheckpoint(
            f"{path} is a masked model ('{family}'), which does not go from left to right: type remask sample or "
            "remask fill, or the directory of a causal model, as of a run of autoregressive."
        )
    if family not in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *CAUSAL}:
        raise BadCheckpoint(
            f"{path} is a '{family}' model, which predicts no next token: type the directory of a causal model, as of "
            "a GPT-2, a Llama or a run of autoregressive."
        )


def end_of(tokenizer: Any, config: Any, path: str) -> int:
    """The id of the end token; BadCheckpoint where there is none."""
    named = getattr(config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]), tokenizer.sep_token_id]
    found = _known(ids, tokenizer)
    if not found:
        raise BadCheckpoint(
            f"the tokenizer in {path} has no end token, so no text would ever be over; give it the token that ended "
            "texts in training: tokenizer.add_special_tokens({'eos_token': ...})."
        )
    return found[0]


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """All ids that end a text as generate() has it: a chat model may have one for a turn and one for the talk."""
    settings = (getattr(model, "generation_config", None), model.config)
    named = next((found for one in settings if (found := getattr(one, "eos_token_id", None)) is not None), None)
    special = {*tokenizer.all_special_ids, *(n for n, token in tokenizer.added_tokens_decoder.items() if token.special)}
    found = _known(named if isinstance(named, list) else [named], tokenizer)
    return [one for one in found if one in special]  # a config may name ids of another tokenizer, which are text here


def start_of(tokenizer: Any, config: Any, end: int) -> int:
    """The id that is read before a prompt: the beginning of texts, or the end of the text before."""
    return _known([tokenizer.bos_token_id, getattr(config, "bos_token_id", None), end], tokenizer)[0]


def _known(ids: Sequence[int | None], tokenizer: Any) -> list[int]:
    """Those that the tokenizer has: a config may name the ids of another one."""
    return [int(one) for one in ids if one is not None and 0 <= one < len(tokenizer)]
