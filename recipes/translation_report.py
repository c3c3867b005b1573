"""The race of recipes/translation.py weighed and timed: what each net writes, how fast, its faults, its curves.

    REMASK_DATA=... python -m recipes.translation_report runs/translation --part quality
    REMASK_DATA=... python -m recipes.translation_report runs/translation --part faults
    python -m recipes.translation_report runs/translation --part curves
    python -m recipes.translation_report runs/translation --part speed      # on a machine that does nothing else
    python -m recipes.translation_report runs/translation                   # tables in Markdown, and translation.png

Works on whatever runs are finished and names the others. What was found is kept in `weighed/` beside the runs and not
done again, unless a run was trained anew; parts may run side by side, and one part on several arms (--arms).
Texts: the corpus's 2,000 test pairs, and inputs joined from 2 to 4 of them, 15 to 60 tokens. Errors of BLEU and chrF
are over resampled sentences, the same resamples for all systems, so that differences are paired (Koehn 2004). One to
left to right is taken within a seed; its interval over three seeds is Student's (recipes/paired_curves.py).
Speed is from texts to texts, in rounds, with seed 0's nets (remask/bench/translation.py); CTranslate2 gets as many
threads as torch has. Curves are BLEU on 256 validation pairs; a run ends with all of them, so its last point is taken
again on the same 256.
Hardware: one thread of a 2-core CPU: quality 1.5 CPU minutes a run, faults 6 in all, curves 1/4 a run, speed 30.
Expected: see docs/results.md, "Translation in parallel".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import translation_faults
from recipes.finished import finished
from recipes.translation import ARMS, corpus, place, prepare
from recipes.translation_decodings import BASE, BY_LENGTH, FAULTY, PROBES, RACERS, TWIN, decodings
from recipes.translation_faults import Several, spread
from recipes.translation_plots import figure
from recipes.translation_tables import BATCHES, Found, tables, usual
from remask.bench.decoding import race
from remask.bench.engine import Runner, System, runner, runners
from remask.bench.translation import joined, quality, speed
from remask.core.errors import BadData, MissingExtra, UnknownName, UserError
from remask.core.metric import finite
from remask.data import tokenizers
from remask.data.pairs import read_pairs
from remask.data.parallel import prepare_pairs
from remask.objectives import OBJECTIVES
from remask.train.history import read
from remask.train.paired import CURVE_PAIRS, weigh_pairs
from remask.train.texts import spread as curve_rows
from remask.train.translator import load_translator
from remask.translate.scores import resampled
from remask.translate.weigh import weigh_translations

SEEDS = range(10)
ROUNDS, TIMED = 3, {"test": 200, "joined": 150}
EDGES = (8, 16, 32)  # tokens of sources that are timed by themselves
MIXED, PROBED = 400, 150  # sentences

Texts = Mapping[str, tuple[list[str], list[str]]]
"""Sources and references of "test" and "joined"."""


class Run(NamedTuple):
    """A finished run."""

    arm: str
    seed: int
    path: Path


def runs(out: Path, arms: Sequence[str] = ()) -> list[Run]:
    """All that are finished, of some arms or all, in the order of ARMS."""
    for arm in arms:
        if arm not in ARMS:
            raise UnknownName("arm", arm, ARMS)
    wanted = [Run(arm, seed, place(out, arm, seed)) for arm in arms or ARMS for seed in SEEDS]
    return [run for run in wanted if finished(run.path)]


def missing(out: Path) -> str:
    """Which arms are not there, which runs were begun only, and which were not weighed."""
    there = runs(out)
    begun = [place(out, arm, seed).name for arm in ARMS for seed in SEEDS if place(out, arm, seed).is_dir()]
    unfinished = [name for name in begun if name not in {run.path.name for run in there}]
    absent = [arm for arm in ARMS if arm not in {run.arm for run in there}]
    idle = [run.path.name for run in there if not Kept.of(out, run.path.name, run.path).found]
    parts = {"No finished run of": absent, "Begun only": unfinished, "Not weighed": idle}
    return " ".join(f"{what}: {'; '.join(names)}." for what, names in parts.items() if names)


# ---- what was found is kept ------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Figures in a file of `weighed/`; mark: of the runs and texts that they are of, or else they are void."""

    file: Path
    mark: str
    found: dict[str, Any]

    @classmethod
    def of(cls, out: Path, name: str, *paths: Path) -> Kept:
        """What is there."""
        digest = blake2b(digest_size=8)
        for file in (out / "data" / "test.tsv", *(path / "remask.json" for path in paths)):
            digest.update(file.read_bytes())
        file, mark = out / "weighed" / f"{name}.json", digest.hexdigest()
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return cls(file, mark, kept["found"] if kept.get("mark") == mark else {})

    def make(self, key: str, make: Callable[[], Any]) -> None:
        """Find it, unless it is there; all or nothing."""
        if key in self.found:
            return
        self.found[key] = finite(make())
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"mark": self.mark, "found": self.found}) + "\n", encoding="utf-8")
        part.replace(self.file)
        print(f"{self.file.stem}: {key}", file=sys.stderr, flush=True)


