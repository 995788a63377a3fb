"""Threads: counts, lending to BLAS, fork, several Python threads at once.

The behaviour of OpenMP and OpenBLAS is fixed when a process starts, so most of these tests run a process of their own.
It has a time limit, because threads usually fail by hanging.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from math import inf
from pathlib import Path

import pytest
import threadpoolctl
from tools import NIGHTLY, Each

import fastopt as fo
from fastopt import _cores, _threads
from fastopt._blas import all_blas
from fastopt._core import SPIN_COUNT, kernels

PRELUDE = f"""
FORKS = {25 if NIGHTLY else 10}
import os, sys, threading
import numpy as np
import fastopt as fo
from fastopt import functional as F
from fastopt._core import kernels

rng = np.random.default_rng(0)
a, b = rng.random((256, 300), dtype=np.float32), rng.random((300, 280), dtype=np.float32)
g = rng.standard_normal(1 << 17, dtype=np.float32)

def product():
    return a @ b

def kernel():
    p, m, v = np.ones_like(g), np.zeros_like(g), np.zeros_like(g)
    F.adamw([p], [g], [m], [v], step=1, lr=1e-2)
    return p

def lent():
    return any(blas["lent"] for blas in fo.show_config()["blas"])

def same(x, y):
    return x.tobytes() == y.tobytes()

product_bits = product()
with fo.threads(1):
    kernel_bits = kernel()
