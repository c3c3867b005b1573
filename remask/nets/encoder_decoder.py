"""Our own encoder-decoders: T5's parameters in sizes of ours, parallel or left to right, with directional starts.

A left-to-right one is a plain T5 directory (T5 v1.1: gated GELU, Raffel et al. 2020, arXiv 1910.10683), which
transformers opens without remask. The tables of relative positions begin as directional heads do (nets/directional.py),
and a parallel decoder's cross-attention on the diagonal (nets/diagonal.py): they stay ordinary parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import T5Config, T5ForConditionalGeneration

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.nets import diagonal
from remask.nets.directional import default_directions
from remask.nets.relative import directed, halved
from remask.nets.t5 import ParallelT5, ParallelT5Config, T5Net

PLACES = 0.5  # standard deviation of fresh position embeddings, beside 1 of T5's token embeddings
WRONG = 6.0  # nats that a head's other side costs at first


class Size(NamedTuple):
    """A named size: layers of the encoder and of the decoder, width, heads, inner width of the gated layers."""

    layers: int
    width: int
    heads: int
    feed_forward: int


SIZES: dict[str, Size] = {
    "tiny": Size(3, 192, 3, 512),
    "mini": Size(4, 256, 4, 704),
    "small": Size(6, 512, 8, 1024),
    "medium": Size(12, 768, 12, 2048),
}


def build(
    net: str,
    alphabet: Alphabet,
    longest_target: int = 128,
    *,
    causal: bool = False,
    length_kind: str = "both",
    dropout: float = 0.1,
    seed: int = 0,
) -> T5Net:
    """A fresh encoder-decoder of a named size.

    longest_target: M, tokens that a parallel one can write; length_kind: nets/lengths.py; seed: of the weights.
    Raises UnknownName for a size that SIZES lacks, BadInput for an alphabet without pad or end.
    """
    if net not in SIZES:
        raise UnknownName("net", net, SIZES)
    if alphabet.pad is None or alphabet.end is None:
        raise BadInput("an encoder-decoder needs a pad and an end token, and this tokenizer lacks one of them.")
    size = SIZES[net]
    common: dict[str, Any] = {
        "vocab_size": alphabet.size,
        "d_model": size.width,
        "d_kv": size.width // size.heads,
        "d_ff": size.feed_forward,
        "num_layers": size.layers,
        "num_decoder_layers": size.layers,
        "num_heads": size.heads,
        "dropout_rate": dropout,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": alphabet.pad,
        "eos_token_id": alphabet.end,
        "decoder_start_token_id": alphabet.pad,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if causal:
            model: Any = T5ForConditionalGeneration(T5Config(**common))
        else:
            model = ParallelT5(ParallelT5Config(**common, longest_target=longest_target, length_kind=length_kind))
            for table in (model.from_start, model.from_end):
                torch.nn.init.normal_(table.weight, std=PLACES)
            model.diagonal.weight.data.copy_(diagonal.start(size.heads))
            torch.nn.init.normal_(model.length_token)
    _direct(model, size.heads, causal)
    return T5Net(model)


@torch.no_grad()
def _direct(model: Any, heads: int, causal: bool) -> None:
    """Let the position tables begin as directional heads."""
    number, far = model.config.relative_attention_num_buckets, model.config.relative_attention_max_distance
    both = default_directions(heads)
    two = directed(number, far, both["head_directions"], both["head_slopes"], True, WRONG)
    one = directed(number, far, ["free"] * heads, halved(heads), False, WRONG)
    for stack, table in ((model.encoder, two), (model.decoder, one if causal else two)):
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(table)
