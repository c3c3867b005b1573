"""A left-to-right T5 as a CausalModel: the prompt is the source, its end appended, and what is written is the target.

Its log p is that of training, the mask having no probability; other ids that no text holds (pad, unknown, surplus) keep
theirs and are not written, as everywhere in remask where texts are written from left to right.
Shapes: N prefixes, M of them, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.decoder import Prefixes
from remask.core.errors import BadCheckpoint, BadInput
from remask.nets.reading import Past, Reading
from remask.nets.t5 import T5Net

if TYPE_CHECKING:
    from remask.nets.crossed import CrossedNet


class Kept(NamedTuple):
    """What is kept of N targets that have one source. reading: of that source, one row; past: of the targets."""

    reading: Reading
    past: Past


class CausalEncoderDecoder:
    """A frozen left-to-right T5, or two masked ModernBERTs of which one learnt to write from left to right.

    net: a causal one; longest: tokens of a source with its end, and of a target, that it was trained on.
    Raises BadCheckpoint for a parallel net, or an alphabet without an end.
    """

    def __init__(self, net: T5Net | CrossedNet, alphabet: Alphabet, longest: int):
        if not net.causal:
            raise BadCheckpoint("this net writes in parallel: remask translate decodes it.")
        if alphabet.end is None:
            raise BadCheckpoint("decoding needs an end token, and this tokenizer has none: give one that has.")
        self.net, self.mask, self.size, self.end = net.eval(), alphabet.mask, alphabet.size, alphabet.end
        self.longest, self.window = longest, 2 * longest
        self.device = next(net.parameters()).device
        silent = {alphabet.mask, alphabet.pad, *alphabet.special} - {alphabet.end, None}
        self.silent = torch.tensor(sorted(i for i in silent if i is not None), device=self.device)

    @torch.no_grad()
    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One prefix: an empty target of the source `prompt`; BadInput for a source longer than the net reads."""
        if len(prompt) + 1 > self.longest:
            raise BadInput(
                f"a source of {len(prompt) + 1} tokens came, its end counted, and the model reads {self.longest}: "
                "shorten it."
            )
        source = torch.tensor([[*prompt, self.end]], device=self.device)
        reading = self.net.read(source, torch.ones_like(source, dtype=torch.bool))
        return self._step(torch.tensor([self.net.start], device=self.device), reading, None)

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Each prefix with a token more, [N] int64; the old prefixes stay valid."""
        return self._step(tokens.to(self.device), *prefixes.cache)

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat prefixes, [M] int64; the source is kept once."""
        index = index.to(self.device)
        assert prefixes.hidden is not None
        kept = Kept(prefixes.cache.reading, prefixes.cache.past.rows(index))
        return Prefixes(prefixes.log_prob[index], prefixes.hidden[index], kept)

    def _step(self, tokens: Tensor, reading: Reading, past: Past | None) -> Prefixes:
        hidden, past = self.net.step(tokens[:, None], reading.memory, past)
        log_prob = reading.log_probs(hidden[:, -1], self.mask)[:, : self.size].double()
        return Prefixes(log_prob.index_fill(1, self.silent, -torch.inf), hidden[:, -1], Kept(reading, past))
