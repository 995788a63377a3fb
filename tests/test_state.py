"""State that is saved and loaded: runs continue as if nothing had happened, and wrong state changes nothing."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.random import Generator
from safetensors.numpy import save_file
from tables import CLASSES, OPTIMIZERS, Array, Options, ordinary
from tools import Each, copies, everything

from fastopt import optim, schedules

classes = pytest.mark.parametrize("name", CLASSES)
AROUNDS: list[Options] = [
    {"noise": 0.1, "seed": 5, "ema_decay": 0.99, "ema_warmup": True, "l2_init": 0.01},
    {"noise": 0.1, "swa_start": 3, "swa_freq": 2, "maximize": True, "l1": 0.01, "weight_decay": 0.1},
]
OTHERS: Options = {
    "lr": 0.7,
    "weight_decay": 0.3,
    "maximize": True,
    "seed": 9,
    "l1": 0.2,
    "noise": 0.5,
    "ema_decay": 0.1,
}


def gradients(rng: Generator, name: str, step: int) -> list[Array | None]:
    """Some gradients are None, even at the first steps; the last parameter's is always None."""
    grads = OPTIMIZERS[name].arrays(rng)
    return [None if (step + i) % 4 == 0 or i == len(grads) - 1 else g for i, g in enumerate(grads)]


class Run:
    """An optimizer with a schedule; the same gradients give the same steps."""

    def __init__(self, name: str, params: list[Array], **options: Any) -> None:
        self.name, self.params = name, params
        self.opt = CLASSES[name](params, **options)
        self.schedule = schedules.CosineAnnealingLR(self.opt, T_max=12)

    def go(self, first: int, count: int) -> None:
        for step in range(first, first + count):
            self.opt.step(gradients(np.random.default_rng(step), self.name, step), clip_norm=2.0)
            self.schedule.step()

    def fresh(self, **options: Any) -> Run:
        """Another optimizer of copies of the parameters as they are now, with other hyperparameters."""
        return Run(self.name, copies(self.params), **{**OTHERS, **options})


# Runs continue


@classes
def test_a_run_goes_on_from_a_snapshot(name: str, each: Each, rng: Generator) -> None:
    for options, around in each(OPTIMIZERS[name].variants, AROUNDS, by_day=3):
        run = Run(name, OPTIMIZERS[name].arrays(rng), lr=0.05, **options, **around)
        run.go(0, 5)
        state, schedule = run.opt.state_dict(copy=True), run.schedule.state_dict()
        other = run.fresh()
        run.go(5, 5)  # this does not touch the snapshot
        other.opt.load_state_dict(state)
        other.schedule.load_state_dict(schedule)
        other.go(5, 5)
        assert everything(other.opt) == everything(run.opt)


@classes
def test_a_run_goes_on_from_a_file(name: str, each: Each, tmp_path: Path, rng: Generator) -> None:
    for options, around in each(OPTIMIZERS[name].variants, AROUNDS, by_day=3):
        run = Run(name, OPTIMIZERS[name].arrays(rng), lr=0.05, **options, **around)
        run.go(0, 5)
        run.opt.save(tmp_path / "state", schedule=run.schedule)
        other = run.fresh()
        other.opt.load(tmp_path / "state", schedule=other.schedule)
        assert everything(other.opt) == everything(run.opt)
        run.go(5, 5)
        other.go(5, 5)
        assert everything(other.opt) == everything(run.opt)


@classes
def test_a_run_goes_on_from_its_beginning(name: str, rng: Generator) -> None:
    """The state is saved before the first step."""
    run = Run(name, OPTIMIZERS[name].arrays(rng), lr=0.05, **OPTIMIZERS[name].richest)
    other = run.fresh(ema_decay=None)
    other.opt.load_state_dict(run.opt.state_dict(copy=True))
    other.schedule.load_state_dict(run.schedule.state_dict())
    for one in run, other:
        one.go(0, 3)
    mine, others = everything(run.opt), everything(other.opt)
    assert [{key: one[key] for key in mine["state"][i]} for i, one in enumerate(others["state"])] == mine["state"]
    assert {**mine, "state": 0, "averages": 0} == {**others, "state": 0, "averages": 0}


