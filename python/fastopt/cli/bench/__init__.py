"""``fastopt bench``: fastopt against idiomatic NumPy and, if it is installed, torch, each with its floor."""

from __future__ import annotations

import argparse
import importlib
import sys

from ..arguments import drawing, file, not_negative, part, positive, whole
from ..parsers import describe

INTERRUPTED = 130  # as of a process that SIGINT ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fastopt bench``."""
    describe(
        parser,
        "Measures fastopt against idiomatic NumPy and, if it is installed, torch, kernel by kernel, all in turn in one process. "
        "The floor of a kernel is the time of one that moves the same bytes and computes nothing.",
        [
            "fastopt bench --quick",
            "fastopt bench --only adamw 'layernorm*512x768' --threads 2",
            "fastopt bench --full --json results.json --plot results.png",
        ],
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="measure a few cases of each kind, in about two minutes")
    add("--full", action="store_true", help="measure ResNet-50 and GPT-2 small too")
    add(
        "--only",
        metavar="PATTERN",
        nargs="+",
        default=[],
        help="measure only cases whose name contains a PATTERN: adamw, 'layernorm*512x768' (default: all)",
    )
    add("--list", action="store_true", help="print the names of the cases and stop")
    add("--threads", metavar="N", type=positive, help="threads for fastopt and torch (default: fastopt's)")
    add(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="dtype of all cases but those of 'format' (default: float32)",
    )
    add(
        "--offset",
        metavar="N",
        type=whole,
        default=0,
        help="start every array N elements after the beginning of a cache line (default: 0)",
    )
    add("--compile", action="store_true", help="measure torch.compile where torch has no kernel; needs a C++ compiler")
    add("--seconds", metavar="S", type=not_negative, help="time for each case (default: 4, with --quick 1.2)")
    add(
        "--quantile",
        metavar="Q",
        type=part,
        default=0.5,
        help="quantile of the samples that counts; use less on a busy machine (default: 0.5, the median)",
    )
    add("--json", metavar="FILE", type=file, help="write all results to FILE (default: no file)")
    add("--markdown", metavar="FILE", type=file, help="write a page with all tables to FILE (default: no file)")
    add("--plot", metavar="FILE", type=drawing, help="draw the results to FILE (default: no file)")


def main(args: argparse.Namespace) -> int:
    """Measure the chosen cases, and print, write and draw the results."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import fastopt as fo

    from . import norm_peers, peers, report
    from .case import Result
    from .catalog import cases, matching
    from .data import Data
    from .measure import Effort

    files = [file for file in (args.json, args.markdown, args.plot) if file]
    if len({file.resolve() for file in files}) < len(files):
        print("fastopt bench: --json, --markdown and --plot need a file each", file=sys.stderr)
        return 2
    if args.plot:
        importlib.import_module("matplotlib")  # fail now rather than after minutes

    data = Data(args.dtype, args.offset)
    known = [*cases(data, quick=args.quick, full=args.full)]
    chosen = matching(known, args.only)
    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 170)
    if unmatched := [pattern for pattern in args.only if not matching(known, [pattern])]:
        print(
            f"fastopt bench: no case matches {', '.join(unmatched)}; fastopt bench --list prints the names of all",
            file=sys.stderr,
        )
        return 2
    if args.list:
        console.print("\n".join(case.name for case in chosen), highlight=False)
        return 0

    if args.threads:
        fo.set_num_threads(args.threads)
    threads = fo.get_num_threads()
    for peer in filter(None, (peers.torch(), peers.onednn())):
        peer.set_num_threads(threads)

    norm_peers.SETTINGS.compile = args.compile
    seconds = (1.2 if args.quick else 4.0) if args.seconds is None else args.seconds
    effort = Effort(seconds, 3 if args.quick else 5, args.quantile)
    where = report.machine(threads=threads, dtype=args.dtype, offset=args.offset, isa=fo.isa(), quantile=args.quantile)
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        try:
            for case in chosen:
                progress.update(task, description=case.name, refresh=True)
                results.append(case.measure(effort))
                progress.advance(task)
        except KeyboardInterrupt:
            console.print(f"stopped after {len(results)} of {len(chosen)} cases")
    if not results:
        return INTERRUPTED

    if args.json:
        report.write_json(args.json, results, where)
    if args.markdown:
        report.write_markdown(args.markdown, results, where, args.command_line)
    if args.plot:
        report.write_plot(args.plot, results, where)
    console.print(report.described(where), highlight=False)
    report.print_tables(console, results)
    return 0 if len(results) == len(chosen) else INTERRUPTED
