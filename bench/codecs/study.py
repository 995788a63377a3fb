"""Compares formats for Adam's moments in 8 bits, and prints the tables of docs/codecs.md.

    python bench/codecs/study.py                                  # all three, in about half an hour
    python bench/codecs/study.py speed --sizes 24 --threads 2     # 2²⁴ parameters; also --march, --piece, --ahead, --quantile
    python bench/codecs/study.py error train --steps 500          # networks of `fastopt demo formats`

codecs.cpp has the formats and an AdamW step on each; it is compiled with $CXX (g++) into a temporary folder.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
import time
import typing
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastopt.cli.demo.formats import Digits, Task, Transformer
from fastopt.cli.demo.network import cross_entropy

Floats = NDArray[np.float32]

FLAGS = "-O3 -mprefer-vector-width=512 -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -std=c++20 -shared -fPIC"
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Candidate(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("step", c_void_p), ("convert", c_void_p))


class State(ctypes.Structure):
    _fields_ = (("m", c_void_p), ("v", c_void_p), ("m_scale", c_void_p), ("v_scale", c_void_p))


class Codecs:
    """The compiled harness; `names` are the formats with their rounding, float32 first."""

    def __init__(self, march: str, piece: int, ahead: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = str(Path(folder, "codecs.so"))
            options = [f"-march={march}", f"-DPIECE={piece}", f"-DAHEAD={ahead}", *FLAGS.split()]
            source = str(Path(__file__).with_name("codecs.cpp"))
            subprocess.run([os.environ.get("CXX", "g++"), *options, source, "-o", library], check=True)
            self.library = ctypes.CDLL(library)
        count = c_int()
        self.library.candidates.restype = ctypes.POINTER(Candidate)
        table = self.library.candidates(ctypes.byref(count))
        self.candidates = {table[k].name.decode(): table[k] for k in range(count.value)}
        self.names = list(self.candidates)


def zeros(n: int) -> Floats:
    """An array of zeros that begins on a cache line."""
    a = np.zeros(n + 16, np.float32)
    return a[-a.ctypes.data % 64 // 4 :][:n]


class Adam:
    """AdamW over n parameters, a multiple of 1,024, with its moments in one of the formats."""

    def __init__(self, codecs: Codecs, name: str, n: int) -> None:
        self.library, self.candidate, self.n, self.t = codecs.library, ctypes.byref(codecs.candidates[name]), n, 0
        self.arrays = [zeros(size) for size in (n, n, n // 32, n // 32)]  # large enough for every format
        self.state = State(*(a.ctypes.data for a in self.arrays))

    def step(self, p: Floats, g: Floats, lr: float, threads: int = 1) -> None:
        self.t += 1
        rate, nu = lr / (1 - BETA1**self.t), (1 - BETA2**self.t) ** -0.5
        rule = (c_float * 8)(BETA1, 1 - BETA1, BETA2, 1 - BETA2, 1 - 0.01 * lr, rate, nu, EPS)
        self._call(self.library.run, c_void_p(p.ctypes.data), c_void_p(g.ctypes.data), threads, rule)

    def moments(self) -> tuple[Floats, Floats]:
        m, v = zeros(self.n), zeros(self.n)
        self._call(self.library.transfer, c_void_p(m.ctypes.data), c_void_p(v.ctypes.data), 0)
        return m, v

    def set_moments(self, m: Floats, v: Floats) -> None:
        self._call(self.library.transfer, c_void_p(m.ctypes.data), c_void_p(v.ctypes.data), 1)

    def _call(self, function: typing.Any, a: c_void_p, b: c_void_p, *more: object) -> None:
        function(self.candidate, a, b, ctypes.byref(self.state), c_size_t(self.n), c_uint(self.t), *more)


def speed(codecs: Codecs, sizes: list[int], threads: list[int], rounds: int, quantile: float) -> None:
    """Prints the times of all candidates, which take turns; a low quantile excludes rounds disturbed by other work."""
    for size, count in ((size, count) for size in sizes for count in threads):
        n, steps = 1 << size, max(1, (1 << 20) >> size)
        p, g = zeros(n), zeros(n)  # not halves of one array, which would share cache sets and memory banks
        p[:], g[:] = 0.5, 1e-3
        adams = {name: Adam(codecs, name, n) for name in codecs.names}
        times = {name: np.empty(rounds) for name in codecs.names}
        for k in range(rounds):
            for name, adam in adams.items():
                adam.step(p, g, 1e-3, count)
                begin = time.perf_counter()
                for _ in range(steps):
                    adam.step(p, g, 1e-3, count)
                times[name][k] = (time.perf_counter() - begin) / steps / n * 1e9
        print(f"\n2^{size} parameters, {count} threads: ns a parameter, x of float32")
        for name, some in times.items():
            value, base = np.quantile(some, quantile), np.quantile(times["float32"], quantile)
            print(f"{name:36}{value:8.3f}{base / value:8.2f}")


class Training:
    """A task of `fastopt demo formats`; its parameters and gradients as one array each."""

    def __init__(self, task: Task, seed: int) -> None:
        self.network, self.batches = task.build(seed), task.batches(seed)
        n = sum(param.size for param in self.network.params.values())
        self.p, self.g = (zeros(-(-n // 1024) * 1024) for _ in range(2))
        self._copy(self.p, self.network.params, into=True)

    def gradient(self) -> float:
        """Computes the gradient of the next batch; returns its loss."""
        self._copy(self.p, self.network.params, into=False)
        x, target = next(self.batches)
        loss, dlogits = cross_entropy(self.network.forward(x), target)
        self.network.backward(dlogits)
        self._copy(self.g, self.network.grads, into=True)
        return loss

    @staticmethod
    def _copy(flat: Floats, arrays: dict[str, NDArray[typing.Any]], *, into: bool) -> None:
        end = 0
        for array in arrays.values():
            part, end = flat[end : end + array.size].reshape(array.shape), end + array.size
            if into:
                part[...] = array
            else:
                array[...] = part


def error(codecs: Codecs, task: Task, steps: int) -> None:
    """Prints the errors of every format when it follows the gradients of one training run with float32 moments."""
    norm = np.linalg.norm
    training = Training(task, 0)
    adams = {name: Adam(codecs, name, len(training.p)) for name in codecs.names}
    elsewhere = zeros(len(training.p))
    for _ in range(steps):
        training.gradient()
        for name, adam in adams.items():
            adam.step(training.p if name == "float32" else elsewhere, training.g, task.lr)
    m, v = adams["float32"].moments()
    nu = (1 - BETA2**steps) ** -0.5
    update, some = m / (np.sqrt(v) * nu + EPS), v > 0
    print(
        f"\n{task.name}: one round trip: norm of m's error; rms of v's, at most 1; share of v off by more than a half;"
    )
    print(f"after {steps} steps: median error of v, of √v; norm of m's, of the update's; largest of the update's")
    for name, adam in adams.items():
        once = Adam(codecs, name, len(m))
        once.set_moments(m, v)
        (m1, v1), (m2, v2) = once.moments(), adam.moments()
        off, later = (x[some] / v[some] for x in (v1, v2))
        wrong = m2 / (np.sqrt(v2) * nu + EPS) - update
        row = [norm(m1 - m) / norm(m), np.sqrt(np.mean(np.minimum(abs(off - 1), 1) ** 2)), np.mean(abs(off - 1) > 0.5)]
        row += [np.median(abs(later - 1)), np.median(abs(np.sqrt(later) - 1))]
        row += [norm(m2 - m) / norm(m), norm(wrong) / norm(update), abs(wrong).max()]
        print(f"{name:36}" + "".join(f"{x:8.4f}" for x in row))


def train(codecs: Codecs, task: Task, steps: int, seeds: int) -> None:
    """Trains with every format.  The learning rate is constant for half of the steps and then falls to zero."""
    print(
        f"\n{task.name}, {steps} steps: mean training loss over the last tenth; beside float32's of the same seed, in %"
    )
    losses: dict[str, NDArray[np.float64]] = {}
    for name in codecs.names:
        losses[name] = np.empty((seeds, steps))
        for seed in range(seeds):
            training = Training(task, seed)
            adam = Adam(codecs, name, len(training.p))
            for t in range(steps):
                losses[name][seed, t] = training.gradient()
                adam.step(training.p, training.g, task.lr * min(1, 2 * (1 - t / steps)))
        last, exact = (losses[key][:, -(steps // 10) :].mean(1) for key in (name, "float32"))
        percent = 100 * (last / exact - 1)
        print(
            f"{name:36}{last.mean():9.5f}{percent.mean():+8.2f}  " + "".join(f"{x:+8.2f}" for x in percent), flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["speed", "error", "train"], help="speed, error, train")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 24, 26], help="binary logarithms")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quantile", type=float, default=0.5, help="of the rounds; 0.1 on a busy machine")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--march", default="x86-64-v4", help="x86-64-v3 or x86-64-v4")
    parser.add_argument("--piece", type=int, default=64, help="elements decoded at a time")
    parser.add_argument("--ahead", type=int, default=256, help="elements prefetched ahead; 0: none")
    args = parser.parse_args()
    codecs = Codecs(args.march, args.piece, args.ahead)
    if "speed" in args.parts:
        speed(codecs, args.sizes, args.threads, args.rounds, args.quantile)
    for task in (Digits(), Transformer()) if {"error", "train"} & set(args.parts) else ():
        if "error" in args.parts:
            error(codecs, task, args.steps)
        if "train" in args.parts:
            train(codecs, task, args.steps, args.seeds)


if __name__ == "__main__":
    main()
