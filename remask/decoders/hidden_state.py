"""Hidden-state optimization: gradient steps on the keys and values of text already seen; the weights stay as they are.

After a chunk of k tokens has been scored, the loss L = -sum log p(x_j | ...) of these tokens, now observed, is
differentiated by every key and value held, the chunk's own among them (as if each had an offset of 0), and all take a
step of Adam. Moments and number of steps belong to a position of a layer: they come with it, and go when it is
forgotten (Yoshida & Gimpel 2021, arXiv 2112.08653). Further steps read the chunk again with what the step before made,
offsets on its own states included. A score is never changed by what is learned from its own token or a later one.

Cost: a step is a forward and a backward pass of a chunk, without gradients of weights. Keys and values stay in the
model's precision, so half is refused: gradients fall out of the range of float16, and bfloat16 rounds steps away.
Shapes: N texts, T positions held before a chunk, k tokens of it, H heads, E width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from remask.core.decoder import Budget, CausalModel, Decoded, Prefixes
from remask.core.errors import BadCheckpoint, BadInput, Diverged
from remask.core.stream import Stream
from remask.decoders.beam import Beam
from remask.decoders.memory import (
    Chunk,
    Memory,
    after_start,
    grown,
    kept,
    nats,
    of_targets,
    remember,
    run,
    whole,
)
from remask.decoders.sampling import Sampling
from remask.nets.causal import FARTHEST, CausalNet, Layers, given, taken

FINE = frozenset({torch.float32, torch.float64})


@dataclass(frozen=True)
class HiddenState:
    """Gradient steps on cached keys and values of the prompt, then greedy text, or drawn tokens."""

    law = "heuristic"

    lr: float = 0.003
    """learning rate of the steps on keys and values; 0 is the model as it is"""
    steps: int = 1
    """steps after each chunk"""
    chunk: int = 16
    """tokens that are scored, and then learned from, together"""
    cache: int | None = None
    """positions held before each chunk; default: as many as the model reads with it, at most 1024"""
    beta1: float = 0.9
    """Adam's rate of the mean gradient"""
    beta2: float = 0.999
    """Adam's rate of the mean square"""
    epsilon: float = 1e-8
    """Adam's addition to the root of the mean square"""
    clip: float = 0.0
    """largest norm of a text's gradient in a step; 0 for any"""
    temperature: float = 0.0
    """0 for the most probable token each time; above, tokens are drawn"""

    def __post_init__(self) -> None:
        check_settings(self.chunk, self.cache, self.lr, self.clip)
        if self.steps < 1:
            raise BadInput(f"{self.steps} steps a chunk came: type --steps 1 or more, or --lr 0 to learn nothing.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise BadInput(
                f"Adam came with rates {self.beta1} and {self.beta2} and epsilon {self.epsilon}: type rates of 0 to 1, "
                "and an epsilon above 0."
            )
        if not 0 <= self.temperature < math.inf:
            raise BadInput(f"the temperature came as {self.temperature}: type 0 or more.")

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt, which may be longer than the model's window.

        log p is that of the model with the states that the prompt taught; reading a prompt counts as one prefix.
        """
        write = Sampling(temperature=self.temperature) if self.temperature else Beam(1)
        return write(Taught(checked(model), self, budget.tokens), prompts, stream, budget)

    def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
        """-log p of texts [N, T] chunk by chunk, see memory.nats: each chunk is scored before it is learned from."""
        return nats(checked(net), tokens, self)

    def read(self, net: CausalNet, memory: Memory, chunk: Chunk) -> tuple[Tensor, Memory]:
        """Score a chunk, then step; see memory.Read."""
        count, scored = len(memory.steps), torch.empty(0)
        old, own = _flat(memory.layers), list[Tensor]()
        first, second, steps = list(_flat(memory.first)), list(_flat(memory.second)), memory.steps
        for number in range(self.steps):
            with torch.enable_grad():
                cache = Watched(old, own)
                log_prob = of_targets(net, run(net, cache, chunk.inputs, memory.place).logits, chunk)
                states = _flat(taken(cache))
                gradient = torch.autograd.grad(-log_prob.sum(), states, allow_unused=True, materialize_grads=True)
            states = [state.detach() for state in states]
            if number == 0:
                scored, steps = log_prob.detach(), grown(memory, (), chunk).steps
                first, second = (_padded(moments, states) for moments in (first, second))
            steps = steps + 1
            moves = self._moves(self._clipped(gradient), first, second, steps)
            states = [state - move for state, move in zip(states, moves)]
            old = [state[..., :count, :] for state in states]
            own = [(own[k] if own else 0) - move[..., count:, :] for k, move in enumerate(moves)]
        after = grown(memory, _paired(states), chunk)
        return scored, after._replace(first=_paired(first), second=_paired(second), steps=steps)

    def _clipped(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """No text's gradient longer than `clip`; Diverged for one that is no number."""
        norm = torch.stack([part.double().square().sum((1, 2, 3)) for part in gradient]).sum(0).sqrt()
        if not norm.isfinite().all():
            raise Diverged("the gradient of the cached states is not finite: lower --lr, or type a --clip.")
        scale = (self.clip / norm.clamp(min=1e-300)).clamp(max=1) if self.clip else torch.ones_like(norm)
        return [part * scale.to(part.dtype)[:, None, None, None] for part in gradient]

    def _moves(
        self, gradient: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor], steps: Tensor
    ) -> list[Tensor]:
        """What Adam takes off each state; the moments [N, H, T, E] are changed in place (Kingma & Ba 2015)."""
        moves, kind = [], gradient[0].dtype
        mean, square = ((1 - rate**steps).to(kind)[:, None] for rate in (self.beta1, self.beta2))
        for slope, m, v in zip(gradient, first, second):
            m.mul_(self.beta1).add_(slope, alpha=1 - self.beta1)
            v.mul_(self.beta2).addcmul_(slope, slope, value=1 - self.beta2)
            moves.append((m / mean).mul_(self.lr).div_((v / square).sqrt_().add_(self.epsilon)))
        return moves


