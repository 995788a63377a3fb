"""Mini-batches of examples, split over processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._check import flag, whole
from ._processes import checked
from ._tree import share

Indices = NDArray[np.int64]


class Sampler:
    """The indices of each mini-batch that belong to this process; all processes together have the whole batch.

    The order of the examples follows from ``seed`` and the epoch only: the batches are the same on any number of ranks.  Each
    iteration, even one that is broken off, is an epoch: ``epoch`` is the number of the next one, and may be set.

    Args:
        count: The number of examples.
        batch_size: The number of examples of a whole batch, over all ranks.
        comm: The communicator.
        replacement: Whether each batch is drawn anew from all examples, which may come more than once; otherwise each epoch
            goes once through them in a new order.
        shuffle: Whether that order is a new one; otherwise it is that of the examples.
        drop_last: Whether a last batch of fewer examples is left out.
        chunks: For :class:`DistributedOptimizer` with as many ``chunks``: batches come as lists of pairs, a chunk's number and its
            indices.
        seed: The seed of the order.

    Raises:
        TypeError: An argument has the wrong type, or ``comm`` is no communicator.
        ValueError: An argument is out of range.

    Example:
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> sampler = distributed.Sampler(5, 2, MPI.COMM_SELF, shuffle=False)
        >>> [batch.tolist() for batch in sampler], len(sampler), sampler.epoch
        ([[0, 1], [2, 3], [4]], 3, 1)
        >>> next(iter(distributed.Sampler(4, 4, MPI.COMM_SELF, shuffle=False, chunks=2)))
        [(0, array([0, 1])), (1, array([2, 3]))]
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        comm: Any,
        *,
        replacement: bool = False,
        shuffle: bool = True,
        drop_last: bool = False,
        chunks: int | None = None,
        seed: int = 0,
    ) -> None:
        self.rank, self.size = checked("Sampler", comm)
        self.count = whole("Sampler", "count", count, 1)
        self.batch_size = whole("Sampler", "batch_size", batch_size, 1)
        self.replacement, self.shuffle = (
            flag("Sampler", "replacement", replacement),
            flag("Sampler", "shuffle", shuffle),
        )
        if self.replacement and not self.shuffle:
            raise ValueError("Sampler: replacement draws at random, which shuffle=False excludes")
        self.drop_last = flag("Sampler", "drop_last", drop_last)
        self.chunks = None if chunks is None else whole("Sampler", "chunks", chunks, 1)
        if self.chunks is not None and self.chunks < self.size:
            raise ValueError(f"Sampler: chunks must be at least {self.size}, the number of ranks, got {chunks}")
        self.seed = whole("Sampler", "seed", seed)
        self.epoch = 0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole_ones, rest = divmod(self.count, self.batch_size)
        return whole_ones + (rest != 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, whole("Sampler", "epoch", self.epoch)]))
        self.epoch += 1
        order = rng.permutation(self.count) if self.shuffle and not self.replacement else np.arange(self.count)
        for i in range(len(self)):
            if self.replacement:
                size = min(self.batch_size, self.count - i * self.batch_size)
                batch = rng.integers(0, self.count, size)
            else:
                batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield self._own(batch.astype(np.int64))

    def _own(self, batch: Indices) -> Any:
        if self.chunks is None:
            begin, end = share(len(batch), self.rank, self.size)
            return batch[begin:end]
        parts = []
        for chunk in range(*share(self.chunks, self.rank, self.size)):
            begin, end = share(len(batch), chunk, self.chunks)
            parts.append((chunk, batch[begin:end]))
        return parts
