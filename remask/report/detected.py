"""A detector at work: texts in which a generator replaced tokens, each token tinted by how replaced it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from remask.core.errors import BadInput
from remask.report.markup import escape, split_space

FAINT = 0.05  # probabilities below this are not tinted


class Detected(NamedTuple):
    """A text: its pieces as the detector saw them, the original pieces, and p(replaced) of each."""

    pieces: Sequence[str]
    truth: Sequence[str]
    probability: Sequence[float]


def detected(items: Sequence[Detected]) -> str:
    """The texts as a list; a replaced piece has the original above it. One entry per piece each, or `BadInput`."""
    rows = "".join(f'<li dir="auto">{_row(item)}</li>\n' for item in items)
    key = (
        '<p class="note key"><span>the darker a token, the surer the detector is that it was replaced; what stood '
        "there before stands above</span></p>\n"
    )
    return f'<div class="fills">\n<ol>\n{rows}</ol>\n{key}</div>\n'


def _row(item: Detected) -> str:
    if not len(item.pieces) == len(item.truth) == len(item.probability):
        raise BadInput(
            f"{len(item.pieces)} pieces, {len(item.truth)} originals, {len(item.probability)} probabilities: "
            "wanted one each."
        )
    return "".join(_piece(*parts) for parts in zip(item.pieces, item.truth, item.probability, strict=True))


def _piece(piece: str, truth: str, probability: float) -> str:
    space, core = split_space(piece)
    text = escape(core)
    if probability >= FAINT:
        share = round(85 * min(probability, 1.0))
        tint = f"background:color-mix(in srgb,var(--accent) {share}%,transparent);border-radius:3px;padding:.12em 0"
        text = f'<span style="{tint}" title="p(replaced) {probability:.2f}">{text}</span>'
    if piece == truth:
        return f"{space}{text}"
    was = escape(truth.strip() or truth)
    return f'{space}<ruby title="the original: {was}">{text}<rp> (</rp><rt>{was}</rt><rp>)</rp></ruby>'
