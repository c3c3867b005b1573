"""The one loop: who is asked, who has left, what is handed over as settled."""

from dataclasses import dataclass

import pytest
import torch

from remask.core.canvas import blank, infill
from remask.core.draw import Categorical
from remask.core.refill import commit, propose, refill
from remask.core.sampler import Info, Law, State, ask, masked, put, run, sample, select, settled, start
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests.oracle import LAWS, Watched

ORACLE = LAWS["markov_chain"]
MASK = ORACLE.alphabet.mask


def staircase():
    """Rows with 0, 1, 2, 3, 4 unknown cells, the last ones of the row."""
    tokens = ORACLE.sample(5, 0)
    for row in range(5):
        tokens[row, 4 - row :] = MASK
    return infill(tokens, ORACLE.alphabet)


def test_rows_that_are_done_leave_the_batch():
    watched = Watched(ORACLE, 5)
    steps = list(run(FirstHitting(), watched, staircase(), Stream.of(0, 5)))
    assert watched.ledger.batches == [4, 3, 2, 1]
    assert watched.ledger.calls.tolist() == [0, 1, 2, 3, 4]
    assert [state.done.tolist() for state, _ in steps] == [[i <= k for i in range(5)] for k in (1, 2, 3, 4)]
    assert [info.calls.tolist() for _, info in steps] == [[int(i >= k) for i in range(5)] for k in (1, 2, 3, 4)]
    assert all(len(leaf) == 5 for state, info in steps for leaf in (*state, *info)), "rows that left are still shown"


def test_the_known_beginning_is_handed_over_as_settled():
    watched = Watched(ORACLE, 5)
    list(run(FirstHitting(), watched, staircase(), Stream.of(0, 5)))
    index, upto = watched.ledger.settled[0]
    assert index.tolist() == [1, 2, 3, 4]
    assert upto.tolist() == [3, 2, 1, 0]
    for _, later in watched.ledger.settled[1:]:
        assert (later >= upto[-len(later) :]).all(), "what is settled only grows"


def test_settled_counts_to_the_first_cell_that_is_masked_or_was_written():
    tokens = torch.tensor([[0, 1, MASK, 3], [MASK, 1, 1, 1], [0, 1, 1, 3], [0, 1, 1, 3]])
    frozen = torch.ones_like(tokens, dtype=torch.bool)
    frozen[3, 1] = False
    assert settled(State(tokens, frozen, frozen[:, 0], tokens[:, 0]), ORACLE.alphabet).tolist() == [2, 0, 4, 1]


@dataclass(frozen=True)
class SecondThoughts:
    """Fills everything, then masks the last cell once more and fills it again: what Gibbs and ReMDM do."""

    law = Law.HEURISTIC

    def init(self, stream, canvas, conditional):
        return FirstHitting().init(stream, canvas, conditional)

    def step(self, stream, state, conditional):
        again = state.step == 4
        last = torch.arange(state.tokens.shape[1]) == state.tokens.shape[1] - 1
        masked = torch.where(again[:, None] & last, conditional.alphabet.mask, state.tokens)
        state, info = FirstHitting().step(stream, state._replace(tokens=masked), conditional)
        return state._replace(done=state.step > 4), info


def test_a_sampler_may_mask_again_what_it_wrote():
    watched = Watched(ORACLE, 3)  # stops whoever changes a cell that was handed over as settled
    canvas = blank(3, ORACLE.length, ORACLE.alphabet)
    assert ORACLE.length == 4
    result = sample(SecondThoughts(), watched, canvas, Stream.of(0, 3))
    assert (result.tokens != MASK).all()


def test_a_row_with_nothing_unknown_is_done_before_it_begins():
    state = start(staircase())
    assert state.done.tolist() == [True, False, False, False, False]
    assert not state.step.any()


def test_sample_is_the_last_of_run():
    canvas, stream = staircase(), Stream.of(3, 5)
    *_, (state, _) = run(Ancestral(4), ORACLE, canvas, stream)
    result = sample(Ancestral(4), ORACLE, canvas, stream)
    assert torch.equal(result.tokens, state.tokens)
    assert torch.equal(result.frozen, canvas.frozen)
    assert (canvas.tokens == MASK).any(), "the canvas that was passed in is left alone"


def test_ask_spends_nothing_on_rows_without_a_question():
    tokens = blank(4, 4, ORACLE.alphabet).tokens
    at = torch.zeros(4, 4, dtype=torch.bool)
    at[1, 2] = at[3, :2] = True
    watched = Watched(ORACLE, 4)
    log_prob, calls = ask(watched, tokens, at)
    assert torch.equal(log_prob, ORACLE(tokens, at)), "in the order of the cells"
    assert calls.tolist() == watched.ledger.calls.tolist() == [0, 1, 0, 1]
    nothing, calls = ask(watched, tokens, torch.zeros_like(at))
    assert nothing.shape == (0, ORACLE.alphabet.size)
    assert not calls.any()
    assert watched.ledger.batches == [2]


