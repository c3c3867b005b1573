"""BLEU and chrF by sacrebleu, with the signatures that make them comparable and errors from resampled sentences.

BLEU (Papineni et al. 2002) and chrF (Popovic 2015) of a corpus are functions of sums over its sentences, so a resampled
corpus costs one sum (Koehn 2004, bootstrap resampling). The numbers are sacrebleu's own (Post 2018, arXiv 1804.08771).
Shapes: R resamples, n sentences, K statistics of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from remask.core.errors import BadInput, MissingExtra
from remask.core.metric import Estimate

RESAMPLES, SEED, AT_ONCE = 1_000, 12345, 50


class Score(NamedTuple):
    """A score of a corpus: its estimate, in points of 100; a 95% interval; and sacrebleu's signature."""

    estimate: Estimate
    interval: tuple[float, float]
    signature: str


class Scores(NamedTuple):
    """BLEU and chrF of one corpus."""

    bleu: Score
    chrf: Score


def scores(outputs: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> Scores:
    """BLEU and chrF of translations against one reference each, standard errors over 1,000 resamples.

    tokenize: sacrebleu's tokenizer for BLEU; 13a suits languages with spaces, char or zh those without.
    Raises BadInput for no sentences, unequal numbers of them or an unknown tokenizer, MissingExtra without sacrebleu.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise MissingExtra("sacrebleu", "eval", "BLEU") from error
    if len(outputs) != len(references) or not outputs:
        raise BadInput(f"{len(outputs)} translations came with {len(references)} references: give one for each.")
    if tokenize not in BLEU.TOKENIZERS:
        raise BadInput(f"sacrebleu has no tokenizer '{tokenize}': type one of {', '.join(BLEU.TOKENIZERS)}.")
    try:
        bleu = BLEU(tokenize=tokenize, force=True)  # force: no complaints about texts that look tokenized
    except (ImportError, RuntimeError, OSError) as error:  # tokenizers that want a library or a download of their own
        raise BadInput(f"sacrebleu cannot use its tokenizer '{tokenize}' here ({error}): type another.") from error
    return Scores(_score(bleu, outputs, references, "BLEU"), _score(CHRF(), outputs, references, "chrF"))


def _score(metric: Any, outputs: Sequence[str], references: Sequence[str], unit: str) -> Score:
    value = metric.corpus_score(list(outputs), [list(references)]).score
    # sacrebleu's own bootstrap keeps every resampled sentence; the sums are all that is needed
    table = np.array(metric._extract_corpus_statistics(outputs, [references]), dtype=np.float64)
    drawn = resampled(metric, table)
    error = float(drawn.std(ddof=1)) if len(table) > 1 else float("nan")
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975]))
    return Score(Estimate(value, error, unit, len(table)), (low, high), str(metric.get_signature()))


def resampled(metric: Any, table: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Scores [R] of corpora drawn with replacement, from statistics [n, K] of the sentences."""
    rng, n = np.random.default_rng(seed), len(table)
    found = []
    for first in range(0, resamples, AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(AT_ONCE, resamples - first))
        found += [metric._compute_score_from_stats(sums).score for sums in (times @ table).tolist()]
    return np.array(found)
