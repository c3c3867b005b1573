"""The language against enumeration, against other algorithms at full length, and against a sampler that is exact."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import pytest
import torch

from remask.core.canvas import blank
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.lab.chains import Chain
from remask.lab.language import Language
from remask.lab.laws import Law
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests.oracle import surprise

TINY = Language(seed=3, words=4, topics=2, classes=2, readings=2, stay=0.8, slip=0.1)
SMALL = Language(seed=1, words=12, topics=2, classes=6, readings=2)
FULL = Language()


def patterns(length):
    """Every text of the tiny language with any cells masked."""
    return torch.tensor(list(product(range(TINY.words + 1), repeat=length)))


def worst(language, law):
    """The largest gap between a language and the tiny law in log p of whole texts."""
    return float((language.log_prob(law.states) - law.joint.log()).abs().max())


# ---- by enumeration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", [TINY, SMALL, FULL], ids=["tiny", "small", "full"])
def test_tables_are_laws_that_start_at_rest_and_are_functions_of_the_seed(language):
    start, transition, emission = language.tables
    for rows in (start[None], transition, emission):
        assert rows.min() >= 0
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows), dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(start @ transition, start, rtol=1e-12, atol=0)
    assert emission.shape == (language.topics * language.classes, language.words)
    assert ((emission > 0).sum(0) == language.topics * language.readings).all()
    again, other = dataclasses.replace(language), dataclasses.replace(language, seed=language.seed + 1)
    assert all(torch.equal(a, b) for a, b in zip(language.tables, again.tables))
    assert not torch.equal(emission, other.tables.emission)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_log_p_of_every_text_and_of_every_cell_after_those_before_it(length):
    law = TINY.law(length)
    assert worst(TINY, law) < 1e-12
    nats = TINY.nats(law.states)
    for seen in range(1, length + 1):
        joint = law.joint.view(4**seen, -1).sum(1).repeat_interleave(4 ** (length - seen))
        torch.testing.assert_close(nats[:, :seen].sum(1), -joint.log(), rtol=1e-11, atol=1e-12)


def test_what_is_visible_has_the_mass_of_the_texts_that_agree_with_it():
    law, rows = TINY.law(4), patterns(4)
    agrees = ((law.states[None] == rows[:, None]) | (rows[:, None] == TINY.alphabet.mask)).all(2)
    torch.testing.assert_close(TINY.log_prob(rows).exp(), agrees.double() @ law.joint, rtol=1e-10, atol=1e-14)
    assert TINY.nats(rows)[rows == TINY.alphabet.mask].abs().max() == 0


@pytest.mark.parametrize("visible", [Visible.DENOISE, Visible.LEAVE_ONE_OUT])
def test_conditionals_for_every_pattern_of_masks(visible):
    language, rows = dataclasses.replace(TINY, visible=visible), patterns(4)
    law = Law("truth", TINY.law(4).joint.view([4] * 4), visible=visible)
    assert (language.alphabet, language.visible) == (law.alphabet, law.visible)
    torch.testing.assert_close(language(rows).exp(), law(rows).exp(), rtol=1e-10, atol=1e-13)
    at = rows == language.alphabet.mask
    torch.testing.assert_close(language(rows, at).exp(), law(rows, at).exp(), rtol=1e-10, atol=1e-13)
    one = language.rows(torch.tensor([3])).given(rows[3:4], torch.tensor([1]))
    torch.testing.assert_close(one(rows[3:4]).exp(), law(rows[3:4]).exp(), rtol=1e-10, atol=1e-13)


def test_entropy_is_that_of_the_enumerated_law():
    for language, length in ((TINY, 6), (SMALL, 4), (FULL, 2)):
        found, law = language.entropy(length, rows=4000, seed=length), language.law(length)
        assert abs(found.value - law.entropy / length) < 4 * found.stderr


def test_samples_follow_the_law():
    law = TINY.law(4)
    rows = TINY.sample(20_000, 4, seed=7)
    assert surprise(torch.bincount(law.number(rows), minlength=256), law.joint) < 4
    other = dataclasses.replace(TINY, seed=4).law(4)
    assert surprise(torch.bincount(law.number(rows), minlength=256), other.joint) > 8


# ---- at full length --------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_chain_and_of_any_other_length():
    stream = Stream.of(5, 40)
    rows = FULL.sample(40, 60, stream)
    assert torch.equal(rows, FULL.chain(60).sample(40, stream))
    assert torch.equal(rows[:, :17], FULL.sample(40, 17, 5))
    assert torch.equal(rows[20:30], FULL.sample(10, 60, stream.rows(torch.arange(20, 30))))
    assert rows.unique().numel() > 150


def test_forward_is_backward():
    """The chain run backwards in time says the same of texts read backwards; start and moves turned by hand."""
    start, transition, emission = FULL.tables
    turned = Chain(start, (start[:, None] * transition / start).T, emission, 512)
    rows = FULL.sample(4, 512, seed=2)
    torch.testing.assert_close(FULL.log_prob(rows), turned.log_prob(rows.flip(1)), rtol=1e-12, atol=0)
    hidden = rows.clone()
    hidden[:, 100:160:2] = FULL.alphabet.mask
    at = hidden == FULL.alphabet.mask
    there, back = FULL(hidden, at), turned(hidden.flip(1), at.flip(1)).view(4, 30, -1).flip(1).flatten(0, 1)
    torch.testing.assert_close(there.exp(), back.exp(), rtol=1e-9, atol=1e-14)


def test_log_p_is_the_product_of_matrices():
    start, transition, emission = FULL.tables
    for row in FULL.sample(3, 40, seed=4):
        ahead = start
        for cell, word in enumerate(row.tolist()):
            ahead = (ahead if cell == 0 else ahead @ transition) * emission[:, word]
        assert float(FULL.log_prob(row[None])) == pytest.approx(float(ahead.sum().log()), rel=1e-12)


def test_a_conditional_is_the_ratio_of_texts_that_differ_in_its_cell():
    row = FULL.sample(1, 300, seed=6)
    row[0, [3, 4, 140, 141, 142, 150, 151, 299]] = FULL.alphabet.mask
    at = torch.zeros_like(row, dtype=torch.bool)
    at[0, 141] = True
    tried = row.repeat(FULL.words, 1)
    tried[:, 141] = torch.arange(FULL.words)
    torch.testing.assert_close(
        FULL(row, at)[0, : FULL.words], FULL.log_prob(tried).log_softmax(0), rtol=1e-9, atol=1e-9
    )
    assert FULL(row, at)[0, FULL.words :].isneginf().all()


def test_context_matters_over_several_words_and_no_text_is_impossible():
    """Nats at cell k are H(x_k | x_<k): the law starts at rest. Cells 0 and 1 are known by enumeration."""
    rows = FULL.sample(1500, 80, seed=8)
    nats = FULL.nats(rows)
    found, spread = nats.mean(0), nats.std(0) / len(nats) ** 0.5
    one, two = FULL.law(1).entropy, FULL.law(2).entropy
    assert abs(found[0] - one) < 4 * spread[0]
    assert abs(found[1] - (two - one)) < 4 * spread[1]
    assert min(a - b for a, b in pairwise(found[:4].tolist())) > 0.15
    lost = []
    for context in range(5):  # the same cell of the same texts, with less and more before it
        seen = rows.clone()
        seen[:, : 60 - context] = FULL.alphabet.mask
        lost.append(FULL.nats(seen[:, :61])[:, 60] - nats[:, 60])
    assert min(float(a.mean() - b.mean()) for a, b in pairwise(lost)) > 0.05
    assert float(lost[4].mean()) > 4 * float(lost[4].std()) / len(rows) ** 0.5
    rate = FULL.entropy(80, rows=1500, seed=8, skip=40)
    assert rate.value == pytest.approx(float(nats[:, 40:].mean()))
    anything = torch.randint(FULL.words, (20, 80), generator=torch.Generator().manual_seed(0))
    assert FULL.log_prob(anything).isfinite().all()
    assert FULL.cross_entropy(anything).value > rate.value + 2


def test_an_exact_sampler_on_the_law_writes_at_its_entropy_and_a_parallel_one_does_not():
    rows, length = 150, 24
    truth = SMALL.entropy(length, rows=4000, seed=1)

    def written(sampler):
        return SMALL.cross_entropy(
            sample(sampler, SMALL, blank(rows, length, SMALL.alphabet), Stream.of(1, rows)).tokens
        )

    exact, hasty = written(FirstHitting()), written(Ancestral(steps=2))
    assert abs(exact.value - truth.value) < 4 * (exact.stderr + truth.stderr)
    assert hasty.value > truth.value + 8 * hasty.stderr


# ---- planted bugs, and what cannot be --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turned(Language):
    """Goes through the transitions the wrong way."""

    @cached_property
    def tables(self):
        found = super().tables
        return found._replace(transition=found.transition.T.contiguous())


@dataclass(frozen=True)
class Forgetful(Language):
    """Draws every word from a fresh state."""

    @cached_property
    def tables(self):
        found = super().tables
        return found._replace(transition=found.start.expand(len(found.start), -1))


def test_planted_bugs_are_seen():
    fields = {field.name: getattr(SMALL, field.name) for field in dataclasses.fields(SMALL)}
    law = SMALL.law(3)
    assert worst(SMALL, law) < 1e-12
    assert worst(Turned(**fields), law) > 0.1
    true, false = SMALL.sample(5000, 3, 0), Forgetful(**fields).sample(5000, 3, 0)
    assert surprise(torch.bincount(law.number(true), minlength=12**3), law.joint) < 4
    assert surprise(torch.bincount(law.number(false), minlength=12**3), law.joint) > 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: Language(topics=0),
        lambda: Language(readings=17),
        lambda: Language(words=8),
        lambda: Language(slip=0),
        lambda: Language(leak=0.0),
        lambda: Language(stay=1.1),
        lambda: TINY.sample(0, 3),
        lambda: TINY.sample(3, 0),
        lambda: TINY.entropy(5, skip=5),
        lambda: FULL.law(3),
    ],
)
def test_languages_that_cannot_be(make):
    with pytest.raises(BadInput):
        make()


def test_the_end_lies_outside_the_law():
    for ask in (TINY.log_prob, TINY):
        with pytest.raises(ValueError, match="outside the law"):
            ask(torch.tensor([[0, TINY.alphabet.end, 1]]))
