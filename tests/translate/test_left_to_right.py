"""Greedy decoding and the beam: transformers' own, exhaustive search where it is possible, and no work for nothing."""

from functools import cache
from itertools import product

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.nets.t5 import T5Net
from remask.translate import left_to_right
from remask.translate.left_to_right import Finished, beam, greedy
from tests.translate.causal import ALPHABET, TINY, Chain, model, net, sources, theirs, tiny
from tests.translate.nets import parallel

LONGEST = 12
WIDE = 4 * 3**3  # more than there are texts to go on with


def forced(reader, source, attend, text, alphabet, longest, row):
    """Log p of one text, all cells at once: what the training objective says."""
    cells = [*text, alphabet.end][:longest]
    with torch.no_grad():
        reading = reader.read(source[[row]], attend[[row]])
        before = torch.tensor([[reader.start, *cells[:-1]]])
        log_prob = reading.log_probs(reading.hidden(before)[0], alphabet.mask)
    return float(log_prob.gather(1, torch.tensor(cells)[:, None]).double().sum())


def same_as_generate(reader, rows, seed=0):
    source, attend = sources(rows, 9, seed=seed)
    return greedy(reader, source, attend, ALPHABET, LONGEST).tokens == theirs(reader.model, source, attend, LONGEST)[0]


# greedy


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("seed", [0, 2, 4, 5])
def test_greedy_is_what_transformers_writes(seed, rows):
    assert same_as_generate(net(seed), rows, seed)


def test_the_texts_that_are_compared_are_not_all_alike():
    found = [greedy(net(seed), *sources(16, 9, seed=seed), ALPHABET, LONGEST) for seed in (0, 2, 4, 5)]
    lengths = torch.cat([outcome.length for outcome in found])
    assert lengths.unique().numel() >= 8
    assert len({tuple(row) for outcome in found for row in outcome.tokens}) > 45
    assert len({token for outcome in found for row in outcome.tokens for token in row}) > 20


class Forgetful(T5Net):
    """The planted bug: a step believes that it stands at the first cell, whatever it has written."""

    def _bias(self, stack, queries, keys, *, two_ways):
        return super()._bias(stack, keys, keys, two_ways=two_ways)[:, :, :queries]


def test_a_cache_that_forgets_where_it_stands_is_caught():
    assert not same_as_generate(Forgetful(model(seed=0)), 16)


@pytest.mark.parametrize("decode", [greedy, lambda *given: beam(*given, width=3)], ids=["greedy", "beam"])
def test_log_p_is_that_of_the_training_objective_and_padding_changes_nothing(decode):
    reader, (source, attend) = net(5), sources(6, 9, seed=5)
    together = decode(reader, source, attend, ALPHABET, LONGEST)
    assert together.log_prob.dtype == torch.float64
    assert together.length.tolist() == [len(row) for row in together.tokens]
    for row, text in enumerate(together.tokens):
        whole = forced(reader, source, attend, text, ALPHABET, LONGEST, row)
        assert float(together.log_prob[row]) == pytest.approx(whole, abs=1e-4)
        cells = int(attend[row].sum())
        alone = decode(reader, source[[row], :cells], attend[[row], :cells], ALPHABET, LONGEST)
        assert alone.tokens == [text]
        assert float(alone.log_prob) == pytest.approx(whole, abs=1e-4)
        assert int(alone.calls) == int(together.calls[row])


# the beam


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize(("seed", "width"), [(0, 2), (5, 5)])
def test_the_beam_finds_what_transformers_finds_without_early_stopping(seed, width, penalty):
    source, attend = sources(8, 9, seed=seed)
    ours = beam(net(seed), source, attend, ALPHABET, LONGEST, width, penalty)
    how = {"num_beams": width, "length_penalty": penalty, "early_stopping": "never"}
    texts, found = theirs(net(seed).model, source, attend, LONGEST, **how)
    assert ours.tokens == texts
    score = ours.log_prob / (ours.length + 1).clamp(max=LONGEST) ** penalty
    assert torch.allclose(score.float(), found.sequences_scores, rtol=1e-5, atol=1e-6)


