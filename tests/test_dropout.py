"""Dropout and its variants: the reference's bits, the distribution of dropped elements, gradients, layers and bad
input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, HALVES, LAYOUTS, Array, extreme, mixed, ordinary
from tools import Each, assert_same_bits, differing, every_isa, shifted

import fastopt as fo
from fastopt import functional as F
from fastopt import nn, reference
from fastopt.functional._arrays import memory_order
from fastopt.reference._random import words

Function: TypeAlias = Callable[..., Any]

FUNCTIONS = ("dropout", "gaussian_dropout", "channel_dropout")
LAYERS = {"dropout": nn.Dropout, "gaussian_dropout": nn.GaussianDropout, "channel_dropout": nn.ChannelDropout}
SIZES = (0, 1, 2, 15, 16, 17, 31, 63, 64, 65, 79, 127, 128, 129, 191, 192, 193, 255, 256, 257, 1000, 8191)
PROBABILITIES = (0.0, 1e-12, 0.1, 0.25, 0.5, 1 / 3, 0.9, 1 - 2**-32, 1 - 2**-40)
THREADS = (1, 2, 3, 5, 8, 16)

functions = pytest.mark.parametrize("function", FUNCTIONS)
elementwise = pytest.mark.parametrize("function", FUNCTIONS[:2])
dtypes = pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])


def two_axes(x: Array, function: str) -> Array:
    """x as channel dropout can take it: every element is a sample with one channel."""
    return x.reshape(-1, 1) if function == "channel_dropout" and x.ndim < 2 else x


def assert_is_the_reference(function: str, x: Array, *args: Any, **options: Any) -> Array:
    """Checks forward and backward on every instruction set, and that the memory order is x's; returns the result."""
    expected = getattr(reference, function)(x, *args, **options)
    for _, name in itertools.product(every_isa(), (function, f"{function}_backward")):
        y = getattr(F, name)(x, *args, **options)
        assert_same_bits({name: y}, {name: expected})
        assert order(y) == order(expected) == order(x)
    return np.asarray(expected)


def order(x: Array) -> list[int]:
    """The axes that are longer than one, in the order of memory."""
    axes = [axis for axis in range(x.ndim) if x.shape[axis] > 1]
    shared = any(x.strides[axis] == 0 for axis in axes)
    return axes if shared else sorted(axes, key=lambda axis: -abs(x.strides[axis]))


