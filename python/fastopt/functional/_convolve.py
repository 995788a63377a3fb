"""How a convolution is cut into products, which NumPy computes; its arguments, checked."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._check import name_of, whole
from .._core import kernels
from ._arrays import Array, array_of, has_columns, two_of

__all__ = ["Convolving"]

DTYPES = ("float32", "float64")


class _Rooms(threading.local):
    """Scratch memory that a thread keeps from call to call; fresh memory would come from the system page by page."""

    MOST = 32 << 20  # bytes, of each that is kept

    def __init__(self) -> None:
        self.rooms: dict[str, Array] = {}

    def of(self, name: str, dtype: Any, *shape: int) -> Array:
        """Room for an array, with whatever is in it; the same for the same name."""
        need = math.prod(shape) * np.dtype(dtype).itemsize
        room = self.rooms.get(name)
        if room is None or room.size < need:
            room = np.empty(need, np.uint8)
            if need <= self.MOST:
                self.rooms[name] = room
        array: Array = room[:need].view(dtype).reshape(shape)
        return array


_rooms = _Rooms()


class Convolving:
    """The checked arguments of a convolution, and its pieces: rows of windows that one product takes.

    Arrays of images are views with the axes (N, C, H, W).  If the channels of x are innermost in memory (``columns``), matrices have a
    row for each window, otherwise a column; that decides how products are laid out, so that nothing is transposed.
    """

    def __init__(
        self, function: str, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: Any, axis: Any
    ) -> None:
        self.function = function
        axis = whole(function, "channel_axis", axis, -(1 << 53))
        array_of(function, "x", x, dtypes=DTYPES, aligned=True, way_out=lambda: _way_out("x", x))
        if x.ndim != 4:
            raise ValueError(
                f"{function}: x has shape {x.shape}, expected 4 axes: samples, channels and two of images; of one image give "
                "x[np.newaxis]"
            )
        if not -4 <= axis < 4 or axis % 4 == 0:
            raise ValueError(f"{function}: channel_axis must name one of the axes of x but the first, got {axis}")
        self.axis = axis % 4
        self.dtype, self.columns = x.dtype, has_columns(x, self.axis)
        self.x = self.in_order(x)
        self.samples, self.channels, *in_ = self.x.shape
        self.groups = whole(function, "groups", groups, 1)
        self.array("weight", weight)
        self._check_weight(weight)
        self.filters = weight.shape[0]
        self.size: tuple[int, int] = weight.shape[2:]
        self._windows(in_, stride, padding, two_of(function, "dilation", dilation, 1))
        self.weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1) if self.columns else weight).reshape(
            self.groups, self.filters // self.groups, -1
        )
        self.depth = self.channels * math.prod(self.size)  # terms of an output's sum, over all groups
        pixels = kernels.PRODUCT_BYTES // ((self.depth + self.filters) * self.dtype.itemsize or 1)
        self._rows = max(1, max(kernels.PRODUCT_PIXELS, pixels) // self.out[1])

    def _check_weight(self, weight: Array) -> None:
        function, groups = self.function, self.groups
        if weight.ndim != 4:
            raise ValueError(
                f"{function}: weight has shape {weight.shape}, expected (out_channels, in_channels/groups, height, width)"
            )
        if weight.shape[1] * groups != self.channels:
            raise ValueError(
                f"{function}: x has {self.channels} channels on axis {self.axis}, the channel_axis, expected "
                f"{weight.shape[1] * groups}, as weight has shape {weight.shape} and groups is {groups}"
            )
        if weight.shape[0] % groups:
            raise ValueError(f"{function}: groups must divide the {weight.shape[0]} filters of weight, got {groups}")
        if 0 in weight.shape:
            raise ValueError(f"{function}: weight has shape {weight.shape}, expected at least one element on each axis")

    def _windows(self, in_: list[int], stride: Any, padding: Any, dilation: tuple[int, int]) -> None:
        """The windows along both axes, and how many there are."""
        function = self.function
        strides = two_of(function, "stride", stride, 1)
        reaches = [(size - 1) * step + 1 for size, step in zip(self.size, dilation, strict=True)]
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(
                    f"{function}: padding must be 'valid', 'same', an integer or two of them, got {padding!r}"
                )
            if padding == "same" and strides != (1, 1):
                raise ValueError(f"{function}: stride must be 1 with padding='same', got {stride}")
            both = [reach - 1 if padding == "same" else 0 for reach in reaches]  # on both sides together
            before = [some // 2 for some in both]
        else:
            before = [*two_of(function, "padding", padding, 0)]
            both = [2 * some for some in before]
        out = [(n + some - reach) // step + 1 for n, some, reach, step in zip(in_, both, reaches, strides, strict=True)]
        for n, some, reach, windows in zip(in_, both, reaches, out, strict=True):
            if windows < 1:
                raise ValueError(
                    f"{function}: weight reaches over {reach} elements, expected at most {n + some}, the size of the image "
                    "with its padding"
                )
        if math.prod(out) >= 1 << 40 or math.prod(out) * self.samples * self.filters >= 1 << 48:
            raise ValueError(
                f"{function}: padding makes results of shape {(self.samples, self.filters, *out)}, which no memory has room for"
            )
        self.out = out[0], out[1]
        axes = [*zip(in_, out, self.size, strides, before, dilation, strict=True)]
        self.plain = self.size == strides == (1, 1) and not any(both) and self.groups == 1
        self._kernels = kernels.Convolution(axes[0], axes[1], self.columns, self.groups)

    # Arguments and results

    def in_order(self, images: Array) -> Array:
        """A view with the axes samples, channels, rows and columns."""
        view: Array = images.transpose(0, self.axis, *(axis for axis in (1, 2, 3) if axis != self.axis))
        return view

    def shape(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of an array of images with the channels on their axis."""
        shape = [self.samples, *size]
        shape.insert(self.axis, channels)
        return tuple(shape)

    def array(self, name: str, array: Any, shape: tuple[int, ...] | None = None) -> Array:
        """An argument that is only read."""
        return array_of(
            self.function,
            name,
            array,
            shape,
            (name_of(self.dtype),),
            aligned=True,
            way_out=lambda: f", as x has: pass {name}.astype(x.dtype)",
        )

    def images(self, name: str, out: Any, shape: tuple[int, ...]) -> Array:
        """A result that is images, in columns or planes as x."""
        if out is not None:
            array_of(self.function, name, out, shape, (name_of(self.dtype),), aligned=True)
            order = np.moveaxis(out, self.axis, -1) if self.columns else out
            if not order.flags.c_contiguous:
                where = "its channels" if self.columns else "its axes in order"
                raise TypeError(
                    f"{self.function}: {name} must have {where} innermost in memory, as x has, without gaps or negative strides; "
                    "None makes such an array"
                )
            return self._writeable(name, out)
        if not self.columns:
            return kernels.empty(shape, self.dtype)
        last = [n for axis, n in enumerate(shape) if axis != self.axis]
        return np.moveaxis(kernels.empty((*last, shape[self.axis]), self.dtype), -1, self.axis)

    def parameter(self, name: str, out: Any, shape: tuple[int, ...]) -> Array:
        """A result that has the shape of a parameter."""
        if out is None:
            return kernels.empty(shape, self.dtype)
        return self._writeable(name, array_of(self.function, name, out, shape, (name_of(self.dtype),), contiguous=True))

    def _writeable(self, name: str, out: Array) -> Array:
        if not out.flags.writeable:
            raise TypeError(f"{self.function}: {name} is read-only, but would be written; give a copy")
        return out

    def expect_apart(self, written: dict[str, Array | None], read: dict[str, Array | None]) -> None:
        """Raises if an array that is written shares memory with another one."""
        targets = [(name, array) for name, array in written.items() if array is not None]
        others = targets + [(name, array) for name, array in read.items() if array is not None]
        for i, (name, target) in enumerate(targets):
            for other, array in others[i + 1 :]:
                if _share_memory(target, array):
                    raise ValueError(f"{self.function}: {name} would be written, but overlaps {other}")

    # Pieces

    def pieces(self) -> Iterator[tuple[tuple[int, int], slice]]:
        """Rows of windows, counted over all samples, as (first, count), and their windows."""
        rows, wide = self.samples * self.out[0], self.out[1]
        for first in range(0, rows, self._rows):
            count = min(self._rows, rows - first)
            yield (first, count), slice(first * wide, (first + count) * wide)

    def room(self, name: str, *shape: int) -> Array:
        return _rooms.of(name, self.dtype, *shape)

    def matrix(self, name: str, windows: int) -> Array:
        """Room for the matrix of a piece: (groups, depth, windows), or (groups, windows, depth)."""
        depth = self.depth // self.groups
        return self.room(name, self.groups, *((windows, depth) if self.columns else (depth, windows)))

    def unfold(self, piece: tuple[int, int], windows: slice) -> Array:
        """The matrix of a piece; a view of x where that is all there is to it."""
        if self.columns and self.plain and (last := np.moveaxis(self.x, 1, -1)).flags.c_contiguous:
            return last.reshape(1, -1, self.channels)[:, windows]
        matrix = self.matrix("matrix", windows.stop - windows.start)
        self._kernels.unfold(piece, self.x, matrix)
        return matrix

    def fold(self, piece: tuple[int, int], matrix: Array, dx: Array) -> None:
        self._kernels.fold(piece, matrix, dx)

    def forward(self, y: Array, bias: Array | None) -> None:
        """Fills y."""
        y, filters = self.in_order(y), self.filters // self.groups
        rows = np.moveaxis(y, 1, -1).reshape(-1, self.filters) if self.columns else y  # a view
        for piece, windows in self.pieces():
            matrix = self.unfold(piece, windows)
            if self.columns:
                to = rows[windows]
                for g in range(self.groups):
                    np.matmul(matrix[g], self.weight[g].T, out=to[:, g * filters : (g + 1) * filters])
                if bias is not None:
                    self._kernels.add_bias(to, bias)
            else:
                product = self.room("product", self.groups, filters, windows.stop - windows.start)
                np.matmul(self.weight, matrix, out=product)
                self._kernels.place(piece, product, bias, y)

    def backward(self, dy: Array, dx: Array | None, dweight: Array, dbias: Array | None) -> None:
        """Fills the gradients."""
        dy, dx = self.in_order(dy), None if dx is None else self.in_order(dx)
        total = np.empty_like(self.weight) if self.columns else dweight.reshape(self.weight.shape)  # that is a view
        if not self.samples:
            total[...] = 0
        if not self.samples and dbias is not None:
            dbias[...] = 0
        part = self.room("part", *self.weight.shape)
        for piece, windows in self.pieces():
            is_first, count = piece[0] == 0, windows.stop - windows.start
            g, to = self._collect(dy, piece, windows), total if is_first else part
            of_groups = np.split(g, self.groups, axis=1 if self.columns else 0)
            matrix = self.unfold(piece, windows)
            for i, of in enumerate(of_groups):
                np.matmul(of.T if self.columns else of, matrix[i] if self.columns else matrix[i].T, out=to[i])
            if not is_first:
                total += part
            if dbias is not None:
                ones = np.ones(count, self.dtype)
                sums = ones @ g if self.columns else g @ ones
                np.copyto(dbias, sums if is_first else dbias + sums)
            if dx is not None:
                back = self.matrix("back", count)
                for i, of in enumerate(of_groups):
                    if self.columns:
                        np.matmul(of, self.weight[i], out=back[i])
                    else:
                        np.matmul(self.weight[i].T, of, out=back[i])
                self.fold(piece, back, dx)
        if self.columns:
            dweight[...] = total.reshape(self.filters, *self.size, -1).transpose(0, 3, 1, 2)

    def _collect(self, dy: Array, piece: tuple[int, int], windows: slice) -> Array:
        """dy of a piece as a matrix: (filters, windows), or (windows, filters), of which rows may be a view of dy."""
        first, count = piece
        if not self.columns:
            matrix = self.room("dy", self.filters, windows.stop - windows.start)
            self._kernels.collect(piece, dy, matrix)
            return matrix
        last = np.moveaxis(dy, 1, -1)
        if last.flags.c_contiguous:
            return last.reshape(-1, self.filters)[windows]
        matrix = self.room("dy", count, self.out[1], self.filters)
        tall = self.out[0]
        for n in range(first // tall, -(-(first + count) // tall)):
            begin, end = max(first, n * tall), min(first + count, (n + 1) * tall)
            matrix[begin - first : end - first] = last[n, begin - n * tall : end - n * tall]
        return matrix.reshape(-1, self.filters)


def _share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays share an element; for strange strides, whether they may."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=1_000_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _way_out(name: str, array: Any) -> str:
    half = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return (": NumPy has no fast product of 16-bit numbers" if half else "") + f"; pass {name}.astype(np.float32)"
