"""`remask bench ising`: the arithmetic against independent transition matrices; the whole bench on a small budget."""

import math

import pytest
import torch

from remask.bench import BENCHES
from remask.bench import ising as bench
from remask.bench.ising import ARMS, MOVES, Ising
from remask.core.conditional import Visible
from remask.core.errors import BadInput, UnknownName
from remask.core.sampler import sample
from remask.core.stream import Stream
from tests.oracle import noise_floor, total_variation
from tests.samplers import chains

ORACLE = chains.clique(4, 0.4, 0.05)  # its mask is 0, its end 2: the letters are 1 and 3
LAW = bench.clique(4, 0.4, 0.05)
EXACT = bench.conditionals(LAW)


class Closed:
    """The oracle for rows that an end token closes, as packed text has them."""

    visible, alphabet = Visible.DENOISE, ORACLE.alphabet

    def __call__(self, tokens, at=None):
        inside = ORACLE(tokens[:, :-1])
        last = torch.zeros_like(inside[:, :1])
        return torch.cat([inside, last], 1) if at is None else torch.cat([inside, last], 1)[at]

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


def table():
    return bench.tabulate(Closed(), 4, torch.tensor([*ORACLE.ids.tolist(), ORACLE.alphabet.mask]))


def test_the_law_is_the_oracle_s():
    torch.testing.assert_close(LAW, ORACLE.joint)
    torch.testing.assert_close(bench.clique(2, 0.0, 0.0), torch.full((4,), 0.25).double())
    with pytest.raises(BadInput, match="overflow"):
        bench.clique(4, math.inf, 0.0)


def test_exact_samplers_keep_the_law():
    for name in ("first_hitting", "gibbs_2", "gibbs_3"):
        torch.testing.assert_close(ARMS[name].law(EXACT), LAW)


def test_the_others_have_the_laws_of_the_oracle_s_matrices():
    first = chains.marginals(ORACLE)
    one_out = chains.clique(4, 0.4, 0.05, Visible.LEAVE_ONE_OUT)
    wanted = {
        "ancestral_1": first,
        "mask_independent_2": first @ torch.linalg.matrix_power(chains.mask_then_independent(ORACLE, 2), MOVES),
        "mask_independent_3": first @ torch.linalg.matrix_power(chains.mask_then_independent(ORACLE, 3), MOVES),
        "parallel_gibbs": first @ torch.linalg.matrix_power(chains.synchronous(one_out), MOVES),
    }
    for name, law in wanted.items():
        torch.testing.assert_close(ARMS[name].law(EXACT), law)


def test_a_table_answers_as_what_it_was_made_of():
    made = table()
    canvas = made.canvas(3)
    assert canvas.frozen.tolist() == [[False] * 4 + [True]] * 3
    assert canvas.tokens.tolist() == [[0] * 4 + [2]] * 3
    rows = canvas.tokens.clone()
    rows[1, :2], rows[2, 3] = torch.tensor([1, 3]), 3
    torch.testing.assert_close(made(rows)[:, :-1], ORACLE(rows[:, :-1]))
    patterns = bench.digits_of(4, 3) == 2
    torch.testing.assert_close(made.letters[patterns], EXACT[patterns])
    rows[:, :-1] = ORACLE.states[[0, 5, 15]]
    assert made.number(rows).tolist() == [0, 5, 15]


@pytest.mark.parametrize("name", ARMS)
def test_samplers_on_the_table_have_the_predicted_law(name):
    """Each arm's matrices and its sampler, held to each other at the noise floor of true samples."""
    made, arm, n = table(), ARMS[name], 3000
    drawn = sample(arm.sampler, made, made.canvas(n), Stream.of(3, n))
    law = arm.law(EXACT)
    floor = noise_floor(law, n)
    seen = torch.bincount(made.number(drawn.tokens), minlength=16).double() / n
    assert total_variation(seen, law) < floor.mean + 4 * floor.sd


