"""Replaced-token detector: the trunk of any Hugging Face encoder with one score a token.

The score is the logit of "this token was replaced", as in transformers' ElectraForPreTraining, so that
p(real) = sigmoid(-score) (Clark et al. 2020, arXiv 2003.10555, eq. 2 has the complement). Other families keep it as a
token classifier with one label.
Shapes: N cells, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from remask.nets.trunk import Trunk


def _electra(model: Any) -> Callable[[Tensor], Tensor]:
    return model.discriminator_predictions


def _with_transform(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda hidden: model.classifier(model.head(hidden))[..., 0]


def _linear(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda hidden: model.classifier(hidden)[..., 0]


FORMS: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "discriminator_predictions": _electra,  # ElectraForPreTraining
    "head": _with_transform,  # ModernBERT's token classifier has a transform before its linear layer
    "classifier": _linear,
}
"""The first attribute that a model has says what form its head has."""


class Detector(Trunk):
    """Tokens to scores, one a cell."""

    def __init__(self, model: Any):
        super().__init__(model)
        self._form = FORMS[next(name for name in FORMS if hasattr(model, name))]

    @property
    def causal(self) -> bool:
        """Never: a detector sees both sides."""
        return False

    def scores(self, hidden_at: Tensor) -> Tensor:
        """Logits that the token was replaced, [N, D] -> [N], float32 (float64 for float64 nets)."""
        scores = self._form(self.model)(hidden_at)
        return scores.float() if scores.itemsize < 4 else scores
