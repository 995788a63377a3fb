"""What all processes of a job do alike: check that they agree, share cores, average numbers, and end together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .. import get_num_threads, set_num_threads
from .._check import type_of, whole
from ..optim.parameters import Record
from ..optim.plan import unbegun

Array = NDArray[Any]
Result = TypeVar("Result")
NEEDED = ("Get_rank", "Get_size", "Allgather", "Allgatherv", "Iallgather", "Ialltoall", "Ialltoallv", "Bcast")


def checked(function: str, comm: Any) -> tuple[int, int]:
    """The rank and size of a communicator; raises if it is none."""
    missing = [name for name in NEEDED if not callable(getattr(comm, name, None))]
    if missing:
        raise TypeError(
            f"{function}: comm must be a communicator like mpi4py's MPI.COMM_WORLD, got {type_of(comm)}, which has no {missing[0]}"
        )
    return int(comm.Get_rank()), int(comm.Get_size())


def bytes_of(array: Array) -> Array:
    """The bytes of a C-contiguous array, as a view."""
    return array.reshape(-1).view(np.uint8)


def gather_bytes(comm: Any, given: bytes) -> list[bytes]:
    """What each rank has given, in their order."""
    sizes = np.empty(comm.Get_size(), np.int64)
    comm.Allgather(np.array([len(given)], np.int64), sizes)
    all_of_them = np.empty(int(sizes.sum()), np.uint8)
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    comm.Allgatherv(np.frombuffer(given, np.uint8), [all_of_them, (sizes.tolist(), begins.tolist())])
    return [all_of_them[begin : begin + size].tobytes() for begin, size in zip(begins, sizes, strict=True)]


def digest_of(record: Record, own: tuple[str, ...]) -> str:
    """A short text that differs where a parameter's state does; empty if nothing in it has begun."""
    state = record.state
    if "step" not in state or (state["step"] == 0 and unbegun(record, own) is None):
        return ""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + bytes_of(np.ascontiguousarray(state[key])).tobytes())
    return f"{int(state['step'])} steps, digest {digest.hexdigest()[:8]}"


