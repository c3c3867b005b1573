"""ELECTRA's truth: all that can be known of a corrupted row, by enumeration over texts, chosen cells and draws.

Shapes: B batch, L length, A symbols, S = A^L states, V ids, N cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from remask.objectives.electra import ELECTRA
from remask.objectives.mlm import share_of
from tests.oracle import LawNet, Oracle, masked_net

SURE = 40.0  # the logit of what is certain: infinities would be multiplied by zero


@cache
def joint(objective: ELECTRA, oracle: Oracle) -> Tensor:
    """P(corrupted row y, text's symbol at cell t, whether t was chosen), [S, L, A, 2] float64, for every t."""
    states, length, symbols = oracle.states, oracle.length, oracle.symbols
    digits = torch.searchsorted(oracle.ids, states)
    place = symbols ** torch.arange(length).flip(0)
    k = int(share_of(torch.ones(1, length, dtype=torch.bool), objective.mask_rate))
    draws = torch.cartesian_prod(*[torch.arange(symbols)] * k).view(-1, k)
    table = torch.zeros(len(states) * length * symbols * 2, dtype=torch.float64)
    chosen = list(combinations(range(length), k))
    for cells, kept in product(chosen, product((False, True), repeat=k)):
        chance = objective.keep ** sum(kept) * (1 - objective.keep) ** (k - sum(kept)) / len(chosen)
        at = torch.zeros_like(states, dtype=torch.bool)
        at[:, list(cells)] = True
        shown = torch.zeros_like(at)
        shown[:, list(cells)] = ~torch.tensor(kept)
        log_prob = oracle(torch.where(shown, oracle.alphabet.mask, states), at)[:, oracle.ids]
        law = (log_prob / objective.temperature).softmax(1).view(len(states), k, symbols)
        each = torch.stack([law[:, j, draws[:, j]] for j in range(k)]).prod(0)  # [S, A^k]
        weight = oracle.joint[:, None] * chance * each
        corrupted = (digits * place)[:, [t for t in range(length) if t not in cells]].sum(1)[:, None] + (
            draws * place[list(cells)]
        ).sum(1)
        for t in range(length):
            index = ((corrupted * length + t) * symbols + digits[:, t : t + 1]) * 2 + int(t in cells)
            table.index_add_(0, index.flatten(), weight.flatten())
    return table.view(len(states), length, symbols, 2)


def replaced(objective: ELECTRA, oracle: Oracle) -> Tensor:
    """P(y, and the label of cell t), [S, L, 2]: real, replaced."""
    law = joint(objective, oracle)
    if not objective.lucky:
        return law.sum(2)
    own = torch.searchsorted(oracle.ids, oracle.states)[:, :, None]
    real = law.sum(3).gather(2, own)[:, :, 0]
    return torch.stack([real, law.sum((2, 3)) - real], 2).clamp(min=0)


def best_scores(objective: ELECTRA, oracle: Oracle) -> Tensor:
    """The logit of "replaced" at every cell of every corrupted row, [S, L]."""
    real, fake = replaced(objective, oracle).unbind(2)
    return torch.where(real + fake > 0, fake.log() - real.log(), 0.0).nan_to_num(0, SURE, -SURE).clamp(-SURE, SURE)


def expected_detection(objective: ELECTRA, oracle: Oracle, scores: Tensor) -> Tensor:
    """Detection loss of a discriminator with these scores [S, L], nats a cell."""
    real, fake = replaced(objective, oracle).unbind(2)
    softplus = torch.nn.functional.softplus
    return (real * softplus(scores) + fake * softplus(-scores)).sum() / oracle.length


class LawDetector:
    """A discriminator that looks its scores [S, L] up."""

    def __init__(self, oracle: Oracle, scores: Tensor):
        self.oracle, self.table = oracle, scores

    def hidden(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        return self.table[self.oracle.number(tokens)][:, :, None]

    def scores(self, hidden_at: Tensor) -> Tensor:
        return hidden_at[:, 0]


def _reader(oracle: Oracle, law: Tensor) -> LawNet:
    """A net that says law [S, L, A] (not normalised) of the corrupted row that it sees."""
    law = torch.where(law.sum(2, keepdim=True) > 0, law, 1.0)
    table = torch.full((*law.shape[:2], oracle.alphabet.size), -torch.inf, dtype=torch.float64)
    table[:, :, oracle.ids] = (law / law.sum(2, keepdim=True)).log()
    return LawNet(lambda tokens: table[oracle.number(tokens)])


SECOND: dict[str, Callable[[ELECTRA, Oracle], Any]] = {
    "detection": lambda objective, oracle: LawDetector(oracle, best_scores(objective, oracle)),
    "replace-mlm": lambda objective, oracle: _reader(oracle, joint(objective, oracle)[..., 1]),
    "all-tokens": lambda objective, oracle: _reader(oracle, joint(objective, oracle).sum(3)),
}


class LawPair:
    """The true generator, and the best discriminator that there is against it."""

    def __init__(self, objective: ELECTRA, oracle: Oracle):
        self.generator = masked_net(oracle)
        self.discriminator = SECOND[objective.task](objective, oracle)
        self.stage = torch.zeros((), dtype=torch.int64)

    def copy_gate(self, hidden_at: Tensor) -> Tensor:
        """Never copies: its softmax knows all."""
        return hidden_at.new_full((len(hidden_at), 1), -SURE)
