"""Toy translations: rows of toy texts, a net of two layers, the loop that trains it, and streams of all outcomes.

Shapes: B batch, S source length, L target length, W text tokens of a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from remask.core.alphabet import Alphabet
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.nets.hf import HuggingFaceNet
from remask.nets.reading import Memory, Reading
from remask.translate.parallel import translate
from tests.oracle import LawNet

PAD, END, MASK, FIRST = 0, 1, 2, 3  # text tokens are FIRST, FIRST + 1, ...


def alphabet_of(text: int) -> Alphabet:
    """The alphabet of so many text tokens."""
    return Alphabet(FIRST + text, MASK, PAD, END, frozenset({PAD, MASK, END}))


def ended(texts: Tensor) -> Tensor:
    """Texts of one length [B, W] with their end tokens, [B, W + 1]."""
    return torch.nn.functional.pad(texts, (0, 1), value=END)


def rows_of(texts: list[list[int]], cells: int) -> Tensor:
    """Texts of at most so many tokens as rows [B, cells]; what is missing is padding, which no toy text holds."""
    return torch.tensor([text + [PAD] * (cells - len(text)) for text in texts])


def masked_lm(alphabet: Alphabet, length: int, seed: int = 0, width: int = 64, layers: int = 2) -> HuggingFaceNet:
    """A fresh BERT that reads rows of `length` cells; its weights begin larger than BERT's, as its width is small."""
    config = BertConfig(
        vocab_size=alphabet.size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=width**-0.5,
        pad_token_id=PAD,
        type_vocab_size=1,
        attn_implementation="eager",  # torch's fused kernel is slow backwards on rows this short
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HuggingFaceNet(BertForMaskedLM(config))


def fit(
    net: Any,
    objective: Any,
    batch_of: Callable[[int], Batch],
    steps: int,
    rate: float = 2e-3,
    seed: int = 0,
    watch: Callable[[int], bool] | None = None,
    every: int = 0,
) -> int:
    """Train with AdamW, the rate rising for 20 steps; returns the steps taken.

    batch_of: step -> the batch; watch: asked after every `every` steps whether that is enough.
    """
    optimizer = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    net.train()
    for step in range(steps):
        batch = batch_of(step)
        stream = Stream.of(seed, len(batch.tokens)).child(step)
        loss = objective(net, objective.corrupt(batch, stream), stream).mean()
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if watch is not None and (step + 1) % every == 0 and watch(step + 1):
            return step + 1
    return steps


class Told(LawNet):
    """An EncoderDecoder that says what it is told.

    says: sources [B, S], targets as the decoder sees them [B, L] -> log p [B, L, V]; longest: M.
    """

    causal = False

    def __init__(self, says: Callable[[Tensor, Tensor], Tensor], longest: int):
        self.says, self.longest = says, longest

    def read(self, source: Tensor, attend: Tensor) -> Reading:
        return Reading(self, Memory((), (), attend, source.double()))

    def length_head(self, summary: Tensor, lengths: Tensor) -> Tensor:
        return torch.zeros(len(lengths), self.longest).log_softmax(1)

    def decode(
        self, tokens: Tensor, memory: Memory, *, attend: Tensor | None = None, sees: Tensor | None = None
    ) -> Tensor:
        assert (attend is None or attend.all()) and sees is None, "toys have targets of one length"
        return self.says(memory.summary.long(), tokens)

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        return self._log_probs(hidden_at, ban)


def translations(net: Any, source: Tensor, cells: Tensor, alphabet: Alphabet, sampler: Any, stream: Any) -> Any:
    """The Outcome of sources [B, S] whose targets have so many tokens, [B]: lengths are given, not predicted."""
    return translate(net, source, source != PAD, alphabet, sampler, stream, oracle=cells)


@dataclass(frozen=True)
class EveryDraw(Stream):
    """Fair coins, and all of their outcomes: row r is told the bits of r, a bit for each of `cells` cells and step."""

    cells: int = 1

    @classmethod
    def all(cls, cells: int, steps: int) -> EveryDraw:
        """Every outcome of so many steps."""
        return cls(torch.arange(2 ** (cells * steps)), cells)

    def rows(self, index: Tensor) -> EveryDraw:
        return EveryDraw(self.seeds[index], self.cells)

    def child(self, key: int | Tensor) -> EveryDraw:
        return self

    def uniform(self, step: int | Tensor, purpose: Purpose, length: int) -> Tensor:
        if purpose is Purpose.WHERE:  # which cells a sampler draws; toys draw all of them
            return torch.full((len(self.seeds), length), 0.5, dtype=torch.float64)
        assert purpose is Purpose.TOKEN, "a coin is thrown for tokens, and for nothing else"
        step = torch.as_tensor(step).expand(len(self.seeds))
        bit = torch.arange(length).clamp(max=self.cells - 1)
        return 0.25 + 0.5 * ((self.seeds[:, None] >> (step[:, None] * self.cells + bit)) & 1).double()
