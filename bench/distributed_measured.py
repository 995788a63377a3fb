"""Measurements of MPI and of data-parallel steps on this machine, beside the model: `bench/distributed.py --measure`.

Each process has one thread.  Within one machine there is no link that works by itself, the processors copy messages, so
in predictions the parts of a step follow each other.  There are two:

    alone       speeds of a process whose others sleep, α and β of two ranks; where ranks share a core, what they compute and
                copy takes that many times as long
    together    speeds of the slowest of all processes at once, α and β of exchanges among all of them: these contain what
                sharing cores, with each other and with other programs, and waiting in turns cost
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from distributed import mlp, table
from mpi4py import MPI
from numpy.typing import NDArray
from scaling_model import MIB, Layer, Link, Node, Training, bytes_sent, least_bytes, optimizer_step, step

import fastopt as fo
from fastopt import distributed

Array = NDArray[np.float32]

WIDTHS = (256, 512, 512, 10)
BATCH = 128
SIZES = [64, 1 << 10, 8 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20]


def asleep(comm: MPI.Comm) -> None:
    """Waits for the other ranks without keeping a core busy."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.002)


def busy() -> float:
    """The seconds that all programs have kept cores busy so far; Linux only."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def fit(times: dict[int, float]) -> Link:
    """α and β of messages, by least squares of relative errors."""
    n, t = np.array([*times], float), np.array([*times.values()])
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([1 / t, n / t], 1), np.ones(len(t)), rcond=None)
    return Link(max(float(alpha), 0.0), max(float(beta), 1e-15))


class Network:
    """A perceptron in NumPy, whose backward pass says when each gradient is there."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.params: list[Array] = []
        for a, b in pairwise(WIDTHS):
            self.params += [
                rng.standard_normal((a, b), np.float32) * np.float32(np.sqrt(2 / a)),
                np.zeros(b, np.float32),
            ]

    def pass_through(self, x: Array, target: Array, ready: Callable[[int, Array], None]) -> None:
        inputs = [x]
        for w, b in zip(self.params[::2], self.params[1::2], strict=True):
            inputs.append(np.maximum(inputs[-1] @ w + b, 0))
        dy = (inputs[-1] - target) / np.float32(len(x))
        for i in reversed(range(len(WIDTHS) - 1)):
            dy = dy * (inputs[i + 1] > 0)
            ready(2 * i + 1, dy.sum(axis=0))
            ready(2 * i, inputs[i].T @ dy)
            if i:
                dy = dy @ self.params[2 * i].T


def training_of() -> Training:
    layers: list[Layer] = mlp(WIDTHS)
    return Training(layers, bucket=1 << 19)


class Row(NamedTuple):
    """What was found with one number of ranks."""

    ranks: int
    alone: Node
    together: Node
    link: Link
    step: float
    rest: float
    sent: int


