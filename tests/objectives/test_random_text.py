"""Random tokens: any text alike, nothing else, and the same numbers for a row wherever it stands."""

import torch

from remask.core.stream import Stream
from remask.objectives.random_text import random_tokens, text_ids
from tests.objectives.test_mlm import ALPHABET, SIZE, SPECIAL, TEXT, batch_of
from tests.oracle import surprise


def test_random_tokens_are_any_text_alike_and_nothing_else():
    tokens = random_tokens(batch_of(500), Stream.of(0, 500))
    law = torch.zeros(SIZE)
    law[TEXT] = 1
    assert abs(surprise(torch.bincount(tokens.flatten(), minlength=SIZE), law)) < 4
    planted = torch.bincount((tokens * 0.97).long().flatten(), minlength=SIZE)
    assert surprise(planted, law) > 10


def test_a_row_has_the_same_ones_in_any_batch():
    batch, stream = batch_of(20), Stream.of(1, 20)
    index = torch.tensor([4, 11])
    whole = random_tokens(batch, stream)
    assert torch.equal(random_tokens(batch.part(index), stream.rows(index)), whole[index])
    wider = random_tokens(batch_of(20, length=40), stream)
    assert torch.equal(wider[:, : whole.shape[1]], whole), "padding changes nothing"


def test_what_inference_asked_for_first_training_can_use():
    text_ids.cache_clear()
    with torch.inference_mode():
        assert text_ids(SIZE, SPECIAL).tolist() == TEXT.tolist()
    assert not text_ids(ALPHABET.size, ALPHABET.special).is_inference()
