"""Encoders on real text and DNA: the same seconds of pretraining for each objective, then fine-tuning.

    python recipes/encoders_on_text.py text --out runs/encoders [--minutes 8] [--data DIR]
    python recipes/encoders_on_text.py dna  --out runs/encoders [--minutes 3]

Text: MLM-30, All-Tokens MLM and ELECTRA with gdes on WikiText-2 and three novels (one 4x192 net, BPE of 8192,
directional heads in every arm: without them nets of this size stay near the unigram level for the whole budget), then
snips, banking77 and sms_spam, medians over three seeds, beside a bag-of-words logistic regression and the same net
without pretraining. DNA: MLM and ELECTRA on the genome of E. coli, then the three kinds of primate splice junctions.

Equal seconds are given as steps: before training every arm takes the same few steps, two processes side by side as in
the training itself, on an otherwise quiet machine; steps = minutes x the rate found. Every command is printed, and
goes on where it was cut off. Hardware: 2 CPU cores, one thread a process, about 35 minutes for text and 15 for DNA.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REMASK_DATA", HERE.parent / "shared" / "data"))
NET = "--net tiny --directional-heads --batch 32 --length 128 --seed 0 --evaluations 4 --save-minutes 2"
ARMS = {
    "mlm-30": "mlm --mask-rate 0.3",
    "all-tokens": "electra --task all-tokens --share gdes --generator-width 0.34",
    "electra": "electra --share gdes --generator-width 0.34",
}
DNA_ARMS = {"mlm-15": "mlm --mask-rate 0.15", "electra": "electra --share gdes --generator-width 0.34"}
TASKS = {"snips": 5, "banking77": 6, "sms_spam": 4}
"""Tasks and how many passes over their training rows fine-tuning takes."""
MOST = {"snips": 1000, "banking77": 3000, "sms_spam": 2000}
"""Training rows used of each, drawn once: with all of them words alone decide, and two cores would take hours."""
FILES = {"--data": "train", "--valid": "valid", "--test": "test"}
SEEDS, PROBE_STEPS, JOBS = 3, 40, 2
SAME = "--learning-rate 1e-3 --layer-decay 1 --batch 32 --length 64"  # for every encoder


def remask(words: str | Sequence[str]) -> dict:
    """Run the command in a process of its own, one thread, and read its JSON."""
    words = words.split() if isinstance(words, str) else list(words)
    print("remask", *words, file=sys.stderr, flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "remask.cli", *words, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def together(jobs: dict[str, list[str]]) -> dict[str, dict]:
    """Run several commands, two at a time, in the order given."""
    with ThreadPoolExecutor(JOBS) as pool:
        return dict(zip(jobs, pool.map(remask, jobs.values())))


def pretrain(arms: dict[str, str], text: str, out: Path, minutes: float) -> dict[str, dict]:
    """Calibrate, then train every arm for as many steps as its rate allows."""
    rates_file = out / "rates.json"
    if not rates_file.exists():
        probes: dict[str, list[float]] = {name: [] for name in arms}
        others = [*list(arms)[1:], next(iter(arms))]
        for pair in zip(arms, others):  # two at a time, as in the training; each arm in the company of either other
            words = {n: f"train {arms[n]} {text} {NET} --steps {PROBE_STEPS} --overwrite" for n in pair}
            found = together({n: f"{w} --out {out / f'probe-{n}'}".split() for n, w in words.items()})
            for name, result in found.items():
                probes[name].append(result["step"] / result["seconds"])
        rates = {name: sum(values) / len(values) for name, values in probes.items()}
        out.mkdir(parents=True, exist_ok=True)
        rates_file.write_text(json.dumps({"steps_per_second": rates, "timed": probes}, indent=1))
    rates = json.loads(rates_file.read_text())["steps_per_second"]
    jobs, trained = {}, {}
    for name, objective in arms.items():
        run = out / name
        if (run / "remask.json").exists():  # a run writes it when it is done
            trained[name] = json.loads((run / "remask.json").read_text())
            continue
        again = ["--resume"] if (run / "recipe.json").exists() else []
        steps = round(60 * minutes * rates[name])
        jobs[name] = [*f"train {objective} {text} {NET} --steps {steps} --out {run}".split(), *again]
    return {**trained, **together(jobs)}


def cut(name: str, data: Path, out: Path) -> dict[str, Path]:
    """A task's files as label TAB text: train without a tenth that becomes valid, valid, test."""
    sides: dict[str, list[tuple[str, str]]] = {}
    for side in ("train", "test"):
        if name == "banking77":
            with gzip.open(data / name / f"{side}.csv.gz", "rt", encoding="utf-8", newline="") as file:
                sides[side] = [(r["category"], r["text"]) for r in csv.DictReader(file)]
        else:
            with gzip.open(data / name / f"{side}.tsv.gz", "rt", encoding="utf-8") as file:
                parts = [line.rstrip("\n").split("\t") for line in file]
            sides[side] = [(p[0], p[-1].strip()) for p in parts]
    order = list(range(len(sides["train"])))
    random.Random(0).shuffle(order)
    held = set(order[: len(order) // 10])
    sides["valid"] = [row for i, row in enumerate(sides["train"]) if i in held]
    left = [i for i in order if i not in held]
    sides["train"] = [sides["train"][i] for i in left[: MOST.get(name, len(left))]]
    places = {}
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    for side, rows in sides.items():
        places[side] = out / "tasks" / f"{name}.{side}.tsv"
        lines = [f"{label}\t{' '.join(text.split())}" for label, text in rows if text.split()]
        places[side].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return places


def finetune(encoders: dict[str, list[str]], tasks: dict[str, int], out: Path, places: dict[str, dict]) -> dict:
    """Fine-tune every encoder on every task; finished ones are read and not run again."""
    jobs, found = {}, {}
    for task, epochs in tasks.items():
        for name, words in encoders.items():
            done = out / "finetuned" / f"{task}-{name}.json"
            if done.exists():
                found[task, name] = json.loads(done.read_text())
                continue
            files = [x for flag, side in FILES.items() for x in (flag, str(places[task][side]))]
            flags = f"--task classify --columns label,text --seeds {SEEDS} --epochs {epochs} {SAME} --overwrite".split()
            jobs[task, name] = ["finetune", *words, *files, *flags, "--out", str(done.with_suffix(""))]
    (out / "finetuned").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(JOBS) as pool:

        def run(key: tuple[str, str]) -> None:
            found[key] = remask(jobs[key])
            (out / "finetuned" / f"{key[0]}-{key[1]}.json").write_text(json.dumps(found[key]))

        list(pool.map(run, jobs))
    return found


def words_alone(places: dict[str, Path], characters: bool = False) -> float:
    """Accuracy on test of a logistic regression on counts of words (or of 3-mers), its strength chosen by valid."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = {s: [line.split("\t", 1) for line in places[s].read_text("utf-8").splitlines()] for s in places}
    counter = CountVectorizer(analyzer="char", ngram_range=(3, 3)) if characters else CountVectorizer()
    train = counter.fit_transform([t for _, t in rows["train"]])
    best = (-1.0, 0.0)
    for strength in (0.1, 1.0, 10.0):
        model = LogisticRegression(C=strength, max_iter=2000).fit(train, [y for y, _ in rows["train"]])
        score = {
            s: model.score(counter.transform([t for _, t in rows[s]]), [y for y, _ in rows[s]])
            for s in ("valid", "test")
        }
        if score["valid"] > best[0]:
            best = score["valid"], score["test"]
    return best[1]


def table(found: dict, alone: dict[str, float], encoders: Sequence[str]) -> str:
    """Test accuracies as Markdown: median [least, largest] over seeds."""
    lines = ["| encoder | " + " | ".join(alone) + " |", "|---|" + "---|" * len(alone)]
    for name in encoders:
        cells = [found[task, name]["test"]["accuracy"] for task in alone]
        text = (f"{100 * c['median']:.1f} [{100 * c['min']:.1f}, {100 * c['max']:.1f}]" for c in cells)
        lines.append(f"| {name} | " + " | ".join(text) + " |")
    lines.append("| bag of words, logistic | " + " | ".join(f"{100 * v:.1f}" for v in alone.values()) + " |")
    return "\n".join(lines)


def text(out: Path, data: Path, minutes: float) -> None:
    """The three-arm study."""
    places = {task: cut(task, data, out) for task in TASKS}
    sources = [data / "wikitext-2" / "train.txt.gz", *sorted((data / "books").glob("*.txt.gz"))]
    files = " ".join(map(str, sources))
    flags = f"--data {files} --valid {data / 'wikitext-2' / 'valid.txt.gz'} --document paragraph"
    if not (out / "tokenizer" / "tokenizer.json").exists():  # made once, read by all
        remask(f"train mlm {flags} --tokenizer bpe:8192 --net tiny --steps 1 --out {out / 'tokenizer'}")
    flags += f" --tokenizer {out / 'tokenizer'}"
    trained = pretrain(ARMS, flags, out, minutes)
    encoders = {name: [str(out / name)] for name in ARMS} | {"not pretrained": [str(out / "mlm-30"), "--fresh"]}
    found = finetune(encoders, TASKS, out, places)
    alone = {task: words_alone(places[task]) for task in TASKS}
    finish(out, trained, found, alone, encoders)


def dna(out: Path, data: Path, minutes: float) -> None:
    """The pair on DNA."""
    out = out / "dna"
    places = {"uci_splice": cut("uci_splice", data, out)}
    genome = data / "ecoli_k12" / "NC_000913.3.fna.gz"
    trained = pretrain(DNA_ARMS, f"--data {genome} --tokenizer dna --reverse-complement", out, minutes)
    encoders = {name: [str(out / name)] for name in DNA_ARMS} | {"not pretrained": [str(out / "mlm-15"), "--fresh"]}
    found = finetune(encoders, {"uci_splice": 4}, out, places)
    finish(out, trained, found, {"uci_splice": words_alone(places["uci_splice"], characters=True)}, encoders)


def finish(out: Path, trained: dict, found: dict, alone: dict[str, float], encoders: dict) -> None:
    """Print the table and write everything that was found."""
    print(table(found, alone, list(encoders)))
    record = {
        "trained": trained,
        "finetuned": {f"{task} {name}": result for (task, name), result in found.items()},
        "bag of words": alone,
    }
    (out / "found.json").write_text(json.dumps(record, indent=1))
    seconds = {name: round(r["seconds"]) for name, r in trained.items()}
    print(f"\nseconds of training {seconds}, median {median(seconds.values())}; everything: {out / 'found.json'}")


STUDIES = {"text": text, "dna": dna}

if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("study", choices=list(STUDIES))
    words.add_argument("--out", type=Path, default=Path("runs/encoders"))
    words.add_argument("--data", type=Path, default=DATA)
    words.add_argument("--minutes", type=float, default=8.0)
    values = words.parse_args()
    STUDIES[values.study](values.out, values.data, values.minutes)
