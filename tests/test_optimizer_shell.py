"""The optimizer around its kernels: what is changed is seen, what is begun is finished, and nothing is ever half done."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.random import Generator
from optimizers import CLASSES, Array, arrays, copies, everything, normal, richest

import fastopt as fo
from fastopt import functional as F
from fastopt import optim, schedules
from fastopt.optim import Optimizer

classes = pytest.mark.parametrize("name", CLASSES)
AVERAGED = {"ema_decay": 0.9, "l2_init": 0.01}


def bits(some: Any) -> list[bytes]:
    return [array.tobytes() for array in some]


# What a kernel works on is held


def test_gradients_that_are_replaced_during_a_step_are_held() -> None:
    """And freed afterwards."""
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


def reshaped(p: Array) -> None:
    p.shape = (1, p.size)  # type: ignore[misc]


def recast(p: Array) -> None:
    p.dtype = np.dtype(f"i{p.itemsize}")  # type: ignore[misc]


def locked(p: Array) -> None:
    p.flags.writeable = False


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("change", [reshaped, recast, locked])
@classes
def test_a_parameter_that_has_changed_since_is_an_error(
    name: str, change: Callable[[Array], None], rng: Generator
) -> None:
    """Its shape, dtype or flag; undone, the run goes on."""
    p = normal(rng, (30, 40))
    opt, twin = CLASSES[name]([p], lr=0.1, **AVERAGED_FOR(name)), p.copy()
    other = CLASSES[name]([twin], lr=0.1, **AVERAGED_FOR(name))
    for one in opt, other:
        one.step([np.ones((30, 40))])
    change(p)
    before = p.tobytes()
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: (params|grads)\[0\] (has|is read-only)"):
        opt.step([np.ones((30, 40))])
    assert p.tobytes() == before
    p.flags.writeable = True
    p.dtype = np.dtype(np.float64)  # type: ignore[misc]
    p.shape = (30, 40)  # type: ignore[misc]
    for one in opt, other:
        one.step([np.ones((30, 40))])
    assert bits([p]) == bits([twin])


def AVERAGED_FOR(name: str) -> dict[str, Any]:
    return AVERAGED


@classes
def test_read_only_state_is_an_error(name: str, rng: Generator) -> None:
    opt = CLASSES[name](arrays(rng, name), lr=0.1, ema_decay=0.9, **richest(name))
    opt.step(arrays(rng, name))
    for key, array in opt.state[0].items():
        if key != "step":
            array.flags.writeable = False
            before = everything(opt)
            with pytest.raises(
                TypeError, match=rf"^{name}: {key}s\[0\] is read-only, but would be written; give a copy$"
            ):
                opt.step(arrays(rng, name))
            assert everything(opt) == before
            array.flags.writeable = True
    opt.step(arrays(rng, name))


# Threads


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
    """From a signal handler, or from an array's own code."""
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("name", ["Adam", "Muon"])
def test_a_child_that_is_forked_during_a_step_steps(name: str, lent: bool) -> None:
    """From where a whole step was taken, whether products run on our threads or on those of NumPy's BLAS."""
    fo.lend_threads() if lent else fo.reclaim_threads()
    try:
        fork_during_steps(name)
    finally:
        fo.lend_threads()


def fork_during_steps(name: str) -> None:
    p, g = np.zeros((512, 512), np.float32), np.full((512, 512), 0.5, np.float32)
    opt, running = CLASSES[name]([p], lr=1e-3, weight_decay=0.0), threading.Event()

    def step() -> None:
        while not running.is_set():
            opt.step([g])

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    time.sleep(0.05)
    statuses = []
    for _ in range(8):
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
    assert statuses == [0] * 8


# Interrupts


class Interrupt(Exception):
    pass


def interrupted(after: float, call: Callable[[], Any]) -> None:
    """Calls something, and interrupts it so many seconds later, unless it is done by then."""
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
    """The weights, the counts, the state and the averages say the same: those of a twin after as many steps."""
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


def test_an_interrupted_accumulation_is_added_or_not() -> None:
    p, g = np.zeros(1 << 12), np.ones(1 << 12)
    opt = optim.SGD([p], lr=1.0)
    for k in range(60):
        taken = p[0]
        interrupted(1e-5 * (k % 20 + 1), lambda: opt.accumulate([g]))
        interrupted(1e-5 * (k % 13 + 1), lambda: opt.accumulate([g]))
        opt.accumulate([g])
        interrupted(1e-5 * (k % 17 + 1), opt.step)
        if p[0] == taken:
            opt.step()
        assert (p == taken - 1).all()
        opt.state_dict()


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_an_interrupted_exchange_is_made_or_not(name: str, rng: Generator) -> None:
    params = [normal(rng, (1 << 10,)) for _ in range(20)]
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.5)
    opt.step([normal(rng, (1 << 10,)) for _ in range(20)])
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
        source = optim.Adam([normal(rng, (50,)) for _ in range(30)], lr=float(rng.random()), ema_decay=0.9)
        source.step([normal(rng, (50,)) for _ in range(30)])
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


# All or none


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_a_read_only_parameter_stops_an_exchange_before_it_begins(name: str) -> None:
    params = [np.ones(2), np.ones(2)]
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.5)
    opt.step([np.ones(2), np.ones(2)])
    opt.step([np.full(2, 9.0), np.full(2, 9.0)])
    before = copies(params)
    exchanges: list[Callable[[], None]] = (
        [opt.eval] if isinstance(opt, optim.ScheduleFreeSGD) else [opt.swap_ema, opt.using_ema().__enter__]
    )
    params[1].flags.writeable = False
    for exchange in exchanges:
        with pytest.raises(TypeError, match=rf"^{name}: params\[1\] is read-only, but would be written; give a copy$"):
            exchange()
        assert bits(params) == bits(before)
    params[1].flags.writeable = True
    exchanges[0]()
    assert bits(params) != bits(before)


@pytest.mark.parametrize("strides", [(0, 8), (8, 0), (8, 8), (0, 0)])
def test_a_gradient_that_shares_elements_is_read_but_not_zeroed(strides: tuple[int, int]) -> None:
    g = as_strided(np.ones(2000), (300, 70), strides)
    p = np.ones((300, 70))
    opt = optim.SGD([p], lr=0.5)
    with pytest.raises(ValueError, match=r"^SGD: grads\[0\] has elements that share memory, and would be zeroed"):
        opt.step([g], zero_grads=True)
    assert (p == 1).all()
    opt.step([g], clip_norm=1e9)
    assert (p == 0.5).all()


# Any layout


