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
FITTED = 1000  # rows that a probe is fitted on: enough for it to say what the law would


def log_joint(oracle: Oracle, rows: Tensor) -> Tensor:
    """Log p of whole rows, [B]."""
    return oracle.joint[oracle.number(rows)].log()


def rivals(oracle: Oracle, n: int, seed: int) -> Tensor:
    """Uniform rows, [n, L]."""
    return oracle.states[torch.randint(len(oracle.states), (n,), generator=torch.Generator().manual_seed(seed))]


def preference(oracle: Oracle) -> float:
    """Chance that a true row is more probable than a uniform one, ties one half."""
    wins = (oracle.joint[:, None] > oracle.joint).double() + 0.5 * (oracle.joint[:, None] == oracle.joint).double()
    return float(oracle.joint @ wins.mean(1))


def other_cells(oracle: Oracle, n: int, seed: int) -> Tensor:
    """Which of all contexts of the first cell each true row has, one-hot: a linear classifier can know the law."""
    contexts = oracle.symbols ** (oracle.length - 1)
    return torch.nn.functional.one_hot(oracle.number(oracle.sample(n, seed)) % contexts, contexts).float()


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
    "probabilities": lambda oracle, n, seed: of_first_cell(oracle, oracle.sample(n, seed)),
    "labels": lambda oracle, n, seed: oracle.sample(n, seed)[:, 0],
    "predictions": lambda oracle, n, seed: of_first_cell(oracle, oracle.sample(n, seed)) @ ids(oracle),
    "targets": lambda oracle, n, seed: oracle.sample(n, seed)[:, 0].double(),
    "good": lambda oracle, n, seed: log_joint(oracle, oracle.sample(n, seed)),
    "bad": lambda oracle, n, seed: log_joint(oracle, rivals(oracle, n, seed)),
    "fit_features": lambda oracle, n, seed: other_cells(oracle, FITTED, 1_000_000 + seed),
    "fit_labels": lambda oracle, n, seed: oracle.sample(FITTED, 1_000_000 + seed)[:, 0],
    "test_features": other_cells,
    "test_labels": lambda oracle, n, seed: oracle.sample(n, seed)[:, 0],
    "scores": lambda oracle, n, seed: fakeness(oracle)[real_and_fake(oracle, n, seed)[0]],
    "replaced": lambda oracle, n, seed: real_and_fake(oracle, n, seed)[1],
}
"""What a metric's parameters mean: a metric whose parameters have these names is asked without further code."""

KNOWN: dict[str, Callable[[Oracle], float]] = {
    "nats_per_token": lambda oracle: oracle.entropy / oracle.length,
    "perplexity": lambda oracle: math.exp(oracle.entropy / oracle.length),
    "bits_per_byte": lambda oracle: oracle.entropy / oracle.length / math.log(2) / BYTES,
    "unigram_entropy": lambda oracle: float((oracle.joint * own_entropies(oracle)).sum()),
    "accuracy": lambda oracle: float(oracle.joint[said(oracle) == oracle.states[:, 0]].sum()),
    "macro_f1": lambda oracle: sum(each_f1(oracle)) / oracle.symbols,
    "brier": lambda oracle: float(oracle.joint @ squared_error(oracle)),
    "pearson": lambda oracle: weighted_correlation(oracle, lambda values: values),
    "spearman": lambda oracle: weighted_correlation(oracle, lambda values: share_below(oracle, values)),
    "detection_auc": lambda oracle: float(share_below(oracle, fakeness(oracle)).mean()),
    "recall_of_replaced": lambda oracle: float((fakeness(oracle) > 0).double().mean()),
    "precision_of_replaced": lambda oracle: 1 / (1 + called_fake(oracle)),
    "share_replaced": lambda oracle: 0.5,
}
"""The value of each estimate on a law, when the model that is weighed is the law itself."""

KNOWN_OF: dict[str, dict[str, Callable[[Oracle], float]]] = {
    "minimal_pairs": {"accuracy": preference},
}
"""The same by metric, for a name that several metrics give to different figures."""

ONLY: dict[str, tuple[str, ...]] = {
    "ngram": ("independent",),
    "classification": ("random_table",),  # elsewhere a class is rare, or certain
    "regression": ("markov_chain", "random_table"),
    "probe": ("random_table",),
    "detection": ("random_table", "independent", "ring_ising"),  # elsewhere most states give themselves away
}
"""Metrics whose own model is the truth on some laws only."""

OF_A_PART = ("recall_of_replaced", "precision_of_replaced")
"""Estimates whose n is that of some of the rows."""

METRIC_VARIANTS: dict[str, list[dict[str, Any]]] = {"nelbo": [{"estimator": "time"}]}


