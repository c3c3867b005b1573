"""Wrappers of one conditional: closed forms, brute force, and what every wrapper owes to those around and in it."""

import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.canvas import blank
from remask.core.draw import Nucleus
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.nets.conditional import NetConditional
from remask.nets.wrap import Ban, Temperature, TopK, TopP
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests import conformance
from tests.conformance import FEW_STEPS, SMALL
from tests.nets import tiny
from tests.nets.laws import (
    FULL,
    WRAPPERS,
    Changed,
    Fixed,
    check_is_a_law,
    check_passes_down,
    fixed,
    gap,
    one_blank,
    probabilities,
    share,
    some_blanks,
    twin,
)
from tests.oracle import LAWS, frequencies, noise_floor, total_variation

TABLE = LAWS["random_table"]  # 4 cells, text 0 to 2, mask 3, end 4
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)


# ---- what every wrapper owes -----------------------------------------------------------------------------------------


@every_wrapper
@pytest.mark.parametrize("law", FULL)
def test_a_wrapped_law_is_a_law(wrap, law):
    check_is_a_law(wrap(LAWS[law]), some_blanks(LAWS[law])[1:])  # a full row has no room for what is required


@every_wrapper
def test_a_net_stays_in_its_float_type(wrap):
    net = tiny.make("bert")
    tokens = tiny.masked(tiny.text(3, 12))
    law = wrap(NetConditional(net, tiny.ALPHABET))
    log_prob = law(tokens)
    assert log_prob.dtype == torch.float32
    assert not log_prob.isnan().any()
    assert float(log_prob.logsumexp(-1).abs().max()) < 1e-5
    at = tokens == tiny.MASK
    assert gap(law(tokens, at), log_prob[at]) < 1e-5


@every_wrapper
def test_rows_and_given_go_down_and_a_call_is_one_pass(wrap):
    check_passes_down(wrap, TABLE)


@every_wrapper
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [[0, 0, 1, 0], [1e-30, 1, 1e-30, 1e-30], [1, 1, 1, 1]])
def test_no_nan_where_nearly_all_is_banned(wrap, dtype, weights):
    law, tokens = fixed(weights, dtype)
    check_is_a_law(wrap(law), tokens.expand(3, 1), dtype)


@pytest.mark.parametrize(
    ("sampler", "law"),
    list(zip([FirstHitting(), Ancestral(steps=FEW_STEPS)], SMALL)),
    ids=["first_hitting", "ancestral"],
)
@pytest.mark.parametrize("name", [name for name in WRAPPERS if name not in ("ban", "chain", "require")])
def test_samplers_keep_their_contract_on_wrapped_laws(sampler, law, name):
    for check in (
        conformance.check_ends,
        conformance.check_frozen,
        conformance.check_seed,
        conformance.check_batched,
        conformance.check_permuted,
        conformance.check_resumes,
        conformance.check_nothing_unknown,
        conformance.check_calls,
    ):
        check(sampler, Changed(LAWS[law], WRAPPERS[name]))


@pytest.mark.parametrize("name", ["ban", "chain"])
def test_samplers_keep_their_contract_on_laws_with_bans(name):
    """On a law that leaves a choice: where cells are copies of given ones, a ban may leave nothing."""
    for check in (conformance.check_ends, conformance.check_frozen, conformance.check_batched):
        check(FirstHitting(), Changed(TABLE, WRAPPERS[name]))
        check(Ancestral(steps=FEW_STEPS), Changed(TABLE, WRAPPERS[name]))


@dataclass(frozen=True)
class Unnormalised(Temperature):
    def __call__(self, tokens, at=None):
        return self.conditional(tokens, at) / self.temperature


@dataclass(frozen=True)
class Careless(Ban):
    """Subtracts the largest, -inf or not."""

    def __call__(self, tokens, at=None):
        scores = self.conditional(tokens, at).index_fill(-1, torch.tensor(self.tokens), -torch.inf)
        return (scores - scores.amax(-1, keepdim=True)).log_softmax(-1)


@dataclass(frozen=True)
class KeepsRows(TopK):
    def rows(self, index):
        return self


@dataclass(frozen=True)
class AsksTwice(TopK):
    def __call__(self, tokens, at=None):
        self.conditional(tokens)
        return super().__call__(tokens, at)


@dataclass(frozen=True)
class KeepsNothingSettled(TopK):
    def given(self, tokens, upto):
        return self


