"""The rest of a loop: elementary functions, activations, linear layers, softmax and losses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from mistakes import unaligned
from numpy.random import Generator
from tools import Each

import fastopt as fo
from fastopt import functional as F
from fastopt import nn, reference
from fastopt.functional._activations import Activation

ACTIVATIONS = (None, *get_args(Activation))
DTYPES = ("float32", "float64")
SHAPES = ((3, 70), (1, 1), (130, 300), (0, 5), (2, 3, 33), (65,), (1, 5000))
Array = Any


def same(got: Any, expected: Any) -> bool:
    """Whether results have the same bits; NaN equals NaN."""
    if got is None or expected is None:
        return got is expected
    if isinstance(got, tuple):
        return len(got) == len(expected) and all(map(same, got, expected))
    got, expected = np.asarray(got), np.asarray(expected)
    equal = (got == expected) & (np.signbit(got) == np.signbit(expected)) | (got != got) & (expected != expected)
    return got.shape == expected.shape and got.dtype == expected.dtype and bool(equal.all())


def numbers(rng: Generator, shape: tuple[int, ...], dtype: str, special: bool = True) -> Array:
    x = (rng.standard_normal(shape) * rng.choice([0.01, 1, 5, 60, 300], shape)).astype(dtype)
    if special and x.size > 20:
        x.flat[:9] = [np.inf, -np.inf, np.nan, 0, -0.0, np.finfo(dtype).tiny / 4, -np.finfo(dtype).tiny, 88.7, 1]
    return x


def layouts(x: Array) -> Iterator[Array]:
    """The same numbers in other places of memory."""
    yield x
    yield np.asfortranarray(x)
    yield x[::-1].copy()[::-1]
    yield np.repeat(x, 2, axis=-1)[..., ::2]
    room = np.empty(x.size + 1, x.dtype)[1:]
    room[:] = x.ravel()
    yield room.reshape(x.shape)


Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


def calls(rng: Generator, shape: tuple[int, ...], dtype: str) -> Calls:
    """Calls of every function, some with a random choice of options."""
    x, dy = numbers(rng, shape, dtype), rng.standard_normal(shape).astype(dtype)
    mild, target, weight = (numbers(rng, shape, dtype, special=False), *rng.random((2, *shape)).astype(dtype))
    bias = rng.standard_normal(shape[-1]).astype(dtype)
    found: Calls = [(name, (x,), {}) for name in ("exp", "erf", "tanh", "sigmoid")]
    for activation in ACTIVATIONS:
        found.append(("activate", (x, activation), {"bias": rng.choice(np.array([None, bias], object))}))
        saved = reference.activate(x, activation)[1]
        found.append(("activate_backward", (dy, saved, activation), {"bias_grad": bool(rng.integers(2))}))
    for log, causal, dim in product((False, True), (False, True), (-1, 0)):
        if causal and (dim == 0 or len(shape) < 2 or shape[-2] > shape[-1]):
            continue
        options = {"dim": dim, "causal": causal, "scale": float(rng.choice([1.0, 0.3, -2.0]))}
        name = "log_softmax" if log else "softmax"
        found.append((name, (x,), options))
        found.append((f"{name}_backward", (dy, getattr(reference, name)(mild, **options)), options))
    classes = shape[1 if len(shape) > 1 else 0]
    labels = rng.integers(0, classes, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if labels.size > 1:
        labels.flat[0] = -100
    of_class = rng.random(classes).astype(dtype)
    for one, smoothing, w in product((labels, target), (0.0, 0.1), (None, of_class)):
        reduction = str(rng.choice(["mean", "sum", "none"]))
        found.append(
            ("cross_entropy", (mild, one), {"weight": w, "label_smoothing": smoothing, "reduction": reduction})
        )
    for w, reduction in product((None, weight), ("mean", "sum", "none")):
        found.append(("mse_loss", (mild, target, reduction), {"weight": w}))
        found.append(("huber_loss", (mild, target, reduction, 0.7), {"weight": w}))
        more = {"weight": w, "pos_weight": rng.choice(np.array([None, 3 * weight], object)), "reduction": reduction}
        found.append(("binary_cross_entropy_with_logits", (mild, target), more))
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_functions_are_the_reference(shape: tuple[int, ...], rng: Generator) -> None:
    for dtype in DTYPES:
        for name, arguments, options in calls(rng, shape, dtype):
            got, expected = (getattr(module, name)(*arguments, **options) for module in (F, reference))
            assert same(got, expected), (name, dtype, options)


def test_bits_depend_on_no_layout_and_no_number_of_threads(rng: Generator, each: Each) -> None:
    for dtype in DTYPES:
        for name, arguments, options in calls(rng, (70, 300), dtype):
            expected = getattr(F, name)(*arguments, **options)
            for threads, layout in each((1, 2, 5), range(5), by_day=3):
                placed = [
                    [*layouts(one)][layout] if isinstance(one, np.ndarray) and one.ndim > 1 else one
                    for one in arguments
                ]
                with fo.threads(threads):
                    assert same(getattr(F, name)(*placed, **options), expected), (name, layout)


def test_results_may_take_the_place_of_inputs(rng: Generator) -> None:
    x, dy = rng.standard_normal((2, 40, 50)).astype(np.float32)
    for name in ("exp", "erf", "tanh", "sigmoid", "softmax", "log_softmax"):
        expected, room = getattr(F, name)(x), x.copy()
        assert getattr(F, name)(room, out=room) is room
        assert same(room, expected)
    for activation in ACTIVATIONS:
        (expected, saved), room = F.activate(x, activation), x.copy()
        assert same(F.activate(room, activation, out=(room, None)), (expected, saved))
        gradient, _ = F.activate_backward(dy, saved, activation)
        for over in (0, 1):
            rooms = [dy.copy(), saved.copy()]
            F.activate_backward(*rooms, activation, out=(rooms[over], None))
            assert same(rooms[over], gradient)
    labels, room = rng.integers(0, 50, 40), x.copy()
    loss, dx = F.cross_entropy(x, labels)
    assert same(F.cross_entropy(room, labels, out=room), (loss, dx))
    room = x.copy()
    assert same(F.mse_loss(room, dy, out=room), F.mse_loss(x, dy))


def test_empty_arrays_are_left_alone() -> None:
    """Whatever their other axes say: nothing is written behind them."""
    for shape in ((16, 0), (0, 16), (3, 0, 5)):
        room = np.full(64, 7.0, np.float32)
        empty = room[:0].reshape(shape)
        for function in (F.exp, F.erf, F.tanh, F.sigmoid):
            function(empty, out=empty)
        for activation in ACTIVATIONS[1:]:
            F.activate_backward(empty, empty, activation, out=(empty, None))
            F.activate(empty, activation, out=(empty, None))
        assert np.all(room == 7)


def test_without_a_gradient_there_is_only_the_value(rng: Generator) -> None:
    x, t = rng.random((2, 20, 30))
    for loss in (F.mse_loss, F.huber_loss, F.binary_cross_entropy_with_logits, F.cross_entropy):
        assert loss(x, t, grad=False) == (loss(x, t)[0], None)


# Against torch


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


def gradient(torch: Any, f: Callable[..., Any], *arrays: Array, dy: Array | None = None) -> tuple[Any, ...]:
    """torch's value and the gradients of all arrays."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = f(*tensors)
    y.backward(None if dy is None else torch.tensor(dy))
    return y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations_are_torchs(activation: Any, torch: Any, rng: Generator) -> None:
    functions = {
        **{name: getattr(torch, name) for name in ("relu", "tanh", "sigmoid")},
        "silu": torch.nn.functional.silu,
    }
    functions["gelu"] = torch.nn.functional.gelu
    functions["gelu_tanh"] = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    x, dy = 3 * rng.standard_normal((2, 30, 40))
    y, dx = gradient(torch, functions[activation], x, dy=dy)
    got, saved = F.activate(x, activation)
    np.testing.assert_allclose(got, y, 1e-14, 1e-15)
    np.testing.assert_allclose(F.activate_backward(dy, saved, activation)[0], dx, 1e-13, 1e-14)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_is_torchs(activation: Any, biased: bool, torch: Any, rng: Generator) -> None:
    f = {None: lambda z: z, "relu": torch.relu, "gelu": torch.nn.functional.gelu}[activation]
    x, weight, dy = rng.standard_normal((4, 5, 7)), rng.standard_normal((6, 7)), rng.standard_normal((4, 5, 6))
    arrays = (x, weight, rng.standard_normal(6)) if biased else (x, weight)
    expected = gradient(torch, lambda *given: f(torch.nn.functional.linear(*given)), *arrays, dy=dy)
    y, saved = F.linear(*arrays, activation=activation)
    gradients = F.linear_backward(dy, x, weight, saved, activation, bias_grad=biased)
    for got, one in zip((y, *gradients), expected, strict=False):
        np.testing.assert_allclose(got, one, 1e-12, 1e-13)
    out = tuple(np.empty_like(one) if one is not None else None for one in gradients)
    assert same(F.linear_backward(dy, x, weight, saved, activation, bias_grad=biased, out=out), gradients)
    assert same(reference.linear(*arrays, activation=activation), (y, saved))
    assert same(reference.linear_backward(dy, x, weight, saved, activation, bias_grad=biased), gradients)
    for module in (F, reference):
        first = module.linear_backward(dy, x, weight, saved, activation, x_grad=False, bias_grad=biased)
        assert first[0] is None
        assert same(first[1:], gradients[1:])


