"""Many texts written from left to right at once: the baseline that parallel decoding is held against.

Ancestral sampling as in `sampling.py`, a batch at a time: rows share every network call, keys and values are written
into room that was set aside for the whole text, and a row whose text is over leaves the batch. Draws are pure functions
of the stream, so a row is what it would be alone (on nets in float64; in float32 but for ties). A temperature (Ackley,
Hinton & Sejnowski 1985) or the nucleus of mass p (Holtzman et al. 2020, arXiv 1904.09751) makes the law sharper.
Shapes: B texts, N still written, P tokens of a prompt, L of a text, V vocabulary, H heads, E width of a head, K keys.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from remask.core.draw import Categorical, Draw, Greedy, Nucleus
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.nets.causal import CausalNet


class Written(NamedTuple):
    """B texts, without their prompts.

    tokens: [B, L] int64, after the end of a text end tokens; calls: [B] int64, network calls that the row took part in,
    which is also the number of its tokens, the end counted; log_prob: [B] float64, of text and end given the prompt by
    the model's own law (no temperature, no nucleus), nats.
    """

    tokens: Tensor
    calls: Tensor
    log_prob: Tensor


def write(
    net: CausalNet,
    prompts: Tensor | None,
    length: int,
    stream: Stream,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: bool = True,
) -> Written:
    """B texts of up to `length` tokens; `stream` has a row for each.

    prompts: [B, P] int64, or None for texts from nothing; temperature: 0 writes the most probable token; stop: whether
    the end token ends a text; without, it has no probability, and every text has `length` tokens.
    Uniforms are those of `Sampling` with its one draw's stream. No weight changes.
    Raises BadInput for numbers out of range, rows that do not fit, and texts longer than the model's window.
    """
    draw = _draw(temperature, top_p)
    ids = _begun(net, prompts, length, stream)
    with torch.inference_mode():
        found = _written(net, ids, length, Stream(stream.seeds.to(ids.device)), draw, temperature or 1.0, stop)
    return Written(*(x.clone() for x in found))  # as ordinary tensors, which training may read


def _written(
    net: CausalNet, ids: Tensor, length: int, stream: Stream, draw: Draw, temperature: float, stop: bool
) -> Written:
    count, device = len(ids), ids.device
    tokens = torch.full((count, length), net.end, device=device)
    total = torch.zeros(count, dtype=torch.float64, device=device)
    calls = torch.zeros(count, dtype=torch.int64, device=device)
    rows, uniform, nothing = torch.arange(count, device=device), _uniforms(stream, length), torch.empty(0)
    cache, silent = room(ids.shape[1] + length), torch.tensor([net.end, *net.ends.tolist()], device=device)
    for cell in range(length):
        out = net.model(input_ids=ids, past_key_values=cache, use_cache=True, **net.few)
        law = net.law(out.logits[:, -1] if stop else out.logits[:, -1].index_fill(1, silent, -torch.inf))
        chosen = draw(law if temperature == 1 else law / temperature, uniform[rows, cell], nothing, nothing)
        ids = chosen[:, None]
        tokens[rows, cell] = chosen
        total[rows] += law.gather(1, ids)[:, 0]
        calls[rows] += 1
        if stop and bool((over := chosen == net.end).any()):
            going = (~over).nonzero()[:, 0]
            if not len(going):
                break
            rows, ids = rows[going], ids[going]
            cache.batch_select_indices(going)
    return Written(tokens, calls, total)


def _draw(temperature: float, top_p: float) -> Draw:
    if not 0 <= temperature < math.inf:
        raise BadInput(
            f"the temperature came as {temperature}: type a number above 0, or 0 for the most probable token."
        )
    nucleus = Nucleus(top_p)
    return Greedy() if temperature == 0 else Categorical() if top_p == 1 else nucleus


def _begun(net: CausalNet, prompts: Tensor | None, length: int, stream: Stream) -> Tensor:
    """What the model reads first, [B, 1 or more]."""
    count = len(stream.seeds)
    prompts = torch.empty(count, 0, dtype=torch.int64) if prompts is None else prompts
    if prompts.ndim != 2 or len(prompts) != count or not count:
        raise BadInput(
            f"prompts of shape {[*prompts.shape]} came with a stream of {count} rows: give one row of ids for each, "
            "all of one length, and at least one."
        )
    if length < 1 or prompts.shape[1] + length > net.window:
        raise BadInput(
            f"{length} tokens were asked for after prompts of {prompts.shape[1]}, and the model reads {net.window}: "
            "ask for 1 or more, and for no more than there is room for."
        )
    prompts = prompts.to(net.model.device)
    if net.start is not None:
        prompts = torch.cat([prompts.new_full((count, 1), net.start), prompts], 1)
    if not prompts.shape[1]:
        raise BadInput(
            "no prompts came for a model without a token to begin with: give a prompt of one token at least."
        )
    return prompts


def _uniforms(stream: Stream, length: int) -> Tensor:
    """[B, L]: those that `Sampling` draws one step after the other."""
    count, device = len(stream.seeds), stream.seeds.device
    step = torch.arange(1, length + 1, device=device)
    every = stream.rows(torch.arange(count, device=device).repeat_interleave(length))
    return every.uniform(step.repeat(count), Purpose.TOKEN, 1).view(count, length)


# ---- keys and values -------------------------------------------------------------------------------------------------


def room(keys: int) -> Cache:
    """transformers' cache with room for so many keys in every layer."""
    return Cache(layer_class_to_replicate=partial(Room, keys))


class Room(DynamicLayer):
    """A DynamicLayer that grows without copying: `keys` and `values` are views of what is filled of a larger tensor.

    Concatenation would copy the whole cache at every token. (transformers' StaticCache shows a model all its room, and
    wants masks for what is empty.)
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.filled = size, 0
        self.whole: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """All keys and values [B, H, K, E], those of the new cells [B, H, T, E] last."""
        del rest, named
        if self.whole is None:
            self.whole = self._empty(key_states), self._empty(value_states)
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        end = self.filled + key_states.shape[2]
        for whole, new in zip(self.whole, (key_states, value_states)):
            whole[:, :, self.filled : end] = new
        self.filled = end
        return self._view()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only keep some of the rows, in their order."""
        if self.whole is not None:
            for whole in self.whole:
                whole[: len(indices), :, : self.filled] = whole[indices, :, : self.filled]
            self.whole = self.whole[0][: len(indices)], self.whole[1][: len(indices)]
            self._view()

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_empty(*like.shape[:2], self.size, like.shape[3])

    def _view(self) -> tuple[Tensor, Tensor]:
        assert self.whole is not None
        self.keys, self.values = (whole[:, :, : self.filled] for whole in self.whole)
        return self.keys, self.values
