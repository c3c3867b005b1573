"""Directional heads: what each head sees, against a second implementation, against ModernBERT, and with a cache."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
)

from remask.core.documents import positions as restart
from remask.nets import lean
from remask.nets.conditional import NetConditional
from remask.nets.directional import (
    DirectionalConfig,
    DirectionalDecoderConfig,
    DirectionalForCausalLM,
    DirectionalForMaskedLM,
)
from remask.nets.encoder import build
from remask.nets.hf import HuggingFaceNet
from remask.train.checkpoint import load_net
from tests.nets.tiny import ALPHABET, DIRECTIONS, MASK, V, gap, logits, make, masked, padding, shake, text, theirs

SHAPE = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "cls_token_id": 2,
    "sep_token_id": 2,
}
THREE = ["left", "right", "free"]


def shape(layers):
    return {**SHAPE, "num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}


def encoder(layers=3, directions=THREE, slopes=(1.0, 0.5, 0.0), skip=True):
    fields = {"head_directions": list(directions), "head_slopes": list(slopes), "skip_masked_keys": skip}
    config = DirectionalConfig(**shape(layers), **fields, mask_token_id=MASK)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HuggingFaceNet(shake(DirectionalForMaskedLM(config)))


def decoder(layers=3, slopes=(1.0, 0.5, 0.25)):
    config = DirectionalDecoderConfig(**shape(layers), head_slopes=list(slopes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HuggingFaceNet(shake(DirectionalForCausalLM(config)))


def changed(tokens, at):
    tokens = tokens.clone()
    tokens[:, at] = torch.where(tokens[:, at] == 20, 21, 20)
    return tokens


class Spy:
    """Records the mask and each head's output of every layer, one list entry for each that a call passes."""

    def __init__(self, monkeypatch):
        self.masks, self.heads = [], []
        inner = lean.attended  # the path without gradients

        def record(query, key, value, mask, scaling):
            out = inner(query, key, value, mask, scaling)
            self.masks.append(mask)
            self.heads.append(out.transpose(1, 2))  # [B, L, H, D/H]
            return out

        monkeypatch.setattr(lean, "attended", record)


# a second implementation, in loops and float64


