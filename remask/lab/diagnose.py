"""Diagnose: are a checkpoint's conditionals those of one joint law, and how should it be sampled?

Three questions to the net on held-out rows: does the likelihood of a row depend on the order in which its cells are
written, do cycles of two-cell Gibbs moves close (Besag 1974, Journal of the Royal Statistical Society B 36), and how
long do Gibbs chains remember where they began (Sokal 1997, Monte Carlo Methods in Statistical Mechanics). The masked
cross-entropy curve says what parallel steps cost (Li et al. 2024, arXiv 2407.21046), and `entropy_bound` (Ben-Hamu et
al. 2025, arXiv 2505.24857) bounds its own cost.
Shapes: B rows, L length, K orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas, blank
from remask.core.conditional import Conditional
from remask.core.errors import BadData, BadInput
from remask.core.metric import Estimate
from remask.core.sampler import run
from remask.core.stream import Stream
from remask.lab import compatibility
from remask.lab.autocorrelation import SHORTEST, GibbsRuns, Statistic, gibbs_autocorrelation, integrated
from remask.lab.dependence import falling, mean
from remask.lab.experiment import Findings, Line, Panel
from remask.samplers.entropy_bound import EntropyBound

GAMMAS = (1, 4)  # of entropy_bound, in units of the tolerance
MOST_STEPS = 64  # steps a cell that ancestral may take
ORDERS, PAIRS, GIBBS, BOUND = range(1, 5)  # child streams
SURE = 3  # standard errors
POINTS = 60  # of a line
UNITS = 100  # quantiles of a distribution that is drawn
SAVED = 0.1  # share of the calls that must be saved to be worth a word

Row = dict[str, Any]


class Compatibility(NamedTuple):
    """What the questions found, row by row.

    random, straight: the rows in random orders and from left to right; cycles: of cells anywhere and of neighbours, in
    draws [B, K].
    """

    random: compatibility.Chains
    straight: compatibility.Chains
    cycles: dict[str, compatibility.Cycles]


@dataclass(frozen=True)
class Diagnose:
    """Whether a model's conditionals fit together, how Gibbs mixes, and which sampler to take (Besag 1974)."""

    checkpoint: str
    """The directory of a masked model, or hf:NAME."""
    data: tuple[str, ...] = ("embedded",)
    """Texts, as for remask train; of those that it was trained on, the part that was held out."""
    rows: int = 12
    """Rows of text, evenly spread."""
    length: int = 48
    """Tokens in a row."""
    orders: int = 6
    """Random orders in which each row is written, and pairs of cells whose cycles are walked in it."""
    moves: int = 80
    """Gibbs moves from data and from noise; the second half is measured."""
    size: int = 4
    """Cells that a Gibbs move redraws."""
    tolerance: float = 0.05
    """Nats a token that parallel steps may cost; the advice is made for it."""
    seed: int = 0
    """Of the orders, the pairs and the chains."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 2), ("length", 2), ("orders", 2), ("size", 1), ("moves", 2 * SHORTEST)):
            if getattr(self, name) < least:
                raise BadInput(f"--{name} came as {getattr(self, name)}: type {least} or more.")
        if self.size > self.length:
            raise BadInput(f"--size came as {self.size}, more than the {self.length} cells of a row: type less.")
        if not 0 < self.tolerance < math.inf:
            raise BadInput(f"--tolerance came as {self.tolerance}: type nats above 0, such as 0.05.")

    def run(self) -> Findings:
        """One row for each number: measure, at (what setting), value, stderr, unit, n, lower_bound."""
        from remask.train.checkpoint import load
        from remask.train.texts import spread

        checkpoint = load(self.checkpoint)
        if self.length > checkpoint.length:
            raise BadInput(
                f"--length {self.length} is beyond the {checkpoint.length} that {self.checkpoint} can read: "
                "type a smaller one."
            )
        conditional = checkpoint.conditional()  # a causal net is refused before its text is read
        packed = _packed(checkpoint, self.data, self.length)
        if len(packed.tokens) < 2:
            raise BadData(
                f"the text has one row of {self.length} tokens, too few: give more text or a smaller --length."
            )
        chosen = packed.select(spread(len(packed.tokens), self.rows))
        statistic = unigram_log_prob(packed.tokens, checkpoint.alphabet.size)
        return self.examine(conditional, conditional, chosen.tokens, statistic)

    def examine(self, conditional: Conditional, empty: Conditional, tokens: Tensor, statistic: Statistic) -> Findings:
        """The same for any conditional.

        conditional: of the rows `tokens` [B, L]; empty: of rows of one document each, which are written from nothing;
        statistic: what is followed along the Gibbs chains, [B, L] -> [B].
        """
        stream = Stream.of(self.seed, len(tokens))
        found = self._compatibility(conditional, tokens, stream)
        runs = self._gibbs(conditional, tokens, statistic, stream.child(GIBBS))
        most = MOST_STEPS * self.length
        steps = compatibility.fewest_steps(falling(found.random.curve.mean(0)), self.tolerance * self.length, most)
        bounds = [self._bound(empty, self.tolerance * unit, stream.child(BOUND)) for unit in GAMMAS]
        rows = [*_orders(found), *_cycles(found), *self._gibbs_rows(runs), *self._parallel(found, steps, bounds)]
        panels = [*_panels(found), self._losses(found), _chains(runs, self.size)]
        return Findings(rows, panels, self._says(rows, runs, steps))

    def _compatibility(self, conditional: Conditional, tokens: Tensor, stream: Stream) -> Compatibility:
        rows, length = tokens.shape
        orders = compatibility.random_orders(stream.child(ORDERS), self.orders, length)
        straight = compatibility.left_to_right(rows, length)
        chains = compatibility.chain_rule(conditional, tokens, torch.cat([straight, orders], 1))
        first, others = (compatibility.Chains(*(part[:, k] for part in chains)) for k in (slice(1), slice(1, None)))
        cycles = {
            name: compatibility.walked(conditional, tokens, stream.child(PAIRS), self.orders, near)
            for name, near in (("anywhere", False), ("neighbours", True))
        }
        return Compatibility(others, first, cycles)

    def _gibbs(self, conditional: Conditional, tokens: Tensor, statistic: Statistic, stream: Stream) -> GibbsRuns:
        special = torch.tensor(sorted(conditional.alphabet.special))
        canvas = Canvas(tokens, torch.isin(tokens, special))  # the ends of documents stay where they are
        some = torch.nonzero(canvas.unknown.any(1))[:, 0]
        parts = conditional.rows(some), canvas.rows(some)
        runs = gibbs_autocorrelation(*parts, self.size, self.moves, statistic, stream.rows(some))
        late = runs.data[:, (self.moves + 1) // 2 :]  # by then the chain has left the text for the net's own law
        return runs._replace(correlation=integrated(late))

    def _bound(self, conditional: Conditional, gamma: float, stream: Stream) -> tuple[float, Tensor]:
        """Calls of each row that entropy_bound writes from nothing, [B]."""
        canvas = blank(len(stream.seeds), self.length, conditional.alphabet)
        calls = torch.zeros(len(stream.seeds), dtype=torch.float64)
        for _, info in run(EntropyBound(gamma=gamma), conditional, canvas, stream):
            calls += info.calls
        return gamma, calls

    def _gibbs_rows(self, runs: GibbsRuns) -> list[Row]:
        time, short, unit = runs.correlation.time, not runs.correlation.enough, "nats/token of unigrams"
        late = runs.data[:, (self.moves + 1) // 2 :].mean(1)
        return [
            {**_row("gibbs_time", time._replace(unit="moves"), self.size), "lower_bound": short},
            {**_row("gibbs_calls", _scaled(time, self.size, "calls"), self.size), "lower_bound": short},
            _row("gibbs_data_less_noise", runs.apart._replace(unit=unit), self.size),
            _row("gibbs_drift", mean(late - runs.data[:, 0], unit), self.size),
        ]

    def _parallel(self, found: Compatibility, steps: int | None, bounds: list[tuple[float, Tensor]]) -> list[Row]:
        length, curve = self.length, found.random.curve
        masks = sorted({*(2**n for n in range(length.bit_length())), length})
        rows = [_row("cross_entropy", mean(curve[:, length - m], "nats/token"), f"{m} masked") for m in masks]
        tried = sorted({*(2**n for n in range((2 * length).bit_length())), *([steps] if steps else [])})
        rows += [_row("ancestral_loss", self._loss(curve, T), T) for T in tried]
        if steps:
            calls = compatibility.ancestral_calls(steps, length)
            rows.append(_row("ancestral_steps", Estimate(steps, math.nan, "steps", len(curve))))
            rows.append(_row("ancestral_calls", Estimate(calls, 0.0, "calls", len(curve)), steps))
        for gamma, calls_of in bounds:
            calls_row = mean(calls_of, "calls")
            rows.append(_row("entropy_bound_calls", calls_row, gamma))
            rows.append(_row("entropy_bound_loss_at_most", _scaled(calls_row, gamma / length, "nats/token"), gamma))
        return rows

    def _loss(self, curve: Tensor, steps: int) -> Estimate:
        return mean(compatibility.ancestral_loss(curve, steps) / self.length, "nats/token")

    def _losses(self, found: Compatibility) -> Panel:
        tried = [2**n for n in range((2 * self.length).bit_length())]
        losses = [self._loss(found.random.curve, T) for T in tried]
        x = [float(T) for T in tried]
        lines = [
            Line("ancestral, predicted", x, [e.value for e in losses], [e.stderr for e in losses]),
            Line("tolerance", x, [self.tolerance] * len(x), theory=True),
        ]
        return Panel("what parallel steps cost", "steps", "nats a token lost", lines, log_x=True)

    def _says(self, rows: list[Row], runs: GibbsRuns, steps: int | None) -> list[str]:
        value = {(row["measure"], row["at"]): row for row in rows}
        return [
            _says_orders(value, self),
            _says_cycles(value),
            _says_gibbs(runs, self),
            *_says_parallel(value, self, steps),
        ]


def _packed(checkpoint: Any, data: tuple[str, ...], length: int) -> Any:
    """Packed rows of the texts; where the model was trained on them, of the part that it has not seen."""
    from remask.data import split
    from remask.data.pack import pack
    from remask.data.text import read
    from remask.data.tokenizers import encode

    recipe = checkpoint.facts.get("recipe", {})
    text = recipe.get("text", {})
    if tuple(text.get("data", ())) != data:
        documents = read(data)
    elif text.get("valid"):
        documents = read(text["valid"], column=text["column"], document=text["document"])
    else:
        documents = read(data, column=text["column"], document=text["document"])
        if "embedded" in data if text["unique"] is None else text["unique"]:
            documents, _ = split.drop_repeated(documents)
        _, documents = split.hold_out(documents, text["held_out"], recipe["training"]["seed"])
    encoded = encode(checkpoint.tokenizer, [one.text for one in documents])
    return pack(encoded, length, checkpoint.alphabet.end)


def unigram_log_prob(tokens: Tensor, size: int) -> Statistic:
    """The mean log p of a row's tokens by their frequencies in `tokens` [R, L], add one, as a statistic of rows.

    It says how common a row's words are: every move changes it a little, noise begins far from text, and it needs no
    net. What moves more slowly (a topic) it does not see, so its time is that of this statistic and no more.
    """
    counts = torch.bincount(tokens.flatten(), minlength=size).double() + 1
    log_prob = (counts / counts.sum()).log()
    return lambda rows: log_prob[rows].mean(1)


def _scaled(estimate: Estimate, by: float, unit: str) -> Estimate:
    return Estimate(estimate.value * by, estimate.stderr * by, unit, estimate.n)


def _row(measure: str, estimate: Estimate, at: float | str | None = None) -> Row:
    error = estimate.stderr if math.isfinite(estimate.stderr) else None
    return {
        "measure": measure,
        "at": at,
        "value": estimate.value,
        "stderr": error,
        "unit": estimate.unit,
        "n": estimate.n,
        "lower_bound": False,
    }


def _orders(found: Compatibility) -> list[Row]:
    random, straight = found.random.log_prob, found.straight.log_prob[:, 0]
    length, unit = found.random.nats.shape[2], "nats/token"
    return [
        _row("random_orders", mean(-random.mean(1) / length, unit)),
        _row("order_spread", mean(compatibility.spread(random) / length, unit)),
        _row("left_to_right", mean(-straight / length, unit)),
        _row("left_to_right_gain", mean((straight - random.mean(1)) / length, unit)),
        _row("left_to_right_place", mean(compatibility.place(straight, random), "share of random orders")),
    ]


def _cycles(found: Compatibility) -> list[Row]:
    rows = []
    for name, walked in found.cycles.items():
        for what, values in (("cycle", walked.ratio), ("log_odds", walked.odds)):
            rows.append(_row(f"{what}_rms", _root_mean_square(values), name))
            finite = values[values.isfinite()].abs()
            for share in (0.5, 0.9):
                middle = float(finite.quantile(share)) if len(finite) else 0.0
                rows.append(_row(f"{what}_quantile_{share}", Estimate(middle, math.nan, "nats", len(finite)), name))
    return rows


def _root_mean_square(values: Tensor) -> Estimate:
    """Of [B, K], NaN left out, with an error over rows."""
    known = values.isfinite()
    squares = torch.where(known, values, 0.0).square().sum(1)
    share = known.double().mean()
    square = mean(squares / values.shape[1] / share.clamp(min=1e-12), "nats")
    root = math.sqrt(square.value)
    return Estimate(root, square.stderr / (2 * root) if root else 0.0, "nats", square.n)


def _panels(found: Compatibility) -> list[Panel]:
    length = found.random.nats.shape[2]
    means, order = (-found.random.log_prob.mean(1) / length).sort()
    straight = (-found.straight.log_prob[order, 0] / length).tolist()
    bars = (compatibility.spread(found.random.log_prob)[order] / length).tolist()
    x = means.tolist()
    likelihood = Panel(
        "a row's likelihood and its order",
        "nats a token, mean of random orders",
        "nats a token",
        [
            Line("random orders, bars one deviation", x, x, bars),
            Line("left to right", x, straight),
            Line("one joint law", [x[0], x[-1]], [x[0], x[-1]], theory=True),
        ],
    )
    shares = [(i + 0.5) / UNITS for i in range(UNITS)]
    lines = []
    for name, walked in found.cycles.items():
        finite = walked.ratio[walked.ratio.isfinite()].abs()
        if len(finite):
            lines.append(Line(name, shares, finite.quantile(torch.tensor(shares, dtype=finite.dtype)).tolist()))
    closed = Line("one joint law", [shares[0], shares[-1]], [0.0, 0.0], theory=True)
    curve = found.random.curve
    entropy = [mean(part, "nats/token") for part in curve.T]
    seen = [float(m) for m in range(length)]
    flat = Line("independent cells", [seen[0], seen[-1]], [entropy[0].value] * 2, theory=True)
    measured = Line("measured", seen, [e.value for e in entropy], [e.stderr for e in entropy])
    return [
        likelihood,
        Panel("two-cell cycles that do not close", "share of cycles below", "|log ratio|, nats", [*lines, closed]),
        Panel("masked cross-entropy", "cells seen", "nats a masked cell", [measured, flat]),
    ]


def _chains(runs: GibbsRuns, size: int) -> Panel:
    moves = runs.data.shape[1]
    stride = -(-moves // POINTS)
    x = [float(move * size) for move in range(0, moves, stride)]
    lines = [
        Line(name, x, series.mean(0)[::stride].tolist())
        for name, series in (("from data", runs.data), ("from noise", runs.noise))
    ]
    text = Line("text", [x[0], x[-1]], [float(runs.data[:, 0].mean())] * 2, theory=True)
    return Panel("Gibbs from data and from noise", "calls", "log p of unigrams, nats a token", [*lines, text])


def _says_orders(value: dict[Any, Row], of: Diagnose) -> str:
    spread, whole = value["order_spread", None], value["random_orders", None]
    gain, place = value["left_to_right_gain", None], value["left_to_right_place", None]
    below = spread["value"] < of.tolerance
    fit = f"is one joint law up to the {of.tolerance:g} nats tolerated" if below else "is not one joint law"
    text = (
        f"The order of writing moves a row's likelihood by {spread['value']:.3g} ± {spread['stderr']:.1g} of the "
        f"{whole['value']:.3g} nats a token that it costs (one standard deviation): this {fit}."
    )
    if abs(gain["value"]) <= SURE * gain["stderr"]:
        return f"{text} Left to right is an order like any other."
    word, advice = (
        ("likelier", "prefer blocks with a small --size") if gain["value"] > 0 else ("less likely", "avoid it")
    )
    return (
        f"{text} Left to right a row is {abs(gain['value']):.3g} ± {gain['stderr']:.1g} nats a token {word} (likelier "
        f"than by {place['value']:.0%} of random orders): {advice}."
    )


def _says_cycles(value: dict[Any, Row]) -> str:
    parts = []
    for name, words in (("anywhere", "cells anywhere"), ("neighbours", "neighbours")):
        cycle, odds = value["cycle_rms", name], value["log_odds_rms", name]
        parts.append(f"by {cycle['value']:.2g} ± {cycle['stderr']:.1g} of {odds['value']:.2g} nats for {words}")
    return (
        f"How strongly two cells depend on each other differs with which of them is asked, {' and '.join(parts)}; one "
        "joint law would give 0."
    )


def _says_gibbs(runs: GibbsRuns, of: Diagnose) -> str:
    time, calls = runs.correlation.time, runs.correlation.time.value * of.size
    text = f"Gibbs with blocks of {of.size} remembers how common a row's words are for "
    if runs.correlation.enough:
        cheaper = "fewer" if calls < of.length else "more"
        text += (
            f"{time.value:.3g} ± {time.stderr:.1g} moves ({calls:.3g} calls), {cheaper} calls than the {of.length} of "
            "writing the row anew"
        )
    else:
        text += f"longer than the run tells, at least {time.value:.3g} moves ({calls:.3g} calls): type more --moves"
    if abs(runs.apart.value) > SURE * runs.apart.stderr:
        return f"{text}; chains from data and from noise have not met, so where it begins matters."
    return f"{text}; chains from data and from noise have met."


def _says_parallel(value: dict[Any, Row], of: Diagnose, steps: int | None) -> list[str]:
    advice = (
        f"Opening cells at random in parallel saves next to nothing at {of.tolerance:g} nats a token: take "
        f"first_hitting, {of.length} calls for rows of {of.length} tokens, which loses nothing."
    )
    if steps is not None and value["ancestral_calls", steps]["value"] <= (1 - SAVED) * of.length:
        loss, asked = value["ancestral_loss", steps], value["ancestral_calls", steps]
        advice = (
            f"For at most {of.tolerance:g} nats a token take ancestral --steps {steps} for rows of {of.length} tokens "
            f"({asked['value']:.3g} calls; predicted loss {loss['value']:.2g} ± {loss['stderr']:.1g})."
        )
    known = [of.tolerance * unit for unit in GAMMAS]
    gamma = max(g for g in known if value["entropy_bound_loss_at_most", g]["value"] <= of.tolerance)  # the first always
    bound, calls = value["entropy_bound_loss_at_most", gamma], value["entropy_bound_calls", gamma]
    bounded = (
        f"entropy_bound --gamma {gamma:g} cannot lose more than {bound['value']:.2g} nats a token by its own bound, "
        f"and used {calls['value']:.3g} calls a row."
    )
    return [advice, bounded]
