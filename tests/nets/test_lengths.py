"""Length heads: laws over 1..M, their closed forms before training, and what moves them."""

import math

import pytest
import torch

from remask.core.errors import UnknownName
from remask.nets.lengths import HEADS, SPREAD, LengthHead

WIDTH, LONGEST = 8, 30
LENGTHS = torch.tensor([1, 4, 17, 30, 55])


def summary(rows=5, seed=0):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def shaken(kind, seed=1):
    head, generator = LengthHead(kind, WIDTH, LONGEST), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_gives_a_law(kind, dtype):
    law = shaken(kind).to(dtype)(summary().to(dtype), LENGTHS)
    assert law.shape == (5, LONGEST)
    assert law.dtype == torch.float32
    assert torch.allclose(law.exp().sum(1), torch.ones(5), atol=1e-5)
    assert law.std() > 0.1


def test_a_fresh_classifier_has_no_opinion():
    law = LengthHead("classifier", WIDTH, LONGEST)(summary(), LENGTHS)
    assert torch.allclose(law, torch.full_like(law, -math.log(LONGEST)))


@pytest.mark.parametrize("kind", ["affine", "both"])
def test_a_fresh_affine_law_peaks_where_the_source_ends(kind):
    law = LengthHead(kind, WIDTH, LONGEST)(summary(), LENGTHS).detach()
    assert (law.argmax(1) + 1).tolist() == [1, 4, 17, 30, 30]
    assert torch.allclose(law[2, 16 - 5], law[2, 16 + 5])
    error = SPREAD * math.sqrt(LONGEST) + 1
    assert float(law[2, 16] - law[2, 16 + 3]) == pytest.approx(0.5 * (3 / error) ** 2, rel=1e-4)


def test_the_affine_law_is_a_discrete_gaussian_about_its_line():
    head = LengthHead("affine", WIDTH, LONGEST)
    with torch.no_grad():
        head.line.copy_(torch.tensor([1.5, -2.0, math.log(3.0)]))
    law = head(summary(), LENGTHS)
    for row, source in enumerate(LENGTHS.tolist()):
        weights = [math.exp(-0.5 * ((m - (1.5 * source - 2)) / 3) ** 2) for m in range(1, LONGEST + 1)]
        if sum(weights) > 0:
            expected = torch.tensor([w / sum(weights) for w in weights])
            assert torch.allclose(law[row].exp(), expected, atol=1e-5)


def test_both_is_the_product_of_the_two():
    both = shaken("both")
    one, two = LengthHead("classifier", WIDTH, LONGEST), LengthHead("affine", WIDTH, LONGEST)
    one.table.weight, two.line = both.table.weight, both.line
    read = summary()
    product = (one(read, LENGTHS) + two(read, LENGTHS)).log_softmax(1)
    assert torch.allclose(both(read, LENGTHS), product, atol=1e-5)
    assert not torch.allclose(product, two(read, LENGTHS), atol=0.1)


def test_what_is_learnt_is_the_length_and_its_error():
    """Targets are 2 more than half of the source, give or take one: the line finds slope, offset and spread."""
    generator = torch.Generator().manual_seed(3)
    source = torch.randint(4, 40, (4000,), generator=generator)
    target = (source / 2 + 2 + torch.randn(4000, generator=generator)).round().clamp(1, LONGEST).long()
    head = LengthHead("affine", WIDTH, LONGEST)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        nll = -head(summary(4000), source).gather(1, target[:, None] - 1).mean()
        nll.backward()
        return nll

    optimizer.step(loss)
    slope, offset, log_error = head.line.tolist()
    assert slope == pytest.approx(0.5, abs=0.02)
    assert offset == pytest.approx(2, abs=0.3)
    assert math.exp(log_error) == pytest.approx(math.sqrt(1 + 1 / 12), abs=0.08)  # rounding adds its own


def test_an_unknown_head_lists_the_known_ones():
    with pytest.raises(UnknownName, match="classifier"):
        LengthHead("oracle", WIDTH, LONGEST)
