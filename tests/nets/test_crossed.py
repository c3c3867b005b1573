"""A masked LM as encoder and decoder: silent cross-attention at first, and what it does once it speaks."""

import copy
import random
import re

import pytest
import torch
from torch import nn

from remask.core.canvas import Canvas
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.nets.conditional import NetConditional
from remask.nets.crossed import LAYERS, CrossAttention, clone
from remask.nets.diagonal import diagonal
from remask.nets.heads import FAMILIES
from remask.samplers.mask_predict import MaskPredict
from remask.train.optimizer import split
from tests.nets import tiny
from tests.nets.tiny import ALPHABET, CAUSAL, MAKE, MASK, TEXT, V, gap, make, masked, padding, shake, text

MASKED = [name for name in MAKE if name not in CAUSAL]
SOURCE, SEEN = text(3, 9, seed=3), padding([9, 4, 6], 9)
GIVEN = padding([12, 7, 3], 12)
LONGEST = 20
ARMS = {"both": (True, True), "encoder": (True, False), "decoder": (False, True), "none": (False, False)}


def target(net):
    return torch.where(GIVEN, masked(text(3, 12)), int(net.model.config.pad_token_id))


def spoken(name, **rest):
    """A clone in which cross-attention, places and lengths have something to say."""
    net = clone(make(name), longest_target=LONGEST, **rest)
    for part, seed in ((net.cross, 3), (net.get_submodule("length_head") if not net.causal else None, 4)):
        if part is not None:
            shake(part, seed)
    for number, table in enumerate([] if net.causal else [net.from_start, net.from_end]):
        shake(table, 5 + number, 1.0)
    return net


@torch.no_grad()
def logits(net, tokens=None, given=GIVEN, source=SOURCE, seen=SEEN, **rest):
    """Logits at every cell, [B, L, V]."""
    tokens = target(net.decoder) if tokens is None else tokens
    hidden = net.read(source, seen).hidden(tokens, attend=given, **rest)
    return net.logits(hidden.flatten(0, 1)).view(*tokens.shape, -1)


def test_every_family_has_its_layers():
    assert LAYERS.keys() == FAMILIES.keys() - {"remask-modernbert-blocks"}


@pytest.mark.parametrize("family", MAKE)
def test_before_training_the_decoder_is_the_language_model_for_every_source(family):
    net = make(family)
    made, tokens = clone(net, longest_target=LONGEST), target(net)
    assert not made.training
    expected = tiny.logits(net, tokens, attend=GIVEN)
    for seed in range(3):
        source = text(3, 9, seed=seed)
        for seen in (SEEN, torch.ones_like(SEEN)):
            assert gap(logits(made, tokens, source=source, seen=seen)[GIVEN], expected[GIVEN]) < 1e-6
    assert gap(logits(made, tokens, None), tiny.logits(net, tokens)) < 1e-6
    with torch.no_grad():
        made.cross[0].output.weight[0, 0] = 0.5
    assert gap(logits(made, tokens)[GIVEN], expected[GIVEN]) > 1e-5  # one weight of one layer is enough to tell


@pytest.mark.parametrize("family", MAKE)
def test_cells_see_both_sides_and_causal_ones_do_not(family):
    net = spoken(family)
    tokens = text(3, 12)
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] - TEXT + 1) % (V - 1 - TEXT) + TEXT
    moved = (logits(net, changed, None) - logits(net, tokens, None)).abs().amax(2)
    assert net.causal == (family in CAUSAL)
    assert (moved[:, 7:] > 1e-5).all()
    assert not moved[:, :7].any() if net.causal else (moved[:, :7] > 1e-5).all()


