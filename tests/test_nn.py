"""Layers: what their functions compute, with parameters, gradients and running statistics of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, HALVES, Array, computed, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn, optim

dtypes = pytest.mark.parametrize("dtype", DTYPES)
every_dtype = pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])

# name: the layer, with parameters of a dtype, and the shape of an input
LAYERS: dict[str, tuple[Callable[[str], nn.Layer], tuple[int, ...]]] = {
    "LayerNorm": (lambda dtype: nn.LayerNorm(6, dtype=dtype), (5, 6)),
    "LayerNorm of two axes": (lambda dtype: nn.LayerNorm((4, 6), eps=1e-3, dtype=dtype), (3, 2, 4, 6)),
    "LayerNorm without bias": (lambda dtype: nn.LayerNorm(6, bias=False, dtype=dtype), (5, 6)),
    "LayerNorm without weight": (lambda dtype: nn.LayerNorm(6, elementwise_affine=False, dtype=dtype), (5, 6)),
    "AddLayerNorm": (lambda dtype: nn.AddLayerNorm(6, eps=1e-3, dtype=dtype), (5, 6)),
    "AddLayerNorm without weight": (lambda dtype: nn.AddLayerNorm(6, elementwise_affine=False, dtype=dtype), (5, 6)),
    "RMSNorm": (lambda dtype: nn.RMSNorm((2, 3), dtype=dtype), (5, 2, 3)),
    "RMSNorm without weight": (lambda dtype: nn.RMSNorm(6, 1e-3, False, dtype=dtype), (5, 6)),
    "AddRMSNorm": (lambda dtype: nn.AddRMSNorm(6, dtype=dtype), (5, 6)),
    "AddRMSNorm without weight": (lambda dtype: nn.AddRMSNorm(6, 1e-3, False, dtype=dtype), (5, 6)),
    "BatchNorm": (lambda dtype: nn.BatchNorm(6, dtype=dtype), (5, 6)),
    "BatchNorm NCHW": (lambda dtype: nn.BatchNorm(6, momentum=0.3, eps=1e-3, dtype=dtype), (2, 6, 3, 4)),
    "BatchNorm NHWC": (lambda dtype: nn.BatchNorm(6, channel_axis=-1, dtype=dtype), (2, 3, 4, 6)),
    "BatchNorm without weight": (lambda dtype: nn.BatchNorm(6, affine=False, dtype=dtype), (5, 6)),
    "BatchNorm without statistics": (lambda dtype: nn.BatchNorm(6, track_running_stats=False, dtype=dtype), (5, 6)),
    "BatchNorm of the average": (lambda dtype: nn.BatchNorm(6, momentum=None, dtype=dtype), (5, 6)),
    "BatchNorm frozen": (lambda dtype: nn.BatchNorm(6, frozen=True, dtype=dtype), (5, 6)),
    "BatchNormReLU": (lambda dtype: nn.BatchNormReLU(6, dtype=dtype), (4, 6, 3)),
    "BatchNormReLU without weight": (lambda dtype: nn.BatchNormReLU(6, affine=False, dtype=dtype), (5, 6)),
    "BatchNormAddReLU": (lambda dtype: nn.BatchNormAddReLU(6, channel_axis=-1, dtype=dtype), (4, 3, 6)),
    "BatchRenorm": (lambda dtype: nn.BatchRenorm(6, dtype=dtype), (5, 6)),
    "BatchRenorm with limits": (lambda dtype: nn.BatchRenorm(6, r_max=1.1, d_max=0.1, dtype=dtype), (4, 6, 3)),
    "GroupNorm": (lambda dtype: nn.GroupNorm(2, 6, dtype=dtype), (4, 6, 3)),
    "GroupNorm NHWC": (lambda dtype: nn.GroupNorm(3, 6, 1e-3, channel_axis=-1, dtype=dtype), (2, 3, 4, 6)),
    "GroupNorm without weight": (lambda dtype: nn.GroupNorm(3, 6, affine=False, dtype=dtype), (4, 6)),
    "InstanceNorm": (lambda dtype: nn.InstanceNorm(6, dtype=dtype), (4, 6, 3)),
    "InstanceNorm with statistics": (lambda dtype: nn.InstanceNorm(6, 1e-3, 0.3, True, True, dtype=dtype), (4, 6, 3)),
    "InstanceNorm NHWC": (lambda dtype: nn.InstanceNorm(6, affine=True, channel_axis=3, dtype=dtype), (2, 3, 4, 6)),
    "CosineLinear": (lambda dtype: nn.CosineLinear(6, 4, seed=1, dtype=dtype), (5, 6)),
    "CosineLinear of more axes": (lambda dtype: nn.CosineLinear(6, 4, 0.1, seed=1, dtype=dtype), (2, 5, 6)),
    "WeightNormLinear": (lambda dtype: nn.WeightNormLinear(6, 4, seed=1, dtype=dtype), (5, 6)),
    "WeightNormLinear without bias": (lambda dtype: nn.WeightNormLinear(6, 4, False, seed=1, dtype=dtype), (2, 5, 6)),
}
TWO_INPUTS = (nn.AddLayerNorm, nn.AddRMSNorm, nn.BatchNormAddReLU)
LINEAR = (nn.CosineLinear, nn.WeightNormLinear)
layers = pytest.mark.parametrize("name", LAYERS)
like_batch_norm = pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("Batch")])

Arrays = tuple[Array, ...]


def tupled(value: Any) -> Arrays:
    return value if isinstance(value, tuple) else (value,)


def make(name: str, dtype: str, rng: Generator) -> tuple[Any, Arrays, Arrays]:
    """A layer with random parameters, its inputs, and the gradients of its outputs."""
    layer = LAYERS[name][0](computed(dtype))
    shape = LAYERS[name][1]
    for param in layer.params.values():
        param[...] = ordinary(rng, param.shape, param.dtype.name)
    inputs = tuple(ordinary(rng, (1 + isinstance(layer, TWO_INPUTS), *shape), dtype))
    outputs = (*shape[:-1], 4) if isinstance(layer, LINEAR) else shape
    gradients = tuple(ordinary(rng, (1 + isinstance(layer, (nn.AddLayerNorm, nn.AddRMSNorm)), *outputs), dtype))
    return layer, inputs, gradients


def expected(layer: Any, inputs: Arrays, gradients: Arrays) -> tuple[Arrays, Arrays, dict[str, Array | None]]:
    """Outputs, the gradients of inputs, and those of parameters, by the functions; running statistics are updated in copies."""
    (x, *residual), (dy, *dsum) = inputs, gradients
    params = layer.params
    weight, bias = params.get("weight"), params.get("bias")
    running = [layer.buffers[name].copy() if layer.buffers else None for name in ("running_mean", "running_var")]
    kind = type(layer).__name__
    if kind == "CosineLinear":
        rows, g = x.astype(weight.dtype).reshape(-1, 6), dy.astype(weight.dtype).reshape(-1, 4)
        (u, rnorm), (w, wnorm) = F.cosine_norm(rows, layer.eps), F.cosine_norm(weight, layer.eps)
        y, dx = u @ w.T, F.cosine_norm_backward(g @ w, rows, rnorm)
        grads = {"weight": F.cosine_norm_backward(g.T @ u, weight, wnorm)}
        return (y.astype(x.dtype).reshape(dy.shape),), (dx.astype(x.dtype).reshape(x.shape),), grads
    if kind == "WeightNormLinear":
        v, length = params["weight_v"], params["weight_g"]
        rows, g = x.astype(v.dtype).reshape(-1, 6), dy.astype(v.dtype).reshape(-1, 4)
        w, rnorm = F.weight_norm(v, length)
        y, dx = rows @ w.T + (0 if bias is None else bias), g @ w
        dv, dg = F.weight_norm_backward(g.T @ rows, v, length, rnorm)
        grads = {"weight_v": dv, "weight_g": dg, "bias": g.sum(0)}
        return (y.astype(x.dtype).reshape(dy.shape),), (dx.astype(x.dtype).reshape(x.shape),), grads
    if kind in ("LayerNorm", "RMSNorm"):
        norm, learned = (F.layer_norm, (weight, bias)) if kind == "LayerNorm" else (F.rms_norm, (weight,))
        back = F.layer_norm_backward if kind == "LayerNorm" else F.rms_norm_backward
        y, *used = norm(x, layer.normalized_shape, *learned, layer.eps)
        dx, *grads = back(dy, x, layer.normalized_shape, *used, weight)
        return (y,), (dx,), dict(zip(("weight", "bias"), grads, strict=False))
    if kind in ("AddLayerNorm", "AddRMSNorm"):
        norm, learned = (F.add_layer_norm, (weight, bias)) if kind == "AddLayerNorm" else (F.add_rms_norm, (weight,))
        back = F.add_layer_norm_backward if kind == "AddLayerNorm" else F.add_rms_norm_backward
        y, total, *used = norm(x, *residual, layer.normalized_shape, *learned, layer.eps)
        dx, *grads = back(dy, *dsum, total, layer.normalized_shape, *used, weight)
        return (y, total), (dx,), dict(zip(("weight", "bias"), grads, strict=False))
    axis = {"channel_axis": layer.channel_axis}
    if kind == "GroupNorm":
        y, *used = F.group_norm(x, layer.num_groups, weight, bias, layer.eps, **axis)
        dx, dw, db = F.group_norm_backward(dy, x, layer.num_groups, *used, weight, **axis)
        return (y,), (dx,), {"weight": dw, "bias": db}
    if kind == "InstanceNorm":
        own = layer.training or not layer.buffers
        y, *used = F.instance_norm(x, *running, weight, bias, own, layer.momentum, layer.eps, **axis)
        dx, dw, db = F.instance_norm_backward(dy, x, *used, weight, use_input_stats=own, **axis)
        return (y,), (dx,), {"weight": dw, "bias": db}
    training = not layer.buffers or (layer.training and not layer.frozen)
    of_mode = {"training": training, **axis}
    momentum = 1.0 if layer.momentum is None else layer.momentum
    function = {
        "BatchNormReLU": "batch_norm_relu",
        "BatchNormAddReLU": "batch_norm_add_relu",
        "BatchRenorm": "batch_renorm",
    }
    norm, back = (getattr(F, function.get(kind, "batch_norm") + end) for end in ("", "_backward"))
    more = (layer.r_max, layer.d_max) if kind == "BatchRenorm" else ()
    y, *used = norm(x, *residual, *running, weight, bias, training, momentum, layer.eps, *more, **axis)
    kept, learned = ((y,) if residual else ()), (weight, bias) if kind == "BatchNormReLU" else (weight,)
    *dx, dw, db = back(dy, *kept, x, *used, *learned, **of_mode)
    return (y,), tuple(dx), {"weight": dw, "bias": db}


def assert_same(results: Iterable[Array], others: Iterable[Array]) -> None:
    assert [differing(a, b) for a, b in zip(results, others, strict=True)] == [0 for _ in others]


def assert_gradients(layer: nn.Layer, gradients: dict[str, Array | None]) -> None:
    for key, array in layer.grads.items():
        gradient = gradients[key]
        assert gradient is not None
        assert differing(array, gradient) == 0


def out_like(arrays: Arrays) -> Any:
    copies = tuple(np.empty_like(array) for array in arrays)
    return copies if len(copies) > 1 else copies[0]


def test_every_layer_is_here() -> None:
    made = {type(make("float32")).__name__ for make, _ in LAYERS.values()}
    others = {"Layer", "update_bn", "Dropout", "GaussianDropout", "ChannelDropout"}  # of which test_dropout.py knows
    assert made == set(nn.__all__) - others


@pytest.mark.parametrize("training", [True, False])
@every_dtype
@layers
def test_layer_computes_what_its_functions_do(name: str, dtype: str, training: bool, rng: Generator) -> None:
    layer, inputs, gradients = make(name, dtype, rng)
    layer.train(training)
    outputs, dxs, dparams = expected(layer, inputs, gradients)
    assert_same(tupled(layer(*inputs)), outputs)
    assert_same(tupled(layer.backward(*gradients)), dxs)
    assert_gradients(layer, dparams)


@layers
def test_parameters_and_gradients_stay_the_same_objects(name: str, rng: Generator) -> None:
    layer, inputs, gradients = make(name, "float32", rng)
    held = layer.params | {f"grad {key}": array for key, array in layer.grads.items()} | layer.buffers
    assert layer.params.keys() == layer.grads.keys()
    for _ in range(3):
        layer(*inputs)
        layer.backward(*gradients)
        layer.eval()(*inputs)
        layer.load_state_dict(layer.train().state_dict())
    after = layer.params | {f"grad {key}": array for key, array in layer.grads.items()} | layer.buffers
    assert all(after[key] is held[key] for key in held)


@every_dtype
@layers
def test_out_receives_the_results(name: str, dtype: str, rng: Generator) -> None:
    layer, inputs, gradients = make(name, dtype, rng)
    outputs, dxs, _ = expected(layer, inputs, gradients)
    to, back_to = out_like(outputs), out_like(dxs)
    assert all(a is b for a, b in zip(tupled(layer(*inputs, out=to)), tupled(to), strict=True))
    assert all(a is b for a, b in zip(tupled(layer.backward(*gradients, out=back_to)), tupled(back_to), strict=True))
    assert_same(tupled(to), outputs)
    assert_same(tupled(back_to), dxs)


@layers
def test_backward_may_be_called_again_and_for_other_batches(name: str, rng: Generator) -> None:
    """A gradient is overwritten, not gathered; the batch may have another size each time."""
    layer, inputs, gradients = make(name, "float32", rng)
    for times in 1, 2, 1:
        more_inputs, more_gradients = (tuple(np.concatenate([a] * times) for a in one) for one in (inputs, gradients))
        _, dxs, dparams = expected(layer, more_inputs, more_gradients)
        layer(*more_inputs)
        for _ in range(2):
            assert_same(tupled(layer.backward(*more_gradients)), dxs)
            assert_gradients(layer, dparams)


@layers
def test_backward_is_the_derivative_of_forward(name: str, rng: Generator) -> None:
    """By central differences, along a random direction in inputs and parameters."""
    layer, inputs, gradients = make(name, "float64", rng)
    if isinstance(layer, nn.BatchRenorm):
        layer.buffers["running_mean"][...], layer.buffers["running_var"][...] = 100.0, 1e-4  # r and d at their limits
    state = layer.state_dict()

    def outputs() -> float:
        value = sum(float(np.sum(y * dy)) for y, dy in zip(tupled(layer(*inputs)), gradients, strict=True))
        for key, buffer in layer.buffers.items():
            buffer[...] = state[key]
        return value

    outputs()
    dxs = tupled(layer.backward(*gradients))
    if len(dxs) < len(inputs):
        dxs *= 2  # the same for both
    pairs = [*zip(inputs, dxs, strict=True), *((layer.params[key], layer.grads[key]) for key in layer.params)]
    along, h = [ordinary(rng, array.shape, "float64") for array, _ in pairs], 1e-6
    derivative = sum(float(np.sum(one * gradient)) for one, (_, gradient) in zip(along, pairs, strict=True))
    values = []
    for sign in 1, -2:
        for one, (array, _) in zip(along, pairs, strict=True):
            array += sign * h * one
        values.append(outputs())
    np.testing.assert_allclose((values[0] - values[1]) / (2 * h), derivative, rtol=1e-6, atol=1e-6)


def test_train_and_eval_switch() -> None:
    layer = nn.BatchNorm(3)
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training
    assert not layer.train(False).training


@like_batch_norm
def test_backward_is_that_of_the_last_forward_pass(name: str, rng: Generator) -> None:
    """Switching in between changes nothing."""
    layer, inputs, gradients = make(name, "float64", rng)
    _, trained, _ = expected(layer, inputs, gradients)
    layer(*inputs)
    assert_same(tupled(layer.eval().backward(*gradients)), trained)
    _, evaluated, _ = expected(layer, inputs, gradients)
    layer(*inputs)
    assert_same(tupled(layer.train().backward(*gradients)), evaluated)
    if name not in ("BatchNorm frozen", "BatchNorm without statistics"):
        assert differing(trained[0], evaluated[0]) > 0


def test_running_statistics_follow_training_only(rng: Generator) -> None:
    layer, (x,), _ = make("BatchNorm", "float64", rng)
    layer(x)
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.1 * x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(layer.buffers["running_var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-14)
    assert layer.buffers["num_batches_tracked"] == 1
    before = layer.state_dict()
    layer.eval()(x)
    assert all(differing(array, before[key]) == 0 for key, array in layer.buffers.items())


def test_running_statistics_of_instances_are_averages_over_samples(rng: Generator) -> None:
    layer, (x,), _ = make("InstanceNorm with statistics", "float64", rng)
    layer(x)
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.3 * x.mean((0, 2)), rtol=1e-13)
    variances = x.var(2, ddof=1).mean(0)
    np.testing.assert_allclose(layer.buffers["running_var"], 0.7 + 0.3 * variances, rtol=1e-13)
    assert layer.buffers["num_batches_tracked"] == 0
    before = layer.state_dict()
    layer.eval()(x)
    assert all(differing(array, before[key]) == 0 for key, array in layer.buffers.items())


@pytest.mark.parametrize("name", ["BatchNorm without statistics", "InstanceNorm"])
def test_without_statistics_evaluation_uses_the_batchs_own(name: str, rng: Generator) -> None:
    layer, (x,), _ = make(name, "float64", rng)
    assert layer.buffers == {}
    assert differing(layer(x).copy(), layer.eval()(x)) == 0


def test_without_momentum_running_statistics_are_the_average_of_all_batches(rng: Generator) -> None:
    layer = nn.BatchNorm(6, momentum=None, dtype=np.float64)
    batches = ordinary(rng, (7, 5, 6), "float64")
    for batch in batches:
        layer(batch)
    np.testing.assert_allclose(layer.buffers["running_mean"], batches.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(layer.buffers["running_var"], batches.var(1, ddof=1).mean(0), rtol=1e-12)
    assert layer.buffers["num_batches_tracked"] == 7


@pytest.mark.parametrize("kind", [nn.BatchNorm, nn.BatchNormReLU, nn.BatchNormAddReLU, nn.BatchRenorm])
def test_frozen_layers_learn_but_keep_their_statistics(kind: Callable[..., Any], rng: Generator) -> None:
    """Their passes are those of evaluation; weight and bias get gradients."""
    layer = kind(6, dtype=np.float64)
    inputs = ordinary(rng, (1 + isinstance(layer, TWO_INPUTS), 5, 6), "float64")
    dy = ordinary(rng, (5, 6), "float64")
    layer(*inputs)
    before = layer.state_dict()
    layer.frozen = True
    y, dx, grads = layer(*inputs), tupled(layer.backward(dy)), {key: one.copy() for key, one in layer.grads.items()}
    assert differing(y, layer.eval()(*inputs)) == 0
    assert_same(dx, tupled(layer.backward(dy)))
    assert all(one.any() for one in grads.values())
    assert all(differing(array, before[key]) == 0 for key, array in layer.buffers.items())
    layer.frozen = False
    layer.train()(*inputs)
    assert layer.buffers["num_batches_tracked"] == 2


def test_limits_of_batch_renorm_may_follow_a_schedule(rng: Generator) -> None:
    """At first it is batch normalization; without limits it is what evaluation does."""
    layer, (x,), (dy,) = make("BatchRenorm", "float64", rng)
    layer.buffers["running_mean"][...] = ordinary(rng, 6, "float64")
    layer.r_max, layer.d_max = 1.0, 0.0
    plain = nn.BatchNorm(6, dtype=np.float64)
    plain.load_state_dict(layer.state_dict())
    assert differing(layer(x), plain(x)) == 0
    assert differing(layer.backward(dy), plain.backward(dy)) == 0
    assert all(differing(layer.buffers[key], array) == 0 for key, array in plain.buffers.items())
    evaluated = layer.eval()(x).copy()
    layer.r_max = layer.d_max = 1e9
    np.testing.assert_allclose(layer.train()(x), evaluated, rtol=1e-12)


# Statistics of the population


@like_batch_norm
def test_update_bn_finds_the_statistics_of_all_values(name: str, rng: Generator) -> None:
    layer, inputs, _ = make(name, "float64", rng)
    if not layer.buffers:
        return
    batches = [tuple(1e3 + ordinary(rng, one.shape, "float64") for one in inputs) for _ in range(5)]
    batches.append(tuple(one[:0] for one in inputs))
    layer(*inputs)
    layer.eval()
    seen = []

    def forward(batch: Arrays) -> None:
        seen.append(layer(*batch))

    nn.update_bn(iter(batches), forward, [layer])
    values = np.moveaxis(np.concatenate([batch[0] for batch in batches]), layer.channel_axis, 0).reshape(6, -1)
    np.testing.assert_allclose(layer.buffers["running_mean"], values.mean(1), rtol=1e-13)
    np.testing.assert_allclose(layer.buffers["running_var"], values.var(1, ddof=1), rtol=1e-10)
    assert layer.buffers["num_batches_tracked"] == 6
    assert not layer.training
    # Each batch has been normalized by itself.
    alone = type(layer)(
        6, channel_axis=layer.channel_axis, affine="weight" in layer.params, eps=layer.eps, dtype=np.float64
    )
    for key, param in alone.params.items():
        param[...] = layer.params[key]
    if isinstance(alone, nn.BatchRenorm):
        alone.r_max, alone.d_max = 1.0, 0.0
    assert_same(seen, [alone(*batch) for batch in batches])


def test_update_bn_updates_layers_in_one_pass_each_after_the_other(rng: Generator) -> None:
    first, second = nn.BatchNorm(3, dtype=np.float64), nn.BatchNormReLU(3, dtype=np.float64)
    batches = ordinary(rng, (4, 5, 3), "float64")
    passes = []
    nn.update_bn(batches, lambda x: passes.append(second(first(x))), (first, second))
    assert len(passes) == 4
    np.testing.assert_allclose(first.buffers["running_mean"], batches.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(second.buffers["running_mean"], 0, atol=1e-15)
    np.testing.assert_allclose(second.buffers["running_var"], 20 / 19, rtol=1e-4)


def test_update_bn_changes_nothing_where_it_fails(rng: Generator) -> None:
    x = ordinary(rng, (4, 3), "float32")
    layer, unused, without = nn.BatchNorm(3), nn.BatchNorm(3), nn.BatchNorm(3, track_running_stats=False)
    layer(x)
    before = layer.state_dict()

    def broken(batch: Array) -> None:
        layer(batch)
        raise RuntimeError("broken")

    for batches, forward, layers, error, message in (
        (
            [x],
            layer,
            [layer, unused],
            ValueError,
            r"^update_bn: layers\[1\] has been given 0 values a channel, expected",
        ),
        (
            [],
            layer,
            [layer],
            ValueError,
            r"^update_bn: layers\[0\] has been given 0 values a channel, expected more than 1$",
        ),
        ([x[:0]], layer, [layer], ValueError, r"^update_bn: layers\[0\] has been given 0 values"),
        ([x, x[:1]], layer, [layer], ValueError, r"^batch_norm: x has shape \(1, 3\), expected more than 1 value"),
        ([x], layer, [without], ValueError, r"^update_bn: layers\[0\] has no running statistics$"),
        ([x], layer, [nn.LayerNorm(3)], TypeError, r"^update_bn: layers\[0\] must be a BatchNorm, got LayerNorm$"),
        ([x], layer, layer, TypeError, r"^update_bn: layers must be a list of layers, got BatchNorm$"),
        ([x], broken, [layer], RuntimeError, r"^broken$"),
    ):
        with pytest.raises(error, match=message):
            nn.update_bn(batches, forward, layers)  # type: ignore[arg-type]
        assert all(differing(array, before[key]) == 0 for key, array in layer.state_dict().items())
    layer(x)
    assert layer.buffers["num_batches_tracked"] == 2


# Linear layers


@pytest.mark.parametrize("kind", LINEAR)
def test_initial_weights_are_as_torchs(kind: Callable[..., Any], rng: Generator) -> None:
    """Uniform in ±1/√in_features, from a seed, a generator or nothing; and the first weights are those of v."""
    layer = kind(400, 50, seed=3)
    weight = layer.params["weight" if kind is nn.CosineLinear else "weight_v"]
    assert weight.shape == (50, 400)
    assert 0.049 < np.abs(weight).max() <= 0.05
    np.testing.assert_allclose(weight.var(), 0.05**2 / 3, rtol=0.05)
    same, other, random = kind(400, 50, seed=np.random.default_rng(3)), kind(400, 50, seed=4), kind(400, 50)
    assert all(differing(array, same.params[key]) == 0 for key, array in layer.params.items())
    for one in other, random:
        assert all(differing(array, one.params[key]) > 0 for key, array in layer.params.items())
    if kind is nn.WeightNormLinear:
        x = ordinary(rng, (3, 400), "float32")
        np.testing.assert_allclose(layer(x), x @ weight.T + layer.params["bias"], rtol=1e-4, atol=1e-5)


def test_cosines_are_between_minus_one_and_one(rng: Generator) -> None:
    layer = nn.CosineLinear(3, 2, dtype=np.float64)
    layer.params["weight"][...] = [[1e5, 0, 0], [0, -1e-3, 0]]
    cosines = layer(np.array([[2.0, 0, 0], [0, 3, 0], [0, 1, -1]]))
    np.testing.assert_allclose(cosines, [[1, 0], [0, -1], [0, -math.sqrt(0.5)]], rtol=1e-6)
    assert np.all(np.abs(nn.CosineLinear(5, 7)(1e4 * ordinary(rng, (50, 5), "float32"))) < 1 + 1e-6)


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_layers_take_one_row_none_and_slices(kind: Callable[..., Any], rng: Generator) -> None:
    layer = kind(6, 4, seed=1, dtype=np.float64)
    x = ordinary(rng, (5, 12), "float64")[:, ::2]
    whole = layer(x)
    np.testing.assert_allclose(layer(x[0].copy()), whole[0], rtol=1e-14)
    assert layer.backward(np.ones(4)).shape == (6,)
    assert layer(x[:0]).shape == (0, 4)
    assert layer.backward(np.ones((0, 4))).shape == (0, 6)
    assert not any(grad.any() for grad in layer.grads.values())


# State


@layers
def test_state_dict_goes_round(name: str, rng: Generator) -> None:
    layer, inputs, _ = make(name, "float32", rng)
    layer(*inputs)
    state = layer.state_dict()
    other = LAYERS[name][0]("float32")
    other.load_state_dict(state)
    for one in layer, other:
        one.eval()
    assert_same(tupled(layer(*inputs)), tupled(other(*inputs)))  # type: ignore[operator]
    assert state.keys() == (layer.params | layer.buffers).keys()
    assert not any(np.shares_memory(array, (layer.params | layer.buffers)[key]) for key, array in state.items())
    assert not any(np.shares_memory(array, (other.params | other.buffers)[key]) for key, array in state.items())


def test_state_dict_has_torchs_keys_and_types() -> None:
    state = nn.BatchNorm(3).state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert (state["num_batches_tracked"].dtype, state["num_batches_tracked"].shape) == (np.int64, ())
    assert np.all(state["running_var"] == 1)
    assert list(nn.LayerNorm(3).state_dict()) == ["weight", "bias"]
    assert list(nn.RMSNorm(3).state_dict()) == ["weight"]
    assert list(nn.InstanceNorm(3).state_dict()) == []
    assert list(nn.WeightNormLinear(3, 2).state_dict()) == ["bias", "weight_g", "weight_v"]


def test_a_bad_state_dict_changes_nothing() -> None:
    layer = nn.BatchNorm(2)
    good = layer.state_dict()
    for bad, error, message in (
        (None, TypeError, r"^BatchNorm: state_dict must be a dict, got NoneType$"),
        ({}, ValueError, r"^BatchNorm: state_dict must have the keys .*, got \[\]$"),
        (good | {"scale": np.ones(2)}, ValueError, r"^BatchNorm: state_dict must have the keys"),
        (good | {"weight": np.ones(3)}, ValueError, r"^BatchNorm: weight has shape \(3,\), expected \(2,\)$"),
        (good | {"weight": [7, 7], "running_var": ["a", "b"]}, TypeError, r"^BatchNorm: running_var must be"),
        (good | {"weight": [7, 7], "num_batches_tracked": None}, TypeError, r"^BatchNorm: num_batches_tracked must be"),
    ):
        with pytest.raises(error, match=message):
            layer.load_state_dict(bad)
        assert all(differing(array, good[key]) == 0 for key, array in layer.state_dict().items())


@layers
def test_a_pass_that_fails_leaves_the_last_one_as_it_was(name: str, rng: Generator) -> None:
    layer, inputs, gradients = make(name, "float32", rng)
    _, dxs, _ = expected(layer, inputs, gradients)
    layer(*inputs)
    state = layer.state_dict()
    (x, *others), (dy, *more) = inputs, gradients
    for make_bad in (
        lambda x: x.astype(int),
        lambda x: np.concatenate([x, x]).astype(int),
        lambda _: np.ones((9, 9, 9, 9), np.float32),
        lambda x: x.ravel()[:1],
        lambda x: x.tolist(),
    ):
        for bad in ((make_bad(x), *others), *([(x, make_bad(others[0]))] if others else [])):
            with pytest.raises(
                (TypeError, ValueError), match=r"^(\w+_norm\w*|batch_renorm|(Group|Instance|Batch)Norm|\w+Linear): "
            ):
                layer(*bad)
        for bad in ((make_bad(dy), *more), *([(dy, make_bad(more[0]))] if more else [])):
            with pytest.raises((TypeError, ValueError), match=r"^(\w+_backward|\w+Linear): "):
                layer.backward(*bad)
    assert all(differing(array, state[key]) == 0 for key, array in layer.state_dict().items())
    assert_same(tupled(layer.backward(*gradients)), dxs)


@layers
def test_backward_before_forward_is_an_error(name: str, rng: Generator) -> None:
    layer, _, gradients = make(name, "float32", rng)
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}: backward was called before forward$"):
        layer.backward(*gradients)


@dtypes
def test_layers_learn(dtype: str, rng: Generator) -> None:
    """The whole loop: the gradients that a layer fills are handed to an optimizer as they are."""
    layer = nn.LayerNorm(8, dtype=dtype)
    opt = optim.Adam(layer.params, lr=0.05)
    x, weight, bias = ordinary(rng, (32, 8), dtype), ordinary(rng, 8, dtype), ordinary(rng, 8, dtype)
    target = F.layer_norm(x, 8, weight, bias)[0]
    losses = []
    for _ in range(300):
        error = layer(x) - target
        losses.append(float(np.mean(error**2)))
        layer.backward(error)
        opt.step(layer.grads)
    assert losses[-1] < 1e-4 * losses[0]
    np.testing.assert_allclose(layer.params["weight"], weight, atol=0.05)


@pytest.mark.parametrize("name", ["CosineLinear", "WeightNormLinear"])
def test_linear_layers_learn(name: str, rng: Generator) -> None:
    layer, _, _ = make(name, "float64", rng)
    wanted, _, _ = make(name, "float64", rng)
    opt = optim.Adam(layer.params, lr=0.05)
    x = ordinary(rng, (32, 6), "float64")
    target = wanted(x)
    losses = []
    for _ in range(300):
        error = layer(x) - target
        losses.append(float(np.mean(error**2)))
        layer.backward(error)
        opt.step(layer.grads)
    assert losses[-1] < 1e-3 * losses[0]
