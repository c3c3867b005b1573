"""Learner: objective and net as one module, so that a distributed wrapper sees one forward.

Shapes: K terms.
"""

from __future__ import annotations

from torch import Tensor, nn

from remask.core.objective import Loss, Objective, Question
from remask.core.stream import Stream
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import Pair


class Learner(nn.Module):
    """forward(question, stream) -> Loss."""

    def __init__(self, objective: Objective, net: HuggingFaceNet | Pair):
        super().__init__()
        self.objective = objective
        self.net = net

    def forward(self, question: Question, stream: Stream) -> Loss:
        """The loss of a question; `stream` has one seed a row."""
        return self.objective(self.net, question, stream)


def scaled(loss: Loss, counts: Tensor, devices: int = 1) -> Tensor:
    """The scalar to differentiate when this is one of several parts of a step.

    counts: [K] of the whole step; devices: gradients are averaged over so many, so the sum needs this factor.
    """
    return loss.mean(counts) * devices
