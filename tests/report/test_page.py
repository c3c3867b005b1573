"""The page is whole, escaped, self-contained, legible, and the same every time."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.report.curves import Point, bars, training_curve
from remask.report.falling import falling
from remask.report.markup import escape, outside, split_space
from remask.report.page import Fact, Fill, Sample, Section, fills, page, recipe, samples
from remask.report.style import CSS, DARK, LIGHT
from remask.report.tables import Table

EVIL = """<script src="https://evil.example/x.js">alert('1')</script>" onload="x()" <!-- </style></title> & ]]>"""
VOID = {"meta", "br", "input", "img", "hr", "link", "base", "source", "wbr"}


class Reader(HTMLParser):
    """Checks that tags balance, and counts elements and the text outside scripts and styles."""

    def __init__(self, document: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def full_page(word: str = "plain") -> str:
    points = [Point(i, i * 100, i * 0.1, 9.0 / (i + 1), 5.0 / (i + 1) if i % 3 == 0 else None, 0.1) for i in range(12)]
    sections = [
        Section(word, falling([word, " falls", "\n"], [0, 1, 2], word, word), word),
        Section("Curves", training_curve(points, {word: 2.5, "gzip": 2.6}, model=word, caption=word)),
        Section("Bars", bars([(word, 2.1, 0.02), ("xz", 2.5, None)], word, caption=word)),
        Section("Table", Table(word, [word, "n"], [[word, (2.124, 0.023)]], word).to_html()),
        Section("Fills", fills([Fill([word, " b"], [True, True], [" b", " b"]), Fill([word], [True])])),
        Section("Samples", samples([Sample(word, word), Sample(word)]) + recipe(word, {word: word})),
    ]
    return page(word, word, sections, {word: word}, facts=[Fact(word, word, word)])


def test_page_parses_and_balances():
    tags = Reader(full_page()).tags
    assert tags.count("h1") == 1 and tags.count("h2") == 6 and tags.count("svg") >= 3
    assert tags.count("html") == tags.count("main") == tags.count("title") == 1


def test_page_is_the_same_every_time():
    assert full_page() == full_page()


def test_nothing_is_injected():
    plain, evil = Reader(full_page(re.sub(r"\W", "x", EVIL))), Reader(full_page(EVIL))
    assert evil.tags == plain.tags  # text changes text, never structure
    assert not [name for name, _ in evil.attributes if name.startswith("on")]
    assert "alert('1')" in evil.text
    assert "<script src" not in full_page(EVIL)


def test_page_is_self_contained():
    for document in (full_page(), full_page(EVIL), full_page("see https://example.org/a.png and //cdn.example.org")):
        assert outside(document) == []
        assert "default-src 'none'" in document
        reader = Reader(document)
        assert not {"link", "img", "iframe", "base"} & set(reader.tags)
        assert not [
            v for k, v in reader.attributes if k in ("src", "srcset") or (k == "href" and not v.startswith("#"))
        ]


@pytest.mark.parametrize(
    "planted",
    [
        '<img src="https://example.org/a.png">',
        "<img srcset='//example.org/a.png 2x'>",
        '<link rel="stylesheet" href="a.css">',
        '<a href="http://example.org">out</a>',
        "<style>@import 'x.css';</style>",
        "<style>p{background:url(https://example.org/a.png)}</style>",
        "<style>p{background:url( 'a.png' )}</style>",
        '<p style="background:url(//example.org/a.png)">x</p>',
        "<script>fetch('/a')</script>",
        "<script>new WebSocket('wss://example.org/a')</script>",
        '<svg><use xlink:href="sprites.svg#a"/></svg>',
        '<iframe srcdoc=""></iframe>',
        '<meta http-equiv="refresh" content="0;url=https://example.org">',
    ],
)
def test_planted_reference_is_caught(planted):
    assert outside(planted)
    with pytest.raises(BadInput, match="load nothing"):
        page("t", "l", [Section("h", planted)], {})


def test_inside_references_are_allowed():
    kept = (
        '<a href="#part-1">x</a><img alt="" src="data:image/png;base64,AAAA"><p style="fill:url(#a)">https://e.org</p>'
    )
    assert outside(kept) == []
    assert outside('<script type="application/json">{"a":"https://example.org"}</script>') == []


def test_ids_are_unique_and_anchors_arrive():
    attributes = Reader(full_page()).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in attributes if name == "href"} <= set(ids)


def test_style_answers_to_the_reader():
    for wish in (
        "prefers-color-scheme:dark",
        "prefers-reduced-motion",
        "@media print",
        "tabular-nums",
        ":focus-visible",
    ):
        assert wish in CSS
    assert outside(f"<style>{CSS}</style>") == []


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "surface"),
    [(t, s) for t in ("ink", "soft", "accent") for s in ("paper", "card")]
    + [("accent", "tint"), ("good", "good-tint"), ("card", "accent")],
)
def test_contrast(colours, text, surface):
    light, dark = sorted((luminance(colours[text]), luminance(colours[surface])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_fills_show_the_truth():
    html = fills([Fill(["The", " cat", " sat", "\n"], [False, True, True, True], ["The", " dog", " sat", " "])])
    assert html.count('<mark class="yes"') == 1 + 1  # the cell that is right, and the key
    assert "<mark>cat</mark><rp> (</rp><rt>dog</rt>" in html
    assert "<mark>↵</mark><rp> (</rp><rt>␣</rt>" in html
    assert "<ruby" not in fills([Fill(["a"], [True])])
    with pytest.raises(BadInput):
        fills([Fill(["a"], [True, False])])


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text())
def test_any_text_survives(text, other):
    assert Reader(page(text, other, [Section(text, samples([Sample(text, other)]))], {text: other})).tags
    assert not set("<>\"'\r\0") & set(escape(text))
    assert "".join(split_space(text)) == text
    page(text, other, [], {}).encode("utf-8")
