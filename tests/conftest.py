"""What all tests share."""

from __future__ import annotations

import numpy as np
import pytest

pytest.register_assert_rewrite("tools", "pairs")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(20_000)