def test_a_wrong_prediction_is_caught():
    """Planted: the law of `ancestral` in 3 steps for the sampler of 2."""
    made, n = table(), 3000
    drawn = sample(ARMS["ancestral_2"].sampler, made, made.canvas(n), Stream.of(3, n))
    floor = noise_floor(LAW, n)
    seen = torch.bincount(made.number(drawn.tokens), minlength=16).double() / n
    assert total_variation(seen, ARMS["ancestral_3"].law(EXACT)) > floor.mean + 4 * floor.sd


def test_the_distance_of_samples_is_not_biased_upwards():
    generator = torch.Generator().manual_seed(0)
    other = ARMS["mask_independent_3"].law(EXACT)
    truth = total_variation(other, LAW)
    for law, wanted in ((LAW, 0.0), (other, truth)):
        found = [bench.crossed(torch.multinomial(law, 4000, True, generator=generator), LAW) for _ in range(200)]
        values, errors = (torch.tensor(part, dtype=torch.float64) for part in zip(*found))
        assert float(values.mean()) == pytest.approx(wanted, abs=0.004)
        assert float(values.std()) == pytest.approx(float(errors.mean()), rel=0.4)
    plain = torch.bincount(torch.multinomial(LAW, 4000, True, generator=generator), minlength=16) / 4000
    assert total_variation(plain, LAW) > 0.005  # what a plain distance says of true samples


def test_agreement_of_two_orders_by_hand():
    assert bench.ranks([3.0, 1.0, 3.0, 0.5]).tolist() == [3.5, 2, 3.5, 1]
    same = bench.agree([0, 0, 1, 2], [0.1, 0.2, 0.5, 0.51], [0.01] * 4)
    assert (same.kendall, same.pairs, same.beyond_noise, same.against) == (1, 5, 4, 0)
    assert same.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # one tie among four
    turned = bench.agree([0, 1, 2], [3, 2, 1], [0.1] * 3)
    assert (turned.spearman, turned.kendall, turned.against) == (pytest.approx(-1), -1, 3)
    mixed = bench.agree([0, 1, 2, 3], [0, 2, 1, 3], [1.0] * 4)
    assert mixed.kendall == pytest.approx(4 / 6) and mixed.spearman == pytest.approx(0.8)
    assert (mixed.beyond_noise, mixed.against) == (1, 0)


def test_each_packed_row_is_one_sample_and_its_end(tmp_path):
    from remask.data.corpus import prepare

    rows = bench.draw(LAW, 50, (0, 1))
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(bench.text_of(rows))
    corpus = prepare(
        [str(tmp_path / "train.txt")],
        valid=[str(tmp_path / "valid.txt")],
        tokenizer="character",
        document="line",
        length=5,
    )
    ids = torch.tensor(corpus.tokenizer.convert_tokens_to_ids(list(bench.LETTERS)))
    assert torch.equal(corpus.train.tokens[:, :-1], ids[rows])
    assert (corpus.train.tokens[:, -1] == corpus.tokenizer.eos_token_id).all()
    assert (corpus.train.documents == 0).all()


def test_plans_that_cannot_be_run():
    assert BENCHES.load("ising") is Ising
    with pytest.raises(BadInput, match="--size came as 9"):
        Ising(size=9)
    with pytest.raises(BadInput, match="--samples came as 1"):
        Ising(samples=1)
    with pytest.raises(UnknownName, match="tinny"):
        Ising(net="tinny")


@pytest.mark.slow
def test_the_predicted_order_holds_for_a_trained_net():
    rows = list(Ising(size=4, coupling=0.4, steps=120, batch=128, samples=6000).rows())
    assert [row["arm"] for row in rows] == list(ARMS)
    by_name = {row["arm"]: row for row in rows}
    for row in rows:
        assert row["kendall"] > 0.8 and row["against"] <= 1
        assert abs(row["distance_net"] - row["distance_net_enumerated"]) < 4 * row["se"] + 0.005
    assert by_name["first_hitting"]["distance_theory"] == 0
    assert by_name["first_hitting"]["distance_net"] < 0.12
    assert by_name["first_hitting"]["calls"] == 4
    assert by_name["ancestral_1"]["calls"] == 1
