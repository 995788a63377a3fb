"""Fast CPU training on plain NumPy arrays: whole optimizer steps and normalization passes, each in one trip over memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import available_isas, isa
from ._memory import release_memory, reuse_memory, set_cache_limit
from ._threads import get_num_threads, lend_threads, reclaim_threads, set_num_threads, threads
from ._version import __version__

if TYPE_CHECKING:
    from . import functional, nn, optim, reference, schedules
    from ._config import show_config
    from ._run import load, save
    from ._sparse import SparseRows

__all__ = [
    "SparseRows",
    "__version__",
    "available_isas",
    "functional",
    "get_num_threads",
    "isa",
    "lend_threads",
    "load",
    "nn",
    "optim",
    "reclaim_threads",
    "reference",
    "release_memory",
    "reuse_memory",
    "save",
    "schedules",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
    "threads",
]

_FRONTS = {"distributed", "sklearn", "torch"}  # imported when they are first used, and listed once they are imported


if not TYPE_CHECKING:  # with it, type checkers would accept every name

    def __getattr__(name: str) -> Any:
        """The subpackages, ``SparseRows``, ``save``, ``load`` and ``show_config`` are imported when they are first used: ``import fastopt`` costs little."""
        if name in ("functional", "nn", "optim", "reference", "schedules", *_FRONTS):
            return importlib.import_module(f".{name}", __name__)
        if name in (places := {"SparseRows": "._sparse", "show_config": "._config", "save": "._run", "load": "._run"}):
            value = globals()[name] = getattr(importlib.import_module(places[name], __name__), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(_FRONTS & globals().keys())})
