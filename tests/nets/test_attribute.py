"""The classifier head: a law over outcomes, the same for a candidate whatever stands beside it."""

import pytest
import torch

from remask.core.decoder import Spoken
from remask.core.errors import BadInput
from remask.nets.attribute import AttributeHead, embeddings

N, K, D, E, V, C = 5, 7, 6, 4, 11, 3


def make(seed=0, **rest):
    torch.manual_seed(seed)
    return AttributeHead(torch.randn(V, E), D, C, longest=20, **{"inner": 16, **rest})


def asked(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(N, D, generator=generator),
        torch.randint(1, 20, (N,), generator=generator),
        torch.randint(0, V, (N, K), generator=generator),
    )


def test_outcomes_have_a_law():
    out = make()(*asked())
    assert out.shape == (N, K, C)
    assert torch.allclose(out.exp().sum(-1), torch.ones(N, K))


def test_it_is_the_network_over_prefix_and_token_together():
    head, (hidden, places, candidates) = make(), asked()
    head.standardise(hidden)
    out = head(hidden, places, candidates)
    for n in range(N):
        for k in range(K):
            one = (hidden[n] - hidden.mean(0)) / hidden.std(0, unbiased=False)
            at = places[n].float()
            place = torch.stack([at / 20, at.log1p(), (20 - at).log1p()])
            weight = torch.cat([head.of_prefix.weight, head.of_token.weight], 1)
            token = (head.embeddings[candidates[n, k]] - head.embeddings.mean(0)) / head.embeddings.std(unbiased=False)
            joined = torch.cat([one, place, token])
            inner = torch.nn.functional.gelu(weight @ joined + head.of_prefix.bias)
            expected = head.out(torch.nn.functional.gelu(head.middle(inner))).log_softmax(0)
            assert torch.allclose(out[n, k], expected, atol=1e-5)


def test_a_candidate_alone_is_what_it_is_among_others():
    head, (hidden, places, candidates) = make(), asked()
    out = head(hidden, places, candidates)
    alone = head(hidden[2:3], places[2:3], candidates[2:3, 4:5])
    assert torch.allclose(out[2, 4], alone[0, 0], atol=1e-6)


@pytest.mark.parametrize("change", [0, 1, 2], ids=["state", "place", "token"])
def test_it_looks_at_everything_that_it_is_given(change):
    head, before = make(), list(asked())
    after = [x.clone() for x in before]
    after[change] = (after[change] + 1) % (V if change == 2 else 1000)
    assert not torch.allclose(head(*before), head(*after), atol=1e-4)


def test_lopsided_states_are_measured_first():
    head, plain, (hidden, places, candidates) = make(), make(), asked()
    large = hidden * torch.tensor([1e3, 1e-3, 1.0, 1.0, 1.0, 1.0]) + 50.0
    head.standardise(large)
    plain.standardise(hidden)
    assert torch.allclose(head(large, places, candidates), plain(hidden, places, candidates), atol=2e-3)


def test_it_starts_from_how_often_each_outcome_comes():
    head = make()
    head.start(torch.tensor([0, 0, 1, 0, 1, 0]))
    expected = torch.tensor([4.5, 2.5, 0.5]) / 7.5
    assert torch.allclose(head(*asked()).exp(), expected.expand(N, K, C))


def test_a_state_that_never_varies_is_no_division_by_zero():
    head, (hidden, places, candidates) = make(), asked()
    hidden[:, 0] = 3.0
    head.standardise(hidden)
    assert head(hidden, places, candidates).isfinite().all()


def test_the_embeddings_are_the_models_and_are_not_saved():
    head = make()
    assert not {"embeddings", "usual", "spread"} & set(head.state_dict())
    assert not head.embeddings.requires_grad
    assert {"centre", "scale"} <= set(head.state_dict())
    with pytest.raises(BadInput, match="exact posterior"):
        embeddings(Spoken(lambda prefix: torch.zeros(1).double(), 0))
