"""Parallel decoding with refinement: against loops written anew, and the toys in which drawing apart cannot agree."""

import math
from dataclasses import dataclass

import pytest
import torch

from remask.cli.flags import describe
from remask.core.canvas import Canvas, blank
from remask.core.conditional import Visible
from remask.core.draw import Categorical, Greedy
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.stream import Purpose, Stream
from remask.nets.planner import WithPlanner
from remask.samplers import SAMPLERS
from remask.samplers.mask_predict import MaskPredict
from remask.samplers.padir import REPLACEMENTS, PaDIR
from remask.samplers.rejecters import REJECTERS
from remask.samplers.sundae import STARTS, Sundae, random_text
from remask.translate.usual import usual_of
from tests.conformance import FEW_STEPS, SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched, surprise
from tests.samplers.chains import marginals, product_of
from tests.samplers.enumeration import coins
from tests.samplers.test_p2 import left_out, uneven
from tests.samplers.test_sundae import EvenSum, NoisyChannel

NOISY, LEFT_OUT = NoisyChannel(LAWS["random_table"]), left_out(LAWS["random_table"])


def with_blank(oracle):
    """The same law where the end id is the pad id too."""
    oracle.alphabet = oracle.alphabet._replace(pad=oracle.alphabet.end)
    return oracle


BLANKS = with_blank(NoisyChannel(LAWS["random_table"]))


def steps_of(sampler, net, canvas, seed=0):
    """All (State, Info) of a run."""
    return list(run(sampler, net, canvas, Stream.of(seed, len(canvas.tokens))))


@dataclass(frozen=True)
class EveryDraw(Stream):
    """Fair coins, all of their outcomes: the bits of a row's number."""

    def rows(self, index):
        return EveryDraw(self.seeds[index])

    def uniform(self, step, purpose, length):
        assert purpose is Purpose.TOKEN
        return 0.25 + 0.5 * ((self.seeds[:, None] >> (step[:, None] * length + torch.arange(length))) & 1).double()


def every_draw(length, steps):
    return EveryDraw(torch.arange(2 ** (length * steps)))


def written(sampler, net, stream):
    """The canvases that begin blank, one for each row of the stream."""
    return sample(sampler, net, blank(len(stream.seeds), net.length, net.alphabet), stream).tokens


# ---- an independent implementation -----------------------------------------------------------------------------------


def doubts(sampler, t, cells, said, draft, planner):
    """The cells of one row that a rejecter names, by lists."""
    sure = sorted(cells, key=lambda cell: float(said[cell].max()))
    share = {"constant": sampler.reject_share, "linear": (sampler.steps - t - 1) / sampler.steps}
    if sampler.reject in share:
        return sure[: math.floor(len(cells) * share[sampler.reject] + 1e-9)]
    if sampler.reject == "learned":
        return [cell for cell in cells if planner(draft[None])[0, cell] < math.log(0.5)]
    return [cell for cell in cells if sampler.reject == "stutter" and cell and draft[cell] == draft[cell - 1]]


def by_hand(sampler, net, tokens, unknown, stream):
    """One row, all T steps taken: the texts before each step and at the end, and the text with what was removed."""
    cells = torch.nonzero(unknown)[:, 0].tolist()
    noise = random_text(stream, len(tokens), net.alphabet)[0]
    text = torch.where(unknown, noise if sampler.start == "random" else net.alphabet.mask, tokens)
    first, total, texts = text, torch.zeros(len(tokens), net.alphabet.size, dtype=torch.float64), [text]
    for t in range(sampler.steps):
        said = net(text[None])[0]
        total = total + said.clamp(min=-1e4)
        draft = torch.where(unknown, said.argmax(1), text)
        removed = [c for c in cells if sampler.remove_stutter and c and draft[c] == draft[c - 1] != net.alphabet.mask]
        rejected = removed + (doubts(sampler, t, cells, said, draft, uneven) if t + 1 < sampler.steps else [])
        shown = {"initial": first, "previous": text, "sum": total.argmax(1)}[sampler.replace]
        text = draft.clone()
        text[rejected] = shown[rejected]
        texts.append(text)
    end = text.clone()
    end[removed] = draft[removed] if net.alphabet.pad is None else net.alphabet.pad
    return texts, end


