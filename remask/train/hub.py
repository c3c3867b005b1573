"""Model names: a directory, or `hf:NAME` for one on the Hugging Face hub (fetched once, then found in its cache)."""

from __future__ import annotations

from pathlib import Path

from remask.core.errors import BadCheckpoint

PREFIX = "hf:"
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm"]  # never code, never pickles


def locate(name: str | Path) -> str:
    """The local directory of a model; `hf:NAME` or `hf:NAME@REVISION` is fetched or found in the cache.

    Raises BadCheckpoint when the hub does not have it, or cannot be reached and the cache does not have it.
    """
    text = str(name)
    if not text.startswith(PREFIX):
        return text
    from huggingface_hub import snapshot_download

    repository, _, revision = text[len(PREFIX) :].partition("@")
    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=FILES)
    except Exception as error:  # the hub's client has some twenty kinds of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadCheckpoint(
            f"{text} cannot be fetched ({first}): check the name and the network, or type a local directory."
        ) from error
