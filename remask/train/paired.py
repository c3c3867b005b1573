"""Pairs of sources and targets as the material of a run: encoder-decoders, parallel or left to right.

Shapes: B batch, S source length, L target length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.metric import Estimate, ratio
from remask.core.objective import Batch, Objective
from remask.core.stream import Stream
from remask.data.buckets import Buckets
from remask.data.parallel import Pairs, ParallelCorpus, prepare_pairs
from remask.data.tokenizers import alphabet as alphabet_of
from remask.nets import crossed_parallel, encoder_decoder
from remask.nets.crossed import CrossedNet
from remask.nets.t5 import T5Net, parallel
from remask.nets.trunk import CAUSAL
from remask.train.hub import locate
from remask.train.loader import Loader, Part
from remask.train.recipe import OF_PAIRS, OF_TEXT, Recipe, Text
from remask.train.texts import spread
from remask.train.translator import CROSSED, LEFT_TO_RIGHT, PARALLEL, cloned, open_encoder_decoder, with_mask
from remask.translate.weigh import weigh_translations

CURVE_PAIRS = 256  # held-out pairs weighed along the way; the final figure uses all of them
GROUP = 32  # pairs weighed together
Net = Any


class PairLoader(Loader):
    """Questions about pairs of like lengths: the loader of text, but for the rows of a step."""

    def __init__(self, objective: Objective, pairs: Pairs, alphabet: Alphabet, **settings: Any):
        self.pairs, self.alphabet, self.objective = pairs, alphabet, objective
        self.batch, self.accumulate, self.seed = settings["batch"], settings["accumulate"], settings["seed"]
        self.rank, self.ranks, self.progress = settings["rank"], settings["ranks"], settings["progress"]
        self.buckets = Buckets(pairs, self.slots, self.seed)

    @property
    def tokens_per_step(self) -> float:
        """Target tokens that a step learns from, in the mean."""
        return self.slots * (float(self.pairs.target_lengths.double().mean()) + 1)

    def step(self, number: int) -> list[Part]:
        """The parts of optimizer step `number` that belong to this rank."""
        batch = batch_of(self.pairs, self.buckets.take(number), self.alphabet)
        batch = batch._replace(progress=min(self.progress(number), 1.0))
        stream = Stream.of(self.seed, batch.slot).child(number)
        return self._cut(self.objective.corrupt(batch, stream), stream)


def batch_of(pairs: Pairs, index: Tensor, alphabet: Alphabet, device: torch.device | str = "cpu") -> Batch:
    """The pairs of `index` [B] as a global batch."""
    source, target = pairs.rows(index, alphabet)
    return Batch.of(target.to(device), alphabet, source=source.to(device))


class PairMaterial:
    """Pairs of texts; see train/material.py."""

    def __init__(self, recipe: Recipe, found: Path | None):
        self.recipe = recipe
        self.corpus = corpus_of_pairs(recipe, found)

    def net(self, objective: Any) -> Net:
        """A fresh encoder-decoder, or one made of what --init names."""
        start = self.recipe.start
        factor = getattr(objective, "length_factor", 1.0)
        longest = round((self.recipe.text.length - 1) * factor)
        parts, length_kind, dropout = start.of_pairs
        if start.open_heads or start.causal_first or start.time_conditioning:
            raise BadInput(
                "--open-heads, --causal-first or --time-conditioning came for an encoder-decoder, which has none of "
                "them: leave it out."
            )
        alphabet = alphabet_of(self.corpus.tokenizer)
        seed = self.recipe.training.seed
        if start.init is None:
            return encoder_decoder.build(
                start.net,
                alphabet,
                longest,
                causal=objective.causal,
                length_kind=length_kind,
                dropout=dropout,
                seed=seed,
            )
        net = open_encoder_decoder(locate(start.init))
        if net is None:
            return cloned(locate(start.init), parts, longest, length_kind, seed, causal=objective.causal)
        if objective.causal and not net.causal:
            raise BadCheckpoint(f"{start.init} is a parallel decoder, which cannot go left to right: type another.")
        if net.causal and not objective.causal:
            if isinstance(net, CrossedNet):
                return crossed_parallel.parallel(net, alphabet.mask, longest, length_kind)
            with torch.random.fork_rng(devices=[]):
                return T5Net(parallel(net.model, longest, length_kind))
        if longest + 1 > net.length:
            raise BadInput(_beyond(self.recipe.text.length, factor, longest + 1, net.length, start.init))
        return net

    def ask(self, objective: Any, alphabet: Any) -> None:
        """Ask about one pair."""
        batch = batch_of(self.corpus.train, torch.tensor([0]), alphabet)
        objective.corrupt(batch, Stream.of(0, batch.slot))

    def loader(
        self, objective: Any, alphabet: Any, rank: int, ranks: int, progress: Callable[[int], float]
    ) -> PairLoader:
        """Questions for training."""
        settings = self.recipe.training
        return PairLoader(
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
        """The objective's own terms, how many lengths are right, and, with sacrebleu at hand, BLEU and chrF."""
        corpus, seed = self.corpus, self.recipe.training.seed
        chosen = list(range(len(corpus.valid))) if final else spread(len(corpus.valid), CURVE_PAIRS)
        pairs = corpus.valid.select(chosen)
        found = weigh_pairs(objective, net, alphabet, pairs, seed=seed)
        if find_spec("sacrebleu") is None:
            return found
        references = [corpus.held[k].target for k in chosen]
        taught = {"name": self.recipe.objective, **self.recipe.fields}
        longest = self.recipe.text.length
        return found | weigh_translations(
            net, corpus.tokenizer, alphabet, pairs, references, taught, longest=longest, seed=seed
        )


