"""Every setting that cannot be served is a sentence that names the flag."""

import math
from dataclasses import fields

import pytest

from remask.core.errors import BadInput
from remask.train.settings import DECAYS, OPTIMIZERS, Training

BAD = [
    *[(name, value) for name in ("batch", "accumulate", "save_minutes", "save_steps") for value in (0, -1, math.nan)],
    *[(name, value) for name in ("learning_rate", "rest_learning_rate") for value in (0.0, -1e-3, math.nan, math.inf)],
    *[(name, value) for name in ("weight_decay", "clip", "evaluations") for value in (-1, math.nan)],
    *[(name, value) for name in ("warmup", "ema") for value in (-0.1, 1.0, 2.0, math.nan)],
    *[("cooldown", value) for value in (-0.1, 1.1, math.nan)],
    *[("optimizer", "sgd"), ("decay", "step")],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_a_sentence(name, value):
    with pytest.raises(BadInput) as error:
        Training(steps=1, **{name: value})
    flag = name if isinstance(value, str) else f"--{name.replace('_', '-')}"
    assert flag in str(error.value)
    assert str(value) in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("budget", [{"steps": 0}, {"steps": -3}, {"minutes": 0.0}, {"minutes": math.nan}])
def test_a_bad_budget(budget):
    with pytest.raises(BadInput, match=f"--{next(iter(budget))} came as"):
        Training(**budget)


@pytest.mark.parametrize(("budget", "came"), [({}, "neither"), ({"steps": 1, "minutes": 1.0}, "both")])
def test_a_budget_is_one_of_two(budget, came):
    with pytest.raises(BadInput, match=rf"either --steps or --minutes; {came} came: type --steps N or --minutes M\."):
        Training(**budget)


@pytest.mark.parametrize("known", [OPTIMIZERS, DECAYS])
def test_choices_are_listed(known):
    with pytest.raises(BadInput) as error:
        Training(steps=1, **{"optimizer" if known is OPTIMIZERS else "decay": "other"})
    assert all(name in str(error.value) for name in known)


def test_the_edges_are_allowed():
    edges = {"weight_decay": 0.0, "clip": 0.0, "evaluations": 0, "warmup": 0.0, "cooldown": 1.0, "ema": 0.0}
    settings = Training(steps=1, batch=1, accumulate=1, save_steps=1, **edges)
    assert settings.steps == 1
    assert settings.minutes is None


def test_every_flag_explains_itself():
    from remask.cli.flags import fields as flags

    explained = {field.name: field.help for field in flags("remask.train.settings:Training")}
    assert set(explained) == {field.name for field in fields(Training)}
    assert all(explained.values())
