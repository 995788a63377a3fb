"""Embeddings: the reference's bits for any number of threads, any layout, and bad input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from images import some_indices
from numpy.random import Generator
from tables import EVERY_DTYPE, LAYOUTS, Array, mixed, ordinary
from tools import Each, differing, every_isa

import fastopt as fo
from fastopt import functional as F
from fastopt import nn, reference

dtypes = pytest.mark.parametrize("dtype", EVERY_DTYPE)

# Rows of the table, their width, the indices' shape; one row may be all of a thread's work.
TABLES = (
    (50, 37, (4, 9)),
    (5, 130, (200,)),
    (100, 1, (10,)),
    (3, 0, (5,)),
    (4, 300, (0, 3)),
    (1, 513, (300,)),
    (2, 40, (7, 11, 3)),
    (300, 256, (5, 100)),
    (6, 3, ()),
)


@dtypes
def test_is_the_reference(dtype: str, each: Each, rng: Generator) -> None:
    for rows, width, shape in each(TABLES):
        weight, indices = mixed(rng, (rows, width), dtype), some_indices(rng, rows, shape)
        dy = mixed(rng, (*shape, width), dtype)
        for padding_idx in (None, 0, -1):
            expected = reference.embedding_backward(dy, indices, rows, padding_idx)
            for _ in every_isa():
                assert differing(F.embedding(indices, weight, padding_idx), reference.embedding(indices, weight)) == 0
                for threads in (1, 2, 3, 5, 16):
                    with fo.threads(threads):
                        assert differing(F.embedding_backward(dy, indices, rows, padding_idx), expected) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_takes_any_layout(layout: str, rng: Generator) -> None:
    for rows, width, shape in TABLES:
        weight, indices = ordinary(rng, (rows, width), "float32"), some_indices(rng, rows, shape)
        dy = ordinary(rng, (*shape, width), "float32")
        if 0 in (*shape, width):
            continue
        weight, dy = LAYOUTS[layout](weight), LAYOUTS[layout](dy)  # in some layouts other numbers
        indices = np.repeat(indices, 2).reshape(*shape, 2)[..., 1]
        y, dweight = (
            F.embedding(indices.copy(), weight.copy()),
            F.embedding_backward(dy.copy(), indices.copy(), rows),
        )
        assert differing(F.embedding(indices, weight), y) == 0
        assert differing(F.embedding_backward(dy, indices, rows), dweight) == 0


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_takes_any_integers(dtype: str, rng: Generator) -> None:
    weight, indices = ordinary(rng, (90, 5)), rng.integers(0, 90, 40)
    assert differing(F.embedding(indices.astype(dtype), weight), weight[indices]) == 0
    assert (
        differing(
            F.embedding_backward(weight[:40], indices.astype(dtype), 90),
            reference.embedding_backward(weight[:40], indices, 90),
        )
        == 0
    )


def test_sums_duplicates_as_a_loop_does(rng: Generator) -> None:
    indices, dy = some_indices(rng, 9, (100,)), ordinary(rng, (100, 70), "float32")
    expected = np.zeros((9, 70), np.float32)
    np.add.at(expected, indices, dy)
    assert differing(F.embedding_backward(dy, indices, 9), expected) == 0


def test_a_16_bit_sum_is_rounded_once() -> None:
    """One after the other, 2048 + 1 would be 2048 in float16."""
    dy = np.ones((1025, 1), np.float16)
    dy[0] = 1024
    assert F.embedding_backward(dy, np.zeros(1025, int), 1)[0, 0] == 2048
    dy[0] = 2048
    assert F.embedding_backward(dy, np.zeros(1025, int), 1)[0, 0] == 3072


def test_out_receives_the_result(rng: Generator) -> None:
    weight, indices = ordinary(rng, (7, 6)), some_indices(rng, 7, (3, 4))
    y, dweight = np.full((3, 4, 6), np.nan), np.full((7, 6), np.nan)
    assert F.embedding(indices, weight, out=y) is y
    assert F.embedding_backward(y, indices, 7, out=dweight) is dweight
    assert differing(y, weight[indices]) == 0
    assert differing(dweight, reference.embedding_backward(y, indices, 7)) == 0


WEIGHT, INDICES, DY = np.zeros((7, 6)), np.zeros((3, 4), np.int64), np.zeros((3, 4, 6))


def at(position: tuple[int, ...], value: int) -> Array:
    indices = INDICES.copy()
    indices[position] = value
    return indices


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"indices": at((2, 1), 7)}, ValueError, "indices[2, 1] is 7, must be in [0, 7), as weight has 7 rows"),
        ({"indices": at((0, 3), -1)}, ValueError, "indices[0, 3] is -1, must be in [0, 7), as weight has 7 rows"),
        (
            {"indices": np.array(9), "out": None},
            ValueError,
            "indices[()] is 9, must be in [0, 7), as weight has 7 rows",
        ),
        (
            {"indices": INDICES * 1.0},
            TypeError,
            "indices has dtype float64, expected integers: pass indices.astype(np.int64)",
        ),
        ({"indices": INDICES > 0}, TypeError, "indices has dtype bool, expected integers"),
        ({"indices": [1, 2]}, TypeError, "indices must be a numpy array, got list"),
        ({"indices": np.ma.array(INDICES)}, TypeError, "indices is a masked array, whose mask would be ignored"),
        ({"weight": WEIGHT[0]}, ValueError, "weight has shape (6,), expected 2 axes"),
        (
            {"weight": WEIGHT.astype(int)},
            TypeError,
            "weight has dtype int64, expected float32, float64, float16 or bfloat16",
        ),
        ({"padding_idx": 7}, ValueError, "padding_idx must be in [-7, 7), got 7"),
        ({"padding_idx": 1.0}, TypeError, "padding_idx must be an integer, got 1.0"),
        ({"out": np.zeros((3, 4, 5))}, ValueError, "out has shape (3, 4, 5), expected (3, 4, 6)"),
        ({"out": np.zeros((3, 4, 6), np.float32)}, TypeError, "out has dtype float32, expected float64"),
        ({"out": np.zeros((3, 4, 12))[..., ::2]}, TypeError, "out must be C-contiguous"),
        ({"weight": DY.reshape(12, 6), "out": DY}, ValueError, "out would be written, but overlaps weight"),
    ],
)
def test_bad_input_of_forward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"indices": INDICES, "weight": WEIGHT, "out": np.full((3, 4, 6), 5.0), **change}
    before = np.copy(arguments["out"])
    with pytest.raises(error, match=re.escape(f"embedding: {text}")):
        F.embedding(**arguments)
    np.testing.assert_array_equal(arguments["out"], before)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"indices": at((2, 1), 7)}, ValueError, "indices[2, 1] is 7, must be in [0, 7), as num_embeddings is 7"),
        (
            {"indices": INDICES[:2]},
            ValueError,
            "dy has shape (3, 4, 6), expected (2, 4, 6), as indices has shape (2, 4)",
        ),
        ({"num_embeddings": -1}, ValueError, "num_embeddings must be in [0, 2**31), got -1"),
        ({"num_embeddings": 7.0}, TypeError, "num_embeddings must be an integer, got 7.0"),
        ({"padding_idx": -8}, ValueError, "padding_idx must be in [-7, 7), got -8"),
        ({"dy": np.array(1.0)}, ValueError, "dy has shape (), expected that of indices and one more axis"),
        ({"out": np.zeros((8, 6))}, ValueError, "out has shape (8, 6), expected (7, 6)"),
        ({"dy": DY, "out": DY.reshape(12, 6)[:7]}, ValueError, "out would be written, but overlaps dy"),
    ],
)
def test_bad_input_of_backward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {
        "dy": np.ones((3, 4, 6)),
        "indices": INDICES,
        "num_embeddings": 7,
        "out": np.full((7, 6), 5.0),
        **change,
    }
    before = arguments["out"].copy()
    with pytest.raises(error, match=re.escape(f"embedding_backward: {text}")):
        F.embedding_backward(**arguments)
    assert differing(arguments["out"], before) == 0


def test_an_index_anywhere_is_found() -> None:
    weight = np.zeros((3, 2))
    for i in (0, 1, 63, 64, 65, 130, 199):
        indices = np.zeros(200, np.int64)
        indices[i] = 3
        with pytest.raises(ValueError, match=rf"indices\[{i}\] is 3"):
            F.embedding(indices, weight)
    with pytest.raises(ValueError, match="must be in"):
        F.embedding(np.array([2**64 - 1], np.uint64), weight)


# The layer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer(dtype: str, rng: Generator) -> None:
    layer = nn.Embedding(9, 5, padding_idx=-2, seed=np.random.default_rng(1), dtype=dtype)
    weight, indices = layer.params["weight"], some_indices(rng, 9, (4, 3))
    assert weight.dtype == dtype
    assert not weight[7].any()
    assert np.count_nonzero(weight) == 8 * 5
    assert differing(nn.Embedding(9, 5, 7, seed=1, dtype=dtype).params["weight"], weight) == 0
    y = layer(indices)
    dy, grad = ordinary(rng, y.shape, dtype), layer.grads["weight"]
    assert layer.backward(dy) is None
    assert layer.grads["weight"] is grad
    assert differing(y, weight[indices]) == 0
    assert differing(grad, reference.embedding_backward(dy, indices, 9, 7)) == 0
    other = nn.Embedding(9, 5, dtype=dtype)
    other.load_state_dict(layer.state_dict())
    assert differing(other(indices), y) == 0
    assert repr(layer) == f"Embedding(9, 5, padding_idx=7{', dtype=' + repr(dtype) if dtype == 'float64' else ''})"


def test_initial_weights_are_normal() -> None:
    weight = nn.Embedding(400, 300, seed=0).params["weight"]
    assert abs(weight.mean()) < 0.01
    assert abs(weight.std() - 1) < 0.01


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((-1, 5), ValueError, "num_embeddings must be in [0, 2**53), got -1"),
        ((5, 5.0), TypeError, "embedding_dim must be an integer, got 5.0"),
        ((5, 5, 5), ValueError, "padding_idx must be in [-5, 5), got 5"),
    ],
)
def test_bad_layers(arguments: tuple[Any, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(f"Embedding: {text}")):
        nn.Embedding(*arguments)
    with pytest.raises(
        TypeError, match=r"^Embedding: seed must be an integer >= 0, a NumPy generator or None, got 'x'$"
    ):
        nn.Embedding(2, 2, seed="x")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        nn.Embedding(2, 2).backward(np.zeros((1, 2), np.float32))