@pytest.mark.parametrize("family", MAKE)
def test_the_source_matters_and_its_padding_does_not(family):
    net = spoken(family)
    expected = logits(net)
    other = SOURCE.clone()
    other[:, 2] = (SOURCE[:, 2] - TEXT + 1) % (V - 1 - TEXT) + TEXT
    moved = (logits(net, source=other) - expected).abs().amax(2)
    assert (moved[GIVEN] > 1e-5).all()
    source = torch.where(SEEN, SOURCE, int(net.encoder.model.config.pad_token_id))
    beyond = torch.where(SEEN, source, text(3, 9, seed=8))
    if "roberta" not in family and family != "camembert":  # theirs count positions by the padding id
        assert gap(logits(net, source=beyond)[GIVEN], logits(net, source=source)[GIVEN]) < 1e-5
    reading = net.read(source, SEEN)
    for row, length in enumerate(SEEN.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = logits(net, target(net.decoder)[one], GIVEN[one], source[one, :length], SEEN[one, :length])
        assert gap(alone[GIVEN[one]], logits(net, source=source)[one][GIVEN[one]]) < 1e-5
        if not net.causal:
            short = net.read(source[one, :length], SEEN[one, :length])
            with torch.no_grad():
                assert gap(short.length_log_prob(), reading.length_log_prob()[one]) < 1e-5
    assert reading.memory.lengths.tolist() == [8, 3, 5]


@pytest.mark.parametrize("family", MAKE)
def test_padding_of_a_target_changes_nothing(family):
    net = spoken(family)
    tokens, batched = target(net.decoder), logits(net)
    for row, length in enumerate(GIVEN.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = logits(net, tokens[one, :length], None, SOURCE[one], SEEN[one])
        assert gap(alone, batched[one, :length]) < 1e-5


@pytest.mark.parametrize("family", ["bert", "deberta-new", "remask-modernbert", "modernbert-decoder"])
def test_rows_of_a_reading_are_their_sources(family):
    net, index = spoken(family), torch.tensor([2, 0, 0, 1])
    tokens = target(net.decoder)
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        whole = reading.hidden(tokens, attend=GIVEN)
        chosen = reading.rows(index).hidden(tokens[index], attend=GIVEN[index])
        assert gap(chosen[GIVEN[index]], whole[index][GIVEN[index]]) < 1e-5
        crossed = reading.rows(torch.tensor([1, 2, 0])).hidden(tokens, attend=GIVEN)
        assert gap(crossed[GIVEN], whole[GIVEN]) > 1e-3
        if not net.causal:
            assert gap(reading.rows(index).length_log_prob(), reading.length_log_prob()[index]) < 1e-5


@pytest.mark.parametrize("family", ["electra", "modernbert"])
def test_a_source_is_read_once_however_often_its_target_is_rewritten(family):
    net, calls = spoken(family), {}
    for name, module in net.named_modules():
        if re.fullmatch(r"encoder\.model|cross\.\d\.(key|value|query)", name):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        for _ in range(4):
            reading.hidden(target(net.decoder), attend=GIVEN)
    layers = range(len(net.cross))
    once = {"encoder.model": 1} | {f"cross.{i}.{kind}": 1 for i in layers for kind in ("key", "value")}
    assert calls == once | {f"cross.{i}.query": 4 for i in layers}


# what cross-attention computes, and where


@pytest.mark.parametrize("grad", [True, False])  # two kernels: plain products in training, torch's own otherwise
def test_cross_attention_is_torchs_own(grad):
    ours = shake(CrossAttention(32, 24, 4).double())
    theirs = nn.MultiheadAttention(32, 4, bias=False, kdim=24, vdim=24, batch_first=True).double().eval()
    pairs = {"q_proj_weight": ours.query, "k_proj_weight": ours.key, "v_proj_weight": ours.value}
    with torch.no_grad():
        for name, layer in {**pairs, "out_proj.weight": ours.output}.items():
            theirs.get_parameter(name).copy_(layer.weight)
    generator = torch.Generator().manual_seed(0)
    hidden, source = (torch.randn(3, n, d, generator=generator).double() for n, d in ((5, 32), (9, 24)))
    with torch.set_grad_enabled(grad):
        found = ours(hidden, *ours.remember(source), SEEN[:, None, None])
    assert found.requires_grad == grad
    added, _ = theirs(ours.norm(hidden), source, source, key_padding_mask=~SEEN)
    assert gap(found.detach(), (hidden + added).detach()) < 1e-12


def test_places_come_before_the_first_layer_and_cross_attention_after_each():
    """BERT run layer by layer, without hooks of ours."""
    net = spoken("bert")
    model, tokens = make("bert").model, text(3, 12)
    with torch.no_grad():
        memory = net.read(SOURCE, SEEN).memory
        hidden = model.bert.embeddings(tokens)
        mask = diagonal(net.diagonal.weight, SEEN, 12, None)
        hidden = hidden + net.from_start.weight[:12] + net.from_end.weight[:12].flip(0)
        for number, layer in enumerate(model.bert.encoder.layer):
            hidden = layer(hidden)
            hidden = net.cross[number](hidden, memory.keys[number], memory.values[number], mask)
        encoded = model.bert(SOURCE, attention_mask=SEEN.long())[0]
        assert gap(net.decode(tokens, memory), hidden) < 1e-5
        for row, length in enumerate(SEEN.sum(1).tolist()):
            assert gap(memory.summary[row], encoded[row, :length].mean(0)) < 1e-5


@pytest.mark.parametrize("family", MASKED)
def test_every_layer_and_both_tables_are_heard(family):
    net = clone(make(family), longest_target=LONGEST)
    silent = logits(net)
    for part in [*net.cross, net.from_start, net.from_end]:
        before = copy.deepcopy(part.state_dict())
        shake(part, 2)
        assert gap(logits(net)[GIVEN], silent[GIVEN]) > 1e-5
        part.load_state_dict(before)
    assert gap(logits(net), silent) == 0


def test_a_mask_of_who_sees_whom_reaches_the_decoder():
    net, tokens = spoken("modernbert"), text(3, 12)
    before = torch.ones(1, 12, 12, dtype=torch.bool).tril()
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] - TEXT + 1) % (V - 1 - TEXT) + TEXT
    moved = (logits(net, changed, None, sees=before) - logits(net, tokens, None, sees=before)).abs().amax(2)
    assert (moved[:, 7:] > 1e-5).all()
    assert not moved[:, :7].any()
    with pytest.raises(BadInput, match="cannot be told"):
        logits(spoken("bert"), tokens, None, sees=before)


