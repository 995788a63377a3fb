"""``fastopt demo dropout``: the digits, with dropout before BatchNorm, after all of it, and without dropout.

Dropout scales the elements that it keeps, so that means are the same in training and in evaluation; variances are not.  A
BatchNorm behind it records those of training and meets others in evaluation: the variance shift of Li, Chen, Hu & Yang 2018,
arXiv:1801.05134.  It vanishes when the statistics are computed again, without dropout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from fastopt import nn, optim

from .digits import Digits, Images
from .network import Array, Bias, Layer, Linear, Network, ReLU, cross_entropy
from .picture import BLUE, GREY, INK, ORANGE, picture

WIDTH, BLOCKS, BATCH, LR, WEIGHT_DECAY = 128, 4, 32, 1e-3, 0.01


class Place(NamedTuple):
    """The blocks of (Linear, BatchNorm, ReLU) that dropout follows."""

    name: str
    behind: Sequence[int]
    color: str


PLACES = [
    Place("no dropout", (), GREY),
    Place("before BatchNorm", range(1, BLOCKS + 1), ORANGE),
    Place("behind BatchNorm", (BLOCKS,), BLUE),
]


class Score(NamedTuple):
    """Loss and accuracy of a network on images."""

    loss: float
    accuracy: float


class Run(NamedTuple):
    """The results of one training."""

    valid_losses: list[float]  # after every epoch
    ratios: list[float]  # variance in evaluation over that in training, at every BatchNorm
    test: Score
    repaired: Score  # with statistics computed without dropout


def build(place: Place, p: float, seed: int) -> Network:
    """64 pixels → four times (Linear, BatchNorm, ReLU, perhaps Dropout) → Linear with bias → 10 logits."""
    rng = np.random.default_rng(seed)
    layers: list[tuple[str, Layer]] = []
    for i in range(1, BLOCKS + 1):
        layers.append((f"fc{i}", Linear(WIDTH if i > 1 else 64, WIDTH, rng, input_grad=i > 1)))
        layers.append((f"norm{i}", nn.BatchNorm(WIDTH)))
        layers.append((f"relu{i}", ReLU()))
        if i in place.behind:
            layers.append((f"dropout{i}", nn.Dropout(p, seed=BLOCKS * seed + i)))
    return Network([*layers, ("out", Linear(WIDTH, 10, rng)), ("out", Bias(10))])


def evaluate(network: Network, images: Images) -> Score:
    """The network's score in evaluation."""
    network.eval()
    logits = network.forward(images.x)
    network.train()
    accuracy = float(np.mean(np.argmax(logits, axis=1) == np.argmax(images.target, axis=1)))
    return Score(cross_entropy(logits, images.target)[0], accuracy)


def shifts(network: Network, x: Array) -> list[float]:
    """For every BatchNorm, the variance of its inputs in evaluation over the recorded one, as a mean over channels."""
    ratios = []
    network.eval()
    for layer in network.layers:
        if isinstance(layer, nn.BatchNorm):
            ratios.append(float(np.mean(np.var(x, axis=0, ddof=1) / layer.buffers["running_var"])))
        x = layer(x)
    network.train()
    return ratios


def repair(network: Network, x: Array) -> None:
    """Sets the running statistics of every BatchNorm to those of its inputs without dropout."""
    network.eval()
    nn.update_bn([x], network.forward, [layer for layer in network.layers if isinstance(layer, nn.BatchNorm)])
    network.train()


def train(place: Place, digits: Digits, p: float, seed: int, epochs: int, advance: Callable[[], object]) -> Run:
    """Train with AdamW for ``epochs`` epochs; call ``advance`` after each."""
    network, valid_losses = build(place, p, seed), []
    adamw = optim.AdamW(optim.no_decay(network.params), lr=LR, weight_decay=WEIGHT_DECAY)
    with threadpool_limits(1):  # these products are too small for two threads
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(digits.train.x))
            for first in range(0, len(order) - BATCH + 1, BATCH):
                batch = order[first : first + BATCH]
                _, dlogits = cross_entropy(network.forward(digits.train.x[batch]), digits.train.target[batch])
                network.backward(dlogits)
                adamw.step(network.grads)
            valid_losses.append(evaluate(network, digits.valid).loss)
            advance()
    ratios, test = shifts(network, digits.train.x), evaluate(network, digits.test)
    repair(network, digits.train.x)
    return Run(valid_losses, ratios, test, evaluate(network, digits.test))


