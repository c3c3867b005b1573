"""The arms of `remask bench encoders` do the same work: equal losses where the arithmetic is the same."""

import pytest
import torch

from remask.bench.encoders import ARMS, DETECTS, MASKED, Encoders
from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.core.objective import Batch
from remask.core.stream import Stream

PLAN = Encoders(net="tiny", length=16, batch=4)
ALPHABET = Alphabet(300, mask=1, pad=0, end=2, special=frozenset((0, 1, 2)))


@pytest.fixture(scope="module")
def asked():
    tokens = torch.randint(4, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    return Batch.of(tokens, ALPHABET), Stream.of(0, 4)


def test_full_logits_give_the_generator_the_same_loss(asked):
    batch, stream = asked
    pair, question = ARMS["electra"].build(PLAN, ALPHABET), DETECTS.corrupt(batch, stream)
    ours = DETECTS(pair, question, stream).terms[0]
    with torch.no_grad():
        logits = pair.generator.logits(pair.generator.hidden(question.tokens).flatten(0, 1)).view(4, 16, -1)
    labels = torch.where(question.at, question.targets, -100)
    logits[..., ALPHABET.mask] = -torch.inf
    full = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert float(ours.total.detach() / ours.count) == pytest.approx(float(full), rel=1e-5)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_has_a_finite_loss_and_reaches_its_parameters(name, asked):
    batch, stream = asked
    arm = ARMS[name]
    module = arm.build(PLAN, ALPHABET).train()
    loss = arm.loss(module, arm.ask(PLAN, batch, stream), stream)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    unused = [n for n, p in module.named_parameters() if p.grad is None and "pooler" not in n]
    assert unused == []


def test_masked_modelling_and_bert_are_asked_the_same(asked):
    batch, stream = asked
    questions = [ARMS[name].ask(PLAN, batch, stream) for name in ("mlm", "bert")]
    assert torch.equal(questions[0].tokens, questions[1].tokens)
    assert int(questions[0].at.sum(1)[0]) == round(MASKED.mask_rate * 16)


def test_plans_that_cannot_be_run():
    with pytest.raises(UnknownName, match="tinny"):
        Encoders(net="tinny")
    with pytest.raises(BadInput, match="8k"):
        Encoders(vocabularies=("8k",))
    with pytest.raises(BadInput, match="--rounds came as 0"):
        Encoders(rounds=0)
