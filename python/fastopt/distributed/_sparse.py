"""Gradients of few rows, from all processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import SparseRows
from ._exchange import Channel
from ._processes import bytes_of

Array = NDArray[Any]


def gather_rows(channel: Channel, mine: Any, param: Array, weight: float) -> SparseRows | None:
    """The rows of all ranks, one rank after the other, times their weights; ``None`` if no rank has any."""
    given = mine if isinstance(mine, SparseRows) and weight else None
    computed = np.float64 if param.dtype == np.float64 else np.float32
    width = int(np.prod(param.shape[1:]))
    own = np.array([-1 if given is None else len(given.indices), bool(given is not None and given.exact)], np.int64)
    counts = np.empty((channel.size, 2), np.int64)
    channel.comm.Allgather(own, counts)
    channel.collectives += 1
    if (counts[:, 0] < 0).all():
        return None
    rows = np.maximum(counts[:, 0], 0)
    begins = np.concatenate([[0], np.cumsum(rows)[:-1]])
    indices, values = np.empty(int(rows.sum()), np.int64), np.empty((int(rows.sum()), *param.shape[1:]), computed)
    some = 0 if given is None else len(given.indices)
    of_own = np.zeros((some, *param.shape[1:]), computed)
    if given is not None:
        np.multiply(given.values, weight, out=of_own, dtype=of_own.dtype, casting="unsafe")
    its_indices = np.zeros(0, np.int64) if given is None else np.ascontiguousarray(given.indices, np.int64)
    channel.bytes_sent += (its_indices.nbytes + of_own.nbytes) * (channel.size - 1)
    channel.collectives += 2
    channel.comm.Allgatherv(its_indices, [indices, (rows.tolist(), begins.tolist())])
    size = width * of_own.itemsize
    channel.comm.Allgatherv(bytes_of(of_own), [bytes_of(values), ((rows * size).tolist(), (begins * size).tolist())])
    return SparseRows(indices, values, exact=bool(counts[:, 1].any()))
