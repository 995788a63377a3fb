"""Memory that stays with the process: fastopt's cache of freed blocks, NumPy's handler and glibc's thresholds (``docs/memory.md``)."""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from types import TracebackType

from numpy._core import multiarray

from ._check import flag, whole
from ._core import kernels as _kernels

_MIB = 1 << 20
# Free memory at the end of its heap that malloc keeps: with a reuse, and after the last one.
_KEPT, _USUAL = 1024 * _MIB, 32 * _MIB

_active: set[MemoryReuse] = set()
_lock = threading.Lock()  # for it and what it stands for
# Those for which NumPy's arrays come from the cache in this thread or task, as NumPy's handler is a context variable too.
_of_arrays: ContextVar[frozenset[MemoryReuse]] = ContextVar("_of_arrays", default=frozenset())


def _unlock() -> None:
    """In a forked child: a thread that held the lock does not exist here."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


class MemoryReuse:
    """What :func:`reuse_memory` has set; a context that undoes it.

    Attributes:
        malloc: Whether glibc's malloc keeps large blocks; ``False`` where malloc is another one, which is left as it is.
        arrays: Whether new NumPy arrays come from fastopt's cache; ``False`` if that was not wanted, where the cache is switched
            off, and where another handler is in force, which stays.
    """

    def __init__(self, arrays: bool) -> None:
        with _lock:
            self.malloc = bool(_kernels.set_malloc(maps=False, kept=_KEPT))
            _active.add(self)
        self.arrays = arrays and _kernels.cache_limit() > 0
        if self.arrays:
            _kernels.cache_arrays(True)
            self.arrays = _kernels.are_arrays_cached()
        if self.arrays:
            self._token = _of_arrays.set(_of_arrays.get() | {self})

    def undo(self) -> None:
        """Ends the reuse, as the end of the context does: once, and in the thread or task that began it.

        Free memory goes back to the system when the last one ends, but for what lies at the end of the heaps that glibc has for further
        threads, up to 64 MiB each.  glibc's thresholds are then 32 MiB for the rest of the
        process: they would otherwise have moved between 128 KiB and that by themselves, which cannot be switched on again.
        Arrays keep the handler that they were made with.

        Raises:
            RuntimeError: It began in another thread or task, and NumPy's arrays are part of it.  Nothing has been undone then.
        """
        with _lock:
            if self not in _active:
                return
            others = _of_arrays.get() - {self}
            if self.arrays:
                try:
                    _of_arrays.reset(self._token)  # which only the thread or task can that has it
                except ValueError:
                    raise RuntimeError(
                        "MemoryReuse: undo was called in another thread or task than reuse_memory, whose NumPy arrays it cannot "
                        "change; call it there, or use a with block"
                    ) from None
            _active.remove(self)
            last = not _active
            if last:
                _kernels.set_malloc(maps=True, kept=_USUAL)
        if self.arrays:
            _of_arrays.set(others)
            if not others:
                _kernels.cache_arrays(False)
        if last:
            release_memory()

    def __enter__(self) -> MemoryReuse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(malloc={self.malloc}, arrays={self.arrays})"


def reuse_memory(*, arrays: bool = True) -> MemoryReuse:
    """Lets the process keep large blocks of memory that were freed, for the next array or tensor of that size.

    Otherwise a large block goes back to the system when it is freed, and the next one is page faults again: in NumPy's
    temporaries, torch's tensors, whatever takes memory from malloc.  Two things are set:

    - glibc's malloc keeps all blocks in its heap, in the whole process, and up to 1 GiB of free memory at the end of it.
      Where malloc is another one (musl, macOS, jemalloc), nothing is set.
    - With ``arrays`` NumPy takes arrays of 128 KiB and more from fastopt's cache of freed blocks, whose limit is the only one
      (:func:`set_cache_limit`).  This holds for the thread or asyncio task that calls it (a NumPy handler is a context variable).

    The cost: resident memory stays near the most that the process ever had, and grows beyond it where sizes change all the time, until
    :func:`release_memory` is called.  ``docs/memory.md`` says where this helps.

    Args:
        arrays: Whether NumPy's arrays come from the cache too.

    Returns:
        What has been set, which is also a context: ``with fo.reuse_memory(): ...`` undoes it at the end.

    Raises:
        TypeError: ``arrays`` is not a bool.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> with fo.reuse_memory() as reuse:
        ...     total = sum(np.ones(1 << 20).sum() for _ in range(10))  # takes memory from the system once
        >>> reuse.arrays, int(total)
        (True, 10485760)
    """
    return MemoryReuse(flag("reuse_memory", "arrays", arrays))


def release_memory() -> int:
    """Gives memory that is free back to the system: fastopt's cache, and what glibc's malloc keeps, but at the end of further threads' heaps.

    Returns:
        How many bytes the cache had.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> y = fo.functional.dropout(np.ones(1 << 20, np.float32), 0.5, seed=0, step=0)
        >>> del y
        >>> fo.release_memory() >= 4 << 20
        True
    """
    freed = int(_kernels.release_blocks())
    _kernels.trim_malloc()
    return freed


def set_cache_limit(bytes: int) -> None:
    """Sets how many bytes of freed blocks fastopt keeps, in the whole process: 256 MiB, unless ``FASTOPT_CACHE_LIMIT`` says another number.

    Results that fastopt makes (those without ``out=``), and with :func:`reuse_memory` all of NumPy's arrays, come from these
    blocks if they have 128 KiB or more.  Where there is too much, the oldest blocks go back to malloc.

    Args:
        bytes: The number of bytes; 0 switches the cache off.

    Raises:
        TypeError: ``bytes`` is not an integer.
        ValueError: ``bytes`` is negative.

    Example:
        >>> import fastopt as fo
        >>> fo.set_cache_limit(64 << 20)
        >>> fo.show_config()["memory"]["cache_limit"] >> 20
        64
        >>> fo.set_cache_limit(256 << 20)
    """
    _kernels.set_cache_limit(whole("set_cache_limit", "bytes", bytes))


def describe() -> dict[str, int | bool]:
    """What is in force, for ``show_config``."""
    return {
        "cache_limit": _kernels.cache_limit(),
        "cached": _kernels.cached_bytes(),
        "malloc": any(one.malloc for one in _active),
        "arrays": _kernels.are_arrays_cached(),
    }


def obey_environment() -> None:
    """Takes over ``FASTOPT_CACHE_LIMIT``, and whether NumPy asks for huge pages."""
    limit = os.environ.get("FASTOPT_CACHE_LIMIT", "")
    if limit:
        if not limit.isdecimal() or int(limit) >= 1 << 53:
            raise ValueError(f"FASTOPT_CACHE_LIMIT: must be a number of bytes below 2**53, got {limit!r}")
        _kernels.set_cache_limit(int(limit))
    _kernels.ask_for_huge_pages(bool(getattr(multiarray, "_get_madvise_hugepage", lambda: True)()))


obey_environment()
