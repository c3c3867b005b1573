"""The story of an ELECTRA run as one HTML page: curve, how well it detects, and the detector at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from remask.core.metric import Estimate
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.data.tokenizers import alphabet, encode
from remask.data.tokenizers import load as load_tokenizer
from remask.nets.pair import GENERATOR, Pair
from remask.objectives import OBJECTIVES
from remask.report import curves, page, tables
from remask.report.detected import Detected, detected
from remask.report.write import write
from remask.train.checkpoint import load_net
from remask.train.history import read as read_history
from remask.train.opening import open_net

NAMES = {
    "mlm_nats": "generator: nats per chosen token",
    "detection_nats": "detector: nats per token",
    "replace_mlm_nats": "discriminator: nats per chosen token",
    "all_tokens_mlm_nats": "discriminator: nats per token",
    "generator_accuracy": "generator: share of draws that are right",
    "detection_auc": "detector: area under the ROC curve",
    "recall_of_replaced": "detector: share of the replaced found",
    "precision_of_replaced": "detector: share of its finds that were replaced",
    "share_replaced": "share of tokens that are replaced",
}
HEADLINES = ("detection_auc", "replace_mlm_nats", "all_tokens_mlm_nats")
LOSS = "Training loss, both terms with their weights"
CHANCE = {"detection_auc": {"chance": 0.5}}


def tell(run: Path, facts: dict[str, Any], texts: Sequence[str], seed: int) -> Path:
    """Write `report.html` of a run whose `remask.json` says `facts`; `texts` are held-out sentences."""
    metrics = {name: Estimate(**e) for name, e in facts["metrics"].items()}
    headline = next(name for name in HEADLINES if name in metrics)
    points = read_history(run)
    losses = [(p["tokens"], p["loss"]) for p in points if "loss" in p]
    held = [(p["tokens"], p[headline], p[f"{headline}_stderr"]) for p in points if p.get(headline) is not None]
    sections = [
        page.Section(
            "How it learned",
            curves.curve_of(
                losses, held, NAMES[headline], CHANCE.get(headline, {}), caption="Against tokens read.", loss=LOSS
            ),
        ),
        page.Section("What it is worth", _table(metrics)),
    ]
    if "detection_auc" in metrics:
        sections.append(
            page.Section(
                "The detector at work",
                detected(at_work(run, facts, texts, seed)),
                "Held-out sentences after the generator has replaced some of their tokens.",
            )
        )
    sections.append(page.Section("Make it again", page.recipe(facts.get("command") or "", _recipe(facts))))
    html = page.page(
        "An encoder that learned from every token",
        f"{facts['parameters']:,} parameters in both nets read {facts['tokens']:,} tokens in "
        f"{facts['seconds']:.0f} seconds.",
        sections,
        {"remask": facts["remask"], "torch": facts["versions"]["torch"], "text": facts["data"]["fingerprint"]},
        facts=[page.Fact(NAMES[headline], tables.plus_minus(metrics[headline].value, metrics[headline].stderr))],
    )
    return write(run / "report.html", html)


def _table(metrics: dict[str, Estimate]) -> str:
    rows: list[list[Any]] = [[NAMES.get(name, name), (e.value, e.stderr)] for name, e in metrics.items()]
    note = "On held-out text; ± one standard error. Few tokens are replaced, so plain accuracy would say nothing."
    return tables.Table("Held-out text", ["what", "value"], rows, note).to_html()


def at_work(run: Path, facts: dict[str, Any], texts: Sequence[str], seed: int) -> list[Detected]:
    """Replace tokens of some texts with the run's generator and let its detector look at them."""
    settings = {name: value for name, value in facts["objective"].items() if name != "name"}
    objective = OBJECTIVES.load("electra")(**settings)
    pair = Pair(load_net(run / GENERATOR), open_net(run)).eval()
    tokenizer = load_tokenizer(str(run))
    letters, found = alphabet(tokenizer, pair.vocabulary), []
    for number, encoded in enumerate(encode(tokenizer, list(texts))):
        batch = Batch.of(torch.tensor([encoded.ids[: pair.length]]), letters)
        stream = Stream.of(seed, torch.tensor([number]))
        with torch.inference_mode():
            question = objective.corrupt(batch, stream)
            _, corrupted = objective.replace(pair, question, stream)
            hidden = pair.discriminator.hidden(corrupted.tokens)
            chance = pair.discriminator.scores(hidden[0]).sigmoid().tolist()  # type: ignore[operator, union-attr]
        seen, truth = ([tokenizer.decode([t]) for t in row[0].tolist()] for row in (corrupted.tokens, batch.tokens))
        found.append(Detected(seen, truth, chance))
    return found


def _recipe(facts: dict[str, Any]) -> dict[str, str]:
    return {
        "seed": str(facts["recipe"]["training"]["seed"]),
        "steps": f"{facts['step']:,}",
        "training time": f"{facts['seconds']:.0f} s on {facts['threads']} threads",
        "python": facts["versions"]["python"],
        "transformers": facts["versions"]["transformers"],
    }
