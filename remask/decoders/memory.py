"""Memory: keys and values of the text just read, and how a text of any length passes through it, chunk by chunk.

A chunk is scored with what the memory holds, then learned from, then remembered; the oldest positions beyond `cache`
are forgotten, with all that belongs to them (Transformer-XL's cache, Dai et al. 2019, arXiv 1901.02860).

Positions. Where they only turn queries and keys (rotary ones without a limit of their own), a chunk is told its place
in the text: distances stay true whatever was forgotten, and none is beyond chunk + cache. In float32 an angle of place
n is off by n / 2^24, so that after FAR places the text begins again. Where places are looked up in a table (GPT-2),
keys hold them for good, and a text that has come to the table's end begins again, too. To begin again means: memory is
emptied, the last min(cache, half the places) tokens are read and learned from once more at place 0, and not scored
again. It is what would have been, had the text begun there.
Shapes: N texts side by side, T positions held, k tokens of a chunk, H heads, E width of a head, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.nets.causal import CausalNet, Layers, given, taken

TURNING = frozenset({"default", "linear", "llama3", "yarn"})  # rotary positions that do not depend on the length
FAR = 1 << 15
WIDEST = 1024  # chunk and cache together, where nobody says more


class Memory(NamedTuple):
    """What is held of N texts.

    layers: keys and values [N, H, T, E] of each layer; first, second: Adam's moments of them, () where nobody learns;
    steps: [T] float64, steps that a position has taken; place: of the next token.
    """

    layers: Layers = ()
    first: Layers = ()
    second: Layers = ()
    steps: Tensor = torch.empty(0, dtype=torch.float64)
    place: int = 0

    def last(self, count: int) -> Memory:
        """Without all but the last `count` positions; their moments go with them."""
        if len(self.steps) <= count:
            return self
        cut = slice(len(self.steps) - count, None)
        layers, first, second = (
            tuple((keys[..., cut, :], values[..., cut, :]) for keys, values in part)
            for part in (self.layers, self.first, self.second)
        )
        return Memory(layers, first, second, self.steps[cut], self.place)

    def rows(self, index: Tensor) -> Memory:
        """Keep or repeat texts, [M] int64; moments are left behind."""
        layers = tuple((keys[index], values[index]) for keys, values in self.layers)
        return Memory(layers, (), (), self.steps, self.place)


class Chunk(NamedTuple):
    """inputs: [N, k]; targets: [N, k], the token after each; again: read once more, and scored before."""

    inputs: Tensor
    targets: Tensor
    again: bool = False


Read = Callable[[CausalNet, Memory, Chunk], tuple[Tensor, Memory]]
"""Log p of the targets [N, k] float64, as it was before anything was learned from them; and the memory after."""


class Reader(Protocol):
    """A way of reading a text. chunk, cache: tokens read at a time, and positions held before each."""

    @property
    def chunk(self) -> int:
        """Tokens."""
        ...

    @property
    def cache(self) -> int | None:
        """Positions; None for what the model has room for."""
        ...

    def read(self, net: CausalNet, memory: Memory, chunk: Chunk) -> tuple[Tensor, Memory]:
        """See Read."""
        ...


def run(net: CausalNet, cache: Any, tokens: Tensor, place: int, **rest: Any) -> Any:
    """The model's own output for tokens [N, k] after `cache`, the first of them at a place."""
    if "position_ids" in inspect.signature(net.model.forward).parameters:
        places = torch.arange(place, place + tokens.shape[1], device=tokens.device)
        rest["position_ids"] = places.expand(len(tokens), -1)
    return net.model(input_ids=tokens, past_key_values=cache, use_cache=True, **rest)


def plain(net: CausalNet, memory: Memory, chunk: Chunk) -> tuple[Tensor, Memory]:
    """Read and learn nothing; see Read.

    Gradients are on, and asked for by nobody: models may round differently with and without them, and this is what
    those who learn are compared with.
    """
    with torch.enable_grad():
        out = run(net, given(memory.layers), chunk.inputs, memory.place)
    layers = tuple((keys.detach(), values.detach()) for keys, values in taken(out.past_key_values))
    return of_targets(net, out.logits.detach(), chunk), grown(memory, layers, chunk)


def of_targets(net: CausalNet, logits: Tensor, chunk: Chunk) -> Tensor:
    """Log p of a chunk's targets, [N, k] float64."""
    return net.law(logits).gather(-1, chunk.targets[..., None])[..., 0]


