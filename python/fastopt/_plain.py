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
    """
    arrays: list[tuple[list[str | int], NDArray[Any]]] = []
    return _apart(function, label, value, [], arrays), arrays


def _apart(function: str, label: str, value: Any, path: list[str | int], arrays: list[Any]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append((path, value))
        return None
    if isinstance(value, np.bool_ | np.integer | np.floating):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{function}: {label} must have strings as keys, got {key!r}")
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
