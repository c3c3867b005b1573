"""The story of a run as one HTML page: curve, bound beside baselines, blanks filled, new text, the masks falling.

Text goes in, plain data comes out: the drawing is the report room's, the numbers are the metrics room's.
Shapes: R rows, L length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas, blank, infill
from remask.core.draw import Greedy
from remask.core.metric import Estimate
from remask.core.sampler import run
from remask.core.stream import Stream
from remask.data.corpus import Corpus
from remask.metrics.generative import generative, unigram_entropy
from remask.metrics.ngram import NGram, ngram
from remask.report import curves, page, tables
from remask.report.falling import falling
from remask.report.write import write
from remask.samplers.first_hitting import FirstHitting
from remask.train.checkpoint import Checkpoint
from remask.train.history import read as read_history

ORDERS = {1: "unigram", 2: "bigram", 3: "trigram"}
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
HIDDEN = 0.3  # share of a sentence's tokens that become blanks


class Written(NamedTuple):
    """Texts that a sampler wrote.

    tokens: [R, L]; order: [R, L], the step at which each cell fell, 0 = given; calls: [R].
    """

    tokens: Tensor
    order: Tensor
    calls: Tensor


def baselines(corpus: Corpus, size: int) -> dict[str, dict[str, Estimate]]:
    """The n-gram models of the same tokens, weighed on the same held-out rows."""
    train, valid = corpus.train.tokens, corpus.valid
    return {name: dict(ngram(train, valid.tokens, n, size, bytes=valid.bytes)) for n, name in ORDERS.items()}


def written(model: Checkpoint, canvas: Canvas, sampler: Any, seed: int) -> Written:
    """Run a sampler and remember when each cell fell."""
    order = torch.zeros_like(canvas.tokens)
    calls = torch.zeros(len(canvas.tokens), dtype=torch.int64)
    tokens = canvas.tokens
    for step, (state, info) in enumerate(
        run(sampler, model.conditional(), canvas, Stream.of(seed, len(canvas.tokens))), start=1
    ):
        order[info.changed] = step
        tokens, calls = state.tokens, calls + info.calls
    return Written(tokens, order, calls)


def pieces(model: Checkpoint, row: Sequence[int]) -> list[str]:
    """The text of every token; a token that is a part of a character shows as the replacement sign."""
    return [model.tokenizer.decode([token]) for token in row]


def sentences(texts: Sequence[str], wanted: int, seed: int) -> list[str]:
    """Real sentences of held-out text, 60 to 160 characters, spread over it."""
    flat = [" ".join(s.split()) for text in texts for block in text.split("\n\n") for s in SENTENCE.split(block)]
    fit = [
        s for s in flat if 60 <= len(s) <= 160 and s[0].isupper() and s[-1] in ".!?" and "  " not in s and "*" not in s
    ]
    order = Stream.of(seed, max(len(fit), 1)).seeds.argsort().tolist()
    return [fit[i] for i in sorted(order[:wanted])] if fit else []


def blanks(model: Checkpoint, texts: Sequence[str], seed: int) -> list[page.Fill]:
    """Hide a share of each sentence's tokens and let the model put its best guesses in."""
    from remask.core.choose import exactly
    from remask.core.stream import Purpose
    from remask.data.tokenizers import encode

    filled = []
    for number, encoded in enumerate(encode(model.tokenizer, list(texts))):
        truth = torch.tensor([encoded.ids])
        stream = Stream.of(seed, torch.tensor([number]))
        uniform = stream.uniform(0, Purpose.MASK, truth.shape[1])
        count = torch.tensor([max(1, round(HIDDEN * truth.shape[1]))])
        hidden = exactly(uniform, torch.ones_like(truth, dtype=torch.bool), count)
        canvas = infill(torch.where(hidden, model.alphabet.mask, truth), model.alphabet)
        guess = written(model, canvas, FirstHitting(draw=Greedy()), seed).tokens
        filled.append(page.Fill(pieces(model, guess[0].tolist()), hidden[0].tolist(), pieces(model, truth[0].tolist())))
    return filled


class Writing(NamedTuple):
    """New texts, how they were made, and their two numbers beside the held-out text's."""

    new: Written
    seconds: float
    metrics: dict[str, Estimate]
    entropy: Estimate


def write_new(model: Checkpoint, corpus: Corpus, texts: int, seed: int) -> Writing:
    """New rows from nothing, weighed under the trigram of the training text."""
    import time

    from remask.core.metric import ratio

    length = corpus.valid.tokens.shape[1]
    began = time.monotonic()
    new = written(model, blank(texts, length, model.alphabet), FirstHitting(), seed)
    seconds = time.monotonic() - began
    scorer = NGram(corpus.train.tokens, 3, model.alphabet.size)
    real = unigram_entropy(corpus.valid.tokens).tolist()
    return Writing(new, seconds, dict(generative(new.tokens, scorer.nats)), ratio(real, [1.0] * len(real), "nats"))


