"""Likelihood done right: do the two estimators of the bound agree, and what do bfloat16 logits do to it?

    REMASK_DATA=... python recipes/likelihood.py runs/likelihood runs/writer/scratch-seed0 [RUN ...]
    python recipes/likelihood.py runs/likelihood --stage report

Estimators: `count` (exactly k masked cells, weight L/k) and `time` (every cell by itself, weight 1/t) at every
checkpoint that a run keeps, on the same rows; z is their mean difference over rows by its paired standard error. Every
checkpoint draws masks of its own, so the sum of z squared is about a chi-square variable if they agree.

Precision: published code takes logits from the bfloat16 autocast and makes the log-softmax of them in bfloat16 (Sahoo
et al. 2024, arXiv 2406.07524, its repository). Here the same rows and masks are weighed in five ways, and compared with
float32 throughout, row by row; the quarters are those of the mask rate, in nats a masked cell, and their mean is the
difference of the bound in nats a token.

Hardware: one thread of a 2-core CPU with bfloat16; 25 CPU seconds a checkpoint and 90 for the five ways. What was
weighed is not weighed again. Expected: see docs/results.md, "Likelihood done right".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.paired_curves import table
from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import MissingExtra
from remask.core.stream import Stream
from remask.data.pack import Rows, pack
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.metrics.nelbo import ESTIMATORS, draws_of_rows
from remask.nets.hf import HuggingFaceNet
from remask.train.checkpoint import Checkpoint, load
from remask.train.texts import spread

QUARTERS = 4

# ---- five ways to make log p from the same weights -------------------------------------------------------------------


def _wide(net: HuggingFaceNet, hidden: Tensor, ban: int) -> Tensor:
    """Logits and log-softmax in float32."""
    return net.log_probs(hidden, ban)


def _rounded(net: HuggingFaceNet, hidden: Tensor, ban: int) -> Tensor:
    """Logits rounded to bfloat16, log-softmax in float32."""
    logits = net.logits(hidden).bfloat16().float()
    logits[:, ban] = -torch.inf
    return logits.log_softmax(1)


def _narrow(net: HuggingFaceNet, hidden: Tensor, ban: int) -> Tensor:
    """Logits, their log-sum-exp and the difference all rounded to bfloat16."""
    logits = net.logits(hidden).bfloat16()
    logits[:, ban] = -torch.inf
    return (logits - logits.logsumexp(1, keepdim=True)).float()


def _autocast(net: HuggingFaceNet, hidden: Tensor, ban: int) -> Tensor:
    """The output matrix under autocast, log-softmax in float32: what the loss of bfloat16 training sees."""
    with torch.autocast("cpu", torch.bfloat16):
        return net.log_probs(hidden, ban)


Tail = Callable[[HuggingFaceNet, Tensor, int], Tensor]
WAYS: dict[str, tuple[bool, Tail]] = {
    "float32": (False, _wide),
    "logits rounded to bf16": (False, _rounded),
    "logits and log-softmax in bf16": (False, _narrow),
    "trunk in bf16": (True, _wide),
    "trunk and logits in bf16": (True, _autocast),
}
"""Name to whether the trunk runs under bfloat16 autocast, and what is done with its hidden states."""


@dataclass(frozen=True)
class Precise:
    """p(x_i | the visible rest) of a net, made in one of the WAYS; documents: [B, L]."""

    net: HuggingFaceNet
    alphabet: Alphabet
    documents: Tensor
    way: str
    visible: Visible = Visible.DENOISE

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p [N, V] of the True cells of `at` (all of them by default)."""
        narrow, tail = WAYS[self.way]
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            hidden = self.net.hidden(tokens, documents=self.documents)
        at = torch.ones_like(tokens, dtype=torch.bool) if at is None else at
        return tail(self.net, hidden[at].float(), self.alphabet.mask)

    def rows(self, index: Tensor) -> Precise:
        """Some of the rows."""
        return Precise(self.net, self.alphabet, self.documents[index], self.way)

    def given(self, tokens: Tensor, upto: Tensor) -> Precise:
        """No cache."""
        del tokens, upto
        return self


# ---- weighing --------------------------------------------------------------------------------------------------------


def checkpoints(run: Path) -> Iterator[tuple[int, Path]]:
    """Every step whose weights a run keeps, ascending, with its directory."""
    found = {int(path.name.split("-")[1]): path for folder in ("kept", "checkpoints") for path in _saved(run / folder)}
    last = json.loads((run / "remask.json").read_text())["step"]
    yield from sorted({last: run, **found}.items())


def _saved(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if (path / "remask.json").is_file()]


def held_out(model: Checkpoint, text: Path, count: int) -> Rows:
    """Rows as long as in training, evenly spread over the text."""
    length = model.facts["recipe"]["text"]["length"]
    documents = read([str(text)])
    rows = pack(encode(model.tokenizer, [one.text for one in documents]), length, model.alphabet.end)
    return rows.select(spread(len(rows.tokens), count))


