"""Text of several windows: blocks that slide with their prefix, against windows from scratch and the twin's own text.

    REMASK_DATA=... python recipes/semi_autoregressive.py runs/semi --net runs/wikitext2/mdlm-1563 \\
        --scorer runs/wikitext2/autoregressive-1563 --plot docs/semi_autoregressive.png

Hardware: one thread of a 2-core CPU, about 16 CPU minutes; what is done is not done again. Texts of 512 tokens by a net
whose window is 128 are scored by its autoregressive twin, which was trained on the same text and sees 128 tokens too:
each token is scored in a window in which 112 to 127 tokens stand before it (fewer at the beginning of the text only).
Seams are where one window's last cell meets the next one's first new cell. Intervals are standard errors over texts.

The second part asks where texts end. Two copies of the net go on training for some hundred steps on paragraphs, each
followed by the end token: `cut`, whose attention stops at the end of a document, and `whole`, whose attention does not.
Expected: see docs/results.md, "Text of several windows".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished
from remask.core.canvas import Canvas, blank
from remask.core.draw import inverse_cdf
from remask.core.metric import Estimate, exponential, ratio
from remask.core.objective import Batch, Question
from remask.core.sampler import run
from remask.core.stream import Purpose, Stream
from remask.metrics.generative import Segment, along, unigram_entropy
from remask.metrics.likelihood import nats_of_cells
from remask.objectives.autoregressive import shifted
from remask.objectives.mdlm import MDLM
from remask.samplers.blocks import Blocks
from remask.train.checkpoint import Checkpoint, load

STRIDE = 16  # cells scored in each window: contexts are shorter than the longest by less than this
REACH = 8  # cells on either side of a seam
WIDTH = 64  # of a segment
HELD_OUT, TWIN, SCRATCH = "held-out text", "autoregressive twin, sliding", "windows from scratch"
ENDS = ("cut", "whole")


@dataclass(frozen=True)
class Cut(MDLM):
    """Masked diffusion (Sahoo et al. 2024) whose attention stops at the end of a document."""

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """As ever, with the documents of a row apart."""
        return super().corrupt(batch, stream)._replace(documents=batch.documents)


# ---- writing ---------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """tokens: [R][L]; seconds: of CPU; calls: of the network, for each text in the mean."""

    tokens: list[list[int]]
    seconds: float
    calls: float


def in_blocks(model: Checkpoint, size: int, ahead: int, texts: int, length: int, seed: int, stop: bool) -> Written:
    """Blocks of first-hitting sampling in a window as long as the net's."""
    sampler = Blocks(size=size, window=model.length, ahead=ahead, stop=stop)
    canvas: Canvas = blank(texts, length, model.alphabet)
    began, calls, tokens = time.process_time(), 0, canvas.tokens
    with torch.inference_mode():
        for state, info in run(sampler, model.conditional(), canvas, Stream.of(seed, texts)):
            calls, tokens = calls + int(info.calls.sum()), state.tokens
    return Written(tokens.tolist(), time.process_time() - began, calls / texts)


def from_left(model: Checkpoint, texts: int, length: int, seed: int) -> Written:
    """A causal net's own text, each token after the last 127 and the end token that stands for what came before."""
    end = model.alphabet.end
    assert end is not None
    stream, began = Stream.of(seed, texts), time.process_time()
    tokens = torch.full((texts, length + 1), end)
    for at in range(length):
        tokens[:, at + 1] = _next(model, tokens[:, max(1, at + 2 - model.length) : at + 1], stream, at)
    return Written(tokens[:, 1:].tolist(), time.process_time() - began, length)


@torch.inference_mode()
def _next(model: Checkpoint, before: Tensor, stream: Stream, at: int) -> Tensor:
    seen = torch.nn.functional.pad(before, (1, 0), value=model.alphabet.end)
    logits = model.net.logits(model.net.hidden(seen)[:, -1])
    logits[:, model.alphabet.mask] = -torch.inf
    return inverse_cdf(logits.log_softmax(1), stream.uniform(at, Purpose.TOKEN, 1)[:, 0])


