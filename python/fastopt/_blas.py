"""The BLAS and OpenMP libraries that this process has loaded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import warnings
from typing import Any, NamedTuple

# threadpoolctl sets this variable, for the process and its children; the environment stays as it was.
_was_set = "KMP_DUPLICATE_LIB_OK" in os.environ
import threadpoolctl  # noqa: E402

if not _was_set:
    os.environ.pop("KMP_DUPLICATE_LIB_OK", None)

# OpenBLAS 0.3.29 and newer find scratch memory for a job in any slot; 0.3.28 has some for its own threads only.
_OLDEST_OPENBLAS = (0, 3, 29)


class Blas(NamedTuple):
    """A BLAS that this process has loaded."""

    name: str
    version: str
    path: str
    threading_layer: str
    num_threads: int
    install: int  # the address of openblas_set_threads_callback_function; 0 if the library does not have it
    slots: int  # how many jobs the library can tell apart

    @property
    def uses_openmp(self) -> bool:
        return self.threading_layer in ("openmp", "gnu")

    def obstacle(self) -> str:
        """The reason why its jobs cannot run on our threads; empty where they can."""
        if self.uses_openmp:
            return "it uses OpenMP's threads by itself"
        if self.name != "openblas" or self.threading_layer != "pthreads":
            return f"{self.name} cannot borrow threads"
        if tuple(map(int, re.findall(r"\d+", self.version)[:3])) < _OLDEST_OPENBLAS:
            return f"older than {'.'.join(map(str, _OLDEST_OPENBLAS))}"
        if not self.install or not self.slots:
            return "built without openblas_set_threads_callback_function"
        return ""


def controllers() -> list[Any]:
    """threadpoolctl's controllers of all BLAS and OpenMP libraries in this process; none where it cannot read a library's path."""
    with warnings.catch_warnings():
        # threadpoolctl warns of some combinations of OpenMP runtimes; they are only listed here.
        warnings.simplefilter("ignore")
        try:
            return list(threadpoolctl.ThreadpoolController().lib_controllers)
        except UnicodeError:  # a path that the locale's encoding cannot write, or that is not UTF-8
            return []


def all_blas(among: list[Any] | None = None) -> list[Blas]:
    """The BLAS libraries in this process, or among the controllers that are given."""
    every = controllers() if among is None else among
    return [_describe(controller) for controller in every if controller.user_api == "blas"]


def _describe(controller: Any) -> Blas:
    install = slots = 0
    if controller.internal_api == "openblas":
        setter = _symbol(controller.dynlib, "openblas_set_threads_callback_function")
        install = (ctypes.cast(setter, ctypes.c_void_p).value if setter else None) or 0
        get_config = _symbol(controller.dynlib, "openblas_get_config")
        if get_config:
            get_config.restype = ctypes.c_char_p
            limit = re.search(rb"MAX_THREADS=(\d+)", get_config())
            slots = int(limit[1]) if limit else 0
    return Blas(
        name=controller.internal_api,
        version=controller.version or "",
        path=controller.filepath,
        threading_layer=getattr(controller, "threading_layer", ""),
        num_threads=controller.num_threads or 1,
        install=install,
        slots=slots,
    )


def _symbol(library: ctypes.CDLL, name: str) -> Any:
    """The function ``name`` under whichever prefix and suffix this OpenBLAS was built with."""
    for prefix in ("scipy_", ""):
        for suffix in ("64_", "_64", ""):
            with contextlib.suppress(AttributeError):
                return getattr(library, f"{prefix}{name}{suffix}")
    return None
