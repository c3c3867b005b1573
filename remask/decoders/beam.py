"""Beam search: the best few prefixes go on, a token at a time; the baseline of every other decoder.

Finished texts are ranked by log p / n^penalty, n being tokens with the end (Sutskever et al. 2014, arXiv 1409.3215,
section 3.2; Wu et al. 2016, arXiv 1609.08144, section 7, in the form that transformers has). Of the best 2 `beam`
continuations those that end among the first `beam` are finished, and the best `beam` of the others go on, until none
of them can beat the best finished one: log p only falls, so a hypothesis of log p s ends with at most
s / longest^penalty, or s / (n + 1)^penalty where the penalty is not positive.

Ranked by log p, a beam whose dropped prefixes all have less than its text has proved its text to be the best.

A forced length bans the end token before it and everything else at it. What is left is never renormalised: log p stays
the model's own, and texts of one length can be compared whoever found them.
Shapes: N prefixes, V vocabulary, M scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.decoder import Answer, Budget, CausalModel, Decoded, Prefixes, one_by_one
from remask.core.errors import BadInput
from remask.core.stream import Stream

STEEPEST = 10.0  # length penalties beyond it are slips of the hand
WIDEST = 10_000  # and so are beams


class Rule(NamedTuple):
    """Which tokens may stand where. end: id of the end token; longest: tokens of a text with its end, at most.

    length: tokens of every text without its end; None where texts may end anywhere, or be cut at `longest`.
    """

    end: int
    longest: int
    length: int | None = None

    @classmethod
    def of(cls, length: int | None, end: int, budget: Budget) -> Rule:
        """The rule for a length, or for none; BadInput for a length that the budget does not hold."""
        if length is None:
            return cls(end, budget.tokens)
        if length + 1 > budget.tokens or length + 1 > (budget.nodes or math.inf):
            raise BadInput(
                f"a length of {length} came, which with its end takes {length + 1} tokens and as many nodes, and the "
                f"budget holds {budget.tokens} tokens{'' if budget.nodes is None else f' and {budget.nodes} nodes'}: "
                "give more, or ask for a shorter text."
            )
        return cls(end, length + 1, length)

    def __call__(self, log_prob: Tensor, written: int) -> Tensor:
        """Log p [N, V] of the token after `written` ones, -inf where it may not stand; not renormalised."""
        if self.length is None:
            return log_prob
        end = torch.tensor([self.end], device=log_prob.device)
        banned = log_prob.index_fill(1, end, -torch.inf)
        if written < self.length:
            return banned
        return torch.full_like(banned, -torch.inf).index_copy(1, end, log_prob[:, end])


def check_length(length: int | None) -> None:
    """Raise BadInput for a length that no text has."""
    if length is not None and length < 0:
        raise BadInput(f"a text of {length} tokens was asked for: type --length 0 or more.")


def check_beam(beam: int, least: int = 1) -> None:
    """Raise BadInput for a number of hypotheses out of range."""
    if not least <= beam <= WIDEST:
        raise BadInput(f"a beam of {beam} hypotheses was asked for: type --beam {least} to {WIDEST}.")


def spent(budget: Budget) -> BadInput:
    """What is raised when the nodes ran out and no text is whole."""
    return BadInput(
        f"a budget of {budget.nodes} nodes was spent before one text was whole: type --budget {budget.tokens} or more, "
        "a node for each token of the longest text."
    )


def nothing(rule: Rule, which: str) -> BadInput:
    """What is raised when every text that the rule allows, or every one that was reached, has probability 0."""
    size = f"up to {rule.longest}" if rule.length is None else f"{rule.length}"
    return BadInput(f"no text of {size} tokens {which} any probability after this prompt: type another --length.")


def leading(scores: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest of scores [M], best first, of equal ones the lower index; none of -inf."""
    least = scores.topk(min(count, len(scores))).values[-1]
    among = ((scores >= least) & (scores > -torch.inf)).nonzero()[:, 0]
    return among[scores[among].argsort(descending=True, stable=True)[:count]]


