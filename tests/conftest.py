"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import numpy as np
import pytest

pytest.register_assert_rewrite("tools", "pairs")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(20_000)


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Callable[[Iterable[Any], int], list[Any]]:
    """Chooses some of the values, others for each test, and the same ones in every run; with FASTOPT_NIGHTLY=1 all of them."""
    random = np.random.default_rng(crc32(request.node.nodeid.encode()))

    def choose(values: Iterable[Any], count: int) -> list[Any]:
        every = list(values)
        if os.environ.get("FASTOPT_NIGHTLY") or count >= len(every):
            return every
        return [every[i] for i in sorted(random.choice(len(every), count, replace=False))]

    return choose