def texts(out: Path) -> Texts:
    """What is translated."""
    places = prepare(out)
    pairs = read_pairs([str(places["test"])], "source,target")
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    made = joined(sources, references, tokenizers.load(str(places["tokenizer"])))
    return {"test": (sources, references), "joined": made}


# ---- quality ---------------------------------------------------------------------------------------------------------


def weigh_all(out: Path, some: Sequence[Run]) -> None:
    """BLEU, chrF, lengths and stutters of every run and decoding, on both sets of texts (ablations on the first)."""
    translated = texts(out)
    for run in some:
        kept = Kept.of(out, run.path.name, run.path)
        sets = ("test",) if run.arm.startswith("half") else tuple(translated)
        wanted = {f"{name} {how}": (name, how) for name in sets for how in decodings(run.arm)}
        model = load_translator(run.path) if wanted.keys() - kept.found else None
        for key, (name, how) in wanted.items():
            system = partial(runner, System(how, run.path, **decodings(run.arm)[how]), model)
            kept.make(key, partial(_weighed, system, *translated[name], how == usual(run.arm)))


def _weighed(
    system: Callable[[], Runner], sources: Sequence[str], references: Sequence[str], oracle: bool
) -> dict[str, Any]:
    made = quality(system(), sources, references, oracle=oracle)
    found = [one.text for one in made.found]
    return {**made.json(), "drawn": bleu_drawn(found, references), "texts": found}


def bleu_drawn(found: Sequence[str], references: Sequence[str]) -> list[float]:
    """BLEU of resampled sentences; the resamples depend on the number of sentences only."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise MissingExtra("sacrebleu", "eval", "BLEU") from error
    metric = BLEU(tokenize="13a", force=True)  # as in remask/translate/scores.py
    table = np.array(metric._extract_corpus_statistics(list(found), [list(references)]), dtype=np.float64)
    return np.round(resampled(metric, table), 4).tolist()


# ---- speed -----------------------------------------------------------------------------------------------------------


def time_all(out: Path, some: Sequence[Run]) -> None:
    """Every racer against greedy, and greedy against transformers' generate(); of seed 0.

    What others are faster than is BASE, or else its twin on the other trunk; nothing without either.
    """
    del some  # ratios are of one race: all or nothing
    nets = {run.arm: run.path for run in runs(out) if run.seed == 0 and run.arm in RACERS}
    base = next((arm for arm in (BASE, TWIN) if arm in nets), None)
    if base is None:
        print(f"there is no finished run of {BASE}, seed 0, to be faster than.", file=sys.stderr)
        return
    kept, translated = Kept.of(out, "speed", *nets.values()), texts(out)
    lots = {name: spread(translated[name][0], most) for name, most in TIMED.items()}
    load = {"threads": torch.get_num_threads(), "processors": os.cpu_count(), "load": os.getloadavg()[0]}
    kept.make("machine", lambda: load)
    racers, few = (_racers(nets, wanted) for wanted in (RACERS, BY_LENGTH))
    for name, sources in lots.items():
        kept.make(name, partial(_timed, base, racers, sources, batches=BATCHES))
        if base == BASE:  # generate() runs T5s
            kept.make(f"{name} generate", partial(_against_generate, nets[base], sources))
    every = [source for sources in lots.values() for source in sources]
    kept.make("by length", partial(_timed, base, few, every, batches=(1,), edges=EDGES))


def _racers(nets: Mapping[str, Path], wanted: Mapping[str, Sequence[str]]) -> list[System]:
    ways = [(arm, how) for arm, hows in wanted.items() if arm in nets for how in hows if how in decodings(arm)]
    return [System(f"{arm}; {how}", nets[arm], **decodings(arm)[how]) for arm, how in ways]


def _timed(base: str, systems: Sequence[System], sources: Sequence[str], **settings: Any) -> list[dict[str, Any]]:
    timed = speed(runners(systems), sources, baseline=f"{base}; greedy", rounds=ROUNDS, **settings)
    return [one.json() for one in timed]


def _against_generate(path: Path, sources: Sequence[str]) -> list[dict[str, Any]]:
    model = load_translator(path)
    assert model.alphabet.end is not None
    ids = [[*one.ids, model.alphabet.end] for one in tokenizers.encode(model.tokenizer, sources)]
    return race(model.net, ids, model.alphabet, batches=BATCHES, longest=model.window, rounds=ROUNDS)


# ---- faults and curves -----------------------------------------------------------------------------------------------


def look_at_faults(out: Path, some: Sequence[Run]) -> None:
    """Mixtures of seed 0's nets, and the dependence probe of some."""
    places = prepare(out)
    taught = [pair.source for pair in read_pairs([str(places["raw"])], "source,target")]
    every = [tuple(line.split("\t")[:2]) for line in corpus("train")]
    many = translation_faults.several(((pair[0], pair[1]) for pair in every), taught, MIXED)
    pairs = read_pairs([str(places["test"])], "source,target")
    single = Several([pair.source for pair in pairs], [[pair.target] for pair in pairs])
    probes = {"test": single.some(PROBED), "several": many.some(PROBED)}
    for run in some:
        if run.seed != 0:
            continue
        kept, model = Kept.of(out, f"{run.path.name}-faults", run.path), load_translator(run.path)
        for how in [how for how in decodings(run.arm) if how in FAULTY]:
            system = runner(System(how, run.path, **decodings(run.arm)[how]), model)
            kept.make(f"mixed {how}", partial(translation_faults.mixed, system, many))
            for name, sentences in probes.items() if run.arm in PROBES else ():
                key = f"probed {how}, {name}"
                kept.make(key, partial(translation_faults.probed, model, system, sentences))


