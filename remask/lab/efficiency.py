"""Efficiency: how many samples each way of masking needs, for a law whose covariances are known exactly.

Masking more is better for the joint block loss, Gamma_(k+1) <= Gamma_k down to the Cramer-Rao bound at k = L, and how
much is lost is bounded by how fast k-Gibbs mixes, Gamma_k <= I^-1 / gap_k (Li et al. 2024, arXiv 2407.21046). The
factorised loss of ordinary masked language models obeys neither. The law is Ising, p ~ exp(h sum_i x_i + J sum_edges
x_i x_j); the parameters are all fields and the couplings of the edges. Every trace is that of the covariance of
sqrt(n) (estimate - truth).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.lab import adaptive, information
from remask.lab.experiment import Findings, Line, Panel
from remask.lab.fit import monte_carlo
from remask.lab.graphs import edges_of
from remask.lab.information import Family, Sandwich
from remask.lab.kernels import block_kernel, gap
from remask.lab.laws import Law, ising

MOST_CELLS = 10  # all k of 8 cells take two seconds, of 10 half a minute
WRONG = 1e-6  # a distance from the truth that is not rounding
SURE = 4  # standard errors, the largest of several

Row = dict[str, Any]


@dataclass(frozen=True)
class Efficiency:
    """Sample efficiency of masked losses for every number of masked cells (Li et al. 2024)."""

    graph: str = "clique"
    """Who interacts with whom: clique, ring, path, grid, random."""
    size: int = 4
    """Cells."""
    coupling: float = 0.5
    """J of every edge."""
    field: float = 0.1
    """h of every cell."""
    hardness: float = 1.0
    """Adaptive masks: p(K | x) ~ exp(hardness * sum over K of -log p(x_i | all others)); 0 hides all masks alike."""
    repeats: int = 0
    """Fits of the Monte-Carlo check at each k (0: no check)."""
    samples: int = 0
    """Rows of each of these fits, each with one random mask (4000 is a good number)."""
    seed: int = 0
    """Of the random graph and of the samples."""

    def __post_init__(self) -> None:
        if self.size > MOST_CELLS:
            raise BadInput(f"--size came as {self.size}: every k is enumerated; type {MOST_CELLS} or fewer cells.")
        for name, value in (("repeats", self.repeats), ("samples", self.samples), ("seed", self.seed)):
            if value < 0:
                raise BadInput(f"--{name} came as {value}: type 0 or a positive number.")
        if bool(self.repeats) != bool(self.samples):
            raise BadInput("a Monte-Carlo check needs both: type --repeats 200 --samples 4000.")
        if not math.isfinite(self.hardness):
            raise BadInput(f"--hardness came as {self.hardness}: type a finite number, 0 for masks that do not adapt.")

    def run(self) -> Findings:
        """One row for each k = 1..size."""
        edges = edges_of(self.graph, self.size, self.seed)
        law = ising(self.size, self.coupling, self.field, self.graph, self.seed)
        family = information.ising_family(self.size, edges)
        theta = torch.tensor([self.field] * self.size + [self.coupling] * len(edges), dtype=torch.float64)
        rows = [self._row(law, family, theta, k) for k in range(1, self.size + 1)]
        return Findings(rows, _panels(rows), _says(rows, self))

    def _row(self, law: Law, family: Family, theta: Tensor, k: int) -> Row:
        joint, statistics, names = law.joint, family.statistics, family.names
        masks = information.masks_of_size(self.size, k)
        averaged = information.averaged(joint, statistics, masks)
        block = averaged.sensitivity  # the information of the joint block loss with one mask a row
        factorised = information.factorised(joint, statistics, masks)
        mixing = gap(block_kernel(law, k), law.joint)
        best = _trace(information.fisher(joint, statistics), names, "this law")
        row: Row = {
            "k": k,
            "trace": _trace(block, names, "this law"),
            **_factorised(factorised, names, k == self.size),
            "gap": mixing,
            "fisher_trace": best,
            "trace_averaged": float(averaged.covariance(names).trace()),
            "bound": best / mixing,
            **self._adaptive(law, family, theta, masks),
        }
        if self.repeats:
            measured = monte_carlo(family, theta, masks, self.samples, self.repeats, self.seed * self.size + k)
            row["monte_carlo"] = measured.value
            row["monte_carlo_stderr"] = measured.stderr if self.repeats > 1 else None
        return row

    def _adaptive(self, law: Law, family: Family, theta: Tensor, masks: Tensor) -> Row:
        """With the factor p(K | x) and without; None where the loss says nothing or has no minimum."""
        given = adaptive.hard_given(law.joint, masks, self.hardness)
        row: Row = dict.fromkeys(("trace_adaptive", "trace_uncorrected", "bias_uncorrected"))
        with suppress(BadInput):  # where such masks give the row away
            row["trace_adaptive"] = float(adaptive.corrected(family, theta, masks, given).covariance.trace())
        with suppress(BadInput):
            wrong = adaptive.uncorrected(family, theta, masks, given)
            row["trace_uncorrected"] = float(wrong.covariance.trace())
            row["bias_uncorrected"] = float((wrong.parameters - theta).norm())
        return row


def _trace(matrix: Tensor, names: tuple[str, ...], of: str) -> float:
    return float(information.inverse(matrix, names, of).trace())


def _factorised(sandwich: Sandwich, names: tuple[str, ...], all_hidden: bool) -> Row:
    free = information.null_space(sandwich.sensitivity)
    if not len(free):
        return {"trace_factorised": float(sandwich.covariance(names).trace()), "singular": None}
    cause = "couplings are not identified by single-site marginals" if all_hidden else "they are lost in rounding"
    directions = f"{len(free)} direction{'s' if len(free) > 1 else ''}"
    return {
        "trace_factorised": None,
        "singular": f"{directions}, such as {information.spelled(free[0], names)}: {cause}",
    }


def _line(rows: list[Row], key: str, name: str, theory: bool = False, error: str | None = None) -> Line:
    rows = [row for row in rows if row.get(key) is not None]
    bars = [row[error] for row in rows] if error and all(row[error] is not None for row in rows) else None
    return Line(name, [row["k"] for row in rows], [row[key] for row in rows], bars, theory)


def _panels(rows: list[Row]) -> list[Panel]:
    cost = [
        _line(rows, "trace", "joint block"),
        _line(rows, "trace_factorised", "factorised"),
        _line(rows, "trace_averaged", "joint, all masks averaged"),
        _line(rows, "trace_adaptive", "joint, hard cells hidden more often"),
    ]
    if "monte_carlo" in rows[0]:
        cost.append(_line(rows, "monte_carlo", "joint block, fits", error="monte_carlo_stderr"))
    cost += [
        _line(rows, "fisher_trace", "maximum likelihood", theory=True),
        _line(rows, "bound", "Poincare bound of the joint block", theory=True),
    ]
    share = [{"k": row["k"], "share": row["fisher_trace"] / row["trace"], "gap": row["gap"]} for row in rows]
    kept = [_line(share, "share", "maximum likelihood / joint block"), _line(share, "gap", "gap of k-Gibbs", True)]
    zero = Line("with the factor p(K | x)", [row["k"] for row in rows], [0.0] * len(rows), None, True)
    bias = [_line(rows, "bias_uncorrected", "without the factor"), zero]
    return [
        Panel("What a fit costs", "masked cells k", "n * mean squared error", _drawn(cost), log_y=True),
        Panel("Efficiency, and the gap below it", "masked cells k", "share", kept, log_y=True),
        Panel("Adaptive masks: the wrong minimum", "masked cells k", "distance from the truth", _drawn(bias)),
    ]


def _drawn(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.x]


def _says(rows: list[Row], of: Efficiency) -> list[str]:
    first, last = rows[0], rows[-1]
    says = [
        f"The joint block loss needs {first['trace'] / last['trace']:.3g} times the samples of maximum likelihood at "
        f"k = 1 (trace {first['trace']:.4g}) and as many at k = {last['k']} ({last['trace']:.4g}); averaged over all "
        f"masks of each row it needs {first['trace_averaged'] / last['trace']:.4g} times as many at k = 1.",
        _says_factorised(rows),
        f"The gap of k-Gibbs ({first['gap']:.3g} at k = 1) promises a trace of at most {first['bound']:.4g} there: "
        f"true, and {first['bound'] / first['trace']:.3g} times too careful.",
    ]
    worst = max(rows, key=lambda row: float(row["bias_uncorrected"] or 0))
    if (worst["bias_uncorrected"] or 0) > WRONG:
        says.append(
            f"Hiding hard cells more often without correcting for it moves the minimum {worst['bias_uncorrected']:.3g} "
            f"away from the truth at k = {worst['k']}, however many samples there are: keep the factor p(K | x)."
        )
    given_away = [str(row["k"]) for row in rows if row["trace_adaptive"] is None]
    if given_away:
        says.append(
            f"At --hardness {of.hardness:g} the choice of the mask gives the hidden cells away at k = "
            f"{', '.join(given_away)}: with the factor p(K | x) too little is left to learn from."
        )
    if of.repeats > 1:
        off = max(abs(row["monte_carlo"] - row["trace"]) / row["monte_carlo_stderr"] for row in rows)
        agree = "as the theory says" if off < SURE else "not as the theory says: it needs more samples"
        says.append(f"{of.repeats} fits to {of.samples} samples scatter {agree} (within {off:.2g} standard errors).")
    return says


def _says_factorised(rows: list[Row]) -> str:
    known = [row for row in rows if row["trace_factorised"] is not None]
    if not known:
        return f"The factorised loss cannot be fitted at any k: {rows[0]['singular']}."
    best = min(known, key=lambda row: float(row["trace_factorised"]))
    text = f"The factorised loss is best at k = {best['k']} (trace {best['trace_factorised']:.4g})"
    lost = [row for row in rows if row["singular"]]
    if not lost:
        return f"{text}."
    return f"{text} and cannot be fitted at k = {lost[-1]['k']}: {lost[-1]['singular']}."
