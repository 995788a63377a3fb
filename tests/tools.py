"""How results are compared, and under which circumstances they are made."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from tables import Place

from fastopt import _core

Array = NDArray[Any]
Some: TypeAlias = Callable[[Iterable[Any], int], list[Any]]  # the fixture


def differing(a: Array, b: Array) -> int:
    """How many elements have other bits; NaN equals NaN."""
    assert a.dtype == b.dtype and a.shape == b.shape
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)
    with np.errstate(invalid="ignore"):  # of ml_dtypes
        return int(a.size - np.count_nonzero(same | ((a != a) & (b != b))))


def assert_same_bits(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert actual.keys() == expected.keys()
    assert {name: n for name in expected if (n := differing(actual[name], expected[name]))} == {}


@contextlib.contextmanager
def using(isa: str) -> Iterator[None]:
    """Everything runs on the kernels for another instruction set."""
    kernels = _core.load(isa)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if (
                name.startswith("fastopt.")
                and isinstance(vars(module).get("kernels"), ModuleType)
                and module is not _core
            ):
                patch.setattr(module, "kernels", kernels)
        yield


def every_isa() -> Iterator[str]:
    """Runs the body of a loop on every instruction set that this processor has."""
    for isa in _core.available_isas():
        with using(isa):
            yield isa


def shifted(by: int, apart: int = 0) -> Place:
    """Copies arrays to ``by`` elements behind a cache line, each one ``apart`` elements further than the one before."""
    number = count()

    def place(x: Array) -> Array:
        shift = (by + apart * next(number)) % 16
        order = np.argsort([-stride for stride in x.strides], kind="stable")  # memory order, outermost axis first
        room = np.empty(x.size * x.itemsize + 64 + 16 * x.itemsize, np.uint8)
        begin = -room.ctypes.data % 64 + shift * x.itemsize
        dense = room[begin : begin + x.size * x.itemsize].view(x.dtype).reshape([x.shape[axis] for axis in order])
        moved: Array = dense.transpose(np.argsort(order))
        moved[...] = x
        return moved

    return place
