"""Threads call layers in evaluation, optimizers and matrix products, while the process forks: every result is compared
with one that was computed alone.

    python bench/stress.py 120           # seconds
    python bench/stress.py --rounds 3    # as in the tests

In a round each thread makes a fixed number of calls:
    layers    three threads call the same layers in evaluation, on inputs of their own
    own       two threads step optimizers of their own, in several formats, and compare their weights at the end
    shared    three threads step one optimizer, with the same gradients: a lost step would show, the order does not
    products  two threads multiply matrices with NumPy, whose BLAS borrows fastopt's threads
The main thread forks all the time.  A child evaluates a layer, multiplies, steps an optimizer of its own, and steps the
shared one, in which other threads of its parent may have been at the fork.  It counts as hung after a minute, a thread
after five.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt as fo
from fastopt import nn, optim

Array = NDArray[Any]

THREADS = {"layers": 3, "own": 2, "shared": 3, "products": 2}
SWEEPS = {"layers": 8, "own": 1, "shared": 20, "products": 20}  # of each thread in a round
CHILD_LIMIT, THREAD_LIMIT = 60, 300  # seconds

OWN_STEPS = 8
OWN: dict[str, Callable[[list[Array]], optim.Optimizer]] = {
    "AdamW": lambda params: optim.AdamW(params, lr=1e-2),
    "AdamW, moments 8bit": lambda params: optim.AdamW(params, lr=1e-2, moments="8bit"),
    "SGD, ema": lambda params: optim.SGD(params, lr=1e-2, momentum=0.9, ema_decay=0.9),
    "Adafactor": lambda params: optim.Adafactor(params, lr=1e-2),
}
SHAPES = ((150, 200), (300,), (1 << 17,))  # the last one is worth several threads


def numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def same(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


class Layers:
    """Layers in evaluation, and the results of each for some inputs."""

    def __init__(self) -> None:
        images = {"NCHW": (8, 32, 14, 14), "NHWC": (8, 14, 14, 32)}
        made: dict[str, tuple[nn.Layer, tuple[int, ...]]] = {
            "LayerNorm": (nn.LayerNorm(257), (300, 257)),
            "RMSNorm": (nn.RMSNorm(512), (200, 512)),
        }
        for layout, shape in images.items():
            axis = {"channel_axis": -1 if layout == "NHWC" else 1}
            made |= {
                f"BatchNorm {layout}": (nn.BatchNorm(32, **axis), shape),
                f"BatchNormReLU {layout}": (nn.BatchNormReLU(32, **axis), shape),
                f"InstanceNorm {layout}": (nn.InstanceNorm(32, **axis), shape),
                f"GroupNorm {layout}": (nn.GroupNorm(4, 32, **axis), shape),
            }
        self.cases: list[tuple[nn.Layer, list[tuple[Array, Array]]]] = []
        for layer, shape in made.values():
            layer.eval()
            inputs = [numbers(seed, *shape) for seed in range(THREADS["layers"])]
            self.cases.append((layer, [(x, layer(x)) for x in inputs]))

    def right(self, which: int) -> Iterator[bool]:
        """Whether every layer gives the right result on its input number ``which``."""
        for layer, known in self.cases:
            x, y = known[which]
            yield same(layer(x), y)


class Own:
    """Runs of optimizers that all start alike, and their weights at the end."""

    def __init__(self) -> None:
        self.grads = [numbers(seed, *shape) for seed, shape in enumerate(SHAPES)]
        self.known = {name: self.run(name) for name in OWN}

    def run(self, name: str) -> list[Array]:
        params = [np.ones(shape, np.float32) for shape in SHAPES]
        opt = OWN[name](params)
        for _ in range(OWN_STEPS):
            opt.step(self.grads)
        return params

    def right(self) -> Iterator[bool]:
        for name, known in self.known.items():
            yield all(map(same, self.run(name), known))


class Shared:
    """One optimizer that several threads step, and its twin, which afterwards takes the same number of steps."""

    def __init__(self) -> None:
        self.grads = [numbers(10, 100, 30), numbers(11, 40_000)]
        self.steps = 0
        self.params, self.opt = self.make()
        self.known, self.twin = self.make()

    def make(self) -> tuple[list[Array], optim.Optimizer]:
        params = [np.ones_like(grad) for grad in self.grads]
        return params, optim.AdamW(params, lr=1e-3)

    def step(self) -> int:
        return self.opt.step(self.grads).step

    def right(self, steps: int) -> bool:
        """Whether the weights are those after the given number of steps."""
        while self.steps < steps:
            self.steps = self.twin.step(self.grads).step
        return self.steps == steps and all(map(same, self.params, self.known))


class Product:
    def __init__(self) -> None:
        self.a, self.b = numbers(20, 256, 300), numbers(21, 300, 280)
        self.known = self.a @ self.b

    def right(self) -> bool:
        return same(self.a @ self.b, self.known)


class Stress:
    def __init__(self) -> None:
        self.layers, self.own, self.product = Layers(), Own(), Product()
        self.shared = Shared()
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def count(self, kind: str, results: Iterator[bool]) -> None:
        right = [*results]
        with self.lock:
            self.counts[kind] += len(right)
            self.counts["wrong"] += right.count(False)

    def work(self, kind: str, number: int) -> None:
        try:
            for _ in range(SWEEPS[kind]):
                if kind == "layers":
                    self.count("layer calls", self.layers.right(number))
                elif kind == "own":
                    self.count("runs of own optimizers", self.own.right())
                elif kind == "shared":
                    self.shared.step()  # checked when the round is over
                    self.count("steps of the shared optimizer", iter([True]))
                else:
                    self.count("products", iter([self.product.right()]))
        except Exception:
            self.count("errors in threads", iter([False]))
            raise

    def in_child(self) -> bool:
        """Whether everything works in a child that has just been forked."""
        if not all((next(self.layers.right(0)), self.product.right(), next(self.own.right()))):
            return False
        return self.shared.right(self.shared.step())

    def fork(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: that is the test
            child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(CHILD_LIMIT)
                status = 0 if self.in_child() else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        self.counts["hung"] += hung
        with self.lock:
            self.counts["forks"] += 1
            self.counts["wrong"] += status != 0 and not hung

    def round(self) -> None:
        threads = [
            threading.Thread(target=self.work, args=(kind, number), daemon=True)
            for kind, many in THREADS.items()
            for number in range(many)
        ]
        for thread in threads:
            thread.start()
        latest = time.monotonic() + THREAD_LIMIT
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() > latest:
                faulthandler.dump_traceback()
                self.counts["hung"] += sum(thread.is_alive() for thread in threads)
                return
            time.sleep(random.random() * 0.01)
            self.fork()
        taken = self.counts["steps of the shared optimizer"]
        self.counts["wrong"] += not self.shared.right(taken)
        self.counts["rounds"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=10, help="until no further round begins")
    parser.add_argument("--rounds", type=int, help="so many rounds instead, however long they take")
    arguments = parser.parse_args()
    if fo.get_num_threads() < 2:
        fo.set_num_threads(2)  # one thread has nothing to lend
    begin = time.monotonic()
    stress = Stress()
    while not stress.counts["hung"]:
        stress.round()
        done, seconds = stress.counts["rounds"], time.monotonic() - begin
        if done >= arguments.rounds if arguments.rounds is not None else seconds >= arguments.seconds:
            break
    lent = any(blas["lent"] for blas in fo.show_config()["blas"])
    stress.counts.update({"wrong": 0, "hung": 0})
    print(f"{time.monotonic() - begin:.0f} s, threads of fastopt {'lent' if lent else 'not lent'}")
    for name, count in sorted(stress.counts.items()):
        print(f"{name:32}{count:>10,}")
    sys.stdout.flush()
    if stress.counts["hung"]:
        os._exit(1)  # hanging threads would keep the process alive
    return int(stress.counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