def layouts(g: Array) -> dict[str, Array]:
    """The same numbers, elsewhere in memory."""
    wide = np.zeros((*g.shape[:-1], 3 * g.shape[-1] + 2), g.dtype)
    wide[..., 1 : 3 * g.shape[-1] + 1 : 3] = g
    return {
        "Fortran": np.asfortranarray(g),
        "flipped rows": g[::-1].copy()[::-1],
        "flipped": np.flip(np.flip(g).copy()),
        "every third": wide[..., 1 : 3 * g.shape[-1] + 1 : 3],
        "transposed": np.ascontiguousarray(g.T).T,
        "field": np.rec.fromarrays([g, g], names="a,b")["a"],
        "field of a packed record": np.rec.fromarrays([g.astype(np.int8), g], names="a,b")["b"],
        "bytes": np.frombuffer(bytearray(b"\0" + g.tobytes()), g.dtype, offset=1).reshape(g.shape),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "LAMB", "Muon", "ScheduleFreeAdamW"])
def test_gradients_of_any_layout_mean_the_same(name: str, dtype: str, rng: Generator) -> None:
    shape = (70, 35)
    g = normal(rng, shape, dtype)
    options = {"grad_scale": 2.0, "clip_norm": 1.0, "skip_nonfinite": True}
    wanted = normal(rng, shape, dtype)
    start = wanted.copy()
    CLASSES[name]([wanted], lr=0.1, noise=0.01, weight_decay=0.1).step([g], **options)
    for where, there in layouts(g).items():
        assert np.array_equal(there, g)
        for zero in False, True:
            p = start.copy()
            CLASSES[name]([p], lr=0.1, noise=0.01, weight_decay=0.1).step([there], **options, zero_grads=zero)
            assert p.tobytes() == wanted.tobytes(), where
        assert not there.any()
    row = np.broadcast_to(g[0], shape)
    p, q = start.copy(), start.copy()
    CLASSES[name]([p], lr=0.1).step([row])
    CLASSES[name]([q], lr=0.1).step([row.copy()])
    assert p.tobytes() == q.tobytes()


def test_interleaved_gradients_are_disjoint() -> None:
    both = np.ones((5, 8))
    params = [np.ones((5, 4)), np.ones((5, 4))]
    optim.SGD(params, lr=0.5).step([both[:, ::2], both[:, 1::2]], zero_grads=True)
    assert not both.any()
    assert bits(params) == bits([np.full((5, 4), 0.5)] * 2)
    with pytest.raises(ValueError, match=r"grads\[1\] would be zeroed, but overlaps grads\[0\]"):
        optim.SGD(params, lr=0.5).step([both[:, ::2], both[:, 2:6]], zero_grads=True)


def test_gradients_come_in_anything_that_is_iterated_over() -> None:
    layer = fo.nn.LayerNorm(3, dtype=np.float64)
    opt = optim.SGD(layer.params.values(), lr=0.5)
    for given in layer.grads.values(), (g for g in layer.grads.values()), tuple(layer.grads.values()):
        opt.step(given)
    p = [np.array(1.0), np.array(1.0, np.float32)]
    optim.SGD(p, lr=0.5).step([np.float64(1), np.float32(1)])
    assert [float(one) for one in p] == [0.5, 0.5]
    optim.SGD([{"params": p[:1]}, {"params": p[1:]}], lr=0.5).step(one for one in ([np.float64(1)], [np.float32(1)]))
    assert [float(one) for one in p] == [0.0, 0.0]
    with pytest.raises(TypeError, match=r"^SGD: grads must be a list like params, got ndarray"):
        optim.SGD([np.ones(2), np.ones(2)]).step(np.ones((2, 2)))


def test_masked_arrays_are_errors() -> None:
    m = np.ma.masked_array(np.ones(3), mask=[1, 0, 0])
    opt = optim.SGD([np.ones(3)], lr=0.1)
    with pytest.raises(TypeError, match=r"^SGD: grads\[0\] is a masked array, whose mask would be ignored"):
        opt.step([m])
    with pytest.raises(TypeError, match=r"^SGD: params\[0\] is a masked array"):
        optim.SGD([m])
    with pytest.raises(TypeError, match=r"^sgd: grads\[0\] is a masked array"):
        F.sgd([np.ones(3)], [m], step=1, lr=0.1)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^layer_norm: x is a masked array"):
        F.layer_norm(m, 3)


# What is changed is seen


@pytest.mark.parametrize("wrap", [np.array, lambda lr: np.array([lr]), "torch"])
def test_a_hyperparameter_that_changes_in_place_is_seen(wrap: Any) -> None:
    if wrap == "torch":
        wrap = pytest.importorskip("torch").tensor
    lr, p = wrap(0.5), np.ones(1)
    opt = optim.SGD([p], lr=lr, momentum=0.0)
    opt.step([np.ones(1)])
    lr[...] = 0.25
    opt.step([np.ones(1)])
    opt.param_groups[0]["lr"] *= 2
    opt.step([np.ones(1)])
    assert p.tolist() == [-0.25]
    betas = (np.array(0.5), 0.999)
    q = np.ones(1)
    adam = optim.AdamW([q], betas=betas)  # type: ignore[arg-type]
    adam.step([np.ones(1)])
    betas[0][...] = 1.5
    with pytest.raises(ValueError, match="beta1 must be in"):
        adam.step([np.ones(1)])


@classes
def test_a_parameter_that_is_replaced_begins_anew(name: str, rng: Generator) -> None:
    """As in torch: the state belongs to the array.  Those that stay keep theirs, wherever they go."""
    params = [normal(rng, (4, 3)) for _ in range(3)]
    twins = copies(params)
    opt = CLASSES[name](params, lr=0.1, **AVERAGED)
    opt.step([np.ones((4, 3))] * 3)
    new = normal(rng, (5, 2))
    opt.param_groups[0]["params"][0] = new
    opt.param_groups[0]["params"][1:] = opt.param_groups[0]["params"][:0:-1]
    here = params[0].copy()
    opt.step([np.ones((5, 2)), np.ones((4, 3)), np.ones((4, 3))])
    assert bits([params[0]]) == bits([here])
    assert [int(one["step"]) for one in opt.state] == [1, 2, 2]
    other = CLASSES[name](twins, lr=0.1, **AVERAGED)
    other.step([np.ones((4, 3))] * 3)
    other.step([None, np.ones((4, 3)), np.ones((4, 3))])
    assert bits(params[1:]) == bits(twins[1:])
    opt.param_groups[0]["params"][0] = [1.0]
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: params\[0\]"):
        opt.step([np.ones((5, 2)), np.ones((4, 3)), np.ones((4, 3))])
    opt.param_groups[0]["params"][0] = opt.param_groups[0]["params"][1]
    with pytest.raises(ValueError, match=rf"^{name}: params\[[01]\] would be written, but overlaps params\[[01]\]"):
        opt.step([np.ones((4, 3))] * 3)