class Found(NamedTuple):
    """What a beam found.

    text: with its end; calls: prefixes read, the root not counted; lost: the largest log p of what was dropped, which
    no text that was dropped exceeds.
    """

    text: list[int] | None
    log_prob: float
    calls: int = 0
    lost: float = -math.inf


def search(
    model: CausalModel, root: Prefixes, rule: Rule, width: int, penalty: float = 0.0, nodes: int | None = None
) -> Found:
    """Beam search from a prefix that has been read.

    nodes: prefixes that may be read besides; where they are few the beam narrows, so that one text at least is whole if
    there are `rule.longest` - 1 of them.
    """
    found, score, calls, lost = Found(None, -math.inf), -math.inf, 0, -math.inf
    prefixes, texts, so_far = root, [list[int]()], [0.0]
    for size in range(1, rule.longest + 1):
        total = rule(prefixes.log_prob, size - 1)
        total = total + torch.tensor(so_far, dtype=total.dtype, device=total.device)[:, None]
        best = leading(total.flatten(), 2 * width)
        log_prob = total.flatten()[best].tolist()
        longer = [(*divmod(index, total.shape[1]), value) for index, value in zip(best.tolist(), log_prob)]
        over = [token == rule.end or size == rule.longest for _, token, _ in longer]
        ended = [one for one, done in zip(longer[:width], over) if done]
        going = [one for one, done in zip(longer, over) if not done][:width]
        for row, token, value in ended:
            if value / size**penalty > score:
                found, score = Found([*texts[row], token], value), value / size**penalty
        reach = rule.longest if penalty > 0 else size + 1
        if going and going[0][2] / reach**penalty <= score:
            going = []
        if nodes is not None:
            going = going[: max(nodes - calls - (rule.longest - 1 - size), min(nodes - calls, 1))]
        # what is outside `longer` has no more than the worst in it, and that is lost or no better than what ended
        lost = max([lost, *(one[2] for one in longer if one not in (*ended, *going))])
        if not going:
            break
        rows, tokens, so_far = map(list, zip(*going))
        prefixes = model.extend(model.rows(prefixes, torch.tensor(rows)), torch.tensor(tokens))
        texts = [[*texts[row], token] for row, token in zip(rows, tokens)]
        calls += len(rows)
    return found._replace(calls=calls, lost=lost)


@dataclass(frozen=True)
class Beam:
    """Beam search: the best few prefixes go on (the baseline); one of them is greedy decoding."""

    law = "heuristic"

    beam: int = 5
    """hypotheses kept; 1 is greedy"""
    length_penalty: float = 0.0
    """rank texts by log p / n ** A: 0 by log p, 1 by log p a token, more favours long texts"""
    length: int | None = None
    """tokens of the text, its end not counted: the end is banned before and forced then, without renormalising"""

    def __post_init__(self) -> None:
        check_beam(self.beam)
        check_length(self.length)
        if not -STEEPEST <= self.length_penalty <= STEEPEST:
            raise BadInput(
                f"beam search came with length penalty {self.length_penalty}: type one from -10 to 10, mostly 0 to 1."
            )

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt."""
        rule = Rule.of(self.length, model.end, budget)

        def decode(prompt: Sequence[int], own: Stream) -> Answer:
            del own
            left = None if budget.nodes is None else budget.nodes - 1
            found = search(model, model.begin(prompt), rule, self.beam, self.length_penalty, left)
            if found.text is None:
                raise spent(budget) if found.calls == left else nothing(rule, "that the beam reached has")
            gap = max(found.lost - found.log_prob, 0.0) if self.length_penalty == 0 else math.nan
            return Answer(found.text, found.log_prob, 1 + found.calls, gap == 0, gap)

        return one_by_one(decode, model, prompts, stream, budget)
