"""What the tests of fastopt.distributed share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threads_comm import Comm, run

Array = np.ndarray[Any, Any]

SHAPES = ((60, 40), (40,), (40, 7), (7,), (0, 3), ())
CHUNKS, STEPS = 8, 4
RANKS = pytest.mark.parametrize("ranks", [1, 2, 3, 4])
# Options of rules that have no default for them.
OWN: dict[str, dict[str, Any]] = {"SGD": {"lr": 0.1, "momentum": 0.9}, "ScheduleFreeSGD": {"lr": 0.1}}


def weights(dtype: str = "float32") -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(step: int, part: int, dtype: str = "float32") -> list[Array]:
    rng = np.random.default_rng([step, part])
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def mean_of(every: list[list[Array]], by: list[float]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [
            (sum(w * np.asarray(grad, np.float64) for w, grad in zip(by, grads, strict=True)) / sum(by)).astype(
                grads[0].dtype
            )
            for grads in zip(*every, strict=True)
        ]


def same(a: list[Array], b: list[Array]) -> bool:
    return all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


def trained(ranks: int, make: Callable[..., Any], *, delay: int = 0, **options: Any) -> list[Any]:
    """The weights and the optimizer of each rank after some steps over the same chunks."""

    def program(comm: Comm) -> Any:
        params = weights()
        dist = make(params, comm)
        for step in range(STEPS):
            for chunk in dist.my_chunks:
                dist.add(gradients(step, chunk), weight=chunk + 1, chunk=chunk)
            info = dist.step(**options)
        return params, dist, info

    return run(ranks, program, delay)