def test_groups_that_come_and_go_are_seen(rng: Generator) -> None:
    params = [normal(rng, (3,)) for _ in range(3)]
    opt = optim.SGD([{"params": params[:1]}, {"params": params[1:2]}], lr=0.5, momentum=0.5)
    opt.step([[np.ones(3)], [np.ones(3)]])
    del opt.param_groups[0]
    with pytest.raises(ValueError, match=r"^SGD: grads has 2 lists, expected 1, one for each group$"):
        opt.step([[np.ones(3)], [np.ones(3)]])
    before = copies(params)
    opt.step([[np.ones(3)]])
    assert bits(params[:1]) == bits(before[:1])
    assert int(opt.state[0]["step"]) == 2
    opt.param_groups[0]["params"].append(params[2])
    assert opt.step([np.ones(3), np.ones(3)]).step == 3
    opt.param_groups.append({"params": [np.ones(3)]})
    with pytest.raises(ValueError, match=r"^SGD: param_groups\[1\] has no 'lr'; set it, or use add_param_group$"):
        opt.step([np.ones(3), np.ones(3)])
    opt.param_groups.pop()
    del opt.param_groups[0]["momentum"]
    with pytest.raises(ValueError, match=r"^SGD: param_groups\[0\] has no 'momentum'"):
        opt.step([np.ones(3), np.ones(3)])


def test_state_that_is_replaced_is_taken_over_or_refused() -> None:
    p = np.zeros(2)
    opt = optim.SGD([p], lr=1.0, momentum=0.5)
    opt.step([np.ones(2)])
    mine = np.full(2, 4.0)
    opt.state[0]["momentum_buffer"] = mine
    opt.step([np.zeros(2)])
    assert p.tolist() == [-3, -3]
    assert opt.state[0]["momentum_buffer"] is mine
    assert mine.tolist() == [2, 2]
    opt.state[0].update(momentum_buffer=np.full(2, 8, np.float32).astype(np.float64), step=7)
    opt.step([np.zeros(2)])
    assert (p.tolist(), int(opt.state[0]["step"])) == ([-7, -7], 8)
    for key, value, message in (
        (
            "momentum_buffer",
            np.zeros(3),
            r"momentum_buffer of params\[0\] in opt.state has shape \(3,\), expected \(2,\)",
        ),
        ("momentum_buffer", np.zeros(2, int), r"momentum_buffer of params\[0\] in opt.state has dtype int64"),
        ("momentum_bufer", np.zeros(2), r"opt.state has an unknown 'momentum_bufer' of params\[0\]"),
        ("step", -1, r"step of params\[0\] in opt.state must be an integer"),
        (
            "momentum_buffer",
            p,
            r"momentum_buffers\[0\] would be written, but overlaps params\[0\]|overlaps momentum_buffers",
        ),
    ):
        kept = dict(opt.state[0])
        opt.state[0][key] = value
        before = p.tolist()
        with pytest.raises((TypeError, ValueError), match=rf"^SGD: .*{message}"):
            opt.step([np.ones(2)])
        assert p.tolist() == before
        opt.state[0].clear()
        opt.state[0].update(kept)
    opt.state[0].clear()
    opt.step([np.ones(2)])
    assert int(opt.state[0]["step"]) == 1
    with pytest.raises(TypeError):
        opt.state[0] = {}  # type: ignore[index]


@pytest.mark.parametrize(("typo", "meant"), [("learning_rate", "lr"), ("momentun", "momentum"), ("beta1", "")])
def test_misspelt_hyperparameters_are_refused(typo: str, meant: str, tmp_path: Path) -> None:
    opt = optim.SGD([np.ones(2)], lr=0.1)
    opt.param_groups[0][typo] = 3
    message = rf"^SGD: unknown hyperparameter '{typo}'; " + (f"did you mean '{meant}'" if meant else "it has lr")
    for call in lambda: opt.step([np.ones(2)]), opt.state_dict, lambda: opt.save(tmp_path / "state"):
        with pytest.raises(ValueError, match=message):
            call()
    del opt.param_groups[0][typo]
    opt.step([np.ones(2)])
    if meant:
        with pytest.raises(TypeError, match=rf"^SGD: {typo} is not an attribute of an optimizer; .*\['{meant}'\] = 5$"):
            setattr(opt, typo, 5)
        with pytest.raises(TypeError, match=f"^SGD: unknown hyperparameter '{typo}'; did you mean '{meant}'"):
            optim.SGD([np.ones(2)], **{typo: 5})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^SGD: lr is not an attribute of an optimizer"):
        opt.lr = 5


# What is saved can be loaded

CHANGES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"ema_decay": 0.9}) for name in CLASSES),
    *((name, {"swa_start": 1}) for name in ("SGD", "Muon", "ScheduleFreeSGD")),
    *((name, {"l2_init": 0.1}) for name in ("SGD", "AdamW")),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "velocity": True}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"moments": "bfloat16"}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
]


