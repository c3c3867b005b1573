"""Pack: documents end to end, cut into rows of one length. No padding, and no position wasted.

Attention and positions stop at the end of a document: `documents` numbers them within their row.
Shapes: R rows, B rows of a batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadData, BadInput
from remask.data.tokenizers import Encoded

__all__ = ["Rows", "pack"]


class Rows(NamedTuple):
    """Packed text.

    tokens: [R, L] int64 ids.
    documents: [R, L] int64, number of the document within its row, from 0 up by 1 at each change.
    bytes: [R] int64, UTF-8 bytes of the row's text (the end token is none).
    """

    tokens: Tensor
    documents: Tensor
    bytes: Tensor

    def select(self, index: Tensor | list[int] | slice) -> Rows:
        """The rows of `index`: row numbers, a slice, or a bool mask [R]."""
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.long, device=self.tokens.device)
        return Rows(self.tokens[index], self.documents[index], self.bytes[index])


def pack(encoded: Iterable[Encoded], length: int, end: int | None, name: str = "the text") -> Rows:
    """Pack documents, in order, into full rows of `length`; the ragged tail (fewer than `length` tokens) is dropped.

    end: id that follows each document, 0 bytes, one with the document it ends; None for nothing.
    name: of the text, for the message.
    A document without tokens leaves no trace. Raises BadData when there is not one full row, and BadInput for a
    length below 1.
    """
    if length < 1:
        raise BadInput(f"rows of {length} tokens cannot be packed; give --length 1 or more, for example 128.")
    closing = [] if end is None else [end]
    tokens: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    for one in encoded:
        if one.ids:
            tokens.append(np.array(one.ids + closing, dtype=np.int64))
            widths.append(np.array(one.bytes + [0] * len(closing), dtype=np.int64))
    sizes = np.array([len(one) for one in tokens], dtype=np.int64)
    total = int(sizes.sum())
    rows = total // length
    if rows == 0:
        raise BadData(
            f"{name} has {total} tokens, shorter than one row of {length}; give more text or a smaller --length."
        )
    shape, used = (rows, length), rows * length
    number = np.repeat(np.arange(len(sizes)), sizes)[:used].reshape(shape)
    return Rows(
        torch.from_numpy(np.concatenate(tokens)[:used].reshape(shape)),
        torch.from_numpy(number - number[:, :1]),
        torch.from_numpy(np.concatenate(widths)[:used].reshape(shape).sum(axis=1)),
    )
