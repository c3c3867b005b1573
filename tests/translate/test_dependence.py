"""The dependence probe against enumerated laws, and what it says at errors against laws where errors are known."""

import math
from copy import deepcopy
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.canvas import Canvas
from remask.core.errors import BadInput, UnknownName
from remask.core.stream import Stream
from remask.nets.wrap import TopP
from remask.samplers.ancestral import Ancestral
from remask.translate.dependence import (
    ERRORS,
    aligned,
    at_errors,
    dependence,
    finished,
    neighbours,
    new_bigrams,
    probe,
    stutters,
    unaligned,
)
from remask.translate.parallel import translate
from tests.oracle import LAWS, Watched, copy_pairs, parity, random_table
from tests.pair_oracle import PairLaw, causal_net
from tests.translate.laws import END, FIRST, PAD, LawTranslator
from tests.translate.nets import ALPHABET, parallel, sources
from tests.translate.nets import TOKENIZER as BYTES

few = settings(max_examples=8, deadline=None)


def table_of(law, state, i, j):
    """p(x_i, x_j | the rest of a state), [A, A]: by a slice of the joint law."""
    joint = law.joint.view([law.symbols] * law.length)
    digits = law.digits[state].tolist()
    part = joint[tuple(slice(None) if cell in (i, j) else digit for cell, digit in enumerate(digits))]
    return (part if i < j else part.T) / part.sum()


def information(table, candidates=None):
    """E_a KL(p(x_j | a) || p(x_j)) over the likeliest a, their chances renormalised; and what these cover."""
    one, other = table.sum(1), table.sum(0)
    tried = one.sort(descending=True, stable=True).indices[:candidates]
    tried = tried[one[tried] > 0]
    nats = [float(torch.special.xlogy(t := table[a] / one[a], t / other).nan_to_num(0).sum()) for a in tried]
    share = one[tried] / one[tried].sum()
    return float(share @ torch.tensor(nats, dtype=torch.float64)), float(one[tried].sum())


