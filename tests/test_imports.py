"""What ``import fastopt`` loads, in every order of imports, and that it leaves the process as it was.

From a wheel too: ``.ci/run`` runs these tests with the package that a wheel has installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tools import Each

import fastopt as fo

PEERS = [name for name in ("torch", "sklearn") if importlib.util.find_spec(name)]
ORDERS = [
    order
    for n in range(len(PEERS) + 1)
    for some in itertools.combinations(PEERS, n)
    for order in itertools.permutations(("fastopt", *some))
    if n < 2 or order[1] == "torch" or os.environ.get("FASTOPT_NIGHTLY")
]

LIBRARIES = '''
import re
def runtimes():
    """The files of OpenMP runtimes in this process, without those that a wheel keeps for itself under another name."""
    with open("/proc/self/maps") as file:
        files = set(re.findall(r"/\\S*lib[gi]?omp\\S*", file.read()))
    return sorted(file for file in files if "scikit_learn.libs" not in file)
'''

on_linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")


def run(code: str, *more: str, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if not re.match("(OMP|GOMP|KMP|FASTOPT)_", name)}
    command = [sys.executable, "-c", LIBRARIES + textwrap.dedent(code), *more]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_linux
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_one_runtime_in_every_order(order: tuple[str, ...]) -> None:
    code = f"""
        import {", ".join("sklearn.ensemble" if name == "sklearn" else name for name in order)}
        import sys
        import numpy as np, threadpoolctl
        from fastopt import functional as F
        p, g = np.ones((2, 1 << 18), np.float32)
        F.sgd([p], [g], step=1, lr=0.5)
        assert (p == 0.5).all()
        if "torch" in sys.modules:
            assert float(sys.modules["torch"].ones(1 << 18).sum()) == 1 << 18
        print(*runtimes())
        fastopt.set_num_threads(3)
        print(*(one["num_threads"] for one in threadpoolctl.threadpool_info() if one["filepath"] == runtimes()[0]))
    """
    paths, threads = run(code).splitlines()
    assert len(paths.split()) == 1, f"{order}: {paths}"
    assert threads == "3"  # threadpoolctl sees the runtime that fastopt uses


@on_linux
def test_a_torch_with_a_hashed_runtime_shares_it(tmp_path: Path) -> None:
    """torch before 2.13 finds its runtime by a file name with a hash; the name inside the file is the plain one."""
    lib = tmp_path / "torch" / "lib"
    lib.mkdir(parents=True)
    (lib.parent / "__init__.py").write_text(f"import ctypes; ctypes.CDLL({str(lib / 'libgomp-24e2ab19.so.1')!r})")
    shutil.copy(Path(fo.show_config()["openmp"]["path"]), lib / "libgomp-24e2ab19.so.1")
    for order in ("fastopt, torch", "torch, fastopt"):
        assert run(f"import {order}; print(*runtimes())", PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}").split() == [
            str(lib / "libgomp-24e2ab19.so.1")
        ], order


@pytest.mark.parametrize("name", ["torch.py", "torch"])
def test_something_else_named_torch_is_no_obstacle(tmp_path: Path, name: str) -> None:
    if name == "torch":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    run("import fastopt", PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    run("import sys; sys.modules['torch'] = type(sys)('torch'); import fastopt", PYTHONPATH=":".join(sys.path))


STATE = """
    import locale, os, resource, signal, sys, threading, warnings
    import numpy as np

    def state():
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return {
            "handlers": {n: signal.getsignal(n) for n in signal.valid_signals()},
            "signals": [lines[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")],
            "affinity": {thread: os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")},
            "environment": dict(os.environ),
            "C environment": os.popen("env | grep -v ^_= | sort").read(),
            "floating point": np.geterr(),
            "subnormals": (np.array([1e-310]) / 2)[0],
            "filters": [*warnings.filters],
            "paths": [*sys.path],
            "hooks": (sys.excepthook, sys.meta_path[:], sys.path_hooks[:], threading.excepthook, sys.unraisablehook),
            "limits": [resource.getrlimit(n) for n in range(10)],
            "locale": locale.setlocale(locale.LC_ALL),
            "directory": os.getcwd(),
            "recursion": sys.getrecursionlimit(),
        }

    before = state()
    import fastopt
    after = state()
    for name, value in before.items():
        if name == "affinity":  # there may be new threads
            after[name] = {thread: after[name].get(thread) for thread in value}
        assert after[name] == value, (name, value, after[name])
"""


@on_linux
def test_import_leaves_the_process_as_it_was(each: Each) -> None:
    ways = [{}, {"OMP_PROC_BIND": "true"}, {"OMP_NUM_THREADS": "2"}, {"FASTOPT_LEND_THREADS": "0"}]
    for variables in each(ways):
        run(STATE, **variables)


def test_a_subinterpreter_is_told_that_it_cannot() -> None:
    module = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
    code = f"""
        import fastopt
        import {module} as interpreters
        one = interpreters.create()
        try:
            told = interpreters.run_string(one, "import fastopt")
        except Exception as error:
            told = error
        print(told)
    """
    told = run(code)
    assert "ImportError" in told
    # From 3.12 on Python may say it, of the first extension module that is imported.
    assert (
        "fastopt cannot be imported in a sub-interpreter" in told
        or "does not support loading in subinterpreters" in told
    )
