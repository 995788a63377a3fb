"""``fastopt demo regularize``: L1, L2, their sum and decoupled weight decay on a sparse linear regression.

Eight of sixty features matter.  Every penalty is fitted with a range of coefficients at once: one optimizer has a group of
parameters per coefficient.  The fits run until nothing moves.  Then proximal L1 is the lasso, and L2 is ridge regression, with
Adam too.  Decoupled decay is not a penalty but a bound, |weight| ≤ 1/coefficient, within which it does not change least
squares: Xie & Li 2024, arXiv:2404.04454.
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
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from fastopt import optim

from .network import Array
from .picture import GREY, INK, STYLE

FEATURES, REAL = 60, 8
TRAIN, VALID, TEST = 120, 200, 2000
NOISE = 1.0
COEFFICIENTS = np.geomspace(1e-3, 10, 49)


class Samples(NamedTuple):
    """Rows of features with their targets."""

    x: Array
    y: Array

    def error(self, weights: Array) -> Array:
        """The mean squared error for each of the weights (..., features)."""
        error: Array = np.mean((weights @ self.x.T - self.y) ** 2, axis=-1)
        return error


class Data(NamedTuple):
    """y = x·weights + noise, in three parts."""

    weights: Array
    train: Samples
    valid: Samples
    test: Samples

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Data:
        """Eight weights between 1 and 3 in size, the others zero; features and noise are normal."""
        weights = np.zeros(FEATURES)
        signs = np.resize([1, -1], REAL)
        weights[rng.permutation(FEATURES)[:REAL]] = signs * np.linspace(1, 3, REAL)
        parts = []
        for rows in (TRAIN, VALID, TEST):
            x = rng.standard_normal((rows, FEATURES))
            parts.append(Samples(x, x @ weights + NOISE * rng.standard_normal(rows)))
        return cls(weights, *parts)


@dataclass(frozen=True)
class Penalty:
    """An optimizer, and its hyperparameters for a coefficient."""

    name: str
    title: str  # title of its picture
    color: str
    optimizer: Callable[..., optim.Optimizer]
    options: Callable[[float], dict[str, Any]]


PENALTIES = [
    Penalty(
        "L1, subgradient",
        "L1, subgradient: never zero",
        "#e69f00",
        partial(optim.SGD, lr=0.2),
        lambda c: {"l1": c},
    ),
    Penalty(
        "L1, proximal",
        "L1, proximal: exactly zero",
        "#0072b2",
        partial(optim.SGD, lr=0.2),
        lambda c: {"l1": c, "proximal_l1": True},
    ),
    Penalty(
        "elastic net",
        "Elastic net: half L1, half L2",
        "#009e73",
        partial(optim.SGD, lr=0.2),
        lambda c: {"l1": c / 2, "weight_decay": c / 2, "proximal_l1": True},
    ),
    Penalty(
        "L2 (Adam)",
        "L2: small, but never zero",
        "#cc79a7",
        partial(optim.Adam, lr=0.01),
        lambda c: {"weight_decay": c},
    ),
    Penalty(
        "decay (AdamW)",
        "Decoupled: at most 1/coefficient",
        "#d55e00",
        partial(optim.AdamW, lr=0.01),
        lambda c: {"weight_decay": c},
    ),
]


class Fit(NamedTuple):
    """The fitted weights of a penalty, one row per coefficient, and their errors."""

    penalty: Penalty
    weights: Array
    valid_error: Array
    test_error: Array

    @property
    def best(self) -> int:
        """The row with the lowest validation error."""
        return int(np.argmin(self.valid_error))

    def recovers(self, real: Array) -> Array:
        """The coefficients with which exactly the features that matter have weights."""
        return COEFFICIENTS[np.all((self.weights != 0) == real, axis=1)]


def fit(penalty: Penalty, data: Data, *, steps: int) -> Fit:
    """Minimize half the mean squared error for all coefficients at once, from zero, with the gradient of all rows."""
    weights = np.zeros((len(COEFFICIENTS), FEATURES))
    pairs = zip(weights, COEFFICIENTS, strict=True)
    optimizer = penalty.optimizer([{"params": [row], **penalty.options(float(c))} for row, c in pairs])
    x, y = data.train
    gram, moment = x.T @ x / len(x), y @ x / len(x)
    for _ in range(steps):
        optimizer.step(list(weights @ gram - moment))
    return Fit(penalty, weights, data.valid.error(weights), data.test.error(weights))


def main(args: argparse.Namespace) -> int:
    """Fit all penalties, print the results of the best coefficient of each, draw the weights against the coefficient."""
    data = Data.draw(np.random.default_rng(args.seed))
    console = Console()
    fits = [fit(penalty, data, steps=args.steps) for penalty in PENALTIES]
    console.print(table(data, fits))
    if args.output is not None:
        draw(args.output, data, fits)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def table(data: Data, fits: Sequence[Fit]) -> Table:
    """For every penalty with the coefficient that validation chooses, the test error and the features that have weights."""
    title = f"{FEATURES} features, {REAL} of them real, {TRAIN} rows, noise {NOISE:g}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("penalty")
    for heading in (
        "best\ncoefficient",
        "test\nerror",
        "exact\nzeros",
        "kept, real\n+ others",
        "just the real\nfrom – to",
    ):
        result.add_column(heading, justify="right")
    real = data.weights != 0

    def add(name: str, weights: Array, coefficient: str = "", recovers: str = "", **options: Any) -> None:
        kept = weights != 0
        zeros, right, wrong = (np.count_nonzero(chosen) for chosen in (~kept, kept & real, kept & ~real))
        error = f"{data.test.error(weights):.3f}"
        result.add_row(name, coefficient, error, str(zeros), f"{right} + {wrong}", recovers, **options)

    add("none", np.linalg.lstsq(*data.train)[0], end_section=True)
    for one in fits:
        found = one.recovers(real)
        recovers = f"{found[0]:.2g} – {found[-1]:.2g}" if len(found) else "never"
        add(
            one.penalty.name,
            one.weights[one.best],
            f"{COEFFICIENTS[one.best]:.2g}",
            recovers,
            end_section=one is fits[-1],
        )
    add("the true weights", data.weights)
    return result


def draw(path: Path, data: Data, fits: Sequence[Fit]) -> None:
    """Draws every weight against the coefficient, one picture per penalty, and the test errors of all penalties."""
    real = data.weights != 0
    ends, edge = COEFFICIENTS[[0, -1]], 1.35 * np.max(np.abs(data.weights))
    dotted: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        errors = axes[-1]
        for ax, one in zip(axes, fits, strict=False):
            best, color = COEFFICIENTS[one.best], one.penalty.color
            ax.plot(COEFFICIENTS, one.weights[:, ~real], color=GREY, linewidth=0.6)
            ax.plot(COEFFICIENTS, one.weights[:, real], color=color, linewidth=1.6)
            (true,) = ax.plot(np.full(REAL, ends[0]), data.weights[real], "o", color=INK, markersize=4, clip_on=False)
            chosen = ax.axvline(best, **dotted)
            zeros = np.count_nonzero(one.weights[one.best] == 0)
            text = f"best {best:.2g}\n{zeros} zeros\nerror {one.test_error[one.best]:.2f}"
            ax.text(0.98, 0.97, text, ha="right", va="top", transform=ax.transAxes)
            ax.set_title(one.penalty.title, fontsize=10, pad=6)
            ax.set(xscale="log", xlim=ends, ylim=(-edge, edge))
            errors.plot(COEFFICIENTS, one.test_error, color=color, label=one.penalty.name)
            errors.plot(best, one.test_error[one.best], "o", color=color)
        for bound in (1 / COEFFICIENTS, -1 / COEFFICIENTS):
            (box,) = axes[-2].plot(COEFFICIENTS, bound, "--", color=INK, linewidth=1)
        errors.axhline(NOISE**2, **dotted)
        errors.annotate("noise", (ends[0], NOISE**2), (4, 3), textcoords="offset points")
        errors.set(xscale="log", yscale="log", xlim=ends, ylim=(0.8 * NOISE**2, 100))
        errors.set_title("Test error", fontsize=10, pad=6)
        errors.legend(loc="upper left", handlelength=1.2)
        for ax in axes[3:]:
            ax.set_xlabel("coefficient")
        for ax in axes[::3]:
            ax.set_ylabel("weight")
        figure.legend(
            [Line2D([], [], color=INK, linewidth=1.6), Line2D([], [], color=GREY, linewidth=0.6), true, chosen, box],
            ["real features", "others", "true weights", "best in validation", "±1/coefficient"],
            title=f"How {FEATURES} weights, {REAL} of them real, go to zero as the penalty grows",
            title_fontproperties={"weight": "bold"},
            alignment="left",
            loc="outside upper left",
            ncols=5,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