@pytest.mark.parametrize("stepped", [0, 2])
@pytest.mark.parametrize(
    ("name", "changes"), CHANGES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_what_is_switched_on_before_it_is_saved_can_be_loaded(
    name: str, changes: dict[str, Any], stepped: int, tmp_path: Path, rng: Generator
) -> None:
    """And goes on as if it had not been saved."""
    params = [normal(rng, (4, 3), "float32")]
    opt = CLASSES[name](params, lr=0.1)
    for _ in range(stepped):
        opt.step([np.ones((4, 3), np.float32)])
    opt.param_groups[0].update(changes)
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = CLASSES[name](twins, lr=0.1, **{key: value for key, value in changes.items() if key == "moments"})
    other.load(tmp_path / "state")
    for one in opt, other:
        one.step([np.full((4, 3), 0.5, np.float32)])
    assert everything(other) == everything(opt)


def test_averages_stay_where_a_checkpoint_has_none(rng: Generator) -> None:
    p, q = normal(rng, (3,)), normal(rng, (3,))
    plain, averaged = optim.Adam([p], lr=0.1), optim.Adam([q], lr=0.2, ema_decay=0.5)
    plain.step([np.ones(3)])
    averaged.load_state_dict(plain.state_dict())
    assert (averaged.param_groups[0]["ema_decay"], averaged.param_groups[0]["lr"]) == (0.5, 0.1)
    q[...] = here = p
    averaged.step([np.ones(3)])
    np.testing.assert_allclose(averaged.ema_params[0], (here + q) / 2)
    plain.load_state_dict(averaged.state_dict())
    assert plain.param_groups[0]["ema_decay"] == 0.5


def test_states_are_matched_by_name(rng: Generator) -> None:
    a = dict(q=np.ones(2), k=np.ones(2))
    opt = optim.SGD(a, lr=0.1, momentum=0.9)
    opt.step(dict(q=np.full(2, 1.0), k=np.full(2, 5.0)))
    b = dict(k=np.ones(2), q=np.ones(2))
    other = optim.SGD(b, lr=0.1, momentum=0.9)
    other.load_state_dict(opt.state_dict())
    assert [float(one["momentum_buffer"][0]) for one in other.state] == [5, 1]
    other.load_state_dict(opt.state_dict(), by_position=True)
    assert [float(one["momentum_buffer"][0]) for one in other.state] == [1, 5]
    renamed = optim.SGD(dict(query=np.ones(2), k=np.ones(2)), lr=0.1)
    with pytest.raises(ValueError, match=r"missing: 'query', unknown: 'q'.*by_position=True"):
        renamed.load_state_dict(opt.state_dict())
    renamed.load_state_dict(opt.state_dict(), by_position=True)
    flat = optim.SGD([np.ones(2), np.ones(2)], lr=0.1)
    flat.load_state_dict(opt.state_dict())
    assert [float(one["momentum_buffer"][0]) for one in flat.state] == [1, 5]

    groups = [{"params": {"w": np.ones(2)}, "lr": 0.5}, {"params": {"b": np.ones(2)}, "lr": 0.25}]
    opt = optim.SGD(groups, momentum=0.9)
    opt.step([{"w": np.full(2, 1.0)}, {"b": np.full(2, 2.0)}])
    other = optim.SGD([{"params": {"b": np.ones(2)}}, {"params": {"w": np.ones(2)}}], lr=1.0)
    other.load_state_dict(opt.state_dict())
    assert [
        (group["lr"], float(one["momentum_buffer"][0]))
        for group, one in zip(other.param_groups, other.state, strict=True)
    ] == [
        (0.25, 2),
        (0.5, 1),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@classes
def test_what_begins_as_the_parameter_begins_with_the_first_step(name: str, dtype: str, rng: Generator) -> None:
    """Averages, masters, z: weights that are filled in after the optimizer was made are what they begin with."""
    options = {"ema_decay": 0.5} | ({"weights": "master"} if dtype == "float16" else {})
    late, early = np.zeros((4, 3), dtype), normal(rng, (4, 3), dtype)
    opt = CLASSES[name]([late], lr=0.1, **options)
    other = CLASSES[name]([early], lr=0.1, **options)
    opt.step([None])
    opt.state_dict()
    late[...] = early
    assert np.array_equal(opt.ema_params[0], early)
    for _ in range(2):
        for one in opt, other:
            one.step([np.ones((4, 3), dtype)])
    assert late.tobytes() == early.tobytes()
    assert [a.tobytes() for a in opt.state[0].values()] == [a.tobytes() for a in other.state[0].values()]


# Pickles and copies


@classes
def test_optimizers_are_copied_with_their_parameters(name: str, rng: Generator) -> None:
    """By copy and by pickle, in the middle of a run, with a schedule; identities are kept."""
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.9, **richest(name))
    opt.step(arrays(rng, name))
    opt.accumulate(arrays(rng, name))
    for twice in lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy:
        twins, twin = twice((params, opt))
        assert twins[0] is twin.param_groups[0]["params"][0] is not params[0]
        assert everything(twin) == everything(opt)
        grads = arrays(np.random.default_rng(1), name)
        twin.accumulate(grads)
        twin.step()
        before = bits(params)
        assert bits(twins) != before
    opt.accumulate(grads)
    opt.step()
    assert everything(twin) == everything(opt)
    assert bits(twins) == bits(params)
    assert pickle.dumps(opt).find(b"fastopt.optim.") == -1
    assert type(opt).__module__ == "fastopt.optim"


def test_a_swapped_optimizer_is_copied_as_it_is(rng: Generator) -> None:
    p = normal(rng, (5,), "float16")
    opt = optim.SGD([p], lr=0.1, ema_decay=0.5)
    opt.step([np.ones(5, np.float16)])
    before = everything(opt)
    opt.swap_ema()
    twin = copy.deepcopy(opt)
    for one in opt, twin:
        one.swap_ema()
    assert everything(twin) == everything(opt) == before


def test_after_the_switch_a_schedule_goes_on() -> None:
    p = np.ones(1)
    opt = optim.SwitchOptimizer([p], lr=0.1, switch_at=1, sgd_lr=0.5, betas=(0.0, 0.9))
    opt.step([np.ones(1)])
    assert opt.switched
    before = p.copy()
    opt.param_groups[0]["lr"] = 0.05
    opt.step([np.ones(1)])
    np.testing.assert_allclose(before - p, 0.25)
    schedule = schedules.StepLR(opt, 1, gamma=0.5)
    schedule.step()
    for one in opt, copy.deepcopy(opt):
        q = one.param_groups[0]["params"][0]
        before = q.copy()
        one.step([np.ones(1)])
        np.testing.assert_allclose(before - q, 0.125)


# Growth


def test_many_groups_and_many_states_take_time_in_proportion() -> None:
    """Counted, not timed: arrays are looked at a bounded number of times each."""
    looks = 0

    class Counted(np.ndarray[Any, Any]):
        def __array_finalize__(self, obj: Any) -> None:
            nonlocal looks
            looks += 1

    def count(groups: int) -> int:
        nonlocal looks
        params = [np.ones(2).view(Counted) for _ in range(groups)]
        looks = 0
        opt = optim.SGD([{"params": [p], "lr": 0.1} for p in params], momentum=0.9)
        for p in params:
            opt.add_param_group({"params": [p.copy()]})
        opt.step([np.ones(2)] * (2 * groups))
        opt.load_state_dict(opt.state_dict())
        return looks

    assert count(200) <= 4.5 * count(50)


def test_zero_axes_are_kept() -> None:
    w = np.array(1.0, np.float32)
    opt = optim.Adam([w], lr=0.1, moments="bfloat16")
    for moments in "bfloat16", "8bit", None, "8bit":
        opt.param_groups[0]["moments"] = moments
        opt.step([np.array(1.0, np.float32)])
        assert w.shape == opt.state[0]["exp_avg"].shape == ()
    half = np.array(1.0, np.float16)
    for weights in "master", "kahan", "nearest":
        other = optim.SGD([half], lr=0.1, momentum=0.9, weights=weights, ema_decay=0.9)
        other.step([half.copy()])
        other.swap_ema()
        other.swap_ema()
        assert half.shape == other.ema_params[0].shape == ()


# What sequences of calls have found


def test_gradients_come_in_groups_as_soon_as_there_are_groups() -> None:
    """Also where something else than a step has followed the change, and steps took the quick way before."""
    w, more, g = np.ones(3), np.ones(2), np.ones(3)
    opt = optim.SGD([w], lr=0.5)
    for _ in range(2):
        opt.step([g])
    opt.add_param_group({"params": {"bias": more}})
    opt.state_dict()
    opt.step([[g], {"bias": np.ones(2)}])
    del opt.param_groups[1]
    opt.state_dict()
    opt.step([[g]])
    np.testing.assert_array_equal(w, -1.0)
    np.testing.assert_array_equal(more, 0.5)


def test_a_key_in_place_of_another_is_an_error_that_names_it() -> None:
    opt = optim.Adam([np.ones(2)])
    opt.step([np.ones(2)])
    del opt.param_groups[0]["lr"]
    opt.param_groups[0]["rate"] = 0.1
    for call in (lambda: opt.step([np.ones(2)]), opt.state_dict, lambda: opt.ema_params):
        with pytest.raises(ValueError, match="unknown hyperparameter 'rate'"):
            call()


def test_a_step_without_gradients_is_not_averaged_in_the_switch() -> None:
    w = np.ones(3)
    opt = optim.SwitchOptimizer([w], switch_at=9)
    for g in np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0]):
        opt.step([g])
    before = opt._ratio
    opt.step([None])
    assert opt._ratio[:3] == before[:3]
    assert opt._ratio.step == 3
    opt.step([np.array([1.0, 2.0, 3.0])])
    assert opt._ratio.since == 3


