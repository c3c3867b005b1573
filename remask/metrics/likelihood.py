"""Exact likelihood of an autoregressive net by the chain rule (Shannon 1951), in the units of a masked model's bound.

Shapes: R rows, L length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.metric import Estimate
from remask.core.net import Net
from remask.metrics.units import in_units

LAW = "exact"


@torch.inference_mode()
def nats_of_cells(
    net: Net, inputs: Tensor, tokens: Tensor, documents: Tensor, alphabet: Alphabet, batch: int = 64
) -> Tensor:
    """-log p of each token, [R, L]; `inputs` [R, L] are the tokens as a causal net sees them (shifted right)."""
    parts = []
    for index in torch.arange(len(tokens), device=tokens.device).split(batch):
        hidden = net.hidden(inputs[index], documents=documents[index]).flatten(0, 1)
        parts.append(net.nll(hidden, tokens[index].flatten(), alphabet.mask).view(len(index), -1).double())
    return torch.cat(parts)


def likelihood(
    net: Net, inputs: Tensor, tokens: Tensor, documents: Tensor, alphabet: Alphabet, *, bytes: Tensor | None = None
) -> Iterator[tuple[str, Estimate]]:
    """-log p as nats_per_token, perplexity and, given bytes [R], bits_per_byte; standard errors over rows."""
    nats = nats_of_cells(net, inputs, tokens, documents, alphabet).sum(1)
    yield from in_units(nats, torch.full((len(tokens),), tokens.shape[1]), bytes)
