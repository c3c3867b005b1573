"""From an understanding model to a writer: MLM, then a short diffusion fine-tune, against diffusion all the way.

    REMASK_DATA=... python recipes/writer.py runs/writer
    python recipes/writer.py runs/writer --stage report

The claim (Sahoo et al. 2024, arXiv 2406.07524): a BERT, fine-tuned by masked diffusion with less than 1 % of its
compute, falls from a perplexity bound of 78 to 35 (autoregressive 22), and keeps its GLUE figures. Here, on WikiText-2
(BPE 4096, rows of 128, 16 a batch, one 4x192 net with directional heads), for each of two seeds:

    mlm       600 steps of masked language modelling (30 %, Devlin's 80/10/10)
    short     `mlm`, then 60 steps of mdlm: a tenth of the compute more
    scratch   660 steps of mdlm, the same tokens in all
    alone     60 steps of mdlm from random weights: what the short part is worth by itself (first seed)

What the command would be: remask train mlm --directional-heads --net tiny --length 128 --batch 16 --steps 600 ...; then
remask train mdlm --init DIR --steps 60 --learning-rate R --rest-learning-rate 0.75R. R is the best of three tries of 30
steps on seed 0, judged by text (the last thirtieth of the official validation text) that nothing else is judged by.
All arms of a seed read the same rows in the same order, each from its beginning: `short` reads again what `mlm` began
with, where `scratch` goes on to new rows, which is against `short`. All nets are weighed on the same held-out rows with
the same masks, one draw in each quarter of the mask rates. Then both encoders are fine-tuned on few labelled texts, and
read by a linear probe. `scratch-seed0/kept` keeps the weights of seven moments, for recipes/likelihood.py.

Hardware: one thread of a 2-core CPU with bfloat16; about 35 CPU minutes. Finished parts are skipped, cut-off ones
go on. Expected: see docs/results.md, "From an understanding model to a writer".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import writer_report
from recipes.encoders_on_text import remask as command
from recipes.finished import finished
from remask.core.stream import Stream
from remask.data.labelled import class_names, read_labelled
from remask.data.pack import Rows, pack
from remask.data.text import read
from remask.data.tokenizers import encode, train_bpe
from remask.metrics.nelbo import draws_of_rows
from remask.metrics.probe import fit
from remask.nets import encoder
from remask.train.api import train as remask_train
from remask.train.checkpoint import Checkpoint, load
from remask.train.features import features
from remask.train.opening import Opened, open_any
from remask.train.texts import spread

QUARTERS = 4  # of the mask rates: draw q of 4 lies in the q-th
EVALUATION_SEED = 1000  # of the masks of all final figures
MOMENTS = 7  # weights kept along `scratch`
FINETUNE = "--columns label,text --epochs 3 --learning-rate 1e-3 --layer-decay 1 --batch 32 --length 64 --overwrite"


class Study(NamedTuple):
    """The sizes. most: labelled training texts of each task; rows: held-out rows that are weighed."""

    data: Path
    text: str = "wikitext-2"
    vocabulary: int = 4096
    length: int = 128
    batch: int = 16
    steps: int = 600
    short: int = 60
    tries: int = 30
    rates: tuple[float, ...] = (2.5e-4, 1e-3, 4e-3)
    seeds: tuple[int, ...] = (0, 1)
    rows: int = 480
    most: tuple[tuple[str, int], ...] = (("snips", 400), ("sms_spam", 300))
    finetune_seeds: int = 3


class Job(NamedTuple):
    """One training run. init: the run it starts from; rate: None = the defaults of a fresh net."""

    arm: str
    seed: int
    objective: str
    steps: int
    init: str | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        """Where it goes."""
        tried = f"-rate{self.rate:g}" if self.arm == "try" else ""
        return f"{self.arm}{tried}-seed{self.seed}"


# ---- training --------------------------------------------------------------------------------------------------------


def texts(study: Study, out: Path) -> dict[str, Path]:
    """train; tune: the last thirtieth of the lines of valid, which chooses; report: the others, which are reported."""
    source = study.data / study.text
    places = {"train": source / "train.txt.gz", **{side: out / "text" / f"{side}.txt" for side in ("report", "tune")}}
    if not places["tune"].is_file():
        with gzip.open(source / "valid.txt.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        cut = len(lines) - len(lines) // 30
        places["tune"].parent.mkdir(parents=True, exist_ok=True)
        places["report"].write_text("".join(lines[:cut]), encoding="utf-8")
        places["tune"].write_text("".join(lines[cut:]), encoding="utf-8")
    return places


def tokenizer(study: Study, out: Path) -> Path:
    """BPE of the training text, made once."""
    path = out / "tokenizer"
    if not (path / "tokenizer.json").is_file():
        documents = read([str(texts(study, out)["train"])])
        train_bpe([one.text for one in documents], study.vocabulary).save_pretrained(str(path))
    return path


def archive(run: Path) -> Callable[[dict[str, Any]], None]:
    """A watch that keeps the weights of every checkpoint, which the run itself prunes."""

    def watch(line: dict[str, Any]) -> None:
        del line
        for found in (run / "checkpoints").glob("checkpoint-*"):
            kept, part = run / "kept" / found.name, run / "kept" / f".{found.name}.part"
            if kept.is_dir():
                continue
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(found, part, ignore=shutil.ignore_patterns("*.pt", "*.pth", "trainer_state.json"))
            part.rename(kept)

    return watch


def train(job: Job, study: Study, out: Path) -> Path:
    """One run, unless it is there."""
    run, places = out / job.name, texts(study, out)
    if finished(run):
        return run
    flags: dict[str, Any] = {"net": "tiny", "directional_heads": True, "causal_first": 0.0}
    flags |= {"low_rates": 0.0} if job.objective == "mdlm" else {}
    if job.init is not None:
        assert job.rate is not None
        flags = {"init": out / job.init, "learning_rate": job.rate, "rest_learning_rate": 0.75 * job.rate}
    keeps = job.arm == "scratch" and job.seed == study.seeds[0]
    remask_train(
        job.objective,
        out=run,
        resume=(run / "recipe.json").is_file(),
        data=places["train"],
        valid=places["tune"],
        tokenizer=str(tokenizer(study, out)),
        length=study.length,
        batch=study.batch,
        steps=job.steps,
        seed=job.seed,
        evaluations=2,
        save_steps=max(1, job.steps // (MOMENTS if keeps else 2)),
        watch=archive(run) if keeps else lambda line: None,
        **flags,
    )
    say(f"{job.name}: done")
    return run


def say(text: str) -> None:
    """With the CPU minutes so far."""
    times = os.times()
    print(f"[{sum(times[:4]) / 60:5.1f} CPU minutes] {text}", flush=True)


def tuned(study: Study, out: Path) -> float:
    """The rate of the short part: the try with the lowest bound on the tuning text."""
    source = Job("mlm", study.seeds[0], "mlm", study.steps)
    train(source, study, out)
    tries = [Job("try", study.seeds[0], "mdlm", study.tries, source.name, rate) for rate in study.rates]
    bounds = {}
    for job in tries:
        facts = json.loads((train(job, study, out) / "remask.json").read_text())
        bounds[job.rate] = facts["metrics"]["nats_per_token"]["value"]
    say(f"tries: {', '.join(f'{rate:g}: {nats:.4f}' for rate, nats in bounds.items())} nats a token")
    return min(study.rates, key=bounds.__getitem__)


def jobs(study: Study, rate: float) -> list[Job]:
    """The runs that are reported, in the order of their training."""
    found = []
    for seed in study.seeds:
        source = Job("mlm", seed, "mlm", study.steps)
        found += [source, Job("short", seed, "mdlm", study.short, source.name, rate)]
        found += [Job("scratch", seed, "mdlm", study.steps + study.short)]
    return [*found, Job("alone", study.seeds[0], "mdlm", study.short)]


def pretrain(study: Study, out: Path) -> None:
    """All runs."""
    for job in jobs(study, tuned(study, out)):
        train(job, study, out)


# ---- weighing --------------------------------------------------------------------------------------------------------


def held_out(study: Study, out: Path, model: Checkpoint) -> Rows:
    """The rows that are reported, evenly spread over their text."""
    documents = read([str(texts(study, out)["report"])])
    rows = pack(encode(model.tokenizer, [one.text for one in documents]), study.length, model.alphabet.end)
    return rows.select(spread(len(rows.tokens), study.rows))


def quarters(model: Checkpoint, rows: Rows) -> torch.Tensor:
    """Nats a masked cell by row and quarter of the mask rates, [R, 4]; their mean over a row is its bound a token."""
    stream = Stream.of(EVALUATION_SEED, len(rows.tokens))
    conditional = model.conditional()
    return draws_of_rows(conditional, rows.tokens, stream, draws=QUARTERS) / rows.tokens.shape[1]


def bounds(study: Study, out: Path) -> None:
    """Weigh every reported net as a masked diffusion model."""
    for job in jobs(study, study.rates[0]):
        file = out / "bounds" / f"{job.name}.json"
        if file.is_file():
            continue
        model = load(out / job.name)
        rows = held_out(study, out, model)
        found = {"nats": quarters(model, rows).tolist(), "bytes": rows.bytes.tolist(), "length": study.length}
        write(file, {**found, "seconds": model.facts["seconds"], "tokens": model.facts["tokens"]})
        say(f"bound of {job.name}: {torch.tensor(found['nats']).mean():.4f} nats a token")


def write(path: Path, value: Any) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value) + "\n", encoding="utf-8")
    part.replace(path)


# ---- downstream ------------------------------------------------------------------------------------------------------


def labelled(study: Study, out: Path, task: str, most: int) -> dict[str, Path]:
    """`most` texts of a task to train on, half as many others to choose weights by, and its own test file."""
    places = {side: out / "tasks" / f"{task}.{side}.tsv" for side in ("train", "valid")}
    if not all(place.is_file() for place in places.values()):
        found = read_labelled(study.data / task / "train.tsv.gz", "label,text")
        order = random.Random(0).sample(range(len(found.texts)), most + most // 2)
        for side, chosen in (("train", order[:most]), ("valid", order[most:])):
            lines = [f"{found.labels[i]}\t{' '.join(found.texts[i].split())}\n" for i in chosen]
            places[side].parent.mkdir(parents=True, exist_ok=True)
            places[side].write_text("".join(lines), encoding="utf-8")
    return {**places, "test": study.data / task / "test.tsv.gz"}


def encoders(study: Study, *more: str) -> list[str]:
    """The runs whose encoders are compared, and further arms."""
    return [f"{arm}-seed{seed}" for seed in study.seeds for arm in ("mlm", "short", *more)]


def downstream(study: Study, out: Path) -> None:
    """`remask finetune` of each encoder, and of the same net without pretraining."""
    plans = {name: [str(out / name)] for name in encoders(study)}
    plans["fresh"] = [str(out / encoders(study)[0]), "--fresh"]
    for task, most in study.most:
        files = labelled(study, out, task, most)
        named = ["--data", str(files["train"]), "--valid", str(files["valid"]), "--test", str(files["test"])]
        for name, words in plans.items():
            done = out / "finetuned" / f"{task}-{name}.json"
            if not done.is_file():
                more = f"{FINETUNE} --seeds {study.finetune_seeds} --out {done.with_suffix('')}".split()
                write(done, command(["finetune", *words, *named, *more]))
                say(f"{task}, {name}: fine-tuned")


def probe(study: Study, out: Path) -> None:
    """A linear classifier on frozen hidden states, and on the counts of tokens: which test texts does it get right?"""
    for task, most in study.most:
        files = labelled(study, out, task, most)
        train, test = (read_labelled(files[side], "label,text") for side in ("train", "test"))
        names = class_names(train)
        y, truth = (torch.tensor([names.index(label) for label in part.labels]) for part in (train, test))
        for name in ["untrained", *encoders(study, "scratch")]:
            file = out / "probed" / f"{task}-{name}.json"
            if file.is_file():
                continue
            if name == "untrained":
                model = untrained(study, open_any(out / encoders(study)[0]))
            else:
                model = open_any(out / name)
            ours, theirs = (features(model, part.texts) for part in (train, test))
            right = {"probe": fit(ours.hidden, y, theirs.hidden).probabilities.argmax(1) == truth}
            if name == "untrained":
                right["bag of tokens"] = fit(ours.counts, y, theirs.counts).probabilities.argmax(1) == truth
            write(file, {kind: values.int().tolist() for kind, values in right.items()})
            say(f"{task}, {name}: probed, {right['probe'].double().mean():.3f}")


def untrained(study: Study, model: Opened) -> Opened:
    """The same with the net that all arms of the first seed began with."""
    net = encoder.build("tiny", model.alphabet, study.length, directional_heads=True, seed=study.seeds[0])
    return model._replace(net=net.eval())


STAGES: dict[str, Callable[[Study, Path], None]] = {
    "train": pretrain,
    "bounds": bounds,
    "downstream": downstream,
    "probe": probe,
    "report": lambda study, out: print(writer_report.tell(out, study.seeds, [task for task, _ in study.most])),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("REMASK_DATA", "../shared/data")))
    for name in ("vocabulary", "length", "batch", "steps", "short", "tries", "rows", "finetune_seeds"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=Study._field_defaults[name])
    given = vars(parser.parse_args(arguments))
    out, stage = given.pop("out").absolute(), given.pop("stage")
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if stage == "all" else [stage]:
        STAGES[name](Study(**given), out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
