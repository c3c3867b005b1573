"""Nets of blocks: what a cell may see, two readings in one pass, states that are kept, and what becomes one."""

import copy
import gc
import weakref
from functools import cache

import pytest
import torch
import transformers

from remask.core.errors import BadInput
from remask.nets import blockwise
from remask.nets.blockwise import BlockConfig, BlockForMaskedLM, BlockNet, States, in_blocks
from remask.nets.crossed import clone
from remask.nets.hf import HuggingFaceNet
from remask.nets.masks import same_document
from tests.nets.tiny import ALPHABET, MASK, V, make, masked, padding, shake, text

S, L = 4, 14  # the last block has 2 cells


def net(block=S, kind="remask-modernbert"):
    """In float64, shaken."""
    return in_blocks(copy.deepcopy(masked_net(kind)), block).double()


@cache
def masked_net(kind="remask-modernbert"):
    """All layers global."""
    one = copy.deepcopy(make(kind))
    if kind == "modernbert":
        config = one.model.config
        config.layer_types = ["full_attention"] * config.num_hidden_layers
        one = HuggingFaceNet(shake(transformers.ModernBertForMaskedLM(config)))
    return one


@torch.no_grad()
def states(one, tokens, **rest):
    return one.hidden(tokens, **rest)


@pytest.mark.parametrize("kind", ["remask-modernbert", "modernbert"])
def test_a_cell_sees_its_block_and_those_before_it(kind):
    """Changing a token changes what its own block and later ones are, and no block before."""
    one, tokens = net(kind=kind), text(1, L)
    before = states(one, tokens)
    for cell in range(L):
        other = tokens.clone()
        other[0, cell] = (other[0, cell] + 1 - 4) % (V - 5) + 4
        changed = (states(one, other) - before).abs().amax(2)[0] > 1e-9
        begin = cell // S * S
        assert not changed[:begin].any()
        assert changed[begin:].all()


def test_one_block_is_the_net_itself():
    one = make("remask-modernbert")
    tokens = masked(text(2, L))
    assert torch.equal(states(in_blocks(copy.deepcopy(one), L), tokens), states(one, tokens))


def test_two_readings_in_one_pass_are_a_canvas_for_each_block():
    """A block's states are those of a row with the blocks before it as they are, itself masked, and no more."""
    one, clean = net(), text(3, L)
    noisy = masked(clean, share=0.6)
    both = one.hidden_in_blocks(noisy, clean)
    for begin in range(0, L, S):
        end = min(begin + S, L)
        canvas = torch.cat([clean[:, :begin], noisy[:, begin:end]], 1)
        assert torch.allclose(states(one, canvas)[:, begin:], both[:, begin:end], atol=1e-10)


def test_padding_is_not_seen():
    one, clean = net(), text(3, L)
    noisy, real = masked(clean), padding([L, 9, 5], L)
    both = one.hidden_in_blocks(noisy, clean, real)
    for row, length in enumerate((L, 9, 5)):
        alone = one.hidden_in_blocks(noisy[row : row + 1, :length], clean[row : row + 1, :length])
        assert torch.allclose(both[row, :length], alone[0], atol=1e-10)
        short = states(one, noisy[row : row + 1], attend=real[row : row + 1])[:, :length]
        assert torch.allclose(short, states(one, noisy[row : row + 1, :length]), atol=1e-10)


def test_states_that_were_kept_give_the_same():
    """Rows at different blocks, read piece by piece, beside whole rows."""
    one, tokens = net(), text(2, 12)
    whole = states(one, tokens)
    kept = States(2, 40)
    with torch.no_grad():
        first = one.extend(tokens[:, :4], torch.tensor([0, 0]), kept)
        assert torch.allclose(first, whole[:, :4], atol=1e-10)
        second = one.extend(tokens[:1, 4:8], torch.tensor([4]), kept, torch.tensor([0]))
        assert torch.allclose(second, whole[:1, 4:8], atol=1e-10)
        third = one.extend(torch.stack([tokens[0, 8:12], tokens[1, 4:8]]), torch.tensor([8, 4]), kept)
    assert torch.allclose(third[0], whole[0, 8:12], atol=1e-10)
    assert torch.allclose(third[1], whole[1, 4:8], atol=1e-10)


@pytest.mark.parametrize("most", [1, 256], ids=["each time anew", "from a table"])
@pytest.mark.parametrize("opened", [0.0, 0.3, 1.0])
def test_rows_side_by_side_are_rows_by_themselves(opened, most, monkeypatch):
    """One place for all rows, and a place for each; blocks that were masked, tables that grow, heads that open."""
    monkeypatch.setattr(blockwise, "MOST", most)
    monkeypatch.setattr(blockwise, "LEAST", 1)
    one, tokens = net(), masked(text(3, 24), share=0.3)
    one.model.config.opened = 0.9  # a table made before must not be used
    with torch.no_grad():
        one.extend(tokens[:, :8], 0, States(3, 24))
        one.model.config.opened = opened
        for rows in (None, torch.tensor([2, 0])):
            kept, beside = States(3, 24), States(3, 24)
            for begin, end in ((0, 4), (4, 12), (12, 16), (8, 16), (16, 23)):
                some = tokens[:, begin:end] if rows is None else tokens[rows, begin:end]
                found = one.extend(some, begin, kept, rows)
                assert torch.allclose(
                    found, one.extend(some, torch.full((len(some),), begin), beside, rows), atol=1e-12
                )
                for here, there in zip(kept.layers, beside.layers):
                    assert torch.allclose(torch.stack(here), torch.stack(there), atol=1e-12)


