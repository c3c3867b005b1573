"""Systems are decoded as asked; CTranslate2 writes what our greedy decoder writes, with the same probabilities."""

import copy
import sys
from functools import cache

import pytest
import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from remask.bench.decoding import _compare
from remask.bench.engine import System, engine, runner, runners
from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint, BadInput, MissingExtra, UnknownName
from remask.nets import encoder_decoder
from remask.nets.t5 import T5Net, scaled
from remask.train.translator import load_translator
from remask.translate.left_to_right import greedy
from tests.bench.test_translation import home  # noqa: F401
from tests.translate import nets
from tests.translate.causal import ALPHABET, net, sources

WIDE = Alphabet(200, mask=1, pad=0, end=2, special=frozenset({0, 1, 2, 3}))
SHAPE = {"vocab_size": 200, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2}
IDS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
LONGEST = 12


@pytest.fixture
def ctranslate2():
    return pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")


def stirred(model, seed=0):
    """The model with more of everything, so that its texts differ and end."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.dim() == 1 or "bias" in name else float(weight.std())
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=spread)
            if "EncDecAttention" in name or "wo" in name:
                weight.mul_(3)
        start = model.get_input_embeddings().weight
        start[2] = start[4:40].mean(0) * 3  # the end is like many tokens
    return T5Net(model.eval())


@cache
def ours(name):
    """Left-to-right nets of several kinds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "tiny": lambda: stirred(encoder_decoder.build("tiny", WIDE, causal=True).model),
            "mini": lambda: stirred(encoder_decoder.build("mini", WIDE, causal=True).model),
            "wide heads": lambda: stirred(T5ForConditionalGeneration(T5Config(**SHAPE, **IDS, d_kv=16, num_heads=3))),
            "v1.1": lambda: stirred(
                T5ForConditionalGeneration(
                    T5Config(
                        **SHAPE,
                        **IDS,
                        d_kv=8,
                        num_heads=4,
                        feed_forward_proj="gated-gelu",
                        tie_word_embeddings=False,
                    )
                )
            ),
            "mt5": lambda: stirred(MT5ForConditionalGeneration(MT5Config(**SHAPE, **IDS, d_kv=16, num_heads=3))),
        }[name]()


NETS = ("tiny", pytest.param("mini", marks=pytest.mark.slow), "wide heads", "v1.1", "mt5")


def unlike(texts):
    """How many different texts there are."""
    return len({tuple(text) for text in texts})


# ---- the same texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_it_writes_what_our_greedy_decoder_writes(ctranslate2, name):
    source, attend = sources(24, 15, WIDE, seed=3)
    wanted = greedy(ours(name), source, attend, WIDE, LONGEST)
    found = engine(ours(name), WIDE, LONGEST, threads=1)(source, attend, None, None)
    assert _compare(ours(name), [(source, attend)], WIDE, wanted.tokens, found.tokens) <= 1
    assert unlike(wanted.tokens) > 4
    assert found.log_prob.isnan().all()


@pytest.mark.parametrize("longest", [1, 5, 12])
@pytest.mark.parametrize("seed", [2, 4])
def test_texts_that_are_empty_or_cut_are_the_same_too(ctranslate2, seed, longest):
    """Seed 4 writes empty texts; both have ids that may not be written, and a start that is no pad."""
    source, attend = sources(20, 12, seed=seed)
    wanted = greedy(net(seed), source, attend, ALPHABET, longest)
    found = engine(net(seed), ALPHABET, longest, threads=1)(source, attend, None, None)
    assert found.tokens == wanted.tokens
    assert torch.equal(found.length, wanted.length)
    assert torch.equal(found.calls, wanted.calls)
    assert seed != 4 or [] in wanted.tokens


def test_sources_without_their_ends_would_be_noticed(ctranslate2):
    """The planted twin."""
    source, attend = sources(24, 15, WIDE, seed=3)
    wanted = greedy(ours("tiny"), source, attend, WIDE, LONGEST).tokens
    found = engine(ours("tiny"), WIDE, LONGEST, threads=1)(source, attend & (source != WIDE.end), None, None).tokens
    with pytest.raises(BadInput, match="different texts"):
        _compare(ours("tiny"), [(source, attend)], WIDE, wanted, found)


# ---- the same probabilities ------------------------------------------------------------------------------------------


def log_probs(made, source, text):
    """CTranslate2's log p of a text's tokens and its end."""
    (found,) = made.translator.score_batch([list(map(str, source))], [list(map(str, text))])
    return torch.tensor(found.log_probs)


