"""Draws: the law of a token measured to the last bit, and the faults of cheaper draws shown next to it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from remask.core.draw import BLOCK, CHUNK, Categorical, Greedy, Nucleus, inverse_cdf
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream

laws = settings(deadline=None, database=None, max_examples=100)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = [1, 2, 3, 127, 128, 129, 255, 256, 300, 1000]
LARGEST = 1 - 2.0**-53


def random_rows(rows, size, seed, zeros=0.3):
    """Log p of skewed laws with holes, float64."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (rows, size)))
    holes = torch.from_numpy(rng.random((rows, size)) < zeros)
    holes[torch.arange(rows), torch.from_numpy(rng.integers(0, size, rows))] = False
    return logits.masked_fill(holes, -torch.inf).log_softmax(1)


def reference(log_prob, uniform):
    """One long float64 CDF."""
    cdf = log_prob.double().exp().cumsum(1)
    return torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True)[:, 0]


def uniforms(n, seed=0):
    return Stream.of(seed, n).uniform(0, Purpose.TOKEN, 1)[:, 0]


def measured(draw, log_prob):
    """The probability of each token under a draw that inverts a CDF, [V]: its edges found by bisection to 2^-53."""
    size = len(log_prob)
    rows = log_prob.expand(size, size)
    wanted = torch.arange(size)
    low, high = torch.zeros(size, dtype=torch.float64), torch.full((size,), LARGEST, dtype=torch.float64)
    for _ in range(54):
        middle = (low + high) / 2
        past = draw(rows, middle) >= wanted
        high, low = torch.where(past, middle, high), torch.where(past, low, middle)
    high[draw(rows, torch.zeros(size, dtype=torch.float64)) >= wanted] = 0
    return pad(high, (0, 1), value=1.0).diff()


# ---- against one long sum --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_same_tokens_as_one_long_float64_sum(size):
    log_prob, u = random_rows(2048, size, size), uniforms(2048, size)
    assert torch.equal(inverse_cdf(log_prob, u), reference(log_prob, u))


@pytest.mark.parametrize("size", [3, 129, 1000])
def test_scale_does_not_matter(size):
    """Log p need not be normalised, and large offsets do not overflow."""
    log_prob, u = random_rows(512, size, 1), uniforms(512)
    for offset in (-700.0, 900.0, 1e5):
        same = inverse_cdf(log_prob + offset, u) == inverse_cdf(log_prob, u)
        assert same.double().mean() > 0.995, "only rounding of the offset itself may move an edge"


