"""Input that looks bad but is legal: slices, read-only and broadcast inputs, empty arrays; and errors that torch
raises, too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from good_calls import call_of, snapshot
from mistakes import read_only
from numpy.random import Generator
from tables import LIKE_WEIGHT, LIKE_X, NORMS, RULES, Array, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn


@pytest.mark.parametrize("rule", RULES)
def test_slices_of_rows_are_legal_gradients(rule: str, rng: Generator) -> None:
    everything = ordinary(rng, (4, 5, 9, 3), "float64")
    for g in (
        everything[::2],
        everything[1:3, 2:4],
        everything[:, :, ::3],
        everything[:, 1, 2],
        everything[:, :, :, :1],
    ):
        assert not g.flags.c_contiguous
        if RULES[rule].fit(g.shape) != g.shape:
            continue
        params = [ordinary(rng, g.shape, "float64")]
        options = RULES[rule].sample(rng)
        sliced = RULES[rule].run(F, params, [[g]], options, place_grad=lambda a: a)
        assert snapshot(sliced) == snapshot(RULES[rule].run(F, params, [[g]], options))


@pytest.mark.parametrize("rule", RULES)
def test_gradients_may_be_none_or_read_only_or_repeated(rule: str, rng: Generator) -> None:
    params = RULES[rule].arrays(
        rng, [(2, 3), 3, (2, 3), (2, 3)], "float64", numbers=lambda _, shape, dtype: np.ones(shape, dtype)
    )
    g = read_only(ordinary(rng, (2, 3), "float64"))
    options = RULES[rule].sample(rng, without=["noise", "temperature"])
    states = RULES[rule].new_states(options, params)
    untouched = snapshot([params[1], [one[1] for one in states.values()]])
    grads = [g, None, g, np.broadcast_to(g[0], (2, 3))]
    RULES[rule].update(F, params, grads, states, RULES[rule].moves_from, options)
    assert snapshot([params[1], [one[1] for one in states.values()]]) == untouched
    assert differing(params[0], params[2]) == 0
    assert np.any(params[3] != 1)


@pytest.mark.parametrize("rule", RULES)
def test_empty_parameters_are_legal(rule: str, rng: Generator) -> None:
    ones = [np.ones(RULES[rule].fit(shape)) for shape in ((0, 3), (), (3, 0), (2, 0, 3), (0,))]
    for options in RULES[rule].plain | {"lr": 0.1}, RULES[rule].sample(rng):
        for more in {}, {"clip_norm": 1.0}, {"clip_param_norm": 1.0}, {"clip_adaptive": 0.1}, {"zero_grads": True}:
            params = [one.copy() for one in ones]
            optimizer = RULES[rule].make(params, options)
            for _ in range(RULES[rule].moves_from):
                optimizer.step([one.copy() for one in ones], **more)
            assert np.all(params[1] != 1)
    nothing = RULES[rule].optimizer([])
    assert nothing.step([]).step == 1
    assert nothing.step([], clip_norm=1.0).grad_norm == 0


@pytest.mark.parametrize("norm", NORMS)
def test_inputs_may_be_read_only(norm: str) -> None:
    call = call_of(norm)

    def locked(a: Array) -> Array:
        a = a.view()
        a.flags.writeable = False
        return a

    arguments = {
        name: locked(one) if isinstance(one, np.ndarray) and not name.startswith("running") else one
        for name, one in call.arguments.items()
    }
    read = replace(call, x=locked(call.x), dy=locked(call.dy), arguments=arguments)
    assert snapshot(read.run(F)) == snapshot(call.run(F))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
def test_batch_norm_takes_broadcast_inputs(shape: tuple[int, ...], training: bool, rng: Generator) -> None:
    running = np.zeros(3), np.ones(3)
    for axes in (1, *shape[1:]), (shape[0], 1, *shape[2:]), (1, 1, *shape[2:]):
        x = np.broadcast_to(ordinary(rng, axes, "float64"), shape)
        y, *_ = F.batch_norm(x, *map(np.copy, running), training=training)
        assert differing(y, F.batch_norm(x.copy(), *map(np.copy, running), training=training)[0]) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, LookupError])
def test_what_an_arguments_own_code_raises_is_not_lost(error: type[BaseException]) -> None:
    class Odd:
        def __float__(self) -> float:
            raise error

        __index__ = __float__  # type: ignore[assignment]

    x = np.ones((4, 8), np.float32)
    for call in (
        lambda: F.layer_norm(x, 8, eps=Odd()),  # type: ignore[arg-type]
        lambda: F.layer_norm(x, Odd()),  # type: ignore[arg-type]
        lambda: F.batch_norm(x, None, None, training=True, channel_axis=Odd()),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            call()


def test_zero_size_batches_are_legal() -> None:
    weight = np.ones(3)
    x = np.ones((0, 3))
    y, mean, rstd = F.layer_norm(x, 3, weight, weight)
    assert (y.shape, mean.shape, rstd.shape) == ((0, 3), (0,), (0,))
    dx, dweight, dbias = F.layer_norm_backward(y, x, 3, mean, rstd, weight)
    assert dx.shape == (0, 3)
    assert np.all(dweight == 0)
    assert np.all(dbias == 0)
    for shape in (0, 3), (0, 3, 5), (5, 3, 0), (5, 0), (5, 0, 2):
        x = np.ones(shape)
        channels = [np.full(shape[1], value) for value in (2.0, 3.0, 1.0, 0.0)]
        for training in True, False:
            y, mean, rstd = F.batch_norm(x, *channels, training)
            dx, dweight, dbias = F.batch_norm_backward(y, x, mean, rstd, channels[2], training=training)
            assert y.shape == dx.shape == shape
            assert mean.shape == rstd.shape == dweight.shape == dbias.shape == (shape[1],)
            assert np.all(dbias == 0)
            assert np.all(channels[0] == 2)
            assert np.all(channels[1] == 3)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if norm.norm != "weight_norm"])
def test_no_values_are_legal(norm: str, dtype: str) -> None:
    """Without samples, rows or places, results are empty, the bias's gradient is zero, and running statistics do not
    change.
    """
    call = NORMS[norm].call(np.random.default_rng(2), dtype, 24, 4)
    axes = {*range(call.x.ndim)} - {call.arguments.get("channel_axis", -1) % call.x.ndim}
    if "normalized_shape" in call.arguments:
        axes = {*range(call.x.ndim - len(call.arguments["normalized_shape"]))}
    for emptied in axes:
        index = tuple(slice(0) if axis == emptied else slice(None) for axis in range(call.x.ndim))
        like_x = {"residual", "dsum"} & call.arguments.keys()
        empty = replace(
            call,
            x=call.x[index],
            dy=call.dy[index],
            arguments=call.arguments | {name: call.arguments[name][index] for name in like_x},
        )
        results = empty.run(F)
        for name in LIKE_X & results.keys():
            assert results[name].shape == empty.x.shape
        for name in LIKE_WEIGHT & results.keys():
            assert differing(results[name], call.arguments.get(name, np.zeros_like(results[name]))) == 0


def test_empty_weights_and_empty_shards_are_legal() -> None:
    for shape, axes in ((0, 3), (0, 1)), ((3, 0), (3, 1)):
        w, rnorm = F.weight_norm(np.ones(shape), np.ones(axes))
        dv, dg = F.weight_norm_backward(w, np.ones(shape), np.ones(axes), np.ones(shape[0]))
        assert (w.shape, rnorm.shape, dv.shape, dg.shape) == (shape, shape[:1], shape, axes)
    for shape in (0, 3), (0, 3, 5), (4, 3, 0):
        count, mean, m2 = F.batch_norm_stats(np.ones(shape))
        assert (count, mean.tolist(), m2.tolist()) == (0, [0] * 3, [0] * 3)
        full = F.batch_norm_stats(np.random.default_rng(0).random((5, 3)))
        for parts in [(count, mean, m2), full], [full, (count, mean, m2)]:
            assert snapshot(F.combine_stats(parts)) == snapshot(full)
        assert F.combine_stats([(count, mean, m2)])[0] == 0
        y, mean, rstd = F.batch_norm_apply(np.ones(shape), full)
        assert y.shape == shape
        sums = F.batch_norm_backward_stats(y, np.ones(shape), mean, rstd)
        assert not np.any(sums)
        assert F.batch_norm_backward_apply(y, np.ones(shape), mean, rstd, 5, *sums).shape == shape


def test_one_value_an_instance_is_torchs_error_but_for_running_statistics() -> None:
    for shape in (4, 3), (4, 3, 1), (4, 3, 1, 1):
        layer = nn.InstanceNorm(3, track_running_stats=True)
        before = snapshot(layer)
        with pytest.raises(ValueError, match="expected more than 1 value per sample and channel"):
            layer(np.ones(shape, np.float32))
        assert snapshot(layer) == before
        layer.eval()(np.ones(shape, np.float32))
    nn.InstanceNorm(3)(np.ones((1, 3, 2), np.float32))


def test_a_batch_of_one_is_torchs_error_in_training_only() -> None:
    for shape in (1, 3), (1, 3, 1), (1, 3, 1, 1):
        layer = nn.BatchNorm(3)
        before = snapshot(layer)
        with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
            layer(np.ones(shape, np.float32))
        assert snapshot(layer) == before
        layer.eval()(np.ones(shape, np.float32))
    nn.BatchNorm(3)(np.ones((1, 3, 2), np.float32))


def test_counts_and_indices_of_the_other_64_bit_type() -> None:
    """C's long long, which NumPy has beside long, although both are int64."""
    layer = nn.BatchNorm(3)
    layer.buffers["num_batches_tracked"] = np.array(5, np.longlong)
    layer(np.ones((4, 3), np.float32))
    assert layer.buffers["num_batches_tracked"] == 6
    table, rows = np.ones((4, 2), np.float32), np.array([1, 3], np.longlong)
    assert F.embedding(rows, table).shape == (2, 2)
