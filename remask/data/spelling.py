"""Spelling: the bytes that each token stands for inside a text.

Byte-level vocabularies (GPT-2, RoBERTa, ModernBERT, ours) are read by their table of bytes, so a token may be a part of
a letter; so are the bytes of last resort of sentence-piece vocabularies, <0x0A>. Every other token is shown to the
tokenizer's own decoder between two letters: WordPiece's ##ing spells "ing", its "the" spells " the".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from remask.data.tokenizers import alphabet, byte_characters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["speller", "spelling"]

BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
BESIDE = "x"  # a token that every decoder writes as it is


def spelling(tokenizer: PreTrainedTokenizerFast) -> list[bytes | None]:
    """What each id adds to a text that has begun; None for special ids, and for those that add nothing.

    The decoder may leave out the space that the first token of a text begins with.
    Raises BadCheckpoint when the tokenizer has no mask.
    """
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    special, spell = alphabet(tokenizer).special, speller(tokenizer)
    found: list[bytes | None] = [None] * max(len(tokenizer), *(number + 1 for number in vocabulary.values()))
    for token, number in vocabulary.items():
        if number not in special:
            found[number] = spell(token) or None
    return found


def speller(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], bytes]:
    """The function from a token, as the vocabulary writes it, to its bytes; special tokens are like any other."""
    decoder = tokenizer.backend_tokenizer.decoder
    kinds = _kinds(json.loads(decoder.__getstate__())) if decoder else set()
    if "ByteLevel" in kinds:
        return _by_table
    write: Callable[[list[str]], str] = decoder.decode if decoder else " ".join
    before, after = len(BESIDE), len(write([BESIDE, BESIDE])) - len(BESIDE)

    def spell(token: str) -> bytes:
        byte = BYTE.fullmatch(token) if "ByteFallback" in kinds else None
        if byte:
            return bytes.fromhex(byte[1])
        text = write([BESIDE, token, BESIDE])
        return text[before : len(text) - after].encode()

    return spell


def _by_table(token: str) -> bytes:
    """A byte a character; a token added later is text as it stands."""
    values = [TABLE.get(character, -1) for character in token]
    return token.encode() if -1 in values else bytes(values)


def _kinds(state: Any) -> set[str]:
    """Names of a decoder and of those inside it."""
    return {state["type"]}.union(*(_kinds(inner) for inner in state.get("decoders", ())))


TABLE = {character: value for value, character in enumerate(byte_characters())}
