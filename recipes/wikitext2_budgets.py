"""MDLM beside its autoregressive twin on WikiText-2: same trunk, tokens, steps and data order, at six budgets.

    REMASK_DATA=... python recipes/wikitext2_budgets.py mdlm runs/wikitext2
    REMASK_DATA=... python recipes/wikitext2_budgets.py autoregressive runs/wikitext2
    python recipes/wikitext2_budgets.py table runs/wikitext2

Hardware: one thread of a 2-core CPU with bfloat16 for each arm; about 25 CPU minutes an arm. Every budget is a run of
its own (the learning rate falls to zero in each), started again with --resume if it was cut off. Both nets have their
own locality bias: left/right/free heads for MDLM, slopes 1, 1/2, 1/4 under the causal mask for its twin.
Expected (seed 0): see docs/results.md, "WikiText-2 at six budgets".
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished

STEPS = (49, 98, 195, 391, 781, 1563)  # times 16 rows of 128 tokens: 0.1M to 3.2M tokens
FLAGS = [
    *("--net", "tiny", "--length", "128", "--batch", "16", "--cooldown", "0.9", "--causal-first", "0"),
    *("--seed", "0", "--evaluations", "2", "--save-steps", "400"),
]


def train(objective: str, out: Path) -> None:
    data = Path(os.environ.get("REMASK_DATA", "../shared/data")) / "wikitext-2"
    texts = ["--data", str(data / "train.txt.gz"), "--valid", str(data / "valid.txt.gz")]
    tokenizer = out / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        from remask.data.text import read
        from remask.data.tokenizers import train_bpe

        train_bpe([d.text for d in read([texts[1]])], 4096).save_pretrained(str(tokenizer))
    for steps in STEPS:
        run = out / f"{objective}-{steps}"
        if finished(run):
            continue
        resume = ["--resume"] if (run / "recipe.json").is_file() else []
        command = [sys.executable, "-m", "remask.cli", "train", objective, *texts, *FLAGS, *resume]
        command += ["--low-rates", "0"] if objective == "mdlm" else []
        command += ["--tokenizer", str(tokenizer), "--steps", str(steps), "--out", str(run), "--json"]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{run.name}: {(used.ru_utime + used.ru_stime) / 60:.1f} CPU minutes of this arm so far", flush=True)


def facts(run: Path) -> dict[str, tuple[float, float]]:
    metrics = json.loads((run / "remask.json").read_text())["metrics"]
    return {name: (m["value"], m["stderr"]) for name, m in metrics.items()}


def table(out: Path) -> None:
    print("| tokens | MDLM perplexity (bound) | bits/byte | autoregressive perplexity | bits/byte | ratio |")
    print("|---|---|---|---|---|---|")
    for steps in STEPS:
        a, b = facts(out / f"mdlm-{steps}"), facts(out / f"autoregressive-{steps}")
        cells = [f"{steps * 2048 / 1e6:.2f}M"]
        for one in (a, b):
            cells += [f"{one['perplexity'][0]:.1f} ± {one['perplexity'][1]:.1f}"]
            cells += [f"{one['bits_per_byte'][0]:.3f} ± {one['bits_per_byte'][1]:.3f}"]
        print(f"| {' | '.join(cells)} | {a['perplexity'][0] / b['perplexity'][0]:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("mdlm", "autoregressive", "table"):
        sys.exit(__doc__)
    place = Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    table(place) if sys.argv[1] == "table" else train(sys.argv[1], place)
