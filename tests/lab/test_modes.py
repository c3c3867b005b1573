"""Modes of mixtures: the closed forms of lab/modes.py against enumeration, exact search and draws."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
import torch

from remask.cli.flags import describe, fields
from remask.core.decoder import Budget
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.exact_mode import ExactMode
from remask.lab import EXPERIMENTS
from remask.lab.laws import random_table
from remask.lab.modes import CHOICES, Modes, answers, binomial_above, entropy_bits, switch, threshold
from remask.lab.plot import plot
from remask.lab.populations import Texts, clean, noise
from remask.lab.straight import Straight, masked_modes

SMALL = {"symbols": 3, "shortest": 3, "longest": 5, "inputs": 200, "samples": 4000}


@pytest.fixture(scope="module")
def found():
    """The default experiment, once."""
    return Modes().run()


def of(found, kind):
    return [row for row in found.rows if row["kind"] == kind]


# ---- the population --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, SMALL, {**SMALL, "stay": 0.1}, {**SMALL, "stay": 0.9}, {**SMALL, "symbols": 2, "shortest": 1}],
    ids=str,
)
def test_closed_forms_of_the_population(settings):
    asked = Modes(**settings)
    good = asked.good
    assert float(good.whole.sum()) == pytest.approx(1, abs=1e-12)
    assert good.best == pytest.approx(asked.best, rel=1e-12)
    assert good.entropy == pytest.approx(asked.entropy, rel=1e-12)
    assert not good.whole[: asked.most_noise].any()
    assert int((good.whole > 0).sum()) == sum(asked.symbols**k for k in range(asked.shortest, asked.longest + 1))


def test_the_default_is_the_population_of_the_notes_in_size_and_maximum():
    """87,040 texts with max p = 0.0092; more bits than the 10.38 there, whose law is not told."""
    asked = Modes()
    assert int((asked.good.whole > 0).sum()) == 87_040
    assert asked.best == pytest.approx(0.00923, abs=2e-5)
    assert threshold(asked.best, 1.0) == pytest.approx(0.00914, abs=2e-5)


def test_texts_and_their_places():
    texts = clean(3, 1, 3, 0.5)
    every = [word for length in range(4) for word in product(range(3), repeat=length)]
    assert [texts.text(place) for place in range(len(texts.whole))] == every
    with pytest.raises(IndexError):
        texts.text(len(every))
    odds = {"aba": 1 / 3 * 1 / 3 * 0.25 * 0.25, "aa": 1 / 3 * 1 / 3 * 0.5, "": 0.0}
    for word, p in odds.items():
        assert float(texts.whole[every.index(tuple("abc".index(c) for c in word))]) == pytest.approx(p)


def test_spoken_from_left_to_right_it_is_the_same_law():
    mixed = clean(3, 2, 4, 0.6).mixed(noise(3, 5, 4), 0.2)
    model = mixed.spoken()
    for place in range(len(mixed.whole)):
        text = mixed.text(place)
        state, total = model.begin([]), 0.0
        for token in (*text, model.end):
            total += float(state.log_prob[0, token])
            state = model.extend(state, torch.tensor([token])) if token != model.end else state
            if total == -math.inf:
                break
        assert math.exp(total) == pytest.approx(float(mixed.whole[place]), rel=1e-12, abs=1e-300)


def test_draws_are_of_the_law():
    mixed = clean(3, 2, 3, 0.6).mixed(noise(3, 4, 3), 0.3)
    drawn = mixed.sample(20000, 1)
    share = torch.bincount(drawn, minlength=len(mixed.whole)) / 20000
    error = (mixed.whole * (1 - mixed.whole) / 20000).sqrt()
    assert ((share - mixed.whole).abs() <= 4.5 * error + 1e-12).all()
    assert not torch.equal(drawn, mixed.sample(20000, 2)) and torch.equal(drawn, mixed.sample(20000, 1))


def test_noise_of_so_many_texts():
    for count in (1, 2, 4, 13):
        bad = noise(3, count, 4)
        assert bad.best == pytest.approx(1 / count) and bad.entropy == pytest.approx(math.log2(count))
        assert bad.whole[:count].gt(0).all() and not bad.whole[count:].any()


# ---- the threshold ---------------------------------------------------------------------------------------------------


def test_the_mode_is_clean_just_below_the_threshold_and_empty_just_above(found):
    rows = {round(row["over_threshold"], 2): row for row in of(found, "threshold")}
    assert rows[0.9]["mode"] == "aaaaa" and not rows[0.9]["degenerate"]
    assert rows[1.1]["mode"] == "" and rows[1.1]["degenerate"]
    for row in rows.values():
        assert row["degenerate"] == row["predicted"] and row["certified"]
        assert row["log_prob"] == pytest.approx(row["log_prob_theory"], rel=1e-9)
        assert row["calls"] < 87_040 / 20, "branch and bound reads a small part of the population"
    assert any(row["contamination"] == 0.01 and row["mode"] == "" for row in rows.values())


def test_exact_search_finds_what_enumeration_finds():
    good = clean(3, 2, 5, 0.45)
    for share in (0.001, 0.02, 0.2):
        for count in (1, 4):
            mixed = good.mixed(noise(3, count, 5), share)
            model = mixed.spoken()
            decoded = ExactMode()(model, [[]], Stream.of(0, 1), Budget(7))
            assert float(decoded.log_prob[0]) == pytest.approx(math.log(mixed.best), rel=1e-12)


def test_the_switch_is_where_the_closed_form_says(found):
    noises, choices = of(found, "noise"), of(found, "choice")
    assert [row["texts"] for row in noises] == [1, 4, 16, 64, 256, 341]
    for row in [*noises, *choices]:
        assert row["switch"] == pytest.approx(row["threshold"], rel=1e-9)
    assert [row["switch"] for row in noises] == sorted(row["switch"] for row in noises)
    assert all(row["clean_bits"] == pytest.approx(row["clean_bits_theory"]) for row in noises)


def test_wrong_formulas_would_be_seen(found):
    """Twins: max P itself is 0.9 % off, 2^-H off by a factor, and noise of many texts is not one text."""
    first, last = of(found, "noise")[0], of(found, "noise")[-1]
    asked = Modes()
    assert first["switch"] != pytest.approx(asked.best, rel=5e-3)
    assert first["switch"] > 10 * 2**-asked.entropy
    assert last["switch"] > 50 * first["threshold"]


def test_where_all_texts_are_as_probable_the_threshold_is_2_to_the_minus_entropy():
    """H - H_N > log2((1 - e) / e)."""
    good = clean(4, 4, 4, 0.25)
    for count in (1, 4):
        bad = noise(4, count, 4)
        limit = switch(lambda share, bad=bad: not float(good.whole[int(good.mixed(bad, share).whole.argmax())]) > 0)
        assert math.log2((1 - limit) / limit) == pytest.approx(good.entropy - bad.entropy, abs=1e-9)


# ---- drawing and the mode --------------------------------------------------------------------------------------------


def test_drawing_is_wrong_in_e_of_the_cases_and_the_mode_never_or_always(found):
    rows = of(found, "output")
    assert {row["noise"] for row in rows} == {"one text", "341 texts"}
    for row in rows:
        error = math.sqrt(row["contamination"] * (1 - row["contamination"]) / 20000)
        assert abs(row["sampled_bad"] - row["sampled_bad_theory"]) < 4 * error
        assert row["mode_bad"] == row["mode_bad_theory"]
    bad = {name: [row["mode_bad"] for row in rows if row["noise"] == name] for name in ("one text", "341 texts")}
    assert sum(bad["one text"]) == 4 and sum(bad["341 texts"]) == 0  # 0.01 and above; 341 texts want e = 0.76


# ---- longer inputs ---------------------------------------------------------------------------------------------------


def test_the_empty_mode_by_enumeration_is_the_inequality():
    for ways in range(13):
        for lead in (0.5, 0.6, 0.9):
            for share in (0.003, 0.01, 0.21):
                empty, bits = answers(ways, lead, share)
                assert empty == (ways * -math.log(lead) > math.log((1 - share) / share))
                assert bits == pytest.approx(ways * entropy_bits([lead]), abs=1e-9)


def test_longer_inputs_have_more_empty_modes(found):
    rows = of(found, "length")
    for row in rows:
        theory = row["empty_modes_theory"]
        assert abs(row["empty_modes"] - theory) <= 4 * math.sqrt(theory * (1 - theory) / 1000) + 1e-12
        assert row["bits"] == pytest.approx(row["bits_theory"], rel=0.1)
    theory = [row["empty_modes_theory"] for row in rows]
    assert theory == sorted(theory) and theory[0] == 0 and rows[-1]["empty_modes"] > 0.3
    off = [binomial_above(row["length"], 0.5, 7.9) for row in rows]  # a word less: a twin that must not fit
    assert max(abs(row["empty_modes"] - miss) for row, miss in zip(rows, off)) > 0.1


def test_the_tail_of_a_binomial():
    assert binomial_above(3, 0.5, 1) == pytest.approx(0.5) and binomial_above(3, 0.5, 1.5) == pytest.approx(0.5)
    assert binomial_above(4, 0.2, -1) == pytest.approx(1) and binomial_above(4, 0.2, 4) == 0


# ---- masked models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_masked_models_mode_at_each_length_is_the_laws(seed):
    laws = {length: random_table(length, 3, 0.5, seed + length) for length in range(1, 6)}
    for mode in masked_modes(laws.__getitem__, laws):
        law = laws[mode.length]
        best = int(law.joint.argmax())
        assert mode.text == law.states[best].tolist() and mode.certified
        assert mode.log_prob == pytest.approx(math.log(float(law.joint[best])), rel=1e-9)
    assert next(masked_modes(laws.__getitem__, [0])).text == []


def test_read_straight_on_a_masked_model_is_its_law():
    law = random_table(3, 3, 0.5, 4)
    model = Straight(law, 3)
    for number, state in enumerate(law.states.tolist()):
        prefixes, total = model.begin([]), 0.0
        for token in (*state, model.end):
            total += float(prefixes.log_prob[0, token])
            prefixes = model.extend(model.rows(prefixes, torch.tensor([0])), torch.tensor([token]))
        assert total == pytest.approx(math.log(float(law.joint[number])), rel=1e-9)
    assert model.begin([]).log_prob[0, model.end] == -math.inf, "no text ends before its length"


def test_a_masked_search_that_runs_out_of_nodes_says_so():
    law = random_table(6, 3, 5.0, 0)
    mode = next(masked_modes(lambda length: law, [6], beam=1, nodes=30))
    assert not mode.certified and len(mode.text) == 6 and mode.calls <= 30


def test_the_length_chosen_first_keeps_empty_modes_out_and_chosen_with_the_text_lets_them_in(found):
    masked, choice = of(found, "masked"), {row["choice"]: row for row in of(found, "choice")}
    assert [row["length"] for row in masked] == [0, 5, 6, 7, 8]
    for row in masked:
        assert len(row["mode"]) == row["length"] and row["certified"]
        assert row["log_prob"] == pytest.approx(row["log_prob_theory"], abs=1e-9)
        assert row["together"] == pytest.approx(row["length_log_prob"] + row["log_prob"])
    here = next(row for row in of(found, "threshold") if row["contamination"] == 0.01)
    together = max(masked, key=lambda row: row["together"])
    assert together["length"] == len(here["mode"]) == 0 and together["together"] == pytest.approx(here["log_prob"])
    assert choice["length and text"]["length"] == 0 and choice["length alone"]["length"] == 5
    assert choice["length alone"]["threshold"] == pytest.approx(0.2)
    texts = Texts(2, [torch.tensor([0.3]), torch.tensor([0.25, 0.0]), torch.tensor([0.2, 0.1, 0.1, 0.05])])
    assert {name: pick(texts) for name, pick in CHOICES.items()} == {"length alone": 2, "length and text": 0}


# ---- rows, panels, sentences, refusals -------------------------------------------------------------------------------


def test_rows_are_plain_and_the_same_each_time(found):
    for kind in ("threshold", "noise", "output", "length", "masked", "choice"):
        rows = of(found, kind)
        assert rows and len({tuple(row) for row in rows}) == 1
    json.dumps(found.rows, allow_nan=False)
    assert Modes(**SMALL).run() == Modes(**SMALL).run()


def test_panels_have_the_closed_form_beside_the_measurement(found, tmp_path):
    assert len(found.panels) == 4
    for panel in found.panels:
        assert any(line.theory for line in panel.lines) and any(not line.theory for line in panel.lines)
    plot(found.panels, tmp_path / "modes.png")
    assert (tmp_path / "modes.png").stat().st_size > 10_000


def test_sentences_carry_the_numbers(found):
    assert found.says[0].startswith("87040 good texts of 12.58 bits, none above p = 0.00924")
    assert "the mode is the empty text (threshold 0.00915)" in found.says[0]
    clean_mode = Modes(**SMALL, contamination=0.001).run().says[0]
    assert "the mode is 'aaa'" in clean_mode


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"contamination": 0.0}, "--contamination came as 0.0"),
        ({"contamination": 1.0}, "--contamination came as 1.0"),
        ({"contamination": float("nan")}, "--contamination came as nan"),
        ({"stay": 1.0}, "--stay came as 1.0"),
        ({"free": 0.0}, "--free came as 0.0"),
        ({"lead": 0.4}, "--lead came as 0.4"),
        ({"lead": 1.0}, "--lead came as 1.0"),
        ({"symbols": 1}, "of 1 symbols came"),
        ({"shortest": 9}, "texts of 9 to 8"),
        ({"shortest": 0}, "texts of 0 to 8"),
        ({"longest": 12}, "2\\^20"),
        ({"inputs": 1}, "--inputs came as 1"),
        ({"samples": 0}, "--samples came as 0"),
        ({"seed": -1}, "--seed came as -1"),
    ],
)
def test_what_cannot_be_served_is_refused(asked, sentence):
    with pytest.raises(BadInput, match=sentence):
        Modes(**asked)


def test_the_fields_are_flags():
    names = [field.name for field in fields("remask.lab.modes:Modes")]
    assert names[0] == "contamination" and all(field.help.endswith(".") for field in fields("remask.lab.modes:Modes"))
    assert "2023" in describe("remask.lab.modes:Modes").source
    assert EXPERIMENTS.load("modes") is Modes
