"""Errors: one tree, and every leaf is a sentence of help.

    RemaskError                  anything remask raises on purpose
    ├── UserError                the user can mend it: the command exits with status 2
    │   ├── BadInput             a value, a prompt, a flag that cannot be served
    │   ├── UnknownName          a name that no table has; lists the known ones
    │   ├── BadData              a text that is missing, empty, binary, too short
    │   ├── BadCheckpoint        a directory that is not a checkpoint, or a broken one
    │   ├── OutputExists         the output directory holds another run
    │   ├── MissingExtra         an optional library is not installed
    │   ├── Diverged             training met a loss that is not finite
    │   └── SaveFailed           a checkpoint could not be written (disk full): the last good one survives
    └── (bugs of ours stay ordinary Python exceptions: exit status 1)

A message says what came, what was wanted, and what to type.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RemaskError(Exception):
    """Anything remask raises on purpose."""

    exit_status = 1


class UserError(RemaskError):
    """A mistake that the user can mend; the command line exits with status 2."""

    exit_status = 2


class BadInput(UserError):
    """A value, prompt or flag that cannot be served."""


class BadData(UserError):
    """A text that is missing, empty, binary, not UTF-8 or too short."""


class BadCheckpoint(UserError):
    """A directory that is not a checkpoint, or a broken one."""


class OutputExists(UserError):
    """The output directory holds another run."""


class Diverged(UserError):
    """Training met a loss that is not finite."""


class SaveFailed(UserError):
    """A checkpoint could not be written; the last good one survives."""


class UnknownName(UserError, KeyError):
    """A name that a table does not have."""

    def __str__(self) -> str:
        """The sentence (a KeyError would quote it)."""
        return str(self.args[0])

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        super().__init__(f"there is no {kind} named '{name}'{hint} Known: {', '.join(known)}.")


class MissingExtra(UserError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the library '{library}': type pip install 'remask[{extra}]'.")
