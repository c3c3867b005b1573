"""Rejecters: which cells, how many, what happens to ties; and what the cells show that are rejected."""

import math

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import blank
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.refill import Proposal
from remask.core.sampler import run, sample
from remask.core.stream import Stream
from remask.nets.planner import WithPlanner
from remask.nets.wrap import Temperature
from remask.samplers.padir import PaDIR
from remask.samplers.rejecters import REJECTERS, Draft, repeats
from tests.oracle import LAWS
from tests.samplers.enumeration import coins
from tests.samplers.test_p2 import left_out, uneven

TEXT = Alphabet(9, 0, 1, 2, frozenset({0, 1, 2}))


@pytest.mark.parametrize(
    ("tokens", "frozen", "found"),
    [
        ([5, 6, 7, 5], [], []),  # the last cell is no neighbour of the first
        ([5, 5, 5, 6], [], [1, 2]),
        ([5, 5, 6, 6], [1], [3]),  # what is given stays
        ([5, 5, 6, 6], [0, 2], [1, 3]),  # and may be repeated
        ([0, 0, 1, 1, 2, 2], [], []),  # masks, blanks and ends are no text
        ([5, 1, 5], [], []),
        ([5], [], []),
    ],
)
def test_stutter_has_no_wrap_around(tokens, frozen, found):
    unknown = torch.tensor([[cell not in frozen for cell in range(len(tokens))]])
    assert torch.nonzero(repeats(torch.tensor([tokens]), unknown, TEXT)[0])[:, 0].tolist() == found


@pytest.mark.parametrize(
    ("cells", "steps", "counts"),
    [(10, 4, [7, 5, 2, 0]), (10, 5, [8, 6, 4, 2, 0]), (3, 5, [2, 1, 1, 0, 0]), (4, 1, [0])],
)
def test_the_linear_schedule(cells, steps, counts):
    """Cells are independent and leave themselves out, so that no confidence ever changes: the lowest are masked."""
    tops = [0.61, 0.93, 0.55, 0.99, 0.72, 0.87, 0.52, 0.78, 0.96, 0.66][:cells]
    net = left_out(coins(*tops))
    found = run(PaDIR(steps, reject="linear"), net, blank(1, cells, net.alphabet), Stream.of(0, 1))
    masked = [torch.nonzero(state.tokens[0] == net.alphabet.mask)[:, 0].tolist() for state, _ in found]
    order = sorted(range(cells), key=lambda cell: tops[cell])
    wanted = [sorted(order[:count]) for count in counts]
    assert masked == wanted[: len(masked)]
    assert not any(counts[len(masked) :]), "only steps without a mask are saved"


@pytest.mark.parametrize(
    ("share", "rejected"), [(0.0, []), (0.1, []), (0.3, [0]), (0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_of_equal_cells_the_first_are_rejected_and_no_more(share, rejected):
    net = left_out(coins(0.75, 0.75, 0.75, 0.75))  # powers of two: the ties are exact
    sampler = PaDIR(2, reject="constant", reject_share=share)
    state, _ = next(run(sampler, net, blank(1, 4, net.alphabet), Stream.of(0, 1)))
    assert torch.nonzero(state.tokens[0] == net.alphabet.mask)[:, 0].tolist() == rejected


def test_a_share_is_a_whole_number_of_cells():
    at, zero = torch.ones(1, 10, dtype=torch.bool), torch.tensor([0])
    proposal = Proposal(at, -torch.rand(10, 2, generator=torch.Generator().manual_seed(0)), at.long(), zero)
    for share in (0.1, 0.3, 0.7):  # 0.7 * 10 is 7.000000000000001 or 6.999999999999999 by the way it is reached
        rejected, _ = REJECTERS["constant"](Draft(proposal, zero, 2, share), LAWS["parity"])
        assert int(rejected.sum()) == round(10 * share)


def test_a_planner_rejects_what_it_gives_less_than_even_odds():
    scores = torch.tensor([[math.log(0.49), math.log(0.5), 0.0, -math.inf]], dtype=torch.float64)
    net = WithPlanner(left_out(coins(0.9, 0.9, 0.9, 0.9)), lambda tokens: scores.expand(len(tokens), -1))
    found = list(run(PaDIR(3, reject="learned"), net, blank(2, 4, net.alphabet), Stream.of(0, 2)))
    assert (found[0][0].tokens[0] == net.alphabet.mask).tolist() == [True, False, False, True]
    assert sum(info.calls for _, info in found).tolist() == [5, 5]  # nobody is asked after the last step


def test_a_planner_must_be_there_and_within_reach():
    net = LAWS["random_table"]
    for conditional in (net, Temperature(WithPlanner(net, uneven), 0.9)):
        with pytest.raises(BadInput, match="WithPlanner"):
            sample(PaDIR(reject="learned"), conditional, blank(1, 4, net.alphabet), Stream.of(0, 1))


# ---- what a rejected cell shows --------------------------------------------------------------------------------------


class Told:
    """Two cells of symbols 0, 1: the best token of each and its probability, for every text."""

    alphabet = Alphabet(3, 2, None, None, frozenset({2}))
    visible = Visible.DENOISE

    def __init__(self, says):
        self.says = says

    def __call__(self, tokens, at):
        answers = torch.zeros(*tokens.shape, 3, dtype=torch.float64)
        for row, text in enumerate(tokens.tolist()):
            for cell, (best, p) in enumerate(self.says[tuple(text)]):
                answers[row, cell, best], answers[row, cell, 1 - best] = p, 1 - p
        return answers.log()[at]

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


M = Told.alphabet.mask
SAYS = {
    (M, M): [(0, 0.55), (1, 0.52)],
    **{text: [(1, 0.6), (0, 0.9)] for text in [(0, M), (0, 1)]},
    **{text: [(0, 0.8), (1, 0.7)] for text in [(M, 0), (0, 0), (1, 0)]},
}


@pytest.mark.parametrize(
    ("replace_by", "texts", "changed"),
    [
        ("initial", [[0, M], [M, 0], [0, 1]], [True, True]),
        ("previous", [[0, M], [0, 0], [0, 1]], [False, True]),
        ("sum", [[0, 1], [1, 0], [0, 1]], [True, True]),  # cell 0: .45 * .6 is more than .55 * .4
    ],
)
def test_what_a_rejected_cell_shows(replace_by, texts, changed):
    """The second cell is the less sure one first, then the first one, in which y is 1."""
    sampler = PaDIR(3, "mask", "constant", 0.5, replace_by)
    found = list(run(sampler, Told(SAYS), blank(1, 2, Told.alphabet), Stream.of(0, 1)))
    assert [state.tokens[0].tolist() for state, _ in found] == texts
    assert found[1][1].changed[0].tolist() == changed
    told = found[1][1].log_prob[0].exp().tolist()
    assert told == pytest.approx([0.6 if replace_by == "sum" else 1.0, 0.9])  # 0, log p, of a cell with no draw


def test_the_sum_costs_memory_only_where_it_is_asked_for():
    net = LAWS["random_table"]
    for name, width in (("initial", 0), ("previous", 0), ("sum", net.alphabet.size)):
        state = PaDIR(replace=name).init(Stream.of(0, 3), blank(3, 4, net.alphabet), net)
        assert state.total.shape == (3, 4, width)
