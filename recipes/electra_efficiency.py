"""How fast each pretraining objective finds hidden structure: ELECTRA, its ablations and MLM where the truth is known.

    python recipes/electra_efficiency.py --out runs/efficiency [--jobs 2] [--resume] [--arms electra mlm-15 ...]

The ablation of ELECTRA (Clark et al. 2020, arXiv 2003.10555, section 3.4) on the language of `hidden_language`: fresh
sentences, never repeated, block = f(seed, step), so all arms of a seed read the same text in the same order, and mask
the same cells where their rates agree. One net for all: 3 layers of 96, 3 heads of 32, GeGLU 256, directional heads
(--plain is without: it then sits on the unigram plateau for most of this budget), generators a third as wide; AdamW.
The measure belongs to no arm's own task: linear probes of class and topic on the frozen last layer, clean input,
ambiguous tokens only. Headline: the mean over the two of (probe - word alone) / (oracle - word alone).
The learning rate is chosen for each arm on a spare seed, with a schedule of its own over 40 % of the tokens. Only the
last point of a curve has a learning rate that fell to zero; read what lies before it with care.

Hardware: two CPU cores, one thread a run, about 30 minutes for the eight usual arms: 1,048,576 tokens (512 steps of 64
x 32) take about 40 s with MLM and 55 s with a pair, times 6.2 (five seeds, three tuning runs of 40 %), and 240 probes.
Expected: see docs/results.md, "ELECTRA where the truth is known".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import efficiency_report
from recipes.hidden_language import Accuracy, HiddenLanguage
from recipes.hidden_probe import Probe
from remask.bench.flops import Shape, flops_per_token
from remask.core.errors import BadInput, Diverged, OutputExists, UnknownName, UserError
from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.nets import encoder

PREDICTIONS = """\
Written before the study; sentences of 32, probes of class and topic at ambiguous tokens, five seeds.
1. Order at equal tokens, by the headline: mlm-15 < {replace-mlm, electra-15-masked} < all-tokens <= electra.
2. A tie of all-tokens and electra is the expected result: with a small vocabulary the full softmax is nearly free and
   says more of each token than one bit does; ELECTRA's published lead has a vocabulary of 30,522 behind it.
3. mlm-40 > mlm-15 at equal tokens and at equal FLOPs: the text is unlimited and short on training, not on context.
4. electra-15-random (as many loss terms as electra-15-masked, none of them on a fake) is the worst of the ELECTRA arms:
   all its labels are "real". electra-50 lies nearer to electra than to electra-15-masked.
5. At equal FLOPs and at equal seconds every lead over mlm-15 shrinks: a pair costs 1.14 nets in FLOPs and about 1.45
   in seconds.
6. Topic gains more from all-token losses than class does; untrained stays at or below the word alone.
A difference is claimed only where its 95 % interval over paired seeds excludes zero; everything else is "not resolved".
What had been seen by then: 1 to 6 were written after MLM pilots that shaped the language, and before any run with a
discriminator; the costs in 5 had been counted. Then came pilots at rate 3e-3 on a seed of their own. With 512 words
(word chain 0.7, leak 0.05), mlm-15 ended at a headline of 0.79 and electra at -0.13 after 1,048,576 tokens, all-tokens
and replace-mlm at -0.15 after 419,840: their generators had learnt, their discriminators had not begun. The study
therefore uses 128 words and clearer contexts (0.85, no leak), where they begin within the budget: pilots gave electra
0.40 after 0.9M tokens, all-tokens 0.41 and mlm-15 0.93 after 0.7M. So we expect 1 to be reversed at this budget.
"""

SIZE = encoder.Size(layers=3, width=96, heads=3, feed_forward=256, directional=True, block_parameters=0)
BETAS, DECAY, WARMUP = (0.9, 0.98), 0.01, 0.05
TUNING_SEED = 1000
BLOCK = 1  # first part of the seeds of text to train on: the probe's text has others


class Arm(NamedTuple):
    """objective: "module:Class", "" trains nothing; fields: its fields; task: its name in remask.bench.flops;
    as_dear_as: train on so many more tokens that the run costs the FLOPs of that arm's."""

    objective: str
    fields: dict[str, Any]
    task: str
    as_dear_as: str = ""


