"""One trunk, another head: nothing of the trunk changes, and a smaller net is a whole net of its family."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import ElectraForPreTraining

from remask.nets.convert import DIRECTIONS, as_detector, as_language_model, narrow, smaller
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.trunk import DIRECTIONAL
from remask.train.checkpoint import load_net
from tests.nets.test_share import FAMILIES
from tests.nets.tiny import V, gap, logits, make, masked, padding, shake, text, theirs

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17


def trunks(net):
    """Hidden states of a plain, a packed and a padded reading."""
    tokens = masked(text(2, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    seen = padding([12, 7], 12)
    with torch.no_grad():
        packed, padded = net.hidden(tokens, documents=documents), net.hidden(tokens, attend=seen)[seen]
        return net.hidden(tokens), packed, padded


def same_trunk(a, b):
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(trunks(a), trunks(b), strict=True))


# ---- a detector ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_has_the_trunk_it_was_made_of(family):
    net = make(family)
    before = copy.deepcopy(net.model.config.to_dict())
    found = as_detector(net, 3)
    assert type(found) is Detector
    assert (found.family, found.length, found.vocabulary, found.causal) == (net.family, net.length, V, False)
    assert isinstance(found.model, ElectraForPreTraining) == (family == "electra")
    assert found.model.config.num_labels == 1
    assert same_trunk(found, net)
    assert net.model.config.to_dict() == before  # and nothing of it is shared
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in found.parameters()}
    assert found.training == found.model.training == net.training
    shake(found.model.base_model, 9)
    assert not same_trunk(found, net)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detectors_scores_are_the_models_own_logits(family):
    found = as_detector(make(family), 3)
    shake(found.model, 4)
    tokens = text(3, 16)
    with torch.no_grad():
        scores = found.scores(found.hidden(tokens).flatten(0, 1)).view(3, 16)
    own = theirs(found.model, tokens)
    own = own[..., 0] if own.ndim == 3 else own
    assert own.std() > 0.1
    assert gap(scores, own) < 1e-5


@pytest.mark.parametrize("family", ["bert", "electra", "modernbert"])
def test_a_head_is_a_function_of_the_seed_alone(family):
    net = make(family)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two, other = (as_detector(net, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    hidden = trunks(net)[0].flatten(0, 1)
    with torch.no_grad():
        assert torch.equal(one.scores(hidden), two.scores(hidden))
        assert not torch.equal(one.scores(hidden), other.scores(hidden))


def test_what_is_one_already_stays_as_it_is():
    net = make("bert")
    assert as_language_model(net, 0) is net
    found = as_detector(net, 0)
    assert as_detector(found, 1) is found


@pytest.mark.parametrize("family", ["modernbert", "remask-modernbert"])
def test_modernberts_transform_goes_along(family):
    net = make(family)
    found = as_detector(net, 0)
    for a, b in zip(net.model.head.parameters(), found.model.head.parameters(), strict=True):
        assert torch.equal(a, b)
    again = as_language_model(found, 0)
    for a, b in zip(net.model.head.parameters(), again.model.head.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- a language model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_has_the_detectors_trunk_and_predicts_with_its_table(family):
    found = as_detector(make(family), 3)
    shake(found.model.base_model, 4)
    net = as_language_model(found, 5)
    assert type(net) is HuggingFaceNet
    assert same_trunk(net, found)
    assert net.head.weight is net.model.get_input_embeddings().weight
    assert torch.equal(net.head.weight, found.model.get_input_embeddings().weight)
    tokens = masked(text(2, 16))
    said = theirs(net.model, tokens)
    assert gap(logits(net, tokens), said) < 1e-5
    with torch.no_grad():
        by_hand = net.head.transform(net.hidden(tokens)) @ found.model.get_input_embeddings().weight.T + net.head.bias
    assert gap(by_hand, said) < 1e-5
    assert said.std() > 0.1


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_there_and_back_is_a_checkpoint_like_any_other(family, tmp_path):
    net = as_language_model(as_detector(make(family), 3), 5)
    net.save(tmp_path)
    reopened = load_net(tmp_path)
    assert gap(logits(reopened, text(2, 9)), logits(net, text(2, 9))) == 0


# ---- a smaller one ---------------------------------------------------------------------------------------------------

FRACTIONS = [(0.5, 0.5), (0.25, 1.0), (2.0, 2.0)]


@pytest.mark.parametrize(("width", "depth"), FRACTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_net_is_whole(family, width, depth, tmp_path):
    big = make(family)
    net = smaller(big, width, depth, 3)
    ours, theirs_ = net.model.config, big.model.config
    assert type(net.model) is type(big.model)
    assert net.training
    assert ours.hidden_size % ours.num_attention_heads == 0
    assert ours.num_hidden_layers == max(1, round(theirs_.num_hidden_layers * depth))
    assert ours.vocab_size == V
    each = ours.hidden_size // ours.num_attention_heads
    if "modernbert" in family:
        assert each % 2 == 0  # rotary
        assert len(ours.layer_types) == ours.num_hidden_layers
        shared = min(ours.num_hidden_layers, theirs_.num_hidden_layers)
        assert ours.layer_types[:shared] == theirs_.layer_types[:shared]
    if family in DIRECTIONAL:
        assert len(ours.head_directions) == len(ours.head_slopes) == ours.num_attention_heads
        assert set(ours.head_directions) >= set(theirs_.head_directions)  # looks to all sides still
    else:
        assert each == theirs_.hidden_size // theirs_.num_attention_heads
        assert ours.hidden_size == max(1, round(theirs_.num_attention_heads * width)) * each
    assert net.head.weight is net.model.get_input_embeddings().weight
    assert net.model.get_input_embeddings().weight.shape[1] == (16 if family == "electra" else ours.hidden_size)
    net.eval()
    net.save(tmp_path)
    tokens = masked(text(2, 11))
    assert gap(logits(load_net(tmp_path), tokens), logits(net, tokens)) == 0
    assert gap(logits(net, tokens), theirs(net.model, tokens)) < 1e-5


def shapes(net):
    return {name: p.shape for name, p in net.model.base_model.named_parameters()}


@pytest.mark.parametrize("inner", [40, 44])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_wide_and_deep_is_the_same_size_whatever_the_size(family, inner):
    """Two-stage training copies one into the other."""
    model = make(family).model
    config = copy.deepcopy(model.config)
    setattr(config, "hidden_dim" if family == "distilbert" else "intermediate_size", inner)
    big = HuggingFaceNet(type(model)(config))
    assert shapes(smaller(big, 1.0, 1.0, 3)) == shapes(big)


def test_a_directional_net_of_full_width_looks_where_the_other_looks():
    big = make("remask-modernbert")
    assert big.model.config.head_slopes == [1.0, 0.5, 0.25, 0.0]  # not the default ones
    config = smaller(big, 1.0, 0.5, 3).model.config
    assert config.head_slopes == big.model.config.head_slopes
    assert config.head_directions == big.model.config.head_directions


def test_a_smaller_net_is_a_function_of_the_seed_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two, other = (smaller(make("bert"), 0.5, 1.0, seed).model.state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_detector_has_smaller_language_models_too():
    net = smaller(as_detector(make("electra"), 0), 0.25, 0.5, 1)
    assert isinstance(net, HuggingFaceNet)
    assert (net.model.config.hidden_size, net.model.config.num_hidden_layers) == (8, 1)
    assert isinstance(net.model.electra.embeddings_project, nn.Linear)  # the factorised table keeps its width


@given(st.integers(1, 32), st.integers(1, 64), st.floats(0.01, 4), st.booleans())
def test_narrow(heads, half, fraction, directional):
    """Heads divide the width, rotary positions come in pairs, and nothing is empty."""
    width = heads * 2 * half
    hidden, fewer = narrow(width, heads, fraction, directional)
    assert fewer >= 1
    assert hidden % fewer == 0
    assert (hidden // fewer) % 2 == 0
    assert narrow(width, heads, 1.0, directional) == (width, heads)
    if directional:
        assert fewer >= min(DIRECTIONS, heads)
    if not directional or round(heads * fraction) >= DIRECTIONS:
        assert hidden // fewer == 2 * half  # heads of the same size
        assert abs(hidden / width - fraction) <= max(0.5 / heads, 1 / heads - fraction) + 1e-9


def test_the_config_that_is_written_names_its_class(tmp_path):
    for name, build in (("detector", as_detector), ("language", as_language_model)):
        build(as_detector(make("modernbert"), 0), 0).save(tmp_path / name)
    kinds = [json.loads((tmp_path / n / "config.json").read_text())["architectures"] for n in ("detector", "language")]
    assert kinds == [["ModernBertForTokenClassification"], ["ModernBertForMaskedLM"]]
