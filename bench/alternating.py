"""The time of a NumPy matrix product followed by a fastopt kernel, compared with the sum of their times alone.

    python bench/alternating.py                  # an idle machine
    python bench/alternating.py --torch first    # torch imported before NumPy and fastopt, or: after
    python bench/alternating.py --load           # and again while another process keeps one core busy
    python bench/alternating.py --own-threads    # with OpenBLAS's own threads, as without fastopt's lending

A block is 40 ms of one part.  Blocks of the product, the kernel and the pair take turns, and each figure is the median
of its blocks' means.  Under load, "suffers" is the factor by which the load multiplies a figure.  Compare it with the
factor for the product alone on OpenBLAS's own threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

Call = Callable[[], object]

BLOCK = 0.04  # seconds
SETTLE = 0.12  # seconds after which OpenBLAS's threads no longer spin


def mean_time(call: Call) -> float:
    """Microseconds per call over one block; it begins when all threads sleep, and its first tenth is not counted."""
    time.sleep(SETTLE)
    calls = 0
    begin = now = time.perf_counter()
    while now - begin < BLOCK / 10:
        call()
        now = time.perf_counter()
    begin = now
    while now - begin < BLOCK:
        call()
        calls += 1
        now = time.perf_counter()
    return (now - begin) / calls * 1e6


def medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    blocks = [{name: mean_time(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(block[name] for block in blocks) for name in calls}


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """As long as the context lasts, another process keeps a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        other.kill()
        other.wait()


def calls() -> tuple[Call, dict[str, Call]]:
    """The product, and the kernels by name."""
    import numpy as np

    from fastopt import functional as F

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    a, b, product = normal(256, 512), normal(512, 512), np.empty((256, 512), np.float32)
    p, g, m = normal(1 << 18), normal(1 << 18), np.zeros(1 << 18, np.float32)
    v = np.zeros_like(m)
    x, weight, bias = normal(512, 768), normal(768), normal(768)
    y = (np.empty_like(x), np.empty(512), np.empty(512))
    images, scale, shift = normal(8, 64, 56, 56), normal(64), normal(64)
    running_mean, running_var = np.zeros(64, np.float32), np.ones(64, np.float32)
    z = (np.empty_like(images), np.empty(64), np.empty(64))
    return lambda: np.dot(a, b, out=product), {
        "AdamW 2^18": lambda: F.adamw([p], [g], [m], [v], step=1, lr=1e-3),
        "LayerNorm 512x768": lambda: F.layer_norm(x, (768,), weight, bias, out=y),
        "BatchNorm 8x64x56x56": lambda: F.batch_norm(images, running_mean, running_var, scale, shift, True, out=z),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", choices=["first", "after"], help="import torch before or after NumPy and fastopt")
    parser.add_argument("--load", action="store_true", help="measure again beside a process that keeps one core busy")
    parser.add_argument("--own-threads", action="store_true", help="OpenBLAS keeps its own threads")
    parser.add_argument("--rounds", type=int, default=15, help="blocks of each part")
    args = parser.parse_args()
    if args.own_threads:
        os.environ["FASTOPT_LEND_THREADS"] = "0"
    if args.torch == "first":
        importlib.import_module("torch")
    import fastopt as fo

    if args.torch == "after":
        importlib.import_module("torch")

    product, kernels = calls()
    native = medians({"product": product}, args.rounds)["product"]
    for kernel in kernels.values():
        kernel()  # the first parallel kernel lends the threads

    def pair(kernel: Call) -> Call:
        def both() -> None:
            product()
            kernel()

        return both

    parts: dict[str, Call] = {"product": product}
    for name, kernel in kernels.items():
        parts |= {name: kernel, f"product + {name}": pair(kernel)}
    idle = medians(parts, args.rounds)
    print(fo.show_config()["sharing"])
    print(f"product on OpenBLAS's own threads {native:.0f} us, now {idle['product']:.0f} us")
    for name in kernels:
        alone, both = idle["product"] + idle[name], idle[f"product + {name}"]
        print(f"{name:<22} alone {idle[name]:6.0f} us   pair {both:6.0f} us   pair / sum {both / alone:5.2f}")
    if not args.load:
        return

    with busy_core():
        loaded = medians(parts, args.rounds)
        fo.reclaim_threads()
        native_loaded = medians({"product": product}, args.rounds)["product"]
    print("\nbeside a busy process, on the same cores")
    print(f"product on OpenBLAS's own threads {native_loaded:8.0f} us   suffers {native_loaded / native:5.2f}")
    for name, time_loaded in loaded.items():
        print(f"{name:<33} {time_loaded:8.0f} us   suffers {time_loaded / idle[name]:5.2f}")


if __name__ == "__main__":
    main()
