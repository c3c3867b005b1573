"""Who takes part in a frontier: masked nets and nets of blocks, and one left-to-right net with the same tokens.

Figures a token compare only where a token is the same piece of text, so other tokenizers are refused. Shapes: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from remask.core.errors import BadInput
from remask.nets.blockwise import BlockNet
from remask.nets.causal import CausalNet
from remask.train.checkpoint import Checkpoint, load
from remask.train.frozen import Frozen, load_causal


class Field(NamedTuple):
    """All that takes part: checkpoints by name, and the baseline, which never writes a special token."""

    models: dict[str, Checkpoint]
    baseline: Frozen
    causal: CausalNet
    name: str
    device: torch.device


def open_field(checkpoints: Sequence[str], baseline: str, lengths: Sequence[int]) -> Field:
    """Open everything, on the GPU where there is one.

    Raises BadInput for nets that cannot fill masks, a baseline that is not left to right or has other tokens, and
    lengths that one of them cannot read; BadCheckpoint for what cannot be opened.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = load_causal(baseline, str(device))
    if not isinstance(frozen.model, CausalNet):
        raise BadInput(f"{baseline} reads a source before it writes: type a plain left-to-right --baseline.")
    names = {path: Path(path).name for path in checkpoints}
    twice = len({*names.values(), Path(baseline).name}) <= len(names)
    models = {}
    for path in dict.fromkeys(checkpoints):
        model = load(path)
        if model.net.causal or not isinstance(model.net, BlockNet):
            model.conditional()  # says what to type instead of a net that fills no masks
        if text_tokens(model) != text_tokens(frozen):
            raise BadInput(
                f"{baseline} has other tokens than {path}, so figures a token would not compare: type a --baseline "
                "that was trained with the same tokenizer."
            )
        for length in lengths:
            if length > model.length:
                raise BadInput(f"--lengths came with {length}, but {path} reads {model.length} tokens: type those.")
        model.net.to(device)
        models[path if twice else names[path]] = model
    special = next(iter(models.values())).alphabet.special
    causal = silenced(frozen.model, special)
    for length in lengths:
        if length > causal.window:
            raise BadInput(f"--lengths came with {length}, but {baseline} reads {causal.window} tokens: type those.")
    return Field(models, frozen, causal, baseline if twice else Path(baseline).name, device)


def text_tokens(model: Checkpoint | Frozen) -> dict[str, int]:
    """The tokens of texts and their ids."""
    special = {*model.tokenizer.all_special_tokens}
    return {token: number for token, number in model.tokenizer.get_vocab().items() if token not in special}


def silenced(net: CausalNet, special: frozenset[int]) -> CausalNet:
    """The same net without its special tokens, and with room for a text as long as the net reads.

    What stands before a text takes a place, and its last token is never read: together they take none.
    """
    silent = [number for number in sorted(special) if number < net.size]
    found = CausalNet(net.model, net.end, net.start, silent, net.size)
    found.window += net.start is not None
    return found
