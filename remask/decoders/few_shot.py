"""Few-shot classification: label words scored after a prompt of examples, with and without contextual calibration.

A prompt is an opening, then examples with their labels in some order; it is read once, by a plain cache or by hidden-
state optimization (whose few-shot mode learns from the examples, Yoshida & Gimpel 2021, arXiv 2112.08653), and all
queries go on from that one memory. A label's score is log p of all its tokens; what is left over is divided among the
labels, p(label | query). Contextual calibration divides it by the mean p(label | blank) over queries that say nothing
("N/A", an empty text) and normalises again: a prompt's own leaning to some label is taken out (Zhao et al. 2021, arXiv
2102.09690, W = diag(p_blank)^-1, b = 0).
Shapes: Q queries, C labels, N rows read together, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.decoders.memory import Memory, Reader, after_start, kept, remember, run, whole
from remask.nets.causal import CausalNet, given

Tokens = Sequence[int]
TOGETHER = 64  # queries read at a time
SMALL = 7  # examples whose orders are listed one and all


class Task(NamedTuple):
    """A question put by examples, all in tokens.

    examples: each whole, with its label and whatever stands between two examples; queries: up to where a label is to
    stand; labels: what may stand there; blanks: queries that say nothing, for calibration; opening: before all of them.
    """

    examples: Sequence[Tokens]
    queries: Sequence[Tokens]
    labels: Sequence[Tokens]
    blanks: Sequence[Tokens] = ()
    opening: Tokens = ()


class Answers(NamedTuple):
    """log p of each label, [Q, C] float64, each row normalised; calibrated: None where there are no blanks."""

    plain: Tensor
    calibrated: Tensor | None


def classify(net: CausalNet, task: Task, order: Sequence[int], reader: Reader) -> Answers:
    """Put the examples in an order, read them, and answer all queries.

    reader: HiddenState learns from the prompt, Cached reads it as it is. A prompt longer than the model's window is
    read as any text is. Raises BadInput for queries and labels that are empty, or longer than the window.
    """
    if not task.labels or not all(task.labels) or not all([*task.queries, *task.blanks]):
        raise BadInput("an empty query or label came: a query is at least a token, and so is each label.")
    longest = max(map(len, [*task.queries, *task.blanks, []])) + max(map(len, task.labels))
    if longest + 1 > whole(net):
        raise BadInput(f"a query and a label of {longest} tokens came, and the model reads {whole(net)}: shorten them.")
    prompt = [*task.opening, *(token for number in order for token in task.examples[number])]
    ids = after_start(net, torch.tensor([prompt], dtype=torch.int64))
    memory = remember(net, ids, reader, spare=longest + 1).last(kept(net, reader, longest))
    last = ids[0, -1:].tolist()
    scores = labelled(net, memory, [[*last, *query] for query in [*task.queries, *task.blanks]], task.labels)
    plain, blanks = scores.log_softmax(1).split([len(task.queries), len(task.blanks)])
    return Answers(plain, calibrated(plain, blanks) if len(blanks) else None)


def calibrated(log_prob: Tensor, blanks: Tensor) -> Tensor:
    """log p of labels [Q, C] with the leaning that blank queries [B, C] show taken out; normalised."""
    leaning = blanks.logsumexp(0) - math.log(len(blanks))
    return (log_prob - leaning).log_softmax(1)


@torch.no_grad()
def labelled(net: CausalNet, memory: Memory, queries: Sequence[Tokens], labels: Sequence[Tokens]) -> Tensor:
    """log p of each label after each query [Q, C] float64, all of them after one memory (of one text).

    A row is a query and a label without its last token; labels that share these share the row. Rows are padded at the
    right, which no token of theirs sees.
    """
    stems = sorted({tuple(label[:-1]) for label in labels})
    rows = [[*query, *stem] for query in queries for stem in stems]
    found = torch.empty(len(rows), len(labels), dtype=torch.float64)
    for first in range(0, len(rows), TOGETHER):
        part = rows[first : first + TOGETHER]
        longest = max(map(len, part))
        tokens = torch.tensor([[*row, *[net.end] * (longest - len(row))] for row in part], device=net.model.device)
        together = memory.rows(torch.zeros(len(part), dtype=torch.int64, device=tokens.device))
        logits = run(net, given(together.layers), tokens, memory.place).logits
        for number, row in enumerate(part):
            found[first + number] = _ends(net, logits[number], row, stems[(first + number) % len(stems)], labels)
    return found.view(len(queries), len(stems), len(labels)).amax(1)


def _ends(net: CausalNet, logits: Tensor, row: Tokens, stem: Tokens, labels: Sequence[Tokens]) -> Tensor:
    """log p of the labels [C] that go on from a row's stem, -inf for the others; logits: [T, V] of the row."""
    begin = len(row) - len(stem) - 1
    law = net.law(logits[begin : len(row)]).cpu()
    mine = [tuple(label[:-1]) == tuple(stem) for label in labels]
    so_far = sum(float(law[place, token]) for place, token in enumerate(stem))
    return torch.tensor([so_far + float(law[-1, label[-1]]) if own else -math.inf for label, own in zip(labels, mine)])


def orders(examples: int, count: int, stream: Stream) -> Iterator[list[int]]:
    """`count` different random orders of some examples, or all of them where there are no more; of one stream's row."""
    every = math.factorial(examples)
    if examples <= SMALL:
        listed = list(permutations(range(examples)))
        chosen = stream.uniform(0, Purpose.CHOICE, every)[0].argsort()[: min(count, every)]
        yield from (list(listed[number]) for number in chosen.tolist())
        return
    seen: set[tuple[int, ...]] = set()
    step = 0
    while len(seen) < min(count, every):
        order = stream.uniform(step, Purpose.CHOICE, examples)[0].argsort().tolist()
        step += 1
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield order
