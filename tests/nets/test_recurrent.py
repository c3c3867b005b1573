"""A model that reads in windows: the slot, what is carried, directories and refusals."""

from __future__ import annotations

import pytest
import torch
import transformers

from remask.core.errors import BadCheckpoint, BadInput
from remask.nets.causal import CausalNet
from remask.nets.hf import HuggingFaceNet
from remask.nets.recurrent import RecurrentNet, cuts, open_recurrent
from tests.nets import tiny
from tests.nets.recurring import WIDTH, V, every_model, gpt2, model_of, net_of, rows, total

# ---- the slot --------------------------------------------------------------------------------------------------------


@every_model
def test_a_window_without_a_slot_is_the_model_to_the_last_bit(family):
    """The first window of a document, alone or beside rows that do see their slot."""
    model = model_of(family)
    tokens = torch.randint(V, (3, 4), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(input_ids=tokens).logits
    net = net_of(family)
    net.model.load_state_dict(model.state_dict())
    zeros, fresh = torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        alone, carried = net.read_window(tokens, zeros, fresh)
        partly = carried._replace(known=torch.tensor([True, False, True]))
        other = carried._replace(document=torch.tensor([7, 7, 0]))
        assert torch.equal(net.logits(alone), wanted)
        for before, silent in ((partly, [1]), (other, [0, 1])):
            hidden = net.read_window(tokens, zeros, fresh, before)[0]
            same = [row for row in range(3) if torch.equal(net.logits(hidden)[row], wanted[row])]
            assert same == silent
        assert torch.equal(CausalNet(model, 0, None).forward(tokens, ()).logits, wanted)


@every_model
def test_all_cells_of_a_document_see_the_slot_and_nothing_else_of_the_past(family):
    """Also past the reach of a sliding window, where a cached key would be out of sight."""
    net = net_of(family, window=12)
    tokens = rows(1, 12)
    zeros, fresh = torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        carried = net.read_window(rows(1, 12, 1), zeros, fresh)[1]
        plain = net.read_window(tokens, zeros, fresh)[0]
        seen = net.read_window(tokens, zeros, fresh, carried)[0]
        moved = net.read_window(tokens, zeros, fresh, carried._replace(z=carried.z + 0.5))[0]
    assert ((seen - plain).abs().amax(2) > 1e-6).all() and ((moved - seen).abs().amax(2) > 1e-6).all()
    with torch.no_grad():
        changed = tokens.clone()
        changed[0, 7] = (changed[0, 7] + 1) % V
        again = net.read_window(changed, zeros, fresh, carried)[0]
    assert torch.allclose(again[:, :7], seen[:, :7], atol=1e-12), "the slot must not undo causality"


def test_a_slot_is_a_key_and_a_value_more():
    """By hand, in one layer: softmax over the slot and the cells up to the query's."""
    net = net_of("gpt2", layers_in=[1])
    tokens = rows(2, 4)
    zeros, fresh = torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool)
    block, found = net.model.transformer.h[1].attn, {}
    block.c_proj.register_forward_pre_hook(lambda module, given: found.__setitem__("mixed", given[0]))
    block.c_attn.register_forward_hook(lambda module, given, output: found.__setitem__("qkv", output))
    with torch.no_grad():
        carried = net.read_window(rows(2, 4, 1), zeros, fresh)[1]
        net.read_window(tokens, zeros, fresh, carried)
    query, key, value = (x.view(2, 4, 4, 8).transpose(1, 2) for x in found["qkv"].split(32, 2))
    slot = net.adapter.slots(carried.z)[1]
    scores = torch.cat([query @ slot.key.mT, query @ key.mT], 3) / 8**0.5
    hidden = torch.ones(4, 5, dtype=torch.bool).tril(1)
    weights = scores.masked_fill(~hidden, -torch.inf).softmax(3)
    wanted = (weights @ torch.cat([slot.value, value], 2)).transpose(1, 2).flatten(2)
    assert torch.allclose(found["mixed"], wanted, atol=1e-12)


@every_model
def test_a_fresh_slot_is_quiet_and_is_only_where_it_is_asked_for(family):
    net = RecurrentNet(model_of(family), 4, layers_in=[1])
    assert net.layers_in == (1,) and list(net.adapter.keys) == ["1"]
    assert all(not layer.weight.any() for layer in net.adapter.values.values())
    assert RecurrentNet(model_of(family), 4).layers_in == tuple(range(len(RecurrentNet(model_of(family), 4).layers_in)))


# ---- what is carried -------------------------------------------------------------------------------------------------


