"""The baselines: windows against reading each window alone, dynamic evaluation against torch's optimizers."""

import math

import pytest
import torch

from remask.core.errors import BadInput, Diverged
from remask.decoders.adapt import ADAPT, score
from remask.decoders.baselines import Cached, Dynamic, Windows
from remask.decoders.hidden_state import HiddenState
from remask.decoders.memory import after_start
from tests.decoders.test_hidden_state import FAMILIES, audit, by_hand, causal, every_family, fingerprint, whole_text
from tests.nets.tiny import text

SETTINGS = {
    "none": {"window": 12, "stride": 5},
    "cache": {"chunk": 4, "cache": 9},
    "dynamic": {"chunk": 4, "cache": 9, "lr": 0.01},
    "hidden_state": {"chunk": 4, "cache": 9, "lr": 0.1},
}
every_row = pytest.mark.parametrize("name", ADAPT)


def made(name, **rest):
    return ADAPT.load(name)(**{**SETTINGS[name], **rest})


# ---- what holds for every row ----------------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_is_scored_once_and_no_weight_changes(name, family):
    net, tokens = causal(family), text(2, 31)
    before = fingerprint(net)
    scored = score(made(name), net, tokens)
    assert scored.nats.shape == scored.tokens.shape == (2, 31)
    assert (scored.nats > 0).all()
    assert fingerprint(net) == before
    assert all(weight.grad is None for weight in net.model.parameters())
    first = 12 if name == "none" else 4
    torch.testing.assert_close(scored.nats[:, :first], whole_text(net, tokens)[:, :first], rtol=0, atol=1e-6)


@every_row
@pytest.mark.parametrize("at", [1, 5])
def test_no_row_peeks(name, at):
    unchanged, mass = audit(made(name), causal("gpt2"), text(1, 7), at)
    assert unchanged
    assert mass == pytest.approx(1, abs=1e-9)


@every_row
@pytest.mark.parametrize("length", [1, 2, 5, 12, 13])
def test_texts_of_any_length(name, length):
    net, tokens = causal("gpt2"), text(2, length)
    assert score(made(name), net, tokens).nats.shape == (2, length)
    assert score(made(name), causal("gpt2", start=None), tokens).nats.shape == (2, length - 1)


@every_row
def test_a_text_is_scored_the_same_beside_another(name):
    net, tokens = causal("llama"), text(3, 26)
    alone = torch.cat([score(made(name), net, row[None]).nats for row in tokens])
    torch.testing.assert_close(score(made(name), net, tokens).nats, alone, rtol=0, atol=1e-9)


