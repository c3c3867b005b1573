"""Runs on pairs: what they start from, what they leave, that they are resumed bit for bit, and that they learn."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.data.buckets import Buckets
from remask.data.parallel import prepare_pairs
from remask.data.tokenizers import alphabet as alphabet_of
from remask.nets.t5 import T5Net
from remask.objectives import OBJECTIVES
from remask.train.loader import Loader
from remask.train.paired import PairLoader, batch_of, weigh_pairs
from remask.train.recipe import Recipe, Start, Text
from remask.train.run import train
from remask.train.settings import Training
from remask.train.translator import load_translator

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
    (home / "valid.tsv").write_text(lines(40, 1))
    return home


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


@pytest.mark.parametrize("objective", ["padir", "seq2seq"])
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


@pytest.mark.parametrize("parts", ["both", "none"])
def test_a_masked_lm_becomes_both_halves(home, tmp_path, parts):
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
    with pytest.raises(BadCheckpoint, match="goes left to right"):
        fit(home, tmp_path / "no", "seq2seq", start=start)


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


def test_a_parallel_decoder_goes_not_left_to_right(home, tmp_path):
    fit(home, tmp_path / "run", "cmlm")
    with pytest.raises(BadCheckpoint, match="cannot go left to right"):
        fit(home, tmp_path / "no", "seq2seq", start=Start(init=str(tmp_path / "run")))
    with pytest.raises(BadInput, match="is beyond the 40"):
        wide = recipe(home, "cmlm", start=Start(init=str(tmp_path / "run")))
        train(replace(wide, text=replace(wide.text, length=80)), tmp_path / "wide")


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
