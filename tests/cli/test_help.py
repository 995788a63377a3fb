"""What the command line teaches: helps, errors that name the next step, completions."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools import refusal

from fastopt.cli import COMMANDS, main
from fastopt.cli.parsers import describe, parse, subparsers_of

EXPERIMENTS = ("digits", "weight-decay", "ravine", "escape", "regularize", "formats", "dropout")
EVERY = [[], *([command] for command in COMMANDS), *(["demo", experiment] for experiment in EXPERIMENTS)]


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command or of an experiment."""
    parser = argparse.ArgumentParser(" ".join(["fastopt", *words[:1]]))
    importlib.import_module(f"fastopt.cli.{words[0]}").add_arguments(parser)
    return subparsers_of(parser)[words[1]] if words[1:] else parser


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_helps_have_a_description_examples_and_the_exit_status(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The description stands before the arguments, and the examples are commands that the parser understands."""
    out = help_of(words, capsys)
    before, _, behind = out.partition("\nexamples:\n")
    usage, description, *_ = before.split("\n\n")
    assert usage.startswith(" ".join(["usage: fastopt", *words]))
    assert len(description) > 40 and description[0].isupper()
    assert "exit status:\n  0 fine, 1 a failure, 2 a mistake in the arguments, 141 nobody reads the output" in behind
    examples = [line.partition("   ")[0].strip() for line in behind.partition("\n\n")[0].splitlines()]
    assert len(examples) >= 2
    for example in examples:
        argv = [word for word in shlex.split(example.partition("|")[0]) if "=" not in word]
        if "fastopt" in argv:
            understood(argv[argv.index("fastopt") + 1 :])
    assert max(map(len, before.splitlines())) <= 80


def understood(argv: list[str]) -> None:
    command = importlib.import_module(f"fastopt.cli.{argv[0]}")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parse(parser, command.prepared(parser, argv[1:]) if hasattr(command, "prepared") else argv[1:])


def options(words: list[str]) -> Iterator[argparse.Action]:
    for action in parser_of(words)._actions:
        if action.option_strings and action.dest != "help":
            yield action


@pytest.mark.parametrize("words", EVERY[1:], ids=" ".join)
def test_every_option_has_a_help_with_its_default(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options that take a value say ``(default: …)``; what the parser has as a default is what the text says."""
    out = " ".join(help_of(words, capsys).split())
    for action in options(words):
        assert all(option in out for option in action.option_strings)
        text = action.help or ""
        assert text and " ".join(text.split()) in out, action.dest
        if action.nargs == 0:
            continue
        default: Any = action.default
        assert "(default: " in text, action.dest
        if default is not None and default != []:
            values = " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in listed(default))
            assert f"(default: {values}" in text, action.dest


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_every_experiment_is_tried_here() -> None:
    assert tuple(subparsers_of(parser_of(["demo"]))) == EXPERIMENTS


def test_helps_notice_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """The error of an option that does not exist is the innermost parser's."""
    parser = argparse.ArgumentParser("one")
    describe(parser, "What it does.", ["one two"], "More.")
    two = parser.add_subparsers().add_parser("two")
    two.add_argument("--three")
    with pytest.raises(SystemExit):
        parse(parser, ["two", "--treee", "4"])
    assert "one two: error: unrecognized arguments: --treee 4; did you mean --three?" in capsys.readouterr().err
    assert "examples:\n  one two\n\nMore.\n\nexit status:" in parser.format_help()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["run", "--only", "optm", "train.py"], "argument --only: there is no 'optm'; did you mean optim?"),
        (["run", "--only", "xyz", "train.py"], "argument --only: there is no 'xyz'; there are batch_norm, clip"),
        (["run", "--without", "optim,memroy", "train.py"], "there is no 'memroy'; did you mean memory?"),
        (["run", "--only"], "argument --only: expected one argument"),
        (["bench", "--quik"], "fastopt bench: error: unrecognized arguments: --quik; did you mean --quick?"),
        (["info", "--fast"], "unrecognized arguments: --fast; fastopt info --help lists all arguments"),
        (["bench", "--threads", "two"], "argument --threads: must be a whole number, such as 12, got 'two'"),
    ],
)
def test_errors_name_the_next_step(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refusal(argv, capsys)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("trian.py", "there is no file trian.py; a module needs -m; did you mean train.py?"),
        ("package.train", "there is no file package.train; a module needs -m\n"),
        ("gone/train.py", "there is no file gone/train.py; there is no folder gone either"),
        ("clip", "names of swaps have commas and no spaces between them"),
    ],
)
def test_missing_scripts(
    script: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["run", script]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "a script is missing: fastopt run train.py --epochs 3"),
        (["--quiet"], "a script is missing: fastopt run train.py --epochs 3"),
        (["--report", "train.py"], "a script is missing: fastopt run train.py --epochs 3"),
        ([""], "a script is missing: fastopt run train.py --epochs 3"),
        (["-m"], "the name of a module is missing: fastopt run -m package.train"),
        (["-m", "train.py"], "train.py is a file, and -m takes the name of a module: fastopt run train.py"),
        (["folder"], "folder is a folder without a file __main__.py; give a file of it"),
        (["--report", "folder", "train.py"], "the report must be a file, got the directory HERE/folder"),
        (["--report", "gone/x.json", "train.py"], "there is no directory HERE/gone for the report"),
    ],
)
def test_run_says_in_one_line_what_is_wrong(argv: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "train.py").touch()
    done = run(["run", *argv], tmp_path)
    assert (done.returncode, done.stderr) == (2, f"fastopt run: {text}\n".replace("HERE", str(tmp_path.resolve())))