@pytest.mark.parametrize(
    "shapes",
    [((3, 0), (4, 0)), ((0, 4), (2, 4)), ((3, 4), (0, 4)), ((0, 0), (0, 0)), ((0,), (3, 0)), ((2, 0, 3), (4, 3))],
)
def test_linear_with_nothing_in_an_axis(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, weight = (np.ones(shape) for shape in shapes)
    bias = np.full(len(weight), -2.0)
    y, saved = F.linear(x, weight, bias, "silu")
    np.testing.assert_allclose(y, np.full(y.shape, -2 / (1 + np.exp(2))), rtol=1e-15)  # of the bias alone, or empty
    assert same((y, saved), reference.linear(x, weight, bias, "silu"))
    dy = np.ones_like(y)
    gradients = F.linear_backward(dy, x, weight, saved, "silu")
    assert [g.shape for g in gradients if g is not None] == [x.shape, weight.shape, bias.shape]
    assert same(gradients, reference.linear_backward(dy, x, weight, saved, "silu"))


def test_softmax_is_torchs(torch: Any, rng: Generator) -> None:
    x, dy = 5 * rng.standard_normal((2, 3, 6, 8))
    for dim, scale, log in product((-1, 0, 1), (1.0, 0.3), (False, True)):
        f = torch.log_softmax if log else torch.softmax
        y, dx = gradient(torch, lambda t, f=f, dim=dim, scale=scale: f(scale * t, dim), x, dy=dy)
        forward, backward = (F.log_softmax, F.log_softmax_backward) if log else (F.softmax, F.softmax_backward)
        got = forward(x, dim, scale=scale)
        np.testing.assert_allclose(got, y, 1e-13, 1e-15)
        np.testing.assert_allclose(backward(dy, got, dim, scale=scale), dx, 1e-12, 1e-14)


def test_causal_softmax_is_that_with_a_mask(rng: Generator) -> None:
    x, dy = rng.standard_normal((2, 3, 6, 8))
    mask = np.arange(8) > np.arange(6)[:, None] + 2
    y = F.softmax(x, scale=0.5, causal=True)
    np.testing.assert_allclose(y, F.softmax(np.where(mask, -np.inf, x), scale=0.5), 1e-14)
    assert not np.any(y[:, mask]) and np.all(np.isneginf(F.log_softmax(x, causal=True)[:, mask]))
    assert not np.any(F.softmax_backward(dy, y, causal=True)[:, mask])
    np.testing.assert_allclose(
        F.softmax_backward(dy, y, scale=0.5, causal=True), F.softmax_backward(dy, y, scale=0.5), 1e-13, 1e-16
    )


@pytest.mark.parametrize("shape", [(9, 5), (3, 5, 4), (5,)], ids=str)
def test_cross_entropy_is_torchs(shape: tuple[int, ...], torch: Any, rng: Generator) -> None:
    f = torch.nn.functional.cross_entropy
    x = 3 * rng.standard_normal(shape)
    places = shape[:1] + shape[2:] if len(shape) > 1 else ()
    labels, q, weight = rng.integers(0, 5, places), rng.random(shape), rng.random(5)
    if places:
        labels.flat[1] = 3
    for target, smoothing, w, reduction in product((labels, q), (0.0, 0.2), (None, weight), ("mean", "sum", "none")):
        options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
        if places and target is labels:
            options["ignore_index"] = 3
        of_torch = {**options, "weight": None if w is None else torch.tensor(w)}
        loss, dx = F.cross_entropy(x, target, w, **options)
        value, expected = gradient(torch, lambda t: f(t, torch.tensor(target), **of_torch).sum(), x)  # noqa: B023
        np.testing.assert_allclose(np.sum(loss), value, 1e-12)
        np.testing.assert_allclose(dx, expected, 1e-12, 1e-14)
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if len(shape) > 1 else x
    got = F.cross_entropy(moved, labels, dim=-1)
    assert got[0] == F.cross_entropy(x, labels)[0]


def test_losses_are_torchs(torch: Any, rng: Generator) -> None:
    functional = torch.nn.functional
    x, t, w, p = 3 * rng.standard_normal((6, 7)), rng.random((6, 7)), rng.random((6, 7)), rng.random(7)
    for reduction in ("mean", "sum", "none"):
        for mine, others in (
            (
                F.mse_loss(x, t, reduction),
                lambda a, reduction=reduction: functional.mse_loss(a, torch.tensor(t), reduction=reduction),
            ),
            (
                F.huber_loss(x, t, reduction, 0.7),
                lambda a, reduction=reduction: functional.huber_loss(
                    a, torch.tensor(t), reduction=reduction, delta=0.7
                ),
            ),
            (
                F.binary_cross_entropy_with_logits(x, t, w, reduction, p),
                lambda a, reduction=reduction: functional.binary_cross_entropy_with_logits(
                    a, torch.tensor(t), torch.tensor(w), reduction=reduction, pos_weight=torch.tensor(p)
                ),
            ),
        ):
            value, dx = gradient(torch, lambda a: others(a).sum(), x)  # noqa: B023
            np.testing.assert_allclose(np.sum(mine[0]), value, 1e-12)
            np.testing.assert_allclose(mine[1], dx, 1e-12, 1e-15)


# Limits


def test_limits() -> None:
    x = np.array([-np.inf, np.inf, np.nan, -0.0])
    for dtype in DTYPES:
        y = x.astype(dtype)
        assert same(F.exp(y), np.array([0, np.inf, np.nan, 1], dtype))
        assert same(F.tanh(y), np.array([-1, 1, np.nan, -0.0], dtype))
        assert same(F.erf(y), np.array([-1, 1, np.nan, -0.0], dtype))
        assert same(F.sigmoid(y), np.array([0, 1, np.nan, 0.5], dtype))
        largest = np.log(np.finfo(dtype).max).astype(dtype)
        assert np.isfinite(F.exp(np.nextafter(largest, dtype_zero(dtype))[None]))[0]
        assert np.isposinf(F.exp(np.nextafter(np.nextafter(largest, np.inf), np.inf).astype(dtype)[None]))[0]


def dtype_zero(dtype: str) -> Any:
    return np.zeros((), dtype)


# Layers


def test_a_model_learns_and_moves_to_torch_and_back(torch: Any, rng: Generator) -> None:
    model = nn.Sequential(
        nn.Linear(5, 8, activation="relu", seed=1), nn.LayerNorm(8), nn.Linear(8, 3, seed=2), nn.GELU()
    )
    other = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3), torch.nn.GELU())
    other.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    x, labels = rng.standard_normal((20, 5)).astype(np.float32), rng.integers(0, 3, 20)
    loss, dy = F.cross_entropy(model(x), labels)
    dx = model.backward(dy)
    tensor = torch.tensor(x, requires_grad=True)
    hidden = other[1](torch.relu(other[0](tensor)))
    torch.nn.functional.cross_entropy(other[3](other[2](hidden)), torch.tensor(labels)).backward()
    np.testing.assert_allclose(dx, tensor.grad, 1e-4, 1e-6)
    for name, param in other.named_parameters():
        np.testing.assert_allclose(model.grads[name], param.grad, 1e-4, 1e-6)
    opt = fo.optim.Adam(model.params, lr=0.02)
    for _ in range(100):
        after, dy = F.cross_entropy(model(x), labels)
        model.backward(dy)
        opt.step(model.grads)
    assert after < loss / 2
    model.load_state_dict(other.state_dict())
    assert F.cross_entropy(model(x), labels)[0] == loss