def stream_of(model: Checkpoint, file: Path, document: str = "file") -> Tensor:
    """A text as one row of tokens, each document followed by the end token."""
    from remask.data.text import read
    from remask.data.tokenizers import encode

    end = model.alphabet.end
    encoded = encode(model.tokenizer, [one.text for one in read([str(file)], document=document)])
    return torch.tensor([token for one in encoded for token in (*one.ids, end)])


def spread(stream: Tensor, texts: int, length: int) -> Tensor:
    """Rows of a stream, evenly apart, [texts, length]."""
    first = torch.linspace(0, len(stream) - length, texts).long()
    return stream[first[:, None] + torch.arange(length)]


# ---- weighing --------------------------------------------------------------------------------------------------------


def weigh(scorer: Checkpoint, tokens: Tensor, stride: int = STRIDE) -> Tensor:
    """-log p of every cell [R, L] by overlapping windows: all cells of the first one, the last `stride` of others."""
    length = tokens.shape[1]
    window, done = min(scorer.length, length), 0
    nats = torch.zeros(tokens.shape, dtype=torch.float64)
    while done < length:
        end = min(done + stride, length) if done else window
        rows = tokens[:, end - window : end]
        one = torch.zeros_like(rows)
        found = nats_of_cells(scorer.net, shifted(rows, one, scorer.alphabet.end), rows, one, scorer.alphabet)
        nats[:, done:end] = found[:, done - end :]
        done = end
    return nats


def mean(values: Tensor, unit: str) -> Estimate:
    """Over texts [R]."""
    return ratio(values.double().tolist(), [1.0] * len(values), unit)


def jump(nats: Tensor, seams: list[int], reach: int = REACH) -> Estimate:
    """Nats a token right after the seams minus right before them, over texts."""
    after = torch.stack([nats[:, s : s + reach].mean(1) for s in seams])
    before = torch.stack([nats[:, s - reach : s].mean(1) for s in seams])
    return mean((after - before).mean(0), "nats/token")


def drift(values: Tensor, at: Tensor) -> Estimate:
    """Slope of values [R, S] along cells [S] for every 100 tokens, over texts."""
    x = (at - at.double().mean()) / 100
    return mean((values.double() * x).sum(1) / (x * x).sum(), "a 100 tokens")


class Told(NamedTuple):
    """What is said of one way of writing; `middle`: the jump where nothing happens, half a block after each seam."""

    perplexity: Estimate
    entropy: Estimate
    jump: Estimate
    middle: Estimate
    nats_drift: Estimate
    entropy_drift: Estimate
    segments: list[Segment]


