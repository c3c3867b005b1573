"""Few-shot classification: label words against reading everything whole, calibration against its definition."""

import math

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.baselines import Cached
from remask.decoders.few_shot import Task, calibrated, classify, orders
from remask.decoders.hidden_state import HiddenState
from tests.decoders.test_hidden_state import END, causal, every_family, fingerprint
from tests.decoders.test_hidden_state_uses import trained
from tests.nets.tiny import text

EXAMPLES = [[5, 9, 11], [17, 6, 12], [8, 8, 8, 11]]
QUERIES = [[20, 21], [30], [40, 41, 42]]
LABELS = [[11], [12], [13, 14, 15], [13, 14, 16], [13, 9]]
TASK = Task(EXAMPLES, QUERIES, LABELS, blanks=[[50], [51, 52]], opening=[33])
ORDER = [2, 0, 1]


def by_reading(net, tokens, label):
    """log p of a label after tokens, each time read whole."""
    ids = torch.tensor([[END, *tokens, *label]])
    with torch.no_grad():
        law = net.law(net.model(input_ids=ids[:, :-1]).logits)[0]
    return sum(float(law[len(tokens) + k, token]) for k, token in enumerate(label))


@every_family
def test_labels_weigh_what_reading_the_whole_says(family):
    net = causal(family)
    found = classify(net, TASK, ORDER, Cached(chunk=4))
    prompt = [*TASK.opening, *EXAMPLES[2], *EXAMPLES[0], *EXAMPLES[1]]
    rows = [[by_reading(net, [*prompt, *query], label) for label in LABELS] for query in [*QUERIES, *TASK.blanks]]
    wanted = torch.tensor(rows, dtype=torch.float64).log_softmax(1)
    torch.testing.assert_close(found.plain, wanted[:3], rtol=0, atol=1e-5)
    leaning = wanted[3:].exp().mean(0)
    scaled = wanted[:3].exp() / leaning  # Zhao et al. 2021: W = diag(p)^-1, b = 0
    torch.testing.assert_close(found.calibrated.exp(), scaled / scaled.sum(1, keepdim=True), rtol=1e-4, atol=1e-7)


def test_at_rate_0_states_that_learn_answer_as_those_that_do_not():
    net = causal("gpt2", dtype=torch.float32)
    plain, learned = (classify(net, TASK, ORDER, reader) for reader in (Cached(chunk=4), HiddenState(lr=0.0, chunk=4)))
    assert torch.equal(plain.plain, learned.plain)
    assert torch.equal(plain.calibrated, learned.calibrated)


@every_family
def test_queries_share_one_memory_and_leave_it_alone(family):
    """Each query alone gets the answer that it gets among others, in whatever order."""
    net, reader = causal(family), HiddenState(lr=0.1, chunk=4)
    before = fingerprint(net)
    together = classify(net, TASK, ORDER, reader).plain
    for number, query in enumerate(QUERIES):
        alone = classify(net, TASK._replace(queries=[query]), ORDER, reader).plain
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-6)
    backwards = classify(net, TASK._replace(queries=QUERIES[::-1]), ORDER, reader).plain
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=1e-6)
    assert not torch.allclose(together, classify(net, TASK, ORDER, Cached(chunk=4)).plain, atol=1e-4)
    assert fingerprint(net) == before


def test_many_queries_are_read_in_parts(monkeypatch):
    net = causal("llama")
    whole = classify(net, TASK, ORDER, Cached(chunk=4)).plain
    monkeypatch.setattr("remask.decoders.few_shot.TOGETHER", 2)
    torch.testing.assert_close(classify(net, TASK, ORDER, Cached(chunk=4)).plain, whole, rtol=0, atol=1e-9)