def score(squares: Any, degrees: float) -> float:
    """The distance of Σ(observed − expected)²/variance from its likely value, in standard deviations: Wilson & Hilferty
    1931.
    """
    spread = 2 / (9 * degrees)
    return float(((squares / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def kept(n: int, p: float, seed: int = 0, step: int = 0) -> Array:
    return np.asarray(F.dropout(np.ones(n, np.float32), p, seed=seed, step=step) != 0)


# Bits


@dtypes
@functions
def test_is_the_reference(function: str, dtype: str, each: Each, rng: Generator) -> None:
    for size, p in each(SIZES, PROBABILITIES, by_day=len(SIZES)):
        if function == "gaussian_dropout" and p > 0.99:
            continue
        x = two_axes(mixed(rng, size, dtype), function)
        seed, step = int(rng.integers(2**64, dtype=np.uint64)), int(rng.integers(2**32))
        assert_is_the_reference(function, x, p, seed=seed, step=step)


@dtypes
@functions
def test_is_the_reference_with_extreme_numbers(function: str, dtype: str, rng: Generator) -> None:
    for shape in ((40, 40), (3, 5, 67)):
        x = extreme(rng, shape, dtype)
        for p, training in itertools.product((0.0, 0.3, 0.75), (True, False)):
            assert_is_the_reference(function, x, p, training, seed=3)


@functions
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("step", [0, 1, 2**32 - 1])
def test_is_the_reference_for_all_seeds_and_steps(function: str, seed: int, step: int, rng: Generator) -> None:
    assert_is_the_reference(function, ordinary(rng, (7, 100), "float32"), seed=seed, step=step)


def layouts(rng: Generator, dtype: str) -> list[Array]:
    """Arrays in every memory order and direction, with gaps, in parts and with axes of one element."""
    x = ordinary(rng, (3, 5, 4, 6), dtype)
    every = [x.transpose(axes) for axes in itertools.permutations(range(4))]
    every += [y[1:] for y in every[::5]] + [y[:, 1:4] for y in every[::3]]
    every += [ordinary(rng, (9, 5, 70), dtype)[::2, 1:4, 3:68], ordinary(rng, (9, 5, 70), dtype)[:, :, 5:6]]
    every += [ordinary(rng, (40, 200), dtype)[:, 3:150], ordinary(rng, (40, 200), dtype)[::3].T]
    every += [np.broadcast_to(ordinary(rng, 70, dtype), (5, 70)), np.broadcast_to(x[:, :1], (3, 7, 4, 6))]
    every += [place(y) for place in LAYOUTS.values() for y in (x, x.T, ordinary(rng, (5, 70), dtype))]
    every += [ordinary(rng, (40, 3000), dtype)[::-3, ::2], np.moveaxis(x, 1, -1)[..., ::-1], x[:, ::-2, ::-1, 1:5:3]]
    every += [np.lib.stride_tricks.sliding_window_view(ordinary(rng, (9, 70), dtype), 5, axis=1)]
    every += [x[None], x.T[:, None], x[:1], x[:, :1], x[:, :, :1], np.zeros((0, 3), dtype), np.zeros((3, 0, 2), dtype)]
    every += [ordinary(rng, (300, 1), dtype), ordinary(rng, (1, 300), dtype), ordinary(rng, (300, 7), dtype)]
    return every


@dtypes
@functions
def test_is_the_reference_in_every_memory_order(function: str, dtype: str, each: Each, rng: Generator) -> None:
    for _, x in each(list(enumerate(layouts(rng, dtype))), by_day=25):
        before = x.copy()
        assert_is_the_reference(function, x, 0.4, seed=5)
        assert differing(x, before) == 0


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "order" not in layout and "axes" not in layout])
@functions
def test_is_that_of_a_contiguous_copy(function: str, layout: str, rng: Generator) -> None:
    for shape in ((3, 5, 4, 6), (40, 3, 700)):
        x = LAYOUTS[layout](ordinary(rng, shape, "float32"))
        expected = getattr(F, function)(np.ascontiguousarray(x), seed=1)
        assert differing(getattr(F, function)(x, seed=1), expected) == 0


@dtypes
@elementwise
def test_elements_may_be_counted_in_another_order(function: str, dtype: str, rng: Generator) -> None:
    """So a gradient may have another memory layout than the input."""
    x, dy = (ordinary(rng, (3, 5, 4, 6), dtype) for _ in range(2))
    for axes in itertools.permutations(range(4)):
        y = np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))
        counted = memory_order(y)
        like_y = np.ascontiguousarray(dy.transpose(axes)).transpose(np.argsort(axes))
        expected = getattr(F, f"{function}_backward")(like_y, seed=1)
        assert order(expected) == order(y) == list(counted) == list(axes)
        for place in LAYOUTS.values():
            placed = place(dy)
            for module in F, reference:
                dx = getattr(module, f"{function}_backward")(placed, seed=1, order=counted)
                assert order(dx) == order(expected)
                if differing(placed, dy) == 0:  # not broadcast
                    assert differing(dx, expected) == 0
            assert differing(getattr(F, function)(placed, seed=1, order=counted), dx) == 0


def test_channels_are_the_reference_s_on_every_axis(each: Each, rng: Generator) -> None:
    for _, x in each(list(enumerate(layouts(rng, "float32"))), by_day=25):
        for axis in (*range(1, x.ndim), *range(1 - x.ndim, 0)):
            assert_is_the_reference("channel_dropout", x, 0.4, seed=5, channel_axis=axis)


@elementwise
def test_number_of_axes_does_not_matter(function: str, rng: Generator) -> None:
    x = ordinary(rng, (4, 6, 50), "float32")
    expected = getattr(F, function)(x, seed=1).ravel()
    for y in (x.ravel(), x.reshape(24, 50), x.reshape(2, 2, 1, 3, 2, 50)):
        assert differing(getattr(F, function)(y, seed=1).ravel(), expected) == 0
    assert_is_the_reference(function, np.array(2.0), seed=1)


@functions
def test_threads_do_not_matter(function: str, rng: Generator) -> None:
    x = ordinary(rng, (600, 3, 129), "float32")
    for array in (x, x.T, x[:, :2, 1:], x[::-1, :, ::2], x.astype(np.float64), x.astype(ml_dtypes.bfloat16)):
        expected = assert_is_the_reference(function, array, 0.1, seed=1)
        for threads in THREADS:
            with fo.threads(threads):
                assert differing(getattr(F, function)(array, 0.1, seed=1), expected) == 0


