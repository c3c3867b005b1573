"""Long texts in windows: what is scored, what is remembered, what it costs."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.decoders.recurrence import Overlap, Point, Recurrence, Recurring, curve, equal_cost, score
from remask.nets.causal import CausalNet
from remask.nets.recurrent import RecurrentNet
from tests.nets import tiny

V = 23
SIZES = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}


def plain_of(seed: int = 0, start: int | None = 0) -> CausalNet:
    torch.manual_seed(seed)
    model = tiny.shake(transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).double(), seed)
    return CausalNet(model, 0, start)


def recurring_of(window: int = 5, reread: int = 0, start: int | None = 0, **rest) -> Recurring:
    plain = plain_of(start=start)
    net = RecurrentNet(plain.model, window, reread, **rest)
    for layer in net.adapter.values.values():
        torch.nn.init.normal_(layer.weight, std=0.3)
    return Recurring(net, plain)


def texts(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("window", "reread", "length"), [(5, 0, 17), (5, 2, 17), (1, 0, 4), (16, 0, 9), (6, 5, 11)])
def test_a_stream_is_what_the_net_says_of_the_whole_row(window, reread, length):
    net, tokens = recurring_of(window, reread), texts(3, length)
    found = score(Recurrence(), net, tokens)
    inputs = torch.cat([torch.zeros(3, 1, dtype=torch.int64), tokens[:, :-1]], 1)
    with torch.no_grad():
        wanted = net.net.nll(net.net.hidden(inputs).flatten(0, 1), tokens.flatten()).view(3, length)
    assert torch.allclose(found.nats, wanted, atol=1e-10)
    for row in range(3):
        alone = score(Recurrence(), net, tokens[row : row + 1])
        assert torch.allclose(alone.nats[0], found.nats[row], atol=1e-10) and alone.flops == found.flops


def test_the_past_counts_and_the_future_does_not():
    net, tokens = recurring_of(5), texts(1, 20)
    other = tokens.clone()
    other[0, 7] = (other[0, 7] + 1) % V
    before, after = (score(Recurrence(), net, x).nats[0] for x in (tokens, other))
    assert torch.equal(before[:7], after[:7]) and ((before - after).abs()[7:] > 0).all()
    forgetful = [score(Overlap(5, 0), net.plain, x).nats[0] for x in (tokens, other)]
    assert torch.equal(forgetful[0][10:], forgetful[1][10:]), "windows side by side forget"


@pytest.mark.parametrize(("window", "reread", "length"), [(6, 0, 13), (6, 2, 14), (6, 5, 9), (16, 8, 40), (16, 3, 7)])
def test_overlap_scores_every_token_once_after_what_its_window_holds(window, reread, length):
    plain, tokens = plain_of(), texts(2, length)
    found = score(Overlap(window, reread), plain, tokens)
    inputs = torch.cat([torch.zeros(2, 1, dtype=torch.int64), tokens[:, :-1]], 1)
    fresh = first = 0
    last = min(window, length)
    for t in range(length):
        if t == last:
            first, fresh = t - reread, t
            last = min(first + window, length)
        with torch.no_grad():
            law = plain.model(input_ids=inputs[:, first : t + 1]).logits[:, -1].log_softmax(-1)
        assert torch.allclose(-law[[0, 1], tokens[:, t]], found.nats[:, t], atol=1e-10)
        assert int(found.place[t]) == t - fresh and bool(found.later[t]) == (fresh > 0)


def test_without_a_token_to_begin_with_the_second_is_the_first_that_is_scored():
    net = recurring_of(5, start=None)
    tokens = texts(2, 12)
    assert score(Recurrence(), net, tokens).nats.shape == (2, 11)
    assert score(Overlap(5, 1), net.plain, tokens).nats.shape == (2, 11)
    with pytest.raises(BadInput, match="none can be scored"):
        score(Recurrence(), net, tokens[:, :1])


def test_silent_ids_have_no_probability():
    net = recurring_of(5)
    plain = CausalNet(net.plain.model, 0, 0, silent=(22,))
    tokens = texts(2, 12) % 22
    for way, loud, quiet in (
        (Recurrence(), net, Recurring(net.net, plain)),
        (Overlap(5, 2), net.plain, plain),
    ):
        assert (score(way, quiet, tokens).nats < score(way, loud, tokens).nats).all()


# ---- what it costs ---------------------------------------------------------------------------------------------------

MODELS = {
    "gpt2": lambda: plain_of().model,
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ),
    "modernbert-decoder": lambda: tiny.make("modernbert-decoder").model,
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("reread", [0, 2])
def test_flops_are_those_that_torch_counts(family, reread):
    """Every product of a stream, the adapter's too; of an overlap, the head at what is scored is all that is wanted."""
    model = MODELS[family]().eval()
    plain = CausalNet(model, 0, 0)
    net = Recurring(RecurrentNet(model, 6, reread, layers_in=[1], layer_out=1), plain)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        found = score(Recurrence(), net, texts(1, 20))
    assert found.flops == counter.get_total_flops()
    whole = Overlap(6, 0)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        side_by_side = score(whole, plain, texts(1, 20))
    assert side_by_side.flops == counter.get_total_flops()


