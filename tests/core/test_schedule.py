"""Schedules: slope is the derivative, time the inverse, weight the bound's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.schedule import COSINE, EPSILON, LINEAR, LOG_LINEAR, SCHEDULES, due

every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
T = torch.linspace(0.001, 1, 400, dtype=torch.float64)


@every
def test_slope_is_the_derivative(schedule):
    t = T.clone().requires_grad_()
    schedule.alpha(t).sum().backward()
    torch.testing.assert_close(schedule.slope(T), t.grad, rtol=1e-12, atol=1e-12)
    h = 1e-6
    finite = (schedule.alpha(T + h) - schedule.alpha(T - h)) / (2 * h)
    torch.testing.assert_close(schedule.slope(T), finite, rtol=1e-7, atol=1e-9)


@every
def test_everything_is_visible_at_0_and_nothing_at_1(schedule):
    alpha = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha[0] == pytest.approx(1, abs=1e-15)
    assert alpha[1] == pytest.approx(EPSILON if schedule is LOG_LINEAR else 0, abs=1e-15)
    assert (schedule.alpha(T).diff() < 0).all()


@every
def test_time_inverts_the_mask_rate(schedule):
    torch.testing.assert_close(schedule.time(1 - schedule.alpha(T)), T, rtol=1e-9, atol=1e-12)
    rate = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(1 - schedule.alpha(schedule.time(rate)), rate)


@every
def test_weight_is_the_slope_of_the_log_mask_rate(schedule):
    """-alpha' / (1 - alpha) = d log(1 - alpha) / dt, which is why the bound does not depend on the schedule."""
    t = T.clone().requires_grad_()
    (1 - schedule.alpha(t)).log().sum().backward()
    torch.testing.assert_close(schedule.weight(T), t.grad)
    assert schedule.weight(T).dtype == torch.float64


def test_the_two_linear_weights_are_one_over_t():
    for schedule in (LINEAR, LOG_LINEAR):
        torch.testing.assert_close(schedule.weight(T), 1 / T)


@every
def test_a_wrong_slope_is_caught(schedule):
    """The planted bug: half the slope fails the comparison with the derivative."""
    wrong = schedule._replace(slope=lambda t: schedule.slope(t) / 2)
    with pytest.raises(AssertionError):
        test_slope_is_the_derivative(wrong)


def test_names_are_keys():
    assert all(name == schedule.name for name, schedule in SCHEDULES.items())
    assert math.isclose(float(SCHEDULES["cosine"].alpha(torch.tensor(0.5))), 1 - math.cos(math.pi / 4), rel_tol=1e-6)


@settings(deadline=None, database=None, max_examples=80)
@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(list(SCHEDULES)))
def test_due_opens_at_least_one_a_step_and_everything_in_the_end(steps, unknown, name):
    masked, counts = torch.tensor([unknown]), []
    for step in range(steps):
        count = due(SCHEDULES[name], steps, torch.tensor([step]), torch.tensor([unknown]), masked)
        counts.append(int(count))
        masked = masked - count
        if not masked:
            break
    assert int(masked) == 0
    assert min(counts) >= 1
    assert len(counts) <= min(steps, unknown)
    if name == "linear":
        assert len(counts) == min(steps, unknown), "equal counts spend the whole budget"
        assert max(counts) - min(counts) <= 1


def test_due_is_the_published_schedule():
    """MaskGIT's cosine leaves floor(N cos(pi r / 2)) masked: of 16 in 4 steps 14, 11, 6, 0."""
    masked, left = torch.tensor([16]), []
    for step in range(4):
        masked = masked - due(COSINE, 4, torch.tensor([step]), torch.tensor([16]), masked)
        left.append(int(masked))
    assert left == [math.floor(16 * math.cos(math.pi * r / 8)) for r in (1, 2, 3)] + [0] == [14, 11, 6, 0]
    assert [int(due(LINEAR, 4, torch.tensor([0]), torch.tensor([n]), torch.tensor([n]))) for n in (1, 4, 6, 10)] == [
        1,
        1,
        2,
        3,
    ]
