"""Lets transformers' Auto classes open our own model types after a bare `import remask`, without importing torch now.

transformers imports its auto-model module only when an Auto class, or a model that needs it, is first used. If that has
happened already we register at once; if not, we wait for it: a finder at the front of `sys.meta_path` lets the modules
below load as usual and registers as soon as the auto classes are there and none of them is half loaded (a model's
module may import the auto classes on its way).
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
NEEDED = (
    AUTO,
    "transformers.modeling_layers",
    "transformers.modeling_utils",
    "transformers.models.modernbert.modeling_modernbert",
    "transformers.models.modernbert_decoder.modeling_modernbert_decoder",
)
"""What our model classes are made of: none of these may be half loaded when they are imported."""


def _half_loaded(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and getattr(module.__spec__, "_initializing", False)


def _register_if_ready(finished: str) -> None:
    """Register once the auto classes are there; `finished` has just been executed."""
    if AUTO not in sys.modules or any(_half_loaded(name) for name in NEEDED if name != finished):
        return
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
    _register()


def _register() -> None:
    # the module registers its classes when it is imported; it may be half imported now, and will then do so itself
    import_module("remask.nets.directional")


class _RegisterAfter(Loader):
    """The module's own loader, and then our registration."""

    def __init__(self, loader: Loader, name: str):
        self.loader, self.name = loader, name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register_if_ready(self.name)


class _Watcher(MetaPathFinder):
    """Finds nothing itself: asks the others. Stays until the modules are loaded: a spec may be looked up idly."""

    def __init__(self) -> None:
        self.asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in NEEDED or self.asking:
            return None
        self.asking = True
        try:
            spec = find_spec(name)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfter(spec.loader, name)
        return spec


def register_when_imported() -> None:
    """Register now if transformers' auto classes are loaded, else as soon as they are."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    _register_if_ready("")
