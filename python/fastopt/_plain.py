"""Values that JSON has, with arrays in them: taken apart for a file, and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def apart(function: str, label: str, value: Any) -> tuple[Any, list[tuple[list[str | int], NDArray[Any]]]]:
    """A value without its arrays, and the arrays with their places: lists of keys and indices.

    NumPy's numbers become Python's, which have the same value, and tuples lists.

    Args:
        function: The caller's name for errors.
        label: The value's name for errors.
        value: Dicts with strings as keys, lists and tuples of numbers, bools, strings, ``None`` and arrays.

    Raises:
        TypeError: Something else is in it.
        ValueError: It is nested too deep, or a string or an integer is none that a file of JSON can hold.
    """
    arrays: list[tuple[list[str | int], NDArray[Any]]] = []
    return _apart(function, label, value, [], arrays), arrays


_DEEPEST = 100  # lists and dicts in one another
_MOST_BITS = 14_000  # of an integer; Python reads and writes about 4,300 decimal digits


def expect_text(function: str, what: str, value: str) -> None:
    """Raises ValueError if a string cannot be written in UTF-8, as half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{function}: {what} must be text that UTF-8 can hold, got {value!a}") from None


def _apart(function: str, label: str, value: Any, path: list[str | int], arrays: list[Any]) -> Any:
    if len(path) > _DEEPEST:
        raise ValueError(f"{function}: {label.partition('[')[0]} is nested more than {_DEEPEST} deep, or holds itself")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{function}: {label} is a masked array, whose mask would be lost; give its filled()")
    if isinstance(value, np.ndarray):
        arrays.append((path, value))
        return None
    if isinstance(value, np.bool_ | np.integer | np.floating) and not isinstance(value, np.timedelta64):
        value = value.item()
    if isinstance(value, str):
        expect_text(function, label, value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"{function}: {label} must be an integer of at most {_MOST_BITS} bits; give it as a string")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{function}: {label} must have strings as keys, got {key!r}")
            expect_text(function, f"a key of {label}", key)
        return {key: _apart(function, f"{label}[{key!r}]", one, [*path, key], arrays) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_apart(function, f"{label}[{i}]", one, [*path, i], arrays) for i, one in enumerate(value)]
    raise TypeError(
        f"{function}: {label} must be a number, string, bool, list, dict, array or None, got {type(value).__name__}"
    )


def together(value: Any, arrays: Iterator[tuple[list[str | int], NDArray[Any]]]) -> Any:
    """The value of which :func:`apart` has made these parts."""
    for path, array in arrays:
        if not path:
            return array
        *outer, last = path
        inner = value
        for key in outer:
            inner = inner[key]
        inner[last] = array
    return value


def alike(a: Any, b: Any) -> bool:
    """Whether two values of this kind are equal, arrays to the last bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(one, b[key]) for key, one in a.items())
    return bool(a == b)
