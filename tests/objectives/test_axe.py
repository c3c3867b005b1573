"""AXE: what the net is shown, which cells meet which targets, and its loss against every path.

Shapes: B batch, S source length, L length, V ids, M longest target.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.objectives import axe
from remask.objectives.alignment import collapse
from remask.objectives.axe import AXE
from tests.objectives.test_alignment import brute_force, laws
from tests.oracle import LawNet, surprise

PAD, END, MASK, SIZE, LONGEST = 0, 7, 8, 9, 12
WORDS = range(1, 7)
ALPHABET = Alphabet(size=SIZE, mask=MASK, pad=PAD, end=END, special=frozenset({PAD, END, MASK}))
VARIANTS = [AXE(), AXE(2.0), AXE(1.0, 1.5), AXE(3.0, 2.0), AXE(2.0, 1.3), AXE(1.5, masking="uniform")]


class TableReading(LawNet):
    """Scores [B, cells, V] that were read off a table; a token that is shown moves the scores of all cells."""

    def __init__(self, scores, lengths):
        self.scores, self.lengths, self.attended = scores, lengths, []

    def hidden(self, tokens, *, positions=None, documents=None, attend=None, sees=None):
        self.attended.append((tokens, attend))
        shown = ((tokens * (tokens != MASK) * attend).double() + 1).log().sum(1)
        weight = torch.linspace(-0.5, 0.5, SIZE, dtype=torch.float64)
        return self.scores[:, : tokens.shape[1]] + shown[:, None, None] * weight

    def rows(self, index):
        return TableReading(self.scores[index], self.lengths[index])

    def length_log_prob(self):
        return self.lengths.log_softmax(1)


class TableNet(nn.Module):
    """An encoder-decoder that knows sources by their first token: a table of scores each, and one of lengths."""

    causal = False

    def __init__(self, seed=0, spread=2.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        self.scores = nn.Parameter(spread * torch.randn(SIZE, 2 * LONGEST, SIZE, **draw))
        self.lengths = nn.Parameter(torch.randn(SIZE, LONGEST, **draw))

    def read(self, source, attend):
        assert torch.equal(attend, source != PAD)
        self.reading = TableReading(self.scores[source[:, 0]], self.lengths[source[:, 0]])
        return self.reading


def padded(rows):
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


TARGETS = [[3, 1, 4], [1, 5], [2, 6, 5, 3], [5], [2, 3, 3, 6], [4, 4]]
SOURCES = [[6, 2], [3], [1, 1, 4], [5, 2], [2], [4, 6]]


def pairs(targets=TARGETS, sources=SOURCES):
    tokens, source = (padded([[*row, END] for row in rows]) for rows in (targets, sources))
    return Batch.of(tokens, ALPHABET, source=source)


def asked(objective, batch=None, seed=0):
    batch = pairs() if batch is None else batch
    stream = Stream.of(seed, len(batch.tokens))
    return objective.corrupt(batch, stream), stream


every = pytest.mark.parametrize("objective", VARIANTS, ids=str)


# ---- the question ----------------------------------------------------------------------------------------------------


def test_a_canvas_of_masks():
    question, _ = asked(AXE(), pairs(TARGETS[:2], SOURCES[:2]))
    assert question.tokens.tolist() == [[MASK, MASK, MASK, END], [MASK, MASK, END, PAD]]
    assert question.targets.tolist() == [[3, 1, 4, END], [1, 5, END, PAD]]
    assert question.at.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert question.counts.tolist() == [5, 2]
    assert question.source.tolist() == [[6, 2, END], [3, END, PAD]]


def test_a_canvas_with_room_for_blanks():
    question, _ = asked(AXE(length_factor=1.5), pairs(TARGETS[:2], SOURCES[:2]))
    assert question.tokens.tolist() == [[MASK] * 4 + [END], [MASK] * 3 + [END, PAD]]
    assert question.targets.tolist() == [[3, 1, 4, END, PAD], [1, 5, END, PAD, PAD]]
    assert question.at.sum(1).tolist() == [4, 3]
    assert question.weight.sum(1).tolist() == [3, 2]
    assert question.counts.tolist() == [5, 2]


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.25, 1.5, 2.0, 3.7])
def test_a_canvas_always_holds_its_target(factor):
    question, _ = asked(AXE(length_factor=factor))
    assert (question.at.sum(1) >= question.weight.sum(1)).all()
    assert (question.targets == END).sum(1).tolist() == [1] * len(TARGETS), "the target's end is still there"
    assert (question.tokens == END).sum(1).tolist() == [1] * len(TARGETS), "and that of the canvas"


@every
def test_a_part_is_asked_what_the_whole_is(objective):
    batch = pairs()
    whole, stream = asked(objective, batch)
    index = torch.tensor([4, 1, 3])
    part = objective.corrupt(batch.part(index), stream.rows(index))
    for name in ("tokens", "targets", "at", "weight", "documents", "source"):
        assert torch.equal(getattr(part, name), getattr(whole.part(index), name)), name


@pytest.mark.parametrize("objective", VARIANTS[:-1], ids=str)
def test_of_the_target_only_its_length_is_shown(objective):
    question, _ = asked(objective)
    other, _ = asked(objective, pairs([[1 + token % 6 for token in row] for row in TARGETS]))
    assert torch.equal(question.tokens, other.tokens)
    assert torch.equal(question.at, other.at)
    assert not torch.equal(question.targets, other.targets)


def test_what_is_masked_is_not_shown_and_the_rest_is():
    question, _ = asked(VARIANTS[-1], seed=3)
    text = torch.isin(question.targets, torch.tensor([*WORDS]))
    assert not question.at[~text].any()
    assert torch.equal(question.weight > 0, question.at)
    assert (question.tokens[question.at] == MASK).all()
    assert torch.equal(question.tokens[~question.at], question.targets[~question.at])
    assert 0 < int(question.at.sum()) < int(text.sum())
    assert question.counts.tolist() == [int(question.at.sum()), 6]


def test_the_number_of_masked_tokens_is_uniform():
    rows = 6000
    question, _ = asked(AXE(masking="uniform"), pairs([[1, 2, 3, 4, 5]] * rows, [[1]] * rows))
    counts = torch.bincount(question.at.sum(1), minlength=6)
    assert surprise(counts, torch.tensor([0.0, 1, 1, 1, 1, 1])) < 4
    three = question.at[question.at.sum(1) == 3][:, :5]
    kinds = (three.long() * 2 ** torch.arange(5)).sum(1).unique(return_counts=True)[1]
    assert surprise(kinds, torch.ones(10)) < 4


# ---- the loss --------------------------------------------------------------------------------------------------------


def by_hand(objective, net, question):
    """The total, row by row and path by path, of log-probabilities that are asked for one by one."""
    reading = net.read(question.source, question.source != PAD)
    scores = reading.hidden(question.tokens, attend=question.tokens != PAD)
    log_prob = scores.index_fill(2, torch.tensor([MASK]), -torch.inf).log_softmax(2)
    total = 0.0
    for b in range(len(scores)):
        cells = [j for j in range(scores.shape[1]) if question.tokens[b, j] == MASK]
        hidden = cells if objective.masking == "uniform" else range(int((question.targets[b] > 0).sum()) - 1)
        wanted = [int(question.targets[b, i]) for i in hidden]
        says = torch.stack([log_prob[b, cells, token] for token in wanted])
        total = total + brute_force(says, log_prob[b, cells, PAD], objective.skip_penalty)
    return total


def check_loss(objective, net=None):
    """Value and gradient of the first term, and its count."""
    net = TableNet(1) if net is None else net
    question, stream = asked(objective, seed=5)
    term = objective(net, question, stream).terms[0]
    truth = by_hand(objective, TableNet(1), question)
    assert term.name == "axe"
    torch.testing.assert_close(term.total, truth, rtol=0, atol=1e-10)
    assert term.count == question.weight.sum()
    right = TableNet(1)
    (wanted,) = torch.autograd.grad(by_hand(objective, right, question), right.scores)
    (found,) = torch.autograd.grad(term.total, net.scores)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@every
def test_the_loss_is_that_of_the_cheapest_paths(objective):
    check_loss(objective)


def test_the_law_holds_no_mask():
    """However much the net likes the mask, the loss is the same."""
    net = TableNet(1)
    net.scores.data[..., MASK] += 50
    check_loss(AXE(2.0, 1.5), net)


class Sideways(AXE):
    """Attention as wide as the target and not as the canvas."""

    def aligned(self, reading, question):
        tokens = question.tokens
        hidden, seen = reading.hidden, question.targets != PAD
        reading.hidden = lambda _, attend: hidden(tokens, attend=seen)
        return super().aligned(reading, question)


class EndForBlank(AXE):
    """A blank that is not the pad."""

    def aligned(self, reading, question):
        log_prob = reading.log_prob
        reading.log_prob = lambda hidden, ids, ban: log_prob(hidden, torch.where(ids == PAD, END, ids), ban)
        return super().aligned(reading, question)


class Unbanned(AXE):
    """The mask takes its share of the probability."""

    def aligned(self, reading, question):
        log_prob = reading.log_prob
        reading.log_prob = lambda hidden, ids, ban: log_prob(hidden, ids)
        return super().aligned(reading, question)


class Plain(AXE):
    """Cross-entropy: cell by cell."""

    def aligned(self, reading, question):
        found = super().aligned(reading, question)
        hidden = reading.hidden(question.tokens, attend=question.tokens != PAD)[question.at]
        total = reading.nll(hidden, question.targets[question.at], MASK).sum()
        return found._replace(loss=total[None])


@pytest.mark.parametrize("bug", [Sideways, EndForBlank, Unbanned, Plain])
def test_bugs_are_caught(bug):
    with pytest.raises(AssertionError):
        check_loss(bug(2.0, 1.5))


def test_attention_follows_the_canvas():
    for objective in (AXE(length_factor=1.5), AXE(length_factor=2.0)):
        question, stream = asked(objective)
        net = TableNet()
        objective(net, question, stream)
        (shown,) = net.reading.attended
        assert torch.equal(shown[0], question.tokens)
        assert torch.equal(shown[1], question.tokens != PAD)
        assert not torch.equal(shown[1], question.targets != PAD)


@every
def test_the_length_is_learnt_beside_it(objective):
    question, stream = asked(objective)
    net = TableNet(2)
    term = objective(net, question, stream).terms[1]
    true = [len(row) for row in TARGETS]
    first = [row[0] for row in SOURCES]
    wanted = -sum(net.lengths[s].log_softmax(0)[n - 1] for s, n in zip(first, true))
    assert term.name == "length"
    assert term.count == len(TARGETS)
    torch.testing.assert_close(term.total, wanted, rtol=0, atol=1e-6)


@every
def test_totals_of_parts_add_up(objective):
    question, stream = asked(objective)
    whole = objective(TableNet(), question, stream)
    parts = [question.part(torch.tensor(rows)) for rows in ([0, 5], [2], [1, 3, 4])]
    losses = [objective(TableNet(), part, stream) for part in parts]
    for k, term in enumerate(whole.terms):
        torch.testing.assert_close(sum(loss.terms[k].total for loss in losses), term.total, rtol=1e-12, atol=0)
        assert all(loss.terms[k].count == term.count for loss in losses)


def test_many_cells_are_asked_in_pieces(monkeypatch):
    monkeypatch.setattr(axe, "CELLS", 3)
    check_loss(AXE(2.0, 1.5))
    question, stream = asked(AXE(2.0, 1.5))
    with torch.no_grad():
        pieces = AXE(2.0, 1.5)(TableNet(), question, stream).terms[0].total
        monkeypatch.undo()
        torch.testing.assert_close(pieces, AXE(2.0, 1.5)(TableNet(), question, stream).terms[0].total)


def test_an_empty_target_learns_blanks():
    question, stream = asked(AXE(2.0), pairs([[], [1, 2]], [[3], [4]]))
    assert question.tokens.tolist() == [[MASK, END, PAD], [MASK, MASK, END]]
    net = TableNet()
    found = AXE(2.0).aligned(net.read(question.source, question.source != PAD), question)
    assert found.blank[0].tolist() == [True, False]
    uniform, _ = asked(AXE(masking="uniform"), pairs([[]], [[3]]))
    assert not uniform.at.any()
    assert AXE(masking="uniform")(net, uniform, stream).terms[0].total == 0


# ---- learning --------------------------------------------------------------------------------------------------------


def learnt(objective, start, steps=100):
    """A table trained from scores that prefer the ids `start` [S, cells], and what it then writes."""
    net = TableNet(spread=0.1)
    with torch.no_grad():
        for source, ids in start.items():
            net.scores[source, range(len(ids)), ids] += 3
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    question, stream = asked(objective)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(net, question, stream)
        loss.mean().backward()
        optimizer.step()
    reading = net.read(question.source, question.source != PAD)
    scores = reading.hidden(question.tokens, attend=question.tokens != PAD)
    said = scores.index_fill(2, torch.tensor([MASK]), -torch.inf).argmax(2)
    return loss, collapse(torch.where(question.at, said, question.tokens), ALPHABET), said


def test_what_is_learnt_is_the_target_between_blanks():
    """A net that begins one cell late stays late: the first cell falls silent, and the text is right."""
    late = {source[0]: [5 if row[0] != 5 else 6, *row] for row, source in zip(TARGETS, SOURCES) if len(row) > 1}
    loss, texts, said = learnt(AXE(length_factor=1.5), late)
    assert texts == TARGETS
    assert loss.terms[0].total / loss.terms[0].count < 0.05
    assert said[2, :5].tolist() == [PAD, *TARGETS[2]]


def test_without_room_for_blanks_the_target_is_learnt_too():
    loss, texts, _ = learnt(AXE(), {})
    assert texts == TARGETS
    assert loss.terms[0].total / loss.terms[0].count < 0.05


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_blanks_are_deleted_before_the_end():
    tokens = torch.tensor([[5, 0, 5, END, 0, 0], [0, 0, 0, 0, 0, END], [2, 3, 4, 5, 6, 1], [END, 2, 3, END, 0, 0]])
    assert collapse(tokens, ALPHABET) == [[5, 5], [], [2, 3, 4, 5, 6, 1], []]
    assert collapse(tokens, ALPHABET._replace(end=None))[3] == [END, 2, 3, END]
    assert collapse(tokens[:0], ALPHABET) == []


@laws
@given(st.lists(st.sampled_from(WORDS), max_size=6), st.data())
def test_blanks_anywhere_leave_the_text(text, data):
    """Repeated words stay: deletion of blanks is no merging."""
    gaps = data.draw(st.lists(st.integers(0, 2), min_size=len(text) + 2, max_size=len(text) + 2))
    row = [token for gap, word in zip(gaps, [*text, END]) for token in [*[PAD] * gap, word]]
    assert collapse(torch.tensor([row + [PAD] * gaps[-1]]), ALPHABET) == [text]


# ---- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"skip_penalty": 0.0}, "--skip-penalty"),
        ({"skip_penalty": float("inf")}, "--skip-penalty"),
        ({"skip_penalty": float("nan")}, "--skip-penalty"),
        ({"length_factor": -1.0}, "--length-factor"),
        ({"length_factor": 0.9}, "a canvas must hold its target, so type 1 or more"),
        ({"length_factor": float("inf")}, "--length-factor"),
        ({"length_factor": float("nan")}, "--length-factor"),
        ({"masking": "half"}, "--masking all|uniform"),
        ({"masking": "uniform", "length_factor": 1.1}, "--masking all"),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        AXE(**wrong)
    assert says in str(error.value)


def test_text_without_sources():
    with pytest.raises(BadInput, match="--pairs"):
        asked(AXE(), pairs()._replace(source=None))


@pytest.mark.parametrize("lacks", ["pad", "end"])
def test_an_alphabet_without_a_blank(lacks):
    with pytest.raises(BadInput, match="pad and an end"):
        asked(AXE(), pairs()._replace(alphabet=ALPHABET._replace(**{lacks: None})))


def test_what_it_declares():
    assert (AXE.pairs, AXE.causal, AXE.bounds, AXE.writes) == (True, False, False, True)
    assert AXE.law == "aligned cross-entropy"
