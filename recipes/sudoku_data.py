"""Sudoku grids: the symmetries that keep them valid, training text made with them, and puzzles of any number of clues.

A grid is 81 digits, row by row. Relabelling the digits, permuting the rows of a band, the bands, the columns of a
stack, the stacks, and transposing turn valid grids into valid ones: 9! * 6^8 * 2 symmetries (Russell & Jarvis 2006).
Two grids that a symmetry turns into each other are the same grid to whoever has learnt from all the symmetries of one
of them, so training grids that may be equivalent to a test grid are left out (`kinship`).
Shapes: G grids, 81 cells.
"""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remask.core.errors import BadData

SIDE, BOX, CELLS = 9, 3, 81
SINGLES = {"naked singles": False, "all singles": True}  # yardsticks without a net, see `by_singles`
Grids = NDArray[np.uint8]  # [G, 81] or [81], 1..9, and 0 where a cell is empty


def data_folder() -> Path:
    """Where `train.csv.gz` and `test.csv.gz` are: $REMASK_DATA/sudoku17."""
    return Path(os.environ.get("REMASK_DATA", "../shared/data")) / "sudoku17"


def read_pairs(path: Path) -> tuple[Grids, Grids]:
    """Puzzles and their solutions, [G, 81] each; BadData where a line is no puzzle with its solution."""
    if not path.is_file():
        raise BadData(f"there is no file {path}: set REMASK_DATA to the folder that holds sudoku17.")
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    puzzles, solutions = (from_text([row[name] for row in rows]) for name in ("puzzle", "solution"))
    if not valid(solutions).all() or not ((puzzles == 0) | (puzzles == solutions)).all():
        raise BadData(f"{path} holds a puzzle that its solution does not solve: restore the file.")
    return puzzles, solutions


def from_text(lines: list[str]) -> Grids:
    """Lines of 81 digits as grids."""
    if any(len(line) != CELLS or not line.isdecimal() for line in lines):
        raise BadData("a line is not 81 digits: restore the file.")
    return (np.frombuffer("".join(lines).encode("ascii"), dtype=np.uint8) - ord("0")).reshape(-1, CELLS)


def to_text(grids: Grids) -> str:
    """One grid a line, each line ended."""
    ends = np.full((len(grids), 1), ord("\n"), dtype=np.uint8)
    return np.concatenate([grids + ord("0"), ends], axis=1).astype(np.uint8).tobytes().decode("ascii")


def units() -> NDArray[np.int64]:
    """The cells of each row, column and box, [27, 9]."""
    cell = np.arange(CELLS).reshape(SIDE, SIDE)
    boxes = cell.reshape(BOX, BOX, BOX, BOX).swapaxes(1, 2).reshape(SIDE, SIDE)
    return np.concatenate([cell, cell.T, boxes])


def valid(grids: Grids) -> NDArray[np.bool_]:
    """Whether every row, column and box holds 1..9 once, [G]."""
    seen = np.sort(grids.reshape(-1, CELLS)[:, units()], axis=2)
    return (seen == np.arange(1, SIDE + 1)).all((1, 2))


class Symmetry(NamedTuple):
    """One symmetry for each of G grids: first transpose, then new rows and columns, then new digits.

    transpose: [G] bool; rows, columns: [G, 9], where the new row comes from; digits: [G, 9], what 1..9 become.
    """

    transpose: NDArray[np.bool_]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    digits: NDArray[np.uint8]

    def __call__(self, grids: Grids) -> Grids:
        """The turned grids, [G, 81]; empty cells stay empty."""
        square = grids.reshape(-1, SIDE, SIDE)
        square = np.where(self.transpose[:, None, None], square.swapaxes(1, 2), square)
        square = np.take_along_axis(square, self.rows[:, :, None], axis=1)
        square = np.take_along_axis(square, self.columns[:, None, :], axis=2)
        table = np.concatenate([np.zeros((len(square), 1), np.uint8), self.digits], axis=1)
        return np.take_along_axis(table, square.reshape(-1, CELLS).astype(np.int64), axis=1)

    def inverse(self) -> Symmetry:
        """What undoes it."""
        rows, columns = self.rows.argsort(1), self.columns.argsort(1)
        swap = self.transpose[:, None]
        digits = (self.digits.argsort(1) + 1).astype(np.uint8)
        return Symmetry(self.transpose, np.where(swap, columns, rows), np.where(swap, rows, columns), digits)

    def then(self, other: Symmetry) -> Symmetry:
        """First this one, then `other`."""
        swap = other.transpose[:, None]
        rows, columns = np.where(swap, self.columns, self.rows), np.where(swap, self.rows, self.columns)
        return Symmetry(
            self.transpose ^ other.transpose,
            np.take_along_axis(rows, other.rows, axis=1),
            np.take_along_axis(columns, other.columns, axis=1),
            np.take_along_axis(other.digits, self.digits.astype(np.int64) - 1, axis=1),
        )


