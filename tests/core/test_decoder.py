"""Decoder: what is put together of answers, laws that are spoken, and prompts and budgets that cannot be."""

import math

import pytest
import torch

from remask.core.decoder import Answer, Budget, Spoken, assemble, one_by_one
from remask.core.errors import BadInput
from remask.core.stream import Stream

END = 2
FLAT = [math.log(1 / 3)] * 3


def test_texts_come_back_out_of_a_canvas():
    prompts, texts = [(0, 1), (), (1,)], [[1, END], [END], [0, 1, 1]]
    canvas = assemble(prompts, texts, END)
    assert canvas.tokens.tolist() == [[0, 1, 1, END], [END, END, END, END], [1, 0, 1, 1]]
    assert canvas.frozen.tolist() == [[True, True, False, False], [False, True, True, True], [True, *[False] * 3]]
    answers = iter(Answer(text, -1.0, 3, gap=0.5) for text in texts)
    decoded = one_by_one(lambda *_: next(answers), Spoken(lambda _: FLAT, END), prompts, Stream.of(0, 3), Budget(5))
    assert decoded.texts(END) == [[1], [], [0, 1, 1]]
    assert decoded.log_prob.tolist() == [-1.0] * 3
    assert decoded.info.calls.tolist() == [3] * 3
    assert decoded.info.gap.tolist() == [0.5] * 3
    assert not decoded.info.certified.any()


def test_no_prompts_no_texts():
    decoded = one_by_one(lambda *_: Answer([], 0.0, 0), Spoken(lambda _: FLAT, END), [], Stream.of(0, 0), Budget(5))
    assert decoded.canvas.tokens.shape == (0, 0)
    assert decoded.texts(END) == []


def test_each_prompt_is_decoded_with_its_own_row_of_the_stream():
    seen = []

    def decode(prompt, stream):
        seen.append((prompt, stream.seeds.tolist()))
        return Answer([END], 0.0, 1)

    stream = Stream.of(7, 3)
    one_by_one(decode, Spoken(lambda _: FLAT, END), [(0,), (1,), (0,)], stream, Budget(5))
    assert seen == [((0,), [stream.seeds[0]]), ((1,), [stream.seeds[1]]), ((0,), [stream.seeds[2]])]


@pytest.mark.parametrize(
    ("prompt", "budget", "said"),
    [
        ((0,) * 4, Budget(5), "a prompt of 4 tokens came for a text of up to 5, and the model reads 8"),
        ((), Budget(0), "1 token and 1 node"),
        ((), Budget(3, 0), "1 token and 1 node"),
    ],
)
def test_what_cannot_be_decoded(prompt, budget, said):
    with pytest.raises(BadInput, match=said):
        one_by_one(lambda *_: Answer([END], 0.0, 1), Spoken(lambda _: FLAT, END, 8), [prompt], Stream.of(0, 1), budget)


def test_a_spoken_law_keeps_the_prefixes_it_has_read():
    """After each token the next one is certain: the prefix in its own digits."""
    model = Spoken(lambda prefix: [0.0 if k == sum(prefix) % 3 else -math.inf for k in range(3)], END)
    first = model.begin((1,))
    assert first.log_prob.tolist() == [[-math.inf, 0.0, -math.inf]]
    assert first.log_prob.dtype == torch.float64
    two = model.extend(model.rows(first, torch.tensor([0, 0])), torch.tensor([0, 1]))
    assert two.cache == [(1, 0), (1, 1)]
    assert two.log_prob.argmax(1).tolist() == [1, 2]
    assert model.rows(two, torch.tensor([1])).cache == [(1, 1)]
    assert first.cache == [(1,)]


def test_a_spoken_law_must_be_one():
    with pytest.raises(BadInput, match=r"after \(\) add up to 2"):
        Spoken(lambda prefix: [0.0, 0.0], 0)
    model = Spoken(lambda prefix: [0.0, -math.inf] if not prefix else [0.0, 0.0], 0)
    with pytest.raises(BadInput, match=r"after \(1,\) add up to 2"):
        model.begin((1,))
