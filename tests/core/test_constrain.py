"""Constrained draws: the product law restricted to a language, by brute force; and every finished canvas matches."""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.canvas import Canvas, blank, infill
from remask.core.constrain import Constrained, Span
from remask.core.draw import Categorical, Greedy
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests.conformance import mixed_canvas
from tests.core.test_automaton import Plain, random_plain
from tests.oracle import LAWS, frequencies, independent, noise_floor, total_variation

laws = settings(deadline=None, database=None, max_examples=25)
V, MASK, TEXT = 5, 2, [0, 1, 3, 4]
# Token 3 spells what 0 and 1 spell together: "01", "3" and so on are ways to write the same text.
ALIKE = Plain(3, V, {(0, 0): 1, (1, 1): 2, (0, 3): 2, (2, 4): 0, (2, 0): 1, (1, 4): 1}, {2, 1})


def conditionals(cells, seed, zeros=0.0, size=V):
    rng = np.random.default_rng(seed)
    log_prob = torch.from_numpy(rng.normal(0, 2, (cells, size)))
    log_prob[torch.from_numpy(rng.random((cells, size)) < zeros)] = -torch.inf
    log_prob[:, MASK] = -torch.inf
    return log_prob.log_softmax(1).nan_to_num(nan=-torch.inf)


def brute_force(spans, log_prob, tokens, at, floor=-torch.inf):
    """The law of the tokens asked for: {tokens: probability}; masks that are not asked for may be any token.

    spans: (start, stop, Plain); log_prob: [N, V]; tokens, at: one row [L].
    """
    said = dict(zip(torch.nonzero(at)[:, 0].tolist(), log_prob.clamp(min=floor).tolist()))
    choices = [TEXT if i in said or token == MASK else [token] for i, token in enumerate(tokens.tolist())]
    weight = defaultdict(float)
    for text in product(*choices):
        if all(plain.path(text[start:stop]) for start, stop, plain in spans):
            weight[tuple(text[i] for i in said)] += math.exp(sum(said[i][text[i]] for i in said))
    total = sum(weight.values())
    return {text: w / total for text, w in weight.items() if w > 0}


def measured(draw, log_prob, tokens, at, bits=32):
    """The law of a draw that inverts CDFs from left to right: the edges of each cell's intervals, by bisection."""
    cells, size = log_prob.shape
    law, inside = {(): 1.0}, {(): []}
    for place in range(cells):
        prefixes = list(law)
        uniform = torch.tensor([[inside[prefix] + [0.5] * (cells - place)] * size for prefix in prefixes]).double()
        low, high, rows = torch.zeros_like(uniform[:, :, 0]), torch.ones_like(uniform[:, :, 0]), len(prefixes) * size
        for _ in range(bits):
            uniform[:, :, place] = (low + high) / 2
            drawn = draw(log_prob.repeat(rows, 1), uniform.flatten(), at.expand(rows, -1), tokens.expand(rows, -1))
            past = drawn.view(uniform.shape)[:, :, place] >= torch.arange(size)
            high, low = torch.where(past, (low + high) / 2, high), torch.where(past, low, (low + high) / 2)
        edges = torch.cat([torch.where(low > 0, high, 0.0), torch.ones(len(prefixes), 1)], 1)
        law, shorter = {}, law
        for i, token in torch.nonzero(edges.diff() > 2.0 ** (2 - bits)).tolist():
            text, (low, high) = (*prefixes[i], token), edges[i, token : token + 2].tolist()
            law[text], inside[text] = shorter[prefixes[i]] * (high - low), [*inside[prefixes[i]], (low + high) / 2]
    return law


def distance(law, other):
    return sum(abs(law.get(text, 0.0) - other.get(text, 0.0)) for text in law.keys() | other.keys()) / 2


def constrained(spans, **fields):
    return Constrained(tuple(Span(start, stop, plain.automaton()) for start, stop, plain in spans), MASK, **fields)


CASES = {  # spans; the row; the cells asked for; share of -inf
    "blank": ([(0, 3, ALIKE)], [MASK] * 3, [1, 1, 1], 0.0),
    "written in the middle": ([(0, 4, ALIKE)], [MASK, MASK, 4, MASK], [1, 1, 0, 1], 0.0),
    "a mask not asked for": ([(0, 4, ALIKE)], [MASK] * 4, [1, 0, 1, 1], 0.0),
    "all three": ([(0, 5, ALIKE)], [MASK, MASK, 4, MASK, MASK], [1, 0, 0, 0, 1], 0.0),
    "two spans and the rest": ([(3, 5, ALIKE), (0, 2, random_plain(5, spared=[MASK]))], [MASK] * 5, [1] * 5, 0.0),
    "asked for though written": ([(0, 3, ALIKE)], [0, 4, MASK], [1, 1, 1], 0.0),
    "zeros": ([(0, 4, ALIKE)], [MASK] * 4, [1] * 4, 0.15),
}