class Watched(DynamicCache):
    """transformers' cache whose states gradients flow to, whether weights want gradients or not.

    old: [N, H, T, E] keys and values in turn; own: offsets of the states still to come, or nothing.
    """

    def __init__(self, old: Sequence[Tensor], own: Sequence[Tensor]):
        super().__init__()
        self.own = own
        for number, (keys, values) in enumerate(_paired(old)):
            super().update(keys, values, number)

    def update(self, keys: Tensor, values: Tensor, number: int, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Take the states of new tokens; all that attention will see of the layer."""
        if self.own:
            keys, values = keys + self.own[2 * number], values + self.own[2 * number + 1]
        seen = super().update(keys, values, number, *rest, **named)
        for state in seen:
            if not state.requires_grad:
                state.requires_grad_()
        return seen


class Taught:
    """A CausalModel whose prompts have been learned from; any decoder can search its texts.

    reader: how prompts are read; spare: tokens of a text after one. Its prompts may be longer than the model's window.
    """

    def __init__(self, net: CausalNet, reader: HiddenState, spare: int):
        self.net, self.reader, self.spare = net, reader, spare
        self.size, self.end, self.window = net.size, net.end, FARTHEST

    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: the prompt, learned from up to its last token, which is then read."""
        net = self.net
        ids = after_start(net, torch.tensor([list(prompt)], dtype=torch.int64))
        if not ids.shape[1]:
            return net.begin(prompt)  # says what is wrong
        widest = whole(net) if self.reader.cache is None else self.reader.cache
        if self.reader.lr == 0 and ids.shape[1] + self.spare <= widest:  # the model as it is, bit for bit
            return self._read(Memory(), ids)
        return self._read(remember(net, ids, self.reader, self.spare), ids[:, -1:])

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more, [N] int64."""
        return self._read(prefixes.cache, tokens.to(self.net.model.device)[:, None])

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes, [M] int64."""
        index = index.to(self.net.model.device)
        assert prefixes.hidden is not None
        return Prefixes(prefixes.log_prob[index], prefixes.hidden[index], prefixes.cache.rows(index))

    @torch.no_grad()
    def _read(self, memory: Memory, tokens: Tensor) -> Prefixes:
        net = self.net
        memory = memory.last(kept(net, self.reader, 1))
        out = run(net, given(memory.layers), tokens, memory.place, output_hidden_states=True, **net.few)
        after = grown(memory, taken(out.past_key_values), Chunk(tokens, tokens))
        return Prefixes(net.law(out.logits[:, -1]), out.hidden_states[-1][:, -1], after)


def checked(model: CausalModel) -> CausalNet:
    """The model, if its states can be learned; BadInput or BadCheckpoint otherwise."""
    if hasattr(model, "net") or hasattr(model, "begun"):
        raise BadInput(
            "hidden states were to learn in a model with an encoder, whose prompts are sources: type a left-to-right "
            "model without one."
        )
    if not isinstance(model, CausalNet):
        raise BadInput(
            "hidden states are learned by gradients, and this model is a function without any: wrap a transformers "
            "model in remask.nets.causal.CausalNet."
        )
    for kind in {weight.dtype for weight in model.model.parameters()} - FINE:
        raise BadCheckpoint(
            f"the model's states are {kind}, in which gradients underflow (float16) or steps are rounded away "
            "(bfloat16): load it in float32."
        )
    return model


def check_settings(chunk: int, cache: int | None, lr: float = 0.0, clip: float = 0.0) -> None:
    """Raise BadInput for what no model can be read with."""
    if chunk < 1 or (cache is not None and cache < 0):
        raise BadInput(f"chunks of {chunk} tokens and a cache of {cache} came: type 1 or more, and 0 or more.")
    if not 0 <= lr < math.inf or not 0 <= clip < math.inf:
        raise BadInput(f"a learning rate of {lr} and a clip of {clip} came: type 0 or more for both.")


def _flat(layers: Layers) -> list[Tensor]:
    """Keys and values in turn."""
    return [state for layer in layers for state in layer]


def _paired(states: Sequence[Tensor]) -> Layers:
    return tuple(zip(states[::2], states[1::2]))


def _padded(moments: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Moments for all states, 0 for those that have none yet; new tensors."""
    if not moments:
        return [torch.zeros_like(state) for state in states]
    return [pad(old, (0, 0, 0, state.shape[2] - old.shape[2])) for old, state in zip(moments, states)]