def grown(memory: Memory, layers: Layers, chunk: Chunk) -> Memory:
    """The memory with a chunk's positions, which took no step."""
    count = chunk.inputs.shape[1]
    steps = torch.cat([memory.steps.to(chunk.inputs.device), chunk.inputs.new_zeros(count, dtype=torch.float64)])
    return Memory(layers, (), (), steps, memory.place + count)


def whole(net: CausalNet) -> int:
    """Tokens that the model reads at most, a token before the text counted."""
    return net.window + (net.start is not None)


class Room(NamedTuple):
    """What a model leaves a reader. held: positions before a chunk; places: of a text, before it begins again.

    back: tokens that are read again then.
    """

    held: int
    places: int
    back: int


def room(net: CausalNet, reader: Reader, spare: int = 0) -> Room:
    """The room for a reader, if `spare` places are to be left; BadInput where there is none.

    A model that cannot be told places counts what it holds, so that nothing of it may be forgotten.
    """
    most = whole(net)
    if not 1 <= reader.chunk <= most:
        raise BadInput(f"chunks of {reader.chunk} tokens were asked for, and the model reads 1 to {most}: type one.")
    cache = max(min(most, WIDEST) - reader.chunk, 0) if reader.cache is None else reader.cache
    if not 0 <= cache <= most - reader.chunk:
        raise BadInput(
            f"a cache of {cache} positions and chunks of {reader.chunk} tokens came, and the model reads {most}: type "
            f"a --cache of 0 to {most - reader.chunk}."
        )
    told = "position_ids" in inspect.signature(net.model.forward).parameters
    places = (max(FAR, most) if turns(net) else most) if told else cache + reader.chunk
    if places - spare < reader.chunk:
        raise BadInput(
            f"a text of {spare} tokens after the one that is read, in chunks of {reader.chunk}, is more than the model "
            f"has places for ({places}): ask for a shorter one, or smaller chunks."
        )
    places -= spare
    return Room(cache if told else places + spare, places, min(cache, places // 2) // reader.chunk * reader.chunk)


def kept(net: CausalNet, reader: Reader, more: int) -> int:
    """Positions that may be held where `more` tokens are read after them, and nothing is learned any more."""
    most = whole(net) - more
    return most if reader.cache is None else min(room(net, reader).held, most)


def turns(net: CausalNet) -> bool:
    """Whether positions only turn queries and keys, so that a place may be any number."""
    rotary = getattr(net.model.config, "rope_parameters", None) or {}
    kinds = [rotary] if "rope_type" in rotary else [kind for kind in rotary.values() if isinstance(kind, dict)]
    return bool(kinds) and all(kind.get("rope_type") in TURNING for kind in kinds)


def after_start(net: CausalNet, tokens: Tensor) -> Tensor:
    """Tokens [N, T] behind the token that every text begins with, if there is one; on the model's device."""
    tokens = tokens.to(net.model.device)
    if net.start is None:
        return tokens
    return torch.cat([tokens.new_full((len(tokens), 1), net.start), tokens], 1)


def chunks(net: CausalNet, ids: Tensor, reader: Reader, spare: int = 0) -> Iterator[tuple[Tensor, Memory]]:
    """Read ids [N, T + 1]: log p [N, k] float64 of each chunk's next tokens, T in all, and the memory after it.

    spare: places to be left at the end, for what is written afterwards.
    """
    own, total = room(net, reader, spare), ids.shape[1] - 1
    memory, at, again = Memory(), 0, 0
    while at < total:
        size = min(reader.chunk, total - at)
        if memory.place + size > own.places:
            memory, at, again = Memory(), at - min(own.back, at), at
            continue
        piece = Chunk(ids[:, at : at + size], ids[:, at + 1 : at + 1 + size], at < again)
        log_prob, memory = reader.read(net, memory.last(own.held), piece)
        if not piece.again:
            yield log_prob, memory
        at += size


def nats(net: CausalNet, tokens: Tensor, reader: Reader) -> Iterator[Tensor]:
    """-log p of tokens [N, T] chunk by chunk, [N, k] float64; without a token to begin with, from the second on."""
    for log_prob, _ in chunks(net, after_start(net, tokens), reader):
        yield -log_prob


def remember(net: CausalNet, ids: Tensor, reader: Reader, spare: int = 0) -> Memory:
    """What is held of ids [N, T + 1] once all but the last, which is still to be read, have been read."""
    memory = Memory()
    for _, memory in chunks(net, ids, reader, spare):  # noqa: B007
        pass
    return memory
