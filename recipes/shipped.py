"""The model that ships with remask: trained on WikiText-2 and three novels, packed in 16 bits, with its model card.

    REMASK_DATA=... python recipes/shipped.py train runs/shipped --minutes 20
    python recipes/shipped.py pack runs/shipped [--draws 4] [--hardware "2 cores of ..."]
    python recipes/shipped.py card [--into remask/shipped]

train: writes the text (recipes/shipped_text.py) into OUT/text and runs `remask train mdlm` into OUT/run; typed again it
goes on where it was cut off. Flags that it does not know are handed on, for example --net tiny --batch 64 --seed 1.
pack: weighs the net on the held-out text, stores it in float16 and in bfloat16, keeps the one that costs less in the
bound (same rows, same masks), and writes weights, tokenizer, facts (remask.json) and card (README.md) in one rename.
card: writes the card again from the facts.

Hardware: two threads of a 2-core CPU with bfloat16, 20 minutes; 6x256, 7.0M parameters, 14 MB. Packing: 3 minutes.
Expected: see remask/shipped/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import shipped_text
from recipes.finished import finished
from recipes.shipped_card import CHECK, LINES, card
from remask.core.errors import BadCheckpoint, BadInput, UserError
from remask.core.metric import Estimate, ratio
from remask.core.stream import Stream
from remask.data.pack import Rows
from remask.data.pack import pack as pack_rows
from remask.data.tokenizers import encode
from remask.metrics.nelbo import draws_of_rows
from remask.metrics.units import in_units
from remask.train import checkpoint
from remask.train.evaluate import score
from remask.train.shipped import DIRECTORY

MOST = 16_000_000  # bytes of the whole folder
SPARE = 50_000  # of them, for facts and card
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FLAGS = (
    "--net",
    "mini",
    "--tokenizer",
    "bpe:8192",
    "--length",
    "128",
    "--batch",
    "16",
    "--seed",
    "0",
    "--low-rates",
    "0",
)
FLAGS += ("--evaluations", "4", "--save-minutes", "4")
COMMAND, COMMIT = "command.txt", "commit.txt"
CHECK_DRAWS = 32
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Weighed(NamedTuple):
    """A net's one-draw bounds on rows, nats, [R, draws]."""

    rows: Rows
    nats: Tensor

    def metrics(self) -> dict[str, Estimate]:
        """Nats per token, perplexity and bits per byte, errors over rows."""
        cells = torch.full((len(self.nats),), self.rows.tokens.shape[1])
        return dict(in_units(self.nats.mean(1), cells, self.rows.bytes))


# ---- training --------------------------------------------------------------------------------------------------------


def train(out: Path, more: Sequence[str], one_in: int = 1) -> None:
    """Train, or go on; nothing where the run is finished. one_in: of the documents only one in so many, for trials."""
    files = shipped_text.write(out / "text", one_in)
    run = out / "run"
    if finished(run):
        return
    some = ["--one-in", str(one_in)] if one_in > 1 else []
    typed = ["python", "recipes/shipped.py", "train", "runs/shipped", *some, *more]
    (out / COMMAND).write_text(shlex.join(typed) + "\n", "utf-8")
    if not (out / COMMIT).is_file():
        (out / COMMIT).write_text(commit() + "\n", "utf-8")
    held = [str(files[side]) for side in shipped_text.HELD]
    words = ["train", "mdlm", "--data", str(files["train"]), "--valid", *held]
    words += ["--resume"] if (run / "recipe.json").is_file() else []
    words += ["--out", str(run), *FLAGS, *more]
    threads = os.environ.get("OMP_NUM_THREADS", "2")
    subprocess.run(
        [sys.executable, "-m", "remask.cli", *words], check=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )


# ---- packing ---------------------------------------------------------------------------------------------------------


def weigh(model: checkpoint.Checkpoint, texts: Sequence[str], draws: int, name: str) -> Weighed:
    """The bound of packed rows, the same masks for every net."""
    rows = pack_rows(encode(model.tokenizer, texts), model.length, model.alphabet.end, name)
    conditional = model.conditional()
    return Weighed(rows, draws_of_rows(conditional, rows.tokens, Stream.of(0, len(rows.tokens)), draws=draws))


def check(model: checkpoint.Checkpoint) -> Estimate:
    """The bound of a short text that is always at hand, so that a test can tell whether the card is true."""
    (found,) = score(model, [CHECK], draws=CHECK_DRAWS)
    return found


def rounded(run: Path, kind: str) -> dict[str, Tensor]:
    """The weights of a run in 16 bits."""
    weights = load_file(run / checkpoint.WEIGHTS)
    return {name: w.to(KINDS[kind]) if w.is_floating_point() else w for name, w in weights.items()}


