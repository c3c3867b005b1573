"""Nats per row in the units people compare: nats per token, perplexity, bits per byte.

Bits per byte do not depend on the tokenizer, so they are what different tokenizers may be compared by; perplexity is
comparable only between models with the same tokens.
Shapes: R rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from remask.core.metric import Estimate, exponential, ratio


def in_units(nats: Tensor, tokens: Tensor, bytes: Tensor | None) -> Iterator[tuple[str, Estimate]]:
    """nats_per_token, perplexity and (when bytes are known) bits_per_byte; standard errors over rows.

    nats, tokens, bytes: [R], of each row.
    """
    totals, counts = nats.double().tolist(), tokens.double().tolist()
    per_token = ratio(totals, counts, "nats/token")
    yield "nats_per_token", per_token
    yield "perplexity", exponential(per_token, "perplexity")
    if bytes is not None and int(bytes.sum()) > 0:
        yield "bits_per_byte", ratio([t / math.log(2) for t in totals], bytes.double().tolist(), "bits/byte")
