"""MLM: which tokens are chosen, what they show, and what is asked of them."""

import math

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.objectives.mlm import MLM, text_cells
from tests.core.test_choose import spans_slowly, words_slowly
from tests.oracle import LAWS, LawNet, masked_net, surprise

SIZE, MASK = 40, 5
SPECIAL = frozenset({0, 1, MASK, 39})  # not all at one end
TEXT = torch.tensor([i for i in range(SIZE) if i not in SPECIAL])
ALPHABET = Alphabet(SIZE, MASK, 0, 1, SPECIAL, frozenset(TEXT[::2].tolist()))


def batch_of(rows, length=32, seed=0, special=0.2):
    """Random text with special tokens in it; the second row has nothing else."""
    generator = torch.Generator().manual_seed(seed)
    tokens = TEXT[torch.randint(len(TEXT), (rows, length), generator=generator)]
    tokens = torch.where(torch.rand(rows, length, generator=generator) < special, 1, tokens)
    if special:
        tokens[1] = 0
    return Batch.of(tokens, ALPHABET)


# ---- which -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.15, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("unit", ["token", "span"])
def test_every_row_has_the_rounded_share_of_its_text(unit, rate):
    for length in (1, 7, 32):
        batch = batch_of(60, length)
        asked = MLM(mask_rate=rate, unit=unit).corrupt(batch, Stream.of(0, 60))
        text = ~torch.isin(batch.tokens, torch.tensor(sorted(SPECIAL)))
        assert torch.equal(text, text_cells(batch))
        assert not (asked.at & ~text).any(), "a special token was chosen"
        for chosen, available in zip(asked.at.sum(1).tolist(), text.sum(1).tolist()):
            assert chosen == min(max(1, chosen), available), "at least one where there is any, and none where not"
            assert chosen <= 1 or abs(chosen - rate * available) <= 0.5 + 1e-4
        assert asked.counts.tolist() == [int(asked.at.sum())]
        assert torch.equal(asked.tokens[~asked.at], batch.tokens[~asked.at])
        assert torch.equal(asked.targets, batch.tokens)
        assert (asked.weight == 1).all()


def test_a_batch_without_text_asks_nothing_and_divides_by_one():
    batch = Batch.of(torch.zeros(3, 5, dtype=torch.int64), ALPHABET)
    asked = MLM().corrupt(batch, Stream.of(0, 3))
    assert not asked.at.any()
    assert asked.counts.tolist() == [1]


def test_the_rate_moves_with_training_in_a_straight_line():
    falls, stays = MLM(mask_rate=0.5, final_mask_rate=0.25), MLM(mask_rate=0.5)
    for progress, share in [(0.0, 16), (0.25, 14), (0.5, 12), (1.0, 8)]:
        batch = batch_of(20, special=0)._replace(progress=progress)
        assert (falls.corrupt(batch, Stream.of(0, 20)).at.sum(1) == share).all()
        assert (stays.corrupt(batch, Stream.of(0, 20)).at.sum(1) == 16).all()
        part = falls.corrupt(batch.part(torch.tensor([3, 4])), Stream.of(0, 20).rows(torch.tensor([3, 4])))
        assert (part.at.sum(1) == share).all(), "a part of the batch knows how far training is"