def tell(tokens: Tensor, nats: Tensor, size: int, window: int) -> Told:
    """Texts [R, L] and their nats, written in blocks of `size`; only cells behind the first window are compared."""
    length = tokens.shape[1]
    seams = list(range(-(-window // size) * size, length - REACH + 1, size))
    half = [s + size // 2 for s in seams if s + size // 2 + REACH <= length]
    later = torch.arange(window, length)
    parts = list(range(window, length - WIDTH + 1, WIDTH))
    entropies = torch.stack([unigram_entropy(tokens[:, s : s + WIDTH]) for s in parts], 1)
    return Told(
        exponential(mean(nats[:, window:].mean(1), "nats/token"), "perplexity under the scorer"),
        mean(entropies.mean(1), f"nats, {WIDTH} tokens"),
        jump(nats, seams),
        jump(nats, half or seams),
        drift(nats[:, window:], later),
        drift(entropies, torch.tensor(parts)),
        list(along(tokens, nats, WIDTH)),
    )


# ---- where texts end -------------------------------------------------------------------------------------------------


class Stops(NamedTuple):
    """Where texts end. border: cells that end a window; rates: ends for each text that came so far."""

    border: Estimate
    elsewhere: Estimate
    mean_length: Estimate
    whole: float


def stops(tokens: Tensor, end: int, size: int, window: int) -> Stops:
    """First ends of texts [R, L]; lengths are counted up to L, `whole`: the share that came there."""
    length = tokens.shape[1]
    ended = tokens == end
    first = torch.where(ended.any(1), ended.long().argmax(1), length)
    cell = torch.arange(length)
    risk, at = (first[:, None] >= cell), (first[:, None] == cell)
    last = (cell >= window - 1) & ((cell + 1 - window) % size == 0)

    def rate(cells: Tensor) -> Estimate:
        return ratio((at & cells).sum(1).tolist(), (risk & cells).sum(1).tolist(), "ends a cell")

    return Stops(
        rate(last), rate(~last), mean(first.clamp(max=length), "tokens"), float((first == length).double().mean())
    )


def train_ends(net: str, out: Path, arm: str, steps: int, data: Path) -> Path:
    """A copy of the net that has seen ends."""
    place = out / f"ends-{arm}"
    if finished(place):
        return place
    plugin = out / "plugin" / "remask_cut-0.dist-info"
    plugin.mkdir(parents=True, exist_ok=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: remask-cut\nVersion: 0\n", encoding="utf-8")
    row = "objectives.mdlm_cut = recipes.semi_autoregressive:Cut"
    (plugin / "entry_points.txt").write_text(f"[remask]\n{row}\n", encoding="utf-8")
    paths = [str(plugin.parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    texts = ["--data", str(data / "train.txt.gz"), "--valid", str(data / "valid.txt.gz"), "--document", "line"]
    command = [sys.executable, "-m", "remask.cli", "train", {"cut": "mdlm_cut", "whole": "mdlm"}[arm], *texts]
    command += ["--init", net, "--length", str(load(net).length), "--batch", "16", "--steps", str(steps)]
    # a net that has never seen an end gives it 2e-8, and the gentle rates of --init do not lift that in 300 steps
    command += ["--learning-rate", "4e-3", "--rest-learning-rate", "3e-3"]
    command += ["--out", str(place), "--evaluations", "1", "--save-steps", "200", "--json"]
    command += ["--resume"] if (place / "recipe.json").is_file() else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    subprocess.run(command, check=True, env=environment, stdout=(out / f"ends-{arm}.log").open("w"))
    return place


# ---- the study -------------------------------------------------------------------------------------------------------


def kept(file: Path, make: Callable[[], Written]) -> Written:
    """What is in a file, or made and written there."""
    if not file.is_file():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(make()._asdict()), encoding="utf-8")
        part.replace(file)
    return Written(**json.loads(file.read_text(encoding="utf-8")))


def arms(length: int) -> dict[str, tuple[int, int]]:
    """Ways to slide a window of `length`: cells of a block, cells ahead of it."""
    quarter, half = length // 4, length // 2
    return {
        f"blocks of {quarter}": (quarter, 0),
        f"blocks of {half}": (half, 0),
        f"blocks of {quarter}, {quarter} ahead": (quarter, quarter),
        SCRATCH: (length, 0),
    }


def study(given: argparse.Namespace) -> dict[str, Any]:
    """Every arm's Written and Told, and where texts end."""
    model, scorer = load(given.net), load(given.scorer)
    data = Path(os.environ.get("REMASK_DATA", "../shared/data")) / "wikitext-2"
    ways = arms(model.length)
    written = {
        name: kept(
            given.out / f"{name.replace(' ', '_')}.json",
            partial(in_blocks, model, size, ahead, given.texts, given.length, given.seed, False),
        )
        for name, (size, ahead) in ways.items()
    }
    written[TWIN] = kept(given.out / "twin.json", partial(from_left, scorer, given.texts, given.length, given.seed))
    real = spread(stream_of(scorer, data / "valid.txt.gz"), given.texts, given.length)
    written[HELD_OUT] = Written(real.tolist(), 0.0, 0.0)
    told = {}
    for name, one in written.items():
        tokens = torch.tensor(one.tokens)
        size = ways.get(name, (model.length, 0))[0]
        told[name] = tell(tokens, weigh(scorer, tokens), size, model.length)
    return {"written": written, "told": told, "stops": find_stops(given, model, data)}


def find_stops(given: argparse.Namespace, model: Checkpoint, data: Path) -> dict[str, Stops]:
    """Where paragraphs end in held-out text and in the texts of the two nets."""
    end, size = model.alphabet.end, model.length // 4
    assert end is not None
    lines = stream_of(model, data / "valid.txt.gz", "line")
    apart = min(
        20 * given.ends, lines.numel() // given.longest
    )  # windows that overlap would pass for more than they are
    found = {HELD_OUT: stops(spread(lines, apart, given.longest), end, size, model.length)}
    for arm in ENDS:
        net = load(train_ends(given.net, given.out, arm, given.steps, data))
        texts = kept(
            given.out / f"ends-{arm}.json",
            partial(in_blocks, net, size, 0, given.ends, given.longest, given.seed, True),
        )
        found[arm] = stops(torch.tensor(texts.tokens), end, size, model.length)
    return found


def shown(estimate: Estimate, digits: int) -> str:
    """Value ± standard error."""
    return f"{estimate.value:.{digits}f} ± {estimate.stderr:.{digits}f}"


def report(found: dict[str, Any], length: int) -> str:
    """Two tables in Markdown."""
    head = ["way", "perplexity", "entropy", "jump at seams", "mid-block", "drift, nats", "drift, entropy"]
    lines = [f"| {' | '.join([*head, 'calls', 'ms a token'])} |", "|---" * 9 + "|"]
    for name, told in found["told"].items():
        one = found["written"][name]
        cells = [name, shown(told.perplexity, 1), shown(told.entropy, 3), shown(told.jump, 2), shown(told.middle, 2)]
        cells += [shown(told.nats_drift, 3), shown(told.entropy_drift, 3)]
        spent = 1000 * one.seconds / (len(one.tokens) * length)
        cells += [f"{one.calls:.0f}", f"{spent:.2f}"] if one.seconds else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| net | ends a window's last cell | other cells | mean length | never |", "|---|---|---|---|---|"]
    for name, one in found["stops"].items():
        cells = [name, shown(one.border, 4), shown(one.elsewhere, 4), shown(one.mean_length, 0), f"{one.whole:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, Any], window: int, path: Path) -> None:
    """Perplexity and entropy by position; dotted: multiples of the window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(sheet)
    axes: Any = sheet.subplots(1, 2)
    for number, (name, told) in enumerate(found["told"].items()):
        for axis, key in zip(axes, ("perplexity", "unigram_entropy")):
            at = [part.first + WIDTH / 2 + 2 * (number - 2) for part in told.segments]
            values = [getattr(part, key) for part in told.segments]
            style = {"color": "0.3", "linestyle": "--"} if name == HELD_OUT else {"color": f"C{number}"}
            bars = [value.stderr for value in values]
            axis.errorbar(
                at, [v.value for v in values], bars, marker="o", markersize=3.5, capsize=2, label=name, **style
            )
    for axis, label in zip(axes, ("perplexity under the twin", f"unigram entropy of {WIDTH} tokens, nats")):
        last = int(found["told"][HELD_OUT].segments[-1].first + WIDTH)
        for seam in range(window, last, window):
            axis.axvline(seam, color="0.6", linestyle=":", linewidth=1)
        axis.set(xlabel="token of the text", ylabel=label, xticks=range(0, last + 1, window // 2))
        axis.grid(True, color="0.92")
    axes[0].set_yscale("log")
    axes[1].legend(fontsize=7.5, frameon=False)
    part = path.with_name(f".{path.name}")
    sheet.savefig(part, format="png", dpi=120)
    part.replace(path)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--net", required=True, help="a masked net")
    parser.add_argument("--scorer", required=True, help="a causal net with the same tokenizer")
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--ends", type=int, default=64, help="texts that may end")
    parser.add_argument("--longest", type=int, default=384, help="tokens of those, at most")
    parser.add_argument("--steps", type=int, default=300, help="of training with end tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Everything that is not there yet, then the tables and the figure."""
    given = parse(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = study(given)
    print(report(found, given.length))
    if given.plot:
        draw(found, load(given.net).length, given.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
