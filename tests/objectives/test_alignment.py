"""Alignment: against every monotonic path, written down one by one; gradients too; and bugs that must be caught.

Shapes: B batch, n targets, m predictions, V vocabulary (the blank is id 0).
"""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.objectives.alignment import Alignment, align, canvas_lengths

laws = settings(deadline=None, database=None, max_examples=60)
SIZES = [(n, m) for n, m in product(range(5), range(1, 5))]
PENALTIES = [0.5, 1.0, 3.0]
BLANK = 0


# ---- the truth: all paths --------------------------------------------------------------------------------------------


def paths(n, m, i=0, j=0):
    """Every monotonic path from (i, j) to (n, m), as charges ("say" | "blank" | "skip", target, prediction)."""
    if (i, j) == (n, m):
        yield []
    if i < n and j < m:
        yield from ([("say", i, j), *rest] for rest in paths(n, m, i + 1, j + 1))
    if j < m:
        yield from ([("blank", None, j), *rest] for rest in paths(n, m, i, j + 1))
    if i < n:  # the prediction that was used last pays; before the first one, the first one pays
        yield from ([("skip", i, max(j - 1, 0)), *rest] for rest in paths(n, m, i + 1, j))


def price(path, log_target, log_blank, penalty):
    """What a path costs, nats: arrays or tensors with a gradient."""
    charge = {
        "say": lambda i, j: -log_target[i, j],
        "blank": lambda i, j: -log_blank[j],
        "skip": lambda i, j: -penalty * log_target[i, j],
    }
    return sum((charge[kind](i, j) for kind, i, j in path), 0.0)


def brute_force(log_target, log_blank, penalty):
    """The least price of all paths, of log p [n, m] of targets and [m] of the blank."""
    says, silent = (x.detach().double().numpy() for x in (log_target, log_blank))
    best = min(paths(*says.shape), key=lambda path: price(path, says, silent, penalty))
    return price(best, log_target.double(), log_blank.double(), penalty)


def test_how_many_paths_there_are():
    """Delannoy's numbers."""
    assert [sum(1 for _ in paths(k, k)) for k in range(5)] == [1, 3, 13, 63, 321]
    assert sum(1 for _ in paths(2, 4)) == 41


# ---- a second dynamic programme, in which bugs can be planted --------------------------------------------------------


def slow(first_row=False, skips=True, free_skips=False, next_pays=False, blanks=True, first_column=True):
    """Row by row from the recurrence; the arguments are what people get wrong. Only the loss."""

    def run(log_target, log_blank, targets, predictions, skip_penalty=1.0):
        losses = []
        for says, silent, n, m in zip(
            -log_target.double(), -log_blank.double(), targets.tolist(), predictions.tolist()
        ):
            never = torch.tensor(math.inf, dtype=torch.float64)
            penalty = 0.0 if free_skips else skip_penalty
            row_penalty = skip_penalty if first_row else 1.0
            table = {(0, 0): torch.zeros((), dtype=torch.float64)}
            for i, j in product(range(n + 1), range(m + 1)):
                if i == j == 0:
                    continue
                payer = min(j, m - 1) if next_pays else max(j - 1, 0)
                ways = [
                    table[i - 1, j - 1] + says[i - 1, j - 1] if i and j else never,
                    table[i, j - 1] + silent[j - 1] * (row_penalty if i == 0 else 1) if j and blanks else never,
                    table[i - 1, j] + penalty * says[i - 1, payer] if i and skips and (j or first_column) else never,
                ]
                table[i, j] = min(ways, key=lambda x: x.item())
            losses.append(table[n, m])
        return Alignment(torch.stack(losses), None, None, None)

    return run


# ---- checks ----------------------------------------------------------------------------------------------------------


