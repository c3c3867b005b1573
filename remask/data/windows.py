"""Windows: labelled stretches of a genome, coding against non-coding, for a classifier of DNA.

A coding window lies wholly inside one CDS row of the annotation and is read on the strand of its gene. A non-coding one
touches no annotated feature at all (but the landmarks that span a whole sequence) and is read on a strand drawn by lot.
This is an old question asked of a genome (Fickett 1982, Nucleic Acids Research 10; on fixed windows: Fickett and Tung
1992, same journal 20). Coordinates are 0-based and half-open, as in gff.py.

Neighbours share genes, repeats and composition, so the genome is cut into blocks and each block belongs to one side of
the split. A row that crosses the border of two blocks gives no window, and nothing within one window of a border does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from remask.core.errors import BadData, BadInput, UnknownName
from remask.data.dna import Record, ambiguous, canonical, reverse_complement
from remask.data.gff import Feature, check_features

__all__ = ["FRAMES", "LABELS", "SIDES", "Block", "Cut", "Window", "cut_windows"]

SIDES = ("train", "valid", "test")
LABELS = {"cds": ("CDS", "coding", "noncoding")}  # kind of feature, label within it, label far from all features
FRAMES = {"any": 1, "0": 3}  # steps in which a window may begin, counted from the first base of a codon
LANDMARKS = frozenset({"region", "source", "chromosome", "contig", "scaffold", "supercontig", "databank_entry"})
BLOCKS = 100  # of a genome, as far as each has room for
ROOM = 20  # windows that a block has room for, at least


class Block(NamedTuple):
    """A stretch start .. stop - 1 (0-based) of a sequence, all of it on one side of the split."""

    sequence: str
    start: int
    stop: int
    side: str


class Window(NamedTuple):
    """A labelled text, and where it lies: start .. stop - 1 (0-based) of a sequence, read on `strand`."""

    label: str
    text: str
    sequence: str
    start: int
    stop: int
    strand: str
    side: str


class Cut(NamedTuple):
    """Windows, in genome order, the blocks of the split, and what was left out: sequences and windows, by reason."""

    windows: list[Window]
    blocks: list[Block]
    left_out: dict[str, int]


def cut_windows(
    records: Sequence[Record],
    features: Sequence[Feature],
    *,
    length: int,
    count: int = 10_000,
    seed: int = 0,
    label: str = "cds",
    frame: str = "any",
    share: float = 0.1,
) -> Cut:
    """Cut windows of `length` bases that do not overlap, as many of either label on each side of the split.

    count: windows in all; fewer where the genome has no room for them.
    seed: of blocks, offsets, strands and choice (`random.Random(seed).random()`, which Python promises not to change).
    label: what is told from the rest, a row of LABELS.
    frame: "0" begins every coding window with the first base of a codon; "any" wherever the lot falls.
    share: of the blocks for valid, and again for test; above 0 and below 0.5.

    Features marked as pseudogenes give no coding windows, nor do those that run across the origin of a circle.
    Sequences without one feature of the kind are left out: nobody annotated them. So are windows with letters other
    than A C G T, and ones whose text (on either strand) was already cut elsewhere.

    Raises BadInput, UnknownName, and BadData for annotation that does not fit the sequences, for letters that are no
    nucleotides, and where no window fits.
    """
    kind, *names = _checked(length, count, label, frame, share)
    ambiguous([one.sequence for one in records], "the FASTA file")
    check_features(records, features, kind)
    chance = random.Random(seed)
    used = {one.sequence for one in features if one.kind == kind}
    genome = {one.name: one.sequence for one in records if one.name in used}
    tracks = {name: _track(name, len(sequence), features, kind) for name, sequence in genome.items()}
    blocks = _blocks(genome, length, share, chance)
    left_out = {"sequences": len(records) - len(genome), "ambiguous": 0, "repeated": 0}
    seen: set[str] = set()
    kept: list[Window] = []
    for block in blocks:
        inside = _inside(block, tracks[block.sequence].inside, length, FRAMES[frame], chance)
        outside = _outside(block, tracks[block.sequence].taken, length, chance)
        for name, places in zip(names, (inside, outside)):
            for start, strand in places:
                window = _read(genome, block, start, length, strand, name)
                reason = _reason(window.text, seen)
                if reason is None:
                    kept.append(window)
                else:
                    left_out[reason] += 1
    chosen = _balance(kept, names, count, chance)
    if not chosen:
        has = ", ".join(f"{sum(one.label == name for one in kept)} {name}" for name in names)
        raise BadData(
            f"windows of {length} bases find no room on both sides of the label ({has}); type a smaller --length, or "
            "name a longer genome."
        )
    order = {name: number for number, name in enumerate(genome)}
    return Cut(sorted(chosen, key=lambda one: (order[one.sequence], one.start)), blocks, left_out)


def _checked(length: int, count: int, label: str, frame: str, share: float) -> tuple[str, str, str]:
    if label not in LABELS:
        raise UnknownName("label", label, LABELS)
    if frame not in FRAMES:
        raise UnknownName("frame", frame, FRAMES)
    if length < 1:
        raise BadInput(f"--length came as {length}: type 1 or more, for example 200.")
    if count < 2 * len(SIDES):
        raise BadInput(f"--n came as {count}: type {2 * len(SIDES)} or more, one window a label and side.")
    if not 0 < share < 0.5:
        raise BadInput(f"--held-out came as {share}: type a number between 0 and 0.5, such as 0.1.")
    return LABELS[label]


def _blocks(genome: Mapping[str, str], length: int, share: float, chance: random.Random) -> list[Block]:
    """Blocks of about equal length; `share` of them (at least one) for valid, as many for test."""
    size = max(sum(map(len, genome.values())) // BLOCKS, ROOM * length)
    spans: list[tuple[str, int, int]] = []
    for name, sequence in genome.items():
        parts = max(len(sequence) // size, 1)
        bounds = [len(sequence) * k // parts for k in range(parts + 1)]
        spans += [(name, *span) for span in pairwise(bounds)]
    if len(spans) < len(SIDES):
        raise BadData(
            f"the genome has room for {len(spans)} of the {len(SIDES)} blocks that train, valid and test need "
            f"({ROOM} windows of {length} bases each); type a smaller --length, or name a longer genome."
        )
    drawn = sorted(range(len(spans)), key=[chance.random() for _ in spans].__getitem__)
    held = max(1, round(share * len(spans)))
    side = dict.fromkeys(drawn, "train") | dict.fromkeys(drawn[:held], "valid")
    side |= dict.fromkeys(drawn[held : 2 * held], "test")
    return [Block(*span, side[number]) for number, span in enumerate(spans)]


class _Track(NamedTuple):
    """What lies on one sequence: the features to read, and the stretches that are no free land; both sorted."""

    inside: list[Feature]
    taken: list[tuple[int, int]]


def _track(name: str, size: int, features: Sequence[Feature], kind: str) -> _Track:
    here = [one for one in features if one.sequence == name]
    inside = [one for one in here if one.kind == kind and not one.pseudo and one.stop <= size]
    taken = [(one.start, min(one.stop, size)) for one in here if one.kind not in LANDMARKS]
    taken += [(0, one.stop - size) for one in here if one.stop > size]  # across the origin of a circle
    return _Track(sorted(inside, key=lambda one: (one.start, one.stop)), sorted(taken))


def _inside(
    block: Block, features: Sequence[Feature], length: int, step: int, chance: random.Random
) -> Iterator[tuple[int, str]]:
    """Starts and strands of windows inside features that lie wholly in the block."""
    free = block.start + length  # where the windows so far end; and the margin
    for one in features:
        if one.start < block.start or one.stop > block.stop:
            continue
        low, high = max(one.start, free), min(one.stop, block.stop - length)
        stride = -(-length // step) * step
        if one.strand == "+":
            low += (one.start + one.phase - low) % step
        else:
            high -= (high - (one.stop - one.phase)) % step
        room = (high - low - length) // stride + 1
        if room < 1:
            continue
        slack = (high - low - length) % stride // step * step
        offset = int(chance.random() * (slack // step + 1)) * step
        for number in range(room):
            start = low + offset + number * stride if one.strand == "+" else high - offset - number * stride - length
            free = max(free, start + length)
            yield start, one.strand


def _outside(
    block: Block, taken: Sequence[tuple[int, int]], length: int, chance: random.Random
) -> Iterator[tuple[int, str]]:
    """Starts and strands of windows in the block that touch none of the stretches taken."""
    low, limit = block.start + length, block.stop - length
    for start, stop in [*taken, (limit, limit)]:
        gap = min(start, limit) - low
        if gap >= length:
            offset = low + int(chance.random() * (gap % length + 1))
            for number in range(gap // length):
                yield offset + number * length, "+-"[chance.random() < 0.5]
        low = max(low, stop)


def _read(genome: Mapping[str, str], block: Block, start: int, length: int, strand: str, label: str) -> Window:
    text = genome[block.sequence][start : start + length]
    turned = text if strand == "+" else reverse_complement(text)
    return Window(label, turned, block.sequence, start, start + length, strand, block.side)


def _reason(text: str, seen: set[str]) -> str | None:
    """Why a window is left out, if it is."""
    if set(text) - set("ACGT"):
        return "ambiguous"
    key = canonical(text)
    if key in seen:
        return "repeated"
    seen.add(key)
    return None


def _balance(windows: Sequence[Window], names: Sequence[str], count: int, chance: random.Random) -> list[Window]:
    """As many of either label on each side, `count` at most; none where a side would stay empty."""
    keys = {window: chance.random() for window in windows}
    groups = {
        (side, name): sorted((one for one in windows if (one.side, one.label) == (side, name)), key=keys.__getitem__)
        for side in SIDES
        for name in names
    }
    room = [min(len(groups[side, name]) for name in names) for side in SIDES]
    if min(room) == 0:
        return []
    wanted = min(count // 2, sum(room))
    bounds = [wanted * total // sum(room) for total in accumulate(room)]
    sizes = [max(1, stop - start) for start, stop in zip([0, *bounds], bounds)]
    sizes[sizes.index(max(sizes))] -= sum(sizes) - wanted
    return [one for side, size in zip(SIDES, sizes) for name in names for one in groups[side, name][:size]]