@pytest.mark.parametrize("name", CASES)
def test_the_law_is_that_of_brute_force(name):
    spans, tokens, at, zeros = CASES[name]
    tokens, at = torch.tensor(tokens), torch.tensor(at, dtype=torch.bool)
    log_prob = conditionals(int(at.sum()), 8, zeros)
    law = brute_force(spans, log_prob, tokens, at)
    assert len(law) > 1
    assert distance(measured(constrained(spans), log_prob, tokens, at), law) < 1e-7


@dataclass(frozen=True)
class LeftToRight:
    """The planted bug: no message comes from the right of what the net says there; every text still matches."""

    inner: Constrained

    def __call__(self, log_prob, uniform, at, tokens):
        tokens = tokens.clone()
        for cell in torch.arange(at.shape[1]):
            now = at & (torch.arange(at.shape[1]) == cell)
            tokens[now] = self.inner(log_prob[now[at]], uniform[now[at]], now, tokens)
        return tokens[at]


def test_a_draw_that_does_not_look_ahead_is_caught():
    tokens, at = torch.tensor([MASK] * 3), torch.ones(3, dtype=torch.bool)
    log_prob, draw = conditionals(3, 2), constrained([(0, 3, ALIKE)])
    law = brute_force([(0, 3, ALIKE)], log_prob, tokens, at)
    found = measured(LeftToRight(draw), log_prob, tokens, at, bits=12)
    assert found.keys() == law.keys()
    assert distance(found, law) > 0.05


@settings(laws, max_examples=12)
@given(st.integers(0, 10**6))
def test_the_law_of_any_machine_is_that_of_brute_force(seed):
    """Any cells written or not asked for, any tokens impossible."""
    rng = np.random.default_rng(seed)
    plain = random_plain(seed, states=3, size=V, spared=[MASK])
    length = int(rng.choice([n for n in (1, 2, 3) if plain.texts(n)]))
    text = plain.texts(length)[int(rng.integers(len(plain.texts(length))))]
    kind = rng.choice(3, length, p=[0.6, 0.2, 0.2])  # asked for, written, neither
    kind[int(rng.integers(length))] = 0
    tokens = torch.tensor([text[i] if kind[i] == 1 else MASK for i in range(length)])
    at = torch.from_numpy(kind == 0)
    log_prob = conditionals(int(at.sum()), seed, 0.2)
    law = brute_force([(0, length, plain)], log_prob, tokens, at, floor=-40.0)  # as good as never
    found = measured(constrained([(0, length, plain)]), log_prob, tokens, at, bits=16)
    assert found.keys() <= law.keys(), "a text that does not match was drawn"
    assert distance(found, law) < 2e-3


@laws
@given(st.integers(0, 10**6))
def test_greedy_is_the_most_probable_text(seed):
    rng = np.random.default_rng(seed)
    plain = random_plain(seed, size=V, spared=[MASK])
    length = int(rng.choice([n for n in (1, 2, 3) if plain.texts(n)]))
    log_prob = conditionals(length, seed)
    tokens, asked = torch.full((1, length), MASK), torch.from_numpy(rng.random((1, length)) < 0.7)
    said = dict(zip(torch.nonzero(asked[0])[:, 0].tolist(), log_prob[asked[0]].tolist()))
    best = max(sum(said[i][text[i]] for i in said) for text in plain.texts(length))
    draw = constrained([(0, length, plain)], greedy=True)
    drawn = draw(log_prob[asked[0]], torch.zeros(len(said), dtype=torch.float64), asked, tokens).tolist()
    assert math.isclose(sum(said[i][token] for i, token in zip(said, drawn)), best, abs_tol=1e-12)
    assert any(all(text[i] == token for i, token in zip(said, drawn)) for text in plain.texts(length))


