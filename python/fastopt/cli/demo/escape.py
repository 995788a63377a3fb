"""``fastopt demo escape``: how to leave a saddle and a local minimum.

Someone knows the distances to seven beacons along a road that bends, and looks for the place with least squares.  The loss is
zero at the place.  Its mirror image on the other side of the road is a local minimum, and between them, near the road, there
is a saddle.  Every beacon is one sample.  All methods take the same number of steps from the same starts.

Single-sample gradients differ at the mirror image, where no beacon's distance fits, and they agree at the place, where all
distances fit: their noise drives a walk out of the one minimum and vanishes at the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastopt import optim

from .picture import BLUE, GREY, INK, ORANGE, STYLE, heading

Array = NDArray[Any]

NEAR = 0.3  # the distance from a minimum at which a walk has arrived
TOLERANCE = 1e-6  # gradient descent stops where the gradient's norm is less
BELOW = 0.02  # a walk has left the saddle when its loss is less than the saddle's by this
WINDOW = (-3.0, 3.0, -2.5, 3.5)  # left, right, bottom, top
SHOWN = (-2.6, -1.9)  # the start of the paths in the picture
SHADES = [str(grey) for grey in np.linspace(0.78, 0.99, 11)]  # greys of the contours, from the lowest one


class Beacons:
    """½·mean over the beacons of (distance to the beacon − measured distance)², without errors of measurement."""

    place = np.array([0.5, 1.2])

    def __init__(self) -> None:
        x = np.linspace(-2, 2, 7)
        self.beacons = np.stack([x, 0.3 * x**2], axis=1)
        self.measured = np.linalg.norm(self.place - self.beacons, axis=1)

    def height(self, p: Array) -> Array:
        """The loss at the points (..., 2)."""
        distance = np.linalg.norm(p[..., None, :] - self.beacons, axis=-1)
        height: Array = 0.5 * np.mean((distance - self.measured) ** 2, axis=-1)
        return height

    def gradient(self, p: Array, rows: Array | None = None) -> Array:
        """The gradients at the points (..., 2), of all beacons or of those with the numbers ``rows`` (..., n)."""
        beacons, measured = (self.beacons, self.measured) if rows is None else (self.beacons[rows], self.measured[rows])
        away = p[..., None, :] - beacons
        gradient: Array = np.mean((1 - measured / np.linalg.norm(away, axis=-1))[..., None] * away, axis=-2)
        return gradient

    def hessian(self, p: Array) -> Array:
        """The second derivatives at one point (2,)."""
        away = p - self.beacons
        distance = np.linalg.norm(away, axis=1)
        ratio = self.measured / distance
        turned = np.einsum("ni,nj->nij", away, away) / (distance**2)[:, None, None]
        hessian: Array = np.mean((1 - ratio)[:, None, None] * np.eye(2) + ratio[:, None, None] * turned, axis=0)
        return hessian

    @cached_property
    def ridge(self) -> Array:
        """A start at the left edge from which gradient descent runs into the saddle: the bound between the two basins.

        Every round tries 32 heights, until the lowest from which descent arrives is next to one from which it does not.
        """
        left, _, below, above = WINDOW
        for _ in range(12):
            starts = np.stack(np.broadcast_arrays(left, np.linspace(below, above, 32)), axis=1)
            first = np.argmax(self.arrived(walk(METHODS[0], self, starts, 200, seed=0).ends))
            below, above = starts[first - 1 : first + 1, 1]
        return np.array([left, below])

    def arrived(self, p: Array) -> Array:
        """Whether the points (..., 2) are near the place."""
        arrived: Array = np.linalg.norm(p - self.place, axis=-1) < NEAR
        return arrived


@dataclass(frozen=True)
class Method:
    """An optimizer, and what it is given beside gradients."""

    name: str
    verdict: str  # title of its picture
    optimizer: Callable[..., optim.Optimizer]
    samples: int = 7  # beacons in a gradient
    temperature: Callable[[float], float] | None = None  # of the part of the steps that is done
    runs: int = 1  # from other starts, of which the best one counts
    color: str = INK


METHODS = [
    Method("gradient descent", "stays in its basin", partial(optim.SGD, lr=0.3)),
    Method("momentum", "rolls over a low ridge", partial(optim.SGD, lr=0.1, momentum=0.95), color="#0072b2"),
    Method("single samples", "no noise where all samples fit", partial(optim.SGD, lr=0.6), samples=1, color="#e69f00"),
    Method(
        "constant temperature",
        "leaves, never settles",
        partial(optim.SGD, lr=0.3),
        temperature=lambda done: 0.05,
        color="#cc79a7",
    ),
    Method(
        "annealed temperature",
        "leaves, then settles",
        partial(optim.SGD, lr=0.3),
        temperature=lambda done: 0.1 * (1 - done),
        color="#d55e00",
    ),
    Method("eight restarts", "the best of eight", partial(optim.SGD, lr=0.3), runs=8, color="#009e73"),
]


class Walks(NamedTuple):
    """The paths of a method from several starts."""

    points: Array  # (steps + 1, starts, 2); with restarts, one run behind the other
    ends: Array  # (starts, 2); with restarts, those of the best runs


def walk(method: Method, surface: Beacons, starts: Array, steps: int, *, seed: int) -> Walks:
    """Takes ``steps`` steps of a method from each of the starts (n, 2), independently of one another."""
    rng = np.random.default_rng([seed, 1])
    left, right, bottom, top = WINDOW
    others = rng.uniform((left, bottom), (right, top), (method.runs - 1, *starts.shape))
    p = np.concatenate([starts[None], others])  # (runs, starts, 2)
    options = {} if method.temperature is None else {"seed": seed}
    optimizer = method.optimizer([p], **options)
    each = max(1, steps // method.runs)
    points = [p.copy()]
    for step in range(each):
        if method.temperature is not None:
            optimizer.param_groups[0]["temperature"] = method.temperature(step / each)
        few = method.samples < len(surface.beacons)
        rows = rng.integers(len(surface.beacons), size=(*p.shape[:-1], method.samples)) if few else None
        optimizer.step([surface.gradient(p, rows)])
        points.append(p.copy())
    best = np.argmin(surface.height(p), axis=0)
    return Walks(np.concatenate(list(np.stack(points, axis=1))), p[best, np.arange(len(starts))])


class Result(NamedTuple):
    """What a method does from all starts, from the ridge and from the start of the picture."""

    method: Method
    walks: Walks
    from_ridge: Array  # (steps + 1,), the losses
    shown: Array  # (steps + 1, 2)


class Stop(NamedTuple):
    """A point at which the gradient is zero, with the eigenvalues of its Hessian in increasing order."""

    point: Array
    values: Array
    vectors: Array  # in columns

    @property
    def kind(self) -> str:
        """What the signs of the eigenvalues say."""
        return "minimum" if np.all(self.values > 0) else "maximum" if np.all(self.values < 0) else "saddle"


def descend(surface: Beacons, start: Array) -> tuple[Stop, int]:
    """Gradient descent with a rule for stopping, and the number of its steps."""
    p, steps = start.copy(), 0
    optimizer = METHODS[0].optimizer([p])
    while np.linalg.norm(gradient := surface.gradient(p)) > TOLERANCE and steps < 10_000:
        optimizer.step([gradient])
        steps += 1
    return Stop(p, *np.linalg.eigh(surface.hessian(p))), steps


def main(args: argparse.Namespace) -> int:
    """Run every method from all starts, print where they end and where gradient descent stops, draw both."""
    surface = Beacons()
    left, right, bottom, top = WINDOW
    starts = np.random.default_rng(args.seed).uniform((left, bottom), (right, top), (args.starts, 2))
    results = []
    for method in METHODS:
        go = partial(walk, method, surface, steps=args.steps, seed=args.seed)
        from_ridge = surface.height(go(starts=surface.ridge[None]).points[:, 0])
        results.append(Result(method, go(starts=starts), from_ridge, go(starts=np.array([SHOWN])).points[:, 0]))
    stops = [descend(surface, np.array(start)) for start in ((1.0, 3.0), SHOWN, surface.ridge)]
    console = Console()
    console.print(table(surface, results, stops[-1][0]))
    console.print(table_of_stops(surface, stops))
    if args.output is not None:
        draw(args.output, surface, results, stops)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def first(true: Array) -> str:
    """The first number of a row that is true, for the table."""
    return str(np.argmax(true)) if np.any(true) else "–"


def table(surface: Beacons, results: Sequence[Result], saddle: Stop) -> Table:
    """The share of starts that end near the place, what it takes, and how long a walk stays at the saddle."""
    steps, starts = len(results[0].from_ridge) - 1, len(results[0].walks.ends)
    title = f"A place from its distances to {len(surface.beacons)} beacons · {starts} starts · {steps} steps each"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("method")
    for name in ("steps", "end at\nthe place", "there\nafter", "beacons\nread", "off the\nsaddle after"):
        result.add_column(name, justify="right")
    for method, walks, from_ridge, _ in results:
        arrived = surface.arrived(walks.ends)
        arrivals = np.argmax(surface.arrived(walks.points[:, arrived]), axis=0)
        taken = len(walks.points) - method.runs
        result.add_row(
            method.name,
            str(taken) if method.runs == 1 else f"{method.runs} × {taken // method.runs}",
            f"{np.mean(arrived):.0%}",
            f"{np.median(arrivals):.0f}" if np.any(arrived) else "–",
            f"{taken * method.samples:,}",
            first(from_ridge < surface.height(saddle.point) - BELOW),
        )
    return result


def table_of_stops(surface: Beacons, stops: Sequence[tuple[Stop, int]]) -> Table:
    """The points where gradient descent stops, which only the Hessian tells apart."""
    title = f"Where gradient descent stops: the gradient's norm is below {TOLERANCE:g}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("point")
    for column in ("after", "loss", "eigenvalues of the Hessian"):
        result.add_column(column, justify="right")
    result.add_column("so it is a")
    for stop, steps in stops:
        x, y = stop.point
        values = ", ".join(f"{value:+.2f}" for value in stop.values)
        height = f"{surface.height(stop.point):.3f}"
        result.add_row(f"({x:.2f}, {y:.2f})", f"{steps} steps", height, values, stop.kind)
    return result


def draw(path: Path, surface: Beacons, results: Sequence[Result], stops: Sequence[tuple[Stop, int]]) -> None:
    """Draws one path of every method among all starts, the points where descent stops, and the losses from the ridge."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 9.9), layout="constrained")
        both: Any = figure.subfigures(2, 1, height_ratios=[2, 1.02], hspace=0.02)
        upper, lower = both
        for ax, (method, walks, _, shown) in zip(upper.subplots(2, 3).ravel(), results, strict=True):
            contours(ax, surface)
            arrived = surface.arrived(walks.ends)
            dot: dict[str, Any] = {"s": 9, "linewidths": 0}
            good = ax.scatter(*walks.points[0, arrived].T, color=BLUE, label="starts that end at the place", **dot)
            bad = ax.scatter(*walks.points[0, ~arrived].T, color=ORANGE, label="starts that do not", **dot)
            length = len(shown) // method.runs
            for one in shown.reshape(method.runs, length, 2):
                (line,) = ax.plot(*one.T, color=INK, linewidth=1, label="one path")
                (begin,) = ax.plot(*one[0], "o", color="white", markeredgecolor=INK, markersize=5, label="its start")
            ax.set_title(f"{method.name.capitalize()}: {np.mean(arrived):.0%}\n{method.verdict}", fontsize=10, pad=5)
        title = "The share of starts that end at the place (white star) and not at its mirror image"
        handles = [good, bad, line, begin, *ax.get_legend_handles_labels()[0][:2]]
        heading(upper, title, handles, ncols=6, columnspacing=1.2, handletextpad=0.5)
        left, right = lower.subplots(1, 2, width_ratios=[1, 1.6])
        contours(left, surface)
        left.set(xlim=(-1.25, 2.25), ylim=(-1.2, 2.1))
        for (stop, _), (x, y) in zip(stops, ((-0.35, 1.6), (1.7, -0.8), (-0.6, 0.62)), strict=True):
            mark_stop(left, stop, x, y)
        left.set_title("Where the gradient is zero:\neigenvalues of the Hessian", fontsize=10, pad=5)
        (saddle, steps) = stops[-1]
        for method, _, from_ridge, _ in results:
            if method.name != "constant temperature" and method.runs == 1:
                right.plot(from_ridge, color=method.color, linewidth=1.4, label=method.name)
        height = surface.height(saddle.point)
        right.plot(steps, height, "X", color=INK, markersize=8)
        text, at = f"gradient below {TOLERANCE:g}: a rule\nfor stopping would stop here", (24, 4)
        right.annotate(text, (steps, height), at, arrowprops={"arrowstyle": "-", "color": INK, "shrinkB": 6})
        right.set(yscale="log", xlim=(0, 160), ylim=(1e-3, 60), xlabel="step", ylabel="loss")
        right.set_title(
            "From the ridge: gradient descent waits at the saddle,\nmomentum and noise leave it", fontsize=10, pad=5
        )
        right.legend(loc="upper right", fontsize=9, bbox_to_anchor=(1, 1.03))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def mark_stop(ax: Any, stop: Stop, x: float, y: float) -> None:
    """Writes the eigenvalues of a point at (x, y), and draws their directions: arrows lead downhill, lines go uphill."""
    for value, vector in zip(stop.values, stop.vectors.T, strict=True):
        for end in (stop.point + 0.5 * vector, stop.point - 0.5 * vector):
            if value < 0:
                ax.annotate("", end, stop.point, arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 2})
            else:
                ax.plot(*zip(stop.point, end, strict=True), color=BLUE, linewidth=2)
    values = ", ".join(f"{value:+.2f}" for value in stop.values)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY, "linewidth": 0.5, "pad": 0.25}
    ax.text(x, y, f"{stop.kind}\n{values}", ha="center", va="center", bbox=box)


def contours(ax: Any, surface: Beacons) -> None:
    """Draws the surface from above, its beacons and its minimum."""
    left, right, bottom, top = WINDOW
    grid = np.stack(np.meshgrid(np.linspace(left, right, 150), np.linspace(bottom, top, 150)), axis=-1)
    height, levels = surface.height(grid), np.geomspace(0.01, 4, 11)
    x, y = grid[..., 0], grid[..., 1]
    ax.contourf(x, y, height, [0, *levels], colors=SHADES, extend="max")
    ax.contour(x, y, height, levels, colors=GREY, linewidths=0.5)
    mark: dict[str, Any] = {"linestyle": "none", "markeredgecolor": INK, "zorder": 4}
    ax.plot(*surface.place, "*", color="white", markersize=14, label="the place", **mark)
    ax.plot(*surface.beacons.T, "^", color=INK, markersize=5, label="beacons", **mark)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.grid(False)