def test_planted_bugs_are_caught():
    with pytest.raises(AssertionError, match="not normalised"):
        check_is_a_law(Unnormalised(TABLE, 0.7), some_blanks(TABLE))
    with pytest.raises(AssertionError, match="NaN"):
        check_is_a_law(Careless(TABLE, (0,)), some_blanks(TABLE))
    with pytest.raises(AssertionError, match="number of rows"):
        check_passes_down(lambda c: KeepsRows(c, 2), TABLE)
    with pytest.raises(AssertionError, match="number of passes"):
        check_passes_down(lambda c: AsksTwice(c, 2), TABLE)
    with pytest.raises(AssertionError, match="given did not reach"):
        check_passes_down(lambda c: KeepsNothingSettled(c, 2), TABLE)


# ---- temperature -----------------------------------------------------------------------------------------------------


@every_law
@pytest.mark.parametrize("temperature", [0.3, 0.8, 1, 2.5])
def test_one_blank_of_a_tempered_law_is_that_of_the_law_to_the_power(oracle, temperature):
    """p(x_i | all others)^(1/T), renormalised, is the conditional of p(x)^(1/T): enumerated."""
    tokens = one_blank(oracle)
    truth = twin(oracle, oracle.joint ** (1 / temperature))
    assert gap(Temperature(oracle, temperature)(tokens), truth(tokens)) < 1e-12


def test_independent_cells_are_sampled_at_their_temperature():
    oracle, rows = LAWS["independent"], 6_000
    law = twin(oracle, oracle.joint ** (1 / 0.5)).joint
    floor = noise_floor(law, rows)

    def distance(conditional):
        canvas = blank(rows, oracle.length, oracle.alphabet)
        tokens = sample(FirstHitting(), conditional, canvas, Stream.of(3, rows)).tokens
        return total_variation(frequencies(oracle, tokens), law)

    assert distance(Temperature(oracle, 0.5)) <= floor.mean + 4 * floor.sd
    assert distance(oracle) > floor.mean + 20 * floor.sd


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_temperatures(dtype):
    law, tokens = fixed([0.2, 0.5, 0, 0.3], dtype)
    assert probabilities(Temperature(law, 1e-300), tokens) == [0, 1, 0, 0]
    assert probabilities(Temperature(law, 1e300), tokens) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    even, tokens = fixed([1, 1], dtype)
    assert probabilities(Temperature(even, 1e-9), tokens) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("temperature", [-0.5, math.nan, math.inf, -math.inf])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(BadInput, match="a number above 0"):
        Temperature(TABLE, temperature)


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0])
def test_temperature_0_is_the_greedy_draw(temperature):
    with pytest.raises(BadInput, match="greedily"):
        Temperature(TABLE, temperature)


# ---- cuts ------------------------------------------------------------------------------------------------------------

weights_of_a_row = st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any)  # many ties, some banned


def ranked(weights):
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


def kept(weights, ids):
    return [w if i in ids else 0 for i, w in enumerate(weights)]


