"""How nets of each objective are decoded where nobody says otherwise: tables, which --help reads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USUAL = "mask_predict"  # the sampler of checkpoints that do not say how they were trained
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "cmlm": ("mask_predict", {}),
    "axe": ("mask_predict", {"steps": 1}),
    "padir": ("padir", {}),
    "sundae": ("sundae", {}),
}
"""The sampler for each objective."""
LEARNED = {"noise": "start"}
"""Fields of objectives whose values a sampler's field takes over: SUNDAE decodes from what it was trained on."""
FEW: dict[str, dict[str, Any]] = {
    "mask_predict": {"steps": 4},
    "padir": {"steps": 4},
    "sundae": {"steps": 10, "unrolled": True},
}
"""Defaults of samplers that a translation, which has a source to hold on to, wants otherwise than free text."""


def usual_of(objective: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The sampler's name and its fields for an objective as `remask.json` records it (name and fields)."""
    name, defaults = TRAINED.get(objective.get("name", ""), (USUAL, {}))
    learned = {field: objective[name] for name, field in LEARNED.items() if name in objective}
    return name, {**FEW.get(name, {}), **defaults, **learned}
