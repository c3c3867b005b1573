"""Two left-to-right models, one of an encyclopedia and one of novels, that the studies of frozen models share.

    REMASK_DATA=... python -m recipes.frozen_models runs/frozen
    REMASK_DATA=... python -m recipes.frozen_models runs/frozen --near

Texts: wikitext-2; Moby Dick and War and Peace to learn from, Great Expectations to weigh on. One BPE of 4,096 made of
both, so that nats per token compare across texts. Each net is the 4x192 one, read 256 tokens at a time, 1,100 steps of
16 rows (4.5M tokens). Their heads have no slopes, unless --near: remask's own left-to-right nets pay 1, 1/2 and 1/4
nats for a token of distance, which helps them early and hides what lies thirty tokens back, so that neither a cache nor
a prompt of examples could say much. What is weighed on is cut in two: `tune` chooses settings, `test` is reported.
Hardware: one thread of a 2-core CPU with bfloat16, some 15 CPU minutes each. Finished runs are skipped, cut-off ones go
on. Expected: see docs/results.md, "Frozen left-to-right models".
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.finished import finished
from remask.data.text import read
from remask.data.tokenizers import train_bpe
from remask.train.api import train

DOMAINS = {"encyclopedia": ["wikitext-2/train"], "novels": ["books/moby_dick", "books/war_and_peace"]}
WEIGHED = {"encyclopedia": "wikitext-2/valid", "novels": "books/great_expectations"}
VOCABULARY, LENGTH, BATCH, STEPS = 4_096, 256, 16, 1_100
TUNE = 60_000  # characters that choose settings, the first; the rest is reported on


def data() -> Path:
    """Where the texts are."""
    return Path(os.environ.get("REMASK_DATA", "../shared/data"))


def sources(domain: str) -> list[Path]:
    """What a net learns from."""
    return [data() / f"{name}.txt.gz" for name in DOMAINS[domain]]


def texts(out: Path, domain: str) -> dict[str, Path]:
    """tune and test: made once, cut between lines."""
    places = {part: out / "data" / f"{domain}.{part}.txt" for part in ("tune", "test")}
    if not places["test"].is_file():
        with gzip.open(data() / f"{WEIGHED[domain]}.txt.gz", "rt", encoding="utf-8") as file:
            text = file.read()
        cut = text.index("\n", TUNE) + 1
        places["tune"].parent.mkdir(parents=True, exist_ok=True)
        places["tune"].write_text(text[:cut], encoding="utf-8")
        places["test"].write_text(text[cut:], encoding="utf-8")
    return places


def tokenizer(out: Path) -> Path:
    """Of both domains, made once."""
    place = out / "data" / "tokenizer"
    if not (place / "tokenizer.json").is_file():
        documents = [one.text for domain in DOMAINS for one in read(list(map(str, sources(domain))))]
        train_bpe(documents, VOCABULARY).save_pretrained(str(place))
    return place


def place(out: Path, domain: str, near: bool = False) -> Path:
    """Where a net is."""
    return out / f"{domain}{'-near' if near else ''}-seed0"


def fit(out: Path, domain: str, near: bool = False) -> Path:
    """The left-to-right net of a domain, unless it is there; near: with heads that look at what is near."""
    run = place(out, domain, near)
    if not finished(run):
        train(
            "autoregressive",
            out=run,
            resume=(run / "recipe.json").is_file(),
            data=list(map(str, sources(domain))),
            valid=[str(texts(out, domain)["tune"])],
            tokenizer=str(tokenizer(out)),
            net="tiny",
            directional_heads=near,
            length=LENGTH,
            batch=BATCH,
            steps=STEPS,
            evaluations=4,
            save_minutes=2.0,
            seed=0,
        )
    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--domain", choices=list(DOMAINS), action="append")
    words.add_argument("--near", action="store_true", help="heads with slopes, as the recurrence study has them")
    values = words.parse_args(arguments)
    for domain in values.domain or DOMAINS:
        print(fit(values.out, domain, values.near))


if __name__ == "__main__":
    main()
