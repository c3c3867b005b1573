"""The report of a classifier of attributes: how good its forecasts are, and whether they can be taken at their word.

Plain data comes in (what `remask train attribute` wrote), one page comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from remask.report import page
from remask.report.reliability import Bar, reliability
from remask.report.tables import Cell, Table, number

NAMES = {
    "nats": "log loss",
    "brier": "Brier score",
    "brier_skill": "Brier skill",
    "calibration_error": "calibration error",
}


def tell(facts: Mapping[str, Any], command: str, recipe: Mapping[str, str], footer: Mapping[str, str]) -> str:
    """The page as HTML. facts: of attribute.json."""
    metrics = facts["metrics"]
    drawn, satisfied = int(facts["drawn"]), int(facts["satisfied"])
    shown = [
        page.Fact(NAMES[name], number(metrics[name]["value"]), metrics[name]["unit"])
        for name in ("brier", "brier_skill", "calibration_error")
        if name in metrics
    ]
    shown.append(page.Fact("texts", f"{drawn:,}", f"{satisfied:,} of them have the attribute"))
    plot = reliability(
        [Bar(**{key: bin_[key] for key in Bar._fields}) for bin_ in facts["reliability"]],
        caption="Dots: forecasts of each bin of probability and the share of them that came true, with 95 % intervals "
        "as if forecasts were independent. On the dashed line what is given probability p happens a share p of the "
        "time; below it, too much is promised. Under it, the forecasts in each bin.",
    )
    sections = [
        page.Section("On texts that nothing was learned from", _table(metrics).to_html()),
        page.Section("Whether its forecasts come true", plot),
        page.Section("Make it again", page.recipe(command, recipe)),
    ]
    lead = (
        f"A classifier of {facts['asks']}: after a prefix and a next token, how likely the model's finished text has "
        f"it. It learned from {int(facts['examples']):,} prefixes of texts that the model wrote itself."
    )
    return page.page("What the text will be", lead, sections, footer, facts=shown)


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: Sequence[Sequence[Cell]] = [
        [NAMES.get(name, name), _cell(one), str(one["unit"]), int(one["n"])] for name, one in metrics.items()
    ]
    note = "± one standard error over texts, whose prefixes share their fate."
    return Table("Forecasts of the classifier", ["measure", "value", "unit", "texts"], rows, note)


def _cell(one: Mapping[str, Any]) -> Cell:
    known = one["stderr"] is not None and math.isfinite(one["stderr"])
    return (float(one["value"]), float(one["stderr"])) if known else float(one["value"])
