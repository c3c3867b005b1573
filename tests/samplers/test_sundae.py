"""Rewriting from noise: a Markov chain whose law after any number of steps is known, and its greedy relative."""

import math
from dataclasses import dataclass
from itertools import chain, combinations

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas, blank
from remask.core.choose import each
from remask.core.conditional import Visible
from remask.core.draw import Greedy, inverse_cdf
from remask.core.errors import BadInput
from remask.core.refill import refill
from remask.core.sampler import Law, run, sample
from remask.core.stream import Purpose, Stream
from remask.samplers.sundae import Sundae, random_text
from tests import conformance
from tests.conformance import FEW_STEPS, SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched, noise_floor, random_table, surprise, total_variation
from tests.samplers.chains import marginals
from tests.samplers.test_p2 import left_out
from tests.samplers.test_rejecters import Told


class NoisyChannel(Oracle):
    """p(x_i | y) for rows y of a law that came through a channel which replaces each token, with `noise`, by any.

    A denoiser that is exact and does not simply copy what it sees. Masks in y are cells about which the channel says
    nothing.
    """

    def __init__(self, oracle, noise=0.3):
        shape = [oracle.symbols] * oracle.length
        super().__init__("noisy", oracle.joint.view(shape), oracle.alphabet.mask, oracle.alphabet.end)
        self.noise = noise

    def _log_prob(self, tokens, cells):
        same = tokens[:, None] == self.states
        said = same * (1 - self.noise) + self.noise / self.symbols
        said = torch.where((tokens == self.alphabet.mask)[:, None], 1.0, said)
        clean = self.joint * said.double().prod(2)  # [B, S]
        clean = clean / clean.sum(1, keepdim=True)
        is_id = (self.states[:, :, None] == torch.arange(self.alphabet.size)).double()  # [S, L, V]
        return torch.einsum("bs,slv->blv", clean, is_id)[cells].log()


THREE = random_table(3, 3, seed=4, mask=1, end=3)
NOISY = {name: NoisyChannel(LAWS[name]) for name in ("markov_chain", "copy_pairs", "random_table")}


# ---- the chain, by enumeration ---------------------------------------------------------------------------------------


def transitions(conditional, share):
    """P over whole texts [S, S]: the chosen set, then a product of answers; where none is chosen, one of n is."""
    states, n = conditional.states, conditional.length
    prob = conditional(states).exp()
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for chosen in chain.from_iterable(combinations(range(n), k) for k in range(1, n + 1)):
        kernel = torch.ones_like(matrix)
        for i in range(n):
            same = (states[:, None, i] == states[None, :, i]).double()
            kernel = kernel * (prob[:, i][:, states[:, i]] if i in chosen else same)
        weight = share ** len(chosen) * (1 - share) ** (n - len(chosen))
        matrix += (weight + (len(chosen) == 1) * (1 - share) ** n / n) * kernel
    return matrix


def after(conditional, share, steps, start="random"):
    """The law after so many steps from uniform text, or from masks, which the first step fills."""
    law = torch.full((len(conditional.states),), 1 / len(conditional.states), dtype=torch.float64)
    law, steps = (law, steps) if start == "random" else (marginals(conditional), steps - 1)
    return law @ torch.linalg.matrix_power(transitions(conditional, share), steps)


def drawn(sampler, conditional, rows, seed=0):
    canvas = blank(rows, conditional.length, conditional.alphabet)
    tokens = sample(sampler, conditional, canvas, Stream.of(seed, rows)).tokens
    return torch.bincount(conditional.number(tokens), minlength=len(conditional.states))


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("kind", "start"), [(NoisyChannel, "random"), (left_out, "random"), (NoisyChannel, "mask")])
def test_the_law_after_every_step_is_that_of_the_chain(kind, start, steps, share):
    conditional = kind(THREE)
    law = after(conditional, share, steps, start)
    assert float(law.sum()) == pytest.approx(1)
    assert surprise(drawn(Sundae(steps, share, start=start), conditional, 4000, steps), law) < 4


@pytest.mark.parametrize(("share", "steps"), [(0.3, 35), (1.0, 15)])
def test_the_chain_comes_to_its_stationary_law(share, steps):
    conditional, rows = NoisyChannel(THREE, 0.7), 4000
    matrix = transitions(conditional, share)
    values, vectors = torch.linalg.eig(matrix.T)
    stationary = vectors[:, values.real.argmax()].real
    stationary = stationary / stationary.sum()
    assert (stationary @ matrix - stationary).abs().max() < 1e-12
    counts = drawn(Sundae(steps, share), conditional, rows)
    assert surprise(counts, stationary) < 4
    floor = noise_floor(conditional.joint, rows)  # and the law of the data it is not: a heuristic
    assert total_variation(counts.double() / rows, conditional.joint) > floor.mean + 10 * floor.sd


