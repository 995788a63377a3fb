"""Layers: the results of their functions, with parameters, gradients and running statistics of their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import images
import numpy as np
import pytest
from layers import LAYERS, LINEAR, TWO_INPUTS, Arrays, assert_gradients, assert_same, expected, make, out_like, tupled
from numpy.random import Generator
from tables import DTYPES, EVERY_DTYPE, Array, ordinary
from tools import Each, differing

from fastopt import functional as F
from fastopt import nn, optim

dtypes = pytest.mark.parametrize("dtype", DTYPES)

layers = pytest.mark.parametrize("name", LAYERS)
like_batch_norm = pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("Batch")])


def test_every_layer_is_here() -> None:
    made = {type(make("float32")).__name__ for make, _ in LAYERS.values()}
    others = {"Layer", "update_bn", "Dropout", "GaussianDropout", "ChannelDropout"}  # in test_dropout.py
    loops = {"GELU", "Linear", "ReLU", "Sequential", "SiLU", "Sigmoid", "Tanh"}  # in test_loops.py
    assert made == set(nn.__all__) - others - loops - images.LAYERS


@layers
def test_layer_computes_what_its_functions_do(name: str, each: Each, rng: Generator) -> None:
    for dtype, training in each(EVERY_DTYPE, [True, False]):
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


@layers
def test_out_receives_the_results(name: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        layer, inputs, gradients = make(name, dtype, rng)
        outputs, dxs, _ = expected(layer, inputs, gradients)
        to, back_to = out_like(outputs), out_like(dxs)
        assert all(a is b for a, b in zip(tupled(layer(*inputs, out=to)), tupled(to), strict=True))
        assert all(
            a is b for a, b in zip(tupled(layer.backward(*gradients, out=back_to)), tupled(back_to), strict=True)
        )
        assert_same(tupled(to), outputs)
        assert_same(tupled(back_to), dxs)


@layers
def test_backward_may_be_called_again_and_for_other_batches(name: str, rng: Generator) -> None:
    """A gradient is overwritten, not accumulated; the batch may have another size each time."""
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
    """Central differences along a random direction in inputs and parameters agree."""
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


@pytest.mark.parametrize("momentum", [None, 0.1, 1.0])
@pytest.mark.parametrize("kind", [nn.BatchNorm, nn.BatchNormReLU, nn.BatchNormAddReLU, nn.BatchRenorm, nn.InstanceNorm])
@pytest.mark.parametrize("empty", [(0, 6, 3), (5, 6, 0)])
def test_a_batch_without_values_counts_nowhere(
    kind: Callable[..., Any], momentum: float | None, empty: tuple[int, ...], rng: Generator
) -> None:
    """It changes neither the running statistics nor their count; nor does a batch that is refused, or one in
    evaluation.
    """
    if kind is nn.InstanceNorm and momentum is None:
        return
    options = {"track_running_stats": True} if kind is nn.InstanceNorm else {}
    layer, other = (kind(6, momentum=momentum, dtype=np.float64, **options) for _ in range(2))
    inputs = 1 + isinstance(layer, TWO_INPUTS)
    batches = ordinary(rng, (3, inputs, 5, 6, 3), "float64")
    for batch in batches:
        before = layer.state_dict()
        layer(*np.zeros((inputs, *empty)))
        assert all(dx.shape == empty for dx in tupled(layer.backward(np.zeros(empty))))
        with pytest.raises(ValueError, match=r"more than 1 value per"):
            layer(*np.zeros((inputs, 1, 6, 1)))
        layer.eval()(*batch)
        layer.train()
        assert_same(layer.state_dict().values(), before.values())
        layer(*batch)
        other(*batch)
    assert_same(layer.state_dict().values(), other.state_dict().values())
    assert layer.buffers["num_batches_tracked"] == (0 if kind is nn.InstanceNorm else 3)


@pytest.mark.parametrize("kind", [nn.BatchNorm, nn.BatchNormReLU, nn.BatchNormAddReLU, nn.BatchRenorm])
def test_frozen_layers_learn_but_keep_their_statistics(kind: Callable[..., Any], rng: Generator) -> None:
    """Their passes are the same as in evaluation; weight and bias get gradients."""
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
    """At first it is batch normalization; without limits it normalizes as in evaluation."""
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
    assert layer.buffers["num_batches_tracked"] == 5  # the one without values does not count
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


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@like_batch_norm
def test_update_bn_counts_a_last_batch_of_one_value(name: str, dtype: str, rng: Generator) -> None:
    """As each value of the others; it is normalized to 0, in every layout."""
    own = "float64" if dtype == "float64" else "float32"
    layer, inputs, _ = make(name, own, rng)
    if not layer.buffers:
        return
    axis = layer.channel_axis
    shape = [1] * inputs[0].ndim
    shape[axis] = 6
    batches = [
        tuple(ordinary(rng, one.shape, dtype) for one in inputs),
        tuple(ordinary(rng, shape, dtype) for _ in inputs),
    ]
    layer.eval()
    seen = []
    for order in batches, batches[::-1]:
        nn.update_bn(order, lambda batch: seen.append(layer(*batch)), [layer])
        values = [np.moveaxis(batch[0].astype(np.float64), axis, 0).reshape(6, -1) for batch in batches]
        every = np.concatenate(values, axis=1)
        assert every.shape[1] == values[0].shape[1] + 1
        np.testing.assert_allclose(layer.buffers["running_mean"], every.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.buffers["running_var"], every.var(1, ddof=1), rtol=1e-5)
        assert layer.buffers["num_batches_tracked"] == 2
    zero = layer.params["bias"].astype(np.float64).reshape(shape) if layer.params else np.zeros(shape)
    if len(inputs) == 2:
        zero = zero + batches[1][1].astype(np.float64)
    expected = np.maximum(zero, 0) if "ReLU" in type(layer).__name__ else zero
    for y in seen[1], seen[2]:
        assert y.dtype.name == dtype
        np.testing.assert_allclose(y.astype(np.float64), expected, rtol=1e-2 if dtype.endswith("16") else 1e-6)


def test_a_single_value_is_still_an_error_in_training(rng: Generator) -> None:
    layer = nn.BatchNorm(3)
    nn.update_bn(ordinary(rng, (2, 4, 3), "float32"), layer, [layer])
    with pytest.raises(ValueError, match=r"^batch_norm: x has shape \(1, 3\), expected more than 1 value"):
        layer(np.ones((1, 3), np.float32))


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
            r"^update_bn: layers\[1\] was given 0 values per channel, expected",
        ),
        (
            [],
            layer,
            [layer],
            ValueError,
            r"^update_bn: layers\[0\] was given 0 values per channel, expected more than 1$",
        ),
        ([x[:0]], layer, [layer], ValueError, r"^update_bn: layers\[0\] was given 0 values"),
        ([x[:1]], layer, [layer], ValueError, r"^update_bn: layers\[0\] was given 1 values per channel, expected more"),
        ([x, x[:1].T], layer, [layer], ValueError, r"^batch_norm: "),
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


# The repr of layers


def test_layers_show_how_they_are_made() -> None:
    for text, layer in {
        "LayerNorm((64,), eps=1e-05)": nn.LayerNorm(64),
        "LayerNorm((2, 3), eps=0.5, bias=False, dtype='float64')": nn.LayerNorm((2, 3), 0.5, bias=False, dtype="f8"),
        "RMSNorm((4,), eps=None, elementwise_affine=False)": nn.RMSNorm(4, elementwise_affine=False),
        "BatchNorm(8, eps=1e-05, momentum=0.1)": nn.BatchNorm(8),
        "BatchNorm(8, eps=1e-05, momentum=None, affine=False, frozen=True, channel_axis=-1)": nn.BatchNorm(
            8, momentum=None, affine=False, frozen=True, channel_axis=-1
        ),
        "BatchRenorm(8, eps=1e-05, momentum=0.1, r_max=2.0)": nn.BatchRenorm(8, r_max=2),
        "GroupNorm(2, 8, eps=1e-05)": nn.GroupNorm(2, 8),
        "InstanceNorm(8, eps=1e-05, momentum=0.1, track_running_stats=True)": nn.InstanceNorm(
            8, track_running_stats=True
        ),
        "CosineLinear(6, 4, eps=1e-12)": nn.CosineLinear(6, 4),
        "WeightNormLinear(6, 4, bias=False)": nn.WeightNormLinear(6, 4, False),
        "ChannelDropout(p=0.5, seed=3, channel_axis=2)": nn.ChannelDropout(seed=3, channel_axis=2),
    }.items():
        assert repr(layer) == text
        assert repr(eval(f"nn.{text}")) == text
    layer = nn.BatchNorm(8)
    layer.frozen, layer.momentum = True, 0.5  # these may be changed
    assert repr(layer) == "BatchNorm(8, eps=1e-05, momentum=0.5, frozen=True)"


def test_modules_show_public_names_only() -> None:
    assert dir(nn) == sorted(nn.__all__)
    assert dir(F) == sorted(F.__all__)


# Errors that name the mistake and the remedy


def test_float64_is_said_to_be_xs() -> None:
    x, single = np.ones((2, 4)), np.ones((2, 4), np.float32)
    for call in (
        lambda: nn.LayerNorm(4)(x),
        lambda: nn.RMSNorm(4)(x),
        lambda: nn.AddRMSNorm(4)(x, x),
        lambda: nn.BatchNorm(4)(x),
        lambda: nn.BatchNorm(4, affine=False).eval()(x),
        lambda: nn.GroupNorm(2, 4)(x),
        lambda: nn.CosineLinear(4, 2)(x),
        lambda: nn.WeightNormLinear(4, 2)(x),
        lambda: F.layer_norm(x, 4, None, single[0]),
        lambda: F.batch_norm(x, single[0], single[0]),
    ):
        with pytest.raises(TypeError, match=r"^\w+: x has dtype float64, .*pass x\.astype\(np\.float32\), or "):
            call()
    for call in lambda: nn.LayerNorm(4, dtype=np.float64)(single), lambda: F.rms_norm(single, 4, x[0]):
        with pytest.raises(
            TypeError, match=r"weight has dtype float64, .* as x has dtype float32: .* or x\.astype\(np\.float64\)$"
        ):
            call()


def test_channels_on_another_axis_are_found() -> None:
    x, c, four = np.ones((2, 4, 4, 8), np.float32), np.ones(8, np.float32), np.ones(4, np.float32)
    for call in (
        lambda: nn.BatchNorm(8)(x),
        lambda: nn.BatchNorm(8, affine=False, track_running_stats=False)(x),
        lambda: nn.BatchNormReLU(8)(x),
        lambda: nn.BatchRenorm(8)(x),
        lambda: nn.BatchNormAddReLU(8)(x, x),
        lambda: nn.GroupNorm(2, 8)(x),
        lambda: nn.GroupNorm(8, 8, affine=False)(x),
        lambda: nn.InstanceNorm(8)(x),
        lambda: nn.InstanceNorm(8, affine=True)(x),
        lambda: F.batch_norm(x, c, c),
        lambda: F.batch_norm(x, four, four, c),
        lambda: F.group_norm(x, 2, None, c),
        lambda: F.instance_norm(x, None, None, c),
    ):
        with pytest.raises(
            ValueError, match=r"^\w+: .*\b4 channels on axis 1, the channel_axis.*; is it channel_axis=-1\?$"
        ):
            call()
    with pytest.raises(ValueError, match=r"the 4 channels of x on axis 1, the channel_axis, got 8$"):
        F.group_norm(x, 8)
    with pytest.raises(ValueError, match=r"has 8 channels on axis 3, the channel_axis; is it channel_axis=1\?$"):
        nn.BatchNorm(4, channel_axis=-1)(x)
    with pytest.raises(
        ValueError, match=r"^batch_norm: weight has shape \(3,\), .* 4 channels on axis 1, the channel_axis$"
    ):
        F.batch_norm(x, four, four, np.ones(3, np.float32))


@pytest.mark.parametrize("value", [1, 0, 1.0, "yes", None, np.int64(1)])
def test_flags_are_bools_and_numbers_are_not(value: Any) -> None:
    x, c = np.ones((3, 4), np.float32), np.ones(4, np.float32)
    for name, call in (
        ("training", lambda: F.batch_norm(x, c, c.copy(), training=value)),
        ("training", lambda: F.dropout(x, training=value, seed=1)),
        ("use_input_stats", lambda: F.instance_norm(x, use_input_stats=value)),
        ("affine", lambda: nn.BatchNorm(4, affine=value)),
        ("frozen", lambda: nn.BatchNorm(4, frozen=value)),
        ("track_running_stats", lambda: nn.InstanceNorm(4, track_running_stats=value)),
        ("elementwise_affine", lambda: nn.LayerNorm(4, elementwise_affine=value)),
        ("bias", lambda: nn.WeightNormLinear(4, 2, value)),
        ("mode", lambda: nn.LayerNorm(4).train(value)),
    ):
        with pytest.raises(TypeError, match=rf"^\w+: {name} must be a bool, got"):
            call()
    for flag in True, np.True_:
        F.batch_norm(x, c.copy(), c.copy(), training=flag)
        with pytest.raises(TypeError, match=r"^layer_norm: eps must be a number, got"):
            F.layer_norm(x, 4, eps=flag)
        with pytest.raises(TypeError, match=r"^batch_norm: channel_axis must be an integer, got"):
            F.batch_norm(x, c, c, channel_axis=flag)


def test_constructors_name_what_is_wrong() -> None:
    for error, message, call in (
        (TypeError, r"^LayerNorm: normalized_shape must be an integer, got 2.5$", lambda: nn.LayerNorm(2.5)),
        (ValueError, r"^RMSNorm: normalized_shape must be in \[0, 2\*\*53\), got -1$", lambda: nn.RMSNorm((2, -1))),
        (ValueError, r"^AddLayerNorm: normalized_shape must name at least one axis", lambda: nn.AddLayerNorm(())),
        (TypeError, r"^BatchNorm: num_features must be an integer, got None$", lambda: nn.BatchNorm(None)),
        (ValueError, r"^BatchRenorm: num_features must be in \[0, 2\*\*53\), got", lambda: nn.BatchRenorm(2**70)),
        (TypeError, r"^GroupNorm: num_groups must be an integer, got '2'$", lambda: nn.GroupNorm("2", 4)),
        (TypeError, r"^InstanceNorm: channel_axis must be", lambda: nn.InstanceNorm(4, channel_axis=1.0)),
        (TypeError, r"^LayerNorm: dtype must be float32 or float64, got None$", lambda: nn.LayerNorm(4, dtype=None)),
        (TypeError, r"^LayerNorm: dtype must be float32 or float64, got 'f32'$", lambda: nn.LayerNorm(4, dtype="f32")),
        (TypeError, r"^CosineLinear: in_features must be an integer", lambda: nn.CosineLinear("4", 2)),
        (ValueError, r"^CosineLinear: seed must be an integer >= 0, a NumPy", lambda: nn.CosineLinear(4, 2, seed=-1)),
        (TypeError, r"^ChannelDropout: channel_axis must be", lambda: nn.ChannelDropout(channel_axis=None)),
        (ValueError, r"^Dropout: seed must be in \[0, 2\*\*64\), got", lambda: nn.Dropout(seed=-1)),
        (TypeError, r"^update_bn: batches must be", lambda: nn.update_bn(3, abs, [nn.BatchNorm(3)])),
        (TypeError, r"^update_bn: forward must be", lambda: nn.update_bn([], None, [nn.BatchNorm(3)])),
    ):
        with pytest.raises(error, match=message):
            call()  # type: ignore[no-untyped-call]


def test_masks_are_not_ignored() -> None:
    x = np.ones((3, 4), np.float32)
    masked = np.ma.masked_array(x, mask=np.eye(3, 4))
    for name, call in (
        ("x", lambda: nn.LayerNorm(4)(masked)),
        ("x", lambda: nn.CosineLinear(4, 2)(masked)),
        ("x", lambda: nn.Dropout(0.5).eval()(masked)),
        ("dy", lambda: F.layer_norm_backward(masked, x, 4, *F.layer_norm(x, 4)[1:])),
        ("weight", lambda: F.rms_norm(x, 4, masked[0])),
        (r"out\[0\]", lambda: F.rms_norm(x, 4, out=(masked, None))),
    ):
        with pytest.raises(TypeError, match=rf"^\w+: {name} is a masked array, whose mask would be ignored"):
            call()


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
                (TypeError, ValueError),
                match=r"^(\w+_norm\w*|batch_renorm|(Group|Instance|Batch|Scale)Norm|\w+Linear): ",
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
    """In a whole training loop, the gradients of the layers go to an optimizer directly."""
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


# Errors that only layers can find


def test_statistics_that_cannot_be_written_stop_the_pass() -> None:
    x = np.arange(24, dtype="f").reshape(8, 3)

    def refused(error: type[Exception], message: str, layer: nn.BatchNorm, **more: Any) -> None:
        before = {key: copy.deepcopy(one) for key, one in layer.buffers.items()}
        with pytest.raises(error, match="^BatchNorm: " + message):
            layer(x, **more)
        assert repr(layer.buffers) == repr(before)

    layer = nn.BatchNorm(3)
    layer.buffers["running_mean"] = layer.buffers["running_var"]
    refused(ValueError, "running_mean would be written, but overlaps running_var$", layer)
    for key in nn.BatchNorm(3).buffers:
        layer = nn.BatchNorm(3)
        layer.buffers[key].flags.writeable = False
        refused(TypeError, f"{key} is read-only, but would be written; give a copy$", layer)
        assert layer.eval()(x).shape == x.shape
        del layer.buffers[key]
        refused(ValueError, f"buffers has no {key}; put it back$", layer)
    for count in np.uint8(255), np.array(0.0), 3, np.zeros(1, np.int64), np.array(-1), np.array(2**53):
        layer = nn.BatchNorm(3)
        layer.buffers["num_batches_tracked"] = count  # type: ignore[assignment]
        refused(TypeError, "num_batches_tracked (must be an int64 array|must be a numpy array|is read-only)", layer)
    room = np.zeros(48, "f")
    layer = nn.BatchNorm(3)
    layer.buffers["running_mean"] = room[:3]
    refused(ValueError, "running_mean would be written, but overlaps out$", layer, out=room[:24].reshape(8, 3))
    for where, key in (("params", "weight"), ("params", "bias"), ("grads", "bias")):
        layer = nn.BatchNorm(3)
        layer.buffers["running_mean"] = getattr(layer, where)[key]
        what = key if where == "params" else rf"grads\['{key}'\]"
        refused(ValueError, f"running_mean would be written, but overlaps {what}$", layer)
    layer = nn.BatchNorm(3)
    layer.buffers["running_var"] = x[0]
    refused(ValueError, "running_var would be written, but overlaps x$", layer)
    layer = nn.BatchNormAddReLU(3)
    layer.buffers["running_var"] = room[:3]
    with pytest.raises(ValueError, match=r"^BatchNormAddReLU: running_var would be written, but overlaps residual$"):
        layer(x, room[:24].reshape(8, 3))


def test_update_bn_changes_all_layers_or_none() -> None:
    a, b = nn.BatchNorm(2), nn.BatchNorm(2)
    x = np.random.default_rng(0).normal(3, 2, (8, 2)).astype("f")
    before = a.state_dict()
    b.buffers["running_mean"].flags.writeable = False
    with pytest.raises(TypeError, match=r"^update_bn: layers\[1\]: running_mean is read-only"):
        nn.update_bn([x], lambda v: b(a(v)), [a, b])

    def spoil(v: Any) -> Any:
        b.buffers["running_var"].flags.writeable = False
        return b(a(v))

    b.buffers["running_mean"].flags.writeable = True
    with pytest.raises(TypeError, match=r"running_var is read-only"):
        nn.update_bn([x], spoil, [a, b])
    assert all(np.array_equal(a.buffers[key], before[key]) for key in a.buffers)
    assert a._population is b._population is None


@pytest.mark.parametrize("make", [nn.CosineLinear, nn.WeightNormLinear])
def test_linear_layers_check_what_is_their_own_first(make: Any) -> None:
    layer = make(6, 3, seed=0)
    x, dy = np.ones((2, 6), "f"), np.ones((2, 3), "f")
    layer(x)
    for name, param in layer.params.items():
        some = {
            "shape": np.zeros((*param.shape, 2), "f"),
            "dtype": param.astype(np.float64),
            "masked": np.ma.masked_array(param),
            "None": None,
        }
        for what, wrong in some.items():
            layer.params[name] = wrong
            with pytest.raises((TypeError, ValueError), match=rf"^{make.__name__}: {name} .*{what}"):
                layer(x)
        layer.params[name] = param
        grads = {key: grad.copy() for key, grad in layer.grads.items()}
        for what, wrong in (some | {"read-only": np.broadcast_to(np.float32(0), param.shape).copy()}).items():
            if what == "read-only":
                wrong.flags.writeable = False  # type: ignore[union-attr]
            own, layer.grads[name] = layer.grads[name], wrong
            with pytest.raises((TypeError, ValueError), match=rf"^{make.__name__}: grads\['{name}'\] .*{what}"):
                layer.backward(dy)
            layer.grads[name] = own
        assert all(np.array_equal(grads[key], layer.grads[key]) for key in grads)


def test_attributes_of_layers_are_checked_at_the_call() -> None:
    x = np.ones((4, 3), "f")
    for layer, key, value, message in (
        (nn.BatchNorm(3), "frozen", "no", "BatchNorm: frozen must be a bool, got 'no'"),
        (nn.BatchNorm(3), "training", "eval", "BatchNorm: training must be a bool, got 'eval'"),
        (nn.InstanceNorm(3), "training", 1, "InstanceNorm: training must be a bool, got 1"),
        (nn.BatchNorm(3, track_running_stats=False), "frozen", True, "BatchNorm: frozen needs track_running_stats"),
        (nn.Dropout(0.5), "p", None, "Dropout: p must be a number, got None"),
        (nn.Dropout(0.5), "p", "", "Dropout: p must be a number, got ''"),
        (nn.Dropout(0.5), "training", "eval", "Dropout: training must be a bool, got 'eval'"),
    ):
        setattr(layer, key, value)
        with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
            layer(x)


@pytest.mark.parametrize("shape", [b"\x06", {6}, np.array([6]), iter([6])])
def test_a_normalized_shape_is_an_integer_or_a_sequence_of_them(shape: Any) -> None:
    with pytest.raises(TypeError, match=r"^LayerNorm: normalized_shape must be an integer"):
        nn.LayerNorm(shape)
    with pytest.raises(TypeError, match=r"^layer_norm: normalized_shape must be an integer"):
        F.layer_norm(np.ones((2, 6), "f"), shape, None, None)
