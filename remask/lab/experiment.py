"""Experiment: a frozen dataclass whose fields are its settings, and one function that runs it.

What it finds is rows (for machines and tables), panels (for the eye, each measurement with the closed form or the bound
beside it) and sentences. The same settings and seed give the same findings.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Line(NamedTuple):
    """One line of a panel.

    error: standard errors of y, drawn as bars. theory: True for a closed form or a bound, drawn dashed and grey.
    """

    name: str
    x: list[float]
    y: list[float]
    error: list[float] | None = None
    theory: bool = False


class Panel(NamedTuple):
    """A small plot; `log_x`, `log_y` for logarithmic axes; limits: least and most of the y axis, or None for all."""

    title: str
    x: str
    y: str
    lines: list[Line]
    log_x: bool = False
    log_y: bool = False
    limits: tuple[float, float] | None = None


class Findings(NamedTuple):
    """rows: dicts with the same plain keys each, in order; panels; says: what it means, in sentences."""

    rows: list[dict[str, Any]]
    panels: list[Panel]
    says: list[str]


class Experiment(Protocol):
    """A row of EXPERIMENTS."""

    def run(self) -> Findings:
        """Run it; BadInput for settings that cannot be served."""
        ...
