"""The page: one HTML file that opens anywhere, for years, and fetches nothing.

The document forbids itself all loading (a content security policy), and `page` reads the result back and refuses one
that has a reference to the outside. Texts are escaped here; `Section.body_html` is HTML made by this room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from remask.core.errors import BadInput
from remask.report.markup import escape, outside, split_space
from remask.report.style import CSS, DARK, LIGHT

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Section(NamedTuple):
    """A heading, the HTML below it, and a paragraph of plain text between them."""

    heading: str
    body_html: str
    text: str = ""


class Sample(NamedTuple):
    """A text that a model wrote, and a note on how."""

    text: str
    note: str = ""


class Fill(NamedTuple):
    """A filled-in text: its pieces, which of them the model filled, and the original pieces where they are known."""

    pieces: Sequence[str]
    filled: Sequence[bool]
    truth: Sequence[str] | None = None


class Fact(NamedTuple):
    """One headline number: what it is, its value, and a few words that place it."""

    name: str
    value: str
    note: str = ""


def page(
    title: str, lead: str, sections: Sequence[Section], footer: Mapping[str, str], *, facts: Sequence[Fact] = ()
) -> str:
    """A complete HTML document: title, lead, headline facts, sections, and a footer of names and values.

    A body that refers to anything outside the page is `BadInput`.
    """
    nav = ""
    if len(sections) > 2:
        links = "".join(f'<li><a href="#part-{i}">{escape(s.heading)}</a></li>' for i, s in enumerate(sections, 1))
        nav = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
    foot = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in footer.items())
    document = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="theme-color" content="{LIGHT["paper"]}" media="(prefers-color-scheme: light)">\n'
        f'<meta name="theme-color" content="{DARK["paper"]}" media="(prefers-color-scheme: dark)">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header>\n<div class="sign" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>\n'
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{_facts(facts)}{nav}</header>\n'
        f"<main>\n{''.join(_section(i, s) for i, s in enumerate(sections, 1))}</main>\n"
        + (f"<footer><dl>{foot}</dl></footer>\n" if foot else "")
        + "</body>\n</html>\n"
    )
    if found := outside(document):
        raise BadInput(f"a report must load nothing, but this one refers to {', '.join(found[:3])}: put it inside.")
    return document


def _section(number: int, section: Section) -> str:
    text = f'<p class="text">{escape(section.text)}</p>\n' if section.text else ""
    return f'<section id="part-{number}">\n<h2>{escape(section.heading)}</h2>\n{text}{section.body_html}</section>\n'


def _facts(facts: Sequence[Fact]) -> str:
    if not facts:
        return ""
    items = "".join(
        f"<div><dt>{escape(fact.name)}</dt><dd>{escape(fact.value)}</dd>"
        + (f"<dd>{escape(fact.note)}</dd>" if fact.note else "")
        + "</div>"
        for fact in facts
    )
    return f'<dl class="facts">{items}</dl>\n'


def fills(items: Sequence[Fill]) -> str:
    """Fill-in-the-blank examples: right fills green, others in the accent colour with the original above them.

    `filled` and `truth` must have one entry per piece, or it is `BadInput`.
    """
    rows = "".join(f'<li dir="auto">{_fill(item)}</li>\n' for item in items)
    key = '<p class="note key"><span><mark>filled</mark> by the model</span></p>\n'
    if any(item.truth is not None for item in items):
        key = (
            '<p class="note key"><span><mark class="yes">filled</mark> as in the original</span>'
            "<span><mark>filled</mark> otherwise; the original stands above</span></p>\n"
        )
    return f'<div class="fills">\n<ol>\n{rows}</ol>\n{key}</div>\n'


def _fill(item: Fill) -> str:
    truths = item.pieces if item.truth is None else item.truth
    if not len(item.pieces) == len(item.filled) == len(truths):
        raise BadInput(
            f"{len(item.pieces)} pieces, {len(item.filled)} marks, {len(truths)} originals: wanted one each."
        )
    return "".join(
        _mark(piece, item.truth is not None, truth) if filled else escape(piece)
        for piece, filled, truth in zip(item.pieces, item.filled, truths, strict=True)
    )


def _mark(piece: str, known: bool, truth: str) -> str:
    """A filled cell, its leading space outside the mark, white space made visible."""
    space, core = split_space(piece)
    text = escape(_visible(core))
    if known and piece == truth:
        return f'{space}<mark class="yes" title="as in the original">{text}</mark>'
    if not known:
        return f"{space}<mark>{text}</mark>"
    was = escape(_visible(truth.strip(" ") or truth))
    return f'{space}<ruby title="the original: {was}"><mark>{text}</mark><rp> (</rp><rt>{was}</rt><rp>)</rp></ruby>'


def _visible(piece: str) -> str:
    """White space alone, or nothing at all, as signs that can be seen."""
    if piece.strip():
        return piece.replace("\n", "↵")
    return piece.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "∅"


def samples(items: Sequence[Sample]) -> str:
    """Texts in cards, monospaced, their own line breaks kept, each with its note."""
    cards = "".join(
        f'<figure class="card"><div class="mono" dir="auto">{escape(item.text)}</div>'
        + (f"<figcaption>{escape(item.note)}</figcaption>" if item.note else "")
        + "</figure>\n"
        for item in items
    )
    return f'<div class="cards">\n{cards}</div>\n'


def recipe(command: str, facts: Mapping[str, str]) -> str:
    """How to make it again: the command (one click selects it all) and the facts that fix the result."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    listed = f'<dl class="list">{items}</dl>\n' if items else ""
    return f'<div class="recipe">\n<pre><code>{escape(command)}</code></pre>\n{listed}</div>\n'
