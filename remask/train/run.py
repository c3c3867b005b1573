"""A run: objective + net + data + settings + seed, in a directory that can be resumed and read by transformers.

DIR/config.json, model.safetensors, tokenizer files, remask.json    the newest finished weights
DIR/recipe.json                                                     what reproduces the run
DIR/history.jsonl, tensorboard/                                     its curve
DIR/checkpoints/checkpoint-N                                        what --resume goes on from
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

import remask
from remask.core.errors import BadData, BadInput, UnknownName
from remask.core.metric import Estimate
from remask.data.corpus import Corpus, prepare
from remask.data.tokenizers import alphabet as alphabet_of
from remask.nets import encoder
from remask.nets.hf import HuggingFaceNet
from remask.objectives import OBJECTIVES
from remask.train import checkpoint
from remask.train.budget import Budget
from remask.train.directory import claim
from remask.train.evaluate import weigh
from remask.train.history import History
from remask.train.hooks import Average, Clock, Watch
from remask.train.hub import locate
from remask.train.learner import Learner
from remask.train.loader import Loader
from remask.train.settings import Training

CURVE_ROWS = 64  # held-out rows weighed along the way; the final figure uses all of them
FINAL_DRAWS, FINAL_WORK = 8, 4096  # masks per row in the last weighing, fewer where there are many rows


@dataclass(frozen=True)
class Text:
    """What to train on."""

    data: tuple[str, ...] = ("embedded",)
    """Texts: files (.txt, .jsonl, .parquet, plain or .gz), folders, hf:DATASET, or 'embedded' (ships with Python)."""
    valid: tuple[str, ...] = ()
    """Texts to judge by; default: a tenth of the data is held out by document."""
    tokenizer: str | None = None
    """bpe:SIZE, byte, character, or a Hugging Face tokenizer directory; default bpe:4096, or the one of --init."""
    length: int = 128
    """Tokens in a row."""
    column: str = "text"
    """Field of JSONL, Parquet and hub records that holds the text."""
    document: str = "file"
    """What one document of a plain text is: file, paragraph or line."""
    unique: bool | None = None
    """Drop paragraphs that recur before splitting; default: only for 'embedded', a fifth of which is repeats."""
    share: float = 0.1
    """Share of the characters that is held out when there is no --valid."""


@dataclass(frozen=True)
class Start:
    """What to train."""

    net: str = "mini"
    """Size of a fresh net: tiny, mini, small or medium."""
    init: str | None = None
    """Start from this Hugging Face directory, or hf:NAME, instead of a fresh net."""
    directional_heads: bool | None = None
    """Fixed left/right/free attention bias; default on for tiny and mini. Off = a plain ModernBERT checkpoint."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on."""

    objective: str
    training: Training
    text: Text = field(default_factory=Text)
    start: Start = field(default_factory=Start)
    fields: dict[str, Any] = field(default_factory=dict)


