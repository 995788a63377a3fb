"""A layer of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import whole
from ._layer import Array, Fixed, Layer, Unset, generator

__all__ = ["Embedding"]


class Embedding(Layer):
    """A table of which each index takes a row, see :func:`fastopt.functional.embedding`.

    Args:
        num_embeddings: The number of rows.
        embedding_dim: The length of rows.
        padding_idx: A row that begins as zeros and gets no gradient, so that an optimizer without weight decay leaves it alone; negative
            numbers count from the end.  ``None`` if there is none.
        seed: Where the initial weights come from, which are N(0, 1) as torch's: a NumPy generator, a seed, or ``None`` for random ones.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.Embedding(3, 2, dtype=np.float64)
        >>> layer.params["weight"][...] = [[0, 0], [1, 2], [3, 4]]
        >>> layer(np.array([2, 0, 2]))
        array([[3., 4.],
               [0., 0.],
               [3., 4.]])
        >>> layer.backward(np.ones((3, 2)))
        >>> layer.grads["weight"]
        array([[1., 1.],
               [0., 0.],
               [2., 2.]])
    """

    if not TYPE_CHECKING:  # type checkers would take them for attributes of any type
        num_embeddings, embedding_dim = Fixed(), Fixed()
        seed, dtype, weight = Unset(), Unset(), Unset()

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        seed: int | np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_embeddings = whole("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = whole("Embedding", "embedding_dim", embedding_dim)
        self.padding_idx: int | None = None
        if padding_idx is not None:
            rows = self.num_embeddings
            if not rows:
                raise ValueError(f"Embedding: padding_idx must be None without rows, got {padding_idx}")
            self.padding_idx = whole("Embedding", "padding_idx", padding_idx, -rows, rows) % rows
        super().__init__({"weight": ((self.num_embeddings, self.embedding_dim), 0.0)}, dtype)
        weight = self.params["weight"]
        weight[...] = generator("Embedding", seed).standard_normal(weight.shape, weight.dtype)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0

    def __call__(self, indices: Array, *, out: Array | None = None) -> Array:
        """The rows at ``indices``, in ``out`` if that is given."""
        y = F.embedding(indices, self.params["weight"], self.padding_idx, out=out)
        self._kept = (indices,)
        return y

    def backward(self, dy: Array) -> None:
        """Fills ``grads`` from ``dy``, the gradient of the output; indices have no gradient."""
        (indices,) = self._last()
        weight: Any = self.params["weight"]
        F.embedding_backward(dy, indices, weight.shape[0], self.padding_idx, out=self.grads["weight"])