"""


def run(code: str, *, before: str = "", timeout: float = 30, **environment: str) -> str:
    """The output of ``before``, PRELUDE and ``code`` in a new process, whose variables for threads are only
    ``environment``.
    """
    ours = re.compile("(FASTOPT|OMP|GOMP|KMP|OPENBLAS|MKL)_")
    inherited = {name: value for name, value in os.environ.items() if not ours.match(name)}
    script = textwrap.dedent(before) + PRELUDE + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=inherited | environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # kills the children that it has forked, too
            raise
    assert process.returncode == 0, errors
    return output


def lendable() -> bool:
    """Whether NumPy's BLAS here can run on fastopt's threads, and has more than one."""
    return any(not blas.obstacle() and blas.num_threads > 1 for blas in all_blas())


needs_lending = pytest.mark.skipif(not lendable(), reason="no BLAS here can run on fastopt's threads")
needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores to tell apart"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# Counts


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_omp_num_threads_is_obeyed_and_changes_no_bit(threads: int) -> None:
    code = f"""
        assert same(kernel(), kernel_bits) and same(product(), product_bits) and same(kernel(), kernel_bits)
        assert fo.get_num_threads() == {threads}
        print(len(set(kernels.team({threads}))))
    """
    assert int(run(code, OMP_NUM_THREADS=str(threads))) == threads


def test_smaller_regions_keep_the_team() -> None:
    code = """
        team = kernels.team(4)
        assert len(kernels.team(2)) == 2
        print(team == kernels.team(4))
    """
    assert run(code, OMP_NUM_THREADS="4").split() == ["True"]


def test_threadpoolctl_limits_are_obeyed() -> None:
    before = fo.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert fo.get_num_threads() == 1
    assert fo.get_num_threads() == before


def test_set_num_threads_reaches_other_threads_but_not_their_own_limits() -> None:
    code = """
        counts, wait, go = {}, threading.Barrier(3), threading.Barrier(3)

        def old():
            fo.get_num_threads()
            wait.wait(), go.wait()
            counts["old"] = fo.get_num_threads()

        def limited():
            with fo.threads(2):
                wait.wait(), go.wait()
                counts["limited"] = fo.get_num_threads()
            counts["released"] = fo.get_num_threads()

        threads = [threading.Thread(target=old), threading.Thread(target=limited)]
        [thread.start() for thread in threads]
        wait.wait()
        fo.set_num_threads(7)
        go.wait()
        [thread.join() for thread in threads]
        new = threading.Thread(target=lambda: counts.update(new=len(kernels.team(fo.get_num_threads()))))
        new.start(), new.join()
        print(counts["old"], counts["limited"], counts["released"], counts["new"], fo.get_num_threads())
    """
    assert run(code, OMP_NUM_THREADS="3").split() == ["7", "2", "7", "7", "7"]


def test_threads_is_for_the_calling_thread_and_ends() -> None:
    before = fo.get_num_threads()
    elsewhere: list[int] = []
    with fo.threads(before + 3):
        assert fo.get_num_threads() == before + 3
        other = threading.Thread(target=lambda: elsewhere.append(fo.get_num_threads()))
        other.start()
        other.join()
        with fo.threads(1):
            assert fo.get_num_threads() == 1
        assert fo.get_num_threads() == before + 3
    assert elsewhere == [before]
    with pytest.raises(ZeroDivisionError), fo.threads(before + 3):
        raise ZeroDivisionError
    assert fo.get_num_threads() == before


@pytest.mark.parametrize("function", [fo.set_num_threads, lambda n: fo.threads(n).__enter__()])
@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (10**6, ValueError), (2.0, TypeError), ("2", TypeError)]
)
def test_a_wrong_count_is_named(function: object, n: object, error: type[Exception]) -> None:
    before = fo.get_num_threads()
    with pytest.raises(error, match=rf"threads: n must .*, got {n!r}"):
        function(n)  # type: ignore[operator]
    assert fo.get_num_threads() == before


# Lending


@needs_lending
def test_the_first_parallel_kernel_lends() -> None:
    code = """
        assert not lent() and "will run" in fo.show_config()["blas"][0]["sharing"]
        kernel()
        assert lent() and same(product(), product_bits)
        print(*kernels.lending())
    """
    assert run(code, OMP_NUM_THREADS="2").split() == ["1", "0"]


@needs_lending
def test_lending_is_reversible() -> None:
    code = """
        fo.reclaim_threads()
        assert same(kernel(), kernel_bits) and not lent()
        fo.lend_threads()
        assert lent() and same(product(), product_bits) and kernels.lending()[0] == 1
        fo.reclaim_threads()
        assert not lent() and same(product(), product_bits) and kernels.lending()[0] == 1
        print("done")
    """
    assert run(code).split() == ["done"]


def test_the_environment_turns_lending_off() -> None:
    code = """
        assert same(kernel(), kernel_bits) and same(product(), product_bits)
        print(lent(), kernels.lending()[0])
    """
    assert run(code, FASTOPT_LEND_THREADS="0").split() == ["False", "0"]


def test_another_value_of_the_switch_is_an_error() -> None:
    with pytest.raises(AssertionError, match="FASTOPT_LEND_THREADS: must be 0 or 1, got 'off'"):
        run("", FASTOPT_LEND_THREADS="off")


@needs_lending
def test_what_openmp_may_not_give_is_not_lent(each: Each) -> None:
    for name, value in each(
        [("OMP_THREAD_LIMIT", "1"), ("OMP_DYNAMIC", "true"), ("OMP_MAX_ACTIVE_LEVELS", "0")], by_day=2
    ):
        code = f"""
        kernels.team(2)
        fo.lend_threads()
        assert not lent() and "{name}" in fo.show_config()["blas"][0]["sharing"]
        assert same(kernel(), kernel_bits) and same(product(), product_bits)
        print("done")
    """
        assert run(code, OPENBLAS_NUM_THREADS="2", **{name: value}).split() == ["done"]


@needs_lending
def test_a_team_that_is_too_small_gets_helpers() -> None:
    """OpenBLAS's jobs wait for each other: if they run one after the other, they never end."""
    code = """
        from fastopt._blas import all_blas
        for blas in all_blas():
            kernels.lend(blas.install, blas.slots)
        assert all(same(product(), product_bits) for _ in range(20))
        products, helpers = kernels.lending()
        print(products, helpers >= products)
    """
    assert run(code, OMP_THREAD_LIMIT="1").split() == ["20", "True"]


