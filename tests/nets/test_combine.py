"""Guidance, products and mixtures: closed forms by enumeration, what each asks, and members that do not belong."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas, blank
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.nets.combine import Guidance, Mixture, Product, WithoutPrompt, without_prompt
from remask.nets.wrap import LeaveOneOut, Temperature, TopK
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests import conformance
from tests.conformance import FEW_STEPS
from tests.nets.laws import (
    Changed,
    Fixed,
    check_is_a_law,
    check_passes_down,
    fixed,
    gap,
    one_blank,
    probabilities,
    saying,
    share,
    some_blanks,
    twin,
)
from tests.oracle import LAWS, Watched, frequencies, noise_floor, random_table, total_variation

A = LAWS["random_table"]  # 4 cells, text 0 to 2, mask 3, end 4
B = random_table(4, 3, seed=11, mask=3, end=4)
C = random_table(4, 3, seed=12, mask=3, end=4)
FIRST_TWO = torch.tensor([True, True, False, False])  # the prompt's cells

COMBINED = {
    "guidance": lambda c: Guidance(c, B, 2.5),
    "guided_by": lambda c: Guidance(B, c, 0.4),
    "product": lambda c: Product((B, c), (0.7, 0.6)),
    "contrast": lambda c: Product((c, B, C), (1.5, -0.3, 0)),
    "mixture": lambda c: Mixture((B, c, C), (1, 3, 0)),
}
every_combination = pytest.mark.parametrize("combine", COMBINED.values(), ids=COMBINED)


def all_prompted(tokens):
    return FIRST_TWO.expand(len(tokens), -1)


# ---- what every combination owes -------------------------------------------------------------------------------------


@every_combination
def test_a_combined_law_is_a_law(combine):
    check_is_a_law(combine(A), some_blanks(A))
    check_is_a_law(WithoutPrompt(combine(A), all_prompted(some_blanks(A))), some_blanks(A))


@every_combination
def test_rows_and_given_go_down_and_a_call_is_one_pass(combine):
    check_passes_down(combine, A)


def test_float_types_mix():
    wide, narrow = fixed([0.2, 0.5, 0.3])[0], fixed([0.6, 0.3, 0.1], torch.float32)[0]
    double, single = torch.float64, torch.float32
    for members, dtype in (((wide, narrow), double), ((narrow, wide), double), ((narrow, narrow), single)):
        for law in (Guidance(*members, 2), Product(members, (2, -0.5)), Mixture(members, (1, 2))):
            check_is_a_law(law, torch.tensor([[3], [3]]), dtype)


@pytest.mark.parametrize(
    ("sampler", "name"),
    [(FirstHitting(), "guidance"), (Ancestral(steps=FEW_STEPS), "contrast"), (FirstHitting(), "mixture")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_samplers_keep_their_contract_on_combined_laws(sampler, name):
    for check in (
        conformance.check_ends,
        conformance.check_frozen,
        conformance.check_batched,
        conformance.check_permuted,
        conformance.check_resumes,
        conformance.check_calls,
    ):
        check(sampler, Changed(A, COMBINED[name]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_nan_where_members_ban(dtype):
    banned, free = fixed([0, 0, 1], dtype)[0], fixed([0.2, 0.3, 0.5], dtype)[0]
    tokens = torch.tensor([[3]])
    for law in (
        Guidance(banned, free, 3),
        Guidance(free, banned, 3),
        Guidance(free, banned, 0.5),
        Guidance(banned, banned, 7),
        Product((banned, free), (1, 1)),
        Product((free, banned), (2, -1)),
        Product((banned, banned), (2, -1)),
        Mixture((banned, free), (1, 2)),
        Mixture((banned, banned), (1, 2)),
    ):
        check_is_a_law(law, tokens, dtype)


def test_a_member_of_another_vocabulary():
    other = random_table(4, 3, seed=11, mask=3, end=0)
    for combine in (
        lambda: Guidance(A, other, 2),
        lambda: Product((A, B, other), (1, 1, 1)),
        lambda: Mixture((A, other), (1, 1)),
    ):
        with pytest.raises(BadInput, match=r"differ in end, special.*one tokenizer"):
            combine()
    words = Fixed(torch.zeros(1, 5), A.alphabet._replace(continues=frozenset({1})))
    assert Guidance(A, words, 2).alphabet == A.alphabet  # which ids continue words need not be known to both
    with pytest.raises(BadInput, match="size"):
        Mixture((A, Fixed(torch.zeros(1, 9), Alphabet(9, 3, end=4, special=frozenset({3, 4})))), (1, 1))


def test_what_is_said_at_visible_cells_is_what_all_say():
    left, none = saying(A, Visible.LEAVE_ONE_OUT), saying(A, Visible.NONE)
    for kinds, kind in (
        ((A, B), Visible.DENOISE),
        ((left, left), Visible.LEAVE_ONE_OUT),
        ((A, left), Visible.NONE),
        ((A, none), Visible.NONE),
    ):
        assert Guidance(*kinds, 2).visible is kind
        assert Product(kinds, (1, 1)).visible is kind
        assert Mixture(kinds, (1, 1)).visible is kind
    assert Guidance(A, none, 1).visible is Mixture((A, none), (1, 0)).visible is Visible.DENOISE
    assert Guidance(A, none, 0).visible is Visible.NONE


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (), (0, 0), (1, -1), (1, -2), (math.nan, 1), (math.inf, 1)])
@pytest.mark.parametrize("pool", [Product, Mixture])
def test_weights_that_are_none(pool, weights):
    with pytest.raises(BadInput, match="a pool came with"):
        pool((A, B), weights)


def test_pools_of_nothing_and_mixtures_below_zero():
    with pytest.raises(BadInput, match="0 models"):
        Product((), ())
    with pytest.raises(BadInput, match="none may be below 0"):
        Mixture((A, B), (2, -1))


# ---- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1), (0.5, 0.5), (0.3, 1.7), (2, 0), (1.8, -0.8)], ids=str)
def test_one_blank_of_a_product_is_that_of_the_product_of_laws(weights):
    """p_a(x)^a p_b(x)^b, enumerated over whole states, given all other cells."""
    tokens = one_blank(A)
    truth = twin(A, A.joint ** weights[0] * B.joint ** weights[1])
    found = Product((A, B), weights)(tokens)
    assert gap(found[tokens == 3], truth(tokens)[tokens == 3]) < 1e-12


def test_products_by_hand():
    a, tokens = fixed([0.5, 0.25, 0.25, 0])
    b, _ = fixed([0.2, 0.4, 0, 0.4])
    assert probabilities(Product((a, b), (1, 1)), tokens) == pytest.approx([0.5, 0.5, 0, 0])
    assert probabilities(Product((a, b), (0, 2)), tokens) == pytest.approx(share([0.04, 0.16, 0, 0.16]))
    # b bans the third token and leans away: it has no say there, as if it agreed with a
    leaning = share([0.5**2 / 0.2, 0.25**2 / 0.4, 0.25**2 / 0.25, 0])
    assert probabilities(Product((a, b), (2, -1)), tokens) == pytest.approx(leaning)


def test_members_that_exclude_one_another():
    a, tokens = fixed([1, 0, 0])
    b, _ = fixed([0, 0.5, 0.5])
    with pytest.raises(BadInput, match=r"no token left.*pool them with Mixture"):
        Product((a, b), (1, 1))(tokens)
    assert probabilities(Mixture((a, b), (1, 3)), tokens) == pytest.approx([0.25, 0.375, 0.375])


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 0.5, 0.3), (4, 0, 1)], ids=str)
def test_a_mixture_is_the_mean_of_probabilities(weights):
    tokens = some_blanks(A)
    truth = sum(w * law(tokens).exp() for w, law in zip(share(weights), (A, B, C))).log()
    assert gap(Mixture((A, B, C), weights)(tokens), truth) < 1e-12


def test_a_mixture_of_laws_at_its_first_cell():
    """With nothing visible the mixture of marginals is the marginal of the mixture, enumerated."""
    blanks = torch.full((1, 4), 3)
    truth = twin(A, 0.25 * A.joint + 0.75 * B.joint)
    assert gap(Mixture((A, B), (1, 3))(blanks), truth(blanks)) < 1e-12


def test_members_without_weight_are_not_asked():
    one, two = Watched(A, 5), Watched(B, 5)
    tokens = some_blanks(A, 5)
    Product((one, two), (1, 0))(tokens)
    Mixture((two, one), (0, 2))(tokens)
    assert one.ledger.calls.tolist() == [2] * 5
    assert two.ledger.calls.tolist() == [0] * 5
    assert torch.equal(Mixture((two, A), (0, 2))(tokens), A(tokens))


# ---- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.5, 4])
def test_one_blank_of_guidance_is_that_of_the_guided_law(scale):
    tokens = one_blank(A)
    truth = twin(A, A.joint**scale * B.joint ** (1 - scale))
    assert gap(Guidance(A, B, scale)(tokens)[tokens == 3], truth(tokens)[tokens == 3]) < 1e-12


@pytest.mark.parametrize("scale", [0.3, 1.5, 4])
def test_guidance_is_the_formula_and_the_one_of_lladas_code(scale):
    tokens = some_blanks(A)
    blanks = tokens == 3
    with_it, without_it = A(tokens, blanks)[:, :3], B(tokens, blanks)[:, :3]
    found = Guidance(A, B, scale)(tokens, blanks)[:, :3]
    assert gap(found, (scale * with_it + (1 - scale) * without_it).log_softmax(1)) < 1e-12
    w = scale - 1
    assert gap(found, (without_it + (w + 1) * (with_it - without_it)).log_softmax(1)) < 1e-12


@pytest.mark.parametrize(("scale", "asked", "resting"), [(1, 0, 1), (1.0, 0, 1), (0, 1, 0)])
def test_the_ends_of_the_scale_ask_one_member(scale, asked, resting):
    members = Watched(A, 6), Watched(B, 6)
    tokens = some_blanks(A, 6)
    assert torch.equal(Guidance(*members, scale)(tokens), (A, B)[asked](tokens))
    assert members[asked].ledger.calls.tolist() == [1] * 6
    assert members[resting].ledger.calls.tolist() == [0] * 6


def test_bans_under_guidance_by_hand():
    """What the conditional bans stays banned; what only the other one bans keeps its log p."""
    a, tokens = fixed([0.5, 0.25, 0.25, 0])
    b, _ = fixed([0.2, 0.4, 0, 0.4])
    assert probabilities(Guidance(a, b, 2), tokens) == pytest.approx(share([0.25 / 0.2, 0.0625 / 0.4, 0.25, 0]))
    half = share([math.sqrt(0.1), math.sqrt(0.1), 0.25, 0])
    assert probabilities(Guidance(a, b, 0.5), tokens) == pytest.approx(half)
    cut = Guidance(TopK(a, 1), TopK(b, 1), 2)
    assert probabilities(cut, tokens) == [1, 0, 0, 0]


def test_guided_independent_cells_are_sampled_by_the_guided_law():
    oracle, rows, scale = LAWS["independent"], 6_000, 2.0
    other = twin(oracle, oracle.joint**0.2)
    law = twin(oracle, oracle.joint**scale * other.joint ** (1 - scale)).joint
    floor = noise_floor(law, rows)

    def distance(conditional):
        canvas = blank(rows, oracle.length, oracle.alphabet)
        return total_variation(
            frequencies(oracle, sample(FirstHitting(), conditional, canvas, Stream.of(4, rows)).tokens), law
        )

    assert distance(Guidance(oracle, other, scale)) <= floor.mean + 4 * floor.sd
    assert distance(Guidance(oracle, other, 1.3)) > floor.mean + 10 * floor.sd


def test_guidance_the_other_way_is_a_swap():
    for scale in (-0.5, math.nan, math.inf, 1e9):
        with pytest.raises(BadInput, match="swap the two"):
            Guidance(A, B, scale)


@dataclass(frozen=True)
class Naive(Guidance):
    """The formula and nothing else."""

    def __call__(self, tokens, at=None):
        with_it, without_it = self.conditional(tokens, at), self.unconditional(tokens, at)
        return (self.scale * with_it + (1 - self.scale) * without_it).log_softmax(-1)


@dataclass(frozen=True)
class Raw(Product):
    """Not renormalised."""

    def __call__(self, tokens, at=None):
        return sum(w * c(tokens, at) for c, w in zip(self.conditionals, self.weights))


@dataclass(frozen=True)
class OneForAll(Guidance):
    """Only the conditional follows its rows."""

    def rows(self, index):
        return replace(self, conditional=self.conditional.rows(index))


def test_planted_bugs_are_caught():
    with pytest.raises(AssertionError, match="NaN"):
        check_is_a_law(Naive(A, B, 2), some_blanks(A))
    with pytest.raises(AssertionError, match="not normalised"):
        check_is_a_law(Raw((A, B), (0.5, 0.5)), some_blanks(A))
    with pytest.raises(AssertionError, match="number of rows"):
        check_passes_down(lambda c: OneForAll(B, c, 2), A)


# ---- without the prompt ----------------------------------------------------------------------------------------------


def test_without_its_prompt_a_law_is_that_of_the_rest():
    tokens = some_blanks(A)
    prompt = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    law = without_prompt(A, prompt)
    assert torch.equal(law(tokens), A(torch.where(prompt, 3, tokens)))
    for index in ([3, 3, 0], [7]):
        index = torch.tensor(index)
        assert torch.equal(law.rows(index)(tokens[index]), law(tokens)[index])
    assert not torch.equal(law.rows(torch.tensor([1, 0]))(tokens[:2]), law(tokens)[:2])


def test_nothing_of_the_prompt_is_handed_over_as_settled():
    """Watched holds us to it."""
    tokens = A.sample(20, 0)
    prompt = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(6)) < 0.4
    tokens[:, 3] = 3
    watched = Watched(A, 20)
    law = without_prompt(watched, prompt).given(tokens, torch.full((20,), 3))
    assert torch.equal(law(tokens), without_prompt(A, prompt)(tokens))
    shown = (~prompt).long().cumprod(1).sum(1)
    assert torch.equal(watched.ledger.settled[0][1], shown.clamp(max=3))
    index = torch.tensor([5, 5, 1])
    assert torch.equal(law.rows(index)(tokens[index]), law(tokens)[index])
    left = LeaveOneOut(without_prompt(watched, prompt)).given(tokens, torch.full((20,), 3))
    assert gap(left(tokens), LeaveOneOut(without_prompt(A, prompt))(tokens)) < 1e-12


def test_guided_by_its_own_prompt_every_row_is_its_own():
    """The canvases do not depend on which rows are in the batch, nor on caches, and the prompt pulls harder."""
    rows = 400
    tokens = A.sample(rows, 3)
    tokens[:, 2:] = 3
    prompt = all_prompted(tokens).clone()
    prompt[::3, 0] = False  # rows differ in what is their prompt
    canvas, stream = Canvas(tokens, tokens != 3), Stream.of(8, rows)
    law = Guidance(A, without_prompt(A, prompt), 3.0)
    together = sample(FirstHitting(), law, canvas, stream).tokens
    index = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:50]
    alone = sample(FirstHitting(), law.rows(index), canvas.rows(index), stream.rows(index)).tokens
    assert torch.equal(alone, together[index])
    plain = sample(FirstHitting(), A, canvas, stream).tokens

    def pull(filled):
        """Mean log ratio of the first filled cell with and without the prompt."""
        at = torch.zeros_like(prompt)
        at[:, 2] = True
        ratio = A(tokens, at) - without_prompt(A, prompt)(tokens, at)
        return float(ratio.gather(1, filled[:, 2:3]).mean())

    assert pull(together) > pull(plain) + 0.05


def test_prompts_that_are_none():
    with pytest.raises(BadInput, match=r"torch.int64 \(2, 4\): they must be bool"):
        without_prompt(A, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(BadInput, match="must be bool"):
        without_prompt(A, FIRST_TWO)
    with pytest.raises(BadInput, match=r"\(2, 4\), but the canvas is \(3, 4\)"):
        without_prompt(A, FIRST_TWO.expand(2, -1))(torch.full((3, 4), 3))


def test_wrappers_and_combinations_nest():
    tokens = some_blanks(A)
    law = Temperature(Mixture((TopK(A, 2), Guidance(B, C, 2)), (1, 1)), 0.7)
    check_is_a_law(law, tokens)
    check_passes_down(lambda c: Temperature(Mixture((TopK(c, 2), Guidance(B, C, 2)), (1, 1)), 0.7), A)
