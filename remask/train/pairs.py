"""Scores of whole sentences, to compare them with: one number a sentence from any net that remask opens.

    a masked net     pseudo-log-likelihood: the sum over tokens of log p(token | all others), each token masked in a row
                     of its own (Salazar et al. 2020, arXiv 1910.14659)
    a detector       the sum over tokens of log p(real), in one pass: ELECTRA read as an energy (Clark et al. 2020,
                     arXiv 2012.08561); positions are never masked, so it costs one row a sentence
    a causal net     log p, exactly, by the chain rule

Tokens that the tokenizer adds itself ([CLS], [SEP]) are there and not scored. Tokenizers of ours add none: there the
end token follows the sentence, also not scored, as it follows every document in training.
Rows of one length are scored together, without padding, so no score depends on its batch.
Shapes: S sentences, N cells to score, B rows, L length.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint, BadData, BadInput
from remask.core.net import Net
from remask.data.file import read_text
from remask.data.tokenizers import encode
from remask.nets.detector import Detector
from remask.train.opening import Opened

FIELDS = ("sentence_good", "sentence_bad", "UID")
BATCH_TOKENS = 4096  # what a processor cache likes; a GPU takes more
Progress = Callable[[int, int], None]
"""Called with cells done and cells in all."""


# ---- reading ---------------------------------------------------------------------------------------------------------


class MinimalPair(NamedTuple):
    """A good and a bad sentence, and the kind of difference between them."""

    good: str
    bad: str
    kind: str


def read_pairs(path: str | Path, *, most: int | None = None) -> list[MinimalPair]:
    """Pairs of JSON lines (plain or .gz) with the fields of BLiMP: sentence_good, sentence_bad, UID.

    most: at most so many pairs of each UID, spread evenly over its pairs. Raises BadData for a file that is missing or
    damaged, a field that is missing or no text, an empty sentence, no pairs; BadInput for `most` below 1.
    """
    if most is not None and most < 1:
        raise BadInput(f"--pairs came as {most}: type 1 or more, or leave it out for all of them.")
    file = Path(path)
    if not file.is_file():
        raise BadData(f"there is no file '{path}'; name JSON lines with {', '.join(FIELDS)} (plain or .gz).")
    text = read_text(file, file.suffix.lower() == ".gz")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    pairs = [_pair(line, f"line {number} of '{path}'") for number, line in lines]
    if not pairs:
        raise BadData(f"'{path}' holds no pairs; name JSON lines with {', '.join(FIELDS)}.")
    return pairs if most is None else _spread(pairs, most)


def _pair(line: str, where: str) -> MinimalPair:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where} is not JSON ({error}); mend or drop the line.") from error
    if not isinstance(record, dict):
        raise BadData(f"{where} is a {type(record).__name__}; wanted is an object with {', '.join(FIELDS)}.")
    for field in FIELDS:
        if field not in record:
            has = ", ".join(map(str, record)) or "nothing"
            raise BadData(f"{where} has no field '{field}' (it has: {has}); wanted are {', '.join(FIELDS)}.")
        if not isinstance(record[field], str):
            raise BadData(f"'{field}' in {where} is a {type(record[field]).__name__}; wanted is a string.")
        if not record[field].strip():
            raise BadData(f"'{field}' in {where} is empty; mend or drop the line.")
    return MinimalPair(*(record[field] for field in FIELDS))


def _spread(pairs: list[MinimalPair], most: int) -> list[MinimalPair]:
    """At most so many of each kind, from its first to its last, in their order."""
    places: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair.kind, []).append(place)
    kept = [
        own[i * len(own) // count] for own in places.values() for count in [min(most, len(own))] for i in range(count)
    ]
    return [pairs[place] for place in sorted(kept)]


# ---- sentences to tokens ---------------------------------------------------------------------------------------------


class Sentence(NamedTuple):
    """A text as a net reads it.

    ids: token ids; scored: which of them are the text's own.
    """

    ids: list[int]
    scored: list[bool]


def sentences(tokenizer: Any, texts: Sequence[str], end: int | None) -> list[Sentence]:
    """Whole texts with the tokens that the tokenizer adds itself, or else with the end token behind them."""
    bare = encode(tokenizer, texts)
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # "[MASK]" in a text is six characters
    if not backend.num_special_tokens_to_add(False):
        closing = [] if end is None else [end]
        return [Sentence(e.ids + closing, [True] * len(e.ids) + [False] * len(closing)) for e in bare]
    records = backend.encode_batch(list(texts), add_special_tokens=True)
    return [Sentence(r.ids, [not added for added in r.special_tokens_mask]) for r in records]


# ---- scoring ---------------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Sentences of one length: tokens [S, L], scored [S, L] bool, number [S] of each sentence."""

    tokens: Tensor
    scored: Tensor
    number: Tensor

    def split(self, rows: int) -> Iterator[Group]:
        """At most so many sentences at a time."""
        yield from (Group(*parts) for parts in zip(*(part.split(rows) for part in self)))


def by_length(rows: Sequence[Sentence], device: torch.device) -> Iterator[Group]:
    """Sentences grouped by exact length, the longest first: who runs out of memory does so at once."""
    lengths: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        lengths.setdefault(len(row.ids), []).append(number)
    for length in sorted(lengths, reverse=True):
        own = lengths[length]
        yield Group(
            torch.tensor([rows[n].ids for n in own], device=device),
            torch.tensor([rows[n].scored for n in own], device=device),
            torch.tensor(own, device=device),
        )


