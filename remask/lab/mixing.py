"""Mixing: how fast chains forget where they began, and what they forget it for.

Three chains that a masked language model can run: k-Gibbs redraws a block of k cells jointly (k network calls, one
after the other) and keeps p; the parallel chain redraws every cell at once, and mask-then-independent a block, in one
call each, and tend to laws of their own. On a clique in strong agreement the parallel chain leaves "all -1" with
probability 1 - (1 + exp(-2 (J (m - 1) - h)))^-m a step, slower than single sites, while a block that holds the clique
needs about one draw (Li et al. 2024, arXiv 2407.21046). The gap bounds the distance of a reversible chain,
TV <= sqrt(1 / p(x) - 1) (1 - gap)^t / 2 (Diaconis & Stroock 1991, Annals of Applied Probability 1); that of k-Gibbs is
k / L at most, which independent cells have.
The law is Ising, p ~ exp(h sum_i x_i + J sum_edges x_i x_j). Up to 12 cells everything is exact; for more, the
autocorrelation of runs is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.lab import kernels
from remask.lab.autocorrelation import GibbsRuns, exact_time, gibbs_autocorrelation
from remask.lab.chains import Chain, ising_path, ising_ring
from remask.lab.experiment import Findings, Line, Panel
from remask.lab.graphs import Edges, edges_of
from remask.lab.laws import Law, ising
from remask.lab.tensorisation import bound, tensorisation

Row = dict[str, Any]
COLUMNS = (
    "chain",
    "k",
    "gap",
    "relaxation",
    "escape",
    "sweeps",
    "calls",
    "distance",
    "autocorrelation",
    "autocorrelation_stderr",
    "tensorisation",
    "bound",
)
MOST_TABLE = 15  # cells of a law whose table of visible patterns is kept: runs of more would crawl
MOST_PATH = 1000
CHAINS = {"path": ising_path, "ring": ising_ring}
"""Graphs whose laws are known at any size, by transfer matrices."""
MAXIMISED = 2**7  # states up to which the tensorisation constant is searched
FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of the coupling, in the panel of escape times
LEAST_MOVES = 50
POINTS = 25  # of a line of distances, at most
SLOWEST = 1e-10  # a gap below which the integrated time is rounding
SURE = 3  # standard errors between two means that differ
KEPT = 1e-9  # a distance to p that is rounding


class Kernel(NamedTuple):
    """A chain over all states.

    name, k: as in the rows; matrix: [S, S]; law: [S] that it keeps, None where it keeps more than one; calls: of the
    network a step (for the parallel chain, of a net that answers leave-one-out).
    """

    name: str
    k: int | None
    matrix: Tensor
    law: Tensor | None
    calls: int


def chains(law: Law, sizes: list[int] | None = None) -> Iterator[Kernel]:
    """k-Gibbs for each k (all of 1..L), the parallel chain, mask-then-independent for each k from 2 on, one by one."""
    sizes = list(range(1, law.length + 1)) if sizes is None else sizes
    for k in sizes:
        matrix = kernels.block_kernel(law, k)
        yield Kernel("gibbs_k", k, matrix, _kept(matrix), k)
    matrix = kernels.synchronous_kernel(law)
    yield Kernel("parallel", None, matrix, _kept(matrix), 1)
    for k in sizes:
        if k > 1:
            matrix = kernels.mask_independent_kernel(law, k)
            yield Kernel("mask_independent", k, matrix, _kept(matrix), 1)


def _kept(matrix: Tensor) -> Tensor | None:
    try:
        return kernels.stationary(matrix)
    except BadInput:
        return None


def row_of(chain: Kernel, law: Law) -> Row:
    """What is exactly known of one chain; None where a number does not exist.

    gap, relaxation = 1 / gap: a step of the chain (block updates). escape: mean steps from all -1 (symbol 0 everywhere)
    to sum >= 0, for laws of spins; sweeps: the same in cells redrawn over L; calls: in network calls, one after the
    other. distance: total variation of the stationary law to p. autocorrelation: the integrated time of the sum of all
    cells, in steps.
    """
    mixing = kernels.gap(chain.matrix, law if chain.law is None else chain.law, must_mix=False)
    total = law.digits.double().sum(1)
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"chain": chain.name, "k": chain.k, "gap": mixing, "relaxation": 1 / mixing if mixing else None}
    if law.symbols == 2:
        steps = kernels.escape_time(chain.matrix, 0, 2 * total >= law.length)
        if math.isfinite(steps):
            cells = chain.k or law.length
            row |= {"escape": steps, "sweeps": steps * cells / law.length, "calls": steps * chain.calls}
    if chain.law is not None:
        row["distance"] = kernels.total_variation(chain.law, law)
        if mixing > SLOWEST and law.symbols > 1:
            time = exact_time(chain.matrix, chain.law, total)
            row["autocorrelation"] = time if math.isfinite(time) else None
    return row


def log_stay(edges: Edges, size: int, coupling: float, field: float) -> float:
    """log P(stay) of the parallel chain at all -1, each cell pulled down by J deg - h.

    On a clique of m, P(stay) = (1 + exp(-2 (J (m - 1) - h)))^-m.
    """
    degree = torch.zeros(size, dtype=torch.float64)
    for i, j in edges:
        degree[i] += 1
        degree[j] += 1
    return float(torch.nn.functional.logsigmoid(2 * (coupling * degree - field)).sum())


@dataclass(frozen=True)
class Mixing:
    """Gaps, escape times, distances of chains over masked cells, and tensorisation (Li et al. 2024)."""

    graph: str = "clique"
    """Who interacts with whom: clique, ring, path, grid, random."""
    size: int = 4
    """Cells. Exact up to 12 (10 take a minute, 12 several); more are run, up to 15, or 1000 on a path or ring."""
    coupling: float = 0.5
    """J of every edge."""
    field: float = 0.1
    """h of every cell."""
    excess: float = 0.01
    """A model's excess loss, nats a block; `bound` is the total variation to the data that it still allows."""
    steps: int = 100
    """Steps of each chain over which its distance to p is drawn."""
    rows: int = 128
    """Rows of each run, where the states are too many."""
    moves: int = 1000
    """Cells redrawn in each run, where the states are too many: blocks of k make moves / k moves."""
    seed: int = 0
    """Of the random graph, the search for the constant, and the runs."""

    def __post_init__(self) -> None:
        for name in ("size", "steps", "rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type 1 or more.")
        if self.moves < LEAST_MOVES:
            raise BadInput(f"--moves came as {self.moves}: type {LEAST_MOVES} or more.")
        if not self.excess >= 0:
            raise BadInput(f"--excess came as {self.excess}: a loss cannot fall below the truth's; type 0 or more.")

    @property
    def exact(self) -> bool:
        """Whether transition matrices are made."""
        return 2**self.size <= kernels.MOST_STATES

    def run(self) -> Findings:
        """One row for each chain (and block size)."""
        return self._enumerated() if self.exact else self._measured()

    def _enumerated(self) -> Findings:
        law = self._law(self.coupling)
        rows, lines = [], []
        drawn = {("gibbs_k", 1), ("gibbs_k", self.size), ("parallel", None)}
        drawn |= {(name, max(self.size // 2, 2)) for name in ("gibbs_k", "mask_independent")}
        for chain in chains(law):
            row = row_of(chain, law)
            if chain.name == "gibbs_k" and row["gap"]:
                row |= self._tensorised(law, chain.k or 1)
            rows.append(row)
            if (chain.name, chain.k) in drawn:
                lines.append(self._distance(chain, law))
        panels = [_gaps(rows, self.size), self._escapes(), self._distances(law, lines, rows[0]["gap"])]
        if law.joint.numel() <= MAXIMISED:
            panels.append(_constants(rows))
        return Findings(rows, [panel for panel in panels if panel.lines], _says(rows, self))

    def _law(self, coupling: float) -> Law:
        return ising(self.size, coupling, self.field, self.graph, self.seed)

    def _tensorised(self, law: Law, k: int) -> Row:
        if law.joint.numel() > MAXIMISED or not (law.joint > 0).all():
            return {}
        constant = tensorisation(law, k, self.seed).constant
        return {"tensorisation": constant, "bound": bound(constant, self.excess)}

    def _distance(self, chain: Kernel, law: Law) -> Line:
        values = kernels.distance_to(law, chain.matrix, 0, self.steps).tolist()
        return Line(_name(chain.name, chain.k), self._times, values[:: self._stride])

    @property
    def _stride(self) -> int:
        return -(-self.steps // POINTS)

    @property
    def _times(self) -> list[float]:
        return [float(t) for t in range(0, self.steps + 1, self._stride)]

    def _distances(self, law: Law, lines: list[Line], gap: float) -> Panel:
        first = float(law.joint[0])
        if first > 0:
            most = [min(1.0, math.sqrt(1 / first - 1) * (1 - gap) ** t / 2) for t in self._times]
            lines = [*lines, Line("bound by the gap, k = 1", self._times, most, theory=True)]
        return Panel("from all -1 to p", "steps", "total variation to p", lines)

    def _escapes(self) -> Panel:
        """Escape times of three chains against the coupling, and the time to leave "all -1" in parallel."""
        edges, scale = edges_of(self.graph, self.size, self.seed), self.coupling or 1.0
        found: dict[str, list[tuple[float, float]]] = {}
        for coupling in [factor * scale for factor in FACTORS]:
            law = self._law(coupling)
            target = 2 * law.digits.sum(1) >= self.size
            three = {
                "parallel, steps": (kernels.synchronous_kernel(law), 1.0),
                "gibbs k = 1, sweeps": (kernels.block_kernel(law, 1), 1 / self.size),
                f"gibbs k = {self.size}, draws": (kernels.block_kernel(law, self.size), 1.0),
            }
            for name, (matrix, unit) in three.items():
                found.setdefault(name, []).append((coupling, kernels.escape_time(matrix, 0, target) * unit))
            leave = -math.expm1(log_stay(edges, self.size, coupling, self.field))
            found.setdefault("1 / (1 - P(stay)), parallel", []).append((coupling, 1 / leave if leave else math.inf))
        lines = [_line(name, points, theory=name.startswith("1")) for name, points in found.items()]
        return Panel("escape from all -1", "coupling", "mean time to sum >= 0", lines, log_y=True)

    def _measured(self) -> Findings:
        known, rows, runs = self._known(), [], {}
        for k in [2**n for n in range(self.size.bit_length()) if 2**n <= max(self.size // 8, 2)]:
            stream = Stream.of(self.seed, self.rows)
            tokens = known.sample(self.rows, stream.child(k))
            canvas = Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))
            runs[k] = gibbs_autocorrelation(known, canvas, k, max(self.moves // k, LEAST_MOVES), _total, stream)
            time = runs[k].correlation.time
            row: Row = dict.fromkeys(COLUMNS)
            row |= {"chain": "gibbs_k", "k": k, "autocorrelation": time.value, "autocorrelation_stderr": time.stderr}
            rows.append(row)
        return Findings(rows, [_times(rows)], _says_measured(runs, self))

    def _known(self) -> Law | Chain:
        if self.graph in CHAINS and self.size <= MOST_PATH:
            return CHAINS[self.graph](self.size, self.coupling, self.field)
        if self.size > MOST_TABLE:
            raise BadInput(
                f"a {self.graph} of {self.size} cells has 2^{self.size} states, too many to know its law: type "
                f"--size {MOST_TABLE} or less, or --graph path or ring with up to {MOST_PATH}."
            )
        return self._law(self.coupling)


def _total(cells: Tensor) -> Tensor:
    return cells.double().sum(1)


def _name(chain: str, k: int | None) -> str:
    return f"{chain.replace('_k', '').replace('_', '-')}" + (f" k = {k}" if k else "")


def _line(name: str, points: list[tuple[float, float]], theory: bool = False) -> Line:
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    return Line(name, [x for x, _ in kept], [y for _, y in kept], theory=theory)


def _of(rows: list[Row], chain: str, key: str) -> list[tuple[float, float]]:
    return [(float(row["k"]), row[key]) for row in rows if row["chain"] == chain and row[key]]


def _gaps(rows: list[Row], size: int) -> Panel:
    lines = [_line(_name(name, None), _of(rows, name, "gap")) for name in ("gibbs_k", "mask_independent")]
    free = [(float(k), k / size) for k in range(1, size + 1)]
    lines = [line for line in lines if line.x] + [_line("k / L, an upper bound", free, theory=True)]
    return Panel("gap of one update", "cells redrawn, k", "spectral gap", lines, log_y=True)


def _constants(rows: list[Row]) -> Panel:
    lines = [
        _line("found by ascent", _of(rows, "gibbs_k", "tensorisation")),
        _line("1 / gap, a lower bound", _of(rows, "gibbs_k", "relaxation"), theory=True),
    ]
    return Panel("tensorisation constant", "cells masked, k", "C", [x for x in lines if x.x], log_y=True)


def _times(rows: list[Row]) -> Panel:
    errors = [row["autocorrelation_stderr"] for row in rows]
    measured = _line("measured", _of(rows, "gibbs_k", "autocorrelation"))._replace(error=errors)
    first = rows[0]["autocorrelation"]
    free = [(float(row["k"]), first / row["k"]) for row in rows]
    lines = [measured, _line("1 / k of single sites", free, theory=True)]
    return Panel("memory of the sum of all cells", "cells redrawn, k", "integrated time, moves", lines, True, True)


def _says(rows: list[Row], asked: Mixing) -> list[str]:
    gibbs = [row for row in rows if row["chain"] == "gibbs_k"]
    parallel = next(row for row in rows if row["chain"] == "parallel")
    says = [_says_best(gibbs, asked)]
    stuck = [str(row["k"]) for row in gibbs if not row["gap"]]
    if stuck:
        says.append(f"Gibbs with k = {', '.join(stuck)} does not leave where it begins in any time: its gap is 0.")
    says.append(f"The parallel chain leaves all -1 {_after(parallel['escape'], 'steps')}{_tends(parallel)}")
    masked = [row for row in rows if row["chain"] == "mask_independent" and row["distance"] is not None]
    if masked:
        far = max(masked, key=lambda row: row["distance"])
        wrong = f"tends to laws up to {far['distance']:.3f} from p (k = {far['k']})"
        says.append(f"Drawing k masked cells independently {wrong if far['distance'] > KEPT else 'keeps p'}.")
    held = [row for row in gibbs if row["bound"] is not None]
    if held:
        says.append(
            f"A model {asked.excess:g} nats a block above the best loss may be {held[0]['bound']:.3f} from its data in "
            f"total variation where it learned blocks of {held[0]['k']}, {held[-1]['bound']:.3f} with blocks of "
            f"{held[-1]['k']} (constants found numerically)."
        )
    return says


def _says_best(gibbs: list[Row], asked: Mixing) -> str:
    best, single = min((row for row in gibbs if row["gap"]), key=lambda row: row["relaxation"] * row["k"]), gibbs[0]
    fresh = " (a fresh draw of the whole row)" if best["k"] == asked.size else ""
    beside = "" if best is single else f" (single sites: {_after(single['calls'], 'calls')})"
    return (
        f"At coupling {asked.coupling:g} use gibbs with blocks of {best['k']}{fresh}, which keeps p: it leaves all -1 "
        f"{_after(best['calls'], 'network calls')}{beside}."
    )


def _after(number: float | None, unit: str) -> str:
    return "in no time that can be counted" if number is None else f"after {number:.3g} {unit} in the mean"


def _tends(row: Row) -> str:
    if row["distance"] is None:
        return ", and where it tends depends on where it begins."
    wrong = f" and tends to a law {row['distance']:.3f} from p in total variation."
    return wrong if row["distance"] > KEPT else " and keeps p."


def _says_measured(runs: dict[int, GibbsRuns], asked: Mixing) -> list[str]:
    says = [f"{asked.size} cells are too many to enumerate: these are times of {asked.rows} runs."]
    calls = {k: run.correlation.time.value * k for k, run in runs.items() if run.correlation.enough}
    if calls:
        best = min(calls, key=calls.__getitem__)
        says.append(f"Blocks of {best} need the fewest calls for an independent draw, about {calls[best]:.3g}.")
    short = [str(k) for k in runs if k not in calls]
    if short:
        says.append(f"The runs with k = {', '.join(short)} are too short to trust: type --moves {4 * asked.moves}.")
    split = [str(k) for k, run in runs.items() if abs(run.apart.value) > SURE * run.apart.stderr]
    if split:
        says.append(
            f"With k = {', '.join(split)}, runs from data and from noise had not met: the chain mixes slower than its "
            "autocorrelation says."
        )
    return says
