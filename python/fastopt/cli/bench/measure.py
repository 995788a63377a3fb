"""The measurement of times.

All candidates of a race take turns in one process, in a new order every round, so that a disturbance hits all of them.  A call
before every sample is not timed; it fills the caches and wakes the threads.  Short calls are repeated until the cost of the
clock vanishes.  The result is a quantile over the rounds, by default the median.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from math import ceil

from .peers import Call

_SAMPLE = 200e-6  # seconds for which short calls are repeated
_LONG = 2e-3  # seconds from which on a call empties the caches by itself
_BLOCK = (
    40e-3  # seconds of one part of an alternating loop, and of the pause before it, in which all threads fall asleep
)


@dataclass(frozen=True)
class Effort:
    """The time that a case may take, and the quantile of its samples."""

    seconds: float = 4.0
    rounds: int = 5  # at least
    quantile: float = 0.5

    def of(self, samples: list[float]) -> float:
        """The sample at the quantile."""
        return sorted(samples)[min(int(self.quantile * len(samples)), len(samples) - 1)]


@contextmanager
def _undisturbed() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _time(call: Call, times: int = 1) -> float:
    start = time.perf_counter()
    for _ in repeat(None, times):
        call()
    return (time.perf_counter() - start) / times


def _time_for(call: Call, seconds: float) -> float:
    calls, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds or not calls:
        call()
        calls += 1
    return (now - start) / calls


def _interruptions() -> int:
    """The number of times that the system has taken a core from a thread of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def race(calls: Mapping[str, Call], effort: Effort) -> tuple[dict[str, list[float]], float]:
    """Seconds per call of every candidate in each round, and the interruptions per second."""
    order, samples = list(calls), {name: list[float]() for name in calls}
    shuffle = random.Random(0).shuffle
    with _undisturbed():
        about = {name: min(_time(call) for _ in range(3)) for name, call in calls.items()}
        times = {name: max(1, ceil(_SAMPLE / max(seconds, 1e-7))) for name, seconds in about.items()}
        before, start = _interruptions(), time.perf_counter()
        while time.perf_counter() - start < effort.seconds or len(samples[order[0]]) < effort.rounds:
            shuffle(order)
            for name in order:
                if about[name] < _LONG:
                    calls[name]()
                samples[name].append(_time(calls[name], times[name]))
        interruptions = (_interruptions() - before) / (time.perf_counter() - start)
    return samples, interruptions


def alternate(first: Call, second: Call, effort: Effort) -> tuple[float, float, float]:
    """Seconds of the first call alone, of the second alone, and of both in turn in a loop."""

    def pair() -> None:
        first()
        second()

    def block(call: Call) -> float:
        time.sleep(_BLOCK)
        _time_for(call, _BLOCK / 10)
        return _time_for(call, _BLOCK)

    parts: tuple[list[float], ...] = ([], [], [])
    end = time.perf_counter() + effort.seconds
    with _undisturbed():
        while time.perf_counter() < end or len(parts[0]) < effort.rounds:
            for samples, call in zip(parts, (first, second, pair), strict=True):
                samples.append(block(call))
    alone, other, both = map(effort.of, parts)
    return alone, other, both


def march(calls: Mapping[str, Call], steps: int) -> dict[str, list[float]]:
    """Seconds of each of ``steps`` calls in a row, for one candidate after the other."""
    samples = {name: list[float]() for name in calls}
    with _undisturbed():
        for _ in range(steps):
            for name, call in calls.items():
                samples[name].append(_time(call))
    return samples
