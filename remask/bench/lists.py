"""Lists of numbers on a command line, with blanks or commas between them. Shapes: none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from remask.core.errors import BadInput


def split(words: Sequence[str]) -> list[str]:
    """Values with blanks or commas between them, each once."""
    return list(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))


def whole(flag: str, words: Sequence[str]) -> list[int]:
    """Whole numbers above 0; BadInput for others, or none."""
    parts = split(words)
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BadInput(f"{_flag(flag)} came as {','.join(words)}: type whole numbers above 0, like 1,2,4,8.")
    return list(dict.fromkeys(map(int, parts)))


def positive(flag: str, words: Sequence[str], least: float | None = None) -> list[float]:
    """Finite numbers above 0, or from `least` on; BadInput for others, or none."""
    try:
        found = [float(part) for part in split(words)]
    except ValueError:
        found = []
    good = [math.isfinite(one) and (one > 0 if least is None else one >= least) for one in found]
    if not found or not all(good):
        raise BadInput(f"{_flag(flag)} came as {','.join(words)}: type numbers above 0, like 0.8,1.")
    return found


def shares(flag: str, words: Sequence[str]) -> list[Fraction]:
    """Shares in (0, 1], as 1/4 or 0.25; BadInput for others, or none."""
    try:
        found = [Fraction(part) for part in split(words)]
    except (ValueError, ZeroDivisionError):
        found = []
    if not found or not all(0 < one <= 1 for one in found):
        raise BadInput(f"{_flag(flag)} came as {','.join(words)}: type shares of the length, like 1/8,1/2,1.")
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
