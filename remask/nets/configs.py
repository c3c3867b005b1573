"""What a checkpoint's config.json may say before anything is built from it: a known family, and no code from elsewhere.

One sentence of help for each thing that is wrong; nothing here imports a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remask.core.errors import BadCheckpoint
from remask.nets.heads import FAMILIES

WEIGHTS = "model.safetensors"


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a checkpoint; BadCheckpoint when the directory has none or a broken one."""
    path = Path(path)
    if not path.is_dir():
        raise BadCheckpoint(f"there is no checkpoint directory at {path}: type the directory that --out named.")
    file = path / "config.json"
    if not file.is_file():
        raise BadCheckpoint(
            f"{path} holds no config.json, so it is not a checkpoint: type the directory of a finished run."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError("no model_type in it")
    except (ValueError, OSError, RecursionError) as error:
        raise BadCheckpoint(f"{file} is damaged ({error}): restore it, or train again into another --out.") from error
    return config


def check_family(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise BadCheckpoint unless remask knows where the family keeps its head, and the model sees both sides."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise BadCheckpoint(f"{path} is a '{family}' model: remask opens {', '.join(FAMILIES)}.")
    if config.get("is_decoder"):
        raise BadCheckpoint(
            f"{path} says is_decoder in its config.json, so it sees no text to the right: type another."
        )


def check_attention(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise BadCheckpoint where a config names attention code of the hub: transformers would fetch it and run it."""
    for key, value in config.items():
        if key.endswith("_implementation") and "/" in str(value):
            raise BadCheckpoint(
                f"{path} asks for attention code from the hub ({value}): remask runs no code that a checkpoint names; "
                f"delete {key} from its config.json."
            )


def check_weights(path: str | Path) -> None:
    """Raise BadCheckpoint unless there are weights in safetensors, whole or in shards."""
    if not (Path(path) / WEIGHTS).is_file() and not (Path(path) / f"{WEIGHTS}.index.json").is_file():
        raise BadCheckpoint(
            f"{path} holds no {WEIGHTS}: remask reads safetensors only, since other formats can run code."
        )
