"""Alignment: the cheapest monotonic way to lay a target along predictions that may say nothing.

Aligned cross-entropy (Ghazvininejad et al. 2020, arXiv 2004.01655, section 3). With targets Y_1..Y_n, predictions
P_1..P_m, a blank e and a penalty d, A[n, m] is the least of the sums of

    A[i, j] = min( A[i-1, j-1] - log P_j(Y_i)        align: the prediction says the target
                 , A[i, j-1]   - log P_j(e)          skip a prediction: it says nothing
                 , A[i-1, j]   - d log P_j(Y_i) )    skip a target: prediction j pays for it besides its own
    A[0, j] = A[0, j-1] - log P_j(e),    A[i, 0] = A[i-1, 0] - d log P_1(Y_i)

The penalty never multiplies a blank. The table is filled along its anti-diagonals, n + m steps for the whole batch, and
without gradient: on the way back every target finds the one prediction that pays for it, and these alone are added up.
Shapes: B batch, L length, n targets, m predictions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet

ALIGN, SKIP_PREDICTION, SKIP_TARGET = range(3)


class Alignment(NamedTuple):
    """The cheapest alignment of every row.

    loss: [B] float64, nats; its gradient reaches the log-probabilities on the path and no others.
    partner: [B, n] int64, from 0: the prediction that pays for a target, aligned or skipped (padding: 0).
    aligned: [B, n] bool, whether that prediction says the target; False where the target is skipped (and in padding).
    blank: [B, m] bool, predictions that say nothing.
    """

    loss: Tensor
    partner: Tensor
    aligned: Tensor
    blank: Tensor


def align(
    log_target: Tensor, log_blank: Tensor, targets: Tensor, predictions: Tensor, skip_penalty: float = 1.0
) -> Alignment:
    """Align every row; of equal paths, on the way back, the one that aligns, then the one that skips a prediction.

    log_target: [B, n, m], log p of target i at prediction j; log_blank: [B, m], of the blank; nats.
    targets, predictions: [B] int64, how many of n and of m a row has (a row with targets has a prediction); what lies
    behind them is never read.
    skip_penalty: d > 0, what a skipped target's cross-entropy is multiplied by.
    """
    with torch.no_grad():
        moves = _moves(-log_target.double(), -log_blank.double(), skip_penalty)
        partner, aligned, blank = _back(moves, targets, predictions)
    real = torch.arange(partner.shape[1], device=partner.device) < targets[:, None]
    said = log_target.gather(2, partner[:, :, None])[:, :, 0].double()
    said = torch.where(real, torch.where(aligned, 1.0, skip_penalty) * said, 0.0)
    silent = torch.where(blank, log_blank.double(), 0.0)
    return Alignment(-(said.sum(1) + silent.sum(1)), partner, aligned, blank)


def _moves(cost: Tensor, blank: Tensor, skip_penalty: float) -> Tensor:
    """The last move of the best way to (i, j), [B, n + 1, m + 1] int8; cost [B, n, m] and blank [B, m] in nats."""
    rows, n, m = cost.shape
    best = cost.new_zeros(rows, n + 1, m + 1)
    moves = torch.full((rows, n + 1, m + 1), ALIGN, dtype=torch.int8, device=cost.device)
    best[:, 0, 1:], moves[:, 0] = blank.cumsum(1), SKIP_PREDICTION
    best[:, 1:, 0], moves[:, 1:, 0] = skip_penalty * cost[:, :, 0].cumsum(1), SKIP_TARGET
    for diagonal in range(2, n + m + 1):
        i = torch.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1, device=cost.device)
        j = diagonal - i
        pays = cost[:, i - 1, j - 1]
        found = best[:, i - 1, j - 1] + pays
        move = torch.full_like(found, ALIGN, dtype=torch.int8)
        silent = best[:, i, j - 1] + blank[:, j - 1]
        found, move = torch.where(silent < found, silent, found), torch.where(silent < found, SKIP_PREDICTION, move)
        left_out = best[:, i - 1, j] + skip_penalty * pays
        found, move = torch.where(left_out < found, left_out, found), torch.where(left_out < found, SKIP_TARGET, move)
        best[:, i, j], moves[:, i, j] = found, move
    return moves


def _back(moves: Tensor, targets: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From (n, m) of every row back to (0, 0): partner and aligned [B, n], blank [B, m]."""
    rows, places, others = moves.shape
    row = torch.arange(rows, device=moves.device)
    i, j = targets, predictions
    partner = torch.zeros(rows, places, dtype=torch.int64, device=moves.device)
    aligned = torch.zeros(rows, places, dtype=torch.bool, device=moves.device)
    blank = torch.zeros(rows, others, dtype=torch.bool, device=moves.device)
    for _ in range(places + others - 2):
        move, on_the_way = moves[row, i, j], i + j > 0
        over_target = on_the_way & (move != SKIP_PREDICTION)
        over_prediction = on_the_way & (move != SKIP_TARGET)
        here = torch.where(over_target, i, 0)  # place 0 takes what is nobody's, and is cut off
        partner[row, here] = (j - 1).clamp(min=0)
        aligned[row, here] = over_target & over_prediction
        blank[row, torch.where(over_prediction & ~over_target, j, 0)] = True
        i, j = i - over_target.long(), j - over_prediction.long()
    return partner[:, 1:], aligned[:, 1:], blank[:, 1:]


def canvas_lengths(lengths: Tensor, factor: float) -> Tensor:
    """Cells for targets of these lengths [B] int64, room for blanks included: the factor times it, rounded, 1 or more.

    Training and decoding both ask here; a half is rounded to the even number, as Python does.
    """
    return (lengths.double() * factor).round().long().clamp(min=1)


def collapse(tokens: Tensor, alphabet: Alphabet) -> list[list[int]]:
    """The texts of [B, L] predicted tokens: up to the first end, without it, and without blanks (the pad id)."""
    texts = []
    for row in tokens.tolist():
        upto = row.index(alphabet.end) if alphabet.end in row else len(row)
        texts.append([token for token in row[:upto] if token != alphabet.pad])
    return texts
