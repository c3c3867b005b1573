"""Translations whose law is known: a table of targets for every source, and the encoder-decoder that knows it.

Shapes: B batch, S source length, L target length with its end, T targets of a source, V ids, M longest target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from tests.oracle import LawNet

LengthLaw = Callable[[Tensor], Tensor]  # sources [B, S] -> log p of lengths [B, M]


class Targets(NamedTuple):
    """Everything that one source may become.

    tokens: [T, L], the end and padding included; joint: [T] float64, sums to 1.
    """

    tokens: Tensor
    joint: Tensor

    @property
    def entropy(self) -> float:
        """Nats of a whole target, its end included."""
        return float(-torch.xlogy(self.joint, self.joint).sum())


class PairLaw:
    """p(target | source), where a source is one id and its end.

    alphabet: with pad and end; tables: for the first id of a source, joint laws [A] * N of targets of N tokens, one for
    every N that occurs; their masses are the chances of these lengths. Symbols are the ids of the alphabet's text.
    """

    def __init__(self, alphabet: Alphabet, tables: Mapping[int, list[Tensor]]):
        self.alphabet = alphabet
        self.text = torch.tensor([i for i in range(alphabet.size) if i not in alphabet.special])
        self.longest = max(joint.dim() for joints in tables.values() for joint in joints)
        self.tables = {source: self._targets(joints) for source, joints in tables.items()}

    def _targets(self, joints: list[Tensor]) -> Targets:
        end, pad = self.alphabet.end, self.alphabet.pad
        parts = []
        for joint in joints:
            digits = torch.cartesian_prod(*[torch.arange(len(joint))] * joint.dim()).view(-1, joint.dim())
            rest = torch.tensor([end, *[pad] * (self.longest - joint.dim())]).expand(len(digits), -1)
            parts.append(torch.cat([self.text[digits], rest], 1))
        mass = torch.cat([joint.flatten() for joint in joints]).double()
        return Targets(torch.cat(parts), mass / mass.sum())

    def sources(self, ids: Tensor) -> Tensor:
        """Sources [B, 2] of their first ids [B]."""
        return torch.stack([ids, torch.full_like(ids, self.alphabet.end)], 1)

    def sample(self, ids: Tensor, seed: int) -> Tensor:
        """A true target [B, L] for every source."""
        rng = np.random.default_rng(seed)
        laws = [self.tables[int(source)] for source in ids]
        return torch.stack([law.tokens[rng.choice(len(law.joint), p=law.joint.numpy())] for law in laws])

    def masked(self, source: Tensor, tokens: Tensor, attend: Tensor | None) -> Tensor:
        """log p(y_i | visible rest, source), [B, L, V]; a cell that is visible is sure of itself."""
        assert attend is not None, "a parallel decoder is told what is padding"

        def fits(law: Targets, rows: Tensor) -> Tensor:
            agrees = (law.tokens == tokens[rows, None]) | (tokens[rows, None] == self.alphabet.mask)
            long = (law.tokens != self.alphabet.pad) == attend[rows, None]
            return (agrees & long).all(2)[:, :, None].expand(-1, -1, tokens.shape[1])

        return self._said(source, fits)

    def causal(self, source: Tensor, tokens: Tensor, attend: Tensor | None) -> Tensor:
        """log p(y_i | y_<i, source), [B, L, V], of targets shifted right behind a pad token."""
        assert (tokens[:, 0] == self.alphabet.pad).all(), "a left-to-right decoder reads the pad token first"

        def fits(law: Targets, rows: Tensor) -> Tensor:
            agrees = law.tokens[:, :-1] == tokens[rows, None, 1:]
            return torch.cat([torch.ones_like(agrees[:, :, :1]), agrees.cumprod(2).bool()], 2)

        return self._said(source, fits)

    def _said(self, source: Tensor, fits: Callable[[Targets, Tensor], Tensor]) -> Tensor:
        """log p [B, L, V] of the targets that fit [B, T, L] what is seen at a cell; uniform where none does."""
        table = torch.zeros(len(source), self.longest + 1, self.alphabet.size, dtype=torch.float64)
        for first, law in self.tables.items():
            rows = torch.nonzero(source[:, 0] == first)[:, 0]
            ids = torch.nn.functional.one_hot(law.tokens, self.alphabet.size).double()
            table[rows] = torch.einsum("btl,t,tlv->blv", fits(law, rows).double(), law.joint, ids)
        total = table.sum(2, keepdim=True)
        return torch.where(total > 0, table / total, 1 / self.alphabet.size).log()

    def lengths(self, source: Tensor) -> Tensor:
        """log p of lengths 1..M, [B, M]."""
        rows = []
        for first in source[:, 0].tolist():
            law = self.tables[first]
            tokens = torch.isin(law.tokens, self.text).sum(1)
            rows.append(torch.zeros(self.longest).double().index_add_(0, tokens - 1, law.joint).log())
        return torch.stack(rows)


class LawReading(LawNet):
    """A Reading that knows the law: its hidden states are log p of every id.

    seen: every canvas that it was shown, in order.
    """

    def __init__(self, says: Callable[[Tensor, Tensor, Tensor | None], Tensor], lengths: LengthLaw, source: Tensor):
        self.says, self.lengths, self.source, self.seen = says, lengths, source, []

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        self.seen.append(tokens)
        return self.says(self.source, tokens, attend)

    def rows(self, index: Tensor) -> LawReading:
        return LawReading(self.says, self.lengths, self.source[index])

    def length_log_prob(self) -> Tensor:
        return self.lengths(self.source)

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        return self._log_probs(hidden_at, ban)


class LawEncoderDecoder:
    """An EncoderDecoder that says what it is told to.

    says: sources [B, S], targets as the decoder sees them [B, L], attend -> log p [B, L, V]; lengths: of sources.
    """

    def __init__(
        self, says: Callable[[Tensor, Tensor, Tensor | None], Tensor], lengths: LengthLaw, *, causal: bool = False
    ):
        self.says, self.lengths, self.causal = says, lengths, causal
        self.readings: list[LawReading] = []

    def read(self, source: Tensor, attend: Tensor) -> LawReading:
        self.readings.append(LawReading(self.says, self.lengths, source))
        return self.readings[-1]


def parallel_net(law: PairLaw) -> LawEncoderDecoder:
    """p(y_i | visible rest, source), and the true law of lengths."""
    return LawEncoderDecoder(law.masked, law.lengths)


def causal_net(law: PairLaw) -> LawEncoderDecoder:
    """p(y_i | y_<i, source)."""
    return LawEncoderDecoder(law.causal, law.lengths, causal=True)


class Watched:
    """A real encoder-decoder whose canvases are written down.

    net: an EncoderDecoder with a `decode`; seen: what its decoder was shown, in order.
    """

    def __init__(self, net):
        self.net, self.seen = net, []

    def read(self, source, attend):
        reading = self.net.read(source, attend)
        return type(reading)(self, reading.memory)  # a Reading asks its net to decode

    def decode(self, tokens, memory, *, attend=None, sees=None, guide=None):
        self.seen.append(tokens)
        return self.net.decode(tokens, memory, attend=attend, sees=sees, guide=guide)

    def __getattr__(self, name):
        return getattr(self.net, name)