def test_refill_writes_the_chosen_cells_only():
    canvas = staircase()
    state = start(canvas)
    chosen = torch.zeros_like(canvas.frozen)
    chosen[2, 3] = chosen[1, 3] = True
    after, info = refill(Categorical(), Stream.of(0, 5), state, ORACLE, chosen, canvas.unknown)
    assert torch.equal(after.tokens != canvas.tokens, chosen)
    assert torch.equal(info.changed, chosen)
    assert after.done.tolist() == [True, True, False, False, False]
    assert torch.equal(state.tokens, canvas.tokens), "the State that was passed in is left alone"


def test_select_keeps_the_type_and_the_rows():
    info = Info(torch.eye(3, dtype=torch.bool), torch.arange(3), torch.zeros(3, 3))
    part = select(info, torch.tensor([2, 0]))
    assert isinstance(part, Info)
    assert part.calls.tolist() == [2, 0]


def test_a_caller_that_forgets_to_pick_rows_is_caught():
    """The planted bug: a step that asks the root conditional about the rows that are left."""

    class Careless(FirstHitting):
        def step(self, stream, state, conditional):
            del conditional
            return super().step(stream, state, root)

    root = Watched(ORACLE, 5)
    with pytest.raises(AssertionError, match="another number of rows"):
        list(run(Careless(), root, staircase(), Stream.of(0, 5)))


def test_a_state_may_have_more_leaves():
    """Samplers that remember more define their own State: the loop treats its leaves alike."""
    from typing import NamedTuple

    class Longer(NamedTuple):
        tokens: torch.Tensor
        frozen: torch.Tensor
        done: torch.Tensor
        step: torch.Tensor
        writes: torch.Tensor

    class Counting(FirstHitting):
        def init(self, stream, canvas, conditional):
            return Longer(*super().init(stream, canvas, conditional), torch.zeros(len(canvas.tokens)))

        def step(self, stream, state, conditional):
            after, info = super().step(stream, State(*state[:4]), conditional)
            return Longer(*after, state.writes + info.changed.sum(1)), info

    *_, (state, _) = run(Counting(), ORACLE, staircase(), Stream.of(0, 5))
    assert isinstance(state, Longer)
    assert state.writes.tolist() == [0, 1, 2, 3, 4]


def test_a_leaf_may_be_the_state_of_a_sampler_inside():
    inner = start(staircase())
    outer = State(inner.tokens, inner.frozen, inner.done, inner)
    index = torch.tensor([4, 1])
    part = select(outer, index)
    assert torch.equal(part.step.tokens, inner.tokens[index])
    changed = part._replace(step=part.step._replace(step=torch.tensor([7, 8])))
    whole = put(outer, index, changed)
    assert whole.step.step.tolist() == [0, 8, 0, 0, 7]
    assert not outer.step.step.any(), "the State that was passed in is left alone"


def test_info_tells_the_log_p_of_what_was_written():
    canvas = staircase()
    for row in (1, 4):
        index = torch.tensor([row])
        steps = list(run(FirstHitting(), ORACLE, canvas.rows(index), Stream.of(2, 5).rows(index)))
        assert all(torch.equal(info.log_prob != 0, info.changed) for _, info in steps)
        law = ORACLE.posterior(canvas.tokens[row])
        told = float(sum(info.log_prob.sum() for _, info in steps))
        assert told == pytest.approx(float(law[ORACLE.number(steps[-1][0].tokens)].log()))


def test_proposals_are_drawn_everywhere_and_written_where_chosen():
    canvas = staircase()
    state = start(canvas)
    proposal = propose(Categorical(), Stream.of(0, 5), state, ORACLE, canvas.unknown)
    assert torch.equal(proposal.tokens != MASK, torch.ones_like(canvas.frozen))
    assert proposal.calls.tolist() == [0, 1, 1, 1, 1]
    assert torch.equal(masked(state, ORACLE), canvas.unknown)
    last = torch.zeros_like(canvas.frozen)
    last[:, 3] = canvas.unknown[:, 3]
    after, info = commit(state, proposal, last, torch.zeros(5, dtype=torch.bool))
    assert torch.equal(after.tokens != canvas.tokens, last)
    assert torch.equal(info.log_prob != 0, last)
    assert torch.equal(info.log_prob[last], proposal.spread(proposal.written, 0.0)[last])