@classes
def test_a_loaded_buffer_is_not_a_first_step(name: str, rng: Generator) -> None:
    """The first step after loading is not what the first step of a new optimizer would be."""
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=0.05, **OPTIMIZERS[name].richest)
    for _ in range(3):
        opt.step(OPTIMIZERS[name].arrays(rng))
    loaded, new = copies(params), copies(params)
    other, first = (CLASSES[name](p, lr=0.05, **OPTIMIZERS[name].richest) for p in (loaded, new))
    other.load_state_dict(opt.state_dict())
    grads = OPTIMIZERS[name].arrays(rng)
    assert opt.step(grads).step == other.step(grads).step == 4
    assert first.step(grads).step == 1
    assert [p.tobytes() for p in loaded] == [p.tobytes() for p in params]
    assert any(p.tobytes() != q.tobytes() for p, q in zip(new, params, strict=True))


def test_a_buffer_that_comes_without_a_count_is_not_a_first_step() -> None:
    """torch's SGD has such a buffer; a first step would not be dampened."""
    p = np.zeros(3)
    opt = optim.SGD([p], lr=1.0, momentum=0.5, dampening=0.5)
    opt.load_state_dict({"state": {0: {"momentum_buffer": np.full(3, 4.0)}}, "param_groups": [{"params": [0]}]})
    opt.step([np.ones(3)])
    assert p.tolist() == [-2.5] * 3


@classes
def test_groups_go_on(name: str, tmp_path: Path, rng: Generator) -> None:
    """Groups have hyperparameters and averages of their own."""
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name]([{"params": params[:1], "lr": 0.3}, {"params": params[1:], "ema_decay": 0.9}], lr=0.05)
    for _ in range(3):
        opt.step(OPTIMIZERS[name].arrays(rng))
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = CLASSES[name]([{"params": twins[:1]}, {"params": twins[1:]}], **OTHERS)
    other.load(tmp_path / "state")
    for one in opt, other:
        one.step(OPTIMIZERS[name].arrays(np.random.default_rng(1)))
    assert everything(other) == everything(opt)


@classes
def test_hyperparameters_come_back(name: str, tmp_path: Path) -> None:
    """All of them come back exactly, with the entries that a schedule has added."""
    opt = CLASSES[name]([np.ones((2, 2))], lr=np.float64(1) / 3, l1=1e-300, seed=2**53 - 1, swa_start=7)
    opt.param_groups[0]["initial_lr"] = 0.1
    opt.save(tmp_path / "state")
    loads: list[Callable[[Any], Any]] = [
        lambda other: other.load(tmp_path / "state"),
        lambda other: other.load_state_dict(opt.state_dict()),
    ]
    for load in loads:
        other = CLASSES[name]([np.ones((2, 2))], lr=0.7, weight_decay=0.3, seed=1, noise=0.1, maximize=True)
        load(other)
        mine, others = (dict(one.param_groups[0]) for one in (opt, other))
        assert mine.pop("params")[0] is not others.pop("params")[0]
        assert others == mine
        assert [type(value) for value in others.values() if isinstance(value, tuple | bool)] == [
            type(value) for value in mine.values() if isinstance(value, tuple | bool)
        ]


def test_hyperparameters_may_be_numpys_numbers(tmp_path: Path) -> None:
    """Users' own schedules may compute such numbers."""
    opt = optim.Adam([np.ones(3)], lr=np.float32(0.25), betas=(np.float32(0.5), np.float64(0.75)), seed=np.int64(3))
    opt.param_groups[0]["amsgrad"] = np.True_
    opt.step([np.ones(3)])
    opt.save(tmp_path / "state")
    other = optim.Adam([np.ones(3)])
    other.load(tmp_path / "state")
    group = other.param_groups[0]
    assert (group["lr"], group["betas"], group["seed"], group["amsgrad"]) == (0.25, (0.5, 0.75), 3, True)


@classes
def test_float32_goes_on(name: str, tmp_path: Path, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng, dtype="float32")
    opt = CLASSES[name](params, lr=0.05, ema_decay=0.9, **OPTIMIZERS[name].richest)
    opt.step(OPTIMIZERS[name].arrays(rng, dtype="float32"))
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = CLASSES[name](twins, lr=0.7)
    other.load(tmp_path / "state")
    for one in opt, other:
        one.step(OPTIMIZERS[name].arrays(np.random.default_rng(1), dtype="float32"))
    assert everything(other) == everything(opt)


