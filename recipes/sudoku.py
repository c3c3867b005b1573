"""Sudoku: one masked net, several orders of filling. Does it matter which cell is filled next?

    REMASK_DATA=... python recipes/sudoku.py train runs/sudoku [--minutes 66] [--resume]
    REMASK_DATA=... python recipes/sudoku.py solve runs/sudoku [--puzzles 300]
    python recipes/sudoku.py report runs/sudoku

Kim et al. 2025 (arXiv 2502.06768, section 4) train a masked net of 6 million parameters on Sudokus and fill one cell at
a time: 6.88 % are solved in random order, 18.51 % by top probability, 89.49 % by the margin of the two best digits.
Here: `remask train mdlm` for about a CPU hour on solved grids (40,000, eight random symmetries of each), then greedy
digits on test puzzles of 17 clues, and of more, revealed at random in the same puzzles. Every order fills the same
puzzles, so differences to random order are paired.

The net is a BERT with learned absolute positions (ModernBERT's rotary ones are relative: it cannot know a cell's place
but from where the row ends), 6 layers of 128, 1.2M parameters, whose start helps it: positions begin as one-hot codes
of row, column and box, and of the four heads of each layer one leans towards the row, one towards the column, one
towards the box. All of it stays free to change. Pilots of one to two minutes on busy cores, held-out nats a token:
without that help 2.08 after 1.5M tokens, codes alone 2.01, codes and heads 1.71 after 1.0M, and 1.33 after 0.4M with
louder digits and half the batch; `--net tiny` 1.82 after 0.8M. The uniform law over all grids has 0.61.

Hardware: one thread of a 2-core CPU with bfloat16: 66 minutes of training on a busy machine (57 of CPU, 36M tokens),
and for 300 puzzles in four orders 24 CPU minutes of solving.
Expected: margin far above random order and above top probability. Got (seed 0): margin and top probability alike far
above random order (22 clues: 81 %, 81 % and 3 %; 17 clues: 29 %, 30 % and 0 %); docs/results.md, "Sudoku".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import sudoku_data as data
from recipes import sudoku_report
from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas, infill
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Greedy
from remask.core.errors import BadData, UserError
from remask.core.sampler import Sampler, run
from remask.core.stream import Stream
from remask.data.tokenizers import character_tokenizer
from remask.samplers.ancestral import Ancestral
from remask.samplers.confidence import Confidence
from remask.samplers.first_hitting import FirstHitting
from remask.train.checkpoint import load
from remask.train.trainer import bfloat16_here

SEED, COPIES, CURVE = 0, 8, 500  # CURVE: the last test grids, which only the training curve sees
PILOTS = 500  # the first test grids, on which pilot runs were judged: never solved here
LENGTH = data.CELLS + 1  # a grid and its [END], so that every packed row is one grid
CLUES = (17, 22, 27, 32, 37, 45, 55)
TOGETHER, TOGETHER_CLUES = (2, 4, 8), (22, 32)  # several cells a step, on two levels
ROWS = 125  # rows of one forward pass
WIDTH, LAYERS, HEADS, LOOKING = 128, 6, 4, 3
FLAGS = [
    *("--document", "line", "--length", str(LENGTH), "--batch", "32", "--seed", str(SEED)),
    *("--learning-rate", "4e-3", "--rest-learning-rate", "3e-3", "--evaluations", "16", "--save-minutes", "5"),
]

ORDERS: dict[str, Callable[[int], Sampler]] = {
    "random": lambda steps: FirstHitting(draw=Greedy()),
    "top probability": lambda steps: Confidence(steps=steps, score="top_probability", draw=Greedy()),
    "margin": lambda steps: Confidence(steps=steps, score="margin", draw=Greedy()),
    "entropy": lambda steps: Confidence(steps=steps, score="entropy", draw=Greedy()),
}
"""Which cell is filled next: steps to sampler. With a step for every empty cell each fills one a step."""
SEVERAL = {**ORDERS, "random": lambda steps: Ancestral(steps=steps, draw=Greedy())}
"""The same with fewer steps than cells; first hitting has no such thing, and ancestral sampling is its limit."""


def start(directory: Path) -> None:
    """The untrained net, with positions and heads that know of rows, columns and boxes, as a checkpoint."""
    tokenizer = character_tokenizer(["123456789"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=96,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    torch.manual_seed(SEED)
    model = BertForMaskedLM(config)
    with torch.no_grad():
        _place(model)
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    file = directory / "config.json"  # plain products: 1.7 times as fast to train as torch's CPU flash kernel
    file.write_text(json.dumps({**json.loads(file.read_text()), "attn_implementation": "eager"}, indent=1))


def _place(model: Any) -> None:
    """Write the codes of row, column and box into the first 27 of a position's numbers, and heads that match them."""
    words, positions = (getattr(model.bert.embeddings, f"{kind}_embeddings").weight for kind in ("word", "position"))
    codes, each = LOOKING * data.SIDE, WIDTH // HEADS
    words[:, codes:] *= 3.5  # what a cell holds is to be louder than where it lies
    words[:, :codes] = 0
    positions[:, :codes] = 0
    for unit, cells in enumerate(data.units()):
        positions[torch.from_numpy(cells), unit] = 0.1
    for layer in model.bert.encoder.layer:
        for head in range(LOOKING):
            here = slice(head * each, head * each + data.SIDE), slice(head * data.SIDE, (head + 1) * data.SIDE)
            for part in (layer.attention.self.query, layer.attention.self.key):
                part.weight[here] += torch.eye(data.SIDE)


