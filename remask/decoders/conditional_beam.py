"""Conditional beam search: the likeliest text among those that have an attribute a.

Beam search whose hypotheses are ranked by log p(x_1..t) + log p(a | x_1..t) (Yoshida, Goyal & Gimpel 2024, arXiv
2311.08817, their attribute-conditional beam search). A hypothesis is thus worth what all its continuations with the
attribute are worth together, and not what it promises to texts that nobody asked for. Of a finished text p(a | x) is 0
or 1, so the last ranking is by log p(x) among texts with the attribute.

Only the `top_k` likeliest next tokens of a hypothesis are asked about, by one call of a posterior that sees the state
of the prefix and the token: the model reads only what is kept. What an attribute itself knows of a prefix (see
decoders/attributes.py) overrides the posterior. What a posterior calls impossible is believed only down to `floor`: one
that is wrong would empty the beam. As in ordinary beam search (Sutskever et al. 2014, arXiv 1409.3215), texts that are
over finish if they are among the best `beam` of all, and the best `beam` others go on; those below are returned only
where nothing else has finished. log p only falls, so the search is over when no hypothesis has more than the best text.
Shapes: N hypotheses, K next tokens, t tokens so far, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.decoder import Answer, Budget, CausalModel, Decoded, Prefixes, one_by_one
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.attributes import Attribute, Ends
from remask.decoders.beam import check_beam, spent
from remask.decoders.outcomes import Outcomes
from remask.nets.attribute import AttributeHead

SLACK = 1e-6  # log p of exact posteriors may round to just above 0


class Posterior(Protocol):
    """What is believed of finished texts after a token more; also the place to plug in an exact p(a | prefix)."""

    def __call__(self, prefixes: Prefixes, texts: Tensor, candidates: Tensor) -> Tensor:
        """Log p(a | prefix, token), [N, K]; texts: [N, t] int64, without the prompt; candidates: [N, K] int64.

        The end is a candidate only where the model writes nothing else, and any answer will do.
        """
        ...


@dataclass(frozen=True)
class Ignorant:
    """A posterior that finds everything possible: what is left is beam search with what the attribute settles.

    With a length this is beam search whose end token is forbidden before it and forced at it.
    """

    def __call__(self, prefixes: Prefixes, texts: Tensor, candidates: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(candidates.shape, dtype=torch.float64, device=candidates.device)


@dataclass(frozen=True)
class HeadPosterior:
    """The posterior of a fitted classifier. head: on the model's states; outcomes: what it tells apart."""

    head: AttributeHead
    outcomes: Outcomes
    longest: int

    @torch.no_grad()
    def __call__(self, prefixes: Prefixes, texts: Tensor, candidates: Tensor) -> Tensor:
        """Log p, [N, K]. Raises BadInput for a text longer than those that it was fitted on, or a model without states.

        longest: budget of those texts, their end counted.
        """
        written = texts.shape[1] + 1
        if prefixes.hidden is None:
            raise BadInput("this model has no hidden states for a classifier to read: give an exact posterior.")
        if written >= self.longest:
            raise BadInput(
                f"a text of {written} tokens came to a classifier that was fitted on texts of up to "
                f"{self.longest - 1}: decode with a budget of {self.longest} tokens, or fit one with more --tokens."
            )
        places = torch.full((len(texts),), written, device=texts.device)
        return self.outcomes.log_prob(self.head(prefixes.hidden, places, candidates), written).double()


class Best(NamedTuple):
    """A text that is over: tokens, the end last if it has one; log_prob: -inf where there is none."""

    text: list[int]
    log_prob: float


NONE = Best([], -math.inf)


class Hypotheses(NamedTuple):
    """Hypotheses of one prompt, best first.

    texts: [N, t] int64; log_prob: [N] float64; prefixes: what the model made of them; calls: prefixes read so far;
    best: the best text that finished; spare: the best of those that did not because their rank was too low;
    lost: the largest log p of a prefix that was dropped and could have had the attribute.
    """

    texts: Tensor
    log_prob: Tensor
    prefixes: Prefixes
    calls: int
    best: Best = NONE
    spare: Best = NONE
    lost: float = -math.inf

    def answer(self) -> Answer:
        """What the search found; a text of log p -inf, empty, where no text that it met has the attribute."""
        text, log_prob = self.best if self.best.log_prob > -math.inf else self.spare
        above = max(self.lost, self.spare.log_prob)
        gap = max(0.0, above - log_prob) if above > -math.inf else 0.0
        return Answer(text, log_prob, self.calls, gap == 0.0, gap)


