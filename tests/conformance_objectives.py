"""What every objective must satisfy. A new row is checked without new code here; its variants are listed below.

Each check is a function that raises AssertionError; tests/objectives/test_conformance.py runs them for every row, and
shows with planted bugs that each of them can fail.
Shapes: B batch, L length.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.objective import Batch, Loss, Question
from remask.core.schedule import SCHEDULES
from remask.core.stream import Stream
from remask.nets.encoder import build
from remask.objectives import OBJECTIVES
from remask.objectives.block_diffusion import BlockDiffusion
from remask.objectives.electra import ELECTRA
from remask.objectives.sedd import SEDD
from tests.objectives.exact import LawPair
from tests.objectives.exact_blocks import LawBlocks
from tests.oracle import LawNet, Oracle, causal_net, masked_net

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "mdlm": [
        {"stratified": False},
        {"weighting": "elbo"},
        {"weighting": "elbo", "schedule": "log_linear"},
        {"weighting": "elbo", "schedule": "cosine"},
        {"weighting": "flat"},
        {"timesteps": 4, "weighting": "elbo", "schedule": "log_linear"},
        {"carry_over": False, "zero_masking": False},
        {"low_rates": 0.3},
    ],
    "block_diffusion": [
        {"block": 2},
        {"block": 3, "stratified": False},
        {"block": 4, "clip_low": 0.3, "clip_high": 0.8},
    ],
    "gmlm": [
        {"stratified": False},
        {"count": "rate"},
        {"count": "rate", "stratified": False},
        {"count": "fixed", "k": 2},
        {"loss": "chain"},
        {"count": "rate", "loss": "chain"},
        {"count": "fixed", "k": 2, "loss": "chain"},
    ],
    "mlm": [
        {"keep": 0.0, "random": 0.0},
        {"keep": 0.4, "mask_rate": 0.8},
        {"unit": "span"},
        {"unit": "word", "mask_rate": 0.6},
        {"final_mask_rate": 0.9},
    ],
    "electra": [
        {"keep": 0.0},
        {"mask_rate": 0.5, "temperature": 2.0},
        *({"score": score} for score in ("masked", "random", "uniform", "balanced", "half")),
        {"score": "half", "score_scale": "sum"},
        {"lucky": False},
        {"task": "replace-mlm"},
        {"task": "all-tokens"},
        {"share": "none"},
        {"share": "gdes"},
        {"two_stage": True, "share": "none", "generator_width": 1.0},
        {"freeze_generator": True, "share": "gdes", "generator": "elsewhere"},
    ],
}
"""Fields besides the defaults that a row is also checked with."""

LEFT_OUT = 0.004
"""Noise levels that a continuous-time bound may leave out, as a share of it (log_linear stops at a rate of 0.999)."""


def objectives() -> dict[str, Any]:
    """Every row that learns from text by itself, with its default fields, and the variants above.

    What learns from pairs is held to tests/conformance_pairs.py.
    """
    found = {}
    for name in OBJECTIVES:
        kind = OBJECTIVES.load(name)
        for settings in [] if getattr(kind, "pairs", False) else [{}, *VARIANTS.get(name, [])]:
            label = " ".join([name, *(f"{field}={value}" for field, value in settings.items())])
            found[label] = kind(**settings)
    return found


def law_net(objective: Any, oracle: Oracle) -> LawNet | LawPair:
    """The net that knows the truth, as the objective wants it."""
    if isinstance(objective, ELECTRA):
        return LawPair(objective, oracle)
    if isinstance(objective, SEDD):
        return ratio_net(oracle)
    if isinstance(objective, BlockDiffusion):
        return LawBlocks(oracle, objective.block)
    return causal_net(oracle) if objective.causal else masked_net(oracle)


def ratio_net(oracle: Oracle) -> LawNet:
    """Logits that SEDD reads as the true ratios."""
    return LawNet(lambda tokens: oracle(tokens) + math.log(oracle.alphabet.size - 1))


@cache
def masked_entropies(oracle: Oracle) -> list[float]:
    """E of the summed cross-entropy of k masked cells, k = 0..L."""
    return [0.0, *(oracle.masked_entropy(k) for k in range(1, oracle.length + 1))]


def entropy_in_steps(oracle: Oracle, schedule: str, timesteps: int) -> float:
    """What the true conditional pays for a row in T steps, step by step from the definition, nats.

    It is the entropy, and what is lost as the cells that open in one step are independent.
    """
    times = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    alpha = [*SCHEDULES[schedule].alpha(times).tolist()[:-1], 0.0]
    total, length = 0.0, oracle.length
    for before, after in pairwise(alpha):
        rate = 1 - after
        for k, nats in enumerate(masked_entropies(oracle)):
            chance = math.comb(length, k) * rate**k * (1 - rate) ** (length - k)
            total += (before - after) / rate * chance * nats
    return total


def truth(objective: Any, oracle: Oracle) -> float:
    """What an objective that bounds -log p must say of the true conditional, nats per token."""
    timesteps = getattr(objective, "timesteps", None)
    nats = oracle.entropy if timesteps is None else entropy_in_steps(oracle, objective.schedule, timesteps)
    return nats / oracle.length


@cache
def small_net(size: int, mask: int, end: int, length: int, causal: bool) -> Any:
    """A real net with random weights."""
    return build("tiny", Alphabet(size, mask, end=end), length, causal=causal)


def real_net(objective: Any, oracle: Oracle) -> Any:
    """What a random net becomes for the objective."""
    alphabet = oracle.alphabet
    net = copy.deepcopy(small_net(alphabet.size, alphabet.mask, alphabet.end, oracle.length, objective.causal))
    return objective.furnish(net) if hasattr(objective, "furnish") else net


def some_rows(question: Question, index: Tensor) -> Question:
    """A slice of a question, as gradient accumulation cuts it: the counts stay global."""
    return Question(*(leaf[index] for leaf in question[:5]), question.counts, question.alphabet)


def _kinds(objective: Any, oracle: Oracle) -> list[Tensor]:
    """Ids that may stand for one another: where words are chosen, those that go on with one are apart."""
    return (
        [oracle.ids[::2].clone(), oracle.ids[1::2].clone()]
        if getattr(objective, "unit", "") == "word"
        else [oracle.ids]
    )


def _case(objective: Any, oracle: Oracle, rows: int, seed: int) -> tuple[Batch, Stream, Question]:
    """In the middle of training; every second symbol goes on with a word."""
    alphabet = oracle.alphabet._replace(continues=frozenset(oracle.ids[1::2].tolist()))
    batch = Batch.of(oracle.sample(rows, seed), alphabet)._replace(progress=0.5)
    stream = Stream.of(seed, rows)
    return batch, stream, objective.corrupt(batch, stream)


def check_declares(objective: Any) -> None:
    """What the library asks of an objective before it trains with it."""
    for name in ("causal", "bounds", "writes"):
        assert isinstance(getattr(objective, name, None), bool), f"the objective does not say whether it '{name}'"
    assert isinstance(getattr(objective, "law", None), str), "the objective does not name its law"


def check_finite(objective: Any, oracle: Oracle, seed: int = 0) -> None:
    """A real net gets a finite loss and finite gradients, in every parameter that the loss reaches."""
    _, stream, question = _case(objective, oracle, 8, seed)
    net = real_net(objective, oracle)
    loss: Loss = objective(net, question, stream)
    loss.mean().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.isfinite(term.total) and term.count > 0 for term in loss.terms), "the loss is not finite"
    assert loss.mean() > 0, "the loss of a random net is not positive"
    assert grads and all(torch.isfinite(grad).all() for grad in grads), "a gradient is not finite"
    assert sum(float(grad.abs().sum()) for grad in grads) > 0, "no gradient reaches the net"


def check_split(objective: Any, oracle: Oracle, seed: int = 0) -> None:
    """Totals of the parts of any split add up to the whole's; counts are global in all of them."""
    _, stream, question = _case(objective, oracle, 24, seed)
    net = law_net(objective, oracle)
    whole = objective(net, question, stream)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    parts = [objective(net, some_rows(question, i), stream.rows(i)) for i in order.split([1, 5, 7, 11])]
    for k, term in enumerate(whole.terms):
        total = sum(float(part.terms[k].total) for part in parts)
        assert math.isclose(total, float(term.total), rel_tol=1e-9), f"the parts of '{term.name}' do not add up"
        assert all(part.terms[k].count == term.count for part in parts), "a part has another count"
    mean = sum(float(part.mean(question.counts)) for part in parts)
    assert math.isclose(mean, float(whole.mean()), rel_tol=1e-6), "the parts' means do not add up"


