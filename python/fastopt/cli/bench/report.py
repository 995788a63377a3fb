"""Reports the results as tables, as a page in Markdown, as JSON, and as a picture."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .case import Result
from .peers import onednn

COLORS = {
    "fastopt": "#d9480f",
    "float32": "#f59f00",
    "numpy": "#4dabf7",
    "torch": "#845ef7",
    "torch default": "#b197fc",
    "onednn": "#0ca678",
    "plain": "#868e96",
    "one tensor": "#adb5bd",
    "separate": "#fab005",
    "moved": "#ced4da",
    "floor": "#495057",
}
FLOORS = ("floor", "moved")
LIBRARIES = ("numpy", "torch", "onednn")

LEGEND = """Times are in µs, {quantile} of the runs of a case, in which all candidates take turns in one process. *×* is another candidate's
time divided by fastopt's: below 1, fastopt is slower. It is the median of the ratios of single turns, so it may differ a little from the
ratio of the times beside it.

| | |
|---|---|
| floor | a kernel that moves the same bytes and computes nothing |
| moved | a floor for normalizations: it reads all of its input before it writes the first result |
| reached | the floor's time divided by fastopt's |
| numpy, torch, onednn | other libraries; torch with its fused kernel where there is one |
| torch default | torch without options |
| float32 | fastopt's own step with everything in float32 |
| plain | fastopt's own step without the option of the row |
| one tensor | fastopt's own step with all numbers in one tensor |
| separate | fastopt's own functions, one after the other instead of fused |
| bytes × | the bytes that a candidate moves, divided by those that fastopt moves |
| gained | the time that is saved, divided by the time that the saved bytes would take; above 100 %, more than the bytes are saved |
| in turn ÷ sum | the time of a product and a kernel in turn, divided by the sum of the times that each takes alone |"""

DISTURBED = 200  # interruptions a second; a quiet machine has some 60

TITLES = {
    "AdamW.step()": "AdamW, step() of whole models",
    "alternating": "A NumPy product 256×512×512 and a kernel, alone and in turn",
    "format": "AdamW in fewer bytes",
    "fused": "Fused with a normalization, and the same in separate steps",
    "rule": "A step of each rule",
    "overhead": "Many tensors in one step",
    "clip, step, zero": "Clipping, AdamW and zeroing in one step",
    "dead": "AdamW after the gradients have died: the first hundred steps and the last",
}


def by_group(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each group, in the order in which groups appear."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return groups


# Tables ---------------------------------------------------------------------------------------------------------------


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:,.{1 if seconds < 1e-4 else 0}f}"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"[{'green' if ratio >= 1 else 'red'}]{ratio:.{2 if ratio < 10 else 0}f}×[/]"


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.0%}"


def _race_rows(results: Sequence[Result]) -> list[list[str]]:
    """A table of races: the headings, then a row for each result."""
    found = {candidate for result in results for candidate in result.columns}
    others = [candidate for candidate in COLORS if candidate in found - {"fastopt", *FLOORS}]
    moving_others = {other for other in others if any(result.ratio_of_bytes(other) for result in results)}
    floors = [name for name in FLOORS if name == "floor" or name in found]
    headings = ["", "fastopt", "GB/s", *(heading for name in floors for heading in (name, "reached"))]
    for other in others:
        headings += [other, "×", *["bytes ×"] * (other in moving_others), *["gained"] * (other == "separate")]
    rows = [headings]
    for result in results:
        cells = [result.label, _microseconds(result.seconds("fastopt")), f"{_gigabytes(result, 'fastopt'):.1f}"]
        for name in floors:
            cells += [_microseconds(result.seconds(name)), _percent(result.ratio(name))]
        for other in others:
            cells += [_microseconds(result.seconds(other)), _times(result.ratio(other))]
            if other in moving_others:
                cells.append(_times(result.ratio_of_bytes(other)))
            if other == "separate":
                cells.append(_percent(gained(result)))
        rows.append(cells)
    return rows


def gained(result: Result) -> float | None:
    """The saved time over the time that the saved bytes promise, against the separate steps."""
    time, moved = result.ratio("separate"), result.ratio_of_bytes("separate")
    return (1 - 1 / time) / (1 - 1 / moved) if time and moved else None


def _loop_rows(results: Sequence[Result]) -> list[list[str]]:
    rows = [["", "", *next(iter(results[0].columns.values()))]]
    for result in results:
        label = result.label
        for candidate, columns in result.columns.items():
            cells = [f"{value:.2f}" if "÷" in name else _microseconds(value) for name, value in columns.items()]
            rows.append([label, candidate, *cells])
            label = ""
    return rows


def _rows(results: Sequence[Result]) -> list[list[str]]:
    return (_race_rows if results[0].is_race else _loop_rows)(results)


def _table(headings: Sequence[str], *rows: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def behind(results: Iterable[Result], candidate: str) -> list[str]:
    """The cases in which the candidate was faster than fastopt, by half a percent at least."""
    return [f"{r.name} ({r.ratio(candidate):.2f}×)" for r in results if (r.ratio(candidate) or 1.0) < 0.995]


def against_the_best(results: Iterable[Result]) -> list[float]:
    """For every normalization with other libraries: the time of the fastest of these over fastopt's."""
    races = (result for result in results if result.group.endswith(("Norm forward", "Norm backward")))
    best = (min(filter(None, map(race.ratio, LIBRARIES)), default=0.0) for race in races)
    return [ratio for ratio in best if ratio]


