"""The digits' network in NumPy as people first write it: every line makes new arrays, and the optimizer replaces its parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .network import Array, Lap, untimed


class Network:
    """(product, BatchNorm, ReLU) for every hidden width, then a product and a bias; the names are those of the other networks."""

    def __init__(self, hidden: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.depth, self.training = len(hidden), True
        self.params: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        self.running: dict[str, tuple[Array, Array]] = {}
        for i, (inputs, outputs) in enumerate(pairwise([64, *hidden]), start=1):
            self.params[f"fc{i}.weight"] = normal(rng, inputs, outputs)
            self.params[f"norm{i}.weight"] = np.ones(outputs, np.float32)
            self.params[f"norm{i}.bias"] = np.zeros(outputs, np.float32)
            self.running[f"norm{i}"] = np.zeros(outputs, np.float32), np.ones(outputs, np.float32)
        self.params["out.weight"] = normal(rng, hidden[-1], 10)
        self.params["out.bias"] = np.zeros(10, np.float32)

    def train(self) -> None:
        """Normalize with the statistics of the batch, and record them."""
        self.training = True

    def eval(self) -> None:
        """Normalize with the recorded statistics."""
        self.training = False

    def forward(self, x: Array, lap: Lap = untimed) -> Array:
        """The logits of the rows of ``x``."""
        p, self.saved = self.params, []
        for i in range(1, self.depth + 1):
            z = x @ p[f"fc{i}.weight"]
            lap("matrix products")
            running_mean, running_var = self.running[f"norm{i}"]
            if self.training:
                mean, var, n = z.mean(axis=0), z.var(axis=0), len(z)
                running_mean = 0.9 * running_mean + 0.1 * mean
                running_var = 0.9 * running_var + 0.1 * var * n / (n - 1)
                self.running[f"norm{i}"] = running_mean, running_var
            else:
                mean, var = running_mean, running_var
            xhat = (z - mean) / np.sqrt(var + 1e-5)
            y = p[f"norm{i}.weight"] * xhat + p[f"norm{i}.bias"]
            self.saved.append((x, xhat, var, y))
            x = np.maximum(y, 0)
            lap("norm and ReLU")
        self.last = x
        product = x @ p["out.weight"]
        lap("matrix products")
        logits: Array = product + p["out.bias"]
        return logits

    def backward(self, dy: Array, lap: Lap = untimed) -> None:
        """Makes ``grads`` from the gradient of the logits."""
        p, grads = self.params, self.grads
        grads["out.bias"] = dy.sum(axis=0)
        lap("everything else")
        grads["out.weight"] = self.last.T @ dy
        dy = dy @ p["out.weight"].T
        lap("matrix products")
        for i in range(self.depth, 0, -1):
            x, xhat, var, y = self.saved[i - 1]
            dy = dy * (y > 0)
            grads[f"norm{i}.weight"], grads[f"norm{i}.bias"] = (dy * xhat).sum(axis=0), dy.sum(axis=0)
            dxhat = dy * p[f"norm{i}.weight"]
            dz = (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0)) / np.sqrt(var + 1e-5)
            lap("norm and ReLU")
            grads[f"fc{i}.weight"] = x.T @ dz
            if i > 1:
                dy = dz @ p[f"fc{i}.weight"].T
            lap("matrix products")


class AdamW:
    """Adam with decoupled weight decay of the matrices, line by line as in the paper."""

    def __init__(self, network: Network, *, lr: float, weight_decay: float) -> None:
        self.network, self.lr, self.weight_decay, self.t = network, lr, weight_decay, 0
        self.m = {name: np.zeros_like(p) for name, p in network.params.items()}
        self.v = {name: np.zeros_like(p) for name, p in network.params.items()}

    def step(self) -> None:
        """Replaces every parameter."""
        self.t += 1
        params, m, v = self.network.params, self.m, self.v
        for name, g in self.network.grads.items():
            p = params[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            m_hat, v_hat = m[name] / (1 - 0.9**self.t), v[name] / (1 - 0.999**self.t)
            decay = self.weight_decay if p.ndim == 2 else 0.0
            params[name] = p - self.lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay * p)


def cross_entropy(logits: Array, target: Array) -> tuple[float, Array]:
    """The mean of −target·log softmax(logits) over the rows, and its gradient."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = e / e.sum(axis=1, keepdims=True)
    loss = -np.mean(np.sum(target * np.log(np.maximum(probability, 1e-30)), axis=1))
    return float(loss), (probability - target) / len(logits)


def normal(rng: np.random.Generator, inputs: int, outputs: int) -> Array:
    """He's initialization: W ~ N(0, 2 / inputs)."""
    weight: Array = rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(math.sqrt(2 / inputs))
    return weight
