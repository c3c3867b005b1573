"""What every objective on pairs must satisfy. A new row is checked without new code here; variants are listed below.

Each check is a function that raises AssertionError; tests/objectives/test_conformance_pairs.py runs them for every row
whose class says `pairs`, and shows with planted bugs that each of them can fail. Nets are small real ones in float64.
Shapes: B batch, S source length, L target length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as extend
from transformers import T5Config, T5ForConditionalGeneration

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.objective import Batch, Loss, Question
from remask.core.stream import Stream
from remask.nets.t5 import ParallelT5, ParallelT5Config, T5Net
from remask.objectives import OBJECTIVES

PAD, END, UNKNOWN, MASK, SIZE = 0, 1, 2, 5, 13
ALPHABET = Alphabet(SIZE, MASK, PAD, END, frozenset({PAD, END, UNKNOWN, MASK}))
TEXT = torch.tensor([i for i in range(SIZE) if i not in ALPHABET.special])
LONGEST = 9  # of a target, and of a source, in tokens

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cmlm": [{"stratified": False}],
    "padir": [
        {"score": "noised"},
        {"score": "masked"},
        {"score": "noised", "keep": 0.4, "random": 0.3},
        {"keep": 0.0, "random": 0.0},
        {"rate": 0.5},
        {"rate": 1.0, "score": "masked", "keep": 0.0, "random": 0.0},
        {"stages": 2},
        {"stages": 3, "score": "masked"},
        {"stratified": False},
    ],
    "sundae": [
        {"unroll": 1},
        {"unroll": 3},
        {"noise": "mask"},
        {"temperature": 0.5},
        {"stratified": False},
    ],
    "axe": [{"skip_penalty": 2.0}, {"length_factor": 1.5}, {"masking": "uniform"}],
}
"""Fields besides the defaults that a row is also checked with."""


def _padir_shows(objective: Any) -> float:
    rate = 0.5 if objective.rate is None else objective.rate
    return {"all": 1 - rate + rate * objective.keep, "noised": objective.keep, "masked": 0.0}[objective.score]


SHOWS: dict[str, Callable[[Any], float]] = {"PaDIR": _padir_shows, "SUNDAE": lambda objective: 0.5}
"""Share of the cells asked for that show their own token on purpose; all other objectives show none of them.

These two are asked about tokens that they see, too: a translation is corrected as a whole. What they must not see is
the token of a cell that was noised.
"""


def objectives() -> dict[str, Any]:
    """Every row on pairs with its default fields, and the variants above."""
    found = {}
    for name in OBJECTIVES:
        kind = OBJECTIVES.load(name)
        for settings in [{}, *VARIANTS.get(name, [])] if getattr(kind, "pairs", False) else []:
            label = " ".join([name, *(f"{field}={value}" for field, value in settings.items())])
            found[label] = kind(**settings)
    return found


def padded(lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Random tokens, the end, padding: [B, longest + 1]."""
    place = torch.arange(int(lengths.max()) + 1)
    tokens = TEXT[torch.randint(len(TEXT), (len(lengths), len(place)), generator=generator)]
    tokens = torch.where(place < lengths[:, None], tokens, PAD)
    return torch.where(place == lengths[:, None], END, tokens)


def pairs(rows: int, seed: int = 0, shortest: int = 1, longest: int = LONGEST) -> Batch:
    """Random pairs of unequal lengths, as a whole global batch."""
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(shortest, longest + 1, (rows,), generator=generator) for _ in range(2))
    return Batch.of(padded(target, generator), ALPHABET, source=padded(source, generator))


def case(objective: Any, rows: int, seed: int) -> tuple[Batch, Stream, Question]:
    """Pairs, and what is asked of them."""
    batch, stream = pairs(rows, seed), Stream.of(seed, rows)
    return batch, stream, objective.corrupt(batch, stream)


