"""Directional heads that open: exactly so far as was said, ModernBERT at the end, and saved as one."""

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers import AutoModelForMaskedLM

from remask.nets.directional import DirectionalForMaskedLM, directional_configs, open_heads
from remask.nets.encoder import build
from remask.nets.hf import HuggingFaceNet
from remask.nets.masks import directional_bias, offsets
from remask.nets.pair import Pair
from remask.train.checkpoint import load_net
from tests.nets.test_directional import THREE, encoder
from tests.nets.tiny import ALPHABET, gap, logits, make, masked, padding, text, theirs


@given(some.floats(0, 1), some.floats(0, 3), some.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_key_on_the_wrong_side_counts_as_often_as_the_head_is_open(opened, slope, length):
    scores = torch.randn(3, length, length, generator=torch.Generator().manual_seed(length)).double()
    offset = offsets(length, length)
    law = (scores + directional_bias(THREE, [slope, slope, 0.0], offset, opened)).softmax(-1)
    counts = torch.stack([torch.where(offset >= 0, 1, opened), torch.where(offset <= 0, 1, opened), offset * 0 + 1.0])
    far = torch.tensor([slope, slope, 0.0])[:, None, None] * (1 - opened) * offset.abs()
    weight = (scores - far).exp() * counts
    assert gap(law, weight / weight.sum(-1, keepdim=True)) < 1e-5  # the bias itself is float32


def test_a_shut_net_is_what_it_was_and_an_open_one_is_modernbert():
    net, tokens = encoder().to(torch.float64), masked(text(2, 14))
    documents, attend = torch.tensor([[0] * 14, [0] * 6 + [1] * 8]), padding([14, 9], 14)
    said = {"documents": documents, "attend": attend}
    shut = logits(net, tokens, **said)
    open_heads(net, 0.0)
    assert torch.equal(logits(net, tokens, **said), shut)
    open_heads(net, 1.0)
    plain = make("modernbert")
    plain = HuggingFaceNet(type(plain.model)(_plain(net)).to(torch.float64).eval())
    plain.model.load_state_dict(net.model.state_dict())
    assert gap(logits(net, tokens, **said)[attend], logits(plain, tokens, **said)[attend]) < 1e-12
    open_heads(net, 0.999)  # nearly open is not open
    assert gap(logits(net, tokens, **said)[attend], logits(plain, tokens, **said)[attend]) > 1e-6


def _plain(net):
    from transformers import ModernBertConfig

    from remask.nets.directional import plain_config

    return ModernBertConfig(**{k: v for k, v in plain_config(net.model.config).items() if k != "model_type"})


def test_opening_changes_the_net_at_once_and_without_a_jump():
    net, tokens = encoder().to(torch.float64), masked(text(2, 14))
    for opened in (0.0, 0.2, 0.6, 1 - 1e-7):
        open_heads(net, opened)
        here = logits(net, tokens)
        open_heads(net, opened + 1e-7)
        jump = gap(logits(net, tokens), here)
        assert 0 < jump < 1e-2  # 0: a bias cached for another opening would not move


def test_masked_keys_of_the_first_layer_come_into_view():
    net = encoder(layers=1, directions=["free"] * 3, slopes=[0.0] * 3)
    tokens = text(1, 8)
    tokens[0, 3] = 1
    blind = encoder(layers=1, directions=["free"] * 3, slopes=[0.0] * 3, skip=False)
    shut, seen = logits(net, tokens), logits(blind, tokens)
    open_heads(net, 0.5)
    half = logits(net, tokens)
    open_heads(net, 1.0)
    assert gap(logits(net, tokens), seen) < 1e-6
    assert gap(half, shut) > 1e-3 < gap(half, seen)


def test_both_nets_of_a_pair_open_and_a_net_without_such_heads_says_so():
    pair = Pair(make("remask-modernbert"), make("remask-modernbert", seed=1))
    open_heads(pair, 0.25)
    assert pair.generator.model.config.opened == pair.discriminator.model.config.opened == 0.25
    assert len(directional_configs(pair)) == 2
    assert not directional_configs(make("modernbert"))
    assert not directional_configs(make("remask-modernbert-decoder"))
    assert not directional_configs(build("tiny", ALPHABET, 8, directional_heads=False, time_conditioning=True))


@pytest.mark.parametrize("opened", [0.0, 0.5])
def test_heads_that_are_not_open_stay_remasks_own(opened, tmp_path):
    net, tokens = make("remask-modernbert"), masked(text(2, 16))
    open_heads(net, opened)
    net.save(tmp_path)
    again = load_net(tmp_path)
    assert type(again.model) is DirectionalForMaskedLM
    assert again.model.config.opened == opened
    assert gap(logits(again, tokens), logits(net, tokens)) == 0


ALONE = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
assert "remask" not in sys.modules
with torch.no_grad():
    said = model(input_ids=torch.tensor(json.loads(sys.argv[2]))).logits.double().sum((0, 1))
print(json.dumps([type(model).__name__, model.config.model_type, said.tolist()]))
"""


@pytest.mark.slow
def test_open_heads_are_saved_as_a_modernbert_that_transformers_opens_alone(tmp_path):
    net, tokens = make("remask-modernbert"), masked(text(2, 16))
    open_heads(net, 1.0)
    net.save(tmp_path)
    assert "remask" not in (tmp_path / "config.json").read_text()
    assert "opened" not in json.loads((tmp_path / "config.json").read_text())
    here = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert gap(theirs(here.eval(), tokens), logits(net, tokens)) < 1e-5
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), json.dumps(tokens.tolist())],
        capture_output=True,
        text=True,
        check=True,
    )
    name, family, said = json.loads(done.stdout.strip().splitlines()[-1])
    assert (name, family) == ("ModernBertForMaskedLM", "modernbert")
    ours = logits(net, tokens).double().sum((0, 1))
    assert torch.allclose(torch.tensor(said, dtype=torch.float64), ours, atol=1e-3)
    assert all(math.isfinite(x) for x in said)
    assert gap(logits(load_net(tmp_path), tokens), logits(net, tokens)) < 1e-5