@functions
def test_results_past_the_caches(function: str, rng: Generator) -> None:
    """Large results are stored past the caches."""
    x = ordinary(rng, (2, 1_100_003), "float32")
    expected = getattr(reference, function)(x, 0.3, seed=1)
    for isa in every_isa():
        for place in (shifted(0), shifted(1), shifted(4)):
            y = place(np.zeros_like(x))
            getattr(F, function)(place(x), 0.3, seed=1, out=y)
            assert differing(y, expected) == 0, isa


@dtypes
@functions
def test_alignment_does_not_matter(function: str, dtype: str, rng: Generator) -> None:
    x = ordinary(rng, (5, 3, 131), dtype)
    for array in (x, x.T):
        expected = getattr(reference, function)(array, 0.3, seed=1)
        for _ in every_isa():
            for by, apart in itertools.product((0, 1, 3, 8), (0, 1)):
                place = shifted(by, apart)
                y = place(np.zeros_like(array))
                getattr(F, function)(place(array), 0.3, seed=1, out=y)
                assert differing(y, expected) == 0


@functions
def test_dtype_does_not_matter(function: str, rng: Generator) -> None:
    """The dtype does not change which elements are dropped."""
    ys = [getattr(F, function)(np.ones((50, 40), dtype), 0.2, seed=1) for dtype in (*DTYPES, *HALVES)]
    for y in ys[1:]:
        np.testing.assert_allclose(y.astype(np.float64), ys[0].astype(np.float64), rtol=4e-3, atol=4e-3)


# Which elements are dropped


