"""The race of causal writers: both are the same model, and the ratio is of the times that the clock gives."""

from itertools import count

import pytest
import torch

from remask.bench.decoding_causal import compare, generate, race
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.batched import write
from remask.nets.causal import CausalNet
from tests.nets.test_causal import END, START, model, plain
from tests.nets.tiny import MASK, make, text

LENGTH = 14
PROMPTS = text(3, 5, seed=3)
RACERS = ["gpt2", "modernbert-decoder", "remask-modernbert-decoder"]


@pytest.mark.parametrize("prompts", [PROMPTS, None], ids=["prompts", "nothing"])
@pytest.mark.parametrize("family", RACERS)
def test_the_most_probable_texts_are_those_of_generate(family, prompts):
    net = model(family)
    ours = write(net, prompts, LENGTH, Stream.of(0, 3), temperature=0, stop=False).tokens
    theirs = generate(net, prompts, 3, LENGTH, do_sample=False)
    assert torch.equal(ours, theirs)
    assert compare(net, prompts, ours, theirs) == 0
    assert not torch.isin(ours, torch.tensor([MASK, END])).any()


def test_both_are_timed_in_turns():
    ticks = count()
    found = race(model(RACERS[2]), PROMPTS, batches=(1, 3), length=LENGTH, rounds=3, clock=lambda: float(next(ticks)))
    assert [row["batch"] for row in found] == [1, 3]
    for row in found:
        assert row["tokens"] == row["batch"] * LENGTH
        assert row["tokens_per_second"] == row["generate_tokens_per_second"] == row["tokens"]
        assert (row["speed_over_generate"], row["least"], row["most"], row["tied"]) == (1, 1, 1, 0)
    assert next(ticks) == 2 * 2 * 2 * 4


def test_a_slower_generate_shows_as_a_ratio_above_one():
    """The first arm of a round takes as long as the gaps say: ratios 3, 1 and 2 after the warm-up."""
    times = iter([0, 1, 1, 2, 0, 3, 3, 4, 0, 1, 1, 2, 0, 2, 2, 3])  # warm-up, then theirs, ours; in turns
    found = race(model(RACERS[0]), None, batches=(1,), length=2, rounds=3, clock=lambda: float(next(times)))[0]
    assert (found["speed_over_generate"], found["least"], found["most"]) == (2.0, 1.0, 3.0)


def test_only_equal_probabilities_are_a_tie():
    net = CausalNet(make(RACERS[2]).model, END, START, [MASK])
    ours = write(net, PROMPTS, LENGTH, Stream.of(0, 3), temperature=0, stop=False).tokens
    theirs = ours.clone()
    theirs[1, 4] = int(ours[1, 4]) % 40 + 5
    with pytest.raises(BadInput, match="part at token 4"):
        compare(net, PROMPTS, ours, theirs)
    with torch.no_grad():
        net.model.decoder.weight[int(theirs[1, 4])] = net.model.decoder.weight[int(ours[1, 4])]
        net.model.decoder.bias[int(theirs[1, 4])] = net.model.decoder.bias[int(ours[1, 4])]
    assert compare(net, PROMPTS, ours, theirs) == 1


def test_texts_of_another_model_are_refused():
    """The planted bug: generate() has weights of its own."""
    net, other = model(RACERS[2]), CausalNet(make(RACERS[2], seed=1).model.double(), END, START, [MASK])
    ours = write(net, PROMPTS, LENGTH, Stream.of(0, 3), temperature=0, stop=False).tokens
    with pytest.raises(BadInput, match="part at token"):
        compare(net, PROMPTS, ours, generate(other, PROMPTS, 3, LENGTH, do_sample=False))


def test_nothing_to_race():
    assert plain("gpt2").training is False
    with pytest.raises(BadInput, match="below 1"):
        race(model("gpt2"), batches=(0,))
    with pytest.raises(BadInput, match="no batch"):
        race(model("gpt2"), batches=())
    with pytest.raises(BadInput, match="3 prompts came for a batch of 4"):
        race(model("gpt2"), PROMPTS, batches=(4,))