@pytest.mark.parametrize("options", [{"switch_at": 4, "sgd_lr": 0.01}, {"switch_at": 4}, {"tolerance": 1e-3}])
@pytest.mark.parametrize("saved_at", [2, 4, 6])
def test_a_switch_is_saved_before_and_after(options: Options, saved_at: int, tmp_path: Path, rng: Generator) -> None:
    """The problem is a quadratic, on which γ settles."""

    def go(opt: optim.SwitchOptimizer, params: list[Array], count: int) -> None:
        for _ in range(count):
            opt.step([0.5 * p for p in params])

    params = [ordinary(rng, (20,)), ordinary(rng, (3, 3))]
    opt = optim.SwitchOptimizer(params, lr=0.01, **options)
    go(opt, params, saved_at)
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = optim.SwitchOptimizer(twins, lr=0.7, switch_at=100, tolerance=0.5)
    other.load(tmp_path / "state")
    assert other.switched == opt.switched
    go(opt, params, 10)
    go(other, twins, 10)
    assert opt.switched
    assert everything(other) == everything(opt)


@pytest.mark.parametrize("name", [name for name in CLASSES if hasattr(CLASSES[name], "eval")])
def test_evaluation_is_saved(name: str, tmp_path: Path, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=0.05)
    for _ in range(3):
        opt.step(OPTIMIZERS[name].arrays(rng))
    opt.eval()
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = CLASSES[name](twins)
    other.load(tmp_path / "state")
    with pytest.raises(ValueError, match=r"set for evaluation; call train\(\) first"):
        other.step(OPTIMIZERS[name].arrays(rng))
    for one in opt, other:
        one.train()
        one.step(OPTIMIZERS[name].arrays(np.random.default_rng(1)))
        one.eval()
    assert everything(other) == everything(opt)


# The contents of a state


@classes
def test_a_state_is_live_or_a_snapshot(name: str, rng: Generator) -> None:
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), lr=0.05, ema_decay=0.9, **OPTIMIZERS[name].richest)
    opt.step(OPTIMIZERS[name].arrays(rng))
    live, snapshot = opt.state_dict(), opt.state_dict(copy=True)
    assert all(live["state"][i][key] is array for i, one in enumerate(opt.state) for key, array in one.items())
    before = pickle.dumps(snapshot)
    opt.step(OPTIMIZERS[name].arrays(rng))
    opt.param_groups[0]["lr"] = 0.01
    assert pickle.dumps(snapshot) == before
    assert snapshot["param_groups"][0]["lr"] == 0.05
    assert any(np.any(live["state"][0][key] != array) for key, array in snapshot["state"][0].items())


@classes
def test_a_state_has_torchs_structure(name: str, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name]([{"params": params[:1]}, {"params": params[1:]}])
    state = opt.state_dict()
    count = len(params)
    assert list(state) == ["state", "param_groups", "fastopt"]
    assert list(state["state"]) == list(range(count))
    assert [group["params"] for group in state["param_groups"]] == [[0], list(range(1, count))]
    assert state["fastopt"]["class"] == name
    assert all(one["step"].dtype == np.int64 and one["step"].shape == () for one in state["state"].values())
    del state["fastopt"]
    if name != "SwitchOptimizer":  # torch's state has no such part
        opt.load_state_dict(state)


@classes
def test_names_are_saved(name: str, tmp_path: Path, rng: Generator) -> None:
    layers = {
        "first": {"w": ordinary(rng, (3, 3))},
        "others": [{"w": ordinary(rng, (3, 2))}, {"w": ordinary(rng, (2, 3))}],
    }
    opt = CLASSES[name](layers)
    names = ["first.w", "others.0.w", "others.1.w"]
    assert opt.state_dict()["param_groups"][0]["param_names"] == names
    opt.save(tmp_path / "state")
    other = CLASSES[name](copy.deepcopy(layers))
    other.load(tmp_path / "state")
    assert other.param_groups[0]["param_names"] == names
    nameless = CLASSES[name]([ordinary(rng, (3, 3)), ordinary(rng, (3, 2)), ordinary(rng, (2, 3))])
    nameless.load(tmp_path / "state")  # the names are not needed
    nameless.step([ordinary(rng, (3, 3)), None, None])


