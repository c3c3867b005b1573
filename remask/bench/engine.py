"""Systems that translate: a checkpoint and a way to decode it, by our decoders or by CTranslate2.

CTranslate2 is the engine that one would otherwise pick on a CPU: the same T5, in C++, with kernels of its own (Klein et
al. 2020, OpenNMT, the toolkit that it comes from; Raffel et al. 2020, arXiv 1910.10683, the net). It writes what our
greedy decoder writes, but for ties that rounding decides, and for int8, whose weights are other ones. Its names of
tokens are their ids, so that it reads and writes our ids and never meets a tokenizer: its own conversion takes the
tokenizer's names, which need be neither unique nor as many as the net's rows. Four settings are not its own. A text may
be empty (it would write one token at least). Ids that our decoder never writes are suppressed. Sources of any length
are read whole. The scale of the outputs is the net's: since transformers ties every T5, its converter takes a T5 v1.1
for one that scales, which changes probabilities, though no greedy text.
Shapes: B batch, S source length.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, MissingExtra, UnknownName
from remask.core.stream import Stream
from remask.nets.t5 import T5Net, scaled
from remask.samplers import SAMPLERS
from remask.train.translator import Translator, load_translator
from remask.translate import left_to_right, parallel
from remask.translate.left_to_right import Law
from remask.translate.lengths import Lengths
from remask.translate.lines import Lines, Writer
from remask.translate.outcome import Outcome
from remask.translate.usual import FEW, lengths_of, usual_of


@dataclass(frozen=True)
class System:
    """A checkpoint and a way to decode it; what is left out is as the checkpoint was trained to be decoded.

    name: in tables; checkpoint: a directory. Parallel ones: sampler, and fields of it and of `Lengths` that are to be
    other than usual. Left-to-right ones: beam (1 is greedy) with its length penalty, or compute, the type in which
    CTranslate2 decodes greedily (float32 or int8). bf16: our own arithmetic in bfloat16.
    """

    name: str
    checkpoint: str | Path
    sampler: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, Any] = field(default_factory=dict)
    beam: int = 1
    length_penalty: float = 1.0
    compute: str | None = None
    bf16: bool = False


class Runner(NamedTuple):
    """A system that is loaded.

    name, what: in tables; write: what translates a batch; window: tokens of the longest source, its end included;
    parallel: whether lengths can be given.
    """

    name: str
    what: str
    write: Writer
    tokenizer: Any
    alphabet: Alphabet
    window: int
    parallel: bool
    device: torch.device

    def lines(self, batch: int = 32, *, seed: int = 0, oracle: Sequence[int] | None = None) -> Lines:
        """What translates lines of text; oracle: true lengths."""
        facts = self.write, self.tokenizer, self.alphabet, self.window, batch
        return Lines(*facts, seed=seed, oracle=oracle, device=self.device)


def runner(system: System, model: Translator | None = None, device: torch.device | str = "cpu") -> Runner:
    """Make a system ready; model: its checkpoint, where that is loaded already; device: CTranslate2 stays on the CPU.

    Raises BadCheckpoint where it holds no encoder-decoder, BadInput or UnknownName for settings that it cannot have,
    MissingExtra without the library of an engine.
    """
    model = model or load_translator(system.checkpoint)
    if system.bf16:
        model = model.in_bfloat16()
    model.net.to(device)
    write, what = (_left_to_right if model.net.causal else _parallel)(system, model)
    place = torch.device("cpu") if system.compute else next(model.net.parameters()).device
    facts = model.tokenizer, model.alphabet, model.window, not model.net.causal
    return Runner(system.name, what, write, *facts, place)


def runners(systems: Sequence[System], device: torch.device | str = "cpu") -> list[Runner]:
    """Make systems ready; a checkpoint is loaded once."""
    models = {path: load_translator(path) for path in dict.fromkeys(str(system.checkpoint) for system in systems)}
    return [runner(system, models[str(system.checkpoint)], device) for system in systems]


def _parallel(system: System, model: Translator) -> tuple[Writer, str]:
    """What writes in parallel, and what it is."""
    if system.beam != 1 or system.compute:
        raise BadInput(
            f"{system.name} came with a beam or an engine and writes in parallel: give it steps or lengths, or the "
            "checkpoint of a left-to-right net."
        )
    objective = model.facts.get("objective", {})
    usual, usually = usual_of(objective)
    name = system.sampler or usual
    kind = SAMPLERS.load(name)
    _known(f"field of {name}", system.fields, kind)
    _known("field of Lengths", system.lengths, Lengths)
    sampler = kind(**{**(usually if name == usual else FEW.get(name, {})), **system.fields})
    trained = lengths_of(objective)
    if system.lengths.get("length_penalty") is not None:  # it divides the sum
        trained.pop("rank", None)
    lengths = Lengths(**{**trained, **system.lengths})

    def write(source: Tensor, attend: Tensor, stream: Stream, oracle: Tensor | None) -> Outcome:
        return parallel.translate(model.net, source, attend, model.alphabet, sampler, stream, lengths, oracle)

    return write, f"{model.path}, {sampler}, {lengths}"


def _left_to_right(system: System, model: Translator) -> tuple[Writer, str]:
    """What writes from left to right, and what it is."""
    if system.sampler or system.fields or system.lengths:
        raise BadInput(
            f"{system.name} came with a sampler or lengths and writes from left to right: give it a beam, or the "
            "checkpoint of a parallel net."
        )
    longest = model.window
    if system.compute:
        if system.beam != 1 or system.bf16:
            came, does = ("a beam", "decodes greedily") if system.beam != 1 else ("bf16", "has types of its own")
            raise BadInput(f"{system.name} came with {came} and an engine, which {does}: leave one out.")
        made = engine(model.net, model.alphabet, longest, compute=system.compute)
        return made, f"{model.path}, CTranslate2 in {system.compute}, greedy"
    decode: Callable[..., Outcome] = partial(left_to_right.greedy, longest=longest)
    if system.beam != 1:
        settings: dict[str, Any] = {"width": system.beam, "length_penalty": system.length_penalty}
        decode = partial(left_to_right.beam, longest=longest, **settings)

    def write(source: Tensor, attend: Tensor, stream: Stream, oracle: Tensor | None) -> Outcome:
        del stream, oracle
        return decode(model.net, source, attend, model.alphabet)

    how = "greedy" if system.beam == 1 else f"beam {system.beam}, length penalty {system.length_penalty}"
    return write, f"{model.path}, {how}"


def _known(what: str, came: Mapping[str, Any], kind: Any) -> None:
    """Raise UnknownName for a field that a dataclass lacks."""
    known = [one.name for one in dataclasses.fields(kind)]
    for name in came:
        if name not in known:
            raise UnknownName(what, name, known)


# ---- CTranslate2 -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """A T5 in CTranslate2: a Writer (translate/lines.py), greedy, on the CPU.

    translator: CTranslate2's own; silent: names of the ids that are never written; longest: tokens of a text, its end
    counted.
    """

    translator: Any
    silent: tuple[str, ...]
    longest: int

    def __call__(self, source: Tensor, attend: Tensor, stream: Stream, oracle: Tensor | None) -> Outcome:
        """Translate [B, S] int64, attend [B, S] bool; log p is not asked for, which would slow it down: it is nan."""
        del stream, oracle
        rows = self.texts([row[seen].tolist() for row, seen in zip(source, attend)])
        length = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        unknown = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        return Outcome(rows, unknown, length, (length + 1).clamp(max=self.longest))

    def texts(self, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        """Ids of texts, without ends, of ids of sources, with theirs."""
        found = self.translator.translate_batch(
            [list(map(str, row)) for row in sources],
            beam_size=1,
            max_input_length=0,
            min_decoding_length=0,
            max_decoding_length=self.longest,
            suppress_sequences=[[name] for name in self.silent],
        )
        return [list(map(int, one.hypotheses[0])) for one in found]


def engine(
    net: T5Net, alphabet: Alphabet, longest: int, *, compute: str = "float32", threads: int | None = None
) -> Engine:
    """Convert a left-to-right T5 (that of `load_translator`) and open it.

    longest: tokens of a text, its end counted; compute: float32 or int8; threads: None for as many as torch
    has. Raises MissingExtra without ctranslate2, BadInput for another net, an alphabet without a pad or an end,
    or a type that this processor does not compute in.
    """
    try:
        import ctranslate2
        from ctranslate2.converters import Converter
        from ctranslate2.converters.transformers import MT5Loader, T5Loader
    except ImportError as error:
        raise MissingExtra("ctranslate2", "engine", "the CTranslate2 engine") from error
    if not isinstance(net, T5Net) or not net.causal:
        raise BadInput("CTranslate2 came with a net that is no left-to-right T5: give a run of seq2seq, or a T5.")
    if alphabet.pad is None or alphabet.end is None:
        raise BadInput("CTranslate2 needs a tokenizer with a pad and an end token, and this one lacks one of them.")
    known = sorted(ctranslate2.get_supported_compute_types("cpu"))
    if compute not in known:
        raise BadInput(
            f"CTranslate2 does not compute in '{compute}' on this processor: type one of {', '.join(known)}."
        )
    model = copy.deepcopy(net.model).to("cpu", torch.float32)
    loader, names = (MT5Loader if net.family == "mt5" else T5Loader)(), _Names(net, alphabet)

    class Conversion(Converter):
        """Ours knows the net already."""

        def _load(self) -> Any:
            spec = loader(model, names)
            spec.config.layer_norm_epsilon = model.config.layer_norm_epsilon
            spec.decoder.scale_outputs = model.config.d_model**-0.5 if scaled(model.config) else 1.0
            return spec

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        home = Conversion().convert(str(Path(folder) / "converted"))
        count = threads or torch.get_num_threads()
        translator = ctranslate2.Translator(home, "cpu", compute_type=compute, inter_threads=1, intra_threads=count)
    silent = [*Law(alphabet, torch.device("cpu")).silent.tolist(), *range(alphabet.size, net.vocabulary)]
    return Engine(translator, tuple(map(str, silent)), longest)


class _Names:
    """A tokenizer, as far as the converter asks for one: the name of an id is the id."""

    def __init__(self, net: T5Net, alphabet: Alphabet):
        self.size = net.vocabulary
        self.eos_token, self.pad_token = str(alphabet.end), str(alphabet.pad)
        self.unk_token = self.pad_token  # asked for; with a name for every id nothing is unknown

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.size)}

    def convert_ids_to_tokens(self, number: int | None) -> str:
        return str(number or 0)
