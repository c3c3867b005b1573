"""Autocorrelation times against AR(1)'s closed form and chains whose eigenvalues are known."""

import math

import numpy as np
import pytest
import torch

from remask.core.canvas import Canvas, blank
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.lab.autocorrelation import (
    autocorrelation,
    exact_autocorrelation,
    exact_time,
    gibbs_autocorrelation,
    gibbs_series,
    integrated,
    scrambled,
)
from remask.lab.chains import ising_path
from remask.lab.kernels import block_kernel, gap
from remask.lab.laws import ising, random_table


def autoregressive(phi, chains, times, seed):
    """x_t = phi x_{t-1} + noise, from its stationary law, [C, T]: rho(t) = phi^t, integrated (1 + phi) / (1 - phi)."""
    noise = np.random.default_rng(seed).standard_normal((chains, times))
    series = np.empty_like(noise)
    series[:, 0] = noise[:, 0] / math.sqrt(1 - phi**2)
    for t in range(1, times):
        series[:, t] = phi * series[:, t - 1] + noise[:, t]
    return torch.from_numpy(series)


def slowest(law, kernel):
    """The second eigenfunction of a reversible kernel, [S], and its eigenvalue."""
    root = law.joint.sqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * kernel / root)
    return vectors[:, -2] / root, float(values[-2])


def unknown(tokens):
    return Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_integrated_time_of_an_autoregression(phi):
    truth = (1 + phi) / (1 - phi)
    series = autoregressive(phi, 600, 400, seed=1)
    found = [integrated(part) for part in series.split(20)]
    pulls = torch.tensor([(one.time.value - truth) / one.time.stderr for one in found])
    assert abs(float(pulls.mean())) < 3 / math.sqrt(len(pulls)) + 0.3  # the window leaves out a part of a percent
    assert 0.5 < float(pulls.std()) < 1.6  # and the standard error is one
    pooled = integrated(series)
    assert pooled.time.value == pytest.approx(truth, rel=0.03)
    assert pooled.enough
    assert pooled.effective == pytest.approx(series.numel() / pooled.time.value)


def test_a_wrong_window_is_caught():
    """Without a window the sum over all lags says next to nothing, whatever the chain."""
    series = autoregressive(0.9, 1, 20000, seed=2)
    rho = autocorrelation(series)
    whole = 2 * float(rho.sum()) - 1
    found = integrated(series)
    assert abs(found.time.value - 19) < 3 * found.time.stderr
    assert abs(whole - 19) > 3 * found.time.stderr
    assert rho[:4].tolist() == pytest.approx([1, 0.9, 0.81, 0.729], abs=0.03)


def test_the_transform_is_the_sum():
    series = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 20)).cumsum(1))
    centred = series - series.mean()
    by_hand = torch.stack([(centred[:, : 20 - t] * centred[:, t:]).mean() for t in range(20)])
    torch.testing.assert_close(autocorrelation(series), by_hand / by_hand[0])
    assert not integrated(series).enough


def test_exact_times_are_those_of_the_eigenvalue():
    law = ising(4, 0.3, 0.1, "ring")
    kernel = block_kernel(law, 1)
    function, value = slowest(law, kernel)
    assert value == pytest.approx(1 - gap(kernel, law), abs=1e-12)
    curve = exact_autocorrelation(kernel, law, function, 5)
    assert curve.tolist() == pytest.approx([value**t for t in range(6)])
    assert exact_time(kernel, law, function) == pytest.approx((1 + value) / (1 - value))
    total = law.digits.double().sum(1)
    curve = exact_autocorrelation(kernel, law, total, 1000)
    assert exact_time(kernel, law, total) == pytest.approx(2 * float(curve.sum()) - 1)
    assert exact_time(block_kernel(law, 4), law, total) == pytest.approx(1)
    with pytest.raises(BadInput, match="one value"):
        exact_time(kernel, law, torch.ones(16))


