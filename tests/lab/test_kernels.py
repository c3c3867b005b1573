"""Transition matrices against brute force, closed forms and the notes' figures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.lab import kernels
from remask.lab.kernels import (
    block_kernel,
    detailed_balance,
    distance_to,
    escape_time,
    gap,
    mask_independent_kernel,
    stationary,
    synchronous_kernel,
    total_variation,
)
from remask.lab.laws import Law, from_energy, ising, potts, random_table, spins_of
from tests.samplers import chains

# m, J (m - 1): mean steps in parallel, sweeps of single sites, draws of the whole block, P(stay) in parallel; h = .1
ESCAPES = {
    (4, 1): ("4.8", "3.9", "1.43", ".5423"),
    (4, 2): ("45.5", "28", "1.45", ".9153"),
    (4, 3): ("993", "279", "1.45", ".9880"),
    (6, 1): ("5.6", "4.4", "1.37", ".3994"),
    (6, 2): ("146", "47", "1.32", ".8757"),
    (6, 3): ("23815", "1028", "1.30", ".9820"),
    (8, 1): ("6.1", "4.8", "1.32", ".2941"),
    (8, 2): ("429", "77", "1.22", ".8378"),
    (8, 3): ("541690", "4071", "1.20", ".9761"),
}
GAPS = {0.2: (0.11601, 0.28265, 0.54190, 1), 0.5: (0.02160, 0.06417, 0.17267, 1), 1.0: (0.00070, 0.00298, 0.00917, 1)}


def agree(value, text):
    """Within one unit of the last digit that is printed."""
    return abs(value - float(text)) <= 10.0 ** -len(text.partition(".")[2])


def up(law):
    """sum >= 0."""
    return spins_of(law.length).sum(1) >= 0


def little(law, coupling, field):
    """pi ~ exp(h sum x) prod_i cosh(h + J sum_{j != i} x_j), on a clique."""
    spins = spins_of(law.length)
    total = spins.sum(1, keepdim=True)
    weight = (field * total[:, 0]).exp() * (field + coupling * (total - spins)).cosh().prod(1)
    return weight / weight.sum()


def xor():
    """Uniform on 00 and 11."""
    return Law("copy", torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(("cells", "strength"), ESCAPES)
def test_escape_times_of_the_notes(cells, strength):
    coupling, field = strength / (cells - 1), 0.1
    law = ising(cells, coupling, field)
    parallel, single, whole, stay = ESCAPES[cells, strength]
    together = synchronous_kernel(law)
    assert agree(escape_time(together, 0, up(law)), parallel)
    assert agree(escape_time(block_kernel(law, 1), 0, up(law)) / cells, single)
    assert agree(escape_time(block_kernel(law, cells), 0, up(law)), whole)
    assert agree(float(together[0, 0]), stay)
    closed = (1 + math.exp(-2 * (coupling * (cells - 1) - field))) ** -cells
    assert float(together[0, 0]) == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize("coupling", GAPS)
def test_gaps_of_the_notes(coupling):
    law = ising(4, coupling, 0.1)
    found = [gap(block_kernel(law, k), law) for k in range(1, 5)]
    assert found == pytest.approx(GAPS[coupling], abs=5.1e-6)


def test_half_size_blocks_do_not_rescue():
    law = ising(8, 0.5, 0.05)
    assert gap(block_kernel(law, 1), law) == pytest.approx(2e-6, abs=0.5e-6)
    assert gap(block_kernel(law, 4), law) == pytest.approx(4e-5, abs=0.5e-5)


@pytest.mark.parametrize(
    ("coupling", "together", "masked"), [(0.1, 0.123, 0.034), (0.25, 0.166, 0.048), (0.5, 0.123, 0.011)]
)
def test_stationary_laws_of_parallel_chains(coupling, together, masked):
    law = ising(6, coupling, 0.05)
    kernel = synchronous_kernel(law)
    found = stationary(kernel)
    assert (found - little(law, coupling, 0.05)).abs().max() < 1e-10
    assert detailed_balance(kernel, found) < 1e-15
    assert total_variation(found, law) == pytest.approx(together, abs=1e-3)
    assert total_variation(stationary(mask_independent_kernel(law, 3)), law) == pytest.approx(masked, abs=1e-3)


def test_the_same_matrices_as_an_independent_enumeration():
    law, oracle = ising(5, 0.4, -0.2), chains.clique(5, 0.4, -0.2)
    for k in (1, 3, 5):
        torch.testing.assert_close(mask_independent_kernel(law, k), chains.mask_then_independent(oracle, k))
    beside = chains.clique(5, 0.4, -0.2, Visible.LEAVE_ONE_OUT)
    torch.testing.assert_close(synchronous_kernel(law), chains.synchronous(beside))
    torch.testing.assert_close(stationary(synchronous_kernel(law)), chains.stationary(chains.synchronous(beside)))


@pytest.mark.parametrize("law", [random_table(3, 3, 0.5, seed=1), potts(4, 2, 0.7, 0.3, "ring"), xor()])
def test_block_kernels_by_brute_force(law):
    for k in range(1, law.length + 1):
        total = torch.zeros(len(law.joint), len(law.joint), dtype=torch.float64)
        blocks = list(torch.combinations(torch.arange(law.length), k))
        for block in blocks:
            masked = law.states.clone()
            masked[:, block] = law.alphabet.mask
            possible = law.joint > 0
            total[possible] += torch.stack([law.posterior(row) for row in masked[possible]])
        kernel = block_kernel(law, k)
        torch.testing.assert_close(kernel[law.joint > 0], total[law.joint > 0] / len(blocks))


@given(some.integers(2, 4), some.integers(2, 3), some.integers(0, 10**6), some.sampled_from([0.3, 1.0, 5.0]))
@settings(max_examples=25, deadline=None)
def test_laws_of_block_dynamics(length, symbols, seed, concentration):
    law = random_table(length, symbols, concentration, seed)
    last = 0.0
    for k in range(1, length + 1):
        kernel = block_kernel(law, k)
        assert (kernel.sum(1) - 1).abs().max() < 1e-12
        assert detailed_balance(kernel, law) < 1e-15
        torch.testing.assert_close(law.joint @ kernel, law.joint)
        form = law.joint.diag() - law.joint[:, None] * kernel  # <f, (I - P) f>
        assert torch.linalg.eigvalsh((form + form.T) / 2)[0] > -1e-12
        assert torch.linalg.eigvalsh(law.joint[:, None] * kernel)[0] > -1e-12  # no eigenvalue below 0
        found = gap(kernel, law, must_mix=False)
        assert found >= last - 1e-12  # masking more mixes faster
        last = found
    assert last == pytest.approx(1)


def test_marginals_passed_off_as_a_joint_draw_break_detailed_balance():
    law = ising(4, 0.5, 0.1)
    assert detailed_balance(block_kernel(law, 2), law) < 1e-16
    assert detailed_balance(mask_independent_kernel(law, 2), law) > 1e-3
    assert detailed_balance(synchronous_kernel(law), law) > 1e-3
    torch.testing.assert_close(mask_independent_kernel(law, 1), block_kernel(law, 1))


def test_a_gap_without_symmetrising_is_another_number():
    law = ising(4, 0.5, 0.1)
    kernel = block_kernel(law, 2)
    raw = 1 - float(torch.linalg.eigvalsh(kernel)[-2])  # reads one triangle of a matrix that is not symmetric
    assert abs(raw - gap(kernel, law)) > 1e-3
    general = torch.linalg.eigvals(kernel).abs().sort().values
    assert gap(kernel, law) == pytest.approx(1 - float(general[-2]), abs=1e-12)


@pytest.mark.parametrize(
    ("coupling", "closed"),
    [(0.5, 0.00059406193451), (1, 1.27240031955e-7), (2, 2.60376974624e-15), (3, 4.15628092148e-23)],
)
def test_small_gaps_keep_their_digits(coupling, closed):
    """The lumped chain of the sum, 6 cells, h = .1, in 80-digit arithmetic."""
    law = ising(6, coupling, 0.1)
    kernel = block_kernel(law, 1)
    assert gap(kernel, law) == pytest.approx(closed, rel=1e-8)
    if coupling == 3:
        naive = 1 - float(torch.linalg.eigvals(kernel).abs().sort().values[-2])
        assert abs(naive - closed) > 100 * closed


def test_gaps_of_chains_that_are_not_reversible():
    turn = torch.eye(3, dtype=torch.float64).roll(1, 1)
    kernel, law = 0.4 * torch.eye(3, dtype=torch.float64) + 0.6 * turn, torch.full((3,), 1 / 3, dtype=torch.float64)
    assert gap(kernel, law) == pytest.approx(1 - abs(0.4 + 0.6 * np.exp(2j * np.pi / 3)), abs=1e-12)
    model = ising(4, 0.5, 0.1)
    together = synchronous_kernel(model)  # the same number whichever law is handed over
    assert gap(together, model) == pytest.approx(gap(together, stationary(together)), rel=1e-9)


def test_absolute_gaps_see_the_eigenvalue_near_minus_one():
    law = ising(2, -3.0)  # two cells that want to differ swing between 00 and 11 when redrawn at once
    kernel = synchronous_kernel(law)
    values = torch.linalg.eigvals(kernel).real.sort().values
    assert values[0] < -0.98
    assert gap(kernel, stationary(kernel)) == pytest.approx(1 + float(values[0]), rel=1e-9)


@pytest.mark.parametrize("graph", ["ring", "clique"])  # the ring has pairs of equal eigenvalues
def test_krylov_space_and_all_eigenvalues_agree(graph, monkeypatch):
    law = ising(7, 0.3, 0.1, graph)
    matrices = [block_kernel(law, 1), block_kernel(law, 3), mask_independent_kernel(law, 3), synchronous_kernel(law)]
    whole = [gap(matrix, stationary(matrix)) for matrix in matrices]
    monkeypatch.setattr(kernels, "DENSE", 4)
    assert [gap(matrix, stationary(matrix)) for matrix in matrices] == pytest.approx(whole, rel=1e-8)


def test_gap_zero_is_said():
    law = xor()
    with pytest.raises(BadInput, match=r"around number 0 \(1 of 2; it never meets number 3 there\), so its gap is 0"):
        gap(block_kernel(law, 1), law)
    assert gap(block_kernel(law, 1), law, must_mix=False) == 0
    assert gap(block_kernel(law, 2), law) == pytest.approx(1)
    swing = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    with pytest.raises(BadInput, match="swings for ever"):
        gap(swing, half)
    frozen = ising(6, 30.0, 0.1)
    with pytest.raises(BadInput, match="gap is 0"):
        gap(block_kernel(frozen, 1), frozen)
    assert gap(block_kernel(frozen, 6), frozen) == pytest.approx(1)


def test_stationary_laws():
    noise = torch.from_numpy(np.random.default_rng(0).dirichlet([0.3] * 150, 150))
    found = stationary(noise)
    assert (found @ noise - found).abs().max() < 1e-15
    ladder = torch.zeros(5, 5, dtype=torch.float64)  # up with 1e-40, down with .5: p_n ~ (2e-40)^n
    for n in range(4):
        ladder[n, n + 1], ladder[n + 1, n] = 1e-40, 0.5
    ladder += (1 - ladder.sum(1)).diag()
    ratios = stationary(ladder)
    assert (ratios[1:] / ratios[:-1]).tolist() == pytest.approx([2e-40] * 4, rel=1e-12)
    leak = torch.tensor([[0.5, 0.5, 0], [0, 0.3, 0.7], [0, 0.4, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(stationary(leak), torch.tensor([0, 4 / 11, 7 / 11], dtype=torch.float64))
    with pytest.raises(BadInput, match="cannot leave"):
        stationary(torch.eye(3, dtype=torch.float64))


def test_escape_times_in_closed_form():
    for size in (3, 10, 130):  # a fair walk reflected at 0 needs n^2 steps to n
        walk = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        walk[0, 1] = walk[size, size] = 1
        for n in range(1, size):
            walk[n, n - 1] = walk[n, n + 1] = 0.5
        target = torch.arange(size + 1) == size
        assert escape_time(walk, 0, target) == pytest.approx(size**2, rel=1e-10)
        assert escape_time(walk, size, target) == 0
    rare = torch.tensor([[1 - 1e-30, 1e-30], [0, 1]], dtype=torch.float64)  # 1 - P(stay) would be 0
    assert escape_time(rare, 0, torch.tensor([False, True])) == pytest.approx(1e30)
    law = xor()
    assert escape_time(block_kernel(law, 1), 0, torch.arange(4) == 3) == math.inf
    lost = torch.tensor([[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)  # half of the time it never comes
    assert escape_time(lost, 0, torch.arange(3) == 2) == math.inf


def test_escape_time_is_the_mean_of_runs():
    law = ising(4, 0.4, 0.1)
    kernel, target, n = block_kernel(law, 2), up(law), 3000
    generator = torch.Generator().manual_seed(0)
    at, time = torch.zeros(n, dtype=torch.int64), torch.zeros(n)
    while not target[at].all():
        going = ~target[at]
        time += going
        at[going] = torch.multinomial(kernel[at[going]], 1, generator=generator)[:, 0]
    error = float(time.std()) / math.sqrt(n)
    assert abs(float(time.mean()) - escape_time(kernel, 0, target)) < 3 * error


def test_distance_against_steps():
    law = ising(4, 0.5, 0.1)
    kernel = block_kernel(law, 1)
    found = distance_to(law, kernel, 0, 50)
    powers = [torch.linalg.matrix_power(kernel, t)[0] for t in (0, 1, 7, 50)]
    assert found[[0, 1, 7, 50]].tolist() == pytest.approx([total_variation(law, p) for p in powers])
    assert (found.diff() <= 1e-15).all()
    bound = math.sqrt(1 / float(law.joint[0]) - 1) * (1 - gap(kernel, law)) ** torch.arange(51) / 2
    assert (found <= bound).all()
    too_fast = math.sqrt(1 / float(law.joint[0]) - 1) * (1 - 2 * gap(kernel, law)) ** torch.arange(51) / 2
    assert not (found <= too_fast).all()
    wrong = stationary(synchronous_kernel(law))
    limit = distance_to(law, synchronous_kernel(law), torch.full((16,), 1 / 16, dtype=torch.float64), 600)[-1]
    assert float(limit) == pytest.approx(total_variation(wrong, law), abs=1e-9)


def test_what_cannot_be_served():
    law = ising(4, 0.5)
    for k in (0, 5):
        with pytest.raises(BadInput, match="must be 1 to 4"):
            block_kernel(law, k)
    for make in (synchronous_kernel, lambda law: block_kernel(law, 1), lambda law: mask_independent_kernel(law, 2)):
        with pytest.raises(BadInput, match=r"more than the 2\^12"):
            make(from_energy("flat", torch.zeros([2] * 13)))


@pytest.mark.slow
def test_a_law_of_4096_states():
    law = ising(12, 0.1, 0.05)
    kernel = block_kernel(law, 1)
    found = gap(kernel, law)
    assert found == pytest.approx(0.010448611296944079, rel=1e-9)
    assert total_variation(stationary(kernel), law) < 1e-13
    assert gap(block_kernel(law, 6), law) > found
    assert escape_time(kernel, 0, up(law)) == pytest.approx(98.63868795861539, rel=1e-9)
    together = synchronous_kernel(law)
    assert total_variation(stationary(together), little(law, 0.1, 0.05)) < 1e-12
