"""Layers of images: convolution, pooling, and what makes rows of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import flag, name_of, whole
from ..functional._arrays import array_of, two_of
from ._layer import Array, Fixed, Layer, Shapes, Unset, axis_of, generator, gradients_of

__all__ = ["AvgPool2d", "Conv2d", "Flatten", "MaxPool2d"]

Pair = int | tuple[int, int]


def _pair(layer: str, name: str, value: Any, least: int) -> Pair:
    """An integer or two of them, checked, as it was given."""
    both = two_of(layer, name, value, least)
    return both if isinstance(value, tuple | list) else both[0]


class Conv2d(Layer):
    """Convolution of images, see :func:`fastopt.functional.conv2d`.

    Args:
        in_channels: The number of channels of inputs.
        out_channels: The number of channels of outputs.
        kernel_size: The size of windows: an integer, or one for each axis.
        stride: As in :func:`fastopt.functional.conv2d`.
        padding: As in :func:`fastopt.functional.conv2d`.
        dilation: As in :func:`fastopt.functional.conv2d`.
        groups: As in :func:`fastopt.functional.conv2d`.
        bias: Whether there is a bias.
        channel_axis: The axis of the channels; the first axis is that of the samples.
        input_grad: Whether :meth:`backward` returns the gradient of the input; False for a network's first layer saves a third
            of the work, and backward returns ``None``.
        seed: Where the initial weights and biases come from, which are uniform in ±1/√(in_channels/groups·window) as torch's: a
            NumPy generator, a seed, or ``None`` for random ones.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.Conv2d(1, 1, 2, dtype=np.float64)
        >>> layer.params["weight"][...] = [[[[1, 0], [0, -1]]]]
        >>> layer.params["bias"][...] = 0.5
        >>> layer(np.arange(9.0).reshape(1, 1, 3, 3))
        array([[[[-3.5, -3.5],
                 [-3.5, -3.5]]]])
        >>> layer.backward(np.ones((1, 1, 2, 2)))
        array([[[[ 1.,  1.,  0.],
                 [ 1.,  0., -1.],
                 [ 0., -1., -1.]]]])
        >>> layer.grads["weight"], layer.grads["bias"]
        (array([[[[ 8., 12.],
                 [20., 24.]]]]), array([4.]))
    """

    if not TYPE_CHECKING:  # type checkers would take them for attributes of any type
        in_channels, out_channels, kernel_size = Fixed(), Fixed(), Fixed()
        seed, dtype, weight, bias = Unset(), Unset(), Unset(), Unset()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: str | Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        channel_axis: int = 1,
        input_grad: bool = True,
        seed: int | np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in_channels = whole("Conv2d", "in_channels", in_channels, 1)
        self.out_channels = whole("Conv2d", "out_channels", out_channels, 1)
        self.kernel_size = _pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = _pair("Conv2d", "stride", stride, 1)
        self.dilation = _pair("Conv2d", "dilation", dilation, 1)
        self.groups = whole("Conv2d", "groups", groups, 1)
        for name, count in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if count % self.groups:
                raise ValueError(f"Conv2d: groups must divide {name}, {count}, got {groups}")
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f"Conv2d: padding must be 'valid', 'same', an integer or two of them, got {padding!r}")
            if padding == "same" and two_of("Conv2d", "stride", stride, 1) != (1, 1):
                raise ValueError(f"Conv2d: stride must be 1 with padding='same', got {stride}")
            self.padding: str | Pair = padding
        else:
            self.padding = _pair("Conv2d", "padding", padding, 0)
        self.channel_axis = axis_of("Conv2d", "channel_axis", channel_axis)
        self.input_grad = flag("Conv2d", "input_grad", input_grad)
        size = self.in_channels // self.groups, *two_of("Conv2d", "kernel_size", kernel_size, 1)
        shapes: Shapes = {"weight": ((self.out_channels, *size), 0.0)}
        if flag("Conv2d", "bias", bias):
            shapes = {**shapes, "bias": ((self.out_channels,), 0.0)}
        super().__init__(shapes, dtype)
        numbers, bound = generator("Conv2d", seed), 1 / math.sqrt(math.prod(size))
        for param in self.params.values():
            param[...] = numbers.uniform(-bound, bound, param.shape)

    def _options(self) -> dict[str, Any]:
        """The arguments of both functions beside arrays."""
        names = ("stride", "padding", "dilation", "groups", "channel_axis")
        return {name: getattr(self, name) for name in names}

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The convolution of ``x``, in ``out`` if that is given."""
        own = name_of(self.params["weight"].dtype)
        array_of(
            "Conv2d", "x", x, None, [own], way_out=lambda: f": pass x.astype(np.{own})" + _other_layer(x.dtype.name)
        )
        options = self._options()
        y = F.conv2d(x, self.params["weight"], self.params.get("bias"), out=out, **options)
        self._kept = x, options
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array | None:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, options = self._last()
        return F.conv2d_backward(
            dy,
            x,
            self.params["weight"],
            **options,
            x_grad=self.input_grad,
            bias_grad="bias" in self.params,
            out=(out, *gradients_of(self)),
        )[0]


def _other_layer(dtype: str) -> str:
    """The end of an error about an input of another dtype than the layer's."""
    return f", or make the layer with dtype=np.{dtype}" if dtype in ("float32", "float64") else ""