def _shuffled(generator: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    """Permutations of 0..size-1, [count, size]."""
    return generator.random((count, size)).argsort(1)


def _lines(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Permutations of nine lines that keep bands together, [count, 9]."""
    bands = _shuffled(generator, count, BOX)
    inside = _shuffled(generator, count * BOX, BOX).reshape(count, BOX, BOX)
    return (bands[:, :, None] * BOX + inside).reshape(count, SIDE)


def random_symmetries(generator: np.random.Generator, count: int) -> Symmetry:
    """Uniformly random ones."""
    transpose = generator.random(count) < 0.5
    rows, columns = _lines(generator, count), _lines(generator, count)
    return Symmetry(transpose, rows, columns, (_shuffled(generator, count, SIDE) + 1).astype(np.uint8))


def kinship(grids: Grids) -> NDArray[np.uint64]:
    """A number that no symmetry changes, [G]: equivalent grids have the same one; others, as good as never.

    Two rows are a permutation of the digits; relabelling and moving columns conjugate it, so its cycle type stays.
    Taken over all pairs of rows, sorted within and over bands, and the same for columns.
    """
    square = grids.reshape(-1, SIDE, SIDE).astype(np.int64) - 1
    sides = np.stack([_cycles(square), _cycles(square.swapaxes(1, 2))], axis=1)
    return _fold(np.sort(sides, axis=1))


def _cycles(square: NDArray[np.int64]) -> NDArray[np.uint64]:
    """What the pairs of rows tell of grids [G, 9, 9], [G]."""
    kinds = np.zeros((len(square), SIDE, SIDE), dtype=np.uint64)
    for a in range(SIDE):
        for b in range(SIDE):
            step = np.empty_like(square[:, 0])
            np.put_along_axis(step, square[:, a], square[:, b], axis=1)
            at, length = step, np.ones_like(step)
            for _ in range(SIDE - 1):
                length += (at != np.arange(SIDE)) & (length == _ + 1)
                at = np.take_along_axis(step, at, axis=1)
            kinds[:, a, b] = _fold(np.sort(length, axis=1).astype(np.uint64))
    row = _fold(
        np.sort(kinds.reshape(-1, SIDE, BOX, BOX), axis=3)
    )  # of each row, what each band holds for it: [G, 9, 3]
    own = np.take_along_axis(row, np.arange(SIDE)[None, :, None] // BOX, axis=2)[..., 0]
    others = np.sort(np.where(np.arange(BOX) == np.arange(SIDE)[:, None] // BOX, np.uint64(0), row), axis=2)
    band = np.sort(_fold(np.concatenate([own[..., None], others], axis=2)).reshape(-1, BOX, BOX), axis=2)
    return _fold(np.sort(_fold(band), axis=1))


def _fold(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for each sequence along the last axis: a polynomial hash, mixed at the end."""
    total = np.zeros(numbers.shape[:-1], dtype=np.uint64)
    for k in range(numbers.shape[-1]):
        total = (total ^ numbers[..., k]) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total


def training_grids(train: Grids, test: Grids, copies: int, seed: int) -> tuple[Grids, int]:
    """`copies` random symmetries of every training grid that is no relative of a test grid, and how many were."""
    kept = train[~np.isin(kinship(train), kinship(test))]
    generator = np.random.Generator(np.random.Philox(seed))
    turned = [random_symmetries(generator, len(kept))(kept) for _ in range(copies)]
    return np.concatenate(turned), len(train) - len(kept)


def puzzle(clues: Grids, solutions: Grids, count: int, seed: int) -> Grids:
    """Puzzles [G, 81] with `count` clues: the given ones and, in a random order fixed by `seed`, more of the solution.

    The clues of a smaller count are among those of a larger one.
    """
    order = np.random.Generator(np.random.Philox(seed)).random(solutions.shape)
    rank = np.where(clues > 0, -1.0, order).argsort(1, kind="stable").argsort(1, kind="stable")
    return np.where((rank < count) | (clues > 0), solutions, 0).astype(np.uint8)


def by_singles(puzzles: Grids, hidden: bool) -> Grids:
    """Puzzles filled as far as the simplest reasoning goes, the yardstick of a net that reads one step ahead, [G, 81].

    Naked singles: a cell whose row, column and box leave one digit; hidden ones: a digit for which a row, column or box
    leaves one cell. Until there is neither.
    """
    filled, unit = puzzles.copy(), units()
    peers = np.zeros((CELLS, CELLS), dtype=np.float32)
    for cells in unit:
        peers[np.ix_(cells, cells)] = 1
    while True:
        held = (filled[:, :, None] == np.arange(1, SIDE + 1)).astype(np.float32)  # [G, 81, 9]
        may = (np.einsum("cp,gpd->gcd", peers, held, optimize=True) == 0) & (filled == 0)[:, :, None]
        only = may & (may.sum(2) == 1)[:, :, None]
        if hidden:
            for cells in unit:
                only[:, cells] |= may[:, cells] & (may[:, cells].sum(1) == 1)[:, None]
        new = np.where(only.any(2) & (filled == 0), only.argmax(2) + 1, filled).astype(np.uint8)
        if (new == filled).all():
            return filled
        filled = new