def test_one_cell_at_a_time_from_the_rest_is_gibbs_sampling():
    oracle, rows = left_out(THREE), 3000
    matrix = transitions(oracle, 1e-12)
    assert (oracle.joint @ matrix - oracle.joint).abs().max() < 1e-12
    assert surprise(drawn(Sundae(50, 1e-12), oracle, rows), oracle.joint) < 4
    parallel = torch.linalg.matrix_power(transitions(oracle, 0.8), 200)[0]
    assert total_variation(parallel, oracle.joint) > 0.02  # two cells that do not see each other are another law


@dataclass(frozen=True)
class EmptySteps(Sundae):
    """Redraws no cell where none was chosen."""

    def step(self, stream, state, conditional):
        uniform = stream.uniform(state.step, Purpose.WHERE, state.tokens.shape[1])
        chosen = each(uniform, ~state.frozen, torch.full_like(uniform[:, :1], self.share))
        after, info = refill(self.draw, stream, state, conditional, chosen, chosen)
        return after._replace(done=after.step >= self.steps), info


@dataclass(frozen=True)
class SameNumbers(Sundae):
    """Begins with the uniforms that choose the first cells."""

    def init(self, stream, canvas, conditional):
        state = super().init(stream, canvas, conditional)
        uniform = stream.uniform(0, Purpose.WHERE, canvas.tokens.shape[1])
        return state._replace(tokens=conditional.ids[(uniform * len(conditional.ids)).long()])


@pytest.mark.parametrize("twin", [EmptySteps, SameNumbers])
def test_planted_bugs_change_the_law_of_the_chain(twin):
    conditional = NoisyChannel(THREE)
    assert surprise(drawn(twin(3, 0.1), conditional, 3000), after(conditional, 0.1, 3)) > 8


# ---- beginnings and ends ---------------------------------------------------------------------------------------------


def test_it_begins_with_uniformly_random_text():
    alphabet = Alphabet(9, 3, 0, 7, frozenset({0, 3, 7}))
    text = random_text(Stream.of(0, 3000), 4, alphabet)
    counts = torch.bincount(text.flatten(), minlength=9)
    assert not counts[[0, 3, 7]].any()
    assert surprise(counts[[1, 2, 4, 5, 6, 8]], torch.full((6,), 1 / 6)) < 4
    with pytest.raises(BadInput, match="special"):
        random_text(Stream.of(0, 1), 4, Alphabet(2, 0, None, 1, frozenset({0, 1})))


class NoMasks(Watched):
    """Fails if an unknown cell is shown as a mask."""

    def __call__(self, tokens, at=None):
        assert not ((tokens == self.alphabet.mask) & at).any()
        assert ((tokens == self.alphabet.mask).sum(1) == 1).all()  # the frozen one
        return super().__call__(tokens, at)


@pytest.mark.parametrize("unrolled", [False, True])
def test_no_unknown_cell_is_ever_shown_as_a_mask(unrolled):
    oracle = NOISY["random_table"]
    canvas = blank(30, 4, oracle.alphabet)
    canvas.frozen[:, 2] = True  # a frozen mask is shown
    end = sample(Sundae(6, 1.0, unrolled=unrolled), NoMasks(oracle, 30), canvas, Stream.of(0, 30)).tokens
    assert ((end == oracle.alphabet.mask) == canvas.frozen).all()


def test_the_first_info_tells_of_every_unknown_cell():
    oracle = NOISY["markov_chain"]
    canvas = mixed_canvas(oracle, 40, 0)
    for sampler in (Sundae(3), Sundae(3, unrolled=True)):
        infos = [info for _, info in run(sampler, oracle, canvas, Stream.of(0, 40))]
        assert torch.equal(infos[0].changed, canvas.unknown)
        assert (infos[1].changed.sum(1) < canvas.unknown.sum(1)).any()


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_a_call_a_step(steps):
    oracle = NOISY["random_table"]
    canvas, watched = mixed_canvas(oracle, 50, 0), Watched(NOISY["random_table"], 50)
    told = sum(info.calls for _, info in run(Sundae(steps), watched, canvas, Stream.of(0, 50)))
    assert torch.equal(told, steps * canvas.unknown.any(1).long())
    assert torch.equal(told, watched.ledger.calls)
    assert oracle.length == 4


def test_from_min_steps_on_a_row_that_a_step_leaves_alone_ends():
    """Not before, however still it is; and what a row did until then is what it does without."""
    oracle, canvas, stream = NOISY["random_table"], blank(60, 4, NOISY["random_table"].alphabet), Stream.of(0, 60)
    texts = torch.stack([state.tokens for state, _ in run(Sundae(12, 0.4), oracle, canvas, stream)])
    alone = torch.cat([torch.zeros(1, 60).bool(), (texts[1:] == texts[:-1]).all(2)])
    alone[:3], alone[-1] = False, True
    *_, (state, _) = run(Sundae(12, 0.4, min_steps=4), oracle, canvas, stream)
    assert torch.equal(state.step, alone.long().argmax(0) + 1)
    assert torch.equal(state.tokens, texts[state.step - 1, torch.arange(60)])
    assert len(state.step.unique()) > 3


