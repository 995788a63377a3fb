"""Layers of batch normalization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from operator import is_not
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import flag, not_an_array, number, type_of, whole
from .._commit import at_once, commit
from .._core import kernels
from ._channels import STATISTICS, OfChannels
from ._layer import Array, Fixed, pair_of

__all__ = ["BatchNorm", "BatchNormAddReLU", "BatchNormReLU", "BatchRenorm", "update_bn"]

_NONE: Mapping[str, Any] = MappingProxyType({})


class OfBatch(OfChannels):
    """A layer that normalizes each channel over the batch, with running statistics for evaluation."""

    if not TYPE_CHECKING:
        num_features = Fixed()

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
        self._population: list[tuple[int, Array, Array]] | None = None  # the batches' statistics, while update_bn runs
        self._apart: list[Any] = []  # the statistics, parameters and gradients that were found to share no memory

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_population": None, "_apart": []}

    def _normalized(
        self, function: Callable[..., Any], x: Array, *more: Array, out: Array | None, options: tuple[float, ...] = ()
    ) -> Array:
        """The result y of a kernel like batch_norm; updates the running statistics and keeps what backward needs."""
        if not self.params and not self.buffers:
            self._expect_channels(x, self.num_features)
        tracked, population, momentum = self._statistics(), self._population, self.momentum
        running, count = self._running, None
        layer = type(self).__name__
        training, frozen = self.training, self.frozen
        if type(training) is not bool or type(frozen) is not bool:
            training, frozen = flag(layer, "training", training), flag(layer, "frozen", frozen)
        if frozen and not tracked:
            raise ValueError(f"{layer}: frozen needs track_running_stats")
        trained = not tracked or population is not None or (training and not frozen)
        if trained and tracked:
            own = [*tracked, *self.params.values(), *self.grads.values()]
            if len(own) != len(self._apart) or any(map(is_not, own, self._apart)):
                gradients = {f"grads[{key!r}]": array for key, array in self.grads.items()}
                _expect_apart(layer, tracked, {**self.params, **gradients})
                self._apart = own
            if population is None:
                count = tracked[2]
            elif not _is_one_value_each(x, self.num_features):
                running = np.copy(tracked[0], subok=True), np.copy(tracked[1], subok=True)
            else:  # kernels refuse it, as it has no variance; its own mean, and any variance, make it 0·weight + bias
                trained, running = False, (x.reshape(-1).astype(tracked[0].dtype), np.ones_like(tracked[1]))
        y: Array
        results = None if out is None else (out, *[None] * (4 if options else 2))
        try:
            if momentum is None:
                momentum = 1.0 if count is None else 1 / (count.item() + 1)
            given = *more, *running, *self._learned, trained, momentum, self.eps, *options, self.channel_axis, results
            y, *statistics = function(x, *given, count)
        except (ArithmeticError, AttributeError, TypeError, ValueError):
            if count is not None:
                _expect_to_be_written(layer, tracked, (("out", out), ("x", x), *(("residual", one) for one in more)))
            raise
        if population is not None and tracked and (x.size or not self.num_features):
            population.append(F.batch_norm_stats(x, channel_axis=self.channel_axis))
        self._kept = (x, trained, *([y] if more else ()), *statistics)
        return y


class BatchNorm(OfBatch):
    """Batch normalization, see :func:`fastopt.functional.batch_norm`; for any number of axes.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: The part of the running statistics that a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        track_running_stats: Whether to keep running statistics for evaluation, which otherwise uses those of its input.
        frozen: Whether to use the running statistics in training too, without updating them; may be changed at any time.
        channel_axis: The axis of the channels.
        dtype: The dtype of the parameters, float32 or float64.

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

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given."""
        return self._normalized(kernels.batch_norm, x, out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, trained, mean, rstd = self._last()
        given = dy, x, mean, rstd, self.params.get("weight")
        return self._gradients(F.batch_norm_backward, *given, training=trained, out=(out,))[0]


class BatchNormReLU(BatchNorm):
    """Batch normalization and ReLU in one pass, see :func:`fastopt.functional.batch_norm_relu`.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: The part of the running statistics that a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        track_running_stats: Whether to keep running statistics for evaluation, which otherwise uses those of its input.
        frozen: Whether to use the running statistics in training too, without updating them; may be changed at any time.
        channel_axis: The axis of the channels.
        dtype: The dtype of the parameters, float32 or float64.

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
        return self._normalized(kernels.batch_norm_relu, x, out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, trained, mean, rstd = self._last()
        given = dy, x, mean, rstd, *self._learned
        return self._gradients(F.batch_norm_relu_backward, *given, training=trained, out=(out,))[0]


class BatchNormAddReLU(OfBatch):
    """Batch normalization, an addition and ReLU in one pass, see :func:`fastopt.functional.batch_norm_add_relu`.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: The part of the running statistics that a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        track_running_stats: Whether to keep running statistics for evaluation, which otherwise uses those of its input.
        frozen: Whether to use the running statistics in training too, without updating them; may be changed at any time.
        channel_axis: The axis of the channels.
        dtype: The dtype of the parameters, float32 or float64.

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

    def __call__(self, x: Array, residual: Array, *, out: Array | None = None) -> Array:
        """max(normalized ``x`` + ``residual``, 0), in ``out`` if that is given; do not change it before backward."""
        return self._normalized(kernels.batch_norm_add_relu, x, residual, out=out)

    def backward(self, dy: Array, *, out: tuple[Array | None, Array | None] | None = None) -> tuple[Array, Array]:
        """Fills ``grads``, and computes the gradients of the inputs.

        Args:
            dy: The gradient with respect to the output.
            out: Arrays for the two results, ``None`` where a new one is wanted.

        Returns:
            The gradients with respect to x and to residual.
        """
        x, trained, y, mean, rstd = self._last()
        given, to = (dy, y, x, mean, rstd, self.params.get("weight")), pair_of(self, out)
        dx, dresidual, *_ = self._gradients(F.batch_norm_add_relu_backward, *given, training=trained, out=to)
        return dx, dresidual


class BatchRenorm(BatchNorm):
    """Batch renormalization, see :func:`fastopt.functional.batch_renorm`.

    ``r_max`` and ``d_max`` may be changed between steps: the paper begins with 1 and 0, which is batch normalization, and
    raises them to 3 and 5 over the first tens of thousands of steps.

    Args:
        num_features: The number of channels.
        eps: Added to the variance.
        momentum: The part of the running statistics that a batch replaces, in [0, 1]; ``None`` for the average of all batches.
        affine: Whether there are a weight (ones at first) and a bias (zeros).
        r_max: The limit of r, at least 1.
        d_max: The limit of d, at least 0.
        frozen: Whether to use the running statistics in training too, without updating them; may be changed at any time.
        channel_axis: The axis of the channels.
        dtype: The dtype of the parameters, float32 or float64.

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
        return self._normalized(kernels.batch_renorm, x, out=out, options=(r_max, d_max))

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, trained, mean, rstd, r, d = self._last()
        given = dy, x, mean, rstd, r, d, self.params.get("weight")
        return self._gradients(F.batch_renorm_backward, *given, training=trained, out=(out,))[0]


def update_bn(batches: Iterable[Any], forward: Callable[[Any], Any], layers: Iterable[OfBatch]) -> None:
    """Replaces the running statistics of layers by the exact ones over some batches.

    Meanwhile each layer normalizes with the statistics of the batch, whether it is in training, in evaluation or frozen.
    Afterwards ``running_mean`` and ``running_var`` are the mean and the unbiased variance of all values that it was given, with
    the network's present weights: each value counts once, however unequal the batches are (torch averages the batches'
    statistics).  ``num_batches_tracked`` is the number of batches with values.  A batch may have a single value per channel,
    as a last one of one sample has, which torch refuses: it counts too, and is normalized to 0, which gives the bias.  The
    caller sets everything else that differs between training and evaluation, such as dropout.  After an error the statistics
    are as before.

    Args:
        batches: The inputs of the network.
        forward: The network, a function that is called with each batch.
        layers: The layers of batch normalization in it whose statistics are to be replaced.

    Raises:
        TypeError: An entry of layers is not a layer of batch normalization.
        ValueError: A layer has no running statistics, or was given fewer than two values per channel by all batches together.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.BatchNorm(1)
        >>> nn.update_bn([np.float32([[1], [3]]), np.float32([[8], [4]])], layer, [layer])
        >>> layer.buffers["running_mean"], layer.buffers["running_var"].round(4)
        (array([4.], dtype=float32), array([8.6667], dtype=float32))

    References:
        Izmailov et al. 2018, arXiv:1803.05407, for averaged weights; Wu & Johnson 2021, arXiv:2105.07576, section 3, for
        population statistics in place of moving averages.
    """
    if not isinstance(layers, Iterable):
        raise TypeError(f"update_bn: layers must be a list of layers, got {type(layers).__name__}")
    if not isinstance(batches, Iterable):
        raise TypeError(f"update_bn: batches must be iterable, got {type_of(batches)}")
    if not callable(forward):
        raise TypeError(f"update_bn: forward must be a function of a batch, got {type_of(forward)}")
    layers = list(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, OfBatch):
            raise TypeError(f"update_bn: layers[{i}] must be a BatchNorm, got {type(layer).__name__}")
        if not layer.buffers:
            raise ValueError(f"update_bn: layers[{i}] has no running statistics")
        _expect_apart(f"update_bn: layers[{i}]", layer._statistics())
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
                    f"update_bn: layers[{i}] was given {whole[-1][1]} values per channel, expected more than 1"
                )
        for i, layer in enumerate(layers):
            _expect_apart(f"update_bn: layers[{i}]", layer._statistics())
    finally:
        try:
            _forget_populations(layers)
        finally:  # the first call was interrupted
            _forget_populations(layers)
    targets: list[Array] = []
    sources: list[Any] = []
    for layer, (its_batches, count, mean, m2) in zip(layers, whole, strict=True):
        mean_to, var_to, count_to = layer._statistics()
        targets += [mean_to, var_to, count_to]
        with np.errstate(all="ignore"):
            sources += [mean.astype(mean_to.dtype), (m2 / (count - 1)).astype(var_to.dtype), its_batches]
    commit(targets, sources)


