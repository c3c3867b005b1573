"""History: the points of a training curve, in `history.jsonl`, one JSON object a line; and TensorBoard if it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from remask.core.metric import Estimate

FILE = "history.jsonl"


class History:
    """Appends points; on resume, forgets the ones after the step that training goes on from.

    writes: False on all but one of several processes.
    """

    def __init__(self, run: Path, resume_step: int, writes: bool = True):
        self.path, self.writes = run / FILE, writes
        self._board: Any = None
        if not writes:
            return
        kept = [p for p in read(run) if p["step"] <= resume_step] if resume_step else []
        self.path.write_text("".join(json.dumps(p) + "\n" for p in kept), encoding="utf-8")
        self._board = _board(run, resume_step)

    def add(self, **point: Any) -> None:
        """One point: step, tokens, seconds and what was measured."""
        if not self.writes:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
        if self._board is not None:
            for name, value in point.items():
                if name not in ("step", "tokens", "seconds"):
                    self._board.add_scalar(name, value, point["step"])

    def bound(self, step: int, tokens: int, seconds: float, metrics: dict[str, Estimate]) -> None:
        """A point of the held-out bound."""
        values = {name: e.value for name, e in metrics.items()}
        errors = {f"{name}_stderr": e.stderr for name, e in metrics.items()}
        self.add(step=step, tokens=tokens, seconds=seconds, **values, **errors)

    def close(self) -> None:
        """Flush."""
        if self._board is not None:
            self._board.close()


def _board(run: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is an extra; history.jsonl holds the same points
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=resume_step or None)


def read(run: str | Path) -> list[dict[str, Any]]:
    """The points of a run, oldest first; a line that a crash cut short is left out."""
    path = Path(run) / FILE
    points = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            points.append(json.loads(line))
        except ValueError:
            continue
    return points