def test_a_failed_load_changes_no_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 3, seed=0), nn.Linear(3, 1, seed=0))
    before = model.state_dict()
    for key, value in (("1.bias", np.zeros(2)), ("1.bias", "text"), ("2.bias", np.zeros(1)), ("bias", np.zeros(1))):
        with pytest.raises((ValueError, TypeError), match=r"^Sequential: "):
            model.load_state_dict({**{name: 1 + array for name, array in before.items()}, key: value})
        assert same(tuple(model.state_dict().values()), tuple(before.values()))


def test_activations_as_layers_are_the_functions(rng: Generator) -> None:
    x, dy = rng.standard_normal((2, 4, 5))
    layers = [(nn.ReLU(), "relu"), (nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh"), (nn.SiLU(), "silu")]
    for layer, name in [*layers, (nn.Tanh(), "tanh"), (nn.Sigmoid(), "sigmoid")]:
        y, saved = F.activate(x, name)  # type: ignore[arg-type]
        assert same(layer(x), y)
        assert same(layer.backward(dy), F.activate_backward(dy, saved, name)[0])  # type: ignore[arg-type]


# Bad input

X = np.ones((4, 6), np.float32)
READ_ONLY = np.ones((4, 6), np.float32)
READ_ONLY.flags.writeable = False
MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.exp(np.ones(3, np.float16)), TypeError, r"exp: x has dtype float16, expected float32 or float64: pass x.astype"),
    (lambda: F.exp([1.0]), TypeError, r"exp: x must be a numpy array, got list"),  # type: ignore[arg-type]
    (lambda: F.exp(X, out=READ_ONLY), TypeError, r"exp: out is read-only"),
    (lambda: F.exp(X, out=X[:, ::-1]), TypeError, r"exp: out must be C-contiguous"),
    (lambda: F.exp(X[:2], out=X[1:3]), ValueError, r"exp: out would be written, but overlaps x"),
    (lambda: F.activate(X, "gleu"), ValueError, r"activate: activation must be 'relu', .* 'sigmoid' or None, got 'gleu'"),  # type: ignore[arg-type]
    (lambda: F.activate(X, 1), TypeError, r"activate: activation must be .*, got 1"),  # type: ignore[arg-type]
    (lambda: F.activate(X, "relu", np.ones(5, np.float32)), ValueError, r"activate: bias has shape \(5,\), expected \(6,\)"),
    (lambda: F.activate(X, "relu", np.ones(6)), TypeError, r"activate: bias has dtype float64, expected float32"),
    (lambda: F.activate(X, "relu", out=(None, X)), ValueError, r"activate: out\[1\] is given, but backward needs y only"),
    (lambda: F.activate(X, "gelu", out=(X, X)), ValueError, r"activate: out\[[01]\] would be written, but overlaps out\[[01]\]"),
    (lambda: F.activate_backward(X, X[:3], "relu"), ValueError, r"activate_backward: saved has shape \(3, 6\), expected \(4, 6\)"),
    (lambda: F.linear(X, np.ones((2, 5), np.float32)), ValueError, r"linear: x has shape \(4, 6\), expected it to end with 5"),
    (lambda: F.linear(X, np.ones((2, 6))), TypeError, r"linear: weight has dtype float64, expected float32, as x has: pass weight"),
    (lambda: F.linear(X, X[:3], activation="typo"), ValueError, r"activation must be 'relu'"),  # type: ignore[arg-type]
    (lambda: F.linear(X, np.ones((6, 6), np.float32), out=(X, None)), ValueError, r"linear: out\[0\] would be written, but overlaps"),
    (lambda: F.linear_backward(X, X, X[:3], None, "relu"), ValueError, r"linear_backward: dy has shape \(4, 6\), expected \(4, 3\)"),
    (lambda: F.linear_backward(X[:, :3], X, X[:3], None, "relu"), TypeError, r"linear_backward: saved is None, but 'relu' needs"),
    (lambda: F.linear_backward(np.ones((4, 4), "f"), X, X, x_grad=1), TypeError, r"linear_backward: x_grad must be a bool, got 1$"),  # type: ignore[arg-type]
    (lambda: F.linear_backward(np.ones((4, 4), "f"), X, X, bias_grad=None), TypeError, r"linear_backward: bias_grad must be a bool, got None$"),  # type: ignore[arg-type]
    (
        lambda: F.linear_backward(np.ones((4, 4), "f"), X, X, x_grad=False, out=(np.empty_like(X), None, None)),
        ValueError,
        r"linear_backward: out\[0\] is given, but x_grad is False$",
    ),
    (lambda: F.softmax(X, 2), ValueError, r"softmax: dim must name an axis of x, which has 2, got 2"),
    (lambda: F.softmax(X.T, causal=True), ValueError, r"softmax: x has shape \(6, 4\), expected \(…, queries, keys\)"),
    (lambda: F.softmax(X, scale=np.nan), ValueError, r"softmax: scale must be finite in float32, got nan"),
    (lambda: F.softmax(X, 0, out=np.empty_like(X)), TypeError, r"softmax: out must be C-contiguous with the axis dim moved to the end"),
    (lambda: F.cross_entropy(X, np.array([0, 1, 2, 6])), ValueError, r"cross_entropy: target must be in \[0, 6\) .*, got 6 at 3"),
    (lambda: F.cross_entropy(X, np.array([0, 1, 2])), ValueError, r"cross_entropy: target has shape \(3,\), expected \(4,\)"),
    (lambda: F.cross_entropy(X, np.ones((4, 6))), TypeError, r"cross_entropy: target has dtype float64, expected float32"),
    (lambda: F.cross_entropy(X, np.ones(4, bool)), TypeError, r"cross_entropy: target has dtype bool, expected integers"),
    (lambda: F.cross_entropy(X, None), TypeError, r"cross_entropy: target must be a numpy array, got None"),
    (lambda: F.cross_entropy(X, np.zeros(4, int), reduction="avg"), ValueError, r"cross_entropy: reduction must be 'mean', 'sum' or 'none'"),  # type: ignore[arg-type]
    (lambda: F.cross_entropy(X, np.zeros(4, int), label_smoothing=2), ValueError, r"cross_entropy: label_smoothing must be in \[0, 1\]"),
    (lambda: F.cross_entropy(X, np.zeros(4, int), grad=False, out=X), ValueError, r"cross_entropy: out is given, but grad is False"),
    (lambda: F.cross_entropy(X.copy(), X, out=X), ValueError, r"cross_entropy: out would be written, but overlaps target"),
    (lambda: F.mse_loss(X, X[:3]), ValueError, r"mse_loss: target has shape \(3, 6\), expected \(4, 6\)"),
    (lambda: F.mse_loss(X, X, weight=np.ones(5, np.float32)), ValueError, r"mse_loss: weight has shape \(5,\), expected one that broadcasts to \(4, 6\)"),
    (lambda: F.huber_loss(X, X, delta=0), ValueError, r"huber_loss: delta must be finite and > 0 in float32, got 0"),
    (lambda: nn.Linear(2, 3, activation="typo"), ValueError, r"Linear: activation must be"),  # type: ignore[arg-type]
    (lambda: nn.Linear(6, 3)(np.ones((2, 6))), TypeError, r"Linear: x has dtype float64, expected float32: pass x.astype"),
    (lambda: nn.Sequential(3), TypeError, r"Sequential: layers\[0\] must be a layer, got int"),
    (lambda: nn.GELU("typo"), ValueError, r"GELU: approximate must be 'none' or 'tanh'"),
    (lambda: nn.ReLU().backward(X), RuntimeError, r"ReLU: backward was called before forward"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), MISTAKES, ids=[text[:40] for _, _, text in MISTAKES])
