"""Corpus: from the names of some texts to rows to train on and rows to judge by, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from remask.data import split, tokenizers
from remask.data.dna import ambiguous
from remask.data.dna import reverse_complement as other_strand
from remask.data.pack import Rows, pack
from remask.data.text import Document, read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Corpus", "prepare"]

NAMED = 50  # held-out documents named in the notes


class Corpus(NamedTuple):
    """Text made ready.

    train, valid: packed rows; no passage of `valid` stands in `train` where the split was drawn here.
    tokenizer: trained on the training text only, or the one that was given.
    fingerprint: 16 hex digits of the texts on both sides.
    held: the held-out texts themselves.
    notes: plain data for records: per side the documents, characters, bytes, tokens (ends not counted) and rows, and
        the `ambiguous` letters that a tokenizer for DNA reads as N, if any; `repeats` dropped; `held_out` names (at
        most 50); `shared_passages` (0 unless `valid` was given and leaks).
    """

    train: Rows
    valid: Rows
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    held: tuple[str, ...]
    notes: dict[str, Any]


def prepare(
    sources: Sequence[str],
    *,
    valid: Sequence[str] = (),
    tokenizer: str | PreTrainedTokenizerFast = "bpe:1024",
    length: int = 128,
    share: float = 0.1,
    seed: int = 0,
    column: str = "text",
    document: str = "file",
    unique: bool = False,
    reverse_complement: bool = False,
    masked: bool = True,
) -> Corpus:
    """Read, split, encode and pack.

    sources, column, document: see `text.read`.
    valid: sources to judge by; without them, `share` of the characters is held out (`split.hold_out`, by `seed`).
    tokenizer: a name (`tokenizers.build`) or a fast Hugging Face tokenizer with a mask token.
    length: tokens per row L.
    unique: first drop the passages that repeat earlier ones (`split.drop_repeated`; of `sources` only).
    reverse_complement: add the other strand of every training document, after the split (DNA; a passage and its reverse
        complement count as the same passage, so none of them is held out).
    masked: False for left-to-right nets, whose tokenizer needs no mask token.
    Raises what those raise: UnknownName, BadInput, BadData (a side shorter than one row), BadCheckpoint, MissingExtra.
    """
    documents = read(sources, column=column, document=document)
    repeats = split.Repeats(0, 0, 0.0)
    if unique:
        documents, repeats = split.drop_repeated(documents)
    if valid:
        train, held = documents, read(valid, column=column, document=document)
    else:
        train, held = split.hold_out(documents, share, seed)
    if reverse_complement:
        train = _both_strands(train)
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.build(tokenizer, [one.text for one in train])
    end = tokenizers.alphabet(tokenizer, masked=masked).end
    train_rows, train_notes = _side(train, tokenizer, length, end, "the training text")
    valid_rows, valid_notes = _side(held, tokenizer, length, end, "the validation text")
    notes = {
        "train": train_notes,
        "valid": valid_notes,
        "repeats": repeats._asdict(),
        "held_out": [one.name for one in held[:NAMED]],
        "shared_passages": split.shared_passages(train, held),
    }
    # The prints of the two sides, as two texts: moving a document across the split changes the whole.
    sides = [Document("", split.fingerprint(train)), Document("", split.fingerprint(held))]
    texts = tuple(one.text for one in held)
    return Corpus(train_rows, valid_rows, tokenizer, split.fingerprint(sides), texts, notes)


def _both_strands(documents: Sequence[Document]) -> list[Document]:
    """Every document, followed by its reverse complement."""
    ambiguous([one.text for one in documents], "the training text")
    turned = [Document(f"{one.name}:reverse", other_strand("".join(one.text.split()))) for one in documents]
    return [document for pair in zip(documents, turned) for document in pair]


def _side(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, length: int, end: int | None, name: str
) -> tuple[Rows, dict[str, int]]:
    """Rows of one side, and its counts."""
    texts = [one.text for one in documents]
    dna = tokenizers.word_width(tokenizer) is not None
    unclear = ambiguous(texts, name) if dna else 0
    encoded = tokenizers.encode(tokenizer, texts)
    rows = pack(encoded, length, end, name)
    counts = {
        "documents": len(documents),
        "characters": sum(map(len, texts)),
        "bytes": sum(sum(one.bytes) for one in encoded),
        "tokens": sum(len(one.ids) for one in encoded),
        "rows": len(rows.tokens),
    }
    return rows, {**counts, "ambiguous": unclear} if unclear else counts
