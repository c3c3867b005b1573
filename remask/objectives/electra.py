"""ELECTRA: a small generator fills masks, a discriminator says of every token whether it was replaced.

    min  E [ L_MLM(generator) + lambda L_detection(discriminator) ]

The generator predicts k chosen cells; one token is drawn for each, exactly and without gradient; the discriminator is
asked about all cells, and a draw that happens to be right counts as real (Clark et al. 2020, arXiv 2003.10555, section
2). The chosen cells are drawn without replacement: the published code draws with it and averages ids where it collides.
Ablations of section 3.4: loss on the chosen cells only, Replace-MLM (predict the chosen cells from the corrupted text),
All-Tokens MLM (predict every token, with a gate that copies the input). Which reals have to be scored is asked by
`score`: a random subset of the unmasked cells, a balanced one, half of all.
Shapes: B batch, L length, N scored cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from remask.core.choose import exactly
from remask.core.errors import BadInput
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.nets.convert import as_detector, as_language_model, seeded, smaller
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import Pair
from remask.nets.share import SHARES
from remask.nets.trunk import Trunk
from remask.objectives.mlm import share_of, text_cells


class Corrupted(NamedTuple):
    """A question after the generator's answer.

    tokens: [B, L], what the discriminator sees; replaced: [B, L] bool, True where it is asked to see a replacement.
    """

    tokens: Tensor
    replaced: Tensor


def _every(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    return torch.ones_like(at)


def _masked(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    return at


def _random(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    return exactly(uniform, ~at, at.sum(1))


def _uniform(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    return exactly(uniform, torch.ones_like(at), at.sum(1))


def _balanced(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    fake = corrupted.replaced
    return fake | exactly(uniform, ~fake, fake.sum(1))


def _half(at: Tensor, corrupted: Corrupted, uniform: Tensor) -> Tensor:
    return exactly(uniform, torch.ones_like(at), torch.full_like(at[:, 0].long(), (at.shape[1] + 1) // 2))


SCORES: dict[str, Callable[[Tensor, Corrupted, Tensor], Tensor]] = {
    "all": _every,
    "masked": _masked,
    "random": _random,
    "uniform": _uniform,
    "balanced": _balanced,
    "half": _half,
}
"""Which cells the discriminator's loss is taken on, [B, L] bool."""


def _detection(objective: ELECTRA, net: Pair, question: Question, corrupted: Corrupted, stream: Stream) -> Term:
    uniform = stream.uniform(0, Purpose.SCORE, question.at.shape[1])
    scored = SCORES[objective.score](question.at, corrupted, uniform)
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)[scored]
    scores = net.discriminator.scores(hidden)  # type: ignore[union-attr, operator]
    nats = binary_cross_entropy_with_logits(scores, corrupted.replaced[scored].to(scores.dtype), reduction="none")
    # a row counts as one whatever part of it is scored, so that the count is known before the generator answers
    weight = torch.ones_like(question.weight, dtype=torch.float64)
    if objective.score_scale == "mean":
        weight = (scored.shape[1] / scored.sum(1).clamp(min=1))[:, None].expand_as(scored).double()
    total = (nats.double() * weight[scored]).sum()
    return Term("detection", total, question.counts[1], objective.discriminator_weight)


def _replace_mlm(objective: ELECTRA, net: Pair, question: Question, corrupted: Corrupted, stream: Stream) -> Term:
    at = question.at
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)[at]
    ban = question.alphabet.mask
    total = net.discriminator.total_nll(hidden, question.targets[at], question.weight[at], ban)  # type: ignore[union-attr, operator]
    return Term("replace_mlm", total, question.counts[1])


def _all_tokens(objective: ELECTRA, net: Pair, question: Question, corrupted: Corrupted, stream: Stream) -> Term:
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents).flatten(0, 1)
    targets = question.targets.flatten()
    log_prob = -net.discriminator.nll(hidden, targets, question.alphabet.mask)  # type: ignore[union-attr, operator]
    assert net.copy_gate is not None
    gate = net.copy_gate(hidden)[:, 0].to(log_prob.dtype)
    log_prob = gated(log_prob, gate, corrupted.tokens.flatten() == targets)
    return Term("all_tokens_mlm", -log_prob.sum(dtype=torch.float64), question.counts[1])


