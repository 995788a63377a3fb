"""A character-level transformer in a hand-written NumPy loop, trained on the sources of Python's own modules.

The network is that of the digits with other layers: a row of an activation is one character of one text in the batch.
"""

from __future__ import annotations

import importlib
import inspect
import math
from typing import NamedTuple

import numpy as np

from fastopt import nn

from .network import Array, Lap, Layer, Linear, Network, Plain, ReLU, untimed

MODULES = "argparse configparser difflib heapq pickle random shutil statistics subprocess threading"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # a character's number is its index in this string
CONTEXT = 64


class Text(NamedTuple):
    """The numbers of characters, split in a fixed way."""

    train: Array
    valid: Array

    @classmethod
    def load(cls) -> Text:
        """The printable ASCII of some modules' sources; the last tenth of each is for validation."""
        cuts: list[list[Array]] = []
        for name in MODULES.split():
            source = inspect.getsource(importlib.import_module(name)).encode("ascii", "ignore")
            codes = np.frombuffer(source, np.uint8)
            codes = codes[(codes == ord("\n")) | (codes >= 32) & (codes < 127)]
            cuts.append(np.split(np.maximum(codes, 31) - 31, [len(codes) * 9 // 10]))
        train, valid = zip(*cuts, strict=True)
        return cls(np.concatenate(train), np.concatenate(valid))


def windows(text: Array, starts: Array) -> tuple[Array, Array]:
    """Pieces of the text that begin at ``starts``, (pieces, CONTEXT), and the one-hot characters that follow each."""
    pieces = text[starts[:, None] + np.arange(CONTEXT + 1)]
    return pieces[:, :-1], np.eye(len(CHARACTERS), dtype=np.float32)[pieces[:, 1:].ravel()]


class Embedding(Plain):
    """The sum of a vector per character and a vector per position."""

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        sizes = {"character": len(CHARACTERS), "place": CONTEXT}
        super().__init__(**{name: rng.standard_normal((n, width), dtype=np.float32) for name, n in sizes.items()})
        for param in self.params.values():
            param *= math.sqrt(0.5)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        character, place = self.params["character"], self.params["place"]
        self.x = x.ravel()
        y: Array = np.take(character, self.x, axis=0, out=out, mode="clip")
        y.reshape(-1, *place.shape)[...] += place
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        chosen = np.eye(len(CHARACTERS), dtype=dy.dtype)[self.x]
        np.matmul(chosen.T, dy, out=self.grads["character"])
        np.add.reduce(dy.reshape(-1, *self.grads["place"].shape), axis=0, out=self.grads["place"])
        return dy


class Attention(Plain):
    """softmax(q kᵀ/√size) v of every head, in which a position sees itself and those before it.

    A row of the input is q, k and v of all heads; a row of the output is one vector of each head.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.hidden = np.triu(np.full((CONTEXT, CONTEXT), -np.inf, np.float32), 1)
        # The attention weights of every text, and their gradients.
        self.weights = np.empty((2, 0, heads, CONTEXT, CONTEXT))

    def split(self, x: Array, parts: int) -> Array:
        """The rows as (parts, texts, heads, places, size), in the same memory."""
        size = x.shape[1] // (parts * self.heads)
        result: Array = x.reshape(-1, CONTEXT, parts, self.heads, size).transpose(2, 0, 3, 1, 4)
        return result

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        self.x, (q, k, v) = x, self.split(x, 3)
        self.y = np.empty((len(x), x.shape[1] // 3), x.dtype) if out is None else out
        if self.weights.shape[1] != len(q):
            self.weights = np.empty((2, len(q), *self.weights.shape[2:]), x.dtype)
        w = np.matmul(q, k.swapaxes(-1, -2), out=self.weights[0])
        w *= 1 / math.sqrt(q.shape[-1])
        w += self.hidden
        w -= np.maximum.reduce(w, axis=-1, keepdims=True)
        np.exp(w, out=w)
        w /= np.add.reduce(w, axis=-1, keepdims=True)
        np.matmul(w, v, out=self.split(self.y, 1)[0])
        return self.y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """With S = q kᵀ/√size: dS = w·(dy vᵀ − Σ dy·y), where Σ is over the vector of a head."""
        dx = np.empty_like(self.x) if out is None else out
        (q, k, v), (dq, dk, dv), (w, dw) = self.split(self.x, 3), self.split(dx, 3), self.weights
        y, d = self.split(self.y, 1)[0], self.split(dy, 1)[0]
        np.matmul(w.swapaxes(-1, -2), d, out=dv)
        np.matmul(d, v.swapaxes(-1, -2), out=dw)
        dw -= np.add.reduce(d * y, axis=-1, keepdims=True)
        dw *= w
        dw *= 1 / math.sqrt(q.shape[-1])
        np.matmul(dw, k, out=dq)
        np.matmul(dw.swapaxes(-1, -2), q, out=dk)
        return dx


class Residual(Network):
    """y = x + f(x), where f is the network of these layers."""

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        return np.add(x, self.forward(x), out=out)

    def backward(self, dy: Array, lap: Lap = untimed, *, out: Array | None = None) -> Array:
        return np.add(super().backward(dy, lap), dy, out=out)


def build(seed: int, *, width: int = 128, blocks: int = 2, heads: int = 4) -> Network:
    """Embedding → (attention, then two Linear with ReLU, each after LayerNorm and around a shortcut) → LayerNorm → Linear.

    Only the norms have a bias.  The initial weights of the layers that add to a shortcut get smaller with the number of layers:
    Radford et al. 2019, section 2.3.
    """
    rng = np.random.default_rng(seed)

    def linear(inputs: int, outputs: int, variance: float) -> Linear:
        layer = Linear(inputs, outputs, rng)
        layer.params["weight"] *= math.sqrt(variance / 2)  # the variance of an output for inputs of variance 1
        return layer

    layers: list[tuple[str, Layer]] = [("embedding", Embedding(width, rng))]
    for i in range(1, blocks + 1):
        attention: list[tuple[str, Layer]] = [
            ("norm", nn.LayerNorm(width)),
            ("qkv", linear(width, 3 * width, 1)),
            ("heads", Attention(heads)),
            ("out", linear(width, width, 0.5 / blocks)),
        ]
        mlp: list[tuple[str, Layer]] = [
            ("norm", nn.LayerNorm(width)),
            ("fc1", linear(width, 4 * width, 1)),
            ("relu", ReLU()),
            ("fc2", linear(4 * width, width, 0.5 / blocks)),
        ]
        layers += [(f"attention{i}", Residual(attention)), (f"mlp{i}", Residual(mlp))]
    layers += [("norm", nn.LayerNorm(width)), ("out", linear(width, len(CHARACTERS), 0.1))]
    return Network(layers)
