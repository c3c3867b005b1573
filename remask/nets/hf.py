"""Any Hugging Face masked (or causal ModernBERT) language model as a Net: its head applied only where it is asked for.

Our own encoder is one of these too: its parameters are exactly ModernBERT's.
"""

from __future__ import annotations

from typing import Any

from remask.nets.heads import Head, head_of
from remask.nets.scoring import Scoring
from remask.nets.trunk import CAUSAL, Trunk

__all__ = ["CAUSAL", "HuggingFaceNet"]


class HuggingFaceNet(Scoring, Trunk):
    """A Net around a transformers model with a language-modelling head.

    model: the wrapped model; saving and loading are its own.
    """

    def __init__(self, model: Any):
        head_of(model)  # an unknown family fails here and not in the first step
        super().__init__(model)

    @property
    def head(self) -> Head:
        """Where the prediction head keeps its transform and its output matrix, or the table it shares."""
        head = head_of(self.model)
        return head if head.weight is not None else head._replace(weight=self.model.get_input_embeddings().weight)