@needs_lending
def test_lending_ends_with_the_process() -> None:
    last = """
        import atexit

        @atexit.register  # registered first, called last
        def last():
            print(lent(), same(product(), product_bits))
    """
    assert run("kernel(); print(lent())", before=last).split() == ["True", "False", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp")
def test_spin_count_is_short_where_nothing_is_lent() -> None:
    code = "print(fo.show_config()['openmp']['spin_count'], os.environ.get('GOMP_SPINCOUNT'))"
    assert run(code).split()[0] == "None" or not lendable()
    assert run(code, FASTOPT_LEND_THREADS="0").split() == [SPIN_COUNT, "None"]
    assert run(code, FASTOPT_LEND_THREADS="0", GOMP_SPINCOUNT="123").split() == ["123", "123"]
    assert run(code, FASTOPT_LEND_THREADS="0", OMP_WAIT_POLICY="active").split() == ["None", "None"]


# Cores

BINDING = [
    ("OMP_PROC_BIND", "true"),
    ("OMP_PROC_BIND", "spread"),
    ("OMP_PROC_BIND", "master"),
    ("OMP_PLACES", "{0}"),
    ("OMP_PLACES", "cores"),
    ("GOMP_CPU_AFFINITY", "0"),
]


@needs_two_cores
def test_no_thread_loses_cores_to_openmp(each: Each) -> None:
    """libgomp binds the thread that loads it, and every other thread in its first region; children inherit this."""
    for name, value in each(BINDING, by_day=2):
        before = "import os\nbefore = os.sched_getaffinity(0)"
        code = """
        def kept():
            return os.sched_getaffinity(0) == before

        def work():
            kernels.team(2)
            found.append(same(kernel(), kernel_bits) and kept())

        found = [kept()]
        kernels.team(2)
        found.append(kept())
        work()
        thread = threading.Thread(target=work)
        thread.start(), thread.join()
        child = os.fork()
        if child == 0:
            os._exit(0 if kept() else 1)
        print(*found, os.waitpid(child, 0)[1])
    """
        assert run(code, before=before, **{name: value}).split() == ["True"] * 4 + ["0"]


@needs_lending
@needs_two_cores
def test_nothing_is_lent_where_openmp_has_too_few_places(each: Each) -> None:
    for name, value in each([binding for binding in BINDING if binding[1] in ("master", "{0}", "0")], by_day=2):
        code = """
        kernels.team(2)
        fo.lend_threads()
        assert not lent() and "places" in fo.show_config()["blas"][0]["sharing"]
        assert same(kernel(), kernel_bits) and same(product(), product_bits)
        print(fo.show_config()["openmp"]["spin_count"])
    """
        assert run(code, OPENBLAS_NUM_THREADS="2", **{name: value}).split() == [SPIN_COUNT]


@needs_lending
@needs_two_cores
def test_nothing_is_lent_where_the_affinity_gives_too_few_cores() -> None:
    code = """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        kernels.team(2)
        fo.lend_threads()
        assert not lent() and "may run on 1 of the" in fo.show_config()["blas"][0]["sharing"]
        assert same(kernel(), kernel_bits) and same(product(), product_bits)
    """
    run(code)


@needs_lending
def test_nothing_is_lent_where_a_control_group_gives_too_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    blas = next(blas for blas in all_blas() if not blas.obstacle())
    monkeypatch.setattr(_cores, "quota", lambda: blas.num_threads - 0.5)
    assert "control group" in _threads.forbidden(blas)
    monkeypatch.setattr(_cores, "quota", lambda: float(blas.num_threads))
    assert "control group" not in _threads.forbidden(blas)


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {}, inf),
        ("0::/", {"cpu.max": "max 100000"}, inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000", "cpu.max": "max 100000"}, 0.5),
        ("0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "max 100000"}, 1.0),
        ("0::/outer/name", {"cpu.max": "200000 100000"}, 2.0),  # in a container that sees the host's path
        ("1:cpu:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        (
            "4:cpu,cpuacct:/a",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, inf),
        ("1:name=systemd:/a\n0::/a", {"unified/a/cpu.max": "50000 100000"}, 0.5),
    ],
)
def test_the_quota_of_control_groups(tmp_path: Path, membership: str, files: dict[str, str], cores: float) -> None:
    for name, text in {"proc/self/cgroup": membership, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert _cores.quota(tmp_path) == cores


def test_no_control_groups_no_quota(tmp_path: Path) -> None:
    assert _cores.quota(tmp_path) == inf


@needs_lending
@needs_two_cores
def test_a_thread_with_fewer_cores_has_a_smaller_team_and_products_have_helpers() -> None:
    """OpenMP's workers inherit a thread's affinity: two workers that wait for each other would share one core."""
    code = """
        everywhere, one = os.sched_getaffinity(0), {max(os.sched_getaffinity(0))}
        kernel()
        assert lent()

        def helpers(cores):
            os.sched_setaffinity(0, cores)
            before = kernels.lending()[1]
            assert all(same(product(), product_bits) and same(kernel(), kernel_bits) for _ in range(3))
            assert os.sched_getaffinity(0) == cores
            return kernels.lending()[1] - before

        def work():
            found.extend([helpers(one) > 0, helpers(everywhere), helpers(one), helpers(everywhere)])

        found = []
        thread = threading.Thread(target=work)
        thread.start(), thread.join()
        print(found[0], found[1], found[3])
    """
    assert run(code, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2").split() == ["True", "0", "0"]


# Torch in the same process


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.parametrize("order", ["first", "after"])
def test_torch_in_the_same_process(order: str) -> None:
    code = """
        import torch
        x = torch.from_numpy(a) @ torch.from_numpy(b)
        assert same(kernel(), kernel_bits) and same(product(), product_bits) and same(kernel(), kernel_bits)
        assert np.allclose(x, product_bits)
        torch.ones(1 << 18).mul_(2)
        assert same(product(), product_bits)
        print(sum("libgomp.so" in path for path in (fo.show_config()["openmp"]["path"], *fo.show_config()["openmp"]["others"])))
    """
    assert run(code, before="import torch" if order == "first" else "", timeout=60).split() == ["1"]


# Several Python threads

CROWD = """
    import concurrent.futures
    kernel()
    d = rng.random((200, 210))
    kinds = [product, lambda: b.T @ a.T, lambda: d @ d.T, lambda: d.T @ d, lambda: d @ d[0], lambda: np.linalg.inv(d[:200, :200])]
    bits = [kind() for kind in kinds]

    def work(seed):
        order = np.random.default_rng(seed)
        for _ in range(CALLS):
            i = order.integers(len(kinds))
            if not same(kinds[i](), bits[i]) or not same(kernel(), kernel_bits):
                return False
        return True
"""


@pytest.mark.parametrize(("lend", "calls"), [("1", 40), ("0", 4)])  # two pools take ten times as long
def test_eight_threads_call_kernels_and_products_at_once(lend: str, calls: int) -> None:
    """Products of different kinds would share scratch memory if their jobs had the same numbers."""
    code = """
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            print(all(pool.map(work, range(8))))
    """
    crowd = f"CALLS = {calls}\n" + textwrap.dedent(CROWD) + textwrap.dedent(code)
    assert run(crowd, FASTOPT_LEND_THREADS=lend, OMP_NUM_THREADS="3").split() == ["True"]


# Fork


@needs_fork
@pytest.mark.parametrize("lend", ["1", "0"])
def test_a_forked_child_works(lend: str) -> None:
    code = """
        def right():
            return same(kernel(), kernel_bits) and same(product(), product_bits) and same(kernel(), kernel_bits)

        def forked(work):
            child = os.fork()
            if child == 0:
                os._exit(0 if work() else 1)
            return os.waitpid(child, 0)[1] == 0

        def in_child():
            serial = right() and fo.get_num_threads() == 1 and not lent() and len(kernels.team(4)) > 0
            fo.set_num_threads(3)
            return serial and right() and len(kernels.team(3)) == 3 and forked(right)

        assert right()
        was_lent, threads = lent(), fo.get_num_threads()
        print(all(forked(in_child) for _ in range(3)), right(), lent() == was_lent, fo.get_num_threads() == threads)
    """
    assert run(code, OMP_NUM_THREADS="3", FASTOPT_LEND_THREADS=lend).split() == ["True"] * 4


@needs_fork
@needs_lending
def test_a_child_forked_in_the_middle_of_products_works() -> None:
    """Without fastopt, OpenBLAS hangs here: the child inherits the lock of a product that never ends."""
    code = """
        kernel()
        stop = threading.Event()

        def busy(call):
            while not stop.is_set():
                call()

        d = rng.random((24, 24)) + 24 * np.eye(24)
        calls = product, kernel, lambda: b.T @ a.T, lambda: d @ d, lambda: np.linalg.inv([d] * 20)
        threads = [threading.Thread(target=busy, args=(call,)) for call in calls]
        [thread.start() for thread in threads]
        statuses = []
        for _ in range(FORKS):
            child = os.fork()
            if child == 0:
                os._exit(0 if same(product(), product_bits) and same(kernel(), kernel_bits) else 1)
            statuses.append(os.waitpid(child, 0)[1])
        stop.set()
        [thread.join() for thread in threads]
        print(statuses == [0] * FORKS, same(product(), product_bits))
    """
    assert run(code).split() == ["True", "True"]


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
def test_no_fork_cuts_a_kernel_in_two(threads: int) -> None:
    code = f"""
        fo.set_num_threads({threads})
        p, grad, m, v = (np.full(1 << 21, value, np.float32) for value in (1, 1, 0, 0))
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                F.adamw([p], [grad], [m], [v], step=1, lr=1e-3)

        thread = threading.Thread(target=busy)
        thread.start()
        statuses = []
        for _ in range(FORKS):
            child = os.fork()
            if child == 0:
                whole = all((x == x[0]).all() for x in (p, m, v))
                os._exit(0 if whole and same(kernel(), kernel_bits) else 1)
            statuses.append(os.waitpid(child, 0)[1])
        stop.set()
        thread.join()
        print(statuses == [0] * FORKS)
    """
    assert run(code).split() == ["True"]


@needs_fork
def test_a_fork_in_the_first_kernel_does_not_wait_for_itself() -> None:
    """The first parallel region takes Python's global lock, which the thread that forks holds."""
    code = """
        import time

        def slow():
            begun.set()
            time.sleep(0.2)  # the global lock goes to the thread that forks, and must come back

        begun = threading.Event()
        kernels.before_first_region(slow)
        thread = threading.Thread(target=kernel)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            os._exit(0 if same(kernel(), kernel_bits) else 1)
        thread.join()
        print(os.waitpid(child, 0)[1])
    """
    assert run(code, OMP_NUM_THREADS="2").split() == ["0"]


@needs_fork
def test_a_pool_of_forked_processes_works() -> None:
    code = """
        import multiprocessing

        def task(_):
            return same(product(), product_bits) and same(kernel(), kernel_bits)

        assert task(0)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(all(pool.map(task, range(20))))
        assert task(0)
    """
    assert run(code).split() == ["True"]


# Showing


def test_show_config_tells_what_is_there() -> None:
    import numpy as np

    config = fo.show_config()
    assert config["fastopt"] == fo.__version__
    assert config["numpy"] == np.__version__
    assert config["isa"] == {"chosen": fo.isa(), "available": fo.available_isas()}
    assert config["num_threads"] == fo.get_num_threads()
    assert os.path.exists(config["openmp"]["path"])
    found = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
    assert [blas["path"] for blas in config["blas"]] == [info["filepath"] for info in found]
    assert [blas["version"] for blas in config["blas"]] == [info["version"] or "" for info in found]
    for text in (fo.isa(), config["openmp"]["path"], *(blas["sharing"] for blas in config["blas"])):
        assert text in str(config)


def test_kernels_module_counts_the_threads_of_a_region() -> None:
    with fo.threads(3):
        assert len(set(kernels.team(3))) == 3
        assert len(kernels.team(2)) == 2
    assert len(kernels.team(1)) == 1
