"""Directories that are not what they should be: one sentence of help each, and never a line of their code."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM, BertModel, ElectraForPreTraining

from remask.core.errors import BadCheckpoint, BadInput
from remask.data import tokenizers
from remask.train.checkpoint import load, load_net, write_net
from tests.nets.tiny import MAKE, gap, logits, make, text

WEIGHTS = "model.safetensors"


@pytest.fixture
def whole(tmp_path):
    """A good checkpoint of BERT."""
    path = tmp_path / "checkpoint"
    make("bert").model.save_pretrained(path)
    return path


def refused(path, match, **rest):
    with pytest.raises(BadCheckpoint, match=match) as caught:
        load_net(path, **rest)
    assert type(caught.value) is BadCheckpoint
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_the_good_one_opens(whole):
    assert gap(logits(load_net(whole), text(1, 8)), logits(make("bert"), text(1, 8))) == 0
    assert load_net(str(whole), causal=False).family == "bert"


def test_no_directory(tmp_path):
    refused(tmp_path / "nothing", "no checkpoint directory.*type the directory")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "no checkpoint directory")


def test_no_config(whole):
    (whole / "config.json").unlink()
    refused(whole, r"no config\.json.*type the directory of a finished run")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[1, 2]", b'"bert"', b'{"hidden_size": 3}', b"null"])
def test_a_damaged_config(whole, content):
    (whole / "config.json").write_bytes(content)
    refused(whole, r"config\.json is damaged.*restore it")


def test_an_unknown_family_lists_the_known_ones(whole):
    (whole / "config.json").write_text('{"model_type": "gpt2"}')
    refused(whole, "'gpt2' model: remask opens .*roberta")


@pytest.mark.parametrize("change", [{"hidden_size": "many"}, {"num_attention_heads": 5}, {"num_hidden_layers": -1.5}])
def test_a_config_that_makes_no_sense(whole, change):
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(config | change))
    refused(whole, "cannot be opened.*weights or the config are damaged")


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"vocab_size": 99}, {"num_hidden_layers": 3}])
def test_a_config_of_another_size_than_the_weights(whole, change):
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(config | change))
    refused(whole, "cannot be opened|lacks weights that its config asks for")


def test_no_weights(whole):
    (whole / WEIGHTS).unlink()
    refused(whole, r"no model\.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(whole, keep):
    data = (whole / WEIGHTS).read_bytes()
    (whole / WEIGHTS).write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(whole, "cannot be opened.*damaged")


def test_random_bytes_for_weights(whole):
    (whole / WEIGHTS).write_bytes(
        torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes()
    )
    refused(whole, "cannot be opened.*damaged")


def test_a_missing_shard(whole):
    (whole / WEIGHTS).rename(whole / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"cls.predictions.bias": "model-00002-of-00002.safetensors"}}
    (whole / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(whole, "cannot be opened")


def test_weights_without_a_head_to_predict_with(tmp_path):
    BertModel(MAKE["bert"]().config).save_pretrained(tmp_path)
    refused(tmp_path, "lacks weights.*no usable prediction head")


def test_a_detector_predicts_no_tokens(tmp_path):
    ElectraForPreTraining(MAKE["electra"]().config).save_pretrained(tmp_path)
    refused(tmp_path, "is a replaced-token detector.*generator")


@pytest.mark.parametrize("family", ["modernbert-decoder", "remask-modernbert-decoder"])
def test_a_causal_net_where_a_masked_one_is_wanted(family, tmp_path):
    make(family).model.save_pretrained(tmp_path)
    refused(tmp_path, "is a causal model.*needs a masked one", causal=False)
    assert load_net(tmp_path, causal=True).causal


def test_a_masked_net_where_a_causal_one_is_wanted(whole):
    refused(whole, "is a masked model.*needs a causal one", causal=True)


def test_a_causal_checkpoint_has_no_conditional(tmp_path):
    tokenizer = tokenizers.byte_tokenizer()
    model = MAKE["modernbert-decoder"]()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="cannot fill masks"):
        load(tmp_path).conditional()


def test_a_missing_tokenizer(tmp_path):
    make("modernbert").model.save_pretrained(tmp_path)
    with pytest.raises(BadCheckpoint, match="no tokenizer"):
        load(tmp_path)


def test_a_missing_tokenizer_of_a_family_that_has_one_of_its_own(whole):
    with pytest.raises(BadCheckpoint, match="no tokenizer"):
        load(whole)


def test_damaged_facts(whole):
    net = load_net(whole)
    net.model.resize_token_embeddings(260, mean_resizing=False)
    write_net(whole, net, tokenizers.byte_tokenizer(), {"objective": "mdlm"})
    assert load(whole).facts == {"objective": "mdlm"}
    (whole / "remask.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"remask\.json is damaged"):
        load(whole)


# code of theirs


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickled_weights_are_not_even_read(whole):
    marker = whole / "executed"
    (whole / WEIGHTS).unlink()
    (whole / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(marker)))
    refused(whole, "safetensors only, since other formats can run code")
    assert not marker.exists()
    pickle.loads((whole / "pytorch_model.bin").read_bytes())
    assert marker.exists()


EVIL = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
class Config(BertConfig): pass
class Model(BertForMaskedLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""


def trapped(path, marker, model_type):
    config = json.loads((path / "config.json").read_text())
    code = {"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"}
    config |= {"model_type": model_type, "auto_map": code}
    (path / "config.json").write_text(json.dumps(config))
    (path / "evil.py").write_text(EVIL.format(marker=str(marker)))


def test_planted_code_is_never_executed(whole, tmp_path, monkeypatch):
    marker = tmp_path / "executed"
    trapped(whole, marker, "bert")
    tokenizers.byte_tokenizer().save_pretrained(whole)
    settings = json.loads((whole / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": [None, "evil.Tokenizer"]}
    (whole / "tokenizer_config.json").write_text(json.dumps(settings))
    assert gap(logits(load_net(whole), text(1, 8)), logits(make("bert"), text(1, 8))) == 0
    tokenizers.load(whole)
    trapped(whole, marker, "evil")
    refused(whole, "'evil' model")
    assert not marker.exists()
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    trapped(whole, marker, "bert")
    AutoModelForMaskedLM.from_pretrained(whole, trust_remote_code=True)  # what remask must never do
    assert marker.exists()