def test_a_conditional_must_say_something_of_visible_tokens():
    silent = NoisyChannel(THREE)
    silent.visible = Visible.NONE
    with pytest.raises(BadInput, match="DENOISE or LEAVE_ONE_OUT"):
        sample(Sundae(), silent, blank(2, 3, silent.alphabet), Stream.of(0, 2))


# ---- a joint draw ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvenSum:
    """A constraint: the ids of a row have an even sum. The last open cell gives way."""

    joint = True
    faithful = False

    def __call__(self, log_prob, uniform, at, tokens):
        filled = tokens.clone()
        filled[at] = inverse_cdf(log_prob, uniform)
        odd = filled.sum(1) % 2 == 1
        last = at.long().cumsum(1).argmax(1)
        rows = torch.nonzero(odd & at.any(1))[:, 0]
        filled[rows, last[rows]] ^= 1
        return filled[at]


def test_a_joint_draw_rewrites_all_the_noise_at_once_and_keeps_its_constraint_from_then_on():
    oracle = NoisyChannel(random_table(4, 4, seed=0, mask=4, end=5))
    for state, info in run(Sundae(8, draw=EvenSum()), oracle, blank(60, 4, oracle.alphabet), Stream.of(0, 60)):
        assert (state.tokens.sum(1) % 2 == 0).all()
        if (state.step == 1).all():
            assert (info.log_prob < 0).all()  # every cell was drawn
    assert (info.log_prob < 0).sum() < 0.6 * info.log_prob.numel()


# ---- greedy and unrolled ---------------------------------------------------------------------------------------------


def by_hand(sampler, conditional, canvas, seed):
    """Unrolled rewriting row by row, all steps taken; texts, and the step at which the answer was what was read."""
    ends, fixed = [], []
    for number in range(len(canvas.tokens)):
        unknown = torch.nonzero(canvas.unknown[number])[:, 0].tolist()
        row = canvas.tokens[number].clone()
        row[unknown] = random_text(Stream.of(seed, torch.tensor([number])), len(row), conditional.alphabet)[0, unknown]
        guess, certainty, first = {}, {}, None
        for i in range(sampler.steps if unknown else 0):
            count = len(unknown) if i == 0 else math.ceil(len(unknown) * sampler.share)
            waits = sorted(unknown, key=lambda cell: certainty.get(cell, 0.0))[:count]
            for cell in unknown:
                if cell not in waits:
                    row[cell] = guess[cell]
            answer = conditional(row[None])[0]
            for cell in unknown:
                guess[cell], certainty[cell] = int(answer[cell].argmax()), float(answer[cell].max())
            if first is None and all(guess[cell] == row[cell] for cell in unknown):
                first = i + 1
            for cell in waits:
                row[cell] = guess[cell]
        ends.append(row)
        fixed.append(first or sampler.steps if unknown else 0)
    return torch.stack(ends), torch.tensor(fixed)


@pytest.mark.parametrize(("share", "steps"), [(0.3, 6), (0.6, 3), (1.0, 5), (0.3, 1)])
def test_unrolled_canvases_and_calls_are_those_of_the_plain_rewriting(share, steps):
    """Ending at a fixed point saves calls and changes nothing."""
    saved = 0
    for oracle in (*NOISY.values(), left_out(LAWS["random_table"])):
        sampler, canvas = Sundae(steps, share, unrolled=True), mixed_canvas(oracle, 25, 2)
        watched = Watched(oracle, 25)
        tokens = sample(sampler, watched, canvas, Stream.of(2, 25)).tokens
        wanted, fixed = by_hand(sampler, oracle, canvas, 2)
        assert torch.equal(tokens, wanted)
        assert torch.equal(watched.ledger.calls, fixed)
        saved += int((steps - fixed).sum())
    assert saved > 0 or steps == 1


def _noisy(net):
    """A seed whose noise is (1, 1)."""
    return next(seed for seed in range(99) if random_text(Stream.of(seed, 1), 2, net.alphabet).tolist() == [[1, 1]])


