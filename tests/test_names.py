"""dir() of modules shows the names for users."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest

import fastopt


@pytest.mark.parametrize("name", ["schedules", "sklearn", "torch", "reference"])
def test_modules_show_public_names(name: str) -> None:
    if name == "torch":
        pytest.importorskip("torch", reason="needs torch")
    module = importlib.import_module(f"fastopt.{name}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, one) for one in module.__all__)


def test_subpackages_are_there_without_an_import_of_their_own() -> None:
    code = """
        import sys, fastopt
        assert not {"fastopt.torch", "fastopt.sklearn", "fastopt.distributed", "torch", "sklearn"} & {*sys.modules}
        fastopt.sklearn.accelerate, fastopt.distributed.Sampler, fastopt.torch.to_torch
        assert not {"torch", "sklearn", "mpi4py"} & {*sys.modules}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_the_package_shows_public_names() -> None:
    """It shows fastopt.torch once that is imported."""
    code = "import fastopt; print(*dir(fastopt)); import fastopt.torch; print(*dir(fastopt))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(str.split, done.stdout.splitlines())
    assert before == sorted(fastopt.__all__)
    assert after == sorted([*fastopt.__all__, "torch"])