@cache
def enumerated(seed, longest=4):
    """Log p of every text that there is, for each of 3 sources: one row of cells a text, padded with ends."""
    reader, (source, attend) = tiny(seed), sources(3, 5, TINY, seed)
    texts = [text for size in range(longest + 1) for text in product((3, 4, 5), repeat=size)]
    cells = torch.tensor([[*text, *[TINY.end] * (longest + 1 - len(text))] for text in texts])
    before = torch.cat([torch.full((len(texts), 1), reader.start), cells[:, : longest - 1]], 1)
    index = torch.arange(3).repeat_interleave(len(texts))
    with torch.no_grad():
        reading = reader.read(source, attend).rows(index)
        log_prob = reading.log_probs(reading.hidden(before.repeat(3, 1)).flatten(0, 1), TINY.mask)
    log_prob = log_prob.view(3, *before.shape, -1).gather(3, cells[None, :, :longest, None].expand(3, -1, -1, -1))
    written = torch.tensor([min(len(text) + 1, longest) for text in texts])
    total = torch.where(torch.arange(longest) < written[:, None], log_prob[..., 0], 0.0).sum(2)
    return reader, source, attend, texts, written, total


def exhausted(seed, penalty, longest=4):
    """Whether the beam that is wide enough finds the best text of all, for 3 sources; and the length of that text."""
    reader, source, attend, texts, written, total = enumerated(seed, longest)
    found = beam(reader, source, attend, TINY, longest, WIDE, penalty)
    best = (total / written**penalty).argmax(1).tolist()
    for row, index in enumerate(best):
        same = abs(float(found.log_prob[row] - total[row, index])) < 1e-9
        yield same and tuple(found.tokens[row]) == texts[index], len(texts[index])


def test_all_texts_are_enumerated():
    """Their probabilities, with those of texts that hold a pad, are one; alone they are less."""
    *_, texts, _, total = enumerated(0)
    assert len(texts) == len(set(texts)) == 1 + 3 + 9 + 27 + 81
    assert ((total.exp().sum(1) > 0.2) & (total.exp().sum(1) < 1)).all()


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_a_beam_as_wide_as_all_prefixes_finds_the_best_text_of_all(penalty):
    assert all(right for seed in range(4) for right, _ in exhausted(seed, penalty))


def test_the_best_texts_are_not_all_alike():
    lengths = [length for penalty in (0.0, 1.0) for seed in range(4) for _, length in exhausted(seed, penalty)]
    assert len(set(lengths)) >= 3


def test_finished_scores_that_are_not_divided_are_caught(monkeypatch):
    class Undivided(Finished):
        def take(self, rows, hypotheses, ended, divisor):
            del divisor
            super().take(rows, hypotheses, ended, 1.0)

    monkeypatch.setattr(left_to_right, "Finished", Undivided)
    assert not all(right for seed in range(4) for right, _ in exhausted(seed, 1.0))


def test_a_beam_of_one_that_ranks_by_log_p_is_greedy():
    source, attend = sources(16, 9, seed=2)
    one, other = (
        beam(net(2), source, attend, ALPHABET, LONGEST, 1, 0.0),
        greedy(net(2), source, attend, ALPHABET, LONGEST),
    )
    assert one.tokens == other.tokens
    assert one.calls.tolist() == other.calls.tolist()
    assert torch.allclose(one.log_prob, other.log_prob, atol=1e-5)


# a law that can be read: from token to token by a table, beginning with the source's first


def by_table(table, decode, firsts=(3,), longest=6, *how):
    source = torch.tensor([[first, TINY.end] for first in firsts])
    return decode(Chain(table), source, torch.ones_like(source, dtype=torch.bool), TINY, longest, *how)


