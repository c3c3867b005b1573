"""A language with hidden structure whose truth is known exactly: what a masked language model could know of it.

A sentence has a topic and an agreement bit, both fixed from its first word to its last, and a chain of word classes
(Markov, started from its stationary law). A word is emitted by the state (topic, agreement, class) at its position.
Every word has several readings: classes that emit it, under one topic if the class is topical and under one agreement
if the class agrees. So a word alone says little of its class or of the topic, and its context says much.
The 6 x 2 x 12 = 144 joint states are few enough for the exact forward-backward algorithm (Baum et al. 1970; scaled as
in Rabiner 1989, section V.A). Topic and agreement never change, so each step is one product with the classes' matrix.

Seed 0: 4.01 nats a token (ln 512 = 6.24); 63 % of the tokens are ambiguous; there the word alone gives class 0.37 and
topic 0.34, the whole sentence class 0.98 and topic 1.00.
Shapes: n sentences, L length, W words, V ids, T topics, C classes; states are [T, 2, C].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.metric import Estimate, ratio

PAD, MASK, END, FIRST = 0, 1, 2, 3  # words are the ids from FIRST on
AT_ONCE = 512  # sentences whose [n, L, T, 2, C] tables are held together: 19 MB each at the default sizes


class Sentences(NamedTuple):
    """tokens [n, L] ids, topic [n], classes [n, L], agreement [n]; all int64."""

    tokens: Tensor
    topic: Tensor
    classes: Tensor
    agreement: Tensor


class Posterior(NamedTuple):
    """p(hidden | sentence): topic [n, T], classes [n, L, C], agreement [n, 2]; float64."""

    topic: Tensor
    classes: Tensor
    agreement: Tensor


class Accuracy(NamedTuple):
    """Share of ambiguous tokens whose class, and whose sentence's topic, is named; errors over sentences."""

    classes: Estimate
    topic: Estimate


class Law(NamedTuple):
    """start [C] (stationary), step [C, C] (from, to), emission [W, T, 2, C] = p(word | state); float64."""

    start: np.ndarray
    step: np.ndarray
    emission: np.ndarray


