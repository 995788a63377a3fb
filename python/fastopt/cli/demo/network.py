"""A network in a hand-written NumPy loop, the common part of both sides of the demo.

Every layer writes to ``out``.  The network keeps the arrays that the first pass allocated and passes them again, so that a
training step allocates no large array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Lap = Callable[[str], object]

PARTS = ("matrix products", "norm and ReLU", "optimizer", "everything else")


def untimed(part: str) -> None:
    """Measure nothing."""


class Layer(Protocol):
    """The part of a layer that a network needs; the layers of ``fastopt.nn`` and of this module have it."""

    @property
    def params(self) -> dict[str, Array]: ...
    @property
    def grads(self) -> dict[str, Array]: ...
    def __call__(self, x: Array, *, out: Array | None = None) -> Array: ...
    def backward(self, dy: Array, *, out: Array | None = None) -> Array: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


class Plain:
    """A layer that is the same in training and in evaluation; its time counts for ``part``."""

    part = "everything else"

    def __init__(self, **params: Array) -> None:
        self.params = params
        self.grads = {name: np.zeros_like(value) for name, value in params.items()}

    def train(self) -> None:
        """Does nothing."""

    def eval(self) -> None:
        """Does nothing."""


class Linear(Plain):
    """y = x W, with He's initialization: W ~ N(0, 2 / inputs).

    The first layer of a network has ``input_grad=False``, as the gradient of the data is not needed.
    """

    part = "matrix products"

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, *, input_grad: bool = True) -> None:
        weight = rng.standard_normal((inputs, outputs), dtype=np.float32)
        weight *= math.sqrt(2 / inputs)
        super().__init__(weight=weight)
        self.input_grad = input_grad

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        self.x = x
        return np.matmul(x, self.params["weight"], out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        np.matmul(self.x.T, dy, out=self.grads["weight"])
        return np.matmul(dy, self.params["weight"].T, out=out) if self.input_grad else dy


class Bias(Plain):
    """y = x + b, in place."""

    def __init__(self, features: int) -> None:
        super().__init__(bias=np.zeros(features, np.float32))

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        x += self.params["bias"]
        return x

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        np.add.reduce(dy, axis=0, out=self.grads["bias"])
        return dy


class ReLU(Plain):
    """y = max(x, 0), in place.  Its time counts for the norm before it, as if one layer were both."""

    part = "norm and ReLU"

    def __init__(self) -> None:
        super().__init__()
        self.positive: Array | None = None

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        self.y = np.maximum(x, 0, out=x)
        return self.y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        self.positive = np.greater(self.y, 0, out=self.positive)
        return np.multiply(dy, self.positive, out=dy)


class Network:
    """Named layers, one after the other; several may share a name (``fc1`` is the product and its bias)."""

    def __init__(self, layers: Sequence[tuple[str, Layer]]) -> None:
        self.layers = [layer for _, layer in layers]
        self.parts = [getattr(layer, "part", "norm and ReLU") for layer in self.layers]
        self.params = {f"{name}.{key}": value for name, layer in layers for key, value in layer.params.items()}
        self.grads = {f"{name}.{key}": value for name, layer in layers for key, value in layer.grads.items()}
        self._outputs: dict[int, list[Array | None]] = {}
        self._input_grads: list[Array | None] = [None] * len(layers)

    def forward(self, x: Array, lap: Lap = untimed) -> Array:
        """The output for the rows of ``x``; ``lap(part)`` is called after every layer."""
        outputs = self._outputs.setdefault(len(x), [None] * len(self.layers))
        for i, layer in enumerate(self.layers):
            x = outputs[i] = layer(x, out=outputs[i])
            lap(self.parts[i])
        return x

    def backward(self, dy: Array, lap: Lap = untimed) -> Array:
        """Overwrite ``grads`` from the gradient of the last output; return that of the input."""
        for i in reversed(range(len(self.layers))):
            dy = self._input_grads[i] = self.layers[i].backward(dy, out=self._input_grads[i])
            lap(self.parts[i])
        return dy

    def train(self) -> None:
        """Normalize with the statistics of the batch, and record them."""
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        """Normalize with the recorded statistics."""
        for layer in self.layers:
            layer.eval()


def cross_entropy(logits: Array, target: Array) -> tuple[float, Array]:
    """The mean of −target·log softmax(logits) over the rows, and its gradient, which overwrites ``logits``.

    Args:
        logits: (rows, classes).
        target: (rows, classes), one-hot.
    """
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    chosen = np.vdot(target, logits)
    np.exp(logits, out=logits)
    total = np.add.reduce(logits, axis=1, keepdims=True)
    logits /= total
    logits -= target
    logits /= len(logits)
    return float(np.add.reduce(np.log(total), axis=None) - chosen) / len(logits), logits


class Stopwatch:
    """Records the times of the parts of every training step.

    It keeps flat lists of numbers: tuples or dicts would bring the garbage collector into the measurement.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []  # the part that ended; empty at the beginning of a step
        self.times: list[float] = []  # the time of its end

    def step(self) -> None:
        """Record the beginning of a step."""
        self.lap("")

    def lap(self, part: str) -> None:
        """Record that the time since the last call belongs to ``part``."""
        self.parts.append(part)
        self.times.append(perf_counter())

    def steps(self) -> list[dict[str, float]]:
        """The seconds of every part of every step."""
        steps: list[dict[str, float]] = []
        for part, before, after in zip(self.parts, [0.0, *self.times], self.times, strict=False):
            if part:
                steps[-1][part] += after - before
            else:
                steps.append(dict.fromkeys(PARTS, 0.0))
        return steps
