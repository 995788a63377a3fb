"""The command itself: what it prints, what it refuses, and what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastopt as fo
from fastopt.cli import COMMANDS, main


def test_info_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{fo.show_config()}\n"


def test_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fastopt", "info"], capture_output=True, text=True, check=True)
    assert fo.isa() in done.stdout
    assert done.stderr == ""


def test_info_needs_no_extra() -> None:
    """Only NumPy, and what fastopt itself depends on, is imported."""
    code = (
        "import sys; from fastopt.cli import EXTRA, main; main(['info']); print(sorted(EXTRA.keys() & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("argv", [["--help"], *([command, "--help"] for command in ("info", "demo"))])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 0
    assert "usage: fastopt" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("argv", [[], ["fly"], ["--fast"], ["info", "--fast"], ["info", "twice"]])
def test_bad_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: fastopt" in capsys.readouterr().err
