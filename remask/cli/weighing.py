"""The three ways of `remask evaluate`, one function each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from remask.cli.show import console, estimates, say
from remask.cli.words import emit
from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.data import tokenizers
from remask.data.labelled import Labelled, check_seen, class_names, read_labelled
from remask.data.pack import pack
from remask.data.split import fingerprint
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.metrics.minimal_pairs import by_kind, minimal_pairs
from remask.metrics.probe import MEASURES, fit, majority, measures
from remask.nets.recurrent import RecurrentNet
from remask.train import pairs as scoring
from remask.train.checkpoint import load
from remask.train.evaluate import weigh
from remask.train.features import features
from remask.train.hub import locate
from remask.train.opening import Opened, open_any, open_trunk


def _json(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.json() for name, estimate in metrics.items()}


@contextmanager
def bar(what: str, quiet: bool) -> Iterator[scoring.Progress]:
    """A progress bar with the time left, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet, expand=True, transient=True) as shown:
        task = shown.add_task(what)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _quick(model: Opened) -> Opened:
    """On the accelerator where there is one."""
    model.net.to("cuda" if torch.cuda.is_available() else "cpu")
    return model


# ---- a text ----------------------------------------------------------------------------------------------------------


def by_text(values: argparse.Namespace) -> int:
    """The bound of a masked net, or the exact likelihood of a causal one."""
    if values.draws < 1:
        raise BadInput(f"--draws came as {values.draws}: type 1 or more.")
    model = load(values.checkpoint)
    if isinstance(model.net, RecurrentNet) and values.length is None:
        from remask.cli.adapting import by_windows

        return by_windows(values, model)
    length = values.length if values.length is not None else min(model.length, 512)
    if not 1 <= length <= model.length:
        raise BadInput(
            f"--length {length} is beyond the {model.length} that {model.path} can read: type 1 to {model.length}."
        )
    documents = read(values.data, column=values.column, document=values.document)
    rows = pack(encode(model.tokenizer, [d.text for d in documents]), length, model.alphabet.end)
    metrics = weigh(model.net, model.alphabet, rows, draws=values.draws, estimator=values.estimator, seed=values.seed)
    kind = "exact likelihood" if model.net.causal else f"upper bound ({values.estimator}, {values.draws} draws a row)"
    if values.json:
        facts = {
            "kind": kind,
            "rows": len(rows.tokens),
            "length": length,
            "fingerprint": fingerprint(documents),
            "seed": values.seed,
        }
        emit({**_json(metrics), **facts})
        return 0
    Console().print(estimates(f"{kind}, {len(rows.tokens)} rows of {length} tokens", metrics))
    return 0


# ---- minimal pairs ---------------------------------------------------------------------------------------------------


def by_pairs(values: argparse.Namespace) -> int:
    """How often the good sentence scores higher."""
    pairs = scoring.read_pairs(values.minimal_pairs, most=values.pairs)
    model = _quick(open_any(values.checkpoint))
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    with bar("scoring tokens", values.json) as progress:
        scores = scoring.score_sentences(model, texts, batch_tokens=values.batch_tokens, progress=progress)
    good, bad, kinds = scores[::2], scores[1::2], [pair.kind for pair in pairs]
    metrics, each = dict(minimal_pairs(good, bad, kinds=kinds)), by_kind(good, bad, kinds)
    how = scoring.KINDS[scoring.kind_of(model.net)]
    if values.json:
        emit({**_json(metrics), "by_uid": _json(each), "kind": how, "pairs": len(pairs), "uids": len(each)})
        return 0
    shown = Table(title=f"{len(pairs):,} pairs, {how}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "accuracy", "n"):
        shown.add_column(column, justify="left" if column == "" else "right")
    for name, e in [*sorted(each.items(), key=lambda item: item[1].value), *metrics.items()]:
        shown.add_row(name.replace("_", " "), f"{e.value:.4f} ± {e.stderr:.4f}", f"{e.n:,}")
    Console().print(shown)
    return 0


# ---- a probe ---------------------------------------------------------------------------------------------------------


def by_probe(values: argparse.Namespace) -> int:
    """What a linear classifier reads off the hidden states, beside the counts of tokens and the majority class."""
    if len(values.data) > 1:
        raise BadInput(f"--data came with {len(values.data)} files: a probe is tested on one.")
    task = "pairs" if "text_pair" in (values.columns or "") else "classify"
    train, test = (read_labelled(path, values.columns, task) for path in (values.probe, values.data[0]))
    names = class_names(train)
    check_seen(test, names, "--probe")
    model = _quick(_encoder(values.checkpoint))
    with bar("reading tokens", values.json) as progress:
        first, second = (
            features(model, part.texts, part.pairs, batch_tokens=values.batch_tokens, progress=progress)
            for part in (train, test)
        )
    known, asked = (_numbers(part, names) for part in (train, test))
    with console.status("fitting") if not values.json else _silence():
        probe = fit(first.hidden, known, second.hidden)
        counts = fit(first.counts, known, second.counts)
    found = {
        "probe": dict(measures(probe.probabilities, asked)),
        "bag_of_tokens": dict(measures(counts.probabilities, asked)),
        "majority": dict(measures(majority(known, len(asked)), asked)),
    }
    facts = {
        "inverse_penalty": {"probe": probe.inverse_penalty, "bag_of_tokens": counts.inverse_penalty},
        "classes": len(names),
        "rows": {"train": len(known), "test": len(asked)},
        "cut": {"train": first.cut, "test": second.cut},
    }
    if values.json:
        emit({**{name: _json(metrics) for name, metrics in found.items()}, **facts})
        return 0
    _show(found, f"{len(known):,} rows to fit on, {len(asked):,} to test on, {len(names)} classes")
    if first.cut or second.cut:
        say(f"{first.cut:,} training and {second.cut:,} test texts were longer than the net reads, and cut.")
    return 0


def _encoder(path: str) -> Opened:
    """Any trunk with its tokenizer: a probe needs no head."""
    path = str(locate(path))
    net, tokenizer = open_trunk(path), tokenizers.load(path)
    return Opened(net, tokenizer, tokenizers.alphabet(tokenizer, net.trunk.vocabulary), {}, path)


def _numbers(part: Labelled, names: Sequence[str]) -> torch.Tensor:
    place = {name: number for number, name in enumerate(names)}
    return torch.tensor([place[label] for label in part.labels])


@contextmanager
def _silence() -> Iterator[None]:
    yield


def _show(found: Mapping[str, Mapping[str, Estimate]], title: str) -> None:
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", *MEASURES):
        shown.add_column(column.replace("_", " "), justify="left" if column == "" else "right")
    what = {"probe": "hidden states", "bag_of_tokens": "counts of tokens", "majority": "majority class"}
    for name, metrics in found.items():
        shown.add_row(what[name], *(f"{metrics[m].value:.4f} ± {metrics[m].stderr:.4f}" for m in MEASURES))
    Console().print(shown)
