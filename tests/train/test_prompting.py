"""Prompts of examples: how they are spelled, which are drawn, and in what order."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remask.core.errors import BadData, BadInput
from remask.data.tokenizers import byte_tokenizer
from remask.decoders.few_shot import Answers
from remask.train.prompting import BLANKS, Template, accuracy, drawn, over_draws, put


@pytest.mark.parametrize("pattern", ["Text: {text}\nLabel: {label}\n", "{text}={label}", "a {text} b {label} c"])
def test_a_query_and_its_answer_are_the_example(pattern):
    template = Template(pattern)
    after = pattern.split("{label}")[1]
    assert template.query("it rains") + template.answer("weather") + after == template.example("it rains", "weather")
    assert template.example("{label} {text}", "x").count("{label} {text}") == 1  # a text may hold braces


@pytest.mark.parametrize("pattern", ["{text}", "{label} {text}", "{text} {text} {label}", ""])
def test_a_template_that_is_none(pattern):
    with pytest.raises(BadInput, match="a template came as"):
        Template(pattern)


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 50))
def test_examples_are_balanced_and_one_seed_draws_them_again(classes, shots, seed):
    labels = [n % classes for n in range(classes * 12)]
    found = drawn(labels, classes, shots, [seed, shots])
    assert found == drawn(labels, classes, shots, [seed, shots])
    assert len({*found}) == len(found) == shots
    counts = [Counter(labels[k] for k in found)[n] for n in range(classes)]
    assert max(counts) - min(counts) <= 1


def test_orders_differ_and_every_class_can_be_the_one_that_is_short():
    labels = [0, 1, 2] * 4
    draws = [drawn(labels, 3, 4, [n]) for n in range(60)]
    assert len({tuple(one) for one in draws}) > 50
    twice = Counter(Counter(labels[k] for k in one).most_common(1)[0][0] for one in draws)
    assert min(twice.values()) > 8
    with pytest.raises(BadData, match="4 examples of a class were to be drawn, and it has 3"):
        drawn([0, 1, 1, 1] * 3, 2, 8, [0])


def test_a_task_is_what_was_typed():
    tokenizer = byte_tokenizer()
    task = put(tokenizer, Template("{text} is {label}. "), ["up", "down"], [("a", 1), ("b", 0)], ["c", "d"])
    assert [tokenizer.decode(one) for one in task.examples] == ["a is down. ", "b is up. "]
    assert [tokenizer.decode(one) for one in task.queries] == ["c is", "d is"]
    assert [tokenizer.decode(one) for one in task.labels] == [" up", " down"]
    assert [tokenizer.decode(one) for one in task.blanks] == [f"{blank} is" for blank in BLANKS]


def test_accuracy_and_its_error():
    log_prob = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]).log()
    assert accuracy(Answers(log_prob, None), [0, 1, 1]) == {"plain": pytest.approx(2 / 3)}
    assert accuracy(Answers(log_prob, log_prob.flip(1)), [0, 1, 1])["calibrated"] == pytest.approx(1 / 3)
    found = over_draws([0.5, 0.7, 0.9])
    assert (found.value, found.stderr, found.n) == (pytest.approx(0.7), pytest.approx(0.2 / 3**0.5), 3)
