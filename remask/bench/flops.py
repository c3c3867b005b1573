"""Training FLOPs of masked language models, in the accountings that people compare by.

    dense    the published one of ELECTRA (Clark et al. 2020, arXiv 2003.10555): multiply-add = 2, backward = forward,
             and every input token is looked up by a product with the whole embedding table
    sparse   the same, but a lookup is free, as it is on any processor
    train3   matrix products only, backward = 2 forward, lookups free

`dense` and `sparse` count, in every block: the three projections, scores, scaling, softmax (5 a score), dropout (4 a
number: draw, compare, mask, rescale), weighted sum, output projection, both feed-forward products, GELU (8 a number),
biases, residual sums, layer norms (5 a number, but 5 a *token* after attention: a slip of the published count, kept);
below the blocks position and type tables (as products), their sums, norm, dropout and the projection to the hidden
width; above them the prediction transform and softmax over the vocabulary at the predicted tokens, or the two-layer
detection head at all. `train3` keeps the products alone: 8 h^2 + 4 h s + 4 h f for a block (6 h f with a gated
feed-forward), per token. The term of the row's length s is there in all three, as if every layer attended globally.
The optimizer is counted in none. Which one is used decides who wins: with dense lookups a step of ELECTRA-Small costs
1.32 steps of BERT-Small, with sparse ones 1.08.
Symbols: h hidden width, f feed-forward width, e embedding width, s row length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from remask.core.errors import BadInput, UnknownName

NORM, SOFTMAX, DROPOUT, GELU = 5, 5, 4, 8  # operations a number
PUBLISHED_SHARE = 20 / 128  # predicted tokens of a row, in the published count
USUAL_SHARE = 0.15


class Shape(NamedTuple):
    """Sizes of a transformer encoder.

    embedding: width of the (tied) table, None = hidden, and then there is no projection; gated: a feed-forward of three
    matrices (GeGLU, as ModernBERT's) in place of two.
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    vocabulary: int
    embedding: int | None = None
    gated: bool = False

    @property
    def table(self) -> int:
        """Width of the embedding table, e."""
        return self.embedding or self.hidden


class Accounting(NamedTuple):
    """passes: forward and backward, in units of the forward; small: count what is no matrix product."""

    what: str
    passes: int
    small: bool
    dense_lookup: bool
    share: float


ACCOUNTINGS: dict[str, Accounting] = {
    "dense": Accounting("the published count: lookups as products, backward = forward", 2, True, True, PUBLISHED_SHARE),
    "sparse": Accounting("the published count, lookups free", 2, True, False, PUBLISHED_SHARE),
    "train3": Accounting("matrix products, backward = 2 forward, lookups free", 3, False, False, USUAL_SHARE),
}


def _block(shape: Shape, length: int, rule: Accounting) -> float:
    """One layer, per token."""
    h, f, scores = shape.hidden, shape.feed_forward, length * shape.heads
    inner = 2 * f if shape.gated else f
    products = 8 * h * h + 4 * h * length + 2 * h * inner + 2 * h * f
    attention = 4 * h + (SOFTMAX + DROPOUT + 1) * scores + DROPOUT * h + h + NORM
    feed_forward = inner + GELU * f + (inner - f) + h + DROPOUT * h + h + NORM * h
    return products + (attention + feed_forward if rule.small else 0)


def _below(shape: Shape, length: int, rule: Accounting) -> float:
    """Embeddings and their projection, per token."""
    e, h = shape.table, shape.hidden
    lookup = 2 * e * shape.vocabulary if rule.dense_lookup else 0
    small = 2 * e * (length + 2) + 2 * e + (NORM + DROPOUT) * e if rule.small else 0
    projection = (2 * e * h + (h if rule.small else 0)) if e != h else 0
    return lookup + small + projection


def _language_head(shape: Shape, rule: Accounting) -> float:
    """Transform and scores of the whole vocabulary, per predicted token."""
    e, h, v = shape.table, shape.hidden, shape.vocabulary
    small = (1 + GELU + NORM) * e + (SOFTMAX + 2) * v
    return 2 * h * e + 2 * e * v + (small if rule.small else 0)


def _detection_head(shape: Shape, rule: Accounting) -> float:
    """Real or replaced, per token."""
    h = shape.hidden
    return 2 * h * h + 2 * h + ((1 + GELU) * h if rule.small else 0)


def _trunk(shape: Shape, length: int, rule: Accounting) -> float:
    return shape.layers * _block(shape, length, rule) + _below(shape, length, rule)


class Task(NamedTuple):
    """What a net learns: whether a generator runs with it, and what its own head costs (shape, share, rule)."""

    what: str
    generated: bool
    head: Callable[[Shape, float, Accounting], float]


TASKS: dict[str, Task] = {
    "mlm": Task("BERT: predict the masked tokens", False, lambda s, share, rule: share * _language_head(s, rule)),
    "electra": Task(
        "detect replaced tokens, all of them; a generator replaces",
        True,
        lambda s, share, rule: _detection_head(s, rule),
    ),
    "replace_mlm": Task(
        "predict the masked tokens, whose cells hold a generator's samples",
        True,
        lambda s, share, rule: share * _language_head(s, rule),
    ),
    "all_tokens_mlm": Task(
        "predict every token, with a copy gate; a generator replaces",
        True,
        lambda s, share, rule: _language_head(s, rule) + 2 * s.hidden,
    ),
}


def flops_per_token(
    discriminator: Shape,
    generator: Shape | None,
    task: str,
    masked_share: float,
    *,
    length: int,
    accounting: str = "train3",
) -> float:
    """Training FLOPs (forward and backward) per token of input.

    discriminator: the net that is kept, whatever its task; generator: for the tasks that have one, else None;
    masked_share: share of tokens that a language head predicts (all-tokens MLM: the generator's only); length: s.
    Raises UnknownName for a task or an accounting, BadInput for a task whose generator is missing.
    """
    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    if accounting not in ACCOUNTINGS:
        raise UnknownName("accounting", accounting, ACCOUNTINGS)
    plan, rule = TASKS[task], ACCOUNTINGS[accounting]
    if plan.generated and generator is None:
        raise BadInput(f"the task {task} has a generator, and none came: give its Shape.")
    total = _trunk(discriminator, length, rule) + plan.head(discriminator, masked_share, rule)
    if plan.generated and generator is not None:
        total += _trunk(generator, length, rule) + masked_share * _language_head(generator, rule)
    return rule.passes * total


def step_flops(
    discriminator: Shape,
    generator: Shape | None,
    task: str,
    masked_share: float,
    *,
    length: int,
    batch: int,
    accounting: str = "train3",
) -> float:
    """Training FLOPs of one optimizer step over `batch` rows of `length` tokens; see flops_per_token."""
    each = flops_per_token(discriminator, generator, task, masked_share, length=length, accounting=accounting)
    return each * batch * length


def smaller(shape: Shape, width: float, depth: float = 1.0) -> Shape:
    """A generator: fractions of a net's widths, heads and layers, its embedding table shared."""
    return shape._replace(
        layers=max(1, round(shape.layers * depth)),
        hidden=round(shape.hidden * width),
        feed_forward=round(shape.feed_forward * width),
        heads=max(1, round(shape.heads * width)),
        embedding=shape.table,
    )


class Preset(NamedTuple):
    """A published pretraining (Clark et al. 2020, table 6): net, generator, rows and steps."""

    net: Shape
    generator_width: float
    length: int
    batch: int
    steps: int
    mask_rate: float | None = None


_SMALL = Shape(12, 256, 1024, 4, 30_522, embedding=128)
_BASE = Shape(12, 768, 3072, 12, 30_522)
_LARGE = Shape(24, 1024, 4096, 16, 30_522)

PRESETS: dict[str, Preset] = {
    "bert-small": Preset(_SMALL, 1 / 4, 128, 128, 1_450_000),
    "electra-small": Preset(_SMALL, 1 / 4, 128, 128, 1_000_000),
    "bert-base": Preset(_BASE, 1 / 3, 512, 256, 1_000_000),
    "electra-base": Preset(_BASE, 1 / 3, 512, 256, 766_000),
    "electra-large": Preset(_LARGE, 1 / 4, 512, 2048, 400_000, mask_rate=0.25),
}


@dataclass(frozen=True)
class Flops:
    """Training FLOPs per token and per run of four objectives, in three accountings; nothing is measured."""

    preset: str = "electra-small"
    """Where the other sizes come from: bert-small, electra-small, bert-base, electra-base, electra-large."""
    layers: int | None = None
    """Layers; default: the preset's."""
    hidden: int | None = None
    """Hidden width; default: the preset's. The widths below then follow from it."""
    feed_forward: int | None = None
    """Feed-forward width; default: the preset's, or 4 times --hidden."""
    heads: int | None = None
    """Attention heads; default: the preset's, or one for every 64 of --hidden."""
    embedding: int | None = None
    """Width of the embedding table; default: the preset's, or --hidden."""
    vocabulary: int | None = None
    """Ids of the vocabulary; default: the preset's."""
    gated: bool = False
    """Three feed-forward matrices (GeGLU, as ModernBERT) in place of two."""
    length: int | None = None
    """Tokens in a row; default: the preset's."""
    mask_rate: float | None = None
    """Share of tokens that are masked; default: the preset's, or 20/128 as published (0.15 in train3)."""
    generator_width: float | None = None
    """The generator's hidden and feed-forward width and heads, as a share of the net's; default: the preset's."""
    generator_depth: float = 1.0
    """The generator's layers, as a share of the net's."""
    steps: int | None = None
    """Optimizer steps of the run; default: the preset's."""
    batch: int | None = None
    """Rows in a step; default: the preset's."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UnknownName("preset", self.preset, PRESETS)
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < math.inf:
                raise BadInput(f"--{name.replace('_', '-')} came as {value}: it must be above 0.")
        if self.mask_rate is not None and self.mask_rate > 1:
            raise BadInput(f"--mask-rate came as {self.mask_rate}: it is a share of the tokens, at most 1.")
        if self.generator.hidden < 1:
            raise BadInput(f"--generator-width came as {self.generator_width}: a generator would have no width at all.")

    @property
    def net(self) -> Shape:
        """The net that is kept."""
        shape = PRESETS[self.preset].net
        if self.hidden is not None:
            shape = shape._replace(
                hidden=self.hidden, feed_forward=4 * self.hidden, heads=max(1, self.hidden // 64), embedding=None
            )
        names = ("layers", "feed_forward", "heads", "embedding", "vocabulary")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return shape._replace(**given, gated=self.gated)

    @property
    def generator(self) -> Shape:
        """The net that fills the masks."""
        return smaller(self.net, self._pick("generator_width"), self.generator_depth)

    def _pick(self, name: str) -> Any:
        own = getattr(self, name)
        return getattr(PRESETS[self.preset], name) if own is None else own

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each accounting and objective."""
        length, batch, steps = (int(self._pick(name)) for name in ("length", "batch", "steps"))
        for name, rule in ACCOUNTINGS.items():
            share = self._pick("mask_rate") or rule.share
            cost = {
                task: flops_per_token(self.net, self.generator, task, share, length=length, accounting=name)
                for task in TASKS
            }
            for task, plan in TASKS.items():
                yield {
                    "arm": task,
                    "what": plan.what,
                    "accounting": name,
                    "megaflops_per_token": round(cost[task] / 1e6, 2),
                    "flops_per_run": float(f"{cost[task] * length * batch * steps:.4g}"),
                    "over_mlm": round(cost[task] / cost["mlm"], 3),
                }
