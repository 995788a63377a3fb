"""Layers for hand-written loops: ``y = layer(x)``, then ``dx = layer.backward(dy)``."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import functional as F
from ._rules import number

__all__ = ["BatchNorm", "Layer", "LayerNorm"]

Array: TypeAlias = NDArray[Any]


def _type(value: object) -> str:
    return type(value).__name__


class Layer:
    """What the layers share.

    ``params`` and ``grads`` are dicts with the same keys; they are empty without learnable parameters.  A backward pass
    overwrites the arrays of ``grads``, which stay the same objects: hand them to an optimizer as they are.

    A layer keeps its last input, not a copy of it, for backward; leave it unchanged until then.
    """

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], float]], dtype: DTypeLike) -> None:
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"{type(self).__name__}: dtype must be float32 or float64, got {dtype}")
        self.training = True
        self.params: dict[str, Array] = {name: np.full(shape, value, dtype) for name, (shape, value) in shapes.items()}
        self.grads: dict[str, Array] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.buffers: dict[str, Array] = {}
        self._x: Array | None = None
        self._statistics: tuple[Array, Array] | None = None  # mean and rstd of the last forward pass
        self._trained = True  # whether the last forward pass was one in training

    def train(self, mode: bool = True) -> Layer:
        """Switches to training, or to evaluation if ``mode`` is false; returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Layer:
        """Switches to evaluation; returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Copies of parameters and buffers, under torch's names."""
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies parameters and buffers in.

        Args:
            state_dict: As :meth:`state_dict` or torch's module returns it (arrays, or what NumPy makes arrays of).

        Raises:
                TypeError: A value is not an array of numbers.
            ValueError: Keys or shapes are others than the layer's.  Nothing has been changed then.
        """
        name, own = type(self).__name__, self.params | self.buffers
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: state_dict must be a dict, got {_type(state_dict)}")
        if own.keys() != state_dict.keys():
            raise ValueError(f"{name}: state_dict must have the keys {sorted(own)}, got {sorted(map(str, state_dict))}")
        arrays = {}
        for key, value in state_dict.items():
            try:
                arrays[key] = np.asarray(value).astype(own[key].dtype)
            except (TypeError, ValueError):
                raise TypeError(f"{name}: {key} must be an array of numbers, got {_type(value)}") from None
            if arrays[key].shape != own[key].shape:
                raise ValueError(f"{name}: {key} has shape {arrays[key].shape}, expected {own[key].shape}")
        for key, array in arrays.items():
            own[key][...] = array

    def _statistics_of(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Arrays for mean and rstd, the same ones as long as the shape stays the same."""
        if self._statistics is not None and self._statistics[0].shape == shape:
            return self._statistics
        return np.empty(shape), np.empty(shape)

    def _forward(self) -> tuple[Array, Array, Array]:
        """The input, mean and rstd of the last forward pass."""
        if self._x is None or self._statistics is None:
            raise RuntimeError(f"{type(self).__name__}: backward was called before forward")
        return self._x, *self._statistics


class LayerNorm(Layer):
    """Layer normalization over the last axes, see :func:`fastopt.functional.layer_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the variance.
        elementwise_affine: Have a weight (ones at first) and a bias (zeros).
        bias: Have the bias.
        dtype: float32 or float64: that of the parameters, and so of the inputs.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.LayerNorm(2, dtype=np.float64)
        >>> layer(np.array([[1.0, 3.0]])).round(4)
        array([[-1.,  1.]])
        >>> layer.backward(np.ones((1, 2))).round(4), layer.grads["bias"]
        (array([[0., 0.]]), array([1., 1.]))
    """

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = tuple(
            map(operator.index, normalized_shape if isinstance(normalized_shape, Iterable) else (normalized_shape,))
        )
        learned = {"weight": (shape, 1.0)} | ({"bias": (shape, 0.0)} if bias else {}) if elementwise_affine else {}
        super().__init__(learned, dtype)
        self.normalized_shape = shape
        self.eps = number("LayerNorm", "eps", eps, 0)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        statistics = self._statistics_of(np.shape(x)[: np.ndim(x) - len(self.normalized_shape)])
        weight, bias = self.params.get("weight"), self.params.get("bias")
        y = F.layer_norm(x, self.normalized_shape, weight, bias, self.eps, out=(out, *statistics))[0]
        self._x, self._statistics = x, statistics
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, mean, rstd = self._forward()
        weight = self.params.get("weight")
        gradients = self.grads.get("weight"), self.grads.get("bias")
        return F.layer_norm_backward(dy, x, self.normalized_shape, mean, rstd, weight, out=(out, *gradients))[0]


class BatchNorm(Layer):
    """Batch normalization, see :func:`fastopt.functional.batch_norm`; for any number of axes.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics a batch replaces, in [0, 1].
        affine: Have a weight (ones at first) and a bias (zeros).
        track_running_stats: Keep running statistics for evaluation; without them evaluation uses the batch's own.
        channel_axis: The axis of the channels.
        dtype: float32 or float64: that of the parameters, and so of the inputs.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchNorm(1, dtype=np.float64)
        >>> layer(np.array([[1.0], [3.0]])).round(4).ravel()
        array([-1.,  1.])
        >>> layer.backward(np.ones((2, 1))).round(4).ravel(), layer.grads["bias"]
        (array([0., 0.]), array([2.]))
        >>> layer.eval()(np.array([[0.2]])).round(4)
        array([[0.]])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (operator.index(num_features),)
        super().__init__({"weight": (shape, 1.0), "bias": (shape, 0.0)} if affine else {}, dtype)
        self.num_features, self.channel_axis = shape[0], operator.index(channel_axis)
        self.eps = number("BatchNorm", "eps", eps, 0)
        self.momentum = number("BatchNorm", "momentum", momentum, 0, 1)
        if track_running_stats:
            self.buffers["running_mean"] = np.zeros(shape, dtype)
            self.buffers["running_var"] = np.ones(shape, dtype)
            self.buffers["num_batches_tracked"] = np.zeros((), np.int64)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        trained = self.training or not self.buffers
        statistics = self._statistics_of((self.num_features,))
        y = F.batch_norm(
            x,
            self.buffers.get("running_mean"),
            self.buffers.get("running_var"),
            self.params.get("weight"),
            self.params.get("bias"),
            trained,
            self.momentum,
            self.eps,
            channel_axis=self.channel_axis,
            out=(out, *statistics),
        )[0]
        if trained and self.buffers:
            self.buffers["num_batches_tracked"] += 1
        self._x, self._statistics, self._trained = x, statistics, trained
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, mean, rstd = self._forward()
        return F.batch_norm_backward(
            dy,
            x,
            mean,
            rstd,
            self.params.get("weight"),
            training=self._trained,
            channel_axis=self.channel_axis,
            out=(out, self.grads.get("weight"), self.grads.get("bias")),
        )[0]
