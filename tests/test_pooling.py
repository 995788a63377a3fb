"""Pooling: the reference's bits in every memory order and for any number of threads, NaN, layers, and bad input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from images import POOLINGS, Pooling, layouts
from numpy.random import Generator
from tables import EVERY_DTYPE, Array, mixed, ordinary
from tools import Each, differing, every_isa

import fastopt as fo
from fastopt import functional as F
from fastopt import nn, reference

dtypes = pytest.mark.parametrize("dtype", EVERY_DTYPE)
THREADS = (1, 2, 3, 7)
DIVISORS = ({}, {"count_include_pad": False}, {"divisor_override": -3})


def run(module: Any, case: Pooling, x: Array, dys: list[Array], axis: int) -> list[Array]:
    """All results of all four functions."""
    y, indices = module.max_pool2d(x, **case.of_max, return_indices=True, channel_axis=axis)
    results = [y, indices, module.max_pool2d(x, **case.of_max, channel_axis=axis)]
    results += [module.max_pool2d_backward(dys[0], indices, x.shape, **case.of_max, channel_axis=axis)]
    for divisors in DIVISORS:
        options = {**case.of_mean, **divisors, "channel_axis": axis}
        if case.dilation == 1:
            results += [module.avg_pool2d(x, **options), module.avg_pool2d_backward(dys[1], x.shape, **options)]
    return results


@dtypes
def test_is_the_reference(dtype: str, each: Each, rng: Generator) -> None:
    for case in each(POOLINGS):
        images = mixed(rng, case.shape, dtype)
        shape = reference.max_pool2d(images, **case.of_max).shape
        dys = [mixed(rng, shape, dtype) for _ in range(2)]
        for number, (x, axis) in enumerate(layouts(images)):
            moved = [[*layouts(dy)][number][0] for dy in dys]
            expected = run(reference, case, x, moved, axis)
            for _ in every_isa():
                for threads in each(THREADS, by_day=1):
                    with fo.threads(threads):
                        results = run(F, case, x, moved, axis)
                    assert [differing(a, b) for a, b in zip(results, expected, strict=True)] == [0] * len(expected)


def test_gradients_may_lie_in_another_way(rng: Generator) -> None:
    for case in POOLINGS:
        x = ordinary(rng, case.shape, "float32")
        y, indices = F.max_pool2d(x, **case.of_max, return_indices=True)
        dy = ordinary(rng, y.shape, "float32")
        expected = F.max_pool2d_backward(dy, indices, x.shape, **case.of_max)
        for moved, axis in layouts(dy):
            for places, its_axis in layouts(indices):
                places, size = np.moveaxis(places, its_axis, axis), np.moveaxis(x, 1, axis).shape
                dx = F.max_pool2d_backward(moved, places, size, **case.of_max, channel_axis=axis)
                assert differing(np.moveaxis(dx, axis, 1), expected) == 0


def test_results_lie_as_x_does(rng: Generator) -> None:
    for x, axis in layouts(ordinary(rng, (2, 3, 6, 8))):
        columns = axis != 1 or x.strides[1] == x.itemsize
        y, indices = F.max_pool2d(x, 2, return_indices=True, channel_axis=axis)
        dx = F.max_pool2d_backward(y, indices, x.shape, 2, channel_axis=axis)
        for result in (y, indices, dx, F.avg_pool2d(x, 2, channel_axis=axis)):
            assert (np.moveaxis(result, axis, -1) if columns else result).flags.c_contiguous


def test_nan_wins_and_the_first_of_equals(rng: Generator) -> None:
    x = np.array([[[[1.0, 1.0, 3.0, np.nan], [0.0, 1.0, np.nan, 9.0]]]])
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y, [[[[1.0, np.nan]]]])
    np.testing.assert_array_equal(indices, [[[[0, 6]]]])
    lowest = np.full((1, 1, 4, 4), -np.inf)
    y, indices = F.max_pool2d(lowest, 3, 2, 1, return_indices=True)
    assert np.all(y == -np.inf)
    np.testing.assert_array_equal(indices[0, 0], [[0, 1], [4, 5]])


def test_out_receives_the_results(rng: Generator) -> None:
    for case in POOLINGS:
        for x, axis in layouts(ordinary(rng, case.shape, "float32")):
            options = {**case.of_max, "channel_axis": axis}
            expected = F.max_pool2d(x, **options, return_indices=True)
            out = np.full_like(expected[0], np.nan), np.full_like(expected[1], -1)
            results = F.max_pool2d(x, **options, return_indices=True, out=out)
            assert all(a is b for a, b in zip(results, out, strict=True))
            assert [differing(a, b) for a, b in zip(out, expected, strict=True)] == [0, 0]
            dx = F.max_pool2d_backward(out[0], out[1], x.shape, **options)
            to = np.full_like(dx, np.nan)
            assert F.max_pool2d_backward(out[0], out[1], x.shape, **options, out=to) is to
            assert differing(to, dx) == 0


X = np.zeros((2, 3, 4, 6))
DY = np.zeros((2, 3, 2, 3))
INDICES = F.max_pool2d(X, 2, return_indices=True)[1]


def misplaced(position: tuple[int, ...], index: int) -> Array:
    indices = INDICES.copy()
    indices[position] = index
    return indices


@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d", "max_pool2d_backward", "avg_pool2d_backward"])
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be >= 1, got 0"),
        ({"kernel_size": 2.0}, TypeError, "kernel_size must be an integer, got 2.0"),
        ({"kernel_size": (2, 2, 2)}, ValueError, "kernel_size must be an integer or two of them, got (2, 2, 2)"),
        ({"kernel_size": 5}, ValueError, "kernel_size must leave every window some elements, got 5 along an axis of 4"),
        ({"stride": 0}, ValueError, "stride must be >= 1, got 0"),
        ({"stride": True}, TypeError, "stride must be an integer, got True"),
        ({"padding": 2}, ValueError, "padding must be at most half of kernel_size, got 2 with kernel_size 2"),
        ({"padding": (0, -1)}, ValueError, "padding must be >= 0, got (0, -1)"),
        ({"ceil_mode": 1}, TypeError, "ceil_mode must be a bool, got 1"),
        ({"channel_axis": 0}, ValueError, "channel_axis must name one of the axes of NAME but the first, got 0"),
        ({"channel_axis": 4}, ValueError, "channel_axis must name one of the axes of NAME but the first, got 4"),
        ({"NAME": X[0]}, ValueError, "NAME has shape (3, 4, 6), expected 4 axes"),
        ({"NAME": X.astype(int)}, TypeError, "NAME has dtype int64, expected float32, float64, float16 or bfloat16"),
        (
            {"out": np.zeros((2, 3, 4, 6), np.float32)[:, :, :2, :3]},
            TypeError,
            "out has dtype float32, expected float64",
        ),
        ({"out": np.zeros((2, 3, 4, 7))}, ValueError, "out has shape (2, 3, 4, 7), expected "),
        ({"NAME": DY.tolist()}, TypeError, "NAME must be a numpy array, got list"),
    ],
)
def test_bad_input(function: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    backward = function.endswith("backward")
    name = "dy" if backward else "x"
    arguments: dict[str, Any] = {name: DY if backward else X, "kernel_size": 2}
    if backward:
        arguments["input_size"] = X.shape
    if function == "max_pool2d_backward":
        arguments["indices"] = INDICES
    if backward and "out" in change and change["out"].dtype == np.float32:
        change = {"out": np.zeros(X.shape, np.float32)}
    arguments |= {name if key == "NAME" else key: value for key, value in change.items()}
    with pytest.raises(error, match=re.escape(f"{function}: {text.replace('NAME', name)}")):
        getattr(F, function)(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"indices": misplaced((1, 2, 1, 0), 11)}, ValueError, "indices[1, 2, 1, 0] is 11, which is not in the window"),
        ({"indices": misplaced((0, 1, 0, 2), -1)}, ValueError, "indices[0, 1, 0, 2] is -1, which is not in the window"),
        ({"indices": misplaced((0, 0, 0, 0), 24)}, ValueError, "indices[0, 0, 0, 0] is 24, which is not in the window"),
        ({"indices": misplaced((0, 0, 0, 0), 2)}, ValueError, "indices[0, 0, 0, 0] is 2, which is not in the window"),
        ({"indices": INDICES.astype(np.int64)}, TypeError, "indices has dtype int64, expected int32"),
        ({"indices": INDICES[:1]}, ValueError, "indices has shape (1, 3, 2, 3), expected (2, 3, 2, 3)"),
        ({"indices": DY}, TypeError, "indices has dtype float64, expected int32 or int64"),
        ({"input_size": (2, 3, 4, 8)}, ValueError, "dy has shape (2, 3, 2, 3), expected (2, 3, 2, 4), the result's"),
        ({"input_size": (3, 4, 6)}, ValueError, "input_size must be 4 integers >= 0, got (3, 4, 6)"),
        ({"input_size": 6}, TypeError, "input_size must be a tuple, the shape of x, got 6"),
        ({"dilation": 0}, ValueError, "dilation must be >= 1, got 0"),
        ({"dy": X.reshape(-1)[:36].reshape(2, 3, 2, 3), "out": X}, ValueError, "out would be written, but overlaps dy"),
    ],
)
def test_bad_input_of_max_backward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    out = np.full(X.shape, 5.0)
    arguments = {"dy": DY, "indices": INDICES, "input_size": X.shape, "kernel_size": 2, "out": out, **change}
    with pytest.raises(error, match=re.escape(f"max_pool2d_backward: {text}")):
        F.max_pool2d_backward(**arguments)
    assert np.all(out == 5)


def test_misplaced_indices_are_found_everywhere(each: Each, rng: Generator) -> None:
    """In every case and layout, and however they are written: one of them is replaced by one of another window."""
    for case in each(POOLINGS):
        if case.kernel_size in (case.shape[2:], 1) or 0 in case.shape:
            continue
        images = ordinary(rng, case.shape, "float32")
        y, good = F.max_pool2d(images, **case.of_max, return_indices=True)
        for _ in range(5):
            at = tuple(int(rng.integers(0, n)) for n in y.shape)
            wrong = good.copy()
            wrong[at] = good[(*at[:2], *(np.array(at[2:]) + np.array(y.shape[2:]) // 2) % y.shape[2:])]
            window = np.full(case.shape[2:], 0)
            ones = F.max_pool2d_backward(np.ones_like(y), good, images.shape, **case.of_max)
            assert ones.sum() == y.size
            window = np.zeros(y.shape, np.float32)
            window[at] = 1
            reach = F.avg_pool2d_backward(window, images.shape, **case.of_mean)[at[:2]] if case.dilation == 1 else None
            if reach is None or reach.flat[wrong[at]] != 0:
                continue
            for (dy, axis), (places, its) in zip(layouts(np.ones_like(y)), layouts(wrong), strict=True):
                where = list(at)
                where.insert(axis % 4, where.pop(1))
                size = np.moveaxis(images, 1, axis).shape
                with pytest.raises(ValueError, match=re.escape(f"indices{where} is {wrong[at]}")):
                    F.max_pool2d_backward(dy, places, size, **case.of_max, channel_axis=its)


def test_a_divisor_is_not_0() -> None:
    for call in (lambda: F.avg_pool2d(X, 2, divisor_override=0), lambda: nn.AvgPool2d(2, divisor_override=0)):
        with pytest.raises(ValueError, match=r"divisor_override must not be 0, got 0"):
            call()
    with pytest.raises(TypeError, match=r"^avg_pool2d: count_include_pad must be a bool, got None$"):
        F.avg_pool2d(X, 2, count_include_pad=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("size", [(1, 4), (2, 1), (1, 1)])
def test_images_smaller_than_a_window(size: tuple[int, int], axis: int, rng: Generator) -> None:
    """With ceil_mode the last window may reach beyond the image, and it may be the first one, too."""
    shape = (2, 3, *size) if axis == 1 else (2, *size, 3)
    x = rng.standard_normal(shape)
    for kernel, stride in ((2, 2), (3, 2), (3, 5), (4, 3)):
        options: dict[str, Any] = dict(stride=stride, ceil_mode=True, channel_axis=axis)
        for name in ("max_pool2d", "avg_pool2d"):

            def outcome(module: Any, name: str = name, kernel: int = kernel, options: dict[str, Any] = options) -> Any:
                try:
                    return getattr(module, name)(x, kernel, **options)
                except ValueError:
                    return None

            room = [n - kernel + stride - 1 for n in size]
            y = outcome(F)
            assert (y is None) == (min(room) < 0)
            if y is None:
                continue
            assert differing(y, outcome(reference)) == 0
            dy = rng.standard_normal(y.shape)
            if name == "avg_pool2d":
                arguments: tuple[Any, ...] = dy, x.shape, kernel
            else:
                arguments = dy, F.max_pool2d(x, kernel, return_indices=True, **options)[1], x.shape, kernel
            back = f"{name}_backward"
            assert (
                differing(getattr(F, back)(*arguments, **options), getattr(reference, back)(*arguments, **options)) == 0
            )


# Layers


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_layers(dtype: str, rng: Generator) -> None:
    for case in POOLINGS:
        x = ordinary(rng, case.shape, dtype)
        layer = nn.MaxPool2d(**case.of_max)
        y = layer(x)
        dy = ordinary(rng, y.shape, dtype)
        expected, indices = F.max_pool2d(x, **case.of_max, return_indices=True)
        assert differing(y, expected) == 0
        assert differing(layer.backward(dy), F.max_pool2d_backward(dy, indices, x.shape, **case.of_max)) == 0
        if case.dilation != 1:
            continue
        mean = nn.AvgPool2d(**case.of_mean, count_include_pad=False)
        to, back_to = np.empty_like(y), np.empty_like(x)
        assert mean(x, out=to) is to
        assert differing(to, F.avg_pool2d(x, **case.of_mean, count_include_pad=False)) == 0
        assert mean.backward(dy, out=back_to) is back_to
        dx = F.avg_pool2d_backward(dy, x.shape, **case.of_mean, count_include_pad=False)
        assert differing(back_to, dx) == 0


def test_layers_say_what_they_are() -> None:
    assert repr(nn.MaxPool2d((2, 3), padding=1)) == "MaxPool2d((2, 3), stride=(2, 3), padding=1)"
    assert repr(nn.AvgPool2d(3, 2, channel_axis=-1)) == "AvgPool2d(3, stride=2, channel_axis=-1)"
    assert repr(nn.Flatten()) == "Flatten()"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.MaxPool2d(0), ValueError, "MaxPool2d: kernel_size must be in [1, 2**30), got 0"),
        (lambda: nn.MaxPool2d((2, 2, 2)), ValueError, "MaxPool2d: kernel_size must be an integer or two of them"),
        (
            lambda: nn.MaxPool2d(2, padding=2),
            ValueError,
            "MaxPool2d: padding must be at most half of kernel_size, 2, got 2",
        ),
        (lambda: nn.AvgPool2d(2, stride=0.5), TypeError, "AvgPool2d: stride must be an integer, got 0.5"),
        (lambda: nn.AvgPool2d(2, ceil_mode=None), TypeError, "AvgPool2d: ceil_mode must be a bool, got None"),
        (lambda: nn.Flatten("x"), TypeError, "Flatten: start_dim must be an integer, got 'x'"),
        (lambda: nn.Flatten(2)(X[0, 0]), ValueError, "Flatten: start_dim and end_dim must name axes of x in order"),
        (lambda: nn.MaxPool2d(2).backward(DY), RuntimeError, "MaxPool2d: backward was called before forward"),
    ],
)
def test_bad_layers(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        make()


def test_flatten_goes_round(rng: Generator) -> None:
    x = ordinary(rng, (2, 3, 4, 5))
    for start, end, shape in ((1, -1, (2, 60)), (0, 1, (6, 4, 5)), (-2, -1, (2, 3, 20)), (2, 2, (2, 3, 4, 5))):
        layer = nn.Flatten(start, end)
        y = layer(x)
        assert y.shape == shape
        assert np.shares_memory(y, x)
        assert differing(layer.backward(y), x) == 0
    layer = nn.Flatten()
    layer(x)
    with pytest.raises(ValueError, match=r"Flatten: dy has shape \(2, 3\), expected \(2, 60\)"):
        layer.backward(np.zeros((2, 3)))
