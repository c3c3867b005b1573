"""Opening whatever a directory holds: with the head that it has, or just its trunk to go on from."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import remask
from remask.core.errors import BadCheckpoint
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import GENERATOR
from remask.train.checkpoint import load_net, write_net
from remask.train.opening import open_any, open_net, open_trunk
from tests.nets.test_bad_checkpoints import Trap
from tests.nets.test_share import FAMILIES, pair
from tests.nets.tiny import gap, logits, make, text
from tests.train import electra
from tests.train.electra import start, write

HEADS = {"masked": HuggingFaceNet, "electra-generator": HuggingFaceNet, "detector": Detector, "electra": Detector}
HEADLESS = ["bare", "bare-modern", "classifier", "tagger"]
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17


def refused(opener, path, match):
    with pytest.raises(BadCheckpoint, match=match) as caught:
        opener(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def trunk_of(path, tokens):
    """What transformers alone makes of a directory's trunk."""
    with torch.no_grad():
        return AutoModel.from_pretrained(path).eval()(input_ids=tokens)[0]


# ---- with its head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_a_net_with_the_head_that_it_has(kind):
    net = open_net(start(kind))
    assert type(net) is HEADS[kind]
    assert not net.training
    assert not net.model.training
    tokens = text(2, 9)
    with torch.no_grad():
        hidden = net.hidden(tokens)
        own = net.model(input_ids=tokens).logits
        said = net.scores(hidden.flatten(0, 1)) if type(net) is Detector else net.logits(hidden.flatten(0, 1))
    assert gap(said.view(-1), own.flatten()) < 1e-5
    assert gap(hidden, trunk_of(start(kind), tokens)) < 1e-5


@pytest.mark.parametrize("kind", HEADLESS)
def test_without_a_head_that_remask_uses(kind):
    refused(open_net, start(kind), "lacks weights.*no usable prediction head")
    refused(open_any, start(kind), "lacks weights.*no usable prediction head")


@pytest.mark.parametrize("kind", HEADS)
def test_open_any_has_the_tokenizer_and_the_facts(kind, tmp_path):
    write(kind, tmp_path)
    found = open_any(tmp_path)
    assert type(found.net) is HEADS[kind]
    assert (found.alphabet.size, found.path, found.facts) == (260, str(tmp_path), {})
    assert found.alphabet.mask == found.tokenizer.mask_token_id
    (tmp_path / "remask.json").write_text('{"step": 3}')
    assert open_any(str(tmp_path)).facts == {"step": 3}
    (tmp_path / "remask.json").write_text("[")
    refused(open_any, tmp_path, r"remask\.json is damaged")


