"""Normalizations and layers against torch, in float64."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from beside_torch import TOLERANCE, assert_close, one_thread, torch  # noqa: F401  # one_thread is for all tests here
from numpy.random import Generator
from tables import DTYPES, Array, ordinary

from fastopt import functional as F
from fastopt import nn, optim

# Normalizations


def double(x: Array | None) -> Any:
    return None if x is None else torch.tensor(np.asarray(x, np.float64), requires_grad=True)


@pytest.mark.parametrize("affine", ["weight and bias", "weight", "neither"])
@pytest.mark.parametrize(
    ("shape", "normalized_shape"), [((6, 33), (33,)), ((2, 3, 50), (50,)), ((4, 5, 6), (5, 6)), ((300, 7), (7,))]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_agrees(
    shape: tuple[int, ...], normalized_shape: tuple[int, ...], affine: str, dtype: str, rng: Generator
) -> None:
    x, dy = ordinary(rng, shape, dtype) + 1, ordinary(rng, shape, dtype)
    weight = ordinary(rng, normalized_shape, dtype) if "weight" in affine else None
    bias = ordinary(rng, normalized_shape, dtype) if "bias" in affine else None
    y, mean, rstd = F.layer_norm(x, normalized_shape, weight, bias)
    dx, dweight, dbias = F.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)

    x_, weight_, bias_ = double(x), double(weight), double(bias)
    y_ = torch.nn.functional.layer_norm(x_, normalized_shape, weight_, bias_)
    y_.backward(torch.tensor(np.asarray(dy, np.float64)))
    assert_close(y, y_, TOLERANCE[dtype], "y")
    assert_close(dx, x_.grad, TOLERANCE[dtype], "dx")
    if weight is not None:
        assert_close(dweight, weight_.grad, TOLERANCE[dtype], "dweight")
    if bias is not None:
        assert_close(dbias, bias_.grad, TOLERANCE[dtype], "dbias")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(16, 5), (6, 5, 9), (4, 5, 6, 7), (2, 5, 3, 4, 6), (1, 5, 40), (130, 70)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_agrees(shape: tuple[int, ...], affine: bool, training: bool, dtype: str, rng: Generator) -> None:
    x, dy = ordinary(rng, shape, dtype) + 1, ordinary(rng, shape, dtype)
    channels = shape[1]
    weight, bias = ordinary(rng, (2, channels), dtype) if affine else (None, None)
    running_mean, running_var = ordinary(rng, channels, dtype), ordinary(rng, channels, dtype) ** 2 + 1
    running_mean_, running_var_ = (torch.tensor(np.asarray(r, np.float64)) for r in (running_mean, running_var))
    x_, weight_, bias_ = double(x), double(weight), double(bias)
    y_ = torch.nn.functional.batch_norm(x_, running_mean_, running_var_, weight_, bias_, training, 0.3, 1e-3)
    y_.backward(torch.tensor(np.asarray(dy, np.float64)))

    def compare(x: Array, dy: Array, axis: int) -> None:
        mean_, var_ = running_mean.copy(), running_var.copy()
        y, mean, rstd = F.batch_norm(x, mean_, var_, weight, bias, training, 0.3, 1e-3, channel_axis=axis)
        dx, dweight, dbias = F.batch_norm_backward(dy, x, mean, rstd, weight, training=training, channel_axis=axis)
        assert_close(np.moveaxis(y, axis, 1), y_, TOLERANCE[dtype], "y")
        assert_close(np.moveaxis(dx, axis, 1), x_.grad, TOLERANCE[dtype], "dx")
        assert_close(mean_, running_mean_, TOLERANCE[dtype], "running_mean")
        assert_close(var_, running_var_, TOLERANCE[dtype], "running_var")
        if affine:
            assert_close(dweight, weight_.grad, TOLERANCE[dtype], "dweight")
            assert_close(dbias, bias_.grad, TOLERANCE[dtype], "dbias")

    compare(x, dy, 1)
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    compare(*last, -1)
    compare(*(np.moveaxis(a, -1, 1) for a in last), 1)


def differentiate(y: Any, dy: Array, *inputs: Any) -> list[Any]:
    """The gradients of some tensors, and ``None`` for tensors that are ``None``."""
    given = [one for one in inputs if one is not None]
    gradients = iter(torch.autograd.grad(y, given, torch.tensor(np.asarray(dy, np.float64))))
    return [None if one is None else next(gradients) for one in inputs]


def assert_all_close(ours: Sequence[Array | None], theirs: Sequence[Any], dtype: str, names: str) -> None:
    for a, b, name in zip(ours, theirs, names.split(), strict=True):
        if b is not None:
            assert a is not None
            assert_close(a, b, TOLERANCE[dtype], name)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("shape", "normalized_shape"), [((6, 33), (33,)), ((4, 5, 6), (5, 6)), ((300, 7), (7,))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_agrees(
    shape: tuple[int, ...],
    normalized_shape: tuple[int, ...],
    affine: bool,
    eps: float | None,
    dtype: str,
    rng: Generator,
) -> None:
    x, residual, dy, dsum = ordinary(rng, (4, *shape), dtype)
    weight = ordinary(rng, normalized_shape, dtype) if affine else None
    x_, residual_, weight_ = double(x), double(residual), double(weight)
    actual_eps = float(np.finfo(dtype).eps) if eps is None else eps

    y, rstd = F.rms_norm(x, normalized_shape, weight, eps)
    y_ = torch.nn.functional.rms_norm(x_, normalized_shape, weight_, actual_eps)
    assert_close(y, y_, TOLERANCE[dtype], "y")
    gradients = F.rms_norm_backward(dy, x, normalized_shape, rstd, weight)
    assert_all_close(gradients, differentiate(y_, dy, x_, weight_), dtype, "dx dweight")

    y, total, rstd = F.add_rms_norm(x, residual, normalized_shape, weight, eps)
    sum_ = x_ + residual_
    y_ = torch.nn.functional.rms_norm(sum_, normalized_shape, weight_, actual_eps)
    assert_all_close((y, total), (y_, sum_), dtype, "y sum")
    gradients = F.add_rms_norm_backward(dy, dsum, total, normalized_shape, rstd, weight)
    both = (y_ * double(dy)).sum() + (sum_ * double(dsum)).sum()
    dx_, dresidual_ = torch.autograd.grad(both, (x_, residual_), retain_graph=True)
    (dweight_,) = torch.autograd.grad(both, weight_) if affine else (None,)
    assert torch.equal(dx_, dresidual_)
    assert_all_close(gradients, (dx_, dweight_), dtype, "dx dweight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_layer_norm_agrees(dtype: str, rng: Generator) -> None:
    x, residual, dy, dsum = ordinary(rng, (4, 6, 33), dtype)
    weight, bias = ordinary(rng, (2, 33), dtype)
    y, total, mean, rstd = F.add_layer_norm(x, residual, 33, weight, bias)
    x_, residual_, weight_, bias_ = map(double, (x, residual, weight, bias))
    sum_ = x_ + residual_
    y_ = torch.nn.functional.layer_norm(sum_, (33,), weight_, bias_)
    assert_all_close((y, total), (y_, sum_), dtype, "y sum")
    both = (y_ * double(dy)).sum() + (sum_ * double(dsum)).sum()
    gradients = F.add_layer_norm_backward(dy, dsum, total, 33, mean, rstd, weight)
    assert_all_close(gradients, torch.autograd.grad(both, (x_, weight_, bias_)), dtype, "dx dweight dbias")


@pytest.mark.parametrize("shape", [(5, 9), (2, 3, 70), (300, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cosine_norm_agrees(shape: tuple[int, ...], dtype: str, rng: Generator) -> None:
    x, dy = ordinary(rng, (2, *shape), dtype)
    x_ = double(x)
    y_ = torch.nn.functional.normalize(x_, dim=-1)
    y, rnorm = F.cosine_norm(x, 0.0)
    assert_close(y, y_, TOLERANCE[dtype], "y")
    assert_close(F.cosine_norm_backward(dy, x, rnorm), *differentiate(y_, dy, x_), TOLERANCE[dtype], "dx")


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("shape", [(5, 9), (2, 3, 70), (300, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_norm_agrees(shape: tuple[int, ...], eps: float, dtype: str, rng: Generator) -> None:
    (x, dy), g = ordinary(rng, (2, *shape), dtype), np.array(1.7, dtype)
    x_, g_ = double(x), double(g)
    y_ = g_ * x_ / torch.sqrt((x_ * x_).sum(-1, keepdim=True) + eps)
    y, rnorm = F.scale_norm(x, g, eps)
    assert_close(y, y_, TOLERANCE[dtype], "y")
    gradients = F.scale_norm_backward(dy, x, g, rnorm)
    assert_all_close(gradients, differentiate(y_, dy, x_, g_), dtype, "dx dg")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(16, 5), (6, 5, 9), (4, 5, 6, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_with_what_follows_agrees(
    shape: tuple[int, ...], training: bool, dtype: str, rng: Generator
) -> None:
    x, residual, dy = ordinary(rng, (3, *shape), dtype)
    weight, bias, running_mean = ordinary(rng, (3, 5), dtype)
    running_var = running_mean**2 + 1
    x_, residual_, weight_, bias_ = map(double, (x, residual, weight, bias))
    mode = {"training": training}
    for added in False, True:
        running_ = [torch.tensor(np.asarray(one, np.float64)) for one in (running_mean, running_var)]
        running = [running_mean.copy(), running_var.copy()]
        t_ = torch.nn.functional.batch_norm(x_, *running_, weight_, bias_, training, 0.3, 1e-3)
        y_ = torch.relu(t_ + residual_ if added else t_)
        gradients: tuple[Any, ...]
        if added:
            y, mean, rstd = F.batch_norm_add_relu(x, residual, *running, weight, bias, training, 0.3, 1e-3)
            dx, dresidual, *gradients_ = F.batch_norm_add_relu_backward(dy, y, x, mean, rstd, weight, **mode)
            assert_close(dresidual, *differentiate(torch.relu(t_ + residual_), dy, residual_), TOLERANCE[dtype], "dr")
            gradients = (dx, *gradients_)
        else:
            y, mean, rstd = F.batch_norm_relu(x, *running, weight, bias, training, 0.3, 1e-3)
            gradients = F.batch_norm_relu_backward(dy, x, mean, rstd, weight, bias, **mode)
        assert_close(y, y_, TOLERANCE[dtype], "y")
        assert_all_close(running, running_, dtype, "running_mean running_var")
        assert_all_close(gradients, differentiate(y_, dy, x_, weight_, bias_), dtype, "dx dweight dbias")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(16, 6), (5, 6, 9), (4, 6, 5, 7), (1, 6, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_group_norm_agrees(shape: tuple[int, ...], groups: int, affine: bool, dtype: str, rng: Generator) -> None:
    if math.prod(shape[2:]) * 6 // groups == 1:
        return  # torch raises an error, and there is nothing to normalize
    x, dy = ordinary(rng, (2, *shape), dtype)
    x = x + 1
    weight, bias = ordinary(rng, (2, 6), dtype) if affine else (None, None)
    x_, weight_, bias_ = double(x), double(weight), double(bias)
    y_ = torch.nn.functional.group_norm(x_, groups, weight_, bias_, 1e-3)
    gradients_ = differentiate(y_, dy, x_, weight_, bias_)
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    for axis, (x_in, dy_in) in (1, (x, dy)), (-1, last), (1, [np.moveaxis(a, -1, 1) for a in last]):
        y, mean, rstd = F.group_norm(x_in, groups, weight, bias, 1e-3, channel_axis=axis)
        dx, *gradients = F.group_norm_backward(dy_in, x_in, groups, mean, rstd, weight, channel_axis=axis)
        assert_close(np.moveaxis(y, axis, 1), y_, TOLERANCE[dtype], "y")
        assert_all_close((np.moveaxis(dx, axis, 1), *gradients), gradients_, dtype, "dx dweight dbias")


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("shape", [(5, 6, 9), (4, 6, 5, 7), (1, 6, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_instance_norm_agrees(
    shape: tuple[int, ...], tracked: bool, affine: bool, of_input: bool, dtype: str, rng: Generator
) -> None:
    if not tracked and not of_input:
        return
    x, dy = ordinary(rng, (2, *shape), dtype)
    x = x + 1
    weight, bias = ordinary(rng, (2, 6), dtype) if affine else (None, None)
    initial = (ordinary(rng, 6, dtype), ordinary(rng, 6, dtype) ** 2 + 1) if tracked else (None, None)
    running_ = [None if one is None else torch.tensor(np.asarray(one, np.float64)) for one in initial]
    x_, weight_, bias_ = double(x), double(weight), double(bias)
    y_ = torch.nn.functional.instance_norm(x_, *running_, weight_, bias_, of_input, 0.3, 1e-3)
    gradients_ = differentiate(y_, dy, x_, weight_, bias_)
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    for axis, (x_in, dy_in) in (1, (x, dy)), (-1, last):
        running = [None if one is None else one.copy() for one in initial]
        y, mean, rstd = F.instance_norm(x_in, *running, weight, bias, of_input, 0.3, 1e-3, channel_axis=axis)
        dx, *gradients = F.instance_norm_backward(
            dy_in, x_in, mean, rstd, weight, use_input_stats=of_input, channel_axis=axis
        )
        assert_close(np.moveaxis(y, axis, 1), y_, TOLERANCE[dtype], "y")
        assert_all_close(running, running_, dtype, "running_mean running_var")
        assert_all_close((np.moveaxis(dx, axis, 1), *gradients), gradients_, dtype, "dx dweight dbias")


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((7, 5), 0),
        ((7, 5), 1),
        ((7, 5), -1),
        ((7, 5), None),
        ((4, 3, 5, 5), 0),
        ((4, 3, 5, 5), 1),
        ((9,), None),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_norm_agrees(shape: tuple[int, ...], dim: int | None, dtype: str, rng: Generator) -> None:
    v, dw = ordinary(rng, (2, *shape), dtype)
    axes = () if dim is None else tuple(n if axis == dim % v.ndim else 1 for axis, n in enumerate(shape))
    g = np.asarray(ordinary(rng, axes, dtype))
    v_, g_ = double(v), double(g)
    w_ = (
        v_ * (g_ / torch.linalg.vector_norm(v_)) if dim is None else torch._weight_norm(v_, g_, dim % v.ndim)
    )  # there -1 means None
    w, rnorm = F.weight_norm(v, g, dim)
    assert_close(w, w_, TOLERANCE[dtype], "w")
    gradients = F.weight_norm_backward(dw, v, g, rnorm, dim)
    assert_all_close(gradients, differentiate(w_, dw, v_, g_), dtype, "dv dg")


def test_folding_agrees(rng: Generator) -> None:
    """It agrees with torch's own folding for linear layers and convolutions, also transposed ones."""
    fuse = torch.nn.utils.fusion.fuse_conv_bn_weights
    for shape, axis in ((6, 4), 0), ((6, 4, 3, 3), 0), ((4, 6, 3, 3), 1):
        weight, (mean, bn_weight, bn_bias, bias) = ordinary(rng, shape, "float64"), ordinary(rng, (4, 6), "float64")
        var = mean**2 + 1
        tensors = map(torch.tensor, (mean, var))
        affine = map(torch.tensor, (bn_weight, bn_bias))
        theirs = fuse(torch.tensor(weight), torch.tensor(bias), *tensors, 1e-3, *affine, transpose=axis == 1)
        ours = F.fold_batch_norm(weight, bias, mean, var, bn_weight, bn_bias, 1e-3, output_axis=axis)
        for a, b, name in zip(ours, theirs, ("weight", "bias"), strict=True):
            assert_close(a, b.detach(), 1e-14, name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_of_16_bits_agree(dtype: str, rng: Generator) -> None:
    """They agree with torch in float64 to half a unit in the last place of the 16-bit type."""
    x, dy = (ordinary(rng, (4, 6, 10), dtype) for _ in range(2))
    weight, bias = ordinary(rng, (2, 6), "float32")
    x_, weight_, bias_ = double(x), double(weight), double(bias)
    half_a_unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype] * 1.01
    running = np.zeros(6, np.float32), np.ones(6, np.float32)
    norms = torch.nn.functional
    for ours, theirs, back in (
        (
            F.batch_norm(x, *running, weight, bias, True),
            norms.batch_norm(x_, None, None, weight_, bias_, True),
            partial(F.batch_norm_backward, training=True),
        ),
        (F.group_norm(x, 2, weight, bias), norms.group_norm(x_, 2, weight_, bias_), F.group_norm_backward),
        (
            F.instance_norm(x, weight=weight, bias=bias),
            norms.instance_norm(x_, weight=weight_, bias=bias_),
            F.instance_norm_backward,
        ),
    ):
        y, *used = ours
        groups = (2,) if back is F.group_norm_backward else ()
        dx, dweight, dbias = back(dy, x, *groups, *used, weight)
        dx_, dweight_, dbias_ = differentiate(theirs, dy, x_, weight_, bias_)
        for a, b in (y, theirs), (dx, dx_):
            assert a.dtype == dtype
            np.testing.assert_allclose(a.astype(np.float64), b.detach().numpy(), rtol=half_a_unit, atol=1e-6)
        assert_all_close((dweight, dbias), (dweight_, dbias_), "float32", "dweight dbias")


