"""PaDIR: how much is noised, what noised tokens show, which tokens count, and what later stages read."""

import math

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives.padir import PaDIR, guesses
from tests.conformance_pairs import ALPHABET, END, MASK, PAD, TEXT, pairs, small_net
from tests.oracle import surprise
from tests.pair_oracle import LawEncoderDecoder, Watched

ROWS = 4000


def asked_of(objective, rows=ROWS, seed=0, length=8):
    """What is asked of targets of one length."""
    return objective.corrupt(pairs(rows, seed, shortest=length, longest=length), Stream.of(seed, rows))


# ---- how much --------------------------------------------------------------------------------------------------------


def test_a_uniform_rate_noises_every_number_of_tokens_alike():
    """With a rate that is uniform on [0, 1], the number of noised tokens is uniform on 0..N."""
    for objective in (PaDIR(score="noised"), PaDIR(score="noised", stratified=False)):
        counts = torch.bincount(asked_of(objective).at.sum(1), minlength=9)
        assert surprise(counts, torch.ones(9)) < 4
    fixed = torch.bincount(asked_of(PaDIR(score="noised", rate=0.5)).at.sum(1), minlength=9)
    assert surprise(fixed, torch.ones(9)) > 100
    binomial = torch.tensor([math.comb(8, n) for n in range(9)])
    assert abs(surprise(fixed, binomial)) < 4, "tokens are noised one by one"


@pytest.mark.parametrize(("rate", "mean"), [(None, 0.5), (0.5, 0.5), (0.15, 0.15), (1.0, 1.0)])
def test_the_mean_rate(rate, mean):
    at = asked_of(PaDIR(score="noised", rate=rate)).at[:, :8]
    assert abs(float(at.double().mean()) - mean) < 4 * math.sqrt(mean * (1 - mean) / at.numel()) + 1e-12


def test_rates_are_spread_evenly_over_the_batch():
    """Long targets tell their rate: of 16 rows each has the one of its sixteenth, and without strata they do not."""
    tokens = torch.cat([TEXT[torch.zeros(16, 4000).long()], torch.full((16, 1), END)], 1)
    batch = Batch.of(tokens, ALPHABET, source=tokens[:, -2:])
    miss = {}
    for stratified in (True, False):
        share = PaDIR(score="noised", stratified=stratified).corrupt(batch, Stream.of(0, 16)).at.sum(1) / 4000
        miss[stratified] = (share - (torch.arange(16) + 0.5) / 16).abs().max()
    assert miss[True] < 0.5 / 16 + 4 * 0.5 / math.sqrt(4000) < miss[False]


# ---- what they show --------------------------------------------------------------------------------------------------


def shown(objective):
    """Surprise of how many noised cells show the mask, their own token, or another one, by the paper's shares."""
    asked = asked_of(objective)
    tokens, own = asked.tokens[asked.at], asked.targets[asked.at]
    assert torch.isin(tokens[tokens != MASK], TEXT).all(), "a special token was shown"
    counts = torch.stack([(tokens == MASK).sum(), (tokens == own).sum(), ((tokens != own) & (tokens != MASK)).sum()])
    lucky = 1 / len(TEXT)
    return surprise(counts, torch.tensor([0.8, 0.1 + 0.1 * lucky, 0.1 * (1 - lucky)]))


def test_eight_one_and_one_tenth_of_the_noised():
    assert abs(shown(PaDIR(score="noised"))) < 4
    assert shown(PaDIR(score="noised", random=0.12, keep=0.08)) > 4, "the planted bug: shares off by a fiftieth"


def test_random_tokens_are_any_text_alike():
    asked = asked_of(PaDIR(score="noised", keep=0.0, random=1.0))
    assert abs(surprise(torch.bincount(asked.tokens[asked.at], minlength=13)[TEXT], torch.ones(len(TEXT)))) < 4


def test_tokens_that_are_not_noised_are_as_they_were():
    asked = asked_of(PaDIR(score="noised"))
    assert torch.equal(asked.tokens[~asked.at], asked.targets[~asked.at])


# ---- which count -----------------------------------------------------------------------------------------------------


def test_the_loss_is_on_all_on_the_noised_or_on_the_masked():
    batch, stream = pairs(300, 2), Stream.of(2, 300)
    by_score = {score: PaDIR(score=score).corrupt(batch, stream) for score in ("all", "noised", "masked")}
    tokens = by_score["all"].tokens
    assert all(torch.equal(asked.tokens, tokens) for asked in by_score.values())
    assert torch.equal(by_score["all"].at, torch.isin(batch.tokens, TEXT))
    assert torch.equal(by_score["masked"].at, tokens == MASK)
    noised = by_score["noised"].at
    assert (noised >= by_score["masked"].at).all() and (by_score["all"].at >= noised).all()
    assert (noised & (tokens == batch.tokens)).any(), "kept tokens are noised, too"
    assert (noised >= (tokens != batch.tokens)).all()
    for asked in by_score.values():
        assert asked.counts.tolist() == [int(asked.at.sum()), 300]