def curve(path: Path) -> list[curves.Point]:
    """A run's history as points of the training curve."""
    return [
        curves.Point(
            p["step"], p["tokens"], p["seconds"], p.get("loss"), p.get("bits_per_byte"), p.get("bits_per_byte_stderr")
        )
        for p in read_history(path)
    ]


def tell(
    path: Path,
    model: Checkpoint,
    corpus: Corpus,
    metrics: dict[str, Estimate],
    grams: dict[str, dict[str, Estimate]],
    fills: Sequence[page.Fill],
    writing: Writing,
) -> Path:
    """Write `report.html` into a run's directory."""
    facts = model.facts
    bound = metrics["bits_per_byte"]
    named = {name: m["bits_per_byte"].value for name, m in grams.items()}
    right = [a == b for f in fills for a, b, h in zip(f.pieces, f.truth or f.pieces, f.filled) if h]
    table = tables.Table(
        "Held-out text",
        ["model", "bits per byte", "nats per token", "perplexity"],
        [
            [name, *((m[key].value, m[key].stderr) for key in ("bits_per_byte", "nats_per_token", "perplexity"))]
            for name, m in {"this model (upper bound)": metrics, **grams}.items()
        ],
        "Lower is better. ± one standard error over rows. n-grams are exact likelihoods (Witten-Bell, same tokens); "
        "the model's figure is an upper bound, so the comparison is against it.",
    )
    quality = tables.Table(
        "Samples in numbers",
        ["what", "samples", "held-out text"],
        [
            ["unigram entropy, nats", _pair(writing.metrics["unigram_entropy"]), _pair(writing.entropy)],
            [
                "perplexity under the trigram",
                _pair(writing.metrics["perplexity"]),
                _pair(grams["trigram"]["perplexity"]),
            ],
        ],
        "Perplexity alone flatters repetition; read it beside the entropy. Tokens are drawn by inverse CDF in float64.",
    )
    shown = [model.tokenizer.decode(row) for row in writing.new.tokens[:4]]
    per_text = writing.seconds / len(writing.new.tokens)
    sections = [
        page.Section(
            "How it learned",
            curves.training_curve(
                curve(path), named, caption="Training loss, and the bound on held-out text against tokens read."
            ),
        ),
        page.Section(
            "What it is worth", curves.bars(_bars(bound, grams), "bits per byte, lower is better") + table.to_html()
        ),
        page.Section(
            "Watch the masks fall",
            falling(
                pieces(model, writing.new.tokens[0].tolist()),
                writing.new.order[0].tolist(),
                "One cell at a time, in random order",
            ),
            "A text begins as nothing but masks. Each step opens one random cell and draws its token given all the "
            "others seen so far.",
        ),
        page.Section(
            "Blanks filled in held-out sentences",
            page.fills(fills),
            f"{HIDDEN:.0%} of each sentence's tokens were hidden; the model never saw these topics. "
            f"{sum(right)} of {len(right)} blanks came back word for word."
            if right
            else "",
        ),
        page.Section(
            "New text",
            page.samples(
                [page.Sample(text, f"{int(writing.new.calls[i])} network calls") for i, text in enumerate(shown)]
            )
            + quality.to_html(),
            f"First-hitting sampling from blank canvases, {per_text:.1f} s a text, {len(writing.new.calls)} at a time.",
        ),
        page.Section("Make it again", page.recipe(facts.get("command") or "remask demo", _recipe(facts))),
    ]
    html = page.page(
        "A masked language model, from scratch",
        f"{facts['parameters']:,} parameters read {facts['tokens']:,} tokens in {facts['seconds']:.0f} seconds.",
        sections,
        {"remask": facts["remask"], "torch": facts["versions"]["torch"], "text": facts["data"]["fingerprint"]},
        facts=[
            page.Fact("held-out bound", f"{tables.plus_minus(bound.value, bound.stderr)}", "bits per byte"),
            page.Fact("bigram, same tokens", f"{named['bigram']:.3f}", "bits per byte"),
            page.Fact("trigram, same tokens", f"{named['trigram']:.3f}", "bits per byte"),
            page.Fact("blanks guessed", f"{sum(right)} of {len(right)}", "held-out sentences"),
        ],
    )
    return write(path / "report.html", html)


def _pair(e: Estimate) -> tuple[float, float]:
    return e.value, e.stderr


def _bars(bound: Estimate, grams: dict[str, dict[str, Estimate]]) -> list[tuple[str, float, float | None]]:
    rows: list[tuple[str, float, float | None]] = [("this model", bound.value, bound.stderr)]
    return rows + [(name, m["bits_per_byte"].value, m["bits_per_byte"].stderr) for name, m in grams.items()]


def _recipe(facts: dict[str, Any]) -> dict[str, str]:
    training = facts["recipe"]["training"]
    return {
        "seed": str(training["seed"]),
        "steps": f"{facts['step']:,}",
        "training time": f"{facts['seconds']:.0f} s on {facts['threads']} threads",
        "held-out topics": ", ".join(facts["data"]["held_out"]),
        "python": facts["versions"]["python"],
        "transformers": facts["versions"]["transformers"],
    }
