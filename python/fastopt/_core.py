"""The kernels for this processor, and how they are loaded; the only Python file that names an instruction set."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import importlib.machinery
import importlib.util
import os
import re
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    from . import _cpu
except ImportError as error:
    if error.name != __package__:  # it is there, and does not load
        raise
    where, suffix = os.path.dirname(__file__), importlib.machinery.EXTENSION_SUFFIXES[0]
    reason = (
        f"there is no _cpu{suffix} in {where}; install it with this Python"
        if os.path.isdir(where)
        else f"Python loads none from a zip file, as {where} is in one; install it with pip, or unpack the file"
    )
    raise ImportError(f"fastopt has compiled modules: {reason}", name=__package__) from None
from ._blas import all_blas, controllers
from ._cores import same_affinity, too_few_cores

_LIBRARIES = {
    "x86-64-v4": "_kernels_v4",
    "x86-64-v3": "_kernels_v3",
    "x86-64-v2": "_kernels_v2",
    "native": "_kernels_native",
}

# The number of times that an idle worker of libgomp spins before it sleeps, where a BLAS keeps its own threads.  With libgomp's
# default of 300,000 it holds a core for milliseconds; with a much smaller number it sleeps between the kernels of one step.
SPIN_COUNT = "3000"

_spin_count: str | None = None  # the count that _short_spin has set
_loaded: dict[str, ModuleType] = {}


# The choice


def available_isas() -> list[str]:
    """The instruction sets that this processor can run and this build has kernels for, best first."""
    return [isa for isa in _cpu.instruction_sets() if isa in _LIBRARIES and _path(_LIBRARIES[isa])]


def isa() -> str:
    """The instruction set whose kernels are in use; the environment variable ``FASTOPT_ISA`` overrides the choice."""
    return _isa


def load(isa: str) -> ModuleType:
    """A module with the kernels that were compiled for ``isa``: the bindings, which are the same for all, and a library.

    Raises:
        ValueError: ``isa`` is not the name of an instruction set, or this processor does not have it.
        ImportError: the library belongs to another build than the bindings.
    """
    if isa not in _LIBRARIES:
        raise ValueError(
            f"FASTOPT_ISA: unknown instruction set {isa!r}; this processor has {', '.join(available_isas())}"
        )
    if isa not in available_isas():
        lacking = "build" if isa in _cpu.instruction_sets() else "processor"
        raise ValueError(f"FASTOPT_ISA: this {lacking} does not have {isa}; it has {', '.join(available_isas())}")
    if isa not in _loaded:
        library = _LIBRARIES[isa]
        bindings = importlib.import_module("._bindings", __package__)
        _loaded[isa] = bindings.load(os.fsencode(_path(library)), f"{__package__}.{library}")
    return _loaded[isa]


def _choose() -> str:
    if not _cpu.instruction_sets():
        raise ImportError("fastopt needs a processor with at least x86-64-v2 (SSE4.2)")
    wanted = os.environ.get("FASTOPT_ISA", "")
    if wanted:
        return wanted
    found = available_isas()
    if found:
        return found[0]
    raise ImportError(
        f"fastopt has no library of kernels for this processor ({', '.join(_cpu.instruction_sets())}) in "
        f"{os.path.dirname(__file__)}; install it again"
    )


def _path(library: str) -> str:
    """The file of a library, which is named like an extension module; empty if it was not built."""
    spec = importlib.util.find_spec(f".{library}", __package__)
    return (spec and spec.origin) or ""


# OpenMP, which is loaded with the bindings


def lends_threads() -> bool:
    """Whether ``FASTOPT_LEND_THREADS`` leaves lending on."""
    value = os.environ.get("FASTOPT_LEND_THREADS", "") or "1"
    if value not in ("0", "1"):
        raise ValueError(f"FASTOPT_LEND_THREADS: must be 0 or 1, got {value!r}")
    return value == "1"


def spin_count() -> str | None:
    """The number of times that idle workers of OpenMP spin before they sleep; ``None`` for OpenMP's default."""
    return os.environ.get("GOMP_SPINCOUNT") or _spin_count


def _is_torchs(path: str) -> bool:
    """Whether a file is torch's libgomp under a name with a hash, which other libraries know by its plain name all the same."""
    return re.search(r"/torch/lib/libgomp-[^/]*$", path) is not None


def _load_torchs_runtime() -> None:
    """Loads the OpenMP runtime that an installed torch will use, if its file has a name with a hash and none is loaded yet.

    torch before 2.13 asks for its runtime by such a name, and so loads it beside any other one.  The name inside the file is the
    plain one, by which the bindings find it: both then have one pool of threads, in either order of import.
    """
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # something that is no package has its name
        return
    for place in (spec and spec.submodule_search_locations) or ():
        for path in glob.glob(os.path.join(glob.escape(place), "lib", "libgomp-*.so*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(path)


@contextlib.contextmanager
def _openmp() -> Iterator[None]:
    """Prepares what the bindings load in this context: the runtime, if torch has one of its own, and its spin count."""
    found = controllers()
    loaded = [controller.filepath for controller in found]
    is_loaded = any(os.path.basename(path).startswith("libgomp.so") or _is_torchs(path) for path in loaded)
    with _short_spin(found, is_loaded):
        if not is_loaded:
            _load_torchs_runtime()
        yield


@contextlib.contextmanager
def _short_spin(found: list[Any], is_loaded: bool) -> Iterator[None]:
    """Gives a libgomp that is loaded in this context a short spin count, where its idle workers would hold the cores of a BLAS.

    libgomp reads its spin count once, when it is loaded.  It gets the short one where a BLAS will keep its own threads, or may
    keep them because the environment lists places that cannot be counted yet.  A count that the user has chosen stays.
    """
    global _spin_count
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    may_keep_threads = any(
        not blas.uses_openmp
        and (not lends_threads() or blas.obstacle() or _few_places() or too_few_cores(blas.num_threads, None))
        for blas in all_blas(found)
    )
    if not may_keep_threads or chosen or is_loaded:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _spin_count = SPIN_COUNT
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _few_places() -> bool:
    """Whether the environment lists places or puts all threads on one place; libgomp cannot be asked before it is loaded."""
    listed = re.search(r"\d", os.environ.get("OMP_PLACES", "") + os.environ.get("GOMP_CPU_AFFINITY", ""))
    return bool(listed) or os.environ.get("OMP_PROC_BIND", "").strip().lower() in ("master", "primary")


_isa = _choose()
if TYPE_CHECKING:
    from . import _kernels

    kernels = _kernels
else:
    with _openmp(), same_affinity():
        kernels = load(_isa)
