"""Checkpoints: Hugging Face directories plus `remask.json`, written so that nothing good is ever lost.

A run's directory is itself a checkpoint (the newest finished weights) and holds `checkpoints/checkpoint-N` with the
training state to resume from. Every directory is written under a temporary name, flushed, checked and renamed; a
partial one is never picked. Weights are safetensors, training state is read with `weights_only=True`, remote code is
never run.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from remask.core.alphabet import Alphabet
from remask.core.conditional import Conditional
from remask.core.errors import BadCheckpoint, BadInput, SaveFailed
from remask.nets.blockwise import FAMILY as BLOCKS
from remask.nets.blockwise import BlockNet
from remask.nets.configs import WEIGHTS, check_attention, check_family, check_weights, read_config
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import GENERATOR, RAW, Pair
from remask.nets.recurrent import BASE, RecurrentNet, is_recurrent, open_recurrent
from remask.nets.recurrent import FAMILY as RECURRENT

FACTS = "remask.json"
STAGING = ".staging"
STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", FACTS)


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    facts: what `remask.json` says (objective, recipe, data fingerprint, metrics), empty for foreign directories.
    """

    net: HuggingFaceNet | RecurrentNet
    tokenizer: Any
    alphabet: Alphabet
    facts: dict[str, Any]
    path: str

    @property
    def length(self) -> int:
        """The longest row the net can read."""
        return self.net.length

    def conditional(self, **rest: Any) -> Conditional:
        """p(x_i | the visible rest); BadInput for a causal net or one of blocks, which have none."""
        from remask.nets.conditional import NetConditional

        if self.net.causal or isinstance(self.net, RecurrentNet):
            raise BadInput(
                f"{self.path} is an autoregressive net, which cannot fill masks: use a masked one, "
                "or remask decode for text from left to right."
            )
        if isinstance(self.net, BlockNet):
            raise BadInput(
                f"{self.path} is a net of blocks, which sees nothing behind the block that it fills: type "
                "--sampler blocks, or take a masked net."
            )
        return NetConditional(self.net, self.alphabet, **rest)

    def in_blocks(self, cache: bool = True) -> Conditional:
        """p(x_i | the visible rest of its block, the blocks before it), with the exact cache or without it.

        BadInput for nets that are no nets of blocks.
        """
        from remask.nets.block_conditional import BlockConditional, need_blocks

        return BlockConditional(need_blocks(self.net), self.alphabet, cache)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' notes and progress bars, for things that take a moment."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def safe_config(path: str | Path) -> dict[str, Any]:
    """The config of a directory that can be opened without running code from it; BadCheckpoint for any other."""
    config = read_config(path)
    check_family(config, path)
    check_attention(config, path)
    check_weights(path)
    return config


def open_model(path: str | Path, opener: Any) -> tuple[Any, dict[str, Any]]:
    """A transformers model of a checked directory, and what its loading reported; BadCheckpoint when it is damaged."""
    try:
        with quiet():
            return opener.from_pretrained(
                str(path), trust_remote_code=False, use_safetensors=True, output_loading_info=True, dtype="float32"
            )
    except Exception as error:  # transformers, safetensors and json each raise their own kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadCheckpoint(f"{path} cannot be opened ({first}): the weights or the config are damaged.") from error


def load_net(path: str | Path, *, causal: bool | None = None) -> HuggingFaceNet:
    """The net of any checkpoint that transformers can open without running code from it.

    causal: True or False to insist on a causal or a masked head, None to follow the config.
    """
    import transformers

    from remask.nets import directional
    from remask.nets.trunk import CAUSAL

    config = safe_config(path)
    if is_detector(config):
        raise BadCheckpoint(
            f"{path} is a replaced-token detector, which predicts no tokens: its generator does, type "
            f"{Path(path) / GENERATOR} if there is one."
        )
    family = config["model_type"]
    is_causal = family in CAUSAL
    if causal is not None and causal != is_causal:
        wanted, came = ("a causal", "a masked") if causal else ("a masked", "a causal")
        raise BadCheckpoint(
            f"{path} is {came} model ('{family}') and this objective needs {wanted} one: type another --init."
        )
    directional.register()
    opener = transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForMaskedLM
    model, report = open_model(path, opener)
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join(missing[:3]) or str(report["mismatched_keys"][0])
        raise BadCheckpoint(
            f"{path} lacks weights that its config asks for ({names} ...): it has no usable prediction head."
        )
    return BlockNet(model.eval()) if family == BLOCKS else HuggingFaceNet(model.eval())


def load(path: str | Path) -> Checkpoint:
    """Open a checkpoint, a directory or `hf:NAME`: ours, or any Hugging Face masked language model with a tokenizer."""
    from remask.data import tokenizers
    from remask.train.hub import locate

    path = locate(path)

    with quiet():  # transformers does not know every family of ours
        net = open_recurrent(path) if is_recurrent(path) else load_net(path)
        tokenizer = tokenizers.load(str(path))
    return Checkpoint(
        net,
        tokenizer,
        tokenizers.alphabet(tokenizer, net.vocabulary, masked=not net.causal),
        read_facts(path),
        str(path),
    )


def read_facts(path: str | Path) -> dict[str, Any]:
    """What `remask.json` of a directory says; empty where there is none."""
    file = Path(path) / FACTS
    try:
        facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not isinstance(facts, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError, RecursionError) as error:
        raise BadCheckpoint(f"{file} is damaged ({error}): restore it or delete it.") from error
    return facts


