"""The study's harness on a tiny budget: the same text for all arms, finished runs stay, and its arithmetic."""

from __future__ import annotations

import json

import pytest
import torch

from recipes import electra_efficiency as study_of
from recipes.efficiency_report import Found, Truth, comparisons, facts, reached, write_up
from recipes.electra_efficiency import ARMS, USUAL, Job, Study, bare, best_rate, furnish, milestones, training_flops
from remask.core.errors import BadInput, OutputExists, UnknownName
from remask.core.objective import Batch
from remask.core.stream import Stream

TINY = Study(tokens=2048, batch=16, rates=(1e-3, 3e-3), points=2, probe_sentences=30, probe_cells=4)
TRUTH = Truth((0.4, 0.3), (0.9, 0.8))


def questions(arm: str, seed: int, step: int):
    objective, _ = furnish(ARMS[arm], TINY, seed)
    batch = Batch.of(TINY.block(seed, step), TINY.law.alphabet)
    return objective.corrupt(batch, Stream.of(seed, batch.slot).child(step))


def test_all_arms_of_a_seed_read_the_same_text_and_mask_the_same_cells():
    trained = [name for name in ARMS if ARMS[name].objective]
    asked = {name: questions(name, 1, 5) for name in trained}
    for name in trained:
        assert torch.equal(asked[name].targets, asked["mlm-15"].targets)
        same = ARMS[name].fields["mask_rate"] == 0.15
        assert torch.equal(asked[name].at, asked["mlm-15"].at) == same
    assert (asked["mlm-15"].at <= asked["mlm-40"].at).all(), "a larger rate adds cells"
    others = [questions("mlm-15", 2, 5), questions("mlm-15", 1, 6)]
    assert not any(torch.equal(q.targets, asked["mlm-15"].targets) for q in others)


def test_all_arms_of_a_seed_start_from_the_untrained_net():
    tokens = TINY.block(0, 0)
    with torch.no_grad():
        start = bare(TINY, 3).hidden(tokens)
        for name in ("mlm-15", "all-tokens", "electra"):
            assert torch.equal(furnish(ARMS[name], TINY, 3)[1].trunk.hidden(tokens), start)
        assert not torch.equal(bare(TINY, 4).hidden(tokens), start)


def test_flops_are_those_of_the_products():
    block = 2 * (4 * 96**2 + 2 * 32 * 96 + 3 * 96 * 256)
    ids = TINY.law.alphabet.size
    language_head = 2 * (96**2 + 96 * ids)
    assert training_flops(ARMS["mlm-15"], TINY) == pytest.approx(3 * (3 * block + 0.15 * language_head))
    more = training_flops(ARMS["mlm-40"], TINY) - training_flops(ARMS["mlm-15"], TINY)
    assert more == pytest.approx(3 * 0.25 * language_head)
    c = furnish(ARMS["electra"], TINY, 0)[1].generator.model.config
    assert c.hidden_size == pytest.approx(32, abs=4)
    small = 2 * (4 * c.hidden_size**2 + 2 * 32 * c.hidden_size + 3 * c.hidden_size * c.intermediate_size)
    generator = 3 * small + 2 * 96 * c.hidden_size + 0.15 * 2 * (96 * c.hidden_size + 96 * ids)
    detection = 2 * (96**2 + 96)
    assert training_flops(ARMS["electra"], TINY) == pytest.approx(3 * (3 * block + generator + detection))


def test_points_are_geometric_and_end_at_the_end():
    assert milestones(512, 6, 0.1) == [51, 81, 129, 204, 323, 512]
    assert milestones(512, 1, 0.1) == [512]
    assert milestones(3, 6, 0.1)[-1] == 3
    assert milestones(1, 6, 0.1) == [1]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out, said = tmp_path_factory.mktemp("study") / "out", []
    found = study_of.run(TINY, out, arms=("untrained", "mlm-15", "electra"), seeds=2, jobs=1, say=said.append)
    return out, found, said


def test_a_study_from_end_to_end(done):
    out, found, said = done
    assert said[0].startswith("Written before the study")
    names = {path.name for path in out.iterdir()}
    assert names == {"runs", "study.json", "analysis.json", "table.md", "figure.png", "figure.svg"}
    assert len(list((out / "runs").iterdir())) == 2 * 2 + 3 * 2
    assert json.loads((out / "study.json").read_text())["predictions"] == study_of.PREDICTIONS.splitlines()
    points = found.points["electra"][1]
    assert [p["tokens"] for p in points] == [512, 2048]
    assert points[0]["seconds"] < points[1]["seconds"]
    assert points[1]["flops"] == pytest.approx(2048 * training_flops(ARMS["electra"], TINY))
    assert set(points[0]["terms"]) == {"mlm", "detection"} and points[0]["terms"]["mlm"] == pytest.approx(4.86, abs=0.3)
    assert "| electra - mlm-15 |" in (out / "table.md").read_text()
    assert json.loads((out / "analysis.json").read_text())["arms"]["mlm-15"]["rate"] in TINY.rates


def test_resume_does_nothing_twice_and_the_numbers_stay(done):
    out, found, _ = done
    before = {path: path.read_bytes() for path in (out / "runs").iterdir()}
    gone = min(path for path in before if "electra-seed1-" in path.name)
    gone.unlink()
    (gone.parent / f".{gone.name}.1.part").write_text("{")  # what a killed run leaves behind
    said: list[str] = []
    again = study_of.run(
        TINY, out, arms=("untrained", "mlm-15", "electra"), seeds=2, jobs=1, resume=True, say=said.append
    )
    assert [line.split(":")[0] for line in said if " s of training" in line] == [gone.stem]
    assert all(path.read_bytes() == text for path, text in before.items() if path != gone)

    def numbers(result: Found) -> list[tuple[float, ...]]:
        return [(p["tokens"], p["class"], p["topic"], *p["terms"].values()) for p in result.points["electra"][1]]

    assert numbers(again) == numbers(found), "a run is a pure function of its job"


