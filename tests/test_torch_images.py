"""Convolutions, pooling and embeddings against torch: values and gradients, in float64 and float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from beside_torch import assert_close, one_thread, torch  # noqa: F401  # one_thread is for all tests here
from images import CONVOLUTIONS, POOLINGS, Convolution, Pooling, layouts, some_indices
from numpy.random import Generator
from tables import DTYPES, Array, ordinary

from fastopt import functional as F
from fastopt import nn

dtypes = pytest.mark.parametrize("dtype", DTYPES)
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def double(x: Array) -> Any:
    return torch.tensor(np.asarray(x, np.float64), requires_grad=True)


@dtypes
@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case.shape[0]])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_conv2d_agrees(case: Convolution, dtype: str, rng: Generator) -> None:
    images, weight, bias = (ordinary(rng, shape, dtype) for shape in (case.shape, case.weight, case.weight[0]))
    x_, weight_, bias_ = double(images), double(weight), double(bias)
    y_ = torch.nn.functional.conv2d(x_, weight_, bias_, **case.options)
    gradients = ordinary(rng, tuple(y_.shape), dtype)
    y_.backward(double(gradients).detach())
    for (x, axis), (dy, _) in zip(layouts(images), layouts(gradients), strict=True):
        y = F.conv2d(x, weight, bias, **case.options, channel_axis=axis)
        dx, dweight, dbias = F.conv2d_backward(dy, x, weight, **case.options, channel_axis=axis)
        assert dx is not None
        assert dbias is not None
        assert_close(np.moveaxis(y, axis, 1), y_, TOLERANCE[dtype], "y")
        assert_close(np.moveaxis(dx, axis, 1), x_.grad, TOLERANCE[dtype], "dx")
        assert_close(dweight, weight_.grad, TOLERANCE[dtype], "dweight")
        assert_close(dbias, bias_.grad, TOLERANCE[dtype], "dbias")


@dtypes
@pytest.mark.parametrize("case", [case for case in POOLINGS if 0 not in case.shape])
def test_pooling_agrees(case: Pooling, dtype: str, rng: Generator) -> None:
    images = ordinary(rng, case.shape, dtype)
    x_ = double(images)
    y_, indices_ = torch.nn.functional.max_pool2d(x_, **case.of_max, return_indices=True)
    gradients = ordinary(rng, tuple(y_.shape), dtype)
    y_.backward(double(gradients).detach())
    for (x, axis), (dy, _) in zip(layouts(images), layouts(gradients), strict=True):
        y, indices = F.max_pool2d(x, **case.of_max, return_indices=True, channel_axis=axis)
        dx = F.max_pool2d_backward(dy, indices, x.shape, **case.of_max, channel_axis=axis)
        assert_close(np.moveaxis(y, axis, 1), y_, 0, "y")
        np.testing.assert_array_equal(np.moveaxis(indices, axis, 1), indices_.numpy())
        assert_close(np.moveaxis(dx, axis, 1), x_.grad, TOLERANCE[dtype], "dx")
    for divisors in ({}, {"count_include_pad": False}, {"divisor_override": 5}) if case.dilation == 1 else ():
        x_ = double(images)
        y_ = torch.nn.functional.avg_pool2d(x_, **case.of_mean, **divisors)
        y_.backward(double(gradients).detach())
        for (x, axis), (dy, _) in zip(layouts(images), layouts(gradients), strict=True):
            options = {**case.of_mean, **divisors, "channel_axis": axis}
            assert_close(np.moveaxis(F.avg_pool2d(x, **options), axis, 1), y_, TOLERANCE[dtype], "y")
            dx = F.avg_pool2d_backward(dy, x.shape, **options)
            assert_close(np.moveaxis(dx, axis, 1), x_.grad, TOLERANCE[dtype], "dx")


def test_max_pool2d_has_torchs_nan_and_equals() -> None:
    x = np.array([[[[1.0, 1.0, 3.0, np.nan], [0.0, 1.0, np.nan, 9.0], [5.0, 5.0, 0.0, -0.0], [5.0, 5.0, -0.0, 0.0]]]])
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    y_, indices_ = torch.nn.functional.max_pool2d(torch.tensor(x), 2, return_indices=True)
    np.testing.assert_array_equal(y, y_.numpy())
    np.testing.assert_array_equal(indices, indices_.numpy())


@dtypes
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding_agrees(padding_idx: int | None, dtype: str, rng: Generator) -> None:
    weight, indices = ordinary(rng, (20, 33), dtype), some_indices(rng, 20, (7, 9))
    weight_ = double(weight)
    y_ = torch.nn.functional.embedding(torch.tensor(indices), weight_, padding_idx)
    dy = ordinary(rng, (7, 9, 33), dtype)
    y_.backward(double(dy).detach())
    assert_close(F.embedding(indices, weight, padding_idx), y_, 0, "y")
    assert_close(F.embedding_backward(dy, indices, 20, padding_idx), weight_.grad, TOLERANCE[dtype], "dweight")


def test_state_of_layers_is_torchs(rng: Generator) -> None:
    """Both ways, and a small network computes the same."""
    ours: list[nn.Layer] = [
        nn.Conv2d(3, 8, 3, padding=1, seed=0, dtype=np.float64),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, 2, bias=False, seed=1, dtype=np.float64),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
    ]
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 6, 3, 2, bias=False),
        torch.nn.AvgPool2d(2, 1),
        torch.nn.Flatten(),
    ).double()
    for one, other in zip(ours, theirs, strict=True):
        one.load_state_dict(other.state_dict())
        other.load_state_dict({name: torch.tensor(array) for name, array in one.state_dict().items()})
    x = ordinary(rng, (4, 3, 14, 12))
    x_, y = double(x), x
    for one in ours:
        y = one(y)  # type: ignore[operator]
    y_ = theirs(x_)
    dy = ordinary(rng, y.shape)
    y_.backward(torch.tensor(dy))
    assert_close(y, y_, 1e-12, "y")
    for one in reversed(ours):
        dy = one.backward(dy)  # type: ignore[attr-defined]
    assert_close(dy, x_.grad, 1e-12, "dx")
    for one, other in zip(ours, theirs, strict=True):
        for name, param in other.named_parameters():
            assert_close(one.grads[name], param.grad, 1e-12, name)
    ours_, other = nn.Embedding(5, 4, dtype=np.float64), torch.nn.Embedding(5, 4).double()
    ours_.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(ours_(np.arange(5)), other.weight.detach().numpy())
