"""Required ids: the guarantee under every sampler, where the ids fall, and the end token behind them."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import blank, infill
from remask.core.conditional import Visible
from remask.core.draw import Categorical
from remask.core.errors import BadInput
from remask.core.refill import commit, propose
from remask.core.sampler import Law, masked, run, sample, start
from remask.core.stream import Stream
from remask.nets.require import Require, reserved, restrict
from remask.nets.wrap import Ban, LeaveOneOut, RepetitionPenalty, Temperature, TopP
from remask.samplers.ancestral import Ancestral
from remask.samplers.blocks import Blocks
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.gibbs import Gibbs
from tests import conformance
from tests.conformance import FEW_STEPS, in_small, mixed_canvas, with_budget
from tests.nets.laws import FULL, Changed, Fixed, gap, saying, share, some_blanks
from tests.oracle import LAWS, Watched

CHAIN, TABLE = LAWS["markov_chain"], LAWS["random_table"]
ROWS = 200


@dataclass(frozen=True)
class Rewrites:
    """Fills all masks at once, then draws every unknown cell anew, visible or not: the hardest on a guarantee."""

    sweeps: int = 4
    draw: Categorical = field(default_factory=Categorical)
    law = Law.HEURISTIC

    def init(self, stream, canvas, conditional):
        return start(canvas)

    def step(self, stream, state, conditional):
        first = (state.step == 0)[:, None]
        at = torch.where(first, masked(state, conditional), ~state.frozen)
        proposal = propose(self.draw, stream, state, conditional, at & ~state.done[:, None])
        return commit(state, proposal, at, state.step >= self.sweeps)


@dataclass(frozen=True)
class Chaos(Rewrites):
    """Asks about any cells, writes those, masks any others again; at last it fills what is masked."""

    sweeps: int = 9

    def step(self, stream, state, conditional):
        first, second = (stream.uniform(state.step, purpose, state.tokens.shape[1]) for purpose in (3, 10))
        last = (state.step >= self.sweeps)[:, None]
        blanks = masked(state, conditional)
        at = torch.where(last, blanks, (first < 0.5) & ~state.frozen)
        state, info = commit(state, propose(self.draw, stream, state, conditional, at), at, last[:, 0])
        again = (second < 0.3) & ~at & ~state.frozen & ~last
        tokens = torch.where(again, conditional.alphabet.mask, state.tokens)
        return state._replace(tokens=tokens), info._replace(changed=info.changed | again)


SAMPLERS = {name: in_small(with_budget(sampler, FEW_STEPS)) for name, sampler in conformance.samplers().items()} | {
    "two_steps": Ancestral(steps=2),
    "one_step": Ancestral(steps=1),
    "rewrites": Rewrites(),
    "chaos": Chaos(),
    "blocks_of_gibbs": Blocks(inner=Gibbs(size=2, moves=4), size=3),
    "blocks_of_chaos": Blocks(inner=Chaos(), size=3),
}


def begins_with_masks(sampler):
    """Some begin with random text: there is no room in it, and they must be refused."""
    canvas = blank(4, 4, CHAIN.alphabet)
    return bool((sampler.init(Stream.of(0, 4), canvas, CHAIN).tokens == CHAIN.alphabet.mask).all())


FILLING = {name: sampler for name, sampler in SAMPLERS.items() if begins_with_masks(sampler)}
every_sampler = pytest.mark.parametrize("sampler", FILLING.values(), ids=FILLING)


def holds(tokens, required):
    """Which rows hold every required id as often as it is required, [B] bool."""
    wanted = Counter(required)
    return torch.stack([(tokens == t).sum(1) >= n for t, n in wanted.items()]).all(0)


@dataclass(frozen=True)
class Plain(Require):
    """Hopes for the best."""

    def __call__(self, tokens, at=None):
        return self.conditional(tokens, at)


@dataclass(frozen=True)
class OnceEach(Require):
    """Takes a list for a set."""

    def __call__(self, tokens, at=None):
        return Require(self.conditional, tuple(set(self.tokens)))(tokens, at)


@dataclass(frozen=True)
class LetsGo(Require):
    """Reserves cells, but lets a visible one lose what the row cannot spare."""

    def __call__(self, tokens, at=None):
        log_prob = super().__call__(tokens, at)
        seen = tokens != self.alphabet.mask if at is None else (tokens != self.alphabet.mask)[at]
        return torch.where(seen[..., None], self.conditional(tokens, at), log_prob)


# ---- the guarantee ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "visible"),
    [((4, 0), Visible.DENOISE), ((3, 3), Visible.LEAVE_ONE_OUT), ((0, 1, 3, 4), Visible.DENOISE)],
    ids=["two", "one_twice", "all_cells"],
)
@every_sampler
def test_every_canvas_holds_what_is_required(sampler, required, visible):
    law = Require(saying(CHAIN, visible), required)
    tokens = sample(sampler, law, blank(ROWS, 4, CHAIN.alphabet), Stream.of(1, ROWS)).tokens
    assert holds(tokens, required).all()
    assert not torch.isin(tokens, torch.tensor(sorted(CHAIN.alphabet.special))).any()


@every_sampler
def test_given_cells_count(sampler):
    """Also where the law gives the rest no chance at all: cells that are copies of others."""
    oracle, required = LAWS["copy_pairs"], (2, 3, 4)
    canvas = mixed_canvas(oracle, ROWS, 2)
    missing = torch.stack([(canvas.tokens != t).all(1) for t in required]).sum(0)
    fits = missing <= (canvas.tokens == oracle.alphabet.mask).sum(1)
    canvas = canvas.rows(torch.nonzero(fits)[:, 0])
    tokens = sample(sampler, Require(oracle, required), canvas, Stream.of(0, len(canvas.tokens))).tokens
    assert holds(tokens, required).all()
    assert torch.equal(tokens[canvas.frozen], canvas.tokens[canvas.frozen])


def test_samplers_that_begin_with_text_are_refused():
    """Loudly: never a canvas without what was required."""
    for sampler in (s for name, s in SAMPLERS.items() if name not in FILLING):
        with pytest.raises(BadInput, match="begins with masks"):
            sample(sampler, Require(CHAIN, (4, 0)), blank(ROWS, 4, CHAIN.alphabet), Stream.of(1, ROWS))
    assert len(FILLING) >= 8


@pytest.mark.parametrize(
    ("bug", "sampler", "required"),
    [
        (Plain, FirstHitting(), (4, 0)),
        (Plain, Ancestral(steps=2), (3, 3)),
        (OnceEach, FirstHitting(), (3, 3)),
        (LetsGo, Rewrites(sweeps=1), (4, 0)),
    ],
)
def test_planted_bugs_break_the_guarantee(bug, sampler, required):
    law = bug(saying(CHAIN, Visible.LEAVE_ONE_OUT), required)
    tokens = sample(sampler, law, blank(ROWS, 4, CHAIN.alphabet), Stream.of(1, ROWS)).tokens
    assert not holds(tokens, required).all()


def test_the_guarantee_holds_beneath_other_wrappers():
    """Point masses pass through cuts, temperatures and penalties; leaving one out goes beneath."""
    required = (4, 0, 4)
    law = TopP(Temperature(RepetitionPenalty(restrict(CHAIN, (1,), required), 2), 0.7), 0.5)
    for conditional, sampler in ((law, Ancestral(steps=2)), (law, FirstHitting()), (LeaveOneOut(law), Rewrites())):
        tokens = sample(sampler, conditional, blank(ROWS, 4, CHAIN.alphabet), Stream.of(1, ROWS)).tokens
        assert holds(tokens, required).all()
        assert not (tokens == 1).any()


def test_the_invariant_at_every_step():
    """Never more ids missing than cells masked."""
    required = (0, 3, 4, 4)
    law = Require(CHAIN, required)
    for state, _ in run(Ancestral(steps=5), law, blank(ROWS, 4, CHAIN.alphabet), Stream.of(3, ROWS)):
        missing = sum((n - (state.tokens == t).sum(1)).clamp(min=0) for t, n in Counter(required).items())
        assert (missing <= (state.tokens == CHAIN.alphabet.mask).sum(1)).all()


# ---- where they fall -------------------------------------------------------------------------------------------------


def by_hand(chance, missing, ids):
    """The same for one row, with a list of pairs."""
    place, left = [-1] * len(chance), list(missing)
    while sum(left):
        pairs = [
            (-chance[cell][kind], cell, kind)
            for cell, kind in product(range(len(chance)), range(len(ids)))
            if left[kind] and place[cell] == -1 and chance[cell][kind] > -torch.inf
        ]
        if not pairs:
            break
        _, cell, kind = min(pairs)
        place[cell], left[kind] = ids[kind], left[kind] - 1
    return place


def test_reserved_cells_against_a_list_of_pairs():
    generator = torch.Generator().manual_seed(0)
    chance = torch.randint(-4, 1, (300, 6, 3), generator=generator).double()  # many ties
    chance[torch.rand(300, 6, generator=generator) < 0.3] = -torch.inf
    missing = torch.randint(0, 3, (300, 3), generator=generator)
    found = reserved(chance, missing, torch.tensor([7, 8, 9]))
    truth = [by_hand(c.tolist(), m.tolist(), [7, 8, 9]) for c, m in zip(chance, missing)]
    assert found.tolist() == truth


def law_of_cells(rows):
    """Cells with these weights of the text ids 0, 1, 2; mask 3, end 4 (the fifth weight)."""
    prob = torch.tensor(rows, dtype=torch.float64)
    return Fixed((prob / prob.sum(1, keepdim=True)).log(), TABLE.alphabet)


def test_the_most_probable_pair_first():
    law = Require(law_of_cells([[5, 4, 1, 0, 0], [1, 8, 1, 0, 0], [6, 1, 3, 0, 0]]), (0, 1))
    log_prob = law(torch.tensor([[3, 3, 3]])).exp()[0]
    assert log_prob[0].tolist() == pytest.approx([0.5, 0.4, 0.1, 0, 0])
    assert log_prob[1].tolist() == [0, 1, 0, 0, 0]
    assert log_prob[2].tolist() == [1, 0, 0, 0, 0]


def test_only_cells_asked_about_are_answered_and_the_rest_decides():
    """The best cell of an id lies elsewhere: the cell asked about is answered plainly."""
    law = Require(law_of_cells([[5, 4, 1, 0, 0], [1, 8, 1, 0, 0], [6, 1, 3, 0, 0]]), (1,))
    tokens = torch.tensor([[3, 3, 3], [3, 2, 3], [1, 3, 3]])
    first = torch.tensor([[True, False, False], [True, False, False], [False, True, False]])
    assert law(tokens, first).exp()[0].tolist() == pytest.approx([0.5, 0.4, 0.1, 0, 0])
    assert law(tokens, first).exp()[1].tolist() == [0, 1, 0, 0, 0]
    assert law(tokens, first).exp()[2].tolist() == pytest.approx([0.1, 0.8, 0.1, 0, 0])


def test_a_visible_cell_keeps_what_the_row_cannot_spare():
    law = Require(saying(TABLE, Visible.LEAVE_ONE_OUT), (1, 1))
    log_prob = law(torch.tensor([[1, 0, 1, 1]]))[0]
    plain = saying(TABLE, Visible.LEAVE_ONE_OUT)(torch.tensor([[1, 0, 1, 1]]))[0]
    assert log_prob[0].exp().tolist() == log_prob[2].exp().tolist() == [0, 1, 0, 0, 0]
    assert torch.equal(log_prob[[1, 3]], plain[[1, 3]])


@pytest.mark.parametrize("law", FULL)
def test_rows_that_hold_it_all_are_answered_by_the_plain_law(law):
    oracle = LAWS[law]
    tokens = some_blanks(oracle, 60)
    required = (int(oracle.ids[0]),)
    tokens = tokens[(tokens == required[0]).any(1)]
    at = tokens == oracle.alphabet.mask
    assert torch.equal(Require(oracle, required)(tokens, at), oracle(tokens, at))


@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral(steps=FEW_STEPS)], ids=["first_hitting", "ancestral"])
def test_samplers_keep_their_contract(sampler):
    """On canvases that can hold it."""

    class Roomy(Changed):
        def sample(self, n, seed):
            tokens = self.oracle.sample(n, seed)
            return tokens[:, :1].new_full((1, 1), 4).where(torch.arange(4) == 3, tokens)

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
        check(sampler, Roomy(CHAIN, lambda c: Require(c, (4,))))


def test_one_call_whatever_is_missing():
    oracle, canvas = CHAIN, blank(30, 4, CHAIN.alphabet)
    watched = Watched(oracle, 30)
    infos = [info for _, info in run(FirstHitting(), Require(watched, (0, 4)), canvas, Stream.of(0, 30))]
    assert watched.ledger.calls.tolist() == [4] * 30
    assert all((info.changed.sum(1) <= 1).all() for info in infos)


# ---- the end token ---------------------------------------------------------------------------------------------------


def before_the_end(row, end):
    return row[: row.index(end)] if end in row else row


@every_sampler
def test_nothing_required_falls_behind_the_end(sampler):
    """A law that would end nearly everywhere; what is read stops at the first end token."""
    law = law_of_cells([[1, 1, 1, 0, 9]] * 8)
    tokens = sample(sampler, Require(law, (0, 2, 2)), blank(ROWS, 8, law.alphabet), Stream.of(5, ROWS)).tokens
    for row in tokens.tolist():
        read = Counter(before_the_end(row, 4))
        assert read[0] >= 1
        assert read[2] >= 2


def test_without_that_rule_they_would():
    @dataclass(frozen=True)
    class Anywhere(Require):
        def _end_later(self, log_prob, own, unmet):
            return log_prob

    law, canvas = law_of_cells([[1, 1, 1, 0, 9]] * 8), blank(ROWS, 8, TABLE.alphabet)
    for kind, right in ((Anywhere, False), (Require, True)):
        tokens = sample(FirstHitting(), kind(law, (0, 2)), canvas, Stream.of(5, ROWS)).tokens
        assert all({0, 2} <= set(before_the_end(row, 4)) for row in tokens.tolist()) is right
        assert (tokens == 4).any(1).double().mean() > 0.5


def test_the_end_token_waits_and_the_rest_is_renormalised():
    law = Require(law_of_cells([[1, 2, 1, 0, 4]] * 3), (2,))
    found = law(torch.tensor([[3, 2, 3]])).exp()[0]
    assert found[0].tolist() == pytest.approx([*share([1, 2, 1]), 0, 0])
    assert found[2].tolist() == pytest.approx(share([1, 2, 1, 0, 4]))
    given = law(torch.tensor([[4, 3, 3]])).exp()[0]  # a given end token at the start is no end of text
    assert given[0].tolist() == pytest.approx(share([1, 2, 1, 0, 4]))
    assert given[1].tolist() == [0, 0, 1, 0, 0]


def test_cells_before_an_end_are_reserved_first():
    law = Require(law_of_cells([[8, 1, 1, 0, 0], [1, 1, 1, 0, 1], [1, 1, 8, 0, 0]]), (2,))
    assert law(torch.tensor([[3, 4, 3]])).exp()[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert law(torch.tensor([[0, 4, 3]])).exp()[0, 2].tolist() == [0, 0, 1, 0, 0]


def test_what_stands_behind_an_end_only_is_missing_while_there_is_room():
    law = Require(law_of_cells([[8, 1, 1, 0, 0], [1, 1, 1, 0, 1], [1, 1, 8, 0, 0], [1, 1, 1, 0, 1]]), (2,))
    assert law(torch.tensor([[3, 4, 2, 3]])).exp()[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert law(torch.tensor([[4, 4, 2, 3]])).exp()[0, 3].tolist() == pytest.approx([0.25, 0.25, 0.25, 0, 0.25])
    assert law(torch.tensor([[0, 4, 2, 3]])).exp()[0, 3].tolist() == pytest.approx([0.25, 0.25, 0.25, 0, 0.25])
    begun = torch.tensor([[4, 3, 4, 2]])  # an end token that the row begins with ends nothing, the second one does
    assert law(begun).exp()[0, 1].tolist() == [0, 0, 1, 0, 0]


def test_a_cut_inside_may_leave_only_the_end():
    law = law_of_cells([[0, 0, 0, 0, 1], [1, 1, 1, 0, 0]])
    with pytest.raises(BadInput, match="the end token must wait"):
        Require(law, (1,))(torch.tensor([[3, 3]]))


def test_alphabets_without_an_end():
    alphabet = Alphabet(4, 3, special=frozenset({3}))
    law = Fixed(torch.tensor([[0.2, 0.3, 0.5, 0.0]] * 2, dtype=torch.float64).log(), alphabet)
    assert Require(law, (0,))(torch.tensor([[3, 3]])).exp()[0].tolist() == [
        [1, 0, 0, 0],
        pytest.approx([0.2, 0.3, 0.5, 0]),
    ]


# ---- what cannot be --------------------------------------------------------------------------------------------------


def test_more_missing_than_blanks():
    law = Require(TABLE, (0, 1, 1))
    with pytest.raises(BadInput, match="missing from a row: 3, but its blanks are 2"):
        law(torch.tensor([[3, 3, 2, 2]]))
    law(torch.tensor([[3, 3, 1, 2]]))
    at = torch.tensor([[False] * 4, [True] * 4])
    law(torch.tensor([[2, 2, 2, 2], [3, 3, 3, 3]]), at)  # rows that nobody asks about do not matter
    canvas = infill(torch.tensor([[3, 2, 2, 2]]), TABLE.alphabet)
    with pytest.raises(BadInput, match="leave more cells open"):
        sample(FirstHitting(), law, canvas, Stream.of(0, 1))


def test_ids_that_cannot_be_required():
    with pytest.raises(BadInput, match=r"special ids \[3, 4\]"):
        Require(TABLE, (0, 4, 3))
    with pytest.raises(BadInput, match=r"\[9\].*0 to 4"):
        Require(TABLE, (9,))
    assert torch.equal(Require(TABLE, ())(some_blanks(TABLE)), TABLE(some_blanks(TABLE)))


def test_banned_and_required_at_once():
    with pytest.raises(BadInput, match=r"required tokens that are also banned: the ids \[0, 2\]"):
        restrict(TABLE, (0, 1, 2), (2, 0))
    assert restrict(TABLE) is TABLE
    assert restrict(TABLE, [0]) == Ban(TABLE, (0,))
    assert restrict(TABLE, (), (1,)) == Require(TABLE, (1,))
    assert restrict(TABLE, (0,), (1, 1)) == Require(Ban(TABLE, (0,)), (1, 1))
    blanks = torch.full((1, 4), 3)
    assert gap(restrict(TABLE, (0,), (1,))(blanks)[..., 0], torch.full((1, 4), -torch.inf)) == 0