@settings(max_examples=150, deadline=None)
@given(weights_of_a_row, st.integers(1, 11), st.sampled_from([torch.float32, torch.float64]))
def test_top_k_against_sorting(weights, k, dtype):
    law, tokens = fixed(weights, dtype)
    truth = share(kept(weights, ranked(weights)[:k]))
    assert probabilities(TopK(law, k), tokens) == pytest.approx(truth, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(weights_of_a_row, st.data(), st.sampled_from([torch.float32, torch.float64]))
def test_top_p_against_fractions(weights, data, dtype):
    """The smallest set of mass p, counted in whole numbers; p lies between two sums, so that rounding has no say."""
    total = sum(weights)
    p = Fraction(2 * data.draw(st.integers(0, total - 1)) + 1, 2 * total)
    ids, mass = [], Fraction(0)
    for i in ranked(weights):
        if mass < p:
            ids.append(i)
            mass += Fraction(weights[i], total)
    law, tokens = fixed(weights, dtype)
    assert probabilities(TopP(law, float(p)), tokens) == pytest.approx(share(kept(weights, ids)), abs=1e-6)


def test_the_token_that_crosses_the_line_belongs():
    law, tokens = fixed([0.25, 0.5, 0.125, 0.125])
    assert probabilities(TopP(law, 0.5), tokens) == pytest.approx([0, 1, 0, 0])
    assert probabilities(TopP(law, 0.500001), tokens) == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert probabilities(TopP(law, 1e-12), tokens) == pytest.approx([0, 1, 0, 0])
    assert probabilities(TopP(law, 0.8), tokens) == pytest.approx([2 / 7, 4 / 7, 1 / 7, 0])


def test_p_1_and_a_large_k_change_nothing():
    rare, tokens = fixed([1 - 2e-17, 1e-17, 1e-17])
    for law in (TopP(rare, 1), TopP(rare, 1.0), TopK(rare, 1000)):
        assert torch.equal(law(tokens), rare(tokens))


def test_top_p_is_the_nucleus_draw():
    """Its frequencies under evenly spread uniforms are the wrapper's probabilities."""
    n = 4_000
    law, _ = fixed(torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist())
    tokens = torch.full((1, n), 30)
    at, uniform = tokens == 30, (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = Nucleus(0.6)(Fixed(law.log_prob.expand(n, -1), law.alphabet)(tokens, at), uniform, at, tokens)
    counts = torch.bincount(drawn, minlength=32)
    wrapped = TopP(law, 0.6)(tokens[:, :1])[0, 0].exp()
    assert float((counts - n * wrapped).abs().max()) <= 1
    assert torch.equal(counts > 0, wrapped > 0)


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_that_is_none(k):
    with pytest.raises(BadInput, match="1 or more"):
        TopK(TABLE, k)


@pytest.mark.parametrize("p", [0, -0.1, 1.01, math.nan])
def test_a_p_that_is_none(p):
    with pytest.raises(BadInput, match=r"\(0, 1\]"):
        TopP(TABLE, p)


# ---- bans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", FULL)
def test_one_blank_of_a_ban_is_that_of_the_law_without_the_states(law):
    oracle = LAWS[law]
    gone = int(oracle.ids[0])
    tokens = one_blank(oracle)
    blanks = tokens == oracle.alphabet.mask
    found = Ban(oracle, (gone,))(tokens, blanks).exp()
    for row, cell in enumerate(blanks.long().argmax(1).tolist()):
        allowed = twin(oracle, torch.where(oracle.states[:, cell] == gone, 0.0, oracle.joint))
        truth = allowed(tokens[row : row + 1], blanks[row : row + 1]).exp()
        assert float((found[row] - truth[0]).abs().max()) < 1e-12


def test_banned_ids_are_never_written():
    oracle = LAWS["markov_chain"]
    tokens = sample(Ancestral(steps=3), Ban(oracle, (0, 4)), blank(300, 4, oracle.alphabet), Stream.of(0, 300)).tokens
    assert set(tokens.unique().tolist()) == {1, 3}


def test_a_ban_of_everything():
    with pytest.raises(BadInput, match="every id that is text"):
        Ban(TABLE, (0, 1, 2))
    with pytest.raises(BadInput, match="every id that is text"):
        Ban(TABLE, (0, 1, 2, 3, 4))
    with pytest.raises(BadInput, match=r"\[-1, 5\].*0 to 4"):
        Ban(TABLE, (0, 5, -1))
    assert torch.equal(Ban(TABLE, ())(some_blanks(TABLE)), TABLE(some_blanks(TABLE)))
    Ban(TABLE, (3, 4))  # special ids are nobody's text


def test_a_given_token_that_is_banned_is_answered_with_what_may_be_written():
    tokens = torch.tensor([[0, 3, 1, 2]])
    log_prob = Ban(TABLE, (0,))(tokens)
    assert log_prob[0, 0].exp().tolist() == pytest.approx([0, 0.5, 0.5, 0, 0])
    assert log_prob[0, 2].exp().tolist() == pytest.approx([0, 1, 0, 0, 0])
    assert (log_prob[0, 1] > -torch.inf).tolist() == [False, True, True, False, False]


def test_ban_first_and_cut_then():
    law, tokens = fixed([0.6, 0.3, 0.1])
    assert probabilities(TopK(Ban(law, (0,)), 1), tokens) == pytest.approx([0, 1, 0])
    assert probabilities(Ban(TopK(law, 2), (0,)), tokens) == pytest.approx([0, 1, 0])
    with pytest.raises(BadInput, match=r"no token left.*TopP\(Ban"):
        Ban(TopK(law, 1), (0,))(tokens)
    with pytest.raises(BadInput, match=r"no token left"):
        Ban(TopK(law, 1), (0,))(tokens, torch.tensor([[True]]))
