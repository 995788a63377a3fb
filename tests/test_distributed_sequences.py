"""Structures and sequences of calls of fastopt.distributed that a second outsider found: each was wrong once."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_distributed_corners import KINDS, kinds
from threads_comm import Comm, run

import fastopt as fo
from fastopt import distributed, nn, optim
from fastopt.distributed import _exchange

LOSSY = {"wire": "bfloat16", "error_feedback": True}


# Order of gradients


def split(shapes: dict[str, tuple[int, ...]]) -> Any:
    return optim.no_decay({name: np.zeros(shape) for name, shape in shapes.items()})


SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"b": (2,), "w": (2, 2), "c": (2,), "v": (2, 2)},  # what decays stands behind what does not
    {"w": (2, 2), "b": (2,), "v": (3, 2), "c": (3,)},
]


def by_step(dist: Any, grads: Any) -> None:
    dist.step(grads)


def by_add(dist: Any, grads: Any) -> None:
    dist.add(grads)
    dist.step()


def by_ready(dist: Any, grads: Any) -> None:
    for i, grad in enumerate(dist._flatten(grads)):
        dist.ready(i, grad)
    dist.step()


@pytest.mark.parametrize("shapes", SHAPES, ids=["unordered", "ordered"])
@pytest.mark.parametrize(
    ("way", "chunks"),
    [(by_step, None), (by_add, None), (by_ready, None), (by_step, 2)],
    ids=["step", "add", "ready", "chunks"],
)
@kinds
def test_gradients_find_their_parameters_with_no_decay(kind: str, way: Any, chunks: int | None, shapes: Any) -> None:
    grads = {name: np.full(shape, 1.0 + i) for i, (name, shape) in enumerate(shapes.items())}
    alone = split(shapes)
    optim.SGD(alone, lr=1.0).step(grads)
    expected = [param.copy() for group in alone for param in group["params"]]

    def moved(comm: Comm) -> Any:
        dist = KINDS[kind](split(shapes), comm, chunks=chunks)
        for _ in range(2):  # the first step lays out the exchange
            for param in dist.params:
                param[...] = 0
            way(dist, grads)
        return dist.params

    for params in run(2, moved):
        assert all((one == other).all() for one, other in zip(params, expected, strict=True))


def test_step_takes_what_flatten_returns() -> None:
    params = split(SHAPES[0])
    opt = optim.SGD(params, lr=1.0)
    grads = {name: np.full(shape, 1.0 + i) for i, (name, shape) in enumerate(SHAPES[0].items())}
    opt.step(opt.flatten(grads))
    assert [-param.flat[0] for group in params for param in group["params"]] == [2, 4, 1, 3]
    with pytest.raises(ValueError, match="SGD: grads has 4 entries, expected 1"):
        optim.SGD([np.zeros(2)], lr=1.0).step(opt.flatten(grads))


# Error feedback


@pytest.mark.parametrize("after", ["skip", "refuse"])
def test_what_save_drops_does_not_come_back(tmp_path: Path, after: str) -> None:
    order = ["go", "go", "save", after, "go", "go"]

    def steps(comm: Comm, begin: int) -> Any:
        params = [np.zeros(4, np.float32)]
        zero = distributed.ShardedOptimizer(optim.SGD, params, comm, lr=1.0, **LOSSY)
        if begin:
            zero.load(tmp_path)
        for step, what in [*enumerate(order)][begin:]:
            if what == "save":
                zero.save(tmp_path)
            elif what == "skip":
                assert zero.step([np.full(4, np.inf, np.float32)], skip_nonfinite=True).skipped
            elif what == "refuse":
                with pytest.raises(ValueError, match="has shape"):
                    zero.step([np.ones(3, np.float32)])
            else:
                zero.step([np.random.default_rng([step, comm.Get_rank()]).random(4, np.float32)])
        return params[0]

    whole = run(2, lambda comm: steps(comm, 0))
    again = run(2, lambda comm: steps(comm, 3))
    assert (whole[0] == again[0]).all()


def test_save_waits_for_the_end_of_a_step(tmp_path: Path) -> None:
    def early(comm: Comm) -> None:
        zero = KINDS["sharded"]([np.zeros(4)], comm)
        zero.add([np.ones(4)])
        zero.save(tmp_path)

    with pytest.raises(ValueError, match="save follows ready or add"):
        run(2, early)


@kinds
@pytest.mark.parametrize("parts", ["ranks", "micro-batches"])
def test_error_feedback_of_sums_loses_nothing(kind: str, parts: str) -> None:
    """The number of ranks or micro-batches changes from step to step; what was held back must come at its full size."""

    def distance(comm: Comm) -> float:
        params, exact, rank = [np.zeros(64, np.float32)], np.zeros(64), comm.Get_rank()
        dist = KINDS[kind](params, comm, reduction="sum", **LOSSY)
        for step in range(100):
            if parts == "ranks":
                active = range(4) if step % 2 == 0 else [0]
                grads = {r: np.random.default_rng([step, r]).uniform(0.5, 1.5, 64).astype(np.float32) for r in active}
                dist.step([grads.get(rank, np.zeros(64, np.float32))], weight=float(rank in grads))
                exact += sum(grads.values())
            else:
                for i in range(8 if step % 2 == 0 else 1):
                    every = [np.random.default_rng([step, r, i]).random(64, np.float32) for r in range(4)]
                    dist.add([every[rank]])
                    exact += sum(every)
                dist.step()
        return float(abs(exact + params[0]).max())

    # One rounding of a sum of up to 32, in 8 bits, on the way out and back.  It was 0.1 to 1.5, and grew.
    assert max(run(4, distance)) < 0.08


@pytest.mark.parametrize("scale", [-1, 0.0, np.nan, "x"])
def test_a_refused_scale_is_forgotten(scale: Any) -> None:
    def steps(comm: Comm) -> None:
        dist = KINDS["distributed"]([np.zeros(4, np.float32)], comm, **LOSSY)
        sent = dist.bytes_sent
        with pytest.raises((TypeError, ValueError), match="DistributedOptimizer: grad_scale must be"):
            dist.step([np.ones(4, np.float32)], grad_scale=scale)
        assert dist.bytes_sent == sent
        dist.step([np.ones(4, np.float32)])

    run(2, steps)


@kinds
def test_a_step_that_was_refused_sets_no_scale(kind: str) -> None:
    def steps(comm: Comm) -> None:
        dist = KINDS[kind]([np.zeros(4, np.float32)], comm, **LOSSY)
        with pytest.raises(ValueError, match="has shape"):
            dist.step([np.ones(3, np.float32)], grad_scale=8.0)
        dist.step([np.ones(4, np.float32)])

    run(2, steps)


# Averages


def averaged(comm: Comm, size: int = 3, rule: Any = optim.SGD, **options: Any) -> Any:
    zero = distributed.ShardedOptimizer(rule, [np.zeros(size)], comm, lr=1.0, **options)
    zero.step([np.ones(size)])
    return zero


def test_parameters_that_become_read_only_are_put_back() -> None:
    def rank(comm: Comm) -> None:
        w = [np.ones(4), np.ones(3)]
        zero = distributed.ShardedOptimizer(optim.SGD, w, comm, lr=0.1, ema_decay=0.5)
        zero.step([np.ones_like(p) for p in w])
        with zero.using_ema():
            w[0].flags.writeable = False  # so that an evaluation cannot change it
            for call in (zero.add, zero.step):
                with pytest.raises(ValueError, match="the parameters hold averages; leave using_ema"):
                    call([np.ones_like(p) for p in w])
        np.testing.assert_array_equal(w[0], 0.9)
        with pytest.raises((TypeError, RuntimeError), match=r"read-only|has failed"), zero.using_ema():
            pass
        w[0].flags.writeable = True
        np.testing.assert_array_equal(w[1], 0.9)
        zero.step([np.ones_like(p) for p in w])

    for size in (1, 3):
        run(size, rank)


def test_a_rank_leaves_using_ema_alone() -> None:
    """The others may wait for this rank in the block, so that they must hear of its error at once."""

    def evaluate(comm: Comm) -> Any:
        zero = averaged(comm, ema_decay=0.5)
        calls: list[int] = []
        with contextlib.suppress(KeyError), zero.using_ema():
            calls.append(zero.collectives)
            assert zero.params[0].tolist() == [-0.5] * 3
            raise KeyError
        assert calls == [zero.collectives]
        assert zero.params[0].tolist() == [-1] * 3
        zero.step([np.ones(3)])
        return zero.params[0].tolist()

    assert run(2, evaluate) == [[-2] * 3] * 2


def test_mistakes_are_errors_on_ranks_without_a_slice(tmp_path: Path) -> None:
    def wrong(comm: Comm) -> Any:
        texts = []
        zero = averaged(comm, 1)
        for call in (zero.using_ema().__enter__, zero.eval, zero.train):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                call()
            texts.append(str(error.value))
        zero = averaged(comm, 1, ema_decay=0.5)
        with zero.using_ema():
            for call in (lambda: zero.step([np.ones(1)]), zero.using_ema().__enter__):
                with pytest.raises(ValueError, match=r"the parameters hold averages.*leave using_ema\(\) first"):
                    call()
        zero = averaged(comm, 1, optim.ScheduleFreeSGD)
        zero.save(tmp_path)
        zero.eval()
        with pytest.raises(ValueError, match=r"the parameters are set for evaluation; call train\(\) first"):
            zero.step([np.ones(1)])
        zero.train()
        zero.step([np.ones(1)])
        zero.eval()
        zero.load(tmp_path)  # which was saved in training
        zero.step([np.ones(1)])
        return texts

    one, other = run(2, wrong)
    assert all(text for text in one)
    assert "there are no averages" in other[0]


# Memory


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_parameters_that_overlap_are_refused(ranks: int) -> None:
    w = np.zeros(6)
    for params in ([w, w], [w[:4], w[2:]], [{"params": [w[:3]]}, {"params": [w[3:], w[1:2]]}]):

        def make(comm: Comm, params: Any = params) -> None:
            KINDS["sharded"](params, comm)

        with pytest.raises(ValueError, match="would be written, but overlaps params"):
            run(ranks, make)
    run(ranks, lambda comm: KINDS["sharded"]([w[:4], w[4:], w[6:]], comm))


def test_the_arrays_of_an_exchange_outlive_its_optimizer() -> None:
    """MPI writes to them when messages arrive, whether or not somebody waits."""

    def give_up(comm: Comm) -> Any:
        dist = KINDS["distributed"]([np.zeros(4000), np.zeros(4000)], comm, bucket_mib=0.01)
        dist.step([np.ones(4000), np.ones(4000)])
        assert not any(one._channel is dist._channel for one in _exchange.IN_FLIGHT)
        dist.ready(1, np.ones(4000))
        (exchange,) = [one for one in _exchange.IN_FLIGHT if one._channel is dist._channel]
        its = weakref.ref(exchange)
        del dist, exchange
        gc.collect()
        return its() is not None

    before = {*_exchange.IN_FLIGHT}
    assert run(2, give_up) == [True, True]
    _exchange.IN_FLIGHT.intersection_update(before)


def test_a_shallow_copy_has_the_communicator() -> None:
    def copies(comm: Comm) -> None:
        layer = distributed.SyncBatchNorm(3, comm, dtype=np.float64)
        x = np.random.default_rng(comm.Get_rank()).standard_normal((5, 3))
        other = copy.copy(layer)
        assert (other(x) == layer(x)).all()
        assert other.params["weight"] is layer.params["weight"]
        layer.comm = None
        with pytest.raises(TypeError, match=r"SyncBatchNorm: comm must be a communicator.*got None"):
            layer(x)

    run(2, copies)
    assert isinstance(copy.copy(nn.BatchNorm(3)), nn.BatchNorm)


def test_nan_beside_infinity_is_the_norm_in_shards_too() -> None:
    grads = [np.array([np.inf, 1.0]), np.array([np.nan, 1.0])]
    params = [np.zeros(2), np.zeros(2)]
    optim.SGD(params, lr=1.0).step(grads, clip_norm=1.0)

    def clipped(comm: Comm) -> Any:
        dist = KINDS["sharded"]([np.zeros(2), np.zeros(2)], comm)
        dist.step(grads, clip_norm=1.0)
        return dist.params

    for ranks in (1, 2):
        for found in run(ranks, clipped):
            np.testing.assert_array_equal(found, params)


def test_finite_gradients_are_not_skipped() -> None:
    def wide(comm: Comm) -> Any:
        dist = KINDS["sharded"]([np.zeros(4)], comm)
        info = dist.step([np.full(4, 1e200)], skip_nonfinite=True)
        return info.skipped, info.grad_norm, dist.params[0].tolist()

    for skipped, norm, params in run(2, wide):
        assert not skipped
        assert norm == pytest.approx(2e200)
        assert params == [-1e200] * 4


# Counts that begin again


def restarted(params: list[Any], comm: Comm, **options: Any) -> Any:
    zero = distributed.ShardedOptimizer(optim.SGD, params, comm, lr=1e-3, ema_decay=0.9, l2_init=0.1, **options)
    return zero, [np.full(param.shape, 0.5, np.float32) for param in params]


def test_a_checkpoint_has_what_has_begun_where_the_count_begins_again(tmp_path: Path) -> None:
    """On any number of ranks, and without processes."""

    def work(comm: Comm) -> Any:
        params = [np.ones(300, np.float32), np.ones(7, np.float32)]
        zero, grads = restarted(params, comm)
        for _ in range(3):
            zero.step(grads)
        for group in zero.param_groups:
            group["momentum"] = 0.9
        zero.save(tmp_path)
        zero.step(grads)
        with zero.using_ema():
            return [param.copy() for param in params]

    def resumed(comm: Comm) -> Any:
        params = [np.ones(300, np.float32), np.ones(7, np.float32)]
        zero, grads = restarted(params, comm)
        zero.load(tmp_path)
        zero.step(grads)
        with zero.using_ema():
            return [param.copy() for param in params]

    expected = run(3, work)[0]
    for ranks in 1, 2, 4:
        for found in run(ranks, resumed):
            assert all(map(np.array_equal, found, expected))
    params, state, _ = distributed.read_checkpoint(tmp_path)
    opt = optim.SGD(params, lr=1e-3)
    opt.load_state_dict(state)
    opt.step([np.full(param.shape, 0.5, np.float32) for param in params])
    assert all(map(np.array_equal, opt.ema_params, expected))


def test_states_that_differ_are_seen_where_the_count_has_begun_again() -> None:
    def work(comm: Comm) -> str:
        opt = optim.SGD([np.ones(3)], lr=0.1, ema_decay=0.9)
        opt.step([np.full(3, float(comm.Get_rank()))])
        opt.param_groups[0]["momentum"] = 0.9
        opt.state_dict()
        with pytest.raises(ValueError, match="ranks differ: the state of") as error:
            distributed.DistributedOptimizer(opt, comm)
        return str(error.value)

    assert len({*run(2, work)}) == 1


# Odd gradients


class Sub(np.ndarray):
    """A subclass of arrays."""


G = np.ones((2, 2), np.float32)
ODD: dict[str, Any] = {
    "masked": np.ma.masked_array(G, [[0, 1], [0, 0]]),
    "masked, without a mask": np.ma.masked_array(G),
    "a subclass": G.view(Sub),
    "records": np.zeros((2, 2), [("a", "f4")]),
    "swapped": G.astype(">f4"),
    "swapped float16": G.astype(">f2"),
    **{str(dtype): G.astype(dtype) for dtype in ("O", "i8", "?", "c8", "g", "f8", "f2", "U1", "m8[s]", "bfloat16")},
    "a list": G.tolist(),
    "a tuple": (1.0, 2.0),
    "a number": 1.0,
    "a scalar": np.float32(1),
    "bytes": memoryview(G),  # type: ignore[arg-type]
    "text": "g",
    "one value": np.broadcast_to(np.float32(1), (2, 2)),
    "backwards": G[::-1, ::-1],
    "flat": G.ravel(),
    "one axis more": G[None],
    "sparse": fo.SparseRows(np.array([0]), G[:1]),
    "sparse float64": fo.SparseRows(np.array([0]), np.ones((1, 2))),
    "sparse, of other rows": fo.SparseRows(np.array([0]), np.ones((1, 3), np.float32)),
    "sparse, beyond the end": fo.SparseRows(np.array([7]), G[:1]),
}


def alone(params: list[Any], grad: Any, comm: Comm) -> None:
    optim.SGD(params, lr=1.0).step([grad])


def in_step(params: list[Any], grad: Any, comm: Comm) -> None:
    KINDS["distributed"](params, comm).step([grad])


def in_ready(params: list[Any], grad: Any, comm: Comm) -> None:
    dist = KINDS["distributed"](params, comm)
    dist.ready(0, grad)
    dist.step()


def in_add(params: list[Any], grad: Any, comm: Comm) -> None:
    dist = KINDS["distributed"](params, comm)
    dist.add([grad])
    dist.step()


def in_shards(params: list[Any], grad: Any, comm: Comm) -> None:
    KINDS["sharded"](params, comm).step([grad])


def answer(call: Any, params: list[Any], grad: Any) -> Any:
    """The weights after a step, or its error."""
    try:
        run(1, lambda comm: call(params, grad, comm))
    except (TypeError, ValueError) as error:
        return type(error), "masked" in str(error), "filled(...)" in str(error)
    return [param.tolist() for param in params]


@pytest.mark.parametrize("call", [in_step, in_ready, in_add, in_shards])
@pytest.mark.parametrize("shape", [(2, 2), ()])
@pytest.mark.parametrize("odd", ODD)
def test_a_gradient_is_taken_where_the_optimizer_takes_it(odd: str, shape: tuple[int, ...], call: Any) -> None:
    """And refused with the same class of error where it refuses it."""
    grad = ODD[odd]
    expected = answer(alone, [np.ones(shape, np.float32)], grad)
    found = answer(call, [np.ones(shape, np.float32)], grad)
    if odd.startswith("sparse") and call in (in_add, in_shards):  # they take none
        assert found == (TypeError, False, False)
    else:
        assert found == expected


# Averages of some groups only


def in_groups(params: list[Any], comm: Comm, options: list[dict[str, Any]]) -> Any:
    groups = [{"params": [param], **one} for param, one in zip(params, options, strict=True)]
    return distributed.ShardedOptimizer(optim.SGD, groups, comm, lr=0.1)


@pytest.mark.parametrize("sizes", [(64, 64), (64, 64, 64), (300, 7), (1, 0), (64, 1)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_averages_of_some_groups_are_used_on_all_ranks(ranks: int, sizes: tuple[int, ...]) -> None:
    """As one process would; without any it is an error on every rank, and none waits."""
    for some in range(len(sizes) + 1):
        options: list[dict[str, Any]] = [{"ema_decay": 0.9} if i == some else {} for i in range(len(sizes))]
        ones = [np.ones(size, np.float32) for size in sizes]
        opt = optim.SGD([{"params": [w.copy()], **one} for w, one in zip(ones, options, strict=True)], lr=0.1)
        opt.step(ones)

        def work(comm: Comm, options: Any = options, ones: Any = ones) -> Any:
            params = [w.copy() for w in ones]
            zero = in_groups(params, comm, options)
            zero.step(ones)
            before = [w.copy() for w in params]
            try:
                with zero.using_ema():
                    inside = [w.copy() for w in params]
            except ValueError as error:
                inside = str(error)
            assert all(map(np.array_equal, params, before))
            zero.step(ones)
            return inside

        found = run(ranks, work)
        if some == len(sizes):
            assert all("SGD: there are no averages; set ema_decay or swa_start" in text for text in found)
            continue
        expected = opt.ema_params
        for one in found:
            assert all(np.array_equal(a, b[0]) for a, b in zip(one, expected, strict=True))


@pytest.mark.parametrize("rule", [optim.ScheduleFreeSGD, optim.ScheduleFreeAdamW])
@pytest.mark.parametrize("ranks", [1, 3])
def test_evaluation_where_a_rank_has_no_weights(ranks: int, rule: Any) -> None:
    opt = rule([np.ones(70)], lr=0.1)
    opt.step([np.ones(70)])
    opt.eval()

    def work(comm: Comm) -> Any:
        zero = distributed.ShardedOptimizer(rule, [w := np.ones(70)], comm, lr=0.1)
        zero.step([np.ones(70)])
        before = w.copy()
        zero.eval()
        inside = w.copy()
        zero.train()
        assert np.allclose(w, before, rtol=1e-12)
        return inside

    for inside in run(ranks, work):
        assert np.array_equal(inside, opt.param_groups[0]["params"][0])