class Result(NamedTuple):
    """Where the run is, what it reached, and the text it used."""

    path: Path
    metrics: dict[str, Estimate]
    corpus: Corpus
    net: HuggingFaceNet
    facts: dict[str, Any]


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def rank() -> int:
    """This process's number among those that torchrun started; 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _net(recipe: Recipe, corpus_alphabet: Any, causal: bool) -> HuggingFaceNet:
    start, length = recipe.start, recipe.text.length
    if start.init is None:
        return encoder.build(
            start.net,
            corpus_alphabet,
            length,
            causal=causal,
            directional_heads=start.directional_heads,
            seed=recipe.training.seed,
        )
    net = checkpoint.load_net(locate(start.init), causal=causal)
    if length > net.length:
        raise BadInput(f"--length {length} is beyond the {net.length} that {start.init} can read: type a smaller one.")
    return net


def _corpus(recipe: Recipe, found: Path | None) -> Corpus:
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
        share=text.share,
        seed=recipe.training.seed,
        column=text.column,
        document=text.document,
        unique=unique,
    )


def again(facts: dict[str, Any], run: str | Path) -> Corpus:
    """The text of a finished run, read anew; BadData when it has changed."""
    recipe = facts["recipe"]
    text: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recipe["text"].items()}
    plan = Recipe(
        recipe["objective"], Training(**recipe["training"]), Text(**text), Start(**recipe["start"]), recipe["fields"]
    )
    corpus = _corpus(plan, Path(run))
    _check_text(facts, corpus)
    return corpus


def _facts(recipe: Recipe, corpus: Corpus, alphabet: Any, net: HuggingFaceNet) -> dict[str, Any]:
    import transformers

    return {
        "remask": remask.__version__,
        "objective": {"name": recipe.objective, **recipe.fields},
        "recipe": _plain(recipe),
        "data": {"fingerprint": corpus.fingerprint, **corpus.notes},
        "alphabet": {**alphabet._asdict(), "special": sorted(alphabet.special)},
        "parameters": sum(p.numel() for p in net.parameters()),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda line: None,
    told: Callable[[str, dict[str, Any]], None] = lambda event, what: None,
    command: str = "",
) -> Result:
    """Train, and leave a checkpoint in `out`.

    watch: called after every step with what a progress line shows; told: called at milestones (`corpus`, `resumed`,
    `trained`) with plain data; command: what was typed, for the record.
    Raises the errors of core/errors.py; what was saved before stays whole.
    """
    if recipe.objective not in OBJECTIVES:
        raise UnknownName("objective", recipe.objective, OBJECTIVES)
    objective = OBJECTIVES.load(recipe.objective)(**recipe.fields)
    if recipe.start.net not in encoder.SIZES:
        raise UnknownName("net", recipe.start.net, encoder.SIZES)
    if recipe.start.init is not None:
        checkpoint.read_config(locate(recipe.start.init))
    if recipe.training.minutes is not None and processes() > 1:
        raise BadInput("--minutes came with several processes, whose clocks differ: type --steps N instead.")
    run = Path(out)
    if resume:
        claim(out, _plain(recipe), resume, overwrite)
    found = checkpoint.newest(run) if resume else None
    corpus = _corpus(recipe, found)
    net = _net(recipe, alphabet_of(corpus.tokenizer), objective.causal)
    alphabet = alphabet_of(corpus.tokenizer, net.vocabulary)
    if not resume and rank() == 0:  # only now: a bad text or checkpoint must not cost an old run
        claim(out, _plain(recipe), resume, overwrite)
    facts = {**_facts(recipe, corpus, alphabet, net), "command": command}
    told("corpus", {**facts["data"], "parameters": facts["parameters"]})
    if found is not None:
        _check_same(json.loads((found / checkpoint.FACTS).read_text(encoding="utf-8")), corpus)
        told("resumed", {"from": str(found)})
    return _fit(recipe, run, objective, net, corpus, alphabet, facts, found, watch, told)


def _check_same(facts: dict[str, Any], corpus: Corpus) -> None:
    _check_text(facts, corpus)
    if facts["processes"] != processes():
        raise BadInput(
            f"the run was started with {facts['processes']} processes and now {processes()} came, which would change "
            "the batch: resume with as many, or type --overwrite to start anew."
        )


def _check_text(facts: dict[str, Any], corpus: Corpus) -> None:
    before = facts["data"]["fingerprint"]
    if before != corpus.fingerprint:
        raise BadData(
            f"the text has changed since the run was started (fingerprint {before} then, {corpus.fingerprint} now): "
            "restore it, or start anew with --overwrite."
        )


def _fit(
    recipe: Recipe,
    run: Path,
    objective: Any,
    net: HuggingFaceNet,
    corpus: Corpus,
    alphabet: Any,
    facts: dict[str, Any],
    found: Path | None,
    watch: Watch,
    told: Callable[[str, dict[str, Any]], None],
) -> Result:
    from remask.train.trainer import MaskedTrainer

    settings = recipe.training
    budget = Budget(settings)
    resume_step = int(found.name.rsplit("-", 1)[1]) if found is not None else 0
    history = History(run, resume_step, writes=rank() == 0)
    loader = Loader(
        objective,
        corpus.train,
        alphabet,
        batch=settings.batch,
        accumulate=settings.accumulate,
        seed=settings.seed,
        rank=rank(),
        ranks=processes(),
    )
    average = Average(net, settings.ema) if settings.ema > 0 else None
    few = corpus.valid.select(spread(len(corpus.valid.tokens), CURVE_ROWS))
    clock = Clock(
        budget,
        settings,
        history,
        lambda: weigh(net, alphabet, few, draws=2, seed=settings.seed),
        watch,
        loader.slots * recipe.text.length,
    )
    trainer = MaskedTrainer(
        Learner(objective, net),
        loader,
        budget,
        settings,
        run,
        corpus.tokenizer,
        facts,
        recipe.start.init is None,
        clock.part,
        average,
        [clock] if average is None else [average, clock],
    )
    if found is not None:
        trainer.restore(found)
    if not budget.spent:  # a run may have died after its last step
        try:
            trainer.train(resume_from_checkpoint=None if found is None else str(found))
        finally:
            clock.release()
    told("trained", trainer.record())
    if average is not None:
        average.swap()
    draws = max(1, min(FINAL_DRAWS, FINAL_WORK // len(corpus.valid.tokens)))
    metrics = weigh(net, alphabet, corpus.valid, draws=draws, seed=settings.seed)
    history.bound(budget.step, trainer.record()["tokens"], budget.seconds, metrics)
    facts = {**trainer.record(), "metrics": {name: e.json() for name, e in metrics.items()}}
    if rank() == 0:
        checkpoint.publish(run, net, corpus.tokenizer, facts)
    return Result(run, metrics, corpus, net.eval().cpu(), facts)


def spread(rows: int, wanted: int) -> list[int]:
    """At most `wanted` row numbers, evenly spread."""
    wanted = min(rows, wanted)
    return sorted({round(i * (rows - 1) / max(wanted - 1, 1)) for i in range(wanted)})
