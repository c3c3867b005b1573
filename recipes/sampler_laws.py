"""What each sampler's law is worth: network calls a row against the distance from the truth, on enumerable laws.

    python -m recipes.sampler_laws [--rows 20000]

Exact conditionals, so that whatever is wrong is the sampler's own doing. Distance is the total variation between the
canvases and the law, less what as many true samples show. The tests hold the same laws to the same truths.
Hardware: any; about two minutes on one CPU thread. Expected: see docs/results.md, "Samplers on laws that are known".
"""

from __future__ import annotations

import argparse
from typing import Any

from remask.core.canvas import blank
from remask.core.draw import Categorical
from remask.core.sampler import run
from remask.core.stream import Stream
from remask.samplers import SAMPLERS
from tests.oracle import Oracle, copy_pairs, frequencies, markov_chain, noise_floor, ring_ising, total_variation

SEED = 17
LAWS = {
    "Ising ring, 8 spins": ring_ising(8, 0.7, 0.2, mask=0, end=2),
    "Markov chain, 6 of 3": markov_chain(6, 3, seed=3, mask=2, end=4),
    "three copied pairs of 3": copy_pairs(6, 3, seed=1, mask=1, end=0),
}
RACES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("first_hitting", {}),
    ("ancestral", {"steps": 2}),
    ("ancestral", {"steps": 4}),
    ("ancestral", {"steps": 64}),
    ("confidence", {"steps": 2}),
    ("confidence", {"steps": 4}),
    ("confidence", {"steps": 8}),
    ("confidence", {"steps": 8, "score": "margin"}),
    ("confidence", {"steps": 8, "score": "drawn"}),
    ("confidence", {"schedule": "threshold", "threshold": 0.9}),
    ("entropy_bound", {"gamma": 0.5}),
    ("entropy_bound", {"gamma": 0.1}),
    ("mask_predict", {"steps": 4, "draw": Categorical()}),
    ("remdm", {"steps": 4, "eta": 0.2}),
    ("remdm", {"steps": 16, "eta": 0.2}),
    ("p2", {"steps": 4}),
    ("p2", {"steps": 16}),
    ("gibbs", {"size": 2, "moves": 4}),
    ("gibbs", {"inner": SAMPLERS.load("ancestral")(steps=1), "size": 4, "moves": 4}),
    ("gibbs", {"inner": SAMPLERS.load("ancestral")(steps=1), "size": 1, "moves": 24}),
    ("parallel_gibbs", {"moves": 8}),
    ("blocks", {"size": 2}),
    ("blocks", {"inner": SAMPLERS.load("ancestral")(steps=1), "size": 2, "stop": False}),
)


def race(name: str, fields: dict[str, Any], law: Oracle, rows: int) -> tuple[float, float]:
    """Mean calls a row, and the excess of total variation over the noise floor."""
    canvas, calls, tokens = blank(rows, law.length, law.alphabet), 0.0, None
    for state, info in run(SAMPLERS.load(name)(**fields), law, canvas, Stream.of(SEED, rows)):
        tokens, calls = state.tokens, calls + float(info.calls.double().mean())
    assert tokens is not None
    floor, _ = noise_floor(law.joint, rows)
    return calls, total_variation(frequencies(law, tokens), law.joint) - floor


def label(name: str, fields: dict[str, Any]) -> str:
    """A row's name, with the fields that it was given."""
    said = []
    for key, value in fields.items():
        if key == "inner":
            said.append(f"inner {type(value).__name__.lower()} in {value.steps} step")
        elif key != "draw":
            said.append(f"{key} {value}")
    return f"{name} ({', '.join(said)})" if said else name


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, default=20_000)
    rows = words.parse_args().rows
    print(f"| sampler | law | {' | '.join(f'{name}: calls, excess TV' for name in LAWS)} |")
    print(f"|---|---|{'---|' * len(LAWS)}")
    for name, fields in RACES:
        found = [race(name, fields, law, rows) for law in LAWS.values()]
        cells = [f"{calls:.1f}, {excess:+.3f}" for calls, excess in found]
        promise = SAMPLERS.load(name)(**fields).law.value
        print(f"| {label(name, fields)} | {promise} | {' | '.join(cells)} |", flush=True)
    spreads = [
        f"{noise_floor(law.joint, rows).mean:.3f} ± {noise_floor(law.joint, rows).sd:.3f}" for law in LAWS.values()
    ]
    print(f"| (noise floor of true samples, already subtracted) | | {' | '.join(spreads)} |")


if __name__ == "__main__":
    main()
