"""Modes: high likelihood and low quality, without any fault of the model.

Let a share e of the data be bad, D = (1 - e) P + e N with P clean, N of few texts, and nothing in common. A model that
has learned D perfectly has a bad mode iff e max N > (1 - e) max P, that is above e* = max P / (max P + max N): about
2^-H for 2^H good texts and one bad one, such as the empty text (Yoshida et al. 2023, arXiv 2311.08817, section 2).
    The good answers to longer sources have more entropy, so these have more empty modes: with K free words, each of
probability r at best, iff K log(1 / r) > log((1 - e) / e).
    Drawing from D goes wrong in e of the cases, whatever N is; the mode never, or always.
    A masked model is asked at a length, where its mode is not empty; whoever chooses the length by log p(length) +
log p(text | length) has chosen the mode of D again, and by p(length) alone there is another threshold, with
max p(length) in the place of max P.
Everything here is enumerated, searched (decoders/exact_mode.py) or drawn, with the closed form beside it.
Shapes: A symbols, L length, N texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from remask.core.decoder import Budget
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.decoders.exact_mode import ExactMode
from remask.lab import modes_plot
from remask.lab.experiment import Findings
from remask.lab.laws import check_states
from remask.lab.populations import Texts, clean, noise
from remask.lab.straight import masked_modes

Row = dict[str, Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FACTORS = (0.5, 0.9, 1.1, 2.0)  # of the threshold, where the mode is looked at
SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # of bad texts, where sampling and the mode are compared
MOST_INPUT = 18  # words of an input whose outputs are enumerated
HALVINGS = 60  # of an interval in log e


def threshold(clean_best: float, noise_best: float) -> float:
    """e* = max P / (max P + max N): above it the mode of the mixture is noise."""
    return clean_best / (clean_best + noise_best)


def switch(bad: Callable[[float], bool]) -> float:
    """The share of noise from which on the answer is bad, found by halving log e."""
    low, high = math.log(1e-12), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if bad(math.exp(middle)) else (middle, high)
    return math.exp(high)


# ---- the experiment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Modes:
    """When the most probable text is a bad one: contamination, length, noise, masked models (Yoshida et al. 2023)."""

    contamination: float = 0.01
    """Share e of bad texts."""
    symbols: int = 4
    """Of the good texts."""
    shortest: int = 5
    """Symbols of the shortest good text; bad ones are shorter."""
    longest: int = 8
    """Symbols of the longest."""
    stay: float = 0.62
    """Probability that a symbol repeats the one before it: the entropy of good texts falls with it."""
    free: float = 0.5
    """Share of the words of an input that can be said in two ways."""
    lead: float = 0.6
    """Probability of the better way."""
    inputs: int = 1000
    """Inputs of each length whose modes are found."""
    samples: int = 20000
    """Texts drawn for each share of bad ones."""
    seed: int = 0
    """Of the inputs and the texts."""

    def __post_init__(self) -> None:
        for name, low, high in (("contamination", 0, 1), ("stay", 0, 1), ("free", 0, 1)):
            if not low < getattr(self, name) < high:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type a share between {low} and {high}.")
        if not 0.5 <= self.lead < 1:
            raise BadInput(f"--lead came as {self.lead}: the better of two ways has from 0.5 to less than 1.")
        if not 2 <= self.symbols <= len(LETTERS) or not 1 <= self.shortest <= self.longest:
            raise BadInput(
                f"texts of {self.shortest} to {self.longest} of {self.symbols} symbols came: type --symbols 2 to 26, "
                "and --shortest 1 up to --longest."
            )
        check_states(self.symbols, self.longest + 1)
        for name, least in (("inputs", 2), ("samples", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type {least} or more.")

    @cached_property
    def good(self) -> Texts:
        """P."""
        return clean(self.symbols, self.shortest, self.longest, self.stay)

    def bad(self, count: int) -> Texts:
        """N: the `count` shortest texts."""
        return noise(self.symbols, count, self.longest)

    @property
    def most_noise(self) -> int:
        """Texts that are shorter than all good ones."""
        return sum(self.symbols**length for length in range(self.shortest))

    @property
    def best(self) -> float:
        """max P in closed form: the shortest length, and the likeliest way on at every symbol."""
        step = max(self.stay, (1 - self.stay) / (self.symbols - 1))
        return step ** (self.shortest - 1) / self.symbols / self._kinds

    @property
    def entropy(self) -> float:
        """Of P in closed form, bits."""
        step = entropy_bits([self.stay]) + (1 - self.stay) * math.log2(self.symbols - 1)
        mean = (self.shortest + self.longest) / 2
        return math.log2(self._kinds) + math.log2(self.symbols) + (mean - 1) * step

    @property
    def _kinds(self) -> int:
        return self.longest + 1 - self.shortest

    def run(self) -> Findings:
        """Rows of six kinds: threshold, noise, output, length, masked, choice."""
        rows = [*self._threshold(), *self._noise(), *self._output(), *self._length(), *self._masked(), *self._choice()]
        return Findings(rows, modes_plot.panels(rows, self), modes_plot.says(rows, self))

    def _named(self, text: Sequence[int]) -> str:
        return "".join(LETTERS[symbol] for symbol in text)

    def _degenerate(self, bad: Texts, share: float) -> bool:
        """Whether the mode is none of the good texts, by enumeration."""
        return not float(self.good.whole[int(self.good.mixed(bad, share).whole.argmax())]) > 0

    def _threshold(self) -> Iterator[Row]:
        """The mode of D by exact search around the threshold, and at the share that was asked for."""
        good, empty = self.good, self.bad(1)
        limit = threshold(self.best, 1.0)
        for share in sorted({self.contamination, *(factor * limit for factor in FACTORS)}):
            if not share < 1:
                continue
            mixed = good.mixed(empty, share)
            model = mixed.spoken()
            found = ExactMode()(model, [[]], Stream.of(0, 1), Budget(self.longest + 2))
            text = found.texts(model.end)[0]
            yield {
                "kind": "threshold",
                "contamination": share,
                "over_threshold": share / limit,
                "mode": self._named(text),
                "log_prob": float(found.log_prob[0]),
                "log_prob_theory": math.log(max(share, (1 - share) * self.best)),
                "degenerate": len(text) < self.shortest,
                "predicted": share > limit,
                "certified": bool(found.info.certified[0]),
                "calls": int(found.info.calls[0]),
            }

    def _noise(self) -> Iterator[Row]:
        """Where the mode switches, by the number of bad texts."""
        counts = [1]
        while counts[-1] * self.symbols < self.most_noise:
            counts.append(counts[-1] * self.symbols)
        for count in dict.fromkeys([*counts, self.most_noise]):
            bad = self.bad(count)
            found = switch(partial(self._degenerate, bad))
            yield {
                "kind": "noise",
                "texts": count,
                "noise_bits": bad.entropy,
                "clean_bits": self.good.entropy,
                "clean_bits_theory": self.entropy,
                "switch": found,
                "threshold": threshold(self.best, 1 / count),
            }

    def _output(self) -> Iterator[Row]:
        """The share of bad answers: drawn from D, and its mode; under noise of one text and of many."""
        for count in dict.fromkeys((1, self.most_noise)):
            bad = self.bad(count)
            limit = threshold(self.best, 1 / count)
            for number, share in enumerate(sorted({*SHARES, self.contamination})):
                mixed = self.good.mixed(bad, share)
                drawn = self.good.whole[mixed.sample(self.samples, self.seed + 1000 * count + number)] == 0
                rate = float(drawn.double().mean())
                yield {
                    "kind": "output",
                    "noise": "one text" if count == 1 else f"{count} texts",
                    "contamination": share,
                    "sampled_bad": rate,
                    "sampled_bad_stderr": math.sqrt(rate * (1 - rate) / (self.samples - 1)),
                    "sampled_bad_theory": share,
                    "mode_bad": float(self._degenerate(bad, share)),
                    "mode_bad_theory": float(share > limit),
                }

    def _length(self) -> Iterator[Row]:
        """How many inputs have an empty mode, by their length."""
        needed = math.log((1 - self.contamination) / self.contamination) / -math.log(self.lead)
        empty: dict[int, tuple[bool, float]] = {}
        for length in range(2, MOST_INPUT + 1, 2):
            stream = Stream.of(self.seed, self.inputs).child(length)
            ways = (stream.uniform(0, Purpose.START, length) < self.free).sum(1)
            for count in set(ways.tolist()) - set(empty):
                empty[count] = answers(count, self.lead, self.contamination)
            found = torch.tensor([empty[count] for count in ways.tolist()], dtype=torch.float64)
            rate, bits = found.mean(0).tolist()
            yield {
                "kind": "length",
                "length": length,
                "bits": bits,
                "bits_theory": length * self.free * entropy_bits([self.lead]),
                "empty_modes": rate,
                "empty_modes_stderr": math.sqrt(rate * (1 - rate) / (self.inputs - 1)),
                "empty_modes_theory": binomial_above(length, self.free, needed),
            }

    def _masked(self) -> Iterator[Row]:
        """What a masked model of D says at each length, and how probable that length is."""
        mixed = self.good.mixed(self.bad(1), self.contamination)
        weight = mixed.lengths
        there = [length for length in range(len(weight)) if float(weight[length]) > 0]
        step = max(self.stay, (1 - self.stay) / (self.symbols - 1))
        for mode in masked_modes(mixed.law, there):
            log_weight = math.log(float(weight[mode.length]))
            theory = 0.0 if mode.length == 0 else (mode.length - 1) * math.log(step) - math.log(self.symbols)
            yield {
                "kind": "masked",
                "length": mode.length,
                "mode": self._named(mode.text),
                "log_prob": mode.log_prob,
                "log_prob_theory": theory,
                "length_log_prob": log_weight,
                "together": log_weight + mode.log_prob,
                "certified": mode.certified,
                "calls": mode.calls,
            }

    def _chosen_empty(self, choice: str, share: float) -> bool:
        return CHOICES[choice](self.good.mixed(self.bad(1), share)) == 0

    def _choice(self) -> Iterator[Row]:
        """From which share on the text is empty, by how its length is chosen."""
        for name, best in (("length alone", 1 / self._kinds), ("length and text", self.best)):
            found = switch(partial(self._chosen_empty, name))
            yield {
                "kind": "choice",
                "choice": name,
                "length": CHOICES[name](self.good.mixed(self.bad(1), self.contamination)),
                "switch": found,
                "threshold": threshold(best, 1.0),
            }


CHOICES: dict[str, Callable[[Texts], int]] = {
    "length alone": lambda texts: int(texts.lengths.round(decimals=12).argmax()),
    "length and text": lambda texts: int(torch.stack([part.max() for part in texts.ends]).argmax()),
}
"""Lengths that a masked model may be asked for: the most probable (the shortest of several), and the best pair's."""


def answers(ways: int, lead: float, share: float) -> tuple[bool, float]:
    """Whether the mode is empty for an input with so many free words, and the bits of its good answers.

    All 2^ways good answers are enumerated; the empty one has probability `share`.
    """
    good = torch.ones(1, dtype=torch.float64)
    for _ in range(ways):
        good = torch.kron(good, torch.tensor([lead, 1 - lead], dtype=torch.float64))
    whole = torch.cat([torch.tensor([share], dtype=torch.float64), (1 - share) * good])
    return int(whole.argmax()) == 0, float(-torch.xlogy(good, good).sum()) / math.log(2)


def entropy_bits(shares: Sequence[float]) -> float:
    """Of shares and of what they leave, in bits."""
    return -sum(p * math.log2(p) for p in (*shares, 1 - sum(shares)) if p > 0)


def binomial_above(count: int, share: float, needed: float) -> float:
    """P(K > needed), K of `count` trials with probability `share` each."""
    return math.fsum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1) if k > needed
    )
