"""What a run starts from, what it leaves, and that it learns."""

import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

import remask
from remask.core.errors import BadCheckpoint, BadData, BadInput, Diverged, UnknownName
from remask.data.pack import pack
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.objectives.mdlm import MDLM
from remask.train import checkpoint
from remask.train.checkpoint import load
from remask.train.evaluate import weigh
from remask.train.run import Recipe, Start, Text
from remask.train.run import train as run_recipe
from remask.train.settings import Training
from remask.train.texts import spread
from tests.train import runs
from tests.train.runs import LENGTH, STEPS, causal, data, held, train, trained, undisturbed, well

# ---- what is left ----------------------------------------------------------------------------------------------------


def test_facts_say_everything():
    facts = load(undisturbed("muon")).facts
    assert set(facts) == {
        *("remask", "objective", "recipe", "data", "alphabet", "parameters", "versions", "threads", "command"),
        *("step", "tokens", "seconds", "processes", "metrics"),
    }
    assert (facts["step"], facts["tokens"], facts["processes"]) == (STEPS, STEPS * 4 * LENGTH, 1)
    assert facts["command"].startswith("remask train mdlm --data ")
    assert facts["objective"]["name"] == "mdlm"
    assert set(facts["metrics"]) == {"nats_per_token", "perplexity", "bits_per_byte"}
    assert len(facts["data"]["fingerprint"]) == 16
    recipe = json.loads((undisturbed("muon") / "recipe.json").read_text())
    assert recipe == facts["recipe"]
    assert recipe["training"]["steps"] == STEPS


def test_the_published_figure_is_that_of_the_published_weights():
    model = load(undisturbed("muon"))
    rows = pack(encode(model.tokenizer, [d.text for d in read([str(held())])]), LENGTH, model.alphabet.end)
    for name, e in weigh(model.net, model.alphabet, rows).items():
        told = model.facts["metrics"][name]
        assert (e.value, e.stderr) == pytest.approx((told["value"], told["stderr"]), rel=1e-5)  # as many draws
        assert (e.unit, e.n) == (told["unit"], told["n"])


def test_the_average_is_what_is_published():
    run = undisturbed("adamw")
    last = load_tensors(run / f"checkpoints/checkpoint-{STEPS}/model.safetensors")
    average = load_tensors(run / f"checkpoints/checkpoint-{STEPS}/average.safetensors")
    published = load_tensors(run / "model.safetensors")
    assert all(torch.equal(average[f"model.{name}"], x) for name, x in published.items())
    assert any(not torch.equal(last[name], x) for name, x in published.items())


def load_tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(("rows", "wanted"), [(1, 64), (5, 64), (64, 64), (1000, 64), (3, 1), (2, 2)])
def test_spread(rows, wanted):
    chosen = spread(rows, wanted)
    assert len(chosen) == len(set(chosen)) == min(rows, wanted)
    assert all(0 <= row < rows for row in chosen)
    assert chosen == sorted(chosen)
    if 1 < wanted <= rows:
        assert (chosen[0], chosen[-1]) == (0, rows - 1)


# ---- where it starts from --------------------------------------------------------------------------------------------


def wordpiece():
    """BERT's kind of tokenizer, made from the training text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train([str(data())], trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    roles = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


@pytest.fixture(scope="module")
def bert():
    """A small BERT with a tokenizer, as anybody's directory."""
    path = runs.folder() / "bert"
    tokenizer = wordpiece()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **shape))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_run_from_a_hugging_face_directory(bert, tmp_path):
    run = tmp_path / "run"
    done = well(train(run, "--init", str(bert), "--length", "16", steps=6, tokenizer=None)).json
    assert done["step"] == 6
    model = AutoModelForMaskedLM.from_pretrained(run)  # in the same format
    assert type(model) is BertForMaskedLM
    start = AutoModelForMaskedLM.from_pretrained(bert)
    assert model.config.to_dict().keys() == start.config.to_dict().keys()
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))]
    assert "cls.predictions.bias" in moved
    assert "bert.encoder.layer.0.attention.self.query.weight" in moved
    assert AutoTokenizer.from_pretrained(run).get_vocab() == AutoTokenizer.from_pretrained(bert).get_vocab()
    reopened = load(run)
    assert reopened.alphabet.mask == reopened.tokenizer.mask_token_id
    assert reopened.facts["metrics"]["bits_per_byte"]["value"] == done["bits_per_byte"]["value"]


@pytest.mark.slow
def test_a_run_from_a_hugging_face_directory_resumes(bert, tmp_path):
    """BERT drops out, so the state of torch's own generator counts too."""
    from functools import partial

    from tests.train import sabotage

    flags = ["--init", str(bert), "--length", "16"]
    well(train(tmp_path / "whole", *flags, tokenizer=None))
    train(tmp_path / "run", *flags, tokenizer=None, before=partial(sabotage.after_step, 6))
    well(train(tmp_path / "run", *flags, "--resume", tokenizer=None))
    assert runs.weights(tmp_path / "run") == runs.weights(tmp_path / "whole")


