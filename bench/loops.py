"""Activations, softmax and losses beside idiomatic NumPy and torch: how many times as long these take.

    python bench/loops.py                 # all threads
    OMP_NUM_THREADS=1 python bench/loops.py --rounds 30

The candidates alternate in one process; the ratios are of medians.  ``floor`` is the copy of as many bytes as the function
reads and writes.  torch is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import functional as F

Call = Callable[[], Any]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy(x: Any, labels: Any) -> Any:
    p = softmax(x)
    rows = np.arange(len(x))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(x)


def cases(torch: Any) -> dict[str, tuple[Call, Call, Call | None, int]]:
    """For each function: fastopt's call, NumPy's, torch's, and the bytes that it reads and writes."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 1024, 1024), np.float32)
    bias = rng.standard_normal(1024, np.float32)
    scores = rng.standard_normal((32, 128, 128), np.float32)
    logits, labels = rng.standard_normal((1024, 8192), np.float32), rng.integers(0, 8192, 1024)
    y, dx, big = np.empty_like(x), np.empty_like(x), np.empty_like(logits)
    attention, mask = np.empty_like(scores), np.triu(np.full((128, 128), -np.inf, np.float32), 1)
    saved = F.activate(x, "gelu_tanh")[1]
    p = F.softmax(scores)

    def of_torch(make: Callable[[Any], Any]) -> Call | None:
        return None if torch is None else make(torch)

    def loss_of_torch(t: Any) -> Call:
        tensor, target = t.from_numpy(logits.copy()).requires_grad_(), t.from_numpy(labels)

        def call() -> None:
            tensor.grad = None
            t.nn.functional.cross_entropy(tensor, target).backward()

        return call

    def gelu_numpy_backward() -> Any:
        t = np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3))
        slope = np.float32(0.7978845608) * (1 + np.float32(0.134145) * x**2)
        dz = dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)
        return dz, dz.sum(axis=0)

    def with_tensors(*arrays: Any) -> Callable[[Callable[..., Any]], Call | None]:
        tensors = [] if torch is None else [torch.from_numpy(one) for one in arrays]
        return lambda f: None if torch is None else lambda: f(*tensors)

    return {
        "gelu(x + bias) 1024x1024": (
            lambda: F.activate(x, "gelu_tanh", bias, out=(y, dx)),
            lambda: gelu(x + bias),
            with_tensors(x, bias)(lambda a, b: torch.nn.functional.gelu(a + b, approximate="tanh")),
            3 * x.nbytes,
        ),
        "its backward with dbias": (
            lambda: F.activate_backward(dy, saved, "gelu_tanh", bias_grad=True, out=(dx, None)),
            gelu_numpy_backward,
            with_tensors(dy, x)(lambda g, a: torch.ops.aten.gelu_backward(g, a, approximate="tanh").sum(0)),
            3 * x.nbytes,
        ),
        "relu(x + bias) 1024x1024": (
            lambda: F.activate(x, "relu", bias, out=(y, None)),
            lambda: np.maximum(x + bias, 0),
            with_tensors(x, bias)(lambda a, b: torch.relu(a + b)),
            2 * x.nbytes,
        ),
        "causal softmax 32x128x128": (
            lambda: F.softmax(scores, scale=0.125, causal=True, out=attention),
            lambda: softmax(scores * np.float32(0.125) + mask),
            with_tensors(scores, mask)(lambda a, m: torch.softmax(a * 0.125 + m, -1)),
            2 * scores.nbytes,
        ),
        "its backward": (
            lambda: F.softmax_backward(scores, p, scale=0.125, out=attention),
            lambda: np.float32(0.125) * p * (scores - (scores * p).sum(-1, keepdims=True)),
            with_tensors(scores, p)(lambda g, q: torch._softmax_backward_data(g, q, -1, torch.float32) * 0.125),
            3 * scores.nbytes,
        ),
        "cross entropy 1024x8192, loss and gradient": (
            lambda: F.cross_entropy(logits, labels, out=big),
            lambda: cross_entropy(logits, labels),
            of_torch(loss_of_torch),
            2 * logits.nbytes,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    try:
        import torch

        torch.set_num_threads(fo.get_num_threads())
    except ImportError:
        torch = None
    print(f"{fo.get_num_threads()} threads, {fo.isa()}, medians of {rounds} rounds")
    print(f"{'':44} {'µs':>8} {'numpy':>7} {'torch':>7} {'floor':>7}")
    for name, (ours, numpy, others, nbytes) in cases(torch).items():
        source, target = np.zeros(nbytes // 8, np.float32), np.empty(nbytes // 8, np.float32)
        calls = [ours, numpy, others, lambda a=source, b=target: np.copyto(b, a)]
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds + 2):
            for call, found in zip(calls, times, strict=True):
                if call is not None:
                    begin = time.perf_counter()
                    call()
                    found.append(time.perf_counter() - begin)
        medians = [np.median(found[2:]) if found else np.nan for found in times]
        print(f"{name:44} {medians[0] * 1e6:8.0f}" + "".join(f" {m / medians[0]:7.2f}" for m in medians[1:]))


if __name__ == "__main__":
    main()
