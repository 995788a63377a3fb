"""``fastopt demo``: three trainings race; their table and their picture."""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from .digits import FASTOPT, FIRST, NUMPY, QUICK, RACE, Digits, Training, settle
from .network import PARTS
from .picture import BLUE, FAINT, GREY, ORANGE, picture

COLORS = (GREY, BLUE, ORANGE)
INTERVAL = 0.1  # seconds from one drawing of the bars to the next


def main(args: argparse.Namespace) -> int:
    """Trains with all three, one after the other; prints the table, writes the picture."""
    digits = Digits.load()
    if mistake := settle(args, QUICK if args.quick else RACE, digits):
        print(mistake, file=sys.stderr)
        return 2
    console = Console()
    runs = [Training(backend, digits, args) for backend in (FIRST, NUMPY, FASTOPT)]
    race(runs, console)
    times = [run.step_times() for run in runs]
    console.print(table(runs, times))
    console.print(verdict(times), highlight=False)
    if args.output is not None:
        draw(args.output, runs, times)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def race(runs: Sequence[Training], console: Console) -> None:
    """Trains one after the other; the bars of those that are done move again as they did, beside the one that is training."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[text]}"),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = [progress.add_task(run.backend.name, total=run.images, text="") for run in runs]

        def show(i: int, seconds: float, images: int, end: str) -> None:
            for bar, before in zip(bars, runs[:i], strict=False):
                progress.update(bar, completed=position(before, seconds))
            progress.update(bars[i], completed=images, text=f"{images / seconds:7,.0f} images/s  {end}")
            progress.refresh()

        for i, run in enumerate(runs):
            drawn = 0.0

            def advance(seconds: float, images: int, i: int = i, run: Training = run) -> None:
                nonlocal drawn
                if perf_counter() - drawn >= INTERVAL:
                    show(i, seconds, images, f"{(run.images - images) * seconds / images:3.0f} s left")
                    drawn = perf_counter()

            while not run.finished:
                run.epoch(advance)
            seconds, images = run.progress[-1]
            show(i, seconds, images, f"{seconds:.1f} s in all")


def position(run: Training, seconds: float) -> int:
    """The number of images after so many seconds of training."""
    return run.progress[bisect_right(run.progress, seconds, key=lambda point: point[0]) - 1][1]


def table(runs: Sequence[Training], times: Sequence[dict[str, float]]) -> Table:
    """Where the time of a step goes, and the results."""
    args = runs[0].args
    shape = "-".join(map(str, [64, *args.hidden, 10]))
    title = f"{shape} with BatchNorm · AdamW · batches of {args.batch_size} · float32"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("median of a training step")
    for run in runs:
        result.add_column(run.backend.name, justify="right")
    for part in (*PARTS, "whole step"):
        cells = [f"{time[part] * 1e6:,.0f} µs" for time in times]
        result.add_row(part, *cells, end_section=part in (PARTS[-1], "whole step"))
    for name, cells in {
        "whole training": [f"{run.history[-1].seconds:.2f} s" for run in runs],
        "images per second": [f"{run.progress[-1][1] / run.progress[-1][0]:,.0f}" for run in runs],
        "epochs": [str(len(run.history)) for run in runs],
        "best validation loss": [f"{run.best.valid_loss:.4f}" for run in runs],
        "test accuracy": [f"{run.best.test_accuracy:.2%}" for run in runs],
    }.items():
        result.add_row(name, *cells)
    return result


def verdict(times: Sequence[dict[str, float]]) -> str:
    """The speed-ups and their limits in two sentences."""
    first, numpy, fast = times
    products = fast["matrix products"]
    ratios, limits = ([time["whole step"] / by for time in (first, numpy)] for by in (fast["whole step"], products))
    return (
        f"fastopt's step is {ratios[0]:.1f} times as fast as NumPy's as first written, and {ratios[1]:.1f} times as fast as NumPy's "
        f"in place. The matrix products, which are the same NumPy in all three, are {products / fast['whole step']:.0%} of it: if all "
        f"else took no time, it would be {limits[0]:.1f} and {limits[1]:.1f} times."
    )


def draw(path: Path, runs: Sequence[Training], times: Sequence[dict[str, float]]) -> None:
    """Loss curves against the time of training, and where the time of a step goes."""
    with picture(path, 2, size=(10, 3.8), width_ratios=[1, 1.15]) as (curves, bars):
        for run, color in zip(runs, COLORS, strict=True):
            seconds, loss = [e.seconds for e in run.history], [e.valid_loss for e in run.history]
            curves.plot(seconds, loss, color=color, label=f"{run.backend.name}, {seconds[-1]:.1f} s", linewidth=2)
        curves.set(title="The same learning, sooner", xlabel="seconds of training", ylabel="validation loss")
        curves.set_yscale("log")
        curves.set_xlim(left=0)
        curves.margins(x=0.1)
        curves.legend()

        for row, time in enumerate(times):
            left = 0.0
            for part, color in zip(PARTS, (GREY, BLUE, ORANGE, FAINT), strict=True):
                bars.barh(row, time[part] * 1e6, left=left, height=0.5, color=color, label=part if row == 0 else None)
                left += time[part] * 1e6
            bars.annotate(f"{left:,.0f} µs", (left, row), (6, 0), textcoords="offset points", va="center")
        ratios = [time["whole step"] / times[-1]["whole step"] for time in times[:-1]]
        bars.set(title=f"A step: {ratios[0]:.1f}× and {ratios[1]:.1f}× as fast", xlabel="µs, median")
        bars.locator_params(axis="x", nbins=5)
        bars.set_yticks(range(len(runs)), [run.backend.name.replace("NumPy ", "NumPy\n") for run in runs])
        bars.set_ylim(len(runs) + 0.3, -0.5)
        bars.margins(x=0.22)
        bars.grid(axis="y", visible=False)
        bars.legend(ncols=2, loc="lower right")
