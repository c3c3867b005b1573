"""Weighing a net by its own objective on held-out rows: for objectives whose loss is no bound on -log p.

Shapes: R rows, L length.
"""

from __future__ import annotations

from typing import Any

import torch

from remask.core.alphabet import Alphabet
from remask.core.metric import Estimate, ratio
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.data.pack import Rows
from remask.metrics.detection import detection, share
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import Pair
from remask.train.evaluate import weigh

GROUP = 8  # rows of one observation of a loss


def judge(
    objective: Any, net: HuggingFaceNet | Pair, alphabet: Alphabet, rows: Rows, *, draws: int, seed: int
) -> dict[str, Estimate]:
    """What a net is worth on held-out rows: its objective's own terms first, and the bound where it predicts tokens.

    An objective that bounds -log p is weighed by that bound alone. The masks depend on `seed` and the row only.
    """
    objective = getattr(objective, "weighed", objective)
    if objective.bounds and not isinstance(net, Pair):
        return weigh(net, alphabet, rows, draws=draws, seed=seed)
    found = own_terms(objective, net, alphabet, rows, seed=seed)
    return found if isinstance(net, Pair) else {**found, **weigh(net, alphabet, rows, draws=draws, seed=seed)}


@torch.inference_mode()
def own_terms(
    objective: Any, net: HuggingFaceNet | Pair, alphabet: Alphabet, rows: Rows, *, seed: int
) -> dict[str, Estimate]:
    """Every term of the loss in nats a scored cell, errors over groups of rows; of a pair also how well it detects."""
    training, device = net.training, next(net.parameters()).device
    net.eval()
    totals: dict[str, list[float]] = {}
    counts: dict[str, list[float]] = {}
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    try:
        for index in torch.arange(len(rows.tokens)).split(GROUP):
            batch = Batch.of(rows.tokens[index].to(device), alphabet, rows.documents[index].to(device))
            stream = Stream.of(seed, index.to(device))
            question = objective.corrupt(batch, stream)
            for term in objective(net, question, stream).terms:
                totals.setdefault(term.name, []).append(float(term.total))
                counts.setdefault(term.name, []).append(float(term.count))
            if isinstance(net, Pair):
                seen.append(_look(objective, net, question, stream))
    finally:
        net.train(training)
    found = {f"{name}_nats": ratio(totals[name], counts[name], "nats/token") for name in totals}
    if seen:
        scores, replaced, right = (torch.cat(parts) for parts in zip(*seen))
        found["generator_accuracy"] = share(right, "share")
        if len(scores):
            found.update(detection(scores, replaced))
    return found


def _look(objective: Any, net: Pair, question: Any, stream: Stream) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores and labels of all cells (none where the discriminator predicts tokens), and which draws were right."""
    _, corrupted = objective.replace(net, question, stream)
    right = (corrupted.tokens == question.targets)[question.at]
    if not net.detects:
        return right.new_zeros(0, dtype=torch.float32), right.new_zeros(0), right
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)
    scores = net.discriminator.scores(hidden.flatten(0, 1))  # type: ignore[operator, union-attr]
    return scores, corrupted.replaced.flatten(), right
