"""The command line: `remask WORD ...`. Light: torch is imported by the word that runs, never by --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns (and, as a console script, exits with) its status."""
    from remask.cli.words import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
