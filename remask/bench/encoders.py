"""Encoder pretraining speed: ELECTRA and masked language modelling, against full logits and transformers' own models.

The naive ELECTRA is what ports write: logits of the generator at every position, then the loss and a multinomial draw
at the chosen cells (Clark et al. 2020, arXiv 2003.10555, is the method). The masked-LM example of transformers is
BertForMaskedLM with labels, as its script trains it.
Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remask.bench.steps import Arm, check, rows
from remask.core.alphabet import Alphabet
from remask.core.objective import Batch, Question
from remask.core.stream import Stream
from remask.nets import encoder
from remask.nets.pair import Pair
from remask.objectives.electra import ELECTRA
from remask.objectives.mlm import MLM

BASELINES = ("electra_naive", "bert")
MASKED = MLM(mask_rate=0.15)
DETECTS = ELECTRA()
WEIGHT = DETECTS.discriminator_weight


@dataclass(frozen=True)
class Encoders:
    """Training tokens per second of ELECTRA and masked language modelling, ours and as they are usually written."""

    net: str = "mini"
    """Size of our net (plain ModernBERT); BERT and ELECTRA of transformers get the same layers, width and heads."""
    length: int = 128
    """Tokens in a row."""
    batch: int = 32
    """Rows in a step."""
    vocabularies: tuple[str, ...] = ("30522",)
    """Vocabulary sizes."""
    seconds: float = 8.0
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


def _ask_electra(plan: Encoders, batch: Batch, stream: Stream) -> Question:
    del plan
    return DETECTS.corrupt(batch, stream)


def _ask_mlm(plan: Encoders, batch: Batch, stream: Stream) -> Question:
    del plan
    return MASKED.corrupt(batch, stream)


def _net(plan: Encoders, alphabet: Alphabet) -> Any:
    return encoder.build(plan.net, alphabet, plan.length, directional_heads=False)


def _pair(plan: Encoders, alphabet: Alphabet) -> nn.Module:
    return DETECTS.furnish(_net(plan, alphabet))


def _bert(plan: Encoders, alphabet: Alphabet) -> nn.Module:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(_bert_config(plan, alphabet))


def _bert_config(plan: Encoders, alphabet: Alphabet, share: float = 1.0) -> Any:
    from transformers import BertConfig

    size = encoder.SIZES[plan.net]
    width = round(size.width * share)
    return BertConfig(
        vocab_size=alphabet.size,
        hidden_size=width,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, round(size.heads * share)),
        intermediate_size=4 * width,
        max_position_embeddings=plan.length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


class Transformers(nn.Module):
    """transformers' ElectraForMaskedLM and ElectraForPreTraining as they come, embeddings shared."""

    def __init__(self, plan: Encoders, alphabet: Alphabet):
        from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

        super().__init__()
        size = encoder.SIZES[plan.net]
        made = []
        for share in (DETECTS.generator_width, 1.0):
            shape = _bert_config(plan, alphabet, share).to_dict()
            made.append(ElectraConfig(**{**shape, "embedding_size": size.width, "model_type": "electra"}))
        self.generator, self.discriminator = ElectraForMaskedLM(made[0]), ElectraForPreTraining(made[1])
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.generator_lm_head.weight = self.discriminator.electra.embeddings.word_embeddings.weight


def _ours(net: Pair, question: Question, stream: Stream) -> Tensor:
    return DETECTS(net, question, stream).mean()


def _mlm(net: Any, question: Question, stream: Stream) -> Tensor:
    return MASKED(net, question, stream).mean()


def _joined(logits: Tensor, scores_of: Any, question: Question) -> Tensor:
    """Both losses from logits everywhere, [B, L, V]."""
    labels = torch.where(question.at, question.targets, -100)
    masked = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
    with torch.no_grad():
        drawn = torch.multinomial(logits[question.at].float().softmax(-1), 1)[:, 0]
    tokens = question.targets.masked_scatter(question.at, drawn)
    replaced = (tokens != question.targets).float()
    detected = nn.functional.binary_cross_entropy_with_logits(scores_of(tokens).float(), replaced)
    return masked + WEIGHT * detected


def _naive(net: Pair, question: Question, stream: Stream) -> Tensor:
    del stream
    logits = net.generator.logits(net.generator.hidden(question.tokens).flatten(0, 1)).view(*question.tokens.shape, -1)

    def scores_of(tokens: Tensor) -> Tensor:
        return net.discriminator.scores(net.discriminator.hidden(tokens))  # type: ignore[operator, union-attr]

    return _joined(logits, scores_of, question)


def _transformers_pair(module: Transformers, question: Question, stream: Stream) -> Tensor:
    del stream
    logits = module.generator(input_ids=question.tokens).logits
    return _joined(logits, lambda tokens: module.discriminator(input_ids=tokens).logits, question)


def _transformers(model: Any, question: Question, stream: Stream) -> Tensor:
    del stream
    labels = torch.where(question.at, question.targets, -100)
    return model(input_ids=question.tokens, labels=labels).loss


ARMS: dict[str, Arm] = {
    "electra": Arm("generator's logits at chosen cells, loss and draw in one pass (ours)", _pair, _ask_electra, _ours),
    "electra_naive": Arm(
        "the same nets, the generator's logits everywhere, torch's cross-entropy and multinomial",
        _pair,
        _ask_electra,
        _naive,
    ),
    "electra_transformers": Arm(
        "transformers' ElectraForMaskedLM and ElectraForPreTraining as they come",
        Transformers,
        _ask_electra,
        _transformers_pair,
    ),
    "mlm": Arm("masked language modelling, logits at chosen cells (ours)", _net, _ask_mlm, _mlm),
    "bert": Arm(
        "transformers' masked-LM example: BertForMaskedLM, full logits, its loss", _bert, _ask_mlm, _transformers
    ),
}
