"""``fastopt demo weight-decay``: the same network fitted without weight decay and with two strengths of it, far apart.

Decay is coupled: λp is added to the gradient before Adam's moments, as in ``torch.optim.Adam``; everything decays.

With a constant learning rate the losses would spike: Adam's steps stay as long as the learning rate says while the gradients
get small, and before a LayerNorm only the step relative to the weights counts, which decay makes small too.  Therefore the
learning rate falls to zero along half a cosine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from tensorboardX import SummaryWriter

from fastopt import nn, optim, schedules

from .network import Array, Bias, Layer, Linear, Network, ReLU
from .picture import BLUE, GREY, INK, ORANGE, STYLE

POINTS, WIDTH, BLOCKS, NEAR = 20, 20, 4, 0.01
TEST = 1000  # points of the test error


def truth(x: Array) -> Array:
    """2·x₁ − x₂² + 1 for the rows of ``x``."""
    y: Array = 2 * x[:, :1] - x[:, 1:] ** 2 + 1
    return y


def data(rng: np.random.Generator, points: int = POINTS) -> tuple[Array, Array]:
    """y = 2·x₁ − x₂² + 1 at points drawn from N(0, 1), by default at twenty."""
    x = rng.standard_normal((points, 2), dtype=np.float32)
    return x, truth(x)


def build(rng: np.random.Generator) -> Network:
    """Four times (Linear, LayerNorm, ReLU) with 20 features, then Linear to one."""
    layers: list[tuple[str, Layer]] = []
    for i in range(1, BLOCKS + 1):
        layers.append((f"fc{i}", Linear(WIDTH if i > 1 else 2, WIDTH, rng, input_grad=i > 1)))
        layers.append((f"fc{i}", Bias(WIDTH)))
        layers.append((f"norm{i}", nn.LayerNorm(WIDTH)))
        layers.append((f"relu{i}", ReLU()))
    return Network([*layers, ("out", Linear(WIDTH, 1, rng)), ("out", Bias(1))])


@dataclass
class Run:
    """One strength of weight decay, and the results with it."""

    decay: float
    network: Network
    losses: list[float] = field(default_factory=list)
    norms: list[list[float]] = field(default_factory=list)  # of the weights of every Linear layer

    @property
    def name(self) -> str:
        """The strength in words."""
        return f"weight decay {self.decay:g}" if self.decay else "no weight decay"

    @property
    def matrices(self) -> list[Array]:
        """The weights of the Linear layers."""
        return [p for p in self.network.params.values() if p.ndim == 2]

    @property
    def weights(self) -> Array:
        """All weights of the Linear layers in one array."""
        return np.concatenate([p.ravel() for p in self.matrices])

    @property
    def near_zero(self) -> float:
        """The share of the weights that are close to zero."""
        return float(np.mean(np.abs(self.weights) <= NEAR))

    def error(self, x: Array, y: Array) -> float:
        """The mean squared error at some points."""
        return float(np.mean(np.square(self.network.forward(x) - y)))

    def fit(self, x: Array, y: Array, *, lr: float, iterations: int) -> Iterator[int]:
        """Minimize the mean squared error with Adam; yields after every step."""
        adam = optim.Adam(self.network.params, lr=lr, weight_decay=self.decay)
        schedule = schedules.CosineAnnealingLR(adam, T_max=iterations)
        for iteration in range(1, iterations + 1):
            error = self.network.forward(x)
            error -= y
            self.losses.append(float(np.mean(np.square(error))))
            error *= 2 / len(x)
            self.network.backward(error)
            adam.step(self.network.grads)
            schedule.step()
            self.norms.append([float(np.linalg.norm(p)) for p in self.matrices])
            yield iteration

    def log(self, writer: SummaryWriter, iteration: int) -> None:
        """The loss, and the norm and histogram of every parameter and gradient."""
        writer.add_scalar("loss", self.losses[-1], iteration)
        for kind, arrays in (("weight", self.network.params), ("gradient", self.network.grads)):
            for name, array in arrays.items():
                writer.add_scalar(f"{kind}_norm/{name}", float(np.linalg.norm(array)), iteration)
                writer.add_histogram(f"{kind}/{name}", array, iteration, max_bins=64)


def main(args: argparse.Namespace) -> int:
    """Fit all, write the logs for TensorBoard, print the errors and the sizes of the weights, draw both.

    With ``--no-picture`` there are logs only where ``--logdir`` asks for them.
    """
    logdir = args.logdir or (None if args.output is None else Path("runs"))
    x, y = data(np.random.default_rng(args.seed))
    runs = [Run(decay, build(np.random.default_rng([args.seed, 1]))) for decay in (0.0, *args.decays)]
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("iterations")
    with Progress(*columns, console=console) as progress:
        for run in runs:
            bar = progress.add_task(f"{run.name:<18}", total=args.iterations)
            with writer_of(logdir, run) as writer:
                for iteration in run.fit(x, y, lr=args.lr, iterations=args.iterations):
                    if writer is not None and iteration % args.log_every == 0:
                        run.log(writer, iteration)
                    progress.update(bar, completed=iteration)
    new = data(np.random.default_rng([args.seed, 2]), TEST)
    console.print(table(runs, *new))
    if logdir is not None:
        console.print(f"tensorboard --logdir {logdir}", highlight=False)
    if args.output is not None:
        draw(args.output, runs, new)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def writer_of(logdir: Path | None, run: Run) -> AbstractContextManager[SummaryWriter | None]:
    """A writer of the run's logs; none without a folder."""
    if logdir is None:
        return nullcontext()
    writer: AbstractContextManager[SummaryWriter] = SummaryWriter(
        str(logdir / f"weight_decay={run.decay:g}"), purge_step=0
    )
    return writer


