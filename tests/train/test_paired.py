"""Runs on pairs: what they start from, what they leave, that they are resumed bit for bit, and that they learn."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

import remask
from remask.cli import main
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.data.buckets import Buckets
from remask.data.parallel import prepare_pairs
from remask.data.tokenizers import alphabet as alphabet_of
from remask.nets.t5 import T5Net
from remask.objectives import OBJECTIVES
from remask.train.loader import Loader
from remask.train.paired import PairLoader, batch_of, weigh_pairs
from remask.train.recipe import OF_PAIRS, Recipe, Start, Text
from remask.train.run import train
from remask.train.settings import Training
from remask.train.translator import Translator, load_translator
from remask.translate.lines import one_line

PAIRED = ["cmlm", "padir", "axe", "sundae", "seq2seq"]
WORDS = ["red", "cat", "sat", "on", "a", "mat", "dog", "ran"]
TURNED = {word: word[::-1].upper() for word in WORDS}


def lines(count, seed):
    """A language whose words are turned around: source TAB target."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        chosen = torch.randint(len(WORDS), (int(torch.randint(1, 5, (), generator=generator)),), generator=generator)
        words = [WORDS[k] for k in chosen.tolist()]
        rows.append(" ".join(words) + "\t" + " ".join(TURNED[word] for word in words) + "\n")
    return "".join(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("pairs")
    (home / "train.tsv").write_text(lines(300, 0))
    (home / "valid.tsv").write_text(lines(16, 1))
    return home


@pytest.fixture(scope="module")
def written(home):
    """A run of cmlm, hardly begun."""
    fit(home, home / "cmlm", "cmlm", steps=1)
    return home / "cmlm"


def recipe(home, objective, *, steps=3, fields=None, start=None, **training):
    text = Text(valid=(str(home / "valid.tsv"),), tokenizer="byte", length=40, pairs=(str(home / "train.tsv"),))
    settings = Training(steps=steps, batch=4, evaluations=1, bf16=False, **training)
    return Recipe(objective, settings, text, start or Start(net="tiny"), fields or {})


def fit(home, out, objective, **rest):
    resume = rest.pop("resume", False)
    return train(recipe(home, objective, **rest), out, resume=resume)


def weights(result):
    return {name: p.detach().clone() for name, p in result.net.state_dict().items()}


@pytest.mark.parametrize("objective", PAIRED)
def test_a_run_leaves_a_translator(home, tmp_path, objective):
    result = fit(home, tmp_path / "run", objective)
    opened = load_translator(tmp_path / "run")
    assert opened.net.causal == (objective == "seq2seq")
    assert all(torch.equal(a, weights(result)[name]) for name, a in opened.net.state_dict().items())
    facts = json.loads((tmp_path / "run" / "remask.json").read_text())
    assert facts["objective"]["name"] == objective
    assert facts["data"]["train"]["kept"] == 300
    assert {"bleu", "chrf"} <= set(facts["metrics"])
    assert ("length_accuracy" in facts["metrics"]) == (objective != "seq2seq")


def test_python_gets_a_translator_too(home, tmp_path):
    """`remask.train(...)` opens what it left, and a run on pairs leaves no language model."""
    texts = {"pairs": home / "train.tsv", "valid": home / "valid.tsv", "tokenizer": "byte", "length": 40}
    found = remask.train("padir", out=tmp_path / "run", net="tiny", steps=1, batch=4, bf16=False, **texts)
    assert isinstance(found, Translator)
    assert found.facts["objective"]["name"] == "padir"


@pytest.mark.parametrize("objective", ["padir", pytest.param("seq2seq", marks=pytest.mark.slow)])
def test_resuming_is_bit_for_bit(home, tmp_path, objective):
    whole = fit(home, tmp_path / "whole", objective, steps=6, save_steps=3)
    part = tmp_path / "part"
    fit(home, part, objective, steps=6, save_steps=3)
    shutil.rmtree(part / "checkpoints" / "checkpoint-6")
    again = fit(home, part, objective, steps=6, save_steps=3, resume=True)
    assert all(torch.equal(a, weights(again)[name]) for name, a in weights(whole).items())


def test_left_to_right_opens_in_transformers_alone(home, tmp_path):
    fit(home, tmp_path / "run", "seq2seq")
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path / "run")
    opened = load_translator(tmp_path / "run")
    source, target = batch(opened)
    with torch.no_grad():
        theirs = plain(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=target).logits
        hidden = opened.net.read(source, source != 0).hidden(target)
        assert torch.allclose(opened.net.logits(hidden.flatten(0, 1)), theirs.flatten(0, 1), atol=1e-4)


