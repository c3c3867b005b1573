"""DNA as tokens: single letters, or k-mers that do not overlap.

    dna       A C G T N, one id each
    dna:K     besides, the 4^K words of K nucleotides, K from 1 to 6 (dna:1 is dna)

The words tile the sequence: letters 0 .. K-1, K .. 2K-1, and so on. What is left over at the end, and a window that
holds an N, is written letter by letter, so that the windows after it keep their places. Overlapping k-mers, as in
DNABERT (Ji et al. 2021, Bioinformatics 37), would give a masked token away: its neighbours hold all of its letters but
one or none. Words that do not overlap are those of the Nucleotide Transformer (Dalla-Torre et al. 2023, bioRxiv
2023.01.11.523679).

Lower case is read as upper case, U as T, the other IUPAC letters as N, line ends not at all; else nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from remask.core.errors import BadInput
from remask.data.dna import AMBIGUOUS

__all__ = ["dna_backend", "dna_encode", "dna_width", "read_width"]

LETTERS = "ACGTN"
WIDEST = 6  # 4096 words


def read_width(name: str) -> int:
    """K of the name `dna:K`, 1 of `dna`. Raises BadInput for a K outside 1 to 6."""
    _, colon, text = name.partition(":")
    if not colon:
        return 1
    if not (text.isdecimal() and 1 <= int(text) <= WIDEST):
        raise BadInput(
            f"'{name}' does not say how many bases a word has; type dna:1 to dna:{WIDEST}, for example dna:3."
        )
    return int(text)


def dna_backend(width: int, special: Sequence[str], mask: str) -> Tokenizer:
    """The tokenizer of words of `width` letters.

    special: special tokens, which take the first ids; the last of them stands for letters unknown.
    mask: the one of them that takes the white space around it with it.
    """
    tokens = _vocabulary(width, special)
    if width == 1:
        # Without merges BPE is a table of characters, three times as fast as cutting and looking up.
        tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[], unk_token=special[-1]))
    else:
        tokenizer = Tokenizer(models.WordLevel(vocab=tokens, unk_token=special[-1]))
        cuts = [rf"[\s\S]{{{width}}}", rf"[ACGT]{{{width}}}|[\s\S]"]  # the windows; then words or letters in each
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in cuts]
        )
    tokenizer.normalizer = _normalizer()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(
        [AddedToken(name, lstrip=name == mask, rstrip=name == mask, normalized=False, special=True) for name in special]
    )
    return tokenizer


def dna_width(backend: Tokenizer, special: Sequence[str]) -> int | None:
    """The `width` of a tokenizer made by `dna_backend` (and perhaps loaded from a file); None for any other."""
    if backend.normalizer is None or backend.normalizer.__getstate__() != _normalizer().__getstate__():
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    width = max((len(token) for token in vocabulary if token not in special), default=0)
    return width if width <= WIDEST and vocabulary == _vocabulary(width, special) else None


def dna_encode(text: str, width: int, specials: int) -> tuple[list[int], list[int]]:
    """Ids, and bytes of each token, of a text that `dna.ambiguous` accepts: the tokenizer's own, ten times as fast.

    specials: number of special tokens before the first letter.
    A genome is one text of millions of letters, for which the library's own records take half a kilobyte a letter.
    """
    letters = _CODES[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    at = np.flatnonzero(letters >= 0)  # places of the letters, line ends left out
    letters = letters[at]
    if not len(letters):
        return [], []
    whole = len(letters) // width if width > 1 else 0
    windows = letters[: whole * width].reshape(whole, width)
    plain = (windows < 4).all(axis=1)
    sizes = np.where(plain, 1, width)
    first = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    cells = np.arange(width)
    ids = np.empty(total + len(letters) - whole * width, dtype=np.int64)
    last = np.empty_like(ids)  # the last letter of each token
    ids[first[plain]] = windows[plain] @ (4 ** cells[::-1]) + len(LETTERS)
    last[first[plain]] = np.flatnonzero(plain) * width + width - 1
    ids[first[~plain, None] + cells] = windows[~plain]
    last[first[~plain, None] + cells] = np.flatnonzero(~plain)[:, None] * width + cells
    ids[total:] = letters[whole * width :]
    last[total:] = np.arange(whole * width, len(letters))
    ends = at[last] + 1
    ends[-1] = len(text)
    return (ids + specials).tolist(), np.diff(ends, prepend=0).tolist()


def _vocabulary(width: int, special: Sequence[str]) -> dict[str, int]:
    words = ["".join(word) for word in product(LETTERS[:4], repeat=width)] if width > 1 else []
    return {token: number for number, token in enumerate([*special, *LETTERS, *words])}


def _normalizer() -> normalizers.Normalizer:
    replace = normalizers.Replace
    others = "".join(letter + letter.lower() for letter in AMBIGUOUS) + "n"
    upper = [replace(letter.lower(), letter) for letter in "ACG"]
    return normalizers.Sequence(
        [replace("\n", ""), *upper, replace(Regex("[tuU]"), "T"), replace(Regex(f"[{others}]"), "N")]
    )


def _codes() -> np.ndarray:
    """Byte to place in LETTERS; -1 for all that is no letter of DNA."""
    codes = np.full(256, -1, dtype=np.int64)
    plain = {**{letter: place for place, letter in enumerate(LETTERS)}, "U": 3, **dict.fromkeys(AMBIGUOUS, 4)}
    for letter, place in plain.items():
        codes[[ord(letter), ord(letter.lower())]] = place
    return codes


_CODES = _codes()
