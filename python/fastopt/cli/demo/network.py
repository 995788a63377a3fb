"""A network in a hand-written NumPy loop: what both sides of the demo share.

Every layer writes where ``out`` says; the network keeps what the first pass allocated and hands it out again, so that a
training step allocates nothing of size.
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
    """Take no time."""


class Layer(Protocol):
    """What a network asks of a layer: ``fastopt.nn`` has it, and so has everything here."""

    @property
    def params(self) -> dict[str, Array]: ...
    @property
    def grads(self) -> dict[str, Array]: ...
    def __call__(self, x: Array, *, out: Array | None = None) -> Array: ...
    def backward(self, dy: Array, *, out: Array | None = None) -> Array: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


class Plain:
    """A layer that is the same in training and in evaluation; its time counts as ``part``."""

    part = "everything else"

    def __init__(self, **params: Array) -> None:
        self.params = params
        self.grads = {name: np.zeros_like(value) for name, value in params.items()}

    def train(self) -> None:
        """Nothing changes."""

    def eval(self) -> None:
        """Nothing changes."""


class Linear(Plain):
    """y = x W, with He's initialization: W ~ N(0, 2 / inputs).

    The first layer of a network passes ``input_grad=False``: nobody needs the gradient of the data.
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
    """y = max(x, 0), in place.  It counts with the norm before it, as where one layer is both."""

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
    """Named layers, one after the other; a name may stand for several (``fc1``: the product and its bias)."""

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
        """Overwrite ``grads``, given the gradient of the last output; that of the input."""
        for i in reversed(range(len(self.layers))):
            dy = self._input_grads[i] = self.layers[i].backward(dy, out=self._input_grads[i])
            lap(self.parts[i])
        return dy

    def train(self) -> None:
        """Normalize with the statistics of the batch, and remember them."""
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        """Normalize with the statistics that were remembered."""
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
    """Remembers when what was done in every training step.

    It keeps flat lists of numbers: tuples or dicts would bring the garbage collector into what is measured.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []  # what was done; empty where a step begins
        self.times: list[float] = []  # when it was done

    def step(self) -> None:
        """A step begins."""
        self.lap("")

    def lap(self, part: str) -> None:
        """What happened since the last call was ``part``."""
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
