"""Quality of texts on the frontier: exact under a law that is known, or by a scorer, and the loss at matched entropy.

Perplexity under a scorer, and cross-entropy under the true law as well, can be bought with dull texts (Zheng et al.
2024, arXiv 2409.02908): both fall with the temperature, and so does the entropy. So a system is held against what its
baseline pays at the same unigram entropy: the baseline writes at several temperatures, and its quality is interpolated.
Where the law q of a writer is known too, KL(q || p) = E log q - E log p is exact, and nothing is left to be bought.

entropy: of the tokens of a text by themselves, nats; distinct_2: share of a text's pairs that are distinct (Li et al.
2016, arXiv 1510.03055); repetition: share of a text's 4-grams that it has already shown (Welleck et al. 2020, arXiv
1908.04319). All are means over texts, so none depends on how many there are.
Shapes: R texts, L length, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from remask.bench.frontier_mauve import mauve
from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.core.table import Table
from remask.decoders.batched import Written
from remask.metrics.generative import generative, unigram_entropy
from remask.metrics.likelihood import nats_of_cells
from remask.objectives.autoregressive import shifted
from remask.train.checkpoint import Checkpoint

LAWS = Table("law", {"language": "remask.lab.language:Language"})
"""Laws whose texts nets may be trained on. A row is made of a seed; it is a Truth, and a Conditional of any length."""


class Truth(Protocol):
    """A law that is known at any length; its words are numbered from 0."""

    words: int

    def sample(self, rows: int, length: int, seed: int = 0) -> Tensor:
        """True texts, [R, L]."""
        ...

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log p of texts, or of what is visible in them, [R] float64."""
        ...


class Judge(Protocol):
    """What weighs texts; name: the number by which systems are compared, less is better."""

    name: str

    def measures(self, written: Written, path: str | None) -> dict[str, Estimate]:
        """Numbers of texts; path: what their log p is (frontier_systems.py)."""
        ...

    def reference(self, texts: int, length: int, seed: int) -> tuple[str, Written, str | None] | None:
        """What perfect texts are called, some of them, and their path; None where there are none."""
        ...


class Coding(NamedTuple):
    """Words of a law and ids of a net: word r is the r-th id that is no special one. ids: [A]; words: [V], -1 special.

    Raises BadInput where their numbers differ.
    """

    ids: Tensor
    words: Tensor

    @classmethod
    def of(cls, truth: Truth, alphabet: Alphabet) -> Coding:
        """That of a net's alphabet."""
        ids = torch.tensor([number for number in range(alphabet.size) if number not in alphabet.special])
        if len(ids) != truth.words:
            raise BadInput(
                f"the law has {truth.words} words and the checkpoints {len(ids)} tokens that are text: type the --law "
                "on whose samples they were trained, or --scorer."
            )
        words = torch.full((alphabet.size,), -1)
        words[ids] = torch.arange(len(ids))
        return cls(ids, words)


class ByLaw:
    """Exact quality: nats a token under the law that the checkpoints were trained on."""

    name = "true_cross_entropy"

    def __init__(self, truth: Truth, alphabet: Alphabet):
        self.truth, self.coding = truth, Coding.of(truth, alphabet)

    def measures(self, written: Written, path: str | None) -> dict[str, Estimate]:
        """true_cross_entropy, and divergence: KL(q || p) of the writer's law q a token, where that is known."""
        counts = [float(written.tokens.shape[1])] * len(written.tokens)
        log_law = self.truth.log_prob(self.coding.words[written.tokens])
        found = {self.name: ratio((-log_law).tolist(), counts, "nats/token")}
        if path is not None:
            found["divergence"] = ratio((written.log_prob - log_law).tolist(), counts, "nats/token")
        return found

    def reference(self, texts: int, length: int, seed: int) -> tuple[str, Written, str | None]:
        """The law's own texts: their cross-entropy is its entropy, and no writer has less at no divergence."""
        words = self.truth.sample(texts, length, seed)
        none = torch.zeros(texts, dtype=torch.int64)
        return "the law's own texts", Written(self.coding.ids[words], none, self.truth.log_prob(words)), "exact"