def every_pair(law):
    """All ordered pairs of cells in all states that can occur: states [N], their rows [N, L], left [N], right [N]."""
    likely = torch.nonzero(law.joint > 0)[:, 0].tolist()
    some_of = likely[:: max(1, len(likely) // 20)]
    asked = torch.tensor([(s, i, j) for s in some_of for i, j in permutations(range(law.length), 2)])
    return asked[:, 0], law.states[asked[:, 0]], asked[:, 1], asked[:, 2]


# ---- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_with_all_candidates_it_is_the_conditional_mutual_information(law):
    states, tokens, left, right = every_pair(law)
    found = dependence(law, tokens, left, right, candidates=law.alphabet.size)
    for row, (state, i, j) in enumerate(zip(states.tolist(), left.tolist(), right.tolist())):
        table = table_of(law, state, i, j)
        assert float(found.information[row]) == pytest.approx(information(table)[0], abs=1e-10)
        other = table.sum(0)
        assert float(found.entropy[row]) == pytest.approx(-float(torch.xlogy(other, other).sum()), abs=1e-10)
    assert torch.allclose(found.mass, torch.ones_like(found.mass), atol=1e-12)
    back = dependence(law, tokens, right, left, candidates=law.symbols)
    assert torch.allclose(found.information, back.information, atol=1e-10), "it is symmetric"
    assert (found.information > -1e-12).all()
    assert (found.information <= torch.minimum(found.entropy, back.entropy) + 1e-10).all()


def test_mean_over_the_law_is_a_difference_of_entropies():
    """E I(x_0; x_1 | rest) = H(x_0, rest) + H(x_1, rest) - H(all) - H(rest), from the joint law alone."""
    law = LAWS["random_table"]
    joint = law.joint.view([law.symbols] * law.length)

    def entropy(mass):
        return -float(torch.xlogy(mass, mass).sum())

    expected = entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint) - entropy(joint.sum((0, 1)))
    cell = torch.zeros(len(law.states), dtype=torch.int64)
    found = dependence(law, law.states, cell, cell + 1, candidates=law.symbols).information
    assert float(law.joint @ found) == pytest.approx(expected, abs=1e-10)


def test_known_values():
    xor = parity(4, bias=0.5, mask=2, end=3)
    _, tokens, left, right = every_pair(xor)
    assert torch.allclose(dependence(xor, tokens, left, right).information, torch.tensor(math.log(2)).double())
    alone = LAWS["independent"]
    _, tokens, left, right = every_pair(alone)
    assert dependence(alone, tokens, left, right).information.abs().max() < 1e-12
    pairs = copy_pairs(4, 3, seed=7, mask=3, end=4)
    _, tokens, left, right = every_pair(pairs)
    found = dependence(pairs, tokens, left, right)
    partner = left // 2 == right // 2
    assert torch.allclose(found.information[partner], found.entropy[partner], atol=1e-12), "a copy tells all"
    assert found.information[~partner].abs().max() < 1e-12
    assert found.entropy[~partner].abs().max() < 1e-12, "its partner is visible"


def test_the_right_token_of_the_pair_is_not_looked_at():
    law = LAWS["random_table"]
    _, tokens, left, right = every_pair(law)
    found = dependence(law, tokens, left, right)
    written = tokens.scatter(1, left[:, None], law.alphabet.mask).scatter(1, right[:, None], int(law.ids[0]))
    assert all(torch.equal(a, b) for a, b in zip(found, dependence(law, written, left, right)))


# ---- few candidates --------------------------------------------------------------------------------------------------


@few
@given(some.integers(0, 10_000), some.integers(1, 5))
def test_few_candidates_give_the_renormalised_truth(seed, candidates):
    law = random_table(3, 4, seed=seed, mask=1, end=3)
    states, tokens, left, right = every_pair(law)
    found = dependence(law, tokens, left, right, candidates)
    for row, (state, i, j) in enumerate(zip(states.tolist(), left.tolist(), right.tolist())):
        nats, mass = information(table_of(law, state, i, j), candidates)
        assert float(found.information[row]) == pytest.approx(nats, abs=1e-10)
        assert float(found.mass[row]) == pytest.approx(mass, abs=1e-10)


@pytest.mark.parametrize("candidates", [1, 2, 3, 50])
def test_never_nan(candidates):
    """Contexts and candidates that cannot occur, and laws that contradict themselves, as truncated ones do."""
    for law in LAWS.values():
        states = law.states[:: max(1, len(law.states) // 30)]
        cell = torch.zeros(len(states), dtype=torch.int64)
        found = dependence(law, states, cell, cell + 1, candidates)
        assert all(field.isfinite().all() for field in found)
        cut = dependence(TopP(law, 0.4), states, cell, cell + 1, candidates)
        assert not any(field.isnan().any() for field in cut)
        assert (cut.information > -1e-12).all()


# ---- twins -----------------------------------------------------------------------------------------------------------


def test_planted_twins_are_noticed():
    law = LAWS["random_table"]
    states, tokens, left, right = every_pair(law)
    truth = dependence(law, tokens, left, right, law.symbols).information
    row = torch.arange(len(tokens))
    mask, at = law.alphabet.mask, torch.zeros_like(tokens, dtype=torch.bool)

    class SeesTheRight:
        """The right cell is left as written."""

        alphabet, visible = law.alphabet, law.visible

        def __init__(self, index):
            self.index = index

        def rows(self, index):
            return SeesTheRight(self.index[index])

        def __call__(self, seen, asked):
            kept = tokens[self.index].gather(1, right[self.index][:, None])
            return law(seen.scatter(1, right[self.index][:, None], kept), asked)

    assert (dependence(SeesTheRight(row), tokens, left, right, law.symbols).information - truth).abs().max() > 0.01
    # one told, the written token, instead of the mean over candidates
    both = at.scatter(1, torch.stack([left, right], 1), True)
    asked = at.scatter(1, right[:, None], True)
    told = law(torch.where(asked, mask, tokens), asked)[:, law.ids]
    alone = law(torch.where(both, mask, tokens), asked)[:, law.ids]
    assert ((told.exp() * (told - alone)).sum(1) - truth).abs().max() > 0.01
    # candidates that weigh the same
    even = torch.zeros_like(truth)
    for a in law.ids:
        told = law(torch.where(both, mask, tokens).scatter(1, left[:, None], int(a)), asked)[:, law.ids]
        even += (told.exp() * (told - alone)).sum(1) / law.symbols
    assert (even - truth).abs().max() > 0.01
    assert len(states) == len(truth)


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_batches_are_their_rows_and_every_candidate_costs_one_pass():
    law = LAWS["markov_chain"]
    _, tokens, left, right = (part[::4] for part in every_pair(law))
    watched = Watched(law, len(tokens))
    whole = dependence(watched, tokens, left, right, candidates=3)
    assert (watched.ledger.calls == 1 + 3).all()
    for batch in (1, 7):
        again = dependence(Watched(law, len(tokens)), tokens, left, right, candidates=3, batch=batch)
        assert all(torch.equal(a, b) for a, b in zip(whole, again))


def test_neighbours_are_the_written_cells_next_to_each_other():
    law = LAWS["ring_ising"]
    tokens = law.states[[3, 9, 30]]
    frozen = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 1, 0], [1, 0, 1, 0, 1]]).bool()
    found = neighbours(law, Canvas(tokens, frozen))
    assert list(zip(found.row.tolist(), found.left.tolist())) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1)]
    expected = dependence(law, tokens[found.row], found.left, found.left + 1)
    assert all(torch.equal(a, b) for a, b in zip(found.found, expected))
    rows = found.by_row(3)
    assert [len(row) for row in rows] == [4, 1, 0]
    assert rows[1] == [float(found.found.information[4])]
    assert found.by_row(3, "mass")[1] == [float(found.found.mass[4])]
    none = neighbours(law, Canvas(tokens, torch.ones_like(frozen)))
    assert none.by_row(3) == [[], [], []]


