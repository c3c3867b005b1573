"""Combinations: several conditionals of one vocabulary in, one law out.

    Guidance        away from what the model says without the condition (classifier-free guidance; Ho & Salimans 2022,
                    arXiv 2207.12598; of discrete diffusion: Schiff et al. 2024, arXiv 2412.10193)
    WithoutPrompt   what a model says that does not see the prompt (Nie et al. 2025, arXiv 2502.09992)
    Product         a log-linear pool, the product of experts (Hinton 2002, Neural Computation 14)
    Mixture         a linear pool

A call asks every member that has a weight, so it costs the sum of their passes; samplers count it as one call.
Shapes: B batch, L length, V vocabulary, N cells asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Conditional, Visible
from remask.core.errors import BadInput
from remask.nets.wrap import LARGEST, Wrapper, renormalised


def shared_alphabet(members: tuple[Conditional, ...]) -> Alphabet:
    """The alphabet that all members have. Raises BadInput where they differ in more than which ids continue words."""
    first, *others = (member.alphabet._replace(continues=frozenset()) for member in members)
    for other in others:
        differ = [name for name in Alphabet._fields if getattr(first, name) != getattr(other, name)]
        if differ:
            raise BadInput(
                f"models with different vocabularies came together (they differ in {', '.join(differ)}): "
                f"take models that were trained with one tokenizer."
            )
    return members[0].alphabet


def weakest(members: tuple[Conditional, ...]) -> Visible:
    """What all members say at visible cells; nothing where they do not say the same kind of thing."""
    kinds = {member.visible for member in members}
    return kinds.pop() if len(kinds) == 1 else Visible.NONE


@dataclass(frozen=True)
class Guidance:
    """Proportional to p_cond^scale * p_uncond^(1 - scale) in every cell (Schiff et al. 2024).

    Scale 1 is the conditional alone and 0 the unconditional alone, and then only that one is asked; above 1 the law
    leans to what the condition makes more probable. A scale w of LLaDA's code is w + 1 here. A token that the
    conditional bans stays banned; one that only the unconditional bans keeps its log p_cond, so a cell is never left
    with nothing. Two passes: those of both members. Strong guidance while most cells are masked harms quality (Rojas et
    al. 2025, arXiv 2507.08965).
    """

    conditional: Conditional
    unconditional: Conditional
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= LARGEST:
            raise BadInput(
                f"guidance came with scale {self.scale}: it must lie between 0 and {LARGEST:.0f} "
                f"(1 changes nothing; to lean away from the condition, swap the two conditionals)."
            )
        shared_alphabet((self.conditional, self.unconditional))

    @property
    def alphabet(self) -> Alphabet:
        """Both members'."""
        return self.conditional.alphabet

    @property
    def visible(self) -> Visible:
        """What both members say."""
        return weakest(self._asked)

    @property
    def _asked(self) -> tuple[Conditional, ...]:
        if self.scale == 1:
            return (self.conditional,)
        return (self.conditional, self.unconditional) if self.scale else (self.unconditional,)

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        with_it, *rest = (member(tokens, at) for member in self._asked)
        if not rest:
            return with_it
        without_it = torch.where(torch.isneginf(rest[0]), with_it, rest[0])
        scores = self.scale * with_it + (1 - self.scale) * without_it
        return scores.masked_fill(torch.isneginf(with_it), -torch.inf).log_softmax(-1)

    def rows(self, index: Tensor) -> Self:
        """The same law for some of the rows."""
        return replace(self, conditional=self.conditional.rows(index), unconditional=self.unconditional.rows(index))

    def given(self, tokens: Tensor, upto: Tensor) -> Self:
        """The same law, with the members' caches."""
        return replace(
            self,
            conditional=self.conditional.given(tokens, upto),
            unconditional=self.unconditional.given(tokens, upto),
        )


