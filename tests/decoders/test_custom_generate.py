"""Decoders in transformers' generate(): the very texts of the decoder, whatever the padding; nothing silently lost."""

import pytest
import torch
import transformers

from remask.core.decoder import Budget
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.decoders.beam import Beam
from remask.decoders.custom_generate import custom_generate
from remask.decoders.exact_mode import ExactMode
from remask.decoders.hidden_state import HiddenState
from remask.decoders.sampling import Sampling
from remask.nets.causal import CausalNet
from tests.conformance_decoders import END, START, TOKENS, net

PROMPTS = [[START, 4, 5, 6], [START], [START, 7, 8]]
PAD = 0


def inputs(prompts=PROMPTS):
    """Padded at the left."""
    longest = max(map(len, prompts))
    rows = [[PAD] * (longest - len(row)) + row for row in prompts]
    seen = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(seen)}


def generated(decoder, prompts=PROMPTS, **rest):
    found = net().model.generate(
        **inputs(prompts),
        custom_generate=custom_generate(decoder),
        max_new_tokens=TOKENS,
        eos_token_id=END,
        pad_token_id=PAD,
        **rest,
    )
    return found


@pytest.mark.parametrize(
    "decoder", [Beam(beam=1), Beam(beam=4), ExactMode(), Sampling(), HiddenState()], ids=lambda row: type(row).__name__
)
def test_texts_are_those_of_the_decoder(decoder):
    ids = generated(decoder, seed=3)
    plain = CausalNet(net().model, END, None)
    found = decoder(plain, PROMPTS, Stream.of(3, torch.arange(len(PROMPTS))), Budget(TOKENS))
    assert torch.equal(ids[:, :4], inputs()["input_ids"])
    for row, tokens, mine in zip(ids[:, 4:].tolist(), found.canvas.tokens, found.canvas.unknown):
        text = tokens[mine].tolist()
        assert row == text + [PAD] * (len(row) - len(text))
    alone = [generated(decoder, [prompt], seed=3)[0, len(prompt) :].tolist() for prompt in PROMPTS[:1]]
    assert alone == [[token for token in ids[0, 4:].tolist() if token != PAD]]


def test_one_beam_is_greedy_generate():
    ours = generated(Beam(beam=1))
    theirs = net().model.generate(
        **inputs(), max_new_tokens=TOKENS, eos_token_id=END, pad_token_id=PAD, do_sample=False, num_beams=1
    )
    assert torch.equal(ours, theirs)


def test_any_of_several_ends_ends_a_text():
    """Those of the law in which all of them are one; what is written is the first."""
    ends = [END, 4, 6]
    given = {"max_new_tokens": TOKENS, "eos_token_id": ends, "pad_token_id": PAD}
    ids = net().model.generate(**inputs(), custom_generate=custom_generate(Beam(beam=4)), **given)[:, 4:]
    plain = CausalNet(net().model, END, None, ends=ends)
    found = Beam(beam=4)(plain, PROMPTS, Stream.of(0, torch.arange(len(PROMPTS))), Budget(TOKENS)).texts(END)
    assert [[t for t in row if t not in (PAD, END)] for row in ids.tolist()] == found
    assert not {4, 6} & {token for row in found for token in row}
    assert found != Beam(beam=4)(
        CausalNet(net().model, END, None), PROMPTS, Stream.of(0, torch.arange(len(PROMPTS))), Budget(TOKENS)
    ).texts(END)


def test_nodes_are_a_budget_and_a_dictionary_comes_back():
    assert generated(ExactMode(), nodes=1, return_dict_in_generate=True).sequences.shape[0] == len(PROMPTS)
    with pytest.raises(BadInput, match="holds not one hypothesis"):
        generated(ExactMode(), nodes=0)


def test_the_model_stays_in_the_mode_it_was_in():
    model = net().model
    model.train()
    try:
        generated(Beam(beam=2))
        assert model.training
    finally:
        model.eval()


@pytest.mark.parametrize(
    "rest, words",
    [
        ({"do_sample": True}, "draws and beams of its own"),
        ({"num_beams": 3}, "draws and beams of its own"),
        ({"repetition_penalty": 1.3}, "RepetitionPenalty"),
        ({"eos_token_id": [], "pad_token_id": PAD}, "no end token came"),
        ({"max_time": 3.0}, "MaxTimeCriteria"),
    ],
)
def test_what_a_decoder_would_not_see_is_refused(rest, words):
    with pytest.raises(BadInput, match=words):
        net().model.generate(
            **inputs(), custom_generate=custom_generate(Beam()), **{"max_new_tokens": 3, "eos_token_id": END, **rest}
        )


def test_a_model_with_an_encoder_is_refused():
    shape = {"vocab_size": 9, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape, decoder_start_token_id=0))
    with pytest.raises(BadCheckpoint, match="has an encoder"):
        model.generate(
            torch.tensor([[4, 5]]), custom_generate=custom_generate(Beam()), max_new_tokens=3, eos_token_id=1
        )