def test_mistakes_are_errors_before_anything_is_written(
    call: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()
    assert np.all(X == 1)


def test_code_of_an_argument_may_change_arrays() -> None:
    """Of a number, which reshapes the array: an error or a result, and no crash."""

    class Dim:
        def __init__(self, array: Array, value: Any) -> None:
            self.array, self.value = array, value

        def __index__(self) -> int:
            self.array.shape = (self.array.size,)
            return int(self.value)

        __float__ = __index__

    for _ in range(20):
        for name, options in (("softmax", {"dim": -1}), ("softmax", {"scale": 1}), ("log_softmax", {"dim": 1})):
            x = np.ones((64, 48, 100), np.float32)
            key, value = next(iter(options.items()))
            with contextlib.suppress(TypeError, ValueError):
                getattr(F, name)(x, **{key: Dim(x, value)})
        x = np.ones((64, 48, 100), np.float32)
        with pytest.raises(ValueError, match="expected it to end with normalized_shape"):
            F.rms_norm(x, Dim(x, 100))  # type: ignore[arg-type]


def test_linear_backward_names_what_is_wrong_before_it_writes() -> None:
    dy, x, weight = np.ones((4, 3)), np.ones((4, 5)), np.ones((3, 5))
    for wrong in ("tanhh", 3, []):
        with pytest.raises((TypeError, ValueError), match="linear_backward: activation must be"):
            F.linear_backward(dy, x, weight, np.ones((4, 3)), wrong)
    with pytest.raises(TypeError, match="linear_backward: saved must be a numpy array"):
        F.linear_backward(dy, x, weight, "nonsense")
    saved = np.full((4, 3), 7.0)
    with pytest.raises(ValueError, match=r"linear_backward: out\[2\] would be written, but overlaps"):
        F.linear_backward(dy, x, weight, saved, out=(None, None, saved[0]))
    assert (saved == 7).all()


def test_a_gradient_that_layers_need_is_not_left_out() -> None:
    x, dy = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, input_grad=False))
    model(x)
    before = {name: grad.copy() for name, grad in model.grads.items()}
    with pytest.raises(ValueError, match="layer 1 has input_grad=False, but layers before it have parameters"):
        model.backward(dy)
    assert all((grad == before[name]).all() for name, grad in model.grads.items())
    model = nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3, input_grad=False))
    model(x)
    assert model.backward(dy) is None


def test_results_that_are_not_aligned_are_named(rng: Generator) -> None:
    x, weight, bias, dy = (rng.standard_normal(shape) for shape in ((4, 3), (5, 3), (5,), (4, 5)))
    with pytest.raises(TypeError, match=r"^linear: out\[0\] is not aligned: its elements do not lie at multiples"):
        F.linear(x, weight, bias, out=(unaligned(dy), None))
    for i, array in enumerate((x, weight, bias)):
        out: Any = tuple(unaligned(array) if k == i else None for k in range(3))
        with pytest.raises(TypeError, match=rf"^linear_backward: out\[{i}\] is not aligned"):
            F.linear_backward(dy, x, weight, out=out)
    apart = [unaligned(one) for one in (x, weight, bias)]
    assert same(F.linear(*apart), F.linear(x, weight, bias))  # where they are only read, it does not matter