def test_finished_rows():
    alphabet = LawTranslator(1, 2, 2, 0).alphabet
    written = finished([[5, 6, 7], [], [9]], alphabet)
    assert written.tokens.tolist() == [[5, 6, 7, END], [END, PAD, PAD, PAD], [9, END, PAD, PAD]]
    assert written.unknown.tolist() == [[True] * 3 + [False], [False] * 4, [True] + [False] * 3]


def test_the_probe_of_an_encoder_decoder_is_the_law_of_its_source_and_length():
    net = LawTranslator(2, symbols=3, longest=3, seed=5)
    texts = [[FIRST + a, FIRST + b, FIRST + c] for a, b, c in product(range(3), repeat=3)] + [[FIRST, FIRST + 2], []]
    for k in (0, 1):
        source, attend = net.source([k] * len(texts))
        rows = probe(net, source, attend, net.alphabet, texts, candidates=3).by_row(len(texts))
        for text, values in zip(texts[:27], rows):
            digits = [token - FIRST for token in text]
            joint = net.joint[k, 3]
            for value, table in zip(values, (joint[:, :, digits[2]], joint[digits[0]]), strict=True):
                assert value == pytest.approx(information(table / table.sum())[0], abs=1e-10)
        assert rows[27] == [pytest.approx(information(net.joint[k, 2])[0], abs=1e-10)]
        assert rows[28] == []


def test_translations_of_a_net_side_by_side_are_each_by_itself():
    net = parallel()
    texts = [BYTES.encode(text) for text in ("abc", "hallo", "", "x", "guten tag")]
    source, attend = sources(["one", "two words", "3", "four", "five"])
    whole = probe(net, source, attend, ALPHABET, texts)
    rows = whole.by_row(len(texts))
    assert [len(row) for row in rows] == [2, 4, 0, 0, len(texts[4]) - 1]
    assert (whole.found.mass < 1).all() and (whole.found.information > 0).all()
    small = probe(net, source, attend, ALPHABET, texts, batch=3).by_row(len(texts))
    for k, text in enumerate(texts):
        alone = probe(net, source[k : k + 1], attend[k : k + 1], ALPHABET, [text]).by_row(1)[0]
        assert rows[k] == pytest.approx(alone, abs=1e-9)
        assert rows[k] == pytest.approx(small[k], abs=1e-9)
    other = probe(net, source.flip(0), attend.flip(0), ALPHABET, texts).by_row(len(texts))
    assert max(abs(a - b) for a, b in zip(rows[1], other[1])) > 1e-6, "it depends on the source"
    busy = deepcopy(net)
    busy.train()
    assert probe(busy, source, attend, ALPHABET, texts).by_row(len(texts))[1] == pytest.approx(rows[1], abs=1e-12)
    assert busy.training, "dropout rests for the time being"


