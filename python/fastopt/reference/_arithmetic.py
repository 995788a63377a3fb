"""The arithmetic of the kernels: IEEE 754, one operation after the other, with subnormal numbers as zero."""

from __future__ import annotations

from typing import Any

import numpy as np

_SCALE = 2.0**64  # an exact factor that lifts numbers close to the subnormal range out of it


def _flush(x: Any) -> Any:
    """x with signed zeros in place of subnormal numbers."""
    if not isinstance(x, np.ndarray | np.generic) or x.dtype.kind != "f":
        return x
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


class Flushed(np.ndarray[Any, Any]):
    """An array whose arithmetic takes subnormal numbers as zero, as operands and as results.

    Processors do the same when they flush to zero: a result counts as subnormal if it still is after rounding to full
    precision. NumPy's result alone does not tell in one case, which the multiplication by a power of two decides.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> Any:
        operands = [_flush(np.asarray(x) if isinstance(x, np.ndarray) else x) for x in inputs]
        with np.errstate(all="ignore"):
            result = _flush(ufunc(*operands))
            if ufunc in (np.multiply, np.divide):
                scale = result.dtype.type(_SCALE)
                lifted = ufunc(operands[0] * scale, operands[1])
                result = np.where(
                    np.abs(lifted) < np.finfo(result.dtype).tiny * scale,
                    np.copysign(result.dtype.type(0), result),
                    result,
                )
        return np.asarray(result).view(Flushed)

    def to(self, dtype: Any) -> Any:
        """x rounded to the nearest numbers of another type."""
        x, scale = _flush(np.asarray(self)), self.dtype.type(_SCALE)
        with np.errstate(all="ignore"):
            small = np.abs((x * scale).astype(dtype)) < np.finfo(dtype).tiny * np.dtype(dtype).type(_SCALE)
            near = x.astype(dtype)
        return np.where(small, np.copysign(np.dtype(dtype).type(0), near), near).view(Flushed)


def flushed(x: Any) -> Any:
    """A view of x with the kernels' arithmetic."""
    return np.asarray(x).view(Flushed)
