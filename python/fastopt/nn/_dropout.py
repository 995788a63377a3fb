"""Layers of dropout, which count their passes in training and draw other random numbers in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from .._check import flag, number, whole
from ..functional._arrays import array_of, memory_order
from ._layer import Array, Layer, axis_of

__all__ = ["ChannelDropout", "Dropout", "GaussianDropout"]


class _Dropout(Layer):
    """The base class of the layers of dropout, which differ only in the functions that they call."""

    _forward: Callable[..., Array]
    _backward: Callable[..., Array]
    _counts_in_memory = True  # whether elements are counted in the input's order in memory

    def __init__(self, p: float, seed: int | None, *, below_one: bool = False) -> None:
        super().__init__()
        layer = type(self).__name__
        self.p = number(layer, "p", p, 0, 1, below=below_one)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        self.seed = whole(layer, "seed", seed, 0, 1 << 64)
        self.step = 0

    def _options(self) -> dict[str, Any]:
        """The arguments of both functions beside the array."""
        return {"p": self.p, "training": self.training, "seed": self.seed, "step": self.step}

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """``x`` after dropout, in ``out`` if that is given; in evaluation, or with p = 0, ``x`` itself."""
        layer, options, function = type(self).__name__, self._options(), type(self)._forward
        training = flag(layer, "training", self.training)
        nothing = not training or number(layer, "p", self.p, 0, 1) == 0
        if nothing:
            array_of(function.__name__, "x", x)
        y = x if nothing and out is None else function(x, **options, out=out)
        self._kept = nothing, options, x.shape, memory_order(x)
        if training:  # evaluation must not write attributes, as threads may share the layer
            self.step += 1
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` itself if nothing was dropped."""
        nothing, options, shape, order = self._last()
        layer = type(self).__name__
        if not isinstance(dy, np.ndarray) or dy.shape != shape:
            array_of(layer, "dy", dy, shape)
        if nothing and out is None:
            return dy
        if self._counts_in_memory and not nothing:
            options = {**options, "order": order}
        return type(self)._backward(dy, **options, out=out)


class Dropout(_Dropout):
    """Dropout in training, nothing in evaluation, see :func:`fastopt.functional.dropout`.

    Random numbers depend on ``layer.seed``, on ``layer.step``, which is the number of passes in training, and on positions: to
    resume a run, :func:`fastopt.load` or set both attributes to their old values.  They and ``layer.p`` may be changed between
    steps.

    Args:
        p: The probability that an element is dropped, in [0, 1].
        seed: The seed, in [0, 2⁶⁴); give each layer its own.  ``None`` for a random one from the system.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.Dropout(0.5, seed=1)
        >>> x = np.arange(1.0, 9.0)
        >>> layer(x)
        array([ 2.,  0.,  6.,  8.,  0.,  0.,  0., 16.])
        >>> layer.backward(np.ones(8))
        array([2., 0., 2., 2., 0., 0., 0., 2.])
        >>> layer.step, layer.eval()(x) is x
        (1, True)
    """

    _forward, _backward = staticmethod(F.dropout), staticmethod(F.dropout_backward)

    def __init__(self, p: float = 0.5, seed: int | None = None) -> None:
        super().__init__(p, seed)


class GaussianDropout(_Dropout):
    """Multiplication by noise in training, nothing in evaluation, see :func:`fastopt.functional.gaussian_dropout`.

    Random numbers, ``layer.seed`` and ``layer.step`` are as in :class:`Dropout`.

    Args:
        p: The probability p of the dropout with the same variance, in [0, 1).
        seed: The seed, in [0, 2⁶⁴); give each layer its own.  ``None`` for a random one from the system.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.GaussianDropout(0.1, seed=1)
        >>> layer(np.ones(4)).round(3)
        array([1.108, 1.297, 0.636, 0.91 ])
    """

    _forward, _backward = staticmethod(F.gaussian_dropout), staticmethod(F.gaussian_dropout_backward)

    def __init__(self, p: float = 0.5, seed: int | None = None) -> None:
        super().__init__(p, seed, below_one=True)


class ChannelDropout(_Dropout):
    """Dropout of whole channels in training, nothing in evaluation, see :func:`fastopt.functional.channel_dropout`.

    Random numbers, ``layer.seed`` and ``layer.step`` are as in :class:`Dropout`.

    Args:
        p: The probability that an element is dropped, in [0, 1].
        seed: The seed, in [0, 2⁶⁴); give each layer its own.  ``None`` for a random one from the system.
        channel_axis: The axis of the channels, not the first, which is that of the samples.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.ChannelDropout(0.5, seed=1)
        >>> layer(np.ones((2, 3, 4)))[:, :, 0]
        array([[2., 0., 2.],
               [2., 2., 0.]])
    """

    _forward, _backward = staticmethod(F.channel_dropout), staticmethod(F.channel_dropout_backward)
    _counts_in_memory = False

    def __init__(self, p: float = 0.5, seed: int | None = None, *, channel_axis: int = 1) -> None:
        super().__init__(p, seed)
        self.channel_axis = axis_of("ChannelDropout", "channel_axis", channel_axis)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}
