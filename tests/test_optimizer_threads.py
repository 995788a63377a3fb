"""Optimizers in threads, in forked children, and interrupted: a call is made as a whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import CLASSES, ordinary
from tools import NIGHTLY, bits, everything

import fastopt as fo
from fastopt import optim

# Threads


def test_gradients_that_are_replaced_during_a_step_are_held() -> None:
    """They are freed afterwards."""
    size = 1 << 18
    params = [np.ones(size, np.float32) for _ in range(4)]
    grads = [np.ones(size, np.float32) for _ in range(4)]
    opt, running = optim.Adam(params), threading.Event()

    def replace() -> None:
        while not running.is_set():
            for i in range(4):
                grads[i] = np.ones(size, np.float32)

    thread = threading.Thread(target=replace, daemon=True)
    thread.start()
    for _ in range(100):
        opt.step(grads)
    running.set()
    thread.join()
    g = np.ones(size, np.float32)
    dead = weakref.ref(g)
    opt.step([g, None, None, None])
    del g
    gc.collect()
    assert dead() is None
    assert all((p == p[0]).all() for p in params)


def test_planning_stepping_and_counting_are_one() -> None:
    params, grads, running = [np.ones(64, np.float32)], [np.ones(64, np.float32)], threading.Event()
    opt = optim.Adam(params)

    def step() -> None:
        for _ in range(1500):
            opt.step(grads)

    def change() -> None:
        group = opt.param_groups[0]
        while not running.is_set():
            group["amsgrad"] = not group["amsgrad"]
            group["moments"] = None if group["moments"] else "bfloat16"

    changer, steppers = (
        threading.Thread(target=change, daemon=True),
        [threading.Thread(target=step, daemon=True) for _ in range(3)],
    )
    for thread in (changer, *steppers):
        thread.start()
    for thread in steppers:
        thread.join()
    running.set()
    changer.join()
    assert int(opt.state[0]["step"]) == opt.step(grads).step - 1 == 4500


@pytest.mark.parametrize("call", ["step", "accumulate", "swap_ema", "state_dict"])
def test_a_call_inside_a_call_is_an_error(call: str) -> None:
    """Such a call may come from a signal handler, or from an array's own code."""
    opt = optim.SGD([np.ones(3)], lr=0.1, ema_decay=0.9)
    opt.step([np.ones(3)])
    arguments = [[np.ones(3)]] if call in ("step", "accumulate") else []
    seen: list[str] = []

    class Nosy(np.ndarray[Any, Any]):
        @property
        def dtype(self) -> Any:  # type: ignore[override]
            try:
                getattr(opt, call)(*arguments)
            except RuntimeError as error:
                seen.append(str(error))
            return np.dtype(np.int64)

    with pytest.raises(TypeError, match="dtype"):
        opt.step([np.ones(3, np.int64).view(Nosy)])
    assert seen
    assert all(text.startswith("SGD: this thread is inside a call of this optimizer already") for text in seen)
    assert opt.step([np.ones(3)]).step == 2


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_a_step_that_waits_for_its_turn_looks_again_whose_turn_it_was(name: str) -> None:
    """Only a thread that holds the lock knows which weights the parameters are."""
    size, done = 200_000, threading.Event()
    g = [np.ones(size, "f")]
    opt = CLASSES[name]([np.ones(size, "f")], lr=1e-3, ema_decay=0.5)
    leave, back = (opt.swap_ema, opt.swap_ema) if name == "SGD" else (opt.eval, opt.train)  # type: ignore[attr-defined]

    def run() -> None:
        while not done.is_set():
            with contextlib.suppress(ValueError):
                opt.step(g)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    changed = 0
    for _ in range(10):
        time.sleep(0.002)
        leave()
        count = int(opt.state[0]["step"])
        time.sleep(0.01)
        changed += int(opt.state[0]["step"]) != count
        back()
    done.set()
    for thread in threads:
        thread.join()
    assert changed == 0