def same_as_by_hand(sampler, net, rows=9):
    """Compares every step of every row and the calls; returns how many steps were saved."""
    canvas, watched = mixed_canvas(net, rows, 2), Watched(net, rows)
    found, saved = steps_of(sampler, WithPlanner(watched, uneven), canvas, 5), 0
    for row in range(rows):
        if not canvas.unknown[row].any():
            continue
        texts, end = by_hand(sampler, net, canvas.tokens[row], canvas.unknown[row], Stream.of(5, torch.tensor([row])))
        constant = [i for i in range(sampler.steps) if all(torch.equal(texts[i], later) for later in texts[i:])]
        calls = min([*(i + 1 for i in constant), sampler.steps])
        if not (sampler.replace == "sum" and sampler.remove_stutter):  # a sum that hides a token may still give way
            assert int(watched.ledger.calls[row]) == calls, "the row ends when no later step changes it"
        assert torch.equal(found[-1][0].tokens[row], end), "ending early changes nothing"
        for (state, _), text in zip(found[: calls - 1], texts[1:]):
            assert torch.equal(state.tokens[row], text)
        saved += sampler.steps - int(watched.ledger.calls[row])
    return saved


@pytest.mark.parametrize("remove_stutter", [False, True], ids=["", "removing"])
@pytest.mark.parametrize("replace_by", REPLACEMENTS)
@pytest.mark.parametrize("reject", REJECTERS)
def test_every_step_is_the_one_that_loops_find(reject, replace_by, remove_stutter):
    saved = 0
    for start in STARTS:
        sampler = PaDIR(5, start, reject, 0.4, replace_by, remove_stutter)
        saved += sum(same_as_by_hand(sampler, net) for net in (BLANKS if remove_stutter else NOISY, LEFT_OUT))
    assert saved > 0


# ---- beginnings, ends, stutter ---------------------------------------------------------------------------------------


def test_where_cells_are_independent_one_step_gives_the_mode():
    net = coins(0.6, 0.9, 0.2, 0.7)
    tokens = sample(PaDIR(1), net, blank(1, 4, net.alphabet), Stream.of(0, 1)).tokens
    assert torch.equal(tokens[0], net.states[net.joint.argmax()])


def test_random_text_holds_no_special_ids_and_leaves_given_cells():
    net, canvas = NOISY, mixed_canvas(NOISY, 200, 0)
    begun = PaDIR(start="random").init(Stream.of(1, 200), canvas, net).tokens
    assert torch.equal(begun[canvas.frozen], canvas.tokens[canvas.frozen])
    counts = torch.bincount(begun[canvas.unknown], minlength=net.alphabet.size)
    assert surprise(counts[net.ids], torch.full((net.symbols,), 1 / net.symbols)) < 4
    assert counts.sum() == counts[net.ids].sum()


def test_text_that_unknown_cells_held_is_gone():
    net = NOISY
    tokens, stream = net.sample(20, 0), Stream.of(0, 20)
    held = sample(PaDIR(), net, Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool)), stream).tokens
    assert torch.equal(held, sample(PaDIR(), net, blank(20, 4, net.alphabet), stream).tokens)


def test_a_net_that_copies_what_it_sees_is_asked_twice():
    net = Watched(LAWS["ring_ising"], 9)
    sample(PaDIR(8), net, blank(9, 5, net.alphabet), Stream.of(0, 9))
    assert net.ledger.calls.tolist() == [2] * 9


def test_a_conditional_must_say_something_of_visible_tokens():
    net = left_out(LAWS["ring_ising"], Visible.NONE)
    canvas, stream = blank(2, 5, net.alphabet), Stream.of(0, 2)
    for sampler in (PaDIR(2), PaDIR(1, "random")):
        with pytest.raises(BadInput, match="--steps 1"):
            sample(sampler, net, canvas, stream)
    assert torch.equal(sample(PaDIR(1), net, canvas, stream).tokens, sample(MaskPredict(1), net, canvas, stream).tokens)


def swap():
    """Two tokens in either order: a draft of cells drawn apart repeats one of them half of the time."""
    return Oracle("swap", torch.tensor([[0.0, 0.5], [0.5, 0.0]]), 2, 3)


def test_a_repeated_token_is_mended_or_deleted():
    """With no time left the cell means nothing; with a step left the mask is filled by what sees the other token."""
    net, stream = with_blank(swap()), every_draw(2, 2)
    once, twice = (PaDIR(steps, remove_stutter=True, draw=Categorical()) for steps in (1, 2))
    deleted, kept = written(once, net, stream), written(once, swap(), stream)
    assert sorted(map(tuple, deleted.tolist())) == sorted([(0, 1), (1, 0), (0, 3), (1, 3)] * 4)
    assert torch.equal(torch.where(deleted == 3, deleted[:, :1], deleted), kept), "without a blank the token is kept"
    assert sorted(map(tuple, written(twice, net, stream).tolist())) == sorted([(0, 1), (1, 0)] * 8)
    assert torch.equal(written(twice, swap(), stream), written(twice, net, stream))


