"""Fine-tuning: a pretrained trunk, a fresh head, labelled texts; several seeds, the best of them kept.

DIR/config.json, model.safetensors, tokenizer files    a classifier that transformers' pipeline opens
DIR/remask.json, recipe.json                           what was done, and what every seed reached
One run's figure depends on its seed by points of accuracy (Dodge et al. 2020, arXiv 2002.06305), so what is reported is
the median over seeds with the least and the largest. Weights are chosen by valid, within a run and among the runs, so
the kept model's own figure on valid flatters it; a test file is used for nothing but the last weighing.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

import remask
from remask.core.errors import BadData, BadInput, UnknownName
from remask.core.metric import Estimate
from remask.data.labelled import TASKS, Labelled, check_seen, class_names, read_labelled
from remask.metrics.agreement import classification, regression
from remask.train import classifier, finetune_directory
from remask.train import finetune_loop as loop
from remask.train.finetuning import FineTuning
from remask.train.hooks import Watch
from remask.train.hub import locate

SHOWN = {"classify": ("accuracy", "macro_f1"), "pairs": ("accuracy", "macro_f1"), "regress": ("pearson", "spearman")}
"""The metrics of a task; the first one chooses."""


class Run(NamedTuple):
    """What one seed reached: metrics on valid and test, when its best weights were met, and its curve."""

    seed: int
    valid: dict[str, Estimate]
    test: dict[str, Estimate]
    step: int
    seconds: float
    curve: list[dict[str, float]]


class Judged(NamedTuple):
    """The kept model's predictions: scores [R, C] (probabilities, or [R, 1] numbers), truth [R], the rows' texts."""

    scores: Tensor
    truth: Tensor
    labelled: Labelled


class Result(NamedTuple):
    """A fine-tuning.

    path: where the model is (None when nothing was to be written); runs: one a seed; kept: the seed whose model is
    kept; classes: names by id, None when regressing; valid, test: what the kept model says; facts: of remask.json.
    """

    path: Path | None
    task: str
    runs: tuple[Run, ...]
    kept: int
    classes: list[str] | None
    valid: Judged
    test: Judged | None
    facts: dict[str, Any]

    def summary(self, part: str = "valid") -> dict[str, dict[str, float | int]]:
        """Median, least and largest over seeds of each metric, on `valid` or `test`; n = seeds."""
        return spread([run.valid if part == "valid" else run.test for run in self.runs], SHOWN[self.task])


class _Task(NamedTuple):
    """Labels as targets, and what logits are worth."""

    name: str
    classes: list[str] | None
    shift: float
    scale: float

    def targets(self, labelled: Labelled) -> Tensor:
        """Class ids, or numbers in units of the training labels' spread."""
        if self.classes is None:
            return ((torch.tensor(labelled.labels, dtype=torch.float64) - self.shift) / self.scale).float()
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number[label] for label in labelled.labels])

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities, or numbers in the labels' own units."""
        return logits.double() * self.scale + self.shift if self.classes is None else logits.double().softmax(1)

    def weigh(self, logits: Tensor, targets: Tensor) -> dict[str, Estimate]:
        """The metrics of the task."""
        if self.classes is None:
            return dict(regression(logits[:, 0], targets))
        return dict(classification(logits.double().softmax(1), targets))

    def loss(self, logits: Tensor, targets: Tensor) -> float:
        """Mean loss of logits; breaks ties between weights of equal accuracy."""
        functional = torch.nn.functional
        if self.classes is None:
            return float(functional.mse_loss(logits[:, 0], targets))
        return float(functional.cross_entropy(logits, targets))


