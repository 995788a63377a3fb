"""``fastopt demo formats``: moments in bfloat16 and in 8 bits, and weights of 16 bits, against float32.

The digits' network and a small transformer are trained with AdamW, on the same batches in every format.  NumPy has no fast
products of 16-bit numbers: forward and backward compute in float32, from the stored weights, and the gradients of 16-bit
weights are rounded to bfloat16.  The learning rate follows a cosine to zero, so that every step falls below half a unit in the
last place of a weight: then weights that are rounded to the nearest stand still.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_dtypes import bfloat16
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fastopt import optim, schedules

from . import digits, transformer
from .network import Array, Network, cross_entropy
from .picture import FAINT, GREY, INK, STYLE

Batch = tuple[Array, Array]

# Shares of the steps: those with a growing learning rate, and those whose mean is the final training loss.
WARMUP, END = 0.05, 0.1
POINTS = 40  # number of points of a curve


class Task:
    """A network with its data and its training."""

    name: str
    lr: float
    weight_decay: float
    size: int  # of a batch
    scale: str  # of the loss in the picture

    def build(self, seed: int) -> Network:
        """The network before training."""
        raise NotImplementedError

    def batches(self, seed: int) -> Iterator[Batch]:
        """An endless iterator of inputs and targets for training."""
        raise NotImplementedError

    def valid(self) -> Iterator[Batch]:
        """Inputs and targets for validation, in batches of one size."""
        raise NotImplementedError


class Digits(Task):
    """The digits' network as in ``fastopt demo digits``."""

    name, lr, weight_decay, size, scale = "digits", 1e-3, 0.01, 32, "log"

    def __init__(self) -> None:
        self.digits = digits.Digits.load()
        self.epoch = len(self.digits.train.x) // self.size  # steps

    def build(self, seed: int) -> Network:
        return digits.build([128, 128], seed)

    def batches(self, seed: int) -> Iterator[Batch]:
        images = self.digits.train
        for epoch in count():
            order = np.random.default_rng([seed, epoch]).permutation(len(images.x))
            for rows in order[: self.epoch * self.size].reshape(-1, self.size):
                yield images.x[rows], images.target[rows]

    def valid(self) -> Iterator[Batch]:
        yield self.digits.valid


