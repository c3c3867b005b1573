"""Adapting while reading: the ways of weighing a long text that `remask evaluate --adapt` knows.

Each row is a frozen dataclass with `stream(net, tokens [N, T]) -> Iterator of [N, k]`, -log p in nats of the tokens in
order, every one given before anything is learned from it (hidden-state optimization, Yoshida & Gimpel 2021, arXiv
2112.08653, beside its baselines, baselines.py). Nothing here imports torch until a row is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from remask.core.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from torch import Tensor

    from remask.nets.causal import CausalNet

    class Adaptation(Protocol):
        """A way of weighing a text of any length."""

        def stream(self, net: CausalNet, tokens: Tensor) -> Iterator[Tensor]:
            """-log p of texts [N, T], [N, k] float64 at a time."""
            ...


ADAPT = Table(
    "adaptation",
    {
        "none": "remask.decoders.baselines:Windows",
        "cache": "remask.decoders.baselines:Cached",
        "dynamic": "remask.decoders.baselines:Dynamic",
        "hidden_state": "remask.decoders.hidden_state:HiddenState",
    },
)


class Scored(NamedTuple):
    """Texts and what they cost. nats: [N, T] float64 on the CPU, -log p; tokens: [N, T], those that were scored."""

    nats: Tensor
    tokens: Tensor


def score(adaptation: Adaptation, net: CausalNet, tokens: Tensor) -> Scored:
    """Weigh texts [N, T], side by side; of a model without a token to begin with, from the second token on."""
    import torch

    nothing = torch.empty(len(tokens), 0, dtype=torch.float64)
    nats = torch.cat([nothing, *(part.cpu() for part in adaptation.stream(net, tokens))], 1)
    return Scored(nats, tokens[:, tokens.shape[1] - nats.shape[1] :])
