"""Every Hugging Face family: the head applied to chosen cells says what the model's own forward says."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5Config, T5ForConditionalGeneration

from remask.core.errors import BadCheckpoint
from remask.nets.heads import FAMILIES
from remask.nets.hf import HuggingFaceNet
from remask.train.checkpoint import load_net
from tests.nets.tiny import CAUSAL, LONGEST, MAKE, V, gap, logits, make, masked, padding, shake, text, theirs

FOREIGN = [name for name in MAKE if not name.startswith("remask")]
LIMITED = [name for name in FOREIGN if "modernbert" not in name and "deberta" not in name]


def cells(net, dtype=torch.float32):
    """Hidden states of a few cells, [N, D]; targets, [N]; some candidates, [N, 5]."""
    tokens = masked(text(2, 12))
    with torch.no_grad():
        hidden = net.hidden(tokens).flatten(0, 1)[::3].to(dtype)
    targets = text(2, 12, seed=5).flatten()[::3]
    return hidden, targets, text(len(targets), 5, seed=6)


def test_every_known_family_is_tested():
    blocks = {"remask-modernbert-blocks"}  # see nothing behind their block: tests/nets/test_blockwise.py
    assert {make(name).family for name in MAKE} == set(FAMILIES) - blocks


@pytest.mark.parametrize("family", FOREIGN)
def test_logits_of_the_hidden_states_are_the_models_own(family):
    net, tokens, attend = make(family), masked(text(3, 20)), padding([20, 7, 13], 20)
    expected = theirs(net.model, tokens)
    assert expected.std() > 0.3
    assert gap(logits(net, tokens), expected) < 1e-5
    pad = net.model.config.pad_token_id
    padded = torch.where(attend, tokens, pad)
    expected = theirs(net.model, padded, attention_mask=attend.long())
    assert gap(logits(net, padded, attend=attend)[attend], expected[attend]) < 1e-5
    assert gap(logits(net, padded)[1, :7], expected[1, :7]) > 1e-3 or net.causal  # padding that is looked at shows


def test_electras_trunk_and_embedding_have_their_own_widths():
    net = make("electra")
    hidden, _, _ = cells(net)
    assert hidden.shape[1] == 32
    assert net.model.generator_lm_head.weight.shape == (V, 16)
    assert net.logits(hidden).shape == (len(hidden), V)


def test_debertas_two_heads_are_both_met():
    assert hasattr(make("deberta-legacy").model, "cls")
    assert not hasattr(make("deberta-new").model, "cls")


@pytest.mark.parametrize("ban", [None, 1])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("family", MAKE)
def test_every_way_to_ask_for_a_probability_agrees(family, dtype, close, ban):
    net = make(family)
    net.model.to(dtype)
    hidden, targets, candidates = cells(net, dtype)
    weight = torch.linspace(0.1, 2, len(targets))
    with torch.no_grad():
        own = net.logits(hidden)
        if ban is not None:
            own[:, ban] = -torch.inf  # the rest is renormalised
        expected = own.log_softmax(1)
        at_target = -expected.gather(1, targets[:, None])[:, 0]
        law, nll = net.log_probs(hidden, ban), net.nll(hidden, targets, ban)
        assert law.dtype == nll.dtype == dtype
        seen = expected.isfinite()
        assert seen.sum() == seen.numel() - (0 if ban is None else len(seen))
        assert torch.equal(law.isfinite(), seen)
        assert gap(law[seen], expected[seen]) < close
        assert gap(law.exp().sum(1), torch.ones(len(law), dtype=dtype)) < close
        assert gap(nll, at_target) < close
        assert gap(net.log_prob(hidden, candidates, ban), expected.gather(1, candidates)) < close
        total = net.total_nll(hidden, targets, weight, ban)
        assert total.dtype == torch.float64
        assert gap(total, (at_target.double() * weight).sum()) < close


def test_a_ban_changes_the_numbers():
    net = make("bert")
    hidden, targets, _ = cells(net)
    with torch.no_grad():
        assert (net.nll(hidden, targets) > net.nll(hidden, targets, 1)).all()


@pytest.mark.parametrize("family", MAKE)
def test_a_family_stays_itself_through_loading_and_saving(family, tmp_path):
    model, opener = make(family).model, AutoModelForCausalLM if family in CAUSAL else AutoModelForMaskedLM
    model.save_pretrained(tmp_path / "first")
    net = load_net(tmp_path / "first")
    assert not net.training
    assert not net.train(net.training).model.training
    assert net.family == model.config.model_type
    net.model.save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second
    assert second["model_type"] == model.config.model_type
    assert second["architectures"] == [type(model).__name__]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    tokens = masked(text(2, 16))
    again = opener.from_pretrained(tmp_path / "second").eval()
    assert gap(theirs(again, tokens), theirs(model, tokens)) == 0
    assert gap(logits(net, tokens), logits(HuggingFaceNet(model), tokens)) == 0


# positions


@pytest.mark.parametrize("family", LIMITED)
def test_length_is_the_longest_row_that_runs(family):
    net = make(family)
    assert net.length == (LONGEST - 2 if "roberta" in family or family == "camembert" else LONGEST)
    with torch.no_grad():
        assert net.hidden(text(1, net.length)).isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            net.hidden(text(1, net.length + 1))


@pytest.mark.parametrize("family", LIMITED)
def test_packed_rows_may_be_longer_than_their_documents_may_be(family):
    net, tokens = make(family), text(1, 2 * LONGEST)
    documents = (torch.arange(2 * LONGEST) // 20)[None]
    with torch.no_grad():
        packed = net.hidden(tokens, documents=documents)
        assert gap(packed[0, 20:40], net.hidden(tokens[:, 20:40])[0]) < 1e-5


def test_roberta_with_another_padding_id_counts_from_there():
    config = MAKE["roberta"]().config
    config.pad_token_id = 3
    net = HuggingFaceNet(shake(type(MAKE["roberta"]())(config)))
    assert net.length == LONGEST - 4
    tokens = text(1, net.length)
    counted = torch.arange(net.length)[None]
    assert gap(logits(net, tokens, positions=counted), theirs(net.model, tokens)) < 1e-6
    with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
        net.hidden(text(1, net.length + 1))


def test_a_family_without_a_known_head_is_refused_by_name():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": V}
    with pytest.raises(BadCheckpoint, match=r"'t5' model cannot be used.*roberta"):
        HuggingFaceNet(T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)))
