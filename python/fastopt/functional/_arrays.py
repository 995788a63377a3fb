"""What the normalizations' modules call arrays, and the checks of those that need no kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._check import not_an_array

__all__ = ["Array", "Statistics", "array_of", "memory_order", "results_of"]

Array: TypeAlias = NDArray[Any]
Statistics: TypeAlias = NDArray[np.float64]

FLOATS = ("float32", "float64", "float16", "bfloat16")


def array_of(
    function: str,
    name: str,
    array: Any,
    shape: tuple[int, ...] | None = None,
    dtypes: Sequence[str] = FLOATS,
    *,
    contiguous: bool = False,
    way_out: Callable[[], str] = str,
    why: str = "",
) -> Array:
    """The array, if it is one of the shape and of one of the dtypes.

    Errors say what helps against another dtype, which ``way_out`` returns, and why the shape is expected.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{function}: {name} must be a numpy array, got {not_an_array(array)}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{function}: {name} is a masked array, whose mask would be ignored: pass {name}.filled(...)")
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        expected = " or ".join(filter(None, (", ".join(dtypes[:-1]), dtypes[-1])))
        raise TypeError(f"{function}: {name} has dtype {array.dtype}, expected {expected}{way_out()}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{function}: {name} has shape {array.shape}, expected {shape}{why and ', ' + why}")
    if contiguous and not array.flags.c_contiguous:
        raise TypeError(f"{function}: {name} must be C-contiguous; give numpy.ascontiguousarray(…)")
    return array


def results_of(function: str, out: Any, count: int) -> tuple[Any, ...]:
    """What ``out`` gives for the results."""
    if out is None:
        return (None,) * count
    if not isinstance(out, tuple) or len(out) != count:
        raise TypeError(f"{function}: out must be a tuple of {count}, with None for results that are wanted new")
    return out


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes as memory has them, outermost first, in which dropout counts elements; as they are numbered if elements share memory."""
    axes = range(array.ndim)
    shared = any(array.strides[axis] == 0 and array.shape[axis] > 1 for axis in axes)
    return tuple(axes if shared else sorted(axes, key=lambda axis: -abs(array.strides[axis])))
