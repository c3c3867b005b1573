"""Recurrence against overlap: a long text weighed in windows, with what each way costs.

A recurrent net (Yoshida et al. 2020, arXiv 2008.07027; nets/recurrent.py) carries one vector from window to window; the
baseline is a model whose windows read the last tokens of the one before again. Both keep nothing else, so memory is one
window's whatever the length of the text. What decides between them is perplexity at equal FLOPs, tokens that are read
again counted: matrix products only, 2 a multiply-add, scores against every key of the window.
Shapes: N texts side by side, T tokens, S window, k tokens scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remask.core.errors import BadInput
from remask.core.metric import Estimate, exponential, ratio
from remask.nets.causal import CausalNet
from remask.nets.recurrent import Cut, RecurrentNet, cuts


class Recurring(NamedTuple):
    """net: what carries; plain: the model itself, which knows how texts begin and what no text holds."""

    net: RecurrentNet
    plain: CausalNet


@dataclass(frozen=True)
class Recurrence:
    """Windows as the net was trained with, and a vector between them."""

    @torch.no_grad()
    def stream(self, net: Recurring, tokens: Tensor, documents: Tensor | None = None) -> Iterator[Tensor]:
        """-log p of texts [N, T], [N, k] float64 for each window.

        documents: [N, T] int64, of which document each token is, and nothing is carried from one to the next; None
        where each text is one.
        """
        inputs, targets = _shifted(net.plain, tokens)
        of = torch.zeros_like(tokens) if documents is None else documents
        of, carried = of[:, of.shape[1] - targets.shape[1] :].to(inputs.device), None
        for first, fresh, last in self.cuts(net, targets.shape[1]):
            new = torch.arange(first, last, device=inputs.device).ge(fresh).expand(len(inputs), -1)
            states, carried = net.net.read_window(inputs[:, first:last], of[:, first:last], new, carried)
            logits = net.net.logits(states[:, fresh - first :].flatten(0, 1)).unflatten(0, (len(inputs), -1))
            yield _nats(net.plain, logits, targets[:, fresh:last])

    def cuts(self, net: Recurring, length: int) -> Iterator[Cut]:
        """Its windows."""
        return cuts(length, net.net.window, net.net.reread)

    def flops(self, net: Recurring, length: int) -> float:
        """Of reading a text of so many tokens, and of scoring each once."""
        adapter, base = net.net.adapter, _cost(net.plain.model)
        made = 2 * _matrices(adapter.write)
        opened = 2 * (_matrices(adapter.keys) + _matrices(adapter.values))
        seen = 4 * base.queries * len(net.net.layers_in)
        windows = list(self.cuts(net, length))
        reads = [cut.last - cut.first for cut in windows]
        pooled = 2 * adapter.width
        return (
            sum(map(base.flops, windows))
            + sum(pooled * read + made for read in reads)
            + sum(opened + seen * read for read in reads[1:])
        )


@dataclass(frozen=True)
class Overlap:
    """The baseline: windows of a model alone, each of which reads the last tokens of the one before again."""

    window: int = 64
    """Tokens read at once."""
    reread: int = 32
    """Of these, tokens that were scored before; 0 = windows side by side."""

    def __post_init__(self) -> None:
        if not 0 <= self.reread < self.window:
            raise BadInput(f"windows of {self.window} that read {self.reread} again came: fewer than all can be.")

    @torch.no_grad()
    def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
        """-log p of texts [N, T], [N, k] float64 for each window."""
        if self.window > net.window + (net.start is not None):
            raise BadInput(
                f"windows of {self.window} tokens came, and the model reads {net.window}: type a smaller one."
            )
        inputs, targets = _shifted(net, tokens)
        for first, fresh, last in self.cuts(net, targets.shape[1]):
            logits = net.model(input_ids=inputs[:, first:last], use_cache=False).logits
            yield _nats(net, logits[:, fresh - first :], targets[:, fresh:last])

    def cuts(self, net: CausalNet, length: int) -> Iterator[Cut]:
        """Its windows."""
        del net
        return cuts(length, self.window, self.reread)

    def flops(self, net: CausalNet, length: int) -> float:
        """Of reading a text of so many tokens, and of scoring each once."""
        return sum(map(_cost(net.model).flops, self.cuts(net, length)))


def _shifted(net: CausalNet, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What is read and what is scored; without a token to begin with, the first one is only read."""
    tokens = tokens.to(net.model.device)
    if net.start is None:
        return tokens[:, :-1], tokens[:, 1:]
    return torch.cat([torch.full_like(tokens[:, :1], net.start), tokens[:, :-1]], 1), tokens


def _nats(net: CausalNet, logits: Tensor, targets: Tensor) -> Tensor:
    return -net.law(logits).gather(2, targets[:, :, None])[:, :, 0]


