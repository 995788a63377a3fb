"""Embeddings in NumPy, with the bits of the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._norm import into, numbers, stored


def embedding(indices: Any, weight: Any, padding_idx: Any = None, *, out: Any = None) -> Any:
    """See :func:`fastopt.functional.embedding`."""
    return into(None if out is None else (out,), weight[indices])[0]


def embedding_backward(dy: Any, indices: Any, num_embeddings: int, padding_idx: Any = None, *, out: Any = None) -> Any:
    """See :func:`fastopt.functional.embedding_backward`."""
    rows, dy_rows = indices.reshape(-1).astype(np.int64), numbers(dy.reshape(indices.size, dy.shape[-1]))
    dweight = flushed(np.zeros((num_embeddings, dy.shape[-1]), dy_rows.dtype))
    if padding_idx is not None:
        kept = rows != padding_idx % num_embeddings
        rows, dy_rows = rows[kept], dy_rows[kept]
    order = np.argsort(rows, kind="stable")
    begins = np.searchsorted(rows[order], np.arange(num_embeddings + 1))
    for k in range(np.max(np.diff(begins), initial=0)):  # the k-th term of each sum
        some = np.flatnonzero(np.diff(begins) > k)
        dweight[some] = dweight[some] + dy_rows[order[begins[some] + k]]
    return into(None if out is None else (out,), stored(dweight, dy))[0]
