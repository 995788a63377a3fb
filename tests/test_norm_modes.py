"""Normalizations are compared with equivalent ones, with formulas, and with limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from tables import DTYPES, EVERY_DTYPE, HALVES, NORMS, RESULTS, Array, Call, computed, extreme, ordinary, parameters
from tools import Each, assert_same_bits, differing

from fastopt import functional as F
from fastopt import reference

dtypes = pytest.mark.parametrize("dtype", DTYPES)
every_dtype = pytest.mark.parametrize("dtype", EVERY_DTYPE)


def layouts_of(norm: str) -> list[str]:
    return [name for name, one in NORMS.items() if one.norm == norm]


def as_other(call: Call, norm: str, without: tuple[str, ...] = (), **more: Any) -> Call:
    """The same arguments for another normalization."""
    arguments = {name: value for name, value in call.arguments.items() if name not in without}
    return replace(call, norm=norm, arguments=arguments | more)


def common(a: dict[str, Array], b: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    names = a.keys() & b.keys()
    assert {"y", "dx"} <= names
    return {name: a[name] for name in names}, {name: b[name] for name in names}


# Batch renormalization


@pytest.mark.parametrize("norm", layouts_of("batch_renorm"))
def test_batch_renorm_without_room_is_batch_norm(norm: str, each: Each, rng: Generator) -> None:
    for dtype, training in each(EVERY_DTYPE, [True, False]):
        call = NORMS[norm].call(rng, dtype, 60, 12, training=training, r_max=1.0, d_max=0.0)
        results = call.run(F)
        assert np.all(results["r"] == 1)
        assert np.all(results["d"] == 0)
        assert_same_bits(*common(results, as_other(call, "batch_norm").run(F)))


@pytest.mark.parametrize("norm", layouts_of("batch_renorm"))
def test_batch_renorm_with_all_room_normalizes_as_in_evaluation(norm: str, rng: Generator) -> None:
    """r and d undo the effect of the batch's own statistics."""
    call = NORMS[norm].call(rng, "float64", 60, 12, r_max=1e6, d_max=1e6)
    evaluated = as_other(call, "batch_norm", training=False).run(F)
    np.testing.assert_allclose(call.run(F)["y"], evaluated["y"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm", layouts_of("batch_renorm"))
def test_batch_renorm_is_the_paper(norm: str, rng: Generator) -> None:
    """Ioffe 2017, algorithm 1, with √(running_var + eps) for σ, and the derivative with r and d as constants."""
    call = NORMS[norm].call(rng, "float64", 60, 12, r_max=1.5, d_max=0.5)
    axis, given, results = call.arguments["channel_axis"], call.arguments, call.run(F)
    x, dy = (np.moveaxis(a, axis, -1).reshape(-1, 12) for a in (call.x, call.dy))
    y, dx = (np.moveaxis(results[name], axis, -1).reshape(-1, 12) for name in ("y", "dx"))
    mu, sigma_b, sigma = x.mean(0), np.sqrt(x.var(0) + 1e-5), np.sqrt(given["running_var"] + 1e-5)
    r = np.clip(sigma_b / sigma, 1 / 1.5, 1.5)
    d = np.clip((mu - given["running_mean"]) / sigma, -0.5, 0.5)
    assert 0 < np.count_nonzero(r == sigma_b / sigma) < 12  # some are clipped, and some are not
    xhat = (x - mu) / sigma_b * r + d
    np.testing.assert_allclose(y, given["weight"] * xhat + given["bias"], rtol=1e-12, atol=1e-12)
    dxhat = dy * given["weight"]
    dsigma = (dxhat * (x - mu) * -r / sigma_b**2).sum(0)
    dmu = (dxhat * -r / sigma_b).sum(0)
    expected = dxhat * r / sigma_b + dsigma * (x - mu) / (len(x) * sigma_b) + dmu / len(x)
    np.testing.assert_allclose(dx, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(results["dweight"], (dy * xhat).sum(0), rtol=1e-11)
    np.testing.assert_allclose(results["dbias"], dy.sum(0), rtol=1e-11)
    updated = as_other(call, "batch_norm").run(F)
    assert_same_bits(*({name: one[name] for name in one if "running" in name} for one in (results, updated)))


# Fused functions


@pytest.mark.parametrize("norm", layouts_of("batch_norm_relu"))
def test_batch_norm_relu_is_batch_norm_and_relu(norm: str, each: Each, rng: Generator) -> None:
    for dtype, training in each(EVERY_DTYPE, [True, False]):
        call = NORMS[norm].call(rng, dtype, 60, 12, training=training)
        results, plain = call.run(F), as_other(call, "batch_norm")
        t = plain.run(F)["y"]
        assert differing(results["y"], np.where(t > 0, t, np.zeros_like(t))) == 0
        masked = replace(plain, dy=np.where(results["y"] > 0, call.dy, np.zeros_like(call.dy))).run(F)
        if dtype not in HALVES:  # in these, y may be 0 because it is too small
            assert_same_bits({"dx": results["dx"]}, {"dx": masked["dx"]})
        assert_same_bits(
            *(
                {name: one[name] for name in one if name not in ("y", "dx", "dweight", "dbias")}
                for one in (results, masked)
            )
        )


@pytest.mark.parametrize("norm", layouts_of("batch_norm_add_relu"))
def test_batch_norm_add_relu_is_batch_norm_a_sum_and_relu(norm: str, each: Each, rng: Generator) -> None:
    for dtype, training in each(DTYPES, [True, False]):
        call = NORMS[norm].call(rng, dtype, 60, 12, training=training)
        results, plain = call.run(F), as_other(call, "batch_norm", without=("residual",))
        t = plain.run(F)["y"] + call.arguments["residual"]
        assert differing(results["y"], np.where(t > 0, t, np.zeros_like(t))) == 0
        dresidual = np.where(t > 0, call.dy, np.zeros_like(call.dy))
        assert differing(results["dresidual"], dresidual) == 0
        masked = replace(plain, dy=np.copy(dresidual, order="K")).run(F)
        assert_same_bits(
            *({name: one[name] for name in one if name not in ("y", "dresidual")} for one in (results, masked))
        )


@pytest.mark.parametrize("norm", layouts_of("batch_norm_relu") + layouts_of("batch_norm_add_relu"))
def test_where_relu_is_given_zero_it_has_no_gradient(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float32", 24, 6)
    call.arguments |= {"weight": np.zeros(6, np.float32), "bias": np.zeros(6, np.float32)}
    if "residual" in call.arguments:
        call.arguments["residual"] = np.zeros_like(call.x)
    results = call.run(F)
    assert all(np.all(results[name] == 0) for name in {"y", "dx", "dweight", "dbias", "dresidual"} & results.keys())


@pytest.mark.parametrize("norm", layouts_of("add_layer_norm") + layouts_of("add_rms_norm"))
def test_the_norm_of_a_sum_is_that_of_the_stored_sum(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 20, 70, dsum=False)
        results = call.run(F)
        plain = as_other(call, call.norm.removeprefix("add_"), without=("residual", "dsum"))
        assert_same_bits(*common(results, replace(plain, x=results["sum"]).run(F)))


@dtypes
@pytest.mark.parametrize("norm", layouts_of("add_layer_norm") + layouts_of("add_rms_norm"))
def test_the_gradient_of_a_sum_is_added_last(norm: str, dtype: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, dtype, 20, 70)
    without = replace(call, arguments=call.arguments | {"dsum": None}).run(F)
    assert differing(call.run(F)["dx"], without["dx"] + call.arguments["dsum"]) == 0


# Groups, instances and layers


@pytest.mark.parametrize("norm", layouts_of("instance_norm"))
def test_instance_norm_is_group_norm_with_a_group_for_each_channel(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 40, 12, running=False)
        grouped = as_other(call, "group_norm", without=("running_mean", "running_var"), num_groups=12)
        assert_same_bits(*common(call.run(F), grouped.run(F)))


@pytest.mark.parametrize("norm", layouts_of("group_norm"))
def test_group_norm_with_one_group_is_layer_norm_of_samples(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float64", 40, 12, weight=False, bias=False, num_groups=1)
    x, dy = (call.sets(a) for a in (call.x, call.dy))
    rows, grouped = Call("layer_norm", x, dy, {"normalized_shape": x.shape[1]}).run(F), call.run(F)
    for name in "y", "dx":
        np.testing.assert_allclose(call.sets(grouped[name]), rows[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", layouts_of("instance_norm"))
def test_running_statistics_of_instances_are_averages_over_samples(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float64", 40, 12, momentum=0.25)
    results, samples = call.run(F), call.sets(call.x).reshape(-1, 12, 40 // len(call.x))
    mean, var = samples.mean(2).mean(0), samples.var(2, ddof=1).mean(0)
    before = call.arguments["running_mean"], call.arguments["running_var"]
    np.testing.assert_allclose(results["running_mean"], 0.75 * before[0] + 0.25 * mean, rtol=1e-12)
    np.testing.assert_allclose(results["running_var"], 0.75 * before[1] + 0.25 * var, rtol=1e-12)


@pytest.mark.parametrize("norm", layouts_of("instance_norm"))
def test_instance_norm_with_running_statistics_is_batch_norm_in_evaluation(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float32", 40, 12, use_input_stats=False)
    results, evaluated = call.run(F), as_other(call, "batch_norm", without=("use_input_stats",), training=False).run(F)
    assert_same_bits(
        *({name: one[name] for name in ("y", "dx", "running_mean", "running_var")} for one in (results, evaluated))
    )
    for name in "mean", "rstd":
        assert results[name].shape == (len(call.x), 12)
        assert np.all(results[name] == evaluated[name])


# Rows


@every_dtype
def test_the_eps_of_rms_norm_is_the_epsilon_of_the_inputs_dtype(dtype: str, rng: Generator) -> None:
    eps = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    call = NORMS["rms_norm"].call(rng, dtype, 5, 30)
    assert_same_bits(call.run(F), replace(call, arguments=call.arguments | {"eps": eps}).run(F))
    assert differing(call.run(F)["rstd"], replace(call, arguments=call.arguments | {"eps": 0.0}).run(F)["rstd"]) > 0


@pytest.mark.parametrize("scale", [1.0, 2.0**30, -(2.0**-30)])
def test_cosine_norm_gives_directions(scale: float, rng: Generator) -> None:
    """They have length 1, whatever the length of the rows; rows of zeros stay zeros."""
    x = ordinary(rng, (6, 40), "float64")
    y = F.cosine_norm(x * scale, 0.0)[0]
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(y, F.cosine_norm(x * np.sign(scale), 0.0)[0], rtol=1e-14)
    np.testing.assert_allclose((F.cosine_norm_backward(y * 3, x, F.cosine_norm(x)[1]) * x).sum(1), 0, atol=1e-13)
    y, rnorm = F.cosine_norm(np.zeros((2, 5)), 1e-12)
    assert np.all(y == 0)
    np.testing.assert_allclose(rnorm, 1e6)


# Weights


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -4, None])
def test_weight_norm_gives_every_slice_its_length(dim: int | None, rng: Generator) -> None:
    """And the gradient of v is orthogonal to v."""
    v, dw = ordinary(rng, (2, 4, 5, 3, 2), "float64")
    others = tuple(axis for axis in range(4) if dim is None or axis != dim % 4)
    g = np.asarray(
        ordinary(rng, () if dim is None else [n if a not in others else 1 for a, n in enumerate(v.shape)], "float64")
    )
    w, rnorm = F.weight_norm(v, g, dim)
    length = np.sqrt((v * v).sum(others, keepdims=dim is not None))
    assert rnorm.shape == (() if dim is None else (v.shape[dim],))
    np.testing.assert_allclose(rnorm, 1 / length.reshape(rnorm.shape), rtol=1e-14)
    np.testing.assert_allclose(w, g * v / length, rtol=1e-13)
    dv, dg = F.weight_norm_backward(dw, v, g, rnorm, dim)
    assert dg.shape == g.shape
    np.testing.assert_allclose(dg, (dw * v / length).sum(others, keepdims=dim is not None), rtol=1e-11)
    np.testing.assert_allclose(dv, g / length * (dw - v / length * dg), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose((dv * v).sum(others), 0, atol=1e-11)


@every_dtype
def test_a_whole_weight_has_one_norm_without_dim(dtype: str, rng: Generator) -> None:
    v, g = ordinary(rng, (7, 30), dtype), np.array(1.5, computed(dtype))
    w, rnorm = F.weight_norm(v, g, None)
    row, row_rnorm = F.weight_norm(v.reshape(1, -1), g.reshape(1, 1), 0)
    assert differing(w, row.reshape(v.shape)) == 0
    assert differing(rnorm, row_rnorm.reshape(())) == 0


def convolved(x: Array, weight: Array, bias: Array) -> Array:
    """x (N, C, H, W), weight (out, C, h, w)."""
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))  # type: ignore[call-overload]
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None])


@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layer", ["(out, in)", "(in, out)", "convolution"])
def test_a_folded_layer_is_the_layer_and_its_batch_norm(
    layer: str, biased: bool, affine: tuple[bool, bool], rng: Generator
) -> None:
    def forward(weight: Array, bias: Array) -> Array:
        if layer == "convolution":
            return convolved(x, weight, bias)
        return np.asarray(x @ (weight.T if layer == "(out, in)" else weight) + bias)

    x = ordinary(rng, (2, 4, 8, 7) if layer == "convolution" else (9, 4), "float64")
    weight = ordinary(rng, {"(out, in)": (6, 4), "(in, out)": (4, 6), "convolution": (6, 4, 3, 2)}[layer], "float64")
    bias = ordinary(rng, 6, "float64") if biased else None
    running_mean, running_var, *params = ordinary(rng, (4, 6), "float64")
    running_var = running_var**2
    bn_weight, bn_bias = (one if given else None for one, given in zip(params, affine, strict=True))
    expected = F.batch_norm(
        forward(weight, np.zeros(6) if bias is None else bias), running_mean, running_var, bn_weight, bn_bias
    )[0]
    before = weight.copy()
    for axis in (1, -1) if layer == "(in, out)" else (0, -weight.ndim):
        folded = F.fold_batch_norm(weight, bias, running_mean, running_var, bn_weight, bn_bias, output_axis=axis)
        np.testing.assert_allclose(forward(*folded), expected, rtol=1e-11, atol=1e-12)
    assert np.array_equal(weight, before)


@pytest.mark.parametrize("numbers", [ordinary, extreme])
@every_dtype
def test_folding_is_the_reference(dtype: str, numbers: Any, rng: Generator) -> None:
    weight, bias = numbers(rng, (4, 3, 2), dtype), numbers(rng, 4, dtype)
    mean, var, bn_weight, bn_bias = numbers(rng, (4, 4), computed(dtype))
    for arguments in (weight, bias, mean, abs(var), bn_weight, bn_bias, 1e-3), (weight, None, mean, abs(var)):
        results = [dict(enumerate(module.fold_batch_norm(*arguments))) for module in (F, reference)]
        assert_same_bits(*results)  # type: ignore[arg-type]


# Empty arrays


@pytest.mark.parametrize("norm", RESULTS)
def test_empty_arrays_are_the_reference(norm: str, each: Each) -> None:
    """Their running statistics do not change."""
    for shape, dtype in each([(0, 6), (0, 6, 4), (3, 6, 0), (0, 6, 0)], EVERY_DTYPE):
        x, ones, axis = np.zeros(shape, dtype), np.ones(6, computed(dtype)), {"channel_axis": 1}
        arguments: dict[str, Any] = {"weight": ones, "bias": ones * 2, "g": ones[0, ...], "residual": x, "dsum": x}
        arguments |= {"running_mean": ones * 3, "running_var": ones * 4, "training": True}
        if "normalized_shape" in parameters(norm):
            arguments |= {"normalized_shape": shape[-1:]} | dict.fromkeys(
                ("weight", "bias"), np.ones(shape[-1:], ones.dtype)
            )
        elif norm == "weight_norm":
            arguments |= {"dim": 1, "g": ones.reshape([6 if a == 1 else 1 for a in range(len(shape))])}
        elif "channel_axis" in parameters(norm):
            arguments |= axis | ({"num_groups": 3} if norm == "group_norm" else {})
        call = Call(norm, x, x, arguments)
        if norm == "batch_norm_apply":
            assert F.batch_norm_stats(x)[0] == 0
            continue
        results = call.run(F)
        assert_same_bits(results, call.run(reference))
        for name in {"running_mean", "running_var"} & results.keys():
            assert np.all(results[name] == arguments[name])


@pytest.mark.parametrize("shape", [(2, 0), (1, 0), (0, 0), (2, 0, 3)])
def test_no_channels_are_legal(shape: tuple[int, ...]) -> None:
    x, channels = np.zeros(shape, np.float32), np.zeros(0, np.float32)
    for y, mean, rstd in (
        F.group_norm(x, 1, channels, channels),
        F.instance_norm(x),
        F.batch_norm(x, None, None, channels, channels, True),
    ):
        assert y.shape == shape
        assert not np.isnan(mean).any()
        assert not np.isnan(rstd).any()


# Layouts that could be read in two ways, or not at all


def test_channels_of_one_value_each_may_lie_anywhere(rng: Generator) -> None:
    """For slices with a single place, results and gradients may have another layout than x."""
    room, dy = ordinary(rng, (6, 4, 5), "float32"), ordinary(rng, (6, 4, 1), "float32")
    for x in room[:, :, :1], ordinary(rng, (6, 8, 1), "float32")[:, ::2]:
        y, mean, rstd = F.batch_norm(x, None, None, training=True)
        dense, *_ = F.batch_norm(np.ascontiguousarray(x), None, None, training=True)
        np.testing.assert_allclose(y, dense, rtol=1e-6, atol=1e-6)
        dx = F.batch_norm_backward(dy, x, mean, rstd, training=True)[0]
        np.testing.assert_allclose(
            dx, F.batch_norm_backward(dy, np.ascontiguousarray(x), mean, rstd, training=True)[0], rtol=1e-5, atol=1e-6
        )


def test_groups_of_no_channels_are_the_reference() -> None:
    for shape in (2, 0), (2, 0, 3), (2, 3, 0):
        axis = shape.index(0)
        x = np.zeros(shape, np.float32)
        for one, other in zip(
            F.instance_norm(x, channel_axis=axis), reference.instance_norm(x, channel_axis=axis), strict=True
        ):
            assert one.shape == other.shape
        for one, other in zip(
            F.group_norm(x, 2, channel_axis=axis), reference.group_norm(x, 2, channel_axis=axis), strict=True
        ):
            assert one.shape == other.shape
            assert np.array_equal(one, other)


def test_channels_may_lie_between_elements() -> None:
    records = np.ones((3, 3), np.dtype({"names": ["x", "y"], "formats": ["<f4", "<i2"], "itemsize": 6}))
    for x in records["x"][:1], records["x"][:1, :, None]:
        for one, other in zip(F.batch_norm_stats(x), F.batch_norm_stats(x.copy()), strict=True):
            assert np.array_equal(one, other)


def in_records(x: Array, more: int, order: tuple[int, ...]) -> Array:
    """x with its axes in this order of memory, in records that are longer by some bytes."""
    records = np.dtype({"names": ["x"], "formats": [x.dtype], "itemsize": x.itemsize + more, "offsets": [min(more, 1)]})
    field: Array = np.zeros([x.shape[axis] for axis in order], records)["x"].transpose(np.argsort(order))
    field[...] = x
    return field


def calls_of(functions: Any, x: Array, dy: Array, axis: int) -> Iterator[Any]:
    """The results of all norms of channels, of a module with these functions."""
    channels, dtype, on = x.shape[axis], "f8" if x.dtype == np.float64 else "f4", {"channel_axis": axis}
    yield functions.batch_norm_stats(x, **on)
    yield functions.batch_norm_stats(x, np.zeros(channels), **on)
    mean, rstd = np.linspace(-1, 1, channels), np.linspace(1, 2, channels)
    around = np.zeros(channels, dtype), np.ones(channels, dtype)
    for training in [False, True] if x.size > channels else [False]:
        kept = [one.copy() for one in around]
        yield functions.batch_norm(x, *kept, training=training, **on)
        yield functions.batch_norm_relu(x, *kept, training=training, **on)
        yield functions.batch_norm_add_relu(x, dy, *kept, training=training, **on)
        yield functions.batch_renorm(x, *kept, training=training, **on)
        yield functions.batch_norm_backward(dy, x, mean, rstd, training=training, **on)
        yield functions.batch_norm_relu_backward(dy, x, mean, rstd, training=training, **on)
        yield functions.batch_norm_add_relu_backward(dy, dy, x, mean, rstd, training=training, **on)
        yield functions.batch_renorm_backward(dy, x, mean, rstd, rstd, mean, training=training, **on)
    yield functions.batch_norm_apply(x, (x.size, mean, rstd), **on)
    yield functions.batch_norm_backward_stats(dy, x, mean, rstd, **on)
    yield (functions.batch_norm_backward_apply(dy, x, mean, rstd, x.size, mean, rstd, **on),)
    g = np.ones([n if a == axis else 1 for a, n in enumerate(x.shape)], dtype)
    yield functions.weight_norm(x, g, axis)
    yield functions.weight_norm_backward(dy, x, g, rstd, axis)
    if axis and x.size > len(x) * channels:
        each = np.tile(mean, (len(x), 1)), np.tile(rstd, (len(x), 1))
        yield functions.instance_norm(x, **on)
        yield functions.instance_norm_backward(dy, x, *each, **on)
        yield functions.group_norm(x, 1, **on)
        yield functions.group_norm_backward(dy, x, 1, mean=each[0][:, :1], rstd=each[1][:, :1], **on)


@pytest.mark.parametrize("more", [1, 2, 7])
@pytest.mark.parametrize("shape", [(40, 2, 1), (40, 1, 2), (1, 2, 40), (2, 40, 1), (40, 2), (40, 1), (9, 3, 1, 2)])
def test_norms_of_channels_are_the_reference_for_odd_strides(shape: tuple[int, ...], more: int, rng: Generator) -> None:
    """Also where an axis of length 1, whose stride says nothing, is the innermost one."""
    orders = list(itertools.permutations(range(len(shape))))[:: 1 if len(shape) < 4 else 5]
    ways = itertools.cycle(itertools.product(("float32", "float64", "float16"), (1, -1)))
    for (axis, order), (dtype, step) in zip(itertools.product(range(len(shape)), orders), ways, strict=False):
        x, dy = (in_records(ordinary(rng, shape, dtype), more, order)[::step] for _ in range(2))
        for number, (mine, its) in enumerate(zip(*(calls_of(one, x, dy, axis) for one in (F, reference)), strict=True)):
            for a, b in zip(mine, its, strict=True):
                assert (a is None) == (b is None)
                assert a is None or np.array_equal(a, b, equal_nan=True), (order, axis, dtype, step, number)


def test_a_count_of_fewer_values_than_there_are_is_an_error(rng: Generator) -> None:
    x = ordinary(rng, (6, 4), "float32")
    count, mean, m2 = F.batch_norm_stats(x)
    with pytest.raises(ValueError, match=r"^batch_norm_apply: count must be at least the 6 values in a channel of x"):
        F.batch_norm_apply(x, (count - 1, mean, m2))
    with pytest.raises(ValueError, match=r"^batch_norm_backward_apply: count must be at least the 6 values"):
        F.batch_norm_backward_apply(x, x, mean, mean, 0, mean, m2)


def test_a_flag_of_two_is_a_type_error(rng: Generator) -> None:
    x = ordinary(rng, (6, 4), "float32")
    with pytest.raises(TypeError, match=r"^batch_norm: training must be a bool"):
        F.batch_norm(x, None, None, training=np.array([1, 0]))  # type: ignore[arg-type]


# Zeros and numbers near them


def test_means_that_are_reported_are_zero_where_they_are_subnormal() -> None:
    for mean in (1e-310, -1e-310, np.finfo(float).tiny, -0.0):
        results = [one.batch_norm(np.ones((4, 1)), np.array([mean]), np.ones(1))[1] for one in (F, reference)]
        assert not differing(*results), mean


def test_corrections_of_renormalization_have_no_sign_where_they_are_zero() -> None:
    for channels in (1, 16, 33):
        x, zero, one = np.full((4, channels), -0.0), np.zeros(channels), np.ones(channels)
        call = dict(training=True, r_max=3.0, d_max=0.0)
        d = [of.batch_renorm(x, zero.copy(), one.copy(), **call)[4] for of in (F, reference)]
        assert not np.signbit(d).any()