# ---- which are errors ------------------------------------------------------------------------------------------------


def test_errors_by_hand():
    known = [[1, 2, 2, 3, 4], [1, 5]]
    output = [1, 2, 2, 5, 5]
    assert new_bigrams(output, known) == [False, False, True, True]
    assert stutters(output, known) == [False, False, False, True], "references stutter too"
    assert aligned(output, known) == [True, True, True, False, False]
    assert unaligned(output, known) == [False, False, True, True]
    assert ERRORS["seam"](output, known) == [False, False, True, False]
    for name in ERRORS:
        assert ERRORS[name]([], known) == ERRORS[name]([7], known) == []


@settings(max_examples=100, deadline=None)
@given(some.lists(some.integers(0, 4), max_size=8), some.lists(some.lists(some.integers(0, 4), max_size=8), max_size=3))
def test_aligned_tokens_are_a_common_subsequence(output, known):
    found = aligned(output, known)
    matched = [token for token, kept in zip(output, found, strict=True) if kept]

    def within(reference):
        rest = iter(reference)
        return all(token in rest for token in matched)

    assert not matched or any(within(reference) for reference in known)
    assert all(aligned(output, [*known, output]))
    if any(set(output) & set(reference) for reference in known):
        assert matched
    for name in ERRORS:
        assert len(ERRORS[name](output, known)) == max(len(output) - 1, 0)
        assert not any(ERRORS[name](output, [*known, output]))
    for part in ("stutter", "seam"):  # both are pairs that no reference has
        pairs = zip(ERRORS[part](output, known), ERRORS["bigram"](output, known))
        assert all(new for fault, new in pairs if fault)


# ---- at errors -------------------------------------------------------------------------------------------------------


def test_values_at_errors_by_hand():
    outputs = [[1, 2, 3], [1, 9, 9], [4]]
    known = [[[1, 2, 3]], [[1, 9]], [[5]]]
    found = dict(at_errors(outputs, [[0.25, 0.5], [0.75, 2.0], []], known, "stutter"))
    assert found["error_share"].value == 1 / 4
    assert found["at_errors"].value == 2.0
    assert found["elsewhere"].value == pytest.approx(1.5 / 3)
    assert found["difference"].value == pytest.approx(1.5)
    assert found["difference_within"].value == pytest.approx(2.0 - 0.75) and found["difference_within"].n == 1
    assert {estimate.unit for name, estimate in found.items() if name != "error_share"} == {"nats/pair"}
    assert set(dict(at_errors(outputs[:1], [[1, 1]], known[:1]))) == {"error_share", "elsewhere"}
    assert dict(at_errors(outputs[2:], [[]], known[2:])) == {}


def paraphrases():
    """Texts of a pair "p q" or "r s", evenly, and one of two other tokens behind it, by itself."""
    net = LawTranslator(1, symbols=6, longest=3, seed=0)
    net.lengths = torch.tensor([[1e-9, 1e-9, 1.0]], dtype=torch.float64).log()
    net.joint[0, 3] = torch.zeros(6, 6, 6, dtype=torch.float64)
    for (p, q), x in product([(0, 1), (2, 3)], [4, 5]):
        net.joint[0, 3][p, q, x] = 0.25
    known = [[FIRST + p, FIRST + q, FIRST + x] for (p, q), x in product([(0, 1), (2, 3)], [4, 5])]
    return net, known


