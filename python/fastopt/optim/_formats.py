"""The formats of parameters and states: the arrays that each format has, and conversions between formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._core import kernels
from .._rules import Rule

Array: TypeAlias = NDArray[Any]
State: TypeAlias = dict[str, Any]

FORMATS = ("weights", "moments", "moment_rounding")  # the hyperparameters that choose them

# The residual array of a 16-bit parameter, its bits beyond 16, for each value of ``weights`` that has one.
RESTS = {"master": "master_param", "kahan": "compensation", "correction": "correction"}


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is float16 or bfloat16."""
    return dtype.itemsize == 2 and (dtype == np.float16 or dtype.name == "bfloat16")


def computed(param: Array) -> np.dtype[Any]:
    """The dtype in which a parameter's step is computed."""
    return np.dtype(np.float32) if is_half(param.dtype) else param.dtype


def bfloat16() -> np.dtype[Any]:
    """NumPy's dtype from ml_dtypes."""
    import ml_dtypes  # slow to import, and few need it

    new: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return new


def zeros_like(param: Array, dtype: Any = None) -> Array:
    """Zeros in the parameter's shape, by default in the dtype in which its step is computed.

    They have the parameter's offset in a cache line, so that a loop over both can be aligned for both; where the dtypes differ,
    they begin with a cache line.
    """
    new = np.dtype(computed(param) if dtype is None else dtype)
    space = np.zeros(param.size * new.itemsize + 64, np.uint8)
    first = ((param.ctypes.data if new == param.dtype else 0) - space.ctypes.data) % 64
    return space[first : first + param.size * new.itemsize].view(new).reshape(param.shape)


def copy_of(param: Array, like: Array | None = None, dtype: Any = None) -> Array:
    """A copy with the offset in a cache line that ``like`` has, by default that of the array itself."""
    new = zeros_like(param if like is None else like, dtype)
    new[...] = param
    return new


def contiguous(array: Array, dtype: Any = None) -> Array:
    """The array in C order.  Unlike ``np.ascontiguousarray`` it gives no axis to an array without axes."""
    return np.asarray(array, dtype, order="C")


def _rest_in(one: Mapping[str, Any]) -> str | None:
    """The name of the residual array in a parameter's state, if it has one."""
    return next((name for name in RESTS.values() if name in one), None)


def weights_of(one: Mapping[str, Any], param: Array) -> Array:
    """A parameter's weights in the precision in which they are computed, with the residual array."""
    if not is_half(param.dtype):
        return param
    rest: Array | None = one.get(_rest_in(one) or "")
    if rest is not None and rest.dtype == np.float32:
        return rest
    return kernels.unpack_weights(contiguous(param), rest)


def moved(one: Mapping[str, Any], param: Array, weights: Array) -> list[tuple[Array, Any]]:
    """Pairs of an array that holds a parameter's weights, or a part of their bits, and its contents for the new ``weights``."""
    if not is_half(param.dtype):
        return [(param, weights)]
    rest, halves = one.get(_rest_in(one) or ""), np.empty_like(param)
    more = None if rest is None or rest.dtype == np.float32 else np.empty_like(rest)
    kernels.pack_weights(contiguous(weights, np.float32), halves, more)
    return [(param, halves)] + ([] if rest is None else [(rest, weights if more is None else more)])


def rest_dtype(name: str, param: Array) -> np.dtype[Any]:
    """The dtype of the residual array ``name`` of a parameter."""
    known: dict[str, np.dtype[Any]] = {"master_param": np.dtype(np.float32), "correction": np.dtype(np.int8)}
    return known.get(name, param.dtype)


def formats_of(rule: Rule, param: Array) -> tuple[str, str, str]:
    """The rule's formats for one parameter: that of weights is empty unless the parameter has 16 bits."""
    weights, *moments = rule.formats
    return (weights if is_half(param.dtype) else "", moments[0], moments[1])


def rest_of(rule: Rule, param: Array) -> str | None:
    """The name of the residual array that the parameter has under a rule, if any."""
    return RESTS.get(rule.formats[0]) if is_half(param.dtype) else None


def _dtype(kind: str, moments: str, param: Array) -> np.dtype[Any]:
    if kind == "exact" or not moments:
        return computed(param)
    return np.dtype(np.uint8) if moments == "8bit" else bfloat16()


def numbers_of(one: Mapping[str, Array], name: str, kind: str) -> Array:
    """A state in the dtype in which it is computed."""
    array = one[name]
    if is_half(array.dtype):  # of any kind: a loaded state may have what is kept exactly in 16 bits
        return kernels.unpack(contiguous(array), "moment", None)
    if array.dtype == np.uint8:
        return kernels.unpack(contiguous(array), kind, one.get(f"{name}_scale"))
    return array


def keep_state(
    one: State, name: str, kinds: tuple[str, str], moments: str, param: Array, initial: Callable[[], Array]
) -> None:
    """Converts a state to the format ``moments``; a state that does not exist yet gets its initial values.

    ``kinds`` are the kind that it has and the one that it had when it was packed.
    """
    kind, before = kinds
    dtype = _dtype(kind, moments, param)
    if name in one and one[name].dtype == dtype:
        return
    if dtype == computed(param):
        new = numbers_of(one, name, before) if name in one else initial()
        one[name] = copy_of(new, param, dtype) if name in one and new.shape == param.shape else new
        one.pop(f"{name}_scale", None)
        return
    # Allocate the arrays that stay before the temporary ones: malloc would keep the holes between arrays of less than 32 MB.
    packed = zeros_like(param, dtype)
    scale = np.zeros(-(-param.size // kernels.SHARE), np.uint8) if dtype == np.uint8 else None
    array = numbers_of(one, name, before) if name in one else initial()
    if array.any():
        kernels.pack(contiguous(array, np.float32), kind, packed, scale)
    one[name] = packed
    one.pop(f"{name}_scale", None)
    if scale is not None:
        one[f"{name}_scale"] = scale


def keep_rest(one: State, wanted: str | None, param: Array) -> None:
    """Adds, removes or converts the residual array of a 16-bit parameter, so that its state has ``wanted`` and no other."""
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
    if wanted == "compensation":  # relative to the parameter as it is, which another format may have rounded
        one[wanted][...] = weights - param.astype(np.float32)
    else:
        bits = weights.view(np.int32) + 0x80 >> 8
        one[wanted][...] = np.clip(bits - (param.view(np.int16).astype(np.int32) << 8), -128, 127)


def stored_dtypes(name: str, kinds: Mapping[str, str], param: Array) -> list[np.dtype[Any]]:
    """The dtypes that a state may have when it is loaded."""
    if computed(param) != np.float32:
        return [computed(param)]
    codes = [np.dtype(np.uint8)] if kinds.get(name, "exact") != "exact" else []
    return [np.dtype(np.float32), np.dtype(np.float16), bfloat16(), *codes]