def test_averages_may_be_read_while_they_begin() -> None:
    for _ in range(20):
        w, done = np.ones(300_000, "f"), threading.Event()
        opt = optim.SGD([w], lr=1.0, ema_decay=0.5)

        def read(opt: optim.Optimizer = opt, done: threading.Event = done) -> None:
            while not done.is_set():
                opt.ema_params  # noqa: B018

        thread = threading.Thread(target=read)
        thread.start()
        opt.step([np.ones_like(w)])
        done.set()
        thread.join()
        assert (opt.ema_params[0] == 0.5).all()


def test_threads_do_not_swap_averages_back_for_each_other() -> None:
    p, g = np.ones(1 << 21, np.float32), np.ones(1 << 21, np.float32)
    opt = optim.AdamW([p], lr=0.1, ema_decay=0.9)
    for _ in range(2):
        opt.step([g])
    for _ in range(5):
        seen: list[bool] = []
        refused: list[str] = []
        barrier = threading.Barrier(3)

        def evaluate(seen: list[bool] = seen, refused: list[str] = refused, barrier: Any = barrier) -> None:
            barrier.wait()
            try:
                with opt.using_ema():
                    time.sleep(0.01)
                    seen.append(bool(opt._swapped))
            except ValueError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=evaluate) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait()
        with contextlib.suppress(ValueError):  # the parameters are swapped already
            opt.step([g])
        for thread in threads:
            thread.join()
        assert len(seen) + len(refused) == 2
        assert all(seen)
        assert all("are swapped for their averages" in one for one in refused)
        assert not opt._swapped


FIRST_PARALLEL_STEP = """
import mmap, sys, threading
import numpy as np
import fastopt as fo

sys.setswitchinterval(1e-6)
p = np.zeros(700_000, np.float32)
opt, others = fo.optim.SGD([p], lr=1.0), [np.frombuffer(mmap.mmap(-1, p.nbytes), np.float32) for _ in range(500)]
grads, ready = [others.pop()], threading.Event()

def replace():
    ready.set()
    while others:
        grads[0] = others.pop()

thread = threading.Thread(target=replace)
thread.start()
ready.wait()
opt.step(grads)
thread.join()
print(np.unique(p))
"""


