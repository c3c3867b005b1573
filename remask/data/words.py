"""Words: which tokens go on with the word before them, read off the vocabulary's own marks.

WordPiece marks what continues (##ing), byte-level and sentence-piece vocabularies mark what begins (a space before it).
Punctuation is a word of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import decoders, models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["continuing"]

SPACE = "\u2581"  # sentence-piece's mark
CONTROL = range(256, 290)  # what byte-level vocabularies write for the bytes 0-32 and 127, the space among them
HIGH = 161  # from here on their characters stand for parts of letters that take several bytes


def _in_bytes(token: str) -> bool:
    return ord(token[0]) not in CONTROL and (token[0].isalnum() or ord(token[0]) >= HIGH)


def _in_characters(token: str) -> bool:
    return not token.startswith(SPACE) and token[0].isalnum()


def continuing(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids that go on with a word; empty for vocabularies that do not tell."""
    backend = tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if isinstance(backend.model, models.WordPiece):
        mark = backend.model.continuing_subword_prefix
        return frozenset(i for token, i in vocabulary.items() if token.startswith(mark))
    goes_on = _in_bytes if isinstance(backend.decoder, decoders.ByteLevel) else _in_characters
    found = frozenset(i for token, i in vocabulary.items() if token and goes_on(token))
    begins = set(vocabulary.values()) - found - set(tokenizer.all_special_ids)
    return found if begins else frozenset()  # DNA: one word without end would be no word
