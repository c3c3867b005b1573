"""remask finetune DIR --data F --valid F --out F: teach a pretrained encoder a task."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remask.cli.flags import add, take
from remask.cli.words import Parser, emit, parser

if TYPE_CHECKING:
    from remask.report.finetuned import Confusions, Numbers, Story
    from remask.train.finetune import Judged, Result

TASKS = ("classify", "pairs", "regress")
READ = {"classify": "texts", "pairs": "pairs of texts", "regress": "texts"}


def build() -> tuple[Parser, list[str]]:
    """The parser, and the names of the settings among its flags."""
    words = parser("finetune", "DIR --data F --valid F [--test F] [--task classify|pairs|regress] --out F [...]")
    words.add_argument("model", metavar="DIR", help="a pretrained encoder: a Hugging Face directory, or hf:NAME")
    words.add_argument("--data", required=True, metavar="F", help="training rows: .tsv, .csv or .jsonl, plain or .gz")
    words.add_argument("--valid", required=True, metavar="F", help="rows that choose the best weights")
    words.add_argument("--test", metavar="F", help="rows that choose nothing, weighed once at the end")
    words.add_argument(
        "--task",
        choices=TASKS,
        default="classify",
        help="classify texts, classify pairs of texts, or predict a number [default: classify]",
    )
    words.add_argument(
        "--columns",
        metavar="NAMES",
        help="text,label in the order of a file without header (other names are left out), or text=NAME,label=NAME for "
        "a header with other names; default: the header's columns text, text_pair and label",
    )
    words.add_argument("--out", required=True, metavar="F", help="where the fine-tuned model goes")
    words.add_argument("--overwrite", action="store_true", help="replace the fine-tuned model in --out")
    words.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return words, add(words, "remask.train.finetuning:FineTuning", "the training")


def main(arguments: list[str]) -> int:
    """Fine-tune."""
    words, names = build()
    values = words.parse_args(arguments)

    from remask.train.finetuning import FineTuning

    settings = FineTuning(**take(values, names))  # bad settings fail before torch is loaded
    from remask.cli.show import TrainingLine
    from remask.train.finetune import finetune

    with TrainingLine(values.json or not sys.stderr.isatty()) as line:
        result = finetune(
            values.model,
            values.data,
            values.valid,
            test=values.test,
            task=values.task,
            columns=values.columns,
            settings=settings,
            out=values.out,
            overwrite=values.overwrite,
            watch=line,
            told=_Teller(line),
            further=write_report,
            command="remask finetune " + shlex.join(arguments),
        )
    if values.json:
        emit(_json(result))
        return 0
    from remask.cli.show import console, say

    console.print(_table(result))
    say(
        f"the model of seed {result.kept} (the best on --valid) is in {result.path}, the report in "
        f"{result.path}/report.html"
    )
    return 0


class _Teller:
    """Tells the person at the terminal what is going on."""

    def __init__(self, line: Any):
        self.line = line

    def __call__(self, event: str, what: dict[str, Any]) -> None:
        {"data": self._data, "seed": self._seed}[event](what)

    def _data(self, what: dict[str, Any]) -> None:
        from remask.cli.show import say

        say(", ".join(f"{part['rows']:,} {name} rows" for name, part in what.items()))
        for name, part in what.items():
            if part["truncated"]:
                say(f"{part['truncated']:,} {name} rows are longer than --length and were cut.")

    def _seed(self, what: dict[str, Any]) -> None:
        progress = self.line.progress
        progress.update(self.line.task, description=f"seed {what['seed'] + 1} of {what['seeds']}", completed=0)


def _json(result: Result) -> dict[str, Any]:
    """The one JSON object: metrics of valid at the top, of test below."""
    from remask.train.finetune import SHOWN

    return {
        **result.summary(),
        **({"test": result.summary("test")} if result.test is not None else {}),
        "out": str(result.path),
        "kept": result.kept,
        "seeds": [
            {"seed": run.seed, "step": run.step, "seconds": round(run.seconds, 3)}
            | {name: run.valid[name].value for name in SHOWN[result.task]}
            | ({"test": {name: run.test[name].value for name in SHOWN[result.task]}} if run.test else {})
            for run in result.runs
        ],
        "data": result.facts["data"],
        "settings": result.facts["recipe"]["settings"],
        "parameters": result.facts["parameters"],
    }


def _columns(result: Result) -> dict[str, tuple[str, str]]:
    """Names of the report's columns -> (file, metric)."""
    from remask.train.finetune import SHOWN

    parts = ["valid"] + (["test"] if result.test is not None else [])
    return {f"{metric.replace('_', ' ')}, {part}": (part, metric) for part in parts for metric in SHOWN[result.task]}


