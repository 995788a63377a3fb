"""Rows of a table, as a layer of embeddings takes them, and their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._check import not_an_array
from .._core import kernels
from ._arrays import Array

__all__ = ["embedding", "embedding_backward"]


def embedding(indices: Array, weight: Array, padding_idx: int | None = None, *, out: Array | None = None) -> Array:
    """Rows of a table.

    .. code-block:: text

        y[i] = weight[indices[i]]

    Args:
        indices: Any shape and memory layout, any dtype of integers, each in ``[0, num_embeddings)``.
        weight: Shape ``(num_embeddings, embedding_dim)``, any memory layout, float32, float64, float16 or bfloat16.
        padding_idx: The row of padding, in ``[-num_embeddings, num_embeddings)``.  It is checked and changes nothing here: in
            :func:`embedding_backward` this row gets no gradient.
        out: A C-contiguous array for y, that does not overlap an argument.

    Returns:
        y, shape ``(*indices.shape, embedding_dim)``, dtype of weight, C-contiguous.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: An index is out of range, with its position; a shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> weight = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
        >>> F.embedding(np.array([2, 0, 2]), weight)
        array([[3., 4.],
               [0., 0.],
               [3., 4.]])

    References:
        torch.nn.functional.embedding, without ``max_norm``, ``scale_grad_by_freq`` and ``sparse``.
    """
    return kernels.embedding(_int64("embedding", indices), weight, padding_idx, out)


def embedding_backward(
    dy: Array, indices: Array, num_embeddings: int, padding_idx: int | None = None, *, out: Array | None = None
) -> Array:
    """The gradient of :func:`embedding` with respect to weight.

    .. code-block:: text

        dweight[r] = Σ dy[i]   over all i with indices[i] = r, in their order

    Each sum begins at 0 and takes one term after the other, in float32, or in float64 if dy is float64; 16-bit results are
    rounded once.  So the result has the same bits for any number of threads; the error of a float32 sum of n terms is at most
    n·2⁻²⁴·Σ|dy|.

    Args:
        dy: The gradient with respect to y, shape ``(*indices.shape, embedding_dim)``; any memory layout; float32, float64,
            float16 or bfloat16.
        indices: As in forward.
        num_embeddings: The number of rows of weight.
        padding_idx: A row that gets no gradient, in ``[-num_embeddings, num_embeddings)``; ``None`` if there is none.
        out: A C-contiguous array for dweight, that does not overlap an argument.

    Returns:
        dweight, shape ``(num_embeddings, embedding_dim)``, dtype of dy; 0 in rows that no index names.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: An index is out of range, with its position; a shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> dy = np.array([[1.0, 2.0], [5.0, 5.0], [10.0, 20.0]])
        >>> F.embedding_backward(dy, np.array([2, 0, 2]), 3)
        array([[ 5.,  5.],
               [ 0.,  0.],
               [11., 22.]])
    """
    return kernels.embedding_backward(dy, _int64("embedding_backward", indices), num_embeddings, padding_idx, out)


def _int64(function: str, indices: Any) -> Array:
    """The indices as a contiguous array of int64."""
    if not isinstance(indices, np.ndarray):
        raise TypeError(f"{function}: indices must be a numpy array, got {not_an_array(indices)}")
    if isinstance(indices, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: indices is a masked array, whose mask would be ignored: pass indices.filled(padding_idx)"
        )
    if indices.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: indices has dtype {indices.dtype}, expected integers: pass indices.astype(np.int64)"
        )
    if indices.dtype == np.uint64:
        indices = np.minimum(indices, np.iinfo(np.int64).max)  # what is larger is out of range either way
    contiguous: Array = np.ascontiguousarray(indices, np.int64).reshape(indices.shape)
    return contiguous
