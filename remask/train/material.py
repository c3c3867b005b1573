"""Material: what a run is made of where text by itself and pairs of texts differ. The run is the same for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.train.recipe import Recipe


class Questions(Protocol):
    """A loader: endless questions, a step at a time."""

    rank: int
    ranks: int

    @property
    def slots(self) -> int:
        """Rows of one optimizer step over all devices."""
        ...

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a step learns from, in the mean."""
        ...


class Material(Protocol):
    """The text of a run, and what depends on its kind.

    corpus: with tokenizer, fingerprint and notes.
    """

    corpus: Any

    def net(self, objective: Any) -> Any:
        """A fresh net, or the one that --init names."""
        ...

    def ask(self, objective: Any, alphabet: Any) -> None:
        """Ask about one row, and forget it: some flags fit no text, and only the question knows."""
        ...

    def loader(self, objective: Any, alphabet: Any, rank: int, ranks: int, progress: Callable[[int], float]) -> Any:
        """Questions for training."""
        ...

    def judge(self, objective: Any, net: Any, alphabet: Any, *, final: bool) -> dict[str, Estimate]:
        """What the net is worth on held-out text: quickly along the way, with all of it in the end."""
        ...


def gather(recipe: Recipe, objective: Any, found: Path | None) -> Material:
    """Read a run's text, with the tokenizer of a checkpoint where there is one.

    Raises BadInput when pairs came for an objective that wants text, or the other way round.
    """
    from remask.train.paired import PairMaterial
    from remask.train.texts import TextMaterial

    pairs = getattr(objective, "pairs", False)
    if pairs and not recipe.text.pairs:
        raise BadInput(f"{recipe.objective} learns from sources and targets: type --pairs FILE (TSV, or two files).")
    if recipe.text.pairs and not pairs:
        raise BadInput(f"--pairs came for {recipe.objective}, which learns from text by itself: type --data FILE.")
    return (PairMaterial if pairs else TextMaterial)(recipe, found)
