"""Optimizer steps, one tensor at a time and whole models."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from fastopt.cli.bench.case import Race
from fastopt.cli.bench.peers import Call

GROUPS = ("SGD", "Adam")


def test_step(benchmark: BenchmarkFixture, race: Race, call: Call) -> None:
    benchmark.group = race.name
    benchmark(call)