def test_another_study_is_not_mixed_in(done):
    out, _, _ = done
    arms = ("untrained",)
    with pytest.raises(OutputExists, match="--resume"):
        study_of.run(TINY, out, arms=arms)
    with pytest.raises(BadInput, match="another tokens, rates"):
        study_of.run(Study(tokens=4096, batch=16, points=2, probe_sentences=30, probe_cells=4), out, resume=True)
    with pytest.raises(UnknownName, match="electra-15-masked"):
        study_of.run(TINY, out, arms=("electra-15-maskd",))
    assert study_of.main(["--out", str(out), "--seeds", "1"]) == 2


def test_a_rate_that_diverged_is_never_chosen(tmp_path):
    jobs = study_of.tuning("mlm-15", TINY)
    for job, ends in zip(jobs, ({"class": 0.5, "topic": 0.4}, None)):
        lines = [{**ends, "tokens": 1}] if ends else []
        study_of.write(
            job.path(tmp_path), "".join(json.dumps(x) + "\n" for x in (*lines, {"diverged": "" if ends else "yes"}))
        )
    assert best_rate("mlm-15", TINY, tmp_path, TRUTH.headline) == jobs[0].rate
    wild = Job("mlm-15", 0, 1e30, 1.0, 1)
    assert "learning rate" in study_of.finish(wild, TINY, tmp_path)
    assert study_of.points_of(wild, tmp_path) == []


def planted(gain: float, noise: list[float], cost: float = 1.0) -> dict[int, list[dict]]:
    """Curves that rise by 0.2 of the way each time the tokens double; seeds differ by `noise`."""

    def accuracy(level: float) -> dict[str, float]:
        return {"class": 0.4 + 0.5 * level, "topic": 0.3 + 0.5 * level}

    return {
        seed: [
            {"tokens": 100 * 2**k, "flops": cost * 100 * 2**k, "seconds": cost * 2**k, "terms": {}}
            | accuracy(0.2 * k + gain + shift)
            for k in range(5)
        ]
        for seed, shift in enumerate(noise)
    }


def test_the_arithmetic_of_the_report(tmp_path):
    from scipy import stats

    noise = [0.00, 0.05, -0.04, 0.02, 0.03]
    jitter = [0.010, -0.005, 0.004, 0.000, -0.006]
    points = {
        "untrained": {s: [{"tokens": 0, "flops": 0, "seconds": 0, "class": 0.3, "topic": 0.3}] for s in range(5)},
        "mlm-15": planted(0.0, noise),
        "electra": planted(0.1, [a + b for a, b in zip(noise, jitter)], cost=2.0),
    }
    found = Found(TRUTH, {"untrained": 0.0, "mlm-15": 1e-3, "electra": 3e-3}, points)
    assert found.last("untrained")[0] == pytest.approx((-0.2 + 0.0) / 2)
    compared = {(c.ours, c.theirs, c.spent): c for c in comparisons(found)}
    assert set(compared) == {("electra", "mlm-15", spent) for spent in ("tokens", "flops", "seconds")}
    tokens = compared["electra", "mlm-15", "tokens"]
    expected = stats.ttest_1samp([0.1 + j for j in jitter], 0).confidence_interval(0.95)
    assert (tokens.difference.low, tokens.difference.high) == pytest.approx((expected.low, expected.high))
    assert tokens.difference.sure and tokens.amount == 1600
    flops = compared["electra", "mlm-15", "flops"]
    assert flops.amount == 1600 and flops.difference.mean == pytest.approx(-0.1 + sum(jitter) / 5)
    # 0.9 of the way: mlm-15 ends at 0.8 + noise; electra is there after 4 + (noise + jitter) / -0.2 doublings
    assert reached(found, "mlm-15", "tokens") == []
    ours = reached(found, "electra", "tokens")
    wanted = [100 * 2 ** (4 - (a + b) / 0.2) for a, b in zip(noise, jitter) if a + b >= 0]
    assert ours == pytest.approx(wanted) and len(ours) == 4
    text = write_up(found, tmp_path)
    assert "(4/5)" in text and "not reached" in text and "**" in text
    assert json.loads(json.dumps(facts(found)))["pairs"][0]["sure"] is True


def test_a_study_without_a_run_that_ended_is_still_written_up(tmp_path):
    found = Found(TRUTH, {"mlm-15": 1e-3, "electra": 3e-3}, {"mlm-15": {0: []}, "electra": planted(0.0, [0.0])})
    assert "diverged" in write_up(found, tmp_path) and list(comparisons(found)) == []
    assert facts(found)["arms"]["mlm-15"]["headline"] == {}


@pytest.mark.slow
def test_runs_side_by_side_give_the_same_points(done, tmp_path):
    _, found, _ = done
    arms = ("untrained", "mlm-15", "electra")
    beside = study_of.run(TINY, tmp_path, arms=arms, seeds=2, jobs=2, say=lambda line: None)
    assert beside.rates == found.rates
    for arm in arms:
        for seed in range(2):
            assert [p["class"] for p in beside.points[arm][seed]] == [p["class"] for p in found.points[arm][seed]]


def test_the_usual_arms_are_the_published_ablation():
    published = ["mlm-15", "replace-mlm", "electra-15-masked", "all-tokens", "electra"]
    assert set(USUAL) == {"untrained", "mlm-40", "electra-15-random", *published}
