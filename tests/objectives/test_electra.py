"""ELECTRA: labels, draws, scored cells and losses, against enumeration."""

import math

import pytest
import torch

from remask.core.choose import exactly
from remask.core.draw import inverse_cdf
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.objectives.electra import ELECTRA, SCORES, Corrupted
from tests.nets.tiny import ALPHABET, MASK, text
from tests.objectives.exact import LawDetector, LawPair, best_scores, expected_detection, joint, replaced
from tests.oracle import LAWS, surprise

ORACLE = LAWS["random_table"]
LENGTH = ORACLE.length


def law_case(objective, rows=200, seed=0, oracle=ORACLE, texts=None):
    texts = oracle.sample(rows, seed) if texts is None else texts
    stream = Stream.of(seed, len(texts))
    return objective.corrupt(Batch.of(texts, oracle.alphabet), stream), stream


# ---- labels and draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lucky", [True, False])
def test_a_lucky_guess_is_real(lucky):
    objective = ELECTRA(mask_rate=0.5, lucky=lucky)
    question, stream = law_case(objective)
    term, corrupted = objective.replace(LawPair(objective, ORACLE), question, stream)
    same = corrupted.tokens == question.targets
    assert same[~question.at].all(), "a token that was not chosen was replaced"
    assert (same & question.at).any()
    assert (~same).any()
    assert torch.equal(corrupted.replaced, ~same if lucky else question.at)
    assert float(term.total) > 0


