"""Buckets: which pairs make up the batch of a step, so that rows of like length stand together.

The draws of `Order` (epoch after epoch, each a fresh permutation) are cut into pools of P batches. A pool is sorted by
target length, then source length, cut into batches, and its batches come in random order. Pools run on across the end
of an epoch, so every batch is full. How often a pair is drawn, for R pairs in batches of B:

    after whole pools     the counts of any two pairs differ by at most 1
    after any step        by at most 2
    within one pool       at most twice, and only once where the pool lies within one epoch (for B <= R)

Batches of like length: Ott et al. 2018, arXiv 1806.00187, section 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.data.order import Order
from remask.data.parallel import Pairs

__all__ = ["POOL", "Buckets"]

POOL = 64  # batches sorted together, at most: more would pad a little less, and shuffle less


class Buckets:
    """An endless sequence of batches, a pure function of (seed, step): no state to save, and every rank agrees.

    pairs: the rows R, at least 1; only their lengths are looked at.
    batch: rows of a batch B, at least 1.
    seed: any integer; another seed is another sequence.
    pool: batches sorted together, P = min(pool, R // B), at least 1: a pool never holds more than R draws, so a pair
        is not drawn into a batch with itself over and over.
    """

    def __init__(self, pairs: Pairs, batch: int, seed: int, *, pool: int = POOL):
        if batch < 1 or pool < 1:
            raise BadInput(f"a batch of {batch} rows from pools of {pool} batches cannot be drawn; both are 1 or more.")
        self.batch = batch
        self.pool = max(1, min(pool, len(pairs) // batch))
        self.target, self.source = pairs.target_lengths.numpy(), pairs.source_lengths.numpy()
        self._draws = Order(len(pairs), seed)
        # The same seed would sort the batches of pool k by the very numbers that drew the first rows of epoch k.
        key = np.array([seed % 2**64, 2**64 - 1], dtype=np.uint64)
        self._turns = Order(self.pool, int(np.random.Philox(key=key).random_raw()))
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def take(self, step: int) -> Tensor:
        """Row numbers [B] int64 of the batch of `step`, counted from 0. Within a batch the order is random.

        Raises BadInput for a negative step.
        """
        if step < 0:
            raise BadInput(f"step {step} does not exist; steps are counted from 0.")
        turn = int(self._turns.take(step, 1))  # an epoch of turns is a pool
        return self._batches(step // self.pool)[turn].clone()

    def _batches(self, number: int) -> Tensor:
        """The batches [P, B] of a pool, from short to long; only the latest pool is kept."""
        if self._latest[0] != number:
            size = self.pool * self.batch
            rows = self._draws.take(number * size, size).numpy()
            order = np.lexsort((self.source[rows], self.target[rows]))
            # Time is stratified over the rows of a batch: were these sorted, long targets would get the late strata.
            places = np.sort(order.reshape(self.pool, self.batch), axis=1)
            self._latest = (number, torch.from_numpy(rows[places]))
        return self._latest[1]
