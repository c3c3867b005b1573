"""The demo's autoregressive twin: same text, tokens, net size and batch, left to right, at several lengths of training.

    python recipes/demo_twin.py runs/twin

It overfits the demo's 0.34 MB within a minute, so its best of these budgets is the fair figure beside the demo's bound.
Hardware: 2 CPU cores with bfloat16, about 5 minutes. Expected (seed 0): see docs/results.md, "The demo".
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STEPS = (100, 200, 400, 800)
FLAGS = ("--data", "embedded", "--tokenizer", "bpe:1024", "--net", "tiny", "--batch", "16", "--seed", "0")

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("| steps | bits per byte | nats per token |")
    print("|---|---|---|")
    for steps in STEPS:
        run = Path(sys.argv[1]) / str(steps)
        command = [sys.executable, "-m", "remask.cli", "train", "autoregressive", *FLAGS]
        command += ["--steps", str(steps), "--out", str(run), "--overwrite", "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        bits, nats = result["bits_per_byte"], result["nats_per_token"]
        cells = [f"{m['value']:.3f} ± {m['stderr']:.3f}" for m in (bits, nats)]
        print(f"| {steps} | {cells[0]} | {cells[1]} |", flush=True)
