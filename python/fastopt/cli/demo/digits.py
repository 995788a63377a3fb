"""``fastopt demo``: one network, trained with NumPy as people first write it, with NumPy in place, and with fastopt."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastopt import functional, nn, optim

from . import first_written, idiomatic
from .network import PARTS, Array, Bias, Lap, Layer, Linear, Network, ReLU, Stopwatch, cross_entropy, untimed


class Trainable(Protocol):
    """The part of a network that the loop needs."""

    @property
    def params(self) -> dict[str, Array]: ...
    @property
    def grads(self) -> dict[str, Array]: ...
    def forward(self, x: Array, lap: Lap = untimed) -> Array: ...
    def backward(self, dy: Array, lap: Lap = untimed) -> object: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


@dataclass(frozen=True)
class Backend:
    """The parts in which the trainings differ.

    ``optimizer(network, lr=…, weight_decay=…)`` makes a function that takes a step with the network's gradients.
    """

    name: str
    network: Callable[[Sequence[int], int], Trainable]
    loss: Callable[[Array, Array], tuple[Any, Any]]  # and its gradient
    optimizer: Callable[..., Callable[[], object]]


def build(
    hidden: Sequence[int],
    seed: int,
    *,
    norm: Callable[[int], Layer] = nn.BatchNormReLU,
    relu: Callable[[], Layer] | None = None,
) -> Network:
    """64 pixels → (Linear, BatchNorm, ReLU) for every hidden width → Linear with bias → 10 logits.

    ``relu`` is ``None`` if it is part of the norm.
    """
    rng = np.random.default_rng(seed)
    layers: list[tuple[str, Layer]] = []
    for i, (inputs, outputs) in enumerate(pairwise([64, *hidden]), start=1):
        layers.append((f"fc{i}", Linear(inputs, outputs, rng, input_grad=i > 1)))  # no bias: BatchNorm would undo it
        layers.append((f"norm{i}", norm(outputs)))
        if relu:
            layers.append((f"relu{i}", relu()))
    return Network([*layers, ("out", Linear(hidden[-1], 10, rng)), ("out", Bias(10))])


def groups(network: Trainable) -> tuple[list[dict[str, Any]], list[list[Array]]]:
    """The parameters in two groups, of which only the matrices decay, and their gradients."""
    params, grads = network.params, network.grads
    names = [[name for name in params if params[name].ndim == 2], [name for name in params if params[name].ndim == 1]]
    decayed, others = ([params[name] for name in group] for group in names)
    return [{"params": decayed}, {"params": others, "weight_decay": 0.0}], [
        [grads[name] for name in group] for group in names
    ]


def replacing(network: Any, *, lr: float, weight_decay: float) -> Callable[[], object]:
    """AdamW as people first write it."""
    return first_written.AdamW(network, lr=lr, weight_decay=weight_decay).step


def in_place(optimizer: Callable[..., Any]) -> Callable[..., Callable[[], object]]:
    """An optimizer of arrays that stay the same."""

    def make(network: Trainable, *, lr: float, weight_decay: float) -> Callable[[], object]:
        params, grads = groups(network)
        step = optimizer(params, lr=lr, weight_decay=weight_decay).step
        return lambda: step(grads)

    return make


def build_in_place(hidden: Sequence[int], seed: int) -> Network:
    """The network in good NumPy code."""
    return build(hidden, seed, norm=idiomatic.BatchNorm, relu=ReLU)


FIRST = Backend("NumPy as first written", first_written.Network, first_written.cross_entropy, replacing)
NUMPY = Backend("NumPy in place", build_in_place, cross_entropy, in_place(idiomatic.AdamW))
FASTOPT = Backend("fastopt", build, functional.cross_entropy, in_place(optim.AdamW))


class Images(NamedTuple):
    """Rows of 64 grey values in [0, 1], and the digit that each shows, one-hot."""

    x: Array
    target: Array

    @classmethod
    def of(cls, pixels: Array, digit: Array) -> Images:
        """Images from scikit-learn's grey values in [0, 16] and digits."""
        return cls((pixels / 16).astype(np.float32), np.eye(10, dtype=np.float32)[digit])

    def shifted(self) -> Array:
        """The images where they are and shifted by one pixel in eight directions: (9, images, 64)."""
        padded = np.pad(self.x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
        return np.stack([padded[:, i : i + 8, j : j + 8].reshape(-1, 64) for i in range(3) for j in range(3)])


class Digits(NamedTuple):
    """scikit-learn's 1,797 digits, split in a fixed way."""

    train: Images
    valid: Images
    test: Images

    @classmethod
    def load(cls) -> Digits:
        """Splits into 60 % for training, 20 % to decide when to stop, 20 % for the test."""
        x, y = load_digits(return_X_y=True)
        x, test_x, y, test_y = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        x, valid_x, y, valid_y = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        return cls(Images.of(x, y), Images.of(valid_x, valid_y), Images.of(test_x, test_y))


class Epoch(NamedTuple):
    """The results after one pass over the training images; ``seconds`` are those of all steps so far."""

    train_loss: float
    valid_loss: float
    test_accuracy: float
    seconds: float


class Training:
    """The training of one network with one backend."""

    def __init__(self, backend: Backend, digits: Digits, args: argparse.Namespace) -> None:
        self.backend, self.digits, self.args = backend, digits, args
        self.network = backend.network(args.hidden, args.seed)
        self.update = backend.optimizer(self.network, lr=args.lr, weight_decay=args.weight_decay)
        self.shifted = digits.train.shifted()
        self.watch = Stopwatch()
        self.history: list[Epoch] = []
        self.progress: list[tuple[float, int]] = [(0.0, 0)]  # seconds of training, and images by then

    @property
    def best(self) -> Epoch:
        """The epoch with the best network."""
        return min(self.history, key=lambda epoch: epoch.valid_loss)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the validation loss has not improved for ``patience`` epochs."""
        done = len(self.history)
        waited = done - 1 - self.history.index(self.best) if done else 0
        return bool((self.args.patience and waited >= self.args.patience) or done >= self.args.epochs)

    @property
    def images(self) -> int:
        """The number of images of all epochs."""
        size = self.args.batch_size
        return int(len(self.digits.train.x) // size * size * self.args.epochs)

    def step(self, x: Array, target: Array) -> float:
        """Takes one step of AdamW on one batch; returns the loss before it."""
        network, lap = self.network, self.watch.lap
        self.watch.step()
        logits = network.forward(x, lap)
        loss, dlogits = self.backend.loss(logits, target)
        lap("everything else")
        network.backward(dlogits, lap)
        self.update()
        lap("optimizer")
        return float(loss)

    def epoch(self, advance: Callable[[float, int], object] = lambda seconds, images: None) -> None:
        """Passes over the training images in whole batches, each image shifted at random.

        Order and shifts depend on seed and epoch alone.  ``advance(seconds, images)`` is called after every step, outside of
        the measured time.
        """
        rng, train, size = (
            np.random.default_rng([self.args.seed, len(self.history)]),
            self.digits.train,
            self.args.batch_size,
        )
        order, shifts = rng.permutation(len(train.x)), rng.integers(9, size=len(train.x))
        losses = []
        seconds, images = self.progress[-1]
        for i in range(0, len(order) - size + 1, size):
            rows = order[i : i + size]
            start = perf_counter()
            losses.append(self.step(self.shifted[shifts[i : i + size], rows], train.target[rows]))
            seconds += perf_counter() - start
            images += size
            self.progress.append((seconds, images))
            advance(seconds, images)
        self.network.eval()
        valid_loss, _ = self.evaluate(self.digits.valid)
        _, test_accuracy = self.evaluate(self.digits.test)
        self.network.train()
        self.history.append(Epoch(sum(losses) / len(losses), valid_loss, test_accuracy, seconds))

    def evaluate(self, images: Images) -> tuple[float, float]:
        """The loss and the accuracy on ``images``."""
        logits = self.network.forward(images.x)
        accuracy = float(np.mean(np.argmax(logits, axis=1) == np.argmax(images.target, axis=1)))
        return float(self.backend.loss(logits, images.target)[0]), accuracy

    def step_times(self) -> dict[str, float]:
        """The median seconds of each part of a step, and of a whole step."""
        steps = self.watch.steps()
        parts = {part: median(step[part] for step in steps) for part in PARTS}
        return parts | {"whole step": median(sum(step.values()) for step in steps)}


# What is not given: three bars that are a pleasure to watch; a second; and what several processes can share.
RACE = {"hidden": [1024, 1024], "batch_size": 16, "epochs": 20, "patience": None}
QUICK = {"hidden": [128, 128], "batch_size": 32, "epochs": 8, "patience": None}
PARALLEL = {"hidden": [128, 128], "batch_size": 32, "epochs": 100, "patience": 15}


def settle(args: argparse.Namespace, defaults: dict[str, Any], digits: Digits, smallest: int = 2) -> str:
    """Sets the options that are not given; returns the text of an error, or nothing."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if smallest <= args.batch_size <= len(digits.train.x):
        return ""
    return f"fastopt demo: --batch-size must be in [{smallest}, {len(digits.train.x)}], got {args.batch_size}"
