"""Alphabet: what a sampler must know of a vocabulary, and no more."""

from __future__ import annotations

from typing import NamedTuple


class Alphabet(NamedTuple):
    """Ids with a meaning. A sampler sees these, never a tokenizer.

    size: number of ids V, the mask included.
    mask: id of the mask.
    pad: id that fills rows up, or None.
    end: id that ends a text, or None.
    special: every id that is not text (mask, pad, end, unknown, ...).
    continues: ids that go on with the word before them; empty where the vocabulary does not tell.
    """

    size: int
    mask: int
    pad: int | None = None
    end: int | None = None
    special: frozenset[int] = frozenset()
    continues: frozenset[int] = frozenset()
