"""The memory of an AdamW: resident bytes per parameter and the sum of its arrays, in every format of `fastopt bench`.

    python bench/memory.py                                # 100 million parameters in arrays of 25 million
    python bench/memory.py --params 10_000_000 --array 1_000_000
    python bench/memory.py --only 8bit

Each format has a process of its own, which takes two steps, so that all arrays have been written.  "Resident" is the
growth of the process since before its first array, and "most" the largest growth at any time.  Linux only: the numbers
are those of /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from fastopt.cli.bench.formats import FLOAT32, FORMATS

Row = dict[str, float]

EVERY = {"float32": FLOAT32, **FORMATS}
COLUMNS = ("parameters", "gradients", "state", "sum", "resident", "most")


def status(key: str) -> int:
    """A number of bytes from the system's account of this process."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"/proc/self/status has no {key}"
    return int(found[1]) * 1024


def measure(name: str, params: int, array: int) -> Row:
    """Bytes per parameter; call it once per process."""
    form = EVERY[name]
    sizes = [min(array, params - first) for first in range(0, params, array)]
    form.optimizer([np.zeros(64, form.param)]).step([np.zeros(64, form.grad)])  # libraries allocate on first use
    before = status("VmRSS")
    weights = [np.full(size, 0.02, form.param) for size in sizes]
    grads = [np.full(size, 1e-3, form.grad) for size in sizes]
    opt = form.optimizer(weights)
    for _ in range(2):
        opt.step(grads)
    resident, most = status("VmRSS") - before, status("VmHWM") - before
    parts = [sum(one.nbytes for one in arrays) for arrays in (weights, grads)]
    parts.append(sum(one.nbytes for state in opt.state for one in state.values()))
    return {key: value / params for key, value in zip(COLUMNS, (*parts, sum(parts), resident, most), strict=True)}


def print_table(rows: dict[str, Row]) -> None:
    cells = [[name, *(f"{row[column]:.2f}" for column in COLUMNS)] for name, row in rows.items()]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        width = max(map(len, rows))
        for name, *numbers in [["", *COLUMNS], *cells]:
            print(f"{name:<{width}}", *(f"{number:>10}" for number in numbers))
        return
    table = Table("", box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in cells:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=100_000_000, help="how many parameters there are")
    parser.add_argument("--array", type=int, default=25_000_000, help="how many an array has")
    parser.add_argument("--only", default="", metavar="TEXT", help="formats whose name contains it")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.params, args.array)))
        return
    rows = {}
    for name in (name for name in EVERY if args.only in name):
        command = [sys.executable, __file__, "--one", name, f"--params={args.params}", f"--array={args.array}"]
        rows[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print_table(rows)


if __name__ == "__main__":
    main()