def test_what_is_kept_goes_with_its_last_user():
    """No circle of references, which would hold the memory until the next collection."""
    one, tokens = net(), text(1, 8)
    gc.disable()
    try:
        kept = States(1, 20)
        with torch.no_grad():
            one.extend(tokens[:, :4], 0, kept)
        held = weakref.ref(kept.layers[0][0])
        del kept
        assert held() is None
    finally:
        gc.enable()


def test_the_states_of_a_few_cells_alone():
    """As those of all; what is kept of the others is theirs all the same."""
    one, tokens = net(), masked(text(3, 12))
    only = tokens[:, 4:8] == MASK
    with torch.inference_mode():
        for few in (torch.zeros_like(only), only, torch.ones_like(only)):
            kept, beside = States(3, 20), States(3, 20)
            one.extend(tokens[:, :4], 0, kept)
            one.extend(tokens[:, :4], 0, beside)
            found = one.extend(tokens[:, 4:8], 4, kept, None, few)
            assert torch.allclose(found, one.extend(tokens[:, 4:8], 4, beside)[few], atol=1e-12)
            for here, there in zip(kept.layers, beside.layers):
                assert torch.equal(torch.stack(here), torch.stack(there))
    with torch.enable_grad():  # transformers' own layers
        kept = States(3, 20)
        assert torch.allclose(one.extend(tokens[:, :4], 0, kept, None, only), states(one, tokens[:, :4])[only])


def test_a_block_may_be_read_again_with_other_tokens():
    one, tokens = net(), text(1, 8)
    kept = States(1, 20)
    with torch.no_grad():
        one.extend(tokens[:, :4], torch.tensor([0]), kept)
        one.extend(masked(tokens[:, 4:]), torch.tensor([4]), kept)
        again = one.extend(tokens[:, 4:], torch.tensor([4]), kept)
    assert torch.allclose(again, states(one, tokens)[:, 4:], atol=1e-10)


def test_documents_have_blocks_of_their_own():
    one, tokens = net(), text(1, L)
    documents = torch.tensor([[0] * 6 + [1] * 8])
    assert same_document(documents) is not None
    found = states(one, tokens, documents=documents)
    assert torch.allclose(found[:, :6], states(one, tokens[:, :6]), atol=1e-10)
    assert torch.allclose(found[:, 6:], states(one, tokens[:, 6:]), atol=1e-10)


def test_saved_and_opened(tmp_path):
    one, tokens = in_blocks(copy.deepcopy(make("remask-modernbert")), S), masked(text(2, L))
    one.save(tmp_path)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert isinstance(model, BlockForMaskedLM)
    assert BlockNet(model).block == S
    assert torch.equal(states(BlockNet(model), tokens), states(one, tokens))
    with torch.no_grad():
        theirs = model(input_ids=tokens).logits
    assert torch.allclose(theirs, one.logits(states(one, tokens)), atol=1e-5)


def test_a_plain_modernbert_becomes_one_and_comes_back():
    one = masked_net("modernbert")
    tokens = masked(text(2, L))
    whole = in_blocks(copy.deepcopy(one), L)
    assert torch.allclose(states(whole, tokens), states(one, tokens), atol=1e-5)
    assert in_blocks(whole, L) is whole


def test_what_cannot_be_read_in_blocks_is_refused():
    with pytest.raises(BadInput, match="blocks of 14: leave it out"):
        in_blocks(in_blocks(copy.deepcopy(make("remask-modernbert")), L), S)
    with pytest.raises(BadInput, match="'bert' net cannot be read in blocks"):
        in_blocks(make("bert"), S)
    with pytest.raises(BadInput, match="sliding windows"):
        in_blocks(make("modernbert"), S)
    timed = copy.deepcopy(make("remask-modernbert"))
    timed.model.config.time_conditioning = True
    with pytest.raises(BadInput, match="time-conditioning"):
        in_blocks(timed, S)
    with pytest.raises(BadInput, match="a block has a cell or more"):
        BlockForMaskedLM(BlockConfig(**_shape(), block=0))


def test_it_begins_no_encoder_decoder():
    with pytest.raises(BadInput, match="net of blocks"):
        clone(in_blocks(copy.deepcopy(make("remask-modernbert")), S), longest_target=L)


def test_gradients_of_the_two_readings():
    """Training takes them through both: a clean block's weight on later losses is not lost."""
    one, clean = net().train(), text(1, 8)
    noisy = clean.clone()
    noisy[:, 4:] = MASK
    embedding = one.model.get_input_embeddings().weight
    one.hidden_in_blocks(noisy, clean)[:, 4:].sum().backward()
    assert (embedding.grad[clean[0, :4]].abs().sum(1) > 0).all()


def _shape():
    config = make("remask-modernbert").model.config.to_dict()
    return {name: value for name, value in config.items() if name not in ("model_type", "block")}


def test_the_default_directions_are_taken():
    model = BlockForMaskedLM(BlockConfig(**{**_shape(), "head_directions": None, "head_slopes": None}, block=S))
    assert model.config.head_directions is not None
    assert isinstance(BlockNet(shake(model)), HuggingFaceNet)
    assert ALPHABET.mask == MASK
