"""Hidden-state optimization at work: what it is for, as a decoder, and what it refuses."""

import math

import pytest
import torch
import transformers

from remask.core.decoder import Budget, Spoken
from remask.core.errors import BadCheckpoint, BadInput, Diverged
from remask.core.stream import Stream
from remask.decoders.adapt import ADAPT, score
from remask.decoders.baselines import Cached
from remask.decoders.beam import Beam
from remask.decoders.hidden_state import HiddenState
from remask.decoders.memory import Chunk, after_start, of_targets, remember
from remask.decoders.sampling import Sampling
from remask.nets.causal import CausalNet
from tests.decoders.test_hidden_state import causal, every_family, fingerprint
from tests.nets.tiny import text

# ---- what it is for --------------------------------------------------------------------------------------------------


def trained(draw, symbols, steps=60, seed=0):
    """A tiny GPT-2 that has learned what `draw(generator)` draws, [B, T]."""
    generator = torch.Generator().manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=symbols, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.1, bos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        rows = draw(generator)
        logits = model(input_ids=rows[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return CausalNet(model, 0, 0)


def test_a_hidden_bias_of_the_text_is_found():
    """Trained on uniform tokens, shown texts that favour one: the loss falls towards the entropy of these."""
    symbols, length = 8, 160
    net = trained(lambda generator: torch.randint(symbols, (16, 32), generator=generator), symbols)
    law = torch.full((symbols, symbols), 0.3 / (symbols - 1), dtype=torch.float64)
    law.fill_diagonal_(0.7)
    tokens = torch.multinomial(law, length, replacement=True, generator=torch.Generator().manual_seed(1))
    entropy = -float((law[0] * law[0].log()).sum())
    base = float(score(Cached(chunk=8, cache=56), net, tokens).nats.mean())
    found = score(HiddenState(lr=1.0, chunk=8, cache=56), net, tokens).nats
    assert base == pytest.approx(math.log(symbols), abs=0.1)
    assert float(found[:, :8].mean()) == pytest.approx(base, abs=0.15)  # nothing was known yet
    assert entropy - 0.05 < float(found[:, 80:].mean()) < entropy + 0.3 * (base - entropy)


def chains(symbols, shift):
    """Rows of a random Markov chain, or of one between it and another: shift 0 to 1."""
    one, other = (torch.randn(symbols, symbols, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    law = (2 * (math.sqrt(1 - shift**2) * one + shift * other)).softmax(1)

    def draw(generator, rows=16, length=64):
        found = torch.randint(symbols, (rows, 1), generator=generator)
        for _ in range(length - 1):
            found = torch.cat([found, torch.multinomial(law[found[:, -1]], 1, generator=generator)], 1)
        return found

    return draw


@pytest.mark.slow
def test_the_loss_is_a_valley_in_the_learning_rate_and_deeper_under_a_shift():
    symbols, rates = 12, (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    net, loss = trained(chains(symbols, 0.0), symbols), {}
    for shift in (0.0, 0.4, 0.7, 1.0):
        tokens = chains(symbols, shift)(torch.Generator().manual_seed(7), 8, 200)
        each = [score(HiddenState(lr=lr, chunk=8, cache=40), net, tokens).nats.mean() for lr in rates]
        loss[shift] = torch.stack(each)
    gains = [float(found[0] - found.min()) for found in loss.values()]
    assert gains == sorted(gains)
    assert gains[0] < 0.02
    assert gains[2] > 0.1
    assert gains[3] > 1
    for shift in (0.4, 0.7):  # down, then up again, and worse than nothing in the end
        best = int(loss[shift].argmin())
        assert 0 < best < len(rates) - 1
        assert (loss[shift][: best + 1].diff() < 0).all()
        assert (loss[shift][best:].diff() > 0).all()
        assert loss[shift][-1] > loss[shift][0]


# ---- as a decoder ----------------------------------------------------------------------------------------------------

PROMPTS = [[5, 9, 17, 5, 9, 17, 5], [33], []]
BUDGET = Budget(8)


def same(one, other):
    return torch.equal(one.canvas.tokens, other.canvas.tokens) and torch.equal(one.log_prob, other.log_prob)


@every_family
def test_at_rate_0_it_decodes_as_the_model_bit_for_bit(family):
    net, stream = causal(family, dtype=torch.float32), Stream.of(3, len(PROMPTS))
    assert same(HiddenState(lr=0.0)(net, PROMPTS, stream, BUDGET), Beam(1)(net, PROMPTS, stream, BUDGET))
    drawn = HiddenState(lr=0.0, temperature=0.8)(net, PROMPTS, stream, BUDGET)
    assert same(drawn, Sampling(temperature=0.8)(net, PROMPTS, stream, BUDGET))


@every_family
def test_a_text_weighs_what_the_taught_model_says_of_it(family):
    """log p again, in one reading after the prompt's memory; and the text is the one that this law likes best."""
    net, settings = causal(family), HiddenState(lr=0.1, chunk=3)
    before = fingerprint(net)
    decoded = settings(net, PROMPTS, Stream.of(0, len(PROMPTS)), BUDGET)
    assert fingerprint(net) == before
    for prompt, row, log_prob in zip(PROMPTS, range(len(PROMPTS)), decoded.log_prob):
        mine = decoded.canvas.unknown[row]
        written = decoded.canvas.tokens[row][mine][None]
        ids = after_start(net, torch.tensor([prompt], dtype=torch.int64))
        memory = remember(net, ids, settings)
        every = torch.cat([ids[:, -1:], written], 1)
        plain = Cached().read(net, memory, Chunk(every[:, :-1], every[:, 1:]))[0]
        assert float(plain.sum()) == pytest.approx(float(log_prob), abs=1e-6)
        base = Beam(1)(net, [prompt], Stream.of(0, 1), BUDGET)
        assert len(prompt) < 2 or float(base.log_prob) != float(log_prob)


def test_prompts_longer_than_the_window_are_streamed():
    for family in ("gpt2", "llama", "bloom"):
        net = causal(family)
        prompt = text(1, 90)[0].tolist()
        decoded = HiddenState(lr=0.05, chunk=5, cache=25)(net, [prompt], Stream.of(0, 1), BUDGET)
        assert 90 < decoded.canvas.tokens.shape[1] <= 98
        assert float(decoded.log_prob) < 0


def test_batches_are_single_runs():
    net, settings = causal("gpt2"), HiddenState(lr=0.1, chunk=3, temperature=1.0)
    stream = Stream.of(5, 3)
    together = settings(net, PROMPTS, stream, BUDGET)
    for number, prompt in enumerate(PROMPTS):
        alone = settings(net, [prompt], stream.rows(torch.tensor([number])), BUDGET)
        assert torch.equal(alone.log_prob[0], together.log_prob[number])


# ---- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["hidden_state", "dynamic"])
def test_half_precision_is_refused_with_the_reason(dtype, name):
    with pytest.raises(BadCheckpoint, match=r"underflow.*float32"):
        score(ADAPT.load(name)(), causal("gpt2", dtype=dtype), text(1, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"steps": 0},
        {"chunk": 0},
        {"cache": -1},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"epsilon": 0.0},
        {"clip": -1.0},
        {"temperature": -1.0},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(BadInput, match="type"):
        HiddenState(**wrong)


def test_models_and_texts_that_it_cannot_serve():
    spoken = Spoken(lambda _: torch.full((4,), -math.log(4)), 0)
    with pytest.raises(BadInput, match="gradients"):
        HiddenState()(spoken, [[1]], Stream.of(0, 1), BUDGET)
    net = causal("gpt2")
    with pytest.raises(BadInput, match="reads 1 to 40"):
        score(HiddenState(chunk=41), net, text(1, 5))
    with pytest.raises(BadInput, match="--cache of 0 to 30"):
        score(HiddenState(chunk=10, cache=31), net, text(1, 5))
    with pytest.raises(BadInput, match="has places for"):
        HiddenState(chunk=10, lr=0.1)(net, [[5, 6]], Stream.of(0, 1), Budget(35))
    with pytest.raises(BadCheckpoint, match="empty prompt"):
        HiddenState()(causal("gpt2", start=None), [[]], Stream.of(0, 1), BUDGET)


def test_a_gradient_that_is_no_number_is_said():
    net = causal("gpt2")
    with torch.no_grad():
        net.model.transformer.ln_f.weight.fill_(math.inf)
    with pytest.raises(Diverged, match="--lr"):
        score(HiddenState(chunk=2), net, text(1, 5))


def test_targets_are_looked_up_where_they_are():
    net, ids = causal("gpt2"), text(2, 5)
    with torch.no_grad():
        logits = net.model(input_ids=ids[:, :-1]).logits
    found = of_targets(net, logits, Chunk(ids[:, :-1], ids[:, 1:]))
    assert found.shape == (2, 4)
    assert torch.equal(found[1, 2], net.law(logits[1, 2])[ids[1, 3]])
