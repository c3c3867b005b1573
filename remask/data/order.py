"""Order: which row comes when, as a pure function of (seed, epoch).

No state to save: training resumes at any draw, and every rank can compute any slice of the same endless sequence.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput

__all__ = ["Order"]


class Order:
    """An endless sequence of epochs, each a fresh permutation of the rows.

    rows: number of rows R, at least 1.
    seed: any integer; another seed is another sequence.

    An epoch sorts the rows by the raw 64-bit output of Philox 4x64-10 (Salmon et al. 2011) with key (seed, epoch):
    the cipher is fixed for good, whereas `Generator.permutation` may change between versions of numpy.
    """

    def __init__(self, rows: int, seed: int):
        if rows < 1:
            raise BadInput(f"there are {rows} rows to draw from; give at least one.")
        self.rows = rows
        self.seed = seed
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def take(self, start: int, count: int) -> Tensor:
        """Row numbers [count] int64 of the draws start .. start + count - 1, counted from 0 over all epochs.

        Raises BadInput when `start` or `count` is negative.
        """
        if start < 0 or count < 0:
            raise BadInput(f"draws {start} to {start + count} do not exist; start and count are 0 or more.")
        parts = [torch.empty(0, dtype=torch.long)]
        while count > 0:
            epoch, first = divmod(start, self.rows)
            part = self._epoch(epoch)[first : first + count]
            parts.append(part)
            start += len(part)
            count -= len(part)
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if self._latest[0] != epoch:
            key = np.array([self.seed % 2**64, epoch], dtype=np.uint64)
            keys = np.random.Philox(key=key).random_raw(self.rows)
            self._latest = (epoch, torch.from_numpy(np.argsort(keys, kind="stable")))
        return self._latest[1]