def text_of(groups: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """The hyperparameters of groups, for comparison."""
    return [
        (f"{key} of param_groups[{i}]", json.dumps(value, default=str))
        for i, group in enumerate(groups)
        for key, value in group.items()
        if key not in ("params", "param_names")
    ]


def expect_same(function: str, comm: Any, facts: Sequence[tuple[str, Any]]) -> None:
    """Raises on all ranks, and names the first fact that differs, unless all of them have the same."""
    text = json.dumps([[name, str(value)] for name, value in facts])
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = np.empty((comm.Get_size(), own.size), np.uint8)
    comm.Allgather(own, digests)
    if (digests == digests[0]).all():
        return
    every = [json.loads(one) for one in gather_bytes(comm, text.encode())]
    for rank, theirs in enumerate(every):
        for mine, other in zip(every[0], theirs, strict=False):
            if mine != other:
                raise ValueError(
                    f"{function}: ranks differ: {mine[0]} is {mine[1]} on rank 0, but "
                    f"{other[0] + ' is ' if other[0] != mine[0] else ''}{other[1]} on rank {rank}"
                )
        if len(theirs) != len(every[0]):
            raise ValueError(f"{function}: ranks differ: rank 0 has {len(every[0])} entries, rank {rank} {len(theirs)}")


def together(function: str, comm: Any, work: Callable[[], Result], kind: type[Exception] = ValueError) -> Result:
    """Does something on all ranks; if it fails on one of them, that one raises its error, and the others one of this kind."""
    error, result = None, None
    try:
        result = work()
    except Exception as its:
        error = its
    told = gather_bytes(comm, b"" if error is None else f"{type(error).__name__}: {error}".encode())
    if error is not None:
        raise error
    for rank, text in enumerate(told):
        if text:
            raise kind(f"{function}: rank {rank} has failed: {text.decode()}")
    return result  # type: ignore[return-value]


def mean(values: Any, weights: Any = 1.0, *, comm: Any) -> float:
    """The weighted mean of numbers, such as losses, over all ranks; the same on all of them.

    .. code-block:: text

        Σ w·v / Σ w   over the ranks' numbers, one after the other, in float64

    With one number for each chunk of a batch it does not depend on the number of ranks.

    Args:
        values: One number or several.
        weights: One weight for all of them or one for each, at least 0, such as the number of examples.
        comm: The communicator.

    Returns:
        The mean; NaN if all weights are 0.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: There are not as many weights as values, or one is negative.

    Example:
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> distributed.mean([1.0, 4.0], [2, 1], comm=MPI.COMM_SELF)
        2.0
    """
    checked("mean", comm)
    own = np.atleast_1d(np.asarray(values, np.float64)).reshape(-1)
    of_own = np.asarray(weights, np.float64)
    if of_own.ndim and of_own.size != own.size:
        raise ValueError(f"mean: weights has {of_own.size} entries, expected {own.size}, one for each value")
    if (of_own < 0).any():
        raise ValueError(f"mean: weights must be >= 0, got {weights}")
    pairs = np.stack([own, np.broadcast_to(of_own.reshape(-1) if of_own.ndim else of_own, own.shape)], 1)
    total = weight = 0.0
    for part in gather_bytes(comm, np.ascontiguousarray(pairs).tobytes()):
        for value, its_weight in np.frombuffer(part, np.float64).reshape(-1, 2).tolist():
            if its_weight:
                total += its_weight * value
                weight += its_weight
    return total / weight if weight else float("nan")


def share_cores(comm: Any, threads: int | None = None) -> int:
    """Gives this process its share of the cores of its machine, so that ranks × threads = cores.

    Call it once, before the first step.  Where the environment sets OMP_NUM_THREADS, that number stays.

    Args:
        comm: The communicator of all processes.
        threads: The number of threads of this process, if it is not to be its share.

    Returns:
        The number of threads of this process, for kernels and for the BLAS that is loaded.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``threads`` is out of range.

    Example:
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> distributed.share_cores(MPI.COMM_SELF, threads=1)
        1
    """
    checked("share_cores", comm)
    if threads is not None:
        count = whole("share_cores", "threads", threads, 1)
    elif os.environ.get("OMP_NUM_THREADS", "").strip():
        return get_num_threads()
    else:
        own = os.sched_getaffinity(0)  # a launcher may have bound each process to cores of its own
        told = gather_bytes(comm, json.dumps([_machine(), sorted(own)]).encode())
        here = [set(cores) for machine, cores in map(json.loads, told) if machine == _machine()]
        count = max(len(own) // sum(not own.isdisjoint(cores) for cores in here), 1)
    set_num_threads(count)
    with contextlib.suppress(UnicodeError):  # it cannot read the path of some library here
        threadpool_limits(count, user_api="blas")
    return count


def _machine() -> str:
    """A name of this machine."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return os.uname().nodename


def _abort(comm: Any, code: int) -> None:
    """Ends the job, after the launcher has had the time to pass on what was printed."""
    sys.stderr.flush()
    time.sleep(0.3)
    comm.Abort(code)


def abort_unhandled(comm: Any) -> None:
    """From now on, an error that nobody catches, in any thread, ends the whole job: the others would wait for this rank for ever."""
    if comm.Get_size() == 1 or not callable(getattr(comm, "Abort", None)) or getattr(sys.excepthook, "aborts", False):
        return
    before = sys.excepthook

    def excepthook(*error: Any) -> None:
        try:
            sys.stdout.flush()
            print(f"rank {comm.Get_rank()} of {comm.Get_size()} has failed, and ends the job:", file=sys.stderr)
            before(*error)
        finally:
            _abort(comm, 1)

    def of_thread(error: threading.ExceptHookArgs) -> None:
        if error.exc_type is not SystemExit:
            excepthook(error.exc_type, error.exc_value, error.exc_traceback)

    excepthook.aborts = True  # type: ignore[attr-defined]
    sys.excepthook, threading.excepthook = excepthook, of_thread


@contextlib.contextmanager
def abort_on_error(comm: Any) -> Iterator[None]:
    """Ends the whole job, with the traceback, if this process raises within the block.

    Otherwise the other processes would wait for this one, in an exchange or at the end of the program, for ever.  An optimizer
    of this module does the same with errors that reach the end of the program; this block also takes those before it is made,
    and ``sys.exit``.

    Args:
        comm: The communicator of all processes.

    Raises:
        TypeError: ``comm`` is no communicator.

    Example:
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> with distributed.abort_on_error(MPI.COMM_WORLD):
        ...     pass  # the training
    """
    rank, size = checked("abort_on_error", comm)
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if size == 1 or code in (None, 0):
            raise
        sys.stdout.flush()
        print(f"rank {rank} of {size} has failed, and ends the job:", file=sys.stderr)
        traceback.print_exc()
        _abort(comm, code if isinstance(code, int) else 1)
        raise
