"""`remask.train(...)`: the command's flags as keyword arguments."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from remask.core.errors import UnknownName
from remask.objectives import OBJECTIVES
from remask.train.checkpoint import Checkpoint, is_detector, load, read_config
from remask.train.hooks import Watch
from remask.train.opening import Opened, open_any
from remask.train.run import Recipe, Start, Text
from remask.train.run import train as run
from remask.train.settings import Training
from remask.train.translator import Translator, load_translator


def train(
    objective: str = "mdlm",
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda line: None,
    **flags: Any,
) -> Checkpoint | Opened | Translator:
    """Train a model and open it: a Checkpoint, or, of a run whose net detects and predicts no tokens, an Opened.

    A run of electra is such a one: its `net` is the discriminator, and `remask.load(out / "generator")` opens the
    generator. Where the discriminator predicts tokens (task="all-tokens" or "replace-mlm") it is a Checkpoint. A run on
    pairs is a Translator.
    flags: those of `remask train`, with underscores: the fields of Text, Start, Training and of the objective, for
    example data=["my.txt"], net="tiny", steps=1000. watch: called after every step. Raises UnknownName for a flag that
    nobody has, and the errors of core/errors.py.
    """
    rooms = {"text": Text, "start": Start, "training": Training, "fields": OBJECTIVES.load(objective)}
    owner = {f.name: room for room, kind in rooms.items() for f in fields(kind)}
    several = {f.name for kind in rooms.values() for f in fields(kind) if isinstance(f.default, tuple)}
    taken: dict[str, dict[str, Any]] = {room: {} for room in rooms}
    for name, value in flags.items():
        if name not in owner:
            raise UnknownName("flag", name, owner)
        taken[owner[name]][name] = _plain(value, name in several)
    recipe = Recipe(
        objective, Training(**taken["training"]), Text(**taken["text"]), Start(**taken["start"]), taken["fields"]
    )
    typed = ", ".join([repr(objective), f"out={str(out)!r}", *(f"{k}={v!r}" for k, v in flags.items())])
    run(recipe, out, resume=resume, overwrite=overwrite, watch=watch, command=f"remask.train({typed})")
    if recipe.text.pairs:
        return load_translator(out)
    return open_any(out) if is_detector(read_config(out)) else load(out)


def _plain(value: Any, several: bool) -> Any:
    """A flag's value as the command would read it: paths as text, one text where several may come as a tuple of one."""
    if several:
        return (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))
    return str(value) if isinstance(value, Path) else value
