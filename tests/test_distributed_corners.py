"""Corners of fastopt.distributed that an outsider found: each was wrong once."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_cases import CHUNKS, RANKS, gradients, same, weights
from threads_comm import Comm, run

import fastopt as fo
from fastopt import distributed, nn, optim

KINDS: dict[str, Callable[..., Any]] = {
    "distributed": lambda params, comm, **more: distributed.DistributedOptimizer(
        optim.SGD(params, lr=1.0), comm, **more
    ),
    "sharded": lambda params, comm, **more: distributed.ShardedOptimizer(optim.SGD, params, comm, lr=1.0, **more),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def full(value: float, size: int = 2) -> Any:
    return np.full(size, float(value))


STRUCTURES: dict[str, tuple[Callable[[], Any], Any]] = {
    "two groups with the same name": (lambda: [{"params": {"w": full(0)}}, {"params": {"w": full(0)}}], [{"w": full(1)}, {"w": full(2)}]),
    "a dict and a list": (lambda: [{"params": {"a": full(0), "b": full(0)}}, {"params": [full(0)]}], [{"b": full(2), "a": full(1)}, [full(3)]]),
    "an array and a dict": (lambda: [full(0), {"b": full(0), "a": full(0)}], [full(1), {"a": full(2), "b": full(3)}]),
    "names with a point": (lambda: {"a.b": full(0), "a": {"b": full(0)}}, {"a": {"b": full(2)}, "a.b": full(1)}),
    "a dict for each layer": (lambda: [{"w": full(0), "b": full(0)}, {"w": full(0)}], [{"b": full(2), "w": full(1)}, {"w": full(3)}]),
    "no_decay": (lambda: optim.no_decay({"w": np.zeros((2, 2)), "b": full(0)}), {"b": full(2), "w": np.ones((2, 2))}),
}  # fmt: skip


def flat(params: Any) -> list[Any]:
    if isinstance(params, np.ndarray):
        return [params]
    every = params.values() if isinstance(params, dict) else params
    return (
        [leaf for one in every for leaf in flat(one) if isinstance(leaf, np.ndarray)]
        if not isinstance(params, float | str)
        else []
    )


@pytest.mark.parametrize("structure", STRUCTURES)
@kinds
def test_gradients_find_their_parameters(kind: str, structure: str) -> None:
    make, grads = STRUCTURES[structure]
    expected = make()
    optim.SGD(expected, lr=1.0).step(grads)

    def program(comm: Comm) -> Any:
        params = make()
        KINDS[kind](params, comm).step(grads)
        return params

    for params in run(2, program):
        assert same(flat(params), flat(expected))


@kinds
def test_parameters_without_elements(kind: str) -> None:
    cases: list[list[Any]] = [
        [],
        [full(1, 0)],
        [full(1, 3), full(1, 0)],
        [full(1, 0), full(1, 64)],
        [np.ones(3, "f"), full(1, 0)],
    ]
    for params in cases:
        for params_of in run(3, lambda comm, params=params: program(comm, [one.copy() for one in params], kind)):  # type: ignore[misc]
            assert all((one == -2).all() for one in params_of)


def program(comm: Comm, params: list[Any], kind: str) -> Any:
    dist = KINDS[kind](params, comm)
    for _ in range(3):
        dist.step([np.ones_like(one) for one in params])
    return params


@kinds
def test_after_an_error_nothing_is_half_done(kind: str) -> None:
    """An error before anything was sent can be caught; after one in the middle the job must end."""

    def caught(comm: Comm) -> Any:
        params = [full(1, 300), full(1, 200)]
        dist = KINDS[kind](params, comm, bucket_mib=1e-6)
        dist.step([full(1, 300), full(1, 200)])
        for wrong in ([full(1, 300)], [full(1, 300), full(1, 300)], [full(1, 300), np.ones(200, "f")]):
            with pytest.raises((TypeError, ValueError)):
                dist.step(wrong)
        with pytest.raises(ValueError, match="shape"):
            dist.ready(0, full(1, 400), weight=2)
        dist.step([full(1, 300), full(1, 200)], weight=3)
        dist.ready(1, full(1, 200))
        with pytest.raises(ValueError, match=r"the gradient of params\[0\] is missing"):
            dist.step()
        for again in (
            lambda: dist.step([full(1, 300), full(1, 200)]),
            lambda: dist.ready(0, full(1, 300)),
            lambda: dist.add([full(1, 300), full(1, 200)]),
        ):
            with pytest.raises(RuntimeError, match="go on from its last checkpoint"):
                again()
        return params

    for params in run(2, caught):
        assert same(params, [full(-1, 300), full(-1, 200)])


def test_a_refused_add_leaves_no_trace() -> None:
    def refused(comm: Comm) -> Any:
        params = [full(4), full(4)]
        dist = distributed.DistributedOptimizer(optim.SGD(params, lr=1.0, weight_decay=0.5), comm)
        dist.step([full(0), None])
        with pytest.raises(TypeError):
            dist.add([full(1), np.ones(2, "f")])
        dist.add([None, None])
        dist.step()
        return params

    assert same(run(2, refused)[0], [full(2), full(4)])


# Error feedback


@pytest.mark.parametrize("change", ["skip", "weight"])
def test_error_feedback_keeps_what_was_lost_in_the_units_of_a_gradient(change: str) -> None:
    def feedback(comm: Comm) -> Any:
        params = [np.zeros(4, np.float32)]
        opt = optim.SGD(params, lr=1.0)
        dist = distributed.DistributedOptimizer(opt, comm, wire="bfloat16", error_feedback=True)
        if change == "skip":
            wild = np.array([1.2345e30, np.inf, 0, 0], np.float32)
            assert dist.step([wild], skip_nonfinite=True).skipped
        else:
            dist.step([np.full(4, 1.003, np.float32)], weight=512)
            params[0][...] = 0
        dist.step([np.full(4, 1.003, np.float32)], weight=1)
        return params[0]

    for param in run(2, feedback):
        np.testing.assert_allclose(param, -1.003, rtol=2**-7)


def test_error_feedback_has_one_scale() -> None:
    def rescaled(comm: Comm) -> None:
        dist = KINDS["distributed"]([np.zeros(4, np.float32)], comm, wire="bfloat16", error_feedback=True)
        dist.step([np.ones(4, np.float32)], grad_scale=65536.0)
        dist.step([np.ones(4, np.float32)])

    with pytest.raises(ValueError, match="error_feedback needs the same in all steps"):
        run(2, rescaled)


def test_a_run_with_error_feedback_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def steps(comm: Comm, begin: int, end: int) -> Any:
        params = weights()
        zero = distributed.ShardedOptimizer(optim.Adam, params, comm, wire="bfloat16", error_feedback=True, lr=0.1)
        if begin:
            zero.load(tmp_path)
        for step in range(begin, end):
            zero.step(gradients(step, comm.Get_rank()))
            if step == 3:
                zero.save(tmp_path)
        return params

    whole = run(3, lambda comm: steps(comm, 0, 7))
    again = run(3, lambda comm: steps(comm, 4, 7))
    assert same(whole[0], again[0])


# Shards and checkpoints


def test_files_of_others_stay(tmp_path: Path) -> None:
    others = ["model-00001-of-00002.safetensors", "notes.txt", "0-of-1.safetensors"]
    for name in others:
        (tmp_path / name).write_text("not ours")
    left = tmp_path / ".0123abcd-00000-of-00002.safetensors.1234.tmp"
    left.mkdir()

    def saves(comm: Comm, folder: Path) -> None:
        zero = KINDS["sharded"]([full(1)], comm)
        zero.save(folder)
        zero.save(folder)

    run(2, lambda comm: saves(comm, tmp_path))
    assert {*others, "index.safetensors"} < {one.name for one in tmp_path.iterdir()}
    assert len([*tmp_path.iterdir()]) == len(others) + 3
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    index = foreign / "index.safetensors"
    fo.save(index, params={"w": full(1)})
    of_others = [index.read_bytes(), b"", b"{}", next(tmp_path.glob("*-of-00002.safetensors")).read_bytes()]
    for content in of_others:
        index.write_bytes(content)
        with pytest.raises(ValueError, match="index"):
            run(2, lambda comm: saves(comm, foreign))
        with pytest.raises(ValueError, match="index"):
            distributed.read_checkpoint(foreign)
        assert index.read_bytes() == content


def test_checkpoints_go_by_name(tmp_path: Path) -> None:
    def saves(comm: Comm) -> None:
        params = {"a": full(1, 70), "b": full(2, 70)}
        zero = distributed.ShardedOptimizer(optim.Adam, params, comm, lr=np.float32(0.5))
        zero.step({"a": full(1, 70), "b": full(-1, 70)})
        zero.save(tmp_path)

    def loads(comm: Comm, names: str) -> Any:
        params = {name: full(0, 70) for name in names}
        zero = distributed.ShardedOptimizer(optim.Adam, params, comm, lr=0.1)
        zero.load(tmp_path)
        zero.step({name: full(0, 70) for name in names})
        return params

    run(2, saves)
    expected = run(1, lambda comm: loads(comm, "ab"))[0]
    for params in run(3, lambda comm: loads(comm, "ba")):
        assert same([params["a"], params["b"]], [expected["a"], expected["b"]])
    with pytest.raises(ValueError, match=r"other parameters; missing: \['c'\], unknown: \['b'\]"):
        run(2, lambda comm: loads(comm, "ac"))


def test_averages_are_whole_on_all_ranks() -> None:
    def averaged(comm: Comm) -> Any:
        params, found = [np.zeros(200)], []
        zero = distributed.ShardedOptimizer(optim.SGD, params, comm, lr=1.0, ema_decay=0.5)
        zero.step([np.ones(200)])
        with zero.using_ema():
            found.append({*params[0].tolist()})
        found.append({*params[0].tolist()})
        free = distributed.ShardedOptimizer(optim.ScheduleFreeSGD, [np.zeros(200)], comm, lr=1.0)
        for _ in range(3):
            free.step([np.ones(200)])
        free.eval()
        found.append({*free.params[0].tolist()})
        free.train()
        found.append({*free.params[0].tolist()})
        return found

    results = run(3, averaged)
    assert all(one == results[0] for one in results)
    assert all(len(values) == 1 for values in results[0])
    assert results[0][:2] == [{-0.5}, {-1.0}]
    assert results[0][2] != results[0][3]


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"clip_norm": math.inf}, {}])
def test_infinities_do_the_same_in_shards(options: dict[str, float]) -> None:
    def infinite(comm: Comm, kind: str) -> Any:
        params = [np.zeros(200)]
        grad = np.ones(200)
        grad[7] = np.inf
        KINDS[kind](params, comm).step([grad], **options)
        return params

    assert same(
        run(2, lambda comm: infinite(comm, "sharded"))[0], run(2, lambda comm: infinite(comm, "distributed"))[0]
    )


# What ranks must have in common


def test_an_error_on_one_rank_is_an_error_on_all() -> None:
    def one_is_wrong(comm: Comm, how: str) -> str:
        wrong = comm.Get_rank() == 1
        try:
            if how == "wire":
                KINDS["distributed"]([full(1)], comm, wire="float8" if wrong else None)
            elif how == "broadcast":
                KINDS["distributed"]([full(1)], comm, broadcast=wrong)
            elif how == "rule":
                distributed.ShardedOptimizer(optim.Muon if wrong else optim.SGD, [full(1)], comm, lr=1.0)
            elif how == "layout":
                KINDS["sharded"]([np.ones((4, 4))[:, ::2] if wrong else np.ones((4, 2))], comm)
            elif how == "shard":
                distributed.ShardedOptimizer(
                    optim.Adam, [np.ones(64, "f"), full(1, 64)], comm, moments="bfloat16", lr=1.0
                )
            else:
                opt = optim.SGD([full(1)], lr=1.0, momentum=0.9)
                if wrong:
                    opt.step([full(1)])
                distributed.DistributedOptimizer(opt, comm, broadcast=False)
        except (TypeError, ValueError) as error:
            return str(error)
        return "nothing"

    for how, text in (
        ("wire", "wire must be 'bfloat16' or None"),
        ("broadcast", "broadcast is False on rank 0, but True on rank 1"),
        ("rule", "Muon needs whole parameters"),
        ("layout", "must be C-contiguous"),
        ("shard", "float64"),
        ("state", "the state of params[0]"),
    ):
        for message in run(3, lambda comm, how=how: one_is_wrong(comm, how)):  # type: ignore[misc]
            assert text in message


def test_a_communicator_without_dup_takes_turns() -> None:
    def without(comm: Comm) -> Any:
        comm.Dup = None  # type: ignore[assignment, method-assign]
        params = [full(1, 200) for _ in range(6)]
        dist = KINDS["distributed"](params, comm, bucket_mib=1e-3)
        for _ in range(3):
            for i in reversed(range(6)):
                dist.ready(i, full(1, 200))
            dist.step()
        return params

    assert all((one == -2).all() for params in run(3, without) for one in params)


# Determinism


def test_chunks_with_weights_that_are_no_integers() -> None:
    def unequal(comm: Comm) -> Any:
        params = [np.ones(20)]
        dist = distributed.DistributedOptimizer(optim.SGD(params, lr=1.0), comm, chunks=CHUNKS)
        for chunk in dist.my_chunks:
            dist.add([np.random.default_rng(chunk).standard_normal(20)], weight=0.1 + chunk / 7, chunk=chunk)
        dist.step()
        return params

    alone = run(1, unequal)[0]
    assert all(same(params, alone) for ranks in (2, 3, 5, 8) for params in run(ranks, unequal))

    def rounded(comm: Comm) -> None:
        KINDS["distributed"]([full(1)], comm, chunks=4, wire="bfloat16")

    with pytest.raises(ValueError, match="chunks need wire=None"):
        run(2, rounded)


# Sparse gradients


def test_sparse_rows_of_16_bits_are_weighed_in_32() -> None:
    def rows(comm: Comm, dtype: Any) -> Any:
        params = [np.zeros((4, 2), np.float32)]
        dist = KINDS["distributed"](params, comm)
        dist.step([fo.SparseRows(np.array([1]), np.full((1, 2), 1000, dtype))], weight=128)
        return params

    assert run(2, lambda comm: rows(comm, np.float16))[0][0][1].tolist() == [-1000, -1000]
    with pytest.raises(TypeError, match=r"params\[0\] has dtype float64, expected float32 or"):
        run(2, lambda comm: rows(comm, np.float64))


# BatchNorm


def test_a_rank_that_is_wrong_says_so_before_the_exchange() -> None:
    def one(comm: Comm) -> None:
        distributed.SyncBatchNorm(3, comm)(np.ones((4, 3 + comm.Get_rank())))

    with pytest.raises(ValueError, match="4 channels on axis 1"):
        run(2, one, abort=True)

    for options in ({"local_mean": True}, {"chunk": 2}):

        def first(comm: Comm, options: Any = options) -> None:
            distributed.SyncBatchNorm(3, comm, channel_axis=0, **options)(np.ones((3, 4)))

        with pytest.raises(ValueError, match="need the samples on axis 0"):
            run(1, first)


@RANKS
def test_unequal_parts_of_a_mean_loss(ranks: int) -> None:
    """With local_mean and weights, gradients are those of the mean over all samples, for the input too."""
    rng = np.random.default_rng(0)
    sizes = [3, 7, 1, 5][:ranks]
    cuts = np.cumsum([0, *sizes])
    x, target = (rng.standard_normal((cuts[-1], 4)) for _ in range(2))
    whole = nn.BatchNorm(4, dtype=np.float64)
    dx = whole.backward(2 * (whole(x) - target) / len(x))

    def part(comm: Comm) -> Any:
        rows = slice(*cuts[comm.Get_rank() :][:2])
        layer = distributed.SyncBatchNorm(4, comm, local_mean=True, dtype=np.float64)
        count = sizes[comm.Get_rank()]
        its_dx = layer.backward(2 * (layer(x[rows]) - target[rows]) / count)
        dist = distributed.DistributedOptimizer(optim.SGD(layer.params, lr=1.0), comm)
        dist.step(layer.grads, weight=count)
        return its_dx * count / len(x), layer.params

    results = run(ranks, part)
    np.testing.assert_allclose(np.concatenate([one for one, _ in results]), dx, rtol=1e-11, atol=1e-13)
    for _, params in results:
        np.testing.assert_allclose(params["weight"], 1 - whole.grads["weight"], rtol=1e-12)


def test_layers_are_copied_with_their_communicator() -> None:
    def copies(comm: Comm) -> Any:
        layer = distributed.SyncBatchNorm(3, comm, dtype=np.float64)
        x = np.random.default_rng(comm.Get_rank()).standard_normal((5, 3))
        expected = layer(x)
        other = copy.deepcopy(layer)
        assert other.comm is comm
        assert (other(x) == expected).all()
        again = pickle.loads(pickle.dumps(layer))
        assert again.comm is None
        assert (again.eval()(x) == layer.eval()(x)).all()

    run(2, copies)


# Around it


def test_share_cores_leaves_the_number_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(1, lambda _: fo.get_num_threads())  # each thread has a number of its own
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run(1, distributed.share_cores) == before


def test_an_epoch_that_is_broken_off_is_over() -> None:
    def epochs(comm: Comm) -> Any:
        sampler = distributed.Sampler(10, 2, comm)
        first = next(iter(sampler)).tolist()
        return first, next(iter(sampler)).tolist(), sampler.epoch

    one, other, epoch = run(1, epochs)[0]
    assert one != other
    assert epoch == 2
    with pytest.raises(ValueError, match="chunks must be at least 2, the number of ranks"):
        run(2, lambda comm: distributed.Sampler(10, 4, comm, chunks=1))
