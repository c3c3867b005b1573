"""Generator and discriminator as one module: saved exactly, and written out as two directories that anybody opens."""

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM

from remask.core.errors import BadInput
from remask.data import tokenizers
from remask.nets.convert import as_detector, as_language_model, smaller
from remask.nets.detector import Detector
from remask.nets.encoder import build
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import GENERATOR, RAW, Pair
from remask.nets.share import SHARES
from remask.train.checkpoint import load_net
from remask.train.opening import open_net
from tests.nets.test_checkpoints import BLOCKED, python
from tests.nets.test_share import FAMILIES, MASKED, pair
from tests.nets.tiny import MAKE, V, gap, logits, make, masked, shake, text, theirs

PLAIN = [name for name in MASKED if not name.startswith("remask")]
FORMS = [("none", 0.5), ("shared", 1.0), ("shared", 0.5), ("gdes", 1.0), ("gdes", 0.5)]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17


def said(found, tokens):
    """The generator's logits [B, L, V] and the discriminator's scores [B, L]."""
    with torch.no_grad():
        scores = found.discriminator.scores(found.discriminator.hidden(tokens).flatten(0, 1)).view(tokens.shape)
    return logits(found.generator, tokens), scores


def opened(folder, tokens):
    """The same of the two directories."""
    net = open_net(folder)
    with torch.no_grad():
        scores = net.scores(net.hidden(tokens).flatten(0, 1)).view(tokens.shape)
    return logits(load_net(folder / GENERATOR), tokens), scores


def state(found):
    return {name: value.clone() for name, value in found.state_dict().items()}


# ---- what it is ------------------------------------------------------------------------------------------------------


def test_what_a_pair_says_of_itself():
    found = pair("bert", "shared", 0.5)
    assert found.detects
    assert not found.causal
    assert (found.length, found.vocabulary) == (40, V)
    assert found.trunk is found.discriminator
    assert type(found.generator) is HuggingFaceNet
    assert type(found.discriminator) is Detector
    assert int(found.stage) == 0
    assert found.copy_gate is None
    other = Pair(make("bert"), make("bert", 1), copy_gate=True)
    assert not other.detects
    assert (other.copy_gate.weight.shape, other.copy_gate.weight.any(), other.copy_gate.bias.any()) == ((1, 32), 0, 0)


def test_the_shorter_of_the_two_says_how_long_rows_may_be():
    config = MAKE["bert"]().config
    config.max_position_embeddings = 24
    short = HuggingFaceNet(type(MAKE["bert"]())(config))
    assert Pair(short, as_detector(make("bert"), 0)).length == 24
    assert Pair(make("bert"), as_detector(short, 0)).length == 24


@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("keep", [False, True])
def test_two_vocabularies_are_refused(how, keep):
    other = make("bert")
    other.model.resize_token_embeddings(V + 3, mean_resizing=False)
    for one, two, said_ in ((make("bert"), other, (V, V + 3)), (other, make("bert"), (V + 3, V))):
        with pytest.raises(BadInput, match=f"the generator has {said_[0]} ids and the discriminator {said_[1]}"):
            Pair(one, as_detector(two, 0), how, keep_generator=keep)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_generators_losses_are_those_of_its_logits(family, width):
    """With a table that is computed, too."""
    found, tokens = pair(family, "gdes", width), masked(text(2, 9))
    with torch.no_grad():
        hidden = found.generator.hidden(tokens).flatten(0, 1)
        targets = text(2, 9, 5).flatten()
        expected = -found.generator.logits(hidden).log_softmax(1).gather(1, targets[:, None])[:, 0]
        assert gap(found.generator.nll(hidden, targets), expected) < 1e-5
        total = found.generator.total_nll(hidden, targets, torch.ones(len(targets)))
    assert gap(total.float(), expected.sum()) < 1e-5


# ---- saved and restored ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "width"), FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_restored_bit_for_bit(family, how, width, tmp_path):
    one, two, tokens = pair(family, how, width, seed=0), pair(family, how, width, seed=20), text(2, 9)
    one.stage.fill_(1)
    one.save(tmp_path, training=True)
    names = {id(p): name for name, p in two.named_parameters()}
    two.restore(tmp_path)
    assert {id(p): name for name, p in two.named_parameters()} == names  # what was one stays one
    wanted, found = state(one), state(two)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert int(two.stage) == 1
    for a, b in zip(said(one, tokens), said(two, tokens), strict=True):
        assert gap(a, b) < 1e-6


@pytest.mark.parametrize(("how", "width"), FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_written_out_it_says_the_same(family, how, width, tmp_path):
    found, tokens = pair(family, how, width), text(2, 9)
    assert found.save(tmp_path) == [tmp_path, tmp_path / GENERATOR]
    assert not (tmp_path / RAW).exists()
    for ours, written in zip(said(found, tokens), opened(tmp_path, tokens), strict=True):
        assert ours.std() > 0.01
        assert gap(written, ours) < 1e-5
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / GENERATOR).eval()
    assert gap(theirs(plain, tokens), said(found, tokens)[0]) < 1e-5


