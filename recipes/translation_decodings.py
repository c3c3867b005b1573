"""How the nets of recipes/translation.py are decoded, weighed and timed: tables of systems by name.

A stutter that is deleted leaves a text short, so there are decodings with ROOM cells for every token of the length that
is foreseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from recipes.translation import ARMS

BASE, TWIN = "left to right", "left to right on our trunk"  # what is to be beaten, on a T5 and on our own trunk
ROOM = 1.3  # chosen on validation pairs, among 1, 1.1, 1.2, 1.3, 1.4

Settings = Mapping[str, Any]
LEFT_TO_RIGHT: dict[str, Settings] = {"greedy": {}, "beam 5": {"beam": 5}}
ENGINES: dict[str, Settings] = {f"CTranslate2 {kind}": {"compute": kind} for kind in ("float32", "int8")}


def _steps(steps: int, lengths: int = 1, factor: float | None = None, **fields: Any) -> Settings:
    room = {} if factor is None else {"length_factor": factor}
    return {"fields": {"steps": steps, **fields}, "lengths": {"lengths": lengths, **room}}


PLAIN = (("1", 1, 1), ("2", 2, 1), ("4", 4, 1), ("8", 8, 1), ("4, 3 lengths", 4, 3))  # name, steps, lengths
PARALLEL = {name: _steps(steps, lengths) for name, steps, lengths in PLAIN}
ROOMY = {f"{steps}, no stutters, {ROOM} cells": _steps(steps, factor=ROOM, remove_stutter=True) for steps in (2, 3, 4)}
EXTRA: dict[str, dict[str, Settings]] = {
    "cmlm": {
        "3": _steps(3),
        **{f"{steps}, no stutters": _steps(steps, remove_stutter=True) for steps in (2, 4)},
        **ROOMY,
    },
    "padir": {
        **{name: _steps(steps, lengths, reject="none") for name, steps, lengths in PLAIN},
        **{f"{steps}, no stutters": _steps(steps, reject="none", remove_stutter=True) for steps in (1, 4)},
        **{f"{steps}, linear": _steps(steps, reject="linear") for steps in (4, 8)},
        **{f"{steps}, linear, no stutters": _steps(steps, reject="linear", remove_stutter=True) for steps in (4, 8)},
    },
}
"""Further decodings by objective, and PaDIR's as nothing is rejected."""
HALF = f"4, no stutters, {ROOM} cells, bfloat16"
ONLY: dict[str, dict[str, Settings]] = {
    "cmlm": {"4, 5 lengths": _steps(4, 5)},
    "masked LM's shape": {HALF: {**ROOMY[f"4, no stutters, {ROOM} cells"], "bf16": True}},
    TWIN: {"greedy, bfloat16": {"bf16": True}},
}
"""And by arm: what costs much and need be known of one net."""
FAULTY = ("greedy", "1", "4", "4, linear, no stutters")  # decodings whose faults are looked at
PROBES = ("padir", "cmlm")
RACERS: dict[str, Sequence[str]] = {
    BASE: (*LEFT_TO_RIGHT, *ENGINES),
    "padir": ("1", "4, linear, no stutters", "8, linear, no stutters"),
    "cmlm": ("1", "4", "8", "4, 3 lengths"),
    "axe": ("1",),
    TWIN: ("greedy", "greedy, bfloat16"),
    "masked LM's shape": (*PARALLEL, "3", *ROOMY, HALF),
    "masked LM's both": ("4, 3 lengths",),
}
"""Arms and decodings that are timed."""
BY_LENGTH = {
    BASE: ("greedy", "CTranslate2 float32"),
    "padir": ("1", "4, linear, no stutters"),
    TWIN: ("greedy",),
    "masked LM's shape": ("2", "4", "4, 3 lengths", *ROOMY, HALF),
}


def decodings(arm: str) -> dict[str, Settings]:
    """How an arm's net is decoded, by name: fields of System."""
    objective = ARMS[arm].objective
    if objective == "seq2seq":
        engines = ENGINES if arm == BASE and find_spec("ctranslate2") else {}
        return {**LEFT_TO_RIGHT, **engines, **ONLY.get(arm, {})}
    return {**PARALLEL, **EXTRA.get(objective, {}), **ONLY.get(arm, {})}
