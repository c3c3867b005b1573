"""Texts written together: token for token what full passes over each text alone would draw, at every family."""

from itertools import product

import pytest
import torch
import transformers

from remask.core.decoder import Budget
from remask.core.draw import inverse_cdf
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.decoders import batched
from remask.decoders.batched import Room, write
from remask.decoders.sampling import Sampling
from remask.nets.causal import CausalNet
from tests.nets.test_causal import END, FAMILIES, START, alone, hashes, model, plain
from tests.nets.tiny import MASK, shake, text
from tests.oracle import surprise

ROWS, LENGTH = 5, 18
STREAM = Stream.of(11, ROWS)
PROMPTS = text(ROWS, 4, seed=9)


def ending(family):
    """The model with an end that the first text meets at its sixth token, or before."""
    return CausalNet(plain(family), int(write(model(family), PROMPTS, 6, STREAM).tokens[0, 5]), START, [MASK])


def by_hand(family, end, row, prompt, stop):
    """Tokens and log p of one text, a full pass for each token."""
    tokens, total = [], 0.0
    for step in range(1, LENGTH + 1):
        law = alone(family, [*prompt, *tokens])
        law = law if stop else law.index_fill(0, torch.tensor([end]), -torch.inf).log_softmax(0)
        uniform = STREAM.rows(torch.tensor([row])).uniform(step, Purpose.TOKEN, 1)[:, 0]
        tokens.append(int(inverse_cdf(law[None], uniform)))
        total += float(law[tokens[-1]])
        if stop and tokens[-1] == end:
            break
    return tokens, total


def check(family, stop=True):
    """Raises AssertionError where batched writing and full passes part; how many tokens each text has."""
    net = ending(family)
    found = write(net, PROMPTS, LENGTH, STREAM, stop=stop)
    for row, prompt in enumerate(PROMPTS.tolist()):
        tokens, total = by_hand(family, net.end, row, prompt, stop)
        assert found.tokens[row].tolist() == tokens + [net.end] * (LENGTH - len(tokens))
        assert int(found.calls[row]) == len(tokens)
        assert float(found.log_prob[row]) == pytest.approx(total, abs=1e-4)
    return found.calls.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_full_passes(family):
    """Longer than a sliding window of 8; some texts end, and leave the others in the batch."""
    calls = check(family)
    assert min(calls) < max(calls)
    assert check(family, stop=False) == [LENGTH] * ROWS


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"temperature": 0}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "remask-modernbert-decoder"])
def test_one_by_one_and_as_sampling_draws(family, how):
    net = ending(family)
    together = write(net, PROMPTS, LENGTH, STREAM.child(0), **how)
    for row in range(ROWS):
        index = torch.tensor([row])
        single = write(net, PROMPTS[index], LENGTH, STREAM.rows(index).child(0), **how)
        assert torch.equal(single.tokens[0], together.tokens[row])
        assert float(single.log_prob[0]) == pytest.approx(float(together.log_prob[row]), abs=1e-5)
    if how.get("temperature") == 0:
        chosen = [
            int(alone(family, [*PROMPTS[0].tolist(), *together.tokens[0, :k].tolist()]).argmax()) for k in range(3)
        ]
        assert together.tokens[0, : min(3, together.calls[0])].tolist() == chosen[: together.calls[0]]
        return
    one = Sampling(**how)(net, PROMPTS.tolist(), STREAM, Budget(LENGTH))
    longest = one.canvas.tokens.shape[1] - PROMPTS.shape[1]
    assert torch.equal(one.canvas.tokens[:, PROMPTS.shape[1] :], together.tokens[:, :longest])
    torch.testing.assert_close(one.log_prob, together.log_prob, rtol=0, atol=1e-5)


