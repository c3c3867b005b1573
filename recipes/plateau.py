"""Beyond the unigram plateau: what else helps a small masked net, arm by arm, on WikiText-2 with paired seeds.

    REMASK_DATA=... python -m recipes.plateau runs/plateau --arms "directional;plain" --steps 781 --seeds 0,1
    REMASK_DATA=... python -m recipes.plateau runs/plateau --arms all --steps 250 --seeds 0,1
    python -m recipes.plateau_report runs/plateau --steps 250

Hardware: one thread of a 2-core CPU with bfloat16; 2 CPU minutes for 250 steps (0.5M tokens), 5 for 781 (1.6M).
Every arm of a seed reads the same rows in the same order. Finished runs are skipped, cut-off ones resumed.
Expected: see docs/results.md, "Beyond the plateau".
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import torch

from recipes.finished import finished
from recipes.plateau_objectives import announce
from remask.data.text import read
from remask.data.tokenizers import alphabet, load, train_bpe
from remask.nets import encoder
from remask.nets.encoder import Size

FLAGS = [
    *("--net", "tiny", "--length", "128", "--batch", "16", "--causal-first", "0"),
    *("--evaluations", "4", "--save-steps", "400"),
]
FRESH = ("--learning-rate", "4e-3", "--rest-learning-rate", "3e-3")  # --init means lower ones otherwise
LONGER = {"batch 8": 2}  # steps times so many: the tokens are the same
SHAPES = {
    "unigram": encoder.SIZES["tiny"],
    "deep": Size(8, 192, 3, 512, True, 0),
    "narrow": Size(12, 128, 4, 352, True, 0),
}
ARMS: dict[str, tuple[str, ...]] = {
    "directional": ("mdlm",),
    "plain": ("mdlm", "--no-directional-heads"),
    "autoregressive": ("autoregressive",),
    "autoregressive plain": ("autoregressive", "--no-directional-heads"),
    "opened .3 to .8": ("mdlm", "--open-heads"),
    "opened .1 to .5": ("mdlm", "--open-heads", "--open-from", "0.1", "--open-until", "0.5"),
    "opened .0 to .9": ("mdlm", "--open-heads", "--open-from", "0", "--open-until", "0.9"),
    "flat weights": ("explored", "--flat"),
    "low rates mixed in": ("explored", "--rates", "low"),
    "rates rising": ("explored", "--rates", "rising"),
    "rates tilted": ("explored", "--rates", "tilted"),
    "bell weighed": ("explored", "--rates", "bell"),
    "bell": ("explored", "--rates", "bell_flat"),
    "complementary pairs": ("explored", "--complementary"),
    "causal first .2": ("explored", "--causal-share", "1", "--causal-until", "0.2"),
    "causal first .4": ("explored", "--causal-share", "1", "--causal-until", "0.4"),
    "half causal until .5": ("explored", "--causal-share", "0.5", "--causal-until", "0.5"),
    "quarter causal": ("explored", "--causal-share", "0.25", "--causal-until", "0.9"),
    "causal first .2 both ways": ("explored", "--causal-share", "1", "--causal-until", "0.2", "--both-ways"),
    "causal first .4 both ways": ("explored", "--causal-share", "1", "--causal-until", "0.4", "--both-ways"),
    "plain causal first .2": ("explored", *("--causal-share", "1", "--causal-until", "0.2"), "--no-directional-heads"),
    "causal first .2 opened .2 to .6": (
        *("explored", "--causal-share", "1", "--causal-until", "0.2"),
        *("--open-heads", "--open-from", "0.2", "--open-until", "0.6"),
    ),
    "cooldown .2": ("mdlm", "--cooldown", "0.2"),
    "cooldown .5": ("mdlm", "--cooldown", "0.5"),
    "length 256": ("mdlm", "--length", "256", "--batch", "8"),
    "batch 8": ("mdlm", "--batch", "8"),
    "rate doubled": ("mdlm", "--learning-rate", "8e-3", "--rest-learning-rate", "3e-3"),
    "rate halved": ("mdlm", "--learning-rate", "2e-3", "--rest-learning-rate", "3e-3"),
    "embeddings' rate 1e-2": ("mdlm", "--rest-learning-rate", "1e-2"),
    "unigram bias": ("mdlm", "--init", "unigram", *FRESH),
    "8 layers": ("mdlm", "--init", "deep", *FRESH),
    "12 layers of 128": ("mdlm", "--init", "narrow", *FRESH),
    "6 layers of 256": ("mdlm", "--net", "mini"),
    "causal first .4 both ways cooldown .4": (
        *("explored", "--causal-share", "1", "--causal-until", "0.4", "--both-ways"),
        *("--cooldown", "0.4"),
    ),
    "causal first .2 low rates": ("explored", "--causal-share", "1", "--causal-until", "0.2", "--rates", "low"),
    "causal first .4 low rates": ("explored", "--causal-share", "1", "--causal-until", "0.4", "--rates", "low"),
    "causal first .4 low rates opened .4 to .8": (
        *("explored", "--causal-share", "1", "--causal-until", "0.4", "--rates", "low"),
        *("--open-heads", "--open-from", "0.4", "--open-until", "0.8"),
    ),
    "causal first .4 mostly low rates": (
        *("explored", "--causal-share", "1", "--causal-until", "0.4", "--rates", "mostly_low"),
    ),
    "causal first .2 mostly low rates": ("mdlm", "--causal-first", "0.2", "--low-rates", "0.6"),
    "mostly low rates": ("explored", "--rates", "mostly_low"),
    "causal first .2 tilted": ("explored", "--causal-share", "1", "--causal-until", "0.2", "--rates", "tilted"),
    "causal first .2 rate 8e-3": (
        *("explored", "--causal-share", "1", "--causal-until", "0.2"),
        *("--learning-rate", "8e-3", "--rest-learning-rate", "3e-3"),
    ),
    "causal first .2 rate 2e-3": (
        *("explored", "--causal-share", "1", "--causal-until", "0.2"),
        *("--learning-rate", "2e-3", "--rest-learning-rate", "3e-3"),
    ),
    "mlm causal first .2": ("mlm", "--directional-heads", "--causal-first", "0.2"),
    "mlm": ("mlm", "--directional-heads"),
    "mlm plain": ("mlm", "--no-directional-heads"),
    "electra": ("electra", "--share", "gdes", "--directional-heads"),
    "electra plain": ("electra", "--share", "gdes", "--no-directional-heads"),
}


def texts() -> list[str]:
    """The flags that name the text."""
    data = Path(os.environ.get("REMASK_DATA", "../shared/data")) / "wikitext-2"
    return ["--data", str(data / "train.txt.gz"), "--valid", str(data / "valid.txt.gz")]


def tokenizer(out: Path) -> Path:
    """BPE 4096 of the training text, made once."""
    path = out / "tokenizer"
    if not (path / "tokenizer.json").is_file():
        train_bpe([d.text for d in read([texts()[1]])], 4096).save_pretrained(str(path))
    return path


def start(out: Path, name: str, seed: int) -> str:
    """A fresh net that is no named size, or one whose output bias says how common each token is, as --init."""
    path = out / f"start-{name}-{seed}"
    if not (path / "config.json").is_file():
        made = load(str(tokenizer(out)))
        encoder.SIZES["made"] = SHAPES[name]
        net = encoder.build("made", alphabet(made), 128, seed=seed)
        if name == "unigram":
            ids = torch.cat([torch.tensor(made(d.text)["input_ids"]) for d in read([texts()[1]])])
            counts = torch.bincount(ids, minlength=net.vocabulary).double() + 1
            net.model.decoder.bias.data.copy_((counts / counts.sum()).log())
        net.save(path)
        made.save_pretrained(str(path))
    return str(path)


def directory(out: Path, arm: str, steps: int, seed: int) -> Path:
    """Where a run lives."""
    return out / f"{arm.replace(' ', '_')}-{steps}-seed{seed}"


def environment(out: Path) -> dict[str, str]:
    """One thread, and `explored` among the objectives."""
    paths = [str(announce(out / "plugin")), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def train(out: Path, arm: str, steps: int, seed: int) -> None:
    """One run, unless it is there."""
    run = directory(out, arm, steps, seed)
    if finished(run):
        return
    flags = [start(out, x, seed) if before == "--init" else x for before, x in pairwise(["", *ARMS[arm]])]
    resume = ["--resume"] if (run / "recipe.json").is_file() else []
    bound = ["--low-rates", "0"] if flags[0] == "mdlm" else []
    command = [sys.executable, "-m", "remask.cli", "train", flags[0], *texts(), *FLAGS, *bound, *flags[1:], *resume]
    command += ["--tokenizer", str(tokenizer(out)), "--steps", str(steps * LONGER.get(arm, 1)), "--seed", str(seed)]
    command += ["--out", str(run), "--json"]
    subprocess.run(command, check=True, env=environment(out), stdout=(out / f"{run.name}.log").open("w"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{run.name}: {(used.ru_utime + used.ru_stime) / 60:.1f} CPU minutes so far", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", default="all")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", default="0,1")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for chosen in map(int, given.seeds.split(",")):
        for name in ARMS if given.arms == "all" else given.arms.split(";"):
            train(given.out, name.strip(), given.steps, chosen)
