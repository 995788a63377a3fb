"""A network of three times 512 with BatchNorm and ReLU at a batch of 128: NumPy as people first write it, in place, and fastopt.

    python bench/mlp.py [--steps 150] [--block 10]

Blocks of steps of all variants alternate in one process, so that a variant finds in the caches what a training would leave there;
with --block 1 each step finds what the other variants leave.  The figures are medians in microseconds, without the first step of
a block if it has more.  ``products`` is a step's eleven matrix products alone, which bound what a loop can gain.  The code in
place is that of ``fastopt demo``, as it was at 3547ff7.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import functional as F
from fastopt.cli.demo import idiomatic
from fastopt.cli.demo import network as plain

SIZES = (784, 512, 512, 512)
CLASSES, BATCH = 10, 128


class FirstWritten:
    """Every line makes new arrays."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.p: dict[str, Any] = {}
        for i, (before, after) in enumerate(zip(SIZES, (*SIZES[1:], CLASSES), strict=True)):
            self.p[f"w{i}"] = (rng.standard_normal((before, after)) * np.sqrt(2 / before)).astype(np.float32)
            if after != CLASSES:
                self.p[f"g{i}"], self.p[f"b{i}"] = np.ones(after, np.float32), np.zeros(after, np.float32)
        self.p["out"] = np.zeros(CLASSES, np.float32)
        self.m = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.running = {i: (np.zeros(512, np.float32), np.ones(512, np.float32)) for i in range(3)}
        self.t = 0

    def step(self, x: Any, labels: Any) -> float:
        p, grads, saved, h = self.p, {}, [], x
        for i in range(3):
            z = h @ p[f"w{i}"]
            mean, var = z.mean(axis=0), z.var(axis=0)
            rm, rv = self.running[i]
            self.running[i] = 0.9 * rm + 0.1 * mean, 0.9 * rv + 0.1 * var
            xhat = (z - mean) / np.sqrt(var + 1e-5)
            y = p[f"g{i}"] * xhat + p[f"b{i}"]
            saved.append((h, xhat, var, y))
            h = np.maximum(y, 0)
        logits = h @ p["w3"] + p["out"]
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        prob = e / e.sum(axis=1, keepdims=True)
        n = len(x)
        loss = -np.log(prob[np.arange(n), labels]).mean()
        d = prob
        d[np.arange(n), labels] -= 1
        d = d / n
        grads["w3"], grads["out"] = h.T @ d, d.sum(axis=0)
        d = d @ p["w3"].T
        for i in (2, 1, 0):
            before, xhat, var, y = saved[i]
            d = d * (y > 0)
            grads[f"g{i}"], grads[f"b{i}"] = (d * xhat).sum(axis=0), d.sum(axis=0)
            dx = d * p[f"g{i}"]
            d = (dx - dx.mean(axis=0) - xhat * (dx * xhat).mean(axis=0)) / np.sqrt(var + 1e-5)
            grads[f"w{i}"] = before.T @ d
            if i:
                d = d @ p[f"w{i}"].T
        self.t += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g**2
            mhat, vhat = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            p[name] = p[name] - 1e-3 * (mhat / (np.sqrt(vhat) + 1e-8) + 0.01 * p[name])
        return float(loss)


class InPlace:
    """The demo's network, norm and optimizer: no line allocates."""

    def __init__(self, rng: np.random.Generator) -> None:
        layers: list[tuple[str, Any]] = []
        for i in range(3):
            layers += [(f"fc{i}", plain.Linear(SIZES[i], 512, rng, input_grad=i > 0))]
            layers += [(f"norm{i}", idiomatic.BatchNorm(512)), (f"relu{i}", plain.ReLU())]
        self.net = plain.Network([*layers, ("out", plain.Linear(512, CLASSES, rng)), ("out", plain.Bias(CLASSES))])
        self.opt = idiomatic.AdamW([{"params": list(self.net.params.values())}])

    def step(self, x: Any, labels: Any) -> float:
        loss, d = plain.cross_entropy(self.net.forward(x), np.eye(CLASSES, dtype=np.float32)[labels])
        self.net.backward(d)
        self.opt.step([list(self.net.grads.values())])
        return float(loss)


class Fast:
    """The same network of fastopt's layers."""

    def __init__(self, rng: np.random.Generator) -> None:
        layers: list[Any] = []
        for i in range(3):
            layers += [fo.nn.Linear(SIZES[i], 512, bias=False, input_grad=i > 0, seed=i), fo.nn.BatchNormReLU(512)]
        self.net = fo.nn.Sequential(*layers, fo.nn.Linear(512, CLASSES, seed=3))
        self.params = self.net.params
        self.opt = fo.optim.AdamW(self.params, lr=1e-3)

    def step(self, x: Any, labels: Any) -> float:
        loss, d = F.cross_entropy(self.net(x), labels)
        self.net.backward(d)
        self.opt.step(self.net.grads)
        return float(loss)


class Products:
    """The matrix products of a step, into arrays that are kept."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.w = [rng.standard_normal((a, b), np.float32) for a, b in zip(SIZES, (*SIZES[1:], CLASSES), strict=True)]
        self.h = [rng.standard_normal((BATCH, n), np.float32) for n in (*SIZES, CLASSES)]
        self.z, self.d = [np.empty_like(h) for h in self.h], [np.empty_like(w) for w in self.w]

    def step(self, x: Any, labels: Any) -> float:
        for i, w in enumerate(self.w):
            np.matmul(self.h[i], w, out=self.z[i + 1])
        for i in (3, 2, 1, 0):
            np.matmul(self.h[i].T, self.h[i + 1], out=self.d[i])
            if i:
                np.matmul(self.h[i + 1], self.w[i].T, out=self.z[i])
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--block", type=int, default=10, help="steps of one variant in a row")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    runs = {
        "first written": FirstWritten(rng),
        "in place": InPlace(rng),
        "fastopt": Fast(rng),
        "products": Products(rng),
    }
    labels = rng.integers(0, CLASSES, BATCH)
    x = rng.standard_normal((BATCH, SIZES[0]), np.float32) + labels[:, None] / 5
    x = x.astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, float] = {}
    for _ in range(-(-args.steps // args.block)):
        for name, run in runs.items():
            for k in range(args.block):
                begin = time.perf_counter()
                losses[name] = run.step(x, labels)
                if k or args.block == 1:
                    times[name].append(time.perf_counter() - begin)
    medians = {name: 1e6 * statistics.median(some) for name, some in times.items()}
    print(f"{fo.get_num_threads()} threads:", ", ".join(f"{name} {us:,.0f} µs" for name, us in medians.items()))
    first, place, fast, products = (medians[name] for name in runs)
    print(
        f"first written ÷ fastopt {first / fast:.2f}, in place ÷ fastopt {place / fast:.2f}, in place ÷ products {place / products:.2f}"
    )
    print("losses:", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if name != "products"))


if __name__ == "__main__":
    main()
