"""SUNDAE: how much is corrupted, by what, and what the unrolled steps read."""

import math

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives.sundae import SUNDAE
from tests.conformance_pairs import ALPHABET, END, MASK, PAD, SIZE, TEXT, pairs, small_net
from tests.oracle import surprise
from tests.pair_oracle import LawEncoderDecoder, Watched


def alike(rows, length=8, token=0):
    """Targets that say one token over and over."""
    tokens = torch.cat([TEXT[token].expand(rows, length), torch.full((rows, 1), END)], 1)
    return Batch.of(tokens, ALPHABET, source=tokens[:, -2:])


# ---- the corruption --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
def test_the_rate_is_uniform(stratified):
    """Then the number of corrupted tokens is uniform on 0..N, and of random ones one in A is not seen."""
    asked = SUNDAE(noise="mask", stratified=stratified).corrupt(alike(4000), Stream.of(0, 4000))
    assert surprise(torch.bincount((asked.tokens == MASK).sum(1), minlength=9), torch.ones(9)) < 4
    random = SUNDAE(stratified=stratified).corrupt(alike(4000), Stream.of(0, 4000))
    assert not (random.tokens == MASK).any()
    assert (asked.tokens == MASK)[random.tokens != random.targets].all(), "both kinds of noise fall on the same cells"
    seen = float((random.tokens != random.targets)[:, :8].double().mean())
    assert abs(seen - 0.5 * (1 - 1 / len(TEXT))) < 4 * math.sqrt(0.25 * (1 / 3 + 1 / 8) / 4000)


def test_every_row_has_a_rate_of_its_own_and_strata_spread_them():
    batch, miss = alike(16, 4000), {}
    for stratified in (True, False):
        asked = SUNDAE(noise="mask", stratified=stratified).corrupt(batch, Stream.of(0, 16))
        share = (asked.tokens == MASK).sum(1) / 4000
        miss[stratified] = (share - (torch.arange(16) + 0.5) / 16).abs().max()
    assert miss[True] < 0.5 / 16 + 4 * 0.5 / math.sqrt(4000) < miss[False]


def test_corrupted_tokens_show_any_text_alike_whatever_they_were():
    for token in (0, 5):
        asked = SUNDAE().corrupt(alike(3000, token=token), Stream.of(1, 3000))
        counts = torch.bincount(asked.tokens[:, :8].flatten(), minlength=SIZE)
        law = torch.zeros(SIZE, dtype=torch.float64)
        law[TEXT] = 1.0
        law[TEXT[token]] = 0.0
        counts[TEXT[token]] = 0
        assert abs(surprise(counts, law)) < 4, "special tokens never, the others alike"


def test_all_tokens_are_asked_for():
    batch = pairs(100, 2)
    asked = SUNDAE(unroll=3).corrupt(batch, Stream.of(2, 100))
    text = torch.isin(batch.tokens, TEXT)
    assert torch.equal(asked.at, text)
    assert asked.counts.tolist() == [*[int(text.sum())] * 3, 100]