def end_curves(out: Path, some: Sequence[Run]) -> None:
    """The last point of every curve, on the pairs that the other points are of."""
    for run in some:
        Kept.of(out, f"{run.path.name}-curve", run.path).make("last", partial(_last, out, run.path))


def _last(out: Path, path: Path) -> dict[str, float]:
    """As train/paired.py judges along the way."""
    model, valid = load_translator(path), str(out / "data" / "valid.tsv")
    recipe = model.facts["recipe"]
    longest, seed = recipe["text"]["length"], recipe["training"]["seed"]
    read_anew = {"columns": "source,target", "tokenizer": model.tokenizer, "length": longest}
    held = prepare_pairs([valid], valid=[valid], **read_anew)
    chosen = curve_rows(len(held.valid), CURVE_PAIRS)
    pairs, references = held.valid.select(chosen), [held.held[row].target for row in chosen]
    taught = dict(model.facts["objective"])
    objective = OBJECTIVES.load(taught["name"])(**recipe["fields"])
    settings: dict[str, Any] = {"longest": longest, "seed": seed}
    found = weigh_pairs(objective, model.net, model.alphabet, pairs, seed=seed)
    found |= weigh_translations(model.net, model.tokenizer, model.alphabet, pairs, references, taught, **settings)
    return {
        "step": model.facts["step"],
        **{name: one.value for name, one in found.items()},
        **{f"{name}_stderr": one.stderr for name, one in found.items()},
    }


def curve(out: Path, run: Run) -> dict[str, Any]:
    """CPU minutes of the run, and its points; the last one is left out until it was taken on the same pairs."""
    points = [point for point in read(run.path) if "bleu" in point]
    facts, account = json.loads((run.path / "remask.json").read_text()), run.path / "cpu.json"
    last = Kept.of(out, f"{run.path.name}-curve", run.path).found.get("last")
    points = [point for point in points if point["step"] < facts["step"]] + ([last] if last else [])
    seconds = json.loads(account.read_text())["seconds"] if account.is_file() else facts["seconds"]
    terms = next((name for name in facts["metrics"] if name.endswith("_nats") and name != "length_nats"), "")
    return {
        "minutes": seconds / 60,
        "steps": facts["step"],
        "points": [
            {**point, "nats": point.get(terms), "nats_stderr": point.get(f"{terms}_stderr")} for point in points
        ],
    }


# ---- the command -----------------------------------------------------------------------------------------------------


def gather(out: Path) -> Found:
    """Everything that is kept."""
    found = Found({}, {}, {}, {})
    there = runs(out)
    for run in there:
        made = Kept.of(out, run.path.name, run.path).found
        found.quality.setdefault(run.arm, {})[run.seed] = made
        found.curves.setdefault(run.arm, {})[run.seed] = curve(out, run)
        if run.seed == 0:
            found.faults[run.arm] = Kept.of(out, f"{run.path.name}-faults", run.path).found
    timed = [run.path for run in there if run.seed == 0 and run.arm in RACERS]
    found.speed.update(Kept.of(out, "speed", *timed).found)
    return found


def tell(out: Path, some: Sequence[Run]) -> None:
    """Print all tables, and draw the picture."""
    del some
    found = gather(out)
    print("\n".join([*tables(found), *filter(None, [missing(out)])]))
    figure(found, out / "translation.png")


PARTS: dict[str, Callable[[Path, Sequence[Run]], None]] = {
    "quality": weigh_all,
    "speed": time_all,
    "faults": look_at_faults,
    "curves": end_curves,
    "tables": tell,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path, metavar="OUT")
    words.add_argument("--part", choices=list(PARTS), default="tables")
    words.add_argument(
        "--arms", default="", help="names, with ; between them; default: all; speed and tables are of all anyway"
    )
    given = words.parse_args(arguments)
    try:
        arms = [name.strip() for name in given.arms.split(";") if name.strip()]
        some = runs(given.out, arms)
        if not some:
            raise BadData(f"{given.out} holds no finished run: first type python -m recipes.translation {given.out}.")
        PARTS[given.part](given.out, some)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
