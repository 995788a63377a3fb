"""Layers: what their functions compute, with parameters, gradients and running statistics of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, Array, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn, optim

dtypes = pytest.mark.parametrize("dtype", DTYPES)

# name: the layer, and the shape of an input
LAYERS: dict[str, tuple[Callable[[str], nn.Layer], tuple[int, ...]]] = {
    "LayerNorm": (lambda dtype: nn.LayerNorm(6, dtype=dtype), (5, 6)),
    "LayerNorm of two axes": (lambda dtype: nn.LayerNorm((4, 6), eps=1e-3, dtype=dtype), (3, 2, 4, 6)),
    "LayerNorm without bias": (lambda dtype: nn.LayerNorm(6, bias=False, dtype=dtype), (5, 6)),
    "LayerNorm without weight": (lambda dtype: nn.LayerNorm(6, elementwise_affine=False, dtype=dtype), (5, 6)),
    "BatchNorm": (lambda dtype: nn.BatchNorm(6, dtype=dtype), (5, 6)),
    "BatchNorm NCHW": (lambda dtype: nn.BatchNorm(6, momentum=0.3, eps=1e-3, dtype=dtype), (2, 6, 3, 4)),
    "BatchNorm NHWC": (lambda dtype: nn.BatchNorm(6, channel_axis=-1, dtype=dtype), (2, 3, 4, 6)),
    "BatchNorm without weight": (lambda dtype: nn.BatchNorm(6, affine=False, dtype=dtype), (5, 6)),
    "BatchNorm without statistics": (lambda dtype: nn.BatchNorm(6, track_running_stats=False, dtype=dtype), (5, 6)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def make(name: str, dtype: str, rng: Generator) -> tuple[nn.Layer, Array, Array]:
    """A layer with random parameters, an input and a gradient."""
    layer = LAYERS[name][0](dtype)
    for param in layer.params.values():
        param[...] = ordinary(rng, param.shape, dtype)
    x, dy = ordinary(rng, (2, *LAYERS[name][1]), dtype)
    return layer, x, dy


def expected(layer: nn.Layer, x: Array, dy: Array) -> tuple[Array, Array, Array | None, Array | None]:
    """y, dx, dweight and dbias by the functions; running statistics are updated in copies."""
    weight, bias = layer.params.get("weight"), layer.params.get("bias")
    if isinstance(layer, nn.LayerNorm):
        y, mean, rstd = F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        return y, *F.layer_norm_backward(dy, x, layer.normalized_shape, mean, rstd, weight)
    assert isinstance(layer, nn.BatchNorm)
    running = [layer.buffers[name].copy() if layer.buffers else None for name in ("running_mean", "running_var")]
    training, axis = layer.training or not layer.buffers, layer.channel_axis
    y, mean, rstd = F.batch_norm(x, *running, weight, bias, training, layer.momentum, layer.eps, channel_axis=axis)
    return y, *F.batch_norm_backward(dy, x, mean, rstd, weight, training=training, channel_axis=axis)


@pytest.mark.parametrize("training", [True, False])
@dtypes
@layers
def test_layer_computes_what_its_functions_do(name: str, dtype: str, training: bool, rng: Generator) -> None:
    layer, x, dy = make(name, dtype, rng)
    layer.train(training)
    y, dx, dweight, dbias = expected(layer, x, dy)
    assert differing(layer(x), y) == 0
    assert differing(layer.backward(dy), dx) == 0
    for key, gradient in ("weight", dweight), ("bias", dbias):
        if key in layer.params:
            assert gradient is not None
            assert differing(layer.grads[key], gradient) == 0


@layers
def test_parameters_and_gradients_stay_the_same_objects(name: str, rng: Generator) -> None:
    layer, x, dy = make(name, "float32", rng)
    held = layer.params | {f"grad {key}": array for key, array in layer.grads.items()} | layer.buffers
    assert layer.params.keys() == layer.grads.keys()
    for _ in range(3):
        layer(x)
        layer.backward(dy)
        layer.eval()(x)
        layer.load_state_dict(layer.train().state_dict())
    after = layer.params | {f"grad {key}": array for key, array in layer.grads.items()} | layer.buffers
    assert all(after[key] is held[key] for key in held)


@layers
def test_out_receives_the_results(name: str, rng: Generator) -> None:
    layer, x, dy = make(name, "float32", rng)
    y, dx, *_ = expected(layer, x, dy)
    to = np.empty_like(x), np.empty_like(x)
    assert layer(x, out=to[0]) is to[0]
    assert layer.backward(dy, out=to[1]) is to[1]
    assert differing(to[0], y) == 0
    assert differing(to[1], dx) == 0


@layers
def test_backward_may_be_called_again_and_for_other_batches(name: str, rng: Generator) -> None:
    """A gradient is overwritten, not gathered; the batch may have another size each time."""
    layer, x, dy = make(name, "float32", rng)
    for rows in len(x), 2 * len(x), len(x):
        several, gradients = (np.concatenate([a] * (rows // len(x))) for a in (x, dy))
        _, dx, dweight, _ = expected(layer, several, gradients)
        layer(several)
        for _ in range(2):
            assert differing(layer.backward(gradients), dx) == 0
            if dweight is not None:
                assert differing(layer.grads["weight"], dweight) == 0


def test_train_and_eval_switch() -> None:
    layer = nn.BatchNorm(3)
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training
    assert not layer.train(False).training


def test_backward_is_that_of_the_last_forward_pass(rng: Generator) -> None:
    """Switching in between changes nothing."""
    layer, x, dy = make("BatchNorm", "float64", rng)
    _, trained, *_ = expected(layer, x, dy)
    layer(x)
    assert differing(layer.eval().backward(dy), trained) == 0
    _, evaluated, *_ = expected(layer, x, dy)
    layer(x)
    assert differing(layer.train().backward(dy), evaluated) == 0
    assert differing(trained, evaluated) > 0


def test_running_statistics_follow_training_only(rng: Generator) -> None:
    layer, x, _ = make("BatchNorm", "float64", rng)
    layer(x)
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.1 * x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(layer.buffers["running_var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-14)
    assert layer.buffers["num_batches_tracked"] == 1
    before = layer.state_dict()
    layer.eval()(x)
    assert all(differing(array, before[key]) == 0 for key, array in layer.buffers.items())


def test_without_statistics_evaluation_uses_the_batchs_own(rng: Generator) -> None:
    layer, x, _ = make("BatchNorm without statistics", "float64", rng)
    assert layer.buffers == {}
    assert differing(layer(x).copy(), layer.eval()(x)) == 0


@layers
def test_state_dict_goes_round(name: str, rng: Generator) -> None:
    layer, x, _ = make(name, "float32", rng)
    layer(x)
    state = layer.state_dict()
    other = LAYERS[name][0]("float32")
    other.load_state_dict(state)
    for one in layer, other:
        one.eval()
    assert differing(layer(x), other(x)) == 0
    assert state.keys() == (layer.params | layer.buffers).keys()
    assert not any(np.shares_memory(array, (layer.params | layer.buffers)[key]) for key, array in state.items())
    assert not any(np.shares_memory(array, (other.params | other.buffers)[key]) for key, array in state.items())


def test_state_dict_has_torchs_keys_and_types() -> None:
    state = nn.BatchNorm(3).state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert (state["num_batches_tracked"].dtype, state["num_batches_tracked"].shape) == (np.int64, ())
    assert np.all(state["running_var"] == 1)
    assert list(nn.LayerNorm(3).state_dict()) == ["weight", "bias"]


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
    layer, x, dy = make(name, "float32", rng)
    _, dx, *_ = expected(layer, x, dy)
    layer(x)
    state = layer.state_dict()
    for bad in (
        x.astype(int),
        np.concatenate([x, x]).astype(int),
        np.ones((9, 9, 9, 9), np.float32),
        x.ravel()[:1],
        x.tolist(),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(layer|batch)_norm: "):
            layer(bad)
        with pytest.raises((TypeError, ValueError), match=r"^(layer|batch)_norm_backward: "):
            layer.backward(bad)
    assert all(differing(array, state[key]) == 0 for key, array in layer.state_dict().items())
    assert differing(layer.backward(dy), dx) == 0


@pytest.mark.parametrize("layer", [nn.LayerNorm(3), nn.BatchNorm(3)], ids=["LayerNorm", "BatchNorm"])
def test_backward_before_forward_is_an_error(layer: nn.Layer) -> None:
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}: backward was called before forward$"):
        layer.backward(np.ones((2, 3), np.float32))


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
