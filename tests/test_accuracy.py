"""How far results are from exact ones: about one unit in the last place, at any mean.

Errors are those of the worst element, relative to the largest entry of the exact result, which is computed with
``numpy.longdouble`` from the very same inputs.  In float32 the largest that was seen is 1.5 units of 2⁻²³, for every result,
shape, layout and mean.  In float64 the error grows with the mean, because the mean is a float64 itself: y cannot be more precise
than mean·2⁻⁵³ of the spread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, NORMS, Array, Call, ordinary

from fastopt import functional as F
from fastopt import optim

MEANS = (0.0, 1e3, 1e5, 1e6)
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


def in_rows(call: Call, result: Array) -> Array:
    """A result of the shape of x as a matrix: of rows that are normalized, or columns."""
    axis = call.arguments.get("channel_axis")
    if axis is None:
        return result.reshape(-1, np.prod(call.arguments["normalized_shape"]))
    return np.moveaxis(result, axis, -1).reshape(-1, result.shape[axis])


def exact(call: Call) -> dict[str, Array]:
    """All results in long double, straight from the formulas."""
    x, dy = (in_rows(call, a).astype(np.longdouble) for a in (call.x, call.dy))
    weight, bias = (call.arguments[name].astype(np.longdouble).ravel() for name in ("weight", "bias"))
    over = 0 if "channel_axis" in call.arguments else 1
    mean = x.mean(over, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(over, keepdims=True) + np.longdouble(1e-5))
    xhat = (x - mean) * rstd
    g = dy * weight
    dx = rstd * (g - g.mean(over, keepdims=True) - xhat * (g * xhat).mean(over, keepdims=True))
    return {
        "y": xhat * weight + bias,
        "mean": mean.ravel(),
        "rstd": rstd.ravel(),
        "dx": dx,
        "dweight": (dy * xhat).sum(0),
        "dbias": dy.sum(0),
    }


def error(result: Array, truth: Array) -> float:
    return float(np.max(np.abs(result - truth)) / np.max(np.abs(truth)))


def far_away(call: Call, mean: float) -> Call:
    call.x = call.x + call.x.dtype.type(mean)
    return call


LAYOUTS = [norm for norm in NORMS if "slice" not in norm]
training = {norm: {"training": True} if "batch" in norm else {} for norm in NORMS}


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(64, 1024), (1000, 32), (4, 8192)])
@pytest.mark.parametrize("norm", LAYOUTS)
def test_results_are_precise_at_any_mean(
    norm: str, rows: int, width: int, dtype: str, mean: float, rng: Generator
) -> None:
    call = far_away(NORMS[norm].call(rng, dtype, rows, width, **training[norm]), mean)
    results, truth = call.run(F), exact(call)
    units = 2.0 if dtype == "float32" else 4 + 8 * mean
    for name in "y", "dx", "dweight", "dbias":
        result = in_rows(call, results[name]) if name in ("y", "dx") else results[name].ravel()
        assert error(result, truth[name]) <= units * EPS[dtype], name
    assert np.max(np.abs(results["mean"].ravel() - truth["mean"])) <= 2 * EPS[dtype] + mean * EPS["float64"]
    assert error(results["rstd"].ravel(), truth["rstd"]) <= (EPS["float32"] if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("offset", [0.0, 1.0, -1e6, 12_345_678.0])
@pytest.mark.parametrize("norm", NORMS)
def test_constant_sets_are_centred_exactly(norm: str, offset: float, rng: Generator) -> None:
    """x̂ is 0, so y is the bias, a row adds nothing to dweight, and dx is that of rstd = 1/√eps."""
    call = NORMS[norm].call(rng, "float32", 24, 70, **training[norm])
    call.x = np.full_like(call.x, offset)
    results, eps = call.run(F), 1e-5
    y, dx = (in_rows(call, results[name]) for name in ("y", "dx"))
    dy, weight = in_rows(call, call.dy).astype(float), call.arguments["weight"].astype(float).ravel()
    over = 1 if "layer" in norm else 0
    g = dy * weight
    assert np.all(y == call.arguments["bias"].ravel())
    assert np.all(results["mean"] == offset)
    assert np.all(results["dweight"] == 0)
    np.testing.assert_allclose(results["rstd"], 1 / np.sqrt(eps), rtol=1e-15)
    expected = (g - g.mean(over, keepdims=True)) / np.sqrt(eps)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=np.abs(expected).max() * 1e-6)


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
    """The variance is normalized with as the biased one and kept as the unbiased one."""
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
    """A gradient that is zero from some step on: no moment becomes subnormal, and the parameter comes to rest."""
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
