"""Shared embeddings: which parameters are one and the same, what each loss may pull at, and what is written out."""

import pytest
import torch
from torch import nn

from remask.core.errors import BadInput
from remask.nets.convert import as_detector, smaller
from remask.nets.pair import Pair
from remask.nets.share import SHARES, Derived, Disentangled, Projected, plain, plain_state, share
from tests.nets.tiny import CAUSAL, MAKE, V, make, shake, text

MASKED = [name for name in MAKE if name not in CAUSAL]
SOME = {"bert", "electra", "modernbert"}
FAMILIES = [pytest.param(name, marks=[] if name in SOME else pytest.mark.slow) for name in MASKED]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17


def pair(family, how, width=1.0, depth=0.5, *, keep=False, shaken=True, seed=0):
    """A generator and a discriminator of a family; shaken, so that no delta is zero."""
    net = make(family, seed)
    generator = smaller(net, width, depth, seed + 1)
    shake(generator.model, seed + 2)
    found = Pair(generator, as_detector(net, seed + 3), how, keep_generator=keep)
    if shaken:
        shake(found, seed + 4, 0.1)
    return found.eval()


def embeddings(net):
    """Parameters of the embeddings by name (of their modules in the discriminator and in the generator)."""
    return dict(net.model.base_model.embeddings.named_parameters(remove_duplicate=False))


def count(module):
    return sum(p.numel() for p in module.parameters())


def alone(family, width, depth=0.5):
    """Parameters of the two nets, and of the discriminator's embeddings, when nothing is shared."""
    net = make(family)
    generator, discriminator = smaller(net, width, depth, 1), as_detector(net, 3)
    return generator, discriminator