def random_case(seed, sizes=SIZES, vocabulary=6, longest=4, spread=2.0):
    """Rows of all sizes in one batch: logits [B, m, V], target ids [B, n], lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(len(sizes), longest, vocabulary, dtype=torch.float64, generator=generator)
    targets = torch.randint(1, vocabulary, (len(sizes), longest), generator=generator)
    return logits, targets, *(torch.tensor(size) for size in zip(*sizes))


def costs(logits, targets):
    """Log p of every target at every prediction [B, n, m] and of the blank [B, m]."""
    log_prob = logits.log_softmax(2)
    at = targets[:, None, :].expand(-1, log_prob.shape[1], -1)
    return log_prob.gather(2, at).transpose(1, 2), log_prob[..., BLANK]


def check_value(function, seed=0):
    logits, targets, n, m = random_case(seed)
    says, silent = costs(logits, targets)
    beyond = torch.arange(4)
    says = says.masked_fill((beyond[:, None] >= n[:, None, None]) | (beyond >= m[:, None, None]), torch.nan)
    silent = silent.masked_fill(beyond >= m[:, None], torch.nan)  # padding is never read
    for penalty in PENALTIES:
        found = function(says, silent, n, m, penalty).loss
        wanted = torch.stack([brute_force(says[b, : n[b], : m[b]], silent[b, : m[b]], penalty) for b in range(len(n))])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def check_gradient(function, seed=0):
    logits, targets, n, m = random_case(seed)
    logits.requires_grad_()
    upstream = torch.linspace(-1, 2, len(n), dtype=torch.float64)
    for penalty in PENALTIES:
        says, silent = costs(logits, targets)
        (found,) = torch.autograd.grad((upstream * function(says, silent, n, m, penalty).loss).sum(), logits)
        says, silent = costs(logits, targets)
        total = sum(
            upstream[b] * brute_force(says[b, : n[b], : m[b]], silent[b, : m[b]], penalty) for b in range(len(n))
        )
        (wanted,) = torch.autograd.grad(total, logits)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_cheapest_of_all_paths(seed):
    check_value(align, seed)


@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_is_that_of_the_cheapest_path(seed):
    check_gradient(align, seed)


def test_the_recurrence_row_by_row_passes_the_check():
    check_value(slow())
    check_gradient(slow())


BUGS = {
    "the penalty multiplies the first row's blanks": slow(first_row=True),
    "no target can be skipped": slow(skips=False),
    "skipped targets are free": slow(free_skips=True),
    "the next prediction pays for a skipped target": slow(next_pays=True),
    "every prediction must say something": slow(blanks=False),
    "no target can be skipped before the first prediction": slow(first_column=False),
    "the penalty is forgotten": lambda *case: slow()(*case[:4], 1.0),
    "lengths are forgotten": lambda says, silent, n, m, d: align(
        says.nan_to_num(-9.0), silent.nan_to_num(-9.0), torch.full_like(n, 4), torch.full_like(m, 4), d
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_are_caught(bug):
    with pytest.raises(AssertionError):
        check_value(BUGS[bug])


def soft(says, silent, n, m, penalty):
    """Right in value, with a gradient to all paths."""
    hard = align(says, silent, n, m, penalty).loss
    every = [
        torch.stack(
            [price(p, says[b, : n[b], : m[b]], silent[b, : m[b]], penalty) for p in paths(int(n[b]), int(m[b]))]
        )
        for b in range(len(n))
    ]
    smooth = torch.stack([-(-prices).logsumexp(0) for prices in every])
    return Alignment(hard.detach() + smooth - smooth.detach(), None, None, None)


@pytest.mark.parametrize(
    "function",
    [
        soft,
        lambda says, silent, n, m, d: align(says, silent.detach(), n, m, d),
        lambda says, silent, n, m, d: align(says.detach(), silent, n, m, d),
    ],
    ids=["all paths", "no gradient to blanks", "no gradient to targets"],
)
def test_wrong_gradients_are_caught(function):
    check_value(function)
    with pytest.raises(AssertionError):
        check_gradient(function)


def test_its_gradient_is_the_finite_difference():
    logits, targets, n, m = random_case(11, [(2, 3), (3, 2), (3, 3), (1, 3), (3, 1)], vocabulary=4, longest=3)
    logits.requires_grad_()
    for penalty in PENALTIES:
        assert torch.autograd.gradcheck(lambda x, d=penalty: align(*costs(x, targets), n, m, d).loss, (logits,))


# ---- the path --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
def test_what_it_says_of_the_path_is_the_path(penalty):
    logits, targets, n, m = random_case(5, spread=3.0)
    says, silent = costs(logits, targets)
    found = align(says, silent, n, m, penalty)
    for b in range(len(n)):
        partner, aligned, blank = (leaf[b].tolist() for leaf in found[1:])
        rows, columns = int(n[b]), int(m[b])
        used = [partner[i] for i in range(rows) if aligned[i]]
        assert partner[:rows] == sorted(partner[:rows]), "time runs backwards"
        assert sorted([*used, *(j for j in range(columns) if blank[j])]) == list(range(columns)), "one use a prediction"
        assert not any(aligned[rows:]) and not any(blank[columns:]), "padding is on the path"
        path = [("say" if aligned[i] else "skip", i, partner[i]) for i in range(rows)]
        path += [("blank", None, j) for j in range(columns) if blank[j]]
        torch.testing.assert_close(found.loss[b], price(path, says[b], silent[b], penalty), rtol=0, atol=1e-12)


def one(ids, targets, penalty=1.0):
    """The alignment of predictions, each 0.88 for one of seven ids and 0.02 for the others, with targets."""
    prob = torch.full((1, len(ids), 7), 0.02, dtype=torch.float64).scatter(2, torch.tensor(ids)[None, :, None], 0.88)
    says, silent = costs(prob.log(), torch.tensor([targets]))
    return align(says, silent, torch.tensor([len(targets)]), torch.tensor([len(ids)]), penalty)


def test_all_of_it_one_cell_late():
    """The figures of the notes: cross-entropy 19.560, AXE 8.335."""
    found = one([6, 1, 2, 3, 4], [1, 2, 3, 4, 5])
    cross_entropy = -5 * math.log(0.02)
    assert cross_entropy == pytest.approx(19.560, abs=5e-4)
    assert float(found.loss) == pytest.approx(8.335, abs=5e-4)
    assert float(found.loss) == pytest.approx(-2 * math.log(0.02) - 4 * math.log(0.88), abs=1e-12)
    assert found.partner.tolist() == [[1, 2, 3, 4, 4]]
    assert found.aligned.tolist() == [[True] * 4 + [False]]
    assert found.blank.tolist() == [[True] + [False] * 4]


def test_a_penalty_makes_it_dearer_until_skipping_does_not_pay():
    late, right = -math.log(0.02), -math.log(0.88)
    for penalty in (1, 2, 3, 4):
        found = float(one([6, 1, 2, 3, 4], [1, 2, 3, 4, 5], penalty).loss)
        assert found == pytest.approx(min((1 + penalty) * late + 4 * right, 5 * late), abs=1e-12)
    assert float(one([6, 1, 2, 3, 4], [1, 2, 3, 4, 5], 4.0).loss) == pytest.approx(5 * late, abs=1e-12)


def test_the_first_rows_blanks_cost_what_they_cost():
    """Five blanks before the one word: no penalty on them."""
    found = one([6, 6, 6, 6, 6, 1], [1], penalty=3.0)
    assert float(found.loss) == pytest.approx(-5 * math.log(0.02) - math.log(0.88), abs=1e-12)


def test_a_prediction_short():
    """Four predictions for five targets. The cheapest place to skip is at the prediction that says what is skipped."""
    right, late = -math.log(0.88), -math.log(0.02)
    for penalty in (1.0, 2.0):
        found = one([1, 2, 4, 5], [1, 2, 3, 4, 5], penalty)
        assert float(found.loss) == pytest.approx((3 + penalty) * right + late, abs=1e-12)
        assert not found.blank.any()
    assert found.aligned.tolist() == [[True, True, True, False, True]]  # with a penalty of 1 there are ties
    assert found.partner.tolist() == [[0, 1, 2, 2, 3]]


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_no_target_at_all_is_a_row_of_blanks():
    logits, targets, n, m = random_case(2, [(0, 4), (0, 2), (0, 0), (3, 3)])
    says, silent = costs(logits, targets)
    found = align(says, silent, n, m, 2.0)
    wanted = [-silent[0].sum(), -silent[1, :2].sum(), torch.zeros(()).double()]
    torch.testing.assert_close(found.loss[:3], torch.stack(wanted), rtol=0, atol=1e-12)
    empty = align(says[:2, :0], silent[:2], n[:2], m[:2])
    torch.testing.assert_close(empty.loss, found.loss[:2], rtol=0, atol=1e-12)
    assert empty.partner.shape == (2, 0)


def test_what_is_impossible_is_avoided_and_gets_no_gradient():
    """A blank of probability zero: the cross-entropy is all that is left, and nothing is not a number."""
    logits, targets, _, _ = random_case(3, [(4, 4)] * 3)
    logits[..., BLANK] = -torch.inf
    logits.requires_grad_()
    says, silent = costs(logits, targets)
    four = torch.full((3,), 4)
    found = align(says, silent, four, four, 1e6)
    torch.testing.assert_close(found.loss, -says.diagonal(dim1=1, dim2=2).sum(1), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.loss.sum(), logits)
    assert gradient.isfinite().all()
    assert found.aligned.all() and not found.blank.any()


def test_a_loss_may_be_infinite_or_not_a_number_and_ends():
    never, two, four = torch.full((2, 4, 4), -torch.inf), torch.tensor([2, 4]), torch.tensor([4, 4])
    assert (align(never, never[:, 0], two, four, 2.0).loss == torch.inf).all()
    assert align(never * 0, never[:, 0] * 0, two, four, 2.0).loss.isnan().all()


def test_single_precision_is_added_up_in_double():
    logits, targets, n, m = random_case(6)
    says, silent = costs(logits.float(), targets)
    found = align(says, silent, n, m, 3.0).loss
    assert torch.equal(found, align(says.double(), silent.double(), n, m, 3.0).loss)


# ---- laws ------------------------------------------------------------------------------------------------------------


def drawn(data, n, m, vocabulary=5):
    """A random law [1, m, V] of probabilities 2^-k or so (ties included), and targets."""
    levels = st.lists(st.integers(0, 6), min_size=m * vocabulary, max_size=m * vocabulary)
    logits = -torch.tensor(data.draw(levels), dtype=torch.float64).view(1, m, vocabulary)
    targets = torch.tensor([data.draw(st.lists(st.integers(1, vocabulary - 1), min_size=n, max_size=n))])
    return logits, targets


def loss_of(logits, targets, penalty=1.0):
    says, silent = costs(logits, targets)
    n, m = (torch.tensor([x.shape[1]]) for x in (targets, logits))
    return float(align(says, silent, n, m, penalty).loss)


sizes, penalties = st.integers(1, 7), st.sampled_from([0.5, 1.0, 2.0, 5.0])


@laws
@given(sizes, penalties, st.data())
def test_it_is_at_most_the_cross_entropy(n, penalty, data):
    logits, targets = drawn(data, n, n)
    cross_entropy = -logits.log_softmax(2).gather(2, targets[:, :, None]).sum()
    assert loss_of(logits, targets, penalty) <= float(cross_entropy) + 1e-9


@laws
@given(sizes, sizes, penalties, st.data())
def test_a_larger_penalty_is_stricter(n, m, penalty, data):
    logits, targets = drawn(data, n, m)
    small, large = (loss_of(logits, targets, d) for d in (penalty, 1.5 * penalty))
    assert small - 1e-9 <= large <= 1.5 * small + 1e-9


@laws
@given(sizes, sizes, penalties, st.data())
def test_one_more_prediction_costs_its_blank_at_most(n, m, penalty, data):
    logits, targets = drawn(data, n, m + 1)
    where = data.draw(st.integers(1, m))  # before the first one nothing else can pay for what the first one paid
    fewer = torch.cat([logits[:, :where], logits[:, where + 1 :]], 1)
    blank = -float(logits.log_softmax(2)[0, where, BLANK])
    assert loss_of(logits, targets, penalty) <= loss_of(fewer, targets, penalty) + blank + 1e-9


@laws
@given(sizes, sizes, penalties, st.data())
def test_a_certain_blank_behind_changes_nothing(n, m, penalty, data):
    logits, targets = drawn(data, n, m)
    certain = torch.full((1, 1, 5), -torch.inf, dtype=torch.float64)
    certain[..., BLANK] = 0
    longer = torch.cat([logits, certain], 1)
    assert loss_of(longer, targets, penalty) == pytest.approx(loss_of(logits, targets, penalty), abs=1e-9)


@laws
@given(st.integers(2, 7), penalties, st.data())
def test_a_shift_costs_one_blank_and_one_skip(n, penalty, data):
    """Right: the first cell is silent, the last target is skipped. Left: the other way round."""
    logits, targets = drawn(data, n, n)
    log_prob = logits.log_softmax(2)[0]
    diagonal = -log_prob[range(n), targets[0]]
    late, early = logits.roll(1, 1), logits.roll(-1, 1)
    skip_last = -penalty * log_prob[n - 2, targets[0, -1]]
    blank_first = -log_prob[n - 1, BLANK]
    assert loss_of(late, targets, penalty) <= float(diagonal[:-1].sum() + skip_last + blank_first) + 1e-9
    skip_first = -penalty * log_prob[1, targets[0, 0]]
    blank_last = -log_prob[0, BLANK]
    assert loss_of(early, targets, penalty) <= float(diagonal[1:].sum() + skip_first + blank_last) + 1e-9


@laws
@given(st.integers(0, 10_000), penalties)
def test_a_row_does_not_depend_on_the_others_nor_on_its_padding(seed, penalty):
    logits, targets, n, m = random_case(seed)
    whole = align(*costs(logits, targets), n, m, penalty)
    b = seed % len(n)
    says, silent = costs(logits[b : b + 1, : m[b]], targets[b : b + 1, : n[b]])
    alone = align(says, silent, n[b : b + 1], m[b : b + 1], penalty)
    assert float(alone.loss) == float(whole.loss[b])
    assert torch.equal(alone.partner[0], whole.partner[b, : n[b]])
    assert torch.equal(alone.blank[0], whole.blank[b, : m[b]])


def test_lengths_of_canvases():
    lengths = torch.arange(8)
    assert canvas_lengths(lengths, 1.0).tolist() == [1, 1, 2, 3, 4, 5, 6, 7]
    assert canvas_lengths(lengths, 1.25).tolist() == [max(1, round(1.25 * n)) for n in range(8)]
    assert canvas_lengths(lengths, 0.5).tolist() == [1, 1, 1, 2, 2, 2, 3, 4]
