"""seq2seq: the loss of the true law is its conditional entropy, the end token included."""

import pytest
import torch

from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives.seq2seq import Seq2Seq
from tests.conformance_pairs import ALPHABET, END, PAD, TEXT, pairs, small_net
from tests.oracle import markov_chain, random_table
from tests.pair_oracle import PairLaw, causal_net

FIRST, SECOND = int(TEXT[0]), int(TEXT[1])
LAW = PairLaw(
    ALPHABET,
    {
        FIRST: [
            0.2 * random_table(1, 3, seed=1, mask=3, end=4).joint,
            0.3 * random_table(2, 3, seed=2, mask=3, end=4).joint.view(3, 3),
            0.5 * random_table(3, 3, seed=3, mask=3, end=4).joint.view(3, 3, 3),
        ],
        SECOND: [markov_chain(2, 4, seed=3, mask=4, end=5).joint.view(4, 4)],
    },
)


def everything():
    """All targets of both sources, and log p of each."""
    tokens = torch.cat([law.tokens for law in LAW.tables.values()])
    ids = torch.cat([torch.full((len(law.tokens),), source) for source, law in LAW.tables.items()])
    joint = torch.cat([law.joint for law in LAW.tables.values()])
    return Batch.of(tokens, ALPHABET, source=LAW.sources(ids)), joint


def nats(objective, batch):
    """What every row pays by itself, [B]."""
    stream = Stream.of(0, len(batch.tokens))
    asked = objective.corrupt(batch, stream)
    rows = [objective(causal_net(LAW), asked.part(slice(i, i + 1)), stream.rows(torch.tensor([i]))) for i in batch.slot]
    return torch.stack([loss.terms[0].total for loss in rows])


def test_a_target_costs_its_log_probability_end_and_all():
    batch, joint = everything()
    possible = joint > 0
    assert torch.allclose(nats(Seq2Seq(), batch)[possible], -joint[possible].log(), rtol=1e-9, atol=1e-12)
    by_source = torch.where(possible, joint * nats(Seq2Seq(), batch), 0.0)
    here = batch.source[:, 0] == FIRST
    assert float(by_source[here].sum()) == pytest.approx(LAW.tables[FIRST].entropy, rel=1e-9)
    assert float(by_source[~here].sum()) == pytest.approx(LAW.tables[SECOND].entropy, rel=1e-9)


def test_an_end_that_is_not_asked_for_gives_lengths_away():
    class Endless(Seq2Seq):
        def corrupt(self, batch, stream):
            question = super().corrupt(batch, stream)
            at = question.at & (question.targets != END)
            return question._replace(at=at, weight=at.float())

    batch, joint = everything()
    here = (batch.source[:, 0] == FIRST) & (joint > 0)
    assert float((joint * nats(Endless(), batch))[here].sum()) < LAW.tables[FIRST].entropy - 0.3


def test_the_decoder_reads_pad_and_then_the_target():
    batch = pairs(30, 2)
    asked = Seq2Seq().corrupt(batch, Stream.of(0, 30))
    assert (asked.tokens[:, 0] == PAD).all()
    assert torch.equal(asked.tokens[:, 1:], batch.tokens[:, :-1])
    assert asked.counts.tolist() == [int((batch.tokens != PAD).sum())]
    assert torch.equal(asked.weight, asked.at.float())


@torch.no_grad()
def test_it_is_what_transformers_says_of_the_same_net():
    """Its own cross-entropy on the same weights, with padding labelled -100."""
    batch, net = pairs(16, 4), small_net(True)
    stream = Stream.of(0, 16)
    ours = Seq2Seq()(net, Seq2Seq().corrupt(batch, stream), stream).mean()
    labels = batch.tokens.masked_fill(batch.tokens == PAD, -100)
    theirs = net.model(input_ids=batch.source, attention_mask=(batch.source != PAD).long(), labels=labels).loss
    # a law over texts gives the mask no probability; transformers' does
    logits = net.model(input_ids=batch.source, attention_mask=(batch.source != PAD).long(), labels=labels).logits
    shut = logits.index_fill(2, torch.tensor([ALPHABET.mask]), -torch.inf)
    wanted = torch.nn.functional.cross_entropy(shut.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(ours) == pytest.approx(float(wanted), rel=1e-9)
    assert float(ours) < float(theirs)