def test_impossible_tokens_are_taken_only_where_nothing_else_completes():
    plain = Plain(4, V, {(0, 0): 1, (1, 1): 3, (0, 3): 2, (2, 4): 3}, {3})  # 0 1, 3 4
    tokens, at = torch.full((1, 2), MASK), torch.ones(1, 2, dtype=torch.bool)
    draw, uniform = constrained([(0, 2, plain)]), torch.linspace(0, 1, 202).double()[1:-1]

    def drawn(log_prob, rows=100):
        log_prob = torch.tensor(log_prob).repeat(rows, 1)
        found = draw(log_prob, uniform, at.expand(rows, -1), tokens.expand(rows, -1))
        return {tuple(row) for row in found.view(rows, 2).tolist()}

    low = -torch.inf
    ordinary = [0.0, 0.0, low, -90.0, 0.0]
    assert drawn([[0.0, 0.0, low, low, 0.0], ordinary]) == {(0, 1)}, "one text without zeros, one with"
    assert drawn([[low, 0.0, low, -700.0, 0.0], ordinary]) == {(3, 4)}, "what is only improbable comes before"
    assert drawn([[low] * 5, [low] * 5]) == {(0, 1), (3, 4)}, "nothing but zeros: any text"
    assert drawn([[low] * 5, [0.0, low, low, low, 0.0]]) == {(3, 4)}, "and of those with zeros the one with fewest"
    lowest = torch.finfo(torch.float32).min  # what some call impossible
    assert drawn([[lowest] * 5, [lowest] * 5]) == {(0, 1), (3, 4)}


def test_half_precision_is_summed_in_float64_and_only_differences_count():
    tokens, at = torch.tensor([MASK] * 3), torch.ones(3, dtype=torch.bool)
    log_prob = (conditionals(3, 1) * 0.5).bfloat16()
    law = brute_force([(0, 3, ALIKE)], log_prob.double() - 7, tokens, at)
    assert distance(measured(constrained([(0, 3, ALIKE)]), log_prob, tokens, at), law) < 1e-7


def test_a_row_does_not_depend_on_the_others():
    """Rows with different cells asked for and written, together and one by one."""
    rows, length, rng = 40, 6, np.random.default_rng(0)
    texts = ALIKE.texts(length)
    tokens = torch.tensor([texts[i] for i in rng.integers(len(texts), size=rows)])
    at = torch.from_numpy(rng.random((rows, length)) < 0.5)
    tokens[at | torch.from_numpy(rng.random((rows, length)) < 0.3)] = MASK
    at[3] = False
    log_prob, uniform = conditionals(int(at.sum()), 3, 0.3), torch.from_numpy(rng.random(int(at.sum())))
    for draw in (constrained([(0, length, ALIKE)]), constrained([(0, length, ALIKE)], greedy=True)):
        together = draw(log_prob, uniform, at, tokens)
        ends = at.sum(1).cumsum(0).tolist()
        for i, (low, high) in enumerate(zip([0, *ends], ends)):
            alone = draw(log_prob[low:high], uniform[low:high], at[i : i + 1], tokens[i : i + 1])
            assert torch.equal(alone, together[low:high])


def test_cells_outside_are_drawn_by_the_inner_draw():
    tokens, at = torch.full((2, 5), MASK), torch.ones(2, 5, dtype=torch.bool)
    at[1, 1] = False
    log_prob, uniform = conditionals(9, 4), torch.from_numpy(np.random.default_rng(0).random(9))
    for inner in (Categorical(), Greedy()):
        drawn, plain = tokens.clone(), tokens.clone()
        drawn[at] = constrained([(2, 4, ALIKE)], inner=inner)(log_prob, uniform, at, tokens)
        plain[at] = inner(log_prob, uniform, at, tokens)
        assert torch.equal(drawn[:, [0, 1, 4]], plain[:, [0, 1, 4]])
        assert all(ALIKE.path(row[2:4]) for row in drawn.tolist())


# ---- in a sampler ----------------------------------------------------------------------------------------------------


def text_of(oracle):
    """A Plain machine for the oracle's symbols: no symbol twice in a row, and the last is not the first symbol."""
    ids = oracle.ids.tolist()
    moves = {(s, t): i + 1 for s in range(len(ids) + 1) for i, t in enumerate(ids) if s != i + 1}
    return Plain(len(ids) + 1, oracle.alphabet.size, moves, set(range(2, len(ids) + 1)))


def over(oracle, plain, start=0, stop=None, **fields):
    span = Span(start, stop or oracle.length, plain.automaton())
    return Constrained((span,), oracle.alphabet.mask, **fields)


def law_of_language(oracle, plain, law):
    """A law over states restricted to the language."""
    matches = torch.tensor([plain.path(state) is not None for state in oracle.states.tolist()])
    return torch.where(matches, law, 0.0) / law[matches].sum()


