"""Opening a directory for whatever it holds: a language model, a detector, or just a trunk to go on from.

`checkpoint.load` insists on a head that predicts tokens; evaluation and --init do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint
from remask.nets.convert import seeded
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.recurrent import RecurrentNet, is_recurrent, open_recurrent
from remask.train.checkpoint import is_detector, load_net, open_model, quiet, read_facts, safe_config
from remask.train.hub import locate


class Opened(NamedTuple):
    """A checkpoint with any head; facts: what `remask.json` says, empty for foreign directories."""

    net: HuggingFaceNet | Detector | RecurrentNet
    tokenizer: Any
    alphabet: Alphabet
    facts: dict[str, Any]
    path: str


def open_net(path: str | Path) -> HuggingFaceNet | Detector:
    """The net of a directory, with the head that it has; BadCheckpoint when it has none that remask uses."""
    import transformers

    from remask.nets import directional

    config = safe_config(path)
    if not is_detector(config):
        return load_net(path)
    directional.register()
    opener = transformers.AutoModelForTokenClassification
    if config["architectures"][0] == "ElectraForPreTraining":
        opener = transformers.ElectraForPreTraining
    model, report = open_model(path, opener)
    if report["missing_keys"] or report["mismatched_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3]) or str(report["mismatched_keys"][0])
        raise BadCheckpoint(f"{path} lacks weights that its config asks for ({names} ...): take an undamaged copy.")
    return Detector(model.eval())


def open_trunk(path: str | Path, seed: int = 0) -> HuggingFaceNet | Detector:
    """A net to start from: any encoder, its head fresh where it has none that fits (a bare or fine-tuned encoder).

    seed: of that fresh head.
    """
    import transformers

    from remask.nets import directional
    from remask.nets.trunk import CAUSAL

    config = safe_config(path)
    if is_detector(config) or config["model_type"] in CAUSAL:
        return open_net(path)
    directional.register()
    with seeded(seed):
        model, report = open_model(path, transformers.AutoModelForMaskedLM)
    prefix = f"{model.base_model_prefix}."
    lost = sorted(
        k for k in [*report["missing_keys"], *(m[0] for m in report["mismatched_keys"])] if k.startswith(prefix)
    )
    if lost:
        raise BadCheckpoint(f"{path} lacks weights of its trunk ({', '.join(lost[:3])} ...): take an undamaged copy.")
    return HuggingFaceNet(model.eval())


def open_any(path: str | Path) -> Opened:
    """Open a directory, or `hf:NAME`, with its tokenizer."""
    from remask.data import tokenizers

    path = locate(path)
    with quiet():
        net = open_recurrent(path) if is_recurrent(path) else open_net(path)
        tokenizer = tokenizers.load(str(path))
    return Opened(
        net,
        tokenizer,
        tokenizers.alphabet(tokenizer, net.vocabulary, masked=not net.causal),
        read_facts(path),
        str(path),
    )
