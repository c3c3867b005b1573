"""The work of `remask translate`: texts in, lines or JSON or a file of pairs out, and what is told beside."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from remask.cli.flags import take
from remask.cli.show import console, say
from remask.cli.words import emit
from remask.core.errors import BadData, BadInput
from remask.core.sampler import Sampler
from remask.core.stream import Stream
from remask.data.file import newlines, read_text
from remask.data.pairs import read_pairs
from remask.data.tokenizers import encode
from remask.train.translator import Translator, load_translator
from remask.translate.distill import check, distill, place
from remask.translate.faults import faults
from remask.translate.lengths import Lengths
from remask.translate.lines import Counts, Lines, Translation, Writer
from remask.translate.outcome import Outcome
from remask.translate.parallel import translate as translate_in_parallel
from remask.translate.scores import scores

STANDARD_INPUT = "-"
PAIRS = (".tsv", ".jsonl", ".ndjson", ".parquet")


def translate(values: argparse.Namespace, sampler: Sampler, names: Sequence[str]) -> int:
    """Translate; `names`: of the flags of Lengths; `values.typed`: flags that only parallel decoding has."""
    lengths = Lengths(**take(values, names))
    sources, references = texts(values)
    if values.out is not None:
        check(Path(values.out), resume=values.resume, overwrite=values.overwrite)
    if references is not None:
        scores(["a"], ["a"], tokenize=values.tokenize)  # what cannot be weighed is told before the work
    model = load_translator(values.checkpoint)
    refuse(model, values)
    if values.bf16:
        model = model.in_bfloat16()
    model.net.to("cuda" if torch.cuda.is_available() else "cpu")
    truth = None if references is None else [one.ids for one in encode(model.tokenizer, references)]
    translator = Lines(
        writer(model, values, sampler, lengths),
        model.tokenizer,
        model.alphabet,
        model.window,
        batch=values.batch,
        long=values.long,
        seed=values.seed,
        oracle=[len(ids) for ids in truth] if truth is not None and values.oracle_length else None,
        device=next(model.net.parameters()).device,
        tell=lambda message: say(escape(message)),
    )
    if values.out is not None:
        return _distil(model, values, translator, list(sources), [repr(sampler), repr(lengths)])
    return _print(values, translator, sources, references, truth)


def writer(model: Translator, values: argparse.Namespace, sampler: Sampler, lengths: Lengths) -> Writer:
    """What translates a batch."""
    net, alphabet, longest = model.net, model.alphabet, model.window
    if not net.causal:
        return lambda source, attend, stream, oracle: translate_in_parallel(
            net, source, attend, alphabet, sampler, stream, lengths, oracle
        )
    from remask.translate import left_to_right

    settings = _beam(values)

    def decode(source: Tensor, attend: Tensor, stream: Stream, oracle: Tensor | None) -> Outcome:
        del stream, oracle
        if settings:
            return left_to_right.beam(net, source, attend, alphabet, longest, **settings)
        return left_to_right.greedy(net, source, attend, alphabet, longest)

    return decode


def _beam(values: argparse.Namespace) -> dict[str, Any]:
    """The settings of a beam; empty where greedy decoding will do."""
    if (values.beam or 1) == 1:
        return {}
    return {"width": values.beam, "length_penalty": 1.0 if values.length_penalty is None else values.length_penalty}


def refuse(model: Translator, values: argparse.Namespace) -> None:
    """Raise BadInput for flags that the other kind of net has."""
    typed = [*values.typed, *["--oracle-length"] * values.oracle_length]
    typed = [flag for flag in typed if flag != "--length-penalty" or not _beam(values)]
    if model.net.causal and typed:
        raise BadInput(
            f"{model.path} writes from left to right, a token a call, and {typed[0]} is for parallel decoders: leave "
            "it out; --beam N tries more than one translation."
        )
    if not model.net.causal and values.beam is not None:
        raise BadInput(
            f"{model.path} writes in parallel and --beam is for nets that go left to right: type --lengths N to try "
            "several lengths."
        )


# ---- texts -----------------------------------------------------------------------------------------------------------


def texts(values: argparse.Namespace) -> tuple[Iterable[str], list[str] | None]:
    """The sources, and the references if there are any; BadInput and BadData where they cannot be."""
    kind = [suffix.lower() for suffix in Path(values.data).suffixes if suffix.lower() != ".gz"][-1:]
    of_pairs = values.data.startswith("hf:") or (kind and kind[0] in PAIRS)
    if values.columns is not None:
        if not of_pairs:
            raise BadInput(f"--columns came for {values.data}, which has none: leave it out, or name a .tsv.")
        pairs = read_pairs([values.data], values.columns)
        return [pair.source for pair in pairs], None if values.out is not None else [pair.target for pair in pairs]
    if of_pairs:
        raise BadInput(f"{values.data} has columns: type --columns source,target, in their order in the file.")
    sources = standard_input() if values.data == STANDARD_INPUT else _lines(values.data)
    if values.reference is None:
        return sources, None
    sources, references = list(sources), _lines(values.reference)
    if len(sources) != len(references):
        raise BadData(
            f"{values.reference} has {len(references)} lines and {values.data} has {len(sources)}, but line k of the "
            "one must translate line k of the other: type the references of these sources."
        )
    if not any(map(str.strip, references)):
        raise BadData(f"{values.reference} holds no text, so nothing can be compared: type another --reference.")
    return sources, references


def _lines(path: str) -> list[str]:
    text = read_text(Path(path))
    return text.removesuffix("\n").split("\n") if text else []


def standard_input() -> Iterator[str]:
    """Lines as they come; BadData for one that is not UTF-8."""
    if sys.stdin is None:
        raise BadInput("standard input is closed: type --data FILE.")
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield newlines(line.decode()).removesuffix("\n").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise BadData(
                f"line {number} of standard input is not UTF-8: convert it, for example with iconv."
            ) from error


# ---- answers ---------------------------------------------------------------------------------------------------------


def _print(
    values: argparse.Namespace,
    translator: Lines,
    sources: Iterable[str],
    references: list[str] | None,
    truth: list[list[int]] | None,
) -> int:
    """A line for each source, and the summary."""
    began, calls, found = time.monotonic(), 0, list[Translation]()
    quiet = values.json or sys.stdout.isatty() or not sys.stderr.isatty()  # lines and a bar in one place would mix
    with Bar(len(sources) if isinstance(sources, list) else None, quiet) as bar:
        for one in translator(sources):
            bar(translator.counts.lines)
            calls += one.calls
            if references is not None:
                found.append(one)
            if values.json:
                facts = {"length": one.length, "calls": one.calls, "log_prob": round(one.log_prob, 4) + 0.0}
                emit({"text": one.text, **facts, "source_tokens": one.source_tokens})
            else:
                print(one.text, flush=True)
    record = summary(translator.counts, time.monotonic() - began)
    record["calls"] = calls / max(translator.counts.lines, 1)
    if references and truth is not None:
        record |= weighed(found, references, truth, values.tokenize)
    _tell(record, values.json)
    return 0


def summary(counts: Counts, seconds: float) -> dict[str, Any]:
    """What can be told of any work."""
    return {
        "lines": counts.lines,
        "empty": counts.empty,
        "long": counts.long,
        "unknown": counts.unknown,
        "seconds": round(seconds, 4),
        "sentences_per_second": counts.lines / seconds if seconds else 0.0,
    }


def weighed(
    found: Sequence[Translation], references: Sequence[str], truth: Sequence[Sequence[int]], tokenize: str
) -> dict[str, Any]:
    """BLEU and chrF with errors and signatures, and the faults."""
    made = scores([one.text for one in found], references, tokenize=tokenize)
    numbers = faults([one.tokens for one in found], truth, [one.length for one in found])
    return {
        "bleu": made.bleu.estimate.value,
        "bleu_stderr": made.bleu.estimate.stderr,
        "bleu_interval": made.bleu.interval,
        "signature": made.bleu.signature,
        "chrf": made.chrf.estimate.value,
        "chrf_stderr": made.chrf.estimate.stderr,
        "chrf_signature": made.chrf.signature,
        "faults": {name: estimate.json() for name, estimate in numbers},
    }


def _tell(record: dict[str, Any], as_json: bool) -> None:
    """The summary: a JSON object on standard output, or lines on standard error; what was lost, always."""
    if as_json:
        emit(record)
    else:
        say(f"{record['lines']:,} lines, {record['sentences_per_second']:,.1f} a second")
        if "bleu" in record:
            say(f"BLEU {record['bleu']:.2f} ± {record['bleu_stderr']:.2f}  {record['signature']}")
            say(f"chrF {record['chrf']:.2f} ± {record['chrf_stderr']:.2f}  {record['chrf_signature']}")
            shown = {name: record["faults"][name]["value"] for name in SHOWN}
            say(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in shown.items()))
    for name, text in LOST.items():
        if record[name]:
            say(text.format(record[name]))


SHOWN = ("stutter_rate", "reference_stutter_rate", "length_exact", "length_within_1", "length_error")
LOST = {
    "empty": "{:,} empty sources, with empty translations",
    "long": "{:,} sources were longer than the net reads",
    "unknown": "{:,} tokens of the sources are unknown to the tokenizer",
}


def _distil(
    model: Translator, values: argparse.Namespace, translator: Lines, sources: Sequence[str], how: Sequence[str]
) -> int:
    """Write the file of pairs."""
    out, began = Path(values.out), time.monotonic()
    settings = {
        "checkpoint": str(values.checkpoint),
        "fingerprint": model.facts.get("data", {}).get("fingerprint"),
        "data": values.data,
        "columns": values.columns,
        "decoding": (f"left to right {_beam(values)}" if model.net.causal else " ".join(how))
        + " in bfloat16" * values.bf16,
        "window": translator.window,
        **{name: getattr(values, name) for name in ("batch", "long", "seed")},
    }
    with Bar(len(sources), values.json or not sys.stderr.isatty()) as bar:
        done = distill(
            translator,
            sources,
            out,
            settings,
            resume=values.resume,
            overwrite=values.overwrite,
            progress=lambda done, of: bar(done),
        )
    record = {**summary(translator.counts, time.monotonic() - began), "resumed": done, "out": str(out)}
    _tell(record, values.json)
    if not values.json:
        say(escape(f"{len(sources):,} pairs are in {out}, their record in {place(out, '.json')}"))
    return 0


class Bar:
    """The progress line: lines, lines a second; nothing where it is to be quiet."""

    def __init__(self, total: int | None, quiet: bool):
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[facts]}"))
        self.began = time.monotonic()
        self.progress = Progress(*columns, console=console, disable=quiet, expand=True, transient=True)
        self.progress.add_task("translating", total=total, facts="")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, done: int) -> None:
        """So many lines are done."""
        rate = done / max(time.monotonic() - self.began, 1e-9)
        self.progress.update(self.progress.task_ids[0], completed=done, facts=f"{done:,} lines  {rate:,.1f} a second")
