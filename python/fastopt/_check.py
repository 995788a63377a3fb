"""Checks of arguments, and the texts of their errors: one dialect for the whole package.

Every text begins with the function or class that was called, and names the argument, what it must be, and what it was.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np


@lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """The dtype's name, which NumPy puts together in Python each time: 2 to 5 µs."""
    return str(dtype.name)


def real(function: str, name: str, value: Any) -> float:
    """A real number, finite or not, from a number of Python's or NumPy's or from an array or tensor without axes.

    Bools and strings are errors.
    """
    if type(value) is float:
        return value
    try:
        if type(value) is int:
            return float(value)
        scalar = _scalar(value)
        if isinstance(scalar, str | bytes) or not (hasattr(scalar, "__float__") or hasattr(scalar, "__index__")):
            raise TypeError
        return float(scalar)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function}: {name} must be a number, got {value!r}") from None


def number(
    function: str,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    infinite: bool = False,
) -> float:
    """A finite real number in [low, high]; ``above`` excludes ``low`` itself, and ``below`` excludes ``high``.

    With ``infinite`` it may be infinite too.
    """
    number = real(function, name, value)
    inside = (number > low if above else number >= low) and (number < high if below else number <= high)
    if inside and (infinite or math.isfinite(number)):
        return number
    least, most = (">" if above else ">="), ("<" if below else "<=")
    if infinite and math.isinf(high):
        constraint = f"{least} {low:g}"
    elif math.isinf(low) and math.isinf(high):
        constraint = "finite"
    elif math.isinf(high):
        constraint = f"finite and {least} {low:g}"
    elif math.isinf(low):
        constraint = f"finite and {most} {high:g}"
    else:
        constraint = f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    raise ValueError(f"{function}: {name} must be {constraint}, got {value}")


def whole(function: str, name: str, value: Any, low: int = 0, high: int = 1 << 53) -> int:
    """An integer in [low, high), by default one that a float64 holds exactly; from NumPy's integers and tensors too, not from bools."""
    try:
        integer = operator.index(_scalar(value))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function}: {name} must be an integer, got {value!r}") from None
    if not low <= integer < high:
        limit = f"2**{high.bit_length() - 1}" if high & (high - 1) == 0 else str(high)
        raise ValueError(f"{function}: {name} must be in [{low}, {limit}), got {value}")
    return integer


def flag(function: str, name: str, value: Any) -> bool:
    """A bool, from one of Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{function}: {name} must be a bool, got {value!r}")
    return bool(value)


def choice(function: str, name: str, value: Any, choices: Iterable[str]) -> str:
    """One of the strings in ``choices``."""
    if not isinstance(value, str):
        raise TypeError(f"{function}: {name} must be a string, got {value!r}")
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{function}: {name} must be {', '.join(others)} or {last}, got {value!r}")
    return value


def type_of(value: object) -> str:
    """The name of an argument's type for errors."""
    return "None" if value is None else type(value).__name__


def not_an_array(value: object) -> str:
    """The end of an error about an argument that is no array: its type, and how to get an array from a tensor."""
    if callable(getattr(value, "numpy", None)):
        if getattr(value, "requires_grad", False) is True:
            return type_of(value) + (
                ": give its .detach().numpy(), which shares its memory; for a model of torch there is fastopt.torch"
            )
        return type_of(value) + ": give its .numpy(), which shares its memory"
    if callable(getattr(value, "backward", None)) and isinstance(getattr(value, "params", None), dict):
        return type_of(value) + ", a layer: give its .params"
    return type_of(value)


def not_contiguous(what: str) -> TypeError:
    """The error about an array that is written and is not C-contiguous; the bindings say the same."""
    return TypeError(
        f"{what} must be C-contiguous; make a copy with numpy.ascontiguousarray(…), and use the copy from then on"
    )


def not_aligned(what: str) -> TypeError:
    """The error about an array that a kernel cannot read or write; the bindings say the same."""
    return TypeError(
        f"{what} is not aligned: its elements do not lie at multiples of their size; give numpy.require(array, requirements='CA')"
    )


def _scalar(value: Any) -> Any:
    """The number in a NumPy scalar or in an array or tensor without axes; raises TypeError for a bool, a masked array or several values."""
    if getattr(value, "ndim", 0) or isinstance(value, np.ma.MaskedArray):
        raise TypeError
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):  # the item() of a time may be an int
        raise TypeError
    scalar = value.item() if hasattr(value, "item") else value
    if isinstance(scalar, bool | np.bool_):
        raise TypeError
    return scalar