def test_saving_changes_nothing():
    """Neither the weights nor what torch draws next."""
    import tempfile
    from pathlib import Path

    found = pair("bert", "gdes", 0.5).train()
    before, draws = state(found), torch.get_rng_state()
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder), training=True)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(before[name], value) for name, value in state(found).items())
    assert found.training
    assert found.generator.model.training
    assert found.discriminator.model.training


@pytest.mark.parametrize("gate", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["bert", pytest.param("modernbert", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("how", "width"), FORMS)
def test_a_pair_that_predicts_tokens(family, how, width, gate, tmp_path):
    """Replace-MLM and All-Tokens MLM: both are language models, and the gate is in the raw weights alone."""
    nets = []
    for seed in (0, 20):
        net = make(family, seed)
        both = Pair(smaller(net, width, 1.0, seed + 1), as_language_model(net, 2), how, copy_gate=gate)
        nets.append(shake(both, seed + 3, 0.1).eval())
    one, two = nets
    one.save(tmp_path, training=True)
    two.restore(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    tokens = text(2, 9)
    assert gap(logits(load_net(tmp_path), tokens), logits(one.discriminator, tokens)) < 1e-5
    assert gap(logits(load_net(tmp_path / GENERATOR), tokens), logits(one.generator, tokens)) < 1e-5
    for net in (one.generator, one.discriminator):  # each predicts with the table that it reads
        assert torch.equal(net.head.weight, net.model.get_input_embeddings().weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_stage_begins_with_the_generators_trunk(family):
    net = make(family)
    found = Pair(shake(smaller(net, 1.0, 1.0, 1), 5), as_detector(net, 3)).eval()
    tokens = text(2, 9)
    with torch.no_grad():
        assert gap(found.discriminator.hidden(tokens), found.generator.hidden(tokens)) > 1e-2
        found.copy_generator()
        assert torch.equal(found.discriminator.hidden(tokens), found.generator.hidden(tokens))
        shake(found.generator.model, 6)  # a copy, not the same
        assert gap(found.discriminator.hidden(tokens), found.generator.hidden(tokens)) > 1e-2


def test_two_sizes_cannot_be_copied():
    found = pair("bert", "none", 0.5)
    before = state(found)
    with pytest.raises(BadInput, match="must be of one size"):
        found.copy_generator()
    assert all(torch.equal(before[name], value) for name, value in state(found).items())


# ---- elsewhere -------------------------------------------------------------------------------------------------------

OPEN = (
    BLOCKED
    + """
import json, warnings, torch
warnings.simplefilter("ignore")
from pathlib import Path
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, ElectraForPreTraining
from transformers.utils import logging
logging.disable_progress_bar()
folder, found = Path(sys.argv[1]), {}
want = torch.load(folder / "expected.pt", weights_only=True)
for name, (tokens, logits, scores) in want.items():
    detector = ElectraForPreTraining if name.startswith("electra") else AutoModelForTokenClassification
    answers = []
    for auto, path in ((AutoModelForMaskedLM, folder / name / "generator"), (detector, folder / name)):
        model, report = auto.from_pretrained(path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"], report
        with torch.no_grad():
            answers.append(model.eval()(input_ids=tokens).logits)
    found[name] = [float((answers[0] - logits).abs().max() / logits.abs().max()),
                   float((answers[1].view(scores.shape) - scores).abs().max() / scores.abs().max())]
print(json.dumps(found))
"""
)


@pytest.mark.slow
def test_both_open_in_plain_transformers(tmp_path):
    want = {}
    for family in PLAIN:
        for how, width in FORMS:
            found, tokens = pair(family, how, width), text(2, 9)
            name = f"{family}-{how}-{width}"
            found.save(tmp_path / name)
            want[name] = (tokens, *said(found, tokens))
    torch.save(want, tmp_path / "expected.pt")
    done = python(OPEN, tmp_path)
    assert done.returncode == 0, done.stderr
    gaps = json.loads(done.stdout.splitlines()[-1])
    assert gaps.keys() == want.keys()
    assert {name: g for name, g in gaps.items() if max(g) > 1e-5} == {}


def test_our_own_net_is_a_plain_one_too(tmp_path):
    alphabet = tokenizers.alphabet(tokenizers.byte_tokenizer())
    net = build("tiny", alphabet, 16, directional_heads=False)
    found = shake(Pair(smaller(net, 0.34, 0.5, 1), as_detector(net, 2), "gdes"), 3, 0.02).eval()
    assert found.generator.model.config.hidden_size == 64
    found.save(tmp_path)
    tokens = torch.arange(4, 20)[None]
    for ours, written in zip(said(found, tokens), opened(tmp_path, tokens), strict=True):
        assert gap(written, ours) < 1e-5
