"""One pool of threads: what BLAS and OpenMP this process has, and how they share it (``docs/threads.md``)."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadpoolctl

from ._check import whole

# Since 0.3.29 a job finds scratch memory for any slot; in 0.3.28 only those of OpenBLAS's own threads have some.
_OLDEST_OPENBLAS = (0, 3, 29)

# How long idle workers spin where a BLAS keeps its own threads.  libgomp's 300,000 hold the cores for milliseconds; much
# fewer, and a worker sleeps between the kernels of one step.
_SPIN_COUNT = "3000"

_kernels: Any = None  # the extension module in use; attach() sets it
_spin_count: str | None = None  # what loading() has set


# What is there


@dataclass(frozen=True)
class _Blas:
    """A BLAS that this process has loaded."""

    name: str
    version: str
    path: str
    threading_layer: str
    num_threads: int
    install: int  # the address of openblas_set_threads_callback_function; 0: it has none
    slots: int  # how many jobs can be told apart

    @property
    def uses_openmp(self) -> bool:
        return self.threading_layer in ("openmp", "gnu")

    def obstacle(self) -> str:
        """Why its jobs cannot run on our threads; empty where they can."""
        if self.uses_openmp:
            return "it uses OpenMP's threads by itself"
        if self.name != "openblas" or self.threading_layer != "pthreads":
            return f"{self.name} cannot borrow threads"
        if tuple(map(int, re.findall(r"\d+", self.version)[:3])) < _OLDEST_OPENBLAS:
            return f"older than {'.'.join(map(str, _OLDEST_OPENBLAS))}"
        if not self.install or not self.slots:
            return "built without openblas_set_threads_callback_function"
        return ""


def _controllers() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of combinations of OpenMP runtimes, which are only listed here
        return list(threadpoolctl.ThreadpoolController().lib_controllers)


def _symbol(library: ctypes.CDLL, name: str) -> Any:
    """The function ``name`` under whichever prefix and suffix this OpenBLAS was built with."""
    for prefix in ("scipy_", ""):
        for suffix in ("64_", "_64", ""):
            with contextlib.suppress(AttributeError):
                return getattr(library, f"{prefix}{name}{suffix}")
    return None


def _describe(controller: Any) -> _Blas:
    install = slots = 0
    if controller.internal_api == "openblas":
        setter = _symbol(controller.dynlib, "openblas_set_threads_callback_function")
        install = (ctypes.cast(setter, ctypes.c_void_p).value if setter else None) or 0
        get_config = _symbol(controller.dynlib, "openblas_get_config")
        if get_config:
            get_config.restype = ctypes.c_char_p
            limit = re.search(rb"MAX_THREADS=(\d+)", get_config())
            slots = int(limit[1]) if limit else 0
    return _Blas(
        name=controller.internal_api,
        version=controller.version or "",
        path=controller.filepath,
        threading_layer=getattr(controller, "threading_layer", ""),
        num_threads=controller.num_threads or 1,
        install=install,
        slots=slots,
    )


def _all_blas() -> list[_Blas]:
    return [_describe(controller) for controller in _controllers() if controller.user_api == "blas"]


# The cores that there are


def _quota(root: Path = Path("/")) -> float:
    """How many cores' time the control groups of this process give it, from its own group up to the outermost one."""
    least = math.inf
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return least
    mounts = root / "sys/fs/cgroup"
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:  # version 2
            trees = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            trees = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        group = Path(path.lstrip("/"))
        for tree in trees:
            # A container may see the outer path, and its own group mounted as the outermost.
            for part in (group, *group.parents):
                least = min(least, _quota_of(tree / part))
    return least


