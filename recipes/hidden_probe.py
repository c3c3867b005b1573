"""Linear probes of a frozen net on the hidden language: class and topic at ambiguous tokens, clean input.

Multinomial logistic regression on standardised hidden states of the last layer (Alain & Bengio 2016, arXiv 1610.01644),
with one fixed, weak L2 penalty: rows outnumber features by eighty to one, and cross-validation would cost more than the
training between two points of a curve.
Shapes: N fitted cells, M tested cells, D features, L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.hidden_language import Accuracy, HiddenLanguage, Sentences
from remask.core.choose import exactly
from remask.core.stream import Purpose, Stream

FIT, TEST = 2, 3  # first part of the samples' seeds: text to train on has another
PENALTY = 1e-4


@dataclass(frozen=True)
class Probe:
    """Fixed sentences of a language: `sentences` to fit on, as many to test on."""

    language: HiddenLanguage
    sentences: int = 1000
    cells: int = 8
    """Ambiguous tokens of each sentence that are fitted on; all are tested on."""

    def _drawn(self, what: int) -> Sentences:
        return self.language.sample(self.sentences, (what, self.language.seed))

    @cached_property
    def fit(self) -> tuple[Sentences, Tensor]:
        """Sentences, and the cells [n, L] bool that are fitted on."""
        drawn = self._drawn(FIT)
        among = self.language.ambiguous(drawn.tokens)
        uniform = Stream.of(FIT, len(among)).uniform(0, Purpose.WHERE, among.shape[1])
        return drawn, exactly(uniform, among, torch.full((len(among),), self.cells))

    @cached_property
    def test(self) -> tuple[Sentences, Tensor]:
        """Sentences, and the cells [n, L] bool that are tested on."""
        drawn = self._drawn(TEST)
        return drawn, self.language.ambiguous(drawn.tokens)

    def __call__(self, trunk: Any) -> Accuracy:
        """What probes read off `trunk.hidden(tokens)`."""
        (fit, few), (test, at) = self.fit, self.test
        answers = [fit.classes[few], fit.topic[:, None].expand_as(few)[few]]
        guesses = logistic(_states(trunk, fit.tokens, few), answers, _states(trunk, test.tokens, at))
        return self.language.accuracy(test, *(torch.zeros_like(test.tokens).masked_scatter(at, g) for g in guesses))


def _states(trunk: Any, tokens: Tensor, cells: Tensor, rows: int = 250) -> Tensor:
    with torch.no_grad():
        return torch.cat([trunk.hidden(t)[c] for t, c in zip(tokens.split(rows), cells.split(rows))])


def logistic(features: Tensor, labels: Sequence[Tensor], unseen: Tensor, iterations: int = 60) -> list[Tensor]:
    """The likeliest labels [M] of the unseen rows [M, D], for each of several labellings [N] of the rows [N, D].

    The fits share their matrix products and nothing else; L-BFGS (Liu & Nocedal 1989).
    """
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    x, new = (features - mean) / deviation, (unseen - mean) / deviation
    sizes = [int(y.max()) + 1 for y in labels]
    weight = torch.zeros(x.shape[1] + 1, sum(sizes), dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        parts = (x @ weight[:-1] + weight[-1]).split(sizes, 1)
        loss = torch.stack([cross_entropy(part, y) for part, y in zip(parts, labels)]).sum()
        loss = loss + PENALTY / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return [part.argmax(1) for part in (new @ weight[:-1] + weight[-1]).split(sizes, 1)]
