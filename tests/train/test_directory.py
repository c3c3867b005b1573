"""Whose a directory is: another run is refused, and what is not a run's is never deleted."""

import json
import os
from pathlib import Path

import pytest

from remask.core.errors import BadInput, OutputExists
from remask.train import checkpoint
from remask.train.directory import MAY_CHANGE, OURS, claim

RECIPE = {
    "objective": "mdlm",
    "fields": {"weighting": "count"},
    "text": {"data": ["a.txt"], "length": 32},
    "start": {"net": "tiny", "init": None},
    "training": {"steps": 10, "batch": 4, "learning_rate": None, "clip": 1.0, "seed": 0},
}


def changed(room, name, value):
    return {**RECIPE, room: value if name is None else {**RECIPE[room], name: value}}


def new(out, recipe=RECIPE):
    return claim(out, recipe, resume=False, overwrite=False)


def overwrite(out, recipe=RECIPE):
    return claim(out, recipe, resume=False, overwrite=True)


def resume(out, recipe=RECIPE):
    return claim(out, recipe, resume=True, overwrite=False)


@pytest.fixture
def run(tmp_path):
    """A started run."""
    return new(tmp_path / "runs" / "one")


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_new_directory_gets_the_recipe(run):
    assert json.loads((run / "recipe.json").read_text()) == RECIPE
    assert names(run) == {"recipe.json"}


def test_an_empty_directory_will_do(tmp_path):
    assert new(tmp_path) == tmp_path


def test_what_a_crash_left_of_claiming_is_no_run(tmp_path):
    (tmp_path / "recipe.json.part").write_text('{"obj')
    new(tmp_path)
    assert names(tmp_path) == {"recipe.json"}


def test_another_run_is_refused(run):
    with pytest.raises(OutputExists, match=r"holds another run: type --resume .* --overwrite .* or another --out"):
        new(run)


def test_the_facts_of_a_finished_run_are_enough(tmp_path):
    (tmp_path / "remask.json").write_text("{}")
    with pytest.raises(OutputExists, match="holds another run"):
        new(tmp_path)


FOREIGN = ["thesis.tex", "data/part.txt", ".hidden", "checkpoints/notes.txt", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("way", [new, overwrite, resume])
def test_what_is_no_run_is_refused_and_left_alone(tmp_path, name, way):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match="not a remask run: type another --out"):
        way(tmp_path)
    assert names(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("recipe", ['{"flour": "500 g", "water": "350 g"}', "not json", "[1, 2]", '"bread"'])
def test_a_recipe_of_another_kind_is_no_run(tmp_path, recipe):
    (tmp_path / "recipe.json").write_text(recipe)
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(OutputExists, match="not a remask run"):
        overwrite(tmp_path)
    assert names(tmp_path) == {"recipe.json", "photo.jpg"}


def test_overwriting_takes_the_run_and_nothing_else(run):
    mine = {"notes.md", "figures/a.png", "checkpoints/kept/model.safetensors", "tensorboard/mine.txt", "model.bak"}
    ours = {
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"),
        *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
        *("remask.json", "history.jsonl", "report.html", "checkpoints/checkpoint-4/optimizer.pt"),
        *("tensorboard/events.out.tfevents.1.host.2.0", ".staging/checkpoint-8/config.json"),
    }
    for name in mine | ours:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("old")
    overwrite(run, changed("training", "steps", 20))
    assert names(run) == mine | {"recipe.json"}
    assert json.loads((run / "recipe.json").read_text())["training"]["steps"] == 20


def test_overwriting_leaves_no_empty_folders(run):
    (run / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (run / "tensorboard").mkdir()
    overwrite(run)
    assert {path.name for path in run.iterdir()} == {"recipe.json"}


def test_a_link_is_not_followed(run, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (run / "checkpoints").mkdir()
    os.symlink(precious, run / "checkpoints" / "checkpoint-4")
    os.symlink(precious / "file", run / "history.jsonl")
    overwrite(run)
    assert (precious / "file").read_text() == "mine"
    assert names(run) == {"recipe.json"}


def test_everything_that_a_run_writes_is_known():
    """So that --overwrite leaves nothing of the old run behind."""
    from tests.train.runs import undisturbed

    run = undisturbed("adamw")
    known = {path for pattern in OURS for path in run.glob(pattern)}
    left = [path for path in run.rglob("*") if path.is_file() and not known & {path, *path.parents}]
    assert left == []


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    for way in (new, overwrite, resume):
        with pytest.raises(OutputExists, match="is a file: type another --out"):
            way(tmp_path / "file")
    with pytest.raises(BadInput, match=r"nothing can be written to .*Not a directory.*type another --out"):
        new(tmp_path / "file" / "run")


def test_resume_or_overwrite(run):
    with pytest.raises(BadInput, match="came together"):
        claim(run, RECIPE, resume=True, overwrite=True)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(BadInput, match="no run to resume in"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(BadInput, match="no run to resume in"):
        resume(tmp_path)


def test_the_same_recipe_resumes(run):
    assert resume(run) == run


CHANGES = [
    ("objective", None, "autoregressive"),
    ("fields", "weighting", "elbo"),
    ("text", "data", ["b.txt"]),
    ("text", "length", 64),
    ("start", "net", "mini"),
    ("training", "batch", 8),
    ("training", "seed", 1),
    ("training", "a_new_flag", 1),
]


@pytest.mark.parametrize(("room", "name", "value"), CHANGES)
def test_another_recipe_does_not_resume(run, room, name, value):
    with pytest.raises(BadInput) as error:
        resume(run, changed(room, name, value))
    assert f"was started with {name or room} = " in str(error.value)
    assert repr(value) in str(error.value)
    assert "--overwrite" in str(error.value)
    assert json.loads((run / "recipe.json").read_text()) == RECIPE


@pytest.mark.parametrize("name", sorted(MAY_CHANGE))
def test_how_long_and_how_fast_may_change(run, name):
    resume(run, changed("training", name, 7))


def test_a_damaged_recipe_does_not_resume(run):
    (run / "remask.json").write_text("{}")
    (run / "recipe.json").write_text('{"objective": ')
    with pytest.raises(BadInput, match=r"recipe\.json is damaged.*--overwrite"):
        resume(run)
    overwrite(run)
    assert json.loads((run / "recipe.json").read_text()) == RECIPE


def test_a_run_without_recipe_but_with_a_checkpoint_is_a_run(tmp_path):
    from tests.train.runs import earlier

    run = earlier(tmp_path / "run")
    (run / "recipe.json").unlink()
    assert checkpoint.newest(run) is not None
    overwrite(run)
    assert names(run) == {"recipe.json"}


def test_the_directory_may_be_named_by_a_string(tmp_path):
    assert new(str(tmp_path / "run")) == Path(tmp_path / "run")