def prepare(out: Path, copies: int = COPIES) -> None:
    """Write the start, and the texts to train on and to draw the curve with; no test grid is in the former."""
    folder = data.data_folder()
    (_, train), (_, test) = (data.read_pairs(folder / f"{side}.csv.gz") for side in ("train", "test"))
    grids, relatives = data.training_grids(train, test, copies, SEED)
    if {grid.tobytes() for grid in test} & {grid.tobytes() for grid in grids}:
        raise BadData("a test grid stands in the training text: this recipe is broken, tell its authors.")
    print(f"{len(grids):,} grids; {relatives} of {len(train):,} left out as possible relatives of a test grid")
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.txt").write_text(data.to_text(grids), encoding="ascii")
    (out / "valid.txt").write_text(data.to_text(test[-CURVE:]), encoding="ascii")
    start(out / "start")


def train(out: Path, amount: Sequence[str], resume: bool = False) -> None:
    """Train the net, in a process of its own with one thread. amount: ("--minutes", "66") or ("--steps", "100")."""
    if not resume:
        prepare(out)
    texts = ["--data", str(out / "train.txt"), "--valid", str(out / "valid.txt"), "--init", str(out / "start")]
    command = [sys.executable, "-m", "remask.cli", "train", "mdlm", *texts, *FLAGS, *amount, "--out", str(out / "net")]
    command += ["--json", *(["--resume"] if resume else [])]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@dataclass(frozen=True)
class Quick:
    """The same law with bfloat16 products where the processor has them, as in training: twice as fast."""

    inner: Conditional

    @property
    def alphabet(self) -> Alphabet:
        """Its own."""
        return self.inner.alphabet

    @property
    def visible(self) -> Visible:
        """Its own."""
        return self.inner.visible

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_here(torch.device("cpu"))):
            return self.inner(tokens, at)

    def rows(self, index: Tensor) -> Quick:
        """Some of the rows."""
        return Quick(self.inner.rows(index))

    def given(self, tokens: Tensor, upto: Tensor) -> Quick:
        """With cells settled."""
        return Quick(self.inner.given(tokens, upto))


class Outcome(NamedTuple):
    """What became of n puzzles.

    solved: [n] bool; right: [n], how many of the empty cells got their digit; calls: network calls a puzzle.
    """

    solved: Tensor
    right: Tensor
    calls: float


def tokens_of(grids: data.Grids, tokenizer: Any) -> Tensor:
    """Grids as rows of ids, [n, 82]: empty cells are masks, the last cell is the end of the text."""
    ids = tokenizer.convert_tokens_to_ids([tokenizer.mask_token, *"123456789"])
    cells = torch.tensor(ids)[torch.from_numpy(grids.astype(np.int64))]
    return torch.cat([cells, torch.full((len(grids), 1), tokenizer.eos_token_id)], dim=1)


