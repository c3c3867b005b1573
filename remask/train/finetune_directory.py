"""The directory of a fine-tuned model: everything is staged inside it and renamed at the end, facts last.

Until then an old model there stays whole, and nothing that a fine-tuning did not write is ever touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from remask.core.errors import BadInput, OutputExists, SaveFailed
from remask.core.metric import finite
from remask.train.checkpoint import FACTS, STAGING, flush, flush_parent, quiet, sound
from remask.train.directory import RECIPE

WHAT = "finetune"  # what remask.json and recipe.json say they are of
FIRST, LAST = (RECIPE,), ("config.json", FACTS)  # in this order files are renamed; the model opens with the last


def _read(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_free(out: str | Path, overwrite: bool) -> None:
    """Refuse a place that holds anything, unless it is a fine-tuned model and may be overwritten."""
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise OutputExists(f"{path} is a file: type another --out.")
    if not path.is_dir() or all(entry.name == STAGING for entry in path.iterdir()):
        return
    if not any(_read(path / name).get("what") == WHAT for name in (FACTS, RECIPE)):
        raise OutputExists(f"{path} holds files that are not a fine-tuned model of remask: type another --out.")
    if not overwrite:
        raise OutputExists(f"{path} holds a fine-tuned model: type --overwrite to replace it, or another --out.")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A scratch folder inside `out`, gone afterwards; and `out` too if it is new and still empty."""
    new = [path for path in (out, *out.parents) if not path.exists()]
    staged = out / STAGING / WHAT
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"nothing can be written to {out} ({error.strerror or error}): type another --out.") from error
    try:
        yield staged
    finally:
        shutil.rmtree(out / STAGING, ignore_errors=True)
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def _saving(out: Path) -> Iterator[None]:
    """A disk that would not take it becomes one sentence."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SaveFailed(
            f"saving to {out} failed ({reason}): free some space and type the same command again; what was there "
            "before is untouched."
        ) from error


def publish(
    staged: Path,
    out: Path,
    model: Any,
    tokenizer: Any,
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
    further: Callable[[Path], None],
) -> None:
    """Write a model into `staged`, check it, and rename its files into `out`.

    further: writes more files into the folder it is given (the report). Files of the model that stood there before and
    that the new one does not have go. Raises OutputExists where a file that is not ours has a name that is needed.
    """
    target = staged / "model"
    with _saving(out):
        target.mkdir()
        with quiet():
            model.save_pretrained(str(target))
        tokenizer.save_pretrained(str(target))
        further(target)
        files = sorted([*(file.name for file in target.iterdir()), RECIPE, FACTS])
        for name, content in ((RECIPE, recipe), (FACTS, facts)):
            _write(target / name, {"what": WHAT, **content, "files": files})
        flush(target)
        if not sound(target, training=False):
            raise SaveFailed(f"what was written to {target} is not whole; what was in {out} before is untouched.")
        before = _before(out)
        if others := [name for name in files if (out / name).exists() and name not in before]:
            raise OutputExists(f"{out} holds a file '{others[0]}' that is not of a fine-tuned model: move it away.")
        middle = [name for name in files if name not in (*FIRST, *LAST)]
        for name in reversed(LAST):  # from here to the last rename there is no model rather than half of two
            (out / name).unlink(missing_ok=True)
        for name in (*FIRST, *middle, *LAST):
            os.replace(target / name, out / name)
        for name in before - set(files):
            (out / name).unlink(missing_ok=True)
        flush_parent(out / FACTS)


def _before(out: Path) -> set[str]:
    """Names of the files that an earlier fine-tuning wrote here; one that was killed may have left its recipe only."""
    notes = [found for found in (_read(out / FACTS), _read(out / RECIPE)) if found.get("what") == WHAT]
    names = [name for found in notes for name in found.get("files", []) if isinstance(name, str)]
    return {name for name in names if name == Path(name).name and name != ".."}


def _write(file: Path, what: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(finite(what), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
