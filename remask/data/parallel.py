"""Parallel text made ready: pairs read, held out, encoded by one tokenizer, filtered and counted.

Two sentences are the same if they agree up to case, punctuation and white space. Length filters: Koehn et al. 2007
(Moses, clean-corpus-n); joint byte-pair encoding: Sennrich et al. 2016, arXiv 1508.07909, section 3.2.
Shapes: R pairs, N tokens of them all, B rows of a batch, S and L longest source and target of it, ends included.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadData, BadInput
from remask.data import split, tokenizers
from remask.data.pairs import ROLES, Pair, read_pairs
from remask.data.text import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "REASONS",
    "ROLES",
    "Pair",
    "Pairs",
    "ParallelCorpus",
    "Ragged",
    "hold_out_pairs",
    "prepare_pairs",
    "read_pairs",
]

REASONS = ("empty", "duplicate", "special", "too_long", "ratio")  # why a pair is dropped: the first that holds
SLOTS = {"end": "eos_token", "pad": "pad_token"}  # what transformers calls them
SLACK = 5  # tokens that the ratio grants on top, so that "Ja." may still be "Yes, of course I do."
CHUNK = 4096  # sentences encoded at a time: lists of ids take ten times the room of an array


class Ragged(NamedTuple):
    """Rows of unequal length, end to end.

    ids: [N] int64, all rows.
    offsets: [R + 1] int64; row r is ids[offsets[r] : offsets[r + 1]].
    """

    ids: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """From lists of ids."""
        rows = list(rows)
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
        sizes = np.array([0, *map(len, rows)], dtype=np.int64)
        return cls(torch.from_numpy(ids), torch.from_numpy(np.cumsum(sizes)))

    @property
    def lengths(self) -> Tensor:
        """[R] int64, ids of each row."""
        return self.offsets.diff()

    def select(self, index: Tensor | Sequence[int] | slice) -> Ragged:
        """The rows of `index`, in its order: row numbers [B], a slice, or a bool mask [R]."""
        starts, stops = self.offsets[:-1][index], self.offsets[1:][index]
        offsets = torch.cat([starts.new_zeros(1), (stops - starts).cumsum(0)])
        shift = torch.repeat_interleave(starts - offsets[:-1], stops - starts)
        return Ragged(self.ids[torch.arange(len(shift)) + shift], offsets)

    def padded(self, end: int, pad: int) -> Tensor:
        """All rows as a table [R, longest + 1] int64: ids, one `end`, then `pad`."""
        sizes = self.lengths
        width = int(sizes.max()) + 1 if len(sizes) else 0
        table = torch.full((len(sizes), width), pad, dtype=torch.long)
        table[torch.arange(width) < sizes[:, None]] = self.ids
        return table.scatter_(1, sizes[:, None], end)

    def hits(self, wanted: Iterable[int | None]) -> Tensor:
        """[R] int64, how many ids of each row are among `wanted`."""
        known = torch.tensor([number for number in wanted if number is not None], dtype=torch.long)
        found = torch.isin(self.ids, known).long()
        return torch.cat([found.new_zeros(1), found.cumsum(0)])[self.offsets].diff()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Encoded pairs, R of them.

    source, target: their ids, without ends.
    index: [R] int64, the number of each pair among those read, from 0, for records.
    """

    source: Ragged
    target: Ragged
    index: Tensor

    def __len__(self) -> int:
        """R."""
        return len(self.index)

    @property
    def source_lengths(self) -> Tensor:
        """[R] int64, tokens of each source, without its end."""
        return self.source.lengths

    @property
    def target_lengths(self) -> Tensor:
        """[R] int64, tokens of each target, without its end."""
        return self.target.lengths

    def select(self, index: Tensor | Sequence[int] | slice) -> Pairs:
        """The pairs of `index`: row numbers [B], a slice, or a bool mask [R]."""
        return Pairs(self.source.select(index), self.target.select(index), self.index[index])

    def rows(self, index: Tensor | Sequence[int] | slice, alphabet: Alphabet) -> tuple[Tensor, Tensor]:
        """Sources [B, S] and targets [B, L] int64 of `index`: ids, the end, then padding.

        Raises BadInput where the alphabet lacks an end or a pad of its own.
        """
        end, pad = alphabet.end, alphabet.pad
        if end is None or pad is None or end == pad:
            lacks = "end" if end is None else "pad"
            raise BadInput(
                f"the tokenizer has no {lacks} token of its own, and pairs need both an end and a pad; take another "
                "one (--tokenizer bpe:8192), or add it: "
                f"tokenizer.add_special_tokens({{'{SLOTS[lacks]}': '[{lacks.upper()}]'}})."
            )
        some = self.select(index)
        return some.source.padded(end, pad), some.target.padded(end, pad)


