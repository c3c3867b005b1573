"""Weighing a net by what it writes: BLEU and chrF of its usual decoding on held-out pairs.

Shapes: R pairs, B of them at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remask.core.alphabet import Alphabet
from remask.core.metric import Estimate
from remask.core.stream import Stream
from remask.data.parallel import Pairs
from remask.samplers import SAMPLERS
from remask.translate.left_to_right import greedy
from remask.translate.lengths import Lengths
from remask.translate.outcome import Outcome
from remask.translate.parallel import translate
from remask.translate.scores import scores
from remask.translate.usual import lengths_of, usual_of

BATCH = 32


def weigh_translations(
    net: Any,
    tokenizer: Any,
    alphabet: Alphabet,
    pairs: Pairs,
    references: Sequence[str],
    objective: Mapping[str, Any],
    *,
    longest: int,
    seed: int,
) -> dict[str, Estimate]:
    """bleu and chrf of R pairs against their references, in points, errors over resampled sentences.

    objective: name and fields, by which the decoding is chosen; longest: of a left-to-right text, with its end.
    Raises MissingExtra without sacrebleu.
    """
    device = next(net.parameters()).device
    name, fields = usual_of(objective)
    sampler = SAMPLERS.load(name)(**fields)
    lengths = Lengths(**lengths_of(objective))

    def decode(index: torch.Tensor) -> Outcome:
        source = pairs.rows(index, alphabet)[0].to(device)
        attend = source.ne(-1 if alphabet.pad is None else alphabet.pad)
        if net.causal:
            return greedy(net, source, attend, alphabet, longest)
        return translate(net, source, attend, alphabet, sampler, Stream.of(seed, index.to(device)), lengths)

    order = pairs.source_lengths.argsort(stable=True)  # like lengths together; a row's draws go by its number
    texts = [""] * len(pairs)
    for index in order.split(BATCH):
        for row, tokens in zip(index.tolist(), decode(index).tokens):
            texts[row] = tokenizer.decode(tokens)
    found = scores(texts, references)
    return {"bleu": found.bleu.estimate, "chrf": found.chrf.estimate}
