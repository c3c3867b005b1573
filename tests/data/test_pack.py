"""Packing loses nothing but the tail, never pads, and knows where documents end."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.documents import positions
from remask.core.errors import BadData, BadInput
from remask.data.pack import Rows, pack
from remask.data.tokenizers import Encoded

laws = settings(deadline=None, database=None, max_examples=100)
END = 2
tokens = st.lists(st.tuples(st.integers(3, 99), st.integers(0, 9)), max_size=20)
documents = st.lists(tokens.map(lambda one: Encoded([a for a, _ in one], [b for _, b in one])), min_size=1, max_size=12)


def slow(encoded, length, end):
    """The same by hand, token by token."""
    flat = []
    number = 0
    for one in encoded:
        if one.ids:
            flat += [(a, b, number) for a, b in zip(one.ids, one.bytes, strict=True)]
            flat += [] if end is None else [(end, 0, number)]
            number += 1
    rows = [flat[start : start + length] for start in range(0, len(flat) - length + 1, length)]
    return (
        [[a for a, _, _ in row] for row in rows],
        [[n - row[0][2] for _, _, n in row] for row in rows],
        [sum(b for _, b, _ in row) for row in rows],
        len(flat),
    )


@laws
@given(documents, st.integers(1, 16), st.sampled_from([END, None]))
def test_pack_is_what_one_does_by_hand(encoded, length, end):
    ids, numbers, widths, total = slow(encoded, length, end)
    if not ids:
        with pytest.raises(BadData, match=f"the text has {total} tokens, shorter than one row of {length}; give more"):
            pack(encoded, length, end)
        return
    rows = pack(iter(encoded), length, end)
    assert rows.tokens.tolist() == ids
    assert rows.documents.tolist() == numbers
    assert rows.bytes.tolist() == widths
    assert {part.dtype for part in rows} == {torch.int64}
    assert total - rows.tokens.numel() < length


@laws
@given(documents, st.integers(1, 16))
def test_positions_restart_with_each_document(encoded, length):
    if sum(len(one.ids) + 1 for one in encoded if one.ids) < length:
        return
    rows = pack(encoded, length, END)
    found = positions(rows.documents)
    for row, numbers in zip(found.tolist(), rows.documents.tolist()):
        assert row == [k - numbers.index(number) for k, number in enumerate(numbers)]


def test_positions_after_every_end_are_zero():
    rows = pack([Encoded([5, 6, 7], [1, 1, 1]), Encoded([8], [1]), Encoded([9] * 5, [1] * 5)], 4, END)
    assert rows.tokens.tolist() == [[5, 6, 7, 2], [8, 2, 9, 9], [9, 9, 9, 2]]
    assert rows.documents.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert positions(rows.documents).tolist() == [[0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 2, 3]]
    assert rows.bytes.tolist() == [3, 3, 3]


def test_select_takes_all_three_along():
    rows = Rows(torch.arange(12).view(4, 3), torch.zeros(4, 3, dtype=torch.long), torch.arange(4))
    for index in ([2, 0, 2], torch.tensor([2, 0, 2])):
        picked = rows.select(index)
        assert picked.tokens[:, 0].tolist() == [6, 0, 6] and picked.bytes.tolist() == [2, 0, 2]
        assert picked.documents.shape == (3, 3)
    assert rows.select(torch.tensor([True, False, False, True])).bytes.tolist() == [0, 3]
    assert rows.select(slice(1, 3)).bytes.tolist() == [1, 2]
    assert rows.select([]).tokens.shape == (0, 3)


def test_too_short_says_which_text_and_what_to_type():
    with pytest.raises(BadData, match=r"the validation text has 3 tokens, .* smaller --length"):
        pack([Encoded([5, 6], [1, 1])], 4, END, "the validation text")
    with pytest.raises(BadData, match=r"has 0 tokens"):
        pack([], 4, END)
    with pytest.raises(BadInput, match=r"--length 1 or more"):
        pack([Encoded([5, 6], [1, 1])], 0, END)


def test_three_million_tokens_take_about_a_second():
    encoded = [Encoded(list(range(1000)), [1] * 1000)] * 3000
    start = time.process_time()
    assert pack(encoded, 128, END).tokens.numel() > 3_000_000 - 128
    assert time.process_time() - start < 3
