"""The work of `remask evaluate MODEL --few-shot F`: label words after a prompt of examples, over draws of examples."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from remask.cli.show import say
from remask.cli.weighing import bar
from remask.cli.words import emit
from remask.core.errors import BadCheckpoint, BadInput, UnknownName
from remask.core.metric import Estimate
from remask.data.labelled import check_seen, class_names, read_labelled
from remask.decoders.baselines import Cached
from remask.decoders.few_shot import classify
from remask.decoders.hidden_state import HiddenState
from remask.nets.causal import CausalNet
from remask.train.frozen import load_causal
from remask.train.prompting import Template, accuracy, drawn, over_draws, put

Rows = dict[str, list[dict[str, float]]]
"""By way of reading: of each draw the accuracy, plain and calibrated."""


def by_examples(values: argparse.Namespace, adaptation: Any) -> int:
    """Accuracy on --data after prompts of examples from --few-shot. adaptation: beside the plain cache, or None."""
    for flag in ("shots", "orders"):
        if getattr(values, flag) < 1:
            raise BadInput(f"--{flag} came as {getattr(values, flag)}: type 1 or more.")
    if values.seed < 0:
        raise BadInput(f"--seed came as {values.seed}: type 0 or more.")
    if len(values.data) > 1:
        raise BadInput(f"--data came with {len(values.data)} files: queries come from one.")
    template = Template(values.template.replace("\\n", "\n"))
    readers: dict[str, Any] = {"cache": adaptation if isinstance(adaptation, Cached) else Cached()}
    if isinstance(adaptation, HiddenState):
        readers = {"cache": Cached(adaptation.chunk, adaptation.cache), "hidden_state": adaptation}
    elif adaptation is not None and not isinstance(adaptation, Cached):
        raise BadInput(f"--adapt {values.adapt} came with --few-shot: type --adapt hidden_state, or cache.")
    known, asked = (read_labelled(path, values.columns) for path in (values.few_shot, values.data[0]))
    names = class_names(known)
    check_seen(asked, names, "--few-shot")
    words = _words(values.words or [], names)
    frozen = load_causal(values.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(frozen.model, CausalNet):
        raise BadCheckpoint(f"{frozen.path} has an encoder, and a prompt of examples is no source: type one without.")
    labels = [names.index(label) for label in known.labels]
    right = [names.index(label) for label in asked.labels]
    found: Rows = {name: [] for name in readers}
    began = time.monotonic()
    with bar("drawing examples", values.json) as progress:
        for draw in range(values.orders):
            chosen = drawn(labels, len(names), values.shots, [values.seed, values.shots, draw])
            examples = [(known.texts[k], labels[k]) for k in chosen]
            task = put(frozen.tokenizer, template, words, examples, asked.texts)
            for name, reader in readers.items():
                found[name].append(accuracy(classify(frozen.model, task, range(values.shots), reader), right))
            progress(draw + 1, values.orders)
    facts = {
        "shots": values.shots,
        "orders": values.orders,
        "queries": len(right),
        "labels": dict(zip(names, words)),
        "most_frequent": max(right.count(n) for n in range(len(names))) / len(right),
        "guessing": 1 / len(names),
        "template": template.pattern,
        "settings": {name: dataclasses.asdict(reader) for name, reader in readers.items()},
        "seconds": round(time.monotonic() - began, 3),
    }
    return _tell(values, found, facts)


def _words(typed: Sequence[str], names: Sequence[str]) -> list[str]:
    """What stands for each label: its name, or what was typed."""
    said = dict.fromkeys(names, "") | {name: name for name in names}
    for one in typed:
        name, equals, word = one.partition("=")
        if not equals or not word.strip():
            raise BadInput(f"--words came with '{one}': type LABEL=WORD, for example {names[0]}={names[0]}.")
        if name not in said:
            raise UnknownName("label", name, names)
        said[name] = word.strip()
    if len({*said.values()}) < len(names):
        raise BadInput("two labels have one word: type --words with another for each.")
    return [said[name] for name in names]


def _tell(values: argparse.Namespace, found: Rows, facts: dict[str, Any]) -> int:
    rows: dict[str, dict[str, Estimate]] = {}
    for name, draws in found.items():
        rows[name] = {kind: over_draws([one[kind] for one in draws]) for kind in ("plain", "calibrated")}
        if name != "cache":
            apart = {k: [a[k] - b[k] for a, b in zip(draws, found["cache"])] for k in ("plain", "calibrated")}
            rows[name] |= {f"{kind}_minus_cache": over_draws(each) for kind, each in apart.items()}
    if values.json:
        told = {name: {kind: e.json() for kind, e in each.items()} for name, each in rows.items()}
        emit({**told, "draws": found, **facts})
        return 0
    table = Table(title=f"{facts['shots']} examples, {facts['orders']} draws of them", title_justify="left", box=None)
    for column in ("", "accuracy", "± standard error", "spread", "worst", "best"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in rows.items():
        for kind, e in each.items():
            base = kind.removesuffix("_minus_cache")
            one = np.array([draw[base] for draw in found[name]])
            if base != kind:
                one = one - np.array([draw[base] for draw in found["cache"]])
            cells = (e.value, e.stderr, one.std(ddof=1) if len(one) > 1 else np.nan, one.min(), one.max())
            table.add_row(f"{name} {kind}".replace("_", " "), *(f"{100 * cell:.1f} %" for cell in cells))
    Console().print(table)
    say(
        f"{facts['queries']:,} queries; the most frequent class is {100 * facts['most_frequent']:.1f} % of them, "
        f"guessing {100 * facts['guessing']:.1f} %"
    )
    return 0
