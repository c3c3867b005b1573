"""Lean layers say what transformers' own layers say, bit for bit, and step aside where more is wanted of them."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer
from transformers.models.modernbert_decoder.modeling_modernbert_decoder import ModernBertDecoderLayer

from remask.data import tokenizers
from remask.nets import encoder, lean
from remask.nets.blockwise import States, in_blocks
from remask.nets.lean import LeanDecoderLayer, LeanEncoderLayer
from tests.nets.tiny import shake

ALPHABET = tokenizers.alphabet(tokenizers.character_tokenizer(["abcdefgh"]))
LENGTH = 24


def built(kind, dtype=torch.float32):
    """A net of two shaken layers: masked, blocks or causal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder.SIZES, "speck", encoder.Size(2, 24, 3, 32, directional=True, block_parameters=0))
        net = encoder.build("speck", ALPHABET, LENGTH, causal=kind == "causal", seed=0)
    shake(net.model, 1)
    net = in_blocks(net, 4) if kind == "blocks" else net
    return net.to(dtype).eval()


def theirs(net):
    """A copy whose every forward is transformers' own."""
    net = deepcopy(net)
    trunk = net.model.base_model
    for layer in trunk.layers:
        layer.__class__ = {LeanEncoderLayer: ModernBertEncoderLayer, LeanDecoderLayer: ModernBertDecoderLayer}[
            type(layer)
        ]
    trunk.passed = lambda *given, **named: None
    return net


def rows(count=3, length=LENGTH, seed=0):
    """Tokens with some masks."""
    tokens = torch.randint(0, 8, (count, length), generator=torch.Generator().manual_seed(seed))
    return tokens.masked_fill(tokens == 3, ALPHABET.mask)


PADDED = torch.arange(LENGTH) < torch.tensor([[24], [17], [5]])
DOCUMENTS = (torch.arange(LENGTH) // torch.tensor([[24], [7], [10]])).long()


def masked(net):
    """Rows in every way that a masked net reads them."""
    tokens = rows()
    return [
        net.hidden(tokens),
        net.hidden(tokens[:, :1]),
        net.hidden(tokens, attend=PADDED),
        net.hidden(tokens, documents=DOCUMENTS),
        net.hidden(tokens, positions=torch.arange(LENGTH).flip(0).expand(3, -1)),
    ]


def blocks(net):
    """Rows block after block with what is kept, and two streams at once."""
    tokens, states, found = rows(), States(3, LENGTH), []
    for first in range(0, LENGTH, 4):
        found.append(net.extend(tokens[:, first : first + 4], torch.full((3,), first), states))
    return [*found, net.hidden(tokens), net.hidden_in_blocks(tokens, rows(seed=1), attend=PADDED)]


def causal(net):
    """Rows at once, and token by token with transformers' cache, told its places or not."""
    tokens, found = rows(), [net.hidden(rows()), net.hidden(rows(), documents=DOCUMENTS)]
    for told in (False, True):
        cache = DynamicCache()
        for cells in (slice(0, 5), *(slice(i, i + 1) for i in range(5, LENGTH))):
            place = torch.arange(LENGTH)[None, cells] if told else None
            out = net.model(tokens[:, cells], past_key_values=cache, use_cache=True, position_ids=place)
            found.append(out.logits)
        assert out.past_key_values is cache
    return found


READ = {"masked": masked, "blocks": blocks, "causal": causal}


@pytest.fixture
def counted(monkeypatch):
    """How often layers turned queries and keys by themselves."""
    calls = []
    real = lean.turned
    monkeypatch.setattr(lean, "turned", lambda both, turns: calls.append(1) or real(both, turns))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", READ)
def test_bit_for_bit_what_transformers_says(kind, dtype, counted):
    net = built(kind, dtype)
    with torch.inference_mode():
        ours = READ[kind](net)
        assert len(counted) >= 2 * len(ours), "two layers a call"
        every = list(counted)
        other = READ[kind](theirs(net))
    assert counted == every
    assert all(torch.equal(one, two) for one, two in zip(ours, other, strict=True))


@pytest.mark.parametrize("kind", READ)
def test_an_autocast_is_theirs_as_well(kind):
    net = built(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, other = READ[kind](net), READ[kind](theirs(net))
    assert all(torch.equal(one, two) for one, two in zip(ours, other, strict=True))


def test_large_calls_are_transformers_own(counted, monkeypatch):
    net = built("masked")
    with torch.inference_mode():
        monkeypatch.setattr(lean, "MOST", 3 * LENGTH - 1)
        net.hidden(rows())
        assert not counted
        monkeypatch.setattr(lean, "MOST", 3 * LENGTH)
        net.hidden(rows())
        assert len(counted) == 2


@pytest.mark.parametrize("kind", READ)
def test_gradients_come_from_transformers(kind, counted):
    net = built(kind)
    net.hidden(rows()).sum().backward()
    assert not counted
    assert all(parameter.grad is not None for parameter in net.model.base_model.layers.parameters())


def asked(net, **rest):
    """transformers' own output for a row."""
    with torch.inference_mode():
        return net.model(rows(1), **rest)


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_outputs_that_are_asked_for_are_there(kind):
    net = built(kind)
    plain = asked(net).logits
    states = asked(net, output_hidden_states=True)
    assert len(states.hidden_states) == 3
    assert torch.equal(states.logits, plain)
    assert torch.equal(asked(net, return_dict=False)[0], plain)


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_hooks_and_replaced_modules_hold(kind, counted):
    net = built(kind)
    layer = net.model.base_model.layers[1]
    seen = []
    for module in (layer, layer.attn, layer.attn.Wo, layer.mlp, layer.mlp.Wi):
        module.register_forward_hook(lambda module, given, out: seen.append(module))
    asked(net)
    assert len(seen) == 5
    assert len(counted) == 1, "the layer whose attention has a hook is transformers' own"
    quiet = built(kind)
    before = asked(quiet).logits
    for one in quiet.model.base_model.layers:
        one.attn.Wo = nn.Linear(24, 24)
    assert not torch.equal(asked(quiet).logits, before)
    assert torch.equal(asked(quiet).logits, asked(theirs(quiet)).logits)


def test_the_table_of_places_grows_and_follows_the_net():
    net = built("masked")
    long = rows(1, LENGTH)
    with torch.inference_mode():
        net.hidden(long[:, :2])
        trunk = net.model.base_model
        trunk._tabled = (trunk._tabled[0], tuple(x[:, :4] for x in trunk._tabled[1]))
        whole = net.hidden(long)
        assert trunk._tabled[1][0].shape[1] >= LENGTH
        assert torch.equal(whole, theirs(net).hidden(long))
        net.double()
        assert torch.equal(net.hidden(long), theirs(net).hidden(long))


@pytest.mark.parametrize("bug", ["unturned", "first layer's mask everywhere", "scaled twice"])
def test_wrong_twins_are_told_apart(bug, monkeypatch):
    net = built("masked")
    right = theirs(net)
    if bug == "unturned":
        monkeypatch.setattr(lean, "turned", lambda both, turns: both)
    elif bug == "scaled twice":
        real = lean.attended
        monkeypatch.setattr(lean, "attended", lambda q, k, v, mask, scaling: real(q, k, v, mask, scaling**2))
    else:
        for layer in net.model.base_model.layers:
            layer.attn.layer_idx = 0
    with torch.inference_mode():
        assert not torch.allclose(net.hidden(rows()), right.hidden(rows()), atol=1e-3)
