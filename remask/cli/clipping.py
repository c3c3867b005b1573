"""The work of `remask evaluate --clips`: in which part of the noise levels the loss of a net of blocks varies least."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

from remask.cli.show import console
from remask.cli.words import emit
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.data.pack import pack
from remask.data.split import fingerprint
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.nets.blockwise import BlockNet
from remask.objectives.block_diffusion import clips
from remask.train.checkpoint import load

PARTS = ((0.0, 1.0), *((k / 20, k / 20 + 0.5) for k in range(11)))
"""All noise levels, and the halves of them among which Arriola et al. 2025 found theirs."""
ROWS = 64


def by_clips(values: argparse.Namespace) -> int:
    """Each part of the noise levels with the variance of its loss, least first."""
    if values.draws < 2:
        raise BadInput(f"--draws came as {values.draws}: a variance needs 2 or more.")
    model = load(values.checkpoint)
    if not isinstance(model.net, BlockNet):
        raise BadInput(
            f"--clips came for {model.path}, which is no net of blocks: leave it out, or train one "
            "with remask train block_diffusion."
        )
    length = values.length if values.length is not None else min(model.length, 512)
    documents = read(values.data, column=values.column, document=values.document)
    rows = pack(encode(model.tokenizer, [d.text for d in documents]), length, model.alphabet.end).tokens
    chosen = rows[torch.linspace(0, len(rows) - 1, min(ROWS, len(rows))).long()]
    with console.status("weighing"):
        found = clips(model.net, Batch.of(chosen, model.alphabet), PARTS, values.draws, values.seed)
    if values.json:
        facts = {"rows": len(chosen), "length": length, "draws": values.draws, "seed": values.seed}
        emit({"clips": [one._asdict() for one in found], **facts, "fingerprint": fingerprint(documents)})
        return 0
    shown = Table(title=f"{len(chosen)} rows of {length} tokens, {values.draws} draws", title_justify="left")
    for column in ("--clip-low", "--clip-high", "loss, nats a token", "variance of a row's loss over its noise"):
        shown.add_column(column, justify="right")
    for one in found:
        shown.add_row(f"{one.low:.2f}", f"{one.high:.2f}", f"{one.nats:.4f}", f"{one.variance:.5f}")
    Console().print(shown)
    return 0
