"""Lines in, translations out: one for each, in order, soon.

A buffer of lines is encoded, sorted by length and cut into batches, so that little padding is computed; it begins with
one batch, for the first lines to come out soon, and grows to a few. Nothing is lost in silence: empty sources, sources
longer than the net reads, and characters that the tokenizer does not know are counted, the second also told once.
A translation is one line of text: line ends, tabs and other control characters in it become spaces.
Shapes: B rows of a batch, S source length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.core.stream import Stream
from remask.data.parallel import Ragged
from remask.data.tokenizers import Encoder
from remask.translate.outcome import Outcome

Writer = Callable[[Tensor, Tensor, Stream, Tensor | None], Outcome]
"""Translates a batch: sources [B, S], attend [B, S] bool, a stream of B rows, true lengths [B] (0: unknown) or None."""

GROWTH = 8  # batches in a buffer, in the end
MOST = 1_000_000
FARTHEST = 16  # letters a token, in words that are cut: a bisection over megabytes would never end
SENTENCES = re.compile(r"(?<=[.!?…])(?=\s)|(?<=[。！？])(?=.)")
CONTROLS = re.compile("\r\n|[\x00-\x1f\x7f-\x9f\u2028\u2029]")
WORDS = re.compile(r"(?<=\S)(?=\s)")


class Translation(NamedTuple):
    """What became of a line.

    text: one line; length: cells that were decoded; calls: decoder calls; log_prob: of the tokens, nats; source_tokens:
    of the line, as far as it was read; tokens: those of the text. Lines that were split have sums.
    """

    text: str
    length: int
    calls: int
    log_prob: float
    source_tokens: int
    tokens: tuple[int, ...]


EMPTY = Translation("", 0, 0, 0.0, 0, ())


class Row(NamedTuple):
    """A source for the net: which line of the buffer it is of, which of its pieces, and its ids, without an end."""

    line: int
    piece: int
    pieces: int
    ids: list[int]


@dataclass
class Counts:
    """What was met on the way: lines, empty ones, ones too long for the net, tokens unknown to the tokenizer."""

    lines: int = 0
    empty: int = 0
    long: int = 0
    unknown: int = 0


def silent(message: str) -> None:
    """Tell nobody."""
    del message


@dataclass(frozen=True)
class Lines:
    """Translates lines.

    write: what translates a batch; tokenizer, alphabet: of the net; window: tokens of the longest source, its end
    included; oracle: true lengths by line number, or None; seed: of the streams, one a line; tell: told of the first
    source that is too long; counts: kept as lines go by. Raises BadInput and UnknownName for what cannot be.
    """

    write: Writer
    tokenizer: Any
    alphabet: Alphabet
    window: int
    batch: int = 32
    long: str = "split"
    seed: int = 0
    oracle: Sequence[int] | None = None
    device: torch.device | str = "cpu"
    tell: Callable[[str], None] = silent
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MOST:
            raise BadInput(f"--batch came as {self.batch}: type 1 or more, up to {MOST}.")
        if self.long not in LONG:
            raise UnknownName("way with long sources", self.long, LONG)
        if self.window < 2:
            raise BadInput(f"a window of {self.window} tokens has no room for a source and its end: give 2 or more.")

    def __call__(self, lines: Iterable[str]) -> Iterator[Translation]:
        """One translation a line, in order."""
        for first, chunk in buffers(lines, self.batch):
            yield from self.buffer(chunk, first)

    def buffer(self, lines: Sequence[str], first: int = 0) -> list[Translation]:
        """Translations of some lines; `first` is the number of the first one, from 0."""
        rows = [row for number, found in enumerate(self._sources(lines, first)) for row in self._pieces(number, found)]
        order = sorted(range(len(rows)), key=lambda r: len(rows[r].ids))
        parts: list[Translation] = [EMPTY] * len(rows)
        for at in range(0, len(order), self.batch):
            numbers = order[at : at + self.batch]
            for number, part in zip(numbers, self._batch([rows[r] for r in numbers], first)):
                parts[number] = part
        found: list[list[Translation]] = [[] for _ in lines]
        for row, part in zip(rows, parts):
            found[row.line].append(part)
        return [_joined(pieces) for pieces in found]

    def _sources(self, lines: Sequence[str], first: int) -> Iterator[list[list[int]]]:
        """The sources that each line is cut into, most lines one, empty ones none."""
        for number, (text, ids) in enumerate(zip(lines, self._encode(lines)), start=first + 1):
            self.counts.lines += 1
            if not text.strip() or not ids:
                self.counts.empty += 1
                yield []
            elif len(ids) < self.window:
                yield [ids]
            else:
                how, cut = LONG[self.long]
                if not self.counts.long:
                    self.tell(
                        f"line {number} has {len(ids)} tokens and the net reads {self.window - 1}: it is {how}, as are "
                        "others like it, which are only counted (--long split|truncate)."
                    )
                self.counts.long += 1
                yield cut(text, self.window - 1, self._encode)

    def _pieces(self, number: int, sources: list[list[int]]) -> list[Row]:
        unknown = self.tokenizer.unk_token_id
        self.counts.unknown += sum(ids.count(unknown) for ids in sources)
        return [Row(number, piece, len(sources), ids) for piece, ids in enumerate(sources)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts; the pad id is no part of a text, and would be taken for padding."""
        pad = self.alphabet.pad
        return [[i for i in one.ids if i != pad] for one in self._encoder([text.strip() for text in texts])]

    @cached_property
    def _encoder(self) -> Encoder:
        """Made once: for lines that come one by one it would take longer than translating them."""
        return Encoder(self.tokenizer)

    def _batch(self, rows: Sequence[Row], first: int) -> Iterator[Translation]:
        assert self.alphabet.end is not None
        assert self.alphabet.pad is not None
        source = Ragged.of([row.ids for row in rows]).padded(self.alphabet.end, self.alphabet.pad).to(self.device)
        lines, pieces = (torch.tensor(part) for part in zip(*((first + row.line, row.piece) for row in rows)))
        stream = Stream.of(self.seed, lines.to(self.device)).child(pieces.to(self.device))
        outcome = self.write(source, source != self.alphabet.pad, stream, self._lengths(rows, first))
        log_prob, length, calls = (x.tolist() for x in (outcome.log_prob, outcome.length, outcome.calls))
        for number, row in enumerate(rows):
            tokens = outcome.tokens[number]
            text = one_line(self.tokenizer.decode(tokens)) if tokens else ""
            facts = length[number], calls[number], log_prob[number], len(row.ids)
            yield Translation(text, *facts, tuple(tokens))

    def _lengths(self, rows: Sequence[Row], first: int) -> Tensor | None:
        """True lengths [B]; of a line in pieces nobody knows them."""
        if self.oracle is None:
            return None
        known = [self.oracle[first + row.line] if row.pieces == 1 else 0 for row in rows]
        return torch.tensor(known, device=self.device)


