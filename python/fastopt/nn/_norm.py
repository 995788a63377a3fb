"""Normalizations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import flag, not_an_array, number, type_of, whole
from .._commit import at_once, commit
from ._layer import Array, Layer, axis_of, sizes_of

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm",
    "BatchNormAddReLU",
    "BatchNormReLU",
    "BatchRenorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "update_bn",
]


_NONE: Mapping[str, Any] = MappingProxyType({})
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _pair(layer: Layer, out: Any) -> tuple[Any, Any]:
    """Where two results are to go."""
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{type(layer).__name__}: out must be a tuple of 2, with None for results that are wanted new")
    return out


def _gradients(layer: Layer) -> tuple[Array | None, Array | None]:
    """Where the gradients of the weight and of the bias go, of those that the layer has."""
    weight, bias = (layer.grads.get(key) if key in layer.params else None for key in ("weight", "bias"))
    return weight, bias


class LayerNorm(Layer):
    """Layer normalization over the last axes, see :func:`fastopt.functional.layer_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the variance.
        elementwise_affine: Have a weight (ones at first) and a bias (zeros).
        bias: Have the bias.
        dtype: float32 or float64: that of the parameters.

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

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        weight, bias = self.params.get("weight"), self.params.get("bias")
        y, mean, rstd = F.layer_norm(x, self.normalized_shape, weight, bias, self.eps, out=(out, None, None))
        self._kept = x, mean, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, mean, rstd = self._last()
        return F.layer_norm_backward(
            dy,
            x,
            self.normalized_shape,
            mean,
            rstd,
            self.params.get("weight"),
            bias_grad="bias" in self.params,
            out=(out, *_gradients(self)),
        )[0]


class AddLayerNorm(LayerNorm):
    """An addition and layer normalization of the sum, in one pass, see :func:`fastopt.functional.add_layer_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the variance.
        elementwise_affine: Have a weight (ones at first) and a bias (zeros).
        bias: Have the bias.
        dtype: float32 or float64: that of the parameters.

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

    def __call__(  # type: ignore[override]
        self, x: Array, residual: Array, *, out: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, Array]:
        """The normalized sum of ``x`` and ``residual``, and the sum, in the arrays of ``out`` if given; keep the sum for backward."""
        weight, bias, to = self.params.get("weight"), self.params.get("bias"), (*_pair(self, out), None, None)
        y, total, mean, rstd = F.add_layer_norm(x, residual, self.normalized_shape, weight, bias, self.eps, out=to)
        self._kept = total, mean, rstd
        return y, total

    def backward(self, dy: Array, dsum: Array | None = None, *, out: Array | None = None) -> Array:
        """The gradient with respect to either of the last inputs, from those of y, ``dy``, and of the sum, ``dsum``; in ``out`` if given; fills ``grads``."""
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
            out=(out, *_gradients(self)),
        )[0]


class RMSNorm(Layer):
    """Root-mean-square normalization over the last axes, see :func:`fastopt.functional.rms_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the mean of the squares; ``None`` is the machine epsilon of the inputs' dtype.
        elementwise_affine: Have a weight (ones at first).
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.RMSNorm(2, dtype=np.float64)
        >>> layer(np.array([[1.0, 7.0]])).round(4)
        array([[0.2, 1.4]])
        >>> layer.backward(np.array([[1.0, 0.0]])).round(4), layer.grads["weight"].round(4)
        (array([[ 0.196, -0.028]]), array([0.2, 0. ]))
    """

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

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        y, rstd = F.rms_norm(x, self.normalized_shape, self.params.get("weight"), self.eps, out=(out, None))
        self._kept = x, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, rstd = self._last()
        weight, to = self.params.get("weight"), (out, _gradients(self)[0])
        return F.rms_norm_backward(dy, x, self.normalized_shape, rstd, weight, out=to)[0]