def test_the_first_parallel_step_of_a_process_holds_its_gradients() -> None:
    """It holds them even though it is brief, because Python code in the middle of it lends the threads."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", FIRST_PARALLEL_STEP], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "[0.]\n"), done.stderr


# Forked children


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("name", ["Adam", "Muon"])
def test_a_child_that_is_forked_during_a_step_steps(name: str, lent: bool) -> None:
    """The child continues after a whole step, whether products run on fastopt's threads or on those of NumPy's BLAS."""
    fo.lend_threads() if lent else fo.reclaim_threads()
    try:
        fork_during_steps(name)
    finally:
        fo.lend_threads()


def fork_during_steps(name: str) -> None:
    p, g = np.zeros((256, 256), np.float32), np.full((256, 256), 0.5, np.float32)
    opt, running = CLASSES[name]([p], lr=1e-3, weight_decay=0.0), threading.Event()

    def step() -> None:
        while not running.is_set():
            opt.step([g])

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    time.sleep(0.05)
    statuses, forks = [], 8 if name == "Adam" or NIGHTLY else 3  # a child's first products take a long time
    for _ in range(forks):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)
                count = int(opt.state[0]["step"])
                whole = name == "Muon" or bool((p == p[0, 0]).all())
                status = int(not (whole and opt.step([g]).step == count + 1))
            finally:
                os._exit(status)
        statuses.append(os.waitpid(child, 0)[1])
    running.set()
    thread.join()
    assert statuses == [0] * forks


# Interrupts


class Interrupt(Exception):
    pass


def interrupted(after: float, call: Callable[[], Any]) -> None:
    """Makes a call and interrupts it ``after`` seconds, unless it has returned by then."""
    armed = [True]

    def interrupt(*_: Any) -> None:
        if armed:
            armed.clear()
            raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        call()
        armed.clear()
    except Interrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "SwitchOptimizer", "ScheduleFreeAdamW", "Adafactor"])
def test_an_interrupted_step_is_taken_or_not(name: str) -> None:
    """Weights, counts, state and averages are all those of a twin after the same number of steps."""
    shape = (64, 64)
    params, twins = [np.ones(shape), np.ones(shape)], [np.ones(shape), np.ones(shape)]
    grads = [np.arange(4096.0).reshape(shape) % 7, np.arange(4096.0).reshape(shape) % 5]
    opt, twin = (CLASSES[name](some, lr=1e-3, ema_decay=0.9) for some in (params, twins))
    for k in range(60):
        interrupted(1e-5 * (k % 30 + 1), lambda: opt.step(grads))
        while twin._count < opt._count:
            twin.step(grads)
        assert bits(params) == bits(twins)
        opt.step(grads)
        twin.step(grads)
        assert everything(opt) == everything(twin)


@pytest.mark.parametrize("weight", [None, 0.5])
def test_an_interrupted_accumulation_is_added_or_not(weight: float | None) -> None:
    p, g = np.zeros(1 << 12), np.ones(1 << 12)
    opt = optim.SGD([p], lr=1.0)
    for k in range(60):
        taken = p[0]
        interrupted(1e-5 * (k % 20 + 1), lambda: opt.accumulate([g], weight))
        interrupted(1e-5 * (k % 13 + 1), lambda: opt.accumulate([g], weight))
        opt.accumulate([g], weight)
        interrupted(1e-5 * (k % 17 + 1), opt.step)
        if p[0] == taken:
            opt.step()
        assert (p == taken - 1).all()
        opt.state_dict()


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_an_interrupted_exchange_is_made_or_not(name: str, rng: Generator) -> None:
    params = [ordinary(rng, (1 << 10,)) for _ in range(20)]
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.5)
    opt.step([ordinary(rng, (1 << 10,)) for _ in range(20)])
    before = bits(params)
    for k in range(60):
        interrupted(5e-6 * (k + 1), opt.eval if isinstance(opt, optim.ScheduleFreeSGD) else opt.swap_ema)
        if isinstance(opt, optim.ScheduleFreeSGD):
            opt.train()
            np.testing.assert_allclose(np.concatenate(params), np.frombuffer(b"".join(before)), rtol=1e-9)
        else:
            if opt._swapped:
                opt.swap_ema()
            assert bits(params) == before


def test_an_interrupted_load_is_made_or_not(rng: Generator) -> None:
    sources = []
    for _ in range(2):
        source = optim.Adam([ordinary(rng, (50,)) for _ in range(30)], lr=float(rng.random()), ema_decay=0.9)
        source.step([ordinary(rng, (50,)) for _ in range(30)])
        sources.append(source.state_dict(copy=True))
    opt = optim.Adam([np.zeros(50) for _ in range(30)], ema_decay=0.9)
    opt.load_state_dict(sources[0])
    for k in range(60):
        interrupted(4e-5 * (k + 1), partial(opt.load_state_dict, sources[k % 2]))
        which = int(opt.param_groups[0]["lr"] == sources[1]["param_groups"][0]["lr"])
        for i, one in enumerate(opt.state):
            assert {key: array.tobytes() for key, array in one.items()} == {
                key: array.tobytes() for key, array in sources[which]["state"][i].items()
            }


def test_a_group_is_added_or_not() -> None:
    both = {"a": {"w": np.ones((2, 2)), "b": np.ones(2)}}
    for after in np.linspace(2e-5, 4e-4, 150):
        opt = optim.SGD(optim.no_decay(copy.deepcopy(both)), lr=0.1)
        opt.step(both)
        interrupted(float(after), lambda opt=opt: opt.add_param_group({"params": [np.ones(1)]}))
        if len(opt.param_groups) == 2:
            opt.step(both)
        else:
            opt.step([both["a"]["w"], both["a"]["b"], np.ones(1)])


def test_the_averages_do_not_outlive_their_with() -> None:
    w = np.ones(500_000, "f")
    opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
    opt.step([np.ones_like(w)])

    def use() -> None:
        with opt.using_ema():
            time.sleep(0.005)

    for after in np.linspace(1e-4, 8e-3, 30):
        interrupted(float(after), use)
        assert (w[0], bool(opt._swapped)) == (0, False)
