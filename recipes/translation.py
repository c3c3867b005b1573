"""English to German, in parallel and from left to right: the runs of the race, each with the same CPU minutes.

    REMASK_DATA=... python -m recipes.translation runs/translation --stage teacher
    REMASK_DATA=... python -m recipes.translation runs/translation --stage distil
    REMASK_DATA=... python -m recipes.translation runs/translation --stage masked
    REMASK_DATA=... python -m recipes.translation runs/translation --arms "padir;cmlm;left to right" --seeds 0,1,2
    python -m recipes.translation_report runs/translation

Text: 40,000 of tatoeba_en_de's training pairs, drawn once, and 4,000 inputs joined of 2 to 4 of them, since users have
longer texts than this corpus; a joint BPE of 4,096 made of them; targets are those of the corpus (raw) or the teacher's
greedy translations of the same sources (distilled). The masked LM, whose minutes are counted by themselves, reads both
sides of all 162,340 training pairs as lines of text. Arms of the ablation table have half the minutes.
A budget is a number of steps, which cost so many CPU minutes on one thread of a 2-core CPU with bfloat16 (STEPS was
measured there; what a run did cost is kept in its `cpu.json`): so a run is the same however busy the machine is.
Finished runs are skipped, cut-off ones go on. About four CPU hours in all.
Expected: see docs/results.md, "Translation in parallel".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished
from remask.data.tokenizers import train_bpe
from remask.train.api import train

PAIRS, JOINED, VOCABULARY, LENGTH, BATCH, SEED = 40_000, 4_000, 4_096, 96, 256, 0
STEPS = {"seq2seq": 85, "cmlm": 88, "padir": 80, "axe": 75, "sundae": 53, "masked": 64, "mlm": 75}
"""Optimizer steps in a CPU minute."""
MINUTES, TEACHER, HALF = 10, 20, 5
COMMON: dict[str, Any] = {"net": "tiny", "dropout": 0.0, "length": LENGTH, "batch": BATCH}


class Arm(NamedTuple):
    """A run. text: raw or distilled; init: teacher, masked (a masked LM), another arm, or None; pace: row of STEPS."""

    objective: str
    text: str = "distilled"
    minutes: float = MINUTES
    init: str | None = None
    flags: tuple[tuple[str, Any], ...] = ()
    pace: str | None = None

    @property
    def steps(self) -> int:
        """What the minutes buy."""
        return round(self.minutes * STEPS[self.pace or self.objective])


def _masked(parts: str) -> Arm:
    return Arm("cmlm", init="masked", flags=(("init_parts", parts),), pace="masked")


ARMS: dict[str, Arm] = {
    "teacher": Arm("seq2seq", "raw", TEACHER),
    "left to right": Arm("seq2seq"),
    "padir": Arm("padir"),
    "cmlm": Arm("cmlm"),
    "padir from T5": Arm("padir", init="teacher"),
    "axe": Arm("axe"),
    "sundae": Arm("sundae"),
    "cmlm raw": Arm("cmlm", "raw"),
    "axe raw": Arm("axe", "raw"),
    "left to right on our trunk": Arm("seq2seq", init="masked", flags=(("init_parts", "none"),), pace="masked"),
    "cmlm from left to right": Arm("cmlm", init="left to right on our trunk", pace="masked"),
    "masked LM's shape": _masked("none"),
    "masked LM's encoder": _masked("encoder"),
    "masked LM's decoder": _masked("decoder"),
    "masked LM's both": _masked("both"),
    "half padir": Arm("padir", minutes=HALF),
    "half padir noised": Arm("padir", minutes=HALF, flags=(("score", "noised"),)),
    "half padir masked": Arm("padir", minutes=HALF, flags=(("score", "masked"),)),
    "half padir masks only": Arm(
        "padir",
        minutes=HALF,
        flags=(
            ("keep", 0.0),
            ("random", 0.0),
        ),
    ),
    "half padir two stages": Arm("padir", minutes=HALF, flags=(("stages", 2),), pace="sundae"),
    "half padir classifier": Arm("padir", minutes=HALF, flags=(("length_head", "classifier"),)),
    "half padir affine": Arm("padir", minutes=HALF, flags=(("length_head", "affine"),)),
    "half padir raw": Arm("padir", "raw", HALF),
}


def place(out: Path, arm: str, seed: int) -> Path:
    """Where a run is."""
    return out / f"{arm.replace(' ', '_')}-seed{seed}"


# ---- texts -----------------------------------------------------------------------------------------------------------


def corpus(name: str) -> list[str]:
    """The lines of a split of tatoeba_en_de: English, tab, German."""
    data = Path(os.environ.get("REMASK_DATA", "../shared/data"))
    with gzip.open(data / "tatoeba_en_de" / f"{name}.tsv.gz", "rt", encoding="utf-8") as file:
        return file.read().removesuffix("\n").split("\n")


def prepare(out: Path) -> dict[str, Path]:
    """raw, valid and test pairs, lines of both languages for the masked LM, and the tokenizer; made once."""
    names = ("raw.tsv", "valid.tsv", "test.tsv", "lines.txt", "tokenizer")
    places = {Path(name).stem: out / "data" / name for name in names}
    if (places["tokenizer"] / "tokenizer.json").is_file():
        return places
    places["raw"].parent.mkdir(parents=True, exist_ok=True)
    every = [_sides(line) for line in corpus("train")]
    chosen = [every[k] for k in sorted(np.random.default_rng(SEED).choice(len(every), PAIRS, replace=False))]
    made = train_bpe([side for pair in chosen for side in pair], VOCABULARY)
    texts = {
        "raw": ["\t".join(pair) for pair in [*chosen, *joined(chosen)]],
        "valid": ["\t".join(_sides(line)) for line in corpus("valid")],
        "test": ["\t".join(_sides(line)) for line in corpus("test")],
        "lines": [side for pair in every for side in pair],
    }
    for name, lines in texts.items():
        places[name].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    made.save_pretrained(str(places["tokenizer"]))
    return places


def joined(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Inputs of 2 to 4 sentences, none of which comes twice."""
    chance, at = np.random.default_rng(SEED + 1), 0
    order, found = chance.permutation(len(pairs)), []
    for size in chance.integers(2, 5, JOINED):
        group = [pairs[k] for k in order[at : at + size]]
        found.append((" ".join(source for source, _ in group), " ".join(target for _, target in group)))
        at += size
    return found