def test_no_row_is_read_after_its_end_and_no_weight_changes():
    net, sizes = ending("gpt2"), []
    before = hashes(net.model)
    hook = net.model.register_forward_pre_hook(
        lambda _, __, named: sizes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    found = write(net, PROMPTS, LENGTH, STREAM)
    hook.remove()
    assert sizes[0] == (ROWS, 1 + PROMPTS.shape[1])
    assert [size[0] for size in sizes] == [int((found.calls > step).sum()) for step in range(len(sizes))]
    assert {size[1] for size in sizes[1:]} == {1}
    assert hashes(net.model) == before
    assert not net.model.training
    assert not any(x.is_inference() for x in found)


def small():
    """A GPT-2 of 7 ids, small enough to enumerate; random in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.GPT2Config(
            vocab_size=7, n_embd=8, n_layer=1, n_head=2, n_positions=12, bos_token_id=3, eos_token_id=2
        )
        return CausalNet(shake(transformers.GPT2LMHeadModel(config), seed=1, scale=0.4), 2, 3, [1])


@torch.no_grad()
def enumerated(net, temperature):
    """p of every [3] cells and log p by the model's own law, [343]; after an end there are ends only."""
    texts = torch.tensor(list(product(range(7), repeat=3)))
    read = torch.cat([torch.full((len(texts), 1), 3), texts[:, :2]], 1)
    law = net.law(net.model(input_ids=read).logits)
    drawn = (law / temperature).log_softmax(2).gather(2, texts[:, :, None])[:, :, 0]
    own = law.gather(2, texts[:, :, None])[:, :, 0]
    over = (texts == 2).long().cumsum(1) - (texts == 2).long() > 0
    wrong = (over & (texts != 2)).any(1)
    return drawn.masked_fill(over, 0).sum(1).exp().masked_fill(wrong, 0), own.masked_fill(over, 0).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_texts_follow_the_enumerated_law(temperature):
    net = small()
    law, own = enumerated(net, temperature)
    assert float(law.sum()) == pytest.approx(1)
    found = write(net, None, 3, Stream.of(2, 20_000), temperature=temperature)
    number = (found.tokens * torch.tensor([49, 7, 1])).sum(1)
    assert surprise(torch.bincount(number, minlength=343), law) < 4
    torch.testing.assert_close(found.log_prob, own[number], rtol=0, atol=1e-4)
    assert surprise(torch.bincount(number, minlength=343), enumerated(net, 0.8)[0]) > 10  # another law is seen


# ---- keys and values -------------------------------------------------------------------------------------------------


def test_room_is_filled_without_moving_what_is_there():
    layer, parts = Room(9), [torch.randn(3, 2, n, 4) for n in (4, 1, 1)]
    places = set()
    for part in parts:
        keys, values = layer.update(part, part + 1)
        places.add(keys.data_ptr())
    assert len(places) == 1
    assert torch.equal(keys, torch.cat(parts, 2))
    assert torch.equal(values, torch.cat(parts, 2) + 1)
    assert layer.get_seq_length() == 6
    layer.batch_select_indices(torch.tensor([0, 2]))
    keys, _ = layer.update(parts[1][[0, 2]], parts[1][[0, 2]])
    assert torch.equal(keys, torch.cat([*parts, parts[1]], 2)[[0, 2]])


class Lazy(Room):
    """Keeps the first rows, whoever has left."""

    def batch_select_indices(self, indices):
        super().batch_select_indices(torch.arange(len(indices)))


class Short(Room):
    """Forgets the first cell as it grows."""

    def update(self, *states, **named):
        keys, values = super().update(*states, **named)
        return keys.clone().index_fill_(2, torch.tensor([0]), 0), values


@pytest.mark.parametrize("bug", [Lazy, Short])
def test_planted_bugs_are_caught(bug, monkeypatch):
    monkeypatch.setattr(batched, "Room", bug)
    with pytest.raises(AssertionError):
        check("gpt2")


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"length": 0}, "ask for 1 or more"),
        ({"length": 36}, "36 tokens were asked for after prompts of 4"),
        ({"prompts": PROMPTS[:2]}, "a stream of 5 rows"),
        ({"prompts": PROMPTS[0]}, "one row of ids for each"),
        ({"temperature": -1}, "type a number above 0"),
        ({"temperature": float("inf")}, "type a number above 0"),
        ({"top_p": 0}, "top_p"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(BadInput, match=says):
        write(**{"net": model("gpt2"), "prompts": PROMPTS, "length": 3, "stream": STREAM, **arguments})


def test_nothing_to_begin_with():
    with pytest.raises(BadInput, match="without a token to begin with"):
        write(CausalNet(plain("gpt2"), END, None), None, 3, STREAM)
    assert write(CausalNet(plain("gpt2"), END, None), PROMPTS, 3, STREAM).tokens.shape == (ROWS, 3)