def batch(opened):
    ids = [opened.tokenizer(text)["input_ids"] for text in ("red cat", "a dog")]
    source = torch.zeros(2, 8, dtype=torch.int64)
    for row, tokens in enumerate(ids):
        source[row, : len(tokens)] = torch.tensor(tokens)
    return source, torch.tensor([[0, 10, 11], [0, 12, 13]])


def test_a_parallel_decoder_begins_with_the_teachers_weights(home, tmp_path):
    fit(home, tmp_path / "teacher", "seq2seq")
    result = fit(home, tmp_path / "run", "padir", steps=1, start=Start(init=str(tmp_path / "teacher")), warmup=0.5)
    theirs = load_translator(tmp_path / "teacher").net.model
    far = 10 * 4e-3  # one step of the peak rate moves no weight further
    ours = result.net.model
    assert not result.net.causal
    assert (
        ours.encoder.block[0].layer[0].SelfAttention.q.weight - theirs.encoder.block[0].layer[0].SelfAttention.q.weight
    ).abs().max() < far
    assert (ours.shared.weight - theirs.shared.weight).abs().max() < far


@pytest.mark.parametrize("parts", ["both", pytest.param("none", marks=pytest.mark.slow)])
def test_a_masked_lm_becomes_both_halves(home, tmp_path, parts, capsys):
    fit_lm = tmp_path / "lm"
    (tmp_path / "text.txt").write_text((home / "train.tsv").read_text())
    lm = Recipe(
        "mlm",
        Training(steps=2, batch=2, evaluations=1, bf16=False),
        Text(data=(str(tmp_path / "text.txt"),), tokenizer="byte", length=40),
        Start(net="tiny"),
    )
    train(lm, fit_lm)
    start = Start(init=str(fit_lm), init_parts=parts)
    fit(home, tmp_path / "run", "sundae", steps=2, start=start)
    opened = load_translator(tmp_path / "run")
    assert opened.net.family == "remask-crossed"
    fit(home, tmp_path / "causal", "seq2seq", steps=1, start=start)
    net = load_translator(tmp_path / "causal").net
    assert net.causal
    assert net.family == "remask-crossed"
    query = net.decoder.model.model.layers[0].attn.q_proj.weight
    known = load_file(fit_lm / "model.safetensors")["model.layers.0.attn.Wqkv.weight"].chunk(3)[0]
    assert ((query - known).abs().max() < 0.05) == (parts == "both")
    capsys.readouterr()
    (tmp_path / "source.txt").write_text("red cat\n\nred dog ran\n")
    assert main(["translate", str(tmp_path / "causal"), "--data", str(tmp_path / "source.txt")]) == 0
    greedy = capsys.readouterr().out.splitlines()
    assert len(greedy) == 3
    words = ["decode", str(tmp_path / "causal"), "--beam", "1", "--data", str(tmp_path / "source.txt"), "--json"]
    assert main(words) == 0
    found = [one_line(json.loads(one)["text"]) for one in capsys.readouterr().out.splitlines()]
    assert found[::2] == greedy[::2]


@pytest.mark.slow
def test_it_learns(home, tmp_path):
    """Words turned around: the length is a law, and letters come to be known."""
    before = fit(home, tmp_path / "one", "cmlm", steps=2)
    after = fit(home, tmp_path / "two", "cmlm", steps=40)
    assert after.metrics["cmlm_nats"].value < 0.75 * before.metrics["cmlm_nats"].value
    assert after.metrics["length_nats"].value < before.metrics["length_nats"].value


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(home):
    return prepare_pairs([str(home / "train.tsv")], valid=[str(home / "valid.tsv")], tokenizer="byte", length=40)


def loader(corpus, name, **rest):
    settings = {"batch": 4, "accumulate": 1, "seed": 3, "rank": 0, "ranks": 1, "progress": lambda step: 0.0, **rest}
    return PairLoader(OBJECTIVES.load(name)(), corpus.train, alphabet_of(corpus.tokenizer), **settings)


def test_a_step_is_a_pure_function_of_its_number(corpus):
    one, other = loader(corpus, "padir"), loader(corpus, "padir")
    one.step(0)
    ours, theirs = one.step(5)[0].question, other.step(5)[0].question
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.source, theirs.source)
    assert (
        not torch.equal(ours.tokens, one.step(6)[0].question.tokens)
        or ours.tokens.shape != one.step(6)[0].question.tokens.shape
    )


@pytest.mark.parametrize(("accumulate", "ranks"), [(3, 1), (1, 3)])
def test_parts_are_the_global_batch(corpus, accumulate, ranks):
    (whole,) = loader(corpus, "cmlm", batch=12).step(2)
    parts = [
        p
        for rank in range(ranks)
        for p in loader(corpus, "cmlm", accumulate=accumulate, rank=rank, ranks=ranks).step(2)
    ]
    for name in ("tokens", "source", "at", "targets"):
        together = torch.cat([getattr(part.question, name) for part in parts])
        assert torch.equal(together, getattr(whole.question, name))
    assert all(torch.equal(part.counts, whole.counts) for part in parts)


