"""A writer made of a masked ModernBERT: the same weights say the same where a cell is shown nothing behind it."""

import pytest
import torch

from remask.core.errors import BadInput
from remask.nets.directional import DirectionalForCausalLM, default_directions
from remask.nets.hf import HuggingFaceNet
from remask.nets.writer import bidirectional, writer
from tests.nets.tiny import ALPHABET, MASK, gap, logits, make, text

BEFORE = torch.ones(12, 12, dtype=torch.bool).tril()[None]


def test_with_the_same_weights_it_says_what_the_masked_model_says_of_what_lies_before():
    """Its layers attend globally, in a window, and globally again: the window is the same to the cell."""
    net = make("modernbert")
    assert {*net.model.config.layer_types} == {"full_attention", "sliding_attention"}
    written = writer(net, begun=True)
    assert written.causal
    tokens = text(3, 12)
    assert gap(logits(written, tokens), logits(net, tokens, sees=BEFORE)) < 1e-5
    assert gap(logits(written, tokens), logits(net, tokens)) > 1e-3, "the masked model sees both sides"


@pytest.mark.parametrize("family", ["modernbert", "remask-modernbert"])
def test_a_fresh_one_has_the_shape_alone(family):
    net = make(family)
    one, same, other = (writer(net, begun=False, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert sum(x.numel() for x in one.values()) == sum(x.numel() for x in net.model.state_dict().values())
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "model.layers.1.attn.q_proj.weight"
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], net.model.state_dict()["model.layers.1.attn.Wqkv.weight"].chunk(3)[0])


def test_directional_heads_become_the_causal_twins():
    net = make("remask-modernbert")
    written = writer(net, begun=True)
    assert isinstance(written.model, DirectionalForCausalLM)
    assert len(written.model.config.head_slopes) == net.model.config.num_attention_heads
    wqkv = net.model.state_dict()["model.layers.1.attn.Wqkv.weight"]
    parts = [written.model.state_dict()[f"model.layers.1.attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), wqkv)
    assert written.model.config.vocab_size == ALPHABET.size


@pytest.mark.parametrize("wrong", ["bert", "modernbert-decoder"])
def test_other_families_are_refused(wrong):
    with pytest.raises(BadInput, match=f"a '{wrong}' net came .* take a masked ModernBERT"):
        writer(make(wrong), begun=True)


def test_precision_and_training_come_along():
    net = make("modernbert")
    half = writer(HuggingFaceNet(net.model.to(torch.bfloat16).train()), begun=True)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.training


def test_a_writer_that_sees_both_sides_says_the_same_where_it_is_shown_what_lies_before():
    net = make("modernbert-decoder")
    opened = bidirectional(net, MASK)
    assert not opened.causal
    tokens = text(3, 12)
    assert gap(logits(opened, tokens, sees=BEFORE), logits(net, tokens)) < 1e-5
    assert gap(logits(opened, tokens), logits(net, tokens)) > 1e-3, "it sees both sides"


@pytest.mark.parametrize("family", ["modernbert", "remask-modernbert"])
def test_there_and_back_is_the_same_net(family):
    net = make(family)
    heads = net.model.config.num_attention_heads
    if family == "remask-modernbert":
        for name, value in default_directions(heads).items():
            setattr(net.model.config, name, value)
    back = bidirectional(writer(net, begun=True), MASK)
    assert type(back.model) is type(net.model)
    mine, theirs = back.model.state_dict(), net.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    tokens = text(3, 12).masked_fill(torch.arange(12) % 3 == 0, MASK)
    assert gap(logits(back, tokens), logits(net, tokens)) < 1e-6


@pytest.mark.parametrize("wrong", ["bert", "modernbert"])
def test_only_writers_are_opened(wrong):
    with pytest.raises(BadInput, match=f"a '{wrong}' net came .* take a ModernBERT-decoder"):
        bidirectional(make(wrong), MASK)