class Measured:
    """The times of everything with one number of ranks, in rounds, so that what other programs do meanwhile meets all of it."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm, self.batch = comm, BATCH // comm.size
        self.times: dict[Any, list[float]] = {}
        self.network, training = Network(), training_of()
        rng = np.random.default_rng(comm.rank)
        self.x = rng.standard_normal((self.batch, WIDTHS[0]), np.float32)
        self.target = rng.standard_normal((self.batch, WIDTHS[-1]), np.float32)
        self.grads = [np.ones_like(one) for one in self.network.params]
        self.source = np.ones(training.params, np.float32)
        self.plain = fo.optim.AdamW(self.network.params, lr=1e-3)
        opt = fo.optim.AdamW(self.network.params, lr=1e-3)
        self.optimizer = distributed.DistributedOptimizer(opt, comm, bucket_mib=training.bucket / MIB)
        self.sent = 0
        tiny = [np.zeros(64, np.float32) for _ in range(100)]
        self.tiny = distributed.DistributedOptimizer(fo.optim.SGD(tiny, lr=0.0), MPI.COMM_SELF)
        self.buffers = [np.zeros(SIZES[-1], np.uint8) for _ in range(3)]

    def time(self, key: Any, call: Callable[[], Any], times: int, slowest: bool = False) -> None:
        """Times a call; with ``slowest`` all ranks make it at once, and the time from the first begin to the last end counts."""
        call()
        for _ in range(times):
            if slowest:
                self.comm.Barrier()
            begin = time.perf_counter()
            call()
            end = time.perf_counter()
            if slowest:  # the clock is the machine's
                begin, end = self.comm.allreduce(begin, MPI.MIN), self.comm.allreduce(end, MPI.MAX)
            self.times.setdefault(key, []).append(end - begin)

    def speeds(self, how: str) -> None:
        """A process's own passes, steps and copies."""
        size, together = len(self.source), how == "together"

        def passes() -> None:
            self.network.pass_through(self.x, self.target, lambda i, grad: None)

        self.time((how, "compute"), passes, 3, together)
        self.time((how, "memory"), lambda: self.plain.step(self.grads), 3, together)
        self.time((how, "copies"), lambda: np.multiply(self.source, 2.0, out=np.empty(size, np.float32)), 3, together)

        self.time((how, "calls"), lambda: self.tiny.step(self.tiny.params), 3, together)

    def messages(self) -> None:
        """There and back between two ranks; and what a bucket takes, an all-to-all and an all-gather of all."""
        comm, p = self.comm, self.comm.size
        for size in SIZES:
            send, received, whole = (one[:size] for one in self.buffers)
            if p == 2:
                other = 1 - comm.rank
                self.time(("pair", size), lambda: comm.Sendrecv_replace(send, dest=other, source=other), 5)  # noqa: B023

            def both(send: Any = send, received: Any = received, whole: Any = whole, own: int = size // p) -> None:
                comm.Ialltoall(send, received).Wait()
                comm.Iallgather(received[:own], whole).Wait()

            self.time(("exchange", size // p), both, 5)

    def steps(self) -> None:
        """Steps, and what is left of them after the backward pass."""
        for i in range(4):
            before, begin = self.optimizer.bytes_sent, time.perf_counter()
            self.network.pass_through(
                self.x, self.target, lambda i, grad: self.optimizer.ready(i, grad, weight=self.batch)
            )
            middle = time.perf_counter()
            self.optimizer.step()
            self.sent = self.optimizer.bytes_sent - before
            if i:
                end = time.perf_counter()
                self.times.setdefault("step", []).append(end - begin)
                self.times.setdefault("rest", []).append(end - middle)

    def row(self, quantile: float) -> tuple[Row, Link]:
        """The results, and the link between two ranks, if there are two."""
        found = {key: float(np.quantile(times, quantile)) for key, times in self.times.items()}
        training = training_of()
        moved = optimizer_step(training, Node(memory=1.0), training.params, 4)
        alone, together = (
            Node(
                6 * training.work * self.batch / found[how, "compute"],
                moved / found[how, "memory"],
                8 * training.params / found[how, "copies"],
                found[how, "calls"] / (len(self.tiny.params) + 2),
            )
            for how in ("alone", "together")
        )
        p = self.comm.size
        pair = {size: found["pair", size] for size in SIZES if p == 2}
        exchange = {size // p: found["exchange", size // p] / (2 * (p - 1)) for size in SIZES if p > 1}
        link = fit(exchange) if exchange else Link(0, 0)
        row = Row(p, alone, together, link, found["step"], found["rest"], self.sent)
        return row, fit(pair) if pair else Link(0, 0)


def measure(rounds: int, quantile: float) -> None:
    """Measures with 1, 2, 4, … of the ranks while the others sleep; rank 0 prints."""
    world = MPI.COMM_WORLD
    with distributed.abort_on_error(world):
        distributed.share_cores(world, threads=1)
        threadpoolctl.threadpool_limits(1)  # products too
        cores = len({core for some in world.allgather(sorted(os.sched_getaffinity(0))) for core in some})
        counts = [1 << i for i in range(world.size.bit_length())]
        comms = [world.Split(0 if world.rank < ranks else MPI.UNDEFINED, world.rank) for ranks in counts]
        every = [Measured(comm) for comm in comms if comm != MPI.COMM_NULL]
        asleep(world)
        own_before, all_before, begin = world.allreduce(time.process_time()), busy(), time.perf_counter()
        for _ in range(rounds):
            for ranks in counts:
                own = next((one for one in every if one.comm.size == ranks), None)
                asleep(world)
                if own and world.rank == 0:
                    own.speeds("alone")
                asleep(world)
                if own:
                    own.speeds("together")
                    own.comm.Barrier()
                    if ranks > 1:
                        own.messages()
                    own.steps()
        asleep(world)
        own_time = world.allreduce(time.process_time()) - own_before
        others = (busy() - all_before - own_time) / ((time.perf_counter() - begin) * (os.cpu_count() or 1))
        if world.rank == 0:
            results = [one.row(quantile) for one in every]
            pair = results[1][1] if len(results) > 1 else Link(0, 0)
            report(cores, others, quantile, pair, [row for row, _ in results])


def predicted(node: Node, link: Link, ranks: int) -> float:
    """The time of a step, to which messages add all of theirs."""
    taken = step(training_of(), node, link, ranks, BATCH / ranks, overlap=False)
    return taken.compute + taken.copies + taken.link + taken.optimizer


def report(cores: int, others: float, quantile: float, pair: Link, rows: list[Row]) -> None:
    library = MPI.Get_library_version().splitlines()[0].split(",")[0].replace("\t", " ").strip()
    training = training_of()
    print(
        f"{'-'.join(map(str, WIDTHS))}, {training.params:,} parameters, a batch of {BATCH} for all ranks, AdamW, one thread each; "
        f"{cores} cores, of which other programs took {max(others, 0) * 100:.0f} %; {library}; quantile {quantile:g} of each time"
    )
    if len(rows) > 1:
        print(f"two ranks: α = {pair.alpha * 1e6:.1f} µs, 1/β = {1e-9 / pair.beta:.2f} GB/s")
    speeds, results = [], []
    for row in rows:
        by = max(row.ranks / cores, 1)
        guesses = [
            predicted(
                Node(*(speed / by for speed in row.alone[:3]), row.alone.calls * by),
                Link(pair.alpha, pair.beta * by),
                row.ranks,
            ),
            predicted(row.together, row.link, row.ranks),
        ]
        of_alone, of_together = (
            [
                f"{node.flops / 1e9:.0f}",
                f"{node.memory / 1e9:.1f}",
                f"{node.copies / 1e9:.1f}",
                f"{node.calls * 1e6:.0f}",
            ]
            for node in (row.alone, row.together)
        )
        wire = [f"{row.link.alpha * 1e6:.0f} µs", f"{1e-9 / row.link.beta:.2f} GB/s"] if row.ranks > 1 else ["", ""]
        least = [f"{row.sent / least_bytes(training, row.ranks):.4f}"] if row.ranks > 1 else [""]
        speeds.append(
            [
                f"{row.ranks}",
                *(f"{a} / {b}" for a, b in zip(of_alone, of_together, strict=True)),
                *wire,
                f"{row.sent:,}",
                f"{bytes_sent(training, row.ranks):,}",
                *least,
            ]
        )
        results.append(
            [f"{row.ranks}", *(f"{one * 1e3:.1f}" for one in (row.step, row.rest))]
            + [f"{guess * 1e3:.1f}" for guess in guesses]
            + [f"{row.step / guess:.2f}" for guess in guesses]
            + [f"{rows[0].step / row.step:.2f}"]
        )
    print("\nspeeds alone / together; what a rank sends in a step, the model's number, and how many times the least\n")
    print(
        table(
            [
                "ranks",
                "GFLOP/s",
                "optimizer, GB/s",
                "NumPy, GB/s",
                "a call, µs",
                "α",
                "1/β",
                "sent",
                "model",
                "× least",
            ],
            speeds,
        )
    )
    print("\nmilliseconds\n")
    head = ["ranks", "step", "after backward", "model, alone", "model, together", "step ÷ alone", "step ÷ together"]
    print(table([*head, "speed-up"], results))
