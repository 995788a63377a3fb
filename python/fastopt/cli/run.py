"""``fastopt run``: an unmodified script with fastopt in the place of torch's and scikit-learn's own optimizers and functions."""

from __future__ import annotations

import argparse
import atexit
import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import runpy
import sys
import traceback
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import fastopt

from .parsers import describe, suggestion

SWAPS = (
    "batch_norm",
    "clip",
    "cross_entropy",
    "dropout",
    "gelu",
    "group_norm",
    "layer_norm",
    "max_pool2d",
    "memory",
    "optim",
    "rms_norm",
    "sklearn",
)
EXAMPLES = [
    "fastopt run train.py --epochs 3",
    "fastopt run --without memory -m package.train",
    "fastopt run --only optim,clip --report counts.json train.py",
]
SWAPPED = """Options stand before SCRIPT; what stands behind it is the script's.

what is swapped:
  optim                    torch.optim's classes
  clip                     torch.nn.utils.clip_grad_norm_, clip_grad_value_
  batch_norm, cross_entropy, dropout, gelu, group_norm, layer_norm, max_pool2d, rms_norm
                           functions of torch.nn.functional, which the modules of torch.nn call
  sklearn                  MLPClassifier and MLPRegressor of scikit-learn
  memory                   large blocks of memory stay with the process, see fastopt.reuse_memory"""
STDIN = "-"  # as a script's name
MISSING = "a script is missing: fastopt run train.py --epochs 3"
SCRIPT_STATUS = "A script that ends with an exit status of its own gives it to fastopt run."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Runs a script with fastopt in the place of torch's and scikit-learn's own optimizers and functions. What the script saves "
        "loads without fastopt.",
        EXAMPLES,
        SWAPPED,
        SCRIPT_STATUS,
    )
    only = parser.add_argument(
        "--only", type=_names, metavar="NAMES", help="the swaps that are wanted, with commas (default: all)"
    )
    without = parser.add_argument(
        "--without", type=_names, metavar="NAMES", default=[], help="the swaps that are not (default: none)"
    )
    only.completer = without.completer = _completed  # type: ignore[attr-defined]
    parser.add_argument(
        "--report", metavar="FILE", help="write how often what was swapped ran to a JSON file (default: no file)"
    )
    parser.add_argument("--quiet", action="store_true", help="no line at the end on what was swapped")
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as for python -m"
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python file, - for standard input, or with -m a module")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="the script's own arguments")


def prepared(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The arguments with ``--`` behind the script, as argparse takes the first one away, which may be the script's own."""
    with_value = ("--only", "--without", "--report")
    i = 0
    while i < len(argv) and argv[i].startswith("-") and argv[i] != STDIN:
        i += 2 if argv[i] in with_value else 1
    if i >= len(argv) and not {"-h", "--help"} & {*argv} and (not argv or argv[-1] not in with_value):
        missing = "the name of a module is missing: fastopt run -m package.train" if "-m" in argv else MISSING
        parser.exit(2, f"fastopt run: {missing}\n")
    return [*argv[: i + 1], *(["--"] if i < len(argv) else []), *argv[i + 1 :]]


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in SWAPS]:
        hints = [suggestion(name, SWAPS) for name in unknown]
        close = [hint for hint in hints if hint.startswith("did you mean")]
        raise argparse.ArgumentTypeError(f"there is no {', '.join(map(repr, unknown))}; {' '.join(close) or hints[0]}")
    return names


def _completed(prefix: str, **_: object) -> list[str]:
    """Lists of names that begin with ``prefix``: the last name is completed."""
    before, comma, _last = prefix.rpartition(",")
    return [before + comma + name for name in SWAPS if name not in before.split(",")]