def test_tokens_per_step_are_what_a_step_learns_from(corpus):
    ours = loader(corpus, "seq2seq")
    steps = 300 // 4 * 4
    counted = sum(float(ours.step(k)[0].counts[0]) for k in range(steps)) / steps
    assert counted == pytest.approx(ours.tokens_per_step, rel=0.02)


def test_weighing_is_the_mean_over_all_pairs(home, corpus, tmp_path):
    result = fit(home, tmp_path / "run", "seq2seq")
    opened, pairs = load_translator(tmp_path / "run"), corpus.valid
    objective = OBJECTIVES.load("seq2seq")()
    found = weigh_pairs(objective, opened.net, opened.alphabet, pairs, seed=0)["seq2seq_nats"]
    nats, cells = 0.0, 0
    with torch.no_grad():
        for row in range(len(pairs)):  # one by one, without padding
            one = batch_of(pairs, torch.tensor([row]), opened.alphabet)
            term = objective(opened.net, objective.corrupt(one, Stream.of(0, 1)), Stream.of(0, 1)).terms[0]
            nats, cells = nats + float(term.total), cells + int(term.count)
    assert found.value == pytest.approx(nats / cells, rel=1e-5)
    assert found.value == pytest.approx(result.metrics["seq2seq_nats"].value, rel=1e-5)


def test_the_loader_of_text_knows_nothing_of_buckets(corpus):
    assert issubclass(PairLoader, Loader)
    assert isinstance(loader(corpus, "cmlm").buckets, Buckets)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_pairs_and_objectives_must_fit(home, tmp_path):
    text = Text(pairs=(str(home / "train.tsv"),))
    with pytest.raises(BadInput, match="learns from text by itself: type --data"):
        train(Recipe("mdlm", Training(steps=1), text), tmp_path / "a")
    with pytest.raises(BadInput, match="learns from sources and targets: type --pairs"):
        train(Recipe("cmlm", Training(steps=1)), tmp_path / "b")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("flag", [{"open_heads": True}, {"time_conditioning": True}, {"causal_first": 0.2}])
def test_stages_of_text_are_refused(home, tmp_path, flag):
    start = Start(net="tiny", **flag)
    with pytest.raises(BadInput, match="encoder-decoder, which has none"):
        fit(home, tmp_path / "run", "cmlm", start=start)


