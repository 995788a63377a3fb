"""Sums in the order of a fixed tree, and gradients in the order of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._check import type_of

Array = NDArray[Any]
Interval = tuple[int, int]
Sum = TypeVar("Sum")


def share(total: int, rank: int, size: int) -> Interval:
    """The part [begin, end) of ``total`` things that rank ``rank`` of ``size`` has; parts differ by at most one."""
    return rank * total // size, (rank + 1) * total // size


def width_of(leaves: int) -> int:
    """The number of leaves of the smallest complete binary tree with at least so many."""
    return 1 << max(leaves - 1, 0).bit_length()


def nodes_within(begin: int, end: int, leaves: int) -> list[Interval]:
    """The fewest nodes of the tree over ``leaves`` leaves that cover [begin, end), from left to right.

    A node is (first leaf, width).  Its width is a power of two, and leaves beyond the last one count as there.
    """
    nodes = []
    end = width_of(leaves) if end == leaves else end
    at = begin
    while at < end:
        width = at & -at or width_of(leaves)
        while at + width > end:
            width //= 2
        nodes.append((at, width))
        at += width
    return [(first, width) for first, width in nodes if first < leaves]


def tree_sum(nodes: Mapping[Interval, Sum], leaves: int, add: Callable[[Sum, Sum], Sum]) -> Sum:
    """The sum of all leaves from the sums of some nodes: each node is its left half plus its right half."""

    def of(first: int, width: int) -> Sum:
        if (first, width) in nodes:
            return nodes[first, width]
        left = of(first, width // 2)
        return left if first + width // 2 >= leaves else add(left, of(first + width // 2, width // 2))

    return of(0, width_of(leaves))


class Partial:
    """The sums of the nodes that a process's leaves complete, added one leaf after the other."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.nodes: list[tuple[Interval, list[Array]]] = []

    def add(self, vectors: list[Array]) -> None:
        """Adds the next leaf: one vector or more, which are kept and overwritten."""
        node = (self.next, 1)
        self.next += 1
        while self.nodes and self.nodes[-1][0] == (node[0] - node[1], node[1]) and node[0] % (2 * node[1]):
            (first, width), left = self.nodes.pop()
            for a, b in zip(left, vectors, strict=True):
                np.add(a, b, out=a)
            node, vectors = (first, 2 * width), left
        self.nodes.append((node, vectors))

    def close(self, leaves: int) -> dict[Interval, list[Array]]:
        """The sums of the nodes that :func:`nodes_within` lists, when the last leaf of this process has been added."""
        if self.next == leaves:
            while len(self.nodes) > 1:
                (first, width), left = self.nodes[-2]
                (begin, _), right = self.nodes[-1]
                if first % (2 * width) or begin != first + width:
                    break
                for a, b in zip(left, right, strict=True):
                    np.add(a, b, out=a)
                self.nodes[-2:] = [((first, 2 * width), left)]
            (first, width), last = self.nodes[-1]
            end = width_of(leaves)
            while first + width < end and first % (2 * width) == 0:
                width *= 2
            self.nodes[-1] = (first, width), last
        return dict(self.nodes)


def leaves_of(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists with their names, such as "layer.bias"."""
    if isinstance(tree, Mapping):
        for key, one in tree.items():
            yield from leaves_of(one, f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for i, one in enumerate(tree):
            yield from leaves_of(one, f"{path}.{i}")
    else:
        yield path.removeprefix("."), tree


def in_order(function: str, grads: Any, names: list[str] | None, count: int) -> list[Any]:
    """Gradients in the order of the parameters, from any structure that an optimizer's ``step`` takes.

    ``names`` are those of the parameters, where these came in dicts.
    """
    if isinstance(grads, np.ndarray | str | bytes) or not isinstance(grads, Iterable):
        raise TypeError(f"{function}: grads must have the structure of params, got {type_of(grads)}")
    given = grads if isinstance(grads, Mapping) else list(grads)
    if names is not None:
        parts = [given] if isinstance(given, Mapping) else given
        if all(isinstance(part, Mapping) for part in parts):
            found = dict(leaf for part in parts for leaf in leaves_of(part))
            if found.keys() != set(names):
                missing = [name for name in names if name not in found]
                unknown = [name for name in found if name not in names]
                raise ValueError(
                    f"{function}: grads must have the names of params; missing {missing}, unknown {unknown}"
                )
            return [found[name] for name in names]
    if isinstance(given, Mapping):
        raise TypeError(f"{function}: grads must be a list like params, got a dict")
    flat = [leaf for _, leaf in leaves_of(given)]
    if len(flat) != count:
        raise ValueError(f"{function}: grads has {len(flat)} entries, expected {count}, one for each parameter")
    return flat


def groups_of(function: str, params: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups with flat lists of parameters and, where they came in dicts, their names; and the groups as they were given."""
    if not isinstance(params, Iterable) or isinstance(params, str | bytes):
        raise TypeError(f"{function}: params must be a list, a dict or groups of arrays, got {type_of(params)}")
    given = params if isinstance(params, Mapping) else [params] if isinstance(params, np.ndarray) else list(params)
    grouped = (
        isinstance(given, list) and bool(given) and all(isinstance(one, Mapping) and "params" in one for one in given)
    )
    of_groups: list[dict[str, Any]] = [dict(one) for one in given] if grouped else [{"params": given}]
    groups = []
    for group in of_groups:
        its = group["params"] if isinstance(group["params"], Mapping) else list(group["params"])
        leaves = list(leaves_of(its))
        for path, param in leaves:
            what = f"{function}: parameter {path!r}"
            if not isinstance(param, np.ndarray):
                raise TypeError(f"{what} must be a numpy array, got {type_of(param)}")
            if not param.flags.c_contiguous or not param.flags.writeable:
                raise TypeError(f"{what} must be C-contiguous and writable, as it is updated in place; give a copy")
        flat = not isinstance(its, Mapping) and not any(isinstance(one, Mapping | list | tuple) for one in its)
        groups.append(
            {"params": [param for _, param in leaves]} | ({} if flat else {"param_names": [path for path, _ in leaves]})
        )
    return groups, of_groups