@pytest.mark.parametrize("name", NETS)
def test_it_has_our_probabilities(ctranslate2, name):
    """So epsilon, distances and the scale of the outputs are the net's (its own converter would scale v1.1)."""
    row, text = [7, 9, 50, 60, 12, 2], [8, 9, 9, 30, 100, 2]
    made = ours(name)
    reading = made.read(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))
    with torch.no_grad():
        hidden = reading.hidden(torch.tensor([[made.start, *text[:-1]]]))[0]
        wanted = reading.logits(hidden).log_softmax(1).gather(1, torch.tensor(text)[:, None])[:, 0]
    exact = log_probs(engine(made, WIDE, LONGEST, threads=1), row, text[:-1])
    assert exact.tolist() == pytest.approx(wanted.tolist(), abs=2e-3)
    rounded = log_probs(engine(made, WIDE, LONGEST, compute="int8", threads=1), row, text[:-1])
    assert 2e-3 < (rounded - wanted).abs().mean() < 0.2 * wanted.abs().mean()
    other = T5Net(copy.deepcopy(made.model))
    other.model.config.scale_decoder_outputs = not scaled(made.model.config)
    if name != "mt5":  # which never scales
        twin = log_probs(engine(other, WIDE, LONGEST, threads=1), row, text[:-1])
        assert (twin - wanted).abs().mean() > 0.1


# ---- systems ---------------------------------------------------------------------------------------------------------

TEXTS = ["One.", "A cat sat there", "", "x", "12 34 56"]


def test_an_engine_is_a_system_like_others(ctranslate2, home):  # noqa: F811
    systems = [System("greedy", home / "seq2seq"), System("engine", home / "seq2seq", compute="float32")]
    written = [[one.text for one in one.lines(2)(TEXTS)] for one in runners(systems)]
    assert written[0] == written[1]
    assert unlike(written[0]) > 2


def test_fields_are_over_the_usual_ones(home):  # noqa: F811
    """Four steps are usual for padir; sundae begins with what it was trained on; axe has its length factor."""
    made = runner(System("a", home / "padir", fields={"remove_stutter": True}, lengths={"lengths": 3, "rank": "mean"}))
    assert "PaDIR(steps=4" in made.what
    assert "remove_stutter=True" in made.what
    assert "lengths=3" in made.what
    assert "rank='mean'" in made.what
    assert "length_factor=1.5" in runner(System("b", home / "axe")).what
    assert "Sundae(steps=10" in runner(System("c", home / "cmlm", sampler="sundae")).what
    assert "beam 3" in runner(System("d", home / "seq2seq", beam=3)).what


def test_bfloat16_is_a_copy(home):  # noqa: F811
    model = load_translator(home / "cmlm")
    half, plain = (runner(System("a", home / "cmlm", bf16=bf16), model) for bf16 in (True, False))
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    said = [[one.log_prob for one in made.lines(2)(TEXTS)] for made in (half, plain)]
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("net", "settings", "error", "said"),
    [
        ("cmlm", {"beam": 2}, BadInput, "writes in parallel"),
        ("cmlm", {"compute": "int8"}, BadInput, "writes in parallel"),
        ("seq2seq", {"fields": {"steps": 2}}, BadInput, "writes from left to right"),
        ("seq2seq", {"lengths": {"lengths": 2}}, BadInput, "writes from left to right"),
        ("seq2seq", {"compute": "int8", "beam": 4}, BadInput, "leave one out"),
        ("seq2seq", {"compute": "int8", "bf16": True}, BadInput, "came with bf16 and an engine.*leave one out"),
        ("cmlm", {"sampler": "mask_predikt"}, UnknownName, "did you mean 'mask_predict'"),
        ("cmlm", {"fields": {"step": 2}}, UnknownName, "did you mean 'steps'"),
        ("cmlm", {"lengths": {"length": 2}}, UnknownName, "did you mean 'lengths'"),
        ("nowhere", {}, BadCheckpoint, "nowhere"),
    ],
    ids=str,
)
def test_systems_that_cannot_be(home, net, settings, error, said):  # noqa: F811
    with pytest.raises(error, match=said):
        runner(System("a", home / net, **settings))


def test_nets_that_it_cannot_run(ctranslate2):
    with pytest.raises(BadInput, match="no left-to-right T5"):
        engine(nets.parallel(), nets.ALPHABET, LONGEST)
    with pytest.raises(BadInput, match="'float8'"):
        engine(ours("tiny"), WIDE, LONGEST, compute="float8")
    with pytest.raises(BadInput, match="lacks one of them"):
        engine(ours("tiny"), WIDE._replace(end=None), LONGEST)


def test_without_the_library_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(MissingExtra, match="'ctranslate2': type pip install"):
        engine(net(0), ALPHABET, LONGEST)