@classes
def test_what_would_be_lost_is_an_error(name: str, tmp_path: Path, rng: Generator) -> None:
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), lr=0.05, ema_decay=0.9)
    opt.accumulate(OPTIMIZERS[name].arrays(rng))
    for save in opt.state_dict, (lambda: opt.save(tmp_path / "state")):
        with pytest.raises(
            ValueError,
            match=rf"^{name}: accumulated gradients would be lost; step\(\) or discard_accumulated\(\) first$",
        ):
            save()
    opt.step()
    with opt.using_ema():
        for save in opt.state_dict, (lambda: opt.save(tmp_path / "state")):
            with pytest.raises(ValueError, match=rf"^{name}: the parameters are swapped for their averages; swap_ema"):
                save()
    assert not (tmp_path / "state").exists()
    opt.save(tmp_path / "state")


@classes
def test_loading_forgets_what_was_accumulated(name: str, rng: Generator) -> None:
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), lr=0.05)
    state = opt.state_dict(copy=True)
    opt.accumulate(OPTIMIZERS[name].arrays(rng))
    opt.load_state_dict(state)
    with pytest.raises(ValueError, match="grads is missing, and accumulate has added none"):
        opt.step()


# Wrong state changes nothing


class Twins:
    """Two equal optimizers in the middle of a run.  One of them will get bad state."""

    def __init__(self, name: str, rng: Generator, **options: Any) -> None:
        self.name = name
        params = OPTIMIZERS[name].arrays(rng)
        self.opt, self.twin = (
            CLASSES[name](copies(params), **{"lr": 0.05, "ema_decay": 0.9, **OPTIMIZERS[name].richest, **options})
            for _ in range(2)
        )
        for step in range(3):
            self.step(step)
        self.opt.accumulate(OPTIMIZERS[name].arrays(np.random.default_rng(7)))
        self.twin.accumulate(OPTIMIZERS[name].arrays(np.random.default_rng(7)))

    def step(self, step: int) -> None:
        for one in self.opt, self.twin:
            one.step(gradients(np.random.default_rng(step), self.name, step))

    def refuse(self, act: Callable[[Any], Any], error: Any, match: str) -> None:
        before = everything(self.opt)
        with pytest.raises(error, match=match):
            act(self.opt)
        assert everything(self.opt) == before

    def go_on(self) -> None:
        """Asserts that accumulated gradients are still there, and that the next step is the twin's."""
        assert everything(self.opt) == everything(self.twin)
        for one in self.opt, self.twin:
            one.step()
        self.step(4)
        assert everything(self.opt) == everything(self.twin)


def loading(state: Any) -> Callable[[Any], Any]:
    return lambda opt: opt.load_state_dict(state)


def good_state(name: str, rng: Generator) -> dict[str, Any]:
    """A state that differs in everything from the twins'."""
    opt = CLASSES[name](
        OPTIMIZERS[name].arrays(rng),
        **{"lr": 0.7, "weight_decay": 0.3, "l2_init": 0.1, "swa_start": 1, **OPTIMIZERS[name].richest},
    )
    for _ in range(2):
        opt.step(OPTIMIZERS[name].arrays(rng))
    state: dict[str, Any] = opt.state_dict(copy=True)
    return state