def check_parts_are_asked_the_same(objective: Any, oracle: Oracle, seed: int = 0) -> None:
    """A part of the global batch, corrupted by itself with its rows' seeds, is asked what it is asked in the whole."""
    batch, stream, question = _case(objective, oracle, 24, seed)
    index = torch.tensor([3, 17, 4, 23])
    part = objective.corrupt(batch.part(index), stream.rows(index))
    for name, ours, theirs in zip(question._fields[:5], part, some_rows(question, index)):
        assert torch.equal(ours, theirs), f"'{name}' of a part differs from that of the whole"


def check_no_leak(objective: Any, oracle: Oracle, seed: int = 0, rows: int = 96) -> None:
    """What the net sees when it is asked for a cell does not depend on the token in that cell.

    An objective with a field `keep` shows that share of the cells on purpose: these, and no more, are let through.
    """
    batch, stream, question = _case(objective, oracle, rows, seed)
    keep = getattr(objective, "keep", 0.0)
    other, shown = batch.tokens, 0
    for ids in _kinds(objective, oracle):  # every token replaced by another one
        turned = ids[(torch.searchsorted(ids, batch.tokens) + 1) % len(ids)]
        other = torch.where(torch.isin(batch.tokens, ids), turned, other)
    for cell in range(oracle.length):
        # a causal net sees inputs 0..i at cell i, a masked one all of them
        late = torch.arange(oracle.length) >= cell if objective.causal else torch.arange(oracle.length) == cell
        changed = objective.corrupt(batch._replace(tokens=torch.where(late, other, batch.tokens)), stream)
        upto = cell + 1 if objective.causal else oracle.length
        asked = question.at[:, cell]
        assert torch.equal(changed.at, question.at), "which cells are asked for depends on the tokens"
        differs = changed.tokens[:, :upto] != question.tokens[:, :upto]
        if keep:
            kept = differs[:, cell] & (question.tokens == batch.tokens)[:, cell]
            kept &= changed.tokens[:, cell] == other[:, cell]
            shown += int((kept & asked).sum())
            differs[:, cell] &= ~kept
        assert not differs[asked].any(), f"the net can see the token of cell {cell} when it is asked for it"
        assert torch.equal(question.targets, batch.tokens), "the target is not the token of the text"
    cells = int(question.at.sum())
    most = keep * cells + 4 * math.sqrt(keep * (1 - keep) * cells)
    assert shown <= most, f"{shown} of {cells} cells show their token, and {keep} of them was to be kept"


def check_bound(objective: Any, oracle: Oracle, seed: int = 0, groups: int = 120, rows: int = 64) -> None:
    """The mean loss of the true conditional is the entropy (in T steps: what these lose, too), within three errors."""
    if not getattr(objective, "bounds", False):
        return
    net, means = law_net(objective, oracle), []
    for group in range(groups):
        _, stream, question = _case(objective, oracle, rows, 100_000 * (seed + 1) + group)
        means.append(float(objective(net, question, stream).mean()))
    found = torch.tensor(means, dtype=torch.float64)
    error, wanted = float(found.std() / math.sqrt(groups)), truth(objective, oracle)
    miss = abs(float(found.mean()) - wanted)
    assert miss <= 3 * error + LEFT_OUT * wanted, f"loss {found.mean():.4f} +- {error:.4f}, entropy {wanted:.4f}"
    assert error < 0.05 * wanted, "the check is blind: too few rows"


OBJECTIVE_CHECKS: tuple[Callable[..., None], ...] = (
    check_split,
    check_parts_are_asked_the_same,
    check_no_leak,
    check_bound,
)
