"""The dependence probe: how much two tokens that were written at once should have known of each other.

Both cells of a pair are masked again in a finished translation, and with a the likeliest values of the one,

    I(x_i; x_j | source, rest) = E_a KL( p(x_j | x_i = a, source, rest) || p(x_j | source, rest) ),   a ~ p(x_i | rest)

one pass for both marginals and one more for each a. It is what writing the two independently costs, in nats. With all
values of a it is the conditional mutual information of the conditionals, exact where these are of one law; then it is
the same in either direction. With the k likeliest their chances are renormalised and `mass` tells what they cover: the
mean over common values, which may be more or less than the whole. A net's conditionals may contradict each other, and
then the two directions differ.

Theory says that faults of parallel decoding (stutters, mixtures, broken phrases) come where it is large (Li et al.
2024, arXiv 2407.21046, error modes): `at_errors` compares. Tokens that are uncertain are wrong more often and can share
more as well, so the same comparison of `entropy` belongs beside it. Where values are to be drawn without bias, of cells
far apart, at any mask rate: remask/lab/dependence.py.
Shapes: B translations, N pairs, L length, S source length, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.errors import BadInput, UnknownName
from remask.core.metric import Estimate, ratio
from remask.core.net import EncoderDecoder
from remask.nets.conditional import NetConditional
from remask.translate.lengths import canvas
from remask.translate.mixtures import Alternatives, Counted, Tokens, difference, seams
from remask.translate.parallel import resting

CANDIDATES = 4
BATCH = 256  # pairs asked about at a time
UNIT = "nats/pair"


class Dependence(NamedTuple):
    """What N pairs of cells say of each other.

    information: nats; mass: the share of p(x_i | rest) that was tried, 1 where all of it was; entropy: of
    p(x_j | rest), nats. All [N] float64.
    """

    information: Tensor
    mass: Tensor
    entropy: Tensor


@torch.no_grad()
def dependence(
    conditional: Conditional,
    tokens: Tensor,
    left: Tensor,
    right: Tensor,
    candidates: int = CANDIDATES,
    batch: int = BATCH,
) -> Dependence:
    """I(x_i; x_j | rest) of one pair of cells in each row.

    conditional: of N rows; tokens: [N, L] int64, whatever stands in the pair; left, right: [N] int64, i and j;
    candidates: values of x_i tried. 1 + candidates passes a row.
    Infinite where the conditional bans what it allows given x_i (as top-p does), never nan.
    Raises BadInput for a cell paired with itself, and for fewer than one candidate or row at a time.
    """
    if bool((left == right).any()):
        raise BadInput("a cell was paired with itself: a token knows all of itself; give two different cells.")
    if min(candidates, batch) < 1:
        raise BadInput(f"{candidates} candidates, {batch} pairs at a time were asked for: both must be 1 or more.")
    parts = torch.arange(len(tokens), device=tokens.device).split(batch)
    found = [_probed(conditional.rows(at), tokens[at], left[at], right[at], candidates) for at in parts if len(at)]
    if not found:
        empty = torch.zeros(0, dtype=torch.float64, device=tokens.device)
        return Dependence(empty, empty, empty)
    return Dependence(*(torch.cat(field) for field in zip(*found)))


def _probed(conditional: Conditional, tokens: Tensor, left: Tensor, right: Tensor, candidates: int) -> Dependence:
    pair = torch.stack([left, right], 1)
    at = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, pair, True)
    masked = torch.where(at, conditional.alphabet.mask, tokens)
    both = conditional(masked, at).double().view(len(tokens), 2, -1)
    row, place = torch.arange(len(tokens), device=tokens.device), (left > right).long()
    alone = both[row, 1 - place]
    # sorted and not topk: ties must not fall by the size of the batch
    ordered = torch.sort(both[row, place].exp(), dim=1, descending=True, stable=True)
    chance, tried = ordered.values[:, :candidates], ordered.indices[:, :candidates]
    mass = chance.sum(1)
    asked = torch.zeros_like(at).scatter(1, right[:, None], True)
    information = torch.zeros_like(mass)
    for share, a in zip(chance.T / mass, tried.T):
        if bool((share > 0).any()):
            a = torch.where(share > 0, a, tried[:, 0])  # what cannot be is not asked about
            told = conditional(masked.scatter(1, left[:, None], a[:, None]), asked).double()
            weight = share[:, None] * told.exp()
            information += torch.where(weight > 0, weight * (told - alone), 0.0).sum(1)
    return Dependence(information, mass.clamp(max=1), -torch.where(alone > -torch.inf, alone.exp() * alone, 0.0).sum(1))


class Neighbours(NamedTuple):
    """All neighbours of B translations, row by row and from left to right: cells left and left + 1 of `row`.

    row, left: [N] int64; found: their Dependence.
    """

    row: Tensor
    left: Tensor
    found: Dependence

    def by_row(self, rows: int, field: str = "information") -> list[list[float]]:
        """A field of `found` for each translation: n - 1 numbers for n tokens."""
        values: list[list[float]] = [[] for _ in range(rows)]
        for row, value in zip(self.row.tolist(), getattr(self.found, field).tolist()):
            values[row].append(value)
        return values


def neighbours(
    conditional: Conditional, written: Canvas, candidates: int = CANDIDATES, batch: int = BATCH
) -> Neighbours:
    """The dependence of all neighbouring cells that were written (not frozen), all other cells as they are.

    conditional: of B rows; written: B finished translations.
    """
    open_cells = written.unknown
    row, left = torch.nonzero(open_cells[:, :-1] & open_cells[:, 1:], as_tuple=True)
    found = dependence(conditional.rows(row), written.tokens[row], left, left + 1, candidates, batch)
    return Neighbours(row, left, found)


def finished(texts: Sequence[Sequence[int]], alphabet: Alphabet, device: torch.device | str = "cpu") -> Canvas:
    """Finished translations as rows: their tokens, a given end, padding, [B, L]; an empty one is its end alone."""
    begun = canvas(torch.tensor([len(text) for text in texts], dtype=torch.int64, device=device), alphabet)
    written = torch.tensor([token for text in texts for token in text], dtype=torch.int64, device=device)
    return begun._replace(tokens=begun.tokens.masked_scatter(begun.unknown, written))


@torch.no_grad()
def probe(
    net: EncoderDecoder,
    source: Tensor,
    attend: Tensor,
    alphabet: Alphabet,
    texts: Sequence[Sequence[int]],
    candidates: int = CANDIDATES,
    batch: int = BATCH,
) -> Neighbours:
    """`neighbours` of B translations by the net itself, given their sources, [B, S] int64 and [B, S] bool.

    texts: B lists of text tokens, as an Outcome has them. Raises BadInput for a net that writes from left to right.
    """
    if net.causal:
        raise BadInput("this net writes from left to right: its tokens know of each other, and it knows no masks.")
    if len(texts) != len(source):
        raise BadInput(f"{len(texts)} translations came with {len(source)} sources: give one for each.")
    written = finished(texts, alphabet, source.device)
    with resting(net):
        reading = net.read(source, attend)
        conditional = NetConditional(reading, alphabet, attend=written.tokens != alphabet.pad)  # type: ignore[arg-type]
        return neighbours(conditional, written, candidates, batch)


# ---- at errors -------------------------------------------------------------------------------------------------------


def new_bigrams(output: Tokens, known: Alternatives) -> list[bool]:
    """Which neighbours stand next to each other in no reference: stutters, mixtures, broken phrases, wrong words."""
    seen = {bigram for reference in known for bigram in pairwise(reference)}
    return [bigram not in seen for bigram in pairwise(output)]


def stutters(output: Tokens, known: Alternatives) -> list[bool]:
    """Which neighbours are equal where no reference has them so."""
    return [new and a == b for new, (a, b) in zip(new_bigrams(output, known), pairwise(output))]


def aligned(output: Tokens, known: Alternatives) -> list[bool]:
    """Which tokens are matched by an equal one of the reference that matches most; the first of equals.

    Matches are the blocks of Ratcliff & Obershelp (1988), as difflib finds them: longest run first, then left and right
    of it; in order, no token twice.
    """
    best = [False] * len(output)
    for reference in known:
        blocks = SequenceMatcher(None, reference, output, autojunk=False).get_matching_blocks()
        found = [False] * len(output)
        for block in blocks:
            found[block.b : block.b + block.size] = [True] * block.size
        best = max(best, found, key=sum)
    return best


def unaligned(output: Tokens, known: Alternatives) -> list[bool]:
    """Which neighbours hold a token that is not aligned."""
    return [not (left and right) for left, right in pairwise(aligned(output, known))]


ERRORS: dict[str, Callable[[Tokens, Alternatives], list[bool]]] = {
    "bigram": new_bigrams,
    "stutter": stutters,
    "seam": seams,
    "token": unaligned,
}
"""Which of an output's neighbours are errors, given references."""