def test_an_average_begins_once() -> None:
    """Setting the count back does not let it begin again, whether somebody looks at it or not."""
    for looks in False, True:
        w = np.ones(2)
        opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
        opt.step([np.ones(2)])
        opt.state[0]["step"][...] = 0
        if looks:
            assert opt.ema_params[0].tolist() == [0.5, 0.5]
        opt.step([np.ones(2)])
        assert opt.ema_params[0].tolist() == [-0.25, -0.25]


def test_weights_that_are_swapped_away_are_not_lost() -> None:
    """The average has not begun yet, and the parameters are written to in its place."""
    w = np.ones(2)
    opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
    opt.swap_ema()
    w[...] = 5.0
    assert opt.ema_params[0].tolist() == [1.0, 1.0]
    opt.swap_ema()
    assert w.tolist() == [1.0, 1.0]


def test_a_master_that_is_new_moves_with_the_view() -> None:
    """It begins as the parameter is before that, and does not begin again."""
    w = np.array([1.0, 2.0], np.float16)
    opt = optim.ScheduleFreeSGD([w], lr=0.1)
    for g in (3.0, 1.0), (1.0, 0.1):
        opt.step([np.array(g, np.float16)])
    opt.param_groups[0]["weights"] = "master"
    opt.state_dict()
    w[...] = 1.0, 2.0
    opt.eval()
    x = opt.state_dict()["state"][0]["master_param"].copy()
    z = opt.state[0]["z"]
    np.testing.assert_allclose(x, [1.0, 2.0] + (z - [1.0, 2.0]) * (1 - 1 / 0.9), 1e-6)
    assert not np.array_equal(x, w)
    opt.train()
    np.testing.assert_allclose(opt.state[0]["master_param"], [1.0, 2.0], 1e-6)


def test_a_new_dict_around_the_same_parameters_keeps_their_structure() -> None:
    """Wherever it is among the groups."""
    w, b = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": {"w": w}}, {"params": {"b": b}}], lr=0.5)
    opt.param_groups = [{**group} for group in reversed(opt.param_groups)]
    assert opt.ema_params[0].keys() == {"b"}
    opt.step([{"b": np.ones(3)}, {"w": np.zeros(2)}])
    assert (w.tolist(), b.tolist()) == ([1.0] * 2, [0.5] * 3)


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros((1, 3)), np.zeros(7), "average", None])
def test_what_was_swapped_away_is_not_exchanged_with_something_wrong(bad: Any) -> None:
    w = np.array([1.0, 2.0, 3.0])
    opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
    opt.step([np.ones(3)])
    opt.swap_ema()
    weights = opt.state[0]["ema_param"]
    opt.state[0]["ema_param"] = bad
    for call in (opt.swap_ema, lambda: pickle.dumps(opt), lambda: copy.deepcopy(opt)):
        with pytest.raises((TypeError, ValueError), match="ema_param of params"):
            call()
    assert w.tolist() == [0.5, 1.5, 2.5]
    opt.state[0]["ema_param"] = weights
    opt.swap_ema()
    assert w.tolist() == [0.0, 1.0, 2.0]


def test_an_entry_that_is_put_there_meanwhile_is_checked_in_a_copy_too() -> None:
    w = np.ones((2, 2))
    opt = optim.SGD([w], lr=1.0, momentum=0.5, ema_decay=0.5)
    opt.step([np.zeros((2, 2))])
    opt.swap_ema()
    opt.state[0]["momentum_buffer"] = np.array([[1.0, 2.0], [3.0, 4.0]], order="F")
    other = pickle.loads(pickle.dumps(opt))
    for one in opt, other:
        one.swap_ema()
        one.step([np.zeros((2, 2))])
        assert one.param_groups[0]["params"][0].tolist() == [[0.5, 0.0], [-0.5, -1.0]]


def test_parameters_that_are_replaced_while_they_are_swapped_are_refused_by_copies_too() -> None:
    """A pickle of these could not be read."""
    w, b = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": [w]}, {"params": [b]}], lr=1.0, ema_decay=0.5)
    opt.step([[np.ones(2)], [np.ones(3)]])
    opt.swap_ema()
    group = opt.param_groups.pop()
    for call in (opt.swap_ema, lambda: pickle.dumps(opt), lambda: copy.deepcopy(opt)):
        with pytest.raises(ValueError, match="replaced while they are swapped"):
            call()
    opt.param_groups.append(group)
    params = group.pop("params")
    with pytest.raises(ValueError, match="replaced while they are swapped"):
        opt.swap_ema()
    group["params"] = params
    opt.swap_ema()
    assert (w.tolist(), b.tolist()) == ([0.0] * 2, [0.0] * 3)


# What was found from outside afterwards


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_a_step_that_waits_for_its_turn_looks_again_whose_turn_it_was(name: str) -> None:
    """Which weights the parameters are, is known only inside the turn."""
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


def test_a_plan_that_has_been_replaced_takes_no_step() -> None:
    opt = optim.SGD([np.ones(3)], lr=0.5, momentum=0.9)
    opt.step([np.ones(3)])
    opt.step([np.ones(3)])
    old = opt._simple[0]
    opt.load_state_dict(opt.state_dict(copy=True))
    assert old.step_if_current(opt._turn, opt._simple, opt.param_groups, [np.ones(3)]) is None
    assert opt.step([np.ones(3)]).step == 3


