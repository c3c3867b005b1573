"""Tables: name -> "module:Class". Lazy (listing a table imports nothing heavy), greppable, no import side effects.

Third parties add rows through the entry-point group `remask`: an entry named `samplers.mine = "their_module:Mine"`
becomes the row `mine` of the table `samplers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from remask.core.errors import UnknownName


class Table(Mapping[str, str]):
    """A literal dict of rows, and whatever entry points add to it."""

    def __init__(self, kind: str, rows: Mapping[str, str]):
        self.kind = kind
        self._own = dict(rows)

    @cached_property
    def _rows(self) -> dict[str, str]:
        prefix = f"{self.kind}s."
        found = {e.name[len(prefix) :]: e.value for e in entry_points(group="remask") if e.name.startswith(prefix)}
        return {**found, **self._own}  # a third party never replaces a row of ours

    def __getitem__(self, name: str) -> str:
        """The "module:Class" of a row; UnknownName lists the known ones."""
        if name not in self._rows:
            raise UnknownName(self.kind, name, self._rows)
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, name: str) -> Any:
        """The class or function of a row; this is where its module gets imported."""
        module, _, attribute = self[name].partition(":")
        return getattr(import_module(module), attribute)