def table(runs: Sequence[Run], x: Array, y: Array) -> Table:
    """The sizes of the final weights, the losses along the training, and the errors at the points ``x``."""
    title = "y = 2·x₁ − x₂² + 1 · Adam with coupled weight decay"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("weight decay")
    for run in runs:
        result.add_column(f"{run.decay:g}" if run.decay else "none", justify="right")
    result.add_row(f"weights within ±{NEAR}", *(f"{run.near_zero:.0%}" for run in runs))
    result.add_row("mean |weight|", *(f"{np.mean(np.abs(run.weights)):.4f}" for run in runs), end_section=True)
    last = len(runs[0].losses)
    for i in [*(i for i in (1, 10, 100, 1_000, 10_000, 100_000) if i < last), last]:
        result.add_row(f"error, iteration {i:,}", *(f"{run.losses[i - 1]:.6f}" for run in runs))
    result.add_row(f"error at {len(x):,} new points", *(f"{run.error(x, y):.6f}" for run in runs))
    return result


def draw(path: Path, runs: Sequence[Run], new: tuple[Array, Array]) -> None:
    """Draws the distributions of the final weights, their norms, the losses, and what was fitted, with its error on new points."""
    colors = (INK, BLUE, ORANGE)
    bins = np.arange(-0.95, 1, 0.1)
    with matplotlib.rc_context(STYLE | {"axes.titlesize": 10, "axes.titlepad": 6}):
        figure = Figure(figsize=(10, 6.6), layout="constrained")
        upper, lower = figure.subplots(2, 3)
        norms, losses, fits = lower
        for run, color, ax in zip(runs, colors, upper, strict=True):
            share = np.full(run.weights.shape, 1 / len(run.weights))
            ax.hist(run.weights, bins, weights=share, color=color)
            ax.set_title(f"{run.name.capitalize()}:\n{run.near_zero:.0%} of the weights within ±{NEAR}", color=color)
            ax.set(xlim=(-1, 1), ylim=(0, 1), xlabel="weight")
            ax.yaxis.set_major_formatter("{x:.0%}")
            iterations = np.arange(1, len(run.losses) + 1)
            norms.plot(iterations, run.norms, color=color, linewidth=1)
            losses.plot(iterations, run.losses, color=color, linewidth=1.2, label=run.name)
        upper[0].set_ylabel("share of the weights")
        norms.set(xlabel="iteration", ylabel="norm of a layer's weights", ylim=(0, None))
        norms.set_title("Decay shrinks the layers …")
        losses.set(xlabel="iteration", ylabel="mean squared error", yscale="log")
        losses.set_title("… the fit of the 20 points pays for it …")
        line = np.linspace(-3, 3, 121, dtype=np.float32)
        across = np.stack([np.zeros_like(line), line], axis=1)
        fits.plot(line, truth(across), "--", color=GREY, linewidth=2, label="truth")
        for run, color in zip(runs, colors, strict=True):
            fits.plot(
                line, run.network.forward(across), color=color, linewidth=1.6, label=f"error {run.error(*new):.2f}"
            )
        fits.set(xlabel="x₂, with x₁ = 0", ylabel="y", ylim=(-8, 3))
        fits.set_title("… far from them, none is right")
        losses.set_ylim(top=3000)
        losses.legend(loc="upper right", fontsize=9)
        fits.legend(title=f"{len(new[0]):,} new points:", loc="lower center", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
