"""The length term of parallel decoders: -log p(length of the target | source), summed over targets.

Ghazvininejad et al. 2019 (arXiv 1904.09324, section 3.3) train the length beside the tokens, unweighted.
Shapes: B batch, L target length, M longest target.
"""

from __future__ import annotations

from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.net import Reading
from remask.core.objective import Term


def filled(targets: Tensor, alphabet: Alphabet) -> Tensor:
    """Cells that are no padding, [B, L] bool."""
    assert alphabet.pad is not None, "whoever made rows of pairs had a pad token"
    return targets != alphabet.pad


def target_lengths(targets: Tensor, alphabet: Alphabet) -> Tensor:
    """Tokens of each target, [B]: neither its end token nor padding counts."""
    return (filled(targets, alphabet) & (targets != alphabet.end)).sum(1)


def length_term(reading: Reading, targets: Tensor, alphabet: Alphabet, count: Tensor) -> Term:
    """-log p of the true lengths, nats, summed over targets [B, L]; `count`: targets of the whole step.

    Targets longer than the head knows count as the longest; empty ones as 1.
    """
    log_prob = reading.length_log_prob().double()
    true = target_lengths(targets, alphabet).clamp(1, log_prob.shape[1])
    return Term("length", -log_prob.gather(1, true[:, None] - 1).sum(), count)
