"""The time of a kernel in a loop: alternating with a matrix product, and after the gradients have become zero."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastopt.cli.bench.case import Alternating, Dead

GROUPS = ("alternating", "dead")


@pytest.mark.parametrize("part", ["product", "kernel", "in turn"])
def test_alternating(benchmark: BenchmarkFixture, alternating: Alternating, part: str) -> None:
    """``in turn`` should take as long as ``product`` and ``kernel`` together."""
    product, kernel = alternating.product(), next(iter(alternating.kernel.calls().values()))

    def in_turn() -> None:
        product()
        kernel()

    benchmark.group = alternating.name
    benchmark({"product": product, "kernel": kernel, "in turn": in_turn}[part])


@pytest.mark.parametrize("steps", [0, 1000])
def test_dead(benchmark: BenchmarkFixture, dead: Dead, steps: int) -> None:
    """A step should not take longer after a thousand steps without a gradient."""
    step = dead.calls()["fastopt"]
    for _ in range(steps):
        step()
    benchmark.group = dead.name
    benchmark(step)
