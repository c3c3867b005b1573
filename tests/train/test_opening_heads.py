"""--open-heads: when the heads open, what a run leaves behind, and what is refused."""

import json
import shutil
from functools import partial

import pytest
from transformers import AutoConfig, AutoModelForMaskedLM

from remask.core.errors import BadInput
from remask.train import checkpoint
from remask.train.budget import Budget
from remask.train.hooks import Opening
from remask.train.recipe import Start
from remask.train.settings import Training
from tests.nets.tiny import make
from tests.train import runs
from tests.train.runs import OPENING, SAVE, STEPS, refused, train, trained, undisturbed, well

SAME = ("--share", "none", "--generator-width", "1")  # what --two-stage asks for


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [(0.25, 0.75, [0, 0, 0, 0.5, 1, 1, 1]), (0.0, 1.0, [0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1])],
)
def test_the_heads_open_along_a_straight_line(since, until, expected):
    net, budget = make("remask-modernbert"), Budget(Training(steps=12))
    opening = Opening(net, budget, since, until)
    for step, opened in zip((0, 1, 3, 6, 9, 11, 12), expected, strict=True):
        opening.turn(step / 12)
        assert net.model.config.opened == pytest.approx(opened, abs=1e-12)
    budget.step = 2
    opening.on_step_begin(None, None, None)  # as at the end of the third step
    assert net.model.config.opened == pytest.approx(expected[2], abs=1e-12)


def test_heads_that_are_half_open_go_on_from_there_and_never_shut():
    net, budget = make("remask-modernbert"), Budget(Training(steps=10))
    net.model.config.opened = 0.4
    opening = Opening(net, budget, 0.0, 1.0)
    opening.turn(0.0)
    assert net.model.config.opened == 0.4
    opening.turn(0.5)
    assert net.model.config.opened == pytest.approx(0.7)
    opening.floor = 0.9
    opening.turn(0.5)
    assert net.model.config.opened == 0.9


def test_a_run_leaves_a_plain_modernbert_and_half_way_one_of_its_own():
    run = undisturbed("opening")
    assert AutoConfig.from_pretrained(run).model_type == "modernbert"
    assert type(AutoModelForMaskedLM.from_pretrained(run)).__name__ == "ModernBertForMaskedLM"
    assert "remask" not in (run / "config.json").read_text()
    model = checkpoint.load(run)
    assert model.net.family == "modernbert"
    kept = {step: run / "checkpoints" / f"checkpoint-{step}" / "config.json" for step in runs.checkpoints(run)}
    assert STEPS in kept and STEPS - SAVE in kept
    half = json.loads(kept[STEPS - SAVE].read_text())
    assert half["model_type"] == "remask-modernbert"
    assert half["opened"] == pytest.approx((8 / 12 - 0.25) / 0.5)
    assert json.loads(kept[STEPS].read_text())["model_type"] == "modernbert"


def test_the_recorded_bound_is_the_plain_nets_own(tmp_path):
    run = undisturbed("opening")
    done = well(runs.command("evaluate", str(run), "--data", str(runs.held()), "--json"))
    said = checkpoint.load(run).facts["metrics"]["nats_per_token"]["value"]
    assert done.json["nats_per_token"]["value"] == pytest.approx(said, rel=0.05)  # other masks, same net


def test_going_on_from_a_plain_checkpoint_after_the_opening_ends_the_same(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("opening"), run)
    (run / "remask.json").unlink()
    well(train(run, *OPENING, "--resume"))
    assert runs.weights(run) == runs.weights(undisturbed("opening"))


def test_both_nets_of_electra_end_plain(tmp_path):
    well(train(tmp_path / "run", "--open-heads", objective="electra"))
    for place in (tmp_path / "run", tmp_path / "run" / "generator"):
        assert AutoConfig.from_pretrained(place).model_type == "modernbert"


def test_what_cannot_be_opened_is_refused_and_costs_nothing(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained(), run)
    before = runs.weights(run)
    refused(train(run, "--open-heads", "--overwrite", objective="autoregressive"), "no directional heads")
    refused(train(run, "--open-heads", "--no-directional-heads", "--overwrite"), "--no-directional-heads")
    refused(train(run, "--open-heads", "--open-from", "0.9", "--overwrite"), "--open-from came as 0.9")
    refused(train(run, "--open-until", "0.9", "--overwrite"), "without --open-heads")
    refused(train(run, "--open-heads", "--two-stage", *SAME, "--overwrite", objective="electra"), "--open-until 0.5")
    assert runs.weights(run) == before
    refused(train(run, "--causal-first", "0.2", "--overwrite", objective="autoregressive"), "--causal-first")
    refused(train(run, "--causal-first", "0.2", "--overwrite", objective="electra"), "--causal-first")
    refused(train(run, "--causal-first", "1", "--overwrite"), "--causal-first came as 1")
    assert runs.weights(run) == before
    with pytest.raises(BadInput, match="--open-until"):
        Start(open_heads=True, open_until=1.5)


def test_a_time_conditioned_run_opens_again_and_bad_company_is_refused(tmp_path):
    run = tmp_path / "run"
    well(train(run, "--time-conditioning", steps=2))
    assert checkpoint.load(run).net.model.config.time_conditioning
    refused(train(tmp_path / "a", "--time-conditioning", objective="autoregressive"), "--time-conditioning")
    refused(train(tmp_path / "b", "--time-conditioning", "--open-heads"), "--time-conditioning")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.slow
def test_more_steps_neither_shut_the_heads_nor_read_again(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("opening"), run)
    done = well(train(run, *OPENING, "--resume", steps=10 * STEPS, before=partial(_watch, run)))
    seen = json.loads((run / "seen.json").read_text())
    assert len(seen) == 9 * STEPS
    assert {tuple(one) for one in seen} == {(1.0, False)}, "open, and no question is a causal one"
    assert "read left to right" not in done.err
    assert AutoConfig.from_pretrained(run).model_type == "modernbert"


def _watch(run):
    from remask.train.learner import Learner

    inner, seen = Learner.forward, []

    def forward(self, question, stream):
        if self.training:
            seen.append((self.net.model.config.opened, question.causal))
            (run / "seen.json").write_text(json.dumps(seen))
        return inner(self, question, stream)

    Learner.forward = forward


def test_the_record_says_how_long_a_run_read_and_an_older_record_is_understood(tmp_path):
    run = undisturbed("muon")
    assert checkpoint.load(run).facts["recipe"]["start"]["causal_first"] == 0.2
    assert json.loads((run / "recipe.json").read_text())["start"]["causal_first"] == 0.2
    assert checkpoint.load(run).facts["objective"]["low_rates"] == 0.6
    old = tmp_path / "run"
    shutil.copytree(run, old)
    recipe = json.loads((old / "recipe.json").read_text())
    for name in ("causal_first", "open_heads", "open_from", "open_until", "time_conditioning"):
        del recipe["start"][name]
    for name in ("carry_over", "zero_masking", "timesteps", "low_rates"):
        del recipe["fields"][name]
    (old / "recipe.json").write_text(json.dumps(recipe))
    refused(train(old, *runs.MUON, "--resume"), "low_rates = 0.0 and now 0.6")
    refused(train(old, *runs.MUON, "--resume", "--low-rates", "0"), "causal_first = 0.0 and now 0.2")
    well(train(old, *runs.MUON, "--resume", "--causal-first", "0", "--low-rates", "0"))