class _Pool2d(Layer):
    """The base class of layers of pooling."""

    def __init__(self, kernel_size: Pair, stride: Pair | None, padding: Pair, ceil_mode: bool, axis: int) -> None:
        layer = type(self).__name__
        super().__init__()
        self.kernel_size = _pair(layer, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _pair(layer, "stride", stride, 1)
        self.padding = _pair(layer, "padding", padding, 0)
        windows = (two_of(layer, "", one, 0) for one in (self.kernel_size, self.padding))
        if any(2 * pad > size for size, pad in zip(*windows, strict=True)):
            raise ValueError(f"{layer}: padding must be at most half of kernel_size, {kernel_size}, got {padding}")
        self.ceil_mode = flag(layer, "ceil_mode", ceil_mode)
        self.channel_axis = axis_of(layer, "channel_axis", axis)

    def _options(self, *more: str) -> dict[str, Any]:
        """The arguments of both functions beside arrays."""
        names = ("kernel_size", "stride", "padding", "ceil_mode", "channel_axis", *more)
        return {name: getattr(self, name) for name in names}


class MaxPool2d(_Pool2d):
    """The largest element of each window of an image, see :func:`fastopt.functional.max_pool2d`.

    Args:
        kernel_size: As in :func:`fastopt.functional.max_pool2d`.
        stride: As in :func:`fastopt.functional.max_pool2d`.
        padding: As in :func:`fastopt.functional.max_pool2d`.
        dilation: As in :func:`fastopt.functional.max_pool2d`.
        ceil_mode: As in :func:`fastopt.functional.max_pool2d`.
        channel_axis: The axis of the channels; the first axis is that of the samples.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.MaxPool2d(2)
        >>> layer(np.array([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 9.0]]]]))
        array([[[[5., 9.]]]])
        >>> layer.backward(np.ones((1, 1, 1, 2)))
        array([[[[0., 1., 0., 0.],
                 [0., 0., 0., 1.]]]])
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
        *,
        channel_axis: int = 1,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, channel_axis)
        self.dilation = _pair("MaxPool2d", "dilation", dilation, 1)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The largest elements of the windows of ``x``, in ``out`` if that is given."""
        options = self._options("dilation")
        y, indices = F.max_pool2d(x, **options, return_indices=True, out=(out, None))
        self._kept = indices, x.shape, options
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output."""
        indices, shape, options = self._last()
        return F.max_pool2d_backward(dy, indices, shape, **options, out=out)


class AvgPool2d(_Pool2d):
    """The mean of each window of an image, see :func:`fastopt.functional.avg_pool2d`.

    Args:
        kernel_size: As in :func:`fastopt.functional.avg_pool2d`.
        stride: As in :func:`fastopt.functional.avg_pool2d`.
        padding: As in :func:`fastopt.functional.avg_pool2d`.
        ceil_mode: As in :func:`fastopt.functional.avg_pool2d`.
        count_include_pad: As in :func:`fastopt.functional.avg_pool2d`.
        divisor_override: As in :func:`fastopt.functional.avg_pool2d`.
        channel_axis: The axis of the channels; the first axis is that of the samples.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.AvgPool2d(2)
        >>> layer(np.array([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 9.0]]]]))
        array([[[[3.25, 4.75]]]])
        >>> layer.backward(np.array([[[[4.0, 8.0]]]]))
        array([[[[1., 1., 2., 2.],
                 [1., 1., 2., 2.]]]])
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        channel_axis: int = 1,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, channel_axis)
        self.count_include_pad = flag("AvgPool2d", "count_include_pad", count_include_pad)
        self.divisor_override = divisor_override
        if divisor_override is not None:
            self.divisor_override = whole("AvgPool2d", "divisor_override", divisor_override, -(1 << 53))
            if divisor_override == 0:
                raise ValueError("AvgPool2d: divisor_override must not be 0, got 0")

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The means of the windows of ``x``, in ``out`` if that is given."""
        options = self._options("count_include_pad", "divisor_override")
        y = F.avg_pool2d(x, **options, out=out)
        self._kept = x.shape, options
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output."""
        shape, options = self._last()
        return F.avg_pool2d_backward(dy, shape, **options, out=out)


class Flatten(Layer):
    """Makes one axis of several, as between convolutions and a linear layer: views where memory allows, otherwise copies.

    Args:
        start_dim: The first of the axes.
        end_dim: The last one.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.Flatten()
        >>> layer(np.zeros((2, 3, 4, 4))).shape
        (2, 48)
        >>> layer.backward(np.zeros((2, 48))).shape
        (2, 3, 4, 4)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = axis_of("Flatten", "start_dim", start_dim)
        self.end_dim = axis_of("Flatten", "end_dim", end_dim)

    def __call__(self, x: Array) -> Array:
        """``x`` with one axis for those from ``start_dim`` to ``end_dim``."""
        x = array_of("Flatten", "x", x)
        begin, end = (axis + x.ndim if axis < 0 else axis for axis in (self.start_dim, self.end_dim))
        if not 0 <= begin <= end < x.ndim:
            raise ValueError(
                f"Flatten: start_dim and end_dim must name axes of x in order, which has {x.ndim}, got {self.start_dim} and "
                f"{self.end_dim}"
            )
        y = x.reshape(*x.shape[:begin], math.prod(x.shape[begin : end + 1]), *x.shape[end + 1 :])
        self._kept = x.shape, y.shape
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` with the shape of the last input."""
        shape, flat = self._last()
        dx: Array = array_of("Flatten", "dy", dy, flat).reshape(shape)
        return dx
