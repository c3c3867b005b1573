"""Tiny checkpoints over a vocabulary of as many characters as a law has words."""

import json
from unittest.mock import patch

from remask.data import tokenizers
from remask.nets import encoder
from remask.nets.blockwise import in_blocks
from remask.train.checkpoint import write_net
from tests.nets.tiny import shake

LENGTH, BLOCK = 12, 4
SPECK = encoder.Size(1, 16, 2, 16, directional=True, block_parameters=0)


def tokenizer(words):
    """One id for each of so many characters."""
    return tokenizers.character_tokenizer(["".join(chr(0x100 + word) for word in range(words))])


def checkpoint(path, words=256, kind="masked", length=LENGTH, fingerprint="f00d", seed=0, layers=1):
    """An untrained net in a directory; kind: masked, blocks or causal."""
    words = tokenizer(words)
    causal = kind == "causal"
    with patch.dict(encoder.SIZES, speck=SPECK._replace(layers=layers)):
        net = encoder.build("speck", tokenizers.alphabet(words), length, causal=causal, seed=seed)
    shake(net.model, seed, scale=0.1)
    net = in_blocks(net, BLOCK) if kind == "blocks" else net
    write_net(path, net, words, {"objective": {"name": kind}, "data": {"fingerprint": fingerprint}})
    return path


def facts(path, **new):
    """Change what a checkpoint says of itself."""
    file = path / "remask.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | new))
