"""What the command line prints where something goes wrong: in a script, on a full disk, in a narrow encoding."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastopt.cli import info, main


def run(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastopt", *argv],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


ERRORS = {
    "ValueError": "raise ValueError('mine')",
    "frozen": "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass E(Exception):\n    a: int\n\n\nraise E(1)",
    "no Exception": "raise GeneratorExit('mine')",
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("as_", ["file", "module", "folder", "zip"])
def test_a_script_s_error_is_shown_as_python_shows_it(as_: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "broken.py").write_text(f"{ERRORS[error]}\n")
    (tmp_path / "package" / "__main__.py").write_text(f"{ERRORS[error]}\n")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "package")
    argv = {"file": ["broken.py"], "module": ["-m", "broken"], "folder": ["package"], "zip": ["packed.zip"]}[as_]
    done = run("run", "--quiet", *argv, cwd=tmp_path)
    alone = subprocess.run([sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == alone.returncode
    assert done.stderr.splitlines() == [line for line in alone.stderr.splitlines() if "frozen runpy" not in line]


def test_a_script_has_only_its_own_future_imports(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(x: int): ...\nprint(f.__annotations__['x']('3') + 1)\n")
    assert run("run", "--quiet", "own.py", cwd=tmp_path).stdout == "4\n"


@pytest.mark.parametrize("argv", [["/dev/stdin", "a"], ["-", "a"], ["/dev/stdin"], ["-"]])
def test_a_script_from_a_pipe(argv: list[str], tmp_path: Path) -> None:
    """It runs as Python runs it."""
    if argv[0] != "-" and not Path(argv[0]).exists():
        pytest.skip(f"there is no {argv[0]}")
    (tmp_path / "there.py").write_text("")
    script = "import sys, there\nprint(sys.argv, __name__, globals().get('__file__'))\n"
    if argv[0] != "-":
        script = script.replace(", there", "")  # Python looks for it beside the pipe

    def output(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command, *argv], input=script, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert output("-m", "fastopt", "run", "--quiet") == output()


@pytest.mark.parametrize("as_", ["folder", "zip"])
def test_a_package_is_found_from_everywhere(as_: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "helper.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, sys\nprint(sys.path[0], __file__, sys.argv)\nos.chdir('/')\nimport helper\n"
    )
    shutil.make_archive(str(tmp_path / "packed"), "zip", package)
    name = {"folder": "package", "zip": "packed.zip"}[as_]
    alone = subprocess.run([sys.executable, name, "a"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run("run", "--quiet", name, "a", cwd=tmp_path).stdout == alone.stdout


def test_a_script_s_hook_and_status(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "import sys\nsys.excepthook = lambda kind, error, frames: print('hook', kind.__name__, error)\nraise OSError('mine')\n"
    )
    done = run("run", "--quiet", "hook.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "hook OSError mine\n", "")
    (tmp_path / "ends.py").write_text("raise SystemExit(7)\n")
    assert run("run", "--quiet", "ends.py", cwd=tmp_path).returncode == 7
    (tmp_path / "lacks.py").write_text("import matplotlib.nothing_like_this\n")
    assert "Traceback" in run("run", "--quiet", "lacks.py", cwd=tmp_path).stderr  # not a hint at an extra of fastopt


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastopt", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "fastopt: No space left on device\n")


def test_other_errors_of_the_system_leave_the_output_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(info, "main", lambda args: os.close(-1))
    assert main(["info"]) == 1
    print("still there")
    assert capsys.readouterr() == ("still there\n", "fastopt: Bad file descriptor\n")


def test_a_closed_output(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    command = f"{shlex.quote(sys.executable)} -m fastopt bench --list --only adamw >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoding_without_our_signs(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    done = run("bench", "--list", "--only", "layernorm", cwd=tmp_path, PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "512?768" in done.stdout


def test_each_pattern_must_match(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    done = run("bench", "--list", "--only", "adamw", "layrnorm", "btchnorm", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "fastopt bench: no case matches layrnorm, btchnorm; fastopt bench --list prints the names of all\n"
    )
