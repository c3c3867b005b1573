"""DNA: FASTA files, the letters of the IUPAC code, and the other strand.

The letters are those of the IUPAC code for incompletely specified bases (Cornish-Bowden 1985): A C G T, U for T in RNA,
and R Y S W K M B D H V N, each of which stands for several of the four.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from remask.core.errors import BadData
from remask.data.file import read_text

__all__ = [
    "AMBIGUOUS",
    "FASTA",
    "Record",
    "ambiguous",
    "canonical",
    "is_dna",
    "parse_fasta",
    "read_fasta",
    "reverse_complement",
]

FASTA = frozenset({".fa", ".fasta", ".fna", ".ffn"})
AMBIGUOUS = "RYSWKMBDHV"  # letters that stand for two or three nucleotides; N stands for any
NAMED = 8  # strangers named in an error
_COMPLEMENT = str.maketrans(
    "ACGTURYSWKMBDHVNacgturyswkmbdhvn",
    "TGCAAYRSWMKVHDBNtgcaayrswmkvhdbn",
)
_LETTERS = re.compile("[ACGTURYSWKMBDHVN]+", re.IGNORECASE)
_SHOWN = {" ": "space", "\t": "tab", "\u00a0": "no-break space"}


class Record(NamedTuple):
    """One sequence of a FASTA file: the first word of its header, and its letters, upper case."""

    name: str
    sequence: str


def read_fasta(path: str | Path) -> list[Record]:
    """The records of a FASTA file, plain or `.gz`; see `parse_fasta`."""
    return parse_fasta(read_text(Path(path)), str(path))


def parse_fasta(text: str, name: str) -> list[Record]:
    """The records of a FASTA text, in order; lines joined, white space dropped, upper case. Any letters pass.

    name: of the file, for messages.
    Raises BadData for text before the first '>', a record without a name or a sequence, and a name that comes twice.
    """
    before, *parts = re.split(r"^>", text, flags=re.MULTILINE)
    if before.strip():
        line = next(line for line in before.split("\n") if line.strip())
        raise BadData(f"'{name}' is not FASTA: it begins with '{line[:40]}', and wanted is a line such as '>chr1'.")
    if not parts:
        raise BadData(f"'{name}' holds no FASTA record; wanted are lines such as '>chr1' and, below, its bases.")
    records: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        header, _, body = part.partition("\n")
        words = header.split(maxsplit=1)
        sequence = "".join(body.split()).upper()
        if not words:
            raise BadData(f"record {number} of '{name}' has no name; write one after its '>'.")
        if not sequence:
            raise BadData(f"record {number} of '{name}' ('{words[0]}') holds no sequence; remove it, or mend the file.")
        if words[0] in records:
            raise BadData(f"'{name}' has two records named '{words[0]}'; rename or remove one of them.")
        records[words[0]] = sequence
    return [Record(*record) for record in records.items()]


def reverse_complement(sequence: str) -> str:
    """The other strand, read in its own direction: A and T, C and G change places, and the order turns round.

    IUPAC letters become the letter of the complements; case stays. Its own inverse, but for U, which is read as T.
    Raises BadData for any other letter.
    """
    turned = sequence.translate(_COMPLEMENT)[::-1]
    if sequence and not is_dna(sequence):
        ambiguous([sequence.replace("\n", " ")], "the sequence")  # raises, and names them
    return turned


def canonical(sequence: str) -> str:
    """Of the two strands the one that sorts first, in upper case with T for U: one text for both."""
    sequence = sequence.upper().replace("U", "T")
    return min(sequence, reverse_complement(sequence))


def is_dna(text: str) -> bool:
    """Whether a text is nothing but letters of the IUPAC nucleotide code, at least one, in either case."""
    return _LETTERS.fullmatch(text) is not None


def ambiguous(texts: Iterable[str], name: str) -> int:
    """How many letters stand for two or three nucleotides (R Y S W K M B D H V, either case) in some texts of DNA.

    name: of the texts, for the message.
    Line ends may stand anywhere. Raises BadData that counts and names the letters that are no nucleotides.
    """
    counts = _letters(texts)
    strangers = {letter: n for letter, n in counts.items() if letter != "\n" and not is_dna(letter)}
    if strangers:
        common = sorted(strangers.items(), key=lambda pair: (-pair[1], pair[0]))
        named = ", ".join(f"{_SHOWN.get(letter, letter)} {n}" for letter, n in common[:NAMED])
        more = f" and {len(common) - NAMED} others" if len(common) > NAMED else ""
        total = sum(strangers.values())
        what = "letter that is no nucleotide" if total == 1 else "letters that are no nucleotides"
        raise BadData(
            f"{name} holds {total} {what} ({named}{more}); wanted are A C G T, N and the other IUPAC "
            "codes: remove them, or, if this is no DNA, type --tokenizer character."
        )
    return sum(counts[letter] for letter in AMBIGUOUS)


def _letters(texts: Iterable[str]) -> Counter[str]:
    """How often each letter comes, cases together."""
    bytes_seen = np.zeros(256, dtype=np.int64)
    found: Counter[str] = Counter()
    for text in texts:
        if text.isascii():
            bytes_seen += np.bincount(np.frombuffer(text.encode("ascii"), dtype=np.uint8), minlength=256)
        else:
            found.update(text)
    found.update({chr(value): int(n) for value, n in enumerate(bytes_seen) if n})
    merged: Counter[str] = Counter()
    for letter, n in found.items():
        merged[letter.upper() if letter.isascii() else letter] += n
    return merged
