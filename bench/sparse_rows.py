"""The step of an embedding whose gradient touches few rows: ÷ the dense step with the same gradient, ÷ torch's.

    python bench/sparse_rows.py [--rows 1000000] [--width 64] [--touched 4096] [--rounds 15]

Every round takes one step of each kind, one after the other; medians over the rounds, the quartiles of the ratios, and the ratio
of the shortest times, which is what counts where other processes want the cores too.
"uncoalesced": indices are drawn with replacement from a Zipf law, so that some occur more than once, in no order, as a batch of
words has them.  "coalesced": every index once, in increasing order; torch's tensor says so.  The dense step's gradient is made
before the clock runs.  Where torch is not installed its columns are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt as fo

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

Step = Callable[[], Any]


def gradients(rng: np.random.Generator, rows: int, width: int, touched: int, count: int) -> list[fo.SparseRows]:
    """Gradients of different rows, so that no step finds in the caches what the one before has left there."""
    scattered = rng.permutation(rows)
    found = []
    for _ in range(count):
        indices = scattered[np.minimum(rng.zipf(1.3, touched) + rng.integers(0, rows // 2, touched), rows - 1)]
        indices[: touched // 8] = rng.choice(indices, touched // 8)
        found.append(fo.SparseRows(indices, rng.standard_normal((touched, width), dtype=np.float32)))
    return found


def ours(make: Callable[[Any], fo.optim.Optimizer], weight: Any, grads: list[Any]) -> Step:
    opt, every = make([weight]), iter(grads)
    for array in opt.state[0].values():
        array[...] = array.copy()  # the system gives zeros their memory when they are first written, page by page
    return lambda: opt.step([next(every)])


def theirs(make: Callable[[Any], Any], weight: Any, grads: list[fo.SparseRows], coalesced: bool) -> Step:
    parameter = torch.nn.Parameter(torch.from_numpy(weight))
    opt = make([parameter])
    indices = torch.zeros((1, 1), dtype=torch.int64)
    parameter.grad = torch.sparse_coo_tensor(indices, torch.zeros((1, weight.shape[1])), parameter.shape)
    opt.step()
    for array in opt.state[parameter].values():
        if array is not None and torch.is_tensor(array):
            array.copy_(array.clone())  # likewise
    every = []
    for grad in grads:
        indices, values = torch.from_numpy(grad.indices)[None], torch.from_numpy(grad.values)
        every.append(torch.sparse_coo_tensor(indices, values, parameter.shape, is_coalesced=coalesced))
    waiting = iter(every)

    def step() -> None:
        parameter.grad = next(waiting)
        opt.step()

    return step


def measured(steps: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Seconds of every step in every round but the first two."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if number >= 2:
                times[name].append(time.perf_counter() - begin)
    return {name: np.array(some) for name, some in times.items()}


def line(name: str, times: Any, own: Any) -> str:
    low, middle, high = np.percentile(times / (own if len(own) == len(times) else np.median(own)), (25, 50, 75))
    return (
        f"  {name:22} {np.median(times) * 1e6:10,.0f} µs   {middle:7.2f} x ({low:.2f} to {high:.2f})"
        f"   least: {times.min() * 1e6:8,.0f} µs, {times.min() / own.min():6.2f} x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--touched", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    wish = parser.parse_args()
    rng = np.random.default_rng(0)

    optim, theirs_of = fo.optim, {}
    if torch is not None:
        theirs_of = {
            "Adam": lambda params: torch.optim.SparseAdam(params, lr=1e-3),
            "Adagrad": lambda params: torch.optim.Adagrad(params, lr=1e-3),
            "SGD": lambda params: torch.optim.SGD(params, lr=1e-3),
        }
    ours_of: dict[str, Callable[[Any], fo.optim.Optimizer]] = {
        "Adam": lambda params: optim.Adam(params, lr=1e-3),
        "Adagrad": lambda params: optim.Adagrad(params, lr=1e-3),
        "SGD": lambda params: optim.SGD(params, lr=1e-3),
    }
    weight = rng.standard_normal((wish.rows, wish.width), dtype=np.float32)
    uncoalesced = gradients(rng, wish.rows, wish.width, wish.touched, wish.rounds + 2)
    coalesced = [grad.coalesce() for grad in uncoalesced]
    unique = np.median([len(grad.indices) for grad in coalesced])
    print(f"{wish.rows:,} x {wish.width} float32, {wish.touched:,} rows of values, {unique:,.0f} of them different")
    for threads in wish.threads:
        fo.set_num_threads(threads)
        if torch is not None:
            torch.set_num_threads(threads)
        for name, make in ours_of.items():
            steps = {
                "sparse, uncoalesced": ours(make, weight.copy(), uncoalesced),
                "sparse, coalesced": ours(make, weight.copy(), coalesced),
            }
            if name in theirs_of:
                steps["torch, uncoalesced"] = theirs(theirs_of[name], weight.copy(), uncoalesced, False)
                steps["torch, coalesced"] = theirs(theirs_of[name], weight.copy(), coalesced, True)
            times = measured(steps, wish.rounds)
            few = min(5, wish.rounds)
            dense = uncoalesced[0].to_dense(wish.rows)
            exact = [fo.SparseRows(one.indices, one.values, exact=True) for one in uncoalesced]
            steps = {
                "dense": ours(make, weight, [dense] * (few + 2)),
                "exact": ours(make, weight, exact),
            }
            whole = measured(steps, few)
            print(f"{name}, {threads} thread{'s' * (threads > 1)}: each ÷ fastopt's sparse step of the same gradient")
            for kind, some in times.items():
                print(line(kind, some, times[f"sparse, {'un' * ('un' in kind)}coalesced"]))
            for kind, some in whole.items():
                print(line(kind, some, times["sparse, uncoalesced"]))
            del dense, steps


if __name__ == "__main__":
    main()
