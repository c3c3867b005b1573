"""Split: hold documents out so that nothing to be learnt by heart stands on both sides.

A passage is a paragraph of at least 40 characters, its white space normalised; shorter ones (headings, "Example:")
recur harmlessly and are no evidence of a leak. A passage of DNA is the same on either strand, and however it is broken
into lines; a stretch that recurs inside longer passages (genomes are full of them) is not seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from itertools import pairwise
from typing import NamedTuple

from remask.core.errors import BadData, BadInput
from remask.data.dna import canonical, is_dna
from remask.data.text import Document, paragraphs

__all__ = ["Repeats", "drop_repeated", "fingerprint", "hold_out", "paragraphs", "shared_passages"]

PASSAGE = 40  # characters from which on a paragraph is a passage
PIECE = 1500  # least characters of a piece, where there are too few documents to draw from
FEW = 8  # fewer documents than this are cut into pieces
WINDOW = 10_020  # letters of a piece of a genome: far more than a row, far fewer than all
TILE = 60  # such a piece has a multiple of these, so that DNA words of 1 to 6 letters tile it


class Repeats(NamedTuple):
    """What `drop_repeated` dropped: paragraphs, their characters, and the share of all characters that is."""

    paragraphs: int
    characters: int
    share: float


def drop_repeated(documents: Sequence[Document]) -> tuple[list[Document], Repeats]:
    """Drop every passage that stood word for word (up to white space) in an earlier paragraph of any document.

    Returns the documents that are left, in order, and the count of what went. A document that loses nothing keeps
    its text as it is; in the others the paragraphs are joined by one blank line.
    """
    seen: set[bytes] = set()
    left: list[Document] = []
    dropped = characters = 0
    for document in documents:
        kept: list[str] = []
        parts = paragraphs(document.text)
        for part in parts:
            key = _key(part)
            if key is not None and key in seen:
                dropped += 1
                characters += len(part)
                continue
            if key is not None:
                seen.add(key)
            kept.append(part)
        if len(kept) == len(parts):
            left.append(document)
        elif kept:
            left.append(Document(document.name, "\n\n".join(kept)))
    total = sum(len(document.text) for document in documents)
    return left, Repeats(dropped, characters, characters / max(total, 1))


def shared_passages(left: Sequence[Document], right: Sequence[Document]) -> int:
    """Number of different passages that stand on both sides: 0 after `hold_out`."""
    return len(_passages(left) & _passages(right))


def hold_out(documents: Sequence[Document], share: float = 0.1, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Split into documents to train on and documents held out, with no passage on both sides.

    share: of the characters, for the held-out side; between 0 and 1, ends excluded.
    seed: of the drawing (`random.Random(seed).random()`, which Python promises not to change).

    Documents that share a passage stay together; such groups are drawn in random order until about `share` is
    reached, and a group that would carry the held-out side past twice the share is passed over, unless no other
    choice is left. Fewer than 8 documents (or ones so entangled that no fair split exists) are first cut into
    pieces `name#k` of at least 1500 characters, of whole paragraphs with one blank line between them; one giant
    paragraph is cut at its line ends, one giant line at its spaces, DNA without line ends (as FASTA gives it)
    every 10020 letters, or into 20 where that is shorter. Both sides keep the order of the documents;
    neither is empty.

    Raises BadData where no split exists, and BadInput for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise BadInput(f"the share to hold out is {share}; give a number between 0 and 1, such as --held-out 0.1.")
    best: tuple[float, tuple[list[Document], list[Document]]] | None = None
    for pieces in _candidates(documents):
        sides = _draw(pieces, share, seed)
        if sides is None:
            continue
        held = sum(len(one.text) for one in sides[1]) / sum(len(one.text) for one in pieces)
        if share / 2 <= held <= 2 * share:
            return sides
        if best is None or abs(held - share) < best[0]:
            best = (abs(held - share), sides)
    if best is None:
        raise BadData(
            "nothing can be held out for validation: the text is too short, or repeats itself throughout; "
            f"give more than {2 * PIECE} characters, or name other text with --valid FILE."
        )
    return best[1]


def fingerprint(documents: Sequence[Document]) -> str:
    """16 hex digits that change with any text, with the order of texts and with their boundaries, not with names."""
    digest = sha256()
    for document in documents:
        data = document.text.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def _key(paragraph: str) -> bytes | None:
    """What makes two passages the same: a digest of the words (16 bytes, so corpora fit); None if too short."""
    words = " ".join(paragraph.split())
    letters = words.replace(" ", "")
    if is_dna(letters):
        words = canonical(letters)
    return blake2b(words.encode(), digest_size=16).digest() if len(words) >= PASSAGE else None


def _passages(documents: Sequence[Document]) -> set[bytes]:
    keys = (_key(part) for document in documents for part in paragraphs(document.text))
    return {key for key in keys if key is not None}


def _candidates(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Lists of documents to draw from, the least cut first."""
    if len(documents) >= FEW:
        yield list(documents)
    cuts: list[tuple[str, Callable[[str], list[str]]]] = [
        ("\n\n", paragraphs),
        ("\n", lambda text: text.split("\n")),
        (" ", lambda text: text.split(" ")),
    ]
    for glue, cut in cuts:
        pieces = [
            piece
            for document in documents
            for piece in (
                _pieces(document, _windows(document.text), "")
                if len(document.text) >= 2 * PIECE and is_dna(document.text)
                else _pieces(document, cut(document.text), glue)
            )
        ]
        if len(pieces) > 1:
            # Cutting finer would tear passages apart: only a text that is one giant passage has no other way.
            yield pieces
            return


