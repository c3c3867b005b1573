"""CMLM: how many tokens are masked, and what the true law pays for them, by enumeration."""

import math
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch

from remask.core.choose import exactly
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.objectives.cmlm import CMLM
from remask.objectives.paired import ask, levels, rows_of, text_cells
from tests.conformance_pairs import ALPHABET, END, MASK, PAD, TEXT, pairs, small_net
from tests.oracle import markov_chain, random_table, surprise
from tests.pair_oracle import PairLaw, parallel_net

LONG, SHORT = random_table(3, 3, seed=2, mask=3, end=4), markov_chain(2, 4, seed=3, mask=4, end=5)
FIRST, SECOND = int(TEXT[0]), int(TEXT[1])
LAW = PairLaw(
    ALPHABET, {FIRST: [LONG.joint.view(3, 3, 3)], SECOND: [SHORT.joint.view(4, 4), 2 * SHORT.joint.view(4, 4).T[0]]}
)


@dataclass(frozen=True)
class NeverAll(CMLM):
    """The released code: n is uniform on 0..N-1."""

    def corrupt(self, batch, stream):
        among = text_cells(batch)
        count = (levels(batch, stream, self.stratified) * among.sum(1)).long()
        at = exactly(stream.uniform(0, Purpose.MASK, among.shape[1]), among, count)
        return ask(batch, torch.where(at, MASK, batch.tokens), at, [at.sum().clamp(min=1), rows_of(batch)])


def masked(objective, length, rows=4000, seed=0):
    """How often 0..N tokens are masked in targets of N, [N + 1]."""
    batch = pairs(rows, seed, shortest=length, longest=length)
    return torch.bincount(objective.corrupt(batch, Stream.of(seed, rows)).at.sum(1), minlength=length + 1)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_n_is_uniform_on_1_to_all(length):
    law = torch.tensor([0.0, *[1.0] * length])
    assert abs(surprise(masked(CMLM(stratified=False), length), law)) < 4
    counts = masked(CMLM(), length)[1:]
    assert (counts - 4000 / length).abs().max() <= 1, "strata leave next to nothing to chance"
    assert surprise(masked(NeverAll(), length), law) == math.inf


def test_n_differs_among_targets_and_every_cell_is_masked_alike():
    asked = CMLM().corrupt(pairs(4000, 3, shortest=6, longest=6), Stream.of(3, 4000))
    assert len(asked.at.sum(1).unique()) == 6
    for n in range(1, 6):  # whatever n is
        at = asked.at[asked.at.sum(1) == n][:, :6]
        assert abs(surprise(at.sum(0), torch.ones(6))) < 4
    short = pairs(1000, 0)
    asked = CMLM().corrupt(short, Stream.of(0, 1000))
    assert torch.equal(asked.tokens == MASK, asked.at)
    assert ((asked.at.sum(1) >= 1) & (asked.at.sum(1) <= text_cells(short).sum(1))).all()
    assert asked.counts.tolist() == [int(asked.at.sum()), 1000]


@torch.no_grad()
def test_the_loss_is_on_masked_tokens_only():
    batch, stream = pairs(20, 1), Stream.of(1, 20)
    asked, net = CMLM().corrupt(batch, stream), small_net(False)
    term, length = CMLM()(net, asked, stream).terms
    reading = net.read(batch.source, batch.source != PAD)
    logits = net.logits(reading.hidden(asked.tokens, attend=batch.tokens != PAD)).index_fill(
        2, torch.tensor([MASK]), -torch.inf
    )
    nats = -logits.log_softmax(2).gather(2, batch.tokens[:, :, None])[:, :, 0]
    assert float(term.total) == pytest.approx(float(nats[asked.tokens == MASK].sum()), rel=1e-9)
    assert (term.name, term.weight, length.name) == ("cmlm", 1.0, "length")


def test_the_true_law_pays_its_conditional_entropy_for_every_n():
    """All targets times all subsets of n cells, weighed: E of their nats, as tests/oracle.py finds it by itself."""
    law, net = LAW.tables[FIRST], parallel_net(LAW)
    for n in (1, 2, 3):
        subsets = list(combinations(range(3), n))
        at = torch.zeros(len(subsets), 4, dtype=torch.bool)
        for row, cells in zip(at, subsets):
            row[list(cells)] = True
        tokens = law.tokens.repeat_interleave(len(subsets), 0)
        at = at.repeat(len(law.tokens), 1)
        batch = Batch.of(tokens, ALPHABET, source=LAW.sources(torch.full((len(tokens),), FIRST)))
        asked = ask(batch, torch.where(at, MASK, tokens), at, [torch.tensor(1), torch.tensor(1)])
        chance = law.joint.repeat_interleave(len(subsets)) / len(subsets)
        loss = CMLM()(net, asked._replace(weight=at * chance[:, None]), Stream.of(0, len(tokens)))
        assert float(loss.terms[0].total) == pytest.approx(LONG.masked_entropy(n), rel=1e-12)


def expected(n_of):
    """Nats of a row of LONG when n is one of `n_of`, each as often."""
    return sum(LONG.masked_entropy(n) for n in n_of) / len(n_of)


def test_the_mean_loss_of_the_true_law_is_the_mean_over_n():
    """E_n of the masked cross-entropy, whatever other sources stand beside it."""
    ids = torch.tensor([FIRST, SECOND]).repeat(1000)
    found: dict[type[CMLM], list[float]] = {CMLM: [], NeverAll: []}
    for seed in range(3):
        batch = Batch.of(LAW.sample(ids, seed), ALPHABET, source=LAW.sources(ids))
        for kind, means in found.items():
            stream = Stream.of(seed, 2000)
            asked = kind(stratified=False).corrupt(batch, stream)
            for part in torch.arange(2000)[ids == FIRST].split(100):
                total = kind()(parallel_net(LAW), asked.part(part), stream.rows(part)).terms[0].total
                means.append(float(total) / 100)
    for kind, means in found.items():
        mean, error = torch.tensor(means).mean(), torch.tensor(means).std() / math.sqrt(len(means))
        right = abs(float(mean) - expected((1, 2, 3))) < 4 * float(error)
        assert right is (kind is CMLM)
    assert abs(expected((1, 2, 3)) - expected((0, 1, 2))) > 0.2, "the two differ"


def test_the_true_law_pays_the_entropy_of_lengths():
    law = LAW.tables[SECOND]
    batch = Batch.of(law.tokens, ALPHABET, source=LAW.sources(torch.full((len(law.tokens),), SECOND)))
    stream = Stream.of(0, len(law.tokens))
    net, asked = parallel_net(LAW), CMLM().corrupt(batch, stream)
    rows = [CMLM()(net, asked.part(slice(i, i + 1)), stream.rows(torch.tensor([i]))) for i in range(len(law.tokens))]
    length = torch.stack([loss.terms[1].total for loss in rows])
    short = float(law.joint[(law.tokens == END).long().argmax(1) == 1].sum())
    wanted = -short * math.log(short) - (1 - short) * math.log(1 - short)
    assert 0.1 < short < 0.9
    assert float((law.joint * length)[law.joint > 0].sum()) == pytest.approx(wanted, rel=1e-9)
