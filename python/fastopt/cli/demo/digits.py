"""``fastopt demo``: one training loop, once with idiomatic NumPy for norm and optimizer, once with fastopt."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastopt import nn, optim

from . import idiomatic
from .network import PARTS, Array, Bias, Layer, Linear, Network, ReLU, Stopwatch, cross_entropy
from .picture import BLUE, FAINT, GREY, ORANGE, picture


class Optimizer(Protocol):
    """The part of an optimizer that the loop needs."""

    def step(self, grads: Any) -> object: ...


@dataclass(frozen=True)
class Backend:
    """The parts in which the two trainings differ."""

    name: str
    norm: Callable[[int], Layer]
    relu: Callable[[], Layer] | None  # None if it is part of the norm
    optimizer: Callable[..., Optimizer]


NUMPY = Backend("NumPy", idiomatic.BatchNorm, ReLU, idiomatic.AdamW)
FASTOPT = Backend("fastopt", nn.BatchNormReLU, None, optim.AdamW)


class Images(NamedTuple):
    """Rows of 64 grey values in [0, 1], and the digit that each shows, one-hot."""

    x: Array
    target: Array

    @classmethod
    def of(cls, pixels: Array, digit: Array) -> Images:
        """Images from scikit-learn's grey values in [0, 16] and digits."""
        return cls((pixels / 16).astype(np.float32), np.eye(10, dtype=np.float32)[digit])


class Digits(NamedTuple):
    """scikit-learn's 1,797 digits, split in a fixed way."""

    train: Images
    valid: Images
    test: Images

    @classmethod
    def load(cls) -> Digits:
        """Splits into 60 % for training, 20 % to decide when to stop, 20 % for the test."""
        x, y = load_digits(return_X_y=True)
        x, test_x, y, test_y = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        x, valid_x, y, valid_y = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        return cls(Images.of(x, y), Images.of(valid_x, valid_y), Images.of(test_x, test_y))


class Epoch(NamedTuple):
    """The results of one pass over the training images."""

    train_loss: float
    valid_loss: float
    test_accuracy: float
    seconds: float


class Training:
    """The training of one network with one backend."""

    def __init__(self, backend: Backend, digits: Digits, args: argparse.Namespace) -> None:
        self.backend, self.digits, self.args = backend, digits, args
        self.network = build(backend, args.hidden, args.seed)
        params, grads = self.network.params, self.network.grads
        self.decayed = [name for name in params if params[name].ndim == 2]
        self.others = [name for name in params if params[name].ndim == 1]
        groups = [
            {"params": [params[name] for name in self.decayed]},
            {"params": [params[name] for name in self.others], "weight_decay": 0.0},
        ]
        self.grads = [[grads[name] for name in names] for names in (self.decayed, self.others)]
        self.optimizer = backend.optimizer(groups, lr=args.lr, weight_decay=args.weight_decay)
        self.watch = Stopwatch()
        self.history: list[Epoch] = []

    @property
    def best(self) -> Epoch:
        """The epoch with the best network."""
        return min(self.history, key=lambda epoch: epoch.valid_loss)

    @property
    def finished(self) -> bool:
        """Whether the validation loss has not improved for ``patience`` epochs, or all epochs are done."""
        done = len(self.history)
        waited = done - 1 - self.history.index(self.best) if done else 0
        return bool(waited >= self.args.patience or done >= self.args.epochs)

    def step(self, x: Array, target: Array) -> float:
        """Takes one step of AdamW on one batch; returns the loss before it."""
        network, lap = self.network, self.watch.lap
        self.watch.step()
        logits = network.forward(x, lap)
        loss, dlogits = cross_entropy(logits, target)
        lap("everything else")
        network.backward(dlogits, lap)
        self.optimizer.step(self.grads)
        lap("optimizer")
        return loss

    def epoch(self) -> None:
        """Passes over the training images in whole batches, in an order that depends on seed and epoch alone."""
        order = np.random.default_rng([self.args.seed, len(self.history)]).permutation(len(self.digits.train.x))
        x, target, size = self.digits.train.x[order], self.digits.train.target[order], self.args.batch_size
        start = perf_counter()
        losses = [self.step(x[i : i + size], target[i : i + size]) for i in range(0, len(x) - size + 1, size)]
        seconds = perf_counter() - start + (self.history[-1].seconds if self.history else 0.0)
        self.network.eval()
        valid_loss, _ = self.evaluate(self.digits.valid)
        _, test_accuracy = self.evaluate(self.digits.test)
        self.network.train()
        self.history.append(Epoch(sum(losses) / len(losses), valid_loss, test_accuracy, seconds))

    def evaluate(self, images: Images) -> tuple[float, float]:
        """The loss and the accuracy on ``images``."""
        logits = self.network.forward(images.x)
        accuracy = float(np.mean(np.argmax(logits, axis=1) == np.argmax(images.target, axis=1)))
        return cross_entropy(logits, images.target)[0], accuracy


def build(backend: Backend, hidden: Sequence[int], seed: int) -> Network:
    """64 pixels → (Linear, BatchNorm, ReLU) for every hidden width → Linear with bias → 10 logits."""
    rng = np.random.default_rng(seed)
    layers: list[tuple[str, Layer]] = []
    for i, (inputs, outputs) in enumerate(pairwise([64, *hidden]), start=1):
        layers.append((f"fc{i}", Linear(inputs, outputs, rng, input_grad=i > 1)))  # no bias: BatchNorm would undo it
        layers.append((f"norm{i}", backend.norm(outputs)))
        if backend.relu:
            layers.append((f"relu{i}", backend.relu()))
    return Network([*layers, ("out", Linear(hidden[-1], 10, rng)), ("out", Bias(10))])


