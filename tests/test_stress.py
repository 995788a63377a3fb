"""The stress test ``bench/stress.py`` with few rounds: threads call layers, optimizers and products, while the process
forks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STRESS = Path(__file__).parents[1] / "bench" / "stress.py"

pytestmark = pytest.mark.skipif(not STRESS.is_file() or not hasattr(os, "fork"), reason="needs the sources, and fork")


def test_what_is_computed_in_a_crowd_is_what_is_computed_alone() -> None:
    command = [sys.executable, str(STRESS), "--rounds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    figures = {
        name.strip(): int(count.replace(",", ""))
        for name, count in re.findall(r"^(\D+?) +([\d,]+)$", done.stdout, re.M)
    }
    assert done.returncode == 0, done.stdout + done.stderr
    assert (figures["rounds"], figures["wrong"], figures["hung"]) == (3, 0, 0)
    assert figures["forks"] > 0