def spread(found: Sequence[Mapping[str, Estimate]], names: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Median, min and max of each metric over runs; a value that is not finite makes all three nan."""
    table: dict[str, dict[str, float | int]] = {}
    for name in names:
        values = [run[name].value for run in found]
        if not all(map(math.isfinite, values)):
            values = [math.nan]
        table[name] = {"median": median(values), "min": min(values), "max": max(values), "n": len(found)}
    return table


def finetune(
    model: str | Path,
    train: Labelled | str | Path,
    valid: Labelled | str | Path,
    *,
    test: Labelled | str | Path | None = None,
    task: str = "classify",
    columns: str | None = None,
    settings: FineTuning | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    watch: Watch = lambda line: None,
    told: Callable[[str, dict[str, Any]], None] = lambda event, what: None,
    further: Callable[[Result, Path], None] = lambda result, path: None,
    command: str = "",
) -> Result:
    """Fine-tune a pretrained encoder on labelled texts, once for each seed; the best model by valid goes to `out`.

    model: a Hugging Face directory or hf:NAME; train, valid, test: files (see data/labelled.py, `columns` too), or
    `Labelled` in memory; out: None leaves nothing behind; watch: called after every step; told: called at milestones
    (`data`, `seed`) with plain data; further: writes more files into the staged directory before it is published.
    Raises the errors of core/errors.py; whatever happens, there is a whole model in `out` or what was there before.
    """
    from remask.train.run import processes

    settings = settings or FineTuning()
    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    if processes() > 1:
        raise BadInput("remask finetune runs in one process, and torchrun started several: type it without torchrun.")
    if out is not None:
        finetune_directory.check_free(out, overwrite)
    parts = {"train": train, "valid": valid, **({} if test is None else {"test": test})}
    data = {name: _given(part, columns, task, name) for name, part in parts.items()}
    job = _task(task, data)
    source = classifier.read(locate(model))
    length = classifier.row_length(source, settings.length)
    tokenizer = classifier.prepare_tokenizer(source, length, data["train"].pairs is not None)
    rows = {name: loop.encode(tokenizer, part, job.targets(part)) for name, part in data.items()}
    settings = replace(settings, length=length, learning_rate=settings.rate(source.ours), layer_decay=settings.decay)
    facts = _facts(model, job, data, rows, settings, command)
    told("data", facts["data"])
    if out is None:
        with tempfile.TemporaryDirectory(prefix="remask-") as scratch:
            return _run(job, source, tokenizer, data, rows, settings, facts, scratch, watch, told)[0]
    path = Path(out)
    with finetune_directory.staging(path) as staged:
        result, best = _run(job, source, tokenizer, data, rows, settings, facts, str(staged), watch, told)
        result = result._replace(path=path)
        recipe = {**facts["recipe"], "command": command}
        finetune_directory.publish(
            staged, path, best, tokenizer, recipe, result.facts, lambda folder: further(result, folder)
        )
    return result


def _given(part: Labelled | str | Path, columns: str | None, task: str, name: str) -> Labelled:
    """Labelled texts, read where a file is named."""
    if not isinstance(part, Labelled):
        return read_labelled(part, columns, task)
    counts = {len(part.texts), len(part.labels), len(part.texts if part.pairs is None else part.pairs)}
    if len(counts) > 1 or not part.texts:
        raise BadData(f"{name} has {len(part.texts)} texts and {len(part.labels)} labels; wanted is one of each a row.")
    if (part.pairs is None) == (task == "pairs") and task != "regress":
        raise BadInput(f"{name} has {'one text' if part.pairs is None else 'two texts'} a row: mend the task '{task}'.")
    return part if part.name != Labelled([], None, []).name else part._replace(name=name)


def _task(task: str, data: Mapping[str, Labelled]) -> _Task:
    """What the labels ask for; BadData where they cannot be learned."""
    train = data["train"]
    if task != "regress":
        classes = class_names(train)
        for part in data.values():
            check_seen(part, classes)
        return _Task(task, classes, 0.0, 1.0)
    for part in data.values():
        if len(set(part.labels)) < 2:
            raise BadData(
                f"{part.name} has the same label ({part.labels[0]:g}) in all {len(part.labels)} rows, with which "
                "nothing can correlate; check which column is the label and type --columns."
            )
        if (part.pairs is None) != (train.pairs is None):
            raise BadData(f"{part.name} and {train.name} differ: one has a text_pair and the other has none.")
    labels = torch.tensor(train.labels, dtype=torch.float64)
    return _Task(task, None, float(labels.mean()), float(labels.std(correction=0)))


def _facts(
    model: str | Path,
    job: _Task,
    data: Mapping[str, Labelled],
    rows: Mapping[str, loop.Rows],
    settings: FineTuning,
    command: str,
) -> dict[str, Any]:
    import transformers

    return {
        "remask": remask.__version__,
        "recipe": {"model": str(model), "task": job.name, "settings": asdict(settings)},
        "classes": job.classes,
        "data": {
            name: {
                "name": part.name.strip("'"),
                "rows": len(part.texts),
                "truncated": rows[name].truncated,
                "fingerprint": _fingerprint(part),
            }
            for name, part in data.items()
        },
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "command": command,
    }


def _fingerprint(labelled: Labelled) -> str:
    """16 hex digits that change with any text or label and with their order."""
    text = json.dumps([labelled.texts, labelled.pairs, labelled.labels])
    return sha256(text.encode()).hexdigest()[:16]


def _run(
    job: _Task,
    source: classifier.Pretrained,
    tokenizer: Any,
    data: Mapping[str, Labelled],
    rows: Mapping[str, loop.Rows],
    settings: FineTuning,
    facts: dict[str, Any],
    scratch: str,
    watch: Watch,
    told: Callable[[str, dict[str, Any]], None],
) -> tuple[Result, Any]:
    """Every seed; the result, and the kept model."""
    config = classifier.head_config(source, job.classes, settings.dropout)
    runs: list[Run] = []
    kept: tuple[loop.Best, int] | None = None
    for seed in range(settings.seeds):
        told("seed", {"seed": seed, "seeds": settings.seeds})
        run, best = _seed(job, source, config, tokenizer, rows, settings, seed, scratch, watch)
        runs.append(run)
        if kept is None or best.key > kept[0].key:
            kept = best, seed
    assert kept is not None
    best, chosen = kept
    model = classifier.build(source, config, chosen, settings.fresh)
    model.load_state_dict(best.state)
    if job.classes is None:
        classifier.fold(model, job.scale, job.shift)
    model = model.eval()
    judged = {
        part: Judged(_scores(job, loop.predict(model, tokenizer, rows[part])), rows[part].targets, data[part])
        for part in ("valid", "test")
        if part in rows
    }
    result = Result(None, job.name, tuple(runs), chosen, job.classes, judged["valid"], judged.get("test"), facts)
    return result._replace(facts={**facts, **_reached(result, model)}), model


def _scores(job: _Task, logits: Tensor) -> Tensor:
    return logits.double() if job.classes is None else job.scores(logits)


def _seed(
    job: _Task,
    source: classifier.Pretrained,
    config: Any,
    tokenizer: Any,
    rows: Mapping[str, loop.Rows],
    settings: FineTuning,
    seed: int,
    scratch: str,
    watch: Watch,
) -> tuple[Run, loop.Best]:
    """One run, weighed with its best weights."""
    began = time.monotonic()
    model = classifier.build(source, config, seed, settings.fresh)
    first, valid = SHOWN[job.name][0], rows["valid"]

    def look() -> tuple[Tensor, tuple[float, ...], Estimate]:
        logits = loop.predict(model, tokenizer, valid)
        found = job.weigh(logits, valid.targets)[first]
        value = found.value if math.isfinite(found.value) else -math.inf
        return logits, (value, -job.loss(logits, valid.targets)), found

    assert settings.learning_rate is not None
    with torch.random.fork_rng(devices=[]):
        best = loop.train(model, tokenizer, rows["train"], settings, settings.learning_rate, seed, look, scratch, watch)
    model.load_state_dict(best.state)
    test = rows.get("test")
    found = {} if test is None else job.weigh(loop.predict(model, tokenizer, test), test.targets)
    seconds = time.monotonic() - began
    return Run(seed, job.weigh(best.logits, valid.targets), found, best.step, seconds, best.curve), best


def _reached(result: Result, model: Any) -> dict[str, Any]:
    """What goes into remask.json of what was reached."""
    return {
        "metrics": {part: result.summary(part) for part in ("valid", "test") if part == "valid" or result.test},
        "kept": result.kept,
        "chosen_by": f"the best {SHOWN[result.task][0]} on valid, among seeds and along each run",
        "parameters": sum(p.numel() for p in model.parameters()),
        "seeds": [
            {
                "seed": run.seed,
                "step": run.step,
                "seconds": round(run.seconds, 3),
                "valid": {name: e.json() for name, e in run.valid.items()},
                "test": {name: e.json() for name, e in run.test.items()},
                "curve": run.curve,
            }
            for run in result.runs
        ],
    }