@pytest.mark.parametrize(
    ("objective", "flags", "sentence"),
    [
        ("seq2seq", {"length_head": "affine"}, r"--length-head came for seq2seq, .*: leave it out"),
        ("seq2seq", {"length_head": "both"}, "--length-head came for seq2seq"),
        ("cmlm", {"length_head": "both", "init": "parallel"}, "which has a length head already: leave it out"),
        (
            "cmlm",
            {"dropout": 0.1, "init": "t5"},
            r"--dropout came with --init .*whose config says its own: leave it out",
        ),
        ("cmlm", {"dropout": 0.0, "init": "lm"}, "--dropout came with --init"),
        ("cmlm", {"init_parts": "both"}, "--init-parts came without --init: type --init DIR, a masked"),
        ("padir", {"init_parts": "encoder", "init": "t5"}, "begins both parts anyway: leave it out"),
        ("padir", {"init_parts": "both", "init": "parallel"}, "begins both parts anyway: leave it out"),
        ("padir", {"init_parts": "both", "init": "crossed"}, "begins both parts anyway: leave it out"),
        ("axe", {"directional_heads": True}, "--directional-heads came for axe, .*: leave it out"),
        ("axe", {"directional_heads": False}, "--no-directional-heads came for axe"),
        ("mdlm", {"dropout": 0.1}, "--dropout came for mdlm, and is for encoder-decoders: leave it out"),
        ("mdlm", {"length_head": "both"}, "--length-head came for mdlm"),
        ("electra", {"init_parts": "both", "init": "lm"}, "--init-parts came for electra"),
    ],
    ids=str,
)
def test_flags_that_nobody_would_read_are_refused(home, tmp_path, objective, flags, sentence):
    families = {"t5": "t5", "parallel": "remask-t5", "crossed": "remask-crossed", "lm": "modernbert"}
    if "init" in flags:
        place = tmp_path / flags["init"]
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"model_type": families[flags["init"]]}))
        flags = {**flags, "init": str(place)}
    with pytest.raises(BadInput, match=sentence):
        fit(home, tmp_path / "run", objective, start=Start(net="tiny", **flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("data", ("a.txt",)), ("column", "body"), ("document", "line"), ("unique", True), ("reverse_complement", True)],
)
def test_flags_of_text_are_refused_with_pairs(home, tmp_path, flag, value):
    given = recipe(home, "cmlm", steps=1)
    with pytest.raises(BadInput, match=f"--{flag.replace('_', '-')} came for cmlm, which learns from pairs"):
        train(replace(given, text=replace(given.text, **{flag: value})), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_says_it_and_exits_with_two(home, tmp_path, capsys):
    words = ["train", "seq2seq", "--pairs", str(home / "train.tsv"), "--out", str(tmp_path / "run"), "--steps", "1"]
    assert main([*words, "--length-head", "both"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("remask: --length-head came for seq2seq, which goes left to right")
    assert said.count("\n") == 1
    assert main([*words, "--directional-heads"]) == 2
    assert not (tmp_path / "run").exists()


def test_flags_that_are_read_pass(home, tmp_path):
    fit(home, tmp_path / "run", "cmlm", steps=1, start=Start(net="tiny", length_head="affine", dropout=0.3))
    opened = load_translator(tmp_path / "run")
    assert not opened.net.length_head.classifies
    assert opened.net.model.config.dropout_rate == 0.3
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(BadInput, match="--dropout came as"):
            Start(dropout=wrong)


def test_records_say_what_was_left_open_and_older_ones_are_resumed(home, tmp_path):
    run = tmp_path / "run"
    fit(home, run, "seq2seq")
    start = json.loads((run / "recipe.json").read_text())["start"]
    assert (start["init_parts"], start["length_head"], start["dropout"]) == ("both", "both", 0.1)
    fit(home, run, "seq2seq", resume=True, start=Start(net="tiny", length_head="both"))  # it once could be typed
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["start"]["length_head"] = "affine"  # and had no effect
    (run / "recipe.json").write_text(json.dumps(recipe))
    fit(home, run, "seq2seq", resume=True, start=Start(net="tiny", length_head="affine"))
    with pytest.raises(BadInput, match="was started with length_head = 'affine' and now 'both'"):
        fit(home, run, "seq2seq", resume=True)


def test_runs_from_before_there_were_encoder_decoders_are_resumed(tmp_path, home):
    (tmp_path / "text.txt").write_text((home / "train.tsv").read_text())
    text = Text(data=(str(tmp_path / "text.txt"),), tokenizer="byte", length=16)
    plan = Recipe("mdlm", Training(steps=1, batch=2, evaluations=1), text, Start(net="tiny", causal_first=0.0))
    train(plan, tmp_path / "run")
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    for field in OF_PAIRS:
        del recipe["start"][field]
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
    train(plan, tmp_path / "run", resume=True)


@pytest.mark.parametrize(("factor", "most"), [(1.0, 40), (1.5, 27), (2.0, 20), (1.3, 31)])
def test_the_length_that_is_too_much_is_the_one_that_was_typed(home, written, tmp_path, factor, most):
    start = Start(init=str(written))
    wide = recipe(home, "axe", steps=1, start=start, fields={"length_factor": factor})
    with pytest.raises(
        BadInput, match=rf"--length came as {most + 1}\b.*beyond the 40.*--length {most} or less"
    ) as said:
        train(replace(wide, text=replace(wide.text, length=most + 1)), tmp_path / "wide")
    cells = round(most * factor) + 1
    assert (f"--length-factor as {factor:g}, which is a canvas of {cells} cells" in str(said.value)) == (factor != 1)
    if factor == 1.5:  # what it says to type is right
        train(replace(wide, text=replace(wide.text, length=most)), tmp_path / "wide")


def test_a_parallel_decoder_goes_not_left_to_right(home, written, tmp_path):
    with pytest.raises(BadCheckpoint, match="cannot go left to right"):
        fit(home, tmp_path / "no", "seq2seq", start=Start(init=str(written)))


def test_a_foreign_t5_is_opened_with_its_last_sentinel_as_the_mask(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "red", "cat", "<extra_id_0>", "<extra_id_1>"]
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 7}
    T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0)).save_pretrained(tmp_path)
    opened = load_translator(tmp_path)
    assert isinstance(opened.net, T5Net)
    assert opened.alphabet.mask == 6
    assert opened.alphabet.end == 1


def test_what_reads_no_source_is_no_translator(home, tmp_path):
    (tmp_path / "text.txt").write_text((home / "train.tsv").read_text())
    text = Text(data=(str(tmp_path / "text.txt"),), tokenizer="byte", length=16)
    train(Recipe("mdlm", Training(steps=1, batch=2, evaluations=1), text, Start(net="tiny")), tmp_path / "run")
    with pytest.raises(BadCheckpoint, match="which reads no source"):
        load_translator(tmp_path / "run")