@dataclass(frozen=True)
class HiddenLanguage:
    """A law over sentences, drawn once from `seed`."""

    seed: int = 0
    """Seed of the law, not of its samples."""
    topics: int = 6
    classes: int = 12
    words: int = 512
    length: int = 32
    readings: int = 4
    """Classes that can emit a word; their topics differ as well."""
    plain: float = 0.4
    """Share of words with one reading only: they show which class may follow which."""
    topical: int = 8
    """The first so many classes emit a word under one topic of its own ..."""
    leak: float = 0.05
    """... and so much more rarely under the others."""
    agreeing: int = 4
    """So many classes, spread evenly over all, emit under one agreement only."""
    habit: float = 0.7
    """A class is followed by its first successor so often, else by its second (both are permutations of classes)."""
    evenness: float = 5.0
    """Dirichlet parameter of a word's readings: large = equally likely ones."""
    zipf: float = 0.8
    """Word number r has weight 1 / r^zipf."""
    slip: float = 0.02
    """Probability of a word, and of a successor, that has nothing to do with the state."""
    uncertain: float = 0.6
    """A word is ambiguous if its likeliest class and its likeliest topic both stay below this."""

    @property
    def alphabet(self) -> Alphabet:
        """Ids 0 pad, 1 mask, 2 end, then the words."""
        return Alphabet(FIRST + self.words, MASK, PAD, END, frozenset((PAD, MASK, END)))

    @cached_property
    def law(self) -> Law:
        """The tables that everything else is computed from."""
        rng = np.random.default_rng(self.seed)
        first, second = (np.eye(self.classes)[rng.permutation(self.classes)] for _ in range(2))
        step = (1 - self.slip) * (self.habit * first + (1 - self.habit) * second) + self.slip / self.classes
        start = np.full(self.classes, 1 / self.classes)  # the columns of `step` sum to 1 as well
        weight = np.arange(1, self.words + 1, dtype=np.float64) ** -self.zipf
        emission = np.zeros((self.words, self.topics, 2, self.classes))
        agreeing = set(range(0, self.classes, max(1, self.classes // max(1, self.agreeing))))
        for word in range(self.words):
            classes = rng.permutation(self.classes)[: 1 if rng.random() < self.plain else self.readings]
            topics = rng.permutation(self.topics)[np.arange(len(classes)) % self.topics]
            shares = rng.dirichlet([self.evenness] * len(classes))
            for c, t, bit, share in zip(classes, topics, rng.integers(2, size=len(classes)), shares):
                topic = np.where(np.arange(self.topics) == t, 1.0, self.leak if c < self.topical else 1.0)
                agreement = np.where(np.arange(2) == bit, 1.0, float(c not in agreeing))
                emission[word, :, :, c] += weight[word] * share * np.outer(topic, agreement)
        anything = weight / weight.sum()
        total = emission.sum(0, keepdims=True)
        emission = np.divide(emission, total, out=np.broadcast_to(anything[:, None, None, None], emission.shape).copy(),
                             where=total > 0)  # fmt: skip
        return Law(start, step, (1 - self.slip) * emission + self.slip * anything[:, None, None, None])

    @cached_property
    def _given_word(self) -> tuple[np.ndarray, np.ndarray]:
        """p(class | word) [W, C] and p(topic | word) [W, T]."""
        joint = self.law.emission * self.law.start
        classes, topics = joint.sum((1, 2)), joint.sum((2, 3))
        return classes / classes.sum(1, keepdims=True), topics / topics.sum(1, keepdims=True)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        """Distribution functions of the words, row s lifted by s so that one sorted search serves all states."""
        states = self.law.emission.reshape(self.words, -1).T
        upto = states.cumsum(1)
        return (upto / upto[:, -1:] + np.arange(len(states))[:, None]).ravel()

    def sample(self, n: int, seed: int | Sequence[int]) -> Sentences:
        """n sentences, a pure function of `seed` (an int or several)."""
        rng = np.random.default_rng(seed)
        topic, bit = rng.integers(self.topics, size=n), rng.integers(2, size=n)
        move, word = rng.random((2, n, self.length))
        starts, steps = self.law.start.cumsum(), self.law.step.cumsum(1)
        starts, steps = starts / starts[-1], steps / steps[:, -1:]
        classes = np.empty((n, self.length), dtype=np.int64)
        classes[:, 0] = (move[:, :1] >= starts).sum(1)
        for i in range(1, self.length):
            classes[:, i] = (move[:, i, None] >= steps[classes[:, i - 1]]).sum(1)
        state = (topic * 2 + bit)[:, None] * self.classes + classes
        words = np.searchsorted(self._cumulative, word + state, side="right") - state * self.words
        words = words.clip(0, self.words - 1)  # word + state rounds up to state + 1 once in 2^45 draws
        return Sentences(*(torch.from_numpy(x) for x in (words + FIRST, topic, classes, bit)))

    def _forward_backward(self, tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """p(state_i | visible) [n, L, T, 2, C] and log p(visible) [n]; the mask's emission is 1 everywhere."""
        ids = tokens.numpy()
        assert ((ids >= FIRST) | (ids == MASK)).all(), "a sentence holds words and masks only"
        table = np.concatenate([np.ones((1, *self.law.emission.shape[1:])), self.law.emission])
        emitted = table[np.where(ids == MASK, 0, ids - FIRST + 1)]
        n, length = ids.shape
        state = np.empty_like(emitted)
        log_prob = np.zeros(n)
        ahead = np.broadcast_to(self.law.start / (2 * self.topics), emitted[:, 0].shape)
        for i in range(length):
            here = ahead * emitted[:, i]
            scale = here.sum((1, 2, 3), keepdims=True)
            log_prob += np.log(scale[:, 0, 0, 0])
            state[:, i] = here / scale
            ahead = state[:, i] @ self.law.step
        behind = np.ones_like(emitted[:, 0])
        for i in reversed(range(length)):
            state[:, i] *= behind
            state[:, i] /= state[:, i].sum((1, 2, 3), keepdims=True)
            behind = (behind * emitted[:, i]) @ self.law.step.T
            behind /= behind.sum((1, 2, 3), keepdims=True)
        return state, log_prob

    def _states(self, tokens: Tensor, read: Callable[[np.ndarray, slice], Sequence[np.ndarray]]) -> list[Tensor]:
        """What `read` makes of the states' posteriors of some rows, for all rows."""
        parts = []
        for first in range(0, len(tokens), AT_ONCE):
            rows = slice(first, min(first + AT_ONCE, len(tokens)))
            parts.append(read(self._forward_backward(tokens[rows])[0], rows))
        return [torch.from_numpy(np.concatenate(columns)) for columns in zip(*parts)]

    def posterior(self, tokens: Tensor) -> Posterior:
        """What the visible tokens [n, L] say of the hidden variables; masks are allowed."""
        return Posterior(*self._states(tokens, lambda s, _: (s[:, 0].sum((2, 3)), s.sum((2, 3)), s[:, 0].sum((1, 3)))))

    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p of the visible tokens [n, L] -> [n], nats."""
        parts = [self._forward_backward(part)[1] for part in tokens.split(AT_ONCE)]
        return torch.from_numpy(np.concatenate(parts))

    def masked_log_prob(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """log p(x_i | visible) of the clean tokens [n, L] at the True cells of `masked`; 0 at the others."""

        def read(state: np.ndarray, rows: slice) -> tuple[np.ndarray]:
            emitted = self.law.emission[tokens[rows].numpy() - FIRST]
            return (np.log((state * emitted).sum((2, 3, 4))),)

        return torch.where(masked, self._states(tokens.masked_fill(masked, MASK), read)[0], 0.0)

    def entropy_rate(self, n: int = 2000, seed: int = 0) -> Estimate:
        """Nats per token of n sampled sentences, -log p by the forward algorithm."""
        nats = -self.log_prob(self.sample(n, (seed, 1)).tokens)
        return ratio(nats.tolist(), [float(self.length)] * n, "nats/token")

    def ambiguous(self, tokens: Tensor) -> Tensor:
        """Tokens whose word alone leaves class and topic uncertain, bool [n, L]."""
        classes, topics = self._given_word
        word = (classes.max(1) < self.uncertain) & (topics.max(1) < self.uncertain)
        return torch.from_numpy(word)[tokens - FIRST]

    def accuracy(self, sentences: Sentences, classes: Tensor, topic: Tensor) -> Accuracy:
        """Of guesses [n, L] of each token's class and of its sentence's topic, at the ambiguous tokens."""
        at = self.ambiguous(sentences.tokens)
        counts = at.sum(1).tolist()
        right = ((classes == sentences.classes) & at).sum(1), ((topic == sentences.topic[:, None]) & at).sum(1)
        return Accuracy(*(ratio(x.tolist(), counts, "share") for x in right))

    def oracle_accuracy(self, sentences: Sentences) -> Accuracy:
        """Of the best guesses that the whole clean sentence allows."""
        known = self.posterior(sentences.tokens)
        topic = known.topic.argmax(1)[:, None].expand_as(sentences.tokens)
        return self.accuracy(sentences, known.classes.argmax(2), topic)

    def word_accuracy(self, sentences: Sentences) -> Accuracy:
        """Of the best guesses from each word alone."""
        classes, topics = (torch.from_numpy(x.argmax(1))[sentences.tokens - FIRST] for x in self._given_word)
        return self.accuracy(sentences, classes, topics)


if __name__ == "__main__":
    language = HiddenLanguage()
    drawn = language.sample(4000, 1)
    rate = language.entropy_rate()
    print(f"entropy {rate.value:.3f} ± {rate.stderr:.3f} nats a token")
    print(f"ambiguous {language.ambiguous(drawn.tokens).double().mean():.3f} of the tokens; there")
    for name, known in (("word", language.word_accuracy(drawn)), ("sentence", language.oracle_accuracy(drawn))):
        print(f"  by the {name}: class {known.classes.value:.3f}, topic {known.topic.value:.3f}")
