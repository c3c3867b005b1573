"""Sudoku: symmetries are a group and keep grids valid, rows are grids, puzzles keep their solution, shares add up."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes import sudoku, sudoku_report
from recipes import sudoku_data as data
from remask.core.alphabet import Alphabet
from remask.core.canvas import infill
from remask.core.conditional import Visible
from remask.core.errors import BadData
from remask.data.corpus import prepare
from remask.data.tokenizers import alphabet as alphabet_of
from remask.data.tokenizers import character_tokenizer
from remask.nets.masks import same_document
from remask.train.checkpoint import load, load_net

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = character_tokenizer(["123456789"])
ALPHABET = alphabet_of(TOKENIZER)
ROW, COLUMN = np.divmod(np.arange(data.CELLS), data.SIDE)
PATTERN = ((ROW * 3 + ROW // 3 + COLUMN) % 9 + 1).astype(np.uint8)


def other_grid() -> np.ndarray:
    """A valid grid that no symmetry makes of PATTERN: two rows of a band change places in three columns."""
    square = PATTERN.reshape(9, 9).copy()
    square[[0, 1], ::3] = square[[1, 0], ::3]
    return square.reshape(-1)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def some_grids(count: int, seed: int = 0) -> np.ndarray:
    each = [data.random_symmetries(generator(seed + k), count)(grid) for k, grid in enumerate((PATTERN, other_grid()))]
    return np.where(np.arange(count)[:, None] % 2 == 0, each[0], each[1])


def across_bands(symmetry: data.Symmetry) -> data.Symmetry:
    """A planted bug: rows move without regard to bands."""
    return symmetry._replace(rows=generator(9).random(symmetry.rows.shape).argsort(1))


def by_loops(grid: np.ndarray) -> bool:
    """The rules once more, in sets."""
    square = grid.reshape(9, 9).tolist()
    groups = [*square, *zip(*square)]
    groups += [[square[3 * a + i][3 * b + j] for i in range(3) for j in range(3)] for a in range(3) for b in range(3)]
    return all(set(group) == set(range(1, 10)) for group in groups)


def test_valid_says_what_the_rules_say():
    grids = np.concatenate([some_grids(20), across_bands(data.random_symmetries(generator(1), 20))(some_grids(20))])
    grids = np.concatenate([grids, generator(2).integers(1, 10, (5, 81)).astype(np.uint8)])
    assert data.valid(grids).tolist() == [by_loops(grid) for grid in grids]
    assert data.valid(some_grids(20)).all() and not data.valid(grids[20:]).all()


def test_symmetries_keep_grids_valid_and_one_that_breaks_boxes_is_caught():
    grids, symmetry = some_grids(500), data.random_symmetries(generator(3), 500)
    assert data.valid(symmetry(grids)).all()
    assert (symmetry(grids) != grids).any(1).all()
    assert data.valid(across_bands(symmetry)(grids)).mean() < 0.1  # PATTERN has symmetries of its own


def test_symmetries_are_a_group():
    grids = some_grids(300)
    a, b, c = (data.random_symmetries(generator(seed), 300) for seed in (4, 5, 6))
    assert (a.inverse()(a(grids)) == grids).all() and (a(a.inverse()(grids)) == grids).all()
    assert (a.then(b)(grids) == b(a(grids))).all()
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert all((x == y).all() for x, y in zip(left, right))
    assert all((x == y).all() for x, y in zip(a.inverse().inverse(), a))
    # closed: what two make is one of them again, with bands that stay together
    for lines in (left.rows, left.columns, a.inverse().rows):
        assert (np.sort(lines, axis=1) == np.arange(9)).all()
        assert (np.ptp(lines.reshape(-1, 3, 3) // 3, axis=2) == 0).all()


def test_random_symmetries_are_uniform():
    drawn = data.random_symmetries(generator(7), 36_000)
    kinds = np.unique(drawn.rows, axis=0, return_counts=True)[1]
    assert len(kinds) == 6**4 and abs(kinds - 36_000 / 6**4).max() < 6 * math.sqrt(36_000 / 6**4)
    assert abs(drawn.transpose.mean() - 0.5) < 5 * 0.5 / math.sqrt(36_000)
    for place in range(9):
        assert abs(np.bincount(drawn.digits[:, place], minlength=10)[1:] / 36_000 - 1 / 9).max() < 0.01


def test_empty_cells_stay_empty():
    grids = some_grids(50)
    holes = generator(8).random(grids.shape) < 0.5
    symmetry = data.random_symmetries(generator(9), 50)
    turned = symmetry(np.where(holes, 0, grids).astype(np.uint8))
    full = symmetry(grids)
    assert ((turned == 0) | (turned == full)).all() and (turned > 0).sum() == (~holes).sum()


def test_kinship_is_that_of_all_relatives_and_of_no_others():
    relatives = [
        data.kinship(data.random_symmetries(generator(s), 200)(g)) for s, g in ((1, PATTERN), (2, other_grid()))
    ]
    assert all(len(np.unique(one)) == 1 for one in relatives)
    assert relatives[0][0] != relatives[1][0]
    assert len(np.unique(data.kinship(across_bands(data.random_symmetries(generator(3), 20))(some_grids(20))))) > 10


def test_relatives_of_test_grids_are_not_trained_on():
    train = np.stack([PATTERN, other_grid()])
    test = data.random_symmetries(generator(1), 1)(other_grid())
    grids, relatives = data.training_grids(train, test, copies=30, seed=0)
    assert relatives == 1 and grids.shape == (30, 81) and data.valid(grids).all()
    assert not np.isin(data.kinship(grids), data.kinship(test)).any()
    assert len(np.unique(grids, axis=0)) == 30
    assert (data.training_grids(train, test, copies=30, seed=0)[0] == grids).all()
    assert (data.training_grids(train, test, copies=30, seed=1)[0] != grids).any()


def test_revealed_cells_are_those_of_the_solution_and_levels_are_nested():
    solutions = some_grids(40)
    clues = np.where(generator(1).random(solutions.shape).argsort(1).argsort(1) < 17, solutions, 0).astype(np.uint8)
    before = clues
    for count in sudoku.CLUES:
        puzzles = data.puzzle(clues, solutions, count, seed=0)
        assert ((puzzles > 0).sum(1) == count).all()
        assert ((puzzles == 0) | (puzzles == solutions)).all()
        assert (puzzles[before > 0] == before[before > 0]).all()
        before = puzzles
    assert (data.puzzle(clues, solutions, 17, seed=0) == clues).all()
    assert (data.puzzle(clues, solutions, 30, seed=1) != data.puzzle(clues, solutions, 30, seed=0)).any()


def grids_of(tokens: Tensor) -> list[str]:
    return [TOKENIZER.decode(row).replace(" ", "") for row in tokens[:, :81]]


def test_every_packed_row_is_one_grid(tmp_path):
    grids = some_grids(60)
    (tmp_path / "grids.txt").write_text(data.to_text(grids))
    lines = data.to_text(grids).split()

    def rows(length: int) -> Tensor:
        file = [str(tmp_path / "grids.txt")]
        made = prepare(file, valid=file, tokenizer=TOKENIZER, length=length, document="line")
        assert torch.equal(made.train.tokens, made.valid.tokens)
        assert length != sudoku.LENGTH or bool(same_document(made.train.documents) is None)  # nothing to keep apart
        return made.train.tokens

    tokens = rows(sudoku.LENGTH)
    assert grids_of(tokens) == lines
    assert (tokens[:, 81] == ALPHABET.end).all()
    assert torch.equal(tokens, sudoku.tokens_of(grids, TOKENIZER))
    assert grids_of(rows(81))[:2] != lines[:2], "rows of 81 would begin elsewhere with every grid"


def test_files_are_read_whole_and_wrong_ones_are_refused(tmp_path):
    grids = some_grids(3)
    puzzles = np.where(np.arange(81) % 3 == 0, grids, 0).astype(np.uint8)
    save(tmp_path / "a.csv.gz", puzzles, grids)
    read = data.read_pairs(tmp_path / "a.csv.gz")
    assert (read[0] == puzzles).all() and (read[1] == grids).all()
    wrong = puzzles.copy()
    wrong[1, 0] = wrong[1, 0] % 9 + 1
    save(tmp_path / "b.csv.gz", wrong, grids)
    with pytest.raises(BadData, match="does not solve"):
        data.read_pairs(tmp_path / "b.csv.gz")
    with pytest.raises(BadData, match="81 digits"):
        data.from_text(["1" * 80])
    with pytest.raises(BadData, match="REMASK_DATA"):
        data.read_pairs(tmp_path / "c.csv.gz")


def save(path: Path, puzzles: np.ndarray, solutions: np.ndarray) -> None:
    with gzip.open(path, "wt", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["puzzle", "solution"])
        writer.writerows(zip(data.to_text(puzzles).split(), data.to_text(solutions).split()))


@dataclass(frozen=True)
class Rules:
    """The law of somebody who looks at one cell at a time: any digit that its row, column and box leave, all alike."""

    alphabet: Alphabet = ALPHABET
    visible: Visible = Visible.NONE

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        first = TOKENIZER.convert_tokens_to_ids("1")
        unit = torch.from_numpy(data.units())
        peers = torch.zeros(81, 81)
        for cells in unit:
            peers[cells[:, None], cells] = 1
        holds = torch.nn.functional.one_hot(tokens[:, :81], ALPHABET.size).float()
        taken = (torch.einsum("cp,bpv->bcv", peers, holds) > 0)[..., first : first + 9]
        allowed = torch.where(taken.all(2, keepdim=True), True, ~taken)
        log_prob = torch.full((*tokens.shape, ALPHABET.size), -torch.inf)
        log_prob[:, :81, first : first + 9] = torch.where(allowed, 0.0, -torch.inf).log_softmax(2)
        log_prob[:, 81] = 0.0
        return log_prob if at is None else log_prob[at]

    def rows(self, index: Tensor) -> Rules:
        del index
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Rules:
        del tokens, upto
        return self


def solved_by(order: str, clues: int, count: int = 40) -> tuple[sudoku.Outcome, np.ndarray]:
    solutions = some_grids(count)
    puzzles = data.puzzle(np.zeros_like(solutions), solutions, clues, seed=0)
    canvas = infill(sudoku.tokens_of(puzzles, TOKENIZER), ALPHABET)
    sampler = sudoku.ORDERS[order](data.CELLS - clues)
    return sudoku.fill(sampler, Rules(), canvas, sudoku.tokens_of(solutions, TOKENIZER)), puzzles


def test_the_surest_cell_first_solves_what_random_order_does_not():
    found = {order: solved_by(order, 50)[0] for order in sudoku.ORDERS}
    share = {order: float(one.solved.double().mean()) for order, one in found.items()}
    assert share["random"] < 0.3
    assert min(share[order] for order in share if order != "random") > 0.8
    for one in found.values():
        assert one.calls == 31, "one cell a call"
        assert (one.right[one.solved] == 31).all() and (one.right[~one.solved] < 31).all()
    again = solved_by("random", 50)[0]
    assert torch.equal(again.solved, found["random"].solved) and torch.equal(again.right, found["random"].right)


def test_singles_are_right_and_the_net_that_knows_no_more_solves_what_naked_ones_solve():
    solutions = some_grids(60)
    for clues in (35, 45):
        puzzles = data.puzzle(np.zeros_like(solutions), solutions, clues, seed=0)
        naked, every = (data.by_singles(puzzles, hidden) for hidden in (False, True))
        for filled in (naked, every):
            assert ((filled == 0) | (filled == solutions)).all(), "what follows from the rules is never wrong"
            assert (filled[puzzles > 0] == puzzles[puzzles > 0]).all()
        assert ((naked > 0) <= (every > 0)).all() and (naked > 0).sum() < (every > 0).sum()
    outcome, puzzles = solved_by("margin", 50)
    alone = torch.from_numpy((data.by_singles(puzzles, hidden=False) > 0).all(1))
    assert (outcome.solved >= alone).all() and 0 < alone.double().mean() < 1


def test_several_cells_a_step_cost_fewer_calls():
    solutions = some_grids(10)
    puzzles = data.puzzle(np.zeros_like(solutions), solutions, 51, seed=0)
    canvas = infill(sudoku.tokens_of(puzzles, TOKENIZER), ALPHABET)
    for order, make in sudoku.SEVERAL.items():
        outcome = sudoku.fill(make(10), Rules(), canvas, sudoku.tokens_of(solutions, TOKENIZER))
        assert outcome.calls <= 10 and (outcome.calls == 10 or order == "random")


def test_shares_and_paired_differences():
    a, b = [1, 1, 1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1, 0, 0]
    one, two = ({"clues": 79, "solved": x, "right": [2 * y for y in x]} for x in (a, b))
    share = sudoku_report.solved(one)
    assert share.value == 5 / 8 and share.n == 8
    assert math.isclose(share.stderr, math.sqrt(5 / 8 * 3 / 8 / 7))
    assert sudoku_report.cells_right(one).value == 5 / 8
    gain = sudoku_report.gain(one, two)
    assert math.isclose(gain.value, 2 / 8) and math.isclose(gain.stderr, np.std(np.array(a) - b, ddof=1) / math.sqrt(8))
    assert gain.stderr < math.hypot(share.stderr, sudoku_report.solved(two).stderr), "paired is sharper than apart"
    assert sudoku_report.gain(one, one)[:2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="shorter"):
        sudoku_report.gain(one, {"solved": [1]})


def test_the_report_says_what_the_outcomes_say(tmp_path):
    outcomes = [
        {"clues": c, "together": t, "order": o, "calls": 64 / t, "seconds": 1.0, "solved": s, "right": [81 - c] * 4}
        for c, t, o, s in (
            (17, 1, "all singles", [1, 1, 0, 0]),
            (17, 1, "random", [0, 0, 0, 0]),
            (17, 1, "margin", [1, 0, 0, 0]),
            (32, 1, "random", [1, 0, 0, 0]),
            (32, 1, "margin", [1, 1, 1, 1]),
            (32, 2, "margin", [1, 1, 0, 0]),
        )
    ]
    facts = {"study": {"seed": 0}, "facts": {"step": 1}, "outcomes": outcomes}
    (tmp_path / "outcomes.json").write_text(json.dumps(facts))
    text = sudoku_report.write_up(tmp_path)
    assert "| 17 | 0.0 ± 0.0 | 25.0 ± 25.0 |  | 50.0 ± 28.9 | +25.0 ± 25.0 |" in text
    assert "| 32 | 25.0 ± 25.0 | 100.0 ± 0.0 |  |  | +75.0 ± 25.0 |" in text
    assert "| 32 | 2 |  | 50.0 ± 28.9 (32.0) |" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["results"][4]["gain"]["value"] == 0.75
    assert (tmp_path / "sudoku.png").stat().st_size < 80_000
    assert {path.name for path in tmp_path.iterdir()} == {"outcomes.json", "results.json", "sudoku.png"}
    with pytest.raises(BadData, match="solve"):
        sudoku_report.read(tmp_path / "nothing")


def test_the_start_looks_along_rows_columns_and_boxes(tmp_path):
    sudoku.start(tmp_path)
    model = load_net(tmp_path).model
    tokens = sudoku.tokens_of(some_grids(2), TOKENIZER)
    with torch.inference_mode():
        seen = model(tokens, output_attentions=True).attentions[0][0]  # [heads, 82, 82]
    unit = torch.from_numpy(data.units()).view(3, 9, 9)
    for head in range(sudoku.LOOKING):
        inside = torch.stack([seen[head][cells[:, None], cells].sum(1).mean() for cells in unit[head]]).mean()
        assert inside > 0.14, "nine of 82 cells, so 0.11 without help"
        others = [cells for other in range(3) for cells in unit[other] if other != head]
        outside = torch.stack([seen[head][cells[:, None], cells].sum(1).mean() for cells in others]).mean()
        assert outside < inside - 0.015, "a row shares three cells with each of three boxes"
    free = torch.stack([seen[3][cells[:, None], cells].sum(1).mean() for cells in unit.flatten(0, 1)])
    assert free.min() > 0.1 and free.max() < 0.12


def real_data() -> Path:
    folder = (ROOT / os.environ.get("REMASK_DATA", "../shared/data")).resolve()
    if not (folder / "sudoku17").is_dir():
        pytest.skip(f"no sudoku17 in {folder}; set REMASK_DATA")
    return folder


def test_the_real_puzzles_have_17_clues():
    puzzles, solutions = data.read_pairs(real_data() / "sudoku17" / "test.csv.gz")
    assert puzzles.shape == (4151, 81) and ((puzzles > 0).sum(1) == 17).all()
    assert len(np.unique(solutions, axis=0)) == 4151


@pytest.mark.slow
def test_from_training_to_the_report(tmp_path, monkeypatch):
    folder = real_data() / "sudoku17"
    (tmp_path / "sudoku17").mkdir()
    for side, count in (("train", 100), ("test", sudoku.PILOTS + sudoku.CURVE + 10)):
        puzzles, solutions = data.read_pairs(folder / f"{side}.csv.gz")
        save(tmp_path / "sudoku17" / f"{side}.csv.gz", puzzles[:count], solutions[:count])
    monkeypatch.setenv("REMASK_DATA", str(tmp_path))
    monkeypatch.setattr(sudoku, "CLUES", (17, 75))
    monkeypatch.setattr(sudoku, "TOGETHER", (8,))
    monkeypatch.setattr(sudoku, "TOGETHER_CLUES", (32,))
    out = tmp_path / "run"
    sudoku.train(out, ("--steps", "3"))
    found = sudoku.solve(out, 3)
    assert len(found["outcomes"]) == 3 * len(sudoku.ORDERS) + 2 * len(data.SINGLES)
    assert all(len(one["solved"]) == 3 for one in found["outcomes"])
    calls = {(one["clues"], one["together"], one["order"]): one["calls"] for one in found["outcomes"]}
    assert calls[75, 1, "random"] == calls[75, 1, "margin"] == 6 and calls[17, 1, "entropy"] == 64
    before = (out / "outcomes.json").read_text()
    sudoku.solve(out, 3)  # what is there is not done again
    assert (out / "outcomes.json").read_text() == before
    assert "| 17 | 0.0 ± 0.0" in sudoku_report.write_up(out)
    with pytest.raises(BadData, match="delete it"):
        sudoku.solve(out, 2)
    exact = load(out / "net").conditional()
    tokens = sudoku.tokens_of(data.puzzle(puzzles[:9], solutions[:9], 30, seed=0), TOKENIZER)
    assert (sudoku.Quick(exact)(tokens).exp() - exact(tokens).exp()).abs().max() < 0.01
