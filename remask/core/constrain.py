"""Constrained: cells that must spell a text of a language, drawn jointly and exactly from what the language leaves.

Given what is written, the conditionals of the open cells make a product law. Restricted to the token strings that an
automaton accepts it is a Markov chain over the automaton's states, so one pass of messages from the right and one pass
of draws from the left sample it exactly (Rabiner 1989, section III; Carter & Kohn 1994, turned round), and with maxima
in place of sums they find its most probable text (Viterbi 1967). Whichever of the drawn cells a sampler then writes,
the others prove that a completion exists: every finished canvas matches. Drawing all cells in one step is exact for the
product law; over several steps the net answers as if there were no constraint, which is why the draw is not faithful.
The law is over tokens: two ways to spell one text are two outcomes.
Shapes: B batch, L length, N cells asked for, V vocabulary; R rows and W cells of a span, S states, G groups, K
transitions, U tokens. Tables have states, groups or transitions first and rows second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.automaton import Automaton, Cell
from remask.core.draw import Categorical, Draw, inverse_cdf
from remask.core.errors import BadInput

FLOOR = -1e8  # log p of what the conditional calls impossible: taken only where no other text completes
ENTRIES = 1 << 24  # of the tables of the rows handled at a time
NEAR = 64  # how much longer than a gap the lengths are that an error may propose


class Span(NamedTuple):
    """Cells start, ..., stop - 1 of every row must spell a text of the automaton's language."""

    start: int
    stop: int
    automaton: Automaton


class Chart(NamedTuple):
    """An automaton over the cells of its span. rows: how many rows may be handled at a time."""

    machine: Automaton
    cells: list[Cell]
    rows: int