# ---- the steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_the_second_step_reads_is_drawn_from_the_net(temperature):
    """A net that says a law of its own at every cell: tokens are drawn from it, cells by themselves."""
    says = torch.randn(9, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = LawEncoderDecoder(
        lambda source, tokens, attend: says.expand(len(tokens), -1, -1), lambda source: torch.zeros(len(source), 8)
    )
    objective, stream = SUNDAE(temperature=temperature), Stream.of(3, 4000)
    asked = objective.corrupt(alike(4000), stream)
    loss = objective(net, asked, stream)
    first, drawn = net.readings[0].seen
    assert torch.equal(first, asked.tokens)
    shut = says.index_fill(1, torch.tensor([MASK]), -torch.inf)
    for cell in range(8):
        law = (shut[cell] / temperature).softmax(0)
        assert abs(surprise(torch.bincount(drawn[:, cell], minlength=SIZE), law)) < 4
    other = (shut[0] / temperature / 1.2).softmax(0)
    assert surprise(torch.bincount(drawn[:, 0], minlength=SIZE), other) > 4, "the planted bug: another temperature"
    pair = drawn[:, 0] * SIZE + drawn[:, 1]
    both = (shut[0] / temperature).softmax(0)[:, None] * (shut[1] / temperature).softmax(0)
    assert abs(surprise(torch.bincount(pair, minlength=SIZE**2), both.flatten())) < 4, "cells are independent"
    assert (drawn[:, 8] == END).all()
    nats = -float(shut.log_softmax(1)[:8, TEXT[0]].sum()) * 4000
    for term in loss.terms[:2]:
        assert float(term.total) == pytest.approx(nats, rel=1e-9), "the temperature is of the draws only"


@torch.no_grad()
def by_hand(batch, tokens):
    """Nats of all tokens of text."""
    net = small_net(False)
    hidden = net.read(batch.source, batch.source != PAD).hidden(tokens, attend=batch.tokens != PAD)
    log_prob = net.logits(hidden).index_fill(2, torch.tensor([MASK]), -torch.inf).log_softmax(2)
    return -log_prob.gather(2, batch.tokens[:, :, None])[:, :, 0][torch.isin(batch.tokens, TEXT)].sum()


@pytest.mark.parametrize("unroll", [1, 2, 3])
@torch.no_grad()
def test_the_loss_is_the_mean_over_steps_and_the_length_beside_it(unroll):
    batch, stream = pairs(20, 4), Stream.of(4, 20)
    objective, net = SUNDAE(unroll=unroll), Watched(small_net(False))
    asked = objective.corrupt(batch, stream)
    loss = objective(net, asked, stream)
    assert len(net.seen) == unroll and torch.equal(net.seen[0], asked.tokens)
    text = torch.isin(batch.tokens, TEXT)
    nats = [float(by_hand(batch, canvas)) for canvas in net.seen]
    assert [float(term.total) for term in loss.terms[:-1]] == pytest.approx(nats, rel=1e-9)
    assert [term.name for term in loss.terms] == [*(f"step_{k + 1}" for k in range(unroll)), "length"]
    length = loss.terms[-1]
    wanted = sum(nats) / unroll / int(text.sum()) + float(length.total / length.count)
    assert float(loss.mean()) == pytest.approx(wanted, rel=1e-6)
    for canvas in net.seen[1:]:
        assert torch.equal(canvas[~text], batch.tokens[~text]), "ends and padding stay"
        assert not (canvas == MASK).any()


@torch.no_grad()
def test_steps_draw_with_numbers_of_their_own():
    """Where the net says the same twice, two steps that shared their uniforms would draw the same text twice."""
    net = LawEncoderDecoder(
        lambda source, tokens, attend: torch.zeros(*tokens.shape, SIZE).double(),
        lambda source: torch.zeros(len(source), 8),
    )
    stream = Stream.of(5, 500)
    SUNDAE(unroll=3)(net, SUNDAE(unroll=3).corrupt(alike(500), stream), stream)
    _, second, third = net.readings[0].seen
    same = float((second == third)[:, :8].double().mean())
    assert abs(same - 1 / (SIZE - 1)) < 4 * math.sqrt(1 / (SIZE - 1) / 4000)


def test_no_gradient_passes_through_what_was_drawn():
    batch, stream, net = pairs(12, 6), Stream.of(6, 12), small_net(False)
    watched, parameters = Watched(net), list(net.parameters())
    loss = SUNDAE()(watched, SUNDAE().corrupt(batch, stream), stream)
    ours = torch.autograd.grad(loss.terms[0].total + loss.terms[1].total, parameters, materialize_grads=True)
    text, given = torch.isin(batch.tokens, TEXT), 0.0
    for canvas in watched.seen:
        assert not canvas.requires_grad
        hidden = net.read(batch.source, batch.source != PAD).hidden(canvas.clone(), attend=batch.tokens != PAD)
        given = given + net.nll(hidden[text], batch.tokens[text], MASK).sum()
    wanted = torch.autograd.grad(given, parameters, materialize_grads=True)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(ours, wanted))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"unroll": 0}, "--unroll"),
        ({"noise": "none"}, "--noise random|mask"),
        ({"temperature": 0.0}, "--temperature"),
        ({"temperature": math.nan}, "--temperature"),
        ({"temperature": math.inf}, "--temperature"),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        SUNDAE(**wrong)
    assert says in str(error.value)
