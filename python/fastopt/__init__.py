"""Fast CPU training on plain NumPy arrays: whole optimizer steps and normalization passes, each in one trip over memory."""

from . import functional, nn, optim, reference, schedules
from ._config import show_config
from ._core import available_isas, isa
from ._threads import get_num_threads, lend_threads, reclaim_threads, set_num_threads, threads
from ._version import __version__

__all__ = [
    "__version__",
    "available_isas",
    "functional",
    "get_num_threads",
    "isa",
    "lend_threads",
    "nn",
    "optim",
    "reclaim_threads",
    "reference",
    "schedules",
    "set_num_threads",
    "show_config",
    "threads",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *({"torch"} & globals().keys())})  # fastopt.torch is imported by those who need it
