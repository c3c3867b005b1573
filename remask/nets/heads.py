"""Heads: where a Hugging Face language model keeps its trunk, its prediction transform and its output matrix.

One function a family, so that the head can be applied to a few cells instead of to every position.
Shapes: N cells, D width of the trunk, E width of the embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remask.core.errors import BadCheckpoint


class Head(NamedTuple):
    """transform: [N, D] -> [N, E]; weight: [V, E]; bias: [V] or None."""

    transform: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None


def _bert(model: Any) -> Head:
    predictions = model.cls.predictions
    return Head(predictions.transform, predictions.decoder.weight, predictions.decoder.bias)


def _roberta(model: Any) -> Head:
    head = model.lm_head
    return Head(lambda h: head.layer_norm(nn.functional.gelu(head.dense(h))), head.decoder.weight, head.decoder.bias)


def _distilbert(model: Any) -> Head:
    def transform(h: Tensor) -> Tensor:
        return model.vocab_layer_norm(model.activation(model.vocab_transform(h)))

    return Head(transform, model.vocab_projector.weight, model.vocab_projector.bias)


def _electra(model: Any) -> Head:
    return Head(model.generator_predictions, model.generator_lm_head.weight, model.generator_lm_head.bias)


def _deberta(model: Any) -> Head:
    if model.legacy:
        return _bert(model)
    head = model.lm_predictions.lm_head

    def transform(h: Tensor) -> Tensor:
        return head.LayerNorm(head.transform_act_fn(head.dense(h)))

    return Head(transform, model.get_input_embeddings().weight, head.bias)


def _modernbert(model: Any) -> Head:
    return Head(model.head, model.decoder.weight, model.decoder.bias)


def _modernbert_decoder(model: Any) -> Head:
    return Head(model.lm_head, model.decoder.weight, model.decoder.bias)


FAMILIES: dict[str, Callable[[Any], Head]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "distilbert": _distilbert,
    "electra": _electra,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "modernbert-decoder": _modernbert_decoder,
    "remask-modernbert": _modernbert,
    "remask-modernbert-blocks": _modernbert,
    "remask-modernbert-decoder": _modernbert_decoder,
}


def head_of(model: Any) -> Head:
    """The head of a model; BadCheckpoint lists the families that are known."""
    family = model.config.model_type
    if family not in FAMILIES:
        raise BadCheckpoint(
            f"a '{family}' model cannot be used here: remask knows the prediction heads of {', '.join(FAMILIES)}."
        )
    return FAMILIES[family](model)


def linear_scores(head: Head, hidden_at: Tensor) -> Tensor:
    """The model's own logits, [N, D] -> [N, V]."""
    return torch.nn.functional.linear(head.transform(hidden_at), head.weight, head.bias)
