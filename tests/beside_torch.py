"""Comparison with torch's results; tests that need torch are skipped where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tables import Array

torch = pytest.importorskip("torch", reason="compares with torch")

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: the tensors are small, and torch would wake its threads for each of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_close(actual: Array, expected: Any, tolerance: float, what: str, largest: float = 0.0) -> None:
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape
    bound = tolerance * max(largest, np.max(np.abs(expected), initial=0))
    assert np.max(np.abs(actual - expected), initial=0) <= bound, what