def test_chosen_cells_are_the_rounded_share_and_keep_of_them_is_seen():
    objective = ELECTRA(mask_rate=0.3, keep=0.25)
    tokens = text(1000, 20)
    tokens[:, :3] = 2
    asked = objective.corrupt(Batch.of(tokens, ALPHABET), Stream.of(0, 1000))
    assert (asked.at.sum(1) == 5).all()
    assert not asked.at[:, :3].any(), "a special token was chosen"
    seen = (asked.tokens == tokens)[asked.at].double()
    assert abs(float(seen.mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 5000)
    assert (asked.tokens == MASK)[asked.at].double().mean() == 1 - seen.mean(), "a mask, or itself; never random"
    assert asked.counts.tolist() == [5000, 20_000]


@pytest.mark.parametrize("task", ["detection", "all-tokens", "replace-mlm"])
def test_counts_of_the_question_are_those_of_the_terms(task):
    """The training loop divides by the question's."""
    objective = ELECTRA(task=task, mask_rate=0.5)
    question, stream = law_case(objective)
    loss = objective(LawPair(objective, ORACLE), question, stream)
    assert [float(term.count) for term in loss.terms] == question.counts.tolist()


def draws(objective, temperature, rows=12_000):
    """Surprise of pairs of draws for one text whose third and fourth cell are masked, under the generator's law."""
    oracle = LAWS["markov_chain"]
    state = int(oracle.joint.argsort()[-3])
    question, stream = law_case(objective, oracle=oracle, texts=oracle.states[state].expand(rows, -1))
    corrupted = objective.replace(LawPair(objective, oracle), question, stream)[1]
    at = torch.tensor([False, False, True, True])
    rows_of_pair = (question.at == at).all(1)
    seen = torch.where(at, oracle.alphabet.mask, oracle.states[state])[None]
    law = (oracle(seen, at[None])[:, oracle.ids] / temperature).softmax(1)
    drawn = torch.searchsorted(oracle.ids, corrupted.tokens[rows_of_pair][:, at])
    pairs = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert pairs.sum() > rows / 10
    return surprise(pairs, (law[0][:, None] * law[1]).flatten())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_generator(temperature):
    """Both cells together: draws are independent, each with the law that the generator gives it."""
    objective = ELECTRA(mask_rate=0.5, keep=0.0, temperature=temperature)
    assert abs(draws(objective, temperature)) < 4
    assert draws(objective, 3 * temperature) > 4, "the planted bug: another temperature"


def test_draws_are_the_inverse_cdf_of_their_own_numbers():
    objective = ELECTRA(mask_rate=0.5)
    question, stream = law_case(objective)
    corrupted = objective.replace(LawPair(objective, ORACLE), question, stream)[1]
    uniform = stream.uniform(0, Purpose.TOKEN, LENGTH)[question.at]
    drawn = inverse_cdf(ORACLE(question.tokens, question.at), uniform)
    assert torch.equal(corrupted.tokens[question.at], drawn)
    index = torch.tensor([7, 3])
    part = objective.replace(LawPair(objective, ORACLE), question.part(index), stream.rows(index))[1]
    assert torch.equal(part.tokens, corrupted.tokens[index]), "a row's draws do not depend on the other rows"


def test_draws_do_not_see_what_is_hidden():
    """Other targets, the same visible text: the same draws."""
    objective = ELECTRA(mask_rate=0.5, keep=0.0)
    question, stream = law_case(objective)
    pair = LawPair(objective, ORACLE)
    turned = ORACLE.ids[(torch.searchsorted(ORACLE.ids, question.targets) + 1) % len(ORACLE.ids)]
    other = question._replace(targets=torch.where(question.at, turned, question.targets))
    ours, theirs = (objective.replace(pair, q, stream)[1].tokens for q in (question, other))
    assert torch.equal(ours, theirs)


# ---- the truth -------------------------------------------------------------------------------------------------------

CASES = [
    ELECTRA(mask_rate=0.5),
    ELECTRA(mask_rate=0.5, keep=0.0),
    ELECTRA(mask_rate=0.5, lucky=False),  # of one chosen cell nothing could be known: its draw is as good as the text
    ELECTRA(mask_rate=0.8, temperature=0.7),
]
every_case = pytest.mark.parametrize("objective", CASES, ids=["plain", "nothing kept", "unlucky", "cold"])


def losses(objective, nets, groups=24, rows=160, oracle=ORACLE):
    """Means of the second term for each net, on the same questions, [groups, nets]."""
    found = []
    for seed in range(1000, 1000 + groups):
        question, stream = law_case(objective, rows, seed, oracle)
        terms = [objective(net, question, stream).terms[1] for net in nets]
        found.append([float(term.total / term.count) for term in terms])
    return torch.tensor(found, dtype=torch.float64)


def with_scores(objective, scores, oracle=ORACLE):
    pair = LawPair(objective, oracle)
    pair.discriminator = LawDetector(oracle, scores)
    return pair


@every_case
def test_the_best_discriminator_has_the_conditional_entropy_and_any_other_more(objective):
    """H(replaced | corrupted row) by enumeration; other scores on the same questions cost what they should."""
    law = replaced(objective, ORACLE)
    assert float(law.sum()) == pytest.approx(LENGTH, rel=1e-12)
    entropy = float((torch.xlogy(law.sum(2), law.sum(2)) - torch.xlogy(law, law).sum(2)).sum()) / LENGTH
    best = best_scores(objective, ORACLE)
    assert float(expected_detection(objective, ORACLE, best)) == pytest.approx(entropy, rel=1e-9)
    noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planted = [best + 0.5 * noise, best + 0.4, 0.6 * best, -best]
    found = losses(objective, [with_scores(objective, scores) for scores in (best, *planted)])
    error = found.std(0) / math.sqrt(len(found))
    assert abs(float(found[:, 0].mean()) - entropy) < 3 * error[0]
    assert error[0] < 0.05 * entropy, "the check is blind: too few rows"
    for k, scores in enumerate(planted, 1):
        worse, expected = found[:, k] - found[:, 0], float(expected_detection(objective, ORACLE, scores)) - entropy
        spread = float(worse.std()) / math.sqrt(len(found))
        assert abs(float(worse.mean()) - expected) < 4 * spread
        assert worse.mean() > 3 * spread


def test_the_best_scores_are_a_stationary_point():
    objective = CASES[0]
    scores = best_scores(objective, ORACLE).clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected_detection(objective, ORACLE, scores), scores)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("task", ["replace-mlm", "all-tokens"])
def test_the_ablations_that_predict_tokens_have_their_entropies(task):
    """H(text's token | corrupted row), at the chosen cells (of which it is known that they were chosen) or at all."""
    objective = ELECTRA(task=task, mask_rate=0.5)
    law = joint(objective, ORACLE)
    law = law[..., 1] if task == "replace-mlm" else law.sum(3)
    mass = law.sum(2)
    entropy = float((torch.xlogy(mass, mass) - torch.xlogy(law, law).sum(2)).sum() / mass.sum())
    found = losses(objective, [LawPair(objective, ORACLE)])[:, 0]
    assert abs(float(found.mean()) - entropy) < 3 * float(found.std()) / math.sqrt(len(found))


# ---- which cells are scored ------------------------------------------------------------------------------------------


def scored_cells(score, rows=300, length=9):
    generator = torch.Generator().manual_seed(1)
    uniform = Stream.of(3, rows).uniform(0, Purpose.SCORE, length)
    at = exactly(
        torch.rand(rows, length, generator=generator).double(), torch.ones(rows, length).bool(), torch.arange(rows) % 7
    )
    fake = at & (torch.rand(rows, length, generator=generator) < 0.6)
    return SCORES[score](at, Corrupted(torch.zeros(rows, length), fake), uniform), at, fake


