"""NetConditional: log p over the ids that are text, normalised, for any choice of cells and rows."""

import pytest
import torch

from remask.core.conditional import Visible
from remask.nets.conditional import NetConditional
from tests.nets.tiny import ALPHABET, CAUSAL, MAKE, MASK, V, gap, make, masked, padding, text

MASKED = [name for name in MAKE if name not in CAUSAL]
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7, [0] * 12, [0] * 2 + [1] * 10])


@pytest.mark.parametrize("family", MASKED)
def test_rows_are_laws_and_the_mask_is_not_in_them(family):
    law = NetConditional(make(family), ALPHABET)
    log_prob = law(masked(text(3, 12)))
    assert log_prob.shape == (3, 12, V)
    assert (log_prob[..., MASK] == -torch.inf).all()
    others = [i for i in range(V) if i != MASK]
    assert log_prob[..., others].isfinite().all()
    assert log_prob[..., others].std() > 0.3
    assert gap(log_prob.exp().sum(-1), torch.ones(3, 12)) < 1e-5


@pytest.mark.parametrize("family", MASKED)
def test_chosen_cells_are_those_of_the_full_answer(family):
    tokens = masked(text(3, 12))
    at = tokens == MASK
    law = NetConditional(make(family), ALPHABET)
    chosen = law(tokens, at)
    assert chosen.shape == (int(at.sum()), V)
    assert gap(chosen.exp(), law(tokens)[at].exp()) < 1e-6
    assert law(tokens, torch.zeros_like(at)).shape == (0, V)


def test_what_it_says_agrees_with_the_net():
    net, tokens = make("bert"), masked(text(3, 12))
    law = NetConditional(net, ALPHABET)
    with torch.no_grad():
        scores = net.model(input_ids=tokens).logits
    scores[..., MASK] = -torch.inf
    assert gap(law(tokens).exp(), scores.softmax(-1)) < 1e-6
    assert law.alphabet is ALPHABET
    assert law.visible is Visible.DENOISE


@pytest.mark.parametrize("family", ["bert", "modernbert", "remask-modernbert"])
def test_rows_choose_documents_and_padding_along(family):
    net, tokens, attend = make(family), masked(text(3, 12)), padding([12, 8, 11], 12)
    law = NetConditional(net, ALPHABET, documents=DOCUMENTS, attend=attend)
    full = law(tokens).exp()
    for index in ([2, 0], [1], [1, 1, 2, 0]):
        index = torch.tensor(index)
        assert gap(law.rows(index)(tokens[index]).exp()[attend[index]], full[index][attend[index]]) < 1e-5
    apart = torch.tensor([2, 0])
    wrong = NetConditional(net, ALPHABET, DOCUMENTS[:2], attend[:2])(tokens[apart])  # rows left where they were
    assert gap(wrong.exp()[attend[apart]], full[apart][attend[apart]]) > 1e-2
    nested = law.rows(torch.tensor([2, 0, 1])).rows(torch.tensor([2]))
    assert gap(nested(tokens[1:2]).exp()[attend[1:2]], full[1:2][attend[1:2]]) < 1e-5
    assert law.rows(apart).visible is law.visible
    assert law.rows(apart).alphabet is ALPHABET


def test_the_law_without_documents_or_padding_is_the_same_for_any_rows():
    law, tokens = NetConditional(make("bert"), ALPHABET), masked(text(3, 12))
    index = torch.tensor([2, 0, 2])
    assert gap(law.rows(index)(tokens[index]).exp(), law(tokens)[index].exp()) < 1e-6
    assert gap(law.given(tokens, torch.tensor([3, 0, 1]))(tokens).exp(), law(tokens).exp()) == 0


@pytest.mark.parametrize("family", MASKED)
def test_batched_equals_single(family):
    net, lengths = make(family), [12, 5, 9]
    attend = padding(lengths, 12)
    tokens = torch.where(attend, masked(text(3, 12)), net.model.config.pad_token_id)
    batched = NetConditional(net, ALPHABET, attend=attend)(tokens).exp()
    for row, length in enumerate(lengths):
        alone = NetConditional(net, ALPHABET)(tokens[row : row + 1, :length]).exp()
        assert gap(batched[row : row + 1, :length], alone) < 1e-5
    blind = NetConditional(net, ALPHABET)(tokens).exp()
    assert gap(blind[1, :5], batched[1, :5]) > 1e-3  # padding that is looked at shows


@pytest.mark.parametrize("family", ["bert", "modernbert", "remask-modernbert"])
def test_a_float64_net_gives_float64(family):
    net, tokens = make(family), masked(text(2, 12))
    single = NetConditional(net, ALPHABET)(tokens)
    net.model.double()
    double = NetConditional(net, ALPHABET)(tokens)
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert gap(double.exp().sum(-1), torch.ones(2, 12, dtype=torch.float64)) < 1e-12
    assert gap(double.exp(), single.double().exp()) < 1e-5
