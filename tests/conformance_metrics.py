"""What every metric must satisfy (its neighbour conformance.py: samplers and objectives). New rows need a value here.

Each check is a function that raises AssertionError; tests/<room>/test_conformance.py runs them for every row, and shows
with planted bugs that each of them can fail.
Shapes: B batch, L length.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from remask.core.metric import Estimate, Metric
from remask.core.stream import Stream
from remask.metrics import METRICS
from remask.objectives.autoregressive import shifted
from tests.oracle import (
    LAWS,
    Oracle,
    causal_net,
)

BYTES = 2  # of every token, for bits per byte

PANTRY: dict[str, Callable[[Oracle, int, int], Any]] = {
    "conditional": lambda oracle, n, seed: oracle,
    "net": lambda oracle, n, seed: causal_net(oracle),
    "tokens": lambda oracle, n, seed: oracle.sample(n, seed),
    "inputs": lambda oracle, n, seed: shifted(
        oracle.sample(n, seed), torch.zeros(n, oracle.length, dtype=torch.int64), oracle.alphabet.end
    ),
    "documents": lambda oracle, n, seed: torch.zeros(n, oracle.length, dtype=torch.int64),
    "alphabet": lambda oracle, n, seed: oracle.alphabet,
    "size": lambda oracle, n, seed: oracle.alphabet.size,
    "stream": lambda oracle, n, seed: Stream.of(seed, n),
    "bytes": lambda oracle, n, seed: torch.full((n,), BYTES * oracle.length),
    "train": lambda oracle, n, seed: oracle.sample(50_000, 1_000_000 + seed),
    "valid": lambda oracle, n, seed: oracle.sample(n, seed),
    "order": lambda oracle, n, seed: 1,
    "scorer": lambda oracle, n, seed: oracle.nats_of_cells,
}
"""What a metric's parameters mean: a metric whose parameters have these names is asked without further code."""

KNOWN: dict[str, Callable[[Oracle], float]] = {
    "nats_per_token": lambda oracle: oracle.entropy / oracle.length,
    "perplexity": lambda oracle: math.exp(oracle.entropy / oracle.length),
    "bits_per_byte": lambda oracle: oracle.entropy / oracle.length / math.log(2) / BYTES,
    "unigram_entropy": lambda oracle: float((oracle.joint * own_entropies(oracle)).sum()),
}
"""The value of each estimate on a law, when the model that is weighed is the law itself."""

ONLY: dict[str, tuple[str, ...]] = {"ngram": ("independent",)}
"""Metrics whose own model is the truth on some laws only."""

METRIC_VARIANTS: dict[str, list[dict[str, Any]]] = {"nelbo": [{"estimator": "time"}]}


def own_entropies(oracle: Oracle) -> Tensor:
    """Entropy of each state's own token frequencies, [S]."""
    share = (oracle.states[:, :, None] == oracle.ids).double().mean(1)
    return -torch.xlogy(share, share).sum(1)


def metrics() -> dict[str, tuple[Metric, dict[str, Any], list[Oracle]]]:
    """Every row: the function, further arguments, and the laws on which its value is known."""
    return {
        " ".join([name, *settings.values()]): (
            METRICS.load(name),
            settings,
            [LAWS[law] for law in ONLY.get(name, tuple(LAWS))],
        )
        for name in METRICS
        for settings in [{}, *METRIC_VARIANTS.get(name, [])]
    }


def weigh(metric: Metric, settings: dict[str, Any], oracle: Oracle, n: int, seed: int) -> dict[str, Estimate]:
    """Ask a metric about n true rows, its arguments filled in by name."""
    wanted = inspect.signature(metric).parameters
    missing = [p.name for p in wanted.values() if p.default is p.empty and p.name not in PANTRY]
    assert not missing, f"conformance cannot ask this metric: teach PANTRY what {missing} are"
    return dict(metric(**{name: PANTRY[name](oracle, n, seed) for name in wanted if name in PANTRY}, **settings))


def check_known(metric: Metric, settings: dict[str, Any], oracle: Oracle, seed: int = 0) -> None:
    """Every estimate is within three standard errors of its value on the law."""
    found = weigh(metric, settings, oracle, 2000, seed)
    assert found, "the metric yields nothing"
    for name, estimate in found.items():
        assert name in KNOWN, f"conformance does not know '{name}': teach KNOWN its value on a law"
        truth = KNOWN[name](oracle)
        miss = abs(estimate.value - truth)
        assert miss <= 3 * estimate.stderr + 5e-4 * truth, f"{name}: {estimate.value} +- {estimate.stderr}, not {truth}"
        assert 0 < estimate.stderr < 0.05 * truth, f"the standard error {estimate.stderr} of {name} says nothing"
        assert estimate.unit and estimate.n == 2000, f"{name} without a unit, or n = {estimate.n} of 2000 rows"


def check_stderr_shrinks(metric: Metric, settings: dict[str, Any], oracle: Oracle, seed: int = 0) -> None:
    """Sixteen times the rows, a quarter of the standard error.

    Weights of 1/t have such a heavy tail that the spread one sees still grows with the logarithm of the rows: 3.4 is
    what they show at these numbers.
    """
    few = [weigh(metric, settings, oracle, 200, 10 * seed + i) for i in range(8)]
    many = weigh(metric, settings, oracle, 3200, seed)
    for name in many:
        shrinks = math.sqrt(sum(repeat[name].stderr ** 2 for repeat in few) / 8) / many[name].stderr
        assert 2.9 < shrinks < 4.6, f"16 times the rows divide the standard error of {name} by {shrinks:.2f}, not 4"


def check_stderr_calibrated(metric: Metric, settings: dict[str, Any], oracle: Oracle, seed: int = 0) -> None:
    """Over 100 repeats about 68 % of the values lie within one standard error of the truth."""
    repeats = [weigh(metric, settings, oracle, 64, 1000 * (seed + 1) + i) for i in range(100)]
    for name in repeats[0]:
        truth = KNOWN[name](oracle)
        inside = sum(abs(r[name].value - truth) <= r[name].stderr for r in repeats) / 100
        assert 0.54 <= inside <= 0.82, f"{inside:.0%} of the values of {name} lie within one standard error, not 68 %"


METRIC_CHECKS: tuple[Callable[..., None], ...] = (check_known, check_stderr_shrinks)