def numbers(n: int, seed: int) -> Array:
    """The random numbers that decide, as the reference draws them."""
    upper, lower = (
        np.concatenate([(word & 0xFFFF)[:, None], (word >> 16)[:, None]], axis=1).ravel()[:n].astype(np.int64)
        for word in (words(seed, 0, member, -(-n // 128)).reshape(-1, 64) for member in (0x80000000, 0x80000003))
    )
    return (upper << 16) + lower


@pytest.mark.parametrize("i", [0, 63, 64, 127, 128, 300])
def test_probability_is_exact(i: int) -> None:
    """An element is kept if p·2³² equals its number, and dropped if p·2³² is larger by one."""
    number = int(numbers(301, 7)[i])
    assert 0 < number < 2**32 - 1
    for p, is_kept in ((number / 2**32, True), ((number + 1) / 2**32, False)):
        for _ in every_isa():
            assert kept(301, p, seed=7)[i] == is_kept
            assert kept(i + 1, p, seed=7)[i] == is_kept


@functions
@dtypes
def test_no_and_full_probability(function: str, dtype: str, rng: Generator) -> None:
    x = extreme(rng, (30, 50), dtype)
    bits = f"u{x.itemsize}"
    for options in ({"p": 0.0}, {"p": 0.5, "training": False}, {"p": 0.0, "training": False}):
        y = getattr(F, function)(x, **options, seed=1)
        assert y is not x
        np.testing.assert_array_equal(y.view(bits), x.view(bits))
    if function != "gaussian_dropout":
        assert not getattr(F, function)(x, 1.0, seed=1).view(bits).any()


@dtypes
@pytest.mark.parametrize("function", ["dropout", "channel_dropout"])
def test_dropped_is_plus_zero(function: str, dtype: str) -> None:
    for value in (np.nan, np.inf, -np.inf, -0.0, -1.0):
        x = np.full((60, 40), value, dtype)
        y = getattr(F, function)(x, 0.5, seed=1)
        dropped = getattr(F, function)(np.ones_like(x), 0.5, seed=1) == 0
        assert 0.3 < dropped.mean() < 0.7
        assert not y[dropped].view(f"u{x.itemsize}").any()
        assert differing(y[~dropped], (x * 2)[~dropped]) == 0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_rate(p: float) -> None:
    """The rate is right over all elements, and at each position of a block of 128."""
    n = 1 << 21
    dropped = ~kept(n, p, seed=1)
    assert abs(dropped.sum() - n * p) < 4 * math.sqrt(n * p * (1 - p))
    columns = dropped.reshape(-1, 128)
    squares = ((columns.sum(0) - len(columns) * p) ** 2).sum() / (len(columns) * p * (1 - p))
    assert abs(score(squares, 128)) < 4


def assert_independent(one: Array, other: Array, p: float) -> None:
    """Asserts that the four combinations of two masks have the expected frequencies."""
    n = one.size
    observed = [np.count_nonzero((one == a) & (other == b)) for a in (False, True) for b in (False, True)]
    expected = [n * (p if not a else 1 - p) * (p if not b else 1 - p) for a in (False, True) for b in (False, True)]
    squares = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert score(squares, 3) < 4


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_independent(p: float) -> None:
    """An element is independent of elements 1 to 4096 places later in the same step, and of itself with another seed or
    step.
    """
    mask = kept(1 << 20, p, seed=1)
    for lag in (*range(1, 17), 31, 32, 33, 63, 64, 65, 127, 128, 129, 1024, 4096):
        first = np.arange(mask.size // (2 * lag))[:, None] * 2 * lag + np.arange(lag)  # pairs that share no element
        assert_independent(mask[first].ravel(), mask[first + lag].ravel(), p)
    others = [{"seed": 1, "step": 1}, {"seed": 1, "step": 2**31}, {"seed": 2}, {"seed": 1 + 2**32}, {"seed": 2**63 + 1}]
    for other in others:
        assert_independent(mask, kept(mask.size, p, **other), p)


def test_runs_are_as_long_as_they_should_be() -> None:
    """All 256 patterns of eight neighbours are equally frequent."""
    mask = kept(1 << 20, 0.5, seed=3).reshape(-1, 8)
    count = np.bincount(np.packbits(mask, axis=1).ravel(), minlength=256)
    expected = len(mask) / 256
    assert abs(score(((count - expected) ** 2).sum() / expected, 255)) < 4


def test_steps_of_one_element_are_independent() -> None:
    p, steps = 0.3, 2000
    masks = np.array([kept(256, p, seed=9, step=step) for step in range(steps)])
    squares = ((masks.sum(0) - steps * (1 - p)) ** 2).sum() / (steps * p * (1 - p))
    assert abs(score(squares, 256)) < 4
    assert_independent(masks[0::2].ravel(), masks[1::2].ravel(), p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_channels_are_dropped_whole(p: float) -> None:
    x = np.ones((400, 50, 7), np.float32)
    y = F.channel_dropout(x, p, seed=1)
    assert np.all(y == y[:, :, :1])
    mask = y[:, :, 0] != 0
    assert abs(mask.sum() - mask.size * (1 - p)) < 4 * math.sqrt(mask.size * p * (1 - p))
    assert_independent(mask[:, ::2].ravel(), mask[:, 1::2].ravel(), p)
    assert_independent(mask[::2].ravel(), mask[1::2].ravel(), p)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


def test_memory_order_does_not_matter_to_channels(rng: Generator) -> None:
    x = ordinary(rng, (4, 6, 3, 5), "float32")
    expected = F.channel_dropout(x, seed=1)
    for axes in itertools.permutations(range(4)):
        y = np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))
        assert differing(F.channel_dropout(y, seed=1), expected) == 0
    last = np.moveaxis(x, 1, -1)
    assert differing(F.channel_dropout(last, seed=1, channel_axis=-1), np.moveaxis(expected, 1, -1)) == 0


def test_streams_are_different() -> None:
    """Elements, channels and optimizers' noise do not share their numbers."""
    one = kept(1 << 16, 0.5, seed=1)
    channels = F.channel_dropout(np.ones((256, 256), np.float32), seed=1).ravel() != 0
    positive = F.gaussian_dropout(np.ones(1 << 16, np.float32), 0.5, seed=1) > 1
    for a, b in itertools.combinations((one, channels, positive), 2):
        assert_independent(a, b, 0.5)


@dtypes
@functions
def test_the_mean_stays(function: str, dtype: str, rng: Generator) -> None:
    """And the variance is that of the formula, x²·p/(1 − p)."""
    x = ordinary(rng, (4, 64, 1), dtype)
    for p in (0.1, 0.5, 0.8):
        steps = 3000
        ys = np.array([getattr(F, function)(x, p, seed=4, step=step).astype(np.float64) for step in range(steps)])
        exact = x.astype(np.float64)
        variance = exact**2 * p / (1 - p)
        squares = (ys.mean(0) - exact) ** 2 / (variance / steps)
        assert abs(score(squares.sum(), x.size)) < 4
        assert np.sum((ys - exact) ** 2) / steps == pytest.approx(variance.sum(), rel=0.03)


def test_gaussian_deviates_are_normal() -> None:
    n = 1 << 20
    deviates = np.sort(F.gaussian_dropout(np.ones(n), 0.5, seed=1) - 1)
    distribution = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in deviates[::64]])
    assert np.max(np.abs(distribution - np.arange(0, n, 64) / n)) < 1.63 / math.sqrt(n)  # Kolmogorov & Smirnov, 1 %


# Backward


@elementwise
@dtypes
def test_backward_is_the_gradient(function: str, dtype: str, rng: Generator) -> None:
    """y is linear in x, element by element: dx is dy·y(1), without rounding for powers of two."""
    x = np.ones((30, 50), dtype)
    dy = (2.0 ** rng.integers(-3, 4, x.shape)).astype(dtype)
    y, dx = getattr(F, function)(x, 0.3, seed=1, step=8), getattr(F, f"{function}_backward")(dy, 0.3, seed=1, step=8)
    assert differing(dx, (y * dy).astype(dtype)) == 0


def test_backward_of_channels_is_the_gradient(rng: Generator) -> None:
    x, dy = (ordinary(rng, (4, 5, 6, 7), "float64") for _ in range(2))
    for axis in (1, 2, -1):
        y = F.channel_dropout(x, 0.3, seed=1, channel_axis=axis)
        dx = F.channel_dropout_backward(dy, 0.3, seed=1, channel_axis=axis)
        np.testing.assert_allclose(dx * x, y * dy, rtol=1e-14)


# Results


@functions
def test_out(function: str, rng: Generator) -> None:
    for x in (ordinary(rng, (40, 50, 3), "float32"), ordinary(rng, (40, 50, 3), "float32").T):
        expected = getattr(F, function)(x, seed=1)
        given = np.empty_like(x)
        for training in (True, False):
            assert getattr(F, function)(x, 0.5, training, seed=1, out=given) is given
            assert differing(given, expected if training else x) == 0


@functions
@dtypes
def test_in_place(function: str, dtype: str, rng: Generator) -> None:
    for shape in ((9, 13), (3, 1000, 50)):
        x = ordinary(rng, shape, dtype)
        expected = getattr(F, function)(x, seed=1)
        for _ in every_isa():
            y = x.copy()
            assert getattr(F, function)(y, seed=1, out=y) is y
            assert differing(y, expected) == 0
            assert getattr(F, function)(y, training=False, seed=1, out=y) is y
            assert differing(y, expected) == 0


# Layers


layers = pytest.mark.parametrize("function", LAYERS)


@layers
def test_layer_is_the_function(function: str, rng: Generator) -> None:
    layer, forward, backward = LAYERS[function](0.3, seed=11), getattr(F, function), getattr(F, f"{function}_backward")
    for step in range(4):
        x, dy = (ordinary(rng, (8, 50), "float32") for _ in range(2))
        out, dx_out = np.empty_like(x), np.empty_like(x)
        assert layer.step == step
        assert layer(x, out=out) is out
        assert differing(out, forward(x, 0.3, seed=11, step=step)) == 0
        assert layer.backward(dy, out=dx_out) is dx_out
        assert differing(dx_out, backward(dy, 0.3, seed=11, step=step)) == 0
        assert differing(layer.backward(dy), dx_out) == 0  # it may be called again


@layers
def test_evaluation_is_the_identity(function: str, rng: Generator) -> None:
    x = ordinary(rng, (8, 50), "float32")
    for layer in (LAYERS[function](0.3, seed=1).eval(), LAYERS[function](0.0, seed=1)):
        out = np.empty_like(x)
        assert layer(x) is x and layer.backward(out) is out
        assert layer(x, out=out) is out and differing(out, x) == 0
        assert layer.backward(x, out=out) is out and differing(out, x) == 0


@layers
def test_backward_is_that_of_the_last_pass(function: str, rng: Generator) -> None:
    """Changes since that pass have no effect."""
    x = np.ones((8, 50), np.float32)
    layer = LAYERS[function](0.3, seed=1)
    y = layer(x)
    layer.eval()
    layer.p, layer.seed, layer.step = 0.9, 5, 77
    assert differing(layer.backward(x), y) == 0
    layer(x)
    layer.train()
    assert layer.backward(x) is x
    assert layer.step == 77


@layers
def test_resuming(function: str) -> None:
    x = np.ones((8, 50), np.float32)
    layer = LAYERS[function](0.3)
    for _ in range(3):
        layer(x)
    seed, step = layer.seed, layer.step
    expected = [layer(x) for _ in range(3)]
    again = LAYERS[function](0.3, seed)
    again.step = step
    for y in expected:
        assert differing(again(x), y) == 0
    assert len({y.tobytes() for y in expected}) == 3


@layers
def test_layers_have_seeds_of_their_own(function: str) -> None:
    seeds = {LAYERS[function]().seed for _ in range(20)}
    assert len(seeds) == 20
    assert max(seeds) >= 2**56 and all(0 <= seed < 2**64 for seed in seeds)


@layers
def test_layer_has_no_parameters(function: str) -> None:
    layer = LAYERS[function]()
    assert layer.params == layer.grads == layer.buffers == layer.state_dict() == {}
    layer.load_state_dict({})
    with pytest.raises(RuntimeError, match=f"^{type(layer).__name__}: backward was called before forward$"):
        layer.backward(np.ones((2, 2)))


def test_a_layers_gradient_may_lie_otherwise_than_its_input(rng: Generator) -> None:
    """The same elements are dropped in backward, wherever their gradients lie in memory."""
    x = ordinary(rng, (8, 50), "float32")
    for layer in (nn.Dropout(seed=1), nn.GaussianDropout(seed=1)):
        for given in x, np.asfortranarray(x):
            layer(given)
            expected = layer.backward(given)
            for other in np.asfortranarray(x), np.flip(np.flip(x).copy()):
                assert np.array_equal(layer.backward(other), expected)
        with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: dy has shape \(8, 5\), expected \(8, 50\)"):
            layer.backward(x[:, :5])
    channels = nn.ChannelDropout(seed=1)
    y = channels(x)
    np.testing.assert_allclose(channels.backward(other), y)


# Bad input

OTHERS = (np.ones((4, 4)).T, np.ones((4, 5))[:, :4], np.ones((4, 4))[::-1])
OTHER_ORDER = (
    "out must have its axes in the order that those of {x} have in memory, without gaps or negative strides; "
    "None makes such an array"
)
GOOD: dict[str, Any] = dict(p=0.5, training=True, seed=1, step=0)
BAD: list[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"p": 1.5}, ValueError, "p must be in [0, 1{end}, got 1.5"),
    ({"p": -0.1}, ValueError, "p must be in [0, 1{end}, got -0.1"),
    ({"p": math.nan}, ValueError, "p must be in [0, 1{end}, got nan"),
    ({"p": 10**400}, ValueError, "p must be in [0, 1{end}, got 1" + "0" * 400),
    ({"p": "half"}, TypeError, "p must be a number, got 'half'"),
    ({"p": None}, TypeError, "p must be a number, got None"),
    ({"training": "yes"}, TypeError, "training must be a bool, got 'yes'"),
    ({"seed": -1}, ValueError, "seed must be in [0, 2**64), got -1"),
    ({"seed": 2**64}, ValueError, "seed must be in [0, 2**64), got 18446744073709551616"),
    ({"seed": 1.0}, TypeError, "seed must be an integer, got 1.0"),
    ({"seed": None}, TypeError, "seed must be an integer, got None"),
    ({"step": -1}, ValueError, "step must be in [0, 2**32), got -1"),
    ({"step": 2**32}, ValueError, "step must be in [0, 2**32), got 4294967296"),
    ({"step": "1"}, TypeError, "step must be an integer, got '1'"),
    ({"x": [[1.0]]}, TypeError, "{x} must be a numpy array, got list"),
    (
        {"x": np.ones((4, 4), int)},
        TypeError,
        "{x} has dtype int64, expected float32, float64, float16 or bfloat16: pass {x}.astype(np.float32)",
    ),
    ({"x": np.ones((4, 4), ">f8")}, TypeError, "{x} has swapped byte order (dtype >f8), expected the machine's own"),
    ({"out": [1.0]}, TypeError, "out must be a numpy array, got list"),
    ({"out": (np.ones((4, 4)),)}, TypeError, "out must be a numpy array, got tuple"),
    ({"out": np.ones((4, 4), np.float32)}, TypeError, "out has dtype float32, expected float64"),
    ({"out": np.ones((4, 5))}, ValueError, "out has shape (4, 5), expected (4, 4)"),
    *(({"out": out}, TypeError, OTHER_ORDER) for out in OTHERS),
]
OF_ELEMENTS: list[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"order": (0, 0)}, ValueError, "order must name each of the 2 axes of {x} once, got (0, 0)"),
    ({"order": (0,)}, ValueError, "order must name each of the 2 axes of {x} once, got (0,)"),
    ({"order": (1, 2)}, ValueError, "order must name each of the 2 axes of {x} once, got (1, 2)"),
    ({"order": (0, 1.0)}, TypeError, "order must be an integer, got 1.0"),
    ({"order": "C"}, TypeError, "order must be a sequence of axes or None, got 'C'"),
    ({"order": 1}, TypeError, "order must be a sequence of axes or None, got 1"),
]
OF_CHANNELS: list[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"x": np.ones(4)}, ValueError, "{x} has shape (4,), expected at least 2 axes"),
    ({"channel_axis": 0}, ValueError, "channel_axis must name one of the axes of {x} but the first, got 0"),
    ({"channel_axis": -2}, ValueError, "channel_axis must name one of the axes of {x} but the first, got -2"),
    ({"channel_axis": 2}, ValueError, "channel_axis must name one of the axes of {x} but the first, got 2"),
    ({"channel_axis": 1.5}, TypeError, "channel_axis must be an integer, got 1.5"),
]


