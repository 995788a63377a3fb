"""Parity with torch: every combination of the options that it has, over 50 steps, and the normalizations.

"Relative" is max|a − b| / max|b| over a tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, Array, ordinary

from fastopt import functional as F
from fastopt import nn, optim

torch = pytest.importorskip("torch", reason="compares with torch")

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
SHAPES = ((7, 5), (33,), ())
STEPS = 50

SGD_GRID = {
    "momentum": (0.0, 0.9),
    "dampening": (0.0, 0.3),
    "nesterov": (False, True),
    "weight_decay": (0.0, 0.1),
    "maximize": (False, True),
}
ADAM_GRID = {"amsgrad": (False, True), "weight_decay": (0.0, 0.1), "maximize": (False, True)}
# (class, variants of torch's implementation, options)
CASES = [
    (name, fused, dict(zip(grid, values, strict=True)))
    for name, grid in (("SGD", SGD_GRID), ("Adam", ADAM_GRID), ("AdamW", ADAM_GRID))
    for values in itertools.product(*grid.values())
    for fused in (False, True)
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These tensors are small, and torch wakes its threads for all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def legal(options: dict[str, Any]) -> bool:
    return not options.get("nesterov") or (options["momentum"] > 0 and options["dampening"] == 0)


def assert_close(actual: Array, expected: Any, tolerance: float, what: str) -> None:
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected), initial=0) <= tolerance * np.max(np.abs(expected), initial=0), what


def gradients(rng: Generator, dtype: str, fused: bool) -> Iterator[list[Array | None]]:
    """Of every step; some are None, at the first step too, if torch's implementation can take that."""
    for step in range(STEPS):
        absent = {i for i in range(3) if (step + i) % 7 == 2} - {*range(3 * (fused and step == 0))}
        yield [None if i in absent else ordinary(rng, shape, dtype) for i, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "fused", "options"),
    [
        pytest.param(name, fused, options, id="-".join([name, *("fused" * fused,), *map(str, options.values())]))
        for name, fused, options in CASES
        if legal(options)
    ],
)
def test_optimizer_agrees(name: str, fused: bool, options: dict[str, Any], dtype: str, rng: Generator) -> None:
    ours = [np.asarray(ordinary(rng, shape, dtype)) for shape in SHAPES]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(optim, name)(ours, lr=0.01, **options)
    ref = getattr(torch.optim, name)(theirs, lr=0.01, **options, fused=fused, foreach=False)
    for grads in gradients(rng, dtype, fused):
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        opt.step(grads)
        ref.step()
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(p, q, TOLERANCE[dtype], f"params[{i}]")
        expected = ref.state[q]
        for key, value in expected.items():
            if key == "step":
                assert opt.state[i]["step"] == value
            elif value is not None:
                assert_close(opt.state[i][key], value, TOLERANCE[dtype], f"{key}[{i}]")


def test_defaults_are_torchs() -> None:
    for name in "SGD", "Adam", "AdamW":
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).defaults
        ours = getattr(optim, name)([np.zeros(1)]).defaults
        assert {key: value for key, value in ours.items() if key in theirs} == {
            key: value for key, value in theirs.items() if key in ours
        }


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_schedule_agrees(name: str, rng: Generator) -> None:
    """Another rate at every step, in two groups."""
    ours = [ordinary(rng, 20, "float64") for _ in range(2)]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    more = {"momentum": 0.9} if name == "SGD" else {}
    opt = getattr(optim, name)([{"params": [ours[0]]}, {"params": [ours[1]], "weight_decay": 0.3}], lr=0.1, **more)
    ref = getattr(torch.optim, name)(
        [{"params": [theirs[0]]}, {"params": [theirs[1]], "weight_decay": 0.3}], lr=0.1, **more
    )
    for step in range(30):
        for groups in opt.param_groups, ref.param_groups:
            groups[0]["lr"] = 0.1 / (1 + step)
            groups[1]["lr"] = 0.01 * (1 + step % 3)
        grads = [ordinary(rng, 20, "float64") for _ in range(2)]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step(grads)
        ref.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, 1e-12, "params")


@pytest.mark.parametrize(
    ("name", "toggled"),
    [
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"maximize": True}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {"maximize": True}),
    ],
)
def test_options_that_change_on_the_way_agree(name: str, toggled: dict[str, Any], rng: Generator) -> None:
    ours = [ordinary(rng, 20, "float64")]
    theirs = [torch.tensor(ours[0], requires_grad=True)]
    opt = getattr(optim, name)(ours, lr=0.01)
    ref = getattr(torch.optim, name)(theirs, lr=0.01, foreach=False)
    if "amsgrad" in toggled:  # torch makes this state at the first step only
        toggled = {"amsgrad": False}
        for groups in opt.param_groups, ref.param_groups:
            groups[0]["amsgrad"] = True
    for step in range(20):
        if step == 10:
            for groups in opt.param_groups, ref.param_groups:
                groups[0].update(toggled)
        g = ordinary(rng, 20, "float64")
        theirs[0].grad = torch.tensor(g)
        opt.step([g])
        ref.step()
    assert_close(ours[0], theirs[0], 1e-12, "params")


# Normalizations, against torch in float64


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


def test_layers_and_torchs_modules_read_each_others_state(rng: Generator) -> None:
    for ours, theirs in (
        (nn.LayerNorm((3, 4), dtype=np.float64), torch.nn.LayerNorm((3, 4), dtype=torch.float64)),
        (nn.LayerNorm(5, bias=False, dtype=np.float64), torch.nn.LayerNorm(5, bias=False, dtype=torch.float64)),
        (nn.BatchNorm(3, dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)),
        (nn.BatchNorm(3, affine=False, dtype=np.float64), torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)),
        (nn.BatchNorm(3, track_running_stats=False), torch.nn.BatchNorm1d(3, track_running_stats=False)),
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
    """A few steps of BatchNorm with an optimizer, then evaluation."""
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
