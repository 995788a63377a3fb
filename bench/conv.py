"""Convolution, pooling and embeddings against NumPy as people write it, torch, and the product alone.

    python bench/conv.py                      # every case, about two minutes
    python bench/conv.py conv --threads 2     # those whose names contain "conv", with so many threads

All candidates take turns in one process on the same arrays, in a new order every round, with the same number of threads; a time
is the median over the rounds, and a ratio the median of the ratios within a round.  With one thread it is the time on the
processor, which other processes hardly change, otherwise the time on the wall, which says nothing on a busy machine.  Results
go to arrays that are there.  torch's kernels are called directly, without autograd; its results are fresh memory, as always.

``floor`` is NumPy's product of matrices that are there already, one for each image (the two large ones of a convolution's
backward); for a pool a copy of x, for an embedding one of y, and for its backward setting dweight to zero.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

import fastopt as fo
from fastopt import functional as F

Call = Callable[[], object]
Calls = dict[str, Call]

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def windows_of(x: np.ndarray, k: int, pad: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    return np.lib.stride_tricks.sliding_window_view(padded, (k, k), (2, 3))


def numpy_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> np.ndarray:
    y = np.tensordot(windows_of(x, weight.shape[2], pad), weight, ((1, 4, 5), (1, 2, 3)))
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2)) + bias[:, None, None]


def numpy_conv_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    k = weight.shape[2]
    dweight = np.tensordot(dy, windows_of(x, k, pad), ((0, 2, 3), (0, 2, 3)))
    dx = numpy_conv(dy, np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)), np.zeros(1), k - 1 - pad)
    return dx, dweight, dy.sum((0, 2, 3))


def torch_calls(make: Callable[[], Call]) -> Calls:
    return {} if torch is None else {"torch": make()}


def conv(n: int, c: int, size: int, filters: int, k: int = 3, last: bool = False) -> Iterator[tuple[str, Calls]]:
    pad, axis = k // 2, -1 if last else 1
    x, dy = normal(n, c, size, size), normal(n, filters, size, size)
    weight, bias = normal(filters, c, k, k), normal(filters)
    matrix, depth = normal(n, c * k * k, size * size), c * k * k
    flat, product, back = (
        weight.reshape(filters, depth),
        np.empty((n, filters, size * size), np.float32),
        np.empty_like(matrix),
    )
    of = dy.reshape(n, filters, -1)
    parts = np.empty((n, filters, depth), np.float32)
    ours_x, ours_dy = (np.ascontiguousarray(np.moveaxis(one, 1, axis)) for one in (x, dy))
    y = np.empty_like(ours_dy)
    out = np.empty_like(ours_x), np.empty_like(weight), np.empty_like(bias)

    def products() -> None:
        np.matmul(of, matrix.transpose(0, 2, 1), out=parts)
        np.matmul(flat.T, of, out=back)

    def of_torch(backward: bool) -> Call:
        tx, tdy, tw, tb = (torch.from_numpy(one) for one in (x, dy, weight, bias))
        if last:
            tx, tdy, tw = (one.contiguous(memory_format=torch.channels_last) for one in (tx, tdy, tw))
        if backward:
            mask = [True, True, True]
            return lambda: torch.ops.aten.convolution_backward(
                tdy, tx, tw, [filters], [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, mask
            )
        return lambda: torch.nn.functional.conv2d(tx, tw, tb, 1, pad)

    name = f"conv {n}x{c}x{size}x{size} k{k} to {filters}" + " channels last" * last
    yield (
        name,
        {
            "fastopt": lambda: F.conv2d(ours_x, weight, bias, 1, pad, channel_axis=axis, out=y),
            "numpy": lambda: numpy_conv(x, weight, bias, pad),
            **torch_calls(lambda: of_torch(False)),
            "floor": lambda: np.matmul(flat, matrix, out=product),
        },
    )
    yield (
        name + " backward",
        {
            "fastopt": lambda: F.conv2d_backward(ours_dy, ours_x, weight, 1, pad, channel_axis=axis, out=out),
            "numpy": lambda: numpy_conv_backward(dy, x, weight, pad),
            **torch_calls(lambda: of_torch(True)),
            "floor": products,
        },
    )


def numpy_max_pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def twice(a: np.ndarray) -> np.ndarray:
        return a.repeat(2, 2).repeat(2, 3)

    return np.where(x == twice(y), twice(dy), 0)


def pool(n: int, c: int, size: int, last: bool = False) -> Iterator[tuple[str, Calls]]:
    half, axis = size // 2, -1 if last else 1
    x, dy = normal(n, c, size, size), normal(n, c, half, half)
    ours_x, ours_dy = (np.ascontiguousarray(np.moveaxis(one, 1, axis)) for one in (x, dy))
    y, indices = F.max_pool2d(ours_x, 2, return_indices=True, channel_axis=axis)
    mean, dx, shape = np.empty_like(y), np.empty_like(ours_x), ours_x.shape
    numpy_y = x.reshape(n, c, half, 2, half, 2).max((3, 5))

    def of_torch(name: str) -> Call:
        tx, tdy = (torch.from_numpy(one) for one in (x, dy))
        if last:
            tx, tdy = (one.contiguous(memory_format=torch.channels_last) for one in (tx, tdy))
        aten = torch.ops.aten
        _, places = aten.max_pool2d_with_indices(tx, [2, 2])
        one = [2, 2]
        return {
            "max": lambda: aten.max_pool2d_with_indices(tx, one),
            "max backward": lambda: aten.max_pool2d_with_indices_backward(
                tdy, tx, one, one, [0, 0], [1, 1], False, places
            ),
            "mean": lambda: aten.avg_pool2d(tx, one),
            "mean backward": lambda: aten.avg_pool2d_backward(tdy, tx, one, one, [0, 0], False, True, None),
        }[name]

    ours: Calls = {
        "max": lambda: F.max_pool2d(ours_x, 2, return_indices=True, channel_axis=axis, out=(y, indices)),
        "max backward": lambda: F.max_pool2d_backward(ours_dy, indices, shape, 2, channel_axis=axis, out=dx),
        "mean": lambda: F.avg_pool2d(ours_x, 2, channel_axis=axis, out=mean),
        "mean backward": lambda: F.avg_pool2d_backward(ours_dy, shape, 2, channel_axis=axis, out=dx),
    }
    theirs: Calls = {
        "max": lambda: x.reshape(n, c, half, 2, half, 2).max((3, 5)),
        "max backward": lambda: numpy_max_pool_backward(dy, x, numpy_y),
        "mean": lambda: x.reshape(n, c, half, 2, half, 2).mean((3, 5)),
        "mean backward": lambda: (dy / 4).repeat(2, 2).repeat(2, 3),
    }
    for name in ours:
        yield (
            f"pool 2x2 {name} {n}x{c}x{size}x{size}" + " channels last" * last,
            {
                "fastopt": ours[name],
                "numpy": theirs[name],
                **torch_calls(lambda name=name: of_torch(name)),  # type: ignore[misc]
                "floor": lambda: np.copyto(dx, ours_x),
            },
        )


def embedding(rows: int, width: int, *shape: int) -> Iterator[tuple[str, Calls]]:
    weight, indices = normal(rows, width), rng.integers(0, rows, shape)
    y, dy, dweight = np.empty((*shape, width), np.float32), normal(*shape, width), np.empty_like(weight)

    def numpy_backward() -> np.ndarray:
        grad = np.zeros_like(weight)
        np.add.at(grad, indices, dy)
        return grad

    def of_torch(backward: bool) -> Call:
        tw, ti, tdy = (torch.from_numpy(one) for one in (weight, indices, dy))
        if backward:
            return lambda: torch.ops.aten.embedding_dense_backward(tdy, ti, rows, -1, False)
        return lambda: torch.nn.functional.embedding(ti, tw)

    name = f"embedding {rows}x{width} {'x'.join(map(str, shape))}"
    yield (
        name,
        {
            "fastopt": lambda: F.embedding(indices, weight, out=y),
            "numpy": lambda: weight[indices],
            **torch_calls(lambda: of_torch(False)),
            "floor": lambda: np.copyto(y, dy),
        },
    )
    yield (
        name + " backward",
        {
            "fastopt": lambda: F.embedding_backward(dy, indices, rows, out=dweight),
            "numpy": numpy_backward,
            **torch_calls(lambda: of_torch(True)),
            "floor": lambda: dweight.fill(0),
        },
    )


def cases() -> Iterator[tuple[str, Calls]]:
    for last in (False, True):
        yield from conv(32, 3, 32, 32, last=last)
        yield from conv(32, 64, 16, 64, last=last)
        yield from conv(8, 64, 56, 64, last=last)
        yield from pool(32, 64, 32, last)
    yield from embedding(8192, 256, 8, 128)


def timed(call: Call, clock: Callable[[], float], least: float = 2e-3) -> float:
    """Seconds a call, over as many calls as take some milliseconds."""
    call()
    calls, begin = 0, clock()
    while (now := clock()) - begin < least:
        call()
        calls += 1
    return (now - begin) / calls


def measure(calls: Calls, rounds: int, clock: Callable[[], float]) -> tuple[float, dict[str, float]]:
    """Microseconds of ours, and how many times as long the others take."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for i in rng.permutation(len(calls)):
            name = [*calls][i]
            times[name].append(timed(calls[name], clock))
    ours = times.pop("fastopt")
    ratios = {name: statistics.median(a / b for a, b in zip(some, ours, strict=True)) for name, some in times.items()}
    return statistics.median(ours) * 1e6, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="*", help="parts of the names of cases")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    from threadpoolctl import threadpool_limits

    for threads in args.threads:
        print(f"\n{threads} thread{'s' * (threads != 1)}: us of fastopt, and how many times as long the others take")
        if torch is not None:
            torch.set_num_threads(threads)
        with threadpool_limits(threads), fo.threads(threads):
            for name, calls in cases():
                if args.only and not any(part in name for part in args.only):
                    continue
                ours, ratios = measure(calls, args.rounds, time.thread_time if threads == 1 else time.perf_counter)
                columns = "".join(f"{other} {ratio:6.2f}   " for other, ratio in ratios.items())
                print(f"{name:52} {ours:9.0f}   {columns}", flush=True)


if __name__ == "__main__":
    main()
