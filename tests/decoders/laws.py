"""Small laws of left-to-right texts that can be enumerated, and the truth about them by brute force."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from remask.core.decoder import Prefixes, Spoken

Next = Callable[[tuple[int, ...]], Sequence[float]]


def random_law(seed: int, size: int, flatness: float = 1.0, ending: float = 1.0) -> Next:
    """Next tokens whose weights are powers of uniforms, another draw after every prefix; flatness 0 is uniform.

    ending: what the weight of token 0 is multiplied by.
    """

    def next_log_probs(prefix):
        chance = random.Random(repr((seed, prefix)))
        weights = [chance.random() ** (1 / flatness) if flatness else 1.0 for _ in range(size)]
        weights[0] *= ending
        return [math.log(w / sum(weights)) for w in weights]

    return next_log_probs


def whole_law(seed: int, size: int, most: int = 3) -> Next:
    """Weights that are whole numbers from 0 to `most`: ties, and tokens that never come."""

    def next_log_probs(prefix):
        chance = random.Random(repr((seed, prefix)))
        weights = [chance.randint(0, most) for _ in range(size)]
        weights[chance.randrange(size)] += 1
        return [math.log(w / sum(weights)) if w else -math.inf for w in weights]

    return next_log_probs


def table_law(size: int, end: int, rows: dict[tuple[int, ...], dict[int, float]]) -> Next:
    """Probabilities by hand; after a prefix that is not named the text ends."""

    def next_log_probs(prefix):
        row = rows.get(prefix, {end: 1.0})
        return [math.log(row[token]) if row.get(token) else -math.inf for token in range(size)]

    return next_log_probs


class Text(NamedTuple):
    """A whole text: its tokens, the end last if it has one, and log p summed from left to right."""

    tokens: tuple[int, ...]
    log_prob: float


def texts(law: Next, end: int, longest: int, prompt: Sequence[int] = (), length: int | None = None) -> list[Text]:
    """Every text of positive probability: those that end within `longest` tokens, and those that are cut there.

    length: only those that end after so many tokens.
    """
    found, open_ = list[Text](), [Text((), 0.0)]
    last = longest if length is None else length + 1
    for written in range(last):
        longer = []
        for text in open_:
            after = law((*prompt, *text.tokens))
            for token, log_prob in enumerate(after):
                one = Text((*text.tokens, token), text.log_prob + float(log_prob))
                over = token == end or (length is None and written + 1 == last)
                (found if over else longer).append(one)
        open_ = [one for one in longer if one.log_prob > -math.inf]
    wanted = [one for one in found if length is None or len(one.tokens) == length + 1]
    return [one for one in wanted if one.log_prob > -math.inf]


def mode(law: Next, end: int, longest: int, prompt: Sequence[int] = (), length: int | None = None) -> float:
    """Log p of the best text, -inf where there is none."""
    return max((one.log_prob for one in texts(law, end, longest, prompt, length)), default=-math.inf)


class Watched:
    """A CausalModel that remembers every prefix it was asked to read, the prompt included, in order."""

    def __init__(self, model):
        self.model, self.size, self.end, self.window = model, model.size, model.end, model.window
        self.read: list[tuple[int, ...]] = []

    def begin(self, prompt) -> Prefixes:
        found = self.model.begin(prompt)
        self.read.append(())
        return found._replace(cache=(found.cache, [()]))

    def extend(self, prefixes, tokens) -> Prefixes:
        inner, texts = prefixes.cache
        found = self.model.extend(prefixes._replace(cache=inner), tokens)
        longer = [(*text, token) for text, token in zip(texts, tokens.tolist())]
        self.read += longer
        return found._replace(cache=(found.cache, longer))

    def rows(self, prefixes, index) -> Prefixes:
        inner, texts = prefixes.cache
        found = self.model.rows(prefixes._replace(cache=inner), index)
        return found._replace(cache=(found.cache, [texts[k] for k in index.tolist()]))


def score(model, prompt, tokens) -> float:
    """Log p of a text by the model itself, one token after the other, alone."""
    prefixes, total = model.begin(prompt), 0.0
    for place, token in enumerate(tokens):
        total += float(prefixes.log_prob[0, token])
        if place + 1 < len(tokens):
            prefixes = model.extend(prefixes, torch.tensor([token]))
    return total


def spoken(law: Next, end: int = 0) -> Spoken:
    """The law as a model."""
    return Spoken(law, end)


def written(decoded) -> list[list[int]]:
    """The tokens of each text with their ends."""
    canvas = decoded.canvas
    return [row[mine].tolist() for row, mine in zip(canvas.tokens, canvas.unknown)]