@dataclass(frozen=True)
class Constrained:
    """Each span of cells jointly from the conditionals restricted to its language, the other cells by `inner`.

    Tokens already written in a span stay and are reckoned with; a mask that is not asked for may become any.
    A token whose log p is -inf (top-k, top-p) is taken only where nothing else completes the text.
    """

    spans: tuple[Span, ...]
    """Where the languages apply: the same cells in every row."""
    mask: int
    """The id of the mask, by which a draw knows which cells are written."""
    inner: Draw = field(default_factory=Categorical)
    """How the cells outside the spans are drawn."""
    greedy: bool = False
    """The most probable text of each span instead of a random one."""
    _charts: dict[tuple, Chart] = field(default_factory=dict, init=False, repr=False, compare=False)
    joint = True
    faithful = False

    def __post_init__(self) -> None:
        end = 0
        for start, stop, automaton in sorted(self.spans, key=lambda span: span[:2]):
            if not end <= start < stop:
                raise BadInput(f"a pattern came for cells {start} to {stop - 1}: give each pattern cells of its own.")
            end = stop
            _check_length(stop - start, automaton)

    def __call__(self, log_prob: Tensor, uniform: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """Tokens [N]. Raises BadInput when the written tokens of a span cannot be part of a text of its language."""
        number = torch.full(at.shape, -1, dtype=torch.int64, device=at.device)
        number[at] = torch.arange(len(log_prob), device=at.device)
        free, drawn = at.clone(), tokens.clone()
        for span in self.spans:
            chart, place = self._chart(span, log_prob.shape[1], tokens), slice(span.start, span.stop)
            free[:, place] = False
            rows = torch.nonzero(at[:, place].any(1))[:, 0]
            for part in rows.split(chart.rows):
                question = _Question(chart, number[part, place], tokens[part, place], self.mask, self.greedy)
                drawn[part, place] = question.draw(log_prob, uniform)
        if free.any():
            other = free[at]
            drawn[free] = self.inner(log_prob[other], uniform[other], free, tokens)
        return drawn[at]

    def _chart(self, span: Span, size: int, tokens: Tensor) -> Chart:
        """The chart of a span for a net of `size` ids, on the device of the canvas `tokens`; made once."""
        if span.stop > tokens.shape[1]:
            raise BadInput(
                f"a pattern ends in cell {span.stop} of a canvas of {tokens.shape[1]}: make the canvas longer."
            )
        key = (span.start, size, tokens.device)
        if key not in self._charts:
            machine, width = span.automaton.to(tokens.device), span.stop - span.start
            if (machine.used >= size).any():
                raise BadInput(
                    f"a pattern for {len(machine.group)} ids met a net of {size}: make it from the net's tokenizer."
                )
            cells = machine.cells(width)
            widest = max(len(cell.source) + len(cell.tokens) for cell in cells)
            rows = max(1, ENTRIES // (width * (machine.states + machine.groups) + widest))
            self._charts[key] = Chart(machine, cells, rows)
        return self._charts[key]


def _sums(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Log of the sum of exp of the rows of `values` [K, R] that `index` [K] puts together, [size, R]."""
    top = _maxima(values, index, size)
    shift = torch.where(top > -torch.inf, top, 0.0)
    total = torch.zeros_like(shift).index_add_(0, index, (values - shift[index]).exp_())
    return total.log_().add_(shift)


def _maxima(values: Tensor, index: Tensor, size: int) -> Tensor:
    """The largest of the rows of `values` [K, R] that `index` [K] puts together, [size, R]."""
    top = values.new_full((size, values.shape[1]), -torch.inf)
    return top.scatter_reduce_(0, index[:, None].expand_as(values), values, "amax")


REDUCE: dict[bool, Callable[[Tensor, Tensor, int], Tensor]] = {False: _sums, True: _maxima}  # by `greedy`


class _Question:
    """One span in some rows.

    number: [R, W] int64, the place of each cell among the N asked for, -1 = not asked for; shown: [R, W] its token.
    """

    def __init__(self, chart: Chart, number: Tensor, shown: Tensor, mask: int, greedy: bool):
        self.machine, self.cells = chart.machine, chart.cells
        self.number, self.shown, self.written = number, shown, (number < 0) & (shown != mask)
        self.greedy, self.reduce = greedy, REDUCE[greedy]

    def draw(self, log_prob: Tensor, uniform: Tensor) -> Tensor:
        """The tokens of the span, [R, W]: drawn where asked for, else as they are."""
        machine = self.machine
        weights = [self._weights(place, log_prob) for place in range(len(self.cells))]
        nothing = weights[0].new_full((machine.states, len(self.number)), -torch.inf)
        ahead = [nothing.masked_fill(machine.accept[:, None], 0.0)]  # log weight of all that may follow a state
        for cell, weight in zip(reversed(self.cells), reversed(weights)):
            ways = weight[cell.label] + ahead[-1][cell.target]
            ahead.append(self.reduce(ways, cell.source, machine.states))
        self._check(ahead[-1][machine.start])
        tokens, here = self.shown.clone(), nothing  # log weight of all that led to a state
        here[machine.start] = 0.0
        for place, (cell, weight, later) in enumerate(zip(self.cells, weights, reversed(ahead[:-1]))):
            asked = torch.nonzero(self.number[:, place] >= 0)[:, 0]
            if len(asked):
                gain = self.reduce(here[cell.source] + later[cell.target], cell.label, machine.groups)
                chosen = self._choose(cell, self.number[asked, place], gain[:, asked], log_prob, uniform)
                tokens[asked, place] = chosen
                weight[:, asked] = -torch.inf
                weight[machine.group[chosen], asked] = 0.0
            here = self.reduce(here[cell.source] + weight[cell.label], cell.target, machine.states)
        return tokens

    def _weights(self, place: int, log_prob: Tensor) -> Tensor:
        """Log weight of every group in one cell, [G, R] float64: 0 for a token where nothing is known of the cell."""
        cell, number, groups = self.cells[place], self.number[:, place], self.machine.groups
        alike = torch.zeros(len(cell.group), 1, dtype=torch.float64, device=number.device)
        weight = self.reduce(alike, cell.group, groups).repeat(1, len(number))
        written = torch.nonzero(self.written[:, place])[:, 0]
        weight[:, written] = -torch.inf
        group = _groups_of(self.machine, self.shown[written, place])
        weight[group[group >= 0], written[group >= 0]] = 0.0
        asked = torch.nonzero(number >= 0)[:, 0]
        if len(asked):
            weight[:, asked] = self.reduce(_said(log_prob, number[asked], cell).t().contiguous(), cell.group, groups)
        return weight

    def _choose(self, cell: Cell, number: Tensor, gain: Tensor, log_prob: Tensor, uniform: Tensor) -> Tensor:
        """One token for each of the cells `number`, by what the net and the language (`gain` [G, R]) say together."""
        total = _said(log_prob, number, cell) + gain[cell.group].t()
        return cell.tokens[total.argmax(1) if self.greedy else inverse_cdf(total, uniform[number])]

    def _check(self, total: Tensor) -> None:
        """The log weight of each row, [R], is a number; or BadInput says what prevents it."""
        if total.isnan().any():
            raise BadInput("a cell of a pattern came with a log p that is no number: look for NaN in the net.")
        bad = torch.nonzero(total == -torch.inf)[:, 0]
        if not len(bad):
            return
        machine, row, width = self.machine, bad[0], len(self.cells)
        reached = torch.zeros_like(machine.accept)
        reached[machine.start] = True
        for place, cell in enumerate(self.cells):
            goes = reached[cell.source]
            if self.written[row, place]:
                goes &= cell.label == _groups_of(machine, self.shown[row, place])
            reached = torch.zeros_like(reached)
            reached[cell.target[goes]] = True
            if not reached.any():
                raise BadInput(
                    f"token {int(self.shown[row, place])}, written in cell {place + 1} of the {width} of a pattern, "
                    "cannot be part of a text that matches it there: change that token, or mask it."
                )


def _said(log_prob: Tensor, number: Tensor, cell: Cell) -> Tensor:
    """What the net says of the cell's tokens where it was asked `number` [R], [R, U] float64, never below the floor."""
    rows = log_prob[number]
    rows = rows if len(cell.tokens) == rows.shape[1] else rows.index_select(1, cell.tokens)
    return rows.double().clamp(min=FLOOR)


def _groups_of(machine: Automaton, tokens: Tensor) -> Tensor:
    """The group of each token, -1 for those that the language does not use."""
    last = len(machine.group) - 1
    return torch.where(tokens <= last, machine.group[tokens.clamp(max=last)], -1)


def _check_length(width: int, automaton: Automaton) -> None:
    """Some text of the language has `width` tokens; or BadInput tells the nearest numbers of tokens that one has."""
    if width in automaton.lengths(width):
        return
    possible = [length for length in automaton.lengths(width + NEAR) if length]
    near = [*[n for n in possible if n < width][-1:], *[n for n in possible if n > width][:1]]
    if not near:
        raise BadInput(f"no text that matches the pattern has 1 to {width + NEAR} tokens: make the pattern shorter.")
    raise BadInput(
        f"no text that matches the pattern has {width} tokens: make the gap {' or '.join(map(str, near))} tokens long."
    )
