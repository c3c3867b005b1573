"""The report of a fine-tuning: what every seed reached, where the kept model errs, and whether it knows.

Plain data comes in (lists and numbers), one page comes out.
Shapes: C classes, R texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from remask.report import page
from remask.report.confusion import confused_pairs, heat_map
from remask.report.reliability import Bar, reliability, scatter
from remask.report.tables import Cell, Table, number


class SeedRow(NamedTuple):
    """What one seed reached: (value, standard error) of each metric by column name, and the step it is from."""

    seed: int
    step: int
    values: Mapping[str, tuple[float, float]]


class Confusions(NamedTuple):
    """The kept model on a file with classes: counts [C][C] (rows true), names [C], bins, calibration error."""

    counts: Sequence[Sequence[int]]
    names: Sequence[str]
    bars: Sequence[Bar]
    error: float
    part: str


class Numbers(NamedTuple):
    """The kept model on a file with numbers: predictions [R], targets [R]."""

    predictions: Sequence[float]
    targets: Sequence[float]
    part: str


class Story(NamedTuple):
    """What the page tells.

    summary: of each metric's column its median, least and largest over seeds; the first one is the headline.
    recipe: names and values for the last section; notes: sentences on what was cut or chosen.
    """

    title: str
    lead: str
    seeds: Sequence[SeedRow]
    kept: int
    summary: Mapping[str, tuple[float, float, float]]
    judged: Confusions | Numbers
    notes: str
    command: str
    recipe: Mapping[str, str]
    footer: Mapping[str, str]


def tell(story: Story) -> str:
    """The page as HTML."""
    facts = [
        page.Fact(name, number(middle), f"{number(low)} to {number(high)} over {len(story.seeds)} seeds")
        for name, (middle, low, high) in story.summary.items()
    ]
    sections = [page.Section("What every seed reached", seed_table(story).to_html(), story.notes)]
    sections += _judged(story.judged)
    sections.append(page.Section("Make it again", page.recipe(story.command, story.recipe)))
    return page.page(story.title, story.lead, sections, story.footer, facts=facts[:4])


def seed_table(story: Story) -> Table:
    """One row a seed; then the median, and the spread from the least to the largest."""
    names = list(story.summary)
    rows: list[list[Cell]] = [
        [f"seed {row.seed}{' (kept)' if row.seed == story.kept else ''}", row.step, *(row.values[n] for n in names)]
        for row in story.seeds
    ]
    rows.append(["median", None, *(story.summary[name][0] for name in names)])
    rows.append(
        ["least to largest", None, *(f"{number(low)} to {number(high)}" for _, low, high in story.summary.values())]
    )
    return Table(
        "Each seed, with the best weights of its run",
        ["run", "step", *names],
        rows,
        "± one standard error over the texts of the file; the spread over seeds is another thing, and stands below.",
    )


def _judged(judged: Confusions | Numbers) -> list[page.Section]:
    if isinstance(judged, Numbers):
        drawing = scatter(judged.predictions, judged.targets, caption="One dot a text; on the dashed line both agree.")
        return [page.Section(f"Predictions on {judged.part}", drawing)]
    right = sum(row[i] for i, row in enumerate(judged.counts))
    total = sum(map(sum, judged.counts))
    matrix = heat_map(
        judged.counts,
        judged.names,
        caption="Rows: the true class. Columns: what the model said. A cell is as deep as its share of its row; green "
        "is right, blue is an error. Rest the pointer on a cell for its count.",
    )
    plot = reliability(
        judged.bars,
        caption="Dots: texts of each bin of confidence (the largest probability), with 95 % intervals. On the dashed "
        "line the model is right as often as it is sure; below it, it is too sure.",
    )
    return [
        page.Section(
            f"Where it errs on {judged.part}",
            matrix + confused_pairs(judged.counts, judged.names).to_html(),
            f"The kept model calls {right:,} of {total:,} texts right.",
        ),
        page.Section(
            "Whether it knows", plot, f"Expected calibration error {judged.error:.4f}, over ten bins of equal width."
        ),
    ]