def by_hand(net, tokens, documents, attend, skipping=(0,)):
    """Hidden states of one row from the formulas alone: for every head and query the list of keys it may see."""
    config = net.model.config
    weights = {name: value.double() for name, value in net.model.model.state_dict().items()}
    heads, width = config.num_attention_heads, config.hidden_size
    length, size = len(tokens), width // heads
    place = restart(documents[None])[0].double()
    frequency = config.rope_parameters["full_attention"]["rope_theta"] ** (-torch.arange(0, size, 2).double() / size)
    angle = (place[:, None] * frequency).repeat(1, 2)

    def norm(x, name):
        return nn.functional.layer_norm(x, (width,), weights[f"{name}.weight"], eps=config.norm_eps)

    def turn(x):  # rotary positions, [L, size]
        return x * angle.cos() + torch.cat([-x[:, size // 2 :], x[:, : size // 2]], 1) * angle.sin()

    def sees(head, layer, i, j):
        if i == j:
            return True
        direction = config.head_directions[head]
        return (
            documents[i] == documents[j]
            and bool(attend[j])
            and not (direction == "left" and j > i)
            and not (direction == "right" and j < i)
            and not (layer in skipping and tokens[j] == MASK)
        )

    x = norm(weights["embeddings.tok_embeddings.weight"][tokens], "embeddings.norm")
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        normed = x if layer == 0 else norm(x, f"{name}.attn_norm")
        query, key, value = (normed @ weights[f"{name}.attn.Wqkv.weight"].T).view(length, 3, heads, size).unbind(1)
        mixed = torch.zeros(length, heads, size, dtype=torch.float64)
        for head in range(heads):
            q, k = turn(query[:, head]), turn(key[:, head])
            for i in range(length):
                keys = [j for j in range(length) if sees(head, layer, i, j)]
                far = config.head_slopes[head] * (torch.tensor(keys) - i).abs()
                law = (k[keys] @ q[i] / math.sqrt(size) - far).softmax(0)
                mixed[i, head] = law @ value[keys, head]
        x = x + mixed.flatten(1) @ weights[f"{name}.attn.Wo.weight"].T
        a, gate = (norm(x, f"{name}.mlp_norm") @ weights[f"{name}.mlp.Wi.weight"].T).chunk(2, 1)
        x = x + (nn.functional.gelu(a) * gate) @ weights[f"{name}.mlp.Wo.weight"].T
    return norm(x, "final_norm")


def rows():
    tokens = masked(text(2, 12))
    documents = torch.tensor([[0] * 12, [0] * 5 + [1] * 7])
    attend = torch.ones(2, 12, dtype=torch.bool)
    attend[1, 10:] = False
    assert (tokens == MASK).sum(1).min() >= 3
    return tokens, documents, attend


def test_the_net_is_what_the_formulas_say():
    net, (tokens, documents, attend) = encoder(), rows()
    with torch.no_grad():
        ours = net.hidden(tokens, documents=documents, attend=attend)
    for row in range(2):
        assert gap(ours[row].double(), by_hand(net, tokens[row], documents[row], attend[row])) < 1e-5


@pytest.mark.parametrize("skipping", [(), (1,), (0, 1, 2)])
def test_masked_keys_skipped_in_other_layers_would_show(skipping):
    net, (tokens, documents, attend) = encoder(), rows()
    with torch.no_grad():
        ours = net.hidden(tokens, documents=documents, attend=attend)
    assert gap(ours[0].double(), by_hand(net, tokens[0], documents[0], attend[0], skipping)) > 1e-2


# what the heads see


def test_the_masks_that_reach_the_kernel_are_the_written_bias(monkeypatch):
    net, spy = encoder(slopes=(1.0, 0.5, 0.0)), Spy(monkeypatch)
    tokens = torch.tensor([[9, MASK, 8, 7]])
    with torch.no_grad():
        net.hidden(tokens)
    inf = float("inf")
    every = [
        [[0, -inf, -inf, -inf], [-1, 0, -inf, -inf], [-2, -1, 0, -inf], [-3, -2, -1, 0]],
        [[0, -0.5, -1, -1.5], [-inf, 0, -0.5, -1], [-inf, -inf, 0, -0.5], [-inf, -inf, -inf, 0]],
        [[0, 0, 0, 0]] * 4,
    ]
    assert spy.masks[1][0].tolist() == spy.masks[2][0].tolist() == every
    first = copy.deepcopy(every)
    for head in first:
        for query in (0, 2, 3):  # nobody but itself sees the mask in cell 1
            head[query] = [*head[query]]
            head[query][1] = -inf
    assert spy.masks[0][0].tolist() == first


@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_left_head_sees_nothing_right_of_it_and_a_right_head_nothing_left(at, monkeypatch):
    net, spy, tokens = encoder(), Spy(monkeypatch), text(2, 10)
    with torch.no_grad():
        net.hidden(tokens)
        before = spy.heads[0]
        spy.heads.clear()
        net.hidden(changed(tokens, at))
    left, right, free = (spy.heads[0] - before).abs().amax((0, 3)).T  # [L] each
    assert (left[:at] == 0).all()
    assert (left[at:] > 1e-6).all()
    assert (right[at + 1 :] == 0).all()
    assert (right[: at + 1] > 1e-6).all()
    assert (free > 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_with_all_heads_left_nothing_right_leaks_through_any_layer(dtype):
    tokens, at = masked(text(2, 10)), 4
    for direction, blind in (("left", slice(0, at)), ("right", slice(at + 1, None))):
        net = encoder(directions=[direction] * 3).to(dtype)
        with torch.no_grad():
            change = (net.hidden(tokens) - net.hidden(changed(tokens, at))).abs().amax((0, 2))
        assert (change[blind] == 0).all()
        assert change.max() > 1e-2
    net = encoder(directions=["left", "left", "free"]).to(dtype)  # one free head, and it leaks
    with torch.no_grad():
        assert (net.hidden(tokens) - net.hidden(changed(tokens, at)))[:, :at].abs().max() > 1e-3


def test_autocast_leaks_nothing_either_and_tells_distances_apart():
    net, tokens = encoder(directions=["left"] * 3), text(1, 10)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        change = (net.hidden(tokens) - net.hidden(changed(tokens, 4))).abs()
    assert change[:, :4].max() == 0
    assert change[:, 4:].max() > 1e-2


# the first layer


def test_in_the_first_layer_masked_keys_might_as_well_be_padding():
    net = encoder(layers=1)
    tokens = masked(text(3, 12))
    hide = tokens == MASK
    with torch.no_grad():
        assert gap(net.hidden(tokens), net.hidden(tokens, attend=~hide)) == 0
        without = encoder(layers=1, skip=False)
        assert gap(without.hidden(tokens), without.hidden(tokens, attend=~hide)) > 1e-2
        deep = encoder(layers=2)  # the second layer does look at masked keys
        assert gap(deep.hidden(tokens), deep.hidden(tokens, attend=~hide)) > 1e-2


def test_in_the_first_layer_a_mask_is_seen_by_itself_alone(monkeypatch):
    net, spy = encoder(layers=1), Spy(monkeypatch)
    tokens = text(1, 8)
    tokens[0, [2, 3]] = MASK
    with torch.no_grad():
        net.hidden(tokens)
        before = spy.heads[0]
        spy.heads.clear()
        net.model.get_input_embeddings().weight[MASK] += 1.0 + torch.arange(24) * 0.1
        net.hidden(tokens)
    change = (spy.heads[0] - before).abs().amax((0, 2, 3))
    assert (change[[2, 3]] > 1e-4).all()
    assert (change[[0, 1, 4, 5, 6, 7]] == 0).all()


def test_a_row_of_nothing_but_masks_is_finite():
    net = encoder()
    with torch.no_grad():
        assert net.hidden(torch.full((1, 9), MASK)).isfinite().all()


# with everything off it is ModernBERT


def test_parameters_have_modernberts_names_and_shapes():
    pairs = [
        (encoder().model, ModernBertForMaskedLM(ModernBertConfig(**shape(3)))),
        (decoder().model, ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**shape(3)))),
    ]
    for ours, plain in pairs:
        assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in plain.state_dict().items()}
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_with_every_field_off_the_encoder_is_modernbert():
    net = encoder(directions=["free"] * 3, slopes=[0.0] * 3, skip=False)
    plain = ModernBertForMaskedLM(ModernBertConfig(**shape(3), rope_parameters=net.model.config.rope_parameters)).eval()
    plain.load_state_dict(net.model.state_dict())
    tokens, attend = masked(text(2, 20)), padding([20, 9], 20)
    assert gap(logits(net, tokens), theirs(plain, tokens)) < 1e-6
    expected = theirs(plain, tokens, attention_mask=attend.long())
    assert gap(logits(net, tokens, attend=attend)[attend], expected[attend]) < 1e-6
    for field in ({"directions": ["left", "free", "free"]}, {"slopes": [0.1, 0, 0]}, {"skip": True}):
        options = {"directions": ["free"] * 3, "slopes": [0.0] * 3, "skip": False} | field
        assert gap(logits(encoder(**options), tokens), theirs(plain, tokens)) > 1e-3


def test_with_slope_zero_the_decoder_is_modernberts():
    net = decoder(slopes=[0.0] * 3)
    config = ModernBertDecoderConfig(**shape(3), rope_parameters=net.model.config.rope_parameters)
    plain = ModernBertDecoderForCausalLM(config).eval()
    plain.load_state_dict(net.model.state_dict())
    tokens, attend = text(2, 20), padding([20, 9], 20, left=True)
    assert gap(logits(net, tokens), theirs(plain, tokens)) < 2e-6
    expected = theirs(plain, tokens, attention_mask=attend.long())
    assert gap(logits(net, tokens, attend=attend)[attend], expected[attend]) < 2e-6
    assert gap(logits(decoder(slopes=[0.1, 0.0, 0.0]), tokens), theirs(plain, tokens)) > 1e-3


@pytest.mark.parametrize("family", ["remask-modernbert", "remask-modernbert-decoder"])
def test_the_models_own_forward_agrees_with_padding(family):
    net, tokens, attend = make(family), text(2, 14), padding([14, 6], 14, left=True)
    assert gap(theirs(net.model, tokens), logits(net, tokens)) < 1e-6
    assert gap(theirs(net.model, tokens, attention_mask=attend.long()), logits(net, tokens, attend=attend)) < 1e-6


# saving, training


@pytest.mark.parametrize("causal", [False, True])
def test_directions_and_slopes_survive_saving(causal, tmp_path):
    net = make("remask-modernbert-decoder" if causal else "remask-modernbert")
    net.model.save_pretrained(tmp_path)
    opener = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    tokens = masked(text(2, 16))
    eager = opener.from_pretrained(tmp_path, attn_implementation="eager")  # which could not skip masked keys
    for model in (opener.from_pretrained(tmp_path), eager, load_net(tmp_path).model):
        assert type(model) is type(net.model)
        assert model.config.head_slopes == DIRECTIONS["head_slopes"]
        if not causal:
            assert model.config.head_directions == DIRECTIONS["head_directions"]
            assert (model.config.skip_masked_keys, model.config.mask_token_id) == (True, MASK)
        assert gap(theirs(model.eval(), tokens), logits(net, tokens)) == 0


def test_the_defaults_are_those_of_the_measurements():
    """notes/plateau.md: left and right with slope 1, free without; the causal twin as docs/results.md found it."""
    config = build("mini", ALPHABET, 16).model.config
    assert config.head_directions == ["left", "right", "free", "left"]
    assert config.head_slopes == [1.0, 1.0, 0.0, 1.0]
    assert config.skip_masked_keys
    assert build("mini", ALPHABET, 16, causal=True).model.config.head_slopes == [1.0, 0.25, 0.0, 1.0]


def test_sampling_first_and_training_afterwards():
    net = build("tiny", ALPHABET, 16)
    NetConditional(net, ALPHABET)(text(2, 16))  # caches the bias, in inference mode
    net.hidden(text(2, 16)).sum().backward()
    assert net.model.get_input_embeddings().weight.grad.isfinite().all()


def test_one_net_reads_rows_of_every_length():
    net, fresh = encoder(), encoder()
    for length in (12, 5, 12, 1, 20):
        tokens = text(2, length, seed=length)
        assert gap(logits(net, tokens), logits(encoder(), tokens)) == 0
    assert gap(logits(net, text(1, 4)), logits(fresh, text(1, 4))) == 0


@pytest.mark.parametrize("make_net", [encoder, decoder])
def test_gradient_checkpointing_changes_no_gradient(make_net):
    net, tokens = make_net(), masked(text(2, 12))

    def gradients():
        net.model.zero_grad()
        net.hidden(tokens).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.model.model.parameters()])

    net.train()
    plain = gradients()
    # the newer name first: the older one warns where both are there
    getattr(net.model, "activation_checkpointing_enable", net.model.gradient_checkpointing_enable)()
    assert any(getattr(module, "gradient_checkpointing", False) for module in net.modules())
    assert gap(gradients(), plain) < 1e-5