# ---- toys: what was drawn apart cannot agree -------------------------------------------------------------------------


def paraphrases(words, visible=Visible.DENOISE):
    """Words of two cells, each "p q" or "r s" (0 1 or 2 3) with equal chances."""
    word = torch.zeros(4, 4, dtype=torch.float64)
    word[0, 1] = word[2, 3] = 0.5
    return Oracle("paraphrases", word if words == 1 else word[:, :, None, None] * word, 4, 5, visible)


def mixed(tokens):
    """Words that are neither, [n, words] bool: 0 goes with 1 and 2 with 3."""
    return tokens[:, 1::2] != tokens[:, ::2] + 1


def test_one_step_mixes_half_of_the_ambiguous_words():
    net, sampler, rows = paraphrases(2), PaDIR(1, draw=Categorical()), 4000
    assert mixed(written(sampler, net, every_draw(4, 1))).double().mean() == 0.5
    share = float(mixed(written(sampler, net, Stream.of(0, rows))).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(2 * rows)
    assert not mixed(written(PaDIR(1), net, Stream.of(0, 9))).any()  # argmax breaks the ties alike


@pytest.mark.parametrize("visible", [Visible.DENOISE, Visible.LEAVE_ONE_OUT])
def test_without_rejection_a_mixture_stays_one(visible):
    """A net that sees the token copies it; one that does not swaps "p s" for "r q", and back again."""
    net, stream = paraphrases(1, visible), every_draw(2, 4)
    watched = Watched(net, len(stream.seeds))
    tokens = sample(PaDIR(4, draw=Categorical()), watched, blank(len(stream.seeds), 2, net.alphabet), stream).tokens
    assert torch.equal(mixed(tokens), mixed(written(PaDIR(1, draw=Categorical()), net, stream)))
    settled = (visible is Visible.DENOISE) | ~mixed(tokens)[:, 0]
    assert torch.equal(watched.ledger.calls, torch.where(settled, 2, 4))


def test_masking_all_but_one_more_token_a_step_never_mixes():
    """No draw of all that there are; and the four texts come out equally often. Two tokens kept at once still mix."""
    net, stream = paraphrases(2), every_draw(4, 3)
    found = list(run(PaDIR(4, reject="linear", draw=Categorical()), net, blank(2**12, 4, net.alphabet), stream))
    tokens = found[-1][0].tokens
    assert len(found) == 4
    assert not found[-1][1].log_prob.any(), "the fourth step has nothing left to draw"
    assert not mixed(tokens).any()
    assert torch.bincount(net.number(tokens), minlength=4**4)[net.joint > 0].tolist() == [2**10] * 4
    halves = written(PaDIR(2, reject="linear", draw=Categorical()), net, every_draw(4, 2))
    assert mixed(halves)[:, 1].double().mean() == 0.5


def test_the_usual_translation_of_a_padir_net_mends_what_it_wrote():
    """As many steps as cells: with the usual fields no draw is mixed, without them as many as after one step."""
    net, stream = paraphrases(2), every_draw(4, 3)
    name, usual = usual_of({"name": "padir"})
    kind = SAMPLERS.load(name)
    assert not mixed(written(kind(draw=Categorical(), **usual), net, stream)).any()
    drafted = kind(draw=Categorical(), **usual | {"reject": PaDIR().reject})
    assert mixed(written(drafted, net, stream)).double().mean() == 0.5


COMPLEMENTS = torch.zeros([2] * 5, dtype=torch.float64)
COMPLEMENTS[0, 1, 1, 0, 1] = COMPLEMENTS[1, 0, 0, 1, 0] = 0.5


def settling(net, steps):
    """The law [S] after at most T synchronous steps from masks, where a row that repeats itself ends."""
    matrix = product_of(net, net.states, list(range(net.length)))
    alive, ended = marginals(net), torch.zeros(len(net.states), dtype=torch.float64)
    for _ in range(steps - 1):
        ended = ended + alive * matrix.diagonal()
        alive = alive @ (matrix - matrix.diagonal().diag())
    return alive + ended


@pytest.mark.parametrize(("steps", "least"), [(2, 0.74), (3, 0.97), (6, 0.99)])
def test_a_text_or_its_complement_settles_where_the_net_corrects_what_it_reads(steps, least):
    """One step is right with 2^-(n-1); read as noise by a net that was trained on noise, the majority wins."""
    net = NoisyChannel(Oracle("complements", COMPLEMENTS, 2, 3), 0.2)
    assert float(settling(net, 1)[net.joint > 0].sum()) == pytest.approx(2**-4)
    law = settling(net, steps)
    assert float(law[net.joint > 0].sum()) > least
    tokens = written(PaDIR(steps, draw=Categorical()), net, Stream.of(steps, 3000))
    assert surprise(torch.bincount(net.number(tokens), minlength=32), law) < 4


def test_a_text_or_its_complement_settles_with_masks():
    """The same with a net that believes what it reads: by enumeration of all draws, of three cells."""
    joint = torch.zeros([2] * 3, dtype=torch.float64)
    joint[0, 1, 1] = joint[1, 0, 0] = 0.5
    net = Oracle("complements", joint, 2, 3)
    for steps, right in ((1, 2**-2), (3, 1.0)):
        tokens = written(PaDIR(steps, reject="linear", draw=Categorical()), net, every_draw(3, steps))
        assert (net.joint[net.number(tokens)] > 0).double().mean() == right


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("draw", [Greedy(), Categorical()], ids=repr)
def test_with_nothing_rejected_it_is_rewriting_of_all_cells(draw, start):
    for net in (NOISY, LEFT_OUT):
        canvas, seen = mixed_canvas(net, 40, 1), []
        for sampler in (PaDIR(6, start, draw=draw), Sundae(6, 1.0, start=start, min_steps=1, draw=draw)):
            watched = Watched(net, 40)
            seen.append((sample(sampler, watched, canvas, Stream.of(3, 40)).tokens, watched.ledger.calls))
        assert all(torch.equal(one, other) for one, other in zip(*seen))


# ---- planted bugs, contract, bad fields ------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrapsAround(PaDIR):
    """Compares the first cell with the last."""

    def _stutters(self, draft, alphabet):
        same = draft.tokens == draft.tokens.roll(1, 1)
        return same & draft.unknown & (draft.tokens != alphabet.mask)


@dataclass(frozen=True)
class RejectsToTheEnd(PaDIR):
    """Believes the last step no more than the others."""

    def step(self, stream, state, conditional):
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        after, info = PaDIR(**{**fields, "steps": self.steps + 1}).step(stream, state, conditional)
        return after._replace(done=after.done | (after.step >= self.steps)), info


@dataclass(frozen=True)
class StopsWhereTheTextComesBack(PaDIR):
    """As the released code does, whatever is rejected."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state, conditional)
        return after._replace(done=after.done | (after.tokens == state.tokens).all(1)), info


STEADY = left_out(coins(0.6, 0.9, 0.8, 0.7))


@pytest.mark.parametrize(
    ("twin", "net"),
    [
        (WrapsAround(7, remove_stutter=True), LEFT_OUT),
        (RejectsToTheEnd(7, reject="constant"), LEFT_OUT),
        (RejectsToTheEnd(7, reject="stutter"), LEFT_OUT),
        (StopsWhereTheTextComesBack(7, reject="constant"), STEADY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_twins_part_from_the_loops(twin, net):
    same_as_by_hand(PaDIR(**{name: getattr(twin, name) for name in twin.__dataclass_fields__}), net, 40)
    with pytest.raises(AssertionError):
        same_as_by_hand(twin, net, 40)


VARIANTS = [
    PaDIR(4, reject="linear", draw=Categorical()),
    PaDIR(FEW_STEPS, "random", "constant", 0.4, "sum", remove_stutter=True),
    PaDIR(FEW_STEPS, "random", "stutter", replace="previous", draw=Categorical()),
]


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("sampler", VARIANTS, ids=["linear", "sum", "stutter"])
def test_contract_of_the_variants(sampler, check):
    check(sampler, NOISY)


def test_a_constraint_holds_whatever_is_rejected_on_the_way():
    net = NoisyChannel(Oracle("four", torch.rand([4] * 4, generator=torch.Generator().manual_seed(0)), 4, 5))
    for reject in ("none", "linear", "stutter"):
        tokens = written(PaDIR(5, reject=reject, draw=EvenSum()), net, Stream.of(0, 60))
        assert (tokens.sum(1) % 2 == 0).all()


def test_what_it_says_of_itself():
    row = describe("remask.samplers.padir:PaDIR")
    assert (row.law, row.source) == ("heuristic", "Li et al. 2024, arXiv 2407.21046, PaDIR")
    assert PaDIR().law is Law.HEURISTIC


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": steps} for steps in (0, -1, 1_000_001)),
        *({"reject_share": share} for share in (-0.1, 1.5, math.nan)),
        *({name: "some"} for name in ("start", "reject", "replace")),
        {"remove_stutter": True, "draw": EvenSum()},
    ],
    ids=str,
)
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match="type --"):
        PaDIR(**wrong)
