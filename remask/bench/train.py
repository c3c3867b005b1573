"""Training speed: logits at masked cells in fused chunks, against the same net with full logits, and against BERT.

Every arm takes whole optimizer steps (forward, backward, clipping, fused AdamW) on the same questions, in a process of
its own (so that peak memory is the arm's), arms in turn for several rounds; the figure is the median round.
Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.core.objective import Batch, Question
from remask.core.stream import Stream
from remask.nets import encoder
from remask.nets.hf import HuggingFaceNet
from remask.objectives.mdlm import MDLM

BASELINES = ("full", "bert")
SMALLEST = 16  # ids of a vocabulary worth timing


class Arm(NamedTuple):
    """A way to train: make a module for a vocabulary, and the loss of a question under it."""

    what: str
    build: Callable[[Train, Alphabet], torch.nn.Module]
    loss: Callable[[Any, Question], Tensor]


@dataclass(frozen=True)
class Train:
    """Training tokens per second and peak memory of several ways to take the same step."""

    net: str = "mini"
    """Size of our net; BERT gets the same layers, width and heads."""
    length: int = 128
    """Tokens in a row."""
    batch: int = 32
    """Rows in a step."""
    vocabularies: tuple[str, ...] = ("8192", "50304")
    """Vocabulary sizes."""
    seconds: float = 6.0
    """Timed seconds of each arm and round."""
    rounds: int = 3
    """Rounds; arms take turns within a round."""
    bf16: bool = True
    """bfloat16 autocast."""

    def __post_init__(self) -> None:
        for came in self.vocabularies:
            if not came.isdecimal() or int(came) < SMALLEST:
                raise BadInput(f"--vocabularies came with '{came}': type whole numbers from {SMALLEST} on, like 8192.")
        if self.net not in encoder.SIZES:
            raise UnknownName("net", self.net, encoder.SIZES)
        for name in ("length", "batch", "seconds", "rounds"):
            if not getattr(self, name) > 0:
                raise BadInput(f"--{name} came as {getattr(self, name)}: it must be above 0.")

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each vocabulary and arm, with ratios to the baselines of the same run."""
        for vocabulary in map(int, self.vocabularies):
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
            for _ in range(self.rounds):
                for name in ARMS:
                    runs[name].append(self._child(name, vocabulary))
            speed = {name: statistics.median(r["tokens_per_second"] for r in rs) for name, rs in runs.items()}
            memory = {name: statistics.median(r["peak_mb"] for r in rs) for name, rs in runs.items()}
            for name, arm in ARMS.items():
                yield {
                    "vocabulary": vocabulary,
                    "arm": name,
                    "what": arm.what,
                    "tokens_per_second": round(speed[name]),
                    "peak_mb": round(memory[name]),
                    "loss": runs[name][0]["loss"],
                    **{f"speed_over_{b}": round(speed[name] / speed[b], 3) for b in BASELINES},
                    "memory_over_full": round(memory[name] / memory["full"], 3),
                    "spread": round((max(r["tokens_per_second"] for r in runs[name]) / speed[name] - 1), 3),
                }

    def _child(self, name: str, vocabulary: int) -> dict[str, float]:
        plan = {"net": self.net, "length": self.length, "batch": self.batch, "seconds": self.seconds, "bf16": self.bf16}
        code = "from remask.bench.train import measure; measure()"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, name, str(vocabulary), json.dumps(plan)],
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout.splitlines()[-1])


def _ours(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    return encoder.build(plan.net, alphabet, plan.length)


def _plain(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    return encoder.build(plan.net, alphabet, plan.length, directional_heads=False)


def _bert(plan: Train, alphabet: Alphabet) -> torch.nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    size = encoder.SIZES[plan.net]
    return BertForMaskedLM(
        BertConfig(
            vocab_size=alphabet.size,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            max_position_embeddings=plan.length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _fused(net: HuggingFaceNet, question: Question) -> Tensor:
    stream = Stream.of(0, len(question.tokens))
    return MDLM()(net, question, stream).mean()


def _weighted(logits: Tensor, question: Question, targets: Tensor, weight: Tensor) -> Tensor:
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (nll * weight).sum() / float(question.counts[0])


def _masked(net: HuggingFaceNet, question: Question) -> Tensor:
    logits = net.logits(net.hidden(question.tokens, documents=question.documents)[question.at])
    logits[:, question.alphabet.mask] = -torch.inf
    return _weighted(logits, question, question.targets[question.at], question.weight[question.at])


def _full(net: HuggingFaceNet, question: Question) -> Tensor:
    logits = net.logits(net.hidden(question.tokens, documents=question.documents).flatten(0, 1))
    logits[:, question.alphabet.mask] = -torch.inf
    weight = torch.where(question.at, question.weight, 0.0)
    return _weighted(logits, question, question.targets.flatten(), weight.flatten())


def _transformers(model: Any, question: Question) -> Tensor:
    labels = torch.where(question.at, question.targets, -100)
    return model(input_ids=question.tokens, labels=labels).loss


ARMS: dict[str, Arm] = {
    "fused": Arm(
        "logits at masked cells, chunked cross-entropy with gradients in the forward pass (ours)", _ours, _fused
    ),
    "plain": Arm("the same without directional heads (plain ModernBERT)", _plain, _fused),
    "masked": Arm("logits at masked cells, torch's cross-entropy", _ours, _masked),
    "full": Arm("logits everywhere, torch's cross-entropy", _ours, _full),
    "bert": Arm("transformers' BertForMaskedLM as it comes: full logits, its own loss", _bert, _transformers),
}


def measure() -> None:
    """The child process: time one arm and print one JSON line."""
    name, vocabulary, plan_text = sys.argv[1:4]
    plan = Train(**json.loads(plan_text))
    arm, alphabet = ARMS[name], Alphabet(int(vocabulary), mask=1, pad=0, end=2)
    torch.manual_seed(0)
    module = arm.build(plan, alphabet).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(4, alphabet.size, (plan.batch, plan.length), generator=torch.Generator().manual_seed(1))
    batch = Batch.of(tokens, alphabet)
    first, steps, began = 0.0, 0, 0.0
    while steps < 2 or time.perf_counter() - began < plan.seconds:
        question = MDLM().corrupt(batch, Stream.of(steps, plan.batch))
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
            loss = arm.loss(module, question)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        first = float(loss.detach()) if steps == 0 else first
        steps += 1
        if steps == 2:  # the first two steps warm up
            began = time.perf_counter()
    rate = (steps - 2) * tokens.numel() / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"tokens_per_second": rate, "peak_mb": peak, "loss": round(first, 4)}))
