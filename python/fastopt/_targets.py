"""Checks of arrays that are to be overwritten with others, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Target: TypeAlias = tuple[str, Array, str]  # its name in errors, the array, and the name of its new contents


def checked(targets: list[Target], sources: Mapping[str, Array]) -> list[Target]:
    """The targets, each array once; raises if a target cannot hold its new contents, or if targets share memory and their contents do not.

    Arrays that were one when they were saved must be one again: otherwise a tied weight would become two, or two one.

    Raises:
        TypeError: A target has another dtype, or is read-only.
        ValueError: A target has another shape, or shares memory otherwise.
    """
    by_memory: dict[Any, Target] = {}
    by_name: dict[str, tuple[str, Any]] = {}
    for label, array, name in targets:
        source = sources[name]
        if array.shape != source.shape:
            raise ValueError(f"load: {label} has shape {array.shape}, and in the file {source.shape}")
        if array.dtype.newbyteorder("=") != source.dtype:
            raise TypeError(f"load: {label} has dtype {array.dtype}, and in the file {source.dtype}")
        if not array.flags.writeable:
            raise TypeError(f"load: {label} is read-only, but would be written; give a copy")
        memory = memory_of(array)
        other, _, its_name = by_memory.setdefault(memory, (label, array, name))
        if its_name != name:
            raise ValueError(f"load: {label} and {other} are one array, and in the file they are two")
        other, its_memory = by_name.setdefault(name, (label, memory))
        if array.size and its_memory != memory:
            raise ValueError(f"load: {label} and {other} are two arrays, and in the file they are one")
    different = [*by_memory.values()]
    _expect_agreement(different, sources)
    return different


def memory_of(array: Array) -> Any:
    """Equal for two arrays with the same elements in the same memory; for an empty array, which has none, equal to nothing."""
    return (address(array), array.shape, array.strides, array.dtype) if array.size else object()


def address(array: Array) -> int:
    first: int = array.__array_interface__["data"][0]
    return first


def _expect_agreement(targets: list[Target], sources: Mapping[str, Array]) -> None:
    """Raises if targets overlap, such as views of one buffer, and would not all have their contents in the end."""
    bounds = [(*np.lib.array_utils.byte_bounds(array), i) for i, (_, array, _) in enumerate(targets) if array.size]
    cluster: list[int] = []
    low = high = 0
    for begin, end, i in [*sorted(bounds), (1 << 64, 1 << 64, -1)]:
        if cluster and begin < high:
            cluster.append(i)
            high = max(high, end)
            continue
        if len(cluster) > 1:
            _try([targets[k] for k in cluster], sources, low, high)
        cluster, low, high = [i], begin, end


def _try(targets: list[Target], sources: Mapping[str, Array], low: int, high: int) -> None:
    """Writes all contents to other memory in the same places, and looks whether they are all there."""
    room = np.empty(high - low, np.uint8)
    copies = [
        np.ndarray(array.shape, array.dtype, room.data, address(array) - low, array.strides) for _, array, _ in targets
    ]
    for copy, (_, _, name) in zip(copies, targets, strict=True):
        copy[...] = sources[name]
    for copy, (label, array, name) in zip(copies, targets, strict=True):
        if copy.astype(sources[name].dtype).tobytes() != sources[name].tobytes():
            others = [other for other, its, _ in targets if its is not array and np.may_share_memory(its, array)]
            raise ValueError(
                f"load: {label} shares memory with {' and '.join(others)}, and their contents in the file differ"
            )
