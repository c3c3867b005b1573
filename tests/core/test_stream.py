"""Stream: bit for bit the arithmetic it claims, and no structure that a test of a million numbers can see."""

import math

import pytest
import torch

from remask.core.stream import GAMMA, Purpose, Stream, _mixed, mix

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
SEEDS = [0, 1, -1, 1234567, 2**63 - 1, -(2**63), 2**64 - 1, 2**64 + 5, -(2**70) + 3]


# ---- the arithmetic --------------------------------------------------------------------------------------------------


def big_mix(x):
    x &= WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def big_uniform(row_seed, step, purpose, position):
    h = row_seed
    for key in (0, step, purpose, position):
        h = big_mix((h ^ (key & WORD)) + GOLDEN)
    return (h >> 11) * 2.0**-53


def big_row(seed, row):
    return big_mix((big_mix(seed + GOLDEN) ^ row) + GOLDEN)


def big_child(row_seed, key):
    return big_mix((big_mix(row_seed + 0xD1B54A32D192ED03) ^ (key & WORD)) + GOLDEN)


def signed(x):
    return x - (1 << 64) if x >> 63 else x


def test_torch_and_numpy_mix_alike():
    """What an accelerator computes and what the CPU does, on every power of two, its neighbours and random words."""
    edges = [signed((2**k + d) & WORD) for k in range(65) for d in (-1, 0, 1)]
    words = torch.cat([torch.tensor(edges), torch.randint(-(2**63), 2**63 - 1, (10_000,))])
    assert torch.equal(_mixed(words), torch.from_numpy(_mixed(words.numpy())))
    assert [int(x) for x in _mixed(words)[:400]] == [signed(big_mix(int(x))) for x in words[:400]]