def _mlm(rate: float, as_dear_as: str = "") -> Arm:
    chosen = {"mask_rate": rate, "keep": 0.1, "random": 0.1}
    return Arm("remask.objectives.mlm:MLM", chosen, "mlm", as_dear_as)


def _pair(name: str = "electra", **chosen: Any) -> Arm:
    common = {"mask_rate": 0.15, "generator_width": 1 / 3, "share": "shared"}
    return Arm("remask.objectives.electra:ELECTRA", {**common, **chosen}, name)


ARMS: dict[str, Arm] = {
    "untrained": Arm("", {}, ""),
    "mlm-15": _mlm(0.15),
    "mlm-40": _mlm(0.40),
    "replace-mlm": _pair("replace_mlm", task="replace-mlm"),
    "all-tokens": _pair("all_tokens_mlm", task="all-tokens"),
    "electra": _pair(),
    "electra-15-masked": _pair(score="masked"),
    "electra-15-random": _pair(score="random"),
    # more, if asked for: which reals have to be scored, gradient scale, and MLM for the same FLOPs
    "electra-15-uniform": _pair(score="uniform"),
    "electra-balanced": _pair(score="balanced"),
    "electra-50": _pair(score="half"),
    "electra-15-sum": _pair(score="masked", score_scale="sum"),
    "mlm-15-as-dear": _mlm(0.15, as_dear_as="electra"),
}
USUAL = tuple(ARMS)[:8]


@dataclass(frozen=True)
class Study:
    """What must not change between the runs that are compared."""

    tokens: int = 1_048_576
    batch: int = 64
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    tuning_share: float = 0.4
    points: int = 6
    first_point: float = 0.1
    probe_sentences: int = 1000
    probe_cells: int = 8
    directional: bool = True
    language: int = 0
    words: int = 128
    habit: float = 0.85
    leak: float = 0.0
    one_reading: float = 0.5

    @property
    def law(self) -> HiddenLanguage:
        """The language."""
        return _law(self.language, self.words, self.habit, self.leak, self.one_reading)

    def steps(self, share: float = 1.0) -> int:
        """Optimizer steps of this share of the tokens."""
        return max(1, round(share * self.tokens / (self.batch * self.law.length)))

    def block(self, seed: int, step: int) -> Tensor:
        """The text of a step, [B, L]: the same for every arm."""
        return self.law.sample(self.batch, (BLOCK, seed, step)).tokens


class Job(NamedTuple):
    """One run. share: of the study's tokens, with a schedule of its own."""

    arm: str
    seed: int
    rate: float
    share: float
    points: int

    def path(self, out: Path) -> Path:
        """Where its points go."""
        return out / "runs" / f"{self.arm}-seed{self.seed}-rate{self.rate:g}-share{self.share:.4g}.jsonl"


@cache
def _law(seed: int, words: int, habit: float, leak: float, plain: float) -> HiddenLanguage:
    return HiddenLanguage(seed, words=words, habit=habit, leak=leak, plain=plain)


@cache
def probe_of(study: Study) -> Probe:
    """The probe of every run."""
    return Probe(study.law, study.probe_sentences, study.probe_cells)


def bare(study: Study, seed: int) -> Any:
    """The untrained net of a seed."""
    encoder.SIZES.setdefault("study", SIZE)  # no size for users: `build` takes names only
    law = study.law
    return encoder.build("study", law.alphabet, law.length, directional_heads=study.directional, seed=seed)


def furnish(arm: Arm, study: Study, seed: int) -> tuple[Any, Any]:
    """Objective and net of an arm."""
    module, _, name = arm.objective.partition(":")
    objective = getattr(import_module(module), name)(**arm.fields)
    net = bare(study, seed)
    return objective, objective.furnish(net, seed=seed) if hasattr(objective, "furnish") else net


def _shape(net: Any, embedding: int | None = None) -> Shape:
    c = net.model.config
    sizes = c.num_hidden_layers, c.hidden_size, c.intermediate_size, c.num_attention_heads, c.vocab_size
    return Shape(*sizes, embedding=embedding, gated=True)