def test_a_run_from_our_own_checkpoint(tmp_path):
    run = tmp_path / "run"
    done = well(train(run, "--init", str(trained()), "--length", "16", steps=4, tokenizer=None)).json
    start = load(trained()).facts["metrics"]["bits_per_byte"]["value"]
    assert done["bits_per_byte"]["value"] < start + 1
    reopened = load(run)
    assert reopened.net.family == "remask-modernbert"
    assert reopened.net.length == LENGTH  # the net's, not this run's
    assert reopened.tokenizer.get_vocab() == load(trained()).tokenizer.get_vocab()


def recipe(objective="mdlm", data=None, valid=None, length=16, tokenizer="byte", init=None, **training):
    text = Text((str(data or runs.data()),), (str(valid or held()),), tokenizer=tokenizer, length=length)
    small = {"steps": 2, "batch": 2, "evaluations": 0}
    return Recipe(objective, Training(**(small | training)), text, Start("tiny", init=init))


def test_a_causal_net_cannot_start_mdlm_nor_a_masked_one_autoregression(tmp_path, bert):
    with pytest.raises(BadCheckpoint, match=r"is a causal model.*needs a masked one: type another --init"):
        run_recipe(recipe(init=str(causal()), tokenizer=None), tmp_path / "run")
    with pytest.raises(BadCheckpoint, match=r"is a masked model.*needs a causal one"):
        run_recipe(recipe("autoregressive", init=str(bert), tokenizer=None), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_net_are_refused(tmp_path, bert):
    with pytest.raises(BadInput, match=r"--length 41 is beyond the 40 that .* can read"):
        run_recipe(recipe(init=str(bert), tokenizer=None, length=41), tmp_path / "run")


def test_a_tokenizer_with_more_ids_than_the_net_is_refused(tmp_path, bert):
    with pytest.raises(BadCheckpoint, match="has 260 ids, but its model only"):
        run_recipe(recipe(init=str(bert), tokenizer="byte"), tmp_path / "run")


def test_nothing_is_lost_when_the_new_run_cannot_start(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("muon"), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "empty.txt").write_text("")
    for bad in (
        recipe(data=tmp_path / "nowhere.txt"),
        recipe(data=tmp_path / "empty.txt"),
        recipe(length=10**6),
        recipe(init=str(tmp_path)),
        recipe(tokenizer="bpe:2"),
    ):
        with pytest.raises((BadData, BadInput, BadCheckpoint)):
            run_recipe(bad, run, overwrite=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(earlier, tmp_path):
    """A run to be resumed, and the text of it in a place where it may be changed."""
    text = tmp_path / "text.txt"
    shutil.copy(data(), text)
    for path in earlier.rglob("re*.json"):
        path.write_text(path.read_text().replace(str(data()), str(text)))
    return earlier, text


def resumed(run, text):
    words = runs.flags(run, *runs.MUON)
    training = {"steps": STEPS, "batch": 4, "seed": 0, "evaluations": 2, "save_steps": runs.SAVE}
    training |= {"bf16": "--bf16" in words}
    plan = Recipe(
        "mdlm",
        Training(**training),
        Text((str(text),), (str(held()),), tokenizer="byte", length=LENGTH),
        Start("tiny"),
        {"weighting": "count", "schedule": "linear", "stratified": True, "smallest_time": 0.001},
    )
    return run_recipe(plan, run, resume=True)


def test_changed_text_does_not_resume(moved):
    run, text = moved
    text.write_text(text.read_text().replace("error", "errors", 1))
    with pytest.raises(BadData, match=r"text has changed since the run was started \(fingerprint .* restore it"):
        resumed(run, text)


def test_another_number_of_processes_does_not_resume(moved, monkeypatch):
    run, text = moved
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="started with 1 processes and now 2 came"):
        resumed(run, text)


def test_a_clock_cannot_steer_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="--minutes came with several processes"):
        run_recipe(recipe(steps=None, minutes=1.0), tmp_path / "run")


# ---- in Python -------------------------------------------------------------------------------------------------------


def small(**flags):
    start = {"data": [str(data())], "valid": [str(held())], "net": "tiny", "tokenizer": "byte", "length": 16}
    return {**start, "batch": 2, "steps": 2, "evaluations": 0, **flags}


