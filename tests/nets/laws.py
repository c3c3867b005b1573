"""For tests of wrappers: conditionals with fixed answers, wrapped oracles, and what every wrapper owes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Conditional, Visible
from remask.nets.require import Require
from remask.nets.wrap import Ban, LeaveOneOut, RepetitionPenalty, Temperature, TopK, TopP
from tests.oracle import Oracle, Watched

FULL = ("ring_ising", "markov_chain", "random_table", "independent")  # laws in which every state has a chance


@dataclass(frozen=True)
class Fixed:
    """The same log p [L, V] in every row, whatever is visible."""

    log_prob: Tensor
    alphabet: Alphabet
    visible: Visible = Visible.DENOISE

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        whole = self.log_prob.expand(len(tokens), -1, -1)
        return whole if at is None else whole[at]

    def rows(self, index: Tensor) -> Fixed:
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Fixed:
        return self


def text_of(conditional: Conditional) -> list[int]:
    """Ids that are text."""
    return sorted(set(range(conditional.alphabet.size)) - conditional.alphabet.special)


def fixed(weights: list[float], dtype: torch.dtype = torch.float64) -> tuple[Fixed, Tensor]:
    """A row of one cell whose text ids 0, 1, ... have these weights; the mask and the end token come after them."""
    prob = torch.tensor([[*weights, 0, 0]], dtype=torch.float64)
    n = len(weights)
    alphabet = Alphabet(n + 2, n, end=n + 1, special=frozenset({n, n + 1}))
    return Fixed((prob / prob.sum()).log().to(dtype), alphabet), torch.tensor([[n]])


def probabilities(law: Conditional, tokens: Tensor) -> list[float]:
    """Of the text ids in the first cell."""
    return law(tokens)[0, 0].double().exp().tolist()[:-2]


def share(weights: list[float]) -> list[float]:
    """Brought to a sum of 1."""
    return [w / sum(weights) for w in weights]


WRAPPERS: dict[str, Callable[[Any], Conditional]] = {
    "temperature": lambda c: Temperature(c, 0.7),
    "hot": lambda c: Temperature(c, 3),
    "top_k": lambda c: TopK(c, 2),
    "top_p": lambda c: TopP(c, 0.8),
    "ban": lambda c: Ban(c, (int(c.alphabet.end), text_of(c)[0])),
    "repetition": lambda c: RepetitionPenalty(c, 1.5),
    "require": lambda c: Require(c, (text_of(c)[1],)),
    "leave_one_out": LeaveOneOut,
    "chain": lambda c: TopP(Temperature(RepetitionPenalty(Ban(c, (text_of(c)[0],)), 1.2), 0.8), 0.9),
}


class Changed:
    """An oracle through a wrapper, with the oracle's own knowledge still at hand: what the conformance checks take."""

    def __init__(self, oracle: Oracle, wrap: Callable[[Any], Conditional]):
        self.oracle, self.conditional = oracle, wrap(oracle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.oracle if name in ("length", "sample", "posterior", "number") else self.conditional, name)

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        return self.conditional(tokens, at)


def twin(oracle: Oracle, joint: Tensor) -> Oracle:
    """An oracle of the same alphabet with another law: `joint` [S], not normalised."""
    shape = [oracle.symbols] * oracle.length
    return Oracle(oracle.name, joint.view(shape), oracle.alphabet.mask, oracle.alphabet.end)


def saying(oracle: Oracle, visible: Visible) -> Oracle:
    """The same oracle that says something else at visible cells."""
    other = copy(oracle)
    other.visible = visible
    return other


def one_blank(oracle: Oracle, rows: int = 60, seed: int = 0) -> Tensor:
    """True rows with one cell masked."""
    tokens = oracle.sample(rows, seed)
    cell = torch.arange(rows) % oracle.length
    return torch.where(torch.arange(oracle.length) == cell[:, None], oracle.alphabet.mask, tokens)


def some_blanks(oracle: Oracle, rows: int = 40, seed: int = 0) -> Tensor:
    """True rows with cells masked here and there; the first is full, the second empty."""
    hide = torch.rand(rows, oracle.length, generator=torch.Generator().manual_seed(seed)) < 0.5
    hide[0], hide[1] = False, True
    return torch.where(hide, oracle.alphabet.mask, oracle.sample(rows, seed))


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of probabilities; of log p where both are finite it may be much larger."""
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return float((a.double().exp() - b.double().exp()).abs().max()) if a.numel() else 0.0


def check_is_a_law(law: Conditional, tokens: Tensor, dtype: torch.dtype = torch.float64) -> None:
    """Normalised, without NaN, -inf at the mask, of the right type; chosen cells are those of the full answer."""
    full = law(tokens)
    assert full.dtype == dtype, f"the type came as {full.dtype}"
    assert full.shape[:2] == tokens.shape
    assert not full.isnan().any(), "NaN"
    assert (full[..., law.alphabet.mask] == -torch.inf).all(), "the mask has a chance"
    assert float((full.logsumexp(-1)).abs().max()) < 1e-5, "log p is not normalised"
    for at in (tokens == law.alphabet.mask, tokens != law.alphabet.mask, torch.zeros_like(tokens, dtype=torch.bool)):
        assert gap(law(tokens, at), full[at]) < 1e-12, "chosen cells are answered differently"


def check_passes_down(wrap: Callable[[Any], Conditional], oracle: Oracle, passes: int = 1) -> None:
    """`rows` and `given` reach the inner conditional, and a call costs it `passes` passes a row."""
    tokens = some_blanks(oracle, 13)[1:]
    tokens[:, 1] = oracle.alphabet.mask  # every row is asked something
    blanks = tokens == oracle.alphabet.mask
    watched = Watched(oracle, 12)
    law = wrap(watched)
    truth = law(tokens, blanks)
    assert torch.equal(watched.ledger.calls, torch.full((12,), passes)), "another number of passes"
    index = torch.tensor([5, 2, 2, 11])
    few = law.rows(index)
    assert few.alphabet == oracle.alphabet
    assert few.visible is law.visible
    number = torch.zeros_like(tokens).masked_scatter(blanks, torch.arange(int(blanks.sum())))
    places = number[index][blanks[index]]
    assert gap(few(tokens[index], blanks[index]), truth[places]) < 1e-12, "other rows"
    upto = (~blanks).long().cumprod(1).sum(1)
    assert gap(law.given(tokens, upto)(tokens, blanks), truth) < 1e-12, "another law after given"
    assert len(watched.ledger.settled) == passes, "given did not reach the inner conditional"
    both = law.given(tokens, upto).rows(index)(tokens[index], blanks[index])
    assert gap(both, truth[places]) < 1e-12, "another law after given and rows"
