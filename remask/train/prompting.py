"""Prompts of labelled examples: what text stands around a text and its label, which examples are drawn, in what order.

    Message : buy now\\nKind : advertisement\\nMessage : see you at 5\\nKind :

The order of a few examples moves the answer by as much as their number (Lu et al. 2022, arXiv 2104.08786), so an
accuracy is one of many draws of examples and orders, or it says little.
Shapes: Q queries, C labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from remask.core.errors import BadData, BadInput
from remask.core.metric import Estimate
from remask.data.tokenizers import encode
from remask.decoders.few_shot import Answers, Task

TEXT, LABEL = "{text}", "{label}"
BLANKS = ("N/A", "", "[]")  # queries that say nothing (Zhao et al. 2021, arXiv 2102.09690, section 4)


@dataclass(frozen=True)
class Template:
    """An example as text. pattern: with {text} and, behind it, {label}, each once; an example is all of it."""

    pattern: str

    def __post_init__(self) -> None:
        if self.pattern.count(TEXT) != 1 or self.pattern.count(LABEL) != 1:
            raise BadInput(f"a template came as '{self.pattern}': type one with {TEXT} and {LABEL}, each once.")
        if self.pattern.index(LABEL) < self.pattern.index(TEXT):
            raise BadInput(
                f"a template came as '{self.pattern}', its label first: a query ends where its label begins."
            )

    def example(self, text: str, word: str) -> str:
        """A text with its label."""
        before, after = self.pattern.split(LABEL)
        return before.replace(TEXT, text) + word + after

    def query(self, text: str) -> str:
        """A text up to where its label is to stand; a blank before the label is the label's, as tokenizers have it."""
        return self.pattern.split(LABEL)[0].replace(TEXT, text).removesuffix(" ")

    def answer(self, word: str) -> str:
        """A label as it follows a query."""
        return f" {word}" if self.pattern.split(LABEL)[0].endswith(" ") else word


def drawn(labels: Sequence[int], classes: int, shots: int, seed: Sequence[int]) -> list[int]:
    """Numbers of `shots` examples in an order: of each class as many as of the others, or one less.

    Raises BadData where a class has too few examples.
    """
    chance = np.random.default_rng([*seed])
    order = chance.permutation(classes)
    wanted = Counter(int(order[k % classes]) for k in range(shots))
    chosen = []
    for number, count in sorted(wanted.items()):
        here = [i for i, label in enumerate(labels) if label == number]
        if len(here) < count:
            raise BadData(f"{count} examples of a class were to be drawn, and it has {len(here)}: type fewer --shots.")
        chosen += [int(k) for k in chance.choice(here, count, replace=False)]
    return [chosen[k] for k in chance.permutation(shots)]


def put(
    tokenizer: Any,
    template: Template,
    words: Sequence[str],
    examples: Sequence[tuple[str, int]],
    queries: Sequence[str],
) -> Task:
    """Examples, each a text and the number of its label, and queries, in tokens. words: what stands for a label."""

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in encode(tokenizer, texts)]

    told = ids([template.example(text, words[label]) for text, label in examples])
    asked = ids([template.query(text) for text in [*queries, *BLANKS]])
    blanks = [one for one in asked[len(queries) :] if one]  # a template may show nothing of an empty text
    return Task(told, asked[: len(queries)], ids([template.answer(word) for word in words]), blanks)


def accuracy(answers: Answers, labels: Sequence[int]) -> dict[str, float]:
    """Shares of queries that are answered rightly: plain, and calibrated where there are blanks."""
    right = torch.tensor(labels)
    both = {"plain": answers.plain, "calibrated": answers.calibrated}
    hits = {name: found.argmax(1) == right for name, found in both.items() if found is not None}
    return {name: float(share.double().mean()) for name, share in hits.items()}


def over_draws(values: Sequence[float]) -> Estimate:
    """The mean of draws, its standard error over them; the queries are the same in all."""
    count = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(np.mean(values)), error, "share", count)