def _quota_of(group: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()  # "max 100000" where there is none
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        limit = int((group / "cpu.cfs_quota_us").read_text())  # -1 where there is none
        return limit / int((group / "cpu.cfs_period_us").read_text()) if limit > 0 else math.inf
    return math.inf


def _too_few_cores(count: int) -> str:
    """Why ``count`` threads that wait for each other cannot all run at once here; empty where they can."""
    places = _kernels.places() if _kernels else None
    if places is not None:
        if len(places) < count:
            return f"OpenMP's places (OMP_PLACES, OMP_PROC_BIND) have {len(places)} of the {count} cores that it needs"
    elif hasattr(os, "sched_getaffinity") and (cores := len(os.sched_getaffinity(0))) < count:
        return f"this thread may run on {cores} of the {count} cores that it needs"
    if (quota := _quota()) < count:
        return f"a control group gives this process the time of {quota:g} of the {count} cores that it needs"
    return ""


@contextlib.contextmanager
def _same_affinity() -> Iterator[None]:
    """libgomp binds the thread that loads it to the first of its places, if there are any, and all that this thread starts
    inherit that.  Here the thread keeps the cores that it had."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        if os.sched_getaffinity(0) != before:
            os.sched_setaffinity(0, before)


# Loading the extension module


def _wanted() -> bool:
    """Whether ``FASTOPT_LEND_THREADS`` leaves lending on."""
    value = os.environ.get("FASTOPT_LEND_THREADS", "1")
    if value not in ("0", "1"):
        raise ValueError(f"FASTOPT_LEND_THREADS: must be 0 or 1, got {value!r}")
    return value == "1"


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Surrounds the import of the extension module, which loads OpenMP.

    libgomp reads its spin count once, when it is loaded.  Where a BLAS will keep its own threads, or may because places
    are listed that have to be counted, and nobody else has chosen a count or loaded libgomp already, it gets a short one.
    """
    global _spin_count
    loaded = {os.path.basename(controller.filepath) for controller in _controllers()}
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    quarrel = any(
        not blas.uses_openmp and (not _wanted() or blas.obstacle() or _few_places() or _too_few_cores(blas.num_threads))
        for blas in _all_blas()
    )
    with _same_affinity():
        if not quarrel or chosen or any(name.startswith("libgomp.so") for name in loaded):
            yield
            return
        os.environ["GOMP_SPINCOUNT"] = _spin_count = _SPIN_COUNT
        try:
            yield
        finally:
            del os.environ["GOMP_SPINCOUNT"]


def _few_places() -> bool:
    """Whether the environment lists places of its own, or puts all threads on one; read before libgomp can be asked."""
    listed = re.search(r"\d", os.environ.get("OMP_PLACES", "") + os.environ.get("GOMP_CPU_AFFINITY", ""))
    return bool(listed) or os.environ.get("OMP_PROC_BIND", "").strip().lower() in ("master", "primary")


def attach(kernels: Any) -> None:
    """Makes ``kernels`` the extension module whose threads are counted and lent."""
    global _kernels
    _kernels = kernels
    if _wanted():
        kernels.before_first_region(_lend)
    atexit.register(kernels.reclaim)


# Lending


def _forbidden(blas: _Blas) -> str:
    """Why ``blas`` must not borrow the threads in this process; empty where it may."""
    openmp = _kernels.openmp()
    if obstacle := blas.obstacle():
        return obstacle
    if openmp["thread_limit"] < blas.num_threads:
        return f"OMP_THREAD_LIMIT={openmp['thread_limit']} is less than its {blas.num_threads} threads"
    if openmp["dynamic"]:
        return "OMP_DYNAMIC lets OpenMP start fewer threads than it needs"
    if openmp["max_active_levels"] < 1:
        return "OMP_MAX_ACTIVE_LEVELS=0 allows no parallel region"
    if openmp["stranded"]:
        return "this process was forked inside a parallel region"
    most = max(blas.num_threads, min(os.cpu_count() or 1, blas.slots))
    if 2 * most > blas.slots + 1 and len(sys._current_frames()) > 1:
        return f"it has no slots to spare beyond its {most} threads and may be busy in another thread"
    return _too_few_cores(blas.num_threads)


def _lend() -> None:
    for blas in _all_blas():
        if not _forbidden(blas):
            _kernels.lend(blas.install, blas.slots)


def lend_threads() -> None:
    """Lends fastopt's OpenMP threads to every BLAS that is loaded and can use them.

    The first parallel kernel does this by itself.  Call it again for a library that was loaded later (SciPy brings its own
    OpenBLAS), or after :func:`reclaim_threads`.  ``show_config()`` says who has them.

    Example:
        >>> import fastopt as fo
        >>> fo.lend_threads()
    """
    _kernels.forget_first_region()
    _lend()


def reclaim_threads() -> None:
    """Gives every BLAS its own threads back, for the rest of the process or until :func:`lend_threads`.

    The environment variable ``FASTOPT_LEND_THREADS=0`` has the same effect from the start.

    Example:
        >>> import fastopt as fo
        >>> fo.reclaim_threads()
    """
    _kernels.forget_first_region()
    _kernels.reclaim()


# Counting


def _count(function: str, n: int) -> int:
    return whole(function, "n", n, 1, 1025)


def set_num_threads(n: int) -> None:
    """Sets how many threads kernels use, in the whole process.

    It may exceed the number of cores.  A thread that has a limit of its own (:func:`threads`, threadpoolctl) keeps it.
    OpenMP's count is the one that is set, so torch in the same process follows where it uses the same OpenMP; BLAS does not.

    Args:
        n: The number of threads, from 1.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is not in [1, 1024].

    Example:
        >>> import fastopt as fo
        >>> fo.set_num_threads(1)
        >>> fo.get_num_threads()
        1
    """
    _kernels.set_num_threads(_count("set_num_threads", n))


def get_num_threads() -> int:
    """How many threads a kernel called here uses at most: ``OMP_NUM_THREADS``, the cores, or what was set since."""
    return int(_kernels.get_num_threads())


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Sets how many threads kernels use while the context lasts, for the calling thread.

    Args:
        n: The number of threads, from 1.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is not in [1, 1024].

    Example:
        >>> import fastopt as fo
        >>> with fo.threads(1):
        ...     fo.get_num_threads()
        1
    """
    before = _kernels.swap_num_threads(_count("threads", n))
    try:
        yield
    finally:
        _kernels.swap_num_threads(before)


# Showing


class Config(dict[str, Any]):
    """What :func:`show_config` returns: a dict that prints as a table."""

    def __str__(self) -> str:
        blas_row = "{name} {version} ({threading_layer}, {num_threads} threads), {path}\n{sharing}"
        rows = [
            ("fastopt", f"{self['fastopt']}, Python {self['python']}, NumPy {self['numpy']}"),
            ("instructions", f"{self['isa']['chosen']}, of {', '.join(self['isa']['available'])}"),
            ("threads", f"{self['num_threads']} of {self['cpus']} cores"),
            ("OpenMP", "{name} (OpenMP {version}), {path}".format(**self["openmp"])),
            *(("", "also loaded, unused: " + path) for path in self["openmp"]["others"]),
            *(("BLAS", blas_row.format(**blas)) for blas in self["blas"]),
            ("sharing", self["sharing"]),
            *(("environment", f"{name}={value}") for name, value in self["environment"].items()),
        ]
        return "\n".join(f"{name:<14}{text}".replace("\n", "\n" + 14 * " ") for name, text in rows)

    __repr__ = __str__


_VARIABLES = re.compile(r"FASTOPT_\w+|OMP_\w+|GOMP_\w+|KMP_\w+|OPENBLAS_\w+|MKL_\w+")


def _sharing(blas: _Blas) -> str:
    if blas.install and _kernels.borrowed(blas.install):
        return "runs on fastopt's threads"
    if reason := _forbidden(blas):
        return f"keeps its own threads: {reason}"
    if _kernels.pending():
        return "will run on fastopt's threads from the first parallel kernel on"
    return "keeps its own threads, until lend_threads()"


def _summary(all_blas: list[_Blas]) -> str:
    products, helpers = _kernels.lending()
    if any(blas.install and _kernels.borrowed(blas.install) for blas in all_blas):
        return f"one pool: fastopt's threads have run {products} BLAS calls ({helpers} helper threads made)"
    if _kernels.pending():
        return "one pool from the first parallel kernel on; FASTOPT_LEND_THREADS=0 or reclaim_threads() turns it off"
    spin = os.environ.get("GOMP_SPINCOUNT") or _spin_count
    return "apart" + (f": idle OpenMP workers spin {spin} times, then sleep" if spin else "")


def show_config() -> Config:
    """What was detected and what is in force: version, instruction sets, threads, OpenMP, BLAS and how they share, NumPy.

    Returns:
        A dict that prints as a table.  ``blas`` is a list with one dict per library; ``blas[i]["lent"]`` says whether it
        runs on fastopt's threads now, ``blas[i]["sharing"]`` why or why not.

    Example:
        >>> import fastopt as fo
        >>> fo.show_config()["isa"]["chosen"] == fo.isa()
        True
    """
    import numpy

    from . import __version__, _core

    openmp = _kernels.openmp()
    path = os.path.realpath(openmp["path"])
    everyone = [controller.filepath for controller in _controllers() if controller.user_api == "openmp"]
    all_blas = _all_blas()
    return Config(
        fastopt=__version__,
        python=platform.python_version(),
        numpy=numpy.__version__,
        isa={"chosen": _core.isa(), "available": _core.available_isas()},
        num_threads=openmp["num_threads"],
        cpus=os.cpu_count(),
        openmp={
            "name": os.path.basename(path).split(".")[0],
            "version": {201511: "4.5", 201811: "5.0", 202011: "5.1"}.get(openmp["version"], str(openmp["version"])),
            "path": path,
            "spin_count": os.environ.get("GOMP_SPINCOUNT") or _spin_count,
            "others": [other for other in everyone if os.path.realpath(other) != path],
        },
        blas=[
            {
                "name": blas.name,
                "version": blas.version,
                "path": blas.path,
                "threading_layer": blas.threading_layer,
                "num_threads": blas.num_threads,
                "lent": bool(blas.install and _kernels.borrowed(blas.install)),
                "sharing": _sharing(blas),
            }
            for blas in all_blas
        ],
        sharing=_summary(all_blas),
        environment={name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)},
    )
