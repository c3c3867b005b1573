"""What hidden-state optimization is compared with: windows, a plain cache, and dynamic evaluation.

Windows read a text in pieces of one length that overlap, each from place 0; what overlaps is context, and scored once
(the usual evaluation, for example Radford et al. 2019). A plain cache reads it in chunks and keeps keys and values (Dai
et al. 2019, arXiv 1901.02860): it is hidden-state optimization without learning, bit for bit. Dynamic evaluation takes
a step on the weights after each chunk has been scored (Mikolov et al. 2010; Krause et al. 2018, arXiv 1709.07432): by
the gradient of the chunk's mean -log p, divided by the root of its mean square so far, plus a pull back to the weights
that it began with. There the squares are gathered on training text; a frozen model comes without its own, so they are
gathered on what has been scored. States in the cache stay as older weights made them.
Shapes: N texts, T tokens, k tokens of a chunk.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.errors import BadInput, Diverged
from remask.decoders.hidden_state import check_settings, checked
from remask.decoders.memory import (
    WIDEST,
    Chunk,
    Memory,
    after_start,
    grown,
    nats,
    of_targets,
    plain,
    run,
    whole,
)
from remask.nets.causal import CausalNet, given, taken

TOGETHER = 2048  # tokens of windows read at a time


@dataclass(frozen=True)
class Windows:
    """Overlapping windows, each read from its beginning: no cache, nothing learned."""

    window: int | None = None
    """tokens of a window; default: as many as the model reads, at most 1024"""
    stride: int | None = None
    """tokens from one window to the next, the ones that are scored; default: half a window"""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise BadInput(f"windows of {self.window} tokens were asked for: type --window 1 or more.")
        if self.stride is not None and not 1 <= self.stride <= (self.window or self.stride):
            raise BadInput(f"a stride of {self.stride} came: type 1 up to the window.")

    def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
        """-log p of texts [N, T], the first window's whole, of the others the last `stride`."""
        most, ids = whole(net), after_start(net, tokens)
        window = min(most, WIDEST) if self.window is None else self.window
        stride = max(window // 2, 1) if self.stride is None else self.stride
        if window > most or stride > window:
            raise BadInput(
                f"windows of {window} tokens every {stride} came, and the model reads {most}: type a --window of 1 to "
                f"{most}, and a --stride up to the window."
            )
        total = ids.shape[1] - 1
        if total > 0:
            yield self._scored(net, ids, [0], min(window, total), 0)
        begins = list(range(stride, total - window + 1, stride))
        together = max(1, TOGETHER // window)
        for number in range(0, len(begins), together):
            yield self._scored(net, ids, begins[number : number + together], window, window - stride)
        done = window + len(begins) * stride
        if done < total:  # what is left ends with the text
            yield self._scored(net, ids, [total - window], window, window - (total - done))

    @torch.no_grad()
    def _scored(self, net: CausalNet, ids: Tensor, begins: list[int], size: int, skip: int) -> Tensor:
        """-log p of the windows that begin there without their first `skip` tokens, [N, windows * rest]."""
        rows = torch.stack([ids[:, begin : begin + size + 1] for begin in begins], 1).flatten(0, 1)
        logits = net.model(input_ids=rows[:, :-1], use_cache=False).logits[:, skip:]
        return -of_targets(net, logits, Chunk(rows, rows[:, 1 + skip :])).view(len(ids), -1)


@dataclass(frozen=True)
class Cached:
    """A plain cache: keys and values of the last tokens, as the model made them."""

    chunk: int = 16
    """tokens that are scored together"""
    cache: int | None = None
    """positions held before each chunk; default: as many as the model reads with it, at most 1024"""

    def __post_init__(self) -> None:
        check_settings(self.chunk, self.cache)

    def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
        """-log p of texts [N, T], see memory.nats."""
        return nats(net, tokens, self)

    def read(self, net: CausalNet, memory: Memory, chunk: Chunk) -> tuple[Tensor, Memory]:
        """Score a chunk; see memory.Read."""
        return plain(net, memory, chunk)


@dataclass(frozen=True)
class Dynamic:
    """Dynamic evaluation: a step on the weights of a copy after each chunk, a copy for each text."""

    lr: float = 1e-4
    """learning rate of the steps on weights"""
    chunk: int = 16
    """tokens that are scored, and then learned from, together"""
    cache: int | None = None
    """positions held before each chunk; default: as many as the model reads with it, at most 1024"""
    rms: bool = True
    """divide gradients by the root of their mean square; --no-rms: plain SGD"""
    beta: float = 0.999
    """rate of the mean square"""
    epsilon: float = 1e-8
    """addition to its root"""
    decay: float = 0.0
    """share of the way back to the first weights that each step takes"""
    clip: float = 0.0
    """largest norm of a gradient; 0 for any"""

    def __post_init__(self) -> None:
        check_settings(self.chunk, self.cache, self.lr, self.clip)
        if not (0 <= self.beta < 1 and self.epsilon > 0 and 0 <= self.decay <= 1):
            raise BadInput(
                f"dynamic evaluation came with beta {self.beta}, epsilon {self.epsilon} and decay {self.decay}: type "
                "0 to 1, above 0, and 0 to 1."
            )

    def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
        """-log p of texts [N, T]: of each text from its own copy of the weights; pieces of the texts side by side."""
        checked(net)
        for parts in zip(*(nats(net, row[None], Learning(self, net)) for row in tokens), strict=True):
            yield torch.cat(parts)


class Learning:
    """Weights that learn: a Reader, with a copy of the model and what dynamic evaluation gathers of it."""

    def __init__(self, settings: Dynamic, net: CausalNet):
        self.settings, self.chunk, self.cache = settings, settings.chunk, settings.cache
        self.net = copy.copy(net)
        self.net.model = copy.deepcopy(net.model).eval()
        self.weights = [weight.requires_grad_() for weight in self.net.model.parameters()]
        self.first = [weight.detach().clone() for weight in self.weights] if settings.decay else []
        self.squares = [torch.zeros_like(weight) for weight in self.weights] if settings.rms else []
        self.steps = 0

    def read(self, net: CausalNet, memory: Memory, chunk: Chunk) -> tuple[Tensor, Memory]:
        """Score a chunk with the copy, then step; what is read again has been learned from before."""
        del net
        if chunk.again:
            return plain(self.net, memory, chunk)
        with torch.enable_grad():
            out = run(self.net, given(memory.layers), chunk.inputs, memory.place)
            log_prob = of_targets(self.net, out.logits, chunk)
            gradient = torch.autograd.grad(-log_prob.mean(), self.weights, allow_unused=True, materialize_grads=True)
        layers = tuple((keys.detach(), values.detach()) for keys, values in taken(out.past_key_values))
        self._step(gradient)
        return log_prob.detach(), grown(memory, layers, chunk)

    @torch.no_grad()
    def _step(self, gradient: tuple[Tensor, ...]) -> None:
        own = self.settings
        norm = float(torch.stack([slope.double().square().sum() for slope in gradient]).sum().sqrt())
        if not norm < float("inf"):
            raise Diverged("the gradient of the weights is not finite: lower --lr, or type a --clip.")
        scale = min(1.0, own.clip / norm) if own.clip and norm else 1.0
        self.steps += 1
        rest = 1 - own.beta**self.steps
        for number, (weight, slope) in enumerate(zip(self.weights, gradient)):
            slope = slope * scale
            if self.squares:
                square = self.squares[number].mul_(own.beta).addcmul_(slope, slope, value=1 - own.beta)
                slope = slope / (square / rest).sqrt().add_(own.epsilon)
            weight.sub_(slope, alpha=own.lr)
            if self.first:
                weight.lerp_(self.first[number], own.decay)
