"""The film holds exactly what fell and when, and reads without JavaScript."""

from __future__ import annotations

import html as stdlib_html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.report.falling import falling
from remask.report.markup import outside

PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=6)


def data(fragment: str) -> dict[str, list]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', fragment, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def shown(fragment: str) -> str:
    body = re.search(r'<div class="text" dir="auto">(.*?)</div>', fragment, re.DOTALL)
    assert body
    return stdlib_html.unescape(re.sub(r"<[^>]*>", "", body[1]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.integers(0, 5)), max_size=12))
def test_data_gives_back_pieces_and_order(cells):
    pieces, order = [p for p, _ in cells], [k for _, k in cells]
    assert data(falling(pieces, order, "t")) == {"pieces": pieces, "order": order}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PLAIN, st.integers(0, 5)), max_size=12))
def test_final_text_reads_without_javascript(cells):
    fragment = falling([p for p, _ in cells], [k for _, k in cells])
    assert shown(fragment) == "".join(p for p, _ in cells)
    assert len(re.findall(r'<span class="c[ "]', fragment)) == sum(k > 0 for _, k in cells)  # the script pairs by rank
    assert '<div class="bar" hidden>' in fragment or not any(k for _, k in cells)


def test_pieces_cannot_close_the_script():
    evil = ["</script><script>alert(1)</script>", "<!--", "&lt;", "<img src=https://example.org/a.png>", "\u2028"]
    fragment = falling(evil, [0, 1, 2, 3, 4], title="<b>&", note="</figure>")
    assert data(fragment)["pieces"] == evil
    assert fragment.count("<script") == fragment.count("</script>") == 2
    assert "<b>" not in fragment.split("</style>")[1].split("<div")[0] and "<img" not in fragment
    assert fragment.count("</figure>") == 1
    assert outside(fragment) == []


def test_prompt_is_marked_and_blocks_leave_the_space_outside():
    fragment = falling(["The", " cat", " sat", "\n", ""], [0, 0, 1, 2, 3])
    assert '<span class="p">The cat</span> <span class="c">sat</span>' in fragment
    assert '<span class="c n">\n</span><span class="c e"></span>' in fragment


def test_motion_is_asked_for_and_controls_are_named():
    fragment = falling(["a", "b"], [1, 2])
    assert "prefers-reduced-motion: reduce" in fragment  # the script does not start by itself
    assert "prefers-reduced-motion:no-preference" in fragment  # the flash is only for those who like it
    assert "@media print" in fragment and "prefers-color-scheme:dark" in fragment
    assert 'type="range" min="0" max="2"' in fragment and fragment.count("aria-label=") == 2
    assert " id=" not in fragment  # so that several stand on one page


def test_nothing_masked_means_nothing_to_play():
    fragment = falling(["all", " given"], [0, 0])
    assert "<button" not in fragment and fragment.count("<script") == 1
    assert data(falling([], [])) == {"pieces": [], "order": []}


def test_bad_input_says_what():
    with pytest.raises(BadInput, match="2 pieces but 1 steps"):
        falling(["a", "b"], [1])
    with pytest.raises(BadInput, match="step -1"):
        falling(["a"], [-1])
