"""Path planning: what stays and what is given back, against a plain rewriting row by row; and what a planner adds."""

import math
from dataclasses import dataclass

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas, blank
from remask.core.conditional import Visible
from remask.core.draw import Greedy, inverse_cdf
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream
from remask.nets.planner import WithPlanner
from remask.samplers.p2 import PathPlanning
from tests import conformance
from tests.conformance import FEW_STEPS, SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched
from tests.samplers.test_first_hitting import SeesAll
from tests.samplers.test_remdm import ShortSighted


def left_out(oracle, visible=Visible.LEAVE_ONE_OUT):
    """The same law, and a conditional that judges every token by the rest (or says nothing of it)."""
    shape = [oracle.symbols] * oracle.length
    return Oracle(oracle.name, oracle.joint.view(shape), oracle.alphabet.mask, oracle.alphabet.end, visible)


JUDGES = {name: left_out(LAWS[name]) for name in ("ring_ising", "markov_chain", "copy_pairs", "random_table")}


def uneven(tokens):
    """A planner with opinions of its own: scores from 0 down, with ties."""
    return -((tokens * 7 + torch.arange(tokens.shape[1]) * 3 + tokens.roll(1, 1)) % 5).double()


# ---- the algorithm ---------------------------------------------------------------------------------------------------


def by_hand(sampler, conditional, canvas, seed, planner=None):
    """The rows one by one, cell by cell, all steps taken."""
    mask, ends = conditional.alphabet.mask, []
    for number in range(len(canvas.tokens)):
        row, unknown = canvas.tokens[number].clone(), canvas.unknown[number]
        cells, stream = torch.nonzero(unknown)[:, 0].tolist(), Stream.of(seed, torch.tensor([number]))
        for i in range(1, sampler.steps + 1):
            log_prob, draft = conditional(row[None])[0], row.clone()
            uniform = stream.uniform(i - 1, Purpose.TOKEN, len(row))[0]
            for cell in cells:
                if row[cell] == mask:
                    draft[cell] = inverse_cdf(log_prob[cell][None], uniform[cell][None])
            judged = planner(draft[None])[0] if planner else log_prob.gather(1, draft[:, None])[:, 0]
            kappa = float(SCHEDULES[sampler.schedule].alpha(torch.tensor(1 - i / sampler.steps, dtype=torch.float64)))
            keep = len(cells) - (0 if i == sampler.steps else math.floor(len(cells) * (1 - kappa) + 1e-9))

            def order(cell, row=row, judged=judged):
                new = bool(row[cell] == mask)
                weight = 1.0 if new else sampler.eta
                return (-weight * max(float(judged[cell]), -1e300), new, cell)

            for cell in sorted(cells, key=order)[keep:]:
                draft[cell] = mask
            row = draft
        ends.append(row)
    return torch.stack(ends)


