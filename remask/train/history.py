"""History: the points of a training curve, in `history.jsonl`, one JSON object a line; and in TensorBoard."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remask.core.metric import Estimate
from remask.train.checkpoint import saving

FILE = "history.jsonl"
PLACE = ("step", "tokens", "seconds")  # where a point lies; the rest of it is what was measured


class History:
    """Appends points; on resume, forgets the ones after the step that training goes on from.

    writes: False on all but one of several processes. Raises SaveFailed where the disk is full.
    """

    def __init__(self, run: Path, resume_step: int, writes: bool = True):
        self.run, self.writes = run, writes
        self._board: _Board | None = None
        if not writes:
            return
        with saving(run):
            self._rewrite([p for p in read(run) if p["step"] <= resume_step] if resume_step else [])
            self._board = _board(run, resume_step)

    def _rewrite(self, points: Sequence[Mapping[str, Any]]) -> None:
        temporary = self.run / f"{FILE}.part"
        temporary.write_text("".join(json.dumps(p) + "\n" for p in points), encoding="utf-8")
        os.replace(temporary, self.run / FILE)

    def add(self, **point: Any) -> None:
        """One point: step, tokens, seconds and what was measured."""
        if not self.writes:
            return
        with saving(self.run):
            with (self.run / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
            if self._board is not None:
                self._board.add(point["step"], {name: v for name, v in point.items() if name not in PLACE})

    def bound(self, step: int, tokens: int, seconds: float, metrics: dict[str, Estimate]) -> None:
        """A point of the held-out bound, in the place of an earlier one of the same step."""
        if self.writes:
            points = read(self.run)
            kept = [p for p in points if p["step"] != step or "loss" in p]
            if len(kept) < len(points):
                with saving(self.run):
                    self._rewrite(kept)
        values = {name: e.value for name, e in metrics.items()}
        errors = {f"{name}_stderr": e.stderr for name, e in metrics.items()}
        self.add(step=step, tokens=tokens, seconds=seconds, **values, **errors)


class _Board:
    """A TensorBoard event file, written at once: torch's own writer lets a thread meet the full disk."""

    def __init__(self, folder: Path, resume_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = event_pb2.Event, summary_pb2.Summary, RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._put(file_version="brain.Event:2")
        if resume_step:  # what lies after it is void
            self._put(step=resume_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _put(self, **content: Any) -> None:
        with self.file.open("ab") as file:
            self._writer(file).write(self._event(wall_time=time.time(), **content).SerializeToString())

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step."""
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=v) for name, v in values.items()])
        self._put(step=step, summary=summary)


def _board(run: Path, resume_step: int) -> _Board | None:
    try:
        return _Board(run / "tensorboard", resume_step)
    except ImportError:  # TensorBoard is an extra; history.jsonl holds the same points
        return None


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
