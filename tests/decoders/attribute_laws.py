"""Small laws whose every text can be listed, exact posteriors of them, and searches over all of it by brute force."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import torch

from remask.core.decoder import Spoken
from remask.decoders.attributes import All, Avoids, Contains, Ends, Judged, Length, NoRepeats, NotEmpty

END = 0


def random_law(seed, size=4, sharp=1.5):
    """A model whose every prefix has a random law of its own."""
    known = {}

    def law(prefix):
        if prefix not in known:
            numbers = random.Random(f"{seed} {prefix}")
            known[prefix] = torch.tensor([sharp * numbers.gauss(0, 1) for _ in range(size)]).double().log_softmax(0)
        return known[prefix]

    return Spoken(law, END)


def distractors(rivals=10, short=3, long=6, sure=0.98):
    """Texts of `short` tokens begin with one of many likely tokens, those of `long` with the last but one, unlikely."""
    size = rivals + 3
    rare, filler = rivals + 1, rivals + 2

    def law(prefix):
        if not prefix:
            first = torch.full((size,), 0.95 / rivals)
            first[[END, rare, filler]] = torch.tensor([0.005, 0.04, 0.005])
            return first.double().log()
        after = torch.full((size,), (1 - sure) / (size - 1)).double()
        after[END if len(prefix) >= (long if prefix[0] == rare else short) else filler] = sure
        return after.log()

    return Spoken(law, END), [rare, *[filler] * (long - 1), END]


def texts(model, prompt, longest, text=(), so_far=0.0):
    """Every finished text of a model after a prompt: (text, ended, log p), by brute force."""
    if len(text) == longest:
        yield list(text), False, so_far
        return
    for token, log_prob in enumerate(torch.as_tensor(model.next_log_probs((*prompt, *text))).tolist()):
        if token == model.end:
            yield list(text), True, so_far + log_prob
        elif log_prob > -math.inf:
            yield from texts(model, prompt, longest, (*text, token), so_far + log_prob)


def mode(model, prompt, attribute, longest):
    """Log p of the likeliest text that has an attribute, -inf if none has."""
    return max((p for text, ended, p in texts(model, prompt, longest) if attribute(text, ended)), default=-math.inf)


@dataclass
class Exact:
    """The exact log p(attribute | prefix), by dynamic programming over all that may follow.

    state: what of a text tells its future; asked: the shapes of all questions.
    """

    model: object
    attribute: object
    longest: int
    prompt: tuple = ()
    state: object = tuple
    asked: list = field(default_factory=list)
    known: dict = field(default_factory=dict)

    def __call__(self, prefixes, texts, candidates):
        self.asked.append(tuple(candidates.shape))
        rows = zip(texts.tolist(), candidates.tolist())
        each = [[0.0 if t == self.model.end else self.log(self.worth((*text, t))) for t in row] for text, row in rows]
        return torch.tensor(each).double()

    @staticmethod
    def log(p):
        return math.log(min(p, 1.0)) if p > 0 else -math.inf

    def worth(self, text):
        """p(attribute | text)."""
        state = self.state(text)
        if state not in self.known:
            law = torch.as_tensor(self.model.next_log_probs((*self.prompt, *text))).exp().tolist()
            self.known[state] = sum(p * self.after(text, token) for token, p in enumerate(law) if p > 0)
        return self.known[state]

    def after(self, text, token):
        if token == self.model.end:
            return float(self.attribute(list(text), True))
        if len(text) + 1 == self.longest:
            return float(self.attribute([*text, token], False))
        return self.worth((*text, token))


@dataclass
class Noisy:
    """A posterior with Gaussian noise on its logs, the same whenever it is asked the same."""

    exact: Exact
    noise: float
    seed: int = 0

    def __call__(self, prefixes, texts, candidates):
        found = self.exact(prefixes, texts, candidates)
        rows = zip(texts.tolist(), candidates.tolist())
        noise = [[random.Random(f"{self.seed} {text} {t}").gauss(0, self.noise) for t in row] for text, row in rows]
        return (found + torch.tensor(noise).double()).clamp(max=0)


ATTRIBUTES = {
    "length 0": Length(0),
    "length 3": Length(3),
    "any length": Length(),
    "ends": Ends(),
    "not empty": NotEmpty(),
    "no repeats of 1": NoRepeats(1),
    "no repeats of 2": NoRepeats(2),
    "contains": Contains(((1, 2), (3,))),
    "contains long": Contains(((2, 1, 2),)),
    "avoids": Avoids(((1,), (2, 3))),
    "even": Judged(lambda text, ended: sum(text) % 2 == 0, "even"),
    "several": All((Ends(), NoRepeats(2), Avoids(((1, 1),)))),
    "nothing asked": All(()),
}
