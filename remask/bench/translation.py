"""The race of translators: what each of them writes, and how long it takes, parallel decoding against left to right.

A system is a checkpoint and a way to decode it. Its quality is BLEU and chrF with errors, its faults and its calls (Li
et al. 2024, arXiv 2407.21046, PaDIR; Ghazvininejad et al. 2019, arXiv 1904.09324, CMLM). Speed is told with quality
only, at batch 1 and larger, and against a left-to-right decoder that is fast itself (Kasai et al. 2021, arXiv
2006.10369, on races that were not; `bench/decoding.py` checks ours).

What is timed is what a user waits for: from texts to texts, with tokenizing, batching and the reading of the source, by
the loop that `remask translate` runs (translate/lines.py); loading is not. A round lets every system translate the same
sources once, in an order that moves on by one each round, so that none is always first. Ratios are of times of one
round, so that a machine that slows down slows both sides; the median of the rounds is quoted, with the least and the
most. A first round is not timed. Systems write different texts, so ratios are of sentences, not of tokens.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

from remask.bench.engine import Runner, System, runner
from remask.bench.lists import split, whole
from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.data.pairs import read_pairs
from remask.data.tokenizers import encode
from remask.train.translator import Translator, load_translator
from remask.translate.faults import faults
from remask.translate.lines import Counts, Translation
from remask.translate.scores import Score, Scores, scores
from remask.translate.usual import usual_of

ALL = "all"
JOINED = (2, 3, 4)  # sentences in an input that is joined

# ---- quality ---------------------------------------------------------------------------------------------------------


class Quality(NamedTuple):
    """What a system writes.

    scores: BLEU and chrF; oracle_bleu: of parallel systems that are told the true lengths; calls: decoder calls a line;
    faults: stutters and lengths (translate/faults.py); counts: of the lines; found: the translations.
    """

    scores: Scores
    oracle_bleu: Score | None
    calls: Estimate
    faults: dict[str, Estimate]
    counts: Counts
    found: list[Translation]

    def json(self) -> dict[str, Any]:
        """Without the translations, under the names that `remask translate --json` has for them."""
        bleu, chrf, told = *self.scores, self.oracle_bleu
        return {
            "bleu": bleu.estimate.value,
            "bleu_stderr": bleu.estimate.stderr,
            "bleu_interval": bleu.interval,
            "signature": bleu.signature,
            "chrf": chrf.estimate.value,
            "chrf_stderr": chrf.estimate.stderr,
            "chrf_signature": chrf.signature,
            "oracle_bleu": told and told.estimate.value,
            "oracle_bleu_stderr": told and told.estimate.stderr,
            "calls": self.calls.value,
            "faults": {name: estimate.json() for name, estimate in self.faults.items()},
            **dataclasses.asdict(self.counts),
        }


def quality(
    system: Runner,
    sources: Sequence[str],
    references: Sequence[str],
    *,
    batch: int = 32,
    tokenize: str = "13a",
    oracle: bool = True,
    seed: int = 0,
) -> Quality:
    """Translate and weigh; tokenize: sacrebleu's tokenizer; oracle: parallel systems once more with true lengths.

    Raises BadInput for no pairs, unequal numbers of them or an unknown tokenizer, MissingExtra without sacrebleu.
    """
    if len(sources) != len(references) or not sources:
        raise BadInput(f"{len(sources)} sources came with {len(references)} references: give one for each.")
    scores(["a"], ["a"], tokenize=tokenize)  # what cannot be weighed is told before the work
    truth = [one.ids for one in encode(system.tokenizer, references)]
    lines = system.lines(batch, seed=seed)
    found = list(lines(sources))
    told = None
    if oracle and system.parallel:
        given = system.lines(batch, seed=seed, oracle=[len(ids) for ids in truth])
        told = scores([one.text for one in given(sources)], references, tokenize=tokenize).bleu
    return Quality(
        scores([one.text for one in found], references, tokenize=tokenize),
        told,
        ratio([float(one.calls) for one in found], [1.0] * len(found), "calls"),
        dict(faults([one.tokens for one in found], truth, [one.length for one in found])),
        lines.counts,
        found,
    )


# ---- speed -----------------------------------------------------------------------------------------------------------


class Speed(NamedTuple):
    """How long a system takes for some sources.

    length: of the sources, in tokens, as "11-20"; sentences: of a round; tokens: that it writes in a round, ends
    counted; seconds, ratios: of every round, the baseline's seconds over its own.
    """

    system: str
    baseline: str
    batch: int
    length: str
    sentences: int
    tokens: int
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as fast as the baseline, in the median round."""
        return statistics.median(self.ratios)

    def json(self) -> dict[str, Any]:
        """With rates of the median round."""
        median = statistics.median(self.seconds)
        return {
            "system": self.system,
            "baseline": self.baseline,
            "batch": self.batch,
            "length": self.length,
            "sentences": self.sentences,
            "tokens": self.tokens,
            "sentences_per_second": self.sentences / median,
            "tokens_per_second": self.tokens / median,
            "speed_over_baseline": self.ratio,
            "least": min(self.ratios),
            "most": max(self.ratios),
            "seconds": list(self.seconds),
        }


