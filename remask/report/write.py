"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from remask.core.errors import SaveFailed


def write(path: str | Path, html: str | Iterable[str]) -> Path:
    """Write `html` (one string, or its parts in order) to `path` as UTF-8; readers see the old file or the new one.

    The parts go to a temporary file in the same folder, which is flushed to disk and then renamed over `path`.
    If anything fails on the way the temporary file is removed and the old file stays; what the file system
    refuses comes as `SaveFailed`, other exceptions (from a part that is being made) as they are.
    """
    path = Path(path)
    parts = (html,) if isinstance(html, str) else html
    scratch = path.with_name(f".{path.name[:100]}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise SaveFailed(
            f"could not write {path} ({error.strerror or error}); what was there before is untouched: "
            "free some space or name another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path
