"""The modes of a masked translation model at every length, and what choosing the length brings back.

    REMASK_DATA=... python -m recipes.masked_modes runs/translation
    python -m recipes.masked_modes runs/translation --report

A masked model is asked at a length, so its mode cannot be empty unless someone chooses the length 0. Here the cmlm net
of recipes/translation.py writes from left to right at every length from 1 to the reference's and half as many more, by
exact search (lab/straight.py: each cell given those before it, the rest masked), so that "the most probable target of
this length" is certified or has a gap. Then the length is chosen: by log p(y | length) alone, as if lengths cost
nothing; by log p a token; by the length head and log p, the joint law; by the length head alone; and by the reference.
Texts cut short (under half the reference), the ratio of lengths, BLEU. Claim (notes on Yoshida et al. 2023, arXiv
2311.08817): argmax at a fixed length is a length-conditional mode; the choice of length brings the bias back.
Hardware: one thread of a 2-core CPU, some 12 CPU minutes. Finished parts are kept in masked_modes.json.
Expected: see docs/results.md, "Modes of a masked translation model".
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.translation import place, prepare
from recipes.translation_modes import share_error
from remask.core.alphabet import Alphabet
from remask.data.pairs import read_pairs
from remask.data.tokenizers import encode
from remask.lab.straight import masked_modes
from remask.nets.conditional import NetConditional
from remask.train.translator import load_translator
from remask.translate.scores import scores

SENTENCES, SHORTEST, NODES = 60, 4, 300
ARM = "cmlm"
Row = dict[str, Any]


class AtLength:
    """p(y_i | the visible rest, source, length) of targets of one source [N, L], their end given."""

    def __init__(self, reading: Any, alphabet: Alphabet):
        self.reading, self.alphabet = reading, alphabet

    def __call__(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Log p, [cells, V]."""
        end = torch.full_like(tokens[:, :1], self.alphabet.end or 0)
        whole, none = torch.cat([tokens, end], 1), torch.zeros_like(at[:, :1])
        one = self.reading.rows(torch.zeros(len(tokens), dtype=torch.int64))
        return NetConditional(one, self.alphabet, attend=torch.ones_like(whole, dtype=torch.bool))(
            whole, torch.cat([at, none], 1)
        )


def measure(out: Path) -> list[Row]:
    """The modes of every sentence, kept as they are found."""
    file, model = out / "masked_modes.json", load_translator(place(out, ARM, 0))
    kept: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    pairs = read_pairs([str(prepare(out)["test"])], "source,target")
    sized = [(pair, len(encode(model.tokenizer, [pair.target])[0].ids)) for pair in pairs]
    fit = [(pair, length) for pair, length in sized if length >= SHORTEST]
    chosen = [fit[round(k)] for k in np.linspace(0, len(fit) - 1, SENTENCES)]
    for pair, length in chosen[len(kept) :]:
        source = torch.tensor([[*encode(model.tokenizer, [pair.source])[0].ids, model.alphabet.end]])
        with torch.no_grad():
            reading: Any = model.net.eval().read(source, torch.ones_like(source, dtype=torch.bool))
            lengths = reading.length_log_prob()[0].double()
        at_length, longest = AtLength(reading, model.alphabet), math.ceil(1.5 * length)
        modes = [
            {
                "length": mode.length,
                "log_prob": mode.log_prob,
                "certified": mode.certified,
                "of_length": float(lengths[mode.length]),
                "text": model.tokenizer.decode(mode.text, skip_special_tokens=True),
            }
            for mode in masked_modes(partial(_same, at_length), range(1, longest + 1), nodes=NODES)
        ]
        kept.append({"reference": pair.target, "length": length, "modes": modes})
        file.write_text(json.dumps(kept, ensure_ascii=False))
    return kept


def _same(conditional: Any, length: int) -> Any:
    del length  # the reading knows it from the cells
    return conditional


CHOICES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "log p at the length": lambda mode: mode["log_prob"],
    "log p a token": lambda mode: mode["log_prob"] / mode["length"],
    "log p and length head (joint law)": lambda mode: mode["log_prob"] + mode["of_length"],
    "length head alone": lambda mode: mode["of_length"],
}


def table(kept: Sequence[Row]) -> str:
    """Markdown: what each way to choose the length gives."""
    lines = ["| length chosen by | cut short % | length over the reference's | BLEU |", "|---|---|---|---|"]
    references = [row["reference"] for row in kept]
    picks = {name: [max(row["modes"], key=worth) for row in kept] for name, worth in CHOICES.items()}
    picks["the reference"] = [row["modes"][row["length"] - 1] for row in kept]
    for name, found in picks.items():
        short = sum(mode["length"] < row["length"] / 2 for mode, row in zip(found, kept)) / len(kept)
        ratio = sum(mode["length"] for mode in found) / sum(row["length"] for row in kept)
        bleu = scores([mode["text"] for mode in found], references).bleu.estimate
        cut = f"{100 * short:.0f} ± {100 * share_error(short, len(kept)):.0f}"
        lines.append(f"| {name} | {cut} | {ratio:.2f} | {bleu.value:.1f} ± {bleu.stderr:.1f} |")
    every = [mode for row in kept for mode in row["modes"]]
    proved = sum(mode["certified"] for mode in every)
    return "\n".join([*lines, "", f"{len(kept)} sentences, {proved} of {len(every)} modes certified."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and tell."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--report", action="store_true", help="of what is there")
    values = words.parse_args(arguments)
    kept = json.loads((values.out / "masked_modes.json").read_text()) if values.report else measure(values.out)
    print(table(kept))


if __name__ == "__main__":
    main()