def speed(
    systems: Sequence[Runner],
    sources: Sequence[str],
    *,
    baseline: str | None = None,
    batches: Sequence[int] = (1, 32),
    rounds: int = 5,
    edges: Sequence[int] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> list[Speed]:
    """Time systems from texts to texts, in rounds (head of this module), for every batch size and length of sources.

    baseline: name of a system, by default the first that goes left to right; edges: (10, 20) times, besides all
    sources, those of 1-10, 11-20 and from 21 tokens on, as the baseline's tokenizer counts, each lot by itself; clock:
    seconds, `time.process_time` where others use the machine.
    Raises BadInput for nothing to do, names that come twice, or a baseline that is not among the systems.
    """
    names = [system.name for system in systems]
    if not systems or not sources or min(*batches, rounds, *edges) < 1:
        raise BadInput(
            "a race came without systems or sources, or with a number below 1: give it one of each at least."
        )
    if len({*names}) < len(names):
        raise BadInput(f"two systems have one name ({', '.join(names)}): give each its own.")
    if baseline is None:
        baseline = next((system.name for system in systems if not system.parallel), None)
    if baseline not in names:
        raise BadInput(f"the race has no baseline: give one system that goes left to right, or one of {names}.")
    lots = {ALL: list(sources), **_by_length(systems[names.index(baseline)].tokenizer, sources, edges)}
    return [
        one
        for batch in batches
        for length, texts in lots.items()
        for one in _timed(systems, texts, names.index(baseline), batch, length, rounds, clock)
    ]


def _timed(
    systems: Sequence[Runner],
    sources: Sequence[str],
    baseline: int,
    batch: int,
    length: str,
    rounds: int,
    clock: Callable[[], float],
) -> Iterator[Speed]:
    """Systems in turns, on one lot of sources."""
    lines = [system.lines(batch) for system in systems]
    tokens = [sum(len(one.tokens) + 1 for one in translate(sources)) for translate in lines]
    seconds: list[list[float]] = [[] for _ in systems]
    for number in range(rounds):
        for turn in range(len(systems)):
            at = (number + turn) % len(systems)
            began = clock()
            for _ in lines[at](sources):
                pass
            seconds[at].append(clock() - began)
    for system, written, mine in zip(systems, tokens, seconds):
        ratios = tuple(theirs / ours for theirs, ours in zip(seconds[baseline], mine))
        facts = len(sources), written, tuple(mine), ratios
        yield Speed(system.name, systems[baseline].name, batch, length, *facts)


def _by_length(tokenizer: Any, sources: Sequence[str], edges: Sequence[int]) -> dict[str, list[str]]:
    """Sources by their number of tokens; lots without a source are left out."""
    lots: dict[str, list[str]] = {}
    if not edges:
        return lots
    counts = [len(one.ids) for one in encode(tokenizer, [text.strip() for text in sources])]
    for low, high in pairwise([0, *sorted(edges), math.inf]):
        name = f"{low + 1}-{'' if high == math.inf else high}"
        found = [text for text, n in zip(sources, counts) if low < n <= high]
        lots |= {name: found} if found else {}
    return lots


def joined(
    sources: Sequence[str], references: Sequence[str], tokenizer: Any, seed: int = 0, low: int = 15, high: int = 60
) -> tuple[list[str], list[str]]:
    """Longer inputs: 2 to 4 sentences with a space between, `low` to `high` tokens, and their references joined alike.

    No sentence comes twice and empty ones never, so there are fewer inputs than sentences; the same seed gives the
    same ones. How many sentences an input wants is drawn, and given up where that is too long or too short.
    """
    if len(sources) != len(references):
        raise BadInput(f"{len(sources)} sources came with {len(references)} references: give one for each.")
    chance, at = Random(seed), 0
    order = [number for number, text in enumerate(sources) if text.strip()]
    chance.shuffle(order)
    made: tuple[list[str], list[str]] = ([], [])
    while at + JOINED[0] <= len(order):
        wish = chance.choice(JOINED)
        for size in sorted(JOINED, key=lambda n: abs(n - wish)):
            chosen = order[at : at + size]
            text = " ".join(sources[number].strip() for number in chosen)
            if len(chosen) == size and low <= len(encode(tokenizer, [text])[0].ids) <= high:
                made[0].append(text)
                made[1].append(" ".join(references[number].strip() for number in chosen))
                at += size
                break
        else:
            at += 1
    return made


# ---- the bench -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Race:
    """Quality and speed of translating nets, against the first of them that goes left to right."""

    nets: tuple[str, ...] = ()
    """Directories of encoder-decoders: runs of cmlm, padir, axe, sundae and seq2seq, or T5s; one goes left to right."""
    data: str = ""
    """Held-out pairs, as a .tsv: all of them are translated and weighed."""
    columns: str = "source,target"
    """What the columns of --data are, in their order in the file."""
    steps: tuple[str, ...] = ("1", "2", "4", "8")
    """Steps of parallel nets; each number is a system."""
    beams: tuple[str, ...] = ("1",)
    """Beams of left-to-right nets, 1 is greedy; each is a system, and the first of the first net is the baseline."""
    engines: tuple[str, ...] = ()
    """Types in which CTranslate2 decodes left-to-right nets too: float32, int8."""
    lengths: int = 1
    """Most probable lengths that parallel nets try side by side."""
    rank: str | None = None
    """What translations of several lengths are compared by: sum, or mean; default: as each net was trained for."""
    remove_stutter: bool = False
    """Delete repeated tokens (nets of padir)."""
    batches: tuple[str, ...] = ("1", "32")
    """Sources at a time."""
    rounds: int = 5
    """Timed rounds; systems take turns within a round."""
    most: int = 200
    """Sources that are timed, spread over --data."""
    joined: bool = False
    """Weigh and time inputs that are joined from 2 to 4 sentences, 15 to 60 tokens long."""
    tokenize: str = "13a"
    """sacrebleu's tokenizer for BLEU."""
    seed: int = 0
    """Of draws, and of what is joined."""
    shown = ("arm", "batch", "calls", "bleu", "bleu_stderr", "chrf", "stutter_rate", "sentences_per_second", "speed")

    def __post_init__(self) -> None:
        if not self.nets:
            raise BadInput("--nets came without a directory: type those of the runs that are to race.")
        if not self.data:
            raise BadInput("--data is missing: type the .tsv of held-out pairs, and its --columns.")
        for name in ("rounds", "most", "lengths"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type 1 or more.")
        for name in ("steps", "beams", "batches"):
            whole(name, getattr(self, name))

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each system and batch size, all of it in JSON, what is `shown` in tables.

        long: sources that were longer than the net reads; speed: over the baseline's, median round, least and most.
        """
        pairs = read_pairs([self.data], self.columns)
        models = {net: load_translator(net) for net in self.nets}
        if not any(model.net.causal for model in models.values()):
            raise BadInput(
                f"none of {', '.join(self.nets)} goes left to right, so there is nothing to be faster than: add a run "
                "of seq2seq, or a T5, to --nets."
            )
        place = "cuda" if torch.cuda.is_available() else "cpu"
        racers = [runner(system, models[net], place) for net in models for system in self._systems(net, models[net])]
        sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
        if self.joined:
            baseline = next(racer for racer in racers if not racer.parallel)
            sources, references = joined(sources, references, baseline.tokenizer, self.seed)
            if not sources:
                raise BadInput(f"no sentences of {self.data} can be joined to 15 to 60 tokens: leave out --joined.")
        weigh = partial(quality, tokenize=self.tokenize, seed=self.seed)
        made = {racer.name: weigh(racer, sources, references) for racer in racers}
        timed = min(self.most, len(sources))
        spread = [sources[number * len(sources) // timed] for number in range(timed)]
        batches = whole("batches", self.batches)
        what = {racer.name: f"{racer.what}; {made[racer.name].scores.bleu.signature}" for racer in racers}
        for one in speed(racers, spread, batches=batches, rounds=self.rounds):
            yield {"arm": one.system, "what": what[one.system], **_record(one, made[one.system])}

    def _systems(self, net: str, model: Translator) -> Iterator[System]:
        """The systems of a net."""
        twice = [Path(other).name for other in self.nets].count(Path(net).name) > 1
        name = net if twice else Path(net).name
        if model.net.causal:
            for beam in whole("beams", self.beams):
                yield System(f"{name} {'greedy' if beam == 1 else f'beam {beam}'}", net, beam=beam)
            for compute in split(self.engines):
                yield System(f"{name} CTranslate2 {compute}", net, compute=compute)
            return
        padir = usual_of(model.facts.get("objective", {}))[0] == "padir"
        rest = {"remove_stutter": self.remove_stutter} if padir else {}
        lengths = {"lengths": self.lengths, **({"rank": self.rank} if self.rank else {})}
        for steps in whole("steps", self.steps):
            yield System(f"{name} {steps}", net, fields={"steps": steps, **rest}, lengths=lengths)


FAULTS = ("length_exact", "length_within_1", "length_error", "stutter_rate", "reference_stutter_rate")


def _record(one: Speed, made: Quality) -> dict[str, Any]:
    """The numbers of a system at a batch size, rounded."""
    weighed, timed = made.json(), one.json()
    numbers = {
        "batch": one.batch,
        **{name: weighed[name] for name in ("calls", "bleu", "bleu_stderr", "chrf", "chrf_stderr", "oracle_bleu")},
        **{name: made.faults[name].value for name in FAULTS},
        "long": made.counts.long,
        **{name: timed[name] for name in ("sentences_per_second", "tokens_per_second")},
        "speed": timed["speed_over_baseline"],
        **{name: timed[name] for name in ("least", "most")},
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in numbers.items()}
