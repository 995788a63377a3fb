"""The command itself: its output, its errors, and the packages that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import refusal

import fastopt as fo
from fastopt.cli import COMMANDS, main


def test_info_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{fo.show_config()}\n"


def test_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fastopt", "info"], capture_output=True, text=True, check=True)
    assert fo.isa() in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("argv", [["info"], ["--help"], ["--version"]], ids=str)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_is_no_error(argv: list[str], unbuffered: str) -> None:
    """As in ``fastopt info | head -1``, where the pipe is closed before everything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fastopt", *argv],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(write)
    assert done.stderr == ""
    unnoticed = unbuffered and argv != ["info"]  # argparse ignores errors of writing
    assert done.returncode == (0 if unnoticed else 141)


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


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([option])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"fastopt {fo.__version__}\n"


def test_the_command_alone_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    err = capsys.readouterr().err
    assert all(f"{command} " in err for command in COMMANDS) and "--version" in err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["inof"], "fastopt: error: there is no command 'inof'; did you mean info?"),
        (["version"], "did you mean --version?"),
        (["fly", "--fast"], "fastopt: error: there is no command 'fly'; there are info, bench, run, demo"),
        (["--fast"], "fastopt: error: unrecognized arguments: --fast"),
        (["--fast", "info"], "--fast"),
        (["demo", "fly"], "weight-decay"),
    ],
)
def test_unknown_commands(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refusal(argv, capsys)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["bench", "--json", "HERE/no/folder.json"], "argument --json: there is no folder HERE/no"),
        (["bench", "--plot", "HERE"], "argument --plot: must be a file, got the folder 'HERE'"),
        (["bench", "--threads", "0"], "argument --threads: must be at least 1, got 0"),
        (["bench", "--offset", "-1"], "argument --offset: must be at least 0, got -1"),
        (["bench", "--seconds", "nan"], "argument --seconds: must be at least 0, got nan"),
        (["bench", "--quantile", "1.5"], "argument --quantile: must be in [0, 1], got 1.5"),
        (
            ["demo", "weight-decay", "--logdir", "HERE/file"],
            "argument --logdir: must be a folder, got the file HERE/file",
        ),
    ],
)
def test_arguments_are_checked_before_the_work(
    argv: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main([one.replace("HERE", str(tmp_path)) for one in argv])
    assert exit_.value.code == 2
    assert text.replace("HERE", str(tmp_path)) in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["file"]
