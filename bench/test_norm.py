"""Normalization layers, their fused forms, and dropout; forward and backward."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from fastopt.cli.bench.case import Race
from fastopt.cli.bench.peers import Call

GROUPS = ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "WeightNorm", "fused", "Dropout")


def test_norm(benchmark: BenchmarkFixture, race: Race, call: Call) -> None:
    benchmark.group = race.name
    benchmark(call)