def test_code_of_an_array_that_runs_during_the_checks_cannot_move_others() -> None:
    class Hostile(np.ndarray):
        def copy(self, order: Any = "C") -> Any:
            raise AssertionError("no code of a subclass runs")

        def fill(self, value: Any) -> Any:
            raise AssertionError("no code of a subclass runs")

    packed = np.zeros(50, np.dtype([("a", "u1"), ("g", "f4")]))
    packed["g"] = 2
    p = np.ones(50, "f")
    optim.SGD([p], lr=0.25).step([packed["g"].view(Hostile)], zero_grads=True)
    assert (p == 0.5).all()
    assert not packed["g"].any()
    weight = np.ones(12, "f")[::2].view(Hostile)
    assert F.layer_norm(np.ones((2, 6), "f"), 6, weight, weight)[0].shape == (2, 6)

    class Moves:
        def __float__(self) -> float:
            x.resize((1, 1), refcheck=False)
            return 1e-5

    x = np.ones((100, 1000), "f")
    with pytest.raises(ValueError, match=r"^layer_norm: x was changed while arguments were checked$"):
        F.layer_norm(x, 1000, None, None, Moves())  # type: ignore[arg-type]


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


def test_a_switch_that_is_due_is_made_before_anything_is_saved() -> None:
    opt = optim.SwitchOptimizer([np.ones(2)], lr=0.1, switch_at=2, sgd_lr=0.05)
    opt.step([np.ones(2)])
    Optimizer._take(opt, [np.ones(2)], None)  # as where an interrupt comes right after the step
    assert not opt.switched
    assert optim.SwitchOptimizer.switched.fget(pickle.loads(pickle.dumps(opt)))  # type: ignore[attr-defined]
    assert opt.state_dict()["fastopt"]["switched"] is True


def test_attributes_of_a_switch_are_checked_and_followed() -> None:
    opt = optim.SwitchOptimizer([np.ones(3)], lr=0.1, switch_at=100, sgd_lr=0.1, tolerance=1e9)
    opt.step([np.ones(3)])
    with pytest.raises(TypeError, match=r"^SwitchOptimizer: switch_at must be an integer, got 'x'$"):
        opt.switch_at = "x"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^SwitchOptimizer: tolerance must be finite and >= 0, got -3$"):
        opt.tolerance = -3
    opt.switch_at = None
    for _ in range(6):
        opt.step([np.ones(3)])
    assert opt.switched


def test_the_view_is_not_changed_while_averages_are_swapped() -> None:
    p = np.ones(4)
    opt = optim.ScheduleFreeSGD([p], lr=1.0, ema_decay=0.5)
    for g in 1.0, 0.3:
        opt.step([np.full(4, g)])
    y = p.copy()
    with opt.using_ema(), pytest.raises(ValueError, match="swap_ema"):
        opt.eval()
    assert (p == y).all()
    opt.eval()
    with opt.using_ema(), pytest.raises(ValueError, match="swap_ema"):
        opt.train()
    opt.train()
    np.testing.assert_allclose(p, y)


@pytest.mark.filterwarnings("ignore:Setting:DeprecationWarning")
@pytest.mark.parametrize("what", ["shape", "dtype", "removed", "other shape", "masked", "list"])
def test_averages_come_back_all_or_none(what: str) -> None:
    p = [np.ones(4, "f"), np.ones(4, "f")]
    opt = optim.SGD(p, lr=1.0, ema_decay=0.5)
    opt.step([np.ones(4, "f")] * 2)
    opt.swap_ema()
    state, average = opt.state[1], opt.state[1]["ema_param"]
    if what == "shape":
        p[1].shape = (2, 2)
    elif what == "dtype":
        p[1].dtype = "i4"  # type: ignore[assignment]
    elif what == "removed":
        del state["ema_param"]
    else:
        some = {"other shape": np.zeros(5, "f"), "masked": np.ma.masked_array(np.zeros(4, "f")), "list": ["a"]}
        state["ema_param"] = some[what]
    with pytest.raises((TypeError, ValueError), match=r"^SGD: .*params\[1\]"):
        opt.swap_ema()
    assert (p[0] == 0.5).all()
    if what == "shape":
        p[1].shape = (4,)
    elif what == "dtype":
        p[1].dtype = "f"  # type: ignore[assignment]
    else:
        state["ema_param"] = average
    opt.swap_ema()
    assert [float(one[0]) for one in p] == [0.0, 0.0]


def test_a_file_that_does_not_fit_leaves_the_schedule_too(tmp_path: Path) -> None:
    first = optim.SGD([np.ones(3)], lr=1.0, momentum=0.9)
    schedule = schedules.ExponentialLR(first, 0.5)
    for _ in range(4):
        first.step([np.ones(3)])
        schedule.step()
    first.save(tmp_path / "state", schedule)
    opt = optim.SGD([np.ones(4)], lr=1.0, momentum=0.9)
    other = schedules.ExponentialLR(opt, 0.5)
    opt.step([np.ones(4)])
    opt.param_groups[0]["params"][0] = np.ones(4)
    with pytest.raises(ValueError, match="shape"):
        opt.load(tmp_path / "state", other)
    assert (other.last_epoch, opt.param_groups[0]["lr"]) == (0, 1.0)
    with pytest.raises(ValueError, match=r"^SGD: schedule is that of another optimizer$"):
        opt.save(tmp_path / "other", schedule)
    for wrong in opt, schedules.StepLR:
        with pytest.raises(TypeError, match=r"^SGD: schedule must be a schedule, got"):
            opt.save(tmp_path / "other", wrong)


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


def test_muon_takes_the_gradients_that_it_was_given() -> None:
    """Though the list changes between its parts."""

    class Changing(list[Any]):
        def __iter__(self) -> Any:
            yield from [*super().__iter__()]
            self[:] = [None]

    w = np.zeros((4, 4))
    opt = optim.Muon([w], lr=0.1, weight_decay=0.0)
    opt.step(Changing([np.eye(4)]))
    assert (opt.state[0]["step"], bool(w.any())) == (1, True)


def test_every_entry_of_a_group_is_watched() -> None:
    opt = optim.SGD({"a": np.ones(3)}, lr=1.0)
    group = opt.param_groups[0]
    grads = {"a": np.ones(3)}
    opt.step(grads)
    names = group.pop("param_names")
    group["learning_rate"] = 3.0
    with pytest.raises(ValueError, match=r"^SGD: unknown hyperparameter 'learning_rate'; did you mean 'lr'"):
        opt.step(grads)
    del group["learning_rate"]
    for wrong in ["x", "y"], 5:
        group["param_names"] = wrong
        with pytest.raises(ValueError, match=r"^SGD: param_names of param_groups\[0\] must be 1 strings, got"):
            opt.step(grads)
    group["param_names"] = names
    opt.step(grads)
    del names[0]
    with pytest.raises(ValueError, match=r"^SGD: param_names of param_groups\[0\] must be 1 strings, got"):
        opt.state_dict()
    names.append("a")
    group["initial_lr"] = "x"
    with pytest.raises(TypeError, match=r"^SGD: initial_lr must be a number, got 'x'$"):
        opt.step(grads)