def own_entropies(oracle: Oracle) -> Tensor:
    """Entropy of each state's own token frequencies, [S]."""
    share = (oracle.states[:, :, None] == oracle.ids).double().mean(1)
    return -torch.xlogy(share, share).sum(1)


# A detector that knows the law: half of the rows are replaced by any state at all.


def real_and_fake(oracle: Oracle, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of states [n], and which of them were replaced [n] bool."""
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(n, generator=generator) < 0.5
    fakes = torch.randint(len(oracle.states), (n,), generator=generator)
    return torch.where(replaced, fakes, oracle.number(oracle.sample(n, seed))), replaced


def fakeness(oracle: Oracle) -> Tensor:
    """The logit of "replaced" of every state, [S]; equal states are equal to the last digit."""
    return (-oracle.joint.log() - math.log(len(oracle.joint))).round(decimals=9)


def called_fake(oracle: Oracle) -> float:
    """True rows called replaced, per replaced row that is."""
    called = fakeness(oracle) > 0
    return float(oracle.joint[called].sum() / called.double().mean())


# A classifier that knows the law: it names the first cell of a row, given the others.


def of_first_cell(oracle: Oracle, tokens: Tensor) -> Tensor:
    """p(first cell | the others), [B, V]."""
    at = torch.zeros_like(tokens, dtype=torch.bool)
    at[:, 0] = True
    return oracle(torch.where(at, oracle.alphabet.mask, tokens), at).exp()


def ids(oracle: Oracle) -> Tensor:
    """The number that each id stands for in a regression: itself, [V]."""
    return torch.arange(oracle.alphabet.size).double()


def said(oracle: Oracle) -> Tensor:
    """What the classifier says in every state, [S]."""
    return of_first_cell(oracle, oracle.states).argmax(1)


def each_f1(oracle: Oracle) -> list[float]:
    """The harmonic mean of precision and recall of each class."""
    called, truth, found = said(oracle), oracle.states[:, 0], []
    for symbol in oracle.ids:
        both = float(oracle.joint[(called == symbol) & (truth == symbol)].sum())
        precision = both / float(oracle.joint[called == symbol].sum())
        recall = both / float(oracle.joint[truth == symbol].sum())
        found.append(2 / (1 / precision + 1 / recall))
    return found


def squared_error(oracle: Oracle) -> Tensor:
    """Squared distance of the probabilities from the truth in every state, [S]."""
    law = of_first_cell(oracle, oracle.states)
    return (law.square().sum(1) - 2 * law.gather(1, oracle.states[:, :1])[:, 0] + 1).double()


def share_below(oracle: Oracle, values: Tensor) -> Tensor:
    """What part of the law lies below each state's value, ties half, [S]: ranks in the limit."""
    apart = (values[None] - values[:, None]).round(decimals=9)
    return ((apart < 0) + 0.5 * (apart == 0)).double() @ oracle.joint


def weighted_correlation(oracle: Oracle, as_seen: Callable[[Tensor], Tensor]) -> float:
    """Correlation over the law of the expected first cell with the true one."""
    a, b = (as_seen(x) for x in (of_first_cell(oracle, oracle.states) @ ids(oracle), oracle.states[:, 0].double()))
    a, b = a - oracle.joint @ a, b - oracle.joint @ b
    return float(oracle.joint @ (a * b) / (oracle.joint @ (a * a) * (oracle.joint @ (b * b))).sqrt())


def known(metric: Metric, name: str) -> Callable[[Oracle], float]:
    """The value of an estimate on a law."""
    values = {**KNOWN, **KNOWN_OF.get(getattr(metric, "__name__", ""), {})}
    assert name in values, f"conformance does not know '{name}': teach KNOWN its value on a law"
    return values[name]


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
        truth = known(metric, name)(oracle)
        miss = abs(estimate.value - truth)
        assert miss <= 3 * estimate.stderr + 5e-4 * truth, f"{name}: {estimate.value} +- {estimate.stderr}, not {truth}"
        assert 0 < estimate.stderr < 0.05 * truth, f"the standard error {estimate.stderr} of {name} says nothing"
        assert estimate.unit and (estimate.n == 2000 or name in OF_A_PART), (
            f"{name} without a unit, or n = {estimate.n} of 2000 rows"
        )


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
        truth = known(metric, name)(oracle)
        inside = sum(abs(r[name].value - truth) <= r[name].stderr for r in repeats) / 100
        assert 0.54 <= inside <= 0.82, f"{inside:.0%} of the values of {name} lie within one standard error, not 68 %"


METRIC_CHECKS: tuple[Callable[..., None], ...] = (check_known, check_stderr_shrinks)