class ByScorer:
    """Perplexity under a left-to-right net; held_out: [R, L or more], true texts, or none."""

    name = "generative_perplexity"

    def __init__(self, scorer: Checkpoint, held_out: Tensor | None = None):
        self.scorer, self.held_out = scorer, held_out

    @property
    def _device(self) -> torch.device:
        return next(self.scorer.net.parameters()).device

    def nats(self, tokens: Tensor) -> Tensor:
        """-log p of every cell, [R, L]; nothing stands before a text but the end of another."""
        tokens = tokens.to(self._device)
        one = torch.zeros_like(tokens)
        inputs = shifted(tokens, one, self.scorer.alphabet.end)
        with torch.inference_mode():
            return nats_of_cells(self.scorer.net, inputs, tokens, one, self.scorer.alphabet, batch=16).cpu()

    def measures(self, written: Written, path: str | None) -> dict[str, Estimate]:
        """generative_perplexity, and mauve where there is held-out text and its library is installed."""
        del path
        found = {self.name: dict(generative(written.tokens, self.nats))["perplexity"]}
        length = written.tokens.shape[1]
        if self.held_out is not None:
            close = mauve(self.states(written.tokens), self.states(self.held_out[:, :length]))
            found |= {} if close is None else {"mauve": close}
        return found

    def states(self, tokens: Tensor) -> Tensor:
        """What the scorer makes of texts: its states at their last tokens, [R, D]."""
        with torch.inference_mode():
            parts = [self.scorer.net.hidden(part)[:, -1] for part in tokens.to(self._device).split(16)]
        return torch.cat(parts).cpu()

    def reference(self, texts: int, length: int, seed: int) -> tuple[str, Written, str | None] | None:
        """Held-out text."""
        del seed
        if self.held_out is None:
            return None
        rows = self.held_out[:texts, :length]
        none = torch.zeros(len(rows), dtype=torch.int64)
        return "held-out text", Written(rows, none, none.double()), None


# ---- what texts are like ---------------------------------------------------------------------------------------------


class Quality(NamedTuple):
    """calls: network calls of a text; most: of the costliest one; measures: of the texts, by name."""

    calls: Estimate
    most: int
    measures: dict[str, Estimate]


def quality(written: Written, path: str | None, judge: Judge) -> Quality:
    """Weigh texts [R, L]. written_entropy: of the law that wrote them, nats a token (its path says how exactly)."""
    tokens, calls, log_prob = (x.cpu() for x in written)
    counts = [float(tokens.shape[1])] * len(tokens)
    measures = judge.measures(Written(tokens, calls, log_prob), path)
    if path is not None:
        measures["written_entropy"] = ratio((-log_prob).tolist(), counts, "nats/token")
    each = [1.0] * len(tokens)
    measures["entropy"] = ratio(unigram_entropy(tokens).tolist(), each, "nats")
    measures["distinct_2"] = ratio([_distinct(row, 2) for row in tokens], each, "share")
    measures["repetition"] = ratio([1 - _distinct(row, 4) for row in tokens], each, "share")
    return Quality(ratio(calls.double().tolist(), each, "calls"), int(calls.max()), measures)


def _distinct(row: Tensor, size: int) -> float:
    """Share of a row's n-grams that are distinct; nan in a row without one."""
    if len(row) < size:
        return math.nan
    grams = row.unfold(0, size, 1)
    return len(grams.unique(dim=0)) / len(grams)


# ---- matched entropy -------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """Quality at a unigram entropy."""

    entropy: Estimate
    value: Estimate


def at_entropy(curve: Sequence[Point], entropy: Estimate) -> Estimate | None:
    """The value of a curve at an entropy, on the straight line between its neighbours; None beyond its ends.

    The error is that of the neighbours, and that of the entropy along the line.
    """
    points = sorted(curve, key=lambda point: point.entropy.value)
    for low, high in pairwise(points):
        x, wide = entropy.value, high.entropy.value - low.entropy.value
        if low.entropy.value <= x <= high.entropy.value and wide > 0:
            share = (x - low.entropy.value) / wide
            slope = (high.value.value - low.value.value) / wide
            errors = (1 - share) * low.value.stderr, share * high.value.stderr, slope * entropy.stderr
            value = (1 - share) * low.value.value + share * high.value.value
            return Estimate(value, math.hypot(*errors), low.value.unit, min(low.value.n, high.value.n))
    return next((point.value for point in points if point.entropy.value == entropy.value), None)


def loss(value: Estimate, reference: Estimate) -> Estimate:
    """How much larger a value is than a reference, as a share of it; errors as if independent."""
    quotient = value.value / reference.value
    error = math.hypot(value.stderr, quotient * reference.stderr) / abs(reference.value)
    return Estimate(quotient - 1, error, "share", min(value.n, reference.n))