@pytest.mark.parametrize("rows", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_any_number_of_rows(rows):
    log_prob, u = random_rows(max(rows, 1), 50, 2)[:rows], uniforms(max(rows, 1))[:rows]
    found = inverse_cdf(log_prob, u)
    assert found.dtype == torch.int64
    assert found.tolist() == [int(inverse_cdf(log_prob[i : i + 1], u[i : i + 1])) for i in range(rows)]
    at = torch.ones(1, rows, dtype=torch.bool)
    for draw in (Categorical(), Greedy(), Nucleus()):
        assert draw(log_prob, u, at, at.long()).shape == (rows,)
        assert not draw.joint


@pytest.mark.parametrize("device", DEVICES)
def test_same_tokens_on_every_device(device):
    log_prob, u = random_rows(1024, 700, 4), uniforms(1024)
    assert torch.equal(inverse_cdf(log_prob.to(device), u.to(device)).cpu(), inverse_cdf(log_prob, u))


# ---- never a token that cannot be ------------------------------------------------------------------------------------


@laws
@given(st.integers(0, 10**6), st.sampled_from(SIZES), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_impossible_tokens_are_never_drawn(seed, size, dtype):
    """At u = 0, at the largest u, at every edge of the CDF and one step to either side of it."""
    log_prob = random_rows(1, size, seed, zeros=0.6).to(dtype)
    edges = log_prob.double().exp().cumsum(1)[0]
    edges = edges / edges[-1]
    near = torch.cat([edges, torch.nextafter(edges, edges - 1), torch.nextafter(edges, edges + 1)])
    u = torch.cat([torch.tensor([0.0, 2.0**-53, LARGEST], dtype=torch.float64), near]).clamp(0, LARGEST)
    tokens = inverse_cdf(log_prob.expand(len(u), -1), u)
    assert (tokens < size).all()
    assert torch.isfinite(log_prob[0, tokens]).all()


@laws
@given(st.integers(0, 999), st.floats(0, 1, exclude_max=True))
def test_a_certain_token_is_certain(token, u):
    log_prob = torch.full((1, 1000), -torch.inf)
    log_prob[0, token] = 0
    assert inverse_cdf(log_prob, torch.tensor([u], dtype=torch.float64)).item() == token


def test_whole_empty_blocks_are_stepped_over():
    log_prob = torch.full((1, 5 * BLOCK), -torch.inf)
    log_prob[0, [BLOCK + 3, 4 * BLOCK + 1]] = math.log(0.5)
    u = torch.tensor([0.0, 0.25, 0.5, LARGEST], dtype=torch.float64)
    assert inverse_cdf(log_prob.expand(4, -1), u).tolist() == [BLOCK + 3, BLOCK + 3, 4 * BLOCK + 1, 4 * BLOCK + 1]


# ---- rare tokens -----------------------------------------------------------------------------------------------------

RARE = 1e-5


def with_a_tail(size, dtype=torch.float64):
    """Half of the tokens at p = 1e-5, spread among common ones."""
    prob = torch.full((size,), RARE, dtype=torch.float64)
    common = torch.arange(size) % 2 == 0
    prob[common] = (1 - RARE * int((~common).sum())) / int(common.sum())
    return prob.log().to(dtype), ~common


def tail_error(draw, dtype=torch.float64, size=1000):
    """Largest relative error of the probability with which a rare token is drawn."""
    log_prob, rare = with_a_tail(size, dtype)
    truth = log_prob.double().softmax(0)[rare]
    return float(((measured(draw, log_prob)[rare] - truth) / truth).abs().max())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6), (torch.bfloat16, 2e-6)]
)
def test_rare_tokens_keep_their_probability(dtype, tolerance):
    """The law of what was passed in, whatever its type: half precision is not made worse by the draw."""
    assert tail_error(inverse_cdf, dtype) < tolerance


def float32_sum(log_prob, uniform):
    """The planted bug: the CDF in float32."""
    cdf = log_prob.float().exp().cumsum(1)
    target = uniform.float()[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True)[:, 0].clamp(max=log_prob.shape[1] - 1)


def bfloat16_shift(log_prob, uniform):
    """The planted bug of an earlier draft: the largest log p is subtracted, and the rest exponentiated, in bfloat16."""
    return inverse_cdf((log_prob - log_prob.amax(1, keepdim=True)).exp().double().log(), uniform)


def test_a_float32_sum_is_caught():
    assert tail_error(float32_sum) > 1e-3


def test_a_bfloat16_difference_is_caught():
    assert tail_error(bfloat16_shift, torch.bfloat16) > 1e-3


def test_half_a_million_draws_hit_the_tail_as_often_as_they_should():
    """64 tokens at p = 1e-5: the count within 4 sigma, and a chi-square over the tokens."""
    log_prob, rare = with_a_tail(BLOCK)
    n = 500_000
    counts = torch.bincount(inverse_cdf(log_prob.expand(n, -1), uniforms(n, 11)), minlength=BLOCK).double()
    expected = n * log_prob.exp()
    tail, wanted = float(counts[rare].sum()), float(expected[rare].sum())
    assert abs(tail - wanted) < 4 * math.sqrt(wanted)
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - (BLOCK - 1)) < 4 * math.sqrt(2 * (BLOCK - 1))


def race_ratio(steps, n=4_000_000, seed=0):
    """How much rarer than it should be a token of p = 1e-5 is in a float32 exponential race over `steps` time steps.

    As in the code of Sahoo et al. 2024: token p/T / E against mask (1 - 1/T) / E', E = -log u with u = rand float32.
    The token wins only where E is tiny, that is where u is one of its largest values 1 - j 2^-24, so those alone are
    simulated: j uniform on 1..1024 of the 2^24.
    """
    generator = torch.Generator().manual_seed(seed)
    j = torch.randint(1, 1025, (n,), generator=generator)
    token = -(1 - j.float() * 2.0**-24).log()
    mask = -(torch.rand(n, generator=generator) + 1e-10).log()
    weight = torch.tensor(RARE / steps)
    wins = (weight / token > (1 - 1 / steps) / mask).double()
    rate = float(wins.mean()) * 2.0**-14
    return rate / (RARE / steps), float(wins.std()) / math.sqrt(n) * 2.0**-14 / (RARE / steps)


