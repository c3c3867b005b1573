"""Faults of the race's translators: mixtures of two translations, and what tokens written at once should have known.

Mixtures are weighed on English sentences that stand in the corpus with three German translations or more, none of them
among the sentences that were trained on; people's own translations are the floor (remask/translate/mixtures.py). Tokens
are words there, and pieces of words, which is what a net writes, in the dependence probe (remask/translate/
dependence.py). The probe asks at four kinds of errors: neighbours that are equal, that no one translation holds both
(seams), that hold a wrong token, or that no translation has side by side; the same is asked of the entropy beside it,
since what is uncertain is wrong more often and can share more as well. Li et al. 2024, arXiv 2407.21046; Gu et al.
2018, arXiv 1711.02281.
Shapes: B sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recipes.paired_curves import table
from remask.bench.engine import Runner
from remask.core.metric import Estimate
from remask.data.parallel import Ragged
from remask.data.tokenizers import encode
from remask.train.translator import Translator
from remask.translate.dependence import ERRORS, Neighbours, at_errors, probe
from remask.translate.mixtures import alternatives, mixtures

FEWEST = 3  # translations of a source
VALUES = {"information": "nats/pair", "entropy": "nats/token"}
TELLING = ("stutter", "seam", "token", "bigram")
Facts = Mapping[str, Any]


class Several(NamedTuple):
    """B sources and the different translations of each."""

    sources: list[str]
    known: list[list[str]]

    def some(self, most: int) -> Several:
        """At most so many of them, evenly spread."""
        return Several(spread(self.sources, most), spread(self.known, most))


def spread(things: Sequence[Any], most: int) -> list[Any]:
    """At most so many things, evenly spread."""
    taken = min(most, len(things))
    return [things[number * len(things) // taken] for number in range(taken)]


def words(text: str) -> list[str]:
    """Words as they are written, without punctuation."""
    return re.findall(r"\w+", text)


def plain(text: str) -> str:
    """What makes two sentences one: case, punctuation and white space are not looked at."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def several(pairs: Iterable[tuple[str, str]], taught: Iterable[str], most: int) -> Several:
    """Sources of `pairs` with FEWEST translations of different words or more; none of those that were `taught`."""
    known = {plain(source) for source in taught}
    found = {
        source: list({tuple(words(target)): target for target in targets}.values())
        for source, targets in alternatives(pairs).items()
        if len(targets) >= FEWEST and plain(source) not in known
    }
    kept = {source: targets for source, targets in found.items() if len(targets) >= FEWEST}
    return Several(list(kept), list(kept.values())).some(most)


def mixed(system: Runner, texts: Several, batch: int = 32) -> dict[str, Any]:
    """What a system makes of sources with several translations: its texts, and their mixtures in words."""
    found = [one.text for one in system.lines(batch)(texts.sources)]
    counted = mixtures([words(text) for text in found], [[words(text) for text in those] for those in texts.known])
    return {"texts": found, **_json(counted)}


def probed(model: Translator, system: Runner, texts: Several, batch: int = 32) -> dict[str, Any]:
    """The dependence and the entropy of neighbours at errors of each kind, and elsewhere.

    {"information": {"stutter": {"difference_within": an Estimate, ...}, ...}, "entropy": {...}}
    """
    rows = [one.ids for one in encode(model.tokenizer, [text.strip() for text in texts.sources])]
    fit = [number for number, row in enumerate(rows) if 0 < len(row) < model.window]  # the others are cut in pieces
    found = [one.tokens for one in system.lines(batch)([texts.sources[number] for number in fit])]
    known = [[one.ids for one in encode(model.tokenizer, texts.known[number])] for number in fit]
    assert model.alphabet.end is not None
    assert model.alphabet.pad is not None
    source = Ragged.of([rows[number] for number in fit]).padded(model.alphabet.end, model.alphabet.pad)
    beside = probe(model.net, source, source != model.alphabet.pad, model.alphabet, found)
    return {value: dict(_by_error(beside, value, found, known)) for value in VALUES}


def _by_error(
    beside: Neighbours, value: str, found: Sequence[Sequence[int]], known: Sequence[Sequence[Sequence[int]]]
) -> Iterator[tuple[str, Any]]:
    numbers = beside.by_row(len(found), value)
    for error in ERRORS:
        yield error, _json(at_errors(found, numbers, known, error, VALUES[value]))


def _json(estimates: Iterable[tuple[str, Estimate]]) -> dict[str, Any]:
    return {name: estimate.json() for name, estimate in estimates}


# ---- tables ----------------------------------------------------------------------------------------------------------


def percent(one: Facts | None, sign: str = "") -> str:
    """A share with its standard error, in percent."""
    if one is None:
        return ""
    error = "" if one["stderr"] is None else f" ± {100 * one['stderr']:.1f}"
    return f"{100 * one['value']:{sign}.1f}{error}"


def mixtures_table(found: Mapping[str, Mapping[str, Facts]]) -> str:
    """A line a system, of arm to decoding to what `mixed` found; the floor is the same for all of them."""
    columns = [f"{name}_{kind}" for name in ("mixture", "seam") for kind in ("rate", "matched", "floor", "excess")]
    rows = [
        [f"{arm}, {how}", *(percent(facts.get(name), "+" if name.endswith("excess") else "") for name in columns)]
        for arm, those in found.items()
        for how, facts in those.items()
    ]
    head = ["all", "against all but one", "people, against the same", "more than people"]
    return table(["%", *(f"{name}: {kind}" for name in ("mixtures", "seams") for kind in head)], rows)


def dependence_table(found: Mapping[str, Mapping[str, Facts]]) -> str:
    """A line a system, set of sentences and kind of error, of arm to "set decoding" to what `probed` found."""
    rows = [
        [
            f"{arm}, {how}",
            error,
            percent(facts["information"].get(error, {}).get("error_share")),
            *(_nats(facts[value].get(error, {}), name) for value in VALUES for name in COMPARED),
        ]
        for arm, those in found.items()
        for how, facts in those.items()
        for error in TELLING
        if facts["information"].get(error, {}).get("at_errors")
    ]
    head = [f"{value}, {name.replace('_', ' ')}" for value in VALUES for name in COMPARED]
    return table(["system, sentences", "error", "% of neighbours", *head], rows)


COMPARED = ("at_errors", "elsewhere", "difference_within")


def _nats(facts: Facts, name: str) -> str:
    """A value with its error and, where it is a mean over sentences, their number."""
    one = facts.get(name)
    if one is None:
        return ""
    within = name == COMPARED[-1]
    error = "" if one["stderr"] is None else f" ± {one['stderr']:.2f}"
    return f"{one['value']:{'+' if within else ''}.2f}{error}" + (f" (n = {one['n']})" if within else "")
