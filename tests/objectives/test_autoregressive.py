"""Autoregressive: the exact -log p of every row, and the end token where documents begin."""

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives.autoregressive import Autoregressive, shifted
from tests.oracle import LAWS, causal_net


@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_the_loss_is_minus_log_p_to_the_last_digit(oracle):
    """No masks, no noise: equality, not three standard errors."""
    tokens, stream = oracle.sample(100, 0), Stream.of(0, 100)
    objective = Autoregressive()
    loss = objective(causal_net(oracle), objective.corrupt(Batch.of(tokens, oracle.alphabet), stream), stream)
    truth = -float(oracle.joint[oracle.number(tokens)].log().sum())
    assert float(loss.terms[0].total) == pytest.approx(truth, rel=1e-12)
    assert float(loss.terms[0].count) == tokens.numel()
    assert objective.bounds
    assert objective.causal


def test_the_end_token_opens_every_document():
    tokens = torch.tensor([[4, 5, 6, 7, 8, 9]])
    documents = torch.tensor([[0, 0, 1, 1, 1, 2]])
    assert shifted(tokens, documents, 3).tolist() == [[3, 4, 3, 6, 7, 3]]


def test_everything_is_asked_and_weighs_one():
    batch = Batch.of(LAWS["parity"].sample(6, 0), LAWS["parity"].alphabet)
    asked = Autoregressive().corrupt(batch, Stream.of(0, 6))
    assert asked.at.all()
    assert (asked.weight == 1).all()
    assert torch.equal(asked.targets, batch.tokens)
    again = Autoregressive().corrupt(batch, Stream.of(99, 6))
    assert torch.equal(again.tokens, asked.tokens), "nothing random"


def test_a_net_that_says_mask_is_not_heard():
    """A causal net never predicts the mask either: the two kinds of model share one law over texts."""
    oracle = LAWS["random_table"]
    asked = Autoregressive().corrupt(Batch.of(oracle.sample(10, 1), oracle.alphabet), Stream.of(0, 10))
    quiet = causal_net(oracle)
    loud = causal_net(oracle)
    loud.log_prob_of = lambda tokens: quiet.log_prob_of(tokens).index_fill(
        2, torch.tensor([oracle.alphabet.mask]), 40.0
    )
    totals = [float(Autoregressive()(net, asked, Stream.of(0, 10)).terms[0].total) for net in (quiet, loud)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-9)


def test_a_tokenizer_without_an_end_is_refused():
    batch = Batch.of(torch.zeros(1, 4, dtype=torch.int64), Alphabet(5, 4))
    with pytest.raises(BadInput, match="end token"):
        Autoregressive().corrupt(batch, Stream.of(0, 1))