def test_words_of_any_shape_and_stride_are_mixed_and_left_alone():
    words = torch.randint(-(2**63), 2**63 - 1, (6, 4))
    before = words.clone()
    assert torch.equal(mix(words.T), mix(words).T)
    assert torch.equal(mix(words[0, 0]), mix(words)[0, 0])
    assert Stream(words[:, 1]).uniform(3, Purpose.TOKEN, 5).equal(Stream(before[:, 1].clone()).uniform(3, 4, 5))
    assert torch.equal(words, before)


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
    ],
)
def test_known_answers_of_splitmix64(seed, outputs):
    """The generator's published outputs: the finaliser of seed + n * golden gamma."""
    state = torch.tensor(seed)
    for expected in outputs:
        state = state + GAMMA
        assert int(mix(state)) == signed(expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_big_integers_bit_for_bit(seed, device):
    stream = Stream.of(seed, torch.tensor([0, 1, 77, 2**40], device=device))
    for step in (0, 1, 255, 2**33):
        for purpose in Purpose:
            found = stream.uniform(step, purpose, 25).cpu()
            expected = [
                [big_uniform(big_row(seed, row), step, purpose, i) for i in range(25)] for row in (0, 1, 77, 2**40)
            ]
            assert torch.equal(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("key", [0, 1, -5, 2**62])
def test_children_equal_big_integers(key):
    stream = Stream.of(42, 3)
    expected = [signed(big_child(big_row(42, row), key)) for row in range(3)]
    assert stream.child(key).seeds.tolist() == expected
    assert stream.child(torch.full((3,), key)).seeds.tolist() == expected


def test_seeds_are_taken_modulo_two_to_the_64():
    assert torch.equal(Stream.of(-1, 3).seeds, Stream.of(2**64 - 1, 3).seeds)
    assert not torch.equal(Stream.of(-1, 3).seeds, Stream.of(1, 3).seeds)


@pytest.mark.parametrize("device", DEVICES)
def test_uniforms_are_53_bit_numbers_in_the_unit_interval(device):
    u = Stream.of(3, 512, device).uniform(1, Purpose.TOKEN, 512)
    assert u.dtype == torch.float64
    assert u.shape == (512, 512)
    assert u.min() >= 0
    assert u.max() < 1
    units = u * 2.0**53
    assert torch.equal(units, units.round())
    assert (units.long() % 2 == 1).double().mean() == pytest.approx(0.5, abs=0.01), "the 53rd bit is used"


# ---- what a number depends on ----------------------------------------------------------------------------------------


def test_a_number_depends_on_its_own_row_and_place_only():
    stream = Stream.of(9, 20)
    whole = stream.uniform(4, Purpose.MASK, 30)
    index = torch.tensor([7, 3, 3, 19])
    assert torch.equal(stream.rows(index).uniform(4, Purpose.MASK, 30), whole[index])
    assert torch.equal(Stream.of(9, index).uniform(4, Purpose.MASK, 30), whole[index])
    assert torch.equal(Stream.of(9, 500).uniform(4, Purpose.MASK, 30)[:20], whole)
    assert torch.equal(stream.uniform(4, Purpose.MASK, 12), whole[:, :12])
    steps = torch.arange(20)
    mixed = stream.uniform(steps, Purpose.MASK, 30)
    assert all(torch.equal(mixed[i], stream.uniform(i, Purpose.MASK, 30)[i]) for i in range(20))


def test_no_two_purposes_share_a_number():
    """An IntEnum takes a second name for the same value without a word."""
    assert len(Purpose) == len(Purpose.__members__)


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    Stream.of(0, 5).child(3).uniform(0, Purpose.TIME, 5)
    assert torch.equal(state, torch.random.get_rng_state())


# ---- statistics, and planted bugs that they must flag ----------------------------------------------------------------

STEPS, ROWS, LENGTH = 8, 64, 160  # with five purposes 0.4 million numbers
AXES = ("step", "purpose", "row", "position")


def ours(seed, rows, step, purpose, length):
    return Stream.of(seed, rows).uniform(step, Purpose(purpose), length)


def no_purpose(seed, rows, step, purpose, length):
    return Stream.of(seed, rows).uniform(step, Purpose.TIME, length)


def additive(seed, rows, step, purpose, length):
    """One mix of seed + step + position: neighbours share numbers along the diagonals."""
    key = Stream.of(seed, rows).seeds[:, None] + GAMMA * (step + torch.arange(length)) + (purpose << 40)
    return (mix(key) >> 11 & (1 << 53) - 1).double() * 2.0**-53


def hash32(seed, rows, step, purpose, length):
    """PCG-RXS-M-XS-32, chained: 32 bits where 53 are promised, and blind to the high half of the seed."""

    def pcg(x):
        x = (x * 747796405 + 2891336453) & 0xFFFFFFFF
        x = (((x >> ((x >> 28) + 4)) ^ x) * 277803737) & 0xFFFFFFFF
        return (x >> 22) ^ x

    h = pcg(seed + pcg(torch.arange(rows)))
    h = pcg(pcg(h ^ step) ^ purpose)
    return pcg(h[:, None] ^ torch.arange(length)).double() * 2.0**-32


def no_finaliser(seed, rows, step, purpose, length):
    """A Weyl sequence: evenly spread, and as regular as a comb."""
    key = Stream.of(seed, rows).seeds[:, None] + GAMMA * (torch.arange(length) + 1000 * step + 100_000 * purpose)
    return (key >> 11 & (1 << 53) - 1).double() * 2.0**-53


def cube(source, seed):
    """[STEPS, 5 purposes, ROWS, LENGTH]."""
    return torch.stack([torch.stack([source(seed, ROWS, s, int(p), LENGTH) for p in Purpose]) for s in range(STEPS)])


def chi_square(cells, bins):
    expected = cells.numel() / bins
    chi = float(((torch.bincount(cells.flatten(), minlength=bins) - expected) ** 2).sum() / expected)
    return (chi - (bins - 1)) / math.sqrt(2 * (bins - 1))


def correlation(a, b):
    """Of two uniforms, in standard errors."""
    return float(((a - 0.5) * (b - 0.5)).mean() * 12 * math.sqrt(a.numel()))


def flags(source, seed):
    """Every statistic as a z score."""
    u = cube(source, seed)
    bits = (u * 2.0**53).long()
    z = {"high bits": chi_square(bits >> 43, 1024), "low bits": chi_square(bits & 1023, 1024)}
    z["pairs"] = chi_square((bits[..., ::2] >> 48) * 32 + (bits[..., 1::2] >> 48), 1024)
    each = torch.stack([(bits >> b & 1).double().mean() for b in range(53)])
    z["each bit"] = float(((each - 0.5).abs().max() * 2) * math.sqrt(bits.numel())) - 2.5  # the largest of 53
    n = u.numel()
    z["duplicates"] = float(n - len(bits.unique())) * 10
    for i, axis in enumerate(AXES):
        size = u.shape[i]
        z[f"lag {axis}"] = correlation(u.narrow(i, 0, size - 1), u.narrow(i, 1, size - 1))
        for k in range(i):  # one up on one axis, one down on another
            a = u.narrow(i, 0, size - 1).narrow(k, 1, u.shape[k] - 1)
            b = u.narrow(i, 1, size - 1).narrow(k, 0, u.shape[k] - 1)
            z[f"diagonal {AXES[k]} {axis}"] = correlation(a, b)
        means = u.mean([j for j in range(4) if j != i])
        spread = float((((means - 0.5) * math.sqrt(12 * n / size)) ** 2).sum())
        z[f"means of {axis}"] = (spread - size) / math.sqrt(2 * size)
    far = cube(source, seed + (1 << 40))
    z["high bits of the seed"] = correlation(u, far)
    z["next seed"] = correlation(u, cube(source, seed + 1))
    return z


@pytest.mark.parametrize("seed", [0, 20261121, -(2**62) + 12345])
def test_no_statistic_is_out_of_line(seed):
    z = flags(ours, seed)
    assert max(map(abs, z.values())) < 4.5, z


@pytest.mark.parametrize(
    ("twin", "caught"),
    [
        (no_purpose, {"lag purpose", "duplicates"}),
        (additive, {"diagonal step position", "duplicates"}),
        (hash32, {"low bits", "each bit", "high bits of the seed"}),
        (no_finaliser, {"lag position", "pairs"}),
    ],
)
def test_planted_bugs_are_flagged(twin, caught):
    z = flags(twin, 7)
    assert caught <= {name for name, value in z.items() if abs(value) > 10}, z


def test_children_share_nothing_with_their_parent_or_each_other():
    stream = Stream.of(5, 200)
    family = [stream, *(stream.child(k) for k in range(4)), stream.child(0).child(0), stream.child(1).child(0)]
    family.append(stream.child(0).child(1))
    u = [torch.stack([member.uniform(s, Purpose.TOKEN, 100) for s in range(3)]) for member in family]
    bits = torch.stack([(x * 2.0**53).long() for x in u])
    assert len(bits.unique()) == bits.numel(), "two members of the family share a number"
    for i in range(len(u)):
        for k in range(i):
            assert abs(correlation(u[i], u[k])) < 4.5
    assert len(torch.cat([member.seeds for member in family]).unique()) == 200 * len(family)


def test_child_twin_by_addition_is_caught():
    """child(k) = seed + k: the child of row 0 would be the row after it."""
    seeds = torch.arange(50)
    children = [Stream(seeds + k).uniform(0, Purpose.TOKEN, 20) for k in (0, 1)]
    assert len(torch.stack(children).unique()) < 2 * 50 * 20
