"""Marian's tokenizers: two SentencePiece models of two languages, which have no fast form."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from remask.core.errors import BadCheckpoint, MissingExtra

PIECES = "source.spm"


def is_marian(path: str | Path) -> bool:
    """Whether a directory holds such a tokenizer, and no tokenizer.json that would be taken instead."""
    return (Path(path) / PIECES).is_file() and not (Path(path) / "tokenizer.json").is_file()


def load_marian(path: str | Path) -> Any:
    """transformers' MarianTokenizer; MissingExtra without sentencepiece, BadCheckpoint where files are damaged."""
    if importlib.util.find_spec("sentencepiece") is None:
        raise MissingExtra("sentencepiece", "marian", "a Marian's tokenizer")
    from transformers import MarianTokenizer

    try:
        return MarianTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # sentencepiece raises OSError and RuntimeError, transformers half a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(
            f"'{path}' holds no Marian tokenizer that can be read ({reason}); restore source.spm, target.spm and "
            "vocab.json."
        ) from error


def target_size(tokenizer: Any) -> int:
    """Ids of the language that is written: a Marian may have a vocabulary for each."""
    return len(tokenizer.target_encoder) if getattr(tokenizer, "separate_vocabs", False) else len(tokenizer)
