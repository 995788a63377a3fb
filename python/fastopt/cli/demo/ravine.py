"""``fastopt demo ravine``: the paths of ten methods from one point, on well-known surfaces.

Each loss is a mean over samples.  All methods take the gradient of all samples, except the two whose names say that they take
one or a few.  The samples of the ravine and of the saddle contradict one another, so that those two methods jitter about the
minimum; Beale's three samples agree there, and the noise fades.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from fastopt import optim

from .network import Array
from .picture import GREY, INK, STYLE, heading

NEAR = 0.01  # distance from its minimum below which a loss has arrived
FLOOR = 1e-6  # the smallest loss in the picture
SHADES = [str(grey) for grey in np.linspace(0.78, 0.99, 11)]  # greys of the contours, from the lowest one


class Surface:
    """A loss of two weights, and the window in which it is drawn."""

    name: str
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    window: tuple[float, float, float, float]  # left, right, bottom, top
    samples: int
    few: int  # number of samples in a mini-batch

    def height(self, p: Array) -> Array:
        """The loss above its minimum at the points (..., 2)."""
        raise NotImplementedError

    def gradient(self, p: Array, rows: Array) -> Array:
        """The mean over the samples ``rows`` of the gradients of their losses."""
        raise NotImplementedError


class Ravine(Surface):
    """Least squares, ½(xᵀp − y)², with features that spread seven times as far in one direction: curvatures 5 and 0.1.

    The samples' covariance is exact, and their noise orthogonal to it, so that the surface is the same for every seed.
    """

    name = "Ravine"
    start = (-4.12, -0.25)
    minima = ((0.0, 0.0),)
    window = (-4.7, 1.2, -2.2, 0.9)
    samples, few = 128, 16

    def __init__(self, rng: np.random.Generator) -> None:
        white, _ = np.linalg.qr(rng.standard_normal((self.samples, 3)))
        white *= np.sqrt(self.samples)
        turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
        self.x = white[:, :2] * np.sqrt([0.1, 5.0]) @ turn
        self.y = 0.5 * white[:, 2]
        self.hessian = self.x.T @ self.x / self.samples

    def height(self, p: Array) -> Array:
        height: Array = 0.5 * np.sum(p @ self.hessian * p, axis=-1)
        return height

    def gradient(self, p: Array, rows: Array) -> Array:
        gradient: Array = (self.x[rows] @ p - self.y[rows]) @ self.x[rows] / len(rows)
        return gradient


class Saddle(Surface):
    """½x² + ¼(y² − 1)², tilted in another direction by every sample; the start is close to the line into the saddle at (0, 0)."""

    name = "Saddle"
    start = (-1.8, 0.002)
    minima = ((0.0, 1.0), (0.0, -1.0))
    window = (-2.1, 1.1, -1.6, 1.6)
    samples, few = 128, 16

    def __init__(self, rng: np.random.Generator) -> None:
        self.tilt = 0.4 * rng.standard_normal((self.samples, 2))
        self.tilt -= np.mean(self.tilt, axis=0)

    def height(self, p: Array) -> Array:
        height: Array = 0.5 * p[..., 0] ** 2 + 0.25 * (p[..., 1] ** 2 - 1) ** 2
        return height

    def gradient(self, p: Array, rows: Array) -> Array:
        x, y = p
        gradient: Array = np.array([x, y**3 - y]) + np.mean(self.tilt[rows], axis=0)
        return gradient


class Beale(Surface):
    """(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²: a model with two weights and three samples."""

    name = "Beale's function"
    start = (0.7, 1.4)
    minima = ((3.0, 0.5),)
    window = (-0.3, 4.1, -1.4, 1.8)
    samples, few = 3, 2
    power, target = np.arange(1, 4), np.array([1.5, 2.25, 2.625])

    def height(self, p: Array) -> Array:
        x, y = p[..., :1], p[..., 1:]
        height: Array = np.sum((self.target - x + x * y**self.power) ** 2, axis=-1)
        return height

    def gradient(self, p: Array, rows: Array) -> Array:
        (x, y), power = p, self.power[rows]
        error = self.target[rows] - x + x * y**power
        return 6 * np.array([np.mean(error * (y**power - 1)), np.mean(error * x * power * y ** (power - 1))])


@dataclass(frozen=True)
class Method:
    """An optimizer with its learning rate on each surface, and the number of samples in a gradient."""

    name: str
    color: str
    optimizer: Callable[..., optim.Optimizer]
    rates: dict[str, float]
    samples: str = "all"
    width: float = 1.4  # width of its path; wider where another path may cover it


def rates(ravine: float, saddle: float, beale: float) -> dict[str, float]:
    """Learning rates by the names of the surfaces."""
    return {"Ravine": ravine, "Saddle": saddle, "Beale's function": beale}


MEASURE = Method("gradient descent", INK, optim.SGD, rates(0.37, 0.1, 0.02))

# Three families, each with the sentence over its pictures.
FAMILIES = {
    "Gradient descent zig-zags down a ravine and waits at a saddle; fewer samples a step, more noise": [
        Method("single-sample SGD", "#e69f00", optim.SGD, rates(0.08, 0.1, 0.02), "one"),
        Method("mini-batch SGD", "#56b4e9", optim.SGD, rates(0.2, 0.1, 0.02), "few"),
        MEASURE,
    ],
    "Momentum is fast because it keeps going, and overshoots; Nesterov looks ahead and does so less": [
        Method("momentum", "#0072b2", partial(optim.SGD, momentum=0.9), rates(0.1, 0.05, 0.004)),
        Method("Nesterov", "#d55e00", partial(optim.SGD, momentum=0.9, nesterov=True), rates(0.1, 0.05, 0.004)),
    ],
    "With a rate for every weight no saddle delays; Adagrad slows down, RMSprop keeps bouncing": [
        Method("Adagrad", "#009e73", optim.Adagrad, rates(0.5, 0.15, 0.5), width=3.4),
        Method("RMSprop", "#cc79a7", partial(optim.RMSprop, alpha=0.9), rates(0.05, 0.05, 0.05), width=2),
        Method("Adadelta", "#b8a000", partial(optim.Adadelta, rho=0.95, eps=3e-4), rates(1.0, 1.0, 1.0)),
        Method("Adam", "#882255", optim.Adam, rates(0.3, 0.1, 0.2)),
        Method("Adam, then SGD", "#7b3fe4", partial(optim.SwitchOptimizer, switch_at=25), rates(0.3, 0.1, 0.2)),
    ],
}
METHODS = [method for family in FAMILIES.values() for method in family]


class Walk(NamedTuple):
    """The path of a method on a surface."""

    points: Array  # (steps + 1, 2), from the start
    heights: Array  # (steps + 1,)
    switch: int  # the steps before a SwitchOptimizer changed its rule, otherwise 0

    @property
    def arrival(self) -> int | None:
        """The first step that ends near the minimum."""
        near = np.flatnonzero(self.heights <= NEAR)
        return int(near[0]) if len(near) else None


def walk(method: Method, surface: Surface, steps: int, rng: np.random.Generator) -> Walk:
    """Takes ``steps`` steps of a method from the surface's start."""
    p = np.array(surface.start)
    optimizer = method.optimizer([p], lr=method.rates[surface.name])
    size = {"all": surface.samples, "few": surface.few, "one": 1}[method.samples]
    points, switch = [p.copy()], 0
    for step in range(1, steps + 1):
        rows = rng.choice(surface.samples, size, replace=False)
        optimizer.step([surface.gradient(p, np.sort(rows))])
        points.append(p.copy())
        if not switch and getattr(optimizer, "switched", False):
            switch = step
    return Walk(np.array(points), surface.height(np.array(points)), switch)


Walks = dict[tuple[str, str], Walk]


def main(args: argparse.Namespace) -> int:
    """Run every method on every surface, print the final losses, draw the paths."""
    surfaces: list[Surface] = [
        Ravine(np.random.default_rng(args.seed)),
        Saddle(np.random.default_rng(args.seed)),
        Beale(),
    ]
    walks = {
        (method.name, surface.name): walk(method, surface, args.steps, np.random.default_rng([args.seed, 1]))
        for method in METHODS
        for surface in surfaces
    }
    console = Console()
    console.print(table(surfaces, walks))
    if args.output is not None:
        draw(args.output, surfaces, walks)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def table(surfaces: Sequence[Surface], walks: Walks) -> Table:
    """For every method and surface, the final loss and the number of steps to get near the minimum."""
    steps = len(next(iter(walks.values())).heights) - 1
    title = f"The loss above its minimum after {steps} steps · steps to {NEAR}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("from one start")
    for surface in surfaces:
        result.add_column(surface.name.partition("'")[0], justify="right")
        result.add_column("steps", justify="right")
    for family in FAMILIES.values():
        for method in family:
            cells = []
            for surface in surfaces:
                one = walks[method.name, surface.name]
                cells += [f"{one.heights[-1]:.1e}", "–" if one.arrival is None else str(one.arrival)]
            result.add_row(method.name, *cells, end_section=method is family[-1])
    return result


def draw(path: Path, surfaces: Sequence[Surface], walks: Walks) -> None:
    """Draws the paths of each family over the contours, and the losses below them."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 13.5), layout="constrained")
        rows: Any = figure.subfigures(len(FAMILIES), 1, hspace=0.04)
        for row, (title, family) in zip(rows, FAMILIES.items(), strict=True):
            maps, curves = row.subplots(2, len(surfaces), height_ratios=[1.4, 1])
            for over, under, surface in zip(maps, curves, surfaces, strict=True):
                contours(over, surface)
                if MEASURE not in family:
                    heights = walks[MEASURE.name, surface.name].heights
                    under.plot(heights, ":", color=MEASURE.color, linewidth=1, label=MEASURE.name)
                for method in family:
                    one = walks[method.name, surface.name]
                    style: dict[str, Any] = {"color": method.color, "linewidth": 1.4}
                    if one.switch:  # until there the line is Adam's
                        style |= {"linestyle": (0, (3, 1)), "marker": "D", "markersize": 5, "markevery": [0]}
                    steps = np.arange(one.switch, len(one.heights))
                    over.plot(*one.points[one.switch :].T, **style | {"linewidth": method.width})
                    under.plot(steps, one.heights[one.switch :], label=method.name, **style)
                under.set(yscale="log", xlim=(0, len(one.heights) - 1), ylim=(FLOOR, 60), xlabel="step")
            curves[0].set_ylabel("excess loss")
            marks = maps[0].get_legend_handles_labels()[0] if MEASURE in family else []
            handles = [*curves[0].get_legend_handles_labels()[0], *marks]
            heading(row, title, handles, ncols=8, columnspacing=1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def contours(ax: Any, surface: Surface) -> None:
    """Draws the surface from above, its start and its minima."""
    left, right, bottom, top = surface.window
    grid = np.stack(np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200)), axis=-1)
    height = surface.height(grid)
    levels = np.geomspace(NEAR, height.max(), 11)
    x, y = grid[..., 0], grid[..., 1]
    ax.contourf(x, y, height, [0, *levels], colors=SHADES)
    ax.contour(x, y, height, levels, colors=GREY, linewidths=0.5)
    mark: dict[str, Any] = {"color": "white", "markeredgecolor": INK, "linestyle": "none", "zorder": 3}
    ax.plot(*surface.start, marker="o", label="start", **mark)
    ax.plot(*zip(*surface.minima, strict=True), marker="*", markersize=12, label="minimum", **mark)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_title(surface.name, fontsize=10, fontweight="normal", pad=4)
    ax.grid(False)
