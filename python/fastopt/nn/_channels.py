"""Layers of group and instance normalization, and the base class of all layers with channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import flag, number, whole
from ._layer import Array, Fixed, Layer, Unset, axis_of, gradients_of

__all__ = ["GroupNorm", "InstanceNorm"]

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class OfChannels(Layer):
    """A layer with a weight and a bias for each channel, and running statistics."""

    if not TYPE_CHECKING:  # type checkers would take them for attributes of any type
        affine, track_running_stats, dtype = Unset(), Unset(), Unset()
        weight, bias, running_mean, running_var, num_batches_tracked = Unset(), Unset(), Unset(), Unset(), Unset()

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
        """Raises if x does not have ``count`` channels.

        Without parameters and buffers, functions have no array with which to compare x; they check everything else.
        """
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
            return [self.buffers[key] for key in STATISTICS]
        except KeyError as error:
            raise ValueError(f"{type(self).__name__}: buffers has no {error.args[0]}; put it back") from None

    @property
    def _learned(self) -> tuple[Array | None, Array | None]:
        return self.params.get("weight"), self.params.get("bias")

    def _gradients(
        self, backward: Callable[..., Any], *given: Any, out: tuple[Array | None, ...], **mode: bool
    ) -> tuple[Array, ...]:
        """The results of a backward function: ``out`` is for the gradients of inputs, ``grads`` gets those of weight and bias."""
        results: tuple[Array, ...] = backward(
            *given,
            bias_grad="bias" in self.params,
            channel_axis=self.channel_axis,
            out=(*out, *gradients_of(self)),
            **mode,
        )
        return results


class GroupNorm(OfChannels):
    """Group normalization, see :func:`fastopt.functional.group_norm`.

    Args:
        num_groups: The number of groups of equal size.
        num_channels: The number of channels.
        eps: Added to the variance.
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        channel_axis: The axis of the channels; the first axis is that of the samples.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.GroupNorm(2, 4, dtype=np.float64)
        >>> layer(np.array([[1.0, 3.0, 5.0, 9.0]])).round(4)
        array([[-1.,  1., -1.,  1.]])
        >>> layer.backward(np.ones((1, 4))).round(4), layer.grads["bias"]
        (array([[0., 0., 0., 0.]]), array([1., 1., 1., 1.]))
    """

    if not TYPE_CHECKING:
        num_channels = Fixed()

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
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, mean, rstd = self._last()
        weight = self.params.get("weight")
        return self._gradients(F.group_norm_backward, dy, x, self.num_groups, mean, rstd, weight, out=(out,))[0]


class InstanceNorm(OfChannels):
    """Instance normalization, see :func:`fastopt.functional.instance_norm`; for any number of axes.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: The part of the running statistics that an input replaces, in [0, 1].
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        track_running_stats: Whether to keep running statistics and normalize with them in evaluation.  ``num_batches_tracked``
            stays 0, as in torch.
        channel_axis: The axis of the channels; the first axis is that of the samples.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.InstanceNorm(2, dtype=np.float64)
        >>> layer(np.array([[[1.0, 3.0], [5.0, 9.0]]])).round(4).ravel()
        array([-1.,  1., -1.,  1.])
        >>> layer.backward(np.ones((1, 2, 2))).round(4).ravel()
        array([0., 0., 0., 0.])
    """

    if not TYPE_CHECKING:
        num_features = Fixed()

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
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, of_input, mean, rstd = self._last()
        given = dy, x, mean, rstd, self.params.get("weight")
        return self._gradients(F.instance_norm_backward, *given, use_input_stats=of_input, out=(out,))[0]
