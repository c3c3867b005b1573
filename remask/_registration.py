"""Lets transformers' Auto classes open our own model types after a bare `import remask`, without importing torch now.

transformers imports its auto-model module only when an Auto class is first used. If that has happened already we
register at once; if not, we wait for it: a finder at the front of `sys.meta_path` lets the module load as usual and
registers right after.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AUTO = "transformers.models.auto.modeling_auto"


def _register() -> None:
    # the module registers its classes when it is imported; it may be half imported now, and will then do so itself
    import_module("remask.nets.directional")


class _RegisterAfter(Loader):
    """The module's own loader, and then our registration."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
        _register()


class _Watcher(MetaPathFinder):
    """Finds nothing itself: asks the others. Stays until the module is loaded: a spec may be looked up idly."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfter(spec.loader)
        return spec


def register_when_imported() -> None:
    """Register now if transformers' auto classes are loaded, else as soon as they are."""
    if AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