def test_two_cells_by_hand():
    """The answer to noise is (0, 0), the first cell less sure; read with the second cell right, it becomes 1."""
    noise = {text: [(0, 0.6), (0, 0.9)] for text in [(0, 1), (1, 0), (1, 1)]}
    net = Told({**noise, (0, 0): [(1, 0.7), (0, 0.8)], (1, 0): [(1, 0.9), (0, 0.9)]})
    found = list(run(Sundae(9, 0.5, unrolled=True), net, blank(1, 2, net.alphabet), Stream.of(_noisy(net), 1)))
    assert [state.tokens[0].tolist() for state, _ in found] == [[0, 0], [1, 0], [1, 0]]
    assert [info.changed[0].tolist() for _, info in found] == [[True, True], [True, False], [True, False]]
    assert found[1][1].log_prob[0].exp().tolist() == pytest.approx([0.7, 1.0])
    assert found[-1][0].done.all()


def test_a_sure_cell_takes_its_remembered_token_before_the_network_is_asked():
    """Read (0, 0), the answer is (1, 1): the unsure first cell follows at once, the other a step later, with its p."""
    noise = {text: [(0, 0.6), (0, 0.9)] for text in [(0, 1), (1, 0), (1, 1)]}
    net = Told({**noise, (0, 0): [(1, 0.7), (1, 0.8)]})
    found = list(run(Sundae(3, 0.5, unrolled=True), net, blank(1, 2, net.alphabet), Stream.of(_noisy(net), 1)))
    assert [state.tokens[0].tolist() for state, _ in found] == [[0, 0], [1, 0], [0, 1]]
    assert found[2][1].changed.all()
    assert found[2][1].log_prob[0].exp().tolist() == pytest.approx([0.6, 0.8])


def test_greedy_rewriting_of_all_cells_ends_at_its_fixed_point():
    saved = 0
    for oracle in NOISY.values():
        canvas, watched = blank(40, 4, oracle.alphabet), Watched(oracle, 40)
        greedy = sample(Sundae(12, 1.0, draw=Greedy()), watched, canvas, Stream.of(1, 40)).tokens
        text = random_text(Stream.of(1, 40), 4, oracle.alphabet)
        calls = torch.full((40,), 12)
        for step in range(12):
            answer = oracle(text).argmax(2)
            calls = torch.where((answer == text).all(1), calls.clamp(max=step + 1), calls)
            text = answer
        assert torch.equal(greedy, text)
        assert torch.equal(watched.ledger.calls, calls)
        saved += int((12 - calls).sum())
    assert saved > 0
    watched = Watched(NOISY["copy_pairs"], 40)  # a part of the cells says nothing of the others
    sample(Sundae(12, 0.9, draw=Greedy()), watched, blank(40, 4, watched.alphabet), Stream.of(1, 40))
    assert (watched.ledger.calls == 12).all()


def test_unrolled_and_greedy_agree_where_all_cells_wait():
    for oracle in NOISY.values():
        canvas, stream = mixed_canvas(oracle, 30, 3), Stream.of(3, 30)
        unrolled = sample(Sundae(7, 1.0, unrolled=True), oracle, canvas, stream).tokens
        assert torch.equal(unrolled, sample(Sundae(7, 1.0, draw=Greedy()), oracle, canvas, stream).tokens)


# ---- contract and bad fields -----------------------------------------------------------------------------------------


VARIANTS = [{"unrolled": True}, {"share": 1.0, "draw": Greedy()}, {"start": "mask", "min_steps": 2}]


@pytest.mark.parametrize("fields", VARIANTS, ids=["unrolled", "greedy", "masked"])
@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds_for_the_variants(check, fields):
    check(Sundae(FEW_STEPS, **fields), NOISY["markov_chain"])


@dataclass(frozen=True)
class NoiseEverywhere(Sundae):
    """Begins with random text in given cells too."""

    def init(self, stream, canvas, conditional):
        state = super().init(stream, canvas, conditional)
        noise = random_text(stream, canvas.tokens.shape[1], conditional.alphabet)
        return state._replace(tokens=torch.where(state.done[:, None], canvas.tokens, noise))


def test_noise_in_a_given_cell_is_caught():
    with pytest.raises(AssertionError, match="a frozen cell was written"):
        conformance.check_frozen(NoiseEverywhere(4), NOISY["markov_chain"])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": steps} for steps in (0, -1, 1_000_001)),
        *({"share": share} for share in (0.0, -0.5, 1.5, math.nan)),
        *({"start": "noise"}, {"min_steps": -1}),
        {"unrolled": True, "draw": EvenSum()},
    ],
    ids=str,
)
def test_fields_that_make_no_sense(wrong):
    assert Sundae().law is Law.HEURISTIC
    with pytest.raises(BadInput, match="type --"):
        Sundae(**wrong)


def test_text_that_unknown_cells_held_is_gone():
    oracle = NOISY["random_table"]
    blanked, tokens = blank(20, 4, oracle.alphabet), oracle.sample(20, 0)
    written = Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    one, other = (sample(Sundae(3), oracle, canvas, Stream.of(0, 20)).tokens for canvas in (written, blanked))
    assert torch.equal(one, other)