def test_what_a_step_accepts_can_be_saved(tmp_path: Path) -> None:
    for lr in Fraction(1, 4), Decimal("0.25"), np.longdouble(0.25), np.array(0.25):
        opt = optim.SGD({"a.b": np.ones(3), "a": {"b": np.ones(2)}}, lr=lr)
        opt.step({"a.b": np.ones(3), "a": {"b": None}})
        opt.save(tmp_path / "state")
        opt.load(tmp_path / "state")
        assert opt.param_groups[0]["lr"] == 0.25
    for betas in {0.9, 0.99}, {0.9: 1, 0.99: 2}:
        with pytest.raises(TypeError, match=r"^Adam: betas must be two numbers, got"):
            optim.Adam([np.ones(2)], betas=betas)  # type: ignore[arg-type]


def test_state_cannot_be_set_and_is_made_once() -> None:
    opt = optim.SGD([np.ones(2)], lr=0.1)
    with pytest.raises(AttributeError, match=r"^SGD: state cannot be set; "):
        opt.state = ()  # type: ignore[misc]
    assert opt.state is opt.state


def test_a_whole_group_may_have_no_gradients() -> None:
    p, q = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": [p]}, {"params": {"w": q}}], lr=0.5)
    opt.step([[np.ones(2)], None])
    assert (p[0], q[0]) == (0.5, 1.0)
    with pytest.raises(TypeError, match=r"^SGD: grads\[1\] must be the gradients of group 1, got ndarray$"):
        opt.step([[np.ones(2)], np.ones(3)])


def test_types_are_no_values_of_hyperparameters() -> None:
    for key, value in {"moments": np.float16, "lr": np.float32}.items():
        with pytest.raises(TypeError, match=rf"^AdamW: {key} must be a"):
            optim.AdamW([np.ones(3, "f")], **{key: value})


def test_names_that_are_none_are_refused_as_such() -> None:
    opt = optim.SGD({"a": np.ones(3)}, lr=0.5)
    state = opt.state_dict(copy=True)
    for wrong in 5, ["b", "c"], [1]:
        state["param_groups"][0]["param_names"] = wrong
        with pytest.raises(
            ValueError, match=r"^SGD: param_names of group 0 of state_dict must be 1 different names, got"
        ):
            opt.load_state_dict(state)