def test_reading_again_is_paid_for():
    """Half a window again: about twice the work, without the head, which scores each token once."""
    plain = plain_of()
    base, again = (Overlap(8, reread).flops(plain, 800) for reread in (0, 4))
    head = 2 * V * 32 * 800
    assert (again - head) / (base - head) == pytest.approx(2, rel=0.01)
    net = recurring_of(8)
    assert base < Recurrence().flops(net, 800) < again


def test_loss_by_place():
    net, tokens = recurring_of(5), texts(4, 23)
    found = score(Recurrence(), net, tokens)
    by_place = found.by_place()
    assert [one.n for one in by_place] == [16, 16, 16, 12, 12]  # windows 1 to 3 whole, and three tokens of the last
    assert by_place[1].value == pytest.approx(float(found.nats[:, [6, 11, 16, 21]].mean()))
    assert found.nats_per_token.value == pytest.approx(float(found.nats.mean()))
    assert found.nats_per_token.n == 20 and found.perplexity.value == pytest.approx(float(found.nats.mean().exp()))
    assert torch.allclose(found.total, found.nats.sum(1))
    assert score(Overlap(16, 0), net.plain, tokens[:, :16]).by_place() == []


def test_the_curve_and_a_comparison_at_equal_cost():
    net = recurring_of(6)
    points = curve(net, net.plain, texts(2, 40), 6, [0, 2, 4])
    assert [(point.way, point.reread) for point in points] == [
        ("overlap", 0),
        ("overlap", 2),
        ("overlap", 4),
        ("recurrence", 0),
    ]
    assert points[0].flops < points[3].flops < points[2].flops and points[0].flops < points[1].flops < points[2].flops
    nats = [Estimate(value, 0.0, "nats/token", 1) for value in (3.0, 2.0, 2.2)]
    made = [Point("overlap", 0, 1.0, nats[0]), Point("overlap", 1, 4.0, nats[1]), Point("recurrence", 0, 2.0, nats[2])]
    assert equal_cost(made) == pytest.approx(2.5 - 2.2)
    assert equal_cost(made[:2]) is None and equal_cost([made[0], made[2]]) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="fewer than all"):
        Overlap(4, 4)
    with pytest.raises(BadInput, match="the model reads"):
        score(Overlap(17, 0), plain_of(), texts(1, 40))


def test_weighing_changes_no_weight():
    net = recurring_of(5)
    before = {name: value.clone() for name, value in net.net.state_dict().items()}
    score(Recurrence(), net, texts(2, 30))
    assert all(torch.equal(value, before[name]) for name, value in net.net.state_dict().items())