@pytest.mark.parametrize("steps", [64, 200])
def test_a_float32_race_loses_rare_tokens_as_theory_predicts(steps):
    """r = 1 / (c (exp(1/c) - 1)), c = 2^24 p / T: the fault that flatters generative perplexity (notes/mdlm.md 1.7)."""
    c = 2.0**24 * RARE / steps
    predicted = 1 / (c * math.expm1(1 / c))
    ratio, error = race_ratio(steps)
    assert abs(ratio - predicted) < 4 * error + 0.02, "1/T of the race goes to the mask's weight and to second hits"
    assert ratio < 1 - 10 * error, "and the check sees it"
    log_prob, rare = with_a_tail(BLOCK)
    ours = float(measured(inverse_cdf, log_prob)[rare].sum()) / (RARE * int(rare.sum()))
    assert abs(ours - 1) < 1e-9, "ours has no time in it, and no such loss"


# ---- greedy and nucleus ----------------------------------------------------------------------------------------------


def test_greedy_takes_the_most_probable():
    log_prob = random_rows(100, 77, 5)
    assert torch.equal(Greedy()(log_prob, uniforms(100), *[torch.ones(1, 100)] * 2), log_prob.argmax(1))


def smallest_set(prob, top_p):
    """Tokens of the nucleus, by definition: add the most probable until they hold top_p."""
    kept, mass = [], 0.0
    for token in np.argsort(-prob, kind="stable"):
        if mass >= top_p:
            break
        kept.append(int(token))
        mass += prob[token]
    return kept


@laws
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0.05, 1.0))
def test_nucleus_is_the_smallest_set_and_renormalised(seed, size, top_p):
    log_prob = random_rows(1, size, seed, zeros=0.2)
    prob = log_prob[0].exp().numpy()
    kept = smallest_set(prob, top_p)
    n = 4_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = Nucleus(top_p)(log_prob.expand(n, -1), u, *[torch.ones(1, n)] * 2)
    found = torch.bincount(tokens, minlength=size).double().numpy() / n
    expected = np.zeros(size)
    expected[kept] = prob[kept] / prob[kept].sum()
    assert np.abs(found - expected).max() <= 1.5 / n


def test_nucleus_of_everything_is_the_law_and_of_little_is_greedy():
    log_prob = random_rows(1, 200, 6)
    n = 50_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    found = torch.bincount(Nucleus(1.0)(log_prob.expand(n, -1), u, *[torch.ones(1, n)] * 2), minlength=200) / n
    assert (found - log_prob[0].exp()).abs().max() <= 1.5 / n
    many = random_rows(100, 30, 7)
    assert torch.equal(Nucleus(1e-9)(many, uniforms(100), *[torch.ones(1, 100)] * 2), many.argmax(1))


def test_a_nucleus_without_its_last_token_is_caught():
    """The planted bug: the token that crosses the line is dropped."""
    prob = np.array([0.5, 0.3, 0.2])
    assert smallest_set(prob, 0.6) == [0, 1]
    u = torch.full((1,), 0.99, dtype=torch.float64)
    assert Nucleus(0.6)(torch.tensor(prob).log()[None], u, *[torch.ones(1, 1)] * 2).item() == 1


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.5, math.nan])
def test_a_nucleus_must_hold_something(top_p):
    with pytest.raises(BadInput, match="top_p"):
        Nucleus(top_p)


@pytest.mark.parametrize("nothing", [-torch.inf, torch.nan])
def test_a_cell_with_nothing_to_draw_is_a_sentence(nothing):
    log_prob = torch.zeros(3, 5)
    log_prob[1] = nothing
    with pytest.raises(BadInput, match="no token left that may be drawn"):
        inverse_cdf(log_prob, torch.full((3,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("draw", [Categorical(), Greedy()])
@pytest.mark.parametrize("wrong", [float("nan"), -torch.inf])
def test_a_cell_without_any_token_is_refused_by_every_draw(draw, wrong):
    log_prob = torch.zeros(3, 5).log_softmax(1)
    log_prob[1] = wrong
    with pytest.raises(BadInput, match="look for NaN"):
        draw(log_prob, uniforms(3), torch.ones(1, 3), torch.ones(1, 3))