# hooks


@pytest.mark.parametrize("family", MAKE)
def test_outside_of_decode_the_decoder_is_a_plain_net(family):
    net, plain = spoken(family), make(family)
    tokens = target(plain)
    logits(net)
    assert gap(tiny.logits(net.decoder, tokens, attend=GIVEN), tiny.logits(plain, tokens, attend=GIVEN)) == 0


def test_two_nets_and_a_pass_within_a_pass_do_not_disturb_each_other():
    one, two = spoken("bert"), spoken("bert", seed=1)
    shake(two.cross, 9)
    tokens, found = text(3, 12), []
    with torch.no_grad():
        readings = [one.read(SOURCE, SEEN), two.read(SOURCE, SEEN), one.read(SOURCE.flip(1), SEEN)]
        expected = [reading.hidden(tokens) for reading in readings]
        assert gap(expected[0], expected[1]) > 1e-3
        assert gap(expected[0], expected[2]) > 1e-3

        def interrupt(*_):
            hook.remove()
            found.extend(reading.hidden(tokens) for reading in readings[1:])

        hook = one.decoder.model.bert.encoder.layer[0].register_forward_hook(interrupt)
        again = readings[0].hidden(tokens)
    assert [gap(a, b) for a, b in zip([again, *found], expected)] == [0, 0, 0]


def test_a_pass_that_fails_leaves_nothing_behind():
    net, tokens = spoken("bert"), text(3, 12)
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        with pytest.raises(IndexError):
            reading.hidden(torch.full_like(tokens, 10 * V))
        assert gap(net.decoder.hidden(tokens), make("bert").hidden(tokens)) == 0


@pytest.mark.parametrize("family", ["distilbert", "remask-modernbert"])
def test_a_deep_copy_is_a_net_of_its_own(family):
    net = spoken(family)
    expected = logits(net)
    twin = copy.deepcopy(net)
    assert gap(logits(twin), expected) == 0
    shake(twin.cross, 11)
    assert gap(logits(twin)[GIVEN], expected[GIVEN]) > 1e-3
    assert gap(logits(net), expected) == 0


# arms


@pytest.mark.parametrize("arm", ARMS)
def test_each_half_begins_as_the_model_or_afresh(arm):
    net = make("roberta")
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    torchs, pythons = torch.get_rng_state(), random.getstate()
    encoder, decoder = ARMS[arm]
    made, again = (clone(net, encoder=encoder, decoder=decoder, longest_target=LONGEST, seed=3) for _ in range(2))
    other = clone(net, encoder=encoder, decoder=decoder, longest_target=LONGEST, seed=4)
    assert torch.equal(torch.get_rng_state(), torchs)
    assert random.getstate() == pythons
    assert all(torch.equal(before[k], v) for k, v in net.model.state_dict().items())
    for half, cloned, theirs in ((made.encoder, encoder, net.model.roberta), (made.decoder, decoder, net.model)):
        ours, original = half.model.state_dict(), theirs.state_dict()
        assert ours.keys() == original.keys()
        assert all(torch.equal(ours[k], original[k]) for k in ours if ours[k].is_floating_point()) == cloned
    state = made.state_dict()
    assert all(torch.equal(state[k], v) for k, v in again.state_dict().items())
    assert not torch.equal(state["cross.0.query.weight"], other.state_dict()["cross.0.query.weight"])
    both = clone(net, longest_target=LONGEST, seed=3).state_dict()
    assert all(torch.equal(state[k], both[k]) for k in state if k.startswith("cross"))
    halves = [made.encoder.model.get_input_embeddings(), made.decoder.model.get_input_embeddings()]
    assert torch.equal(halves[0].weight, halves[1].weight) == (arm == "both")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "deberta-legacy", "modernbert-decoder"])
