"""Fine-tuning: only the trunk is taken, seeds decide, the pipeline says what we said, nothing half is left behind."""

import json
import statistics

import pytest
import torch
import transformers

from remask.core.errors import BadCheckpoint, BadData, BadInput, Diverged, OutputExists
from remask.data.labelled import Labelled
from remask.metrics.agreement import classification
from remask.train import classifier, finetune_directory
from remask.train.finetune import SHOWN, finetune
from remask.train.finetuning import FineTuning
from tests.nets.tiny import CAUSAL, MAKE
from tests.train.classifying import directory, task, tsv

FAMILIES = [name for name in MAKE if name not in (*CAUSAL, "xlm-roberta", "camembert")]
FEW = {("bert", "pairs"), ("roberta", "regress"), ("remask-modernbert", "pairs"), ("remask-modernbert", "regress")}
QUICK = FineTuning(seeds=1, epochs=2, batch=16, learning_rate=3e-3, layer_decay=1.0, bf16=False)


def settings(**rest):
    return FineTuning(**{**{name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}, **rest})


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return directory(tmp_path_factory.mktemp("ours") / "net", ours=True)


@pytest.fixture(scope="module")
def learned(ours, tmp_path_factory):
    """Two seeds of a task that can be learned, with a test file."""
    out = tmp_path_factory.mktemp("learned") / "model"
    rows = [task(160, 0), task(60, 1), task(60, 2)]
    plan = settings(seeds=2, epochs=8, learning_rate=1e-2)
    return finetune(ours, rows[0], rows[1], test=rows[2], settings=plan, out=out)