def both(model: Checkpoint, rows: Rows, draws: int, seed: int) -> dict[str, list[float]]:
    """Each row's bound in nats a token by each estimator, [R]."""
    conditional = model.conditional()
    stream, length = Stream.of(seed, len(rows.tokens)), rows.tokens.shape[1]
    return {
        name: (draws_of_rows(conditional, rows.tokens, stream, draws=draws, estimator=name).mean(1) / length).tolist()
        for name in ESTIMATORS
    }


def agree(runs: Sequence[Path], text: Path, out: Path, rows: int, draws: int) -> None:
    """Both estimators at every checkpoint."""
    for run in runs:
        for step, path in checkpoints(run):
            file = out / "agree" / f"{run.name}-{step}.json"
            if file.is_file():
                continue
            model = load(path)
            seed = len(list(file.parent.glob("*.json")))  # masks of its own
            found = both(model, held_out(model, text, rows), draws, seed)
            write(file, {"run": run.name, "step": step, "seed": seed, "draws": draws, **found})
            print(f"{run.name}, step {step}: weighed", flush=True)


def precision(runs: Sequence[Path], text: Path, out: Path, rows: int) -> None:
    """Every way on the last weights of each run: nats a masked cell by row and quarter, [R, 4]."""
    for run in runs:
        file = out / "precision" / f"{run.name}.json"
        if file.is_file():
            continue
        model = load(run)
        held = held_out(model, text, rows)
        stream, length = Stream.of(0, len(held.tokens)), held.tokens.shape[1]
        found = {}
        for way in WAYS:
            conditional = Precise(model.net, model.alphabet, held.documents, way)
            found[way] = (draws_of_rows(conditional, held.tokens, stream, draws=QUARTERS) / length).tolist()
        write(file, {"run": run.name, "nats": found})
        print(f"{run.name}: weighed in {len(WAYS)} ways", flush=True)


def write(path: Path, value: Any) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value) + "\n", encoding="utf-8")
    part.replace(path)


# ---- the report ------------------------------------------------------------------------------------------------------


def over_rows(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of [R] values."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def agreement(out: Path) -> Iterator[str]:
    """The estimators side by side, z, and the chi-square of all z."""
    rows, total, worst = [], 0.0, 0.0
    found = [json.loads(file.read_text()) for file in (out / "agree").glob("*.json")]
    for one in sorted(found, key=lambda one: (one["run"], one["step"])):
        count, time = (torch.tensor(one[name], dtype=torch.float64) for name in ESTIMATORS)
        gap, error = over_rows(time - count)
        sides = [f"{value:.4f} ± {wrong:.4f}" for value, wrong in map(over_rows, (count, time))]
        rows.append([one["run"], str(one["step"]), *sides, f"{gap:+.4f} ± {error:.4f}", f"{gap / error:+.2f}"])
        total, worst = total + (gap / error) ** 2, max(worst, abs(gap / error))
    yield table(["run", "step", "count, nats/token", "time, nats/token", "time - count (paired)", "z"], rows)
    chance = _tail(total, len(rows))
    yield f"{len(rows)} checkpoints: largest |z| {worst:.2f}, sum of z squared {total:.1f} (p = {chance:.2f})\n"


def _tail(total: float, freedom: int) -> float:
    """P(chi-square > total)."""
    try:
        from scipy.stats import chi2
    except ImportError as error:
        raise MissingExtra("scipy", "eval", "the probability of a chi-square") from error
    return float(chi2.sf(total, freedom))


def differences(out: Path) -> Iterator[str]:
    """What each way changes, in thousandths of a nat."""
    for file in sorted((out / "precision").glob("*.json")):
        one = json.loads(file.read_text())
        nats = {way: torch.tensor(values, dtype=torch.float64) for way, values in one["nats"].items()}
        base, error = over_rows(nats["float32"].mean(1))
        rows = []
        for way in [way for way in nats if way != "float32"]:
            gap = 1000 * (nats[way] - nats["float32"])
            cells = [over_rows(part) for part in (gap.mean(1), *gap.T)]
            rows.append([way, *(f"{value:+.3f} ± {wrong:.3f}" for value, wrong in cells)])
        yield f"{one['run']}: {base:.4f} ± {error:.4f} nats/token in float32; the others minus it, in 0.001 nats:\n"
        yield table(["way", "bound", "0-25 %", "25-50 %", "50-75 %", "75-100 %"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="*", help="directories of remask train mdlm (or mlm)")
    data = Path(os.environ.get("REMASK_DATA", "../shared/data"))
    parser.add_argument("--text", type=Path, default=data / "wikitext-2" / "valid.txt.gz")
    parser.add_argument("--rows", type=int, default=128, help="rows of the estimators")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--precise", type=int, default=2, help="how many of the runs are weighed in five ways")
    parser.add_argument("--precise-rows", type=int, default=256)
    parser.add_argument("--stage", choices=["all", "report"], default="all")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.stage == "all":
        agree(given.runs, given.text, given.out, given.rows, given.draws)
        precision(given.runs[: given.precise], given.text, given.out, given.precise_rows)
    print("\n".join([*agreement(given.out), *differences(given.out)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