@dataclass(frozen=True)
class WithoutPrompt(Wrapper):
    """The law of a model to which the cells of `prompt` [B, L] bool look masked: the unconditional of `Guidance`.

    At the prompt's own cells it answers without having seen them, whatever `visible` says. One pass.
    """

    prompt: Tensor

    def __post_init__(self) -> None:
        if self.prompt.dtype != torch.bool or self.prompt.dim() != 2:
            kind, shape = self.prompt.dtype, tuple(self.prompt.shape)
            raise BadInput(f"the prompt's cells came as {kind} {shape}: they must be bool [rows, length].")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        return self.conditional(self._hidden(tokens), at)

    def _hidden(self, tokens: Tensor) -> Tensor:
        if self.prompt.shape != tokens.shape:
            raise BadInput(
                f"the prompt's cells came for rows of the shape {tuple(self.prompt.shape)}, but the canvas is "
                f"{tuple(tokens.shape)}: give them for the whole canvas, and sample it without a sliding window."
            )
        return torch.where(self.prompt, self.alphabet.mask, tokens)

    def rows(self, index: Tensor) -> Self:
        """The same law for some of the rows, with their prompts."""
        return replace(self, conditional=self.conditional.rows(index), prompt=self.prompt[index])

    def given(self, tokens: Tensor, upto: Tensor) -> Self:
        """The same law; only what lies before the first cell of the prompt is settled."""
        shown = (~self.prompt).long().cumprod(1).sum(1)
        inner = self.conditional.given(self._hidden(tokens), torch.minimum(upto, shown))
        return replace(self, conditional=inner)


def without_prompt(conditional: Conditional, prompt: Tensor) -> WithoutPrompt:
    """`conditional` with the cells of `prompt` [B, L] bool masked. Raises BadInput where that is no bool matrix."""
    return WithoutPrompt(conditional, prompt)


@dataclass(frozen=True)
class Pool:
    """What pools share: members of one alphabet, a weight each; members of weight 0 are not asked.

    conditionals: the members; weights: finite, with a positive sum.
    """

    conditionals: tuple[Conditional, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.conditionals or len(self.conditionals) != len(self.weights):
            raise BadInput(
                f"a pool came with {len(self.conditionals)} models and {len(self.weights)} weights: give each a weight."
            )
        if not (all(abs(w) <= LARGEST for w in self.weights) and sum(self.weights) > 0):  # NaN too
            raise BadInput(
                f"a pool came with the weights {list(self.weights)}: they must be numbers up to {LARGEST:.0f} "
                f"with a sum above 0."
            )
        shared_alphabet(self.conditionals)

    @property
    def alphabet(self) -> Alphabet:
        """All members'."""
        return self.conditionals[0].alphabet

    @property
    def visible(self) -> Visible:
        """What all members that are asked say."""
        return weakest(tuple(c for c, w in zip(self.conditionals, self.weights) if w))

    def rows(self, index: Tensor) -> Self:
        """The same law for some of the rows."""
        return replace(self, conditionals=tuple(c.rows(index) for c in self.conditionals))

    def given(self, tokens: Tensor, upto: Tensor) -> Self:
        """The same law, with the members' caches."""
        return replace(self, conditionals=tuple(c.given(tokens, upto) for c in self.conditionals))


@dataclass(frozen=True)
class Product(Pool):
    """Log-linear pool: proportional to the product of p_i^(w_i) in every cell.

    The weights are exponents as they are: (0.5, 0.5) is the geometric mean, (1, 1) a product of experts. A negative
    weight leans away from a member. A token is banned if a member of positive weight bans it; a member of negative
    weight that bans a token is taken to agree with the others on it, as in `Guidance`. A cell in which the members
    exclude one another's tokens raises BadInput.
    """

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        pairs = list(zip(self.conditionals, self.weights))
        scores = reduce(torch.add, [w * c(tokens, at) for c, w in pairs if w > 0])
        banned, mean = torch.isneginf(scores), scores / sum(w for _, w in pairs if w > 0)
        for member, weight in pairs:
            if weight < 0:
                log_prob = member(tokens, at)
                scores = scores + weight * torch.where(torch.isneginf(log_prob), mean, log_prob)
        advice = "the models exclude one another's tokens; pool them with Mixture, and cut outside the pool."
        return renormalised(scores.masked_fill(banned, -torch.inf), advice)


@dataclass(frozen=True)
class Mixture(Pool):
    """Linear pool: the weighted mean of the members' probabilities; weights of 0 or more, brought to a sum of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.weights) < 0:
            raise BadInput(f"a mixture came with the weights {list(self.weights)}: none may be below 0.")

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V]."""
        total = math.fsum(self.weights)
        parts = [c(tokens, at) + math.log(w) - math.log(total) for c, w in zip(self.conditionals, self.weights) if w]
        return reduce(torch.logaddexp, parts)