class ParallelCorpus(NamedTuple):
    """Pairs made ready.

    train, valid: encoded pairs; where the split was drawn here, no sentence of `valid` stands in `train`.
    tokenizer: one for both languages, trained on both sides of the training pairs, or the one that was given.
    fingerprint: 16 hex digits of the texts of both sides as they were read, in order.
    held: the texts of `valid`, row by row.
    notes: plain data for records: `train` and `valid`, each with the pairs `read`, those `dropped` for each of REASONS,
        those `kept`, and of these the `source_tokens` and `target_tokens` (ends not counted) and how many of them are
        unknown to the tokenizer (`source_unknown`, `target_unknown`); `shared`, the pairs of `valid` whose source or
        target also stands in `train` (0 unless `valid` was given and leaks).
    """

    train: Pairs
    valid: Pairs
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    held: tuple[Pair, ...]
    notes: dict[str, Any]


def prepare_pairs(
    sources: Sequence[str],
    *,
    valid: Sequence[str] = (),
    columns: Sequence[str] | str = ROLES,
    tokenizer: str | PreTrainedTokenizerFast = "bpe:8192",
    length: int = 128,
    ratio: float = 3.0,
    unique: bool = False,
    share: float = 0.05,
    seed: int = 0,
) -> ParallelCorpus:
    """Read, split, encode and filter.

    sources, columns: see `read_pairs`.
    valid: sources to judge by; without them, `share` of the pairs is held out (`hold_out_pairs`, by `seed`).
    tokenizer: a name (`tokenizers.build`) or a fast Hugging Face tokenizer.
    length: tokens of the longest side, its end included; longer pairs are dropped, from both train and valid.
    ratio: a training pair is dropped if its longer side has more than ratio x the shorter one + 5 tokens; 0 for never.
    unique: drop training pairs that repeat an earlier one word for word.

    From valid is dropped only what no net could be asked: pairs that are empty, too long, or hold the tokenizer's own
    end or pad (`special`). Raises what those raise, BadInput for a length below 2 or a ratio between 0 and 1, and
    BadData where a side has no pairs left.
    """
    if length < 2:
        raise BadInput(f"a length of {length} has no room for a token and the end; give --length 2 or more.")
    if not (ratio == 0 or 1 <= ratio < float("inf")):
        raise BadInput(f"a length ratio of {ratio} makes no sense; give 1 or more (3 is usual), or 0 for no filter.")
    found = read_pairs(sources, columns)
    if valid:
        held = read_pairs(valid, columns)
        numbers, held_numbers = list(range(len(found))), list(range(len(held)))
    else:
        held = found
        numbers, held_numbers = hold_out_pairs(found, share, seed)
    train_read, valid_read = [found[k] for k in numbers], [held[k] for k in held_numbers]
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.build(tokenizer, chain.from_iterable(train_read))
    train_rows, train_notes = _side(train_read, tokenizer, length, ratio, unique, "training")
    valid_rows, valid_notes = _side(valid_read, tokenizer, length, 0, False, "validation")
    kept = [train_read[k] for k in train_rows.index.tolist()]
    texts = tuple(valid_read[k] for k in valid_rows.index.tolist())
    notes = {"train": train_notes, "valid": valid_notes, "shared": _shared(kept, texts)}
    # Prints of the two sides, as two texts: moving a pair across the split changes the whole.
    prints = [Document("", split.fingerprint(_sentences(side))) for side in (train_read, valid_read)]
    train = replace(train_rows, index=torch.tensor(numbers)[train_rows.index])
    judge = replace(valid_rows, index=torch.tensor(held_numbers)[valid_rows.index])
    return ParallelCorpus(train, judge, tokenizer, split.fingerprint(prints), texts, notes)


