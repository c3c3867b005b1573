"""A net with its question fixed: NetConditional.

Shapes: B batch, L length, V vocabulary, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.nets.hf import HuggingFaceNet
from remask.nets.reading import Reading


@dataclass(frozen=True)
class NetConditional:
    """p(x_i | the visible rest) of a masked net, or of an encoder-decoder that has read its sources.

    documents: [B, L] int64 where rows hold several documents; attend: [B, L] bool, False = padding.
    """

    net: HuggingFaceNet | Reading
    alphabet: Alphabet
    documents: Tensor | None = None
    attend: Tensor | None = None
    visible: Visible = Visible.DENOISE

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p, [B, L, V] or [N, V] at the True cells of `at`; the mask id has -inf."""
        for name, cells in (("documents", self.documents), ("attend", self.attend)):
            if cells is not None and cells.shape != tokens.shape:
                raise BadInput(
                    f"a conditional with {name} of shape {tuple(cells.shape)} was asked about a canvas of shape "
                    f"{tuple(tokens.shape)}: windows want rows of one length, without padding or several documents."
                )
        hidden = self.net.hidden(tokens, documents=self.documents, attend=self.attend)
        if at is not None:
            return self.net.log_probs(hidden[at], self.alphabet.mask)
        return self.net.log_probs(hidden.flatten(0, 1), self.alphabet.mask).view(*tokens.shape, -1)

    def rows(self, index: Tensor) -> NetConditional:
        """Some of the rows."""
        if self.documents is None and self.attend is None and not isinstance(self.net, Reading):
            return self
        pick = [None if x is None else x[index] for x in (self.documents, self.attend)]
        net = self.net.rows(index) if isinstance(self.net, Reading) else self.net
        return NetConditional(net, self.alphabet, pick[0], pick[1], self.visible)

    def given(self, tokens: Tensor, upto: Tensor) -> NetConditional:
        """No cache: bidirectional states change with every token that falls."""
        del tokens, upto
        return self
