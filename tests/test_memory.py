"""Memory that is kept: results of functions, NumPy's arrays, malloc."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import signal
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name
from tools import Array, Each

import fastopt as fo
from fastopt import _core
from fastopt import functional as F

KERNELS = _core.kernels
MIB = 1 << 20
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def cache() -> Iterator[None]:
    """The cache is empty, and has its usual limit also under AddressSanitizer, where it is off otherwise."""
    before = KERNELS.cache_limit()
    fo.release_memory()
    fo.set_cache_limit(256 * MIB)
    yield
    fo.set_cache_limit(before)
    fo.release_memory()
    assert not KERNELS.are_arrays_cached()


def numbers(*shape: int, dtype: str = "float32") -> Array:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def results(x: Array) -> list[Array]:
    """Of several functions, of rows and of channels in both layouts."""
    last = x.reshape(-1, 8, 8, 16).transpose(0, 3, 1, 2)
    y, mean, rstd = F.layer_norm(x, x.shape[-1])
    return [
        y,
        F.layer_norm_backward(x, x, x.shape[-1], mean, rstd)[0],
        F.batch_norm(last, None, None, training=True)[0],
        F.batch_norm(x.reshape(-1, 16, 8, 8), None, None, training=True)[0],
        F.dropout(last, 0.5, seed=1, step=0),
        F.dropout(x.T, 0.5, seed=1, step=0),
    ]


# Results


def test_large_results_come_from_the_cache(each: Each) -> None:
    """They are like any other array, and have the bits that they have elsewhere."""
    for dtype in each(DTYPES):
        x = numbers(512, 1024, dtype=dtype)
        fo.set_cache_limit(0)
        expected = results(x)
        assert {get_handler_name(one) for one in expected} == {"default_allocator"}
        fo.set_cache_limit(256 * MIB)
        for _ in range(2):  # fresh blocks, and such that are dirty
            found = results(x)
            for one, other in zip(found, expected, strict=True):
                assert get_handler_name(one) == "fastopt"
                assert one.flags.owndata and one.flags.writeable and one.flags.aligned and one.base is None
                assert (one.dtype, one.shape, one.strides) == (other.dtype, other.shape, other.strides)
                assert one.tobytes() == other.tobytes()
                assert sys.getsizeof(one) == sys.getsizeof(other)
            assert found[2].strides != found[3].strides  # channels are innermost
            del one, found


@pytest.mark.parametrize("activation", [None, "relu"])
def test_so_do_results_of_products(activation: Any) -> None:
    x, weight, bias = numbers(512, 300), numbers(400, 300), numbers(400)
    y, saved = F.linear(x, weight, bias, activation)
    results = [y, *F.linear_backward(y, x, weight, saved, activation)[:2]]
    filters = numbers(16, 16, 3, 3)
    planes, innermost = numbers(2, 16, 64, 64), numbers(2, 64, 64, 16).transpose(0, 3, 1, 2)  # channels
    for images in planes, innermost:
        z = F.conv2d(images, filters, padding=1)
        results += [z, F.conv2d_backward(z, images, filters, padding=1)[0]]
    for one in results:
        assert get_handler_name(one if one.base is None else one.base) == "fastopt"
    before = {address(one) for one in results}
    del one, results, y, saved, z
    assert address(F.linear(x, weight, bias, activation)[0]) in before


def test_small_and_empty_results_do_not() -> None:
    for shape in (0, 16), (3, 0), (1, 16), (100, 16):
        y = F.layer_norm(np.ones(shape, np.float32), shape[-1])[0]
        assert get_handler_name(y) == "default_allocator"
        assert y.flags.owndata and y.flags.writeable
    assert KERNELS.cached_bytes() == 0


def address(array: Array) -> int:
    return int(array.ctypes.data)


def test_freed_memory_is_taken_again() -> None:
    x = numbers(512, 1024)
    y = F.dropout(x, 0.5, seed=1, step=0)
    before = address(y)
    assert before % 64 == 0
    del y
    assert 2 * MIB <= KERNELS.cached_bytes() < 2.3 * MIB
    y = F.dropout(x[:500], 0.5, seed=1, step=0)  # somewhat smaller
    assert address(y) == before and KERNELS.cached_bytes() == 0
    del y
    y = F.dropout(x[:400], 0.5, seed=1, step=0)  # too small for so large a block
    assert address(y) != before and KERNELS.cached_bytes() >= 2 * MIB
    del y
    assert fo.release_memory() >= 3.5 * MIB
    assert KERNELS.cached_bytes() == 0


def test_what_is_taken_is_nobody_elses() -> None:
    """However blocks come and go."""
    rng, alive = np.random.default_rng(0), list[tuple[Array, float]]()
    source = np.ones(2 * MIB, np.float32)
    for number in range(600):
        y = F.dropout(source[: rng.integers(30_000, 500_000)], 0.0, seed=0, step=0)
        y[...] = number
        alive.append((y, number))
        if len(alive) > 20:
            y, was = alive.pop(int(rng.integers(len(alive))))
            assert y.min() == y.max() == was
    assert all(y.min() == y.max() == was for y, was in alive)


def test_the_limit_holds(each: Each) -> None:
    x = np.ones(3 * MIB, np.float32)
    for limit in each((0, MIB, 5 * MIB, 64 * MIB)):
        fo.set_cache_limit(limit)
        held = [F.dropout(x[: MIB + 200_000 * i], 0.5, seed=1, step=0) for i in range(10)]
        newest = address(held[-1])
        while held:
            del held[0]
            assert KERNELS.cached_bytes() <= limit
        if limit == 64 * MIB:
            assert KERNELS.cached_bytes() > 40 * MIB  # the oldest have left
            assert address(F.dropout(x[: MIB + 1_800_000], 0.5, seed=1, step=0)) == newest
    fo.set_cache_limit(6 * MIB)
    assert KERNELS.cached_bytes() <= 6 * MIB


def test_the_number_of_blocks_is_limited() -> None:
    x = np.ones(40_000, np.float32)
    held = [F.dropout(x, 0.5, seed=1, step=0) for _ in range(600)]
    held.clear()
    assert KERNELS.cached_bytes() <= 512 * 180_000


def test_tracemalloc_sees_results() -> None:
    x = np.ones(MIB, np.float32)
    F.dropout(x, 0.5, seed=1, step=0)
    tracemalloc.start()
    try:
        y = F.dropout(x, 0.5, seed=1, step=0)
        assert 4 * MIB <= tracemalloc.get_traced_memory()[0] < 4.5 * MIB
        del y
        assert tracemalloc.get_traced_memory()[0] < MIB
    finally:
        tracemalloc.stop()


# Handlers of others


class Foreign:
    """A memory handler of another library: NumPy's own functions under another name."""

    def __init__(self) -> None:
        capsule = np._core.multiarray._ARRAY_API  # type: ignore[attr-defined]
        api = ctypes.pythonapi
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        api.PyCapsule_New.restype = ctypes.py_object
        api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        table = ctypes.cast(api.PyCapsule_GetPointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))
        self.set: Callable[[object], object] = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
        own = ctypes.cast(table[306], ctypes.POINTER(ctypes.py_object))[0]
        self.struct = ctypes.create_string_buffer(ctypes.string_at(api.PyCapsule_GetPointer(own, b"mem_handler"), 168))
        self.struct[:8] = b"foreign\0"
        self.capsule = api.PyCapsule_New(ctypes.addressof(self.struct), b"mem_handler", None)

    def __enter__(self) -> None:
        self.before = self.set(self.capsule)

    def __exit__(self, *error: object) -> None:
        self.set(self.before)


