"""The default net is ModernBERT, weight for weight and number for number."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, ModernBertDecoderForCausalLM, ModernBertForMaskedLM

from remask.core.alphabet import Alphabet
from remask.core.documents import positions as restart
from remask.core.errors import UnknownName
from remask.nets import trunk
from remask.nets.encoder import SIZES, build
from remask.nets.hf import HuggingFaceNet
from remask.train.checkpoint import load_net
from tests.nets.tiny import (
    ALPHABET,
    MAKE,
    MASK,
    OWN_POSITIONS,
    V,
    gap,
    logits,
    make,
    masked,
    padding,
    shake,
    text,
    theirs,
)

PLAIN = {False: ModernBertForMaskedLM, True: ModernBertDecoderForCausalLM}
AUTO = {False: AutoModelForMaskedLM, True: AutoModelForCausalLM}
# row 0: five documents, one of a single cell; row 1: one document; row 2: two
DOCUMENTS = torch.tensor(
    [[0] * 5 + [1] + [2] * 7 + [3] * 2 + [4], [0] * 16, [0] * 8 + [1] * 8],
)


# ours opened in theirs, theirs opened in ours


@pytest.mark.parametrize("causal", [False, True])
def test_our_weights_opened_by_transformers_give_the_same_logits(causal, tmp_path):
    net = build("tiny", ALPHABET, 64, causal=causal, directional_heads=False, seed=3)
    shake(net.model, scale=0.05)
    net.model.save_pretrained(tmp_path)
    plain = PLAIN[causal].from_pretrained(tmp_path).eval()
    tokens, attend = masked(text(3, 24)), padding([24, 10, 17], 24)
    expected = theirs(plain, tokens)
    assert expected.std() > 0.5
    assert gap(logits(net, tokens), expected) < 1e-5
    expected = theirs(plain, tokens, attention_mask=attend.long())
    assert gap(logits(net, tokens, attend=attend)[attend], expected[attend]) < 1e-5


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", ["modernbert", "modernbert-decoder"])
def test_published_style_weights_opened_here_give_the_same_logits(family, left, tmp_path):
    model = shake(MAKE[family]())
    assert model.config.sliding_window == 4
    assert model.config.layer_types.count("sliding_attention") == 3
    assert model.config.rope_parameters["full_attention"] != model.config.rope_parameters["sliding_attention"]
    model.save_pretrained(tmp_path)
    net = load_net(tmp_path)
    assert net.causal == family.endswith("decoder")
    tokens, attend = masked(text(3, 24)), padding([24, 10, 17], 24, left)
    expected = theirs(model, tokens)
    assert expected.std() > 0.5
    assert gap(logits(net, tokens), expected) < 1e-5
    expected = theirs(model, tokens, attention_mask=attend.long())
    assert gap(logits(net, tokens, attend=attend)[attend], expected[attend]) < 1e-5


@pytest.mark.parametrize("wrong", [3, 5])
@pytest.mark.parametrize("family", ["modernbert", "modernbert-decoder"])
def test_a_window_one_off_would_show(family, wrong, monkeypatch):
    net, tokens = make(family), text(2, 24)
    expected, window = theirs(net.model, tokens), trunk.window
    monkeypatch.setattr(trunk, "window", lambda distance, causal, offset: window(wrong, causal, offset))
    assert gap(logits(net, tokens), expected) > 1e-2


@pytest.mark.parametrize("family", ["modernbert", "modernbert-decoder"])
def test_a_model_opened_with_eager_attention_says_the_same(family):
    expected_net, tokens, attend = make(family), text(2, 24), padding([24, 9], 24)
    model = type(expected_net.model)._from_config(expected_net.model.config, attn_implementation="eager").eval()
    model.load_state_dict(expected_net.model.state_dict())
    assert gap(theirs(model, tokens), theirs(expected_net.model, tokens)) < 1e-5
    net = HuggingFaceNet(model)
    assert gap(logits(net, tokens), logits(expected_net, tokens)) < 1e-5
    assert gap(logits(net, tokens, attend=attend)[attend], logits(expected_net, tokens, attend=attend)[attend]) < 1e-5


# packing


@pytest.mark.parametrize("family", MAKE)
def test_packed_documents_equal_each_document_alone(family):
    net, tokens = make(family), masked(text(3, 16))
    packed = logits(net, tokens, documents=DOCUMENTS)
    assert gap(logits(net, tokens)[0], packed[0]) > 1e-2  # without `documents` they do see each other
    for row in range(3):
        for number in DOCUMENTS[row].unique():
            cells = DOCUMENTS[row] == number
            alone = logits(net, tokens[row, cells][None])[0]
            assert gap(packed[row, cells], alone) < 1e-5


@pytest.mark.parametrize("family", MAKE)
def test_packed_rows_with_padding_at_their_end(family):
    net, tokens, attend = make(family), text(3, 16), padding([16, 11, 16], 16)
    attend[0, -1] = False  # a document that is nothing but padding
    packed = logits(net, tokens, documents=DOCUMENTS, attend=attend)
    assert packed.isfinite().all()
    for row in range(3):
        for number in DOCUMENTS[row].unique():
            cells = (DOCUMENTS[row] == number) & attend[row]
            if cells.any():
                assert gap(packed[row, cells], logits(net, tokens[row, cells][None])[0]) < 1e-5


@pytest.mark.parametrize("family", OWN_POSITIONS)
def test_positions_restart_with_each_document(family):
    net, tokens = make(family), text(3, 16)
    given = logits(net, tokens, documents=DOCUMENTS, positions=restart(DOCUMENTS))
    assert gap(logits(net, tokens, documents=DOCUMENTS), given) == 0
    spread = restart(DOCUMENTS) * 2  # rotary positions: a constant shift would not show, a stretch does
    assert gap(logits(net, tokens, documents=DOCUMENTS, positions=spread), given) > 1e-2


@pytest.mark.parametrize("family", MAKE)
def test_positions_counted_from_zero_are_the_default(family):
    net, tokens = make(family), text(2, 12)
    counted = torch.arange(12).expand(2, 12)
    assert gap(logits(net, tokens, positions=counted), logits(net, tokens)) < 1e-6


@pytest.mark.parametrize("family", MAKE)
def test_causal_nets_alone_are_blind_to_the_right(family):
    net, tokens = make(family), text(2, 16)
    changed = tokens.clone()
    changed[:, 9] = torch.where(tokens[:, 9] == 20, 21, 20)
    before = gap(logits(net, tokens)[:, :9], logits(net, changed)[:, :9])
    assert before == 0 if net.causal else before > 1e-2
    assert gap(logits(net, tokens)[:, 10:], logits(net, changed)[:, 10:]) > 1e-2


# sizes, seeds, alphabets


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_the_table_of_sizes_counts_right(name, causal):
    with torch.device("meta"):
        net = build(name, Alphabet(1000, MASK, 0, 2), 128, causal=causal)
    size = SIZES[name]
    every = sum(parameter.numel() for parameter in net.parameters())  # the tied matrix once
    assert every - 1000 * size.width - 1000 == size.block_parameters
    assert net.length == 128
    assert net.vocabulary == 1000
    assert net.family.startswith("remask-") == size.directional
    assert net.causal == causal


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(UnknownName, match="mini"):
        build("tinny", ALPHABET, 16)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("directional", [False, True])
def test_weights_are_a_function_of_the_seed(causal, directional):
    def weights(seed):
        net = build("tiny", ALPHABET, 16, causal=causal, directional_heads=directional, seed=seed)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    torch.manual_seed(0)
    first = weights(7)
    torch.manual_seed(1)
    assert torch.equal(first, weights(7))
    other = weights(8)
    random_ones = (first != 0) & (first != 1)  # norms and biases start at 1 and 0
    assert (first != other)[random_ones].double().mean() > 0.999


def test_build_leaves_every_global_generator_alone(monkeypatch):
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    torch.manual_seed(0)
    assert reseeded  # what torch.manual_seed does, and build must not
    reseeded.clear()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for causal in (False, True):
        build("tiny", ALPHABET, 16, causal=causal, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert not reseeded


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("directional", [False, True])
def test_an_alphabet_with_a_mask_and_nothing_else_is_enough(causal, directional, tmp_path):
    net = build("tiny", Alphabet(10, 9), 16, causal=causal, directional_heads=directional)
    tokens = torch.arange(9)[None]
    net.eval().model.save_pretrained(tmp_path)
    assert gap(logits(load_net(tmp_path), tokens), logits(net, tokens)) == 0


def test_the_output_matrix_is_the_embedding_and_the_mask_is_known():
    for causal in (False, True):
        for directional in (False, True):
            net = build("tiny", ALPHABET, 16, causal=causal, directional_heads=directional)
            assert net.model.get_output_embeddings().weight is net.model.get_input_embeddings().weight
            assert net.model.config.vocab_size == V
    assert build("tiny", ALPHABET, 16).model.config.mask_token_id == MASK
