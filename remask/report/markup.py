"""Small HTML helpers: escaping any text, and finding whatever a page would fetch from elsewhere.

`escape` takes text as it comes out of a tokenizer (lone surrogates, control characters, carriage returns) and
returns HTML that shows it. `outside` reads a page as a browser would and lists each reference that leaves it:
the promise "self-contained" is checked by `page`, not hoped for.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"} | {127: "\u2421"}
_LOADS = {"src", "srcset", "href", "xlink:href", "action", "formaction", "poster", "data", "background", "ping", "cite"}
_CSS = re.compile(r"""@import\b.{0,80}|url\(\s*['"]?(?!#|data:|['"]?\s*\))[^)]{0,120}""", re.IGNORECASE | re.DOTALL)
_SCRIPT = re.compile(
    r"""(?:https?:|wss?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s'"]*|\b(?:fetch|importScripts|import)\s*\(""", re.I
)


def escape(text: str) -> str:
    """`text` as HTML, safe in elements and in quoted attributes; what cannot be shown gets a visible stand-in."""
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return html.escape(text, quote=True).replace("\r", "&#13;")


def split_space(piece: str) -> tuple[str, str]:
    """The leading spaces of a piece and its core: `" the"` is `(" ", "the")`; white space alone is all core."""
    core = piece.lstrip(" ")
    return (piece[: len(piece) - len(core)], core) if core.strip() else ("", piece)


class _Outside(HTMLParser):
    """Collects the references of a page that are neither `#anchors` nor `data:`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes that load, and remember when a style or a script begins."""
        given = {name: value or "" for name, value in attrs}
        if tag in ("link", "base", "iframe", "object", "embed"):
            self.found.append(f"<{tag}>")
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.found.append("<meta refresh>")
        for name, value in given.items():
            if name in _LOADS and not value.strip().lower().startswith(("#", "data:")):
                self.found.append(f"{name}={value}")
            if name not in ("content", "title", "aria-label"):
                self.found += _CSS.findall(value)
        data = given.get("type", "") == "application/json"
        self.inside = tag if tag == "style" or (tag == "script" and not data) else ""

    def handle_endtag(self, tag: str) -> None:
        """Leave the style or script."""
        self.inside = ""

    def handle_data(self, data: str) -> None:
        """Look into styles and scripts; text is only text."""
        if self.inside:
            self.found += (_CSS if self.inside == "style" else _SCRIPT).findall(data)


def outside(document: str) -> list[str]:
    """Every reference by which `document` (HTML) would leave itself; the empty list says it is self-contained."""
    reader = _Outside()
    reader.feed(document)
    reader.close()
    return reader.found