# ---- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(12, 5), (12, 12), (7, 1), (40, 20), (3, 2)])
def test_windows_are_read_by_themselves_and_score_what_is_new(window, stride):
    net, tokens = causal("gpt2"), text(2, 33)
    found = score(Windows(window, stride), net, tokens).nats
    ids = after_start(net, tokens)
    for at in range(33):
        late = -(-max(0, at + 1 - window) // stride) * stride  # where the first window that reaches the token begins
        begin = max(0, min(late, 33 - window))
        with torch.no_grad():
            law = net.law(net.model(input_ids=ids[:, begin : at + 1]).logits[:, -1])
        torch.testing.assert_close(found[:, at], -law.gather(1, ids[:, at + 1, None])[:, 0], rtol=0, atol=1e-10)


def test_windows_are_as_long_as_the_model_and_overlap_by_half_where_nobody_says():
    net, tokens = causal("gpt2"), text(1, 70)
    assert torch.equal(score(Windows(), net, tokens).nats, score(Windows(40, 20), net, tokens).nats)


# ---- a plain cache ---------------------------------------------------------------------------------------------------


@every_family
def test_a_plain_cache_is_transformers_own(family):
    net, tokens = causal(family), text(2, 23)
    cache = 40 if family == "bloom" else 9
    assert torch.equal(score(Cached(chunk=4, cache=cache), net, tokens).nats, by_hand(net, tokens, 4, cache))


# ---- dynamic evaluation ----------------------------------------------------------------------------------------------


def by_torch(net, tokens, chunk, optimizer):
    """One chunk after another with no memory, torch's own optimizer stepping on the weights."""
    ids, found = after_start(net, tokens), []
    for at in range(0, tokens.shape[1], chunk):
        piece = ids[:, at : at + chunk + 1]
        places = torch.arange(at, at + piece.shape[1] - 1)[None]
        law = net.law(net.model(input_ids=piece[:, :-1], position_ids=places).logits)
        nats = -law.gather(-1, piece[:, 1:, None])[..., 0]
        found.append(nats.detach())
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
    return torch.cat(found, 1)


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_dynamic_evaluation_steps_as_torchs_optimizers(family, rms):
    settings = Dynamic(lr=0.01, chunk=4, cache=0, rms=rms, beta=0.9, epsilon=1e-6)
    tokens = text(1, 18)
    found = score(settings, causal(family), tokens).nats
    net = causal(family)
    weights = net.model.parameters()
    # Adam without a mean gradient is the root of the mean square, freed of its beginning
    optimizer = torch.optim.Adam(weights, 0.01, (0.0, 0.9), 1e-6) if rms else torch.optim.SGD(weights, 0.01)
    torch.testing.assert_close(found, by_torch(net, tokens, 4, optimizer), rtol=0, atol=1e-9)


@every_family
def test_at_rate_0_dynamic_evaluation_is_the_plain_cache(family):
    net, tokens = causal(family, dtype=torch.float32), text(1, 23)
    plain = score(Cached(chunk=4, cache=9), net, tokens).nats
    assert torch.equal(score(Dynamic(lr=0.0, chunk=4, cache=9), net, tokens).nats, plain)
    assert not torch.allclose(score(Dynamic(lr=0.01, chunk=4, cache=9), net, tokens).nats, plain)


def test_weights_wholly_pulled_back_learn_nothing():
    net, tokens = causal("gpt2"), text(1, 20)
    found = score(Dynamic(lr=0.1, chunk=4, decay=1.0), net, tokens).nats
    torch.testing.assert_close(found, score(Cached(chunk=4), net, tokens).nats, rtol=0, atol=1e-12)


def test_what_is_read_again_is_not_learned_from_again():
    """Beyond the table a text begins again; the weights go on from where they were."""
    net, tokens = causal("gpt2"), text(1, 44)
    settings = Dynamic(lr=0.01, chunk=4, cache=36)
    found = score(settings, net, tokens).nats
    assert found.isfinite().all()
    assert torch.equal(found[:, :40], score(settings, net, tokens[:, :40]).nats)


def test_dynamic_evaluation_learns_what_repeats():
    net, tokens = causal("llama"), text(1, 6).repeat(1, 8)
    late = score(Dynamic(lr=0.003, chunk=6), net, tokens).nats[:, -12:].mean()
    assert late < 0.5 * score(Cached(chunk=6), net, tokens).nats[:, -12:].mean()


# ---- what they refuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (Windows, {"window": 0}),
        (Windows, {"stride": 0}),
        (Windows, {"window": 4, "stride": 5}),
        (Cached, {"chunk": 0}),
        (Cached, {"cache": -1}),
        (Dynamic, {"lr": math.inf}),
        (Dynamic, {"beta": 1.0}),
        (Dynamic, {"epsilon": 0.0}),
        (Dynamic, {"decay": 1.5}),
        (Dynamic, {"clip": -1.0}),
    ],
)
def test_settings_that_cannot_be(row, wrong):
    with pytest.raises(BadInput, match="type"):
        row(**wrong)


@pytest.mark.parametrize("row", [Windows(window=41), Windows(stride=50), Cached(chunk=30, cache=11)])
def test_what_the_model_has_no_room_for(row):
    with pytest.raises(BadInput, match="reads 40"):
        score(row, causal("gpt2"), text(1, 5))


def test_a_gradient_that_is_no_number_is_said():
    net = causal("gpt2")
    with torch.no_grad():
        net.model.transformer.ln_f.weight.fill_(math.inf)
    with pytest.raises(Diverged, match="--lr"):
        score(Dynamic(chunk=2), net, text(1, 5))


def test_the_rows_say_what_they_are():
    assert isinstance(made("hidden_state"), HiddenState)
    assert list(ADAPT) == ["none", "cache", "dynamic", "hidden_state"]
