"""The parts of the frontier against closed forms: quality on a law that is known, calls, matched entropy, time."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
import torch

from remask.bench.frontier_plot import _look, panels, series
from remask.bench.frontier_quality import LAWS, ByLaw, Coding, Point, at_entropy, loss, quality
from remask.bench.frontier_speed import Speed, timed
from remask.bench.frontier_systems import (
    BOUND,
    BUDGETS,
    EXACT,
    Plan,
    System,
    budgets_in_blocks,
    fresh,
    steps_of,
    write_texts,
)
from remask.bench.lists import positive, shares, whole
from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.core.stream import Stream
from remask.decoders.batched import Written
from remask.lab.language import Language
from remask.samplers.ancestral import Ancestral
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from remask.samplers.entropy_bound import EntropyBound
from remask.samplers.first_hitting import FirstHitting

SMALL = Language(seed=1, words=8, topics=2, classes=4, readings=2)
TINY = Language(seed=3, words=3, topics=1, classes=2, readings=2, slip=0.1)
CPU = torch.device("cpu")
PLAN = Plan(tuple(BUDGETS), [Fraction(1, 4), Fraction(1)], [0.0, 4.0], [1, 2, 8], ["ancestral", "confidence"], [1], [1])


def written(sampler, law=SMALL, texts=120, length=16, temperature=1.0, seed=1):
    return write_texts(fresh(sampler, lambda: law, temperature), length, texts, seed, 1000, CPU)


# ---- the law ---------------------------------------------------------------------------------------------------------


def test_an_exact_sampler_writes_at_the_entropy_of_the_law_and_a_hasty_one_does_not():
    judge = ByLaw(SMALL, SMALL.alphabet)
    truth = SMALL.entropy(16, rows=4000, seed=9)
    exact, hasty = (quality(written(one), BOUND, judge).measures for one in (FirstHitting(), Ancestral(1)))
    found = exact["true_cross_entropy"]
    assert abs(found.value - truth.value) < 4 * (found.stderr + truth.stderr)
    assert hasty["true_cross_entropy"].value > truth.value + 8 * hasty["true_cross_entropy"].stderr
    assert abs(exact["divergence"].value) < 1e-9  # log p as it was written is log p of the text: the chain rule
    assert hasty["divergence"].value > 8 * hasty["divergence"].stderr
    for one in (exact, hasty):
        told = one["true_cross_entropy"].value - one["divergence"].value
        assert one["written_entropy"].value == pytest.approx(told, abs=1e-12)


def test_the_law_s_own_texts_diverge_from_nothing():
    judge = ByLaw(SMALL, SMALL.alphabet)
    _, texts, path = judge.reference(200, 16, 4)
    found = quality(texts, path, judge).measures
    truth = SMALL.entropy(16, rows=4000, seed=9)
    assert found["divergence"].value == 0
    assert abs(found["true_cross_entropy"].value - truth.value) < 4 * (
        found["true_cross_entropy"].stderr + truth.stderr
    )


@pytest.mark.parametrize(
    "sampler", [Confidence(2), Confidence(1), EntropyBound(0.3), EntropyBound(0.0)], ids=["2", "1", "0.3", "0"]
)
def test_what_is_called_exact_is_the_law_of_the_texts(sampler):
    """Whenever every text has been seen, exp of what is called its log p adds up to 1 over texts."""
    found = written(sampler, TINY, texts=1500, length=3)
    law = {tuple(row): p for row, p in zip(found.tokens.tolist(), found.log_prob.exp().tolist())}
    assert len(law) == 27
    assert sum(law.values()) == pytest.approx(1, abs=1e-9)
    counts = Counter(map(tuple, found.tokens.tolist()))
    shares = torch.tensor([counts[text] for text in law]) / 1500
    assert float((shares - torch.tensor(list(law.values()))).abs().max()) < 0.06


def test_a_random_order_has_no_such_law_and_its_divergence_is_no_less_than_the_true_one():
    """The planted twin of the sum above; and KL of the texts, counted, lies below what is reported."""
    found = written(Ancestral(2), TINY, texts=1500, length=3)
    rows = [tuple(row) for row in found.tokens.tolist()]
    counts = Counter(rows)
    values = {}
    for row, value in zip(rows, found.log_prob.tolist()):
        values.setdefault(row, set()).add(round(value, 9))
    assert max(len(of) for of in values.values()) > 1
    shares = torch.tensor([counts[row] for row in values], dtype=torch.float64) / 1500
    log_law = TINY.log_prob(torch.tensor(list(values)))
    counted = float((shares * (shares.log() - log_law)).sum()) / 3  # biased upwards, by about 26 / 3000 nats
    told = quality(found, BOUND, ByLaw(TINY, TINY.alphabet)).measures["divergence"]
    assert counted - 26 / 3000 / 3 < told.value + 4 * told.stderr


def test_words_are_the_ids_that_are_text_in_their_order():
    alphabet = Alphabet(13, 1, 0, 2, frozenset({0, 1, 2, 3, 12}))
    coding = Coding.of(SMALL, alphabet)
    assert coding.ids.tolist() == [*range(4, 12)]
    assert coding.words[coding.ids].tolist() == [*range(8)]
    assert ByLaw(SMALL, alphabet).reference(3, 5, 0)[1].tokens.min() >= 4
    with pytest.raises(BadInput, match="8 words and the checkpoints 9 tokens"):
        Coding.of(SMALL, alphabet._replace(special=frozenset({0, 1, 2, 3})))
    assert LAWS.load("language")(3) == Language(3)


# ---- calls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting:
    """The law, and how many rows it was asked about."""

    law: Any = SMALL
    asked: list[int] = field(default_factory=list)

    alphabet, visible = SMALL.alphabet, SMALL.visible

    def __call__(self, tokens, at=None):
        self.asked.append(len(tokens))
        return self.law(tokens, at)

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


PLANNED = [
    (name, budget) for name in BUDGETS for budget in BUDGETS[name](PLAN, 16) if not isinstance(budget.sampler, Blocks)
]


@pytest.mark.parametrize(("name", "budget"), PLANNED, ids=lambda one: str(getattr(one, "value", one)))
def test_calls_are_the_rows_that_the_network_saw(name, budget):
    counting = Counting()
    found = fresh(budget.sampler, lambda: counting)(16, Stream.of(0, 9))
    assert int(found.calls.sum()) == sum(counting.asked)
    assert int(found.calls.max()) <= 16
    if budget.unit == "steps":
        assert int(found.calls.max()) <= budget.value
    if budget.exact:
        assert found.calls.tolist() == [16] * 9


def test_calls_of_finished_rows_would_show():
    """The planted bug: every row pays for every step of the batch."""
    counting = Counting()
    found = fresh(EntropyBound(4.0), lambda: counting)(16, Stream.of(0, 9))
    assert len({*found.calls.tolist()}) > 1
    assert len(counting.asked) * 9 > sum(counting.asked) == int(found.calls.sum())


def test_budgets():
    assert steps_of([Fraction(1, 16), Fraction(1, 8), Fraction(1, 2), Fraction(1)], 8) == [1, 4, 8]
    blocks = list(budgets_in_blocks(PLAN, 4))
    assert [(one.how, one.value, one.exact, one.path) for one in blocks] == [
        ("first_hitting", 4, True, BOUND),
        ("ancestral", 1, False, BOUND),
        ("ancestral", 2, False, BOUND),
        ("confidence", 1, False, EXACT),
        ("confidence", 2, False, EXACT),
    ]
    (exact,) = (fresh(one.sampler, lambda: SMALL)(10, Stream.of(0, 5)) for one in blocks if one.exact)
    assert exact.calls.tolist() == [10] * 5
    found = fresh(blocks[2].sampler, lambda: SMALL)(10, Stream.of(0, 5))
    assert int(found.calls.max()) <= 6  # three blocks, of which the last is shorter


def test_texts_depend_on_their_number_and_the_seed_only():
    one, other = (write_texts(fresh(Confidence(4), lambda: SMALL), 8, 12, 5, size, CPU) for size in (3, 12))
    assert all(torch.equal(a, b) for a, b in zip(one, other))
    assert not torch.equal(one.tokens, write_texts(fresh(Confidence(4), lambda: SMALL), 8, 12, 6, 3, CPU).tokens)


# ---- what texts are like ---------------------------------------------------------------------------------------------


class Nobody:
    """Judges nothing."""

    name = "nothing"

    def measures(self, written, path):
        return {}


def test_distinct_pairs_and_repetition_by_hand():
    tokens = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6]])
    texts = Written(tokens, torch.tensor([3, 5, 4]), torch.full((3,), -6.0, dtype=torch.float64))
    found = quality(texts, EXACT, Nobody())
    assert found.measures["distinct_2"].value == pytest.approx((2 / 5 + 1 / 5 + 1) / 3)
    assert found.measures["repetition"].value == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    nats = torch.tensor([2.0, 1.0, 6.0]).log()
    assert found.measures["entropy"].value == pytest.approx(float(nats.mean()))
    assert found.measures["entropy"].stderr == pytest.approx(float(nats.std()) / 3**0.5)
    assert found.measures["written_entropy"].value == 1
    assert (found.calls.value, found.most) == (4, 5)
    assert "written_entropy" not in quality(texts, None, Nobody()).measures


# ---- matched entropy -------------------------------------------------------------------------------------------------


def estimate(value, stderr=0.0, n=10):
    return Estimate(value, stderr, "nats", n)


CURVE = [  # not in the order of entropy
    Point(estimate(3.0), estimate(5.0, 0.3)),
    Point(estimate(1.0), estimate(2.0, 0.1)),
    Point(estimate(2.0), estimate(3.0, 0.2)),
]


def test_a_curve_is_read_between_its_neighbours():
    found = at_entropy(CURVE, estimate(2.25, 0.1))
    assert found.value == pytest.approx(3.5)
    assert found.stderr == pytest.approx(((0.75 * 0.2) ** 2 + (0.25 * 0.3) ** 2 + (2.0 * 0.1) ** 2) ** 0.5)
    for end, value in ((1.0, 2.0), (2.0, 3.0), (3.0, 5.0)):
        assert at_entropy(CURVE, estimate(end)).value == pytest.approx(value)
    assert at_entropy(CURVE, estimate(0.99)) is None
    assert at_entropy(CURVE, estimate(3.01)) is None
    assert at_entropy([], estimate(1.0)) is None
    assert at_entropy(CURVE[:1], estimate(3.0)).value == 5.0
    assert at_entropy(CURVE[:1], estimate(2.9)) is None


def test_an_unsorted_curve_would_be_read_wrongly():
    """The planted bug: neighbours are those of the list."""
    low, high = CURVE[1], CURVE[0]
    wrong = low.value.value + (2.25 - 1) / 2 * (high.value.value - low.value.value)
    assert abs(at_entropy(CURVE, estimate(2.25)).value - wrong) > 0.3


def test_a_loss_is_a_share():
    found = loss(estimate(3.3, 0.03), estimate(3.0, 0.06))
    assert found.value == pytest.approx(0.1)
    assert found.stderr == pytest.approx((0.03**2 + (1.1 * 0.06) ** 2) ** 0.5 / 3)


# ---- time ------------------------------------------------------------------------------------------------------------


def system(name, write):
    facts = ("", "", 1.0, "steps", 1.0, None, None, False)
    return System(name, *facts, write=write, quality_key=(name,), time_key=(name,))


class Workshop:
    """A clock that systems let go on, slower every round."""

    def __init__(self):
        self.now, self.order, self.pace = 0.0, [], count(1)

    def system(self, name, seconds):
        def write(length, stream):
            self.order.append(name)
            self.now += seconds * next(self.pace) // 2

        return system(name, write)


def test_rounds_take_turns_and_the_median_is_quoted():
    shop = Workshop()
    fast, slow = shop.system("fast", 10.0), shop.system("slow", 40.0)
    how = {"rounds": 3, "seed": 0, "device": CPU, "clock": lambda: shop.now}
    found = timed(fast, slow, 20, 4, **how)
    assert shop.order == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"]
    assert found.seconds == (15, 30, 35)  # the 3rd, 6th and 7th writing
    assert found.ratios == (80 / 15, 100 / 30, 160 / 35)
    told = found.json()
    assert told["seconds"] == pytest.approx(30 * 1000 / 80)
    assert told["tokens_per_second"] == pytest.approx(80 / 30)
    assert (told["ratio"], told["least"], told["most"]) == (160 / 35, 100 / 30, 80 / 15)
    assert told["seconds_stderr"] / told["seconds"] == pytest.approx(told["tokens_per_second_stderr"] * 30 / 80)
    alone = timed(slow, slow, 20, 4, **how)
    assert alone.ratios == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("patience", "rounds"), [(0.0, 1), (95.0, 1), (96.0, 2), (1e9, 3)])
def test_a_slow_system_has_fewer_rounds_and_says_how_many(patience, rounds):
    shop = Workshop()
    arms = shop.system("fast", 10.0), shop.system("slow", 40.0)
    found = timed(*arms, 20, 4, rounds=3, patience=patience, seed=0, device=CPU, clock=lambda: shop.now)
    assert len(found.seconds) == len(found.ratios) == found.json()["rounds"] == rounds


def test_one_round_has_no_error():
    told = Speed((2.0,), (3.0,), 500).json()
    assert told["seconds"] == 4.0
    assert told["seconds_stderr"] != told["seconds_stderr"]  # nan


# ---- the picture, and flags ------------------------------------------------------------------------------------------


def test_what_is_drawn():
    row = {"arm": "a", "temperature": 1.0, "cache": None, "length": 8, "batch": 1, "loss": 0.1, "loss_stderr": None}
    rows = [
        {**row, "seconds": 3.0, "calls": 4},
        {**row, "seconds": 1.0, "calls": 2, "loss": 0.5, "loss_stderr": 0.1},
        {**row, "seconds": 2.0, "calls": 2, "temperature": 0.8},
        {**row, "seconds": 2.0, "calls": 2, "loss": None},
        {**row, "batch": 16, "seconds": 9.0, "calls": 4},
        {**row, "batch": None, "seconds": None, "calls": None},
    ]
    assert series(rows[:4], "seconds") == {"a": [(1.0, 0.5, 0.1), (3.0, 0.1, 0.0)], "a, T = 0.8": [(2.0, 0.1, 0.0)]}
    assert [(title, x, len(part)) for title, x, part in panels(rows)] == [
        ("length 8, batch 1", "seconds", 4),
        ("length 8, batch 16", "seconds", 1),
        ("length 8", "calls", 4),
    ]


def test_temperatures_that_are_only_matched_with_are_not_drawn():
    row = {"arm": "a", "temperature": 1.0, "loss": 0.1, "loss_stderr": None, "seconds": 3.0, "calls": 4}
    warm = {**row, "temperature": 1.1}
    baseline = {"arm": "b", "sampler": "left_to_right"}
    for more, names in (
        ({}, {"a", "a, T = 1.1"}),
        ({"calls_over_exact": 1.0}, {"a"}),
        (baseline, {"b"}),
    ):
        assert set(series([{**row, **more}, {**warm, **more}], "seconds")) == names
    assert set(series([{**warm, **baseline}], "seconds")) == {"b, T = 1.1"}  # the only one that was asked for
    looks = {tuple(_look(number, "").items()) for number in range(64)}
    assert len(looks) == 64
    assert _look(0, "net, no cache")["linestyle"] == "--"


def test_lists_on_the_command_line():
    assert whole("lengths", ("1,2", "2", "16")) == [1, 2, 16]
    assert shares("budgets", ("1/4,0.5", "1")) == [Fraction(1, 4), Fraction(1, 2), 1]
    assert positive("gammas", ("0", "0.5"), least=0.0) == [0, 0.5]
    for wrong in (("0",), (), ("a",), ("-1",), ("1.5",)):
        with pytest.raises(BadInput, match="--lengths came as"):
            whole("lengths", wrong)
    for wrong in (("0",), (), ("1/0",), ("2",), ("x",)):
        with pytest.raises(BadInput, match="--budgets came as"):
            shares("budgets", wrong)
    for wrong in (("0",), (), ("nan",), ("inf",), ("x",)):
        with pytest.raises(BadInput, match="--temperatures came as"):
            positive("temperatures", wrong)