@cache
def small_net(causal: bool) -> T5Net:
    """A real encoder-decoder in float64, all of whose weights are random."""
    common: dict[str, Any] = {
        "vocab_size": SIZE,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
    }
    model: Any = (
        T5ForConditionalGeneration(T5Config(**common))
        if causal
        else ParallelT5(ParallelT5Config(**common, longest_target=LONGEST + 3))
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return T5Net(model).double().eval()


def check_declares(objective: Any) -> None:
    """What the library asks of an objective before it trains with it."""
    for name in ("causal", "bounds", "writes"):
        assert isinstance(getattr(objective, name, None), bool), f"the objective does not say whether it '{name}'"
    assert getattr(objective, "pairs", False) is True, "the objective does not say that it wants pairs"
    assert isinstance(getattr(objective, "law", None), str), "the objective does not name its law"


def check_finite(objective: Any, seed: int = 0, net: T5Net | None = None) -> None:
    """A real net gets a finite loss and finite gradients; so it does from targets without any token."""
    net = small_net(objective.causal) if net is None else net
    nothing = pairs(4, seed)._replace(tokens=torch.tensor([[END, PAD]] * 4), documents=torch.zeros(4, 2).long())
    for batch in (pairs(8, seed), nothing):
        stream = Stream.of(seed, len(batch.tokens))
        net.zero_grad()
        loss: Loss = objective(net, objective.corrupt(batch, stream), stream)
        loss.mean().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert all(torch.isfinite(term.total) and term.count > 0 for term in loss.terms), "the loss is not finite"
        assert loss.mean() > 0, "the loss of a random net is not positive"
        assert grads and all(torch.isfinite(grad).all() for grad in grads), "a gradient is not finite"
        assert sum(float(grad.abs().sum()) for grad in grads) > 0, "no gradient reaches the net"


@torch.no_grad()
def check_split(objective: Any, seed: int = 0) -> None:
    """Totals of the parts of any split add up to the whole's, whatever padding stays in them; counts are global."""
    _, stream, question = case(objective, 24, seed)
    net = small_net(objective.causal)
    whole = objective(net, question, stream)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    parts = [objective(net, question.part(i), stream.rows(i)) for i in order.split([1, 5, 7, 11])]
    for k, term in enumerate(whole.terms):
        total = sum(float(part.terms[k].total) for part in parts)
        assert math.isclose(total, float(term.total), rel_tol=1e-9), f"the parts of '{term.name}' do not add up"
        assert all(part.terms[k].count == term.count for part in parts), "a part has another count"
    mean = sum(float(part.mean(question.counts)) for part in parts)
    assert math.isclose(mean, float(whole.mean()), rel_tol=1e-6), "the parts' means do not add up"


def _same(ours: Question, theirs: Question, what: str) -> None:
    for name in ("tokens", "targets", "at", "weight", "source"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), f"'{name}' of {what} differs"


def check_parts_are_asked_the_same(objective: Any, seed: int = 0) -> None:
    """A part of the global batch, corrupted by itself with its rows' seeds, is asked what it is asked in the whole."""
    batch, stream, question = case(objective, 24, seed)
    index = torch.tensor([3, 17, 4, 23])
    _same(objective.corrupt(batch.part(index), stream.rows(index)), question.part(index), "a part")


@torch.no_grad()
def check_permuted(objective: Any, seed: int = 0) -> None:
    """The same rows in another order are asked the same, and lose the same."""
    batch, stream, question = case(objective, 12, seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    turned = objective.corrupt(batch.part(order), stream.rows(order))
    _same(turned, question.part(order), "rows in another order")
    assert torch.equal(turned.counts, question.counts), "counts depend on the order of rows"
    net = small_net(objective.causal)
    losses = [float(objective(net, q, s).mean()) for q, s in ((question, stream), (turned, stream.rows(order)))]
    assert math.isclose(*losses, rel_tol=1e-9), "the loss depends on the order of rows"


def check_no_leak(objective: Any, seed: int = 0, rows: int = 2500) -> None:
    """What the net sees in a noised cell does not depend on the token of that cell.

    The token of one cell is replaced by another. No other cell may change; this one shows its token in both cases or in
    neither, and among the cells asked for it does so as often as SHOWS says. A causal net sees inputs 0..i at cell i.
    """
    batch, stream, question = case(objective, rows, seed)
    width, shown, asked = batch.tokens.shape[1], 0, 0
    text = torch.isin(batch.tokens, TEXT)
    other = torch.where(text, TEXT[(torch.searchsorted(TEXT, batch.tokens) + 1) % len(TEXT)], batch.tokens)
    for cell in range(width):
        late = torch.arange(width) >= cell if objective.causal else torch.arange(width) == cell
        tokens = torch.where(late, other, batch.tokens)
        changed = objective.corrupt(batch._replace(tokens=tokens), stream)
        assert torch.equal(changed.at, question.at), "which cells are asked for depends on the tokens"
        assert torch.equal(changed.weight, question.weight), "how much a cell counts depends on the tokens"
        assert torch.equal(changed.targets[:, :width], tokens), "the target is not the token of the text"
        differs = (changed.tokens != question.tokens)[:, : cell + 1 if objective.causal else None]
        follows = (question.tokens[:, cell] == batch.tokens[:, cell]) & (changed.tokens[:, cell] == tokens[:, cell])
        differs[:, cell] &= ~follows | objective.causal
        assert not differs.any(), f"the net can see the token of cell {cell} where it is hidden"
        shown += int((follows & text[:, cell] & question.at[:, cell]).sum()) * (not objective.causal)
        asked += int((text[:, cell] & question.at[:, cell]).sum())
    kinds = [kind.__name__ for kind in type(objective).__mro__]
    share = next((SHOWS[kind](objective) for kind in kinds if kind in SHOWS), 0.0)
    slack = 1.5 / math.sqrt(rows) * (0 < share < 1)  # four standard errors of rows whose rate is uniform
    assert abs(shown / asked - share) <= slack, f"{shown} of {asked} cells show their token; {share:.2f} of them should"


def check_ends(objective: Any, seed: int = 0) -> None:
    """Ends are given to parallel decoders, neither hidden nor asked; padding is asked of nobody and says nothing."""
    batch, _, question = case(objective, 200, seed)
    padding, end = question.targets == PAD, question.targets == END
    assert not (question.weight[padding] > 0).any(), "padding counts"
    if objective.causal:
        assert torch.equal(question.at, ~padding), "a causal net is asked for every token and for the end"
        return
    assert not (question.weight[end] > 0).any(), "the end counts"
    shows_end = question.tokens == END
    assert (shows_end.sum(1) == 1).all(), "a row does not show one end"
    after = shows_end.cumsum(1) > 0
    assert (question.tokens[after & ~shows_end] == PAD).all(), "something stands after the end"
    assert (question.tokens[~after] != PAD).all(), "padding stands before the end"
    assert not (question.at & after).any(), "the end or padding is asked for"
    if getattr(objective, "length_factor", 1) == 1:  # else the canvas has another length than the target
        assert torch.equal(shows_end[:, : batch.tokens.shape[1]], batch.tokens == END), "the end has moved"


@torch.no_grad()
def check_wider(objective: Any, seed: int = 0) -> None:
    """Three more columns of padding on both sides change neither what is asked, nor the counts, nor the loss."""
    batch, stream, question = case(objective, 16, seed)
    tokens, source = extend(batch.tokens, (0, 3), value=PAD), extend(batch.source, (0, 3), value=PAD)
    wide = objective.corrupt(Batch.of(tokens, ALPHABET, source=source), stream)
    width = question.tokens.shape[1]
    for name in ("tokens", "targets", "at", "weight"):
        ours, theirs = getattr(wide, name), getattr(question, name)
        assert torch.equal(ours[:, :width], theirs), f"padding changes the question's '{name}'"
        assert not ours[:, width + objective.causal :].any(), f"padding is in the question's '{name}'"
    assert torch.equal(wide.counts, question.counts), "padding is counted"
    net = small_net(objective.causal)
    for ours, theirs in zip(objective(net, wide, stream).terms, objective(net, question, stream).terms):
        assert math.isclose(float(ours.total), float(theirs.total), rel_tol=1e-9), f"padding changes '{ours.name}'"


@torch.no_grad()
def check_source(objective: Any, seed: int = 0) -> None:
    """Every row learns from its own source and from no other; without sources there is nothing to learn from."""
    batch, stream, question = case(objective, 3, seed)
    assert batch.source is not None and question.source is not None
    assert torch.equal(question.source, batch.source), "the sources are not those of the batch"
    net, index = small_net(objective.causal), torch.arange(3)

    def losses(asked: Question) -> Tensor:
        """Row by row, but read together: a row's share is what is missing without it, [B]."""
        whole = objective(net, asked, stream).mean(asked.counts)
        rest = [objective(net, asked.part(index[index != i]), stream.rows(index[index != i])) for i in index]
        return torch.stack([whole - part.mean(asked.counts) for part in rest])

    source = batch.source.clone()
    source[1, 0] = TEXT[0] if source[1, 0] != TEXT[0] else TEXT[1]
    moved = (losses(question) - losses(question._replace(source=source))).abs() > 1e-9
    assert moved.tolist() == [i == 1 for i in range(3)], "a row does not depend on its own source alone"
    for alphabet in (ALPHABET, Alphabet(SIZE, MASK)):
        try:
            objective.corrupt(Batch.of(batch.tokens, alphabet), stream)
        except BadInput:
            continue
        raise AssertionError("text without sources is accepted")


@torch.no_grad()
def check_lengths(objective: Any, seed: int = 0) -> None:
    """Parallel decoders learn lengths: -log p(tokens of the target, its end not counted), summed over all rows."""
    batch, stream, question = case(objective, 12, seed)
    net = small_net(objective.causal)
    terms = {term.name: term for term in objective(net, question, stream).terms}
    assert ("length" in terms) is not objective.causal, "lengths are learned by parallel decoders, and only by these"
    if objective.causal:
        return
    assert batch.source is not None
    law = net.read(batch.source, batch.source != PAD).length_log_prob()
    wanted = -sum(float(law[i, int(torch.isin(row, TEXT).sum()) - 1]) for i, row in enumerate(batch.tokens))
    assert math.isclose(float(terms["length"].total), wanted, rel_tol=1e-6), "the length term is not -log p"
    assert terms["length"].count == 12 and terms["length"].weight == 1, "lengths are counted row by row"


PAIR_CHECKS: tuple[Callable[..., None], ...] = (
    check_declares,
    check_finite,
    check_split,
    check_parts_are_asked_the_same,
    check_permuted,
    check_no_leak,
    check_ends,
    check_wider,
    check_source,
    check_lengths,
)
