"""The pages of documentation as programs: their blocks of code, their commands, and what a page may change in the process."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import importlib.util
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

import fastopt as fo
from fastopt import _memory
from fastopt._core import kernels
from fastopt.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPTIONAL = ("torch", "sklearn", "matplotlib")  # packages that a page may need, and without which it is skipped

_FENCE = r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^ *(?P=fence) *$"
_HIDDEN = r"^<!-- run\n(?P<hidden>.*?)^-->$"
_BLOCK = re.compile(f"{_FENCE}|{_HIDDEN}", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code of a page."""

    language: str  # "run" for a hidden block of Python
    line: int  # number of lines of the page above the code
    code: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in their order; hidden ones are ``<!-- run`` … ``-->``."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        kind = "hidden" if match["hidden"] is not None else "code"
        code = textwrap.dedent(match[kind]) if match["indent"] else match[kind]
        language = "run" if kind == "hidden" else match["language"].strip()
        found.append(Block(language, text.count("\n", 0, match.start(kind)), code))
    return found


def prose(page: Path) -> str:
    """The text of a page, with empty lines for its blocks."""
    return _BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))


# Running


def needed(code: str) -> set[str]:
    """The optional packages that a piece of Python imports, also by a module of fastopt's."""
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {
        package
        for package in OPTIONAL
        for name in imported
        if f"{name.removeprefix('fastopt.')}.".startswith(f"{package}.")
    }


def run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs all Python of a page in one namespace.  Tracebacks have the lines of the page.

    Raises:
        pytest.skip.Exception: A block needs a package that is not installed; those before it have run.
    """
    script = ModuleType("__main__")  # as in a script: pickle finds the page's classes there
    monkeypatch.setitem(sys.modules, "__main__", script)
    for block in blocks(page):
        if block.language not in ("run", "python"):
            continue
        examples = None
        if block.code.startswith(">>> "):
            parser = doctest.DocTestParser()
            examples = parser.get_doctest(block.code, vars(script), page.name, str(page), block.line)
        for package in sorted(needed("".join(e.source for e in examples.examples) if examples else block.code)):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{page.name} needs {package} from line {block.line + 1} on")
        if examples:
            report: list[str] = []
            doctest.DocTestRunner(verbose=False).run(examples, out=report.append, clear_globs=False)
            assert not report, "".join(report)
            vars(script).update(examples.globs)  # the parser has copied them
        else:
            code = compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True)
            exec(code, vars(script))


@contextlib.contextmanager
def undone(page: Path) -> Iterator[None]:
    """A context for running a page: what it changes in the process is as before when it ends."""
    uses = {package for block in blocks(page) for package in OPTIONAL if package in block.code}
    torch = importlib.import_module("torch") if "torch" in uses and importlib.util.find_spec("torch") else None
    environment, limit, threads = dict(os.environ), kernels.cache_limit(), fo.get_num_threads()
    reuses, lent = set(_memory._active), _lent()
    random = np.random.get_state()  # noqa: NPY002
    with contextlib.ExitStack() as stack:
        stack.enter_context(np.printoptions())
        stack.enter_context(np.errstate())
        if torch is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            if "fastopt.sklearn" in sys.modules:
                importlib.import_module("fastopt.sklearn").restore()
            if torch is not None and "fastopt.torch._patch" in sys.modules:
                importlib.import_module("fastopt.torch").unpatch()
            if "matplotlib.pyplot" in sys.modules:
                importlib.import_module("matplotlib.pyplot").close("all")
            for reuse in _memory._active - reuses:
                reuse.undo()
            fo.set_cache_limit(limit)
            if fo.get_num_threads() != threads:
                fo.set_num_threads(threads)
            if lent and not _lent():
                fo.lend_threads()
            np.random.set_state(random)  # noqa: NPY002
            os.environ.clear()
            os.environ.update(environment)


def _lent() -> bool:
    return any(blas["lent"] for blas in fo.show_config()["blas"])


# Commands

_LAUNCHERS = ("env", "mpiexec", "mpirun", "nice", "python", "python3", "srun", "taskset", "time")


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """The command lines of ``fastopt`` in a page, each with its line: those of blocks, and of code in the text."""
    found = []
    for block in blocks(page):
        for i, line in enumerate(block.code.replace("\\\n", "  ").splitlines()):
            command = line if block.language == "sh" else line[2:] if line.startswith("$ ") else ""
            found += [(block.line + i + 1, words) for words in _arguments(command)]
    text = prose(page)
    for match in re.finditer(r"`(fastopt [^`]+)`", text):
        words = [word for word in shlex.split(match[1])[1:] if word != "…"]
        words += ["train.py"] if words == ["run"] else []  # the subcommand by its name
        found.append((text.count("\n", 0, match.start()) + 1, words))
    return found


def _arguments(line: str) -> Iterator[list[str]]:
    """What stands behind ``fastopt`` in a line of a shell, for each call of it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = [*lexer, ";"]
    except ValueError:  # a quotation that goes on in the next line
        assert not line.startswith("fastopt "), line
        return
    command: list[str] = []
    for word in words:
        if set(word) <= set("();<>|&"):
            at = command.index("fastopt") if "fastopt" in command else len(command)
            launched = [one for one in command[:at] if "=" not in one]
            if at < len(command) and "pip" not in launched and (not launched or launched[0] in _LAUNCHERS):
                yield command[at + 1 :]
            command = []
        else:
            command.append(word)


def is_accepted(words: list[str]) -> bool:
    """Whether the command line parses; the subcommand's ``main`` is to be replaced first."""
    try:
        return main(words) == 0
    except SystemExit as exit_:
        return exit_.code == 0