def split(*runs: Training) -> list[dict[str, float]]:
    """For every run, the median seconds of each part of a step and of the whole, over as many steps as all runs have taken."""
    result = []
    for steps in zip(*zip(*(run.watch.steps() for run in runs), strict=False), strict=True):
        whole = median(sum(step.values()) for step in steps)
        result.append({part: median(step[part] for step in steps) for part in PARTS} | {"whole step": whole})
    return result


def main(args: argparse.Namespace) -> int:
    """Train both, an epoch each in turn, so that disturbances hit both; print the table, write the picture."""
    digits = Digits.load()
    if not 2 <= args.batch_size <= len(digits.train.x):
        raise SystemExit(f"fastopt demo: --batch-size must be in [2, {len(digits.train.x)}], got {args.batch_size}")
    console = Console()
    runs = [Training(backend, digits, args) for backend in (NUMPY, FASTOPT)]
    columns = TextColumn("{task.description:<7}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}")
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = {run.backend: progress.add_task(run.backend.name, total=args.epochs, loss="epochs") for run in runs}
        while not all(run.finished for run in runs):
            for run in runs:
                if not run.finished:
                    run.epoch()
                    loss = f"epochs · validation loss {run.history[-1].valid_loss:.4f}"
                    progress.update(bars[run.backend], completed=len(run.history), loss=loss)
            progress.refresh()
            runs.reverse()
    numpy, fast = sorted(runs, key=lambda run: run.backend is FASTOPT)
    times = split(numpy, fast)
    console.print(table(numpy, fast, *times))
    console.print(verdict(*times), highlight=False)
    if args.output is not None:
        draw(args.output, numpy, fast, *times)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def table(numpy: Training, fast: Training, before: dict[str, float], after: dict[str, float]) -> Table:
    """The results of NumPy and fastopt in a table."""
    shape = "-".join(map(str, [64, *numpy.args.hidden, 10]))
    title = f"{shape} with BatchNorm · AdamW · batches of {numpy.args.batch_size}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("median of a training step")
    for heading in ("NumPy", "share", "fastopt", "share", "speed-up"):
        result.add_column(heading, justify="right")
    for part in (*PARTS, "whole step"):
        times = [f"{time[part] * 1e6:,.0f} µs" for time in (before, after)]
        shares = [f"{time[part] / time['whole step']:.0%}" for time in (before, after)]
        last = part in (PARTS[-1], "whole step")
        cells = (cell for pair in zip(times, shares, strict=True) for cell in pair)
        result.add_row(part, *cells, f"{before[part] / after[part]:.1f}×", end_section=last)
    runs = {
        "whole training": [f"{run.history[-1].seconds:.2f} s" for run in (numpy, fast)],
        "epochs": [str(len(run.history)) for run in (numpy, fast)],
        "best validation loss": [f"{run.best.valid_loss:.4f}" for run in (numpy, fast)],
        "test accuracy": [f"{run.best.test_accuracy:.2%}" for run in (numpy, fast)],
    }
    for row, (of_numpy, of_fast) in runs.items():
        result.add_row(row, of_numpy, "", of_fast)
    return result


def verdict(before: dict[str, float], after: dict[str, float]) -> str:
    """The speed-up and its bound in two sentences."""
    same = after["matrix products"] + after["everything else"]
    return (
        f"The whole step is {before['whole step'] / after['whole step']:.1f}× as fast. Matrix products and everything else "
        f"are the same NumPy on both sides and {same / after['whole step']:.0%} of fastopt's step: with norm, ReLU and "
        f"optimizer for nothing it would be {before['whole step'] / same:.1f}×."
    )


def draw(path: Path, numpy: Training, fast: Training, before: dict[str, float], after: dict[str, float]) -> None:
    """Loss curves against the time of training, and where the time of a step goes."""
    with picture(path, 2, size=(10, 3.8), width_ratios=[1.1, 1]) as (curves, bars):
        for run, color in ((numpy, GREY), (fast, ORANGE)):
            train, valid, _, seconds = zip(*run.history, strict=True)
            curves.plot(seconds, valid, color=color, label=f"{run.backend.name}, validation")
            curves.plot(seconds, train, ":", color=color, label=f"{run.backend.name}, training")
            curves.plot(run.best.seconds, run.best.valid_loss, "o", color=color)
        curves.set(title="The same learning, sooner", xlabel="seconds of training", ylabel="cross-entropy")
        curves.set_yscale("log")
        curves.set_xlim(left=0)
        curves.legend()

        for row, times in enumerate((before, after)):
            left = 0.0
            for part, color in zip(PARTS, (GREY, BLUE, ORANGE, FAINT), strict=True):
                bars.barh(row, times[part] * 1e6, left=left, height=0.5, color=color, label=part if row == 0 else None)
                left += times[part] * 1e6
            bars.annotate(f"{left:,.0f} µs", (left, row), (6, 0), textcoords="offset points", va="center")
        bars.set(title=f"One step: {before['whole step'] / after['whole step']:.1f}× as fast", xlabel="µs, median")
        bars.set_yticks([0, 1], ["NumPy", "fastopt"])
        bars.set_ylim(2.2, -0.5)
        bars.margins(x=0.15)
        bars.grid(axis="y", visible=False)
        bars.legend(ncols=2, loc="lower right")