def of_first(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Makes a change of the first parameter's state."""

    def of_state(state: dict[str, Any]) -> None:
        change(state["state"][0])

    return of_state


def of_group(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def of_state(state: dict[str, Any]) -> None:
        state["param_groups"][0].update(changes)

    return of_state


def first_buffer(one: dict[str, Any]) -> str:
    """The first of a parameter's buffers that are its rule's own, if it has one."""
    return next(
        (key for key in one if key not in ("step", "ema_param", "initial_param") and one[key].ndim), "ema_param"
    )


def reshaped(one: dict[str, Any]) -> None:
    one[first_buffer(one)] = np.zeros((9, 9))


def retyped(one: dict[str, Any]) -> None:
    one[first_buffer(one)] = one[first_buffer(one)].astype(np.float32)


def without_buffer(one: dict[str, Any]) -> None:
    del one[first_buffer(one)]


Errors: TypeAlias = type[Exception] | tuple[type[Exception], ...]
BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], Errors, str]] = {
    "class": (lambda s: s["fastopt"].update({"class": "Other"}), ValueError, "state_dict is that of Other$"),
    "no groups": (lambda s: s["param_groups"].clear(), ValueError, "state_dict has 0 groups, expected 1$"),
    "groups": (
        lambda s: s["param_groups"].append(copy.deepcopy(s["param_groups"][0])),
        ValueError,
        "state_dict has 2 groups, expected 1$",
    ),
    "fewer parameters": (
        lambda s: s["param_groups"][0]["params"].pop(),
        ValueError,
        r"group 0 of state_dict has \d parameters, expected \d$",
    ),
    "more parameters": (
        lambda s: s["param_groups"][0]["params"].append(99),
        ValueError,
        r"group 0 of state_dict has \d parameters, expected \d$",
    ),
    "parameters of no group": (
        lambda s: s["state"].update({99: {}}),
        ValueError,
        r"parameters \[99\], which are in no",
    ),
    "shape": (of_first(reshaped), ValueError, r"params\[0\] in state_dict has shape \(9, 9\), expected \("),
    "dtype": (of_first(retyped), TypeError, r"params\[0\] in state_dict has dtype float32, expected float64$"),
    "unknown buffer": (
        of_first(lambda one: one.update(speed=np.zeros((4, 3)))),
        ValueError,
        r"state_dict has an unknown 'speed' of params\[0\]$",
    ),
    "text": (
        of_first(lambda one: one.update(step="three")),
        (TypeError, ValueError),
        r"step of params\[0\] in state_dict",
    ),
    "negative step": (
        of_first(lambda one: one.update(step=-1)),
        ValueError,
        r"step of params\[0\] in state_dict must be",
    ),
    "step that is no number": (of_first(lambda one: one.update(step=np.nan)), ValueError, r"step of params\[0\]"),
    "broken step": (of_first(lambda one: one.update(step=1.5)), ValueError, r"step of params\[0\]"),
    "several steps": (of_first(lambda one: one.update(step=np.ones(2))), ValueError, r"step of params\[0\]"),
    "unknown hyperparameter": (
        of_group(speed=1),
        ValueError,
        "group 0 of state_dict has an unknown hyperparameter 'speed'$",
    ),
    "lr": (of_group(lr=-1.0), ValueError, "lr must be finite and >= 0, got -1.0$"),
    "lr that is text": (of_group(lr="fast"), TypeError, "lr must be a number, got 'fast'$"),
    "ema_decay": (of_group(ema_decay=2.0, swa_start=None), ValueError, r"ema_decay must be in \[0, 1\], got 2.0$"),
    "count": (lambda s: s["fastopt"].update(step="many"), (TypeError, ValueError), "step"),
    "negative count": (lambda s: s["fastopt"].update(step=-4), ValueError, "step"),
    "fastopt": (lambda s: s.update(fastopt=3), (TypeError, ValueError), "state_dict"),
    "group without params": (lambda s: s["param_groups"][0].pop("params"), (TypeError, ValueError), "no parameters"),
    "group": (lambda s: s["param_groups"].__setitem__(0, 3), (TypeError, ValueError), "group"),
    "state": (lambda s: s.update(state=[]), (TypeError, ValueError), "state"),
    "state of a parameter": (lambda s: s["state"].update({0: 3}), (TypeError, ValueError), r"params\[0\]"),
}


@classes
def test_a_bad_state_changes_nothing(name: str, each: Each, rng: Generator) -> None:
    for bad in each(BAD_STATES, by_day=6):
        twins = Twins(name, rng)
        state = good_state(name, rng)
        change, error, message = BAD_STATES[bad]
        change(state)
        twins.refuse(loading(state), error, rf"^{name}: (?s:.*){message}")
        twins.go_on()