class Transformer(Task):
    """The next character of Python's own sources."""

    name, lr, weight_decay, size, scale = "transformer", 3e-3, 0.1, 16, "linear"

    def __init__(self) -> None:
        self.text = transformer.Text.load()

    def build(self, seed: int) -> Network:
        return transformer.build(seed)

    def batches(self, seed: int) -> Iterator[Batch]:
        rng, text = np.random.default_rng([seed, 1]), self.text.train
        while True:
            yield transformer.windows(text, rng.integers(len(text) - transformer.CONTEXT, size=self.size))

    def valid(self) -> Iterator[Batch]:
        text = self.text.valid
        starts = np.arange(0, len(text) - transformer.CONTEXT, transformer.CONTEXT)
        for some in starts[: len(starts) // self.size * self.size].reshape(-1, self.size):
            yield transformer.windows(text, some)


@dataclass(frozen=True)
class Format:
    """The formats of weights, gradients and moments."""

    name: str
    color: str
    dtype: Any = np.float32  # of weights and gradients
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # the optimizer's
    nudge: float = 0.0  # relative increase of the initial weights
    line: str = "-"


FLOAT32 = Format("float32", INK)
NUDGED = Format("float32, nudged", GREY, nudge=2.0**-23, line=":")  # shows the effect of a negligible difference
NEAREST = Format("weights nearest", "#d55e00", bfloat16, {"weights": "nearest"})
SMALLEST = Format("correction + 8bit", "#882255", bfloat16, {"weights": "correction", "moments": "8bit"})

FAMILIES = [
    [FLOAT32, NUDGED],
    [
        Format("moments bfloat16", "#0072b2", options={"moments": "bfloat16"}),
        Format("moments 8bit", "#009e73", options={"moments": "8bit"}),
    ],
    [
        NEAREST,
        Format("weights stochastic", "#56b4e9", bfloat16, {"weights": "stochastic"}),
        Format("weights kahan", "#7b3fe4", bfloat16, {"weights": "kahan"}),
        Format("weights correction", "#cc79a7", bfloat16, {"weights": "correction"}),
        Format("weights master", "#b8a000", bfloat16, {"weights": "master"}),
    ],
    [
        SMALLEST,
        Format("master + bfloat16", "#e69f00", bfloat16, {"weights": "master", "moments": "bfloat16"}),
    ],
]
FORMATS = [one for family in FAMILIES for one in family]


class Run(NamedTuple):
    """The results of a training."""

    losses: Array  # (steps,), each of its batch
    valid_loss: float
    size: float  # bytes per parameter: weight, gradient and state

    @property
    def train_loss(self) -> float:
        """The mean over the last steps."""
        return float(np.mean(self.losses[-max(1, round(END * len(self.losses))) :]))


Runs = dict[tuple[str, str], list[Run]]  # by the names of task and format, for every seed


def train(task: Task, kept: Format, seed: int, steps: int, advance: Callable[[], object]) -> Run:
    """Train with AdamW; call ``advance`` after every step."""
    network = task.build(seed)
    params, grads = network.params, network.grads
    for param in params.values():
        param *= np.float32(1 + kept.nudge)
    if half := kept.dtype != np.float32:
        params = {name: param.astype(kept.dtype) for name, param in params.items()}
        grads = {name: np.empty_like(param) for name, param in params.items()}

    def unpack() -> None:
        for name in params if half else ():
            network.params[name][...] = params[name]

    groups = optim.no_decay(params)
    adamw = optim.AdamW(groups, lr=task.lr, weight_decay=task.weight_decay, seed=seed, **kept.options)
    schedule = schedules.WarmupCosineLR(adamw, min(round(WARMUP * steps), steps - 1), steps)
    losses = np.empty(steps)
    for step, (x, target) in enumerate(islice(task.batches(seed), steps)):
        unpack()
        losses[step], dlogits = cross_entropy(network.forward(x), target)
        network.backward(dlogits)
        for name in grads if half else ():
            grads[name][...] = network.grads[name]
        adamw.step(grads)
        schedule.step()
        advance()
    unpack()
    network.eval()
    valid_loss = float(np.mean([cross_entropy(network.forward(x), target)[0] for x, target in task.valid()]))
    states = [array for state in adamw.state_dict()["state"].values() for key, array in state.items() if key != "step"]
    size = sum(array.nbytes for array in [*params.values(), *grads.values(), *states])
    return Run(losses, valid_loss, size / sum(param.size for param in params.values()))


def main(args: argparse.Namespace) -> int:
    """Train in every format, print bytes and losses, draw the distance of each from float32."""
    learned, text = Digits(), Transformer()
    steps = {learned: args.epochs * learned.epoch, text: args.steps}
    runs: Runs = {}
    console = Console()
    columns = TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    with Progress(*columns, console=console) as progress:
        for task in steps:
            bar = progress.add_task(task.name, total=steps[task] * args.seeds * len(FORMATS))
            for kept in FORMATS:
                progress.update(bar, description=f"{task.name}: {kept.name}")
                runs[task.name, kept.name] = [
                    train(task, kept, seed, steps[task], partial(progress.advance, bar))
                    for seed in range(args.seed, args.seed + args.seeds)
                ]
            progress.update(bar, description=task.name)
    for task in steps:
        console.print(table(task, runs))
    if args.output is not None:
        draw(args.output, list(steps), runs)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def beside(losses: Array, reference: Array) -> str:
    """The increase of losses over those of the same seeds, in per cent: the mean, and the deviation if there are several."""
    percent = 100 * (losses / reference - 1)
    digits = 2 if abs(np.mean(percent)) < 10 else 1
    spread = f"±{np.std(percent, ddof=1):.{digits}f}" if len(percent) > 1 else ""
    return f"{np.mean(percent):+.{digits}f}{spread}"


def table(task: Task, runs: Runs) -> Table:
    """The bytes of every format, and its losses beside those of float32."""
    reference = runs[task.name, FLOAT32.name]
    seeds = "one seed" if len(reference) == 1 else f"means of {len(reference)} seeds"
    title = f"The {task.name} · AdamW · {len(reference[0].losses):,} steps · {seeds}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("kept otherwise\nthan float32")
    for heading in ("bytes", "training\nloss", "beside\nfloat32, %", "validation\nloss", "beside\nfloat32, %"):
        result.add_column(heading, justify="right")
    for family in FAMILIES:
        for kept in family:
            some = runs[task.name, kept.name]
            cells = [f"{some[0].size:.2f}"]
            for measure in ("train_loss", "valid_loss"):
                losses, those = (np.array([getattr(run, measure) for run in of]) for of in (some, reference))
                cells += [f"{np.mean(losses):.4f}", "" if kept is FLOAT32 else beside(losses, those)]
            result.add_row(kept.name, *cells, end_section=kept is family[-1])
    return result


def draw(path: Path, tasks: Sequence[Task], runs: Runs) -> None:
    """For each task, the losses of some formats, and the increase of all formats' losses over float32's."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        rows: Any = figure.subplots(len(tasks), 3, sharex="row")
        lines = {}
        for (left, *others), task in zip(rows, tasks, strict=True):
            some = {kept: runs[task.name, kept.name] for kept in FORMATS}
            curves = {kept: smooth(some[kept]) for kept in FORMATS}
            steps, reference = curves[FLOAT32]
            for kept in (NEAREST, SMALLEST, FLOAT32):
                line = (0, (4, 3)) if kept is FLOAT32 else kept.line  # dashed, so that lines below it show
                left.plot(steps, np.mean(curves[kept][1], axis=0), linestyle=line, color=kept.color)
            left.set(title=f"The {task.name}", ylabel="training loss", yscale=task.scale)
            left.set_xlim(0, len(some[FLOAT32][0].losses))
            for ax, families in zip(others, ((0, 1, 3), (0, 2)), strict=True):
                ax.axhspan(-1, 1, color=FAINT, alpha=0.4, linewidth=0)
                for kept in (kept for i in families for kept in FAMILIES[i]):
                    percent = 100 * np.mean(curves[kept][1] / reference - 1, axis=0)
                    label = f"{kept.name}, {some[kept][0].size:.0f} bytes"
                    (lines[kept],) = ax.plot(steps, percent, kept.line, color=kept.color, label=label)
                ax.set_yscale("symlog", linthresh=1)
                ax.set(ylim=(-2, 500), yticks=[-1, 0, 1, 10, 100], yticklabels=["−1", "0", "1", "10", "100"])
                ax.set_ylabel("% above float32")
        for ax, title in zip(rows[0, 1:], ("Moments; moments and weights", "Weights"), strict=True):
            ax.set_title(title)
        for ax in rows[-1]:
            ax.set_xlabel("step")
        for ax in rows.flat:
            ax.set_title(ax.get_title("left"), fontsize=10, pad=6)
        figure.legend(
            handles=[lines[kept] for kept in FORMATS],
            title="bfloat16 and 8 bits learn as float32 does, but for weights that are rounded to the nearest",
            title_fontproperties={"weight": "bold"},
            alignment="left",
            loc="outside upper left",
            ncols=3,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def smooth(runs: Sequence[Run]) -> tuple[Array, Array]:
    """The middles of equal pieces of the steps, and the mean losses there, one row per run."""
    losses = np.array([run.losses for run in runs])
    pieces = np.array_split(losses, min(POINTS, losses.shape[1]), axis=1)
    middles = np.cumsum([piece.shape[1] for piece in pieces]) - [piece.shape[1] / 2 for piece in pieces]
    return middles, np.stack([np.mean(piece, axis=1) for piece in pieces], axis=1)