def stage(run: Path, folder: Path, kind: str) -> Path:
    """A checkpoint directory of the rounded weights; BadInput where they are too many."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in FILES:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    save_file(rounded(run, kind), folder / checkpoint.WEIGHTS, metadata={"format": "pt"})
    size = SPARE + sum(file.stat().st_size for file in folder.iterdir())
    if size > MOST:
        raise BadInput(f"the folder comes to {size:,} bytes, and {MOST:,} may ship: train a smaller --net.")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone, and whoever installs is often not who uses
    return folder


def difference(ours: Weighed, theirs: Weighed) -> Estimate:
    """How many nats a token one net costs more than another, paired over rows and masks."""
    total = (ours.nats - theirs.nats).mean(1).tolist()
    return ratio(total, [float(ours.rows.tokens.shape[1])] * len(total), "nats/token")


def examples(model: checkpoint.Checkpoint) -> list[dict[str, Any]]:
    """What `remask fill` makes of a few lines."""
    from remask.cli import fill

    words, _ = fill.build([])
    found = []
    for line in LINES:
        record = next(fill.fillings(model, words.parse_args([model.path, line])))
        found.append({"asked": line, **{key: record[key] for key in ("text", "candidates")}})
    return found


def commit() -> str:
    """The commit of the working tree, with a + where a file of it was changed; "unknown" outside of git."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parents[1])]
    asked = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "remask", "recipes"])
    try:
        name, changed = (
            subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip() for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def plain(value: Any) -> Any:
    """Facts without the folders of the machine that they came from: of a path, its last name."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return Path(value).name if isinstance(value, str) and value.startswith((os.sep, "..")) else value


def facts_of(out: Path) -> dict[str, Any]:
    """The facts of a finished run, fit to be passed on; BadCheckpoint for one that is not finished."""
    facts = plain(checkpoint.read_facts(out / "run"))
    if not finished(out / "run") or not (out / COMMAND).is_file():
        raise BadCheckpoint(f"{out} holds no finished run: type recipes/shipped.py train {out} (again).")
    text = facts["recipe"]["text"]
    text["data"], text["valid"] = ([Path(name).name for name in text[side]] for side in ("data", "valid"))
    facts["data"].pop("held_out", None)  # two sources, named in the card
    notes = json.loads((out / "text" / shipped_text.NOTES).read_text("utf-8"))
    return {**facts, "command": (out / COMMAND).read_text("utf-8").strip(), "wikitext": notes}


def measured(run: Path, held: Mapping[str, Sequence[str]], staged: Path, draws: int) -> dict[str, Any]:
    """Round in both ways, weigh each, and leave the better one in `staged`; what was found."""
    exact = {side: weigh(checkpoint.load(run), texts, draws, side) for side, texts in held.items()}
    costs: dict[str, dict[str, Estimate]] = {}
    weighed: dict[str, dict[str, Weighed]] = {}
    for kind in KINDS:
        model = checkpoint.load(stage(run, staged, kind))
        weighed[kind] = {side: weigh(model, texts, draws, side) for side, texts in held.items()}
        costs[kind] = {side: difference(weighed[kind][side], exact[side]) for side in held}
    best = min(KINDS, key=lambda kind: sum(abs(one.value) for one in costs[kind].values()))
    model = checkpoint.load(stage(run, staged, best))
    return {
        "stored": best,
        "draws": draws,
        "held_out": {side: {k: e.json() for k, e in one.metrics().items()} for side, one in weighed[best].items()},
        "rounding": {kind: {side: e.json() for side, e in cost.items()} for kind, cost in costs.items()},
        "check": {**check(model).json(), "bytes": len(CHECK.encode()), "draws": CHECK_DRAWS},
        "examples": examples(model),
    }


def pack(out: Path, into: Path, draws: int, hardware: str) -> dict[str, Any]:
    """Weigh, round, and write the folder that ships; returns its facts."""
    run, staged = out / "run", into.with_name(f".{into.name}.staging")
    facts = facts_of(out)
    held = {side: shipped_text.texts(out / "text" / f"{side}.jsonl") for side in shipped_text.HELD}
    try:
        found = measured(run, held, staged, draws)
        made = {
            "date": date.today().isoformat(),
            "commit": (out / COMMIT).read_text("utf-8").strip(),
            "hardware": hardware,
        }
        facts["shipped"] = {**made, **found}
        (staged / checkpoint.FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (staged / "README.md").write_text(card(facts), "utf-8")
        checkpoint.commit(staged, into, training=False)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return checkpoint.read_facts(into)


def write_card(into: Path) -> None:
    """The card again, from the facts."""
    part = into / "README.md.part"
    part.write_text(card(checkpoint.read_facts(into)), "utf-8")
    os.replace(part, into / "README.md")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=("train", "pack", "card"))
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--into", type=Path, default=DIRECTORY)
    parser.add_argument("--one-in", type=int, default=1, help="train on one document in so many, for trials")
    parser.add_argument("--draws", type=int, default=4, help="masks for each held-out row, when packing")
    parser.add_argument("--hardware", default="CPU", help="what trained it, in words, for the card")
    given, more = parser.parse_known_args(arguments)
    if given.what != "train" and more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if given.what == "card":
        return write_card(given.into)
    if given.out is None:
        parser.error("OUT is missing: name the folder of the run")
    if given.what == "train":
        return train(given.out, more, given.one_in)
    facts = pack(given.out, given.into, given.draws, given.hardware)
    print(json.dumps(facts["shipped"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"shipped: {error}")
