"""What all tests share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from zlib import crc32

import numpy as np
import pytest

pytest.register_assert_rewrite("tools", "pairs", "mistakes", "layers", "beside_torch")

CASES = pytest.StashKey[list[Any]]()  # the cases that the loops of a test are at, the outer loop's first


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(20_000)


@pytest.fixture
def each(request: pytest.FixtureRequest) -> Any:
    """Loops over cases inside a test, which costs much less than a test for each; a failure's message begins with its case.

    ``each(values)`` gives the values, ``each(values, others)`` all pairs of a value and another.  ``by_day``: so many
    of them, chosen at random, but the same ones in every run of the test; with FASTOPT_NIGHTLY=1 all of them.
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
    """A case in the message of a failure."""
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
