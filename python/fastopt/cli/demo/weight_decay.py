"""``fastopt demo weight-decay``: the same network fitted with two strengths of coupled weight decay.

Coupled means that λp is added to the gradient before Adam's moments, as in ``torch.optim.Adam``; everything decays.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from tensorboardX import SummaryWriter

from fastopt import nn, optim

from .network import Array, Bias, Layer, Linear, Network, ReLU
from .picture import BLUE, ORANGE, picture

POINTS, WIDTH, BLOCKS, NEAR = 20, 20, 4, 0.01


def data(rng: np.random.Generator) -> tuple[Array, Array]:
    """y = 2·x₁ − x₂² + 1 at twenty points drawn from N(0, 1)."""
    x = rng.standard_normal((POINTS, 2), dtype=np.float32)
    return x, 2 * x[:, :1] - x[:, 1:] ** 2 + 1


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

    @property
    def weights(self) -> Array:
        """All weights of the Linear layers in one array."""
        return np.concatenate([p.ravel() for p in self.network.params.values() if p.ndim == 2])

    @property
    def near_zero(self) -> float:
        """The share of the weights that are close to zero."""
        return float(np.mean(np.abs(self.weights) <= NEAR))

    def fit(self, x: Array, y: Array, *, lr: float, iterations: int) -> Iterator[int]:
        """Minimize the mean squared error with Adam; yields after every step."""
        adam = optim.Adam(self.network.params, lr=lr, weight_decay=self.decay)
        for iteration in range(1, iterations + 1):
            error = self.network.forward(x)
            error -= y
            self.losses.append(float(np.mean(np.square(error))))
            error *= 2 / len(x)
            self.network.backward(error)
            adam.step(self.network.grads)
            yield iteration

    def log(self, writer: SummaryWriter, iteration: int) -> None:
        """The loss, and the norm and histogram of every parameter and gradient."""
        writer.add_scalar("loss", self.losses[-1], iteration)
        for kind, arrays in (("weight", self.network.params), ("gradient", self.network.grads)):
            for name, array in arrays.items():
                writer.add_scalar(f"{kind}_norm/{name}", float(np.linalg.norm(array)), iteration)
                writer.add_histogram(f"{kind}/{name}", array, iteration, max_bins=64)


def main(args: argparse.Namespace) -> int:
    """Fit both, write the logs for TensorBoard, print the losses, draw the weights."""
    x, y = data(np.random.default_rng(args.seed))
    runs = [Run(decay, build(np.random.default_rng([args.seed, 1]))) for decay in args.decays]
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("iterations")
    with Progress(*columns, console=console) as progress:
        for run in runs:
            bar = progress.add_task(f"weight decay {run.decay:<5g}", total=args.iterations)
            with SummaryWriter(str(args.logdir / f"weight_decay={run.decay:g}"), purge_step=0) as writer:
                for iteration in run.fit(x, y, lr=args.lr, iterations=args.iterations):
                    if iteration % args.log_every == 0:
                        run.log(writer, iteration)
                    progress.update(bar, completed=iteration)
    console.print(table(runs))
    console.print(f"tensorboard --logdir {args.logdir}", highlight=False)
    if args.output is not None:
        draw(args.output, runs)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def table(runs: Sequence[Run]) -> Table:
    """The losses along the training, and the sizes of the final weights."""
    title = "y = 2·x₁ − x₂² + 1 · Adam with coupled weight decay"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("mean squared error")
    for run in runs:
        result.add_column(f"weight decay {run.decay:g}", justify="right")
    last = len(runs[0].losses)
    for i in [*(i for i in (1, 10, 100, 1_000, 10_000, 100_000) if i < last), last]:
        result.add_row(f"iteration {i:,}", *(f"{run.losses[i - 1]:.6f}" for run in runs))
    result.add_row("median of the last 100", *(f"{np.median(run.losses[-100:]):.6f}" for run in runs))
    result.add_row("lowest", *(f"{min(run.losses):.6f}" for run in runs), end_section=True)
    result.add_row("mean |weight|", *(f"{np.mean(np.abs(run.weights)):.4f}" for run in runs))
    result.add_row(f"weights within ±{NEAR}", *(f"{run.near_zero:.0%}" for run in runs))
    return result


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Draws the distribution of the final weights, and the course of the loss."""
    edge = max(np.max(np.abs(run.weights)) for run in runs)
    bins = np.linspace(-edge, edge, 64)
    with picture(path, 2, size=(10, 3.8), width_ratios=[1.1, 1]) as (weights, losses):
        for run, color in zip(runs, (BLUE, ORANGE), strict=True):
            label = f"weight decay {run.decay:g}"
            share = f"{label}:\n{run.near_zero:.0%} within ±{NEAR}"
            weights.hist(run.weights, bins, color=color, alpha=0.65, label=share)
            losses.plot(range(1, len(run.losses) + 1), run.losses, color=color, linewidth=1, label=label)
        weights.set(title="The larger decay pulls the weights towards zero", xlabel="weight", ylabel="how many")
        weights.set(yscale="log", ylim=(0.7, 2 * len(runs[0].weights)))
        weights.legend(loc="upper left")
        losses.set(title="… and the fit pays for it", xlabel="iteration", ylabel="mean squared error", yscale="log")
        losses.set_ylim(top=6 * losses.get_ylim()[1])
        losses.legend(loc="upper left", ncols=2)
