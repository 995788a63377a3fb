"""Where a loop's functions and layers end: no classes, numbers that a dtype flushes, a layer in two places, infinities, odd arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import Array

import fastopt as fo
from fastopt import functional as F
from fastopt import nn
from fastopt import reference as R

# Losses


@pytest.mark.parametrize("target", [np.full(1 << 15, -100), np.zeros((1 << 15, 0))], ids=["labels", "distributions"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_of_no_classes(target: Array, reduction: Any) -> None:
    x = np.zeros((1 << 15, 0))
    del_me = F.exp(np.full(1 << 15, 7.0))  # whose memory the losses may get
    del del_me
    for module in (F, R):
        loss, dx = module.cross_entropy(x, target, reduction=reduction)
        assert dx.shape == x.shape
        np.testing.assert_array_equal(loss, {"none": np.zeros(1 << 15), "sum": 0, "mean": np.nan}[reduction])


def test_subnormal_class_weights_are_zero() -> None:
    arguments = np.zeros((2, 2), np.float32), np.array([0, 0]), np.array([1e-40, 1], np.float32)
    for module in (F, R):
        assert module.cross_entropy(*arguments, reduction="sum")[0] == 0
        loss, dx = module.cross_entropy(*arguments)
        assert np.isnan(loss) and np.isnan(dx).all()
    normal = arguments[0], np.array([0, 1]), arguments[2]
    assert F.cross_entropy(*normal)[0] == R.cross_entropy(*normal)[0]


@pytest.mark.parametrize("factor", ["l1", "weight_decay"])
def test_factors_that_a_dtype_flushes(factor: str) -> None:
    states = []
    for module in (F, R):
        velocity = [np.zeros(4, np.float32)]
        params, grads = [np.array([-1, 1, 0, -1], np.float32)], [np.array([0.0, -0.0, -0.0, -0.0], np.float32)]
        module.sgd(params, grads, velocity, step=1, lr=0.1, momentum=0.9, **{factor: 1e-40})
        states.append(velocity[0].tobytes() + params[0].tobytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("weights", ["stochastic", "nearest"])
def test_bfloat16_parameters_of_one_number(weights: str) -> None:
    ours, theirs = (np.array(1.0, ml_dtypes.bfloat16) for _ in range(2))
    for module, param in ((F, ours), (R, theirs)):
        module.adamw(
            [param],
            [np.array(0.5, ml_dtypes.bfloat16)],
            *([np.zeros((), np.float32)] for _ in range(2)),
            step=1,
            lr=0.1,
            weights=weights,
        )
    assert ours.tobytes() == theirs.tobytes() and ours != 1


# Layers


def test_a_layer_is_in_one_place() -> None:
    act, first, second = nn.Tanh(), nn.Linear(4, 4, seed=0), nn.Linear(4, 4, seed=1)
    for layers in ((first, act, second, act), (act, act), (first, act, nn.Sequential(second, act))):
        with pytest.raises(
            ValueError, match=r"^Sequential: layers\[\d\].* is layers\[\d\] again.*make a new layer for each place"
        ):
            nn.Sequential(*layers)
    model = nn.Sequential(first, act, second)
    y = model(np.ones((2, 4), np.float32))
    model.layers.append(act)
    with pytest.raises(ValueError, match=r"layers\[3\] is layers\[1\] again"):
        model.backward(y)
    inner = nn.Sequential(second)
    nested = nn.Sequential(first, inner)
    y = nested(np.ones((2, 4), np.float32))
    inner.layers.append(first)
    with pytest.raises(ValueError, match=r"layers\[1\].layers\[1\] is layers\[0\] again"):
        nested.backward(y)


def test_a_validation_between_loss_and_backward() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3, seed=0)), np.ones((2, 4), np.float32)
    dy = np.ones((2, 3), np.float32)
    model(x)
    model.eval()
    model(2 * x)
    assert model.backward(dy) is not None  # of the pass in evaluation
    model.train()
    with pytest.raises(RuntimeError, match="the last forward pass was in evaluation"):
        model.backward(dy)
    model(x)
    model.eval().train()
    model.backward(dy)
    np.testing.assert_array_equal(model.grads["0.weight"], np.full((3, 4), 2))


def test_a_state_of_the_models_own_arrays() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False, seed=0), nn.Linear(2, 2, bias=False, seed=1))
    own, before = model.params, model.state_dict()
    model.load_state_dict({"0.weight": own["1.weight"], "1.weight": own["0.weight"]})
    np.testing.assert_array_equal(own["0.weight"], before["1.weight"])
    np.testing.assert_array_equal(own["1.weight"], before["0.weight"])
    with pytest.raises(ValueError, match=r"'00\.weight'"):
        model.load_state_dict({**model.state_dict(), "00.weight": own["0.weight"]})
    with pytest.raises(TypeError, match="masked array"):
        model.load_state_dict({**model.state_dict(), "0.weight": np.ma.masked_array(before["0.weight"])})


LINEAR: dict[str, Callable[[], Any]] = {
    "Linear": lambda: nn.Linear(2, 2, seed=0),
    "Linear with an activation": lambda: nn.Linear(2, 2, activation="gelu", seed=0),
    "CosineLinear": lambda: nn.CosineLinear(2, 2, seed=0),
    "WeightNormLinear": lambda: nn.WeightNormLinear(2, 2, seed=0),
    "Conv2d": lambda: nn.Conv2d(2, 2, 1, seed=0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_infinities_are_no_warnings(name: str) -> None:
    """Which may be errors, in the middle of what is written."""
    layer = LINEAR[name]()
    shape = (1, 2, 1, 1) if name == "Conv2d" else (1, 2)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        layer(np.array([np.inf, 3e38], np.float32).reshape(shape))
        layer(np.ones(shape, np.float32))
        layer.backward(np.array([np.inf, 0], np.float32).reshape(shape))
    assert not all(np.isfinite(grad).all() for grad in layer.grads.values())


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_matrices_are_arrays() -> None:
    weight, _ = F.fold_batch_norm(
        np.asmatrix(np.eye(2) * 3), None, np.zeros(2), np.ones(2), np.array([2.0, 5.0]), eps=0.0
    )
    np.testing.assert_array_equal(weight, [[6, 0], [0, 15]])
    flat = nn.Flatten(0)
    assert flat(np.asmatrix(np.eye(2))).shape == (4,)
    assert flat.backward(np.ones(4)).shape == (2, 2)
    v = np.asmatrix([[3.0, 4.0]])
    np.testing.assert_array_equal(F.weight_norm(v, np.array(10.0), None)[0], [[6, 8]])


def test_dictionaries_of_gradients_are_clipped(rng: Generator) -> None:
    arrays = [rng.standard_normal(5) for _ in range(3)]
    nested = {"a": arrays[0].copy(), "b": [arrays[1].copy(), None, {"c": arrays[2].copy()}]}
    assert F.clip_grad_norm(nested, 0.5) == F.clip_grad_norm(arrays, 0.5)
    np.testing.assert_array_equal(nested["b"][2]["c"], arrays[2])  # type: ignore[index,call-overload]
    F.clip_grad_value(nested, 0.01)
    assert np.abs(nested["a"]).max() <= 0.01


def test_labels_of_any_integers() -> None:
    x = np.zeros((2, 3))
    expected = F.cross_entropy(x, np.array([0, 2]))[0]
    for labels in (
        np.array([0, 2], np.uint64),
        [0, 2],
        [np.int64(0), np.uint64(2)],
        (np.uint8(0), np.int16(2)),
        np.array([0, 2], np.int8),
    ):
        assert F.cross_entropy(x, labels)[0] == expected
    loss, dx = F.cross_entropy(np.zeros((0, 3)), [])
    assert np.isnan(loss) and dx is not None and dx.shape == (0, 3)


MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.cross_entropy(np.zeros((2, 3)), [0, 2**63]), ValueError, r"target must have labels below the number of classes, got 9223372036854775808"),
    (lambda: F.cross_entropy(np.zeros((2, 3)), [0, 2**70]), ValueError, r"cross_entropy: target must have labels below the number of classes"),
    (lambda: F.cross_entropy(np.zeros((2, 3)), [[0], [1, 2]]), ValueError, r"cross_entropy: target has lists of several lengths"),
    (lambda: F.cross_entropy(np.zeros((2, 3)), [0.5, 1]), TypeError, r"cross_entropy: target has dtype float64, expected integers"),
    (lambda: F.cross_entropy(np.zeros((2, 3)), np.eye(3, dtype=int)[:2]), TypeError, r"target has the shape of x and dtype int64, expected float64 for distributions: pass target.astype\(x.dtype\)"),
    (lambda: F.huber_loss(np.ones(2, np.float32), np.ones(2, np.float32), delta=1e-300), ValueError, r"huber_loss: delta must be finite and > 0 in float32, got 1e-300"),
    (lambda: F.softmax(np.zeros((1, 2), np.float32), scale=1e300), ValueError, r"softmax: scale must be finite in float32"),
    (lambda: F.log_softmax_backward(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), scale=-1e300), ValueError, r"scale must be finite in float32"),
    (lambda: F.exp(np.arange(3)), TypeError, r"exp: x has dtype int64, expected float32 or float64: pass x.astype\(np.float32\)"),
    (lambda: nn.LayerNorm(3)(np.ones((2, 3), np.int32)), TypeError, r"layer_norm: x has dtype int32, expected float32, float64, float16 or bfloat16: pass x.astype"),
    (lambda: F.mse_loss(np.ones(2), np.ones(2, bool)), TypeError, r"mse_loss: target has dtype bool, expected .*: pass target.astype"),
    (lambda: F.activate(np.ones(3), 3), TypeError, r"activation must be 'relu', .* 'tanh', 'sigmoid' or None, got 3"),  # type: ignore[arg-type]
    (lambda: F.linear_backward(np.ones((1, 2)), np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)), TypeError, r"dy has dtype float64, expected float32, as x has: pass dy.astype\(np.float32\)"),
    (lambda: F.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 1, 1)), padding=2**29), ValueError, r"conv2d: padding makes results of shape \(1, 1, 1073741827, 1073741827\)"),
    (lambda: nn.Conv2d(3, 4, 3)(np.ones((2, 3, 8, 8))), TypeError, r"Conv2d: x has dtype float64, expected float32: pass x.astype\(np.float32\), or make the layer with dtype=np.float64"),
    (lambda: nn.Embedding(0, 2, -1), ValueError, r"Embedding: padding_idx must be None without rows"),
    (lambda: nn.Linear(2, 2).weight, AttributeError, r"'Linear' object has no attribute 'weight'; the array is layer.params\['weight'\]"),
    (lambda: nn.BatchNorm(2).running_mean, AttributeError, r"no attribute 'running_mean'"),
    (lambda: fo.SparseRows(np.array([0]), np.ones((1, 2), np.longdouble)), TypeError, r"SparseRows: values has dtype float128|longdouble"),
    (lambda: fo.SparseRows(np.array([0]), np.ones((1, 2), ">f4")), TypeError, r"values has dtype >f4, expected .* in the machine's own byte order"),
    (lambda: fo.SparseRows(np.array([0], ">i8"), np.ones((1, 2))), TypeError, r"indices has dtype >i8, expected integers, in the machine's own byte order"),
    (lambda: fo.SparseRows(np.ones((1, 2)), np.array([0])), TypeError, r"indices has dtype float64, expected integers; the order of arguments is indices, values"),
    (lambda: fo.SparseRows(np.array([True]), np.ones((1, 2))), TypeError, r"numpy.flatnonzero\(indices\)"),
    (lambda: F.clip_grad_norm([fo.SparseRows(np.array([0]), np.ones((1, 2)))], 1.0), TypeError, r"clip_grad_norm: grads\[0\] must be a numpy array, got SparseRows; .*clip_norm="),
    (lambda: F.clip_grad_norm(nn.Linear(2, 2), 1.0), TypeError, r"clip_grad_norm: grads must be a list or dict of arrays, got Linear, a layer"),  # type: ignore[arg-type]
    (lambda: fo.optim.AdamW(nn.Linear(2, 2)), TypeError, r"AdamW: params must be .*, got Linear, a layer: give its .params"),  # type: ignore[arg-type]
    (lambda: fo.optim.no_decay(nn.Linear(2, 2)), TypeError, r"no_decay: params must be .*, got Linear, a layer: give its .params"),  # type: ignore[arg-type]
    (lambda: fo.optim.no_decay([3]), TypeError, r"no_decay: params\[0\] must be a numpy array, got int"),
    (lambda: fo.optim.no_decay({"a": [None]}), TypeError, r"no_decay: params\['a'\]\[0\] must be a numpy array, got None"),
    (lambda: fo.optim.no_decay([np.ones(2)], lambda *_: "yes"), TypeError, r"no_decay: rule must return a bool, got str for 0"),  # type: ignore[arg-type,return-value]
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), MISTAKES, ids=[text[:40] for _, _, text in MISTAKES])
def test_mistakes_lead_on(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, F.binary_cross_entropy_with_logits])
def test_a_target_is_not_written(loss: Callable[..., Any]) -> None:
    x, target = np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match="out would be written, but overlaps target"):
        loss(x, target, out=target)
    assert np.all(target == 1)
    loss(x, target, out=x)


def test_a_parameter_of_torchs() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    for params in ([torch.nn.Parameter(torch.ones(2))], iter([torch.nn.Parameter(torch.ones(2))])):
        with pytest.raises(
            TypeError, match=r"give its .detach\(\).numpy\(\).* for a model of torch there is fastopt.torch"
        ):
            fo.optim.AdamW(params)
    with pytest.raises(TypeError, match=r"give its .numpy\(\), which shares its memory$"):
        fo.optim.AdamW([torch.ones(2)])
