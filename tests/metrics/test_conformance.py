"""Every row of METRICS, and planted bugs that the checks must catch."""

from __future__ import annotations

import math

import pytest
import torch

from remask.core.metric import Estimate, ratio
from remask.metrics.nelbo import draws_of_rows, nelbo
from tests import conformance_metrics as conformance
from tests.oracle import LAWS

found = conformance.metrics()
on_every_law = pytest.mark.parametrize(
    ("metric", "settings", "oracle"),
    [
        pytest.param(metric, settings, oracle, id=f"{name}-{oracle.name}")
        for name, (metric, settings, laws) in found.items()
        for oracle in laws
    ],
)
on_one_law = pytest.mark.parametrize(
    ("metric", "settings", "oracle"),
    [pytest.param(metric, settings, laws[-1], id=name) for name, (metric, settings, laws) in found.items()],
)

FITTED = "probe"  # a classifier is fitted anew for every set of samples


@on_every_law
def test_known_value(metric, settings, oracle):
    conformance.check_known(metric, settings, oracle)


@on_one_law
def test_stderr_shrinks(metric, settings, oracle):
    conformance.check_stderr_shrinks(metric, settings, oracle)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == FITTED else ()) for name in found]
)
def test_stderr_is_calibrated(name):
    metric, settings, laws = found[name]
    conformance.check_stderr_calibrated(metric, settings, laws[-1])


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def weight_without_length(conditional, tokens, stream):
    """1/k where the bound has L/k."""
    length = tokens.shape[1]
    values = draws_of_rows(conditional, tokens, stream).mean(1) / length
    yield "nats_per_token", ratio(values.tolist(), [length] * len(tokens), "nats/token")


def spread_for_error(conditional, tokens, stream):
    """The standard deviation of the rows, sold as the standard error of their mean."""
    for name, e in nelbo(conditional, tokens, stream):
        yield name, e._replace(stderr=e.stderr * math.sqrt(e.n))


def draws_for_rows(conditional, tokens, stream):
    """Every draw counted as an independent row: the error is too small."""
    values = draws_of_rows(conditional, tokens, stream, draws=16).flatten()
    yield "nats_per_token", ratio(values.tolist(), [tokens.shape[1]] * len(values), "nats/token")


def sure_of_itself(conditional, tokens, stream):
    for name, e in nelbo(conditional, tokens, stream):
        yield name, Estimate(e.value, 0.0, e.unit, e.n)


@pytest.mark.parametrize(
    ("twin", "check", "says"),
    [
        (weight_without_length, conformance.check_known, "nats_per_token"),
        (sure_of_itself, conformance.check_known, "nats_per_token"),
        (draws_for_rows, conformance.check_known, "n = 32000"),
        (spread_for_error, conformance.check_known, "says nothing"),
        (spread_for_error, conformance.check_stderr_shrinks, "divide the standard error"),
        (spread_for_error, conformance.check_stderr_calibrated, "not 68 %"),
        (draws_for_rows, conformance.check_stderr_calibrated, "not 68 %"),
    ],
)
def test_planted_bugs_are_caught(twin, check, says):
    with pytest.raises(AssertionError, match=says):
        check(twin, {}, LAWS["ring_ising"])


def test_a_metric_that_conformance_cannot_ask_says_so():
    def odd(moon_phase):
        yield "nats_per_token", Estimate(moon_phase, 0.0, "nats", 1)

    with pytest.raises(AssertionError, match=r"teach PANTRY what \['moon_phase'\] are"):
        conformance.check_known(odd, {}, LAWS["ring_ising"])
    assert torch.is_tensor(conformance.own_entropies(LAWS["ring_ising"]))