class _Cost(NamedTuple):
    """trunk, head: numbers in the matrices that every token read, or scored, passes; queries: width of a layer's."""

    trunk: int
    head: int
    layers: int
    queries: int

    def flops(self, cut: Cut) -> float:
        read, scored = cut.last - cut.first, cut.last - cut.fresh
        return 2 * (self.trunk * read + self.head * scored) + 4 * self.queries * self.layers * read * read


def _cost(model: Any) -> _Cost:
    config, trunk = model.config, _matrices(model.base_model)
    output = model.get_output_embeddings()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    others = _matrices(model) - trunk  # the output matrix, and what a head has before it
    head = others if any(module is output for module in model.modules()) else others + output.weight.numel()
    return _Cost(trunk, head, config.num_hidden_layers, heads * width)


def _matrices(module: nn.Module) -> int:
    """Numbers in matrices that are multiplied with (tables are looked up)."""
    return sum(
        parameter.numel()
        for part in module.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
        if parameter.ndim == 2
    )


class Weighed(NamedTuple):
    """Texts that were weighed.

    nats: [N, T] float64, -log p of each token scored; place: [T], its place among its window's new tokens; later: [T]
    bool, whether a window lay before its own; flops: of one text.
    """

    nats: Tensor
    place: Tensor
    later: Tensor
    flops: float

    @property
    def total(self) -> Tensor:
        """-log p of each text, [N], nats."""
        return self.nats.sum(1)

    @property
    def flops_per_token(self) -> float:
        """FLOPs for a token scored."""
        return self.flops / self.nats.shape[1]

    @property
    def nats_per_token(self) -> Estimate:
        """Mean over all tokens; the error is over windows, which know little of one another."""
        begins = self.place.eq(0).nonzero()[:, 0].tolist()
        ends = [*begins[1:], len(self.place)]
        means = [part.sum() for a, b in zip(begins, ends) for part in self.nats[:, a:b]]
        counts = [float(b - a) for a, b in zip(begins, ends) for _ in self.nats]
        return _ratio(means, counts)

    @property
    def perplexity(self) -> Estimate:
        """exp of nats_per_token."""
        return exponential(self.nats_per_token, "perplexity")

    def by_place(self) -> list[Estimate]:
        """Mean nats at each place of the windows after the first, with errors over windows."""
        found = []
        for place in range(int(self.place[self.later].max()) + 1 if bool(self.later.any()) else 0):
            values = self.nats[:, self.later & (self.place == place)].flatten()
            found.append(_ratio(values, [1.0] * len(values)))
        return found


def _ratio(totals: Iterable[Any], counts: Sequence[float]) -> Estimate:
    return ratio([float(total) for total in totals], list(counts), "nats/token")


def score(way: Recurrence | Overlap, net: Any, tokens: Tensor) -> Weighed:
    """Weigh texts [N, T] side by side; of a model without a token to begin with, from the second token on.

    net: a Recurring for Recurrence, a CausalNet for Overlap. Raises BadInput where nothing can be scored.
    """
    parts, place, later = [], [], []
    for part in way.stream(net, tokens):
        parts.append(part)
        place.append(torch.arange(part.shape[1]))
        later.append(torch.full((part.shape[1],), len(parts) > 1))
    if not parts:
        raise BadInput(f"a text of {tokens.shape[1]} tokens came, of which none can be scored: take a longer one.")
    nats = torch.cat(parts, 1)
    return Weighed(nats, torch.cat(place), torch.cat(later), way.flops(net, nats.shape[1]))


class Point(NamedTuple):
    """A point of the curve. way: its name; reread: tokens that a window reads again; flops: for a token scored."""

    way: str
    reread: int
    flops: float
    nats: Estimate


def curve(net: Recurring | None, plain: CausalNet, tokens: Tensor, window: int, rereads: Sequence[int]) -> list[Point]:
    """Nats against FLOPs on one text: overlaps of a model that was trained without slots, and a recurrent net."""
    points = []
    for reread in rereads:
        found = score(Overlap(window, reread), plain, tokens)
        points.append(Point("overlap", reread, found.flops_per_token, found.nats_per_token))
    if net is not None:
        found = score(Recurrence(), net, tokens)
        points.append(Point("recurrence", net.net.reread, found.flops_per_token, found.nats_per_token))
    return points


def equal_cost(points: Sequence[Point]) -> float | None:
    """Nats that the recurrent net saves beside overlap at its own FLOPs, between two overlaps on a line.

    None without a recurrent net, or where no overlaps lie on both sides of its cost.
    """
    ours = [point for point in points if point.way == "recurrence"]
    line = sorted((math.log(point.flops), point.nats.value) for point in points if point.way == "overlap")
    for (less, high), (more, low) in pairwise(line):
        if ours and less <= math.log(ours[0].flops) <= more and more > less:
            share = (math.log(ours[0].flops) - less) / (more - less)
            return high + share * (low - high) - ours[0].nats.value
    return None
