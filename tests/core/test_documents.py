"""Documents within rows: where they begin, and positions that restart there."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.documents import positions, starts

laws = settings(deadline=None, database=None, max_examples=100)


def by_hand(row):
    first, place = [], []
    for i, document in enumerate(row):
        new = i == 0 or document != row[i - 1]
        first.append(new)
        place.append(0 if new else place[-1] + 1)
    return first, place


@laws
@given(
    st.integers(1, 20).flatmap(
        lambda n: st.lists(st.lists(st.integers(-1, 2), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_equals_a_loop(rows):
    documents = torch.tensor(rows)
    expected = [by_hand(row) for row in rows]
    assert starts(documents).tolist() == [first for first, _ in expected]
    assert positions(documents).tolist() == [place for _, place in expected]


def test_example():
    documents = torch.tensor([[4, 4, 4, 7, 7, 4]])
    assert starts(documents).tolist() == [[True, False, False, True, False, True]]
    assert positions(documents).tolist() == [[0, 1, 2, 0, 1, 0]]