@pytest.mark.parametrize("size", [1, 2])
def test_gibbs_remembers_as_long_as_its_eigenvalue_says(size):
    law = ising(4, 0.3, 0.1, "ring")
    function, value = slowest(law, block_kernel(law, size))
    canvas = unknown(law.sample(512, 3))
    runs = gibbs_autocorrelation(law, canvas, size, 100, lambda rows: function[law.number(rows)], Stream.of(5, 512))
    time = runs.correlation.time
    assert abs(time.value - (1 + value) / (1 - value)) < 3 * time.stderr
    assert runs.correlation.enough
    wrong = 2 * (1 + value) / (1 - value)
    assert abs(time.value - wrong) > 3 * time.stderr
    assert runs.correlation.curve[1] == pytest.approx(value, abs=0.02)
    assert abs(runs.apart.value) < 3 * runs.apart.stderr
    assert runs.data.shape == runs.noise.shape == (512, 101)
    assert torch.equal(runs.data[:, 0], function[law.number(canvas.tokens)])


def test_runs_that_have_not_met_are_seen():
    """A strong clique holds data and noise apart, and a short run from the data shows no sign of it."""
    law = ising(6, 1.0, 0.3)
    stream = Stream.of(0, 64)
    runs = gibbs_autocorrelation(law, unknown(law.sample(64, 1)), 1, 60, lambda rows: rows.double().sum(1), stream)
    assert abs(runs.apart.value) > 3 * runs.apart.stderr


def test_masks_are_filled_first_and_given_cells_stay():
    law = random_table(4, 3, 2.0, seed=0)
    canvas = blank(6, 4, law.alphabet)
    canvas.tokens[:, 1] = 2
    canvas.frozen[:, 1] = True
    seen = []

    def statistic(rows):
        seen.append(rows.clone())
        return rows[:, 0].double()

    series = gibbs_series(law, canvas, 2, 5, statistic, Stream.of(1, 6))
    assert series.shape == (6, 6)
    assert ((series >= 0) & (series < 3)).all()  # filled before the first move
    assert all((rows[:, 1] == 2).all() and (rows < 3).all() for rows in seen)
    noise = scrambled(canvas, law, Stream.of(2, 6))
    assert (noise.tokens[:, 1] == 2).all()
    assert (noise.tokens < 3).all()
    assert torch.equal(noise.frozen, canvas.frozen)


def test_a_chain_by_its_messages_remembers_like_the_enumerated_law():
    """A path of 9 cells, h = 0; with closed ends the sum of all would relax in L / (1 - tanh 2J) moves."""
    path, law, size = ising_path(9, 0.3), ising(9, 0.3, graph="path"), 9
    stream = Stream.of(0, 96)
    runs = gibbs_autocorrelation(path, unknown(path.sample(96, 0)), 1, 250, lambda rows: rows.double().sum(1), stream)
    truth = exact_time(block_kernel(law, 1), law, law.digits.double().sum(1))
    time = runs.correlation.time
    assert abs(time.value - truth) < 3 * time.stderr
    assert 0.7 < truth / (2 * size / (1 - math.tanh(0.6)) - 1) < 1  # the open ends forget sooner


def test_the_same_stream_the_same_runs():
    law = ising(3, 0.3, 0.1)
    rows = law.sample(8, 0)
    one, two = (
        gibbs_autocorrelation(law, unknown(rows), 1, 30, lambda rows: rows.double().sum(1), Stream.of(9, 8))
        for _ in range(2)
    )
    assert torch.equal(one.data, two.data) and torch.equal(one.noise, two.noise)
    assert one.apart == two.apart
    part = gibbs_series(
        law, unknown(rows[2:5]), 1, 30, lambda rows: rows.double().sum(1), Stream.of(9, 8).rows(torch.arange(2, 5))
    )
    assert torch.equal(part, one.data[2:5])  # whichever other rows are in the batch


def test_what_cannot_be_served():
    for series in (torch.ones(50), torch.full((2, 9), math.pi)):
        with pytest.raises(BadInput, match="never changed"):
            integrated(series)
    with pytest.raises(BadInput, match="no autocorrelation"):
        autocorrelation(torch.tensor([1.0, 2.0]))
    with pytest.raises(BadInput, match="not finite"):
        autocorrelation(torch.tensor([1.0, math.nan, 2.0, 1.0, 0.0]))
    law = ising(3, 0.1)
    rows = law.sample(2, 0)
    shut = Canvas(rows, torch.ones_like(rows, dtype=torch.bool))
    with pytest.raises(BadInput, match="no unknown cell"):
        gibbs_autocorrelation(law, shut, 1, 30, lambda rows: rows.double().sum(1), Stream.of(0, 2))