def test_open_any_wants_a_tokenizer(tmp_path):
    write("detector", tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    open_net(tmp_path)
    refused(open_any, tmp_path, "no tokenizer")


def test_a_detector_predicts_no_tokens_and_its_generator_is_named(tmp_path):
    both = pair("bert", "gdes", 0.5)
    for net in (both.generator, both.discriminator):
        assert net.vocabulary == 61
    from remask.data import tokenizers

    with pytest.raises(BadCheckpoint, match="replaced-token detector"):
        load_net(start("electra"))
    write_net(tmp_path, both, tokenizers.byte_tokenizer(), {})
    refused(remask.load, tmp_path, f"is a replaced-token detector.*type {tmp_path / GENERATOR} if there is one")
    assert gap(logits(load_net(tmp_path / GENERATOR), text(1, 5)), logits(both.generator, text(1, 5))) < 1e-5


# ---- a trunk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*HEADS, *HEADLESS])
def test_any_encoder_is_a_trunk(kind):
    net, tokens = open_trunk(start(kind)), text(2, 9)
    assert type(net) is HEADS.get(kind, HuggingFaceNet)
    assert not net.training
    with torch.no_grad():
        assert gap(net.hidden(tokens), trunk_of(start(kind), tokens)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_trunk_of_any_family(family, tmp_path):
    net, tokens = make(family), text(2, 9)
    net.model.base_model.save_pretrained(tmp_path)
    found = open_trunk(tmp_path)
    assert found.family == net.family
    with torch.no_grad():
        assert gap(found.hidden(tokens), net.hidden(tokens)) < 1e-5
        assert found.logits(found.hidden(tokens[:1])[0]).isfinite().all()
    assert torch.equal(found.head.weight, net.model.get_input_embeddings().weight)  # the table it predicts with


def test_what_predicts_already_keeps_its_head():
    tokens = text(2, 9)
    assert gap(logits(open_trunk(start("masked")), tokens), logits(load_net(start("masked")), tokens)) == 0


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_fresh_head_is_a_function_of_the_seed_alone(kind):
    tokens = text(1, 9)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = logits(open_trunk(start(kind), 3), tokens)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert torch.equal(logits(open_trunk(start(kind), 3), tokens), one)
    if kind != "bare-modern":  # whose head starts like any other's: a norm of ones and a narrow matrix
        assert not torch.equal(logits(open_trunk(start(kind), 4), tokens), one)


def test_a_causal_trunk_comes_back_as_it_is():
    net = open_trunk(start("causal"))
    assert net.causal  # and who wants a masked one refuses


# ---- damage and danger -----------------------------------------------------------------------------------------------

OPENERS = {"net": open_net, "trunk": open_trunk, "any": open_any}


def truncate(path):
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(data[: len(data) // 2])


def change(**fields):
    def changed(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | fields))

    return changed


def without_a_layer(path):
    held = load_file(path / WEIGHTS)
    for name in [n for n in held if "layer.1.attention" in n]:
        del held[name]
    save_file(held, path / WEIGHTS, {"format": "pt"})


DAMAGE = {
    "no weights": (lambda path: (path / WEIGHTS).unlink(), "safetensors only"),
    "half the weights": (truncate, "cannot be opened.*damaged"),
    "a layer is gone": (without_a_layer, r"lacks weights .*layer\.1"),
    "no config": (lambda path: (path / "config.json").unlink(), r"no config\.json"),
    "broken config": (lambda path: (path / "config.json").write_text("{"), "damaged"),
    "another family": (change(model_type="gpt2"), "'gpt2' model: remask opens"),
    "wider config": (change(hidden_size=64), "cannot be opened|lacks weights"),
    "a decoder": (change(is_decoder=True), "is_decoder.*no text to the right"),
    "code from the hub": (change(attn_implementation="someone/kernel"), "attention code from the hub"),
    "code from the hub, old": (change(_attn_implementation="someone/kernel"), "attention code from the hub"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["masked", "detector"])
def test_damage_is_a_sentence(kind, damage, tmp_path):
    write(kind, tmp_path)
    spoil, said = DAMAGE[damage]
    spoil(tmp_path)
    for opener in OPENERS.values():
        refused(opener, tmp_path, said)


def test_a_detector_without_its_head(tmp_path):
    write("detector", tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    save_file({n: t for n, t in held.items() if "classifier" not in n}, tmp_path / WEIGHTS, {"format": "pt"})
    for opener in OPENERS.values():
        refused(opener, tmp_path, r"lacks weights that its config asks for \(classifier")


def test_no_directory(tmp_path):
    for opener in OPENERS.values():
        refused(opener, tmp_path / "nowhere", "no checkpoint directory")


@pytest.mark.parametrize("kind", ["masked", "detector", "bare"])
def test_pickled_weights_are_not_even_read(kind, tmp_path):
    write(kind, tmp_path / "model")
    marker = tmp_path / "executed"
    (tmp_path / "model" / WEIGHTS).unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(marker)))
    for opener in OPENERS.values():
        refused(opener, tmp_path / "model", "safetensors only, since other formats can run code")
    assert not marker.exists()


def test_every_kind_is_tested():
    assert {*HEADS, *HEADLESS, "causal"} == set(electra.KINDS)