def training_flops(arm: Arm, study: Study) -> float:
    """Training FLOPs a token: products only, backward = 2 forward, lookups free."""
    _, net = furnish(arm, study, 0)
    kept = _shape(net.trunk)
    generator = _shape(net.generator, kept.hidden) if hasattr(net, "generator") else None
    return flops_per_token(kept, generator, arm.task, arm.fields["mask_rate"], length=study.law.length)


def milestones(steps: int, points: int, first: float) -> list[int]:
    """Step numbers from `first` of the steps to all of them, geometric, without repeats."""
    shares = [first ** (k / max(1, points - 1)) for k in range(points)]
    return sorted({max(1, round(steps * share)) for share in shares})


def train(job: Job, study: Study) -> Iterator[dict[str, Any]]:
    """The points of a run: what was spent, what the probes read, mean loss terms since the point before."""
    if not ARMS[job.arm].objective:
        yield _point(0, 0.0, 0.0, probe_of(study)(bare(study, job.seed)), {})
        return
    arm = ARMS[job.arm]
    objective, net = furnish(arm, study, job.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=job.rate, betas=BETAS, weight_decay=DECAY, fused=True)
    steps, each = study.steps(job.share), training_flops(arm, study)
    stops = milestones(steps, job.points, study.first_point)
    seconds, sums = 0.0, dict[str, tuple[float, float]]()
    for step in range(steps):
        text = study.block(job.seed, step)
        began = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = job.rate * min((step + 1) / (WARMUP * steps), (steps - step) / ((1 - WARMUP) * steps), 1.0)
        batch = Batch.of(text, study.law.alphabet)._replace(progress=step / steps)
        stream = Stream.of(job.seed, batch.slot).child(step)
        question = objective.corrupt(batch, stream)
        loss = objective(net, question, stream)
        scalar = loss.mean(question.counts)
        if not math.isfinite(float(scalar.detach())):
            raise Diverged(f"loss {float(scalar.detach())} at step {step}: the learning rate is too high.")
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()
        seconds += time.process_time() - began
        for term in loss.terms:
            total, count = sums.get(term.name, (0.0, 0.0))
            sums[term.name] = (total + float(term.total.detach()), count + float(term.count))
        if step + 1 in stops:
            tokens = (step + 1) * text.numel()
            terms = {name: total / count for name, (total, count) in sums.items()}
            yield _point(tokens, seconds, tokens * each, probe_of(study)(net.trunk), terms)
            sums = {}


def _point(tokens: int, seconds: float, flops: float, read: Accuracy, terms: dict[str, float]) -> dict[str, Any]:
    spent = {"tokens": tokens, "seconds": round(seconds, 3), "flops": flops}
    return {**spent, "class": read.classes.value, "topic": read.topic.value, "terms": terms}


def finish(job: Job, study: Study, out: Path) -> str:
    """Do a run and write it whole; a tuning run that diverged is written too, with fewer points."""
    points: list[dict[str, Any]] = []
    end: dict[str, Any] = {"job": job._asdict(), "diverged": ""}
    began = time.perf_counter()
    try:
        points.extend(train(job, study))
    except Diverged as error:
        end["diverged"] = str(error)
    end["wall_seconds"] = round(time.perf_counter() - began, 1)
    write(job.path(out), "".join(json.dumps(line) + "\n" for line in (*points, end)))
    last = points[-1] if points else {"class": math.nan, "topic": math.nan, "seconds": math.nan}
    read = f"class {last['class']:.3f}, topic {last['topic']:.3f}, {last['seconds']:.0f} s of training"
    return f"{job.path(out).stem}: {end['diverged'] or read}"


def write(path: Path, text: str) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def points_of(job: Job, out: Path) -> list[dict[str, Any]]:
    """The points of a finished run; none if it diverged."""
    *points, end = [json.loads(line) for line in job.path(out).read_text(encoding="utf-8").splitlines()]
    return [] if end["diverged"] else points


def one_thread() -> None:
    """So that runs side by side do not share their cores."""
    torch.set_num_threads(1)