def hold_out_pairs(pairs: Sequence[Pair], share: float = 0.05, seed: int = 0) -> tuple[list[int], list[int]]:
    """Numbers of the pairs to train on, and of those held out, both rising; no sentence stands on both sides.

    share: of the pairs, for the held-out side; between 0 and 1, ends excluded.
    seed: of the drawing (`random.Random(seed).random()`, which Python promises not to change).

    Pairs that share a source or a target hang together, and so do those that share one with these. Such groups are
    drawn in random order; one that would carry the held-out side past the share is passed over (the smallest is taken
    where all would). Raises BadInput for a share outside (0, 1), BadData where all pairs hang together.
    """
    if not 0 < share < 1:
        raise BadInput(f"the share to hold out is {share}; give a number between 0 and 1, such as --held-out 0.05.")
    group = _groups(pairs)
    sizes = np.bincount(group).tolist()
    if len(sizes) < 2:
        raise BadData(
            f"nothing can be held out for validation: there is one pair only, or all {len(pairs)} hang together by "
            "sentences that they share; give more pairs, or name others with --valid FILE."
        )
    wanted = max(1, round(share * len(pairs)))
    random_order = Random(seed)
    keys = [random_order.random() for _ in sizes]
    chosen = np.zeros(len(sizes), dtype=bool)
    held = 0
    for number in sorted(range(len(sizes)), key=keys.__getitem__):
        if held + sizes[number] <= wanted and held + sizes[number] < len(pairs):
            chosen[number] = True
            held += sizes[number]
    if not held:
        chosen[sizes.index(min(sizes))] = True
    return np.flatnonzero(~chosen[group]).tolist(), np.flatnonzero(chosen[group]).tolist()


def _side(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    ratio: float,
    unique: bool,
    name: str,
) -> tuple[Pairs, dict[str, Any]]:
    """Encoded pairs of one side that pass the filters, and its counts; `index` is the place among `pairs`."""
    source, target = (_encode(tokenizer, [pair[side] for pair in pairs]) for side in range(len(ROLES)))
    longer = torch.maximum(source.lengths, target.lengths)
    shorter = torch.minimum(source.lengths, target.lengths)
    blank = torch.tensor([not (pair.source.strip() and pair.target.strip()) for pair in pairs])
    closing = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
    reasons = {
        "empty": blank | (shorter == 0),
        "duplicate": _repeats(pairs) if unique else torch.zeros_like(blank),
        "special": source.hits(closing) + target.hits(closing) > 0,
        "too_long": longer + 1 > length,
        "ratio": (longer > ratio * shorter + SLACK) & (ratio > 0),
    }
    left, dropped = torch.ones_like(blank), {}
    for reason in REASONS:
        dropped[reason] = int((left & reasons[reason]).sum())
        left &= ~reasons[reason]
    if not left.any():
        counts = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in dropped.items() if number)
        raise BadData(
            f"none of the {len(pairs)} {name} pairs is left (dropped: {counts}; the longest side of a pair may have "
            f"{length} tokens); check --columns, or give a greater --length or other pairs."
        )
    kept = Pairs(source, target, torch.arange(len(pairs))).select(left)
    unknown = [tokenizer.unk_token_id]
    return kept, {
        "read": len(pairs),
        "dropped": dropped,
        "kept": len(kept),
        "source_tokens": len(kept.source.ids),
        "target_tokens": len(kept.target.ids),
        "source_unknown": int(kept.source.hits(unknown).sum()),
        "target_unknown": int(kept.target.hits(unknown).sum()),
    }


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Ragged:
    """Ids of every text, without specials."""
    parts = [
        Ragged.of([one.ids for one in tokenizers.encode(tokenizer, texts[at : at + CHUNK])])
        for at in range(0, len(texts), CHUNK)
    ]
    sizes = torch.cat([part.lengths for part in parts])
    return Ragged(torch.cat([part.ids for part in parts]), torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))


def _repeats(pairs: Sequence[Pair]) -> Tensor:
    """[R] bool, whether a pair stood earlier, word for word (up to white space)."""
    first: dict[tuple[str, str], int] = {}
    keys = [(" ".join(source.split()), " ".join(target.split())) for source, target in pairs]
    return torch.tensor([first.setdefault(key, number) != number for number, key in enumerate(keys)])


def _sentences(pairs: Sequence[Pair]) -> list[Document]:
    """Source, target, source, target ...: so that turning a pair round changes the print."""
    return [Document("", text) for text in chain.from_iterable(pairs)]


def _key(text: str) -> str:
    """What makes two sentences the same; empty where there is nothing to compare."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", "", plain) or "".join(plain.split())


def _groups(pairs: Sequence[Pair]) -> np.ndarray:
    """[R] number of the group that each pair hangs together with by equal sources or targets (union-find)."""
    parent = list(range(len(pairs)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for side in range(len(ROLES)):
        home: dict[str, int] = {}
        for number, pair in enumerate(pairs):
            if key := _key(pair[side]):
                parent[root(number)] = root(home.setdefault(key, number))
    roots = np.array([root(number) for number in range(len(pairs))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1]


def _shared(train: Sequence[Pair], valid: Sequence[Pair]) -> int:
    """Pairs of `valid` whose source or target also stands in `train`, on its side."""
    seen = [{_key(pair[side]) for pair in train} for side in range(len(ROLES))]
    return sum(any(_key(text) in known for text, known in zip(pair, seen)) for pair in valid)
