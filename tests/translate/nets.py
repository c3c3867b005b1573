"""Small real encoder-decoders with a byte tokenizer."""

from functools import cache

import torch

from remask.data.tokenizers import alphabet, byte_tokenizer
from remask.nets.t5 import ParallelT5, ParallelT5Config, T5Net

TOKENIZER = byte_tokenizer()
ALPHABET = alphabet(TOKENIZER)
WINDOW = 16


@cache
def parallel() -> T5Net:
    """An untrained one whose lengths and tokens depend on the source, in float64."""
    torch.manual_seed(8)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    ids = {"vocab_size": ALPHABET.size, "pad_token_id": ALPHABET.pad, "eos_token_id": ALPHABET.end}
    model = ParallelT5(ParallelT5Config(**shape, **ids, dropout_rate=0.1, longest_target=WINDOW - 1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return T5Net(model).double().eval()


def sources(texts):
    """[B, S] rows of texts, and where they are no padding."""
    ids = [TOKENIZER.encode(text) for text in texts]
    width = max(map(len, ids)) + 1
    rows = torch.tensor([row + [ALPHABET.end] + [ALPHABET.pad] * (width - 1 - len(row)) for row in ids])
    return rows, rows != ALPHABET.pad
