"""Several Python threads and forked children; ``test_threads.py`` tests the thread pool itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from tables import NORMS, RULES, Array
from tools import NIGHTLY, assert_same_bits

import fastopt as fo
from fastopt import functional as F
from fastopt._core import kernels


def work(seed: int) -> dict[str, Array]:
    """A bit of everything, large enough for several threads."""
    rng = np.random.default_rng(seed)
    results = {}
    for name, rule in RULES.items():
        if rule.uses_blas:
            continue  # its bits depend on the number of threads
        params = rule.arrays(rng, ((200, 150), 300), "float32")
        grads = [rule.arrays(rng, ((200, 150), 300), "float32")]
        options = rule.sample(rng, step=True)
        results |= {f"{name}: {key}": value for key, value in rule.run(F, params, grads, options).items()}
    for name, norm in NORMS.items():
        call = norm.call(rng, "float32", 240, 200, **({"training": True} if "batch" in name else {}))
        results |= {f"{name}: {key}": value for key, value in call.run(F).items()}
    return results


def test_eight_threads_at_once() -> None:
    expected = [work(seed) for seed in range(8)]
    results: dict[int, dict[str, Array]] = {}
    start = threading.Barrier(8)

    def run(seed: int) -> None:
        start.wait()
        for _ in range(3 if NIGHTLY else 1):
            results[seed] = work(seed)

    threads = [threading.Thread(target=run, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seed in range(8):
        assert_same_bits(results[seed], expected[seed])


def test_arrays_are_held_though_their_list_changes() -> None:
    arrays = [np.ones(1 << 20, np.float32) for _ in range(4)]
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for i in range(len(arrays)):
                arrays[i] = np.ones(1 << 20, np.float32)

    thread = threading.Thread(target=churn, daemon=True)
    thread.start()
    for _ in range(100):
        kernels.floor(arrays, [], [])
    stop.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_runs_kernels() -> None:
    with fo.threads(2):
        expected = work(0)  # the parent has used its threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: that is the test
        child = os.fork()
    if child == 0:
        status = 1
        try:
            assert_same_bits(work(0), expected)
            fo.set_num_threads(3)
            assert_same_bits(work(0), expected)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    killer = threading.Timer(60, os.kill, (child, 9))
    killer.start()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    assert status == 0
    with fo.threads(2):
        assert_same_bits(work(0), expected)


DAEMONS = """
import sys, threading
import numpy as np, fastopt as fo
from fastopt import functional as F

x, param = np.ones((2000, 300), np.float32), np.ones(600_000, np.float32)
grads, opt = [np.ones_like(param)], fo.optim.AdamW([param])
calls = {
    "step": lambda: opt.step(grads, clip_norm=1.0),
    "norm": lambda: F.layer_norm(x, (300,)),
    "clip": lambda: F.clip_grad_norm([np.ones_like(param)], 1.0),
    "function": lambda: F.exp(x),
}
begun = threading.Semaphore(0)

def forever():
    while True:
        calls[sys.argv[1]]()
        begun.release()

for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
for _ in range(9):
    begun.acquire()
sys.exit(3)
"""


# The function that the first parallel region calls is Python's.
DAEMON_IN_PYTHON = """
import sys, threading
import numpy as np
from fastopt import functional as F
from fastopt._core import kernels

begun = threading.Event()

def forever():
    begun.set()
    while True:
        sum(range(1000))

kernels.before_first_region(forever)
threading.Thread(target=F.exp, args=(np.ones((2000, 300), np.float32),), daemon=True).start()
begun.wait()
sys.exit(3)
"""


@pytest.mark.parametrize("what", ["step", "norm", "clip", "function", "first region"])
def test_the_process_ends_while_daemon_threads_are_in_kernels(what: str) -> None:
    program, environment = DAEMONS, {**os.environ}
    if what == "first region":
        program, environment["OMP_NUM_THREADS"] = DAEMON_IN_PYTHON, "2"  # one thread alone needs no region
    for _ in range(2):
        command = [sys.executable, "-c", program, what]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize(
    "call", ["F.softmax(x)", "F.batch_norm(x, training=True)", "nn.BatchNorm(3)(x)", "F.embedding(x, i)"]
)
def test_first_calls_of_a_process_may_come_from_several_threads(call: str) -> None:
    """What the bindings look up once must not be looked up under a lock: Python may change threads meanwhile."""
    code = f"""
import faulthandler, threading
import numpy as np
from fastopt import nn
from fastopt import functional as F

faulthandler.dump_traceback_later(20, exit=True)
x, i = np.random.rand(40, 3).astype(np.float32), np.arange(5)
start = threading.Barrier(8)
def work():
    start.wait()
    {call}
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
