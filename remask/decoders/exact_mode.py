"""Exact modes: the most probable text of all, found by depth-first branch and bound, with a certificate.

log p only falls along a prefix, so a prefix that is no better than the best whole text leads nowhere (Stahlberg & Byrne
2019, arXiv 1908.10090, section 3). The search begins with what a beam finds, which may be proof enough, takes the
children of a prefix in the order of their probability, and keeps the keys and values of one path, and of the children
that were read with it.

A text is over at its end, or cut at the longest length of the budget and scored as it is. Hence the mode that has
its end is the mode among texts of any length: what was cut bounds all that it could become. For one length the end is
banned before it and everything else at it, without renormalising (Yoshida et al. 2023, arXiv 2311.08817, section 4).

Where the nodes run out the answer is not certified, and its gap is the best open bound (log p of a prefix that was not
gone into, with its best next token where it was read) minus the best found: no text is better by more.
Shapes: V vocabulary, C children.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from remask.core.decoder import Answer, Budget, CausalModel, Decoded, Prefixes, one_by_one
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.beam import Rule, check_beam, check_length, nothing, search, spent


@dataclass
class Node:
    """A prefix that was read.

    prefixes, row: where its keys and values are; tokens, bounds: of its children, best first, [C] int64 and float64;
    at: the first child that was not read; waiting: those that were read and not gone into.
    """

    text: list[int]
    prefixes: Prefixes
    row: int
    tokens: Tensor
    bounds: Tensor
    at: int = 0
    waiting: list[Node] = field(default_factory=list)

    @property
    def bound(self) -> float:
        """No text below it that was not looked at has more log p."""
        ahead = self.bounds[self.at : self.at + 1].tolist()
        return max([*ahead, *(node.bound for node in self.waiting)], default=-math.inf)


class Search:
    """The state of a search: the best text so far, and how many prefixes were read for it."""

    def __init__(self, model: CausalModel, rule: Rule, nodes: int | None, batch: int):
        self.model, self.rule, self.nodes, self.batch = model, rule, nodes, batch
        self.text: list[int] | None = None
        self.log_prob, self.calls = -math.inf, 0

    def take(self, text: list[int], log_prob: float) -> None:
        """Keep a whole text if it is better than all before it."""
        if log_prob > self.log_prob:
            self.text, self.log_prob = text, log_prob

    def worth(self, bounds: Tensor) -> Tensor:
        """Which prefixes may lead to something better, given log p of each."""
        return bounds > self.log_prob

    def visit(self, texts: Sequence[list[int]], log_prob: Tensor, prefixes: Prefixes) -> list[Node]:
        """Take the texts that are over a token after these prefixes, of log p [N]; those that may lead to others."""
        total = self.rule(prefixes.log_prob, len(texts[0])) + log_prob.to(prefixes.log_prob.device)[:, None]
        end = torch.tensor([self.rule.end], device=total.device)
        last = len(texts[0]) + 1 == self.rule.longest
        value, token = total.max(1) if last else (total[:, self.rule.end], end.expand(len(texts)))
        for text, closing, whole in zip(texts, token.tolist(), value.tolist()):
            self.take([*text, closing], whole)
        if last:
            return []
        total = total.index_fill(1, end, -torch.inf)
        found = []
        for row in self.worth(total.amax(1)).nonzero()[:, 0].tolist():
            tokens = self.worth(total[row]).nonzero()[:, 0]
            bounds, order = total[row, tokens].sort(descending=True, stable=True)
            found.append(Node(texts[row], prefixes, row, tokens[order].cpu(), bounds.cpu()))
        return found

    def read(self, node: Node, count: int) -> list[Node]:
        """The next children of a node, read together."""
        tokens, bounds = (x[node.at : node.at + count] for x in (node.tokens, node.bounds))
        rows = self.model.rows(node.prefixes, torch.full((count,), node.row))
        prefixes = self.model.extend(rows, tokens)
        node.at += count
        self.calls += count
        return self.visit([[*node.text, token] for token in tokens.tolist()], bounds, prefixes)

    def below(self, root: Prefixes) -> float:
        """Search all texts below a prefix; returns the best open bound, -inf where the search ended."""
        path = self.visit([[]], torch.zeros(1, dtype=torch.float64), root)
        while path:
            node = path[-1]
            if node.waiting:
                path.append(node.waiting.pop(0))
                continue
            most = self.batch if self.text is not None else 1  # the first text is reached on the shortest way
            count = int(self.worth(node.bounds[node.at : node.at + most]).sum())
            if not count:
                path.pop()
                continue
            count = count if self.nodes is None else min(count, self.nodes - self.calls)
            if not count:
                return max(one.bound for one in path)
            node.waiting = self.read(node, count)
        return -math.inf


@dataclass(frozen=True)
class ExactMode:
    """The most probable text, or the most probable of one length, certified where the search ended."""

    law = "exact"

    length: int | None = None
    """tokens of the text, its end not counted: the end is banned before and forced then, without renormalising"""
    beam: int = 5
    """hypotheses of the beam search that the search begins with; 0 for none"""
    batch: int = 16
    """children of a prefix that are read together; changes the mode only where two texts are equally probable"""

    def __post_init__(self) -> None:
        check_length(self.length)
        check_beam(self.beam, 0)
        if self.batch < 1:
            raise BadInput(f"exact search came with a batch of {self.batch}: type --batch 1 or more.")

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt."""
        rule = Rule.of(self.length, model.end, budget)
        return one_by_one(lambda prompt, _: self._mode(model, prompt, rule, budget), model, prompts, stream, budget)

    def _mode(self, model: CausalModel, prompt: Sequence[int], rule: Rule, budget: Budget) -> Answer:
        """The mode after one prompt."""
        tree, root = Search(model, rule, budget.nodes, self.batch), model.begin(prompt)
        tree.calls, proved = 1, False
        half = None if budget.nodes is None else (budget.nodes - 1) // 2
        if self.beam and (half is None or half >= rule.longest - 1):
            found = search(model, root, rule, self.beam, nodes=half)
            tree.calls += found.calls
            tree.take(found.text or [], found.log_prob)
            proved = found.lost <= found.log_prob
        bound = -math.inf if proved else tree.below(root)
        certified = bound == -math.inf
        if tree.text is None:
            raise nothing(rule, "has") if certified else spent(budget)
        return Answer(tree.text, tree.log_prob, tree.calls, certified, 0.0 if certified else bound - tree.log_prob)