def _summary(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What the tables say as a whole, and where fastopt loses: a heading and a text each."""
    said = []
    if len(ratios := against_the_best(results)) > 1:
        mean = _times(geometric_mean(ratios))
        said.append((f"{len(ratios)} normalizations, geometric mean against the fastest peer:", mean))
    for candidate in LIBRARIES:
        if cases := behind(results, candidate):
            said.append((f"{candidate} was faster in:", "; ".join(cases)))
    if doubtful := [result.name for result in results if result.interruptions > DISTURBED]:
        said.append(("other processes disturbed:", "; ".join(doubtful)))
    return said


def described(where: dict[str, Any]) -> str:
    """The machine and the settings in one line."""
    return ", ".join(f"{name} {value}" for name, value in where.items() if value is not None)


def print_tables(console: Console, results: Sequence[Result]) -> None:
    for group, members in by_group(results).items():
        console.print(f"[bold]{TITLES.get(group, group)}[/] (µs)", highlight=False)
        console.print(_table(*_rows(members)))
    for heading, text in _summary(results):
        console.print(f"[bold]{heading}[/] {text}", highlight=False)


# Markdown -------------------------------------------------------------------------------------------------------------


def _markdown_table(headings: Sequence[str], *rows: Sequence[str]) -> str:
    lines = [headings, ["---:" if heading else "---" for heading in headings], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_markdown(path: Path, results: Sequence[Result], where: dict[str, Any], command: str) -> None:
    """Writes a page: the machine, the command, what was lost, and all tables.  Columns are explained once, at the top."""
    fence = "``" if "`" in command else "`"
    quantile = "medians" if where["quantile"] == 0.5 else f"the quantile {where['quantile']:g}"
    parts = [
        "# Benchmarks",
        f"Made by {fence}{command}{fence}.",
        f"Where: {described(where)}.",
        LEGEND.format(quantile=quantile),
    ]
    parts += [f"**{heading}** {text}" for heading, text in _summary(results)]
    for group, members in by_group(results).items():
        parts += [f"## {TITLES.get(group, group)}", _markdown_table(*_rows(members))]
    text = "\n\n".join(parts) + "\n"
    path.write_text(re.sub(r"\[(?:red|green|/)\]", "", text), encoding="utf-8")


# JSON -----------------------------------------------------------------------------------------------------------------


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(**settings: Any) -> dict[str, Any]:
    """The machine and the settings of the measurement."""
    versions = {package: _version(package) for package in ("fastopt", "numpy", "torch")}
    versions["onednn"] = getattr(onednn(), "__version__", None)
    return {"processor": _processor(), "python": platform.python_version(), **versions, **settings}


def write_json(path: Path, results: Sequence[Result], where: dict[str, Any]) -> None:
    path.write_text(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=2) + "\n")


# Picture --------------------------------------------------------------------------------------------------------------


def _gigabytes(result: Result, candidate: str) -> float:
    seconds = result.seconds(candidate)
    return result.bytes / seconds / 1e9 if seconds else float("nan")


def _is_by_size(results: Sequence[Result]) -> bool:
    return all(result.label.startswith("2^") for result in results)


def _draw_lines(axes: Any, results: Sequence[Result], candidates: Sequence[str]) -> None:
    powers = [int(result.label.partition("2^")[2]) for result in results]
    for candidate in candidates:
        style = {"linestyle": "--"} if candidate == "floor" else {"marker": "o", "markersize": 4}
        axes.plot(
            powers, [_gigabytes(r, candidate) for r in results], label=candidate, color=COLORS[candidate], **style
        )
    axes.set_xticks(powers, [f"$2^{{{power}}}$" for power in powers])
    axes.set_xlabel("parameters")
    axes.set_ylabel("GB/s")
    axes.set_ylim(bottom=0)


def _draw_bars(axes: Any, results: Sequence[Result], candidates: Sequence[str]) -> None:
    bars = [candidate for candidate in candidates if candidate not in FLOORS]
    height = 0.8 / len(bars)
    for i, candidate in enumerate(bars):
        places = [row + (i - (len(bars) - 1) / 2) * height for row in range(len(results))]
        shares = [_gigabytes(r, candidate) / _gigabytes(r, "floor") for r in results]
        axes.barh(places, shares, height, label=candidate, color=COLORS[candidate])
    axes.axvline(1, linestyle="--", label="floor", color=COLORS["floor"])
    axes.set_yticks(range(len(results)), [result.label for result in results])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("of the floor's speed")


def write_plot(path: Path, results: Sequence[Result], where: dict[str, Any]) -> None:
    """Draws a panel per group: GB/s by size with those of the floor, or the share of the floor's speed."""
    from matplotlib.figure import Figure

    groups = by_group(result for result in results if result.is_race)
    columns = min(3, max(1, len(groups)))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(5.5 * columns, 4.0 * max(1, rows)), layout="constrained")
    for index, (group, members) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, index + 1, title=TITLES.get(group, group))
        candidates = [candidate for candidate in COLORS if any(candidate in result.columns for result in members)]
        (_draw_lines if _is_by_size(members) else _draw_bars)(axes, members, candidates)
        axes.spines[["top", "right"]].set_visible(False)
    legend = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(COLORS))
    figure.suptitle(f"{where['processor']}, {where['threads']} threads, {where['dtype']}")
    figure.savefig(path, dpi=120)
