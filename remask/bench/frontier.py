"""The speed-quality frontier: every sampler at every budget against left-to-right decoding with its cache, in one run.

For each of them: network calls, seconds for 1,000 tokens at several batch sizes, and quality: cross-entropy under the
law that the nets were trained on, which is exact, or perplexity under a held-out scorer; always with the unigram
entropy beside it, and the loss at matched entropy against the baseline and against the net's own exact sampler, since
either number alone is gameable (Zheng et al. 2024, arXiv 2409.02908). What is timed is what `remask sample` runs, from
nothing to tokens; loading is not. Shapes: none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from remask.bench import frontier_plot
from remask.bench.frontier_field import Field, open_field, text_tokens
from remask.bench.frontier_quality import LAWS, ByLaw, ByScorer, Judge
from remask.bench.frontier_survey import Settings, Survey
from remask.bench.frontier_systems import BLOCK_CACHES, BUDGETS, CACHES, INNERS, Plan
from remask.bench.infilling import held_out_rows, infilling
from remask.bench.lists import positive, shares, split, whole
from remask.core.errors import BadInput, UnknownName
from remask.train.checkpoint import load, read_facts
from remask.train.hub import locate


@dataclass(frozen=True)
class Frontier:
    """What parallel samplers write and how long they take, against left to right with its cache."""

    checkpoints: tuple[str, ...] = ()
    """Masked nets, and nets of blocks: directories, or hf:NAME."""
    baseline: str = ""
    """A left-to-right net with the same tokenizer, best of the same trunk and training."""
    law: int | None = None
    """Seed of the hidden Markov language on whose samples all were trained: quality is exact then."""
    scorer: str = ""
    """A left-to-right net that was trained on other text: quality is perplexity under it."""
    data: tuple[str, ...] = ()
    """Held-out text, for a row of what real text scores, and for --infill without --law."""
    lengths: tuple[str, ...] = ("128",)
    """Tokens of a text."""
    batches: tuple[str, ...] = ("1", "16")
    """Texts that are written together when timed."""
    samplers: tuple[str, ...] = ("first_hitting", "ancestral", "confidence", "entropy_bound", "blocks")
    """Samplers of plain masked nets; nets of blocks are always filled in blocks."""
    budgets: tuple[str, ...] = ("1/16", "1/8", "1/4", "1/2", "1")
    """Steps of ancestral, confidence and blocks, as shares of the length (of a block)."""
    gammas: tuple[str, ...] = ("0.1", "0.5", "2")
    """Nats that a step of entropy_bound may ignore."""
    steps_per_block: tuple[str, ...] = ("1", "2", "4", "8")
    """Steps for a block in nets of blocks."""
    caches: tuple[str, ...] = ("none", "dual")
    """Caches for blocks of plain masked nets: none, prefix, dual (approximate)."""
    block_caches: tuple[str, ...] = ("exact", "none")
    """Whether nets of blocks keep states: exact, none (slow, and the same texts)."""
    inners: tuple[str, ...] = ("ancestral", "confidence")
    """What fills the blocks of nets of blocks."""
    temperatures: tuple[str, ...] = ("1.1", "1", "0.9", "0.8", "0.7")
    """Temperatures of the baseline, between which its quality is interpolated at the entropy of others."""
    exact_temperatures: tuple[str, ...] = ("1.1", "1", "0.9")
    """Temperatures of exact samplers (one cell a call), for the same purpose."""
    parallel_temperatures: tuple[str, ...] = ("1",)
    """Temperatures of all other samplers."""
    texts: int = 64
    """Texts that are weighed."""
    rounds: int = 5
    """Timed rounds; a system and the baseline take turns within a round."""
    patience: float = 60.0
    """Seconds that the rounds of a system may take before no other one begins; how many there were is in its row."""
    infill: bool = False
    """Fill the middle of held-out rows too: exact matches and log p of spans."""
    spans: tuple[str, ...] = ("4", "16")
    """With --infill: tokens of a span."""
    plot: str = "frontier.png"
    """Where to draw loss at matched entropy against time, a .png or .svg; '' for no plot."""
    seed: int = 0
    """Of the draws."""
    shown = (
        *("arm", "what", "budget", "temperature", "length", "batch", "calls", "seconds", "ratio", "quality", "entropy"),
        *("loss", "loss_over_exact"),
    )

    def __post_init__(self) -> None:
        if not self.checkpoints or not self.baseline:
            raise BadInput(
                "a frontier came without a checkpoint or without --baseline: type CHECKPOINT... --baseline AR."
            )
        if (self.law is None) == (not self.scorer):
            raise BadInput(
                "quality needs one judge: type --law SEED where the checkpoints were trained on samples of the hidden "
                "language of that seed, or --scorer DIR, a left-to-right net that was trained on other text."
            )
        for name, least in (("texts", 2), ("rounds", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type {least} or more.")
        for name, kind, table in (
            ("samplers", "sampler", BUDGETS),
            ("inners", "sampler", INNERS),
            ("caches", "cache", dict.fromkeys(CACHES)),
            ("block_caches", "cache", dict.fromkeys(BLOCK_CACHES)),
        ):
            for one in split(getattr(self, name)):
                if one not in table:
                    raise UnknownName(kind, one, table)
        if self.infill and self.law is None and not self.data:
            raise BadInput("--infill came without held-out text: type --data F, or --law SEED.")
        self.settings()
        for name in ("lengths", "spans"):
            whole(name, getattr(self, name))

    def settings(self) -> Settings:
        """What is tried, weighed and timed; BadInput for values that are no numbers."""
        plan = Plan(
            split(self.samplers),
            shares("budgets", self.budgets),
            positive("gammas", self.gammas, least=0.0),
            whole("steps_per_block", self.steps_per_block),
            split(self.inners),
            positive("exact_temperatures", self.exact_temperatures),
            positive("parallel_temperatures", self.parallel_temperatures),
            split(self.caches),
            split(self.block_caches),
        )
        warm, batches = positive("temperatures", self.temperatures), whole("batches", self.batches)
        return Settings(plan, warm, batches, self.texts, self.rounds, self.patience, self.seed)

    def remarks(self) -> Iterator[str]:
        """What the reader should know before: a scorer that has read what the nets learned to write."""
        if not self.scorer:
            return
        mine = _fingerprint(self.scorer)
        for path in (*self.checkpoints, self.baseline):
            if mine is not None and _fingerprint(path) == mine:
                yield (
                    f"the scorer {self.scorer} was trained on the text of {path} (fingerprint {mine}): it may like "
                    "what it has read itself, so take one that was trained on other text."
                )

    def rows(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[dict[str, Any]]:
        """One record for each system, budget, length and batch, and one for perfect texts of each length.

        Quality does not depend on the batch and is weighed once. `what`, `sampler`, `budget` and its `unit` say what
        was done; seconds are for 1,000 tokens, ratio is the baseline's time over the row's (median round, least, most);
        `quality` repeats true_cross_entropy or generative_perplexity. loss: of that number against the baseline's at
        the same entropy, None where it reaches no such entropy; loss_over_exact, calls_over_exact: against the net's
        own exact sampler. Rows of infilling have the `kind` infill. clock: `time.process_time` on a shared machine.
        """
        path = frontier_plot.check(self.plot) if self.plot else None
        lengths = whole("lengths", self.lengths)
        field = open_field(self.checkpoints, self.baseline, lengths)
        rows = self._held_out(field, max(lengths))
        survey = Survey(self.settings(), field, self._judge(field, lengths, rows), clock)
        made = []
        for length in lengths:
            for row in survey.rows(length):
                made.append(row)
                yield row
        if path is not None:
            frontier_plot.draw(made, path)
        if self.infill:
            truth = None if self.law is None else LAWS.load("language")(self.law)
            for length in lengths:
                part = None if rows is None else rows[:, :length]
                yield from infilling(
                    field, length, whole("spans", self.spans), texts=self.texts, seed=self.seed, truth=truth, rows=part
                )

    def _held_out(self, field: Field, length: int) -> Tensor | None:
        """Rows of --data, [R, L]; None without."""
        if not self.data:
            return None
        model = next(iter(field.models.values()))
        return held_out_rows(self.data, model.tokenizer, model.alphabet, length)

    def _judge(self, field: Field, lengths: Sequence[int], held_out: Tensor | None) -> Judge:
        if self.law is not None:
            return ByLaw(LAWS.load("language")(self.law), next(iter(field.models.values())).alphabet)
        scorer = load(self.scorer)
        if not scorer.net.causal:
            raise BadInput(f"{self.scorer} is no left-to-right net, so it weighs no text: type another --scorer.")
        if text_tokens(scorer) != text_tokens(field.baseline):
            raise BadInput(
                f"{self.scorer} has other tokens than the checkpoints: type a --scorer with their tokenizer."
            )
        if max(lengths) > scorer.length:
            raise BadInput(f"--lengths came with {max(lengths)}, but {self.scorer} reads {scorer.length}: type those.")
        scorer.net.to(field.device)
        return ByScorer(scorer, held_out)


def _fingerprint(path: str) -> str | None:
    """Of the text that a checkpoint was trained on, where it says."""
    data = read_facts(Path(locate(path))).get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None
