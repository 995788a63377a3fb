"""One pool of threads: how many kernels use, and which BLAS borrows them (``docs/threads.md``)."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from ._blas import Blas, all_blas
from ._check import whole
from ._core import kernels as _kernels
from ._core import lends_threads
from ._cores import too_few_cores

# Lending


def forbidden(blas: Blas) -> str:
    """The reason why ``blas`` must not borrow the threads in this process; empty where it may."""
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
    return too_few_cores(blas.num_threads, _kernels.places())


def _lend() -> None:
    for blas in all_blas():
        if not forbidden(blas):
            _kernels.lend(blas.install, blas.slots)


def lend_threads() -> None:
    """Lends fastopt's OpenMP threads to every BLAS that is loaded and can use them.

    The first parallel kernel does this by itself.  Call it again after a library was loaded (SciPy brings its own OpenBLAS), or
    after :func:`reclaim_threads`.  ``show_config()`` says which libraries have borrowed them.

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

    The number may exceed that of the cores.  A thread that has a limit of its own (:func:`threads`, threadpoolctl) keeps it.
    The function sets OpenMP's count: torch in the same process follows if it uses the same OpenMP; BLAS does not.

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
    """The largest number of threads that a kernel called here uses: ``OMP_NUM_THREADS``, the number of cores, or a later setting."""
    return int(_kernels.get_num_threads())


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """A context in which kernels that the calling thread starts use ``n`` threads.

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


if lends_threads():
    _kernels.before_first_region(_lend)
atexit.register(_kernels.reclaim)