def _sides(line: str) -> tuple[str, str]:
    english, german = line.split("\t")[:2]
    return english, german


# ---- runs ------------------------------------------------------------------------------------------------------------


def fit(out: Path, name: str, seed: int) -> Path:
    """One run, unless it is there."""
    arm, places, run = ARMS[name], prepare(out), place(out, name, seed)
    if finished(run):
        return run
    flags = {**COMMON, **dict(arm.flags)}
    if arm.init is not None:  # rates are those of fresh nets: a tenth of the nets' minutes is no fine-tuning
        begun = place(out, arm.init, 0 if arm.init in ("teacher", "masked") else seed)
        flags |= {"init": str(begun), "learning_rate": 4e-3, "rest_learning_rate": 3e-3}
        del flags["net"], flags["dropout"]
    flags["tokenizer"] = str(places["tokenizer"])
    text = {"raw": places["raw"], "distilled": out / "distilled.tsv"}[arm.text]
    _counted(
        run,
        arm.objective,
        pairs=text,
        valid=places["valid"],
        columns="source,target",
        steps=arm.steps,
        seed=seed,
        **flags,
    )
    return run


def masked(out: Path) -> Path:
    """The masked LM that begins encoders and decoders."""
    run, places = place(out, "masked", 0), prepare(out)
    if not finished(run):
        _counted(
            run,
            "mlm",
            data=places["lines"],
            document="line",
            tokenizer=str(places["tokenizer"]),
            net="tiny",
            directional_heads=True,
            length=128,
            batch=32,
            steps=TEACHER * STEPS["mlm"],
            held_out=0.02,
            seed=0,
        )
    return run


def _counted(run: Path, objective: str, **settings: Any) -> None:
    """Train, and add the CPU seconds that it took to the run's own account."""
    account, began = run / "cpu.json", sum(os.times()[:4])
    spent = json.loads(account.read_text())["seconds"] if account.is_file() else 0.0
    resume = (run / "recipe.json").is_file()
    try:
        train(objective, out=run, resume=resume, evaluations=6, save_minutes=2.0, **settings)
    finally:
        if run.is_dir():
            account.write_text(json.dumps({"seconds": round(spent + sum(os.times()[:4]) - began, 1)}))
    print(f"{run.name}: {json.loads(account.read_text())['seconds'] / 60:.1f} CPU minutes", flush=True)


def distil(out: Path) -> Path:
    """The teacher's greedy translations of the training sources."""
    found = out / "distilled.tsv"
    if not found.is_file():
        sources = prepare(out)["raw"]
        command = [sys.executable, "-m", "remask.cli", "translate", str(place(out, "teacher", 0))]
        command += ["--data", str(sources), "--columns", "source,target", "--out", str(found), "--batch", "64"]
        subprocess.run([*command, *["--resume"] * found.with_suffix(".json").is_file()], check=True)
    return found


STAGES = {"teacher": lambda out: fit(out, "teacher", 0), "distil": distil, "masked": masked}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what was asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--stage", choices=list(STAGES))
    words.add_argument("--arms", default="", help="names, with ; between them")
    words.add_argument("--seeds", default="0")
    values = words.parse_args(arguments)
    if values.stage:
        STAGES[values.stage](values.out)
    for name in filter(None, values.arms.split(";")):
        for seed in values.seeds.split(","):
            fit(values.out, name.strip(), int(seed))


if __name__ == "__main__":
    main()
