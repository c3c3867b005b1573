"""The work of `remask evaluate --adapt`: a long text through a frozen left-to-right model that adapts as it reads."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from remask.cli.show import estimates
from remask.cli.weighing import bar
from remask.cli.words import emit
from remask.core.errors import BadCheckpoint, BadData, BadInput, Diverged
from remask.core.metric import Estimate
from remask.data.split import fingerprint
from remask.data.text import Document, read
from remask.data.tokenizers import encode
from remask.decoders.recurrence import Recurrence, Recurring
from remask.metrics.units import in_units
from remask.nets.causal import CausalNet
from remask.nets.recurrent import RecurrentNet
from remask.train.checkpoint import Checkpoint
from remask.train.frozen import Frozen, load_causal

if TYPE_CHECKING:
    from remask.decoders.adapt import Adaptation

BLOCK = 128  # tokens whose -log p is one observation: neighbours depend on one another


class Stretch(NamedTuple):
    """A text cut into rows that are read side by side. tokens, bytes: [N, T], of each token."""

    tokens: Tensor
    bytes: Tensor


def by_adapting(values: argparse.Namespace, adaptation: Adaptation) -> int:
    """-log p of a text as it is read."""
    if values.streams < 1:
        raise BadInput(f"--streams came as {values.streams}: type 1 or more.")
    frozen = load_causal(values.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(frozen.model, CausalNet):
        raise BadCheckpoint(f"{frozen.path} has an encoder, and one text has no source: type a model without one.")
    documents = read(values.data, column=values.column, document=values.document)
    text = stretch(frozen, documents, values.streams)
    began = time.monotonic()
    nats = weigh(adaptation.stream(frozen.model, text.tokens), text.tokens.numel(), _quiet(values))
    facts = {
        "adapt": values.adapt,
        "settings": dataclasses.asdict(adaptation),  # type: ignore[call-overload]
        "kind": "exact likelihood, each token scored before it is learned from",
        "streams": values.streams,
        "seconds": round(time.monotonic() - began, 3),
        "fingerprint": fingerprint(documents),
    }
    return _tell(values, nats, text.bytes, facts, values.adapt)


def by_windows(values: argparse.Namespace, model: Checkpoint) -> int:
    """-log p of a text of any length, by a net that carries a vector from window to window; memory is a window's."""
    net, mask, end = model.net, model.alphabet.mask, model.alphabet.end
    assert isinstance(net, RecurrentNet)
    if end is None:
        raise BadCheckpoint(f"the tokenizer in {model.path} has no end token, so no text would ever be over: add one.")
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    plain = CausalNet(net.model, end, end, [] if mask is None else [mask], len(model.tokenizer))
    documents = read(values.data, column=values.column, document=values.document)
    text = stretch(Frozen(plain, model.tokenizer, model.facts, model.path), documents, 1)
    ends = text.tokens.eq(end).long()
    began = time.monotonic()
    parts = Recurrence().stream(Recurring(net, plain), text.tokens, ends.cumsum(1) - ends)
    nats = weigh(parts, text.tokens.numel(), _quiet(values))
    facts = {
        "kind": f"exact likelihood, a vector carried between windows of {net.window} tokens",
        "window": net.window,
        "seconds": round(time.monotonic() - began, 3),
        "fingerprint": fingerprint(documents),
    }
    return _tell(values, nats, text.bytes, facts, f"windows of {net.window}, a vector between them")


def _quiet(values: argparse.Namespace) -> bool:
    return values.json or not sys.stderr.isatty()


def _tell(values: argparse.Namespace, nats: Tensor, bytes: Tensor, facts: dict[str, Any], title: str) -> int:
    metrics = units(nats, bytes[:, bytes.shape[1] - nats.shape[1] :])
    if values.json:
        emit({**{name: estimate.json() for name, estimate in metrics.items()}, "tokens": nats.numel(), **facts})
        return 0
    Console().print(estimates(f"{title}, {nats.numel():,} tokens in {facts['seconds']:.1f} s", metrics))
    return 0


def stretch(frozen: Frozen, documents: Sequence[Document], streams: int) -> Stretch:
    """Documents in order, the end token behind each, in `streams` rows; fewer tokens than rows at the end are left."""
    encoded = [one for one in encode(frozen.tokenizer, [d.text for d in documents]) if one.ids]
    ids = [number for one in encoded for number in (*one.ids, frozen.model.end)]
    sizes = [size for one in encoded for size in (*one.bytes, 0)]
    length = len(ids) // streams
    if length < 2:
        raise BadData(f"the text has {len(ids)} tokens, too few for {streams} streams: give more text, or fewer.")
    return Stretch(*(torch.tensor(part[: length * streams]).view(streams, length) for part in (ids, sizes)))


def weigh(stream: Iterable[Tensor], total: int, quiet: bool) -> Tensor:
    """-log p [N, T] of a stream of its parts [N, k], on the CPU; Diverged where it is not finite. total: of tokens."""
    parts, done = [], 0
    with bar("reading tokens", quiet) as progress:
        for part in stream:
            parts.append(part.cpu())
            done += part.numel()
            progress(done, total)
    nats = torch.cat(parts, 1)
    if not nats.isfinite().all():
        raise Diverged("a token of the text has no probability under this model: lower --lr, or try --adapt none.")
    return nats


def units(nats: Tensor, bytes: Tensor) -> dict[str, Estimate]:
    """nats_per_token, perplexity and bits_per_byte of [N, T]; standard errors over blocks of 128 tokens."""
    ones = torch.ones_like(nats)
    nats, tokens, sizes = (
        torch.cat([block.double().sum(1) for block in part.split(BLOCK, 1)]) for part in (nats, ones, bytes)
    )
    try:
        return dict(in_units(nats, tokens, sizes))
    except OverflowError as error:
        raise Diverged(
            f"the text costs {float(nats.sum() / tokens.sum()):.0f} nats a token, more than a perplexity can be told "
            f"of ({math.log(sys.float_info.max):.0f}): lower --lr."
        ) from error
