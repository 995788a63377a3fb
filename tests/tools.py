"""Tools to compare results, and to choose instruction sets and memory for them."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from tables import Place

from fastopt import _core, optim
from fastopt.cli import main

Array = NDArray[Any]
Each: TypeAlias = Callable[..., Iterator[Any]]  # the fixture of conftest.py


NIGHTLY = bool(os.environ.get("FASTOPT_NIGHTLY"))  # run all cases of the tests that have many similar ones


def program(path: Path) -> ModuleType:
    """The module that a program outside of the package is."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line prints to stderr about mistaken arguments."""
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def differing(a: Array, b: Array) -> int:
    """The number of elements that have different bits; NaN equals NaN."""
    assert a.dtype == b.dtype and a.shape == b.shape
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns
        return int(a.size - np.count_nonzero(same | ((a != a) & (b != b))))


def assert_same_bits(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert actual.keys() == expected.keys()
    assert {name: n for name in expected if (n := differing(actual[name], expected[name]))} == {}


@contextlib.contextmanager
def using(isa: str) -> Iterator[None]:
    """Runs everything on the kernels for another instruction set."""
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
    """Copies arrays to ``by`` elements after a cache line's start, each one ``apart`` elements further than the
    previous one.
    """
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


# Optimizers


def copies(some: Sequence[Array]) -> list[Array]:
    return [one.copy() for one in some]


def leaves(tree: Any) -> list[Array]:
    """All arrays in dicts and lists."""
    if isinstance(tree, np.ndarray):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]


def everything(opt: optim.Optimizer, averages: bool = True) -> dict[str, Any]:
    """The whole of an optimizer, as bytes and values that can be compared.

    Reading ``averages`` adopts changes of groups, and raises if these are wrong; the averages are in the state, too.
    """
    groups, sums = [], opt._accumulated
    for group in opt.param_groups:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
        groups.append({key: copy.deepcopy(value) for key, value in values.items() if key != "params"})
    return {
        "params": [np.asarray(param).tobytes() for group in opt.param_groups for param in group["params"]],
        "state": [
            {key: (array.dtype.str, array.shape, array.tobytes()) for key, array in one.items()} for one in opt.state
        ],
        "averages": [array.tobytes() for array in leaves(opt.ema_params)] if averages else [],
        "groups": groups,
        "extra": (int(opt._count), bool(opt._swapped), bool(sums and sums.micro_batches), opt._extra()),
    }


def bits(some: Any) -> list[bytes]:
    return [np.asarray(one).tobytes() for one in some]


def assert_close(some: Any, others: Any, rtol: float = 1e-12) -> None:
    some, others = leaves(some), leaves(others)
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.shape == other.shape
        bound = rtol * np.max(np.abs(other), initial=1.0)
        assert np.max(np.abs(one - other), initial=0) <= bound