def main(args: argparse.Namespace) -> int:
    """Train with dropout in every place, print the shift of the variances and its cost, draw both."""
    digits = Digits.load()
    seeds = range(args.seed, args.seed + args.seeds)
    runs: dict[Place, list[Run]] = {}
    console = Console()
    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs")
    with Progress(*columns, console=console) as progress:
        for place in PLACES:
            bar = progress.add_task(place.name, total=args.epochs * args.seeds)
            runs[place] = [
                train(place, digits, args.p, seed, args.epochs, partial(progress.advance, bar)) for seed in seeds
            ]
    console.print(table(runs, args.p))
    if args.output is not None:
        draw(args.output, runs, args.p)
        console.print(f"Picture: {args.output}", highlight=False)
    return 0


def spread(numbers: Sequence[float], form: str) -> str:
    """The mean of some numbers, and their standard deviation if there are several."""
    text = format(np.mean(numbers), form)
    return f"{text} ± {format(np.std(numbers, ddof=1), form)}" if len(numbers) > 1 else text


def table(runs: dict[Place, list[Run]], p: float) -> Table:
    """The ratios of variances, evaluation over training, and the results on the test images."""
    (first, *_) = runs.values()
    seeds = "one seed" if len(first) == 1 else f"{len(first)} seeds"
    shape = "-".join(map(str, [64, *[WIDTH] * BLOCKS, 10]))
    title = f"{shape} with BatchNorm · dropout {p:g} · {len(first[0].valid_losses)} epochs · {seeds}"
    result = Table(title=title, title_style="bold", title_justify="left")
    result.add_column("evaluation / training")
    for place in runs:
        result.add_column(place.name, justify="right")
    for i in range(BLOCKS):
        ratios = [spread([run.ratios[i] for run in some], ".3f") for some in runs.values()]
        result.add_row(f"variance at norm{i + 1}", *ratios, end_section=i + 1 == BLOCKS)
    for name, text in (("test", "test"), ("repaired", "repaired:")):
        scores: list[list[Score]] = [[getattr(run, name) for run in some] for some in runs.values()]
        result.add_row(f"{text} loss", *(spread([score.loss for score in some], ".4f") for some in scores))
        result.add_row(f"{text} accuracy", *(spread([score.accuracy for score in some], ".2%") for some in scores))
    return result


def draw(path: Path, runs: dict[Place, list[Run]], p: float) -> None:
    """The ratios of variances, and the validation losses along the training."""
    with picture(path, 2, size=(10, 3.8)) as (bars, curves):
        thick = 0.8 / len(runs)
        for i, (place, some) in enumerate(runs.items()):
            ratios, losses = np.array([run.ratios for run in some]), np.array([run.valid_losses for run in some])
            at = np.arange(1, BLOCKS + 1) + (i - (len(runs) - 1) / 2) * thick
            bars.bar(at, np.mean(ratios, axis=0), thick, color=place.color, label=place.name)
            for seed in ratios:
                bars.plot(at, seed, ".", color=INK, markersize=3)
            epochs = np.arange(1, losses.shape[1] + 1)
            curves.plot(epochs, np.mean(losses, axis=0), color=place.color, label=place.name)
            curves.fill_between(epochs, losses.min(0), losses.max(0), color=place.color, alpha=0.15, linewidth=0)
        bars.axhline(1, color=INK, linestyle=":", linewidth=1)
        bars.set(title=f"Dropout {p:g} shifts the variances behind it", ylabel="variance, evaluation / training")
        bars.set_xticks(range(1, BLOCKS + 1), [f"norm{i}" for i in range(1, BLOCKS + 1)])
        bars.grid(axis="x", visible=False)
        curves.set(title="What it costs, and gains", xlabel="epoch", ylabel="validation loss", yscale="log")
        curves.locator_params(axis="x", integer=True)
        curves.legend()
