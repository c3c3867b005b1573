"""Exactness on enumerable laws: bounds against entropies, samplers against the noise floor of true samples.

    python -m recipes.exactness

Hardware: any; about a minute on one CPU thread. The same checks, with planted bugs that fail them, are in the tests
(tests/conformance.py); this prints their figures. Expected: see docs/results.md, "Exactness".
"""

from __future__ import annotations

from remask.core.canvas import blank
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.metrics.nelbo import nelbo
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from tests.oracle import LAWS, frequencies, noise_floor, total_variation

ROWS, SEED = 20_000, 11


def main() -> None:
    print("| law | entropy, nats/token | bound (count) | bound (time) | TV floor | first_hitting | ancestral, T=500 |")
    print("|---|---|---|---|---|---|---|")
    for law in LAWS.values():
        rows, stream = law.sample(ROWS, SEED), Stream.of(SEED, ROWS)
        cells = [law.name, f"{law.entropy / law.length:.4f}"]
        for estimator in ("count", "time"):
            bound = dict(nelbo(law, rows, stream, estimator=estimator, batch=ROWS))["nats_per_token"]
            off = (bound.value - law.entropy / law.length) / bound.stderr
            cells.append(f"{bound.value:.4f} ± {bound.stderr:.4f} ({off:+.1f} se)")
        floor, spread = noise_floor(law.joint, ROWS)
        cells.append(f"{floor:.4f} ± {spread:.4f}")
        for sampler in (FirstHitting(), Ancestral(steps=500)):
            drawn = sample(sampler, law, blank(ROWS, law.length, law.alphabet), stream).tokens
            distance = total_variation(frequencies(law, drawn), law.joint)
            cells.append(f"{distance:.4f} ({distance / floor:.2f}x)")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