@every_model
def test_windows_by_hand(family):
    """Hidden states of a row are those of its windows, each with z of the mean state of the one before."""
    net, pooled, states = net_of(family, layer_out=2), [], []
    tokens = rows(2, 10)
    net.adapter.write[0].register_forward_pre_hook(lambda module, given: pooled.append(given[0]))
    plain = net.model.base_model.forward
    net.model.base_model.forward = lambda **given: states.append(plain(**given)) or states[-1]
    first, second, third = net.adapter.write
    gelu = torch.nn.functional.gelu
    with torch.no_grad():
        whole, carried = net.hidden(tokens), None
        assert [len(pooled), len(states)] == [3, 3]
        for number, begin in enumerate((0, 4, 8)):  # the last window is short
            part = tokens[:, begin : begin + 4]
            zeros, fresh = torch.zeros_like(part), torch.ones_like(part, dtype=torch.bool)
            hidden, after = net.read_window(part, zeros, fresh, carried)
            assert torch.equal(whole[:, begin : begin + 4], hidden)
            mean = states[number].hidden_states[2].mean(1)
            assert torch.allclose(pooled[number], mean, atol=1e-12)
            assert torch.allclose(after.z, third(gelu(second(gelu(first(mean))))), atol=1e-12)
            carried = after


def test_positions_start_anew_in_every_window():
    net, seen = net_of("gpt2"), []
    net.model.transformer.wpe.register_forward_pre_hook(lambda module, given: seen.append(given[0].tolist()))
    with torch.no_grad():
        net.hidden(rows(1, 10), documents=torch.tensor([[0] * 6 + [1] * 4]))
        assert seen == [[[0, 1, 2, 3]], [[0, 1, 0, 1]], [[0, 1]]]
        assert net.hidden(rows(1, 100)).shape == (1, 100, WIDTH), "16 positions are enough for any length"


@every_model
def test_batches_equal_singles_whatever_documents_and_padding_they_hold(family):
    """Rows of three lengths and several documents, padded, against each document read by itself."""
    net = net_of(family)
    pieces = [[10], [3, 6], [1, 1, 5, 4]]  # lengths of the documents of each row
    longest = max(map(sum, pieces))
    tokens, documents = rows(3, longest), torch.zeros(3, longest, dtype=torch.int64)
    real = torch.zeros(3, longest, dtype=torch.bool)
    for row, lengths in enumerate(pieces):
        number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        documents[row, : len(number)] = number
        documents[row, len(number) :] = number[-1]
        real[row, : len(number)] = True
    with torch.no_grad():
        together = net.hidden(tokens, documents=documents, attend=real)
        changed = torch.where(real, tokens, (tokens + 5) % V)
        assert torch.allclose(net.hidden(changed, documents=documents, attend=real)[real], together[real], atol=1e-12)
        for row, lengths in enumerate(pieces):
            alone = net.hidden(
                tokens[row : row + 1, : sum(lengths)], documents=documents[row : row + 1, : sum(lengths)]
            )
            assert torch.allclose(together[row : row + 1, : sum(lengths)], alone, atol=1e-12)


@every_model
def test_a_new_document_knows_nothing_of_the_one_before(family):
    net = net_of(family)
    tokens, documents = rows(1, 12), torch.tensor([[0] * 6 + [1] * 6])
    other = tokens.clone()
    other[:, :6] = (other[:, :6] + 1) % V
    with torch.no_grad():
        ours, theirs = (net.hidden(x, documents=documents) for x in (tokens, other))
        leaky = [net.hidden(x) for x in (tokens, other)]
    assert torch.allclose(ours[:, 6:], theirs[:, 6:], atol=1e-12)
    assert ((ours - theirs).abs().amax(2)[:, :6] > 1e-9).all()
    assert ((leaky[0] - leaky[1]).abs().amax(2)[:, 6:] > 1e-9).all(), "the check can fail"


def test_padding_is_neither_pooled_nor_scored():
    net = net_of()
    tokens = rows(2, 9)
    real = torch.arange(9) < torch.tensor([[9], [6]])
    loss = float(total(net, tokens, real=real).detach())
    inputs = tokens.roll(1, 1)
    alone = [
        net.total_nll_of_rows(
            inputs[row : row + 1, :n],
            tokens[row : row + 1, :n],
            torch.ones(1, n),
            torch.zeros(1, n, dtype=torch.int64),
        )
        for row, n in ((0, 9), (1, 6))
    ]
    assert loss == pytest.approx(float(sum(alone).detach()), rel=1e-12)
    assert float(total(net, tokens).detach()) != pytest.approx(loss, rel=1e-3)