# Layers


def weight_normed(module: Any) -> Any:
    """A torch module with the parameters ``weight_g`` and ``weight_v``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(module)


def test_layers_and_torchs_modules_read_each_others_state(rng: Generator) -> None:
    for ours, theirs in (
        (nn.LayerNorm((3, 4), dtype=np.float64), torch.nn.LayerNorm((3, 4), dtype=torch.float64)),
        (nn.LayerNorm(5, bias=False, dtype=np.float64), torch.nn.LayerNorm(5, bias=False, dtype=torch.float64)),
        (nn.BatchNorm(3, dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)),
        (nn.BatchNorm(3, affine=False, dtype=np.float64), torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)),
        (nn.BatchNorm(3, track_running_stats=False), torch.nn.BatchNorm1d(3, track_running_stats=False)),
        (nn.BatchNormReLU(3, dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)),
        (nn.BatchRenorm(3, dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)),
        (nn.AddLayerNorm(3, dtype=np.float64), torch.nn.LayerNorm(3, dtype=torch.float64)),
        (nn.RMSNorm(5), torch.nn.RMSNorm(5)),
        (nn.AddRMSNorm(5, elementwise_affine=False), torch.nn.RMSNorm(5, elementwise_affine=False)),
        (nn.GroupNorm(2, 6), torch.nn.GroupNorm(2, 6)),
        (nn.GroupNorm(2, 6, affine=False), torch.nn.GroupNorm(2, 6, affine=False)),
        (nn.InstanceNorm(3), torch.nn.InstanceNorm1d(3)),
        (nn.InstanceNorm(3, affine=True), torch.nn.InstanceNorm2d(3, affine=True)),
        (
            nn.InstanceNorm(3, affine=True, track_running_stats=True, dtype=np.float64),
            torch.nn.InstanceNorm1d(3, affine=True, track_running_stats=True, dtype=torch.float64),
        ),
        (nn.WeightNormLinear(4, 3), weight_normed(torch.nn.Linear(4, 3))),
        (nn.WeightNormLinear(4, 3, bias=False), weight_normed(torch.nn.Linear(4, 3, bias=False))),
        (nn.Dropout(0.3), torch.nn.Dropout(0.3)),
    ):
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for array in ours.params.values():
            array[...] = rng.random(array.shape)
        if isinstance(ours, nn.BatchNorm) and ours.buffers:
            ours(ordinary(rng, (5, 3), "float64"))
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
        for name, tensor in theirs.state_dict().items():
            assert np.array_equal(tensor.numpy(), ours.state_dict()[name])
            assert tensor.numpy().dtype == ours.state_dict()[name].dtype
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(1)
        ours.load_state_dict(theirs.state_dict())
        for name, tensor in theirs.state_dict().items():
            assert np.array_equal(tensor.numpy(), ours.state_dict()[name])


def test_a_layer_trains_as_torchs(rng: Generator) -> None:
    """BatchNorm takes a few steps with an optimizer; then evaluation is compared."""
    layer, module = nn.BatchNorm(6, dtype=np.float64), torch.nn.BatchNorm1d(6, dtype=torch.float64)
    opt = optim.SGD(layer.params, lr=0.1, momentum=0.9)
    ref = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        x, dy = ordinary(rng, (2, 10, 6), "float64")
        x_ = torch.tensor(x, requires_grad=True)
        y, y_ = layer(x), module(x_)
        ref.zero_grad()
        y_.backward(torch.tensor(dy))
        assert_close(y, y_, 1e-12, "y")
        assert_close(layer.backward(dy), x_.grad, 1e-12, "dx")
        opt.step(layer.grads)
        ref.step()
    for name, tensor in module.state_dict().items():
        assert_close(layer.state_dict()[name], tensor, 1e-12, name)
    x = ordinary(rng, (10, 6), "float64")
    assert_close(layer.eval()(x), module.eval()(torch.tensor(x)), 1e-12, "y")


@pytest.mark.parametrize(
    ("layer", "module", "shape"),
    [
        (lambda: nn.RMSNorm(6, dtype=np.float64), lambda **k: torch.nn.RMSNorm(6, **k), (10, 6)),
        (lambda: nn.GroupNorm(2, 6, dtype=np.float64), lambda **k: torch.nn.GroupNorm(2, 6, **k), (4, 6, 5)),
        (
            lambda: nn.InstanceNorm(6, affine=True, track_running_stats=True, dtype=np.float64),
            lambda **k: torch.nn.InstanceNorm1d(6, affine=True, track_running_stats=True, **k),
            (4, 6, 5),
        ),
        (
            lambda: nn.BatchNorm(6, momentum=None, dtype=np.float64),
            lambda **k: torch.nn.BatchNorm1d(6, momentum=None, **k),
            (10, 6),
        ),
        (
            lambda: nn.WeightNormLinear(6, 3, dtype=np.float64),
            lambda **k: weight_normed(torch.nn.Linear(6, 3, **k)),
            (10, 6),
        ),
    ],
    ids=["RMSNorm", "GroupNorm", "InstanceNorm", "BatchNorm of the average", "WeightNormLinear"],
)
def test_more_layers_train_as_torchs(layer: Any, module: Any, shape: tuple[int, ...], rng: Generator) -> None:
    """The state is copied at first; then the layers take a few steps, and evaluation is compared."""
    ours, theirs = layer(), module(dtype=torch.float64)
    ours.load_state_dict({name: tensor.detach() for name, tensor in theirs.state_dict().items()})
    opt = optim.SGD(ours.params, lr=0.1, momentum=0.9)
    ref = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        x = ordinary(rng, shape, "float64")
        x_ = torch.tensor(x, requires_grad=True)
        y, y_ = ours(x), theirs(x_)
        dy = ordinary(rng, y.shape, "float64")
        ref.zero_grad()
        y_.backward(torch.tensor(dy))
        assert_close(y, y_, 1e-12, "y")
        assert_close(ours.backward(dy), x_.grad, 1e-12, "dx")
        opt.step(ours.grads)
        ref.step()
    for name, tensor in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], tensor, 1e-12, name)
    x = ordinary(rng, shape, "float64")
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)), 1e-12, "y")


def test_update_bn_is_torchs(rng: Generator) -> None:
    """Only the variance differs: torch averages the batches' variances; here it is the variance of all values."""
    ours, theirs = nn.BatchNorm(6, dtype=np.float64), torch.nn.BatchNorm1d(6, dtype=torch.float64)
    batches = ordinary(rng, (4, 10, 6), "float64")
    nn.update_bn(batches, ours, [ours])
    torch.optim.swa_utils.update_bn([torch.tensor(batch) for batch in batches], theirs)
    assert_close(ours.buffers["running_mean"], theirs.running_mean, 1e-12, "running_mean")
    assert int(theirs.num_batches_tracked) == ours.buffers["num_batches_tracked"] == 4
    assert_close(ours.buffers["running_var"], torch.tensor(batches.reshape(-1, 6)).var(0), 1e-12, "running_var")