def test_what_one_step_breaks_is_where_the_probe_says_log_2():
    net, known = paraphrases()
    n = 600
    source, attend = net.source([0] * n)
    outputs = translate(net, source, attend, net.alphabet, Ancestral(steps=1), Stream.of(3, n)).tokens
    values = probe(net, source, attend, net.alphabet, outputs).by_row(n)
    for error in ("bigram", "seam"):
        found = dict(at_errors(outputs, values, [known] * n, error))
        assert found["at_errors"].value == pytest.approx(math.log(2), abs=1e-10)
        assert found["difference_within"].value == pytest.approx(math.log(2), abs=1e-10)
        assert abs(found["error_share"].value - 1 / 4) < 4 * found["error_share"].stderr < 0.1
        # half of the pairs came out whole by luck: 1/2 of log 2 over 1/2 + 1 pairs a text
        assert abs(found["elsewhere"].value - math.log(2) / 3) < 4 * found["elsewhere"].stderr < 0.1
        assert found["difference"].value > 8 * found["difference"].stderr
    wrong = dict(at_errors(outputs, [row[::-1] for row in values], [known] * n))
    assert wrong["at_errors"].value < 1e-10, "a twin that mistakes the order of cells"


def test_values_that_have_nothing_to_do_with_errors_do_not_differ():
    rng = np.random.default_rng(2)
    outputs = [rng.integers(0, 4, size=rng.integers(2, 12)).tolist() for _ in range(500)]
    known = [[rng.integers(0, 4, size=12).tolist()] for _ in outputs]
    values = [rng.exponential(size=len(text) - 1).tolist() for text in outputs]
    for error in ERRORS:
        found = dict(at_errors(outputs, values, known, error))
        for name in ("difference", "difference_within"):
            if name in found:
                assert abs(found[name].value) < 4 * found[name].stderr


def test_hard_sentences_alone_make_a_difference_but_none_within():
    """More errors and higher values in the same sentences: only the comparison within them is not deceived."""
    rng = np.random.default_rng(1)
    outputs, known, values = [], [], []
    for hard in [0, 1] * 300:
        reference = list(range(12))
        broken = rng.random(12) < (0.4 if hard else 0.1)
        outputs.append([100 if wrong else token for token, wrong in zip(reference, broken)])
        known.append([reference])
        values.append((hard + rng.random(11)).tolist())
    found = dict(at_errors(outputs, values, known, "token"))
    assert found["difference"].value > 8 * found["difference"].stderr
    assert abs(found["difference_within"].value) < 4 * found["difference_within"].stderr


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input():
    law = LAWS["random_table"]
    tokens, cell = law.states[:2], torch.tensor([0, 1])
    with pytest.raises(BadInput, match="paired with itself"):
        dependence(law, tokens, cell, torch.tensor([1, 1]))
    with pytest.raises(BadInput, match="0 candidates"):
        dependence(law, tokens, cell, cell + 1, candidates=0)
    with pytest.raises(BadInput, match="0 pairs at a time"):
        dependence(law, tokens, cell, cell + 1, batch=0)
    with pytest.raises(BadInput, match="1 translations came with values of 2"):
        list(at_errors([[1, 2]], [[0.1], [0.2]], [[[1]]]))
    with pytest.raises(BadInput, match="1 neighbours came with 2 values"):
        list(at_errors([[1, 2]], [[0.1, 0.2]], [[[1]]]))
    with pytest.raises(UnknownName, match="did you mean 'seam'"):
        list(at_errors([[1, 2]], [[0.1]], [[[1]]], "seams"))
    net = LawTranslator(1, 2, 2, 0)
    source, attend = net.source([0])
    with pytest.raises(BadInput, match="2 translations came with 1 sources"):
        probe(net, source, attend, net.alphabet, [[FIRST], [FIRST]])
    causal = causal_net(PairLaw(net.alphabet, {FIRST: [torch.ones(2, 2)]}))
    with pytest.raises(BadInput, match="left to right"):
        probe(causal, source, attend, net.alphabet, [[FIRST]])
