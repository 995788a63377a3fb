"""Sums in the order of a fixed tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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
