"""File: the text of a file, or a sentence that says why it has none."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from remask.core.errors import BadData

__all__ = ["newlines", "read_text"]


def read_text(path: Path, packed: bool | None = None) -> str:
    """UTF-8 text of a file; every newline is a line feed, a byte-order mark is dropped.

    packed: whether it is gzipped; None goes by the suffix `.gz`.
    Raises BadData for a file that is missing, cannot be read, is not whole, is binary or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadData(f"there is no file '{path}'; check the name.") from error
    except OSError as error:
        raise BadData(f"'{path}' cannot be read ({error.strerror or error}); check its permissions.") from error
    if path.suffix.lower() == ".gz" if packed is None else packed:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise BadData(f"'{path}' is not a whole gzip file ({error}); make or download it again.") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" not in data:
            raise BadData(
                f"'{path}' is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start} cannot be decoded; "
                f"convert it, for example with: iconv -f LATIN1 -t UTF-8 '{path}' > converted.txt"
            ) from error
        text = "\0"
    if "\0" in text:
        raise BadData(
            f"'{path}' is binary: there is a NUL at byte {data.index(0)}, and wanted is UTF-8 text; if it is UTF-16, "
            f"convert it with: iconv -f UTF-16 -t UTF-8 '{path}' > converted.txt"
        )
    return newlines(text.removeprefix("\ufeff"))


def newlines(text: str) -> str:
    """The same text with every newline a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
