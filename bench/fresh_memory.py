"""What fresh memory costs: results without `out=`, NumPy's temporaries and a small network, with and without memory that is kept.

    python bench/fresh_memory.py                     # ratios and page faults
    python bench/fresh_memory.py --resident 600      # resident memory over ten minutes of changing sizes

The variants of a case take turns in a new order every round, and a ratio is the median of those within a round.  NumPy's
cases have processes of their own, which take turns as well: glibc's thresholds cannot be undone within one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import functional as F

Call = Callable[[], Any]
MIB = 1 << 20


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def timed(call: Call) -> tuple[float, int]:
    """Microseconds and page faults, with the end of the results."""
    before, begin = faults(), time.perf_counter()
    result = call()
    del result
    return (time.perf_counter() - begin) * 1e6, faults() - before


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, tuple[list[float], float]]:
    """Times in every round, and the median of page faults."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    pages: dict[str, list[int]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            calls[name]()
            took, count = timed(calls[name])
            times[name].append(took)
            pages[name].append(count)
    return {name: (times[name], statistics.median(pages[name])) for name in calls}


def ratio(some: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


# Results


def with_limit(limit: int, call: Call) -> Call:
    def limited() -> Any:
        fo.set_cache_limit(limit)
        return call()

    return limited


def results(rounds: int) -> None:
    """LayerNorm and dropout into given arrays, into arrays from the cache, and into fresh ones."""
    print(f"{'without out= ÷ with it':34}{'with, µs':>10}{'cache':>8}{'no cache':>10}   page faults")
    for rows, width in (8192, 1024), (1024, 1024), (256, 256):
        x = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
        weight, bias = np.ones(width, np.float32), np.zeros(width, np.float32)
        # Results themselves, which start on a cache line: those of np.empty do not, and take longer to be written.
        out = F.layer_norm(x, width, weight, bias)
        mean, rstd = out[1].copy(), out[2].copy()
        dout = F.layer_norm_backward(x, x, width, mean, rstd, weight)
        given = F.dropout(x, 0.1, seed=1, step=0)
        cases: dict[str, Callable[[Any], Any]] = {
            "LayerNorm": lambda out, x=x, w=weight, b=bias, n=width: F.layer_norm(x, n, w, b, out=out),
            "LayerNorm backward": lambda out, x=x, w=weight, m=mean, r=rstd, n=width: F.layer_norm_backward(
                x, x, n, m, r, w, out=out
            ),
            "dropout": lambda out, x=x: F.dropout(x, 0.1, seed=1, step=0, out=out),
        }
        for (name, call), arrays in zip(cases.items(), (out, dout, given), strict=True):
            calls = {
                "with": with_limit(256 * MIB, lambda call=call, arrays=arrays: call(arrays)),
                "cache": with_limit(256 * MIB, lambda call=call: call(None)),
                "none": with_limit(0, lambda call=call: call(None)),
            }
            # The cache stays as it is between its own calls, so it is not emptied in turn.
            some = interleaved({"with": calls["with"], "cache": calls["cache"]}, rounds)
            others = interleaved({"with": calls["with"], "none": calls["none"]}, rounds)
            cached, fresh = (
                ratio(some["cache"][0], some["with"][0]),
                ratio(others["none"][0], others["with"][0]),
            )
            took = statistics.median(some["with"][0])
            print(
                f"{f'{name} {rows}×{width}':34}{took:>10,.0f}{cached:>8.2f}{fresh:>10.2f}   "
                f"{some['cache'][1]:,.0f} / {others['none'][1]:,.0f}"
            )
    fo.set_cache_limit(256 * MIB)


# NumPy


def chain(size: int) -> Call:
    """Four operations with temporaries."""
    x = np.random.default_rng(0).standard_normal(size // 4, dtype=np.float32)
    return lambda: np.maximum((x * 0.5 + 1.0) * x, 0.0)


def network() -> Call:
    """A step of a small MLP: batch 64, 64 to 64 to 10, AdamW."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 64), dtype=np.float32), rng.integers(10, size=64)
    w1, w2 = (rng.standard_normal(shape, dtype=np.float32) / 8 for shape in ((64, 64), (64, 10)))
    opt = fo.optim.AdamW([w1, w2], lr=1e-3)

    def step() -> None:
        hidden = np.maximum(x @ w1, 0)
        logits = hidden @ w2
        prob = np.exp(logits - logits.max(axis=1, keepdims=True))
        prob /= prob.sum(axis=1, keepdims=True)
        prob[np.arange(64), labels] -= 1
        opt.step([x.T @ (prob @ w2.T * (hidden > 0)), hidden.T @ prob])

    return step


NUMPY: dict[str, tuple[Callable[[], Call], int]] = {
    "4 operations, 1 MiB": (lambda: chain(MIB), 100),
    "4 operations, 2 MiB": (lambda: chain(2 * MIB), 100),
    "4 operations, 4 MiB": (lambda: chain(4 * MIB), 50),
    "4 operations, 32 MiB": (lambda: chain(32 * MIB), 3),
    "small MLP, one step": (network, 500),
}
VARIANTS = ("plain", "malloc", "arrays")


def serve(name: str, variant: str) -> None:
    """Times the case each time that a line comes."""
    if variant != "plain":
        fo.reuse_memory(arrays=variant == "arrays")
    make, times = NUMPY[name]
    call = make()
    for _ in range(times):
        call()
    for _ in sys.stdin:
        all_of_them = [timed(call) for _ in range(times)]
        took, pages = (statistics.median(values) for values in zip(*all_of_them, strict=True))
        print(json.dumps([took, pages]), flush=True)


def numpy_cases(rounds: int) -> None:
    print(f"\n{'with reuse_memory() ÷ plain':34}{'plain, µs':>10}{'malloc':>8}{'arrays':>10}   page faults")
    for name in NUMPY:
        servers = {
            variant: subprocess.Popen(
                [sys.executable, __file__, "--serve", name, variant],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for variant in VARIANTS
        }
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        pages: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        order = list(VARIANTS)
        for _ in range(rounds):
            random.shuffle(order)
            for variant in order:
                server = servers[variant]
                assert server.stdin and server.stdout
                server.stdin.write("\n")
                server.stdin.flush()
                took, count = json.loads(server.stdout.readline())
                times[variant].append(took)
                pages[variant].append(count)
        for server in servers.values():
            server.communicate()
        shares = [ratio(times[variant], times["plain"]) for variant in VARIANTS[1:]]
        print(
            f"{name:34}{statistics.median(times['plain']):>10,.0f}{shares[0]:>8.2f}{shares[1]:>10.2f}   "
            + " / ".join(f"{statistics.median(pages[variant]):,.0f}" for variant in VARIANTS)
        )


# Resident memory


def resident() -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "/proc/self/status has no VmRSS"
    return int(found[1]) / 1024


def changing_sizes(seconds: float) -> None:
    """Results and NumPy's arrays of 4 KiB to 32 MiB, eight of them alive; the most and the median in each tenth of the time."""
    rng, x = np.random.default_rng(0), np.ones(8 * MIB, np.float32)
    alive: list[Any] = []
    before, begin, count = resident(), time.monotonic(), 0
    print(f"{'seconds':>8}{'calls':>10}{'MiB alive':>11}{'cached':>8}{'resident, median':>18}{'most':>7}")
    with fo.reuse_memory():
        for part in range(1, 11):
            seen = []
            while time.monotonic() < begin + seconds * part / 10:
                size = int(2 ** rng.uniform(10, 23))
                alive.append(F.dropout(x[:size], 0.5, seed=0, step=0) if count % 2 else np.ones(size, np.float32))
                if len(alive) > 8:
                    alive.pop(int(rng.integers(len(alive))))
                count += 1
                if count % 20 == 0:
                    seen.append(resident() - before)
            held = sum(one.nbytes for one in alive) / MIB
            cached = fo.show_config()["memory"]["cached"] / MIB
            print(
                f"{seconds * part / 10:>8.0f}{count:>10,}{held:>11.0f}{cached:>8.0f}"
                f"{statistics.median(seen):>18.0f}{max(seen):>7.0f}",
                flush=True,
            )
        alive.clear()
    print(f"undone and freed: {resident() - before:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--resident", type=float, metavar="SECONDS", help="resident memory instead, for so long")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a case in a process of its own
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
    elif args.resident:
        changing_sizes(args.resident)
    else:
        results(args.rounds)
        numpy_cases(max(args.rounds // 2, 1))


if __name__ == "__main__":
    main()