def is_detector(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a model with one score a token."""
    name = (config.get("architectures") or [""])[0]
    one = len(config.get("id2label") or {0: "", 1: ""}) == 1 or config.get("num_labels") == 1
    return name == "ElectraForPreTraining" or (name.endswith("ForTokenClassification") and one)


def write_net(
    directory: str | Path,
    net: HuggingFaceNet | Detector | Pair,
    tokenizer: Any,
    facts: Mapping[str, Any],
    *,
    training: bool = False,
) -> None:
    """Write config, weights, tokenizer and facts into a directory, in place.

    training: with what training goes on from, where that is more than the weights of a plain model.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with quiet():
        written = net.save(directory, training=training)
    for place in written:
        tokenizer.save_pretrained(str(place))
    (directory / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def flush(directory: Path) -> None:
    """Force every file of a directory, and the directory, to the disk."""
    for file in [*directory.rglob("*"), directory]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _family(directory: Path) -> str | None:
    """What a directory's config says that it is; None where it cannot be read."""
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"]  # type: ignore[no-any-return]
    except (ValueError, OSError, KeyError, TypeError):
        return None


def sound(directory: Path, training: bool = True) -> bool:
    """Whether a checkpoint directory is whole: every file there and readable to its end."""
    raw = (RAW,) if training and (directory / GENERATOR).is_dir() else ()
    wanted = ("config.json", WEIGHTS, *raw, *(STATE if training else (FACTS,)))
    if (directory / GENERATOR).is_dir():
        wanted += (f"{GENERATOR}/config.json", f"{GENERATOR}/{WEIGHTS}")
    if (directory / BASE).is_dir() or _family(directory) == RECURRENT:
        wanted += (f"{BASE}/config.json", f"{BASE}/{WEIGHTS}")
    if not all((directory / name).is_file() for name in wanted):
        return False
    states = [*directory.glob("*.pt"), *directory.glob("rng_state*.pth")] if training else []
    if training and not any(state.suffix == ".pth" for state in states):  # one for each process
        return False
    try:
        for name in wanted:
            if name.endswith(".json"):
                json.loads((directory / name).read_text(encoding="utf-8"))
        named = [directory / name for name in wanted if name.endswith(WEIGHTS)]
        weights = [*directory.rglob("*.safetensors")] if training else named
        return all(map(_whole, weights)) and all(map(zipfile.is_zipfile, states))  # a zip's directory comes last
    except (ValueError, OSError, KeyError, AttributeError, TypeError, IndexError):
        return False


def _whole(weights: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(head)) if head < size else {}
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + head + max(ends)


def commit(staged: Path, final: Path, training: bool = True) -> None:
    """Flush, check, and rename a staged directory to its final name."""
    flush(staged)
    if not sound(staged, training):
        raise SaveFailed(f"what was written to {staged} is not whole; the last good checkpoint is untouched.")
    if final.exists():
        shutil.rmtree(final)
    os.replace(staged, final)
    flush_parent(final)


def flush_parent(path: Path) -> None:
    """Make a rename itself durable."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(directory: Path, net: HuggingFaceNet | Detector | Pair, tokenizer: Any, facts: Mapping[str, Any]) -> None:
    """Make a run's directory the checkpoint of these weights: each file replaced in one rename, facts last."""
    staged = directory / STAGING / "publish"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with saving(directory):
            write_net(staged, net, tokenizer, facts)
            flush(staged)
            if not sound(staged, training=False):
                raise SaveFailed(f"what was written to {staged} is not whole; the last good checkpoint is untouched.")
            files = [f.relative_to(staged) for f in staged.rglob("*") if f.is_file()]
            for file in sorted(files, key=lambda f: (f.name == FACTS, str(f))):
                (directory / file).parent.mkdir(exist_ok=True)
                os.replace(staged / file, directory / file)
            for place in {(directory / file).parent for file in files}:
                flush_parent(place / FACTS)
    finally:
        shutil.rmtree(directory / STAGING, ignore_errors=True)


RESUME = "free some space and type the same command with --resume; the last good checkpoint is untouched"


@contextmanager
def saving(directory: Path, remedy: str = RESUME) -> Iterator[None]:
    """Around whatever writes to a run: a disk that would not take it becomes one sentence, which ends in `remedy`."""
    try:
        yield
    except Exception as error:
        # torch says RuntimeError, safetensors has its own, and tokenizers raises a bare Exception
        if not isinstance(error, OSError | RuntimeError | SafetensorError) and type(error) is not Exception:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SaveFailed(f"saving to {directory} failed ({reason}): {remedy}.") from error


def newest(run: str | Path) -> Path | None:
    """The newest whole training checkpoint of a run, or None."""
    return next(filter(sound, _numbered(run)), None)


def _numbered(run: str | Path) -> list[Path]:
    """Training checkpoints, whole or not, the newest first."""
    found = (Path(run) / "checkpoints").glob("checkpoint-*")
    numbered = [(int(p.name.rsplit("-", 1)[1]), p) for p in found if p.name.rsplit("-", 1)[1].isdecimal()]
    return [path for _, path in sorted(numbered, reverse=True)]


def prune(run: str | Path, keep: int = 2) -> None:
    """Delete the training checkpoints that are older than the newest `keep` whole ones."""
    paths = _numbered(run)
    whole = [at for at, path in enumerate(paths) if sound(path)]
    for path in paths[whole[keep - 1] + 1 :] if len(whole) >= keep else []:
        shutil.rmtree(path, ignore_errors=True)