def _is_one_value_each(x: Any, channels: int) -> bool:
    """Whether an input has a single value per channel."""
    return isinstance(x, np.ndarray) and x.size == channels > 0


def _forget_populations(layers: list[Any]) -> None:
    at_once(map(setattr, layers, repeat("_population"), repeat(None)))


def _expect_to_be_written(function: str, statistics: list[Any], others: Iterable[tuple[str, Any]] = ()) -> None:
    """Raises, with the layer's name, if running statistics or their count cannot be written, or share memory with ``others``."""
    for name, array in zip(STATISTICS, statistics, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{function}: {name} must be a numpy array, got {not_an_array(array)}")
        if not array.flags.writeable:
            raise TypeError(f"{function}: {name} is read-only, but would be written; give a copy")
        for other, its in others:
            if _overlap(array, its):
                raise ValueError(f"{function}: {name} would be written, but overlaps {other}")
    count = statistics[2]
    if count.dtype != np.int64 or count.ndim or not 0 <= count < 1 << 53:
        raise TypeError(
            f"{function}: {STATISTICS[2]} must be an int64 array without axes, in [0, 2**53), got {count!r}"
        )


def _expect_apart(function: str, statistics: list[Any], others: Mapping[str, Any] = _NONE) -> None:
    """Raises as :func:`_expect_to_be_written`, and if statistics share memory with each other; for arrays that stay the same."""
    _expect_to_be_written(function, statistics, others.items())
    mean, var, count = statistics
    for name, array, other, its in (
        (STATISTICS[0], mean, STATISTICS[1], var),
        (STATISTICS[2], count, STATISTICS[0], mean),
        (STATISTICS[2], count, STATISTICS[1], var),
    ):
        if _overlap(array, its):
            raise ValueError(f"{function}: {name} would be written, but overlaps {other}")


def _overlap(a: Array, b: Any) -> bool:
    """Whether two arrays may share memory; two arrays that own theirs cannot."""
    return a is b or (
        isinstance(b, np.ndarray)
        and (a.base is not None or b.base is not None)
        and a.size > 0
        and np.may_share_memory(a, b)
    )