def test_greedy_walks_up_the_garden_path_and_a_beam_of_two_does_not():
    """p(4) = 0.6 and then nothing is likely; p(5) = 0.4 and then the end is certain, nearly."""
    table = {3: {4: 0.6, 5: 0.4}, 4: {4: 0.3, 5: 0.35, 2: 0.35}, 5: {2: 0.9, 4: 0.1}}
    assert by_table(table, greedy).tokens[0][0] == 4
    found = by_table(table, beam, (3, 3), 6, 2, 0.0)
    assert found.tokens == [[5], [5]]
    assert found.log_prob.exp().tolist() == pytest.approx([0.36, 0.36])
    assert found.calls.tolist() == [2, 2]  # 0.6 * 0.35 can no longer win


def test_the_penalty_decides_between_short_and_long():
    """The end at once has p = 0.5, more than any other text; six tokens have 0.5 * 0.8^5, and more a token."""
    table = {3: {2: 0.5, 4: 0.5}, 4: {4: 0.8, 2: 0.2}}
    assert by_table(table, beam, (3,), 6, 3, 0.0).tokens == [[]]
    found = by_table(table, beam, (3,), 6, 3, 1.0)
    assert found.tokens == [[4] * 6]
    assert float(found.log_prob.exp()) == pytest.approx(0.5 * 0.8**5)
    assert found.calls.tolist() == [6]


def test_a_negative_penalty_hopes_for_the_next_token():
    """1 * log 0.1 < 2 * log 0.81, though not 30 * log 0.9 > 1 * log 0.1: the next token may end it."""
    found = by_table({3: {4: 0.9, 2: 0.1}, 4: {2: 0.9, 5: 0.1}}, beam, (3,), 30, 2, -1.0)
    assert found.tokens == [[4]]


def test_a_source_that_leaves_as_the_beam_opens_takes_its_memory_with_it():
    """Two sources with one hypothesis each, then one source with two: as many rows, and other ones."""
    table = {3: {2: 1.0}, 5: {4: 0.5, 5: 0.4, 2: 0.1}, 4: {2: 0.9, 5: 0.1}}
    found = by_table(table, beam, (3, 5), 6, 2, 0.0)
    assert found.tokens == [[], [4]]
    assert found.calls.tolist() == [1, 2]


def test_special_ids_are_never_written_however_likely():
    """The mask has no probability, as in training; the pad keeps its own and is not written."""
    loud = {0: 0.5, 1: 0.25, 4: 0.15, 2: 0.1}
    for decode, how in ((greedy, ()), (beam, (2,))):
        outcome = by_table({3: loud, 4: loud}, decode, (3, 3), 3, *how)
        assert outcome.tokens == [[4] * 3] * 2
        assert outcome.log_prob.exp().tolist() == pytest.approx([(0.15 / 0.75) ** 3] * 2)


# no work for nothing


@pytest.mark.parametrize("width", [None, 3])
def test_who_is_done_leaves_the_batch(width):
    reader, (source, attend), rows = net(5), sources(16, 9, seed=5), []
    query = reader.model.decoder.block[0].layer[0].SelfAttention.q
    hook = query.register_forward_hook(lambda module, given, out: rows.append(tuple(out.shape[:2])))
    try:
        if width is None:
            calls = greedy(reader, source, attend, ALPHABET, LONGEST).calls
        else:
            calls = beam(reader, source, attend, ALPHABET, LONGEST, width, 0.0).calls
    finally:
        hook.remove()
    alive = [int((calls > step).sum()) for step in range(int(calls.max()))]
    assert rows == [(n * (1 if width is None or step == 0 else width), 1) for step, n in enumerate(alive)]
    assert len(set(alive)) > 3


