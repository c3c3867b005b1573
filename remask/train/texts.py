"""Text by itself as the material of a run: packed rows, masked or causal nets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remask.core.errors import BadCheckpoint, BadInput
from remask.core.metric import Estimate
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.data.corpus import Corpus, prepare
from remask.data.tokenizers import alphabet as alphabet_of
from remask.data.tokenizers import load as load_tokenizer
from remask.nets import encoder
from remask.nets.convert import as_language_model
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import Pair
from remask.nets.recurrent import RecurrentNet
from remask.objectives import OBJECTIVES
from remask.train import checkpoint
from remask.train.hub import locate
from remask.train.loader import Loader
from remask.train.opening import open_trunk
from remask.train.recipe import Recipe
from remask.train.stages import check_opening
from remask.train.weighing import judge

CURVE_ROWS = 64  # held-out rows weighed along the way; the final figure uses all of them
FINAL_DRAWS, FINAL_WORK = 8, 4096  # masks per row in the last weighing, fewer where there are many rows


class TextMaterial:
    """Rows of packed text; see train/material.py."""

    def __init__(self, recipe: Recipe, found: Path | None):
        self.recipe = recipe
        self.corpus = corpus_of(recipe, found)
        self._few = self.corpus.valid.select(spread(len(self.corpus.valid.tokens), CURVE_ROWS))

    def net(self, objective: Any) -> HuggingFaceNet | Pair | RecurrentNet:
        """A fresh net, or the one that --init names."""
        return _net(self.recipe, self.corpus.tokenizer, objective)

    def ask(self, objective: Any, alphabet: Any) -> None:
        """Ask about one row."""
        rows = self.corpus.train
        batch = Batch.of(rows.tokens[:1], alphabet, rows.documents[:1])
        objective.corrupt(batch, Stream.of(0, batch.slot))

    def loader(self, objective: Any, alphabet: Any, rank: int, ranks: int, progress: Callable[[int], float]) -> Loader:
        """Questions for training."""
        settings = self.recipe.training
        return Loader(
            objective,
            self.corpus.train,
            alphabet,
            batch=settings.batch,
            accumulate=settings.accumulate,
            seed=settings.seed,
            rank=rank,
            ranks=ranks,
            progress=progress,
        )

    def judge(self, objective: Any, net: Any, alphabet: Any, *, final: bool) -> dict[str, Estimate]:
        """The objective's terms, and the bound."""
        rows = self.corpus.valid if final else self._few
        draws = max(1, min(FINAL_DRAWS, FINAL_WORK // len(rows.tokens))) if final else 2
        return judge(objective, net, alphabet, rows, draws=draws, seed=self.recipe.training.seed)


def spread(rows: int, wanted: int) -> list[int]:
    """At most `wanted` row numbers, evenly spread."""
    wanted = min(rows, wanted)
    return sorted({round(i * (rows - 1) / max(wanted - 1, 1)) for i in range(wanted)})


def _net(recipe: Recipe, tokenizer: Any, objective: Any) -> HuggingFaceNet | Pair | RecurrentNet:
    start, length, seed = recipe.start, recipe.text.length, recipe.training.seed
    net: HuggingFaceNet | Detector
    if hasattr(objective, "check_length"):
        return _windowed(recipe, tokenizer, objective)
    if start.init is None:
        directional = True if start.open_heads else start.directional_heads
        if directional is None and not objective.writes:  # plain transformers must open what an encoder leaves
            directional = False
        net = encoder.build(
            start.net,
            alphabet_of(tokenizer),
            length,
            causal=objective.causal,
            directional_heads=directional,
            time_conditioning=start.time_conditioning,
            seed=seed,
        )
    elif objective.writes:
        net = checkpoint.load_net(locate(start.init), causal=objective.causal)
    else:
        net = open_trunk(locate(start.init), seed)
        if net.causal:
            raise BadCheckpoint(f"{start.init} is a causal model and this objective needs a masked one: type another.")
    if length > net.length:
        raise BadInput(f"--length {length} is beyond the {net.length} that {start.init} can read: type a smaller one.")
    if start.open_heads:
        check_opening(start, objective, net)
    if start.time_conditioning and net.causal:
        raise BadInput("--time-conditioning came for a causal net, which never sees a mask: leave it out.")
    if start.causal_first and (net.causal or "modernbert" not in net.family or hasattr(objective, "generator")):
        raise BadInput(
            "--causal-first came, but only one masked net of the ModernBERT kind can read left to right: leave it out, "
            "or type another --init or objective."
        )
    if hasattr(objective, "furnish"):
        named = getattr(objective, "generator", None)
        return objective.furnish(net, seed=seed, generator=_generator(named, tokenizer, length))
    return as_language_model(net, seed)


def _windowed(recipe: Recipe, tokenizer: Any, objective: Any) -> RecurrentNet:
    """A causal net that reads rows in windows, so that they may be longer than it."""
    start, seed = recipe.start, recipe.training.seed
    for flag in ("open_heads", "time_conditioning", "causal_first"):
        if getattr(start, flag):
            raise BadInput(f"--{flag.replace('_', '-')} came for a causal net, which never sees a mask: leave it out.")
    if start.init is not None:
        with checkpoint.quiet():
            net = objective.open(locate(start.init), seed=seed)
    else:
        heads, size = start.directional_heads, objective.size
        fresh = encoder.build(start.net, alphabet_of(tokenizer), size, causal=True, directional_heads=heads, seed=seed)
        net = objective.furnish(fresh, seed=seed)
    objective.check_length(recipe.text.length, net.window)
    return net


def _generator(name: str | None, tokenizer: Any, length: int) -> HuggingFaceNet | None:
    """The generator that a flag names, which must read the same ids."""
    if name is None:
        return None
    path = locate(name)
    net = checkpoint.load_net(path, causal=False)
    theirs, ours = load_tokenizer(path).get_vocab(), tokenizer.get_vocab()
    if theirs != ours:
        raise BadInput(
            f"the generator {name} reads another vocabulary ({len(theirs)} tokens) than the discriminator "
            f"({len(ours)}): type --tokenizer {name}, or another --generator."
        )
    if length > net.length:
        raise BadInput(f"--length {length} is beyond the {net.length} that {name} can read: type a smaller one.")
    return net


def corpus_of(recipe: Recipe, found: Path | None) -> Corpus:
    """The text, with the tokenizer of a checkpoint where there is one."""
    text = recipe.text
    init = None if recipe.start.init is None else locate(recipe.start.init)
    tokenizer = str(found) if found is not None else text.tokenizer or init or "bpe:4096"
    unique = "embedded" in text.data if text.unique is None else text.unique
    return prepare(
        text.data,
        valid=text.valid,
        tokenizer=tokenizer,
        length=text.length,
        share=text.held_out,
        seed=recipe.training.seed,
        column=text.column,
        document=text.document,
        unique=unique,
        reverse_complement=text.reverse_complement,
        masked=not getattr(OBJECTIVES.load(recipe.objective), "causal", False),
    )
