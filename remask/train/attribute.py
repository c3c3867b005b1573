"""Fitting a classifier of what a left-to-right model's text will be, on texts that the model writes itself.

p(a | prefix) is the model's own, so its examples are the model's own samples and not a corpus (Yoshida, Goyal & Gimpel
2024, arXiv 2311.08817): every prefix of every sample is one, with the outcome of the finished text, and none weighs
more than another. Left out are prefixes whose attribute is settled, about which no search ever asks. Searches look at
prefixes that samples rarely visit; `beam` adds those of a beam search, each finished by sampling, so that their
outcomes too are drawn from the model.
Samples are parted by text, never by prefix: some are learned from, some choose the epoch, some are only weighed.
Shapes: N texts, M examples, D width, C outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.decoder import CausalModel
from remask.core.errors import BadInput, Diverged
from remask.core.metric import Estimate
from remask.decoders.attributes import Attribute
from remask.decoders.conditional_beam import ConditionalBeam
from remask.decoders.outcomes import Outcomes
from remask.metrics.agreement import Calibration
from remask.metrics.calibration import by_text, forecasts, reliability
from remask.nets.attribute import AttributeHead, embeddings
from remask.nets.convert import seeded
from remask.train.attribute_directory import check_free, fingerprint, write
from remask.train.attribute_samples import Drawn, samples, visits

Told = Callable[[str, dict[str, Any]], None]
"""Called with an event and what there is to say: drawn, epoch, done."""


@dataclass(frozen=True)
class AttributeTraining:
    """What a classifier of an attribute is fitted on, and how long."""

    samples: int = 2000
    """Texts to draw from the model, shared out among the prompts."""
    tokens: int = 64
    """Budget of a text, its end counted; texts that reach it are cut there, here and when decoding."""
    beam: int = 0
    """Add the prefixes that a beam search of so many hypotheses visits, each finished by sampling; 0 = none."""
    held_out: float = 0.2
    """Share of the texts that nothing is learned from: half of them choose the epoch, half are weighed."""
    exact: int = 32
    """Lengths: numbers of remaining tokens below this have an outcome each, larger ones share bins."""
    inner: int = 256
    """Units of a hidden layer of the classifier."""
    epochs: int = 20
    """Times that every example is seen, at most."""
    batch: int = 512
    """Examples of a step."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW; it falls to 0 in a straight line."""
    seed: int = 0
    """Of the texts, of the classifier's first weights, and of the order of examples."""

    def __post_init__(self) -> None:
        for name in ("samples", "tokens", "exact", "inner", "epochs", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise BadInput(f"--{name.replace('_', '-')} came as {getattr(self, name)}: it must be above 0.")
        if self.beam < 0:
            raise BadInput(f"--beam came as {self.beam}: it must be 0 or more.")
        if not 0 < self.held_out < 1:
            raise BadInput(f"--held-out came as {self.held_out}: it must lie between 0 and 1.")


class Examples(NamedTuple):
    """M examples. hidden: [M, D]; written, token, label, text: [M] int64, text being the number of the text."""

    hidden: Tensor
    written: Tensor
    token: Tensor
    label: Tensor
    text: Tensor

    def rows(self, index: Tensor) -> Examples:
        """Keep some of them."""
        return Examples(*(x[index] for x in (self.hidden, self.written, self.token, self.label, self.text)))


class Fitted(NamedTuple):
    """A classifier that was fitted and saved.

    drawn: texts, satisfied: how many of them have the attribute; metrics: on texts that nothing was learned from;
    reliability: its bins; nats: log loss of the texts that chose, by epoch; facts: all of this, as it was written.
    """

    head: AttributeHead
    outcomes: Outcomes
    drawn: int
    satisfied: int
    metrics: dict[str, Estimate]
    reliability: Calibration
    nats: list[float]
    facts: dict[str, Any]


def train_attribute(
    model: CausalModel,
    attribute: Attribute,
    out: str | Path,
    training: AttributeTraining | None = None,
    prompts: Sequence[Sequence[int]] = ((),),
    *,
    overwrite: bool = False,
    told: Told | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit a classifier of an attribute to a model's own texts, weigh it, and save it to `out`.

    prompts: what texts are continuations of, without the start that the model adds itself; notes: what else is to be
    recorded (the command). Raises BadInput for an attribute that no sample has, or that needs no classifier, and
    OutputExists where `out` holds something else.
    """
    training, told = training or AttributeTraining(), told or (lambda event, what: None)
    check_free(Path(out), overwrite)
    table, owner = embeddings(model), fingerprint(model)
    _fits(model, prompts, attribute, training)
    outcomes = attribute.outcomes(training.tokens, training.exact)
    own = list(samples(model, prompts, training.samples, training.tokens, training.seed))
    texts = [(text, ended) for part in own for text, ended in zip(part.texts, part.ended)]
    satisfied = sum(attribute(*text) for text in texts)
    told("drawn", {"texts": len(texts), "satisfied": satisfied, "ended": sum(ended for _, ended in texts)})
    if not satisfied:
        raise BadInput(
            f"none of {len(texts)} texts drawn from the model, of up to {training.tokens} tokens with the end, has the "
            "attribute: draw more (--samples), let them be longer (--tokens), or ask for what the model writes."
        )
    learned, chosen, weighed = _parted(_asked(own, attribute, outcomes), len(texts), training)
    if training.beam:
        search = ConditionalBeam(beam=training.beam, attribute=attribute)
        visited = visits(model, search, prompts, training.tokens, training.seed)
        learned = _joined([learned, *_examples(visited, attribute, outcomes)])
    with seeded(training.seed):
        head = AttributeHead(table, learned.hidden.shape[1], outcomes.size, training.tokens, training.inner)
    nats = fit(head.to(table.device), learned, chosen, training, told)
    metrics, bins = weigh(head, weighed)
    facts = {
        **(notes or {}),
        **{"asks": attribute.asks, "longest": training.tokens, "exact": training.exact, "model": owner},
        **{"width": learned.hidden.shape[1], "outcomes": outcomes.size, "inner": training.inner},
        **{"training": asdict(training), "prompts": len(prompts), "drawn": len(texts), "satisfied": satisfied},
        **{"examples": len(learned.label), "nats": nats},
        "metrics": {name: estimate.json() for name, estimate in metrics.items()},
        "reliability": [bin_._asdict() for bin_ in bins.bins],
    }
    write(Path(out), head, facts)
    told("done", facts)
    return Fitted(head, outcomes, len(texts), satisfied, metrics, bins, nats, facts)


def _examples(drawn: Iterable[Drawn], attribute: Attribute, outcomes: Outcomes) -> Iterator[Examples]:
    """Every prefix that is not settled, with the outcome of its text."""
    before = 0
    for part in drawn:
        labels = [outcomes.labels(text, ended) for text, ended in zip(part.texts, part.ended)]
        rows, places = part.row.tolist(), part.written.tolist()
        token = [part.texts[row][place - 1] for row, place in zip(rows, places)]
        asked = [attribute.settled(part.texts[r][: p - 1], [t])[0] is None for r, p, t in zip(rows, places, token)]
        label = [labels[row][place - 1] for row, place in zip(rows, places)]
        if any(asked):
            found = Examples(part.hidden, part.written, torch.tensor(token), torch.tensor(label), part.row + before)
            device = part.hidden.device
            yield Examples(*(x.to(device) for x in found)).rows(torch.tensor(asked, device=device))
        before += len(part.texts)


def _asked(drawn: Sequence[Drawn], attribute: Attribute, outcomes: Outcomes) -> Examples:
    """The same, all of them; BadInput if there is none."""
    found = list(_examples(drawn, attribute, outcomes))
    if not found:
        raise BadInput(
            f"in none of {sum(len(part.texts) for part in drawn)} texts drawn from the model did a prefix leave the "
            "attribute open, so no classifier is needed: decode without one."
        )
    return _joined(found)


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(*(torch.cat(each) for each in zip(*parts)))


def _parted(examples: Examples, texts: int, training: AttributeTraining) -> tuple[Examples, Examples, Examples]:
    """Examples of the texts to learn from, to choose by, and to weigh on."""
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(training.seed))
    place = torch.empty_like(order)
    place[order] = torch.arange(texts)
    place = place.to(examples.text.device)[examples.text]
    half, whole = texts * training.held_out / 2, texts * training.held_out
    parts = (
        examples.rows(place >= whole),
        examples.rows(place < half),
        examples.rows((place >= half) & (place < whole)),
    )
    if not all(len(part.label) for part in parts):
        raise BadInput(
            f"{texts} texts drawn from the model are too few to learn from, choose by and weigh on: type more "
            "--samples."
        )
    return parts


def log_probs(head: AttributeHead, examples: Examples) -> Tensor:
    """Log p of the outcomes, [M, C] float32."""
    return head(examples.hidden, examples.written, examples.token[:, None])[:, 0]


def fit(
    head: AttributeHead, learned: Examples, chosen: Examples, training: AttributeTraining, told: Told
) -> list[float]:
    """Fit a head, and leave it as it was after the epoch that is best on `chosen`; returns its log loss by epoch."""
    head.standardise(learned.hidden)
    head.start(learned.label)
    steps = training.epochs * -(-len(learned.label) // training.batch)
    optimizer = torch.optim.AdamW(head.parameters(), lr=training.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(training.seed)
    nats: list[float] = []
    best: dict[str, Tensor] = {}
    for epoch in range(training.epochs):
        order = torch.randperm(len(learned.label), generator=generator).to(learned.label.device)
        for index in order.split(training.batch):
            part = learned.rows(index)
            loss = torch.nn.functional.nll_loss(log_probs(head, part), part.label)
            if not loss.isfinite():
                raise Diverged("fitting the classifier met a loss that is not finite: type a lower --learning-rate.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            nats.append(float(_nats(head, chosen).mean()))
        if not math.isfinite(nats[-1]):
            raise Diverged("fitting the classifier met a loss that is not finite: type a lower --learning-rate.")
        if nats[-1] == min(nats):
            best = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        told("epoch", {"epoch": epoch + 1, "epochs": training.epochs, "nats": nats[-1]})
    head.load_state_dict(best)
    return nats


def _nats(head: AttributeHead, examples: Examples) -> Tensor:
    """Log loss of each example, [M]."""
    parts = [log_probs(head, examples.rows(index)) for index in torch.arange(len(examples.label)).split(4096)]
    return -torch.cat(parts).gather(1, examples.label[:, None])[:, 0]


@torch.no_grad()
def weigh(head: AttributeHead, examples: Examples) -> tuple[dict[str, Estimate], Calibration]:
    """Log loss, Brier score and reliability of what a head says of examples; yes or no is one forecast, not two."""
    probability = torch.cat(
        [log_probs(head, examples.rows(index)).exp() for index in torch.arange(len(examples.label)).split(4096)]
    )
    happened = torch.nn.functional.one_hot(examples.label, probability.shape[1]).bool()
    if probability.shape[1] == 2:
        probability, happened = probability[:, 1:], happened[:, 1:]
    nats = by_text(_nats(head, examples).double(), examples.text, "nats per prefix")
    metrics = {"nats": nats, **dict(forecasts(probability, happened, examples.text))}
    return metrics, reliability(probability, happened)


def _fits(
    model: CausalModel, prompts: Sequence[Sequence[int]], attribute: Attribute, training: AttributeTraining
) -> None:
    """Refuse prompts and budgets that leave no room."""
    if attribute.least > training.tokens:
        raise BadInput(
            f"a text with this attribute takes {attribute.least} tokens with its end, and texts of up to "
            f"{training.tokens} would be drawn: type more --tokens."
        )
    if not prompts:
        raise BadInput("no prompt came for the model to go on from: give one, an empty one will do.")
    most = getattr(model, "longest", training.tokens)
    if training.tokens > most:
        raise BadInput(
            f"texts of {training.tokens} tokens were wanted, and the model writes up to {most}: type "
            f"--tokens {most} or less."
        )
    longest = max(map(len, prompts))
    if longest + training.tokens > model.window:
        raise BadInput(
            f"texts of {training.tokens} tokens after a prompt of {longest} were wanted, and the model reads "
            f"{model.window}: type fewer --tokens, or give shorter prompts."
        )
