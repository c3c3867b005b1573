"""A left-to-right translator of two ModernBERTs that is to write in parallel: everything that it learnt comes along.

PaDIR begins with a T5 that was trained left to right (Li et al. 2024, arXiv 2407.21046; nets/t5.py); this is the same
for nets/crossed.py. The source is read with the same weights, cross-attention looks with the same weights, and the
decoder has the same weights and sees both sides. What a writer has no use for is new and begins with what any fresh net
begins with, nothing of it drawn: places from both ends, the diagonal, the length head.
"""

from __future__ import annotations

from copy import deepcopy

from remask.nets.convert import seeded
from remask.nets.crossed import CrossedNet
from remask.nets.writer import bidirectional


def parallel(net: CrossedNet, mask: int, longest_target: int, length_kind: str) -> CrossedNet:
    """The parallel decoder that a left-to-right net becomes; the net itself is left alone.

    mask: id of the mask token; longest_target, length_kind: of CrossedNet.
    Raises BadInput for a decoder that is no ModernBERT, or that cannot read the longest target and its end.
    """
    with seeded(0):  # every drawn weight is given another value
        encoder, decoder = deepcopy(net.encoder), bidirectional(net.decoder, mask)
        made = CrossedNet(encoder, decoder, longest_target, length_kind, tied=net.tied)
    made.cross.load_state_dict(net.cross.state_dict())
    like = next(net.parameters())
    return made.to(like.device, like.dtype).train(net.training)