# ---- which are one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_none_nothing_is_shared(family, width):
    found = pair(family, "none", width)
    theirs, ours = ({id(p) for p in net.parameters()} for net in (found.generator, found.discriminator))
    assert not theirs & ours
    generator, discriminator = alone(family, width)
    assert count(found) == count(generator) + count(discriminator)
    assert not any(isinstance(m, Derived) for m in found.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_with_shared_and_one_width_all_embeddings_are_one(family):
    found = pair(family, "shared")
    theirs, ours = embeddings(found.generator), embeddings(found.discriminator)
    assert theirs.keys() == ours.keys()
    assert all(theirs[name] is ours[name] for name in ours)  # words, positions, token types and the norm
    generator, discriminator = alone(family, 1.0)
    assert count(found) == count(generator) + count(discriminator) - sum(p.numel() for p in ours.values())
    rest = {id(p) for p in found.generator.parameters()} & {id(p) for p in found.discriminator.parameters()}
    assert rest == {id(p) for p in ours.values()}
    assert found.generator.head.weight is found.discriminator.model.get_input_embeddings().weight


@pytest.mark.parametrize("family", FAMILIES)
def test_with_shared_and_a_narrow_generator_the_table_is_projected(family):
    found = pair(family, "shared", 0.5)
    generator, discriminator = alone(family, 0.5)
    table = found.discriminator.model.get_input_embeddings().weight
    narrow = found.generator.model.get_input_embeddings()
    if family == "electra":  # its table has its own width, so nothing has to be projected
        assert narrow.weight is table
        assert found.generator.head.weight is table
        assert not any(isinstance(m, Derived) for m in found.modules())
        return
    assert isinstance(narrow, Projected)
    assert narrow.base is table
    wide, thin = table.shape[1], generator.model.config.hidden_size
    assert narrow.projection.shape == (thin, wide)
    assert torch.equal(narrow.weight, table @ narrow.projection.T)
    assert torch.equal(found.generator.head.weight, narrow.weight)  # it predicts with the table that it reads
    once = {id(p) for p in found.generator.parameters()} & {id(p) for p in found.discriminator.parameters()}
    assert once == {id(table)}  # norms and positions have another width
    assert count(found) == count(generator) + count(discriminator) - V * thin + thin * wide


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_gdes_the_discriminator_has_deltas_of_its_own(family, width):
    found = pair(family, "gdes", width, shaken=False)
    theirs, ours = found.generator.model.get_input_embeddings(), found.discriminator.model.get_input_embeddings()
    assert isinstance(ours, Disentangled)
    assert ours.base is (theirs.base if isinstance(theirs, Projected) else theirs.weight)
    assert isinstance(theirs, Projected) == (width < 1 and family != "electra")
    deltas = [m.delta for m in found.discriminator.modules() if isinstance(m, Disentangled)]
    assert all(not delta.any() for delta in deltas)  # zero at first
    generator, discriminator = alone(family, width)
    projected = 0
    if isinstance(theirs, Projected):
        projected = theirs.projection.numel() + theirs.base.numel() - V * theirs.projection.shape[0]
    assert count(found) == count(generator) + count(discriminator) + projected
    twins = [p for p in found.discriminator.parameters() if any(p is q for q in found.generator.parameters())]
    bases = [m.base for m in found.discriminator.modules() if isinstance(m, Disentangled)]
    assert {id(p) for p in twins} == {id(p) for p in bases}  # the norms stay apart
    if width == 1:
        tables = [m for m in found.generator.model.base_model.embeddings.modules() if isinstance(m, nn.Embedding)]
        assert {id(m.weight) for m in tables} == {id(p) for p in bases}


# ---- what they are at the start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_beside_a_fresh_generator_the_discriminator_reads_as_before(family, how, width):
    net, tokens = make(family), text(2, 9)
    with torch.no_grad():
        before = net.hidden(tokens)
        found = Pair(smaller(net, width, 0.5, 1), as_detector(net, 3), how)
        assert torch.equal(found.discriminator.hidden(tokens), before)


@pytest.mark.parametrize("how", ["shared", "gdes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_generator_keeps_its_own_table(family, how):
    """And with gdes the discriminator keeps its own one, too."""
    net, generator, tokens = make(family), make(family, 5), text(2, 9)
    old = {name: p.clone() for name, p in embeddings(net).items()}
    wanted = {name: p.clone() for name, p in embeddings(generator).items()}
    with torch.no_grad():
        before, theirs = net.hidden(tokens), generator.hidden(tokens)
    found = Pair(generator, as_detector(net, 3), how, keep_generator=True)
    assert all(torch.equal(embeddings(found.generator)[name], wanted[name]) for name in wanted)
    with torch.no_grad():
        assert torch.equal(found.generator.hidden(tokens), theirs)
        after = found.discriminator.hidden(tokens)
    if how == "gdes":  # base + (own - base) is own up to the rounding of the sum
        assert (after - before).abs().max() < 1e-5 * before.abs().max()
        words = found.discriminator.model.get_input_embeddings()
        own = next(p for name, p in old.items() if p.shape == (V, words.weight.shape[1]))
        assert (words.weight - own).abs().max() <= 2e-7 * torch.maximum(own.abs(), words.base.abs()).max()
    else:
        assert all(torch.equal(embeddings(found.discriminator)[name], wanted[name]) for name in wanted)
        assert (after - before).abs().max() > 1e-2


def test_a_generator_of_another_width_cannot_keep_a_shared_table():
    net = make("bert")
    for how in ("shared", "gdes"):
        with pytest.raises(BadInput, match=r"\(61, 16\) and the discriminator's \(61, 32\).*--share none"):
            Pair(smaller(net, 0.5, 1.0, 1), as_detector(net, 3), how, keep_generator=True)
    Pair(smaller(net, 0.5, 1.0, 1), as_detector(net, 3), "none", keep_generator=True)


def test_families_may_differ():
    """Words are shared; what has another name is not."""
    found = Pair(make("modernbert"), as_detector(make("bert"), 3), "shared", keep_generator=True)
    both = {id(p) for p in found.generator.parameters()} & {id(p) for p in found.discriminator.parameters()}
    assert both == {id(found.generator.model.get_input_embeddings().weight)}


# ---- who pulls at what -----------------------------------------------------------------------------------------------


def pulls(found):
    """Which parameters get a gradient from the discriminator's loss alone, and from the generator's alone."""
    tokens = text(2, 8)
    for net in (found.discriminator, found.generator):
        found.zero_grad()
        hidden = net.hidden(tokens).flatten(0, 1)
        if net is found.discriminator:
            net.scores(hidden).sum().backward()
        else:
            net.total_nll(hidden, tokens.flatten(), torch.ones(tokens.numel())).backward()
        yield {name for name, p in found.named_parameters() if p.grad is not None and p.grad.any()}


def named(found, wanted):
    return next(name for name, p in found.named_parameters() if p is wanted)


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_gdes_no_loss_pulls_at_the_others_table(family, width):
    found = pair(family, "gdes", width)
    ours = found.discriminator.model.get_input_embeddings()
    detects, predicts = pulls(found)
    assert all(named(found, m.base) not in detects for m in found.modules() if isinstance(m, Disentangled))
    assert named(found, ours.base) in predicts
    assert named(found, ours.delta) in detects
    assert named(found, ours.delta) not in predicts
    assert not any(name.startswith("generator.") for name in detects)
    if width < 1 and family != "electra":
        assert named(found, found.generator.model.get_input_embeddings().projection) in predicts


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_shared_both_losses_pull_at_the_table(family, width):
    found = pair(family, "shared", width)
    table = named(found, found.discriminator.model.get_input_embeddings().weight)
    assert all(table in names for names in pulls(found))


def test_a_table_that_is_not_detached_would_be_noticed():
    """The planted twin."""

    class Entangled(Disentangled):
        def forward(self, ids):
            return nn.functional.embedding(ids, self.base) + nn.functional.embedding(ids, self.delta)

    found = pair("bert", "gdes")
    found.discriminator.model.get_input_embeddings().__class__ = Entangled
    detects, _ = pulls(found)
    assert named(found, found.discriminator.model.get_input_embeddings().base) in detects


@pytest.mark.parametrize("how", ["shared", "gdes"])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_derived_tables_gradient_is_that_of_its_matrix(how, width):
    """Rows looked up and rows of the whole matrix, in float64."""
    found = pair("bert", how, width).double()
    tokens = text(2, 8)
    for module in found.modules():
        if isinstance(module, Derived):
            parameters = [p for name, p in module.named_parameters() if name != "base" or isinstance(module, Projected)]
            ids = tokens % len(module.base)
            weight = torch.randn(*tokens.shape, module.weight.shape[1], dtype=torch.float64)
            looked = torch.autograd.grad((module(ids) * weight).sum(), parameters)
            whole = torch.autograd.grad((module.weight[ids] * weight).sum(), parameters)
            for a, b in zip(looked, whole, strict=True):
                assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_a_projection_keeps_the_scale():
    torch.manual_seed(0)
    base = nn.Parameter(torch.randn(2000, 256) * 0.02)
    for width in (64, 128):
        assert (Projected(base, width).weight.std() / base.std()).item() == pytest.approx(1, abs=0.03)


# ---- what is written out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_twin_has_plain_parameters_and_the_same_outputs(family, width, how):
    found, tokens = pair(family, how, width), text(2, 9)
    for net in (found.generator, found.discriminator):
        torch.manual_seed(7)
        state = torch.get_rng_state()
        twin = plain(net.model)
        assert torch.equal(torch.get_rng_state(), state)  # saving must not change what dropout draws next
        fresh = type(net.model)(net.model.config)
        assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in fresh.named_parameters()}
        assert plain_state(net.model).keys() == fresh.state_dict().keys()
        assert not twin.training
        with torch.no_grad():
            a = twin.base_model(input_ids=tokens)[0]
            b = net.hidden(tokens)
        assert (a - b).abs().max() < 1e-5 * b.abs().max().clamp(min=1)
        derived = any(isinstance(m, Derived) for m in net.model.modules())
        assert (twin is net.model) == (not derived)


def test_plain_keeps_precision_and_mode():
    found = pair("bert", "gdes", 0.5)
    found.generator.model.bfloat16().train()
    twin = plain(found.generator.model)
    assert {p.dtype for p in twin.parameters()} == {torch.bfloat16}
    assert twin.training


@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_one_stays_one_through_a_state_dict(family, width, how):
    one, two = pair(family, how, width, seed=0), pair(family, how, width, seed=20)
    names = [{id(p): name for name, p in found.named_parameters()} for found in (one, two)]
    two.load_state_dict(one.state_dict())
    assert {id(p): name for name, p in two.named_parameters()} == names[1]  # the same objects as before
    assert list(names[0].values()) == list(names[1].values())
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_share_does_nothing_where_none_is_asked_for():
    generator, discriminator = make("bert", 1).model, as_detector(make("bert"), 3).model
    before = [id(p) for p in (*generator.parameters(), *discriminator.parameters())]
    share(generator, discriminator, "none", keep_generator=False)
    assert [id(p) for p in (*generator.parameters(), *discriminator.parameters())] == before
