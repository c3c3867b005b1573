"""How nets of each objective are decoded where nobody says otherwise: tables, which --help reads without torch.

CMLM's lengths are compared by the mean log p of a token, as in its authors' code (Ghazvininejad et al. 2019, arXiv
1904.09324); the others by the sum, as PaDIR's (Li et al. 2024, arXiv 2407.21046). PaDIR rejects what it is least sure
of: a young net says again whatever it reads, so with nothing rejected its first draft is its last (docs/results.md).
"""

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
RANKED = {"cmlm": "mean"}
"""What the translations of tried lengths are compared by, where it is not their sum."""
LEARNED = {"noise": "start"}
"""Fields of objectives whose values a sampler's field takes over: SUNDAE decodes from what it was trained on."""
FEW: dict[str, dict[str, Any]] = {
    "mask_predict": {"steps": 4},
    "padir": {"steps": 4, "reject": "linear"},
    "sundae": {"steps": 10, "unrolled": True},
}
"""Defaults of samplers that a translation, which has a source to hold on to, wants otherwise than free text."""


def usual_of(objective: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The sampler's name and its fields for an objective as `remask.json` records it (name and fields)."""
    name, defaults = TRAINED.get(objective.get("name", ""), (USUAL, {}))
    learned = {field: objective[name] for name, field in LEARNED.items() if name in objective}
    return name, {**FEW.get(name, {}), **defaults, **learned}


def lengths_of(objective: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Lengths for an objective as `remask.json` records it: those that are not their defaults."""
    found = {"rank": RANKED[objective["name"]]} if objective.get("name") in RANKED else {}
    return found | {field: objective[field] for field in ("length_factor",) if field in objective}
