"""Programs that test_mpi.py runs on several processes: ``mpiexec -n N python mpi_programs.py SCENARIO [FOLDER]``."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from distributed_cases import CHUNKS, gradients, weights
from mpi4py import MPI

import fastopt as fo
from fastopt import distributed, nn, optim
from fastopt import functional as F
from fastopt.cli import main

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.Get_rank(), COMM.Get_size()
X = np.random.default_rng(1).standard_normal((96, 20)).astype(np.float32)
LABELS = (X[:, :5].sum(axis=1) > 0).astype(np.int64) + (X[:, 5:9].sum(axis=1) > 0)


def report(*numbers: Any) -> None:
    """Prints numbers exactly, once if all ranks have the same ones."""
    text = " ".join(np.asarray(one).tobytes().hex() for one in numbers)
    every = COMM.gather(text)
    if RANK == 0:
        assert set(every) == {text}, every
        print(text, flush=True)


def network() -> Any:
    return nn.Sequential(
        nn.Linear(20, 16, activation="tanh", input_grad=False, seed=0), nn.LayerNorm(16), nn.Linear(16, 3, seed=1)
    )


def losses(_: Path) -> None:
    """Deterministic mode: losses and weights have the same bits on any number of ranks."""
    model = network()
    dist = distributed.DistributedOptimizer(optim.AdamW(model.params, lr=0.02), COMM, chunks=CHUNKS)
    sampler = distributed.Sampler(len(X), 32, COMM, chunks=CHUNKS)
    for _epoch in range(4):
        for chunks in sampler:
            values, sizes = [], []
            for chunk, rows in chunks:
                loss, dy = F.cross_entropy(model(X[rows]), LABELS[rows])
                model.backward(dy)
                dist.add(model.grads, weight=len(rows), chunk=chunk)
                values.append(loss)
                sizes.append(len(rows))
            dist.step(clip_norm=1.0)
            report(distributed.mean(values, sizes, comm=COMM))
    report(*model.params.values())


def ready(_: Path) -> None:
    """Gradients that are sent during the backward pass, by layers, on a communicator that was split off."""
    half = COMM.Split(RANK % 2, RANK)
    model = network()
    dist = distributed.DistributedOptimizer(optim.SGD(model.params, lr=0.1, momentum=0.9), half, bucket_mib=0.001)
    names = list(model.params)
    for step in range(6):
        rows = slice(16 * step + half.Get_rank(), 16 * step + 16, half.Get_size())
        _, dy = F.cross_entropy(model(X[rows]), LABELS[rows])
        model.backward(dy)
        for name in reversed(names):
            dist.ready(names.index(name), model.grads[name], weight=len(X[rows]))
        dist.step()
    every = COMM.gather(np.concatenate([one.ravel() for one in model.params.values()]).tobytes().hex())
    if RANK == 0:
        print(*every[:2], flush=True)


def sync_batch_norm(_: Path) -> None:
    """Parts of 1, 7, 0 and 24 samples against the whole batch."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((32, 5, 3, 2)) for _ in range(2))
    cuts = np.cumsum([0, 1, 7, 0, 24])
    part = slice(cuts[RANK], cuts[RANK + 1])
    whole = nn.BatchNorm(5, dtype=np.float64)
    for exchanges in (1, 2):
        layer = distributed.SyncBatchNorm(5, COMM, exchanges=exchanges, dtype=np.float64)
        for _step in range(3):
            np.testing.assert_allclose(layer(x[part]), whole(x)[part], rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(layer.backward(dy[part]), whole.backward(dy)[part], rtol=1e-12, atol=1e-13)
        for key in ("weight", "bias"):
            total = COMM.allreduce(layer.grads[key])
            np.testing.assert_allclose(total, whole.grads[key], rtol=1e-12, atol=1e-12)
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert len(set(COMM.allgather(layer.buffers[key].tobytes()))) == 1
            np.testing.assert_allclose(layer.buffers[key], whole.buffers[key], rtol=1e-12)
        whole = nn.BatchNorm(5, dtype=np.float64)
    report(0)


def shards(folder: Path) -> None:
    """A sharded run: on four ranks it saves in the middle, on others it goes on from there; prints the weights at the end."""
    params = weights()
    zero = distributed.ShardedOptimizer(optim.AdamW, params, COMM, chunks=CHUNKS, bucket_mib=0.002, lr=0.1)
    begin = 0
    if SIZE != 4:
        begin = zero.load(folder)["next"]
    for step in range(begin, 6):
        for chunk in zero.my_chunks:
            zero.add(gradients(step, chunk), chunk=chunk)
        zero.step()
        if SIZE == 4 and step == 2:
            zero.save(folder, {"next": 3})
    report(*params)


def endless(folder: Path) -> None:
    """A run that saves after each step; it goes on from what is there, and prints the weights after step 12."""
    params = weights()
    zero = distributed.ShardedOptimizer(optim.AdamW, params, COMM, chunks=CHUNKS, lr=0.1)
    begin = zero.load(folder)["next"] if (folder / "index.safetensors").exists() else 0
    for step in range(begin, 12):
        for chunk in zero.my_chunks:
            zero.add(gradients(step, chunk), chunk=chunk)
        zero.step()
        zero.save(folder, {"next": step + 1})
        if begin == 0 and (folder / "die").exists() and RANK == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    report(*params)


def raises(_: Path) -> None:
    """One rank fails; the others wait for it."""
    model = network()
    dist = distributed.DistributedOptimizer(optim.SGD(model.params, lr=0.1), COMM)
    if RANK == 1:
        raise ArithmeticError("the loss is not what it was")
    dist.step([np.zeros_like(one) for one in model.params.values()])


def leaves(_: Path) -> None:
    """One rank leaves before there is an optimizer."""
    with distributed.abort_on_error(COMM):
        if RANK == 1:
            sys.exit("nothing to do here")
        time.sleep(0.1)
        COMM.Barrier()


def differs(_: Path) -> None:
    """Models that differ: every rank raises."""
    try:
        distributed.DistributedOptimizer(optim.SGD([np.ones(3 + (RANK == 1))], lr=0.1), COMM)
    except ValueError as error:
        report(np.frombuffer(str(error).encode(), np.uint8))


def gives_up(_: Path) -> None:
    """All ranks stop in the middle of a backward pass, give the optimizer up, and go on, while messages still arrive."""
    params = [np.ones(500_000, np.float32) for _ in range(3)]
    grads = [np.ones_like(param) for param in params]
    for ending in ("freed", "refused", "closed", "left"):
        dist = distributed.DistributedOptimizer(optim.SGD(params, lr=0.1), COMM, bucket_mib=1.9)
        dist.step(grads)
        for i in (2, 1):
            dist.ready(i, grads[i])
        if ending in ("refused", "closed"):
            with contextlib.suppress(ValueError):
                dist.step()
        if ending == "closed":
            dist.close()
        if ending != "left":
            del dist
            gc.collect()
        own = [np.full(500_000, 7, np.float32) for _ in range(9)]
        for _ in range(20):
            COMM.Barrier()
        assert all((array == 7).all() for array in own), ending
    report(1)


def demo(_: Path) -> None:
    """The demo, in a short form."""
    main(["demo", "--mpi", "--epochs", "2", "--hidden", "16"])


def threads(_: Path) -> None:
    """Each rank has its share of the cores."""
    count = distributed.share_cores(COMM)
    assert count == fo.get_num_threads()
    report(count)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