def _beyond(length: int, factor: float, cells: int, room: int, init: str) -> str:
    """What is said where the longest canvas, with its end, does not fit a net that is there already."""
    most = max(n for n in range(1, room + 1) if round((n - 1) * factor) < room)
    came = f"--length came as {length}"
    if factor != 1:
        came += f" and --length-factor as {factor:g}, which is a canvas of {cells} cells with its end"
    return f"{came}, beyond the {room} of {init}: type --length {most} or less."


def check_flags(recipe: Recipe, objective: Any, config: Mapping[str, Any] | None) -> None:
    """Raise BadInput for a flag that was typed and that nobody would read; config: of what --init names, if it came."""
    start, name = recipe.start, recipe.objective
    family = config["model_type"] if config else None
    opened = family in (PARALLEL, CROSSED)
    writer = config is not None and (config.get("decoder") or {}).get("model_type") in CAUSAL
    init = f"with --init {start.init}"
    unread: list[tuple[str, bool, str]] = [
        ("init_parts", family is None, "without --init: type --init DIR, a masked language model, or leave it out"),
        ("init_parts", opened or family in LEFT_TO_RIGHT, f"{init}, which begins both parts anyway: leave it out"),
        ("length_head", objective.causal, f"for {name}, which goes left to right and asks for no length: leave it out"),
        ("length_head", opened and not writer, f"{init}, which has a length head already: leave it out"),
        ("dropout", family is not None, f"{init}, whose config says its own: leave it out"),
        ("directional_heads", True, f"for {name}, whose encoder-decoder has no such heads: leave it out"),
    ]
    if getattr(objective, "pairs", False):
        for of_text in dataclasses.fields(Text):
            if of_text.name in OF_TEXT and getattr(recipe.text, of_text.name) != of_text.default:
                flag = of_text.name.replace("_", "-")
                raise BadInput(f"--{flag} came for {name}, which learns from pairs and reads no text: leave it out.")
    else:
        unread = [(field, True, f"for {name}, and is for encoder-decoders: leave it out") for field in OF_PAIRS]
    for field, nobody, reason in unread:
        came = getattr(start, field)
        if nobody and came is not None:
            flag = ("no_" if came is False else "") + field
            raise BadInput(f"--{flag.replace('_', '-')} came {reason}.")


@torch.inference_mode()
def weigh_pairs(objective: Any, net: Net, alphabet: Alphabet, pairs: Pairs, *, seed: int) -> dict[str, Estimate]:
    """Every term of the loss in nats per scored token (or length), errors over groups of pairs; and length accuracy.

    The noise depends on `seed` and the pair's number only.
    """
    training, device = net.training, next(net.parameters()).device
    net.eval()
    totals: dict[str, list[float]] = {}
    counts: dict[str, list[float]] = {}
    hits: list[float] = []
    try:
        for index in torch.arange(len(pairs)).split(GROUP):
            batch = batch_of(pairs, index, alphabet, device)
            question = objective.corrupt(batch, Stream.of(seed, index.to(device)))
            for term in objective(net, question, Stream.of(seed, index.to(device))).terms:
                totals.setdefault(term.name, []).append(float(term.total))
                counts.setdefault(term.name, []).append(float(term.count))
            if not net.causal:
                assert batch.source is not None
                reading = net.read(batch.source, batch.source != alphabet.pad)
                guess = reading.length_log_prob().argmax(1).cpu() + 1
                hits += (guess == pairs.target_lengths[index]).double().tolist()
    finally:
        net.train(training)
    found = {f"{name}_nats": ratio(totals[name], counts[name], "nats/token") for name in totals}
    return {**found, "length_accuracy": ratio(hits, [1.0] * len(hits), "share")} if hits else found


def corpus_of_pairs(recipe: Recipe, found: Path | None) -> ParallelCorpus:
    """The pairs, with the tokenizer of a checkpoint where there is one."""
    text, init = recipe.text, None if recipe.start.init is None else locate(recipe.start.init)
    name = str(found) if found is not None else text.tokenizer or init or "bpe:8192"
    return prepare_pairs(
        text.pairs,
        valid=text.valid,
        columns=text.columns,
        tokenizer=with_mask(name),
        length=text.length,
        unique=bool(text.unique),
        share=text.held_out,
        seed=recipe.training.seed,
    )