FOREIGN: list[Foreign] = []  # which arrays may outlive a test


def test_a_foreign_handler_stays() -> None:
    FOREIGN.append(Foreign())
    with FOREIGN[-1]:
        assert get_handler_name(F.dropout(np.ones(MIB, np.float32), 0.5, seed=1, step=0)) == "foreign"
        with fo.reuse_memory() as reuse:
            assert not reuse.arrays
            assert get_handler_name(np.ones(MIB)) == "foreign"
        assert get_handler_name(np.ones(MIB)) == "foreign"
    assert get_handler_name(np.ones(MIB)) == "default_allocator"


# NumPy's arrays


def test_arrays_come_from_the_cache_in_the_context() -> None:
    before = np.ones(MIB)
    with fo.reuse_memory() as reuse:
        assert reuse.arrays
        inside, small, twice = np.ones(MIB), np.ones(3), np.ones(MIB)
        with fo.reuse_memory() as again:
            assert again.arrays
        assert get_handler_name(np.ones(MIB)) == "fastopt"  # the inner one has not ended it
        reuse.undo()
        assert get_handler_name(np.ones(MIB)) == "default_allocator"
    assert [get_handler_name(one) for one in (before, inside, small)] == ["default_allocator", "fastopt", "fastopt"]
    where = address(twice)
    del twice
    with fo.reuse_memory():
        twice = np.full(MIB, 2.0)
    assert address(twice) == where  # arrays give their memory back to the handler that they were made with
    assert inside.sum() == MIB and twice.sum() == 2 * MIB and small.sum() == 3

    with fo.reuse_memory(arrays=False) as without:
        assert not without.arrays
        assert get_handler_name(np.ones(MIB)) == "default_allocator"


def test_arrays_of_any_size_are_kept() -> None:
    """malloc keeps none of 32 MiB and more."""
    with fo.reuse_memory():
        for size in 32 * MIB, 100 * MIB:
            x = np.empty(size, np.uint8)
            where = address(x)
            del x
            x = np.empty(size, np.uint8)
            assert address(x) == where
            del x