def main(args: argparse.Namespace) -> int:
    if mistake := _mistake(args.script, args.module):
        print(f"fastopt run: {mistake}", file=sys.stderr)
        return 2
    if args.report is not None:
        args.report = Path(args.report).resolve()  # the script may change the directory
        if not args.report.parent.is_dir():
            print(f"fastopt run: there is no directory {args.report.parent} for the report", file=sys.stderr)
            return 2
        if args.report.is_dir():
            print(f"fastopt run: the report must be a file, got the directory {args.report}", file=sys.stderr)
            return 2
    code = None
    from_stdin = args.script == STDIN and not args.module
    path = "<stdin>" if from_stdin else str(Path(args.script).absolute())  # as Python names it
    if from_stdin or _is_source(args):
        try:
            with nullcontext(sys.stdin.buffer) if from_stdin else io.open_code(path) as file:
                code = compile(file.read(), path, "exec", dont_inherit=True)
        except OSError as error:
            print(f"fastopt run: {args.script} cannot be read: {error.strerror}", file=sys.stderr)
            return 2
        except (SyntaxError, ValueError) as error:  # as Python shows them; a zero byte is a ValueError in old versions
            print(*traceback.format_exception_only(error), sep="", end="", file=sys.stderr)
            return 1
    wanted = {*(SWAPS if args.only is None else args.only)} - {*args.without}
    process = os.getpid()
    atexit.register(lambda: _report(args, wanted) if os.getpid() == process else None)  # not in forked children
    if "memory" in wanted:
        fastopt.reuse_memory()
    if wanted - {"memory", "sklearn"}:
        _after("torch", lambda: _patch_torch(wanted - {"memory", "sklearn"}))
    if "sklearn" in wanted:
        _after("sklearn.neural_network", _accelerate_sklearn)
    sys.argv = [args.script, *args.arguments]
    script = sys.modules["__main__"] = ModuleType(
        "__main__"
    )  # it stays until the process ends, as that of a script does
    try:
        if args.module:
            sys.path.insert(0, os.getcwd())
            runpy._run_module_as_main(args.script, alter_argv=True)  # type: ignore[attr-defined]
        elif code is not None:
            sys.path.insert(0, "" if from_stdin else str(Path(args.script).resolve().parent))
            vars(script).update(__file__=path, __builtins__=builtins, __cached__=None)
            exec(code, vars(script))
        else:  # a folder or a zip file
            sys.path.insert(0, path)
            runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
    except SystemExit:
        raise
    except BaseException as error:  # it is shown as Python shows it, without the frames of this function and around it
        frames = _of_script(error.__traceback__)
        hook = sys.excepthook
        if isinstance(error, Exception):
            hook(type(error), error.with_traceback(frames), frames)
            return 1
        sys.excepthook = lambda kind, error, _: hook(kind, error.with_traceback(frames), frames)
        raise  # Python shows it, and ends the process as such an error does
    return 0


def _is_source(args: argparse.Namespace) -> bool:
    """Whether the script is a file, or a pipe, with Python's source in it, and no module, folder or zip file."""
    path = Path(args.script)
    return not (args.module or path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)))


def _of_script(frames: TracebackType | None) -> TracebackType | None:
    """The frames of a traceback behind those that run the script."""
    while frames is not None and frames.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        frames = frames.tb_next
    return frames


def _mistake(script: str, module: bool) -> str:
    """What is wrong with the script's name; empty if nothing is."""
    if not script:
        return MISSING
    if module:
        if script.endswith(".py") and Path(script).is_file():
            return f"{script} is a file, and -m takes the name of a module: fastopt run {script}"
        return ""
    path = Path(script)
    if script != STDIN and not path.exists():
        return f"there is no file {script}; {_next_step(script)}"
    if path.is_dir() and not (path / "__main__.py").exists():
        return f"{script} is a folder without a file __main__.py; give a file of it"
    return ""


def _next_step(script: str) -> str:
    """What may have been meant by a file that does not exist."""
    if script in SWAPS:
        return "a module needs -m; names of swaps have commas and no spaces between them"
    folder = Path(script).parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    close = get_close_matches(Path(script).name, [path.name for path in folder.iterdir() if path.suffix == ".py"], 1)
    return f"a module needs -m{f'; did you mean {folder / close[0]}?' if close else ''}"


def _patch_torch(wanted: set[str]) -> None:
    try:
        import fastopt.torch

        fastopt.torch.patch(only=wanted)
    except ImportError as error:
        print(f"fastopt run: torch is left alone: {error}", file=sys.stderr)


def _accelerate_sklearn() -> None:
    import fastopt.sklearn

    fastopt.sklearn.accelerate()


def _report(args: argparse.Namespace, wanted: set[str]) -> None:
    torch: Any = sys.modules.get("fastopt.torch")
    swapped = torch is not None and torch.is_patched()
    if not args.quiet:
        parts = [torch.counts.line()] if swapped else []
        if "sklearn" in wanted and "sklearn.neural_network" in sys.modules:
            fits = sys.modules["fastopt.sklearn"]._switch._switch.fits
            parts.append(f"{fits:,} fit{'' if fits == 1 else 's'} of scikit-learn's networks")
        nothing = "nothing that is swapped was imported" if wanted else "no swap was chosen"
        print(f"fastopt run: {'; '.join(parts) or nothing}", file=sys.stderr)
    if args.report:
        try:
            args.report.write_text(json.dumps(torch.counts.as_dict() if swapped else {}, indent=2) + "\n")
        except OSError as error:
            print(f"fastopt run: the report cannot be written: {error}", file=sys.stderr)


def _after(name: str, then: Callable[[], None]) -> None:
    """Calls ``then`` as soon as the module has been imported."""
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as all others do, and has a function called when it has been executed."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader, then = spec.loader, self._then
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                then()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