def test_one_step_of_all_cells_is_the_product_of_conditionals_restricted():
    oracle = LAWS["random_table"]
    plain, rows = text_of(oracle), 6_000
    canvas = blank(rows, oracle.length, oracle.alphabet)
    cells = oracle(canvas.tokens[:1]).exp()[0]  # [L, V]: what a blank canvas is told
    law = law_of_language(oracle, plain, cells[torch.arange(oracle.length), oracle.states].prod(1))
    sampler = Ancestral(steps=1, draw=over(oracle, plain))
    assert sampler.law is FirstHitting(draw=over(oracle, plain)).law is Law.HEURISTIC
    found = frequencies(oracle, sample(sampler, oracle, canvas, Stream.of(0, rows)).tokens)
    floor = noise_floor(law, rows)
    assert total_variation(found, law) <= floor.mean + 4 * floor.sd
    assert not found[law == 0].any()
    true = law_of_language(oracle, plain, oracle.joint)
    assert total_variation(law, true) > 0.1, "which is not the law of the net given the language"


@pytest.mark.parametrize("make", [FirstHitting, lambda draw: Ancestral(3, "linear", draw)])
def test_of_an_independent_law_every_number_of_steps_is_exact(make):
    """There the product law is the law, and one cell at a time is the chain rule."""
    oracle, rows = independent(4, 3, seed=5, mask=2, end=4), 4_000
    plain = text_of(oracle)
    law = law_of_language(oracle, plain, oracle.joint)
    canvas = blank(rows, oracle.length, oracle.alphabet)
    found = frequencies(oracle, sample(make(over(oracle, plain)), oracle, canvas, Stream.of(1, rows)).tokens)
    floor = noise_floor(law, rows)
    assert total_variation(found, law) <= floor.mean + 4 * floor.sd


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("steps", [None, 3])
def test_the_language_of_everything_changes_no_token(name, steps):
    oracle = LAWS[name]
    everything = Plain(1, oracle.alphabet.size, {(0, t): 0 for t in oracle.ids.tolist()}, {0})
    make = FirstHitting if steps is None else lambda draw: Ancestral(steps, "linear", draw)
    canvas, stream = mixed_canvas(oracle, 64, 0), Stream.of(0, 64)
    free = sample(make(Categorical()), oracle, canvas, stream).tokens
    assert torch.equal(sample(make(over(oracle, everything)), oracle, canvas, stream).tokens, free)
    assert torch.equal(sample(make(over(oracle, everything, 1, 3)), oracle, canvas, stream).tokens, free)


def finished(sampler, oracle, canvas, seed):
    """The last canvas, and the calls of each row."""
    calls = torch.zeros(len(canvas.tokens), dtype=torch.int64)
    tokens = canvas.tokens
    for state, info in run(sampler, oracle, canvas, Stream.of(seed, len(canvas.tokens))):
        tokens, calls = state.tokens, calls + info.calls
    return tokens, calls


@laws
@given(st.integers(0, 10**6), st.sampled_from(sorted(LAWS)), st.booleans())
def test_every_finished_canvas_matches(seed, name, greedy):
    """Any machine, tokens of a text of its language given anywhere, contexts that the law calls impossible."""
    oracle = LAWS[name]
    alphabet, length = oracle.alphabet, oracle.length - 1
    plain = random_plain(seed, size=alphabet.size, share=0.4, spared=[alphabet.mask, alphabet.end])
    texts = plain.texts(length)
    if not texts:
        return
    rng = np.random.default_rng(seed)
    tokens = torch.full((8, oracle.length), alphabet.mask)
    tokens[:, 1:] = torch.tensor([texts[i] for i in rng.integers(len(texts), size=8)])
    tokens[torch.from_numpy(rng.random(tokens.shape) < 0.8)] = alphabet.mask
    canvas = infill(tokens, alphabet)
    draw = over(oracle, plain, 1, greedy=greedy)
    unknown = canvas.unknown.sum(1)
    for sampler, most in (
        (FirstHitting(draw), 9),
        (Ancestral(2, "cosine", draw), 2),
        (Ancestral(1, "linear", draw), 1),
    ):
        result, calls = finished(sampler, oracle, canvas, seed)
        assert all(plain.path(row[1:]) for row in result.tolist())
        assert torch.equal(result[canvas.frozen], tokens[canvas.frozen])
        wanted = unknown.clamp(max=most)
        assert torch.equal(calls, wanted) or (most == 2 and (calls <= wanted).all())


