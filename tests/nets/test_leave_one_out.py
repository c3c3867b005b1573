"""Two wrappers that look at the row: what it shows already costs more, and visible cells as if they were masked."""

import math
from dataclasses import dataclass

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.nets.wrap import CHUNK, LeaveOneOut, RepetitionPenalty, TopK
from tests.nets.laws import FULL, WRAPPERS, Fixed, check_is_a_law, fixed, gap, saying, share, some_blanks
from tests.oracle import LAWS, Watched

TABLE = LAWS["random_table"]  # 4 cells, text 0 to 2, mask 3, end 4
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)

# ---- repetition ------------------------------------------------------------------------------------------------------


def test_the_repetition_penalty_by_hand():
    law, _ = fixed([0.5, 0.25, 0.25])
    wide = Fixed(law.log_prob.expand(4, -1), law.alphabet)
    tokens = torch.tensor([[0, 3, 4, 3]])  # a zero, a blank, the end token, a blank
    penalised = share([0.5**2, 0.25, 0.25])
    found = RepetitionPenalty(wide, 2)(tokens).exp()
    assert found[0, 1, :3].tolist() == found[0, 3, :3].tolist() == pytest.approx(penalised)
    assert found[0, 0, :3].tolist() == pytest.approx([0.5, 0.25, 0.25]), "its own token is no repetition of itself"
    twice = RepetitionPenalty(wide, 2)(torch.tensor([[0, 0, 1, 3]])).exp()
    assert twice[0, 0, :3].tolist() == pytest.approx(share([0.5**2, 0.25**2, 0.25]))
    assert twice[0, 2, :3].tolist() == pytest.approx(penalised)
    assert twice[0, 3, :3].tolist() == pytest.approx(share([0.5**2, 0.25**2, 0.25]))


def test_special_ids_are_no_repetitions():
    alphabet = Alphabet(4, 2, end=3, special=frozenset({2, 3}))
    law = Fixed(torch.tensor([[0.4, 0.4, 0.0, 0.2]], dtype=torch.float64).log().expand(3, -1), alphabet)
    tokens = torch.tensor([[3, 3, 2]])
    assert torch.allclose(RepetitionPenalty(law, 5)(tokens), law(tokens))


@pytest.mark.parametrize("law", FULL)
def test_the_repetition_penalty_commutes_with_leaving_one_out(law):
    tokens = some_blanks(LAWS[law])
    inside = RepetitionPenalty(saying(LAWS[law], Visible.LEAVE_ONE_OUT), 1.7)
    at = tokens >= 0
    row, cell = torch.nonzero(at, as_tuple=True)
    alone = torch.arange(tokens.shape[1]) == cell[:, None]
    hidden = torch.where(alone, LAWS[law].alphabet.mask, tokens[row])
    assert gap(inside(tokens, at), RepetitionPenalty(LAWS[law], 1.7)(hidden, alone)) < 1e-12


@pytest.mark.parametrize("penalty", [0.99, 0, -1, math.nan, math.inf, 1e9])
def test_a_penalty_that_is_none(penalty):
    with pytest.raises(BadInput, match=r"such as 1\.2"):
        RepetitionPenalty(TABLE, penalty)


def test_the_largest_penalty_is_still_a_law():
    law, _ = fixed([0.5, 0.5 - 1e-9, 1e-9], torch.float32)
    wide = Fixed(law.log_prob.expand(4, -1), law.alphabet)
    check_is_a_law(RepetitionPenalty(wide, 1e6), torch.tensor([[0, 1, 2, 3]]), torch.float32)


# ---- leaving one out -------------------------------------------------------------------------------------------------


@every_law
def test_leaving_one_out_is_the_oracle_that_does(oracle):
    tokens = some_blanks(oracle)
    truth = saying(oracle, Visible.LEAVE_ONE_OUT)
    for inner in (oracle, saying(oracle, Visible.NONE), truth):
        law = LeaveOneOut(inner)
        assert law.visible is Visible.LEAVE_ONE_OUT
        assert torch.equal(law(tokens), truth(tokens))
        for share_asked in (0.0, 0.3, 0.8):
            at = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(7)) < share_asked
            assert torch.equal(law(tokens, at), truth(tokens, at))


def test_a_denoiser_itself_is_no_leave_one_out():
    tokens = some_blanks(TABLE)
    assert gap(TABLE(tokens), LeaveOneOut(TABLE)(tokens)) > 0.1


def test_passes_of_leaving_one_out():
    """One a visible cell asked about, one for all masked cells of a row; batches stay small."""
    oracle = LAWS["markov_chain"]
    tokens = some_blanks(oracle, 50)
    at = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    watched, blanks = Watched(oracle, 50), tokens == oracle.alphabet.mask
    LeaveOneOut(watched)(tokens, at)
    expected = (at & ~blanks).sum(1) + (at & blanks).any(1)
    assert torch.equal(watched.ledger.calls, expected)
    assert max(watched.ledger.batches) <= CHUNK < int((at & ~blanks).sum())
    asked = Watched(saying(oracle, Visible.LEAVE_ONE_OUT), 50)
    LeaveOneOut(asked)(tokens, at)
    assert asked.ledger.calls.tolist() == [1] * 50


@every_wrapper
def test_leaving_one_out_goes_beneath_the_other_wrappers(wrap):
    """The same law cell by cell, as far as no token is required."""
    tokens, truth = some_blanks(TABLE), saying(TABLE, Visible.LEAVE_ONE_OUT)
    tokens[:, 0] = TABLE.alphabet.mask  # room for what is required
    assert gap(LeaveOneOut(wrap(TABLE))(tokens), wrap(truth)(tokens)) < 1e-12


def test_settled_cells_go_around_the_cache():
    """Watched holds us to it: a cell that was handed over as settled is never masked again."""
    tokens = some_blanks(TABLE, 30)
    upto = (tokens != TABLE.alphabet.mask).long().cumprod(1).sum(1)
    truth = LeaveOneOut(TABLE)(tokens)
    for wrap in (LeaveOneOut, lambda c: LeaveOneOut(TopK(c, 2)), lambda c: TopK(LeaveOneOut(c), 2)):
        watched = Watched(TABLE, 30)
        law = wrap(watched).given(tokens, upto)
        reference = truth if wrap is LeaveOneOut else TopK(LeaveOneOut(TABLE), 2)(tokens)
        assert gap(law(tokens), reference) < 1e-12
        index = torch.tensor([4, 0, 9, 9])
        assert gap(law.rows(index)(tokens[index]), reference[index]) < 1e-12
        twice = law.given(tokens, (upto - 1).clamp(min=0)).rows(index)
        assert gap(twice(tokens[index]), reference[index]) < 1e-12

    @dataclass(frozen=True)
    class Trusting(LeaveOneOut):
        def given(self, tokens, upto):
            return Trusting(self.conditional.given(tokens, upto))

    with pytest.raises(AssertionError, match="settled cells were changed"):
        Trusting(Watched(TABLE, 30)).given(tokens, upto)(tokens)
