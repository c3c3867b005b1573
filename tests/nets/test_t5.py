"""T5 and mT5: left to right they are transformers' own, in parallel they are what can be proved of them."""

import json
import random

import pytest
import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from remask.nets.relative import bucket
from remask.nets.t5 import ParallelT5, T5Net, _padding, parallel
from remask.train.checkpoint import quiet
from tests.nets.tiny import gap, padding, shake, text

V = 61
_SHAPE = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 24,
}


def untied(model):
    """With an output matrix of its own, as the published mT5 and T5 v1.1 have."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


MAKE = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(**_SHAPE)),
    "t5-unscaled": lambda: T5ForConditionalGeneration(T5Config(**_SHAPE, tie_word_embeddings=False)),
    "t5-v1.1": lambda: untied(
        T5ForConditionalGeneration(T5Config(**_SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    ),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**_SHAPE)),
    "mt5-relu-untied": lambda: untied(MT5ForConditionalGeneration(MT5Config(**_SHAPE, feed_forward_proj="relu"))),
}
SOURCE, SEEN = text(3, 11, seed=3), padding([11, 5, 8], 11)
TARGET, GIVEN = text(3, 9, seed=4), padding([9, 6, 3], 9)
NAMES = ["length_token", "from_start.weight", "from_end.weight", "diagonal.weight", "length_head.table.weight"]


def make(name, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return shake(MAKE[name](), seed, 0.2)


def spoken(name, seed=7, length_kind="both"):
    """A parallel net in which all that is new has something to say."""
    model = parallel(make(name), 12, length_kind)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for new in map(model.get_parameter, NAMES):
            new.add_(torch.randn(new.shape, generator=generator))
    return T5Net(model)


@torch.no_grad()
def logits(net, source=SOURCE, seen=SEEN, target=TARGET, given=GIVEN, **rest):
    """Logits at every cell, [B, L, V]."""
    hidden = net.read(source, seen).hidden(target, attend=given, **rest)
    return net.logits(hidden.flatten(0, 1)).view(*target.shape, -1)


# left to right


@pytest.mark.parametrize("name", MAKE)
def test_a_causal_net_says_what_transformers_says(name):
    model = make(name)
    net = T5Net(model)
    assert net.causal
    assert net.start == 0
    ask = {"input_ids": SOURCE, "attention_mask": SEEN.long(), "decoder_input_ids": TARGET}
    with torch.no_grad():
        whole = model(**ask).logits
        padded = model(**ask, decoder_attention_mask=GIVEN.long()).logits
        unpadded = model(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    assert whole.std() > 0.1
    assert gap(logits(net, given=None), whole) < 1e-5
    assert gap(logits(net)[GIVEN], padded[GIVEN]) < 1e-5
    assert gap(logits(net, seen=torch.ones_like(SEEN), given=None), unpadded) < 1e-5
    assert gap(unpadded, whole) > 1e-3  # padding that is looked at shows


def test_the_head_is_scaled_where_theirs_is():
    """T5 with one table for all divides by the root of the width; forgetting it is the classic mistake."""
    assert T5Net(make("t5")).head.transform(torch.ones(1, 32))[0, 0] == pytest.approx(32**-0.5)
    assert T5Net(make("t5-v1.1")).head.transform(torch.ones(1, 32))[0, 0] == 1
    assert T5Net(make("mt5")).head.transform(torch.ones(1, 32))[0, 0] == 1


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 4], [9]])
@pytest.mark.parametrize("name", ["t5", "mt5-relu-untied"])
def test_step_by_step_is_all_at_once(name, pieces):
    net, past, found = T5Net(make(name)), None, []
    with torch.no_grad():
        memory = net.read(SOURCE, SEEN).memory
        whole = net.decode(TARGET, memory)
        for piece in TARGET.split(pieces, 1):
            hidden, past = net.step(piece, memory, past)
            found.append(hidden)
    assert gap(torch.cat(found, 1), whole) < 1e-5
    assert past.keys[0].shape == (3, 4, 9, 6)


def test_rows_of_the_past_and_of_the_memory_go_together():
    net, index = T5Net(make("t5")), torch.tensor([2, 0, 0])
    with torch.no_grad():
        memory = net.read(SOURCE, SEEN).memory
        _, past = net.step(TARGET[:, :4], memory, None)
        chosen, _ = net.step(TARGET[index, 4:], memory.rows(index), past.rows(index))
        whole = net.decode(TARGET, memory)
        crossed, _ = net.step(TARGET[index, 4:], memory, past.rows(index))
    assert gap(chosen, whole[index, 4:]) < 1e-5
    assert gap(crossed, whole[index, 4:]) > 1e-3


# in parallel


@pytest.mark.parametrize("name", MAKE)
def test_every_weight_goes_over_and_what_is_new_says_nothing(name):
    model = make(name)
    made = parallel(model, 12)
    ours, theirs = made.state_dict(), model.state_dict()
    bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert theirs.keys() < ours.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if key != bias)
    assert (made.lm_head.weight is made.shared.weight) == (model.lm_head.weight is model.shared.weight)
    assert {key.split(".")[0] for key in ours.keys() - theirs.keys()} == {k.split(".")[0] for k in NAMES}
    assert not any(made.get_parameter(new).any() for new in NAMES)
    net = T5Net(made)
    assert (net.causal, net.family, net.length) == (False, "remask-t5", 13)
    with torch.no_grad():
        law = net.read(SOURCE, SEEN).length_log_prob()
    assert (law.argmax(1) + 1).tolist() == [10, 4, 7]  # as long as the source without its end token
    before = logits(net)
    assert gap(logits(spoken(name))[GIVEN], before[GIVEN]) > 1e-3


@pytest.mark.parametrize("name", MAKE)
def test_under_a_causal_mask_the_parallel_decoder_is_the_causal_one(name):
    """The same memory, cells that see what lies before them, and distances that the buckets tell apart."""
    model = make(name)
    causal, both, short = T5Net(model), T5Net(parallel(model, 12)), TARGET[:, :5]
    before = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    with torch.no_grad():
        memory = causal.read(SOURCE, SEEN).memory
        expected = causal.decode(short, memory)
        assert gap(both.decode(short, memory, sees=before), expected) < 1e-5
        assert gap(both.decode(short[:, :1], memory), expected[:, :1]) < 1e-5
        open_eyed = both.decode(short, memory)
        assert gap(both.logits(expected[0]), causal.logits(expected[0])) == 0
    assert gap(open_eyed[:, :-1], expected[:, :-1]) > 1e-3


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_cells_see_both_sides_and_causal_ones_do_not(name):
    changed = TARGET.clone()
    changed[:, 2] = (changed[:, 2] + 1) % (V - 4) + 4
    open_eyed, causal = (
        (logits(net, target=changed) - logits(net))[0].abs().amax(1) for net in (spoken(name), T5Net(make(name)))
    )
    assert (open_eyed > 1e-3).all()
    assert (causal[2:] > 1e-4).all()
    assert not causal[:2].any()


def test_the_bias_of_near_cells_is_the_same_on_both_sides():
    model = make("t5")
    made = parallel(model)
    ours, theirs = (T5Net(m)._bias(m.decoder, 4, 4, two_ways=w)[0] for m, w in ((made, True), (model, False)))
    assert torch.equal(ours, ours.transpose(1, 2))
    assert torch.equal(ours.tril(), theirs.tril())
    assert bucket(torch.tensor(-4), 16, 24, True) == 4  # the first that is no longer exact


@pytest.mark.parametrize("name", MAKE)
def test_the_length_token_reads_the_source_and_stays_out_of_cross_attention(name):
    net = spoken(name)
    model = net.model
    with torch.no_grad():
        embedded = model.shared(SOURCE)
        told = torch.cat([model.length_token.expand(3, 1, -1), embedded], 1)
        seen = torch.cat([torch.ones(3, 1, dtype=torch.bool), SEEN], 1)
        encoded = model.encoder(inputs_embeds=told, attention_mask=seen.long()).last_hidden_state
        memory = net.read(SOURCE, SEEN).memory
        key = model.decoder.block[1].layer[1].EncDecAttention.k(encoded[:, 1:])
    assert gap(memory.summary, encoded[:, 0]) < 1e-5
    assert memory.keys[1].shape == (3, 4, 11, 6)
    ours = memory.keys[1].transpose(1, 2).flatten(2)
    assert gap(ours[SEEN], key[SEEN]) < 1e-5
    assert memory.lengths.tolist() == [10, 4, 7]


@pytest.mark.parametrize("parallel_too", [True, False])
@pytest.mark.parametrize("name", ["t5", "mt5-relu-untied"])
def test_padding_changes_nothing(name, parallel_too):
    net = spoken(name) if parallel_too else T5Net(make(name))
    batched = logits(net)
    with torch.no_grad():
        lengths = net.read(SOURCE, SEEN).length_log_prob() if parallel_too else None
    for row, (source, target) in enumerate(zip(SEEN.sum(1).tolist(), GIVEN.sum(1).tolist())):
        one = slice(row, row + 1)
        alone = (SOURCE[one, :source], SEEN[one, :source], TARGET[one, :target])
        assert gap(logits(net, *alone, GIVEN[one, :target]), batched[one, :target]) < 1e-5
        assert gap(logits(net, *alone, None), batched[one, :target]) < 1e-5
        if lengths is not None:
            with torch.no_grad():
                assert gap(net.read(*alone[:2]).length_log_prob(), lengths[one]) < 1e-5
    blank = torch.where(GIVEN, TARGET, 0)  # whatever stands in padding
    assert gap(logits(net, torch.where(SEEN, SOURCE, 0), target=blank)[GIVEN], batched[GIVEN]) < 1e-5
    assert batched.isfinite().all()


def test_places_are_counted_from_both_ends_of_each_row():
    net = T5Net(parallel(make("t5"), 12))
    plain = logits(net)
    with torch.no_grad():
        net.model.from_end.weight[5].fill_(1.0)
    last = GIVEN.sum(1) - 1
    with torch.no_grad():
        embedded = net.model.shared(TARGET)
        embedded[0, last[0] - 5] += 1
        embedded[1, last[1] - 5] += 1
        memory = net.read(SOURCE, SEEN).memory
        bias = net._bias(net.model.decoder, 9, 9, two_ways=True)
        bias = bias.masked_fill(~(GIVEN[:, None] | torch.eye(9, dtype=torch.bool))[:, None], -torch.inf)
        expected = net.logits(net._run(embedded, memory, bias, _padding(SEEN), None)[0].flatten(0, 1)).view(3, 9, -1)
    assert gap(logits(net)[GIVEN], expected[GIVEN]) < 1e-5
    assert gap(logits(net)[:2], plain[:2]) > 1e-3
    assert gap(logits(net)[2, :3], plain[2, :3]) == 0  # too short to have such a place


def test_rows_of_a_reading_are_their_sources():
    net, index = spoken("t5"), torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        chosen = reading.rows(index)
        assert (
            gap(chosen.hidden(TARGET[index], attend=GIVEN[index]), reading.hidden(TARGET, attend=GIVEN)[index]) < 1e-5
        )
        assert gap(chosen.length_log_prob(), reading.length_log_prob()[index]) < 1e-5
        assert gap(reading.hidden(TARGET[[1, 0, 2]]), reading.hidden(TARGET)[[1, 0, 2]]) > 1e-3


@pytest.mark.parametrize("kind", ["both", "affine"])
@pytest.mark.parametrize("name", MAKE)
def test_saving_and_opening_keep_every_bit(name, kind, tmp_path):
    net = T5Net(parallel(make(name), 12, kind))
    shake(net.model, 5, 0.1)
    assert net.save(tmp_path) == [tmp_path]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["longest_target"], config["length_kind"]) == ("remask-t5", 12, kind)
    with quiet():
        again = T5Net(ParallelT5.from_pretrained(tmp_path).eval())
    assert gap(logits(again), logits(net)) == 0
    with torch.no_grad():
        laws = [n.read(SOURCE, SEEN).length_log_prob() for n in (again, net)]
    assert gap(*laws) == 0
    expected = logits(net)
    shake(net.model, 6, 0.1)
    net.restore(tmp_path)
    assert gap(logits(net), expected) == 0


def test_a_causal_net_is_saved_as_a_plain_t5(tmp_path):
    net = T5Net(make("t5-v1.1"))
    net.save(tmp_path)
    with quiet():
        again = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert gap(logits(T5Net(again)), logits(net)) == 0


def test_turning_parallel_draws_nothing_and_leaves_the_model_alone():
    model = make("mt5")
    before, torchs, pythons = (
        {k: v.clone() for k, v in model.state_dict().items()},
        torch.get_rng_state(),
        random.getstate(),
    )
    made = parallel(model)
    shake(made, 4)
    assert torch.equal(torch.get_rng_state(), torchs)
    assert random.getstate() == pythons
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_every_parameter_of_a_parallel_net_learns():
    net = spoken("t5").train()
    reading = net.read(SOURCE, SEEN)
    loss = net.nll(reading.hidden(TARGET, attend=GIVEN)[GIVEN], TARGET[GIVEN]).sum()
    (loss - reading.length_log_prob()[:, 5].sum()).backward()
    still = [name for name, p in net.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