def story(result: Result) -> Story:
    """A result as plain data for the report."""
    from remask.report import finetuned

    columns, facts = _columns(result), result.facts
    summaries = {part: result.summary(part) for part, _ in columns.values()}
    judged = result.valid if result.test is None else result.test
    part = "the validation file" if result.test is None else "the test file"
    data, settings = facts["data"], facts["recipe"]["settings"]
    cut = ", ".join(f"{side['truncated']:,} of {side['rows']:,} {name} rows" for name, side in data.items())
    return finetuned.Story(
        title=f"Fine-tuned on {Path(data['train']['name']).name}",
        lead=f"{facts['parameters']:,} parameters read {data['train']['rows']:,} labelled {READ[result.task]}, "
        + (
            "the trunk drawn anew from each seed (no pretraining)."
            if settings["fresh"]
            else f"starting from {Path(facts['recipe']['model']).name}."
        ),
        seeds=[
            finetuned.SeedRow(
                run.seed,
                run.step,
                {
                    name: (e.value, e.stderr)
                    for name, (side, metric) in columns.items()
                    for e in [(run.valid if side == "valid" else run.test)[metric]]
                },
            )
            for run in result.runs
        ],
        kept=result.kept,
        summary={
            name: tuple(float(summaries[side][metric][key]) for key in ("median", "min", "max"))  # type: ignore[misc]
            for name, (side, metric) in columns.items()
        },
        judged=_judged(result, judged, part),
        notes=f"The kept model is {facts['chosen_by']}, so its own figure there flatters it; quote the median"
        + (", or the test file, which chose nothing." if result.test is not None else ".")
        + f"\nLonger than {settings['length']} tokens, and cut: {cut}.",
        command=facts["command"] or "remask.train.finetune.finetune(...)",
        recipe={**{name: str(value) for name, value in settings.items()}, "model": facts["recipe"]["model"]},
        footer={"remask": facts["remask"], **facts["versions"], "data": data["train"]["fingerprint"]},
    )


def _judged(result: Result, judged: Judged, part: str) -> Confusions | Numbers:
    """The kept model's predictions, counted."""
    from remask.metrics.agreement import calibration, confusion
    from remask.report.finetuned import Confusions, Numbers
    from remask.report.reliability import Bar

    if result.classes is None:
        return Numbers(judged.scores[:, 0].tolist(), judged.labelled.labels, part)
    counts = confusion(judged.scores.argmax(1), judged.truth, len(result.classes)).tolist()
    bins = calibration(judged.scores, judged.truth)
    return Confusions(counts, result.classes, [Bar(*one) for one in bins.bins], bins.error, part)


def write_report(result: Result, folder: Path) -> None:
    """Write report.html into a folder."""
    from remask.report.finetuned import tell
    from remask.report.write import write

    write(folder / "report.html", tell(story(result)))


def _table(result: Result) -> Any:
    """What a person reads: median, least and largest over seeds."""
    from remask.report.tables import Table

    return Table(
        f"{len(result.runs)} seeds",
        ["metric", "median", "least", "largest"],
        [
            [name, *(float(result.summary(side)[metric][key]) for key in ("median", "min", "max"))]
            for name, (side, metric) in _columns(result).items()
        ],
    ).to_rich()