def test_embeddings_are_tied_if_asked_and_only_then(family):
    net = make(family)
    tables = [
        (made.encoder.model.get_input_embeddings().weight, made.decoder.model.get_input_embeddings().weight, made.head)
        for made in (clone(net, longest_target=9, tied=tied) for tied in (False, True))
    ]
    (reads, writes, head), (read, written, tied_head) = tables
    assert reads is not writes
    assert reads.data_ptr() != writes.data_ptr()
    assert torch.equal(reads, writes)
    assert read is written
    within = net.head.weight is net.model.get_input_embeddings().weight
    assert (head.weight is writes) == (tied_head.weight is read) == within
    made = clone(net, longest_target=LONGEST, tied=True)
    assert gap(logits(made)[GIVEN], tiny.logits(net, target(net), attend=GIVEN)[GIVEN]) < 1e-6


@pytest.mark.parametrize("arm", ARMS)
def test_a_tied_table_is_the_trained_one(arm):
    net, (encoder, decoder) = make("bert"), ARMS[arm]
    made = clone(net, encoder=encoder, decoder=decoder, longest_target=9, tied=True)
    same = torch.equal(made.head.weight, net.head.weight)
    assert same == (arm != "none")


def test_half_precision_and_training_come_along():
    net = make("bert")
    made = clone(type(net)(copy.deepcopy(net.model).to(torch.bfloat16).train()), longest_target=9)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert all(module.training for module in made.modules())
    assert not any(module.training for module in clone(net, longest_target=9).modules())


def test_what_cannot_be_is_refused():
    net = make("bert")
    for longest in (0, net.length):
        with pytest.raises(BadInput, match=r"type --length 40 or less, and with a --length-factor"):
            clone(net, longest_target=longest)
    assert clone(net, longest_target=net.length - 1).length == net.length
    with pytest.raises(BadInput, match="cannot be tied"):
        clone(net, writer=make("electra"), longest_target=9, tied=True)


# training


@pytest.mark.parametrize("family", MASKED)
def test_every_parameter_learns_once_cross_attention_speaks(family):
    net = spoken(family)
    tokens = target(net.decoder)

    def backward():
        net.zero_grad()
        reading = net.read(SOURCE, SEEN)
        loss = net.nll(reading.hidden(tokens, attend=GIVEN)[GIVEN], text(3, 12)[GIVEN]).sum()
        loss.backward()
        told = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
        (-net.read(SOURCE, SEEN).length_log_prob()[:, 5].sum()).backward()
        return told, {name for name, p in net.named_parameters() if p.grad is not None}

    told, touched = backward()
    assert any(name.startswith("encoder") for name in told)
    assert touched == {name for name, _ in net.named_parameters()}  # a distributed run would wait for any other
    for cross in net.cross:
        nn.init.zeros_(cross.output.weight)
    told, _ = backward()
    assert not any(name.startswith("encoder") for name in told)
    assert {f"cross.{i}.output.weight" for i in range(len(net.cross))} <= told


def test_small_tables_go_to_adamw_and_projections_to_muon():
    net = clone(make("remask-modernbert"), longest_target=9)
    blocks, tables, _ = ({id(p) for p in part} for part in split(net))
    small = [net.from_start.weight, net.from_end.weight, net.diagonal.weight, net.length_head.table.weight]
    assert {id(p) for p in small} <= tables
    assert {id(p) for p in net.cross.parameters() if p.ndim == 2} <= blocks


def test_a_sampler_writes_targets_row_by_row_as_in_a_batch():
    net = spoken("remask-modernbert").double()
    with torch.no_grad():
        law = NetConditional(net.read(SOURCE, SEEN), ALPHABET, attend=GIVEN)
    last = GIVEN.sum(1) - 1
    frozen = ~GIVEN | (torch.arange(12) == last[:, None])
    tokens = torch.where(frozen, torch.where(GIVEN, ALPHABET.end, ALPHABET.pad), MASK)
    canvas, stream = Canvas(tokens, frozen), Stream.of(0, 3)
    written = sample(MaskPredict(4), law, canvas, stream).tokens
    assert not (written == MASK).any()
    assert torch.equal(written[frozen], tokens[frozen])
    for row in range(3):
        one = torch.tensor([row])
        alone = sample(MaskPredict(4), law.rows(one), Canvas(tokens[one], frozen[one]), stream.rows(one)).tokens
        assert torch.equal(alone[0], written[row])
    other = NetConditional(net.read(SOURCE.roll(1, 0), SEEN), ALPHABET, attend=GIVEN)
    assert not torch.equal(sample(MaskPredict(4), other, canvas, stream).tokens, written)
