"""Quality of samples: perplexity under a scorer and unigram entropy, always together.

Generative perplexity alone is gameable: repeating one word scores superbly (Zheng et al. 2024, arXiv 2409.02908). The
precision of the draw belongs to the result too, since low-precision noise lowers the entropy unseen.
Shapes: R rows, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from remask.core.metric import Estimate, exponential, ratio

LAW = "of samples"


def unigram_entropy(tokens: Tensor) -> Tensor:
    """Entropy in nats of each row's own token frequencies, [R]."""
    return torch.stack([_entropy(row) for row in tokens])


def _entropy(row: Tensor) -> Tensor:
    share = row.unique(return_counts=True)[1].double() / len(row)
    return -(share * share.log()).sum()


def generative(
    tokens: Tensor, scorer: Callable[[Tensor], Tensor], *, draw_dtype: str = "float64"
) -> Iterator[tuple[str, Estimate]]:
    """`perplexity` of samples [R, L] under a scorer (rows -> nats per cell [R, L]) and their `unigram_entropy`."""
    nats = scorer(tokens).sum(1).tolist()
    per_token = ratio(nats, [float(tokens.shape[1])] * len(nats), "nats/token")
    yield "perplexity", exponential(per_token, f"perplexity under the scorer, {draw_dtype} draws")
    yield "unigram_entropy", ratio(unigram_entropy(tokens).tolist(), [1.0] * len(nats), f"nats, {draw_dtype} draws")
