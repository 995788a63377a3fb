"""BatchNorm and AdamW in good NumPy code: in place, with buffers that are kept, and as few passes as possible.

They have the signatures and conventions of ``fastopt.nn.BatchNorm`` and ``fastopt.optim.AdamW``, so that the training loop is
the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from .network import Array


class BatchNorm:
    """y = (x − mean) · rstd · weight + bias over the rows of a float32 batch."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.params = {"weight": np.ones(num_features, np.float32), "bias": np.zeros(num_features, np.float32)}
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.running_mean, self.running_var = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        self.xhat: Array | None = None
        self.training = True

    def train(self) -> None:
        """Normalize with the statistics of the batch, and record them."""
        self.training = True

    def eval(self) -> None:
        """Normalize with the recorded statistics."""
        self.training = False

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        weight, bias, n = self.params["weight"], self.params["bias"], len(x)
        if not self.training:
            scale = weight / np.sqrt(self.running_var + self.eps)
            y: Array = np.multiply(x, scale, out=out)
            y += bias - self.running_mean * scale
            return y
        mean = np.add.reduce(x, axis=0)
        mean /= n
        self.xhat = xhat = np.subtract(x, mean, out=self.xhat)
        var = np.einsum("ij,ij->j", xhat, xhat)
        var /= n
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (var * (n / (n - 1)) - self.running_var)
        var += self.eps
        self.rstd = np.divide(1, np.sqrt(var, out=var), out=var)
        xhat *= self.rstd
        y = np.multiply(xhat, weight, out=out)
        y += bias
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        assert self.xhat is not None
        dbias = np.add.reduce(dy, axis=0, out=self.grads["bias"])
        dweight = np.einsum("ij,ij->j", dy, self.xhat, out=self.grads["weight"])
        dx = np.multiply(self.xhat, dweight / len(dy), out=out)
        np.subtract(dy, dx, out=dx)
        dx -= dbias / len(dy)
        dx *= self.params["weight"] * self.rstd
        return dx


class AdamW:
    """Adam with decoupled weight decay: thirteen passes over memory, none of which allocates.

    It scales ε instead of dividing √v by √(1−β₂ᵗ), which saves a pass.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        self.lr, self.betas, self.eps, self.steps = lr, betas, eps, 0
        scratch = np.empty(max(p.size for group in groups for p in group["params"]), np.float32)
        self.slots = [
            (p, np.zeros_like(p), np.zeros_like(p), scratch[: p.size].reshape(p.shape), 1 - lr * decay)
            for group in groups
            for decay in [group.get("weight_decay", weight_decay)]
            for p in group["params"]
        ]

    def step(self, grads: Sequence[Sequence[Array]]) -> None:
        """Update every parameter; ``grads`` has a list per group."""
        self.steps += 1
        beta1, beta2 = self.betas
        correction = math.sqrt(1 - beta2**self.steps)
        rate, eps = self.lr * correction / (1 - beta1**self.steps), self.eps * correction
        for (p, m, v, s, keep), g in zip(self.slots, chain(*grads), strict=True):
            np.multiply(g, 1 - beta1, out=s)
            m *= beta1
            m += s
            np.multiply(g, g, out=s)
            s *= 1 - beta2
            v *= beta2
            v += s
            np.sqrt(v, out=s)
            s += eps
            np.divide(m, s, out=s)
            s *= rate
            if keep != 1:
                p *= keep
            p -= s
