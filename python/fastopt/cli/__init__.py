# PYTHON_ARGCOMPLETE_OK
"""The command ``fastopt``.

Every subcommand is a module here with the same two functions: ``add_arguments(parser)`` and ``main(args) -> int``.
A module may have ``prepared(parser, argv) -> argv``, which looks at the arguments before argparse does.  Only the requested
one is imported, so that ``fastopt info`` needs no extra; all are when the shell asks for completions, and they need none yet.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType

import fastopt

from .parsers import complete, describe, parse

COMMANDS = {
    "info": "what fastopt found on this machine and what is in force",
    "bench": "fastopt against NumPy and torch, kernel by kernel",
    "run": "a script of torch's or scikit-learn's, with fastopt's optimizers and functions",
    "demo": "a network trained three times, a race; what optimizers and penalties do, in pictures",
}

EXAMPLES = [
    "fastopt info                    what is in force on this machine",
    "fastopt run train.py --lr 0.1   a script of torch's with fastopt's parts",
    "fastopt demo ravine             ten optimizers on their way down, in a picture",
    "fastopt bench --quick           how fast fastopt is here",
]
COMPLETION = """fastopt COMMAND --help says more about a command.

completion of commands and options with the tab key:
  pip install 'fastopt[completion]'
  eval "$(register-python-argcomplete fastopt)"   in ~/.bashrc or ~/.zshrc"""

# The modules of the extra [demo], with the names that pip has for them.
EXTRA = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn", "tensorboardX": "tensorboardX"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the process's own) and return its exit status.

    Where nobody reads the output to its end, as in ``fastopt info | head -1``, it is that of a process that SIGPIPE ended.  Another
    error of the system, such as a full disk, is told in one line.
    """
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)  # here, as Python would print an error of its own at exit
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        print(f"fastopt: {error.strerror or error}", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Sends output that is still buffered and cannot be written to nowhere, as Python would try to write it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser("fastopt")
    describe(parser, "Fused optimizer and normalization kernels for NumPy.", EXAMPLES, COMPLETION)
    parser.add_argument("-V", "--version", action="version", version=f"fastopt {fastopt.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    parsers = {name: subparsers.add_parser(name, help=text) for name, text in COMMANDS.items()}
    parser.set_defaults(command_line=shlex.join(["fastopt", *argv]))
    if "_ARGCOMPLETE" in os.environ:
        for name in COMMANDS:
            _module(name).add_arguments(parsers[name])
        _module("demo").add_default(parsers["demo"])
        return complete(parser)
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    if argv[0] not in COMMANDS:
        if not argv[0].startswith("-"):
            parser.error(f"there is no command {argv[0]!r}; {_hint(argv[0])}")
        parse(parser, argv)  # prints the version, the help or an error, and exits
    if argv[0] != "run" and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without × gets a question mark
    try:
        command = _module(argv[0])
        command.add_arguments(parsers[argv[0]])
        if hasattr(command, "prepared"):
            argv[1:] = command.prepared(parsers[argv[0]], argv[1:])
        return int(command.main(parse(parser, argv)))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        print(f"fastopt {argv[0]}: {EXTRA[missing]} is missing: pip install 'fastopt[demo]'", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"fastopt {argv[0]}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _module(command: str) -> ModuleType:
    return importlib.import_module(f".{command}", __name__)


def _hint(command: str) -> str:
    """A suggestion for a mistyped command, or the list of all commands."""
    close = get_close_matches(command, [*COMMANDS, "version", "help"], 1)
    if not close:
        return f"there are {', '.join(COMMANDS)}"
    return f"did you mean {close[0] if close[0] in COMMANDS else '--' + close[0]}?"
