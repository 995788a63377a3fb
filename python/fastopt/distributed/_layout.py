"""Where the elements of parameters lie in the vectors that processes exchange.

The parameters of one dtype form a vector, the last parameter first, because backward passes have its gradient first.  The vector
is cut into buckets, which are exchanged one after the other, and each bucket into one piece for each rank:

    parameters   |    w3    |  b3 |        w2        | …
    buckets      |          0          |          1          | …
    pieces       |  0  |  1  |  2  | 3 |  0  |  1  |  2  | 3 |
"""

from __future__ import annotations

from typing import NamedTuple

ALIGNMENT = 64  # elements: parameters and pieces begin at multiples, as blocks of 8-bit moments do


class Segment(NamedTuple):
    """Elements [begin, end) of a parameter, which lie at ``at`` in a bucket."""

    param: int
    begin: int
    end: int
    at: int


class Bucket(NamedTuple):
    """Elements [first, first + ranks·piece) of a vector."""

    first: int
    piece: int
    segments: list[Segment]


class Layout:
    """The vector of the parameters with these numbers and sizes.

    Args:
        params: The parameters' numbers, in their order.
        sizes: Their numbers of elements.
        ranks: The number of pieces of a bucket.
        capacity: The number of elements of a bucket, which is rounded up to whole blocks of each rank.
    """

    def __init__(self, params: list[int], sizes: list[int], ranks: int, capacity: int) -> None:
        self.ranks = ranks
        self.at: dict[int, int] = {}
        end = 0
        for param, size in zip(reversed(params), reversed(sizes), strict=True):
            self.at[param] = end
            end += -(-size // ALIGNMENT) * ALIGNMENT
        unit = ranks * ALIGNMENT
        full = max(-(-capacity // unit), 1) * unit
        size_of = dict(zip(params, sizes, strict=True))
        self.buckets: list[Bucket] = []
        for first in range(0, end, full):
            some = -(-min(full, end - first) // unit) * unit
            segments = [
                Segment(param, max(first - at, 0), min(first + some - at, size_of[param]), max(at - first, 0))
                for param, at in self.at.items()
                if at < first + some and at + size_of[param] > first
            ]
            self.buckets.append(Bucket(first, some // ranks, segments))
        self.size = sum(ranks * bucket.piece for bucket in self.buckets)

    def shard(self, rank: int) -> list[list[Segment]]:
        """For each bucket, the segments of rank ``rank``'s piece; ``at`` counts from the beginning of the piece."""
        shards = []
        for bucket in self.buckets:
            begin, end = rank * bucket.piece, (rank + 1) * bucket.piece
            own = []
            for param, first, last, at in bucket.segments:
                low, high = max(begin, at), min(end, at + last - first)
                if low < high:
                    own.append(Segment(param, first + low - at, first + high - at, low - begin))
            shards.append(own)
        return shards
