"""Layers of normalizations over the last axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import flag, number, whole
from ._layer import Array, Fixed, Layer, Unset, gradients_of, pair_of, sizes_of

__all__ = ["AddLayerNorm", "AddRMSNorm", "LayerNorm", "RMSNorm", "ScaleNorm"]


class _OfRows(Layer):
    """The base class of LayerNorm and AddLayerNorm."""

    if not TYPE_CHECKING:  # type checkers would take them for attributes of any type
        normalized_shape, elementwise_affine, dtype = Fixed(), Unset(), Unset()
        weight, bias = Unset(), Unset()

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        name = type(self).__name__
        shape = sizes_of(name, "normalized_shape", normalized_shape)
        affine, biased = flag(name, "elementwise_affine", elementwise_affine), flag(name, "bias", bias)
        learned = {"weight": (shape, 1.0)} | ({"bias": (shape, 0.0)} if biased else {}) if affine else {}
        super().__init__(learned, dtype)
        self.normalized_shape = shape
        self.eps = number(name, "eps", eps, 0)


class LayerNorm(_OfRows):
    """Layer normalization over the last axes, see :func:`fastopt.functional.layer_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the variance.
        elementwise_affine: Whether there are a weight (ones at first) and a bias (zeros).
        bias: Whether there is the bias.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.LayerNorm(2, dtype=np.float64)
        >>> layer(np.array([[1.0, 3.0]])).round(4)
        array([[-1.,  1.]])
        >>> layer.backward(np.ones((1, 2))).round(4), layer.grads["bias"]
        (array([[0., 0.]]), array([1., 1.]))
    """

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        weight, bias = self.params.get("weight"), self.params.get("bias")
        y, mean, rstd = F.layer_norm(x, self.normalized_shape, weight, bias, self.eps, out=(out, None, None))
        self._kept = x, mean, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, mean, rstd = self._last()
        return F.layer_norm_backward(
            dy,
            x,
            self.normalized_shape,
            mean,
            rstd,
            self.params.get("weight"),
            bias_grad="bias" in self.params,
            out=(out, *gradients_of(self)),
        )[0]


class AddLayerNorm(_OfRows):
    """An addition and layer normalization of the sum, in one pass, see :func:`fastopt.functional.add_layer_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the variance.
        elementwise_affine: Whether there are a weight (ones at first) and a bias (zeros).
        bias: Whether there is the bias.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.AddLayerNorm(2, dtype=np.float64)
        >>> y, total = layer(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]]))
        >>> y.round(4), total
        (array([[-1.,  1.]]), array([[1., 3.]]))
        >>> layer.backward(np.ones((1, 2)), dsum=np.array([[5.0, 7.0]])).round(4)
        array([[5., 7.]])
    """

    def __call__(
        self, x: Array, residual: Array, *, out: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, Array]:
        """Adds and normalizes.

        Args:
            x: The input.
            residual: The addend, shape and dtype of x.
            out: Arrays for the two results, ``None`` where a new one is wanted.

        Returns:
            The normalized sum, and the sum, which must not be changed before backward.
        """
        weight, bias, to = self.params.get("weight"), self.params.get("bias"), (*pair_of(self, out), None, None)
        y, total, mean, rstd = F.add_layer_norm(x, residual, self.normalized_shape, weight, bias, self.eps, out=to)
        self._kept = total, mean, rstd
        return y, total

    def backward(self, dy: Array, dsum: Array | None = None, *, out: Array | None = None) -> Array:
        """Fills ``grads``, and computes the gradient of the inputs.

        Args:
            dy: The gradient with respect to the normalized sum.
            dsum: The gradient with respect to the sum from all other uses of it; ``None`` if there is none.
            out: An array for the result.

        Returns:
            The gradient with respect to x, which is also that with respect to residual.
        """
        total, mean, rstd = self._last()
        return F.add_layer_norm_backward(
            dy,
            dsum,
            total,
            self.normalized_shape,
            mean,
            rstd,
            self.params.get("weight"),
            bias_grad="bias" in self.params,
            out=(out, *gradients_of(self)),
        )[0]


class _OfRowsWithoutMean(Layer):
    """The base class of RMSNorm and AddRMSNorm."""

    if not TYPE_CHECKING:
        normalized_shape, elementwise_affine, dtype, weight = Fixed(), Unset(), Unset(), Unset()

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        name = type(self).__name__
        shape = sizes_of(name, "normalized_shape", normalized_shape)
        affine = flag(name, "elementwise_affine", elementwise_affine)
        super().__init__({"weight": (shape, 1.0)} if affine else {}, dtype)
        self.normalized_shape = shape
        self.eps = None if eps is None else number(name, "eps", eps, 0)


class RMSNorm(_OfRowsWithoutMean):
    """Root-mean-square normalization over the last axes, see :func:`fastopt.functional.rms_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the mean of the squares; ``None`` is the machine epsilon of the inputs' dtype.
        elementwise_affine: Whether there is a weight (ones at first).
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.RMSNorm(2, dtype=np.float64)
        >>> layer(np.array([[1.0, 7.0]])).round(4)
        array([[0.2, 1.4]])
        >>> layer.backward(np.array([[1.0, 0.0]])).round(4), layer.grads["weight"].round(4)
        (array([[ 0.196, -0.028]]), array([0.2, 0. ]))
    """

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        y, rstd = F.rms_norm(x, self.normalized_shape, self.params.get("weight"), self.eps, out=(out, None))
        self._kept = x, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, rstd = self._last()
        weight, to = self.params.get("weight"), (out, gradients_of(self)[0])
        return F.rms_norm_backward(dy, x, self.normalized_shape, rstd, weight, out=to)[0]


class AddRMSNorm(_OfRowsWithoutMean):
    """An addition and root-mean-square normalization of the sum, in one pass, see :func:`fastopt.functional.add_rms_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the mean of the squares; ``None`` is the machine epsilon of the inputs' dtype.
        elementwise_affine: Whether there is a weight (ones at first).
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.AddRMSNorm(2, dtype=np.float64)
        >>> y, total = layer(np.array([[1.0, 4.0]]), np.array([[0.0, 3.0]]))
        >>> y.round(4), total
        (array([[0.2, 1.4]]), array([[1., 7.]]))
        >>> layer.backward(np.zeros((1, 2)), dsum=np.array([[5.0, 7.0]]))
        array([[5., 7.]])
    """

    def __call__(
        self, x: Array, residual: Array, *, out: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, Array]:
        """Adds and normalizes.

        Args:
            x: The input.
            residual: The addend, shape and dtype of x.
            out: Arrays for the two results, ``None`` where a new one is wanted.

        Returns:
            The normalized sum, and the sum, which must not be changed before backward.
        """
        weight, to = self.params.get("weight"), (*pair_of(self, out), None)
        y, total, rstd = F.add_rms_norm(x, residual, self.normalized_shape, weight, self.eps, out=to)
        self._kept = total, rstd
        return y, total

    def backward(self, dy: Array, dsum: Array | None = None, *, out: Array | None = None) -> Array:
        """Fills ``grads``, and computes the gradient of the inputs.

        Args:
            dy: The gradient with respect to the normalized sum.
            dsum: The gradient with respect to the sum from all other uses of it; ``None`` if there is none.
            out: An array for the result.

        Returns:
            The gradient with respect to x, which is also that with respect to residual.
        """
        total, rstd = self._last()
        weight, to = self.params.get("weight"), (out, gradients_of(self)[0])
        return F.add_rms_norm_backward(dy, dsum, total, self.normalized_shape, rstd, weight, out=to)[0]


class ScaleNorm(Layer):
    """Rows scaled to one length, which is learned, see :func:`fastopt.functional.scale_norm`.

    Args:
        dim: The length of the last axis.
        eps: Added to the squared length.
        dtype: The dtype of the parameter ``g`` (√dim at first), float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.ScaleNorm(4, dtype=np.float64)
        >>> layer(np.array([[0.0, 3.0, 0.0, 4.0]])).round(4)
        array([[0. , 1.2, 0. , 1.6]])
        >>> layer.backward(np.array([[1.0, 1.0, 0.0, 0.0]])).round(4), round(float(layer.grads["g"]), 4)
        (array([[ 0.4  ,  0.256,  0.   , -0.192]]), 0.6)

    References:
        Nguyen & Salazar 2019, arXiv:1910.05895.
    """

    if not TYPE_CHECKING:
        dim, dtype, g = Fixed(), Unset(), Unset()

    def __init__(self, dim: int, eps: float = 1e-5, *, dtype: DTypeLike = np.float32) -> None:
        self.dim = whole("ScaleNorm", "dim", dim)
        super().__init__({"g": ((), math.sqrt(self.dim))}, dtype)
        self.eps = number("ScaleNorm", "eps", eps, 0)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The scaled ``x``, in ``out`` if that is given."""
        if isinstance(x, np.ndarray) and x.shape[-1:] != (self.dim,):
            raise ValueError(f"ScaleNorm: x has shape {x.shape}, expected it to end with {self.dim}")
        y, rnorm = F.scale_norm(x, self.params["g"], self.eps, out=(out, None))
        self._kept = x, rnorm
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, rnorm = self._last()
        return F.scale_norm_backward(dy, x, self.params["g"], rnorm, out=(out, self.grads["g"]))[0]
