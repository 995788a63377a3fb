"""Convolution: the reference's bits given the product's, in every memory order; layers, and bad input."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from images import CONVOLUTIONS, Convolution, layouts
from mistakes import unaligned
from numpy.random import Generator
from tables import DTYPES, HALVES, Array, mixed, ordinary
from tools import Each, differing, every_isa

import fastopt as fo
from fastopt import _core, nn, reference
from fastopt import functional as F

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def learned(rng: Generator, case: Convolution, dtype: str) -> tuple[Array, Array]:
    return ordinary(rng, case.weight, dtype), ordinary(rng, case.weight[0], dtype)


def run(module: Any, case: Convolution, arrays: tuple[Array, Array, Array, Array], axis: int) -> list[Array]:
    """All results of both functions."""
    x, dy, weight, bias = arrays
    options = {**case.options, "channel_axis": axis}
    results = [module.conv2d(x, weight, one, **options) for one in (bias, None)]
    results += module.conv2d_backward(dy, x, weight, **options)
    results += [
        one
        for one in module.conv2d_backward(dy, x, weight, x_grad=False, bias_grad=False, **options)
        if one is not None
    ]
    return results


@dtypes
def test_is_the_reference(dtype: str, each: Each, rng: Generator) -> None:
    for case in each(CONVOLUTIONS):
        weight, bias = learned(rng, case, dtype)
        images = ordinary(rng, case.shape, dtype)
        gradients = ordinary(rng, reference.conv2d(images, weight, **case.options).shape, dtype)
        for (x, axis), (dy, _) in zip(layouts(images), layouts(gradients), strict=True):
            arrays = x, dy, weight, bias
            expected = run(reference, case, arrays, axis)
            for _ in every_isa():
                for threads in each((1, 2, 5), by_day=1):
                    with fo.threads(threads):
                        results = run(F, case, arrays, axis)
                    assert [differing(a, b) for a, b in zip(results, expected, strict=True)] == [0] * len(expected)


@dtypes
def test_is_the_reference_with_extreme_numbers(dtype: str, each: Each, rng: Generator) -> None:
    """What surrounds the product has subnormal numbers as zero, and infinities and NaN where they belong."""
    for case in each(CONVOLUTIONS[:4]):
        weight, bias = mixed(rng, case.weight, dtype), mixed(rng, case.weight[0], dtype)
        images = mixed(rng, case.shape, dtype)
        with np.errstate(all="ignore"):
            gradients = mixed(rng, reference.conv2d(images, weight, **case.options).shape, dtype)
        for (x, axis), (dy, _) in zip(layouts(images), layouts(gradients), strict=True):
            arrays = x, dy, weight, bias
            expected = run(reference, case, arrays, axis)
            assert [differing(a, b) for a, b in zip(run(F, case, arrays, axis), expected, strict=True)] == [0] * len(
                expected
            )


def test_parameters_and_gradients_may_have_any_layout(rng: Generator) -> None:
    for case in CONVOLUTIONS:
        weight, bias = learned(rng, case, "float32")
        x = ordinary(rng, case.shape, "float32")
        y = F.conv2d(x, weight, bias, **case.options)
        dy = ordinary(rng, y.shape, "float32")
        expected = F.conv2d_backward(dy, x, weight, **case.options)
        others = np.asfortranarray(weight), np.repeat(bias, 2)[::2]
        assert differing(F.conv2d(x, *others, **case.options), y) == 0
        for moved, axis in layouts(dy):
            moved = np.moveaxis(moved, axis, 1)
            results = F.conv2d_backward(moved, x, others[0], **case.options)
            assert [differing(a, b) for a, b in zip(results, expected, strict=True)] == [0] * 3  # type: ignore[arg-type]


def test_results_lie_as_x_does(rng: Generator) -> None:
    weight = ordinary(rng, (5, 3, 3, 3))
    for x, axis in layouts(ordinary(rng, (2, 3, 6, 8))):
        columns = axis != 1 or x.strides[1] == x.itemsize
        y = F.conv2d(x, weight, padding=1, channel_axis=axis)
        dx, dweight, _ = F.conv2d_backward(y, x, weight, padding=1, channel_axis=axis)
        assert dx is not None
        for result in (y, dx):
            assert (np.moveaxis(result, axis, -1) if columns else result).flags.c_contiguous
        assert dweight.flags.c_contiguous


def test_out_receives_the_results(rng: Generator) -> None:
    for case in CONVOLUTIONS:
        weight, bias = learned(rng, case, "float32")
        for x, axis in layouts(ordinary(rng, case.shape, "float32")):
            options = {**case.options, "channel_axis": axis}
            y = F.conv2d(x, weight, bias, **options)
            expected = F.conv2d_backward(y, x, weight, **options)
            to, out = np.full_like(y, np.nan), tuple(np.full_like(one, np.nan) for one in expected)  # type: ignore[arg-type]
            assert F.conv2d(x, weight, bias, **options, out=to) is to
            assert differing(to, y) == 0
            results = F.conv2d_backward(y, x, weight, **options, out=out)
            assert all(a is b for a, b in zip(results, out, strict=True))
            assert [differing(a, b) for a, b in zip(out, expected, strict=True)] == [0] * 3  # type: ignore[arg-type]


def test_is_what_its_formula_says(rng: Generator) -> None:
    """One number after the other."""
    x, weight, bias = ordinary(rng, (2, 4, 5, 6)), ordinary(rng, (6, 2, 2, 3)), ordinary(rng, 6)
    y = F.conv2d(x, weight, bias, (2, 1), (1, 2), (1, 2), 2)
    for n, o, oy, ox in np.ndindex(y.shape):
        total = bias[o]
        for c, ky, kx in np.ndindex(2, 2, 3):
            at = oy * 2 - 1 + ky, ox - 2 + kx * 2
            if 0 <= at[0] < 5 and 0 <= at[1] < 6:
                total += weight[o, c, ky, kx] * x[(n, o // 3 * 2 + c, *at)]
        assert abs(y[n, o, oy, ox] - total) < 1e-12


def test_pieces_are_the_references() -> None:
    assert (_core.kernels.PRODUCT_BYTES, _core.kernels.PRODUCT_PIXELS) == (
        reference.images.PRODUCT_BYTES,
        reference.images.PRODUCT_PIXELS,
    )


def test_scratch_memory_does_not_grow_with_the_batch() -> None:
    import tracemalloc

    weight = np.zeros((8, 64, 3, 3), np.float32)
    peaks = []
    for samples in (8, 64):
        x = np.zeros((samples, 64, 32, 32), np.float32)
        y = np.zeros((samples, 8, 32, 32), np.float32)
        tracemalloc.start()
        F.conv2d(x, weight, padding=1, out=y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 4 << 20  # all windows of eight samples take 18 MiB


X, WEIGHT, BIAS = np.zeros((2, 4, 5, 6)), np.zeros((6, 2, 3, 3)), np.zeros(6)
DY = np.zeros((2, 6, 3, 4))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"x": X[0]}, ValueError, "x has shape (4, 5, 6), expected 4 axes"),
        (
            {"x": X.astype(np.float16)},
            TypeError,
            "x has dtype float16, expected float32 or float64: NumPy has no fast product",
        ),
        ({"x": X.astype(int)}, TypeError, "x has dtype int64, expected float32 or float64; pass x.astype(np.float32)"),
        ({"x": X.tolist()}, TypeError, "x must be a numpy array, got list"),
        ({"x": X[:, :3]}, ValueError, "x has 3 channels on axis 1, the channel_axis, expected 4, as weight has shape"),
        (
            {"weight": WEIGHT[0]},
            ValueError,
            "weight has shape (2, 3, 3), expected (out_channels, in_channels/groups, height",
        ),
        ({"weight": WEIGHT.astype(np.float32)}, TypeError, "weight has dtype float32, expected float64, as x has"),
        ({"weight": WEIGHT[:5]}, ValueError, "groups must divide the 5 filters of weight, got 2"),
        ({"weight": WEIGHT[:0]}, ValueError, "weight has shape (0, 2, 3, 3), expected at least one element"),
        ({"weight": np.zeros((6, 2, 8, 3))}, ValueError, "weight reaches over 8 elements, expected at most 5"),
        ({"groups": 4}, ValueError, "x has 4 channels on axis 1, the channel_axis, expected 8, as weight has shape"),
        ({"groups": 0}, ValueError, "groups must be in [1, 2**53), got 0"),
        ({"stride": (1, 0)}, ValueError, "stride must be in [1, 2**30), got 0"),
        ({"stride": (1, 1, 1)}, ValueError, "stride must be an integer or two of them, got (1, 1, 1)"),
        ({"stride": 1.5}, TypeError, "stride must be an integer, got 1.5"),
        ({"padding": -1}, ValueError, "padding must be in [0, 2**30), got -1"),
        ({"padding": "full"}, ValueError, "padding must be 'valid', 'same', an integer or two of them, got 'full'"),
        ({"padding": "same", "stride": 2}, ValueError, "stride must be 1 with padding='same', got 2"),
        ({"dilation": 3}, ValueError, "weight reaches over 7 elements, expected at most 5"),
        ({"channel_axis": 0}, ValueError, "channel_axis must name one of the axes of x but the first, got 0"),
        ({"channel_axis": 4}, ValueError, "channel_axis must name one of the axes of x but the first, got 4"),
        ({"channel_axis": None}, TypeError, "channel_axis must be an integer, got None"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"x": X, "weight": WEIGHT, "groups": 2, **change}
    with pytest.raises(error, match=re.escape(f"conv2d: {text}")):
        F.conv2d(**arguments)
    with pytest.raises(error, match=re.escape(f"conv2d_backward: {text}")):
        F.conv2d_backward(DY, **arguments)


@pytest.mark.parametrize("dtype", HALVES)
def test_16_bit_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"x has dtype {dtype}, .* 16-bit numbers; pass x\.astype\(np\.float32\)"):
        F.conv2d(X.astype(dtype), WEIGHT.astype(dtype), groups=2)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"bias": BIAS[:5]}, ValueError, "bias has shape (5,), expected (6,)"),
        ({"bias": BIAS.astype(np.float32)}, TypeError, "bias has dtype float32, expected float64, as x has"),
        ({"out": np.zeros((2, 6, 3, 5))}, ValueError, "out has shape (2, 6, 3, 5), expected (2, 6, 3, 4)"),
        ({"out": DY.astype(np.float32)}, TypeError, "out has dtype float32, expected float64"),
        ({"out": np.zeros((2, 6, 3, 8))[..., ::2]}, TypeError, "out must have its axes in order innermost in memory"),
        ({"out": np.broadcast_to(DY, DY.shape)}, TypeError, "out is read-only, but would be written; give a copy"),
        ({"out": X.reshape(-1)[:144].reshape(DY.shape)}, ValueError, "out would be written, but overlaps x"),
    ],
)
def test_bad_input_of_forward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    out = change.get("out", np.zeros(DY.shape))
    before = out.copy()
    with pytest.raises(error, match=re.escape(f"conv2d: {text}")):
        F.conv2d(**{"x": X, "weight": WEIGHT, "groups": 2, "out": out, **change})
    assert differing(out, before) == 0


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"dy": DY[..., :3]}, ValueError, "dy has shape (2, 6, 3, 3), expected (2, 6, 3, 4)"),
        ({"dy": DY.astype(np.float32)}, TypeError, "dy has dtype float32, expected float64, as x has: pass dy.astype"),
        ({"x_grad": 1}, TypeError, "x_grad must be a bool, got 1"),
        ({"bias_grad": None}, TypeError, "bias_grad must be a bool, got None"),
        ({"x_grad": False, "out": (np.zeros_like(X), None, None)}, ValueError, "out[0] is given, but x_grad is False"),
        ({"bias_grad": False, "out": (None, None, BIAS)}, ValueError, "out[2] is given, but bias_grad is False"),
        ({"out": (None, None)}, TypeError, "out must be a tuple of 3, with None for new results"),
        ({"out": (None, WEIGHT.copy()[::-1], None)}, TypeError, "out[1] must be C-contiguous"),
        ({"out": (None, WEIGHT, None)}, ValueError, "out[1] would be written, but overlaps weight"),
        ({"out": (None, None, np.zeros(5))}, ValueError, "out[2] has shape (5,), expected (6,)"),
        ({"out": (X, None, None)}, ValueError, "out[0] would be written, but overlaps x"),
    ],
)
def test_bad_input_of_backward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(f"conv2d_backward: {text}")):
        F.conv2d_backward(**{"dy": DY, "x": X, "weight": WEIGHT, "groups": 2, **change})


# The layer


@dtypes
def test_layer(dtype: str, rng: Generator) -> None:
    for case in CONVOLUTIONS:
        for bias in (True, False):
            filters, channels, *size = case.weight
            layer = nn.Conv2d(
                channels * case.groups, filters, tuple(size), **case.options, bias=bias, seed=1, dtype=dtype
            )
            params, grads, x = layer.params, {**layer.grads}, ordinary(rng, case.shape, dtype)
            assert layer.state_dict().keys() == {"weight", "bias"} - ({"bias"} - {*params})
            y = layer(x)
            dy = ordinary(rng, y.shape, dtype)
            dx = layer.backward(dy)
            expected = F.conv2d(x, params["weight"], params.get("bias"), **case.options)
            assert differing(y, expected) == 0
            results = F.conv2d_backward(dy, x, params["weight"], **case.options)
            ours = [dx, *layer.grads.values()]
            assert all(layer.grads[name] is grads[name] for name in grads)
            assert [differing(a, b) for a, b in zip(ours, results, strict=False)] == [0] * (2 + bias)  # type: ignore[arg-type]


def test_a_first_layer_needs_no_gradient_of_its_input(rng: Generator) -> None:
    x, options = ordinary(rng, (2, 6, 7, 3), "float32"), {"channel_axis": -1, "seed": 3}
    first, other = (nn.Conv2d(3, 4, 3, input_grad=wanted, **options) for wanted in (False, True))  # type: ignore[arg-type]
    dy = first(x)
    assert differing(dy, other(x)) == 0
    assert first.backward(dy) is None
    assert other.backward(dy) is not None
    assert all(differing(first.grads[name], other.grads[name]) == 0 for name in ("weight", "bias"))


def test_initial_weights_are_those_of_torch() -> None:
    """Uniform in ±1/√(terms of a sum), the bias too."""
    layer = nn.Conv2d(32, 64, 3, groups=2, seed=0)
    bound = 1 / np.sqrt(16 * 9)
    for param in layer.params.values():
        assert 0.9 * bound < np.abs(param).max() <= bound
    assert abs(layer.params["weight"].std() - bound / np.sqrt(3)) < 0.02 * bound
    again = nn.Conv2d(32, 64, 3, groups=2, seed=np.random.default_rng(0))
    assert differing(again.params["weight"], layer.params["weight"]) == 0


def test_layer_says_what_it_is() -> None:
    assert repr(nn.Conv2d(3, 8, 3, padding="same", bias=False)) == "Conv2d(3, 8, 3, padding='same', bias=False)"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"in_channels": 0}, ValueError, "in_channels must be in [1, 2**53), got 0"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size must be an integer or two of them, got (3, 3, 3)"),
        ({"groups": 3}, ValueError, "groups must divide in_channels, 4, got 3"),
        ({"groups": 4}, ValueError, "groups must divide out_channels, 6, got 4"),
        ({"padding": "full"}, ValueError, "padding must be 'valid', 'same', an integer or two of them, got 'full'"),
        ({"padding": "same", "stride": 2}, ValueError, "stride must be 1 with padding='same', got 2"),
        ({"bias": 1}, TypeError, "bias must be a bool, got 1"),
        ({"dtype": "float16"}, TypeError, "dtype must be float32 or float64, got float16"),
        ({"seed": "x"}, TypeError, "seed must be an integer >= 0, a NumPy generator or None, got 'x'"),
    ],
)
def test_bad_layers(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(f"Conv2d: {text}")):
        nn.Conv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **change})


def test_arrays_that_are_not_aligned_are_named(rng: Generator) -> None:
    x, weight, bias = (rng.standard_normal(shape) for shape in ((2, 3, 6, 6), (4, 3, 3, 3), (4,)))
    dy = np.ones_like(F.conv2d(x, weight, bias))
    calls: list[tuple[Callable[..., Any], dict[str, Array], list[Array]]] = [
        (F.conv2d, {"x": x, "weight": weight, "bias": bias}, [dy]),
        (F.conv2d_backward, {"dy": dy, "x": x, "weight": weight}, [x, weight, bias]),
    ]
    for call, arguments, results in calls:
        for name, array in arguments.items():
            with pytest.raises(TypeError, match=rf"^{call.__name__}: {name} is not aligned: its elements do not lie"):
                call(**arguments | {name: unaligned(array)})
        for i, array in enumerate(results):
            out: Any = unaligned(array)
            if len(results) > 1:
                out = tuple(out if k == i else None for k in range(len(results)))
            label = f"out[{i}]" if len(results) > 1 else "out"
            with pytest.raises(TypeError, match=rf"^{call.__name__}: {re.escape(label)} is not aligned"):
                call(**arguments, out=out)
