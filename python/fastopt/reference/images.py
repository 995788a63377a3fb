"""Pooling and convolution of images in NumPy, with the bits of the kernels; those of convolutions given NumPy's product."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ._arithmetic import flushed
from ._norm import into, numbers, stored

PRODUCT_BYTES, PRODUCT_PIXELS = (
    1 << 20,
    256,
)  # of a piece of a convolution: about so many bytes, at least so many windows


def _two(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


class Axis(NamedTuple):
    """Windows along one axis: element k of window o is at o·stride − before + k·dilation."""

    n: int
    windows: int
    size: int
    stride: int
    before: int
    dilation: int

    @property
    def at(self) -> Any:
        """Where the elements of windows are, shape (windows, size)."""
        return np.arange(self.windows)[:, None] * self.stride - self.before + np.arange(self.size) * self.dilation

    @property
    def inside(self) -> Any:
        return (self.at >= 0) & (self.at < self.n)

    def padded(self, x: Any, axis: int, filler: float) -> Any:
        """x with all that windows reach."""
        more = [(0, 0)] * x.ndim
        more[axis] = self.before, max(0, self.windows * self.stride + self.size * self.dilation)
        return np.pad(x, more, constant_values=filler)


def _elements(x: Any, y_axis: Axis, x_axis: Axis, filler: float) -> Any:
    """The elements of windows, shape (…, rows of windows, ky, windows, kx), of images (…, H, W)."""
    padded = x_axis.padded(y_axis.padded(np.asarray(x), -2, filler), -1, filler)
    rows, columns = y_axis.at + y_axis.before, x_axis.at + x_axis.before
    return padded[..., rows[:, :, None, None], columns]


def _scatter(dx: Any, y_axis: Axis, x_axis: Axis, ky: int, kx: int, terms: Any) -> None:
    """Adds to element (ky, kx) of each window, where it is inside of the image."""
    rows, columns = y_axis.inside[:, ky], x_axis.inside[:, kx]
    at = (..., y_axis.at[rows, ky][:, None], x_axis.at[columns, kx])
    dx[at] = dx[at] + terms[..., rows, :][..., columns]


def _pool_axes(size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> list[Axis]:
    axes = []
    strides = _two(kernel_size if stride is None else stride)
    for n, k, s, p, d in zip(size, _two(kernel_size), strides, _two(padding), _two(dilation), strict=True):
        windows = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (windows - 1) * s >= n + p:
            windows -= 1
        axes.append(Axis(n, windows, k, s, p, d))
    return axes


def _back(result: Any, axis: int, out: Any) -> Any:
    """Images with the channels on their axis again."""
    return into(None if out is None else (out,), np.moveaxis(np.asarray(result), 1, axis))[0]


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.max_pool2d`."""
    images = np.moveaxis(x, channel_axis, 1)
    tall, wide = _pool_axes(images.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    values = numbers(_elements(images, tall, wide, 0))
    place = tall.at[:, :, None, None] * wide.n + wide.at
    inside = tall.inside[:, :, None, None] & wide.inside
    first = tall.inside.argmax(1), wide.inside.argmax(1)
    index = np.broadcast_to(
        place[np.arange(tall.windows)[:, None], first[0][:, None], np.arange(wide.windows), first[1]],
        (*images.shape[:2], tall.windows, wide.windows),
    )
    best = np.full(index.shape, -np.inf, values.dtype)
    for ky in range(tall.size):
        for kx in range(wide.size):
            value = values[..., ky, :, kx]
            better = inside[:, ky, :, kx] & (np.asarray(value > flushed(best)) | np.isnan(np.asarray(value)))
            best = np.where(better, np.asarray(value), best)
            index = np.where(better, place[:, ky, :, kx], index)
    flat = images.reshape(*images.shape[:2], tall.n * wide.n)
    y = np.take_along_axis(flat, index.reshape(*images.shape[:2], tall.windows * wide.windows), -1)
    results = y.reshape(index.shape), index.astype(np.int32)
    if not return_indices:
        return _back(results[0], channel_axis, out)
    return tuple(_back(one, channel_axis, to) for one, to in zip(results, out or (None, None), strict=True))


def max_pool2d_backward(
    dy: Any,
    indices: Any,
    input_size: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.max_pool2d_backward`."""
    images, places = numbers(np.moveaxis(dy, channel_axis, 1)), np.moveaxis(indices, channel_axis, 1)
    size = [n for axis, n in enumerate(input_size) if axis not in (0, channel_axis % 4)]
    tall, wide = _pool_axes(size, kernel_size, stride, padding, dilation, ceil_mode)
    dx = flushed(np.zeros((*images.shape[:2], *size), images.dtype))
    for ky in reversed(range(tall.size)):
        for kx in reversed(range(wide.size)):
            here = tall.at[:, ky, None] * wide.n + wide.at[:, kx] == places
            _scatter(dx, tall, wide, ky, kx, np.where(here, np.asarray(images), images.dtype.type(0)))
    return _back(stored(dx, dy), channel_axis, out)


def _divisors(tall: Axis, wide: Axis, count_include_pad: bool, divisor_override: Any, dtype: Any) -> Any:
    if divisor_override is not None:
        return flushed(np.full((tall.windows, wide.windows), divisor_override, dtype))
    counts = []
    for axis in (tall, wide):
        begin = axis.at[:, 0]
        padded = np.minimum(begin + axis.size, axis.n + axis.before) - begin
        counts.append(padded if count_include_pad else axis.inside.sum(1))
    return flushed(np.multiply.outer(*counts).astype(dtype))


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.avg_pool2d`."""
    images = np.moveaxis(x, channel_axis, 1)
    tall, wide = _pool_axes(images.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    values = numbers(_elements(images, tall, wide, 0))
    total = flushed(np.zeros(values[..., 0, :, 0].shape, values.dtype))
    for ky in range(tall.size):
        for kx in range(wide.size):
            total = total + values[..., ky, :, kx]
    divisors = _divisors(tall, wide, count_include_pad, divisor_override, values.dtype)
    return _back(stored(total / divisors, x), channel_axis, out)


def avg_pool2d_backward(
    dy: Any,
    input_size: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.avg_pool2d_backward`."""
    images = numbers(np.moveaxis(dy, channel_axis, 1))
    size = [n for axis, n in enumerate(input_size) if axis not in (0, channel_axis % 4)]
    tall, wide = _pool_axes(size, kernel_size, stride, padding, 1, ceil_mode)
    terms = images / _divisors(tall, wide, count_include_pad, divisor_override, images.dtype)
    dx = flushed(np.zeros((*images.shape[:2], *size), images.dtype))
    for ky in reversed(range(tall.size)):
        for kx in reversed(range(wide.size)):
            _scatter(dx, tall, wide, ky, kx, terms)
    return _back(stored(dx, dy), channel_axis, out)


class _Convolution:
    """A convolution as products of matrices.

    If the channels are innermost in memory, a matrix has a row for each window, otherwise a column; a piece is some rows of windows,
    counted over all samples.
    """

    def __init__(
        self, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int, channel_axis: int
    ) -> None:
        axis = channel_axis % 4
        is_pixel = math.prod(x.shape[1:]) == x.shape[axis]
        self.last = axis == 3 or (x.shape[axis] > 1 and x.strides[axis] == x.itemsize and not is_pixel)
        self.images, self.axis, self.groups = np.moveaxis(x, axis, 1), axis, groups
        self.samples, channels, *size = self.images.shape
        self.filters, axes = weight.shape[0], []
        for n, k, s, d, i in zip(size, weight.shape[2:], _two(stride), _two(dilation), (0, 1), strict=True):
            both = {"valid": 0, "same": d * (k - 1)}[padding] if isinstance(padding, str) else 2 * _two(padding)[i]
            axes.append(Axis(n, (n + both - d * (k - 1) - 1) // s + 1, k, s, both // 2, d))
        self.tall, self.wide = axes
        of_groups = weight.transpose(0, 2, 3, 1) if self.last else weight
        self.weight = np.ascontiguousarray(of_groups).reshape(groups, self.filters // groups, -1)
        elements = _elements(self.images, self.tall, self.wide, 0).reshape(
            self.samples, groups, channels // groups, *(n for axis in axes for n in axis[1:3])
        )
        order = (1, 0, 3, 5, 4, 6, 2) if self.last else (1, 2, 4, 6, 0, 3, 5)
        self.matrix = elements.transpose(order)  # (g, n, oy, ox, ky, kx, c) or (g, c, ky, kx, n, oy, ox)
        depth = channels * math.prod(weight.shape[2:])
        pixels = max(PRODUCT_PIXELS, PRODUCT_BYTES // ((depth + self.filters) * x.itemsize))
        rows, every = max(1, pixels // self.wide.windows), self.samples * self.tall.windows
        self.pieces = [slice(first, min(first + rows, every)) for first in range(0, every, rows)]

    def of_piece(self, piece: slice) -> Any:
        groups, depth, wide = self.groups, self.weight.shape[2], self.wide.windows
        if self.last:
            rows = self.matrix.reshape(groups, -1, wide, depth)[:, piece].reshape(groups, -1, depth)
        else:
            rows = self.matrix.reshape(groups, depth, -1, wide)[:, :, piece].reshape(groups, depth, -1)
        return np.ascontiguousarray(rows)

    def rows_of(self, images: Any) -> Any:
        """Images as (filters, rows of windows, windows), or with the filters last."""
        filters, wide = self.filters, self.wide.windows
        if self.last:
            return np.moveaxis(images, self.axis, -1).reshape(-1, wide, filters)
        return np.moveaxis(images, self.axis, 0).reshape(filters, -1, wide)

    def images_of(self, rows: Any) -> Any:
        shape = self.samples, self.tall.windows, self.wide.windows
        if self.last:
            return np.moveaxis(rows.reshape(*shape, self.filters), -1, self.axis)
        return np.moveaxis(rows.reshape(self.filters, *shape), 0, self.axis)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.conv2d`."""
    conv = _Convolution(x, weight, stride, padding, dilation, groups, channel_axis)
    rows, each = [], conv.filters // groups
    with np.errstate(all="ignore"):
        for piece in conv.pieces:
            matrix = conv.of_piece(piece)
            if conv.last:
                y = np.empty((matrix.shape[1], conv.filters), x.dtype)
                for g in range(groups):
                    np.matmul(matrix[g], conv.weight[g].T, out=y[:, g * each : (g + 1) * each])
                rows.append(y if bias is None else np.asarray(flushed(y) + flushed(bias)))
            else:
                y = np.matmul(conv.weight, matrix).reshape(conv.filters, -1)
                rows.append(y if bias is None else np.asarray(flushed(y) + flushed(bias)[:, None]))
    empty = np.zeros((0, conv.filters) if conv.last else (conv.filters, 0), x.dtype)
    result = conv.images_of(np.concatenate([empty, *rows], 0 if conv.last else 1))
    return into(None if out is None else (out,), result)[0]


def conv2d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    x_grad: bool = True,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.conv2d_backward`."""
    conv = _Convolution(x, weight, stride, padding, dilation, groups, channel_axis)
    rows, each, tall, wide = conv.rows_of(dy), conv.filters // groups, conv.tall, conv.wide
    dweight, dbias = np.zeros_like(conv.weight), np.zeros(conv.filters, x.dtype)
    dx = flushed(np.zeros(conv.images.shape, x.dtype))
    with np.errstate(all="ignore"):
        for piece in conv.pieces:
            matrix = conv.of_piece(piece)
            ones, back = np.ones(matrix.shape[1 if conv.last else 2], x.dtype), np.empty_like(matrix)
            if conv.last:
                g = np.ascontiguousarray(rows[piece]).reshape(-1, conv.filters)
                part, sums = np.empty_like(dweight), ones @ g
                for i in range(groups):
                    of = g[:, i * each : (i + 1) * each]
                    np.matmul(of.T, matrix[i], out=part[i])
                    np.matmul(of, conv.weight[i], out=back[i])
                terms = back.reshape(groups, -1, wide.windows, tall.size, wide.size, conv.images.shape[1] // groups)
                terms = terms.transpose(3, 4, 0, 5, 1, 2)
            else:
                g = np.ascontiguousarray(rows[:, piece]).reshape(conv.filters, -1)
                of = g.reshape(groups, each, -1)
                part, sums = np.matmul(of, matrix.transpose(0, 2, 1)), g @ ones
                for i in range(groups):
                    np.matmul(conv.weight[i].T, of[i], out=back[i])
                terms = back.reshape(groups, -1, tall.size, wide.size, piece.stop - piece.start, wide.windows)
                terms = terms.transpose(2, 3, 0, 1, 4, 5)
            terms = terms.reshape(tall.size, wide.size, conv.images.shape[1], -1, wide.windows)
            dweight = part if piece.start == 0 else dweight + part
            dbias = sums if piece.start == 0 else dbias + sums
            for n in range(conv.samples):  # those rows of windows of the piece that are this sample's
                begin, end = (min(max(row - n * tall.windows, 0), tall.windows) for row in (piece.start, piece.stop))
                some = tall._replace(windows=end - begin, before=tall.before - begin * tall.stride)
                first = n * tall.windows + begin - piece.start
                for ky in range(tall.size if begin < end else 0):
                    for kx in range(wide.size):
                        _scatter(dx[n], some, wide, ky, kx, terms[ky, kx, :, first : first + end - begin])
    if conv.last:
        dweight = dweight.reshape(conv.filters, *weight.shape[2:], -1).transpose(0, 3, 1, 2)
    results = (
        np.moveaxis(np.asarray(dx), 1, conv.axis) if x_grad else None,
        dweight.reshape(weight.shape),
        dbias if bias_grad else None,
    )
    return into(out, *results)
