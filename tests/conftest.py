"""Fixtures and hooks that all tests share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from zlib import crc32

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the processors: a thread that waits must let the others work.  OpenMP reads it when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest.register_assert_rewrite("tools", "pairs", "mistakes", "layers", "beside_torch")

CASES = pytest.StashKey[list[Any]]()  # the current case of each loop of a test, outermost loop first


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers, the same in every run."""
    return np.random.default_rng(20_000)


@pytest.fixture
def each(request: pytest.FixtureRequest) -> Any:
    """Loops over cases inside a test, which costs much less than one test per case; a failure's message begins with its
    case.

    ``each(values)`` yields the values, ``each(values, others)`` all pairs.  ``by_day`` is the number of cases that are
    chosen at random, the same ones in every run of the test; with FASTOPT_NIGHTLY=1 all cases are run.
    """
    random = np.random.default_rng(crc32(request.node.nodeid.encode()))
    at: list[Any] = []
    request.node.stash[CASES] = at

    def loop(*values: Iterable[Any], by_day: int | None = None) -> Iterator[Any]:
        cases = list(values[0] if len(values) == 1 else itertools.product(*values))
        if by_day is not None and by_day < len(cases) and not os.environ.get("FASTOPT_NIGHTLY"):
            cases = [cases[i] for i in sorted(random.choice(len(cases), by_day, replace=False))]
        assert cases, "there is nothing to loop over"
        depth = len(at)
        for case in cases:
            at[depth:] = [case]
            yield case
        del at[depth:]

    return loop


def text_of(case: Any) -> str:
    """The text of a case in the message of a failure."""
    if isinstance(case, dict):
        return " ".join(f"{name}={value!r:.40}" for name, value in case.items()) or "{}"
    if isinstance(case, tuple):
        return ", ".join(map(text_of, case))
    return case if isinstance(case, str) else getattr(case, "__name__", None) or f"{case!s:.100}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    at = item.stash.get(CASES, [])
    if report.failed and at:
        text = "; ".join(map(text_of, at))
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            crash.message = f"[{text}] {crash.message}"
            report.longrepr.addsection("case", text)  # type: ignore[union-attr]
    return report
