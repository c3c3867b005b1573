"""remask report DIR: the HTML report of a run, made again from what the run left."""

from __future__ import annotations

from pathlib import Path

from remask.cli.flags import READERS
from remask.cli.words import emit, parser


def main(arguments: list[str]) -> int:
    """Report."""
    words = parser("report", "DIR")
    words.add_argument("run", metavar="DIR", help="the directory of a run")
    words.add_argument("--n", type=READERS["int"], default=16, metavar="N", help="new texts to write [default: 16]")
    words.add_argument("--seed", type=READERS["int"], default=0, metavar="N", help="of the texts [default: 0]")
    words.add_argument("--json", action="store_true", help="print where it is as one JSON object")
    values = words.parse_args(arguments)

    from remask.cli import story
    from remask.core.errors import BadCheckpoint, BadInput
    from remask.core.metric import Estimate
    from remask.nets.pair import GENERATOR
    from remask.train.checkpoint import load
    from remask.train.run import again

    if values.n < 1:
        raise BadInput(f"--n came as {values.n}: type 1 or more.")
    if (Path(values.run) / GENERATOR).is_dir():
        return _detecting(Path(values.run), values.seed, values.json)
    model = load(values.run)
    if "recipe" not in model.facts or "metrics" not in model.facts:
        raise BadCheckpoint(
            f"{values.run} is no finished remask run, so there is nothing to report: finish it with --resume."
        )
    model.conditional()  # a causal net has no masks to fall: say so before the work
    corpus = again(model.facts, values.run)
    metrics = {name: Estimate(**e) for name, e in model.facts["metrics"].items()}
    grams = story.baselines(corpus, model.alphabet.size)
    fills = story.blanks(model, story.sentences(corpus.held, 6, values.seed), values.seed)
    writing = story.write_new(model, corpus, values.n, values.seed)
    path = story.tell(Path(values.run), model, corpus, metrics, grams, fills, writing)
    return _told(path, values.json)


def _told(path: Path, json: bool) -> int:
    from remask.cli.show import say

    if json:
        emit({"report": str(path)})
    else:
        say(f"the report is {path}")
    return 0


def _detecting(run: Path, seed: int, json: bool) -> int:
    """The report of an ELECTRA run."""
    from remask.cli import detecting, story
    from remask.core.errors import BadCheckpoint
    from remask.train.checkpoint import read_facts
    from remask.train.run import again

    facts = read_facts(run)
    if "recipe" not in facts or "metrics" not in facts:
        raise BadCheckpoint(f"{run} is no finished remask run, so there is nothing to report: finish it with --resume.")
    corpus = again(facts, run)
    return _told(detecting.tell(run, facts, story.sentences(corpus.held, 6, seed), seed), json)
