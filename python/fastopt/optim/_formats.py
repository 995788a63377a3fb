"""How parameters and states are kept: which arrays there are for them, and how one way becomes another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._core import kernels
from .._rules import Rule

Array: TypeAlias = NDArray[Any]
State: TypeAlias = dict[str, Any]

FORMATS = ("weights", "moments", "moment_rounding")  # the hyperparameters

# What there is beside a parameter of 16 bits, by the way its weights are kept.
RESTS = {"master": "master_param", "kahan": "compensation", "correction": "correction"}


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16 or bfloat16."""
    return dtype == np.float16 or dtype.name == "bfloat16"


def computed(param: Array) -> np.dtype[Any]:
    """The dtype in which a parameter is computed with."""
    return np.dtype(np.float32) if is_half(param.dtype) else param.dtype


def bfloat16() -> np.dtype[Any]:
    """NumPy's dtype from ml_dtypes."""
    import ml_dtypes  # which takes its time, and only those wait who need it

    new: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return new


def zeros_like(param: Array, dtype: Any = None) -> Array:
    """Zeros that begin as far into a cache line as the parameter does, so that whole vectors of both can begin with one.

    Of the dtype that the parameter is computed with, unless another one is said; if that is not its own they begin with a line.
    """
    new = np.dtype(computed(param) if dtype is None else dtype)
    space = np.zeros(param.size * new.itemsize + 64, np.uint8)
    first = ((param.ctypes.data if new == param.dtype else 0) - space.ctypes.data) % 64
    return space[first : first + param.size * new.itemsize].view(new).reshape(param.shape)


def copy_of(param: Array, like: Array | None = None, dtype: Any = None) -> Array:
    """A copy that begins as far into a cache line as ``like`` does, by default the array itself."""
    new = zeros_like(param if like is None else like, dtype)
    new[...] = param
    return new


def contiguous(array: Array, dtype: Any = None) -> Array:
    """The array in C order; one without axes keeps none, where ``np.ascontiguousarray`` gives it one."""
    return np.asarray(array, dtype, order="C")


def _rest_in(one: Mapping[str, Any]) -> str | None:
    """The name of what there is beside a parameter in its state."""
    return next((name for name in RESTS.values() if name in one), None)


def weights_of(one: Mapping[str, Any], param: Array) -> Array:
    """A parameter's numbers with what there is beside them."""
    if not is_half(param.dtype):
        return param
    rest: Array | None = one.get(_rest_in(one) or "")
    if rest is not None and rest.dtype == np.float32:
        return rest
    return kernels.unpack_weights(contiguous(param), rest)


def moved(one: Mapping[str, Any], param: Array, weights: Array) -> list[tuple[Array, Any]]:
    """The arrays that hold a parameter's numbers, and what they hold when these are others."""
    if not is_half(param.dtype):
        return [(param, weights)]
    rest, halves = one.get(_rest_in(one) or ""), np.empty_like(param)
    more = None if rest is None or rest.dtype == np.float32 else np.empty_like(rest)
    kernels.pack_weights(contiguous(weights, np.float32), halves, more)
    return [(param, halves)] + ([] if rest is None else [(rest, weights if more is None else more)])


def rest_dtype(name: str, param: Array) -> np.dtype[Any]:
    """The dtype of what there is beside a parameter."""
    known: dict[str, np.dtype[Any]] = {"master_param": np.dtype(np.float32), "correction": np.dtype(np.int8)}
    return known.get(name, param.dtype)


def formats_of(rule: Rule, param: Array) -> tuple[str, str, str]:
    """The rule's formats, as they are for one parameter."""
    weights, *moments = rule.formats
    return (weights if is_half(param.dtype) else "", moments[0], moments[1])


def rest_of(rule: Rule, param: Array) -> str | None:
    """The name of what there is beside the parameter."""
    return RESTS.get(rule.formats[0]) if is_half(param.dtype) else None


def _dtype(kind: str, moments: str, param: Array) -> np.dtype[Any]:
    if kind == "exact" or not moments:
        return computed(param)
    return np.dtype(np.uint8) if moments == "8bit" else bfloat16()


def numbers_of(one: Mapping[str, Array], name: str, kind: str) -> Array:
    """A state as it is computed with."""
    array = one[name]
    if array.dtype == np.uint8 or is_half(array.dtype):
        return kernels.unpack(contiguous(array), kind, one.get(f"{name}_scale"))
    return array


def keep_state(one: State, name: str, kind: str, moments: str, param: Array, initial: Callable[[], Array]) -> None:
    """Makes a state be kept as it should: out of what there is, or where there is none, of its initial values."""
    dtype = _dtype(kind, moments, param)
    if name in one and one[name].dtype == dtype:
        return
    if dtype == computed(param):
        new = numbers_of(one, name, kind) if name in one else initial()
        one[name] = copy_of(new, param, dtype) if name in one and new.shape == param.shape else new
        one.pop(f"{name}_scale", None)
        return
    # What stays comes before what is freed: between arrays of less than 32 MB malloc would keep the holes.
    packed = zeros_like(param, dtype)
    scale = np.zeros(-(-param.size // kernels.SHARE), np.uint8) if dtype == np.uint8 else None
    array = numbers_of(one, name, kind) if name in one else initial()
    if array.any():
        kernels.pack(contiguous(array, np.float32), kind, packed, scale)
    one[name] = packed
    one.pop(f"{name}_scale", None)
    if scale is not None:
        one[f"{name}_scale"] = scale


def keep_rest(one: State, wanted: str | None, param: Array) -> None:
    """Makes there be what should be beside a parameter of 16 bits: out of what there is, or of the parameter."""
    found = _rest_in(one)
    if found == wanted:
        return
    old = None if found is None else one.pop(found)
    if wanted is None:
        return
    if old is None:
        one[wanted] = (
            copy_of(param, param, np.float32)
            if wanted == "master_param"
            else zeros_like(param, rest_dtype(wanted, param))
        )
        return
    weights = weights_of({str(found): old}, param)
    if wanted == "master_param":
        one[wanted] = copy_of(weights, param, np.float32)
        return
    one[wanted] = zeros_like(param, rest_dtype(wanted, param))
    if wanted == "compensation":  # of the parameter as it is, which may have been rounded otherwise
        one[wanted][...] = weights - param.astype(np.float32)
    else:
        bits = weights.view(np.int32) + 0x80 >> 8
        one[wanted][...] = np.clip(bits - (param.view(np.int16).astype(np.int32) << 8), -128, 127)


def stored_dtypes(name: str, kinds: Mapping[str, str], param: Array) -> list[np.dtype[Any]]:
    """The dtypes from which a state may be loaded."""
    if computed(param) != np.float32:
        return [computed(param)]
    codes = [np.dtype(np.uint8)] if kinds.get(name, "exact") != "exact" else []
    return [np.dtype(np.float32), np.dtype(np.float16), bfloat16(), *codes]
