"""A run's directory: whose it is, what may be deleted in it, and whether it may be gone on with.

Nothing that a run did not write is ever deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from remask.core.errors import BadInput, OutputExists
from remask.objectives import OBJECTIVES
from remask.train import checkpoint
from remask.train.recipe import OF_PAIRS, Start, Text
from remask.train.settings import Training

RECIPE = "recipe.json"
MAY_CHANGE = frozenset(  # on --resume: how long, how often, and what a run that diverged must lower
    {"steps", "minutes", "save_minutes", "save_steps", "evaluations", "learning_rate", "rest_learning_rate", "clip"}
)

OURS = (  # what a run writes into its directory
    *("recipe.json", "recipe.json.part", "remask.json", "history.jsonl", "history.jsonl.part", "report.html"),
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
    *("generator/config.json", "generator/generation_config.json", "generator/model*.safetensors"),
    *(
        f"generator/{name}"
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
    ),
    *(f"generator/{name}" for name in ("vocab.json", "merges.txt", "spiece.model", "spm.model", "added_tokens.json")),
    *(
        f"generator/{name}"
        for name in ("model.safetensors.index.json", "sentencepiece.bpe.model", "chat_template.jinja")
    ),
    *(
        "base/config.json",
        "base/generation_config.json",
        "base/model*.safetensors",
        "base/model.safetensors.index.json",
    ),
    *(f"base/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")),
    *(f"base/{name}" for name in ("vocab.json", "merges.txt", "spiece.model", "spm.model", "added_tokens.json")),
    *(f"base/{name}" for name in ("sentencepiece.bpe.model", "chat_template.jinja")),
    *("checkpoints/checkpoint-*", "tensorboard/events.out.tfevents.*", checkpoint.STAGING),
)


def claim(out: str | Path, recipe: Mapping[str, Any], resume: bool, overwrite: bool) -> Path:
    """Make the output directory ours, or refuse; returns it with the recipe written."""
    run = Path(out)
    if resume and overwrite:
        raise BadInput("--resume and --overwrite came together: type one of them.")
    if run.exists() and not run.is_dir():
        raise OutputExists(f"{run} is a file: type another --out.")
    occupied = run.is_dir() and any(path.name != f"{RECIPE}.part" for path in run.iterdir())
    if occupied and not _is_run(run):
        raise OutputExists(f"{run} holds files that are not a remask run: type another --out.")
    if occupied and not resume and not overwrite:
        raise OutputExists(
            f"{run} holds another run: type --resume to go on with it, --overwrite to replace it, or another --out."
        )
    if resume and not (run / RECIPE).is_file():
        raise BadInput(
            f"there is no run to resume in {run}: type the directory of a started run, or leave out --resume."
        )
    if resume:
        _same(run, recipe)
        return run
    try:
        _erase(run)
        run.mkdir(parents=True, exist_ok=True)
        save_recipe(run, recipe)
    except OSError as error:
        raise BadInput(f"nothing can be written to {run} ({error.strerror or error}): type another --out.") from error
    return run


def _read_recipe(run: Path) -> dict[str, Any] | None:
    """The recipe that a run was started with; None where there is none of ours."""
    try:
        recipe = json.loads((run / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    rooms = {"objective", "fields", "text", "start", "training"}
    return recipe if isinstance(recipe, dict) and rooms <= set(recipe) else None


def _is_run(run: Path) -> bool:
    return _read_recipe(run) is not None or (run / checkpoint.FACTS).is_file() or checkpoint.newest(run) is not None


def _erase(run: Path) -> None:
    """Delete what a run wrote; whatever else lies in its directory is somebody else's and stays."""
    for pattern in OURS:
        for path in run.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in ("checkpoints", "tensorboard", "generator", "base"):
        if (run / name).is_dir() and not any((run / name).iterdir()):
            (run / name).rmdir()


def save_recipe(run: Path, recipe: Mapping[str, Any]) -> None:
    """Write recipe.json in one rename."""
    temporary = run / f"{RECIPE}.part"
    temporary.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, run / RECIPE)


def _unsaid(room: str, objective: str) -> dict[str, Any]:
    """What the recipe of an older remask means where it says nothing."""
    kinds = {"text": Text, "start": Start, "training": Training}
    if room == "fields" and objective in OBJECTIVES:
        kinds = {room: OBJECTIVES.load(objective)}
    if room not in kinds:
        return {}
    found = {f.name: f.default for f in fields(kinds[room]) if f.default is not MISSING}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    older = {"start": {"causal_first": 0.0, **OF_PAIRS}, "fields": {"low_rates": 0.0} if "low_rates" in found else {}}
    return {**found, **older.get(room, {})}


def _same(run: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse to resume with another recipe."""
    before, now = _read_recipe(run), recipe
    if before is None:
        raise BadInput(f"{run / RECIPE} is damaged, so nothing can be resumed: type --overwrite to start anew.")
    for room in ("objective", "fields", "text", "start", "training"):
        old, new = before[room], now[room]
        if not isinstance(old, dict):
            old, new = {room: old}, {room: new}
        unsaid = _unsaid(room, before.get("objective", ""))
        old, new = {**unsaid, **old}, {**unsaid, **new}
        for name in sorted(set(old) | set(new)):
            if name not in MAY_CHANGE and old.get(name) != new.get(name):
                raise BadInput(
                    f"{run} was started with {name} = {old.get(name)!r} and now {new.get(name)!r} came: "
                    "resume with the same flags, or type --overwrite to start anew."
                )
