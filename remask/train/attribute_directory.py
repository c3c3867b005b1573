"""The directory of a fitted attribute classifier: weights as safetensors, and what it is of as JSON, written last.

It belongs to one model, which it knows by a fingerprint of that model's weights and of what is never written: p(a |
prefix) of another model, or of this one at another temperature, is another number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remask.core.decoder import CausalModel
from remask.core.errors import BadCheckpoint, BadInput, OutputExists
from remask.core.metric import finite
from remask.decoders.attributes import Attribute
from remask.decoders.conditional_beam import HeadPosterior
from remask.nets.attribute import AttributeHead, embeddings, network
from remask.train.checkpoint import STAGING, flush, flush_parent, saving
from remask.train.finetune_directory import staging

FACTS, WEIGHTS = "attribute.json", "attribute.safetensors"
WHAT = "attribute"
NEEDED = ("asks", "longest", "exact", "model", "width", "outcomes", "inner")


def fingerprint(model: CausalModel) -> str:
    """Of a model's weights, its end, and the ids that it never writes; BadInput for a model without weights."""
    digest = sha256()
    for name, tensor in sorted(network(model).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    silent = getattr(model, "silent", torch.empty(0)).tolist()
    digest.update(f"{model.size} {model.end} {getattr(model, 'start', None)} {silent}".encode())
    for name in ("ends", "begun"):  # those of most models are empty, and were not there once
        told = getattr(model, name, ())
        if len(told):
            digest.update(f"{name} {torch.as_tensor(told).tolist()}".encode())
    return digest.hexdigest()[:32]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything, unless it is a classifier and may be overwritten."""
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out} is a file: type another --out.")
    held = [path.name for path in out.iterdir() if path.name != STAGING] if out.is_dir() else []
    if not held:
        return
    if not _is_ours(out):
        raise OutputExists(f"{out} holds files that are not an attribute's classifier: type another --out.")
    if not overwrite:
        raise OutputExists(f"{out} holds a classifier: type --overwrite to replace it, or another --out.")


def _is_ours(out: Path) -> bool:
    try:
        return bool(_facts(out))
    except BadCheckpoint:
        return False


def write(out: Path, head: AttributeHead, facts: Mapping[str, Any]) -> None:
    """Save a classifier, each file in one rename and the facts last; what is not ours stays."""
    with staging(out) as staged, saving(out, "free some space and type the same command again"):
        save_file({name: x.detach().cpu().contiguous() for name, x in head.state_dict().items()}, staged / WEIGHTS)
        text = json.dumps(finite({"what": WHAT, **facts}), indent=1, ensure_ascii=False)
        (staged / FACTS).write_text(text + "\n", encoding="utf-8")
        flush(staged)
        (out / FACTS).unlink(missing_ok=True)  # from here to the last rename there is none rather than half of two
        for name in (WEIGHTS, FACTS):
            os.replace(staged / name, out / name)
        flush_parent(out / FACTS)


def _facts(path: Path) -> dict[str, Any]:
    """What a directory says of itself; BadCheckpoint where that is nothing."""
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(
            f"{path} is not an attribute's classifier ({FACTS} cannot be read): type the --out of remask train "
            "attribute."
        ) from error
    if not isinstance(facts, dict) or facts.get("what") != WHAT or not all(name in facts for name in NEEDED):
        raise BadCheckpoint(f"{path / FACTS} is damaged: fit the classifier again with remask train attribute.")
    return facts


def load_attribute(path: str | Path, model: CausalModel, attribute: Attribute) -> HeadPosterior:
    """The posterior of a saved classifier, for the attribute that is asked for or a part of it.

    Raises BadCheckpoint for a directory that is none, a damaged one, or one that
    belongs to another model, BadInput for one of another attribute.
    """
    path = Path(path)
    facts = _facts(path)
    if facts["model"] != fingerprint(model):
        raise BadCheckpoint(
            f"{path} was fitted to texts of another model (weights {facts['model'][:8]}): fit one to this model with "
            "remask train attribute."
        )
    asked = next((part for part in attribute.parts() if part.asks == facts["asks"]), None)
    if asked is None:
        raise BadInput(
            f"{path} knows the attribute {facts['asks']}, and {attribute.asks} was asked for: fit a classifier of that."
        )
    try:
        longest, exact, width, inner = (int(facts[name]) for name in ("longest", "exact", "width", "inner"))
        outcomes = asked.outcomes(longest, exact)
        head = AttributeHead(table := embeddings(model), width, outcomes.size, longest, inner)
        head.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(f"{path} is damaged ({reason}): fit the classifier again.") from error
    return HeadPosterior(head.to(table.device).eval(), outcomes, longest)