def gated(log_prob: Tensor, gate: Tensor, copied: Tensor) -> Tensor:
    """Log of D 1[x = input] + (1 - D) p(x), D = sigmoid(gate), all [N] (section 3.4, All-Tokens MLM)."""
    other = logsigmoid(-gate) + log_prob
    return torch.where(copied, torch.logaddexp(logsigmoid(gate), other), other)


@contextmanager
def _at_rest(net: HuggingFaceNet) -> Iterator[None]:
    """A net that no longer learns: no gradient, and no dropout, so that it draws from the law that it has learned."""
    mode = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(mode)


Second = Callable[["ELECTRA", Pair, Question, Corrupted, Stream], Term]
TASKS: dict[str, Second] = {"detection": _detection, "replace-mlm": _replace_mlm, "all-tokens": _all_tokens}
"""What the discriminator learns."""
NAMES = {"detection": "detection", "replace-mlm": "replace_mlm", "all-tokens": "all_tokens_mlm"}


@dataclass(frozen=True)
class ELECTRA:
    """Replaced-token detection (Clark et al. 2020): a discriminator learns from every token of a generator's text."""

    task: str = "detection"
    """What the discriminator learns: detection, or the ablations that predict tokens, replace-mlm and all-tokens."""
    mask_rate: float = 0.15
    """Share of each row's tokens that the generator predicts and replaces."""
    keep: float = 0.15
    """Share of the chosen tokens that the generator sees as they are; the rest it sees as masks."""
    discriminator_weight: float = 50.0
    """Weight of the detection loss beside the generator's."""
    score: str = "all"
    """Cells the detection loss is taken on: all, masked (the chosen ones: ELECTRA-15 %), random (as many others),
    uniform (as many of all), balanced (every replaced one and as many reals) or half."""
    score_scale: str = "mean"
    """mean: scored cells share the weight of a whole row; sum: each counts as it does with --score all."""
    lucky: bool = True
    """A token that the generator gets right counts as real."""
    temperature: float = 1.0
    """Of the generator's draws."""
    generator_width: float = 0.25
    """The generator's width as a share of the discriminator's."""
    generator_depth: float = 1.0
    """The generator's layers as a share of the discriminator's."""
    share: str = "shared"
    """Embeddings: none, shared, or gdes (gradient-disentangled: the discriminator learns a difference)."""
    generator: str | None = None
    """Start the generator from this Hugging Face directory, or hf:NAME, instead of a fresh one."""
    freeze_generator: bool = False
    """Never train the generator (give one with --generator)."""
    two_stage: bool = False
    """Train the generator alone for half of the training, copy it into the discriminator, then train that alone."""

    causal = False
    bounds = False
    writes = False
    law = "no bound"

    def __post_init__(self) -> None:
        for name, known in (("task", TASKS), ("score", SCORES), ("score_scale", ("mean", "sum")), ("share", SHARES)):
            value = getattr(self, name)
            if value not in known:
                flag = name.replace("_", "-")
                raise BadInput(f"there is no {flag} '{value}': type --{flag} {'|'.join(known)}.")
        for name, fits, wanted in (
            ("mask_rate", 0 < self.mask_rate <= 1, "in (0, 1]"),
            ("keep", 0 <= self.keep < 1, "in [0, 1)"),
            ("discriminator_weight", 0 < self.discriminator_weight < math.inf, "above 0, and finite"),
            ("temperature", 0 < self.temperature < math.inf, "above 0, and finite"),
            ("generator_width", 0 < self.generator_width < math.inf, "above 0, and finite"),
            ("generator_depth", 0 < self.generator_depth < math.inf, "above 0, and finite"),
        ):
            if not fits:
                raise BadInput(f"--{name.replace('_', '-')} came as {getattr(self, name)}: it must be {wanted}.")
        if self.task != "detection" and (self.score, self.score_scale) != ("all", "mean"):
            raise BadInput(f"--score and --score-scale belong to --task detection, and --task {self.task} came.")
        if self.freeze_generator and self.generator is None:
            raise BadInput("--freeze-generator came without --generator: a fresh one would never learn; type its DIR.")
        if self.freeze_generator and self.share == "shared":
            raise BadInput("--freeze-generator came with --share shared, which trains its table: type --share gdes.")
        if self.two_stage and (self.share != "none" or self.freeze_generator):
            raise BadInput("--two-stage copies the generator when it is done: type --share none, and do not freeze it.")
        if self.two_stage and self.generator is None and (self.generator_width, self.generator_depth) != (1, 1):
            raise BadInput(
                "--two-stage copies the generator into the discriminator, so they must be of one size: type "
                "--generator-width 1 --generator-depth 1."
            )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What whoever trains with these fields should know."""
        if self.generator is not None or self.two_stage or max(self.generator_width, self.generator_depth) <= 1:
            return ()
        return (
            "the generator is larger than the discriminator: a quarter to a half of its size worked best, and larger "
            "ones leave it too hard a task (Clark et al. 2020, section 3.2).",
        )

    def furnish(self, net: Trunk, *, seed: int = 0, generator: HuggingFaceNet | None = None) -> Pair:
        """The pair to train: `net` becomes the discriminator; the generator is `generator`, or a fresh smaller one."""
        fresh = generator is None
        made = smaller(net, self.generator_width, self.generator_depth, seed + 1) if generator is None else generator
        build: Callable[..., Any] = as_detector if self.task == "detection" else as_language_model
        with seeded(seed + 3):
            pair = Pair(
                made, build(net, seed + 2), self.share, keep_generator=not fresh, copy_gate=self.task == "all-tokens"
            )
        if self.two_stage and not fresh:
            pair.check_same_size()
        return pair

    def turn(self, net: Pair, progress: float) -> None:
        """Before every step: the second stage begins when half of the training is done."""
        if self.two_stage and progress >= 0.5 and int(net.stage) == 0:
            net.copy_generator()
            net.stage.fill_(1)

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Choose cells, and mask most of them for the generator."""
        among = text_cells(batch)
        uniform = stream.uniform(0, Purpose.MASK, among.shape[1])
        at = exactly(uniform, among, share_of(among, self.mask_rate))
        hidden = at & (stream.uniform(0, Purpose.SHOW, at.shape[1]) >= self.keep)
        chosen = max(int(at.sum()), 1)
        second = chosen if self.task == "replace-mlm" else at.numel()
        return Question(
            tokens=torch.where(hidden, batch.alphabet.mask, batch.tokens),
            targets=batch.tokens,
            at=at,
            weight=torch.ones_like(batch.tokens, dtype=torch.float32),
            documents=batch.documents,
            counts=torch.tensor([chosen, second], dtype=torch.float64, device=at.device),
            alphabet=batch.alphabet,
        )

    def replace(self, net: Pair, question: Question, stream: Stream) -> tuple[Term, Corrupted]:
        """The generator's loss, and the text with its draws in the chosen cells."""
        at, teaches = question.at, not self.freeze_generator and not (self.two_stage and int(net.stage) == 1)
        with nullcontext() if teaches else _at_rest(net.generator):
            hidden = net.generator.hidden(question.tokens, documents=question.documents)[at]
            uniform = stream.uniform(0, Purpose.TOKEN, at.shape[1])[at]
            total, drawn = net.generator.total_nll_and_draw(
                hidden, question.targets[at], question.weight[at], uniform, question.alphabet.mask, self.temperature
            )
        tokens = question.targets.masked_scatter(at, drawn)
        replaced = tokens != question.targets if self.lucky else at
        return Term("mlm", total, question.counts[0], float(teaches)), Corrupted(tokens, replaced)

    def __call__(self, net: Pair, question: Question, stream: Stream) -> Loss:
        """Both losses; the discriminator's head sees the scored cells only."""
        generated, corrupted = self.replace(net, question, stream)
        if self.two_stage and int(net.stage) == 0:
            return Loss((generated, Term(NAMES[self.task], generated.total.detach() * 0, question.counts[1])))
        return Loss((generated, TASKS[self.task](self, net, question, corrupted, stream)))