def test_prompts_longer_than_the_window_and_no_prompt_at_all():
    for family in ("gpt2", "llama", "bloom"):
        net = causal(family)
        long = [row.tolist() for row in text(6, 15)]
        for reader in (HiddenState(lr=0.1, chunk=5, cache=20), HiddenState(lr=0.1, chunk=5), Cached(chunk=5)):
            found = classify(net, TASK._replace(examples=long), range(6), reader)
            torch.testing.assert_close(found.plain.exp().sum(1), torch.ones(3, dtype=torch.float64))
            nothing = classify(net, Task([], QUERIES, LABELS), [], reader)
            assert nothing.calibrated is None
            rows = [[by_reading(net, query, label) for label in LABELS] for query in QUERIES]
            wanted = torch.tensor(rows, dtype=torch.float64).log_softmax(1)
            torch.testing.assert_close(nothing.plain, wanted, rtol=0, atol=1e-5)


def test_calibration_takes_a_leaning_out_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    fair = torch.randn(5, 4, generator=generator, dtype=torch.float64).log_softmax(1)
    leaning = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log()
    torch.testing.assert_close(calibrated((fair + leaning).log_softmax(1), leaning[None]), fair)
    even = torch.full((2, 4), -math.log(4), dtype=torch.float64)
    torch.testing.assert_close(calibrated(fair, even), fair)
    blanks = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64).log()  # the mean of p, not of log p
    found = calibrated(torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(), blanks).exp()
    torch.testing.assert_close(found[0], torch.tensor([0.4, 0.6], dtype=torch.float64))


def test_orders_differ_and_are_all_there():
    stream = Stream.of(0, 1)
    assert (
        sorted(orders(3, 100, stream))
        == sorted(orders(3, 6, stream))
        == sorted(map(list, {*map(tuple, orders(3, 6, stream))}))
    )
    for examples, count in ((4, 20), (16, 20), (1, 5), (0, 5)):
        found = list(orders(examples, count, stream))
        assert len({*map(tuple, found)}) == len(found) == min(count, math.factorial(examples))
        assert all(sorted(order) == list(range(examples)) for order in found)
        assert found == list(orders(examples, count, stream))
    assert list(orders(16, 5, stream)) == list(orders(16, 20, stream))[:5]
    assert list(orders(16, 5, stream)) != list(orders(16, 5, Stream.of(1, 1)))


def test_orders_are_fair():
    """Each of 24 orders comes first about as often: chi-square of 23 degrees, 60 being beyond 4 in 100,000."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1200):
        (order,) = orders(4, 1, Stream.of(seed, 1))
        counts[tuple(order)] = counts.get(tuple(order), 0) + 1
    assert len(counts) == 24
    assert sum((count - 50) ** 2 / 50 for count in counts.values()) < 60


@pytest.mark.slow
def test_examples_that_are_learned_from_answer_better_on_average():
    """A toy with a certain outcome: the prompt's label word is one that training never favoured.

    Uniform tokens were trained on; every example says symbol 7 after symbol 1, so the answer to be is 7 and not 3.
    """
    symbols = 8
    net = trained(lambda generator: torch.randint(symbols, (16, 32), generator=generator), symbols)
    examples = [[k % 3 + 4, 1, 7] for k in range(8)]
    task = Task(examples, [[4, 1], [5, 1], [6, 1]], [[3], [7]])
    answers = {
        name: torch.stack([classify(net, task, order, reader).plain[:, 1] for order in orders(8, 6, Stream.of(0, 1))])
        for name, reader in (("plain", Cached(chunk=6)), ("learned", HiddenState(lr=0.5, chunk=6, steps=3)))
    }
    assert float(answers["learned"].mean()) > float(answers["plain"].mean()) + 0.2
    assert float(answers["learned"].exp().mean()) > 0.65


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (TASK._replace(labels=[]), "empty"),
        (TASK._replace(labels=[[11], []]), "empty"),
        (TASK._replace(queries=[[5], []]), "empty"),
        (TASK._replace(blanks=[[]]), "empty"),
        (TASK._replace(queries=[[5] * 37]), "reads 40"),
    ],
)
def test_tasks_that_cannot_be_answered(task, words):
    with pytest.raises(BadInput, match=words):
        classify(causal("gpt2"), task, ORDER, Cached(chunk=4))