@pytest.mark.parametrize("source", [b"print(", b"x = 1\0", b"\xff = 1"])
def test_run_shows_a_syntax_error_as_python_does(source: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(source)
    done = run(["run", "train.py"], tmp_path)
    assert done.returncode == 1 and "Error: " in done.stderr
    assert "Traceback" not in done.stderr and "fastopt" not in done.stderr


def test_run_needs_a_file_that_can_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("io.open_code", refused)
    assert main(["run", __file__]) == 2
    assert capsys.readouterr().err == f"fastopt run: {__file__} cannot be read: Permission denied\n"


def run(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "fastopt", *argv]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [["bench"], *(["demo", experiment] for experiment in EXPERIMENTS)], ids=" ".join)
def test_files_that_cannot_be_written_are_refused_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "picture.png").mkdir()
    option = "--plot" if command == ["bench"] else "--output"
    inside = refusal([*command, option, str(tmp_path / "file" / "x.png")], capsys)
    assert "is a file, and no folder" in inside or "there is no folder" in inside
    assert "must be a file, got the folder" in refusal([*command, option, str(tmp_path / "picture.png")], capsys)
    assert "must end in .pdf, .png or .svg" in refusal([*command, option, str(tmp_path / "x.txt")], capsys)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert f"{tmp_path} cannot be written" in refusal([*command, option, str(tmp_path / "x.png")], capsys)


def test_a_failure_to_write_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(args: argparse.Namespace) -> int:
        raise OSError(28, "No space left on device", "x.png")

    monkeypatch.setattr("fastopt.cli.info.main", full)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "fastopt info: x.png: No space left on device\n"


# Completions


def completions(line: str, folder: Path) -> set[str]:
    """What argcomplete's shell function would be told for a command line that ends at the cursor."""
    answer = folder / "answer"
    env = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
        "COMP_TYPE": "9",
        "IFS": "\013",
        "_ARGCOMPLETE_IFS": "\013",
    }
    code = "from fastopt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, cwd=folder, check=False)
    assert done.returncode == 0
    return {word.strip() for word in answer.read_text().split("\013")}


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("fastopt ", {*COMMANDS, "--version"}, {"--seed"}),
        ("fastopt de", {"demo"}, {"info"}),
        ("fastopt demo ", {*EXPERIMENTS}, {"train.py"}),
        ("fastopt demo ra", {"ravine"}, {"regularize"}),
        ("fastopt demo --ep", {"--epochs"}, {"--patience"}),
        ("fastopt demo escape --", {"--starts", "--steps", "--seed", "--output"}, {"--epochs"}),
        ("fastopt demo escape --starts ", set(), {"train.py", "logs"}),
        ("fastopt demo escape --output tr", {"train.py"}, set()),
        ("fastopt demo weight-decay --logdir ", {"logs/"}, {"train.py"}),
        ("fastopt bench --dtype ", {"float32", "float64"}, {"train.py"}),
        ("fastopt run --only op", {"optim"}, {"memory"}),
        ("fastopt run --only optim,", {"optim,memory", "optim,clip"}, {"optim,optim"}),
        ("fastopt run tr", {"train.py"}, {"logs"}),
        ("fastopt run --", {"--only", "--report"}, {"--seed"}),
    ],
)
def test_completions(line: str, some: set[str], none: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="completions are argcomplete's: pip install argcomplete")
    (tmp_path / "train.py").touch()
    (tmp_path / "logs").mkdir()
    found = completions(line, tmp_path)
    assert some <= found
    assert not none & found


def test_without_argcomplete_the_shell_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main([]) == 1


def test_the_start_imports_no_command() -> None:
    """``fastopt --version`` imports neither a command nor argcomplete."""
    code = (
        "import sys; from fastopt.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
        "print(*[name for name in sys.modules if name.startswith(('fastopt.cli.', 'argcomplete', 'fastopt.optim'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["fastopt.cli.parsers"]