def test_zeros_are_zero_in_dirty_blocks() -> None:
    with fo.reuse_memory():
        for size in 100, 10_000, MIB, 9 * MIB:
            dirty = np.full(size, 255, np.uint8)
            where = address(dirty)
            del dirty
            clean = np.zeros(size, np.uint8)
            assert not clean.any()
            assert address(clean) == where or size < MIB
            del clean
            assert not np.zeros((size // 10, 10), np.uint8).any()


def test_arrays_can_be_resized() -> None:
    with fo.reuse_memory():
        sizes = (10, 200_000, 100, 5_000_000, 4_000_000, 1_000, 0, 300_000)
        x = np.arange(sizes[0])
        for before, after in itertools.pairwise(sizes):
            x.resize(after, refcheck=False)
            kept = min(before, after)
            assert (x[:kept] == np.arange(kept)).all() and not x[kept:].any()
            x = np.arange(after)
            x.resize(after, refcheck=False)
        del x
        assert np.zeros((0, 300_000)).size == 0  # NumPy may allocate for one axis and free for another


def test_undoing_restores_once() -> None:
    reuse = fo.reuse_memory()
    assert "arrays=True" in repr(reuse)
    assert fo.show_config()["memory"] == {
        "cache_limit": 256 * MIB,
        "cached": KERNELS.cached_bytes(),
        "malloc": reuse.malloc,
        "arrays": True,
    }
    assert "NumPy's arrays" in str(fo.show_config())
    reuse.undo()
    with fo.reuse_memory():
        reuse.undo()
        assert get_handler_name(np.ones(MIB)) == "fastopt"
    assert not fo.show_config()["memory"]["arrays"] and not fo.show_config()["memory"]["malloc"]


def test_one_reuse_begins_while_another_one_ends() -> None:
    """malloc keeps large blocks as long as one of them lasts."""
    state, calls = {"maps": True}, []

    def set_malloc(maps: bool, kept: int) -> bool:
        calls.append(maps)
        time.sleep(0.002)  # so that the other thread goes on
        state["maps"] = maps
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KERNELS, "set_malloc", set_malloc)
        for pause in (0, 0.001, 0.002, 0.003):
            first = fo.reuse_memory(arrays=False)
            thread = threading.Thread(target=first.undo)
            thread.start()
            time.sleep(pause)
            with fo.reuse_memory(arrays=False):
                thread.join()
                assert not state["maps"]
            assert state["maps"]
    assert calls


def test_uses_end_in_any_order() -> None:
    first, second = fo.reuse_memory(), fo.reuse_memory()
    first.undo()
    assert second.arrays and is_served()
    third = fo.reuse_memory()
    second.undo()
    assert is_served()
    third.undo()
    assert not is_served()


def test_a_use_ends_in_its_thread() -> None:
    reuse, errors = fo.reuse_memory(), list[BaseException]()

    def undo() -> None:
        try:
            reuse.undo()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=undo)
    thread.start()
    thread.join()
    assert "another thread or task" in str(errors)
    assert is_served() and fo.show_config()["memory"]["malloc"] == reuse.malloc

    async def in_a_task() -> None:
        undo()

    asyncio.run(in_a_task())  # which has a copy of this context
    assert len(errors) == 2 and is_served()
    reuse.undo()
    assert not is_served()
    other = fo.reuse_memory(arrays=False)
    thread = threading.Thread(target=other.undo)  # malloc is the whole process's
    thread.start()
    thread.join()
    assert not fo.show_config()["memory"]["malloc"]


def is_served() -> bool:
    return bool(fo.show_config()["memory"]["arrays"])


def test_a_cache_that_is_off_serves_no_arrays() -> None:
    fo.set_cache_limit(0)
    with fo.reuse_memory() as reuse:
        assert not reuse.arrays
        assert get_handler_name(np.ones(MIB)) == "default_allocator"


# Arguments


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"reuse_memory: arrays must be a bool, got 1"):
        fo.reuse_memory(arrays=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"set_cache_limit: bytes must be an integer, got 1\.5"):
        fo.set_cache_limit(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set_cache_limit: bytes must be in"):
        fo.set_cache_limit(-1)
    assert KERNELS.cache_limit() == 256 * MIB


# Threads and forks


def make(seed: int) -> Array:
    return F.dropout(np.full(40_000 + 5_000 * (seed % 9), seed, np.float32), 0.0, seed=0, step=0)


def hammer(seed: int, times: int, passed: list[Any]) -> None:
    """Makes arrays, and checks those that others have made before they are freed here."""
    with fo.reuse_memory(arrays=seed % 2 == 0):
        for _ in range(times):
            y = make(seed)
            z = np.full(50_000, seed, np.float32)
            passed.append((seed, y))
            was, other = passed.pop(0)
            assert other.min() == other.max() == was
            assert z.min() == z.max() == y.min() == y.max() == seed


def test_eight_threads_at_once() -> None:
    passed: list[Any] = [(99, make(99)) for _ in range(8)]
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            hammer(seed, 300, passed)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(y.min() == y.max() == was for was, y in passed)
    assert KERNELS.cached_bytes() <= 256 * MIB


def test_forks_in_the_middle() -> None:
    """A child has a cache that works, whatever its parent's threads were doing."""
    passed: list[Any] = [(99, make(99)) for _ in range(8)]
    stop = threading.Event()

    def work(seed: int) -> None:
        while not stop.is_set():
            hammer(seed, 20, passed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    statuses = []
    try:
        for _ in range(20):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: that is the test
                child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(60)
                    hammer(7, 20, [(7, make(7))])
                    fo.release_memory()
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitpid(child, 0)[1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 20