def by_hand(net, batch, tokens, at):
    """Nats of the cells `at`, and the best guess at every cell."""
    reading = net.read(batch.source, batch.source != PAD)
    logits = net.logits(reading.hidden(tokens, attend=batch.tokens != PAD))
    log_prob = logits.index_fill(2, torch.tensor([MASK]), -torch.inf).log_softmax(2)
    nats = -log_prob.gather(2, batch.tokens[:, :, None])[:, :, 0]
    return nats[at].sum(), log_prob.argmax(2)


@pytest.mark.parametrize("score", ["all", "noised", "masked"])
@torch.no_grad()
def test_stages_read_the_best_guesses_of_the_one_before(score):
    batch, stream = pairs(20, 3), Stream.of(3, 20)
    objective, net = PaDIR(score=score, stages=3), Watched(small_net(False))
    asked = objective.corrupt(batch, stream)
    loss = objective(net, asked, stream)
    text = torch.isin(batch.tokens, TEXT)
    canvas, at = asked.tokens, asked.at
    for stage, name in enumerate(("padir", "stage_2", "stage_3")):
        assert torch.equal(net.seen[stage], canvas)
        nats, best = by_hand(small_net(False), batch, canvas, at)
        term = loss.terms[stage]
        assert (term.name, term.weight, int(term.count)) == (name, 1.0, int(at.sum()))
        assert float(term.total) == pytest.approx(float(nats), rel=1e-9)
        canvas, at = torch.where(text, best, batch.tokens), text
    assert len(net.seen) == 3
    assert not torch.equal(net.seen[1], net.seen[2]), "a second look changes something"
    assert sum(float(term.total / term.count) for term in loss.terms) == pytest.approx(float(loss.mean()), rel=1e-6)


def gradients(net, total):
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()), materialize_grads=True)])


def test_no_gradient_passes_through_the_guesses():
    """It is that of two losses on two canvases that are given; one that were let through would be another."""
    batch, stream, net = pairs(12, 4), Stream.of(4, 12), small_net(False)
    objective = PaDIR(stages=2)
    asked = objective.corrupt(batch, stream)
    watched = Watched(net)
    loss = objective(watched, asked, stream)
    text = torch.isin(batch.tokens, TEXT)
    given = [by_hand(net, batch, canvas.clone(), text)[0] for canvas in watched.seen]
    ours = gradients(net, loss.terms[0].total + loss.terms[1].total)
    wanted = gradients(net, given[0] + given[1])
    assert torch.allclose(ours, wanted, rtol=1e-6, atol=1e-6)  # T5 norms in float32
    first = by_hand(net, batch, watched.seen[0], text)[0]
    assert not torch.allclose(ours, gradients(net, first), rtol=1e-2), "the second stage teaches something"

    reading = net.read(batch.source, batch.source != PAD)
    hidden = reading.hidden(asked.tokens, attend=batch.tokens != PAD)
    assert hidden.requires_grad and not guesses(reading, hidden, asked.tokens, text, MASK).requires_grad


def test_guesses_are_never_the_mask_and_touch_nothing_else():
    says = torch.zeros(13)
    says[MASK], says[int(TEXT[2])] = 9.0, 5.0
    net = LawEncoderDecoder(lambda source, tokens, attend: says.expand(*tokens.shape, -1), lambda source: source)
    batch = pairs(5, 5)
    text = torch.isin(batch.tokens, TEXT)
    reading = net.read(batch.source, batch.source != PAD)
    best = guesses(reading, reading.hidden(batch.tokens), batch.tokens, text, MASK)
    assert (best[text] == TEXT[2]).all()
    assert torch.equal(best[~text], batch.tokens[~text])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"score": "some"}, "--score all|noised|masked"),
        ({"keep": -0.1}, "--keep"),
        ({"random": -0.1}, "--random"),
        ({"keep": 0.6, "random": 0.5}, "at most 1"),
        ({"keep": math.nan}, "--keep"),
        ({"random": math.nan}, "--random"),
        ({"rate": 0.0}, "--rate"),
        ({"rate": 1.5}, "--rate"),
        ({"rate": math.nan}, "--rate"),
        ({"stages": 0}, "--stages"),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        PaDIR(**wrong)
    assert says in str(error.value)