def test_words_are_whole():
    batch = batch_of(200, 24)._replace(documents=(torch.arange(24) // 9).expand(200, -1))
    inside = torch.isin(batch.tokens, torch.tensor(sorted(ALPHABET.continues)))
    among, stream = text_cells(batch), Stream.of(3, 200)
    for rate in (0.1, 0.4):
        asked = MLM(mask_rate=rate, unit="word").corrupt(batch, stream)
        uniform = stream.uniform(0, Purpose.MASK, 24)
        cut = 0
        for i in range(200):
            count = min(max(1, round(rate * int(among[i].sum()))), int(among[i].sum()))
            groups, taken = words_slowly(uniform[i], among[i], count, inside[i], batch.documents[i])
            assert torch.nonzero(asked.at[i])[:, 0].tolist() == taken
            cut += any(0 < len(set(group) & set(taken)) < len(group) for group in groups)
        assert cut > 0 or rate > 0.1, "some words are longer than a tenth of the row"
        assert cut < 150
        tokens = MLM(mask_rate=rate).corrupt(batch, stream).at[:, 1:] & inside[:, 1:] & among[:, :-1]
        assert (tokens & ~asked.at[:, :-1]).any(), "single tokens do split words"


def test_words_need_a_vocabulary_that_tells():
    batch = batch_of(4)._replace(alphabet=ALPHABET._replace(continues=frozenset()))
    with pytest.raises(BadInput, match="--unit span"):
        MLM(unit="word").corrupt(batch, Stream.of(0, 4))


def test_spans_are_drawn_with_numbers_of_their_own():
    batch, stream = batch_of(100), Stream.of(1, 100)
    asked = MLM(unit="span", span_length=4.0).corrupt(batch, stream)
    where, size = stream.uniform(0, Purpose.MASK, 32), stream.uniform(0, Purpose.SPAN, 32)
    for i in range(100):
        slow = spans_slowly(where[i], size[i], text_cells(batch)[i], int(asked.at[i].sum()), 4.0)
        assert torch.nonzero(asked.at[i])[:, 0].tolist() == slow
    edges = (asked.at[:, 1:] != asked.at[:, :-1]).sum()
    assert edges < 0.6 * (MLM().corrupt(batch, stream).at.diff(dim=1) != 0).sum(), "spans have fewer edges"


# ---- what they show --------------------------------------------------------------------------------------------------


def shown(objective, seed=0):
    """Surprise of how many chosen cells show the mask, their own token, or another one."""
    batch = batch_of(400, seed=seed)
    asked = objective.corrupt(batch, Stream.of(seed, 400))
    tokens, own = asked.tokens[asked.at], asked.targets[asked.at]
    assert torch.isin(tokens[tokens != MASK], TEXT).all(), "a special token was shown"
    counts = torch.stack([(tokens == MASK).sum(), (tokens == own).sum(), ((tokens != own) & (tokens != MASK)).sum()])
    lucky = 1 / len(TEXT)
    law = [0.8, 0.1 + 0.1 * lucky, 0.1 * (1 - lucky)]
    return surprise(counts, torch.tensor(law, dtype=torch.float64))


def test_eight_one_and_one_tenth():
    assert abs(shown(MLM())) < 4
    assert shown(MLM(random=0.12, keep=0.08)) > 4, "the planted bug: shares that are off by a fiftieth"


def test_random_and_keep_are_not_exchanged():
    asked = MLM(random=0.3, keep=0.05).corrupt(batch_of(400), Stream.of(0, 400))
    own = (asked.tokens == asked.targets)[asked.at].double()
    expected = 0.05 + 0.3 / len(TEXT)
    assert abs(float(own.mean()) - expected) < 4 * math.sqrt(expected / len(own))


def test_nothing_but_masks():
    asked = MLM(random=0.0, keep=0.0).corrupt(batch_of(50), Stream.of(0, 50))
    assert torch.equal(asked.tokens == MASK, asked.at)
    everything = MLM(random=1.0, keep=0.0).corrupt(batch_of(50), Stream.of(0, 50))
    assert not (everything.tokens == MASK).any()


def test_what_is_shown_is_independent_of_which_and_of_the_token():
    """Chi-square of the shown kind against the place and against the target: purposes do not share numbers."""
    asked = MLM(mask_rate=0.3, random=0.25, keep=0.25).corrupt(batch_of(2000, 16, special=0), Stream.of(0, 2000))
    masked = (asked.tokens == MASK)[asked.at]
    for label, kinds in ((torch.nonzero(asked.at)[:, 1], 16), (asked.targets[asked.at], SIZE)):
        law = torch.bincount(label, minlength=kinds)
        assert abs(surprise(torch.bincount(label[masked], minlength=kinds), law)) < 4
    shown_random = asked.tokens[asked.at][~masked & (asked.tokens != asked.targets)[asked.at]]
    counts = torch.bincount(shown_random, minlength=SIZE)[TEXT]
    assert abs(surprise(counts, torch.ones(len(TEXT)))) < 4, "a random token keeps its law where it is shown"


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_chosen_cells():
    oracle, told = LAWS["markov_chain"], []

    class Shouts(LawNet):
        def total_nll(self, hidden_at, targets, weight, ban=None):
            told.append(len(hidden_at))
            loud = hidden_at.index_fill(1, torch.tensor([oracle.alphabet.mask]), 50.0)
            return super().total_nll(loud, targets, weight, ban)

    objective = MLM(mask_rate=0.5, random=0.0, keep=0.0)
    asked = objective.corrupt(Batch.of(oracle.sample(64, 0), oracle.alphabet), Stream.of(0, 64))
    nats = -oracle(asked.tokens, asked.at).gather(1, asked.targets[asked.at][:, None])
    for net in (masked_net(oracle), Shouts(oracle)):
        loss = objective(net, asked, Stream.of(0, 64))
        assert float(loss.mean()) == pytest.approx(float(nats.mean()), rel=1e-9)
    assert told == [int(asked.at.sum())]
    assert not objective.bounds


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mask_rate": 0.0}, "--mask-rate"),
        ({"mask_rate": 1.1}, "--mask-rate"),
        ({"mask_rate": math.nan}, "--mask-rate"),
        ({"final_mask_rate": 0.0}, "--final-mask-rate"),
        ({"final_mask_rate": math.nan}, "--final-mask-rate"),
        ({"random": -0.1}, "--random"),
        ({"keep": -0.1}, "--keep"),
        ({"random": 0.6, "keep": 0.5}, "at most 1"),
        ({"random": math.nan}, "--random"),
        ({"unit": "sentence"}, "--unit token|word|span"),
        ({"span_length": 0.5}, "--span-length"),
        ({"span_length": math.nan}, "--span-length"),
        ({"span_length": math.inf}, "--span-length"),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        MLM(**wrong)
    assert says in str(error.value)
