"""Which lengths a parallel decoder tries, and which of its translations wins.

The length is chosen before a word is written, so several are tried side by side: the k most probable ones, and their
neighbours (Ghazvininejad et al. 2019, arXiv 1904.09324, section 3.3, length beam; Li et al. 2024, arXiv 2407.21046,
whose released code shifts the end token). Finished translations are compared by their summed log p, if need be divided
by ((5 + n) / 6)^alpha (Wu et al. 2016, arXiv 1609.08144, equation 14), or by the mean log p of a token. The plain sum
favours short ones: every further token costs.
Shapes: B sources, M longest target, C candidates of a source, N hypotheses, L their longest with its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.errors import BadInput, UnknownName

MOST = 1_000
RANKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda total, count: total,
    "mean": lambda total, count: total / count,
}
"""What hypotheses are compared by, [N] float64: from the summed log p [N] and the number of tokens [N]."""


@dataclass(frozen=True)
class Lengths:
    """Which lengths are tried, and how their translations are compared."""

    lengths: int = 1
    """Most probable lengths that are tried side by side; the best translation is kept."""
    shifts: int = 1
    """Lengths tried around each of these, an odd number: 3 adds one token less and one more."""
    length_factor: float = 1.0
    """Cells for every token of a length: more than 1 gives the blanks of a net trained with AXE room; less than 1
    writes shorter translations than the net foresees."""
    rank: str = "sum"
    """What is compared: sum, the log p of all tokens (favours short ones), or mean, that of a token; default: what DIR
    was trained for: mean for cmlm, else sum."""
    length_penalty: float | None = None
    """Divide the sum for n tokens by ((5 + n) / 6) ** A; 0 changes nothing, 1 is nearly the mean."""

    def __post_init__(self) -> None:
        for name in ("lengths", "shifts"):
            if not 1 <= getattr(self, name) <= MOST:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type 1 or more, up to {MOST}.")
        if self.shifts % 2 == 0:
            raise BadInput(
                f"--shifts came as {self.shifts}: type an odd number, as 3, for as many lengths below as above."
            )
        if not 0 < self.length_factor < math.inf:
            raise BadInput(f"--length-factor came as {self.length_factor}: type a number above 0; 1 is usual.")
        if self.rank not in RANKS:
            raise UnknownName("rank", self.rank, RANKS)
        if self.length_penalty is None:
            return
        if not -MOST < self.length_penalty < MOST:
            raise BadInput(f"--length-penalty came as {self.length_penalty}: type a number such as 1.")
        if self.rank != "sum":
            raise BadInput(f"--length-penalty divides the sum, but --rank {self.rank} came too: leave out one of them.")

    def of(self, log_prob: Tensor, oracle: Tensor | None = None) -> Tensor:
        """The lengths that are tried, [B, C] int64; see `candidates`."""
        return candidates(log_prob, self.lengths, self.shifts, self.length_factor, oracle)

    def score(self, total: Tensor, count: Tensor) -> Tensor:
        """What hypotheses are compared by, [N], of the summed log p [N] of their `count` [N] tokens."""
        if self.length_penalty is not None:
            return total / ((5 + count) / 6) ** self.length_penalty
        return RANKS[self.rank](total, count)


def candidates(
    log_prob: Tensor, top: int, shifts: int = 1, factor: float = 1.0, oracle: Tensor | None = None
) -> Tensor:
    """Cells to try for each source, [B, C] int64 in 1..M, the most probable first; 0 where there is no further one.

    log_prob: [B, M] of the lengths 1..M; top: how many of them; factor: cells a token, before the shifts -s//2..s//2.
    oracle: [B] int64, lengths that are given; 0 leaves a row to the prediction. Every number comes once in a row.
    """
    longest = log_prob.shape[1]
    base = log_prob.sort(dim=1, descending=True, stable=True).indices[:, :top] + 1
    if oracle is not None:
        given = torch.zeros_like(base)
        given[:, 0] = oracle
        base = torch.where(oracle[:, None] > 0, given, base)
    cells = (base.double() * factor).round().long().clamp(min=1)  # as AXE's objective counts them
    shift = torch.tensor(sorted(range(-(shifts // 2), shifts // 2 + 1), key=lambda s: (abs(s), s)), device=base.device)
    found = (cells[:, :, None] + shift).clamp(1, longest)
    found = torch.where(base[:, :, None] > 0, found, 0).flatten(1)
    seen = (found[:, :, None] == found[:, None, :]).tril(-1).any(2)
    return found.masked_fill(seen, 0)


def canvas(lengths: Tensor, alphabet: Alphabet) -> Canvas:
    """Masks for N lengths [N], then an end that is given, then padding: [N, L].

    Raises BadInput for an alphabet without a pad or an end.
    """
    if alphabet.pad is None or alphabet.end is None:
        raise BadInput("a translation needs a tokenizer with a pad and an end token, and this one lacks one of them.")
    place = torch.arange(int(lengths.max()) + 1, device=lengths.device)
    after = torch.where(place == lengths[:, None], alphabet.end, alphabet.pad)
    cells = place < lengths[:, None]
    return Canvas(torch.where(cells, alphabet.mask, after), ~cells)
