"""A language whose law is known at any length: a hidden Markov model to hold trained nets and samplers to.

A hidden state is a topic, which stays for a while, and a class of words, which is mostly followed by the successor that
the topic has for it. A word has several readings (classes that show it) and is likelier under a topic of its own; so
a word says little, the words beside it say which reading is meant, and many words together say what the topic is.
Every state may follow every class, so no text is impossible and no figure infinite.
All numbers are exact in float64 by the scaled forward and backward messages of `chains.py` (Baum et al. 1970; Rabiner
1989, Proceedings of the IEEE 77): log p of a text, hence the cross-entropy of any writer, and p(x_i | the visible rest)
with masked cells summed out, so that samplers can be run on the true law itself.

Defaults: 64 states, 256 words. A word alone has 4.656 nats, texts of 512 words 3.330 (0.003) a word; who sees only the
last 1, 2, 3, 4 or 6 words before a word loses 1.03, 0.52, 0.18, 0.05 or 0.01 nats against who sees all.
Shapes: R rows, L length, A words, H hidden states, V = A + 2 ids, N cells asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.core.stream import Purpose, Stream
from remask.lab.chains import Chain
from remask.lab.laws import Law, hidden_markov

AT_ONCE = 128  # rows whose messages are held together: 34 MB each way at 512 cells and 64 states
DRAWN_AT_ONCE = 4096  # rows whose uniforms are held together
EVENNESS = 5.0  # Dirichlet parameter of how a word is shared out among its readings


class Tables(NamedTuple):
    """start [H], stationary; transition [H, H], from and to; emission [H, A]; float64, rows sum to 1."""

    start: Tensor
    transition: Tensor
    emission: Tensor


@dataclass(frozen=True)
class Language:
    """The law, a function of its seed; also a Conditional of any length.

    Ids are the words 0..A-1, then the mask and the end token, which is never drawn and lies outside the law.
    """

    seed: int = 0
    """seed of the law, not of its samples"""
    words: int = 256
    """words A"""
    topics: int = 4
    """topics; there are topics * classes hidden states"""
    classes: int = 16
    """classes of words"""
    readings: int = 3
    """classes that show a word"""
    stay: float = 0.97
    """probability that the topic stays"""
    habit: float = 0.9
    """share of the first successor of a class, the second has the rest"""
    slip: float = 0.02
    """probability that any class follows"""
    zipf: float = 1.0
    """word number r has weight 1 / r^zipf"""
    leak: float = 0.3
    """weight of a word under topics that are not its own"""
    visible: Visible = Visible.DENOISE
    """what it says at cells that are not masked"""

    def __post_init__(self) -> None:
        if self.topics < 1 or not 1 <= self.readings <= self.classes <= self.words:
            raise BadInput(
                f"a language came with {self.topics} topics, {self.readings} readings, {self.classes} classes and "
                f"{self.words} words: give 1 or more of each, no more readings than classes, nor classes than words."
            )
        if not (0 < self.slip <= 1 and 0 < self.leak <= 1 and 0 <= self.stay <= 1 and 0 <= self.habit <= 1):
            raise BadInput(
                f"a language came with slip {self.slip}, leak {self.leak}, stay {self.stay} and habit {self.habit}: "
                "slip and leak must lie in (0, 1], or texts would be impossible; stay and habit in [0, 1]."
            )

    @property
    def alphabet(self) -> Alphabet:
        """The words, the mask, the end."""
        mask, end = self.words, self.words + 1
        return Alphabet(self.words + 2, mask, end=end, special=frozenset((mask, end)))

    @property
    def conditional(self) -> Language:
        """p(x_i | visible rest): the language itself answers."""
        return self

    @cached_property
    def tables(self) -> Tables:
        """The probabilities that everything is computed from."""
        random = np.random.default_rng(self.seed)
        transition = self._transition(random)
        states = self.topics * self.classes
        start = np.full(states, 1 / states)  # columns of `transition` sum to 1 too
        return Tables(*(torch.from_numpy(x) for x in (start, transition, self._emission(random))))

    def _transition(self, random: np.random.Generator) -> np.ndarray:
        """[H, H]: the class goes by the habits of the topic that it leaves, the topic by itself."""
        classes, topics = np.eye(self.classes), np.eye(self.topics)
        move = self.stay * topics + (1 - self.stay) / max(self.topics - 1, 1) * (1 - topics)
        found = np.zeros((self.topics, self.classes, self.topics, self.classes))
        for topic in range(self.topics):
            first, second = (classes[random.permutation(self.classes)] for _ in range(2))
            step = (1 - self.slip) * (self.habit * first + (1 - self.habit) * second) + self.slip / self.classes
            found[topic] = step[:, None, :] * move[topic][None, :, None]
        flat = found.reshape(self.topics * self.classes, -1)
        return flat / flat.sum(1, keepdims=True)

    def _emission(self, random: np.random.Generator) -> np.ndarray:
        """[H, A]; every class has words of its own number, modulo the classes."""
        shown = np.zeros((self.topics, self.classes, self.words))
        first = random.permutation(self.words) % self.classes
        for word in range(self.words):
            others = 1 + random.permutation(self.classes - 1)[: self.readings - 1]
            readings = (first[word] + np.array([0, *others])) % self.classes
            shares = random.dirichlet([EVENNESS] * self.readings)
            topic = np.where(np.arange(self.topics) == random.integers(self.topics), 1.0, self.leak)
            shown[:, readings, word] = topic[:, None] * shares * (word + 1.0) ** -self.zipf
        return (shown / shown.sum(2, keepdims=True)).reshape(-1, self.words)

    def chain(self, length: int) -> Chain:
        """The law of texts of one length, by messages."""
        return Chain(*self.tables, length, self.visible)

    def law(self, length: int) -> Law:
        """The same by enumeration, with its exact entropy; BadInput beyond 2^20 texts."""
        return hidden_markov(*self.tables, length)

    # ---- true texts --------------------------------------------------------------------------------------------------

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        return _ladder(self.tables.start[None]), _ladder(self.tables.transition), _ladder(self.tables.emission)

    def sample(self, rows: int, length: int, seed: Stream | int = 0) -> Tensor:
        """True texts, [R, L] int64; `seed` or a stream of R rows. A shorter text is the beginning of a longer one."""
        if rows < 1 or length < 1:
            raise BadInput(f"{rows} texts of {length} words were asked for: both must be 1 or more.")
        stream = Stream.of(seed, rows) if isinstance(seed, int) else seed
        parts = torch.arange(rows, device=stream.seeds.device).split(DRAWN_AT_ONCE)
        return torch.cat([self._drawn(stream.rows(part), length) for part in parts])

    def _drawn(self, stream: Stream, length: int) -> Tensor:
        """What `Chain.sample` draws with the same uniforms, some hundred times faster."""
        which = stream.uniform(0, Purpose.START, length).cpu()
        shown = stream.uniform(0, Purpose.TOKEN, length).cpu()
        start, transition, emission = self._edges
        hidden = _invert(start, torch.zeros(len(which), dtype=torch.int64), which[:, 0], len(self.tables.start))
        tokens = []
        for cell in range(length):
            if cell:
                hidden = _invert(transition, hidden, which[:, cell], len(self.tables.start))
            tokens.append(_invert(emission, hidden, shown[:, cell], self.words))
        return torch.stack(tokens, 1)

    # ---- what is true of any text ------------------------------------------------------------------------------------

    def nats(self, tokens: Tensor) -> Tensor:
        """-log p of each cell given what is visible before it, [R, L] float64; 0 at masks."""
        chain, parts = self.chain(tokens.shape[1]), []
        for part in tokens.cpu().split(AT_ONCE):
            before = chain.messages(part)[0]
            shown = torch.cat([self.tables.emission.T, torch.ones_like(self.tables.start)[None]])[part]
            parts.append(-(before * shown).sum(2).log().masked_fill(part == self.alphabet.mask, 0.0))
        return torch.cat(parts)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log p of what is visible in each row, nats, [R] float64; ValueError for the end token."""
        return -self.nats(tokens).sum(1)

    def cross_entropy(self, tokens: Tensor) -> Estimate:
        """-log p of somebody's texts, nats a token; standard error over rows."""
        totals = (-self.log_prob(tokens)).tolist()
        return ratio(totals, [float(tokens.shape[1])] * len(totals), "nats/token")

    def entropy(self, length: int = 512, rows: int = 1000, seed: int = 0, skip: int = 0) -> Estimate:
        """Of texts of a length, nats a token: the cross-entropy of true texts.

        skip: leave out the first cells, which have less behind them: what is left approaches the entropy rate from
        above, as fast as states are forgotten.
        """
        if not 0 <= skip < length:
            raise BadInput(f"{skip} of {length} cells were to be skipped: leave one at least.")
        totals = self.nats(self.sample(rows, length, seed))[:, skip:].sum(1).tolist()
        return ratio(totals, [float(length - skip)] * len(totals), "nats/token")

    # ---- the Conditional ---------------------------------------------------------------------------------------------

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [R, L, V], or [N, V] at the True cells of `at`, float64; masked cells are summed out."""
        chain = self.chain(tokens.shape[1])
        cells = torch.ones_like(tokens, dtype=torch.bool) if at is None else at
        pairs = zip(tokens.cpu().split(AT_ONCE), cells.cpu().split(AT_ONCE))
        found = torch.cat([chain(part, asked) for part, asked in pairs]).to(tokens.device)
        return found if at is not None else found.view(*tokens.shape, -1)

    def rows(self, index: Tensor) -> Language:
        """Itself: it has no rows."""
        del index
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Language:
        """Itself: messages are not kept."""
        del tokens, upto
        return self


def _ladder(prob: Tensor) -> Tensor:
    """The CDFs of K laws [K, M] one after the other, each a unit above the last: ascending, [K * M]."""
    edges = prob.cumsum(1)
    return (edges / edges[:, -1:] + torch.arange(len(prob), dtype=torch.float64)[:, None]).flatten()


def _invert(edges: Tensor, law: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Where the CDF of law number `law` [R] passes a uniform [R]; `edges` as above, of laws over `size` outcomes."""
    target = torch.minimum(law + uniform, torch.nextafter(law.double() + 1, uniform.new_zeros(1)))
    return torch.searchsorted(edges, target, right=True) - law * size
