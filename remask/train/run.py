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
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import remask
from remask.core.errors import BadData, BadInput, UnknownName
from remask.core.metric import Estimate
from remask.data.corpus import Corpus
from remask.data.tokenizers import alphabet as alphabet_of
from remask.nets import encoder
from remask.objectives import OBJECTIVES
from remask.objectives.causal_first import CausalFirst
from remask.train import checkpoint
from remask.train.budget import Budget
from remask.train.directory import claim
from remask.train.history import History
from remask.train.hooks import Average, Clock, Opening, Turn, Watch
from remask.train.hub import locate
from remask.train.learner import Learner
from remask.train.material import Material, gather
from remask.train.paired import check_flags
from remask.train.recipe import Recipe, Start, Text
from remask.train.settings import Training
from remask.train.stages import has_read, opened_at, reading_share, with_low_rates
from remask.train.texts import corpus_of


class Result(NamedTuple):
    """Where the run is, what it reached, and the text it used."""

    path: Path
    metrics: dict[str, Estimate]
    corpus: Any
    net: Any
    facts: dict[str, Any]


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def rank() -> int:
    """This process's number among those that torchrun started; 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def again(facts: dict[str, Any], run: str | Path) -> Corpus:
    """The text of a finished run, read anew; BadData when it has changed."""
    recipe = facts["recipe"]
    text: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recipe["text"].items()}
    plan = Recipe(
        recipe["objective"], Training(**recipe["training"]), Text(**text), Start(**recipe["start"]), recipe["fields"]
    )
    corpus = corpus_of(plan, Path(run))
    _check_text(facts, corpus)
    return corpus


def _facts(recipe: Recipe, corpus: Any, alphabet: Any, net: Any) -> dict[str, Any]:
    import transformers

    return {
        "remask": remask.__version__,
        "objective": {"name": recipe.objective, **recipe.fields},
        "recipe": _plain(recipe),
        "data": {"fingerprint": corpus.fingerprint, **corpus.notes},
        "alphabet": {**alphabet._replace(continues=())._asdict(), "special": sorted(alphabet.special)},
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

    watch: called after every step with what a progress line shows; told: called at milestones (`corpus`, `remark`,
    `resumed`, `trained`) with plain data; command: what was typed, for the record.
    Raises the errors of core/errors.py; what was saved before stays whole.
    """
    if recipe.objective not in OBJECTIVES:
        raise UnknownName("objective", recipe.objective, OBJECTIVES)
    if recipe.start.net not in encoder.SIZES:
        raise UnknownName("net", recipe.start.net, encoder.SIZES)
    objective = with_low_rates(recipe.start, OBJECTIVES.load(recipe.objective)(**recipe.fields))
    recipe = replace(recipe, fields={f.name: getattr(objective, f.name) for f in fields(objective)})
    config = None if recipe.start.init is None else checkpoint.read_config(locate(recipe.start.init))
    if not resume:  # what an older remask let pass must not end its runs
        check_flags(recipe, objective, config)
    settled = replace(recipe.start.settled, causal_first=reading_share(recipe.start, objective))
    recipe = replace(recipe, start=settled)
    if recipe.training.ema > 0 and getattr(objective, "two_stage", False):
        raise BadInput("--ema came with --two-stage, whose copy an average would not follow: type one of them.")
    if recipe.training.minutes is not None and processes() > 1:
        raise BadInput("--minutes came with several processes, whose clocks differ: type --steps N instead.")
    run = Path(out)
    if resume:
        claim(out, _plain(recipe), resume, overwrite)
    found = checkpoint.newest(run) if resume else None
    material = gather(recipe, objective, found)
    corpus, net = material.corpus, material.net(objective)
    alphabet = alphabet_of(corpus.tokenizer, net.vocabulary, masked=not getattr(objective, "causal", False))
    material.ask(objective, alphabet)
    if not resume and rank() == 0:  # only now: a bad text or checkpoint must not cost an old run
        claim(out, _plain(recipe), resume, overwrite)
    facts = {**_facts(recipe, corpus, alphabet, net), "command": command}
    told("corpus", {**facts["data"], "parameters": facts["parameters"]})
    for remark in (*getattr(objective, "remarks", ()), *_remarks(recipe, objective)):
        told("remark", {"text": remark})
    if found is not None:
        before = json.loads((found / checkpoint.FACTS).read_text(encoding="utf-8"))
        _check_same(before, corpus)
        told("resumed", {"from": str(found)})
        if has_read(before):  # and will not again, even if more --steps came
            recipe = replace(recipe, start=replace(recipe.start, causal_first=0.0))
            facts = {**facts, "recipe": _plain(recipe)}
    return _fit(recipe, run, objective, net, material, alphabet, facts, found, watch, told)


def _remarks(recipe: Recipe, objective: Any) -> tuple[str, ...]:
    """What whoever trains a small net should know."""
    start = recipe.start
    if start.causal_first:
        return (
            f"the first {100 * start.causal_first:.0f} % of the training reads left to right, which small nets profit "
            "from; until then the held-out bound means little (type --causal-first 0 for none of it).",
        )
    if objective.writes or start.init is not None or start.directional_heads is not None or start.open_heads:
        return ()
    if not encoder.SIZES[start.net].directional:
        return ()
    return (
        f"a {start.net} net learns much faster with --directional-heads, and with --open-heads transformers alone can "
        "open it all the same; it was left plain (type --no-directional-heads to say so).",
    )


def _check_same(facts: dict[str, Any], corpus: Any) -> None:
    _check_text(facts, corpus)
    if facts["processes"] != processes():
        raise BadInput(
            f"the run was started with {facts['processes']} processes and now {processes()} came, which would change "
            "the batch: resume with as many, or type --overwrite to start anew."
        )


def _check_text(facts: dict[str, Any], corpus: Any) -> None:
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
    net: Any,
    material: Material,
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
    assert recipe.start.causal_first is not None
    taught = CausalFirst(objective, recipe.start.causal_first) if recipe.start.causal_first else objective
    loader = material.loader(
        taught,
        alphabet,
        rank(),
        processes(),
        lambda step: budget.progress if settings.steps is None else step / settings.steps,
    )
    corpus = material.corpus
    average = Average(net, settings.ema) if settings.ema > 0 else None
    clock = Clock(
        budget,
        settings,
        history,
        lambda: material.judge(objective, net, alphabet, final=False),
        watch,
        loader.tokens_per_step,
    )
    turns: list[Any] = [Turn(objective.turn, net, budget)] if hasattr(objective, "turn") else []
    opening = Opening(net, budget, *recipe.start.opening)
    if recipe.start.open_heads:
        turns.append(opening)
        opening.floor = 0.0 if found is None else opened_at(found)
    trainer = MaskedTrainer(
        Learner(taught, net),
        loader,
        budget,
        settings,
        run,
        corpus.tokenizer,
        facts,
        recipe.start.init is None,
        clock.part,
        average,
        [*turns, *([] if average is None else [average]), clock],
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
    if recipe.start.open_heads:
        opening.turn(budget.progress)
    metrics = material.judge(objective, net, alphabet, final=True)
    history.bound(budget.step, trainer.record()["tokens"], budget.seconds, metrics)
    facts = {**trainer.record(), "metrics": {name: e.json() for name, e in metrics.items()}}
    if rank() == 0:
        checkpoint.publish(run, net, corpus.tokenizer, facts)
    trainer.accelerator.wait_for_everyone()  # whoever opens the directory next finds it whole
    return Result(run, metrics, corpus, net.eval().cpu(), facts)
