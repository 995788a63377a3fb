"""Whole fits of scikit-learn's MLPClassifier, its own and under fastopt.sklearn.accelerate(), in turns in one process.

    python bench/sklearn_mlp.py                    # seven pairs of each case
    python bench/sklearn_mlp.py --pairs 21 --only 512
    python bench/sklearn_mlp.py --solver sgd
    python bench/sklearn_mlp.py --profile          # and where the time of an accelerated fit goes
    OMP_NUM_THREADS=1 python bench/sklearn_mlp.py --cpu     # the processor's time, for a machine that others use

The data are the digits, four times over.  A round is a fit of scikit-learn's, an accelerated one and the matrix products of as
many batches with nothing between them, in an order that changes; a figure is the median over the rounds.  "limit" is
scikit-learn's time divided by that of the products: the ratio if all that is replaced were free.  "reached" is the products'
part of an accelerated fit.

One environment serves both sides: products run on fastopt's threads (docs/threads.md) in scikit-learn's own fits too.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import fastopt as fo
import fastopt.sklearn

CASES = (((512, 512), 64), ((64, 64), 32), ((100,), 200))  # hidden layers, batch
DTYPES = (np.float32, np.float64)


def seconds(call: Callable[[], object], clock: Callable[[], float] = perf_counter) -> float:
    begin = clock()
    call()
    return clock() - begin


def products(widths: Sequence[int], batch: int, dtype: Any) -> Callable[[int], None]:
    """The matrix products of so many batches: forward, and both of backward but the gradient of the data."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    outputs, deltas = [normal(batch, width) for width in widths], [normal(batch, width) for width in widths]
    weights = [normal(*shape) for shape in pairwise(widths)]
    grads = [np.empty_like(weight) for weight in weights]

    def run(batches: int) -> None:
        for _ in range(batches):
            for i, weight in enumerate(weights):
                np.matmul(outputs[i], weight, out=deltas[i + 1])
            for i in reversed(range(len(weights))):
                np.matmul(outputs[i].T, deltas[i + 1], out=grads[i])
                if i:
                    np.matmul(deltas[i + 1], weights[i].T, out=deltas[i])

    return run


def measure(hidden: tuple[int, ...], batch: int, dtype: Any, options: argparse.Namespace) -> tuple[list[float], bool]:
    """Microseconds a batch of scikit-learn's own fit, the accelerated one and the products, and whether both score the same."""
    x, y = load_digits(return_X_y=True)
    x, y = np.tile((x / 16).astype(dtype), (4, 1)), np.tile(y, 4)
    alone = products((x.shape[1], *hidden, 10), batch, dtype)
    steps = -(-len(x) // batch)

    def fit(accelerated: bool) -> Any:
        model = MLPClassifier(
            hidden,
            batch_size=batch,
            solver=options.solver,
            max_iter=epochs,
            tol=0,
            n_iter_no_change=9999,
            random_state=0,
        )
        if not accelerated:
            return model.fit(x, y)
        with fastopt.sklearn.accelerate():
            return model.fit(x, y)

    clock = process_time if options.cpu else perf_counter
    epochs = 1
    epochs = max(1, round(options.seconds / seconds(lambda: fit(False), clock)))
    same = fit(False).score(x, y) == fit(True).score(x, y)
    parts: list[Callable[[], object]] = [lambda: fit(False), lambda: fit(True), lambda: alone(steps * epochs)]
    times: list[list[float]] = [[], [], []]
    for number in range(options.pairs):
        for part in (0, 1, 2) if number % 2 else (2, 1, 0):
            times[part].append(seconds(parts[part], clock) / (steps * epochs) * 1e6)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(fit, True)
        pstats.Stats(profile).sort_stats("tottime").print_stats(16)
    return [median(some) for some in times], same


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one of scikit-learn's fits, about")
    parser.add_argument("--solver", choices=("adam", "sgd"), default="adam")
    parser.add_argument("--only", type=int, default=0, help="the width of the hidden layers")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}, fastopt {fo.__version__} {fo.isa()}")
    print(f"{fo.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {options.solver}, {options.pairs} pairs\n")
    print("hidden      batch  dtype    scikit-learn  accelerated  products     ratio   limit  reached")
    for hidden, batch in CASES:
        for dtype in DTYPES:
            if options.only in (0, *hidden):
                (theirs, ours, alone), same = measure(hidden, batch, dtype, options)
                print(
                    f"{hidden!s:11} {batch:5}  {np.dtype(dtype)!s:8} {theirs:9.0f} µs {ours:9.0f} µs {alone:6.0f} µs"
                    f"  {theirs / ours:7.2f}  {theirs / alone:6.2f}    {alone / ours:4.0%}"
                    + ("" if same else "  other scores"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