class AddRMSNorm(RMSNorm):
    """An addition and root-mean-square normalization of the sum, in one pass, see :func:`fastopt.functional.add_rms_norm`.

    Args:
        normalized_shape: The shape of the last axes; an integer for one axis.
        eps: Added to the mean of the squares; ``None`` is the machine epsilon of the inputs' dtype.
        elementwise_affine: Have a weight (ones at first).
        dtype: float32 or float64: that of the parameters.

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

    def __call__(  # type: ignore[override]
        self, x: Array, residual: Array, *, out: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, Array]:
        """The normalized sum of ``x`` and ``residual``, and the sum, in the arrays of ``out`` if given; keep the sum for backward."""
        weight, to = self.params.get("weight"), (*_pair(self, out), None)
        y, total, rstd = F.add_rms_norm(x, residual, self.normalized_shape, weight, self.eps, out=to)
        self._kept = total, rstd
        return y, total

    def backward(self, dy: Array, dsum: Array | None = None, *, out: Array | None = None) -> Array:
        """The gradient with respect to either of the last inputs, from those of y, ``dy``, and of the sum, ``dsum``; in ``out`` if given; fills ``grads``."""
        total, rstd = self._last()
        weight, to = self.params.get("weight"), (out, _gradients(self)[0])
        return F.add_rms_norm_backward(dy, dsum, total, self.normalized_shape, rstd, weight, out=to)[0]


class _Channels(Layer):
    """A layer with a weight and a bias for each channel, and running statistics."""

    def __init__(
        self,
        count: int,
        eps: float,
        affine: bool,
        track_running_stats: bool,
        channel_axis: int,
        dtype: DTypeLike,
    ) -> None:
        name = type(self).__name__
        shape = (count,)
        learned = {"weight": (shape, 1.0), "bias": (shape, 0.0)} if flag(name, "affine", affine) else {}
        super().__init__(learned, dtype)
        self.eps = number(name, "eps", eps, 0)
        self.channel_axis = axis_of(name, "channel_axis", channel_axis)
        if flag(name, "track_running_stats", track_running_stats):
            self.buffers["running_mean"] = np.zeros(shape, dtype)
            self.buffers["running_var"] = np.ones(shape, dtype)
            self.buffers["num_batches_tracked"] = np.zeros((), np.int64)

    def _expect_channels(self, x: Array, count: int) -> None:
        """That x has so many channels, for functions that have no array to compare it with; all else is their business."""
        try:
            found = x.shape[self.channel_axis]
        except (AttributeError, IndexError, TypeError):
            return
        if found != count and isinstance(x, np.ndarray):
            fitting = [axis for axis in (1, -1) if x.ndim > 1 and x.shape[axis] == count]
            way_out = f"; is it channel_axis={fitting[0]}?" if fitting else ""
            raise ValueError(
                f"{type(self).__name__}: x has shape {x.shape} and so {found} channels on axis {self.channel_axis}, the "
                f"channel_axis, expected {count}{way_out}"
            )

    @property
    def _running(self) -> tuple[Array | None, Array | None]:
        return self.buffers.get("running_mean"), self.buffers.get("running_var")

    def _statistics(self) -> list[Any]:
        """Running statistics and their count; empty where there are none."""
        if not self.buffers:
            return []
        try:
            return [self.buffers[key] for key in _STATISTICS]
        except KeyError as error:
            raise ValueError(f"{type(self).__name__}: buffers has no {error.args[0]}; put it back") from None

    @property
    def _learned(self) -> tuple[Array | None, Array | None]:
        return self.params.get("weight"), self.params.get("bias")


class BatchNorm(_Channels):
    """Batch normalization, see :func:`fastopt.functional.batch_norm`; for any number of axes.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Have a weight (ones at first) and a bias (zeros).
        track_running_stats: Keep running statistics for evaluation; without them evaluation uses the batch's own.
        frozen: Normalize with the running statistics in training too, and leave them as they are; may be switched at any time.
        channel_axis: The axis of the channels.
        dtype: float32 or float64: that of the parameters.

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
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        frozen: bool = False,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        name = type(self).__name__
        self.num_features = whole(name, "num_features", num_features)
        super().__init__(self.num_features, eps, affine, track_running_stats, channel_axis, dtype)
        self.momentum = None if momentum is None else number(name, "momentum", momentum, 0, 1)
        self.frozen = flag(name, "frozen", frozen)
        if self.frozen and not self.buffers:
            raise ValueError(f"{name}: frozen needs track_running_stats")
        self._population: list[tuple[int, Array, Array]] | None = None  # of the batches of update_bn

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_population": None}

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        return self._normalized(F.batch_norm, x, out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, trained, mean, rstd = self._last()
        return F.batch_norm_backward(
            dy,
            x,
            mean,
            rstd,
            self.params.get("weight"),
            training=trained,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(out, *_gradients(self)),
        )[0]

    def _normalized(
        self, function: Callable[..., Any], x: Array, *more: Array, out: Array | None, **options: float
    ) -> Array:
        """y of a function from the family of batch_norm, and what goes with it."""
        if not self.params and not self.buffers:
            self._expect_channels(x, self.num_features)
        tracked, population, momentum = self._statistics(), self._population, self.momentum
        running, count = self._running, tracked[2] if tracked else None
        layer = type(self).__name__
        training, frozen = flag(layer, "training", self.training), flag(layer, "frozen", self.frozen)
        if frozen and not tracked:
            raise ValueError(f"{layer}: frozen needs track_running_stats")
        trained = not tracked or population is not None or (training and not frozen)
        if trained and tracked:
            # Statistics and count are written together, when all else is done: an interrupt finds both or neither.
            gradients = {f"grads[{key!r}]": array for key, array in self.grads.items()}
            others = {
                "out": out,
                "x": x,
                **self.params,
                **gradients,
                **dict.fromkeys(("residual",)[: len(more)], *more),
            }
            _expect_to_be_written(layer, tracked, others)
            running = np.copy(tracked[0], subok=True), np.copy(tracked[1], subok=True)
        if momentum is None:
            momentum = 1.0 if count is None else 1 / (count.item() + 1)
        y: Array
        y, *statistics = function(
            x,
            *more,
            *running,
            *self._learned,
            trained,
            momentum,
            self.eps,
            channel_axis=self.channel_axis,
            out=out if out is None else (out, *[None] * (4 if options else 2)),
            **options,
        )
        if trained and count is not None and (x.size or not self.num_features):  # a batch without values counts nowhere
            if population is not None:
                population.append(F.batch_norm_stats(x, channel_axis=self.channel_axis))
            else:
                commit(tracked, (*running, count + 1))
        self._kept = (x, trained, *([y] if more else ()), *statistics)
        return y


class BatchNormReLU(BatchNorm):
    """Batch normalization and ReLU in one pass, see :func:`fastopt.functional.batch_norm_relu`.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Have a weight (ones at first) and a bias (zeros).
        track_running_stats: Keep running statistics for evaluation; without them evaluation uses the batch's own.
        frozen: Normalize with the running statistics in training too, and leave them as they are; may be switched at any time.
        channel_axis: The axis of the channels.
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchNormReLU(1, dtype=np.float64)
        >>> layer(np.array([[1.0], [3.0]])).round(4).ravel()
        array([0., 1.])
        >>> layer.backward(np.ones((2, 1))).shape, layer.grads["bias"]
        ((2, 1), array([1.]))
    """

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """max(normalized ``x``, 0), in ``out`` if that is given."""
        return self._normalized(F.batch_norm_relu, x, out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, trained, mean, rstd = self._last()
        return F.batch_norm_relu_backward(
            dy,
            x,
            mean,
            rstd,
            *self._learned,
            training=trained,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(out, *_gradients(self)),
        )[0]


class BatchNormAddReLU(BatchNorm):
    """Batch normalization, an addition and ReLU in one pass, see :func:`fastopt.functional.batch_norm_add_relu`.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Have a weight (ones at first) and a bias (zeros).
        track_running_stats: Keep running statistics for evaluation; without them evaluation uses the batch's own.
        frozen: Normalize with the running statistics in training too, and leave them as they are; may be switched at any time.
        channel_axis: The axis of the channels.
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchNormAddReLU(1, dtype=np.float64)
        >>> layer(np.array([[1.0], [3.0]]), np.array([[4.0], [-4.0]])).round(4).ravel()
        array([3., 0.])
        >>> dx, dresidual = layer.backward(np.ones((2, 1)))
        >>> dresidual.ravel(), layer.grads["bias"]
        (array([1., 0.]), array([1.]))
    """

    def __call__(self, x: Array, residual: Array, *, out: Array | None = None) -> Array:  # type: ignore[override]
        """max(normalized ``x`` + ``residual``, 0), in ``out`` if that is given; keep it for backward."""
        return self._normalized(F.batch_norm_add_relu, x, residual, out=out)

    def backward(  # type: ignore[override]
        self, dy: Array, *, out: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, Array]:
        """The gradients with respect to both of the last inputs, from ``dy``, that of their output; in the arrays of ``out`` if given; fills ``grads``."""
        x, trained, y, mean, rstd = self._last()
        return F.batch_norm_add_relu_backward(
            dy,
            y,
            x,
            mean,
            rstd,
            self.params.get("weight"),
            training=trained,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(*_pair(self, out), *_gradients(self)),
        )[:2]


class BatchRenorm(BatchNorm):
    """Batch renormalization, see :func:`fastopt.functional.batch_renorm`.

    ``r_max`` and ``d_max`` may be changed between steps: the paper begins with 1 and 0, which is batch normalization, and raises them
    to 3 and 5 over the first tens of thousands of steps.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Have a weight (ones at first) and a bias (zeros).
        r_max: The limit of r, at least 1.
        d_max: The limit of d, at least 0.
        frozen: Normalize with the running statistics in training too, and leave them as they are; may be switched at any time.
        channel_axis: The axis of the channels.
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchRenorm(1, dtype=np.float64)
        >>> layer(np.array([[1.0], [3.0]])).round(4).ravel()
        array([1., 3.])
        >>> layer.r_max, layer.d_max = 1.0, 0.0
        >>> layer(np.array([[1.0], [3.0]])).round(4).ravel()
        array([-1.,  1.])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        r_max: float = 3.0,
        d_max: float = 5.0,
        *,
        frozen: bool = False,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, frozen=frozen, channel_axis=channel_axis, dtype=dtype)
        self.r_max = number("BatchRenorm", "r_max", r_max, 1)
        self.d_max = number("BatchRenorm", "d_max", d_max, 0)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        r_max, d_max = (self.r_max, self.d_max) if self._population is None else (1.0, 0.0)
        return self._normalized(F.batch_renorm, x, out=out, r_max=r_max, d_max=d_max)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, trained, mean, rstd, r, d = self._last()
        return F.batch_renorm_backward(
            dy,
            x,
            mean,
            rstd,
            r,
            d,
            self.params.get("weight"),
            training=trained,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(out, *_gradients(self)),
        )[0]


class GroupNorm(_Channels):
    """Group normalization, see :func:`fastopt.functional.group_norm`.

    Args:
        num_groups: How many groups of equal size the channels make.
        num_channels: The number of channels.
        eps: Added to the variance.
        affine: Have a weight (ones at first) and a bias (zeros).
        channel_axis: The axis of the channels; the first axis is that of the samples.
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.GroupNorm(2, 4, dtype=np.float64)
        >>> layer(np.array([[1.0, 3.0, 5.0, 9.0]])).round(4)
        array([[-1.,  1., -1.,  1.]])
        >>> layer.backward(np.ones((1, 4))).round(4), layer.grads["bias"]
        (array([[0., 0., 0., 0.]]), array([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_groups = whole("GroupNorm", "num_groups", num_groups)
        self.num_channels = whole("GroupNorm", "num_channels", num_channels)
        super().__init__(self.num_channels, eps, affine, False, channel_axis, dtype)
        if self.num_groups < 1 or self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: num_groups must divide the {num_channels} channels, got {num_groups}")

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        self._expect_channels(x, self.num_channels)
        y, mean, rstd = F.group_norm(
            x,
            self.num_groups,
            *self._learned,
            self.eps,
            channel_axis=self.channel_axis,
            out=(out, None, None),
        )
        self._kept = x, mean, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, mean, rstd = self._last()
        return F.group_norm_backward(
            dy,
            x,
            self.num_groups,
            mean,
            rstd,
            self.params.get("weight"),
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(out, *_gradients(self)),
        )[0]


class InstanceNorm(_Channels):
    """Instance normalization, see :func:`fastopt.functional.instance_norm`; for any number of axes.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: How much of the running statistics an input replaces, in [0, 1].
        affine: Have a weight (ones at first) and a bias (zeros).
        track_running_stats: Keep running statistics, and normalize with them in evaluation.  ``num_batches_tracked`` stays 0, as in
            torch.
        channel_axis: The axis of the channels; the first axis is that of the samples.
        dtype: float32 or float64: that of the parameters.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.InstanceNorm(2, dtype=np.float64)
        >>> layer(np.array([[[1.0, 3.0], [5.0, 9.0]]])).round(4).ravel()
        array([-1.,  1., -1.,  1.])
        >>> layer.backward(np.ones((1, 2, 2))).round(4).ravel()
        array([0., 0., 0., 0.])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = whole("InstanceNorm", "num_features", num_features)
        super().__init__(self.num_features, eps, affine, track_running_stats, channel_axis, dtype)
        self.momentum = number("InstanceNorm", "momentum", momentum, 0, 1)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        if not self.params and not self.buffers:
            self._expect_channels(x, self.num_features)
        training = flag(type(self).__name__, "training", self.training)
        of_input = training or not self.buffers
        y, mean, rstd = F.instance_norm(
            x,
            *self._running,
            *self._learned,
            of_input,
            self.momentum,
            self.eps,
            channel_axis=self.channel_axis,
            out=(out, None, None),
        )
        self._kept = x, of_input, mean, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, from ``dy``, that of its output; in ``out`` if given; fills ``grads``."""
        x, of_input, mean, rstd = self._last()
        return F.instance_norm_backward(
            dy,
            x,
            mean,
            rstd,
            self.params.get("weight"),
            use_input_stats=of_input,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(out, *_gradients(self)),
        )[0]


def update_bn(batches: Iterable[Any], forward: Callable[[Any], Any], layers: Iterable[BatchNorm]) -> None:
    """The running statistics of layers, anew and exactly: those of all values in some batches.

    Each layer normalizes by the batch meanwhile, whether it is in training, in evaluation or frozen.  Afterwards its
    ``running_mean`` and ``running_var`` are mean and unbiased variance of all that it has been given, with the weights that the
    network has now, and ``num_batches_tracked`` is the number of batches that have values.  What else differs between training and evaluation, such as
    dropout, is up to the caller.  Where an error is raised, the statistics stay as they were.

    Args:
        batches: What the network is to be given, one after the other.
        forward: The network: called with each batch.
        layers: The layers :class:`BatchNorm`, or derived from it, whose statistics are wanted.

    Raises:
        TypeError: An entry of layers is no such layer.
        ValueError: One has no running statistics, or has been given fewer than two values a channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchNorm(1)
        >>> nn.update_bn([np.float32([[1], [3]]), np.float32([[8], [4]])], layer, [layer])
        >>> layer.buffers["running_mean"], layer.buffers["running_var"].round(4)
        (array([4.], dtype=float32), array([8.6667], dtype=float32))

    References:
        Izmailov et al. 2018, arXiv:1803.05407, for averaged weights; Wu & Johnson 2021, arXiv:2105.07576, section 3, for
        statistics of the population instead of a moving average.
    """
    if not isinstance(layers, Iterable):
        raise TypeError(f"update_bn: layers must be a list of layers, got {type(layers).__name__}")
    if not isinstance(batches, Iterable):
        raise TypeError(f"update_bn: batches must be something to iterate over, got {type_of(batches)}")
    if not callable(forward):
        raise TypeError(f"update_bn: forward must be a function of a batch, got {type_of(forward)}")
    layers = list(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, BatchNorm):
            raise TypeError(f"update_bn: layers[{i}] must be a BatchNorm, got {type(layer).__name__}")
        if not layer.buffers:
            raise ValueError(f"update_bn: layers[{i}] has no running statistics")
        _expect_to_be_written(f"update_bn: layers[{i}]", layer._statistics())
    try:
        for layer in layers:
            layer._population = []
        for batch in batches:
            forward(batch)
        whole = []
        for i, layer in enumerate(layers):
            parts = layer._population or [(0, *np.zeros((2, layer.num_features)))]
            whole.append((len(layer._population or ()), *F.combine_stats(parts)))
            if whole[-1][1] < 2:
                raise ValueError(
                    f"update_bn: layers[{i}] has been given {whole[-1][1]} values a channel, expected more than 1"
                )
        for i, layer in enumerate(layers):
            _expect_to_be_written(f"update_bn: layers[{i}]", layer._statistics())
    finally:
        try:
            _forget_populations(layers)
        finally:  # where an interrupt came between
            _forget_populations(layers)
    targets: list[Array] = []
    sources: list[Any] = []
    for layer, (its_batches, count, mean, m2) in zip(layers, whole, strict=True):
        mean_to, var_to, count_to = layer._statistics()
        targets += [mean_to, var_to, count_to]
        with np.errstate(all="ignore"):
            sources += [mean.astype(mean_to.dtype), (m2 / (count - 1)).astype(var_to.dtype), its_batches]
    commit(targets, sources)


def _forget_populations(layers: list[Any]) -> None:
    at_once(map(setattr, layers, repeat("_population"), repeat(None)))


def _expect_to_be_written(function: str, statistics: list[Any], others: Mapping[str, Any] = _NONE) -> None:
    """Raises where running statistics or their count cannot be written, or share memory with each other or with ``others``.

    Functions get copies of them, and so do not see this.
    """
    for name, array in zip(_STATISTICS, statistics, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{function}: {name} must be a numpy array, got {not_an_array(array)}")
        if not array.flags.writeable:
            raise TypeError(f"{function}: {name} is read-only, but would be written; give a copy")
        for other, its in others.items():
            if _overlap(array, its):
                raise ValueError(f"{function}: {name} would be written, but overlaps {other}")
    mean, var, count = statistics
    if count.dtype != np.int64 or count.ndim or not 0 <= count < 1 << 53:
        raise TypeError(
            f"{function}: {_STATISTICS[2]} must be an int64 array without axes, in [0, 2**53), got {count!r}"
        )
    for name, array, other, its in (
        (_STATISTICS[0], mean, _STATISTICS[1], var),
        (_STATISTICS[2], count, _STATISTICS[0], mean),
        (_STATISTICS[2], count, _STATISTICS[1], var),
    ):
        if _overlap(array, its):
            raise ValueError(f"{function}: {name} would be written, but overlaps {other}")


def _overlap(a: Array, b: Any) -> bool:
    """Whether two arrays may share memory, which they cannot where each has its own."""
    return a is b or (
        isinstance(b, np.ndarray)
        and (a.base is not None or b.base is not None)
        and a.size > 0
        and np.may_share_memory(a, b)
    )