def at_errors(
    outputs: Sequence[Tokens],
    values: Sequence[Sequence[float]],
    references: Sequence[Alternatives],
    error: str = "bigram",
    unit: str = UNIT,
) -> Iterator[tuple[str, Estimate]]:
    """Compare a value of neighbours at errors with that elsewhere.

    outputs: texts; values: n - 1 numbers for each one's n tokens (`by_row`); references: of each, one or more; error:
    a row of ERRORS.
    Yields error_share (of neighbours); at_errors and elsewhere, means over neighbours; difference, of the two, with the
    error over sentences; difference_within, the mean over sentences that have both of the difference of their means,
    which leaves out that some sentences are harder. What has no neighbours is not yielded.
    Raises BadInput where numbers do not match, and UnknownName for another error.
    """
    if error not in ERRORS:
        raise UnknownName("error", error, ERRORS)
    if not len(outputs) == len(values) == len(references):
        raise BadInput(
            f"{len(outputs)} translations came with values of {len(values)} and references of {len(references)}: "
            "give both for each."
        )
    wrong, right = Counted([], []), Counted([], [])
    for output, numbers, known in zip(outputs, values, references):
        faulty = ERRORS[error](output, known)
        if len(faulty) != len(numbers):
            raise BadInput(f"a translation with {len(faulty)} neighbours came with {len(numbers)} values of them.")
        for counted, kind in ((wrong, True), (right, False)):
            picked = [float(value) for value, fault in zip(numbers, faulty) if fault is kind]
            counted.faults.append(sum(picked))
            counted.places.append(float(len(picked)))
    yield from _compared(wrong, right, unit)


def _compared(wrong: Counted, right: Counted, unit: str) -> Iterator[tuple[str, Estimate]]:
    every = [a + b for a, b in zip(wrong.places, right.places)]
    if any(every):
        yield "error_share", ratio(wrong.places, every, "share")
    for name, counted in (("at_errors", wrong), ("elsewhere", right)):
        if any(counted.places):
            yield name, ratio(counted.faults, counted.places, unit)
    if any(wrong.places) and any(right.places):
        yield "difference", difference(wrong, right, unit)
    means = [a / m - b / n for a, m, b, n in zip(*wrong, *right) if m and n]
    if means:
        yield "difference_within", ratio(means, [1.0] * len(means), unit)