@pytest.mark.parametrize("planner", [None, uneven], ids=["self", "planner"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("eta", "steps"), [(0.0, 3), (0.5, 5), (1.0, 4), (4.0, 7)])
def test_canvases_are_those_of_the_plain_rewriting(eta, steps, schedule, planner):
    sampler = PathPlanning(steps, eta, schedule)
    for oracle in JUDGES.values():
        canvas = mixed_canvas(oracle, 6, 1)
        found = sample(sampler, WithPlanner(oracle, planner) if planner else oracle, canvas, Stream.of(1, 6)).tokens
        assert torch.equal(found, by_hand(sampler, oracle, canvas, 1, planner))


SAYS = {
    (2, 2, 2): (0.1, 0.4, 0.7),
    (0, 2, 2): (0.7, 0.8, 0.6),  # the cell that was the surest is now the least likely
    (2, 1, 1): (0.95, 0.5, 0.5),
    (0, 1, 2): (0.5, 0.5, 0.2),
}


class Told:
    """p(1) of each of three cells for every context that comes up, whatever the cell itself holds."""

    alphabet = Alphabet(3, 2, None, None, frozenset({2}))
    visible = Visible.LEAVE_ONE_OUT

    def __call__(self, tokens, at):
        ones = torch.tensor([SAYS[tuple(row.tolist())] for row in tokens], dtype=torch.float64)
        return torch.stack([1 - ones, ones, torch.zeros_like(ones)], 2).log()[at]

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


@pytest.mark.parametrize(
    ("eta", "path"),
    [(1.0, [[0, 2, 2], [2, 1, 1], [1, 1, 1]]), (0.1, [[0, 2, 2], [0, 1, 2], [0, 1, 0]])],
)
def test_three_cells_by_hand(eta, path):
    """ln .3 against ln .6: the written cell goes; a tenth of ln .3: it stays."""
    sampler = PathPlanning(3, eta, draw=Greedy())
    steps = list(run(sampler, Told(), blank(1, 3, Told.alphabet), Stream.of(0, 1)))
    assert [state.tokens[0].tolist() for state, _ in steps] == path
    told = [info.changed[0].nonzero()[:, 0].tolist() for _, info in steps]
    assert told == ([[0], [0, 1, 2], [0]] if eta == 1 else [[0], [1], [2]])
    second = steps[1][1].log_prob[0].exp()
    assert second[1:].tolist() == pytest.approx([0.8, 0.6] if eta == 1 else [0.8, 1.0])  # 0, log p, where none was


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_many_masks_are_left_as_the_schedule_says(schedule):
    oracle, sampler = JUDGES["ring_ising"], PathPlanning(5, 2.0, schedule)
    left = [
        (state.tokens == oracle.alphabet.mask).sum(1)
        for state, _ in run(sampler, oracle, blank(40, 5, oracle.alphabet), Stream.of(0, 40))
    ]
    assert (
        torch.stack([count.unique() for count in left])[:, 0].tolist()
        == {
            "linear": [4, 3, 2, 1, 0],
            "log_linear": [3, 2, 1, 0],
            "cosine": [4, 4, 2, 1, 0],  # 5 cos(18 i degrees)
        }[schedule]
    )


# ---- special cases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize("law", ["copy_pairs", "random_table", "parity"])
def test_eta_zero_never_masks_again_however_sure_the_candidates_are(law, steps):
    """A certain candidate has score 0 as well, and a broken pair -inf: the written cell stays."""
    oracle = left_out(LAWS[law])
    before, mask = blank(300, 4, oracle.alphabet).tokens, oracle.alphabet.mask
    for state, info in run(PathPlanning(steps, 0.0), oracle, blank(300, 4, oracle.alphabet), Stream.of(2, 300)):
        assert torch.equal(state.tokens[before != mask], before[before != mask])
        assert (before[info.changed] == mask).all()
        before = state.tokens


def test_a_denoiser_that_has_seen_the_token_never_takes_it_back():
    """It is sure of what it sees: self-planning needs a doubt, so eta changes nothing."""
    for oracle in LAWS.values():
        canvas, stream = mixed_canvas(oracle, 60, 3), Stream.of(3, 60)
        results = [sample(PathPlanning(5, eta), oracle, canvas, stream).tokens for eta in (0.0, 1.0, 9.0)]
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_one_step_is_a_single_pass():
    oracle, rows = JUDGES["random_table"], 50
    canvas, stream = blank(rows, 4, oracle.alphabet), Stream.of(5, rows)
    uniform = stream.uniform(0, Purpose.TOKEN, 4).flatten()
    wanted = inverse_cdf(oracle(canvas.tokens).flatten(0, 1), uniform).view(rows, 4)
    assert torch.equal(sample(PathPlanning(1), oracle, canvas, stream).tokens, wanted)


def test_a_draft_that_is_already_written_is_revised():
    """Unknown cells may hold text: what contradicts the rest is given back. One cell alone has no time to be."""
    oracle = JUDGES["copy_pairs"]
    first, second, third = oracle.ids.tolist()
    draft = torch.tensor([[first, first, second, third]]).repeat(200, 1)
    frozen = torch.zeros_like(draft, dtype=torch.bool)
    tokens = sample(PathPlanning(8), oracle, Canvas(draft, frozen), Stream.of(0, 200)).tokens
    assert (tokens[:, ::2] == tokens[:, 1::2]).all()
    frozen[:, :3] = True
    assert torch.equal(sample(PathPlanning(8), oracle, Canvas(draft, frozen), Stream.of(0, 200)).tokens, draft)


def test_a_joint_draw_sees_the_masked_cells_only():
    """Written cells are asked for their score, and are no business of a constraint."""
    oracle, draw = JUDGES["random_table"], SeesAll()
    canvas, stream = blank(30, 4, oracle.alphabet), Stream.of(2, 30)
    joint = sample(PathPlanning(4, 1.0, draw=draw), oracle, canvas, stream)
    assert [told.unique().tolist() for told in draw.told] == [[4], [3], [2], [1]]
    assert torch.equal(joint.tokens, sample(PathPlanning(4, 1.0), oracle, canvas, stream).tokens)


# ---- calls -----------------------------------------------------------------------------------------------------------


class Counts:
    """A planner that counts the rows it reads."""

    def __init__(self, rows):
        self.read = torch.zeros(rows, dtype=torch.int64)
        self.index = torch.arange(rows)

    def __call__(self, tokens):
        assert len(tokens) == len(self.index)
        self.read[self.index] += 1
        return uneven(tokens)

    def rows(self, index):
        part = Counts(0)
        part.read, part.index = self.read, self.index[index]
        return part


@pytest.mark.parametrize("steps", [1, 3, 4, 11])
def test_calls_by_formula(steps):
    """A call a step until nothing is masked any more: n unknown cells take floor(T (1 - 1/n)) + 1 steps, at most T."""
    oracle = JUDGES["markov_chain"]
    canvas = mixed_canvas(oracle, 60, 0)
    n = canvas.unknown.sum(1)
    expected = torch.where(n == 0, 0, (steps * (n - 1)) // n.clamp(min=1) + 1).clamp(max=steps)
    watched, planner = Watched(oracle, 60), Counts(60)
    told = sum(info.calls for _, info in run(PathPlanning(steps), watched, canvas, Stream.of(0, 60)))
    assert torch.equal(watched.ledger.calls, expected)
    assert torch.equal(told, expected)
    watched = Watched(oracle, 60)
    judged = WithPlanner(watched, planner)
    told = sum(info.calls for _, info in run(PathPlanning(steps), judged, canvas, Stream.of(0, 60)))
    assert torch.equal(watched.ledger.calls, expected)
    assert torch.equal(planner.read, (expected - 1).clamp(min=0))  # the last step keeps all: nobody is asked
    assert torch.equal(told, watched.ledger.calls + planner.read)


@dataclass(frozen=True)
class ToTheEnd(PathPlanning):
    """Takes every step, whether or not it can change anything."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state, conditional)
        return after._replace(done=after.step >= self.steps), info


def test_ending_early_changes_nothing():
    for oracle in JUDGES.values():
        canvas, stream = mixed_canvas(oracle, 40, 6), Stream.of(6, 40)
        for sampler in (PathPlanning(9, 1.0), PathPlanning(9, 3.0, "cosine")):
            whole = ToTheEnd(9, sampler.eta, sampler.schedule)
            assert torch.equal(
                sample(sampler, oracle, canvas, stream).tokens, sample(whole, oracle, canvas, stream).tokens
            )


# ---- planners --------------------------------------------------------------------------------------------------------


class SureOfItself(ShortSighted):
    """Has seen the token in a cell and repeats it."""

    visible = Visible.DENOISE

    def __call__(self, tokens, at=None):
        own = tokens[at]
        point = torch.nn.functional.one_hot(own.clamp(max=3), 5).double().log()
        return torch.where((own < 4)[:, None], point, super().__call__(tokens, at))


class Rereads(ShortSighted):
    """Judges a token by its partner, as well as it can."""

    visible = Visible.LEAVE_ONE_OUT


def truth(tokens):
    """Knows which pairs are broken."""
    return torch.where(tokens[:, ::2] == tokens[:, 1::2], 0.0, -5.0).double().repeat_interleave(2, 1)


def whole_pairs(sampler, conditional, rows=500, length=12):
    tokens = sample(sampler, conditional, blank(rows, length, conditional.alphabet), Stream.of(0, rows)).tokens
    return (tokens[:, ::2] == tokens[:, 1::2]).double().mean(1)


def gain(sampler, net):
    """Whole pairs with the planner that knows, less those without, in standard errors."""
    alone, planned = whole_pairs(sampler, net), whole_pairs(sampler, WithPlanner(net, truth))
    return float(planned.mean() - alone.mean()) / math.sqrt(float(alone.var() + planned.var()) / len(alone))


@dataclass(frozen=True)
class IgnoresThePlanner(PathPlanning):
    def step(self, stream, state, conditional):
        return super().step(stream, state, conditional.conditional if hasattr(conditional, "plan") else conditional)


@pytest.mark.parametrize("net", [SureOfItself(), Rereads()], ids=["denoise", "leave one out"])
def test_a_planner_that_knows_the_truth_raises_the_share_of_whole_pairs(net):
    """A short-sighted net that writes two cells a step: the planner gives the broken pairs back."""
    assert gain(PathPlanning(6), net) > 8
    assert abs(gain(IgnoresThePlanner(6), net)) < 3


class Silent(Oracle):
    """Fails where it is asked about a written cell."""

    def __call__(self, tokens, at=None):
        assert (tokens[at] == self.alphabet.mask).all()
        return super().__call__(tokens, at)


def test_a_judge_is_needed():
    silent = Silent("silent", LAWS["copy_pairs"].joint.view(3, 3, 3, 3), 1, 0, Visible.NONE)
    canvas, stream = blank(9, 4, silent.alphabet), Stream.of(0, 9)
    with pytest.raises(BadInput, match="WithPlanner"):
        sample(PathPlanning(4), silent, canvas, stream)
    found = sample(PathPlanning(4), WithPlanner(silent, uneven), canvas, stream)
    assert torch.equal(
        found.tokens, sample(PathPlanning(4), WithPlanner(JUDGES["copy_pairs"], uneven), canvas, stream).tokens
    )


@pytest.mark.parametrize(
    "check", [c for c in SAMPLER_CHECKS if c is not conformance.check_calls], ids=lambda c: c.__name__
)
def test_the_contract_holds_with_a_planner(check):
    class Planned(WithPlanner):
        """An oracle with a planner, for the checks."""

        def __getattr__(self, name):
            return getattr(self.conditional, name)

    check(PathPlanning(FEW_STEPS, 2.0), Planned(JUDGES["copy_pairs"], uneven))


# ---- planted bugs and bad fields -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MasksTheGiven(PathPlanning):
    """Every cell competes, given ones too."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state._replace(frozen=torch.zeros_like(state.frozen)), conditional)
        return after._replace(frozen=state.frozen), info


@dataclass(frozen=True)
class LeavesAMask(PathPlanning):
    """Rounds up: the last step masks too."""

    def masks(self, step, unknown):
        return super().masks(step, unknown).clamp(min=1)

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state, conditional)
        return after._replace(done=after.step >= self.steps), info


def test_planted_bugs_are_caught():
    oracle = JUDGES["markov_chain"]
    with pytest.raises(AssertionError, match="a frozen cell was written"):
        conformance.check_frozen(MasksTheGiven(6, 3.0), oracle)
    with pytest.raises(AssertionError, match="a special token was left"):
        conformance.check_ends(LeavesAMask(6), oracle)
    for check in (conformance.check_frozen, conformance.check_ends):
        check(PathPlanning(6, 3.0), oracle)


def test_what_it_promises():
    assert PathPlanning().law is Law.HEURISTIC


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": steps} for steps in (0, -1, 1_000_001)),
        *({"eta": eta} for eta in (-0.1, math.inf, math.nan)),
        {"schedule": "quadratic"},
    ],
    ids=str,
)
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match="type --"):
        PathPlanning(**wrong)