@dataclass(frozen=True)
class Marginals:
    """The planted bug: each cell by its own law given the language, but not jointly: another draw for every cell."""

    inner: Constrained
    joint = True
    faithful = False

    def __call__(self, log_prob, uniform, at, tokens):
        cells = torch.cumsum(at, 1)[at]
        turns = [self.inner(log_prob, (uniform + 0.37 * k) % 1, at, tokens) for k in range(at.shape[1] + 1)]
        return torch.stack(turns)[cells, torch.arange(len(cells))]


def test_cells_that_are_not_drawn_jointly_break_the_match():
    oracle = LAWS["random_table"]
    plain, canvas = text_of(oracle), blank(64, 4, oracle.alphabet)
    for draw, whole in ((over(oracle, plain), True), (Marginals(over(oracle, plain)), False), (Categorical(), False)):
        result, _ = finished(Ancestral(1, "linear", draw), oracle, canvas, 0)
        assert all(plain.path(row) for row in result.tolist()) is whole


def test_cells_may_be_asked_for_block_by_block():
    """Masks behind the block are reckoned with and stay; whatever the first block holds, the second completes it."""
    tokens, rng = torch.full((50, 6), MASK), np.random.default_rng(0)
    draw = constrained([(0, 6, ALIKE)])
    for block in (slice(0, 2), slice(4, 6), slice(2, 4)):
        at = torch.zeros_like(tokens, dtype=torch.bool)
        at[:, block] = True
        tokens[at] = draw(conditionals(100, 5), torch.from_numpy(rng.random(100)), at, tokens)
    assert all(ALIKE.path(row) for row in tokens.tolist())


def test_a_frozen_mask_in_a_span_stays():
    oracle = LAWS["markov_chain"]
    plain, canvas = text_of(oracle), blank(8, 4, oracle.alphabet)
    canvas = Canvas(canvas.tokens, canvas.frozen.index_fill(1, torch.tensor([1]), True))
    result, _ = finished(FirstHitting(over(oracle, plain)), oracle, canvas, 0)
    assert (result[:, 1] == oracle.alphabet.mask).all()
    for row in result.tolist():
        assert any(plain.path([row[0], t, *row[2:]]) for t in oracle.ids.tolist())


# ---- what cannot be --------------------------------------------------------------------------------------------------

PAIRS = Plain(3, V, {(0, 0): 1, (1, 1): 2, (2, 3): 1}, {2})  # texts of 2, 4, 6, ... tokens


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 3, PAIRS)], "has 3 tokens: make the gap 2 or 4 tokens long"),
        ([(0, 1, PAIRS)], "has 1 tokens: make the gap 2 tokens long"),
        ([(0, 1, Plain(1, V, {}, {0}))], "has 1 to 65 tokens"),
        ([(0, 2, PAIRS), (1, 3, PAIRS)], "cells 1 to 2: give each pattern cells of its own"),
        ([(2, 2, PAIRS)], "cells 2 to 1"),
        ([(-1, 1, PAIRS)], "cells -1 to 0"),
    ],
)
def test_spans_that_cannot_be_are_sentences(spans, said):
    with pytest.raises(BadInput, match=said):
        constrained(spans)


def test_calls_that_cannot_be_are_sentences():
    draw = constrained([(0, 4, PAIRS)])
    at, half = torch.ones(1, 4, dtype=torch.bool), torch.full((4,), 0.5, dtype=torch.float64)
    blank_row, log_prob = torch.full((1, 4), MASK), conditionals(4, 0)
    with pytest.raises(BadInput, match=r"ends in cell 4 of a canvas of 3"):
        draw(log_prob[:3], half[:3], at[:, :3], blank_row[:, :3])
    with pytest.raises(BadInput, match=r"a pattern for 5 ids met a net of 3"):
        draw(log_prob[:, :3], half, at, blank_row)
    with pytest.raises(BadInput, match="look for NaN"):
        draw(log_prob * torch.nan, half, at, blank_row)
    at[0, 2] = False
    for token in (0, 4, V + 3):  # another token of the language, one that it never uses, one that it never heard of
        with pytest.raises(
            BadInput, match=rf"token {token}, written in cell 3 of the 4 .* change that token, or mask it"
        ):
            draw(log_prob[:3], half[:3], at, torch.tensor([[MASK, MASK, token, MASK]]))
    assert draw(log_prob[:3], half[:3], at, torch.tensor([[MASK, MASK, 3, MASK]])).tolist() == [0, 1, 1]
