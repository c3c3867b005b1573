"""Directories of crossed nets: every bit comes back, and a damaged or hostile one is one sentence."""

import json

import pytest
import torch
from safetensors import safe_open

from remask.core.errors import BadCheckpoint
from remask.nets.crossed import open_crossed
from tests.nets.test_crossed import LONGEST, logits, spoken
from tests.nets.tiny import MAKE, V, gap, shake


@pytest.mark.parametrize(("family", "tied"), [(f, False) for f in MAKE] + [("bert", True), ("remask-modernbert", True)])
def test_saving_and_opening_keep_every_bit(family, tied, tmp_path):
    net = spoken(family, tied=tied, length_kind="affine")
    shake(net, 8, 0.05)
    assert net.save(tmp_path / "new") == [tmp_path / "new"]
    torchs = torch.get_rng_state()
    again = open_crossed(tmp_path / "new")
    assert torch.equal(torch.get_rng_state(), torchs)
    assert not any(module.training for module in again.modules())
    assert gap(logits(again), logits(net)) == 0
    assert [k for k, _ in again.named_parameters()] == [k for k, _ in net.named_parameters()]
    assert (again.longest_target, again.length_kind, again.tied) == (LONGEST, "affine", tied)
    with safe_open(tmp_path / "new" / "model.safetensors", "pt") as file:
        whole = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    tables = [k for k, v in whole.items() if v.shape[0] == V and v.ndim == 2]
    within = 1 if net.head.weight is net.decoder.model.get_input_embeddings().weight else 2
    assert len(tables) == (0 if tied else 1) + within
    expected = logits(net)
    shake(net, 9, 0.1)
    net.restore(tmp_path / "new")
    assert gap(logits(net), expected) == 0


@pytest.fixture
def whole(tmp_path):
    """A good checkpoint."""
    spoken("bert").save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def refused(path, match):
    with pytest.raises(BadCheckpoint, match=match) as caught:
        open_crossed(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def change(path, **half):
    """Change config.json: a dict is merged into a half, None deletes, and anything else takes a field's place."""
    config = json.loads((path / "config.json").read_text())
    for key, value in half.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"model_type": "bert"}, "'bert' model and no 'remask-crossed' one"),
        ({"encoder": None}, "lacks the config of the (en|de)coder"),
        ({"decoder": "bert"}, "lacks the config of the (en|de)coder"),
        ({"encoder": {"model_type": "gpt2"}}, "'gpt2' model: remask opens .*roberta"),
        ({"decoder": {"is_decoder": True}}, "says is_decoder"),
        ({"encoder": {"attn_implementation": "someone/kernel"}}, "attention code from the hub .*delete attn_impl"),
        ({"decoder": {"attn_implementation": "eager", "_attn_implementation": "a/b"}}, "attention code from the hub"),
        ({"decoder": {"hidden_size": "many"}}, "cannot be opened"),
        ({"decoder": {"hidden_size": 64}}, "cannot be opened"),
        ({"encoder": {"num_hidden_layers": 3}}, "cannot be opened"),
        ({"longest_target": 21}, "cannot be opened"),
        ({"longest_target": None}, "cannot be opened"),
        ({"longest_target": "20"}, "cannot be opened"),
        ({"length_kind": "oracle"}, "cannot be opened"),
        ({"tied": True}, "cannot be opened"),
    ],
)
def test_a_config_that_is_wrong_is_one_sentence(whole, wrong, match):
    change(whole, **wrong)
    refused(whole, match)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_truncated_weights(whole, keep):
    file = whole / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(whole, "cannot be opened.*damaged")


def test_nothing_there(whole, tmp_path):
    refused(tmp_path / "nothing", "no checkpoint directory")
    (whole / "model.safetensors").unlink()
    refused(whole, r"no model\.safetensors")
    (whole / "config.json").write_text("{")
    refused(whole, r"config\.json is damaged")


def test_planted_code_is_never_executed(whole, tmp_path):
    marker = tmp_path / "executed"
    (whole / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    code = {"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"}
    before = logits(open_crossed(whole))
    change(whole, encoder={"auto_map": code}, decoder={"auto_map": code})
    assert gap(logits(open_crossed(whole)), before) == 0
    assert not marker.exists()
