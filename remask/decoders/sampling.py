"""Sampling: tokens drawn from left to right, as they are or with the law sharpened; the other baseline.

Ancestral sampling draws texts from the model's own law; a temperature (Ackley, Hinton & Sejnowski 1985) or the nucleus
of mass p (Holtzman et al. 2020, arXiv 1904.09751) makes it sharper. Of several draws the most probable one is kept, by
log p of the model itself. Draws are pure functions of the stream: uniforms do not depend on the other draws.
Shapes: N draws still written, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from remask.core.decoder import Answer, Budget, CausalModel, Decoded, one_by_one
from remask.core.draw import Categorical, Nucleus
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.decoders.beam import spent

MOST = 100_000  # draws: more are a slip of the keyboard


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn from left to right (the baseline); of several draws the most probable text."""

    law = "exact"

    n: int = 1
    """texts drawn, of which the most probable is kept"""
    temperature: float = 1.0
    """divide log p by T before drawing"""
    top_p: float = 1.0
    """draw from the smallest set of tokens with mass P"""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST:
            raise BadInput(f"sampling came with {self.n} draws: type --n 1 to {MOST}.")
        if not 0 < self.temperature < math.inf:
            raise BadInput(
                f"the temperature came as {self.temperature}: type a number above 0, or --decoder beam --beam 1 for "
                "the most probable token."
            )
        Nucleus(self.top_p)

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt. A budget of nodes is shared by fewer draws, each of them whole."""
        return one_by_one(lambda prompt, own: self._drawn(model, prompt, own, budget), model, prompts, stream, budget)

    def _drawn(self, model: CausalModel, prompt: Sequence[int], own: Stream, budget: Budget) -> Answer:
        """The most probable of the texts drawn after one prompt."""
        nodes = 1 + self.n * budget.tokens if budget.nodes is None else budget.nodes
        count = max(1, min(self.n, (nodes - 1) // max(budget.tokens - 1, 1)))
        draw = Categorical() if self.top_p == 1 else Nucleus(self.top_p)
        stream = own.rows(torch.zeros(count, dtype=torch.int64)).child(torch.arange(count))
        prefixes = model.rows(model.begin(prompt), torch.zeros(count, dtype=torch.int64))
        texts, total, best, calls = [list[int]() for _ in range(count)], [0.0] * count, Answer([], -math.inf, 0), 1
        nothing = torch.empty(0)
        for size in range(1, budget.tokens + 1):
            law = prefixes.log_prob.cpu()
            uniform = stream.uniform(size, Purpose.TOKEN, 1)[:, 0].cpu()
            tokens = draw(law / self.temperature, uniform, nothing, nothing)
            added = law.gather(1, tokens[:, None])[:, 0].tolist()
            texts = [[*text, token] for text, token in zip(texts, tokens.tolist())]
            total = [before + now for before, now in zip(total, added)]
            over = [text[-1] == model.end or size == budget.tokens for text in texts]
            for text, log_prob in ((t, p) for t, p, done in zip(texts, total, over) if done and p > best.log_prob):
                best = Answer(text, log_prob, 0)
            going = [row for row, done in enumerate(over) if not done]
            if not going or calls + len(going) > nodes:
                break
            index = torch.tensor(going)
            texts, total = [texts[row] for row in going], [total[row] for row in going]
            stream, prefixes = stream.rows(index), model.extend(model.rows(prefixes, index), tokens[index])
            calls += len(going)
        if not best.text:
            raise spent(budget)
        return best._replace(calls=calls)
