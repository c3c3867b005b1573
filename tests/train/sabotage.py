"""What can happen to a process while it trains. Each function prepares a child (see runs.Child) before its command.

Only other people's functions are replaced: the ones that write and rename files.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def die() -> None:
    """Now, as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def halve(path: str | Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, Path(path).stat().st_size // 2)


def _at(count: int, fits: Callable[..., bool], real: Callable[..., Any], instead: Callable[..., Any]) -> Any:
    """`real`, but `instead` at the count-th call (from 1) whose arguments fit."""
    seen = 0

    def wrapped(*args: Any, **rest: Any) -> Any:
        nonlocal seen
        seen += fits(*args)
        return instead(*args, **rest) if seen == count and fits(*args) else real(*args, **rest)

    return wrapped


def in_weights(count: int) -> None:
    """Dies with half the weights of the count-th directory written."""
    import safetensors.torch as library

    real = library.serialize_file

    def instead(tensors: Any, name: Any, **rest: Any) -> None:
        real(tensors, name, **rest)
        halve(name)
        die()

    library.serialize_file = _at(count, lambda tensors, name: "model" in Path(name).name, real, instead)


def in_state(count: int, name: str = "optimizer.pt") -> None:
    """Dies with half of the count-th optimizer state written."""
    import torch

    real = torch.save

    def instead(value: Any, path: Any, **rest: Any) -> None:
        real(value, path, **rest)
        halve(path)
        die()

    torch.save = _at(count, lambda value, path: Path(path).name == name, real, instead)


def before_rename(count: int) -> None:
    """Dies when the count-th checkpoint is complete but has its temporary name."""
    real = os.replace
    os.replace = _at(count, lambda a, b: Path(b).name.startswith("checkpoint-"), real, lambda *_: die())


def in_publishing() -> None:
    """Dies when the final weights are in place and `remask.json` is not."""
    real = os.replace

    def instead(a: Any, b: Any) -> None:
        real(a, b)
        die()

    os.replace = _at(1, lambda a, b: Path(b).name == "model.safetensors", real, instead)


def in_pruning() -> None:
    """Dies while the oldest checkpoint is being deleted."""
    real = shutil.rmtree

    def instead(path: Any, **rest: Any) -> None:
        (Path(path) / "optimizer.pt").unlink()
        die()

    shutil.rmtree = _at(1, lambda path: Path(path).name.startswith("checkpoint-"), real, instead)


def after_step(number: int, which: int = signal.SIGKILL) -> None:
    """A signal comes when step `number` is done, whether or not it is saved."""
    from transformers.trainer_callback import CallbackHandler

    real = CallbackHandler.on_step_end

    def wrapped(self: Any, args: Any, state: Any, control: Any) -> Any:
        result = real(self, args, state, control)
        if state.global_step == number:
            os.kill(os.getpid(), which)
        return result

    CallbackHandler.on_step_end = wrapped


def shifted_order() -> None:
    """A planted bug: rows come one draw too late."""
    from remask.data.order import Order

    real = Order.take
    Order.take = lambda self, start, count: real(self, start + 1, count)


def small_disk(size: int) -> None:
    """No file may grow beyond `size` bytes: what is written beyond fails as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