@pytest.mark.parametrize(
    "bad",
    [{"switched": "no"}, {"switch_at": -3}, {"tolerance": -1.0}, {"average": "x"}, {"since": None}, {"decay": []}],
)
def test_a_bad_switch_changes_nothing(bad: dict[str, Any], rng: Generator) -> None:
    twins = Twins("SwitchOptimizer", rng)
    state = good_state("SwitchOptimizer", rng)
    state["fastopt"].update(bad)
    (name,) = bad
    twins.refuse(loading(state), (TypeError, ValueError), f"^SwitchOptimizer: .*{name}")
    twins.go_on()


def test_a_rules_scratch_is_no_state(rng: Generator) -> None:
    state = good_state("Muon", rng)
    state["state"][0]["update"] = np.zeros((4, 3))
    twins = Twins("Muon", rng)
    twins.refuse(loading(state), ValueError, r"^Muon: state_dict has an unknown 'update' of params\[0\]$")
    twins.go_on()


@classes
def test_a_missing_buffer_changes_nothing(name: str, rng: Generator) -> None:
    """The test removes every buffer of the first parameter and of a later one."""
    state = good_state(name, rng)
    for number in 0, 2:
        for key in state["state"][number].keys() - {"step"}:
            bad = {**state, "state": {i: dict(one) for i, one in state["state"].items()}}
            del bad["state"][number][key]
            twins = Twins(name, np.random.default_rng(3))
            twins.refuse(loading(bad), ValueError, rf"^{name}: state_dict has no {key} of params\[{number}\]$")
            twins.go_on()


@classes
def test_other_parameters_change_nothing(name: str, tmp_path: Path, rng: Generator) -> None:
    """The state is that of an optimizer whose parameters have another order or another dtype."""
    twins = Twins(name, rng)
    for params, error in (
        (OPTIMIZERS[name].arrays(rng)[::-1], ValueError),
        (OPTIMIZERS[name].arrays(rng, dtype="float32"), TypeError),
        (OPTIMIZERS[name].arrays(rng)[:-1], ValueError),
    ):
        other = CLASSES[name](params, **{**OTHERS, **OPTIMIZERS[name].richest})
        other.step(copies(params))
        other.save(tmp_path / "state")
        twins.refuse(loading(other.state_dict()), error, f"^{name}: ")
        twins.refuse(lambda opt: opt.load(tmp_path / "state"), error, f"^{name}: ")
    twins.go_on()


@pytest.mark.parametrize("bad", [None, 3, [], {}, {"state": {}}, {"param_groups": []}, "state"])
def test_what_is_no_state_changes_nothing(bad: Any, rng: Generator) -> None:
    twins = Twins("AdamW", rng)
    twins.refuse(
        lambda opt: opt.load_state_dict(bad), TypeError, "^AdamW: state_dict must be a dict with state and param_groups"
    )
    twins.go_on()


@classes
def test_another_classs_file_changes_nothing(name: str, tmp_path: Path, rng: Generator) -> None:
    other = "SGD" if name != "SGD" else "Adam"
    CLASSES[other](OPTIMIZERS[name].arrays(rng), lr=0.7).save(tmp_path / "state")
    twins = Twins(name, rng)
    twins.refuse(lambda opt: opt.load(tmp_path / "state"), ValueError, rf"^{name}: state_dict is that of {other}$")
    twins.go_on()


@classes
def test_a_damaged_file_changes_nothing(name: str, tmp_path: Path, rng: Generator) -> None:
    twins = Twins(name, rng)
    path = tmp_path / "state"
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), **{**OTHERS, **OPTIMIZERS[name].richest})
    opt.step(OPTIMIZERS[name].arrays(rng))
    opt.save(path)
    good = path.read_bytes()
    places = np.linspace(0, len(good) - 1, 12).astype(int)
    for place in places:
        path.write_bytes(good[:place])
        twins.refuse(lambda opt: opt.load(path), ValueError, "^load: .*state .*(truncated|damaged|empty)")
        flipped = bytearray(good)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        twins.refuse(lambda opt: opt.load(path), ValueError, "^load: .*state ")
    path.write_bytes(good + b"\0")
    twins.refuse(lambda opt: opt.load(path), ValueError, "^load: .*state ")
    twins.go_on()
    path.write_bytes(good)
    twins.opt.load(path)