def fill(sampler: Sampler, conditional: Conditional, canvas: Canvas, solution: Tensor, seed: int = SEED) -> Outcome:
    """Fill a canvas [n, 82], and compare it with the solution."""
    stream = Stream.of(seed, len(canvas.tokens))
    filled, calls = canvas.tokens.clone(), 0.0
    for rows in torch.arange(len(filled)).split(ROWS):
        for state, info in run(sampler, conditional, canvas.rows(rows), stream.rows(rows)):
            filled[rows] = state.tokens
            calls += float(info.calls.sum())
    hit = filled == solution
    return Outcome(hit.all(1), (hit & canvas.unknown).sum(1), calls / len(filled))


def plan(orders: Sequence[str]) -> list[tuple[int, int, str]]:
    """All that is to be solved: clues, cells a step, order; one cell a step first."""
    single = [(clues, 1, order) for clues in CLUES for order in (*orders, *data.SINGLES)]
    return single + [(clues, cells, order) for clues in TOGETHER_CLUES for cells in TOGETHER for order in orders]


def by_net(model: Any, key: tuple[int, int, str], puzzles: data.Grids, solutions: data.Grids) -> Outcome:
    """What the net makes of puzzles."""
    clues, together, order = key
    canvas = infill(tokens_of(puzzles, model.tokenizer), model.alphabet)
    sampler = (ORDERS if together == 1 else SEVERAL)[order](-(-(data.CELLS - clues) // together))
    return fill(sampler, Quick(model.conditional()), canvas, tokens_of(solutions, model.tokenizer))


def by_rule(model: Any, key: tuple[int, int, str], puzzles: data.Grids, solutions: data.Grids) -> Outcome:
    """What simple reasoning makes of them."""
    del model
    hit = torch.from_numpy(data.by_singles(puzzles, data.SINGLES[key[2]]) == solutions)
    return Outcome(hit.all(1), (hit & torch.from_numpy(puzzles == 0)).sum(1), 0.0)


def solve(out: Path, count: int, orders: Sequence[str] = tuple(ORDERS)) -> dict[str, Any]:
    """Solve puzzles in every order and keep what came of each in OUT/outcomes.json; what is there is not done again."""
    puzzles, solutions = data.read_pairs(data.data_folder() / "test.csv.gz")
    chosen = slice(PILOTS, min(PILOTS + count, len(puzzles) - CURVE))
    puzzles, solutions = puzzles[chosen], solutions[chosen]
    model = load(out / "net")
    file = out / "outcomes.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    study = {"step": model.facts["step"], "puzzles": len(puzzles), "seed": SEED}
    if found.get("study", study) != study:
        raise BadData(f"{file} is of another net or other puzzles ({found['study']}): delete it to solve anew.")
    found = {"study": study, "facts": _facts(model.facts), "outcomes": found.get("outcomes", [])}
    done = {(one["clues"], one["together"], one["order"]) for one in found["outcomes"]}
    for key in plan(orders):
        if key in done:
            continue
        began = time.process_time()
        given = data.puzzle(puzzles, solutions, key[0], SEED)
        outcome = (by_rule if key[2] in data.SINGLES else by_net)(model, key, given, solutions)
        spent = {"calls": outcome.calls, "seconds": round(time.process_time() - began, 1)}
        each = {"solved": outcome.solved.int().tolist(), "right": outcome.right.tolist()}
        found["outcomes"].append({**dict(zip(("clues", "together", "order"), key)), **spent, **each})
        sudoku_report.write(file, json.dumps(found) + "\n")
        print(f"{key[0]} clues, {key[1]} a step, {key[2]}: {outcome.solved.double().mean():.3f}", flush=True)
    return found


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    kept = {name: facts[name] for name in ("step", "tokens", "seconds", "parameters", "command")}
    return {**kept, "nats": facts["metrics"]["nats_per_token"], "rows": facts["data"]["train"]["rows"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", choices=("train", "solve", "report"))
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--minutes", default="66", help="of training")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was cut off")
    parser.add_argument("--puzzles", type=int, default=300, help="to solve on every level")
    given = parser.parse_args(arguments)
    words: dict[str, Callable[[], Any]] = {
        "train": lambda: train(given.out, ("--minutes", given.minutes), given.resume),
        "solve": lambda: solve(given.out, given.puzzles),
        "report": lambda: print(sudoku_report.write_up(given.out)),
    }
    torch.set_num_threads(1)
    try:
        words[given.word]()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
