"""Optimizers over several processes, here threads with a communicator of their own; test_mpi.py has real ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from distributed_cases import CHUNKS, RANKS, STEPS, Array, gradients, mean_of, same, trained, weights
from threads_comm import Comm, run

import fastopt as fo
from fastopt import distributed, optim
from fastopt.distributed._layout import Layout
from fastopt.distributed._tree import Partial, nodes_within, share, tree_sum

# Sums in the order of a tree


def test_a_tree_is_the_same_however_its_leaves_are_shared() -> None:
    rng = np.random.default_rng(0)
    for leaves in range(1, 20):
        values = rng.standard_normal(leaves).astype(np.float32)
        sums = set()
        for ranks in range(1, leaves + 1):
            nodes: dict[tuple[int, int], Array] = {}
            for rank in range(ranks):
                begin, end = share(leaves, rank, ranks)
                partial = Partial(begin)
                for leaf in range(begin, end):
                    partial.add([values[leaf : leaf + 1].copy()])
                closed = partial.close(leaves)
                assert list(closed) == nodes_within(begin, end, leaves)
                nodes |= {node: vectors[0] for node, vectors in closed.items()}
            sums.add(tree_sum(nodes, leaves, lambda a, b: a + b).tobytes())
        assert len(sums) == 1


@pytest.mark.parametrize("capacity", [1, 200, 1000, 10**6])
@RANKS
def test_every_element_has_one_place(ranks: int, capacity: int) -> None:
    sizes = [2400, 40, 280, 7, 0, 1]
    layout = Layout([*range(6)], sizes, ranks, capacity)
    every = [segment for bucket in layout.buckets for segment in bucket.segments]
    cut = [segment for rank in range(ranks) for bucket in layout.shard(rank) for segment in bucket]
    for shards in (every, cut):
        for param, size in enumerate(sizes):
            own = sorted((begin, end) for its, begin, end, _ in shards if its == param and begin < end)
            assert [at for pair in own for at in pair] == (
                [0, *[one for begin, _ in own[1:] for one in (begin, begin)], size] if size else []
            )
            assert all(begin % 64 == 0 for begin, _ in own)
    assert all(bucket.piece * ranks < capacity + 64 * ranks for bucket in layout.buckets)


# Data parallelism


@pytest.mark.parametrize("bucket_mib", [50, 0.002])
@pytest.mark.parametrize("how", ["step", "ready", "add"])
@RANKS
def test_step_takes_the_weighted_mean(ranks: int, how: str, bucket_mib: float) -> None:
    def program(comm: Comm) -> Any:
        params, rank = weights(), comm.Get_rank()
        dist = distributed.DistributedOptimizer(optim.AdamW(params, lr=0.1), comm, bucket_mib=bucket_mib)
        for step in range(STEPS):
            grads = gradients(step, rank)
            if how == "step":
                dist.step(grads, weight=rank + 1)
            elif how == "add":
                dist.add([np.asarray(grad * np.float32(0.5)) for grad in grads], weight=rank + 1)
                dist.add([np.asarray(grad * np.float32(1.5)) for grad in grads], weight=rank + 1)
                dist.step()
            else:
                for param in reversed(range(len(params))):
                    dist.ready(param, grads[param], weight=rank + 1)
                    grads[param][...] = np.nan  # it was copied
                dist.step()
        return params

    results = run(ranks, program, delay=2)
    expected = weights()
    opt = optim.AdamW(expected, lr=0.1)
    for step in range(STEPS):
        opt.step(mean_of([gradients(step, rank) for rank in range(ranks)], [*range(1, ranks + 1)]))
    assert all(same(one, results[0]) for one in results)
    for ours, its in zip(results[0], expected, strict=True):
        np.testing.assert_allclose(ours, its, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0}, {"clip_value": 0.01}, {"clip_param_norm": 0.5}, {"grad_scale": 4.0}]
)
def test_chunks_give_the_same_bits_on_any_number_of_ranks(options: dict[str, float]) -> None:
    def make(params: list[Array], comm: Comm) -> Any:
        return distributed.DistributedOptimizer(optim.AdamW(params, lr=0.1), comm, chunks=CHUNKS, bucket_mib=0.003)

    one = trained(1, make, **options)[0]
    for ranks in (2, 3, 4, 8):
        for params, _, info in trained(ranks, make, delay=ranks % 3, **options):
            assert same(params, one[0])
            assert info == one[2]


@RANKS
def test_bytes_and_calls_are_the_least_there_are(ranks: int) -> None:
    def program(comm: Comm) -> Any:
        params = [np.zeros(1 << 16, np.float32) for _ in range(4)]
        dist = distributed.DistributedOptimizer(optim.SGD(params, lr=0.1), comm, bucket_mib=0.5)
        dist.step([np.ones_like(param) for param in params])
        first = dist.bytes_sent, dist.collectives
        dist.step([np.ones_like(param) for param in params])
        return dist.bytes_sent - first[0], dist.collectives - first[1]

    size = 4 * (1 << 18)
    for sent, calls in run(ranks, program):
        least = 2 * (ranks - 1) * (size // ranks)
        assert least <= sent <= least * 1.001 + 64 * ranks + 2 * 256 * ranks
        assert calls == 2 * math.ceil(size / (1 << 19))
    # In the default size of buckets: at most a call for each 25 MiB, and 3.
    for mib in (1, 25, 26, 50, 51, 1000):
        assert 2 * math.ceil(mib / 50) <= mib / 25 + 3


def test_buckets_go_out_during_the_backward_pass() -> None:
    """With an exchange that takes its time: most buckets are sent, and added up, before step() is called."""

    def program(comm: Comm) -> Any:
        params = [np.zeros(4096, np.float32) for _ in range(8)]
        dist = distributed.DistributedOptimizer(optim.SGD(params, lr=0.1), comm, bucket_mib=4096 * 4 / (1 << 20))
        dist.step([np.ones_like(param) for param in params])
        world, seen = comm._world, []
        comm.Barrier()
        begin = len(world.log)
        for param in reversed(range(8)):
            dist.ready(param, np.ones_like(params[param]))
            comm.Barrier()
            seen.append([kind for rank, kind in world.log[begin:] if rank == comm.Get_rank() and kind != "Barrier"])
        dist.step()
        return seen

    for seen in run(2, program, delay=3):
        assert [one.count("Ialltoall") for one in seen] == [*range(1, 9)]
        assert seen[-1].count("Iallgather") >= 3


def test_weights_of_zero_and_gradients_of_none() -> None:
    def program(comm: Comm) -> Any:
        rank, params = comm.Get_rank(), [np.ones(3), np.ones(2), np.ones(2)]
        opt = optim.SGD(params, lr=1.0, momentum=0.5)
        dist = distributed.DistributedOptimizer(opt, comm)
        grads: list[Any] = [np.full(3, rank + 1.0), None, None if rank else np.full(2, 4.0)]
        if rank == 2:
            grads = [np.full(3, np.nan), np.full(2, np.nan), np.full(2, np.nan)]
        dist.step(grads, weight=[1, 3, 0][rank])
        return params, [int(state["step"]) for state in opt.state]

    for params, steps in run(3, program):
        assert [param.tolist() for param in params] == [[-0.75] * 3, [1.0] * 2, [0.0] * 2]
        assert steps == [1, 0, 1]

    def empty(comm: Comm) -> None:
        distributed.DistributedOptimizer(optim.SGD([np.ones(1)], lr=1.0), comm).step([np.ones(1)], weight=0)

    with pytest.raises(ValueError, match="weights of all ranks are 0"):
        run(2, empty)


def test_a_step_with_infinities_is_skipped_by_all() -> None:
    def program(comm: Comm, sharded: bool) -> Any:
        params = weights()
        dist = (
            distributed.ShardedOptimizer(optim.AdamW, params, comm, lr=0.1)
            if sharded
            else distributed.DistributedOptimizer(optim.AdamW(params, lr=0.1), comm)
        )
        grads = gradients(0, comm.Get_rank())
        if comm.Get_rank() == 1:
            grads[0][3, 5] = np.inf
        info = dist.step(grads, skip_nonfinite=True)
        after = dist.step(gradients(1, comm.Get_rank()), skip_nonfinite=True)
        return params, info, after

    for sharded in (False, True):
        results = run(3, lambda comm, sharded=sharded: program(comm, sharded))
        for params, info, after in results:
            assert info.skipped
            assert not after.skipped
            assert (info.step, after.step) == (0, 1)
            assert same(params, results[0][0])


@pytest.mark.parametrize("exact", [False, True])
def test_sparse_rows_are_gathered(exact: bool) -> None:
    def program(comm: Comm) -> Any:
        rank, params = comm.Get_rank(), [np.ones((9, 2), np.float32), np.ones(3, np.float32)]
        dist = distributed.DistributedOptimizer(optim.Adagrad(params, lr=0.1), comm)
        for _ in range(3):
            rows = fo.SparseRows(np.array([rank, 8, 8]), np.full((3, 2), rank + 1, np.float32), exact=exact)
            dist.step([None if rank == 2 else rows, np.ones(3, np.float32)], weight=rank + 1)
        return params

    results = run(3, program)
    expected = [np.ones((9, 2), np.float32), np.ones(3, np.float32)]
    opt = optim.Adagrad(expected, lr=0.1)
    for _ in range(3):
        dense = np.zeros((9, 2), np.float32)
        dense[0], dense[1], dense[8] = 1 / 6, 4 / 6, 10 / 6
        opt.step([dense, np.ones(3, np.float32)])
    for params in results:
        assert same(params, results[0])
        np.testing.assert_allclose(params[0], expected[0], rtol=1e-6)

    def changed(comm: Comm) -> None:
        dist = distributed.DistributedOptimizer(optim.SGD([np.ones((4, 2))], lr=1.0), comm)
        dist.step([fo.SparseRows(np.array([1]), np.ones((1, 2)))])
        dist.step([np.ones((4, 2))])

    with pytest.raises(ValueError, match=r"params\[0\] is dense, but was sparse on all ranks in the first step"):
        run(2, changed)


@pytest.mark.parametrize("feedback", [False, True])
def test_bfloat16_on_the_wire(feedback: bool) -> None:
    """Half the bytes; with feedback, the sum of many steps is that of the gradients themselves."""
    rng = np.random.default_rng(0)
    every = rng.uniform(0.5, 1, (2, 300, 128)).astype(np.float32)

    def program(comm: Comm) -> Any:
        params = [np.zeros(128, np.float32)]
        dist = distributed.DistributedOptimizer(
            optim.SGD(params, lr=1.0), comm, wire="bfloat16", error_feedback=feedback
        )
        for grad in every[comm.Get_rank()]:
            dist.step([grad])
        return params[0], dist.bytes_sent

    results = run(2, program)
    exact = -every.astype(np.float64).mean(axis=0).sum(axis=0)
    error = np.abs(results[0][0] - exact).max()
    assert np.array_equal(results[0][0], results[1][0])
    assert error < (0.02 if feedback else 0.5)
    assert feedback or error > 0.02
    assert results[0][1] <= 300 * (2 * 128 + 128) * 2


def test_gradients_come_in_any_structure() -> None:
    params = {"b": {"w": np.ones((2, 2)), "x": np.ones(1)}, "a": np.ones(3)}
    grads = {"a": np.full(3, 3.0), "b": {"x": np.full(1, 2.0), "w": np.full((2, 2), 1.0)}}

    def program(comm: Comm, grouped: bool) -> Any:
        own = {"b": {key: one.copy() for key, one in params["b"].items()}, "a": params["a"].copy()}  # type: ignore[attr-defined]
        groups: Any = [{"params": {"b": own["b"]}}, {"params": {"a": own["a"]}, "lr": 0.5}] if grouped else own
        dist = distributed.DistributedOptimizer(optim.SGD(groups, lr=1.0), comm)
        dist.step([{"b": grads["b"]}, {"a": grads["a"]}] if grouped else grads)
        return own

    for grouped in (False, True):
        for own in run(2, lambda comm, grouped=grouped: program(comm, grouped)):
            assert own["b"]["w"].tolist() == [[0, 0], [0, 0]]
            assert own["b"]["x"].tolist() == [-1]
            assert own["a"].tolist() == [-0.5] * 3 if grouped else [-2] * 3


# Around it


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_the_same_on_any_number_of_ranks(drop_last: bool, replacement: bool) -> None:
    def program(comm: Comm) -> Any:
        sampler = distributed.Sampler(23, 5, comm, drop_last=drop_last, replacement=replacement, seed=3)
        chunked = distributed.Sampler(23, 5, comm, drop_last=drop_last, replacement=replacement, seed=3, chunks=CHUNKS)
        return [[*sampler], [*sampler]], [[*chunked], [*chunked]], len(sampler)

    def joined(results: list[Any]) -> list[list[int]]:
        return [
            np.concatenate(parts).tolist()
            for epoch in zip(*(one[0] for one in results), strict=True)
            for parts in zip(*epoch, strict=True)
        ]

    alone = run(1, program)
    for ranks in (2, 3, 4, 7):
        results = run(ranks, program)
        assert joined(results) == joined(alone)
        of_chunks = [
            {chunk: rows.tolist() for part in parts for chunk, rows in part}
            for epoch in zip(*(one[1] for one in results), strict=True)
            for parts in zip(*epoch, strict=True)
        ]
        assert [[row for chunk in sorted(one) for row in one[chunk]] for one in of_chunks] == joined(alone)
        assert all([*one] == [*range(CHUNKS)] for one in (sorted(one) for one in of_chunks))
    epochs = joined(alone)
    count = alone[0][2]
    assert count == (4 if drop_last else 5)
    if not replacement:
        for epoch in (epochs[:count], epochs[count:]):
            seen = [row for batch in epoch for row in batch]
            assert len(set(seen)) == len(seen) == (20 if drop_last else 23)
        assert epochs[:count] != epochs[count:]


def test_mean_is_weighted_and_alike() -> None:
    def program(comm: Comm) -> Any:
        rank = comm.Get_rank()
        return distributed.mean(
            [float(rank), 10.0][: 2 - rank % 2], [1, 2][: 2 - rank % 2], comm=comm
        ), distributed.mean(np.nan if rank else 3.0, 0 if rank else 2, comm=comm)

    assert run(3, program) == [((0 + 20 + 1 + 2 + 20) / 7, 3.0)] * 3
    assert math.isnan(run(2, lambda comm: distributed.mean(1.0, 0, comm=comm))[0])
