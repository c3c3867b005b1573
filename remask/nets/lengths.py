"""How long a target will be: a law over 1..M, read off the encoded source before a parallel decoder begins.

Three heads, one law: a classifier on the source's summary (Ghazvininejad et al. 2019, arXiv 1904.09324, its [LENGTH]
token; Li et al. 2024, arXiv 2407.21046), an affine function of the source's length with an error of its own, and
(the default) their product, which begins at the affine one: a fresh classifier has to learn to count first.
Shapes: B batch, D width, M longest target.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from remask.core.errors import UnknownName

HEADS = ("both", "classifier", "affine")
SPREAD = 0.2  # standard error of the affine guess before training, as a share of the longest target's square root


class LengthHead(nn.Module):
    """Log p(length = 1..M | source); the classifier's products are divided by sqrt(D), or it would leap at first.

    kind: both, classifier or affine; width: D; longest: M. Raises UnknownName for another kind.
    """

    def __init__(self, kind: str, width: int, longest: int):
        super().__init__()
        if kind not in HEADS:
            raise UnknownName("length head", kind, HEADS)
        self.longest = longest
        self.classifies, self.affine = kind != "affine", kind != "classifier"
        if self.classifies:
            self.table = nn.Embedding(longest, width)
        if self.affine:
            self.line = nn.Parameter(torch.empty(3))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """No opinion of the classifier, and a target as long as its source, give or take."""
        if self.classifies:
            self.table.weight.zero_()
        if self.affine:
            self.line.copy_(torch.tensor([1.0, 0.0, math.log(SPREAD * math.sqrt(self.longest) + 1.0)]))

    def forward(self, summary: Tensor, lengths: Tensor) -> Tensor:
        """[B, M] float32; summary: [B, D]; lengths: [B] of the sources, in tokens."""
        scores = summary.new_zeros(len(summary), self.longest).float()
        if self.classifies:
            scores = scores + (summary @ self.table.weight.T).float() / math.sqrt(summary.shape[1])
        if self.affine:
            slope, offset, log_error = self.line.float()
            off = torch.arange(1, self.longest + 1, device=lengths.device) - (slope * lengths[:, None] + offset)
            scores = scores - 0.5 * (off * torch.exp(-log_error)) ** 2
        return scores.log_softmax(1)
