"""Batches are parts of a global batch; a loss keeps sum and count apart."""

import torch

from remask.core.alphabet import Alphabet
from remask.core.objective import Batch, Loss, Term

ALPHABET = Alphabet(5, 4)


def scalar(x):
    return torch.tensor(x, dtype=torch.float64)


def test_a_part_knows_its_place_in_the_whole():
    batch = Batch.of(torch.arange(12).view(4, 3), ALPHABET)
    part = batch.part(torch.tensor([3, 1]))
    assert part.tokens.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert part.slot.tolist() == [3, 1]
    assert part.slots == 4
    again = part.part(torch.tensor([1]))
    assert (again.slot.tolist(), again.slots) == ([1], 4)
    assert not batch.documents.any()


def test_the_mean_weighs_terms_and_divides_each_by_its_own_count():
    loss = Loss((Term("mlm", scalar(6.0), scalar(3.0)), Term("detection", scalar(10.0), scalar(20.0), 50.0)))
    assert float(loss.mean()) == 6 / 3 + 50 * 10 / 20


def test_parts_with_global_counts_add_up_and_parts_with_their_own_do_not():
    """Why sum and count stay apart: parts of unequal size."""
    parts = [Loss((Term("x", scalar(6.0), scalar(3.0)),)), Loss((Term("x", scalar(1.0), scalar(1.0)),))]
    counts = torch.tensor([4.0], dtype=torch.float64)
    assert float(sum(part.mean(counts) for part in parts)) == 7 / 4
    assert float(sum(part.mean() for part in parts)) / 2 != 7 / 4