def call(function: str, **arguments: Any) -> Any:
    return getattr(F, function)(arguments.pop("x"), **arguments)


@functions
def test_bad_input(function: str) -> None:
    """The error names function and argument, and nothing has been written."""
    end = ")" if function == "gaussian_dropout" else "]"
    for changes, error, text in [*BAD, *(OF_CHANNELS if function == "channel_dropout" else OF_ELEMENTS)]:
        for name, x in ((function, "x"), (f"{function}_backward", "dy")):
            arguments = {"x": np.ones((4, 4)), "out": np.full((4, 4), 7.0)} | GOOD | changes
            before = {key: value.copy() for key, value in arguments.items() if isinstance(value, np.ndarray)}
            with pytest.raises(error) as raised:
                call(name, **arguments)
            assert str(raised.value) == f"{name}: {text}".format(x=x, end=end)
            for key, value in before.items():
                np.testing.assert_array_equal(arguments[key], value)


def test_full_gaussian_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^gaussian_dropout: p must be in \[0, 1\), got 1.0$"):
        F.gaussian_dropout(np.ones(3), 1.0, seed=1)
    with pytest.raises(ValueError, match=r"^GaussianDropout: p must be in \[0, 1\), got 1$"):
        nn.GaussianDropout(1)


@functions
def test_overlap_and_read_only(function: str) -> None:
    room = np.ones((9, 4))
    x = room[:4]
    for out in (room[1:5], room[:4][:]):  # another view of x is not x
        with pytest.raises(ValueError, match=f"^{function}: out would be written, but overlaps x$"):
            call(function, x=x, seed=1, out=out)
    call(function, x=x, seed=1, out=room[4:8])
    fixed = np.ones((4, 4))
    fixed.flags.writeable = False
    with pytest.raises(TypeError, match=f"^{function}: out is read-only, but would be written; give a copy$"):
        call(function, x=x, seed=1, out=fixed)
    call(function, x=fixed, seed=1)
    for x in (np.ones((4, 6))[:, :4], np.ones((4, 4))[:, ::-1]):
        with pytest.raises(TypeError, match=f"^{function}: out must have its axes in the order"):
            call(function, x=x, seed=1, out=x)


@layers
def test_bad_layers(function: str) -> None:
    name = LAYERS[function].__name__
    interval = r"\[0, 1\)" if function == "gaussian_dropout" else r"\[0, 1\]"
    for options, error, text in (
        ({"p": 1.5}, ValueError, f"p must be in {interval}, got 1.5"),
        ({"p": "x"}, TypeError, "p must be a number, got 'x'"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\*\*64\), got 18446744073709551616"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    ):
        with pytest.raises(error, match=f"^{name}: {text}$"):
            LAYERS[function](**options)
    layer = LAYERS[function](0.5)
    with pytest.raises(TypeError, match=f"^{function}: x must be a numpy array, got list$"):
        layer([1.0])
    assert layer.step == 0