Cells = Iterator[tuple[Tensor, Tensor]]
"""Log scores [N] and the sentence number [N] of some cells, batch by batch."""


def _masked(net: Net, group: Group, alphabet: Alphabet, batch: int) -> Cells:
    """A row for each scored cell, masked there and nowhere else; the head sees that cell only."""
    row, column = group.scored.nonzero(as_tuple=True)
    for own, at in zip(row.split(batch), column.split(batch)):
        tokens = group.tokens[own]
        targets = tokens.gather(1, at[:, None])[:, 0]
        hidden = net.hidden(tokens.scatter(1, at[:, None], alphabet.mask))
        yield -net.nll(hidden[torch.arange(len(at), device=at.device), at], targets, alphabet.mask), group.number[own]


def _detector(net: Detector, group: Group, alphabet: Alphabet, batch: int) -> Cells:
    """log p(real) = log sigmoid(-score): a detector's score is the logit of "replaced"."""
    del alphabet
    for part in group.split(batch):
        scores = net.scores(net.hidden(part.tokens)[part.scored])
        yield torch.nn.functional.logsigmoid(-scores.double()), _owners(part.scored, part.number)


def _causal(net: Net, group: Group, alphabet: Alphabet, batch: int) -> Cells:
    """The token before predicts; the first one opens the text (see `opened`)."""
    for part in group.split(batch):
        hidden, scored = net.hidden(part.tokens[:, :-1]), part.scored[:, 1:]
        yield -net.nll(hidden[scored], part.tokens[:, 1:][scored], alphabet.mask), _owners(scored, part.number)


def _owners(scored: Tensor, number: Tensor) -> Tensor:
    return number[:, None].expand_as(scored)[scored]


SCORERS: dict[str, Callable[[Any, Group, Alphabet, int], Cells]] = {
    "masked": _masked,
    "detector": _detector,
    "causal": _causal,
}
KINDS = {
    "masked": "pseudo-log-likelihood, one token masked at a time",
    "detector": "sum of log p(real), one pass",
    "causal": "log-likelihood",
}


def kind_of(net: Any) -> str:
    """Which of SCORERS is for a net."""
    if isinstance(net, Detector):
        return "detector"
    return "causal" if net.causal else "masked"


@torch.inference_mode()
def log_scores(
    net: Any,
    rows: Sequence[Sentence],
    alphabet: Alphabet,
    kind: str,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The log score of each sentence, [S] float64 on the CPU, whatever else is scored with it.

    kind: a key of SCORERS; causal rows begin with a token that is not scored.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=device)
    cells, done = sum(sum(row.scored) for row in rows), 0
    for group in by_length(rows, total.device):
        batch = max(1, batch_tokens // group.tokens.shape[1])
        for scores, number in SCORERS[kind](net, group, alphabet, batch):
            total.index_add_(0, number, scores.double())
            done += len(number)
            if progress is not None:
                progress(done, cells)
    return total.cpu()


def score_sentences(
    model: Opened, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS, progress: Progress | None = None
) -> Tensor:
    """The log score of each text under a net, [S] float64; equal texts are scored once.

    Raises BadInput where texts are longer than the net can read, BadData where one has no tokens.
    """
    if batch_tokens < 1:
        raise BadInput(f"--batch-tokens came as {batch_tokens}: type 1 or more, for example {BATCH_TOKENS}.")
    kind = kind_of(model.net)
    unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    rows = sentences(model.tokenizer, list(unique), model.alphabet.end)
    if kind == "causal":
        rows = [opened(row, model) for row in rows]
    _check(rows, list(unique), model, kind)
    training = model.net.training
    model.net.eval()
    try:
        device = next(model.net.parameters()).device
        found = log_scores(
            model.net, rows, model.alphabet, kind, batch_tokens=batch_tokens, progress=progress, device=device
        )
    finally:
        model.net.train(training)
    return found[torch.tensor([unique[text] for text in texts])]


def opened(row: Sentence, model: Opened) -> Sentence:
    """A row for a causal net: it opens with the tokenizer's own token, or with the end token as in training.

    What follows its last token is left out: nothing sees it. Raises BadCheckpoint where there is no token to open with.
    """
    whole = max((place for place, own in enumerate(row.scored, 1) if own), default=0)
    row = Sentence(row.ids[:whole], row.scored[:whole])
    if row.scored and not row.scored[0]:
        return row
    if model.alphabet.end is None:
        raise BadCheckpoint(f"the tokenizer of {model.path} has no end token to open a text with: add an eos_token.")
    return Sentence([model.alphabet.end, *row.ids], [False, *row.scored])


def _check(rows: Sequence[Sentence], texts: Sequence[str], model: Opened, kind: str) -> None:
    empty = [text for text, row in zip(texts, rows) if not any(row.scored)]
    if empty:
        raise BadData(f"the tokenizer of {model.path} turns '{empty[0][:40]}' into no tokens: drop that pair.")
    lengths = [len(row.ids) - (kind == "causal") for row in rows]
    over = sum(length > model.net.length for length in lengths)
    if over:
        raise BadInput(
            f"{over:,} of {len(rows):,} sentences are longer than the {model.net.length} tokens that {model.path} can "
            f"read (the longest has {max(lengths)}): drop them, or type a net that was trained on longer rows."
        )