def test_the_beam_goes_on_only_while_something_can_still_win():
    """Each outcome stands when twice as many tokens are allowed, if ranked by log p: nothing was left that could."""
    source, attend = sources(16, 9, seed=5)
    short, long = (beam(net(5), source, attend, ALPHABET, longest, 3, 0.0) for longest in (LONGEST, 2 * LONGEST))
    early = short.calls < LONGEST
    assert early.any()
    assert [a == b for a, b, e in zip(short.tokens, long.tokens, early.tolist()) if e] == [True] * int(early.sum())
    assert torch.equal(short.calls[early], long.calls[early])


class Patient(Finished):
    """Never says what it has, so that every source is written to the end: the beam without its bound."""

    def __init__(self, *given):
        super().__init__(*given)
        self.best = self.score.clone()

    def take(self, *given):
        self.score = self.best
        super().take(*given)
        self.score = torch.full_like(self.best, -torch.inf)


@pytest.mark.parametrize(
    ("longest", "penalty", "most"),
    [(12, 1.0, 0.97), (12, 0.6, 0.82), (12, 0.0, 0.55), (12, -1.0, 0.45), (24, 1.0, 0.95)],
)
def test_the_bound_changes_no_winner_and_saves_calls(monkeypatch, longest, penalty, most):
    """most: the share of all calls that is left."""
    given = [(seed, width) for seed in range(4) for width in (2, 4)]

    def written():
        return [beam(tiny(s), *sources(6, 9, TINY, s), TINY, longest, width, penalty) for s, width in given]

    found = written()
    monkeypatch.setattr(left_to_right, "Finished", Patient)
    whole = written()
    assert [one.tokens for one in found] == [one.tokens for one in whole]
    assert all(torch.allclose(one.log_prob, other.log_prob) for one, other in zip(found, whole))
    assert torch.cat([one.length for one in found]).unique().numel() >= 8
    calls, all_calls = (torch.cat([one.calls for one in some]) for some in (found, whole))
    assert (all_calls == longest).all()
    assert calls.double().mean() < most * longest


def test_no_bound_could_be_tighter():
    """The end at once has p = 0.9; whatever goes on costs log 0.1 and then nothing: as 22 tokens it wins, as 21 not."""
    table = {3: {2: 0.9, 4: 0.1}, 4: {4: 1.0}}
    short, long = (by_table(table, beam, (3,), longest, 2, 1.0) for longest in (21, 22))
    assert (short.tokens, short.calls.tolist()) == ([[]], [1])
    assert (long.tokens, long.calls.tolist()) == ([[4] * 22], [22])


def test_dropout_rests_and_wakes_again():
    reader, (source, attend) = T5Net(model(seed=5)), sources(4, 9, seed=5)
    before = greedy(reader, source, attend, ALPHABET, LONGEST).tokens
    reader.train()
    assert greedy(reader, source, attend, ALPHABET, LONGEST).tokens == before
    assert beam(reader, source, attend, ALPHABET, LONGEST, 1, 0.0).tokens == before
    assert reader.training
    assert reader.model.decoder.dropout.training


def test_what_cannot_be_decoded():
    source, attend = sources(2, 5)
    with pytest.raises(BadInput, match="writes in parallel"):
        greedy(parallel(), source, attend, ALPHABET, 5)
    with pytest.raises(BadInput, match="end token"):
        beam(net(), source, attend, Alphabet(30, mask=1, pad=0), 5, 2)
    with pytest.raises(BadInput, match="at most 0 tokens"):
        greedy(net(), source, attend, ALPHABET, 0)
    with pytest.raises(BadInput, match="width 0"):
        beam(net(), source, attend, ALPHABET, 5, 0)
    with pytest.raises(BadInput, match="length penalty nan"):
        beam(net(), source, attend, ALPHABET, 5, 2, float("nan"))


def test_no_sources_no_texts():
    source, attend = sources(2, 5)
    for outcome in (
        greedy(net(), source[:0], attend[:0], ALPHABET, 5),
        beam(net(), source[:0], attend[:0], ALPHABET, 5, 2),
    ):
        assert outcome.tokens == []
        assert outcome.calls.tolist() == []
