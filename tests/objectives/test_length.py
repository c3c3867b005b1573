"""The length term: -log p of the number of tokens, and what the affine head makes of it."""

import pytest
import torch

from remask.core.stream import Stream
from remask.nets.lengths import LengthHead
from remask.nets.reading import Memory, Reading
from remask.objectives.cmlm import CMLM
from remask.objectives.length import length_term, target_lengths
from tests.conformance_pairs import ALPHABET, END, PAD, TEXT, padded, pairs
from tests.pair_oracle import LawEncoderDecoder

ROWS = torch.tensor(3)


class Lengths:
    """What a Reading asks of its net where only lengths are wanted."""

    def __init__(self, kind, width, longest):
        self.length_head = LengthHead(kind, width, longest)


def reading_of(law):
    """A Reading that says one law of lengths [M] of all sources."""
    net = LawEncoderDecoder(lambda source, tokens, attend: tokens, lambda source: law.expand(len(source), -1))
    return net.read(torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))


def test_it_is_minus_log_p_of_the_number_of_tokens():
    a, b = int(TEXT[0]), int(TEXT[1])
    targets = torch.tensor([[a, END, PAD, PAD], [b, a, b, END], [a, a, END, PAD]])
    assert target_lengths(targets, ALPHABET).tolist() == [1, 3, 2]
    law = torch.tensor([0.5, 0.2, 0.3]).log()
    term = length_term(reading_of(law), targets, ALPHABET, ROWS)
    assert float(term.total) == pytest.approx(-float(law.double().sum()), rel=1e-9)
    assert (term.name, term.weight, term.count) == ("length", 1.0, ROWS)


def test_lengths_that_the_head_does_not_know_are_taken_to_the_nearest():
    targets = padded(torch.tensor([9, 2, 1]), torch.Generator().manual_seed(0))
    targets[2] = torch.tensor([END, *[PAD] * 9])
    law = torch.tensor([0.5, 0.2, 0.3]).log()
    term = length_term(reading_of(law), targets, ALPHABET, ROWS)
    assert float(term.total) == pytest.approx(-float(law[[2, 1, 0]].double().sum()), rel=1e-9)


@pytest.mark.parametrize("kind", ["affine", "both"])
def test_the_affine_head_learns_a_line(kind):
    """Targets of 2 x - 1 tokens: some steps of Adam find slope and offset, and then each length is the likeliest."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(2, 20, (64,), generator=generator)
    true = 2 * source - 1
    targets = padded(true, generator)
    attend = torch.arange(21) <= source[:, None]
    net = Lengths(kind, 4, 40)
    reading = Reading(net, Memory((), (), attend, torch.zeros(64, 4)))
    with torch.no_grad():
        assert torch.equal(reading.length_log_prob().argmax(1) + 1, source), "at first as long as the source"
    optimizer = torch.optim.Adam(net.length_head.parameters(), lr=0.05)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = length_term(reading, targets, ALPHABET, torch.tensor(64.0))
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(float(loss.total.detach()) / 64)
    slope, offset, _ = net.length_head.line.tolist()
    assert abs(slope - 2) < 0.05 and abs(offset + 1) < 0.5
    assert torch.equal(reading.length_log_prob().argmax(1) + 1, true)
    assert losses[-1] < 0.5 and losses[0] > 3


def test_the_source_is_counted_without_its_end():
    net = Lengths("affine", 4, 12)
    batch = pairs(30, 1)
    reading = Reading(net, Memory((), (), batch.source != PAD, torch.zeros(30, 4)))
    tokens = torch.isin(batch.source, TEXT).sum(1)
    assert torch.equal(reading.memory.lengths, tokens)
    assert torch.equal(reading.length_log_prob().argmax(1) + 1, tokens)


def test_objectives_hand_it_all_rows_of_the_step():
    batch, stream = pairs(12, 3), Stream.of(3, 12)
    law = torch.arange(1.0, 10.0).log_softmax(0)
    net = LawEncoderDecoder(
        lambda source, tokens, attend: torch.zeros(*tokens.shape, 13).double(),
        lambda source: law.expand(len(source), -1),
    )
    term = CMLM()(net, CMLM().corrupt(batch, stream).part(torch.tensor([1, 2])), stream).terms[1]
    wanted = -float(law[target_lengths(batch.tokens, ALPHABET)[1:3] - 1].double().sum())
    assert float(term.total) == pytest.approx(wanted, rel=1e-9)
    assert term.count == 12
