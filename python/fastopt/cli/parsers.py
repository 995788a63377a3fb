"""What all parsers of the command line have in common: helps with examples, and errors that name the next step."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

WIDTH = 79
STATUS = """exit status:
  0 fine, 1 a failure, 2 a mistake in the arguments, 141 nobody reads the output"""


def describe(parser: argparse.ArgumentParser, description: str, examples: Sequence[str], *more: str) -> None:
    """Sets the description, and behind the options the examples, further paragraphs and the meaning of the exit status."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "\n\n".join(textwrap.fill(part, WIDTH) for part in description.split("\n\n"))
    lines = "\n".join(f"  {example}" for example in examples)
    parser.epilog = "\n\n".join([f"examples:\n{lines}", *more, STATUS])


def suggestion(word: str, known: Iterable[str]) -> str:
    """``did you mean …?`` or, if nothing is close, all that there is."""
    close = get_close_matches(word, known := list(known), 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands or experiments of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; an option that does not exist is an error of the parser that was to have it."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        for word in argv:
            if (further := subparsers_of(parser).get(word)) is None:
                break
            parser = further
        options = [option for action in parser._actions for option in action.option_strings]
        close = [get_close_matches(word, options, 1) for word in unknown if word.startswith("--")]
        hints = " ".join(found[0] for found in close if found)
        hint = f"did you mean {hints}?" if hints else f"{parser.prog} --help lists all arguments"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; {hint}")
    return args


def complete(parser: argparse.ArgumentParser) -> int:
    """Answers the shell, which asks through the package argcomplete for completions of a command line."""
    try:
        argcomplete = importlib.import_module("argcomplete")
        completers = importlib.import_module("argcomplete.completers")
    except ModuleNotFoundError:
        return 1

    paths: Any = dict.fromkeys(("FILE", "SCRIPT", "..."), completers.FilesCompleter())
    paths["DIR"] = completers.DirectoriesCompleter()

    def values(prefix: str, action: argparse.Action, **others: Any) -> Iterable[str]:
        """Paths where an argument is one, nothing for numbers."""
        completer = paths.get(action.metavar)
        found: Iterable[str] = completer(prefix=prefix, action=action, **others) if completer else ()
        return found

    argcomplete.autocomplete(parser, default_completer=values)
    return 1  # it does not return when the shell asks