def test_cells_that_are_read_again_are_neither_pooled_nor_scored():
    """Every cell is scored once, in a window that also holds the `reread` before it; z is of the fresh ones."""
    net = net_of(window=6, reread=2)
    tokens = rows(2, 15)
    assert [tuple(cut) for cut in cuts(15, 6, 2)] == [(0, 0, 6), (4, 6, 10), (8, 10, 14), (12, 14, 15)]
    with torch.no_grad():
        whole, carried, parts = net.hidden(tokens), None, []
        for first, fresh, last in cuts(15, 6, 2):
            part = tokens[:, first:last]
            cells = torch.zeros_like(part, dtype=torch.bool)
            cells[:, fresh - first :] = True
            states, carried = net.read_window(part, torch.zeros_like(part), cells, carried)
            parts.append(states[:, fresh - first :])
        assert torch.equal(torch.cat(parts, 1), whole)
        nll = net.nll(whole[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).sum()
        scored = net.total_nll_of_rows(
            tokens[:, :-1], tokens[:, 1:], torch.ones(2, 14), torch.zeros(2, 14, dtype=torch.int64)
        )
    assert float(scored) == pytest.approx(float(nll), rel=1e-9)


@every_model
def test_windows_of_one_cell_are_a_recurrent_net_of_old(family):
    net = net_of(family, window=1)
    tokens = rows(2, 6)
    with torch.no_grad():
        hidden = net.hidden(tokens)
        other = tokens.clone()
        other[:, 0] = (other[:, 0] + 1) % V
        again = net.hidden(other)
    assert ((hidden - again).abs().amax(2) > 0).all(), "the first cell is heard of to the end"
    loss = total(net, tokens)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


# ---- directories and refusals ----------------------------------------------------------------------------------------


@every_model
def test_saved_and_opened_again(family, tmp_path):
    net = net_of(family, layers_in=[0, 2], layer_out=2, reread=1).float()
    written = net.save(tmp_path / "run")
    assert written == [tmp_path / "run", tmp_path / "run" / "base"]
    again = open_recurrent(tmp_path / "run")
    tokens = rows(2, 11)
    with torch.no_grad():
        assert torch.equal(again.hidden(tokens), net.hidden(tokens))
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "base")
        assert torch.equal(plain(input_ids=tokens[:, :4]).logits, net.logits(net.hidden(tokens[:, :4])))
    other = RecurrentNet(model_of(family, 3).float(), 4, 1, [0, 2], 2)
    other.restore(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(other.eval().hidden(tokens), net.hidden(tokens))


def test_damaged_directories_are_refused(tmp_path):
    net = net_of("gpt2").float()
    net.save(tmp_path / "run")
    with pytest.raises(BadCheckpoint, match="no 'remask-recurrent' one"):
        open_recurrent(tmp_path / "run" / "base")
    config = (tmp_path / "run" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "run" / "config.json").write_text(config.replace('"window": 4', '"window": 99'), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="beyond the 16 cells"):
        open_recurrent(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(config, encoding="utf-8")
    (tmp_path / "run" / "base" / "model.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="safetensors"):
        open_recurrent(tmp_path / "run")


def test_what_does_not_fit_is_refused():
    for window, reread in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(BadInput, match="--window came as"):
            RecurrentNet(gpt2(), window, reread)
    with pytest.raises(BadInput, match="beyond the 16"):
        RecurrentNet(gpt2(), 17)
    with pytest.raises(BadInput, match="--layer-in"):
        RecurrentNet(gpt2(), 4, layers_in=[3])
    with pytest.raises(BadInput, match="--layer-out"):
        RecurrentNet(gpt2(), 4, layer_out=4)
    net = RecurrentNet(gpt2(), 4)
    with pytest.raises(BadInput, match="windows itself"):
        net.hidden(torch.zeros(1, 4, dtype=torch.int64), positions=torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny.make("modernbert").model,  # sees to the right
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        lambda: transformers.BloomForCausalLM(  # attention of its own
            transformers.BloomConfig(vocab_size=V, hidden_size=16, n_layer=1, n_head=2)
        ),
        lambda: transformers.MambaForCausalLM(  # none at all
            transformers.MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1)
        ),
    ],
    ids=["masked", "encoder-decoder", "bloom", "mamba"],
)
def test_models_that_cannot_have_a_slot_are_refused_and_left_alone(make):
    model = make()
    before = model.config._attn_implementation
    with pytest.raises(BadCheckpoint, match="cannot be reached"):
        RecurrentNet(model, 4)
    assert model.config._attn_implementation == before


def test_a_net_that_is_wrapped_already_gives_its_model():
    net = HuggingFaceNet(tiny.make("modernbert-decoder").model)
    made = RecurrentNet(net.model, 4)
    assert made.vocabulary == net.vocabulary and made.causal
