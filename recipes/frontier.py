"""Three nets of one trunk and one budget, for the frontier of speed and quality: masked, in blocks, left to right.

    REMASK_DATA=... python -m recipes.frontier runs/frontier --text law
    REMASK_DATA=... python -m recipes.frontier runs/frontier --text wikitext-2
    REMASK_DATA=... python -m recipes.frontier runs/frontier --text scorer --arm autoregressive
    remask bench frontier runs/frontier/law-mdlm runs/frontier/law-block_diffusion \\
        --baseline runs/frontier/law-autoregressive --law 0 --lengths 256,512 --batches 1,16 --infill

law: texts of the hidden language of seed 0 (lab/language.py: 256 words, 3.330 nats a word at 512 words), in documents
of 65,536 words, so that hardly a row shows where one ends; a net then learns the law of a stretch of any length, which
is that of a text, since the language begins where it stays. wikitext-2: every other article of its training text, with
a BPE of 4,096. scorer: the articles between them, for a left-to-right net (its heads free) that weighs what the others
write (--scorer) and has read nothing that they have.
Hardware: one thread of a 2-core CPU with bfloat16, 10 to 20 CPU minutes a net, twice as many for blocks. Finished runs
are skipped, cut-off ones go on. Expected: see docs/results.md, "Faster than left to right".
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished
from remask.data.text import read
from remask.data.tokenizers import character_tokenizer, train_bpe
from remask.lab.language import Language
from remask.train.api import train

LENGTH, BATCH, BLOCK = 512, 8, 16
STEPS = {"law": 1_200, "wikitext-2": 800, "scorer": 800}
DOCUMENTS, WORDS = {"train": 80, "valid": 2}, 65_536
HALVES = {"nets.txt": 0, "scorer.txt": 1}
ARTICLE = re.compile(r"^(?= = [^=\n]+ = $)", re.MULTILINE)  # before its heading
FIRST = 0x100  # the character of word 0; those behind it are letters
ARMS: dict[str, dict[str, Any]] = {"mdlm": {}, "block_diffusion": {"block": BLOCK}, "autoregressive": {}}


def spelled(words: Sequence[int]) -> str:
    """A text of the law, a character for each word."""
    return "".join(chr(FIRST + word) for word in words)


def law(out: Path) -> dict[str, Any]:
    """Samples of the hidden language, made once; each part has seeds of its own."""
    language, home = Language(0), out / "law"
    home.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate(DOCUMENTS.items(), start=1):
        if not (home / f"{part}.txt").is_file():
            texts = language.sample(count, WORDS, seed).tolist()
            staged = home / f".{part}.txt"
            staged.write_text("".join(f"{spelled(text)}\n" for text in texts), encoding="utf-8")
            staged.replace(home / f"{part}.txt")
    if not (home / "tokenizer" / "tokenizer.json").is_file():
        character_tokenizer([spelled(range(language.words))]).save_pretrained(str(home / "tokenizer"))
    files = {"data": [str(home / "train.txt")], "valid": [str(home / "valid.txt")]}
    return {**files, "document": "line", "tokenizer": str(home / "tokenizer")}


def wikitext(out: Path) -> dict[str, Any]:
    """wikitext-2's articles, every other one for the nets, and a BPE of them, made once."""
    data, home = Path(os.environ.get("REMASK_DATA", "../shared/data")) / "wikitext-2", out / "wikitext-2"
    home.mkdir(parents=True, exist_ok=True)
    if not all((home / name).is_file() for name in HALVES):
        (whole,) = read([str(data / "train.txt.gz")])
        articles = ARTICLE.split(whole.text)
        for name, first in HALVES.items():
            staged = home / f".{name}"
            staged.write_text("".join(articles[first::2]), encoding="utf-8")
            staged.replace(home / name)
    if not (home / "tokenizer" / "tokenizer.json").is_file():
        texts = [document.text for document in read([str(home / "nets.txt")])]
        train_bpe(texts, 4_096).save_pretrained(str(home / "tokenizer"))
    files = {"data": [str(home / "nets.txt")], "valid": [str(data / "valid.txt.gz")]}
    return {**files, "tokenizer": str(home / "tokenizer")}


def other_half(out: Path) -> dict[str, Any]:
    """The articles that the nets never see, in their tokens: what the scorer reads."""
    return {**wikitext(out), "data": [str(out / "wikitext-2" / "scorer.txt")], "directional_heads": False}


TEXTS: dict[str, Callable[[Path], dict[str, Any]]] = {"law": law, "wikitext-2": wikitext, "scorer": other_half}


def fit(out: Path, text: str, objective: str, seed: int = 0) -> Path:
    """A net, unless it is there."""
    run = out / (f"{text}-{objective}" + (f"-seed{seed}" if seed else ""))
    if not finished(run):
        train(
            objective,
            out=run,
            resume=(run / "recipe.json").is_file(),
            net="tiny",
            length=LENGTH,
            batch=BATCH,
            steps=STEPS[text],
            evaluations=4,
            save_minutes=2.0,
            seed=seed,
            **TEXTS[text](out),
            **ARMS[objective],
        )
    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--text", choices=list(TEXTS), required=True)
    words.add_argument("--arm", choices=list(ARMS), action="append")
    words.add_argument("--seed", type=int, default=0)
    values = words.parse_args(arguments)
    for objective in values.arm or ARMS:
        print(fit(values.out, values.text, objective, values.seed), flush=True)


if __name__ == "__main__":
    main()
