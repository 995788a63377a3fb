"""The command ``fastopt``.

Every subcommand is a module here with the same two functions: ``add_arguments(parser)`` and ``main(args) -> int``.
Only the requested one is imported, so that ``fastopt info`` needs no extra.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import fastopt

COMMANDS = {
    "info": "what fastopt found on this machine and what is in force",
    "bench": "fastopt against NumPy and torch, kernel by kernel",
    "run": "a script of torch's or scikit-learn's, with fastopt's optimizers and functions",
    "demo": "a network trained twice; what optimizers and penalties do, in pictures",
}

# The modules of the extra [demo], with the names that pip has for them.
EXTRA = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn", "tensorboardX": "tensorboardX"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the process's own) and return its exit status.

    Where nobody reads the output to its end, as in ``fastopt info | head -1``, it is that of a process that SIGPIPE ended.
    """
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)  # here, as Python would print an error of its own at exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 128 + signal.SIGPIPE


def _run(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["demo"] or (argv[:1] == ["demo"] and argv[1].startswith("-") and argv[1] not in ("-h", "--help")):
        argv.insert(1, "digits")  # the default experiment

    parser = argparse.ArgumentParser("fastopt", description="Fused optimizer and normalization kernels for NumPy.")
    parser.add_argument("-V", "--version", action="version", version=f"fastopt {fastopt.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    parsers = {name: subparsers.add_parser(name, help=text) for name, text in COMMANDS.items()}
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    if argv[0] not in COMMANDS:
        if not argv[0].startswith("-"):
            parser.error(f"there is no command {argv[0]!r}; {_hint(argv[0])}")
        parser.parse_args(argv)  # prints the version, the help or an error, and exits
    try:
        command = importlib.import_module(f".{argv[0]}", __name__)
        command.add_arguments(parsers[argv[0]])
        argv = command.separated(argv) if hasattr(command, "separated") else argv
        return int(command.main(parser.parse_args(argv)))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        print(f"fastopt {argv[0]}: {EXTRA[missing]} is missing: pip install 'fastopt[demo]'", file=sys.stderr)
        return 1


def _hint(command: str) -> str:
    """A suggestion for a mistyped command, or the list of all commands."""
    close = get_close_matches(command, [*COMMANDS, "version", "help"], 1)
    if not close:
        return f"there are {', '.join(COMMANDS)}"
    return f"did you mean {close[0] if close[0] in COMMANDS else '--' + close[0]}?"