class Children(NamedTuple):
    """Texts that are a token longer, [C] each, by hypothesis and then by the id of the token.

    score: log p and the posterior, -inf where the attribute is lost; over: bool, whether they are finished;
    hope: what a text that begins so and has the attribute can have at most, -inf where that is over or settled.
    """

    parent: Tensor
    token: Tensor
    log_prob: Tensor
    score: Tensor
    over: Tensor
    hope: Tensor


@dataclass(frozen=True)
class ConditionalBeam:
    """Beam search for the likeliest text that has an attribute: log p of the prefix and of the attribute given it."""

    law = "heuristic"

    beam: int = 5
    """Hypotheses that go on together."""
    top_k: int = 100
    """Next tokens of a hypothesis that the classifier is asked about; the end is always looked at."""
    floor: float = -20.0
    """Least log p(attribute | prefix) that a classifier is believed, in nats; -inf for one that is exact."""
    attribute: Attribute = field(default_factory=Ends)
    posterior: Posterior = field(default_factory=Ignorant)

    def __post_init__(self) -> None:
        check_beam(self.beam)
        if self.top_k < 1:
            raise BadInput(f"a classifier for {self.top_k} next tokens came: type --top-k 1 or more, for example 100.")
        if not self.floor <= 0:
            raise BadInput(f"--floor came as {self.floor}: a log-probability is 0 or less, for example -20.")

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt; where nothing with the attribute was found, no tokens and log p -inf."""
        if self.attribute.least > min(budget.tokens, budget.nodes or budget.tokens):
            raise BadInput(
                f"a text with this attribute takes {self.attribute.least} tokens with its end, and as many nodes; the "
                f"budget holds {budget.tokens} tokens{'' if budget.nodes is None else f' and {budget.nodes} nodes'}: "
                "give more, or ask for less."
            )
        return one_by_one(partial(self._decode, model, budget), model, prompts, stream, budget)

    def _decode(self, model: CausalModel, budget: Budget, prompt: Sequence[int], stream: Stream) -> Answer:
        del stream
        last = deque(self.search(model, prompt, budget), maxlen=1).pop()  # keys and values of one step at a time
        answer = last.answer()
        if answer.log_prob == -math.inf and last.calls == budget.nodes:
            raise spent(budget)
        return answer

    def search(self, model: CausalModel, prompt: Sequence[int], budget: Budget) -> Iterator[Hypotheses]:
        """The hypotheses of every length; the last ones hold what was found."""
        prefixes = model.begin(prompt)
        device = prefixes.log_prob.device
        texts = torch.empty(1, 0, dtype=torch.int64, device=device)
        beam = Hypotheses(texts, torch.zeros(1, dtype=torch.float64, device=device), prefixes, 1)
        yield beam
        while len(beam.log_prob):
            beam = self._longer(model, beam, budget)
            yield beam

    def _longer(self, model: CausalModel, beam: Hypotheses, budget: Budget) -> Hypotheses:
        """The beam with a token more, empty where it must stop."""
        children, unseen = self._children(model, beam, budget)
        order = children.score.argsort(descending=True, stable=True)
        order = order[children.score[order] > -torch.inf]
        over = children.over[order]
        finished, below = order[: self.beam][over[: self.beam]], order[self.beam :][over[self.beam :]]
        best = _better(beam, beam.best, children, finished)
        kept = order[~over][: self._width(budget, beam.calls, beam.texts.shape[1] + 1)]
        kept = kept[children.log_prob[kept] > best.log_prob]  # the others can only fall
        lost = children.hope.index_fill(0, kept, -torch.inf)
        parent, token = children.parent[kept], children.token[kept]
        prefixes = model.rows(beam.prefixes, parent)
        return Hypotheses(
            torch.cat([beam.texts[parent], token[:, None]], 1),
            children.log_prob[kept],
            model.extend(prefixes, token) if len(kept) else prefixes,
            beam.calls + len(kept),
            best,
            _better(beam, beam.spare, children, below),
            max(beam.lost, unseen, float(lost.max())),
        )

    def _width(self, budget: Budget, calls: int, written: int) -> int:
        """Hypotheses that go on; the beam narrows where nodes are few, so that one text at least may be finished."""
        left = math.inf if budget.nodes is None else budget.nodes - calls
        return int(min(self.beam, max(left - (budget.tokens - 1 - written), min(left, 1))))

    def _children(self, model: CausalModel, beam: Hypotheses, budget: Budget) -> tuple[Children, float]:
        """Texts that are a token longer, and the largest log p among those that were not looked at."""
        total = beam.log_prob[:, None] + beam.prefixes.log_prob
        going = total.index_fill(1, torch.tensor(model.end, device=total.device), -torch.inf)
        found, tokens = going.topk(min(self.top_k + 1, model.size - 1))
        unseen = float(found[:, self.top_k :].max()) if found.shape[1] > self.top_k else -math.inf
        found = found[:, : self.top_k]
        tokens = tokens[:, : self.top_k].where(found > -torch.inf, tokens[:, :1])  # what is never written is not asked
        texts, last = beam.texts.tolist(), beam.texts.shape[1] + 1 == budget.tokens
        believed = self._finished(texts, tokens) if last else self._unfinished(beam, texts, tokens)
        ends = [0.0 if self.attribute(text, True) else -math.inf for text in texts]
        tokens = torch.cat([tokens, tokens.new_full((len(texts), 1), model.end)], 1)
        log_prob = torch.cat([found, total[:, model.end, None]], 1)
        score = log_prob + torch.cat([believed[0], believed[0].new_tensor(ends)[:, None]], 1)
        hope = torch.cat([found + believed[1], torch.full_like(found[:, :1], -torch.inf)], 1)
        over = last | (torch.arange(tokens.shape[1], device=tokens.device) == found.shape[1]).expand_as(tokens)
        parent = torch.arange(len(texts), device=tokens.device)[:, None].expand_as(tokens)
        order = tokens.argsort(dim=1, stable=True)
        every = (parent, tokens, log_prob, score, over, hope)
        return Children(*(x.gather(1, order).flatten() for x in every)), unseen

    def _finished(self, texts: list[list[int]], tokens: Tensor) -> tuple[Tensor, Tensor]:
        """0 or -inf, [N, K], for texts that the budget cuts here: they have the attribute or not; and no hope."""
        answers = [[self.attribute([*text, t], False) for t in row] for text, row in zip(texts, tokens.tolist())]
        score = torch.tensor(answers, device=tokens.device).view(tokens.shape).double().log()
        return score, torch.full_like(score, -torch.inf)

    def _unfinished(self, beam: Hypotheses, texts: list[list[int]], tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log p of the attribute, [N, K]: what is settled, and else what the posterior believes; and what is hoped."""
        settled = [self.attribute.settled(text, row) for text, row in zip(texts, tokens.tolist())]
        hope = [[-math.inf if x is False else 0.0 for x in row] for row in settled]
        known = [[x is not None for x in row] for row in settled]
        score, sure = torch.tensor(hope, dtype=torch.float64, device=tokens.device), torch.tensor(known)
        if sure.all():
            return score, score
        believed = self.posterior(beam.prefixes, beam.texts, tokens).double()
        if believed.shape != tokens.shape or not (believed <= SLACK).all():  # NaN too
            raise BadInput(
                f"a posterior answered {tuple(tokens.shape)} tokens with {tuple(believed.shape)} numbers that are not "
                "all 0 or less: give it one log-probability a token."
            )
        return torch.where(sure.to(tokens.device), score, believed.clamp(self.floor, 0.0)), score


def _better(beam: Hypotheses, best: Best, children: Children, over: Tensor) -> Best:
    """The best text so far, and of equal ones the first."""
    for child in over.tolist():
        if float(children.log_prob[child]) > best.log_prob:
            text = [*beam.texts[int(children.parent[child])].tolist(), int(children.token[child])]
            best = Best(text, float(children.log_prob[child]))
    return best
