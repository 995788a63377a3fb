"""The errors of results: about one unit in the last place, at any mean.

An error is that of the worst element, relative to the largest entry of the exact result, which is computed with
``numpy.longdouble`` from the same inputs.  In float32 the largest error seen is 1.8 units of 2⁻²³ for every result,
shape, layout and mean.  The exceptions are the gradient of the one length of a whole array (2.5), and columns whose
first numbers are far from the others (4.6).  In float64 the error grows with the mean, because the mean is a float64
itself: the error of y, relative to the spread, is at least 2⁻⁵³ times the mean.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Set
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, EVERY_DTYPE, HALVES, LIKE_X, NORMS, RESULTS, Array, Call, computed, far_at_first, ordinary
from tools import Each, differing

from fastopt import functional as F
from fastopt import optim

SIZES = ((64, 1024), (1000, 32), (4, 8192))  # rows, width
MEANS = (0.0, 1e3, 1e5, 1e6)
EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
AROUND_ZERO = {norm for norm, (results, _) in RESULTS.items() if "mean" not in results}  # norms without a mean
LENGTHS = {  # norms that divide by a length, and their eps
    norm: getattr(inspect.signature(getattr(F, norm)).parameters.get("eps"), "default", 0.0)
    for norm, (results, _) in RESULTS.items()
    if "rnorm" in results
}

LAYOUTS = [norm for norm in NORMS if "slice" not in norm and "of one axis" not in norm]  # the others have dx = 0
WITH_MEAN = [norm for norm in NORMS if NORMS[norm].norm not in AROUND_ZERO]


def exactly(array: Any) -> Array:
    return np.asarray(array).astype(np.float64).astype(np.longdouble)


def exact(call: Call, results: dict[str, Array]) -> dict[str, Array]:
    """All results in long double, straight from the formulas.

    Only the stored sum, and the information where y is positive, are taken from the results.
    """
    norm, given, shape = call.norm, call.arguments, call.x.shape
    sets = call.sets(np.arange(call.x.size).reshape(shape))  # indices of the numbers of each set
    of_set = np.empty(call.x.size, int)
    of_set[sets] = np.arange(len(sets))[:, None]
    axis = given.get("channel_axis")

    def total(array: Array) -> Array:
        """Σ over each set, at each of its numbers."""
        return np.asarray(array.ravel()[sets].sum(1)[of_set].reshape(shape))

    def parameter(name: str, otherwise: float) -> Array:
        """The parameter at each number."""
        values = exactly(otherwise if given.get(name) is None else given[name])
        if axis is None or not values.ndim:
            return np.broadcast_to(values, shape)
        return np.broadcast_to(np.moveaxis(values.reshape(-1, *[1] * (len(shape) - 1)), 0, axis), shape)

    def over_rows(array: Array) -> Array:
        """Σ over the numbers that share a parameter."""
        if axis is not None:
            return np.asarray(np.moveaxis(array, axis, 0).reshape(shape[axis], -1).sum(1))
        if "g" in given:  # one g for each set, or one for all
            return np.asarray(array.ravel()[sets].sum(1 if given["g"].size == len(sets) else None))
        return np.asarray(array.reshape(-1, math.prod(given.get("normalized_shape", shape[-1:]))).sum(0))

    x, dy = exactly(results.get("sum", call.x)), exactly(call.dy)
    n = 1 if norm in LENGTHS else sets.shape[1]
    eps = ml_dtypes.finfo(call.x.dtype).eps if "rms" in norm else LENGTHS.get(norm, 1e-5)
    mean = 0 * x if norm in AROUND_ZERO else total(x) / n
    rstd = 1 / np.sqrt(total((x - mean) ** 2) / n + np.longdouble(given.get("eps", eps)))
    xhat, weight = (x - mean) * rstd, parameter("g" if "g" in given else "weight", 1)
    r, d = np.ones_like(x), np.zeros_like(x)
    if norm == "batch_renorm":
        running = np.sqrt(parameter("running_var", 1) + np.longdouble(1e-5))
        r = np.clip(1 / (rstd * running), 1 / np.longdouble(given.get("r_max", 3)), given.get("r_max", 3))
        d = np.clip((mean - parameter("running_mean", 0)) / running, -given.get("d_max", 5), given.get("d_max", 5))
    y = (xhat * r + d) * weight + parameter("bias", 0)
    if "relu" in norm:
        y = np.maximum(y + exactly(given.get("residual", 0)), 0)
        dy = np.where(exactly(results["y"]) > 0, dy, 0)
    g = dy * weight * r
    dx = rstd * (g - (0 if norm in AROUND_ZERO else total(g) / n) - xhat * (total(g * xhat) / n))
    dx = dx if given.get("dsum") is None else dx + exactly(given["dsum"])
    dweight, first = over_rows(dy * (xhat * r + d)), sets[:, 0]
    return {
        **{"y": y, "sum": x, "dx": dx, "dresidual": dy},
        **{"dweight": dweight, "dg": dweight, "sum_dy_xhat": dweight, "dbias": over_rows(dy), "sum_dy": over_rows(dy)},
        **{"mean": mean.ravel()[first], "rstd": rstd.ravel()[first], "rnorm": rstd.ravel()[first]},
    }


def error(result: Array, truth: Array) -> float:
    return float(np.max(np.abs(result.ravel() - truth.ravel())) / np.max(np.abs(truth)))


def assert_precise(call: Call, times: float = 1, without: Set[str] = frozenset()) -> None:
    """Asserts that results are close to exact ones; ``times`` multiplies the usual tolerance."""
    dtype, results = str(call.x.dtype), call.run(F)
    truth, eps, float32 = exact(call, results), EPS[computed(dtype)], computed(dtype) == "float32"
    units = times * (2.0 if float32 else 8 + 8 * np.max(np.abs(truth["mean"]) * truth["rstd"]))
    for name in ({"y", "dx", "dweight", "dbias", "dresidual", "dg"} & results.keys()) - without:
        result, expected = exactly(results[name]), truth[name].reshape(results[name].shape)
        allowed = (2 if name == "dg" else 1) * units * eps * np.max(np.abs(expected))
        if dtype in HALVES and name in LIKE_X:
            least = ml_dtypes.finfo(dtype).smallest_subnormal
            allowed = allowed + np.maximum(2.0 ** np.floor(np.log2(np.abs(expected) + 1e-300)) * EPS[dtype], least) / 2
        assert np.all(np.abs(result - expected) <= allowed), name
    if "mean" in results:
        allowed = units * eps * np.max(1 / truth["rstd"]) + np.max(np.abs(truth["mean"])) * EPS["float64"]
        assert np.max(np.abs(results["mean"].ravel() - truth["mean"])) <= allowed
    for name in {"rstd", "rnorm"} & results.keys():
        assert error(results[name], truth[name]) <= 2 * times * (EPS["float32"] if float32 else 5e-12), name


def far_away(call: Call, mean: float) -> Call:
    return replace(call, x=call.x + call.x.dtype.type(mean))


@pytest.mark.parametrize("norm", LAYOUTS)
def test_results_are_precise_at_any_mean(norm: str, each: Each, rng: Generator) -> None:
    for (rows, width), dtype in each(SIZES, DTYPES, by_day=1):
        for mean in each(MEANS, by_day=1):
            assert_precise(far_away(NORMS[norm].call(rng, dtype, rows, width), mean))


@pytest.mark.parametrize("norm", [norm for norm in LAYOUTS if "renorm" not in norm])
def test_results_are_precise_at_any_scale(norm: str, each: Each, rng: Generator) -> None:
    """This includes scales whose squares overflow or vanish.  dx of channels is 1/scale² times x in between, and
    overflows too.
    """
    for dtype, scale in each(["float32", "bfloat16"], [1e-30, 1e-22, 3e19, 1e30], by_day=3):
        call = NORMS[norm].call(rng, dtype, 64, 96, bias=False, dsum=False)
        call.arguments |= {"eps": 0.0} if "weight_norm" not in norm else {}
        call.x = (call.x * scale).astype(call.x.dtype)
        if call.arguments.get("residual") is not None:
            call.arguments["residual"] = (call.arguments["residual"] * scale).astype(call.x.dtype)
        assert_precise(call, without={"dx"} if "channel_axis" in call.arguments or "dim" in call.arguments else set())


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e20])
@pytest.mark.parametrize("shape", [(64, 4), (8, 4, 30)])
def test_squares_around_a_given_mean_are_right_at_any_scale(
    shape: tuple[int, ...], scale: float, rng: Generator
) -> None:
    x = (ordinary(rng, shape, "float64") * scale).astype(np.float32)
    x[:, 3] = scale  # constant
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    count, mean, m2 = F.batch_norm_stats(x)
    _, _, around = F.batch_norm_stats(x, mean)
    exact_m2 = ((exactly(x) - exactly(x).mean(axes, keepdims=True)) ** 2).sum(axes).astype(float)
    assert count == x.size // 4
    for found in m2, around:
        np.testing.assert_allclose(found, exact_m2, rtol=1e-6, atol=1e-14 * scale**2)


@pytest.mark.parametrize("norm", LAYOUTS)
def test_results_of_16_bits_are_rounded_once(norm: str, each: Each, rng: Generator) -> None:
    """They are within half a unit of the exact results, plus the error of float32."""
    for (rows, width), dtype in each(SIZES[:2], HALVES, by_day=1):
        for mean in each([0.0, 100.0], by_day=1):
            assert_precise(far_away(NORMS[norm].call(rng, dtype, rows, width), mean))


@pytest.mark.parametrize("norm", WITH_MEAN)
def test_results_are_precise_for_sets_that_begin_far_from_the_rest(norm: str, each: Each, rng: Generator) -> None:
    """Their first numbers give a bad estimate of the mean.  Columns, which are summed only once, are less precise."""
    for (rows, width), away in each(SIZES, [30.0, 1e3, -1e6], by_day=1):
        call = NORMS[norm].call(rng, "float32", rows, width)
        sets = call.sets(np.arange(call.x.size).reshape(call.x.shape))
        columns = re.search("NC$|NC of|NHWC", norm)
        assert_precise(replace(call, x=far_at_first(call.x, sets, away)), 5 if columns else 1)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if "add_" in norm and "relu" not in norm])
def test_a_sum_is_rounded_once(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        expected = (call.x.astype(np.float64) + call.arguments["residual"].astype(np.float64)).astype(dtype)
        assert differing(call.run(F)["sum"], expected) == 0


@pytest.mark.parametrize("norm", WITH_MEAN)
def test_constant_sets_are_centred_exactly(norm: str, each: Each, rng: Generator) -> None:
    """x̂ is 0, so y is the bias, a set adds nothing to dweight, and dx has rstd = 1/√eps."""
    for offset in each([0.0, 1.0, -1e6, 12_345_678.0]):
        call = NORMS[norm].call(rng, "float32", 24, 70)
        call.x = np.full_like(call.x, offset)
        call.arguments |= {"residual": np.zeros_like(call.x)} if "residual" in call.arguments else {}
        call.arguments |= {"r_max": 1.0, "d_max": 0.0} if call.norm == "batch_renorm" else {}
        results, eps = call.run(F), 1e-5
        truth = exact(call, results)
        assert np.all(results["y"] == truth["y"])
        assert np.all(results["mean"] == offset)
        assert all(np.all(results[name] == 0) for name in {"dweight", "sum_dy_xhat"} & results.keys())
        np.testing.assert_allclose(results["rstd"], 1 / np.sqrt(eps), rtol=1e-15)
        assert error(results["dx"], truth["dx"]) < 1e-6


def test_one_constant_row_adds_nothing_to_dweight(rng: Generator) -> None:
    x, dy = ordinary(rng, (2, 6, 50), "float32")
    x[3] = 1e6
    others = np.arange(6) != 3
    weight = np.ones(50, np.float32)
    _, mean, rstd = F.layer_norm(x, 50, weight)
    with_it = F.layer_norm_backward(dy, x, 50, mean, rstd, weight)[1]
    dy[3] = 0
    assert np.all(with_it == F.layer_norm_backward(dy, x, 50, mean, rstd, weight)[1])
    without = F.layer_norm_backward(dy[others], x[others], 50, mean[others], rstd[others], weight)[1]
    np.testing.assert_allclose(with_it, without, rtol=1e-5)


def test_running_statistics_are_torchs(rng: Generator) -> None:
    """The biased variance normalizes; the unbiased variance goes into the running statistics."""
    x = ordinary(rng, (7, 3, 5), "float64") + 10
    running_mean, running_var = np.full(3, 2.0), np.full(3, 3.0)
    _, mean, rstd = F.batch_norm(x, running_mean, running_var, training=True, momentum=0.25, eps=0.0)
    np.testing.assert_allclose(mean, x.mean((0, 2)), rtol=1e-14)
    np.testing.assert_allclose(rstd, 1 / x.std((0, 2)), rtol=1e-14)
    np.testing.assert_allclose(running_mean, 0.75 * 2 + 0.25 * x.mean((0, 2)), rtol=1e-14)
    np.testing.assert_allclose(running_var, 0.75 * 3 + 0.25 * x.var((0, 2), ddof=1), rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["adam", "adamw", "sgd"])
def test_moments_of_dead_parameters_become_zero_and_stay(rule: str, dtype: str) -> None:
    """The gradient is zero from some step on: no moment becomes subnormal, and the parameter comes to rest."""
    options: dict[str, Any] = dict(lr=1e-3, weight_decay=0.0)
    options |= dict(momentum=0.5) if rule == "sgd" else dict(betas=(0.5, 0.6), amsgrad=False)
    optimizer = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}[rule]
    p = np.ones(100, dtype)
    opt = optimizer([p], **options)
    opt.step([np.linspace(-1, 1, 100).astype(dtype)])
    zero = np.zeros_like(p)
    moments = [array for name, array in opt.state[0].items() if name != "step"]
    for _ in range(200 if dtype == "float32" else 1_600):
        opt.step([zero])
        assert all(np.all((m == 0) | (np.abs(m) >= np.finfo(dtype).tiny)) for m in moments)
    assert all(np.all(m == 0) for m in moments)
    before = p.copy()
    opt.step([zero])
    assert np.all(p == before)
    assert all(np.all(m == 0) for m in moments)