def heard(path, labelled):
    """What plain transformers says about texts, one at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    found = []
    for i, text in enumerate(labelled.texts):
        pair = None if labelled.pairs is None else labelled.pairs[i]
        with torch.no_grad():
            found.append(model(**tokenizer(text, pair, truncation=True, return_tensors="pt")).logits[0].double())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(family, kind, id=f"{family}-{kind}", marks=[] if (family, kind) in FEW else pytest.mark.slow)
        for family in FAMILIES
        for kind in ("pairs", "regress")
    ],
)
def test_every_family_is_saved_as_it_was_weighed(tmp_path, family, kind):
    source = directory(tmp_path / "net", family)
    train, valid = task(32, 0, kind), task(12, 1, kind)
    result = finetune(source, train, valid, task=kind, settings=settings(epochs=1, length=12), out=tmp_path / "out")
    logits = heard(tmp_path / "out", valid)
    said = logits if kind == "regress" else logits.softmax(1)
    assert float((said - result.valid.scores).abs().max()) < 1e-4 * (100 if kind == "regress" else 1)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["problem_type"] == ("regression" if kind == "regress" else "single_label_classification")
    assert set(result.summary()) == set(SHOWN[kind])


def test_the_pipeline_says_the_same(learned):
    pipeline = transformers.pipeline("text-classification", str(learned.path))
    labelled, scores = learned.valid.labelled, learned.valid.scores
    for said, row in zip(pipeline(labelled.texts), scores):
        assert said["label"] == learned.classes[int(row.argmax())]
        assert said["score"] == pytest.approx(float(row.max()), abs=1e-5)
    right = [said["label"] == label for said, label in zip(pipeline(labelled.texts), labelled.labels)]
    kept = next(run for run in learned.runs if run.seed == learned.kept)
    assert statistics.mean(right) == kept.valid["accuracy"].value


def test_it_learns_and_says_how_well(learned):
    assert learned.summary()["accuracy"]["max"] > 0.8  # a guess is right once in three
    values = [run.valid["accuracy"].value for run in learned.runs]
    assert learned.summary()["accuracy"] == {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": 2,
    }
    assert learned.runs[learned.kept].valid["accuracy"].value == max(values)
    facts = json.loads((learned.path / "remask.json").read_text())
    assert facts["what"] == "finetune" and facts["classes"] == learned.classes == ["class 0", "class 1", "class 2"]
    assert facts["metrics"] == {"valid": learned.summary(), "test": learned.summary("test")}
    assert facts["seeds"][1]["test"]["accuracy"]["value"] == learned.runs[1].test["accuracy"].value
    assert sorted(path.name for path in learned.path.iterdir()) == facts["files"]
    for run in learned.runs:
        assert max(point["accuracy"] for point in run.curve) == run.valid["accuracy"].value
        assert run.step in [point["step"] for point in run.curve] and len(run.curve) == 8


def test_numbers_are_learned_in_their_own_units(ours):
    plan = settings(epochs=8, learning_rate=1e-2)
    result = finetune(ours, task(160, 0, "regress"), task(60, 1, "regress"), task="regress", settings=plan)
    assert result.summary()["pearson"]["median"] > 0.8 and result.path is None
    assert float(result.valid.scores.min()) + 3 > 99 and float(result.valid.scores.mean()) == pytest.approx(107, abs=3)


def test_the_same_seed_gives_the_same_model_and_another_one_another(ours):
    rows = task(32, 0), task(12, 1)
    plan = settings(epochs=1, dropout=0.3)
    first = finetune(ours, *rows, settings=plan)
    torch.rand(3)
    again = finetune(ours, *rows, settings=plan)
    both = finetune(ours, *rows, settings=settings(epochs=1, dropout=0.3, seeds=2))
    assert torch.equal(first.valid.scores, again.valid.scores)
    assert both.runs[0].valid == first.runs[0].valid and both.runs[0].curve != both.runs[1].curve


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_trunk_is_taken(tmp_path, family):
    source = classifier.read(directory(tmp_path / "net", family))
    config = classifier.head_config(source, ["a", "b"], None)
    one, same, other = (classifier.build(source, config, seed) for seed in (0, 0, 1))
    fresh = classifier.build(source, config, 0, fresh=True)
    trunk = f"{one.base_model_prefix}."
    lm = MAKE[family]().from_pretrained(tmp_path / "net").base_model.state_dict()
    for name, tensor in one.state_dict().items():
        inside = name.removeprefix(trunk)
        if name.startswith(trunk) and inside in lm:
            assert torch.equal(tensor, lm[inside]) and torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, same.state_dict()[name])
    last = one.state_dict()["classifier.out_proj.weight" if family in ("roberta", "electra") else "classifier.weight"]
    assert any(torch.equal(last, x) for x in same.state_dict().values())
    assert not any(torch.equal(last, x) for x in other.state_dict().values())
    words = {model: model.get_input_embeddings().weight for model in (one, fresh)}
    assert not torch.equal(words[one], words[fresh])


def test_a_detector_is_a_trunk(tmp_path):
    source = directory(tmp_path / "net", "electra")
    config = transformers.ElectraConfig.from_pretrained(source)
    with torch.random.fork_rng(devices=[]):
        transformers.ElectraForPreTraining(config).save_pretrained(source)
    result = finetune(source, task(32, 0), task(12, 1), settings=settings(epochs=1))
    assert result.valid.scores.shape == (12, 3)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        transformers.ElectraForTokenClassification(config).save_pretrained(source)
    assert finetune(source, task(32, 0), task(12, 1), settings=settings(epochs=1)).classes is not None


def test_ours_pools_the_mean_and_ends_its_texts(ours, tmp_path):
    source = classifier.read(ours)
    config = classifier.head_config(source, ["a", "b"], None)
    assert (config.classifier_pooling, config.classifier_dropout) == ("mean", classifier.HEAD_DROPOUT)
    foreign = classifier.read(directory(tmp_path / "net", "modernbert"))
    assert classifier.head_config(foreign, ["a", "b"], None).classifier_pooling == "cls"
    tokenizer = classifier.prepare_tokenizer(source, 9, pairs=True)
    end = tokenizer.eos_token_id
    assert tokenizer("w0 w1").input_ids == [6, 7, end]
    assert tokenizer("w0", "w1").input_ids == [6, end, 7, end]
    assert set(tokenizer("w0")) == {"input_ids", "attention_mask"} and tokenizer.model_max_length == 9
    bert = classifier.read(directory(tmp_path / "bert", "bert"))
    theirs = classifier.prepare_tokenizer(bert, 9, pairs=True)
    assert theirs("w0", "w1") == bert.tokenizer("w0", "w1") and "token_type_ids" in theirs("w0")


def test_what_is_cut_is_counted(ours):
    long = task(32, 0)._replace(texts=["w1 " * 30, *task(32, 0).texts[1:]])
    result = finetune(ours, long, task(12, 1), settings=settings(epochs=1, length=12))
    assert result.facts["data"]["train"]["truncated"] == 1 and result.facts["data"]["valid"]["truncated"] == 0


def test_an_occupied_place_is_refused_and_foreign_files_survive(ours, learned, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years")
    rows = task(32, 0), task(12, 1)
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match="not a fine-tuned model"):
            finetune(ours, *rows, settings=QUICK, out=mine, overwrite=overwrite)
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    model = tmp_path / "model"
    plan = settings(epochs=1)
    finetune(ours, *rows, settings=plan, out=model, further=lambda r, at: (at / "old.html").write_text("old"))
    (model / "notes.txt").write_text("mine")
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(OutputExists, match="type --overwrite"):
        finetune(ours, *rows, settings=plan, out=model)
    finetune(ours, *rows, settings=settings(epochs=1, learning_rate=1e-2), out=model, overwrite=True)
    assert (model / "notes.txt").read_text() == "mine" and (model / "model.safetensors").read_bytes() != before
    assert not (model / "old.html").exists() and not (model / ".staging").exists()
    with pytest.raises(OutputExists, match=r"holds a file 'notes.txt' that is not of"):
        finetune(
            ours, *rows, settings=plan, out=model, overwrite=True, further=lambda r, at: (at / "notes.txt").touch()
        )
    assert (model / "notes.txt").read_text() == "mine" and (model / "config.json").exists()


class _Stop(Exception):
    pass


@pytest.mark.parametrize("moment", ["training", "saving"])
def test_an_interruption_leaves_nothing_or_what_was_there(ours, tmp_path, moment):
    rows = task(32, 0), task(12, 1)
    plan = settings(epochs=1)

    def stop(*_):
        raise _Stop

    where = {"training": {"watch": stop}, "saving": {"further": stop}}[moment]
    with pytest.raises(_Stop):
        finetune(ours, *rows, settings=plan, out=tmp_path / "new/model", **where)
    assert not (tmp_path / "new").exists()
    model = tmp_path / "model"
    finetune(ours, *rows, settings=plan, out=model)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(_Stop):
        finetune(ours, *rows, settings=settings(epochs=1, learning_rate=1e-2), out=model, overwrite=True, **where)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_a_killed_publication_can_be_overwritten(ours, tmp_path):
    rows, model = (task(32, 0), task(12, 1)), tmp_path / "model"
    finetune(ours, *rows, settings=settings(epochs=1), out=model)
    for name in finetune_directory.LAST:  # as if killed between the renames
        (model / name).unlink()
    with pytest.raises(OutputExists, match="--overwrite"):
        finetune(ours, *rows, settings=settings(epochs=1), out=model)
    assert finetune(ours, *rows, settings=settings(epochs=1), out=model, overwrite=True).path == model
    assert heard(model, rows[1]).shape == (12, 3)


def test_a_loss_that_explodes_is_a_sentence(ours):
    with pytest.raises(Diverged, match="type a lower --learning-rate"):
        finetune(ours, task(64, 0), task(12, 1), settings=settings(learning_rate=1e30, clip=0.0, epochs=3))


def broken(path, change):
    config = json.loads((path / "config.json").read_text())
    config.update(change)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_directories_that_cannot_be_fine_tuned(tmp_path):
    rows = task(32, 0), task(12, 1)
    cases = {
        "causal": (directory(tmp_path / "a", "modernbert-decoder"), "is a causal model"),
        "ours causal": (directory(tmp_path / "b", "remask-modernbert-decoder"), "is a causal model"),
        "decoder": (broken(directory(tmp_path / "c", "bert"), {"is_decoder": True}), "is_decoder"),
        "family": (broken(directory(tmp_path / "d", "bert"), {"model_type": "gpt2"}), "is a 'gpt2' model"),
        "kernel": (broken(directory(tmp_path / "e", "bert"), {"attn_implementation": "x/y"}), "runs no code"),
        "whole": (broken(directory(tmp_path / "f", "bert"), {"num_hidden_layers": 3}), "its trunk is not whole"),
        "absent": (tmp_path / "nothing", "there is no checkpoint directory"),
    }
    pickled = directory(tmp_path / "g", "bert")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases["pickle"] = (pickled, "safetensors only")
    for path, says in cases.values():
        with pytest.raises(BadCheckpoint, match=says):
            finetune(path, *rows, settings=QUICK)


def test_data_that_cannot_be_learned_from(ours, tmp_path):
    train, valid = task(32, 0), task(12, 1)
    numbers = task(32, 0, "regress")
    cases = [
        ((train._replace(labels=["x"] * 32), valid), {}, BadData, "one class only"),
        ((train, valid._replace(labels=["new", *valid.labels[1:]])), {}, BadData, "the label 'new' in 1 row that"),
        ((numbers._replace(labels=[2.0] * 32), numbers), {"task": "regress"}, BadData, "the same label"),
        ((train, valid), {"task": "pairs"}, BadInput, "one text a row"),
        ((task(8, 0, "pairs"), task(8, 1, "pairs")), {}, BadInput, "two texts a row"),
        ((train, Labelled([], None, [])), {}, BadData, "0 texts"),
        ((train, valid), {"settings": settings(length=1000)}, BadInput, "--length 1000 is beyond the 40"),
        ((train, valid), {"settings": settings(length=1)}, BadInput, "leaves no room"),
    ]
    for rows, rest, kind, says in cases:
        with pytest.raises(kind, match=says):
            finetune(ours, *rows, **{"settings": QUICK, "out": tmp_path / "out", **rest})
    assert not (tmp_path / "out").exists()


def test_files_are_read_like_rows_in_memory(ours, tmp_path):
    rows = task(32, 0), task(12, 1)
    files = [tsv(tmp_path / f"{i}.tsv", part) for i, part in enumerate(rows)]
    plan = settings(epochs=1)
    a, b = finetune(ours, *rows, settings=plan), finetune(ours, *files, settings=plan)
    assert torch.equal(a.valid.scores, b.valid.scores)
    assert a.facts["data"]["train"]["fingerprint"] == b.facts["data"]["train"]["fingerprint"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("seeds", 0), ("epochs", 0), ("learning_rate", 0.0), ("layer_decay", 1.5), ("warmup", 1.0), ("clip", -1.0)],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(BadInput, match=f"--{field.replace('_', '-')} came as {value}"):
        FineTuning(**{field: value})


def test_default_rates():
    assert [FineTuning().rate(ours) for ours in (False, True)] == [1e-4, 1e-3]
    assert FineTuning(fresh=True).rate(False) == 1e-3 and FineTuning(fresh=True).decay == 1.0
    assert FineTuning().decay == 0.8 and FineTuning(learning_rate=3.0).rate(True) == 3.0


def test_weighing_is_in_float32_whatever_training_was_in(ours):
    """Trainer's own bf16 would leave the model in autocast: its figures would be another net's than the saved one's."""
    rows = [task(48, 0), task(24, 1)]
    result = finetune(ours, *rows, settings=settings(epochs=1, bf16=True))
    run = result.runs[0]
    again = dict(classification(result.valid.scores, result.valid.truth))
    assert {name: e.value for name, e in run.valid.items()} == {name: e.value for name, e in again.items()}


def test_letters_that_are_no_nucleotides_are_counted_and_named(tmp_path):
    from remask.data.tokenizers import alphabet, dna_tokenizer
    from remask.nets.encoder import build
    from remask.train.checkpoint import write_net

    tokenizer = dna_tokenizer(1)
    write_net(tmp_path / "net", build("tiny", alphabet(tokenizer), 16), tokenizer, {})
    rows = Labelled(["ACGTTT", "ACGEEZ", "GGT", "AAN"], None, ["a", "b", "a", "b"], "splice.tsv")
    with pytest.raises(BadData, match=r"splice\.tsv.*3 letters.*E 2.*Z 1"):
        finetune(tmp_path / "net", rows, rows, settings=settings())


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, False),
        ({"recipe": {"start": {"init": None}}}, True),
        ({"recipe": {"start": {"init": "bert"}}}, False),
        ({"what": "finetune", "recipe": {"data": "x"}}, False),
    ],
)
def test_ours_is_what_started_from_random_weights(tmp_path, facts, expected):
    source = directory(tmp_path / "net", "bert")
    (source / "remask.json").write_text(json.dumps(facts))
    assert classifier.read(source).ours is expected