def buffers(lines: Iterable[str], batch: int) -> Iterator[tuple[int, list[str]]]:
    """Lines in buffers of 1, 2, 4, 8, 8, ... batches, each with the number of its first line.

    Rows that come one by one need no sorting, so for them a buffer is a line.
    """
    source, first, batches = iter(lines), 0, 1
    while chunk := list(islice(source, batches * batch)):
        yield first, chunk
        first += len(chunk)
        batches = min(2 * batches, GROWTH if batch > 1 else 1)


def one_line(text: str) -> str:
    """The text with a space for every line end, tab and other control character."""
    return CONTROLS.sub(" ", text)


def _joined(pieces: Sequence[Translation]) -> Translation:
    """The translation of a line from those of its pieces."""
    if len(pieces) < 2:
        return pieces[0] if pieces else EMPTY
    text = " ".join(piece.text.strip() for piece in pieces if piece.text.strip())
    length, calls, log_prob, source_tokens = (sum(column) for column in zip(*(piece[1:5] for piece in pieces)))
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    return Translation(text, length, calls, log_prob, source_tokens, tokens)


# ---- sources that are too long ---------------------------------------------------------------------------------------

Encode = Callable[[Sequence[str]], list[list[int]]]


def truncate(text: str, room: int, ids_of: Encode) -> list[list[int]]:
    """The first `room` ids."""
    return [ids_of([text])[0][:room]]


def split(text: str, room: int, ids_of: Encode) -> list[list[int]]:
    """Pieces of at most `room` ids: as many whole sentences as fit, else words, else letters."""
    pieces = [piece for piece in _split(text, room, ids_of, 0) if piece.strip()]
    return [ids[:room] for ids in ids_of(pieces) if ids]


def _split(text: str, room: int, ids_of: Encode, level: int) -> Iterator[str]:
    def fits(piece: str) -> bool:
        return len(ids_of([piece])[0]) <= room

    if level == len(BORDERS):
        yield from _letters(text, fits, FARTHEST * room)
        return
    held = ""
    for part in BORDERS[level].split(text):
        if fits(held + part):
            held += part
            continue
        if held:
            yield held
        held = part if fits(part) else ""
        if not held:
            yield from _split(part, room, ids_of, level + 1)
    if held:
        yield held


def _letters(text: str, fits: Callable[[str], bool], most: int) -> Iterator[str]:
    """The longest beginnings of at most `most` letters that fit, one after the other, by bisection; one at least."""
    while text:
        low, high = 1, min(len(text), most)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
        yield text[:low]
        text = text[low:]


BORDERS = (SENTENCES, WORDS)
LONG: dict[str, tuple[str, Callable[[str, int, Encode], list[list[int]]]]] = {
    "split": ("translated in pieces", split),
    "truncate": ("cut off there", truncate),
}
"""What is done with sources that are too long, in words and in deed."""
