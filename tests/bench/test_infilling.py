"""Infilling on a law that is known: nets that are the law itself reach its posterior, and one side is worth less."""

from types import SimpleNamespace

import pytest
import torch

from remask.bench.infilling import HELD_OUT, Case, chain, infilling
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.lab.language import Language
from remask.nets.causal import CausalNet
from tests.nets.test_causal import END, START, model
from tests.nets.tiny import ALPHABET, text

SMALL = Language(seed=1, words=8, topics=2, classes=4, readings=2)
CPU = torch.device("cpu")


class Known:
    """A checkpoint whose net is the law."""

    def __init__(self, law):
        self.alphabet, self.net, self.law = law.alphabet, None, law

    def conditional(self):
        return self.law


def case(rows, begin, span):
    return Case(rows, begin, span, 0, CPU)


@pytest.mark.parametrize("block", [None, 3])
def test_the_chain_rule_in_any_order_is_the_posterior(block):
    """The conditionals are those of one law, so every order says the same."""
    rows = SMALL.sample(5, 12, 3)
    middle = case(rows, 4, 5)
    told = chain(SMALL, rows, middle, Stream.of(0, 5), block)
    hidden = middle.hidden(rows, SMALL.alphabet.mask)
    torch.testing.assert_close(told, SMALL.log_prob(hidden) - SMALL.log_prob(rows), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(told, SMALL.log_prob(rows).neg())


def test_blocks_are_filled_one_after_the_other():
    """What lies in later blocks is masked whenever a cell is asked about."""
    seen = []

    def spy(tokens, at):
        seen.append((tokens == SMALL.alphabet.mask, at))
        return SMALL(tokens, at)

    spy.alphabet = SMALL.alphabet
    rows = SMALL.sample(6, 12, 3)
    chain(spy, rows, case(rows, 1, 10), Stream.of(0, 6), 4)
    asked = torch.stack([at for _, at in seen]).float().argmax(0)  # the step at which a cell is opened
    for masked, at in seen:
        cell = at.float().argmax(1)
        for row in range(6):
            assert masked[row, cell[row]]
            assert masked[row, (int(cell[row]) // 4 + 1) * 4 : 11].all()
    assert len({tuple(row) for row in asked[:, 1:11].tolist()}) > 1


def test_the_baseline_is_told_what_is_before_and_weighed_by_its_law():
    """-log p of the middle is that of prefix and middle minus that of the prefix, by the model token for token."""
    from remask.bench.infilling import _left

    net = model("gpt2")
    rows = text(3, 9, seed=4)
    told = _left(net, rows, case(rows, 3, 4))
    for row, value in zip(rows.tolist(), told.tolist()):
        state, total = net.begin(row[:3]), 0.0
        for token in row[3:7]:
            total -= float(state.log_prob[0, token])
            state = net.extend(state, torch.tensor([token]))
        assert value == pytest.approx(total, abs=1e-9)


def field(law):
    """The law in the place of a masked net, and a left-to-right net that knows nothing of it."""
    net = model("gpt2")
    causal = CausalNet(net.model, END, START, [], len(law.tables.emission.T) + 2)
    models = {"law": Known(law)}
    return SimpleNamespace(models=models, baseline=SimpleNamespace(model=causal), causal=causal, name="ar", device=CPU)


def test_a_net_that_is_the_law_reaches_the_ceiling_and_sees_more_than_one_side():
    found = list(infilling(field(SMALL), 12, [3], texts=60, truth=SMALL))
    by = {(row["arm"], row["sees"], row["how"]): row for row in found}
    assert all(row["kind"] == row["sampler"] == "infill" and row["rows"] == 60 for row in found)
    mine, ceiling = by["law", "both sides", "drawn"], by["the law itself", "both sides", "drawn"]
    assert {name: mine[name] for name in ("nats", "exact_match", "token_match", "calls")} == pytest.approx(
        {name: ceiling[name] for name in ("nats", "exact_match", "token_match", "calls")}, abs=1e-6
    )
    surest, before = (by["the law itself", sees, "surest first"] for sees in ("both sides", "what is before"))
    assert surest["token_match"] > before["token_match"]
    assert surest["token_match"] > ceiling["token_match"]
    assert before["nats"] > surest["nats"] + surest["nats_stderr"]
    assert (by["law", "both sides", "four a call"]["calls"], by["law", "both sides", "all at once"]["calls"]) == (1, 1)
    stranger = by["ar left to right", "what is before", "drawn"]
    assert stranger["nats"] > before["nats"] + 4 * stranger["nats_stderr"]
    assert stranger["calls"] == 3


def test_texts_are_fresh_and_rows_with_special_tokens_in_the_span_are_left_out():
    rows = text(5, 9, seed=1)
    rows[1, 4] = ALPHABET.end
    rows[2, 0] = ALPHABET.end
    seen = SimpleNamespace(alphabet=ALPHABET, net=None, conditional=lambda: _uniform)
    net = model("gpt2")
    place = SimpleNamespace(models={"u": seen}, baseline=SimpleNamespace(model=net), causal=net, name="ar", device=CPU)
    found = list(infilling(place, 9, [2], texts=50, rows=rows))
    assert {row["rows"] for row in found} == {4}
    assert found[0]["nats"] == pytest.approx(4.0430513)  # log 57
    assert not torch.equal(SMALL.sample(4, 8, HELD_OUT), SMALL.sample(4, 8, 0))


def _answer(tokens, at):
    law = torch.full((ALPHABET.size,), -4.04305126783455, dtype=torch.float64)
    law[sorted(ALPHABET.special)] = -torch.inf
    return law.expand(int(at.sum()), -1)


class _Uniform:
    alphabet = ALPHABET

    def __call__(self, tokens, at=None):
        return _answer(tokens, at)

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


_uniform = _Uniform()


def test_what_cannot_be_filled():
    with pytest.raises(BadInput, match="--data F with held-out text"):
        list(infilling(field(SMALL), 8, [2]))
    for span in (0, 7):
        with pytest.raises(BadInput, match=f"--spans came with {span} in rows of 8: type 1 to 6"):
            list(infilling(field(SMALL), 8, [span], truth=SMALL))
    rows = torch.full((4, 9), ALPHABET.end)
    place = SimpleNamespace(models={"u": SimpleNamespace(alphabet=ALPHABET)})
    with pytest.raises(BadInput, match="fewer than two held-out rows"):
        list(infilling(place, 9, [2], rows=rows))