def do(jobs: Iterable[Job], study: Study, out: Path, side_by_side: int, say: Callable[[str], None]) -> None:
    """Do the jobs that are not done yet."""
    todo = [job for job in jobs if not job.path(out).is_file()]
    if side_by_side == 1:
        for job in todo:
            say(finish(job, study, out))
        return
    with ProcessPoolExecutor(side_by_side, get_context("spawn"), one_thread) as pool:
        futures = [pool.submit(finish, job, study, out) for job in todo]
        try:
            for future in as_completed(futures):
                say(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def share_of(arm: Arm, study: Study) -> float:
    """Tokens of an arm as a share of the study's."""
    if not arm.as_dear_as:
        return 1.0
    return training_flops(ARMS[arm.as_dear_as], study) / training_flops(arm, study)


def tuning(name: str, study: Study) -> list[Job]:
    """The runs that choose an arm's learning rate; none for the untrained net."""
    share = study.tuning_share * share_of(ARMS[name], study) if ARMS[name].objective else 0.0
    return [Job(name, TUNING_SEED, rate, share, 1) for rate in study.rates] if share else []


def best_rate(name: str, study: Study, out: Path, headline: Callable[[dict[str, Any]], float]) -> float:
    """The rate whose tuning run ended highest; a run that diverged loses to all others."""
    jobs = tuning(name, study)
    ends = [headline(points[-1]) if (points := points_of(job, out)) else -math.inf for job in jobs]
    return jobs[max(range(len(jobs)), key=ends.__getitem__)].rate if jobs else 0.0


def claim(out: Path, study: Study, resume: bool) -> None:
    """Make the directory this study's, or refuse."""
    path, ours = out / "study.json", json.loads(json.dumps(asdict(study)))
    if resume and path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))["study"]
        other = [name for name in ours if theirs.get(name) != ours[name]]
        if other:
            raise BadInput(f"{out} was begun with another {', '.join(other)}: type the same, or another --out.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} is not empty: type --resume to go on with a study, or another --out.")
    write(path, json.dumps({"study": ours, "predictions": PREDICTIONS.splitlines()}, indent=1) + "\n")


def run(
    study: Study,
    out: Path,
    *,
    arms: Sequence[str] = USUAL,
    seeds: int = 5,
    jobs: int = 2,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> efficiency_report.Found:
    """The whole study; writes runs/*.jsonl, analysis.json, table.md and figure.png and .svg into `out`."""
    for name in arms:
        if name not in ARMS:
            raise UnknownName("arm", name, ARMS)
    claim(out, study, resume)
    say(PREDICTIONS)
    test = probe_of(study).test[0]
    truth = efficiency_report.Truth.of(study.law.word_accuracy(test), study.law.oracle_accuracy(test))
    do([job for name in arms for job in tuning(name, study)], study, out, jobs, say)
    rates = {name: best_rate(name, study, out, truth.headline) for name in arms}
    runs = {
        (name, seed): Job(name, seed, rates[name], share_of(ARMS[name], study), study.points)
        for seed in range(seeds)
        for name in arms
    }
    do(runs.values(), study, out, jobs, say)
    found = efficiency_report.Found(
        truth, rates, {name: {seed: points_of(runs[name, seed], out) for seed in range(seeds)} for name in arms}
    )
    text = efficiency_report.write_up(found, out)
    write(out / "table.md", text)
    write(out / "analysis.json", json.dumps(efficiency_report.facts(found), indent=1) + "\n")
    say(text)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(USUAL), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/efficiency"))
    parser.add_argument("--resume", action="store_true", help="go on; finished runs are not done again")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="no directional heads, in any arm")
    for field in fields(Study):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--rates", type=float, nargs="+", default=list(Study.rates))
    given = vars(parser.parse_args(arguments))
    chosen = {f.name: given[f.name] for f in fields(Study) if f.name in given}
    study = Study(**{**chosen, "rates": tuple(given["rates"]), "directional": not given["plain"]})
    one_thread()
    try:
        run(study, given["out"], **{name: given[name] for name in ("arms", "seeds", "jobs", "resume")})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
