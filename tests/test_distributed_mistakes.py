"""Mistakes with fastopt.distributed, each an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threads_comm import Comm, run

from fastopt import distributed, optim

# Mistakes


def difference(comm: Comm) -> None:
    distributed.DistributedOptimizer(optim.AdamW([np.ones(3 + comm.Get_rank())]), comm)


def hyperparameter(comm: Comm) -> None:
    distributed.DistributedOptimizer(optim.AdamW([np.ones(3)], lr=0.1 * (1 + comm.Get_rank())), comm)


def dtypes(comm: Comm) -> None:
    distributed.ShardedOptimizer(optim.AdamW, [np.ones(3, "f4" if comm.Get_rank() else "f8")], comm, lr=0.1)


def rules(comm: Comm) -> None:
    distributed.DistributedOptimizer([optim.AdamW, optim.Adam][comm.Get_rank()]([np.ones(3)]), comm)


def dist(comm: Comm, **options: Any) -> Any:
    return distributed.DistributedOptimizer(optim.AdamW([np.ones(3), np.ones(2)]), comm, **options)


def twice(comm: Comm) -> None:
    one = dist(comm)
    one.ready(1, np.ones(2))
    one.ready(1, np.ones(2))


def unequal(comm: Comm) -> None:
    one = dist(comm)
    one.ready(1, np.ones(2), weight=3)
    one.ready(0, np.ones(3), weight=4)


def replaced(comm: Comm) -> None:
    one = dist(comm)
    one.optimizer.param_groups[0]["params"][0] = np.ones(3)
    one.step([np.ones(3), np.ones(2)])


MISTAKES: list[tuple[Callable[[Comm], Any], type[Exception], str]] = [
    (
        difference,
        ValueError,
        r"ranks differ: params\[0\] is float64 of shape \(3,\) on rank 0, but float64 of shape \(4,\) on rank 1",
    ),
    (hyperparameter, ValueError, r"ranks differ: lr of param_groups\[0\] is 0.1 on rank 0, but 0.2 on rank 1"),
    (
        dtypes,
        ValueError,
        r"ShardedOptimizer: ranks differ: params\[0\] is float64 of shape \(3,\) on rank 0, but float32",
    ),
    (rules, ValueError, r"ranks differ: the optimizer is AdamW on rank 0, but Adam on rank 1"),
    (
        lambda comm: distributed.DistributedOptimizer([np.ones(3)], comm),
        TypeError,
        r"opt must be an optimizer of fastopt.optim, got list",
    ),  # type: ignore[arg-type]
    (
        lambda comm: distributed.DistributedOptimizer(optim.Adam([np.ones(3)]), 3),
        TypeError,
        r"comm must be a communicator like mpi4py's MPI.COMM_WORLD, got int",
    ),
    (
        lambda comm: distributed.ShardedOptimizer(optim.Adam([np.ones(3)]), [np.ones(3)], comm),
        TypeError,
        r"rule must be a class of fastopt.optim, got Adam",
    ),  # type: ignore[arg-type]
    (
        lambda comm: distributed.ShardedOptimizer(optim.Adam, [np.ones((4, 4))[:, ::2]], comm),
        TypeError,
        r"params\[0\] must be C-contiguous and writable, as it is updated in place",
    ),
    (
        lambda comm: distributed.ShardedOptimizer(optim.Adam, [np.ones(3)], comm, lrr=1),
        TypeError,
        r"there is no lrr; did you mean lr\?",
    ),
    (lambda comm: dist(comm, chunks=1), ValueError, r"chunks must be at least 2, the number of ranks, got 1"),
    (lambda comm: dist(comm, wire="float16"), ValueError, r"wire must be 'bfloat16' or None, got 'float16'"),
    (lambda comm: dist(comm, error_feedback=True), ValueError, r"error_feedback needs wire='bfloat16'"),
    (lambda comm: dist(comm, reduction="max"), ValueError, r"reduction must be 'mean' or 'sum', got 'max'"),
    (
        lambda comm: dist(comm).step([np.ones(3)]),
        ValueError,
        r"grads has 1 entries, expected 2, one for each parameter",
    ),
    (
        lambda comm: dist(comm).step([np.ones(4), np.ones(2)]),
        ValueError,
        r"the gradient of params\[0\] has shape \(4,\), expected \(3,\)",
    ),
    (
        lambda comm: dist(comm).step([np.ones(3, "f4"), np.ones(2)]),
        TypeError,
        r"the gradient of params\[0\] has dtype float32, expected float64",
    ),
    (
        lambda comm: dist(comm).step([[1, 2, 3], np.ones(2)]),
        TypeError,
        r"the gradient of params\[0\] must be a numpy array, got list",
    ),
    (
        lambda comm: dist(comm).step(),
        ValueError,
        r"the gradient of params\[0\] is missing: step\(grads\), or ready or add before step\(\)",
    ),
    (lambda comm: dist(comm).ready(2, np.ones(3)), ValueError, r"param must be in \[0, 2\*\*1\), got 2"),
    (
        lambda comm: dist(comm).add([np.ones(3), np.ones(2)], chunk=0),
        ValueError,
        r"chunk is given, but the optimizer was made without chunks",
    ),
    (
        lambda comm: dist(comm, chunks=4).add([np.ones(3), np.ones(2)], chunk=3),
        ValueError,
        r"chunk 3 was added, expected chunk [02]; rank [01] has chunks",
    ),
    (lambda comm: dist(comm, chunks=4).ready(0, np.ones(3)), ValueError, r"ready cannot be used with chunks"),
    (
        lambda comm: dist(comm).add([np.ones(3), np.ones(2)], weight=-1),
        ValueError,
        r"weight must be finite and >= 0, got -1",
    ),
    (twice, ValueError, r"the gradient of params\[1\] was handed in before; step\(\) comes first"),
    (unequal, ValueError, r"weight is 4, but was 3.0 for other gradients of this step"),
    (replaced, ValueError, r"the optimizer has other parameters than when this was made"),
    (lambda comm: distributed.Sampler(10, 0, comm), ValueError, r"batch_size must be in \[1, "),
    (
        lambda comm: distributed.mean([1.0, 2.0], [1.0, 2.0, 3.0], comm=comm),
        ValueError,
        r"weights has 3 entries, expected 2",
    ),
    (lambda comm: distributed.SyncBatchNorm(3, None), TypeError, r"SyncBatchNorm: comm must be a communicator"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES)
def test_mistakes_are_named(mistake: Callable[[Comm], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(2, mistake)