SIZES = {
    "all": lambda at, fake: torch.full((len(at),), 9),
    "masked": lambda at, fake: at.sum(1),
    "random": lambda at, fake: torch.minimum(at.sum(1), (~at).sum(1)),
    "uniform": lambda at, fake: at.sum(1),
    "balanced": lambda at, fake: fake.sum(1) + torch.minimum(fake.sum(1), (~fake).sum(1)),
    "half": lambda at, fake: torch.full((len(at),), 5),
}


@pytest.mark.parametrize("score", SIZES)
def test_scored_cells_are_as_many_as_they_should_be_and_where(score):
    assert set(SIZES) == set(SCORES)
    scored, at, fake = scored_cells(score)
    assert torch.equal(scored.sum(1), SIZES[score](at, fake))
    inside = {"masked": ~scored | at, "random": ~scored | ~at, "balanced": ~fake | scored}
    assert inside.get(score, scored | True).all()
    if score in ("random", "uniform", "half", "balanced"):
        free = {"random": ~at, "balanced": ~fake}.get(score, torch.ones_like(at))
        part = scored & free
        counts = torch.tensor([float(part[:, i].sum()) for i in range(9)])
        expected = (free * (part.sum(1) / free.sum(1).clamp(min=1))[:, None]).sum(0)
        assert abs(surprise(counts, expected)) < 4, "some cells are favoured"


def row_totals(objective, rows=40):
    """Detection totals of each row, for a discriminator that knows nothing: ln 2 for every scored cell."""
    question, stream = law_case(objective, rows)
    pair = with_scores(objective, torch.zeros(len(ORACLE.states), LENGTH, dtype=torch.float64))
    index = torch.arange(rows)[:, None]
    return torch.stack([objective(pair, question.part(i), stream.rows(i)).terms[1].total for i in index]) / math.log(2)


@pytest.mark.parametrize("score", SIZES)
def test_by_mean_each_row_weighs_the_same_and_by_sum_each_cell(score):
    settings = {"mask_rate": 0.5, "keep": 0.0, "score": score}
    mean, total = (row_totals(ELECTRA(**settings, score_scale=scale)) for scale in ("mean", "sum"))
    scored = {"all": 4.0, "half": 2.0}.get(score, 2.0)
    if score != "balanced":
        torch.testing.assert_close(mean, torch.full_like(mean, 4.0))
        torch.testing.assert_close(total, torch.full_like(total, scored))
    else:  # a row of lucky guesses alone has nothing to balance
        assert set(total.round().tolist()) == {0.0, 2.0, 4.0}
        assert torch.equal(mean.round(), torch.where(total > 0, 4.0, 0.0).double())


# ---- fields ----------------------------------------------------------------------------------------------------------

TWO_STAGE = {"two_stage": True, "generator_width": 1.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"task": "mlm"}, "--task detection|replace-mlm|all-tokens"),
        ({"score": "some"}, "--score all|masked|random|uniform|balanced|half"),
        ({"score_scale": "max"}, "--score-scale mean|sum"),
        ({"share": "tied"}, "--share none|shared|gdes"),
        ({"mask_rate": 0.0}, "--mask-rate"),
        ({"mask_rate": 1.5}, "--mask-rate"),
        ({"keep": 1.0}, "--keep"),
        ({"keep": -0.1}, "--keep"),
        ({"task": "all-tokens", "score": "half"}, "--task detection"),
        ({"task": "replace-mlm", "score_scale": "sum"}, "--task detection"),
        ({"freeze_generator": True}, "--generator"),
        ({"freeze_generator": True, "generator": "x"}, "--share gdes"),
        (TWO_STAGE, "--share none"),
        ({**TWO_STAGE, "share": "gdes"}, "--share none"),
        ({**TWO_STAGE, "share": "none", "freeze_generator": True, "generator": "x"}, "do not freeze"),
        ({"two_stage": True, "share": "none"}, "--generator-width 1"),
        ({**TWO_STAGE, "share": "none", "generator_depth": 0.5}, "--generator-depth 1"),
        *(
            ({name: value}, f"--{name.replace('_', '-')} came as {value}")
            for name in ("discriminator_weight", "temperature", "generator_width", "generator_depth")
            for value in (0.0, -1.0, math.nan, math.inf)
        ),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        ELECTRA(**wrong)
    assert says in str(error.value)


def test_a_generator_that_is_too_large_is_remarked_on():
    for settings in ({"generator_width": 2.0}, {"generator_depth": 1.5}):
        (remark,) = ELECTRA(**settings).remarks
        assert "larger than the discriminator" in remark
    quiet = ({}, {"generator_width": 1.0}, {"generator_width": 2.0, "generator": "x"})
    assert not any(ELECTRA(**settings).remarks for settings in quiet)
