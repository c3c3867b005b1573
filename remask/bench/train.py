"""Training speed: logits at masked cells in fused chunks, against the same net with full logits, and against BERT.

Every arm takes whole optimizer steps on the same questions, in a process of its own (bench/steps.py).
Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remask.bench.steps import Arm, check, rows
from remask.core.alphabet import Alphabet
from remask.core.objective import Batch, Question
from remask.core.stream import Stream
from remask.nets import encoder
from remask.nets.hf import HuggingFaceNet
from remask.objectives.mdlm import MDLM

BASELINES = ("full", "bert")


@dataclass(frozen=True)
class Train:
    """Training tokens per second and peak memory of several ways to take the same step."""

    net: str = "mini"
    """Size of our net; BERT gets the same layers, width and heads."""
    length: int = 128
    """Tokens in a row."""
    batch: int = 32
    """Rows in a step."""
    vocabularies: tuple[str, ...] = ("8192", "50304")
    """Vocabulary sizes."""
    seconds: float = 6.0
    """Timed seconds of each arm and round."""
    rounds: int = 3
    """Rounds; arms take turns within a round."""
    bf16: bool = True
    """bfloat16 autocast."""

    def __post_init__(self) -> None:
        check(self)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each vocabulary and arm, with ratios to the baselines of the same run."""
        return rows(self, __name__, ARMS, BASELINES)


def _ours(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    return encoder.build(plan.net, alphabet, plan.length)


def _plain(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    return encoder.build(plan.net, alphabet, plan.length, directional_heads=False)


def _bert(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    size = encoder.SIZES[plan.net]
    return BertForMaskedLM(
        BertConfig(
            vocab_size=alphabet.size,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            max_position_embeddings=plan.length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _ask(plan: Train, batch: Batch, stream: Stream) -> Question:
    del plan
    return MDLM().corrupt(batch, stream)


def _fused(net: HuggingFaceNet, question: Question, stream: Stream) -> Tensor:
    return MDLM()(net, question, stream).mean()


def _weighted(logits: Tensor, question: Question, targets: Tensor, weight: Tensor) -> Tensor:
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (nll * weight).sum() / float(question.counts[0])


def _masked(net: HuggingFaceNet, question: Question, stream: Stream) -> Tensor:
    del stream
    logits = net.logits(net.hidden(question.tokens, documents=question.documents)[question.at])
    logits[:, question.alphabet.mask] = -torch.inf
    return _weighted(logits, question, question.targets[question.at], question.weight[question.at])


def _full(net: HuggingFaceNet, question: Question, stream: Stream) -> Tensor:
    del stream
    logits = net.logits(net.hidden(question.tokens, documents=question.documents).flatten(0, 1))
    logits[:, question.alphabet.mask] = -torch.inf
    weight = torch.where(question.at, question.weight, 0.0)
    return _weighted(logits, question, question.targets.flatten(), weight.flatten())


def _transformers(model: Any, question: Question, stream: Stream) -> Tensor:
    del stream
    labels = torch.where(question.at, question.targets, -100)
    return model(input_ids=question.tokens, labels=labels).loss


ARMS: dict[str, Arm] = {
    "fused": Arm(
        "logits at masked cells, chunked cross-entropy with gradients in the forward pass (ours)", _ours, _ask, _fused
    ),
    "plain": Arm("the same without directional heads (plain ModernBERT)", _plain, _ask, _fused),
    "masked": Arm("logits at masked cells, torch's cross-entropy", _ours, _ask, _masked),
    "full": Arm("logits everywhere, torch's cross-entropy", _ours, _ask, _full),
    "bert": Arm("transformers' BertForMaskedLM as it comes: full logits, its own loss", _bert, _ask, _transformers),
}