def _windows(text: str) -> list[str]:
    """Cut DNA, which has no better places to be cut at; its two strands fall apart at the same ones."""
    width = min(WINDOW, max(PIECE, len(text) // 20 // TILE * TILE))
    first = len(text) % width if canonical(text) != text.upper().replace("U", "T") else width
    bounds = [0, *range(first or width, len(text), width), len(text)]
    return [text[start:stop] for start, stop in pairwise(bounds)]


def _pieces(document: Document, parts: list[str], glue: str) -> Iterator[Document]:
    """Join parts to pieces of at least PIECE characters; the rest goes to the last one."""
    pieces: list[list[str]] = [[]]
    size = 0
    for part in parts:
        if size >= PIECE:
            pieces.append([])
            size = 0
        pieces[-1].append(part)
        size += len(part) + len(glue)
    if len(pieces) > 1 and size < PIECE:
        rest = pieces.pop()
        pieces[-1] += rest
    if len(pieces) == 1:
        yield document
    else:
        yield from (Document(f"{document.name}#{k}", glue.join(piece)) for k, piece in enumerate(pieces, 1))


def _groups(documents: list[Document]) -> list[list[int]]:
    """Numbers of documents that hang together by shared passages (union-find), in order of their first one."""
    parent = list(range(len(documents)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    home: dict[bytes, int] = {}
    for number, document in enumerate(documents):
        for key in _passages([document]):
            parent[root(number)] = root(home.setdefault(key, number))
    groups: dict[int, list[int]] = {}
    for number in range(len(documents)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def _draw(documents: list[Document], share: float, seed: int) -> tuple[list[Document], list[Document]] | None:
    """Draw groups until the share is reached; None where all the documents hang together."""
    groups = _groups(documents)
    if len(groups) < 2:
        return None
    sizes = [sum(len(documents[number].text) for number in group) for group in groups]
    total = sum(sizes)
    random_order = random.Random(seed)
    keys = [random_order.random() for _ in groups]
    chosen: list[int] = []
    held = 0
    for index in sorted(range(len(groups)), key=keys.__getitem__):
        if held >= share * total or len(chosen) == len(groups) - 1:
            break
        if held + sizes[index] <= 2 * share * total:
            chosen.append(index)
            held += sizes[index]
    if not chosen:
        chosen = [min(range(len(groups)), key=sizes.__getitem__)]
    out = {number for index in chosen for number in groups[index]}
    train = [document for number, document in enumerate(documents) if number not in out]
    return train, [document for number, document in enumerate(documents) if number in out]