def test_the_verb_is_a_verb_whatever_is_imported(tmp_path):
    """Python binds `remask.train` to the room as soon as a module of the room is imported."""
    code = "import remask; {}; print(callable(remask.train), remask.train.__name__)"
    for first in ("remask.train", "import remask.train.settings", "0"):
        words = [sys.executable, "-c", code.format(first)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert said.startswith("True"), first


def test_train_in_python(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    lines = []
    model = remask.train("mdlm", out=tmp_path / "run", watch=lines.append, weighting="elbo", **small(data=data()))
    assert model.facts["objective"] == {
        "name": "mdlm",
        **asdict(MDLM(weighting="elbo", low_rates=0.0)),
    }  # what was not typed as well
    assert model.facts["recipe"]["text"]["data"] == [str(data())]  # as the command would write it
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["progress"] for line in lines] == [0.5, 1.0]
    assert signal.getsignal(signal.SIGINT) is handler
    assert not model.net.training


def test_divergence_in_python_gives_ctrl_c_back(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Diverged, match="lower --learning-rate"):
        remask.train("mdlm", out=tmp_path / "run", **small(learning_rate=1e30, clip=0.0, steps=5))
    assert signal.getsignal(signal.SIGINT) is handler


def test_unknown_names_in_python(tmp_path):
    for flags, said in (({"stepz": 3}, "did you mean 'steps'"), ({"net": "huge"}, "Known: .*tiny")):
        with pytest.raises(UnknownName, match=said):
            remask.train("mdlm", out=tmp_path / "run", **{**small(), **flags})
    with pytest.raises(UnknownName, match=r"Known: autoregressive, axe, block_diffusion, cmlm, .*, seq2seq, sundae"):
        remask.train("bert", out=tmp_path / "run", **small())


# ---- what it learns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "steps", "flags"),
    [
        pytest.param("mdlm", 60, ("--causal-first", "0", "--low-rates", "0"), marks=pytest.mark.slow),
        # by default a fifth of them reads, and most of the rest see low rates
        pytest.param("mdlm", 90, (), marks=pytest.mark.slow),
        ("autoregressive", 60, ()),
    ],
    ids=["mdlm-plain", "mdlm", "autoregressive"],
)
def test_it_learns(objective, steps, flags, tmp_path):
    text = tmp_path / "abc.txt"
    text.write_text("abc" * 2000)
    few = tmp_path / "few.txt"
    few.write_text("abc" * 100)
    texts = ["--data", str(text), "--valid", str(few), "--batch", "8", "--save-steps", "1000"]
    done = well(train(tmp_path / "run", *texts, *flags, objective=objective, steps=steps)).json
    assert done["nats_per_token"]["value"] < 0.5 * math.log(3)  # the unigram entropy is log 3
    curve = [p["loss"] for p in runs.history(tmp_path / "run") if "loss" in p]
    assert curve[-1] < 0.5 * curve[0]


def test_a_net_gone_wild_is_a_sentence():
    model = load(trained())
    rows = pack(encode(model.tokenizer, [d.text for d in read([str(held())])]), LENGTH, model.alphabet.end)
    weigh(model.net, model.alphabet, rows, draws=1)
    with torch.no_grad():
        model.net.model.decoder.bias[model.alphabet.end] = 1e5  # finite, and certain of the wrong thing
    with pytest.raises(Diverged, match=r"more than 700 nats a token .* lower --learning-rate"):
        weigh(model.net, model.alphabet, rows, draws=1)


def test_the_likelihood_of_a_causal_net_is_that_of_transformers():
    model = load(causal())
    rows = pack(encode(model.tokenizer, [d.text for d in read([str(held())])]), LENGTH, model.alphabet.end)
    ours = weigh(model.net, model.alphabet, rows)["nats_per_token"]
    plain = AutoModelForCausalLM.from_pretrained(causal()).eval()
    end = torch.full((len(rows.tokens), 1), model.alphabet.end)
    with torch.no_grad():
        logits = plain(input_ids=torch.cat([end, rows.tokens[:, :-1]], 1)).logits
    logits[..., model.alphabet.mask] = -torch.inf  # which no text holds, and neither of the two ever predicts
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), rows.tokens.flatten())
    assert ours.value == pytest.approx(float(theirs), abs=1e-4)
    assert model.facts["metrics"]["nats_per_token"]["value"] == pytest.approx(float(theirs), abs=1e-4)
    assert ours.n == len(rows.tokens)


def test_checkpoints_are_checkpoints_too():
    """Any of them opens, and starts another run."""
    model = load(undisturbed("muon") / "checkpoints" / f"checkpoint-{STEPS}")
    assert model.facts["step"] == STEPS
    assert checkpoint.sound(undisturbed("muon"), training=False)


def test_small_plain_encoders_are_told_of_directional_heads():
    from remask.objectives.electra import ELECTRA
    from remask.objectives.mdlm import MDLM
    from remask.train.run import Recipe, Start, _remarks
    from remask.train.settings import Training

    def said(objective, **start):
        return _remarks(Recipe("electra", Training(steps=1), start=Start(**start)), objective)

    (sentence,) = said(ELECTRA(), net="tiny")
    assert "--directional-heads" in sentence and "tiny" in sentence
    assert said(ELECTRA(), net="small") == said(MDLM(), net="tiny") == ()
    assert said(ELECTRA(), net="tiny", directional_heads=False) == said(ELECTRA(), init="somewhere") == ()