def test_no_decay_says_what_it_wants() -> None:
    for params in None, np.ones(2), 3:
        with pytest.raises(TypeError, match=r"^no_decay: params must be a list or dict of arrays, got"):
            optim.no_decay(params)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^no_decay: rule must be a function of a name and an array, got 0.1$"):
        optim.no_decay([np.ones(2)], 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^no_decay: rule must return a bool, got ndarray for 0$"):
        optim.no_decay([np.ones(2)], lambda _, p: p > 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"^unpacked: state_dict must be the result of"):
        optim.unpacked({"state": {}, "param_groups": [], "fastopt": {}})


def test_a_bool_is_no_number() -> None:
    for call in fo.set_num_threads, lambda n: fo.threads(n).__enter__():
        with pytest.raises(TypeError, match=r"threads: n must be an integer, got True$"):
            call(True)
    x = np.ones(3, "f")
    for more in {"seed": True, "step": 1}, {"seed": 1, "step": np.True_}:
        with pytest.raises(TypeError, match=r"^dropout: (seed|step) must be an integer, got"):
            F.dropout(x, 0.5, training=True, **more)
    for eps in np.array(True), np.array("1"), np.complex64(1), np.ma.masked, np.timedelta64(1):
        with pytest.raises(TypeError, match=r"^layer_norm: eps must be a number, got"):
            F.layer_norm(x, 3, None, None, eps)  # type: ignore[arg-type]


# Between checks and the step


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
    """Though it is a brief one: threads are lent in the middle of it, by code in Python."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", FIRST_PARALLEL_STEP], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "[0.]\n"), done.stderr


def test_a_parameter_that_moves_to_another_group_follows_its_hyperparameters() -> None:
    def make() -> tuple[Array, Array, Array, Optimizer]:
        a, b, c = np.zeros(1), np.zeros(1), np.zeros(1)
        opt = optim.SGD([{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 0.0}])
        opt.step([np.zeros(1)] * 3)
        return a, b, c, opt

    def move_in_place(opt: Optimizer) -> None:
        first, second = (group["params"] for group in opt.param_groups)
        second.insert(0, first.pop())

    def replace(opt: Optimizer) -> None:
        first, second = (group["params"] for group in opt.param_groups)
        opt.param_groups[0]["params"], opt.param_groups[1]["params"] = first[:1], first[1:] + second

    for move in move_in_place, replace:
        a, b, c, opt = make()
        move(opt)
        for lr in 0.0, 0.5:
            opt.param_groups[1]["lr"] = lr
            opt.step([np.ones(1)] * 3)
        assert (a[0], b[0], c[0]) == (-2.0, -0.5, -0.5)


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


# SwitchOptimizer


def test_an_interrupted_switch_is_made_later() -> None:
    """Wherever the interrupt comes."""
    g = [np.ones(4)]

    def make() -> Optimizer:
        opt = optim.SwitchOptimizer([np.ones(4)], lr=0.1, switch_at=2)
        opt.step(g)
        return opt

    hits = 0
    for number in range(60):
        opt, twin, left = make(), make(), number

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal left
            if frame.f_code.co_name in ("_switch", "_advance", "__setattr__") and event in ("line", "return"):
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            opt.step(g)
        except KeyboardInterrupt:
            hits += 1
        finally:
            sys.settrace(before)
        if int(opt._count) == 1:
            opt.step(g)
        twin.step(g)
        for one in opt, twin:
            one.step(g)
        assert opt.switched and opt.param_groups[0]["sgd_lr"] is not None  # type: ignore[attr-defined]
        assert bits(copies(opt.param_groups[0]["params"])) == bits(copies(twin.param_groups[0]["params"]))
        optim.SwitchOptimizer([np.ones(4)], lr=0.1, switch_at=2).load_state_dict(opt.state_dict())
    assert hits > 20


def test_a_switch_that_must_wait_does_not_spoil_the_step() -> None:
    a, b = np.ones(3), np.ones(3)
    opt = optim.SwitchOptimizer([a, b], lr=0.1, switch_at=2)
    opt.step([np.ones(3), np.ones(3)])
    b.flags.writeable = False
    assert opt.step([np.ones(3), None]).step == 2
    assert not opt.switched
    before = a.copy()
    with pytest.raises(TypeError, match=r"^SwitchOptimizer: params\[1\] is read-only"):
        opt.step([np.ones(3), None])
    assert np.all(a == before)
    b.flags.writeable = True
    opt.step([np.ones(3), None])
    assert opt.switched

    opt = optim.SwitchOptimizer([np.ones(3)], lr=0.1, switch_at=1)
    opt.param_groups.clear()
    assert opt.step([]).step == 1
    assert opt.state_dict()["param_groups"] == []


def test_a_rate_after_the_switch_that_overflows_is_an_error() -> None:
    p = np.ones(3)
    opt = optim.SwitchOptimizer([p], lr=1e-300, switch_at=1, sgd_lr=0.5)
    opt.step([np.ones(3)])
    opt.param_groups[0]["lr"] = 1e300
    before = p.copy()
    with pytest.raises(ValueError, match=r"^SwitchOptimizer: sgd_lr·lr/switch_lr must be finite"):
        opt.step([np.ones(3)])
    assert np.all(p == before)


# Arrays of the state that change in place


def test_state_that_is_reshaped_in_place_changes_nothing() -> None:
    def make(**options: Any) -> tuple[list[Array], Optimizer]:
        params = [np.ones((6, 4), np.float32), np.ones((6, 4), np.float32)]
        opt = optim.SGD(params, lr=0.1, momentum=0.9, ema_decay=0.5, **options)
        opt.step([np.ones((6, 4), np.float32)] * 2)
        return params, opt

    calls: list[Callable[[Optimizer], Any]] = [
        lambda opt: opt.swap_ema(),
        lambda opt: opt.using_ema().__enter__(),
        lambda opt: opt.state_dict(),
        lambda opt: opt.ema_params,
        lambda opt: opt.step([np.ones((6, 4), np.float32)] * 2),
        pickle.dumps,
    ]
    for key in "ema_param", "momentum_buffer":
        for call in calls:
            params, opt = make()
            array, before = opt.state[1][key], bits(params)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                array.shape = (4, 6)
                with pytest.raises(
                    ValueError, match=rf"^SGD: {key} of params\[1\] in opt.state has shape \(4, 6\), expected"
                ):
                    call(opt)
                assert bits(params) == before
                assert not opt._swapped
                array.shape = (6, 4)
            call(opt)

    halves = [np.ones((6, 4), np.float16), np.ones((6, 4), np.float16)]
    opt = optim.SGD(halves, lr=0.1, weights="kahan", ema_decay=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        halves[1].shape = (24,)
        for call in (*calls[:3], lambda opt: opt.step([np.ones((6, 4), np.float16), np.ones(24, np.float16)])):
            with pytest.raises(ValueError, match=r"^SGD: params\[1\] has shape \(24,\), and had \(6, 4\)"):
                call(opt)


def test_counts_are_checked_as_other_state_is() -> None:
    a, b = np.ones(2), np.ones(2)

    def make() -> Optimizer:
        opt = optim.Adam([a, b], lr=0.1)
        opt.step([np.ones(2)] * 2)
        return opt

    def refused(opt: Optimizer, error: type[Exception], message: str, call: Callable[[], Any] | None = None) -> None:
        before = bits([a, b])
        with pytest.raises(error, match=message):
            (call or (lambda: opt.step([np.ones(2)] * 2)))()
        assert bits([a, b]) == before

    opt = make()
    opt.state[1]["step"] = opt.state[0]["step"]
    refused(opt, ValueError, r"^Adam: step\[0\] would be written, but overlaps step\[1\]$")
    opt = make()
    opt.state[0]["step"] = a.view(np.int64)[0, ...]
    refused(opt, ValueError, r"^Adam: ")
    opt = make()
    opt.state[0]["step"].flags.writeable = False
    refused(opt, TypeError, r"^Adam: step\[0\] must be a writeable int64 array")
    for count in -1, 1 << 53, (1 << 63) - 1:
        opt = make()
        opt.state[1]["step"][...] = count
        refused(opt, ValueError, r"^Adam: step\[1\] must be in \[0, 2\*\*53\), got ")
        refused(opt, ValueError, r"^Adam: step of params\[1\] in opt.state must be in \[0, 2\*\*53\)", opt.state_dict)


def test_a_run_that_has_diverged_can_be_saved_and_loaded(tmp_path: Path) -> None:
    for options in {"lr": 1e200}, {"r": 400.0}:
        opt = optim.ScheduleFreeSGD([np.ones(2)], **options)  # type: ignore[arg-type]
        for _ in range(10):
            opt.step([np.ones(2)])
        assert not np.isfinite(opt.state[0]["weight_sum"])
        opt.save(tmp_path / "state")
        other = optim.ScheduleFreeSGD([np.ones(2)])
        other.load(tmp_path / "state")
        assert {key: one.tobytes() for key, one in other.state[0].items()} == {
            key: one.tobytes() for key, one in opt.state[0].items()
        }


def test_loading_while_swapped_changes_nothing(tmp_path: Path) -> None:
    p = np.ones(2)
    opt = optim.SGD([p], lr=0.1, ema_decay=0.5)
    schedule = schedules.StepLR(opt, 2)
    opt.step([np.ones(2)])
    opt.save(tmp_path / "state", schedule)
    opt.step([np.ones(2)])
    live = p.copy()
    opt.swap_ema()
    opt.param_groups[0]["params"][0] = np.zeros(2)
    for more in (), (schedule,):
        with pytest.raises(ValueError, match="are swapped for their averages"):
            opt.load(tmp_path / "state", *more)
    opt.param_groups[0]["params"][0] = p
    opt.swap_ema()
    assert np.all(p == live)


# Numbers


@pytest.mark.parametrize(
    "lr", [Fraction(10**400), Decimal("sNaN"), Decimal("NaN"), np.timedelta64(1, "ns"), np.datetime64(1, "ns")]
)
def test_odd_numbers_are_refused_by_name(lr: Any) -> None:
    for make in (
        lambda: optim.SGD([np.ones(2)], lr=lr),
        lambda: F.sgd([np.ones(2)], [np.ones(2)], step=1, lr=lr),
        lambda: optim.SGD([np.ones(2)], lr=0.1).step([np.ones(2)], grad_scale=lr),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(SGD|sgd): (lr|grad_scale) must be "):
            make()


def test_betas_and_scales_that_work_once_or_not_at_all_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Adam: betas must be two numbers, got <generator"):
        optim.Adam([np.ones(2)], betas=(beta for beta in (0.9, 0.99)))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^SGD: grad_scale must be large enough for 1 / grad_scale to be finite, got 1e-320$"
    ):
        optim.SGD([np.ones(2)], lr=0.1).step([np.ones(2)], grad_scale=1e-320)
    for options in {"ema_decay": 0.5}, {"l2_init": 0.1}, {}:
        with pytest.raises(
            TypeError, match=r"^SGD: params\[0\] has dtype float16; weights='correction' is for bfloat16"
        ):
            optim.SGD([np.ones(2, np.float16)], lr=0.1, weights="correction", **options)
