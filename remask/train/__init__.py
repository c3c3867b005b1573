"""Training: objective + net + data + seed = a run. The room is the verb too: `remask.train(...)` is `train.api.train`.

Importing anything below binds the name `remask.train` to this package, so the package itself answers the call.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """A package that can be called."""

    def __call__(self, *arguments: Any, **flags: Any) -> Any:
        """Train a model and open it: see `remask.train.api.train`."""
        from remask.train.api import train

        return train(*arguments, **flags)


sys.modules[__name__].__class__ = _Verb
