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
        (["run"], "the following arguments are required: SCRIPT"),
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
