"""Array types of the normalizations, and checks of arguments for functions that call no kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._check import name_of, not_aligned, not_an_array, not_contiguous, whole

__all__ = ["Array", "Statistics", "array_of", "has_columns", "memory_order", "results_of", "two_of"]

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
    aligned: bool = False,
    way_out: Callable[[], str] = str,
    why: str = "",
) -> Array:
    """The argument, if it is an array with this shape and one of these dtypes; raises an error otherwise.

    It is returned as a plain array, as operations of subclasses may mean something else (``np.matrix``).
    ``way_out`` returns the advice at the end of an error about the dtype, and ``why`` is the end of one about the shape.
    """
    if type(array) is not np.ndarray:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{function}: {name} must be a numpy array, got {not_an_array(array)}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{function}: {name} is a masked array, whose mask would be ignored: pass {name}.filled(...)"
            )
    if name_of(array.dtype) not in dtypes or not array.dtype.isnative:
        expected = " or ".join(filter(None, (", ".join(dtypes[:-1]), dtypes[-1])))
        raise TypeError(f"{function}: {name} has dtype {array.dtype}, expected {expected}{way_out()}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{function}: {name} has shape {array.shape}, expected {shape}{why and ', ' + why}")
    if contiguous and not array.flags.c_contiguous:
        raise not_contiguous(f"{function}: {name}")
    if (contiguous or aligned) and not array.flags.aligned:
        raise not_aligned(f"{function}: {name}")
    return array if type(array) is np.ndarray else array.view(np.ndarray)


def results_of(function: str, out: Any, count: int) -> tuple[Any, ...]:
    """The arrays in ``out`` for the results, ``None`` for those that are new."""
    if out is None:
        return (None,) * count
    if not isinstance(out, tuple) or len(out) != count:
        raise TypeError(f"{function}: out must be a tuple of {count}, with None for new results")
    return out


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes in the order of memory, outermost first, in which dropout counts elements; in their own order if elements share memory."""
    axes = range(array.ndim)
    shared = any(array.strides[axis] == 0 and array.shape[axis] > 1 for axis in axes)
    return tuple(axes if shared else sorted(axes, key=lambda axis: -abs(array.strides[axis])))


def two_of(function: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """An integer for both axes of images, or one for each."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{function}: {name} must be an integer or two of them, got {value!r}")
        first, second = (whole(function, name, one, least, 1 << 30) for one in value)
        return first, second
    both = whole(function, name, value, least, 1 << 30)
    return both, both


def has_columns(x: Array, axis: int) -> bool:
    """Whether the channels of images, on this axis of four, are innermost in memory; those of one pixel are if they are the last axis."""
    channels, pixels = x.shape[axis], math.prod(x.shape[1:])
    return axis == 3 or (channels > 1 and x.strides[axis] == x.itemsize and pixels != channels)
