"""Recurrent: a causal model learns to carry a vector from window to window of a long row.

The autoregressive loss of a net that reads in windows and sees one more key and value, made of the window before
(Yoshida et al. 2020, arXiv 2008.07027; nets/recurrent.py). A row of L tokens is L / S windows; all weights learn. What
is carried is a function of what lies to the left, so the sum is still the exact -log p of the row.
Shapes: B batch, L length, S window.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remask.core.errors import BadInput
from remask.core.objective import Loss, Question, Term
from remask.core.stream import Stream
from remask.nets.configs import read_config
from remask.nets.recurrent import FAMILY, RecurrentNet, open_causal, open_recurrent, reach_of
from remask.objectives.autoregressive import Autoregressive

USUAL = 64  # tokens of a window


@dataclass(frozen=True)
class Recurrent(Autoregressive):
    """Long rows in windows, a vector carried from one to the next (Yoshida et al. 2020); the likelihood is exact."""

    window: int | None = None
    """Tokens read at once; default: 64, or what the model can read. --length is that of a row of many windows."""
    reread: int = 0
    """Of these, tokens of the window before that are read again, and not scored."""
    layer_in: int | None = None
    """The layer whose attention sees what is carried, from 0; default: all of them."""
    layer_out: int | None = None
    """The layer after which a window's states are pooled, 0 for the embeddings; default: the last."""
    bptt: int = 0
    """Gradients end after every so many windows; 0 = they cross the whole row."""
    checkpointing: bool = True
    """Make a window's activations again in the backward pass: memory is one window's, however many there are."""

    law = "exact"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.reread < self.size:
            raise BadInput(
                f"--window came as {self.size} and --reread as {self.reread}: type 1 or more, and fewer than that."
            )
        if self.bptt < 0:
            raise BadInput(f"--bptt came as {self.bptt}: type a number of windows, or 0 for all.")

    @property
    def size(self) -> int:
        """Tokens of a window, S."""
        return USUAL if self.window is None else self.window

    def check_length(self, length: int, window: int) -> None:
        """Raise BadInput for rows of one window, from which nothing is ever carried."""
        if length <= window:
            raise BadInput(
                f"--length {length} came for windows of {window}: nothing is carried within one window, so type a "
                f"--length of several, for example {8 * window}."
            )

    def open(self, path: str | Path, *, seed: int = 0) -> RecurrentNet:
        """The model of a directory with fresh slots: of any causal family, or one that has slots and keeps them.

        Raises BadCheckpoint for a directory that is neither, BadInput for a --window that is not the net's.
        """
        if read_config(path)["model_type"] == FAMILY:
            return self.furnish(open_recurrent(path))
        return self._with_slots(open_causal(path), seed)

    def furnish(self, net: Any, *, seed: int = 0, generator: Any = None) -> RecurrentNet:
        """A causal net with fresh slots; one that has some keeps them. Raises as `open`."""
        del generator
        if not isinstance(net, RecurrentNet):
            return self._with_slots(net.model, seed)
        asked = {
            "window": (self.window, net.window),
            "reread": (self.reread or None, net.reread),
            "layer-in": (None if self.layer_in is None else (self.layer_in,), net.layers_in),
            "layer-out": (self.layer_out, net.layer_out),
        }
        for flag, (came, has) in asked.items():
            if came not in (None, has):
                raise BadInput(f"--{flag} came for a net that has slots already, and there it is {has}: leave it out.")
        return net

    def _with_slots(self, model: Any, seed: int) -> RecurrentNet:
        window = min(USUAL, reach_of(model)) if self.window is None else self.window
        layers = None if self.layer_in is None else (self.layer_in,)
        return RecurrentNet(model, window, self.reread, layers, self.layer_out, seed)

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Cross-entropy of every token, summed window by window; a net that carries nothing reads the row whole."""
        if not isinstance(net, RecurrentNet):
            return Loss(
                tuple(term._replace(name="recurrent") for term in super().__call__(net, question, stream).terms)
            )
        total = net.total_nll_of_rows(
            question.tokens,
            question.targets,
            question.weight,
            question.documents,
            question.alphabet.mask,
            bptt=self.bptt,
            checkpointing=self.checkpointing,
        )
        return Loss((Term("recurrent", total, question.counts[0]),))
