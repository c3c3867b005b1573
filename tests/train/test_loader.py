"""The loader is a pure function of the step, and parts of a step add up to the step: batches, gradients, losses."""

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.data.order import Order
from remask.data.pack import Rows
from remask.nets.hf import HuggingFaceNet
from remask.objectives.autoregressive import Autoregressive
from remask.objectives.mdlm import MDLM
from remask.train.learner import Learner, scaled
from remask.train.loader import Loader
from tests.nets import tiny
from tests.nets.tiny import ALPHABET, MAKE, shake

ROWS, LENGTH = 37, 12
TOKENS = tiny.text(ROWS, LENGTH)
CORPUS = Rows(TOKENS, (torch.arange(LENGTH) >= 5).long().expand(ROWS, LENGTH), torch.full((ROWS,), LENGTH))
OBJECTIVES = {
    "count": MDLM(),
    "elbo": MDLM(weighting="elbo"),
    "flat": MDLM(weighting="flat"),
    "autoregressive": Autoregressive(),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def loader(objective, batch=8, accumulate=1, **rest):
    return Loader(objective, CORPUS, ALPHABET, batch=batch, accumulate=accumulate, seed=5, **rest)


def same(a, b):
    """Whether two values hold the same numbers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Alphabet | bool | None):
        return a == b
    leaves = vars(a).values() if hasattr(a, "__dataclass_fields__") else a
    others = vars(b).values() if hasattr(b, "__dataclass_fields__") else b
    return all(same(x, y) for x, y in zip(leaves, others, strict=True))


# ---- which rows, which masks -----------------------------------------------------------------------------------------


@every_objective
def test_a_step_is_a_pure_function(name):
    one, other = loader(OBJECTIVES[name], 3, 2), loader(OBJECTIVES[name], 3, 2)
    first = one.step(4)
    one.step(0)
    list(zip(range(3), one.forever(lambda: 2), strict=False))
    assert same(first, one.step(4))
    assert same(first, other.step(4))
    assert not same(first, one.step(5))
    assert not same(first, Loader(OBJECTIVES[name], CORPUS, ALPHABET, batch=3, accumulate=2, seed=6).step(4))


def test_masks_differ_from_epoch_to_epoch():
    whole = loader(MDLM(), ROWS)
    rows = [part.question for part in (*whole.step(0), *whole.step(1))]
    again = [q.at[q.targets.flatten(1).argsort(0)[:, 0]] for q in rows]
    assert not torch.equal(*again)


@every_objective
@pytest.mark.parametrize(("batch", "accumulate", "ranks"), [(6, 2, 1), (3, 1, 4), (2, 3, 2), (1, 12, 1), (12, 1, 1)])
def test_parts_together_are_the_global_batch(name, batch, accumulate, ranks):
    (whole,) = loader(OBJECTIVES[name], 12).step(3)
    loaders = [loader(OBJECTIVES[name], batch, accumulate, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {one.slots for one in loaders} == {12}
    parts = [one.step(3) for one in loaders]
    turns = [parts[rank][turn] for turn in range(accumulate) for rank in range(ranks)]
    for field in ("tokens", "targets", "at", "weight", "documents"):
        together = torch.cat([getattr(part.question, field) for part in turns])
        assert torch.equal(together, getattr(whole.question, field))
    assert torch.equal(torch.cat([part.stream.seeds for part in turns]), whole.stream.seeds)
    assert all(torch.equal(part.counts, whole.counts) for part in turns)
    assert torch.equal(whole.question.targets, TOKENS[Order(ROWS, 5).take(36, 12)])


def test_an_epoch_sees_every_row_once():
    one = loader(Autoregressive(), 1)
    seen = torch.cat([part.question.targets for step in range(ROWS) for part in one.step(step)])
    assert torch.equal(seen.unique(dim=0), TOKENS.unique(dim=0))


def test_forever_goes_on_from_where_it_is_told():
    one = loader(MDLM(), 2, 3)
    stretch = [part for _, part in zip(range(9), one.forever(lambda: 7), strict=False)]
    assert same(stretch, [part for step in (7, 8, 9) for part in one.step(step)])


def times(objective, batch, accumulate, ranks):
    """How many cells of each row are masked, in the order of the slots."""
    loaders = [loader(objective, batch, accumulate, rank=rank, ranks=ranks) for rank in range(ranks)]
    parts = [one.step(1) for one in loaders]
    return torch.cat([parts[r][t].question.at.sum(1) for t in range(accumulate) for r in range(ranks)]).tolist()


@pytest.mark.parametrize(("batch", "accumulate", "ranks"), [(12, 1, 1), (3, 4, 1), (2, 2, 3), (1, 1, 12)])
def test_time_is_stratified_over_the_whole_step(batch, accumulate, ranks):
    assert times(MDLM(), batch, accumulate, ranks) == list(range(1, LENGTH + 1))


def test_time_that_is_drawn_row_by_row_is_not():
    assert sorted(times(MDLM(stratified=False), 12, 1, 1)) != list(range(1, LENGTH + 1))


# ---- gradients -------------------------------------------------------------------------------------------------------


def learner(name):
    torch.manual_seed(1)
    family = "remask-modernbert-decoder" if name == "autoregressive" else "remask-modernbert"
    return Learner(OBJECTIVES[name], HuggingFaceNet(shake(MAKE[family]())).double())


def gradient(name, accumulate, ranks=1, wrong=False):
    """Loss and gradient of one step of 12 rows, as parts on ranks whose gradients are averaged."""
    module = learner(name)
    loss = 0.0
    for rank in range(ranks):
        one = loader(OBJECTIVES[name], 12 // accumulate // ranks, accumulate, rank=rank, ranks=ranks)
        for part in one.step(2):
            out = module(part.question, part.stream)
            if wrong:  # the mean of the parts' means
                own = out.terms[0].total / part.question.at.sum() / accumulate
                value = own * ranks
            else:
                value = scaled(out, part.counts, ranks)
            value = value / ranks
            value.backward()
            loss += float(value.detach())
    return loss, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@every_objective
@pytest.mark.parametrize(("accumulate", "ranks"), [(2, 1), (4, 1), (12, 1), (1, 2), (2, 3)])
def test_parts_add_up_to_the_gradient_of_the_whole(name, accumulate, ranks):
    loss, grad = gradient(name, 1)
    parts_loss, parts_grad = gradient(name, accumulate, ranks)
    assert abs(loss - parts_loss) < 1e-10 * abs(loss)
    assert float((grad - parts_grad).norm()) < 1e-10 * float(grad.norm())


def test_the_mean_of_means_is_another_gradient():
    """The planted twin: with `flat` the parts hold different numbers of masked cells."""
    _, grad = gradient("flat", 1)
    _, parts = gradient("flat", 4, wrong=True)
    assert float((grad - parts).norm()) > 1e-3 * float(grad.norm())
    counts = [int(part.question.at.sum()) for part in loader(MDLM(weighting="flat"), 3, 4).step(2)]
    assert len(set(counts)) > 1