def test_a_foreign_file_changes_nothing(tmp_path: Path, rng: Generator) -> None:
    twins = Twins("AdamW", rng)
    path = tmp_path / "state"
    np.savez(npy := io.BytesIO(), w=np.ones(3))
    with pytest.raises(FileNotFoundError):
        twins.opt.load(path)
    for write in (
        lambda: path.write_bytes(b"not at all"),
        lambda: path.write_text(json.dumps({"state": {}, "param_groups": []})),
        lambda: path.write_bytes(npy.getvalue()),
        lambda: save_file({"0.exp_avg": np.ones(3)}, path),
        lambda: save_file({"0.exp_avg": np.ones(3)}, path, {"format": "pt"}),
        lambda: path.write_bytes(pickle.dumps({"state": {}, "param_groups": []})),
    ):
        write()
        twins.refuse(lambda opt: opt.load(path), ValueError, "^load: .*state ")
    twins.go_on()


def test_a_schedule_that_is_not_loaded_is_not_silent(tmp_path: Path) -> None:
    """The learning rate would be that of epoch 3, and a new schedule would begin with epoch 0."""
    path = tmp_path / "state"
    opt = optim.SGD([np.ones(3)], lr=0.1)
    schedule = schedules.ExponentialLR(opt, 0.5)
    for _ in range(3):
        schedule.step()
    opt.save(path, schedule)
    new = optim.SGD([np.ones(3)], lr=0.1)
    before = everything(new)
    text = r"^SGD: .*state has the state of a schedule too, which is not loaded; load\(path, schedule\) goes on with it"
    with pytest.raises(UserWarning, match=text):  # as an error it comes before anything is changed
        new.load(path)
    assert everything(new) == before
    with pytest.warns(UserWarning, match=text) as caught:
        new.load(path)
    assert caught[0].filename == __file__
    assert new.param_groups[0]["lr"] == 0.0125
    opt.save(path)
    new.load(path)


def test_a_missing_schedule_changes_nothing(tmp_path: Path, rng: Generator) -> None:
    """The file has no schedule, one of another class, or one of other groups."""
    path = tmp_path / "state"
    params = OPTIMIZERS["AdamW"].arrays(rng)
    saved = optim.AdamW(params, **{**OTHERS, **OPTIMIZERS["AdamW"].richest})
    twins = Twins("AdamW", rng)
    schedule = schedules.StepLR(twins.opt, step_size=2)
    schedules.StepLR(twins.twin, step_size=2)
    saved.save(path)
    twins.refuse(lambda opt: opt.load(path, schedule=schedule), ValueError, "^AdamW: .*state has no schedule$")
    saved.save(path, schedule=schedules.LinearLR(saved))
    before = schedule.state_dict()
    twins.refuse(
        lambda opt: opt.load(path, schedule=schedule), ValueError, "^StepLR: state_dict must be of the same class"
    )
    assert schedule.state_dict() == before
    other = optim.SGD(copies(params), lr=0.7)
    theirs = schedules.StepLR(other, step_size=2)
    theirs.step()
    other.save(path, schedule=theirs)
    twins.refuse(lambda opt: opt.load(path, schedule=schedule), ValueError, "^AdamW: state_dict is that of SGD$")
    assert schedule.state_dict() == before
    twins.go_on()


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    opt = optim.SGD([np.ones(3)])
    opt.save(tmp_path / "state")
    good = (tmp_path / "state").read_bytes()
    opt.param_groups[0]["initial_lr"] = object()
    with pytest.raises(TypeError, match="initial_lr"):
        opt.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == good
    with pytest.raises(OSError, match="nowhere"):
        optim.SGD([np.ones(3)]).save(tmp_path / "nowhere" / "state")


def test_loading_while_swapped_keeps_averages_and_parameters_apart(rng: Generator) -> None:
    """Loading either raises an error and changes nothing, or restores the optimizer as it was saved."""
    params = [ordinary(rng, (5,))]
    opt = optim.SGD(params, lr=0.1, ema_decay=0.9)
    for _ in range(3):
        opt.step([ordinary(rng, (5,))])
    state = opt.state_dict(copy=True)
    opt.swap_ema()
    before = everything(opt)
    with pytest.raises(ValueError, match=r"^SGD: the parameters are swapped for their averages"):
        opt.load_state_dict(state)
    assert everything(opt) == before
