"""Canvases: prompting, infilling and continuation are ways to lay one out."""

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas, blank, infill, prompted
from remask.core.errors import BadInput

ALPHABET = Alphabet(size=6, mask=2)


def test_blank_is_all_masks_and_all_unknown():
    canvas = blank(3, 5, ALPHABET)
    assert canvas.tokens.shape == (3, 5)
    assert (canvas.tokens == 2).all()
    assert canvas.unknown.all()


def test_infill_opens_exactly_the_masks():
    tokens = torch.tensor([[0, 2, 5], [2, 2, 1]])
    canvas = infill(tokens, ALPHABET)
    assert canvas.unknown.tolist() == [[False, True, False], [True, True, False]]
    assert torch.equal(canvas.frozen, ~canvas.unknown)


def test_prompted_gives_the_prompt_and_opens_the_rest():
    canvas = prompted([5, 2, 1], 2, 6, ALPHABET)
    assert canvas.tokens.tolist() == [[5, 2, 1, 2, 2, 2]] * 2
    assert canvas.frozen.tolist() == [[True, False, True, False, False, False]] * 2
    assert prompted([], 1, 2, ALPHABET).unknown.all()
    assert prompted([1, 1], 1, 2, ALPHABET).frozen.all()


def test_a_prompt_that_does_not_fit_says_what_to_type():
    with pytest.raises(BadInput, match=r"4 tokens but the canvas only 3.*--length 4"):
        prompted([1, 1, 1, 1], 1, 3, ALPHABET)


def test_rows_keeps_and_repeats():
    canvas = Canvas(torch.arange(6).view(3, 2), torch.tensor([[True, False]] * 3))
    picked = canvas.rows(torch.tensor([2, 0, 2]))
    assert picked.tokens.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert picked.frozen.shape == (3, 2)
