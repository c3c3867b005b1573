"""Decoder: a frozen left-to-right model and prompts in, texts and their log p out.

A model is whatever tells the next token after a prefix; what it keeps of a prefix (keys and values) never changes, so a
search may go back to any prefix that it still holds. Prompts are decoded one after the other, the hypotheses of one
together: a batch of prompts is by construction what each is alone.
Shapes: B prompts, N prefixes, M of them, V vocabulary, D width, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.errors import BadInput
from remask.core.stream import Stream


class Prefixes(NamedTuple):
    """N prefixes that a model has read.

    log_prob: [N, V] float64, of the next token, -inf where it is never written; hidden: [N, D], the state that it was
    read off, or None where a model has none; cache: the model's own.
    """

    log_prob: Tensor
    hidden: Tensor | None
    cache: Any


class CausalModel(Protocol):
    """A left-to-right model. size: V; end: id of the end token; window: tokens of prompt and text together, at most."""

    size: int
    end: int
    window: int

    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: the prompt."""
        ...

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more, [N] int64; the old prefixes stay valid."""
        ...

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes, [M] int64."""
        ...


class Budget(NamedTuple):
    """What a decoder may spend on a prompt.

    tokens: of a text, its end counted; nodes: prefixes that the model may read, None for as many as it takes.
    """

    tokens: int
    nodes: int | None = None


class Told(NamedTuple):
    """What is known of B texts.

    calls: [B] int64, prefixes that the model read; certified: [B] bool, whether no text within `Budget.tokens` is
    better by what the decoder maximises; gap: [B] float64, nats by which an unseen text may be better at most, 0 where
    certified, nan where the decoder cannot say.
    """

    calls: Tensor
    certified: Tensor
    gap: Tensor


class Decoded(NamedTuple):
    """B texts.

    canvas: [B, L], prompt (frozen), text, its end token if it has one, and end tokens as padding (frozen); log_prob:
    [B] float64, of text and end given the prompt, nats; info: Told.
    """

    canvas: Canvas
    log_prob: Tensor
    info: Told

    def texts(self, end: int) -> list[list[int]]:
        """The tokens of each text, without prompt and end."""
        rows = zip(self.canvas.tokens.tolist(), self.canvas.unknown.tolist())
        written = [[token for token, mine in zip(tokens, unknown) if mine] for tokens, unknown in rows]
        return [row[:-1] if row and row[-1] == end else row for row in written]


class Decoder(Protocol):
    """A frozen dataclass; its fields are its flags. It never changes a weight."""

    def __call__(self, model: CausalModel, prompts: Sequence[Sequence[int]], stream: Stream, budget: Budget) -> Decoded:
        """One text for each prompt; `stream` has a row for each."""
        ...


class Answer(NamedTuple):
    """What a decoder found for one prompt. text: tokens, the end last if it ended; the rest as in Told and Decoded."""

    text: list[int]
    log_prob: float
    calls: int
    certified: bool = False
    gap: float = float("nan")


def one_by_one(
    decode: Callable[[Sequence[int], Stream], Answer],
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    stream: Stream,
    budget: Budget,
) -> Decoded:
    """Decode each prompt with its row of the stream, and put the answers together.

    Raises BadInput for a budget that holds no token, or a prompt that leaves no room in the model's window.
    """
    if budget.tokens < 1 or (budget.nodes is not None and budget.nodes < 1):
        raise BadInput(f"a budget of {budget} holds not one hypothesis: give 1 token and 1 node at least.")
    for prompt in prompts:
        if len(prompt) + budget.tokens > model.window:
            raise BadInput(
                f"a prompt of {len(prompt)} tokens came for a text of up to {budget.tokens}, and the model reads "
                f"{model.window}: shorten the prompt, or ask for a shorter text."
            )
    numbers = torch.arange(len(prompts))
    found = [decode(prompt, stream.rows(numbers[k : k + 1])) for k, prompt in enumerate(prompts)]
    told = Told(
        torch.tensor([one.calls for one in found], dtype=torch.int64),
        torch.tensor([one.certified for one in found], dtype=torch.bool),
        torch.tensor([one.gap for one in found], dtype=torch.float64),
    )
    log_prob = torch.tensor([one.log_prob for one in found], dtype=torch.float64)
    return Decoded(assemble(prompts, [one.text for one in found], model.end), log_prob, told)


def assemble(prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], end: int) -> Canvas:
    """Prompts and texts as a canvas, see Decoded."""
    longest = max((len(p) + len(t) for p, t in zip(prompts, texts)), default=0)
    tokens = torch.full((len(prompts), longest), end, dtype=torch.int64)
    frozen = torch.ones(len(prompts), longest, dtype=torch.bool)
    for row, (prompt, text) in enumerate(zip(prompts, texts)):
        tokens[row, : len(prompt) + len(text)] = torch.tensor([*prompt, *text], dtype=torch.int64)
        frozen[row, len(prompt) : len(prompt) + len(text)] = False
    return Canvas(tokens, frozen)


class Spoken:
    """A CausalModel made of a function: next_log_probs(prefix) -> [V], for models that are written by hand.

    prefix: a tuple of ids, the prompt first; window: see CausalModel; size: V, None to ask after the empty prefix.
    Raises BadInput where probabilities do not add up to 1.
    """

    def __init__(
        self,
        next_log_probs: Callable[[tuple[int, ...]], Any],
        end: int,
        window: int = 1_000_000,
        size: int | None = None,
    ):
        self.next_log_probs, self.end, self.window = next_log_probs, end, window
        self.size = len(self._law(())) if size is None else size

    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: the prompt."""
        return self._read([tuple(prompt)])

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more."""
        return self._read([(*prefix, token) for prefix, token in zip(prefixes.cache, tokens.tolist())])

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes."""
        return Prefixes(prefixes.log_prob[index], None, [prefixes.cache[k] for k in index.tolist()])

    def _read(self, cache: list[tuple[int, ...]]) -> Prefixes:
        return Prefixes(torch.stack([self._law(prefix) for prefix in cache]), None, cache)

    def _law(self, prefix: tuple[int, ...]) -> Tensor:
        law = torch.as_tensor(self.next_log_probs(prefix), dtype=torch.float64)
        if not abs(float(law.logsumexp(0))) <= 1e-4:  # what float32 may miss it by; nan is refused
            raise BadInput(f"the probabilities after {prefix} add up to {float(law.exp().sum()):.6g}: they must to 1.")
        return law
