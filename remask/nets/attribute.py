"""A classifier of what a text will be, read off a frozen left-to-right model before its next token is read.

Log p of C outcomes given the state of a prefix and the embedding of the token that may come next, so the tokens that a
search thinks of cost it no step of the model (Yoshida, Goyal & Gimpel 2024, arXiv 2311.08817). Two hidden layers; the
first is a sum of a part of the prefix and a part of the token, so K tokens of a prefix share the former.
Shapes: N prefixes, K next tokens, D width, E width of an embedding, V vocabulary, C outcomes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from remask.core.decoder import CausalModel
from remask.core.errors import BadInput

PLACES = 3  # numbers that tell where in the text the token stands


class AttributeHead(nn.Module):
    """Log p of the outcomes after a token more.

    embeddings: [V, E], the model's own, neither changed nor saved; width: D; outcomes: C; longest: budget of a text;
    inner: units of a hidden layer.
    """

    embeddings: Tensor
    usual: Tensor
    spread: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, embeddings: Tensor, width: int, outcomes: int, longest: int, inner: int = 256):
        super().__init__()
        self.longest = longest
        table = embeddings.detach()
        self.register_buffer("embeddings", table, persistent=False)
        self.register_buffer("usual", table.float().mean(0), persistent=False)
        self.register_buffer("spread", table.float().std(unbiased=False).clamp(min=1e-6), persistent=False)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.of_prefix = nn.Linear(width + PLACES, inner)
        self.of_token = nn.Linear(table.shape[1], inner, bias=False)
        self.middle = nn.Linear(inner, inner)
        self.out = nn.Linear(inner, outcomes)

    @torch.no_grad()
    def standardise(self, hidden: Tensor) -> None:
        """Measure states [N, D], so that a model's large or lopsided ones are learned as well as others'."""
        self.centre.copy_(hidden.double().mean(0))
        self.scale.copy_(hidden.double().std(0, unbiased=False).clamp(min=1e-6))

    @torch.no_grad()
    def start(self, labels: Tensor) -> None:
        """Say of every prefix how often each outcome came among labels [N]; what tells prefixes apart is learned."""
        counts = torch.bincount(labels, minlength=len(self.out.bias)).float() + 0.5
        self.out.bias.copy_((counts / counts.sum()).log())
        self.out.weight.zero_()

    def forward(self, hidden: Tensor, places: Tensor, candidates: Tensor) -> Tensor:
        """Log p, [N, K, C] float32.

        hidden: [N, D] of prefixes; places: [N], tokens of the text with the next one; candidates: [N, K] int64.
        """
        prefix = torch.cat([(hidden.float() - self.centre) / self.scale, self._of_place(places)], 1)
        token = (self.embeddings[candidates].float() - self.usual) / self.spread
        first = self.of_prefix(prefix)[:, None] + self.of_token(token)
        inner = nn.functional.gelu(self.middle(nn.functional.gelu(first)))
        return self.out(inner).log_softmax(-1)

    def _of_place(self, places: Tensor) -> Tensor:
        """[N, 3]: a share of the budget, and the tokens before and behind on a log scale."""
        at = places.float()
        rest = (self.longest - at).clamp(min=0)
        return torch.stack([at / self.longest, at.log1p(), rest.log1p()], 1)


def network(model: CausalModel) -> Any:
    """The network of transformers inside a model; BadInput for a model that has none (one written by hand)."""
    found = getattr(model, "model", None) or getattr(getattr(model, "net", None), "model", None)
    if found is None:
        raise BadInput("this model has no hidden states and embeddings to learn from: give an exact posterior.")
    return found


def embeddings(model: CausalModel) -> Tensor:
    """The model's own token embeddings [V, E]; BadInput for a model that has none."""
    return network(model).get_input_embeddings().weight.detach()[: model.size]
