"""The switch from Adam to SGD: its formula, its time, and the state after it."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import Array, Options, ordinary
from tools import assert_close, bits, copies

from fastopt import optim, schedules
from fastopt.optim import Optimizer

# Around it


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


def test_a_switch_that_is_due_is_made_before_anything_is_saved() -> None:
    opt = optim.SwitchOptimizer([np.ones(2)], lr=0.1, switch_at=2, sgd_lr=0.05)
    opt.step([np.ones(2)])
    Optimizer._take(opt, [np.ones(2)], None)  # as if an interrupt comes right after the step
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


def test_an_interrupted_switch_is_made_later() -> None:
    """This holds wherever the interrupt comes."""
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


# The formula


class Switched:
    """The formula of SwitchOptimizer's docstring, in NumPy."""

    def __init__(
        self, params: list[Array], lr: float, *, switch_at: int | None, sgd_lr: float | None, tolerance: float
    ) -> None:
        self.p, self.lr, self.switch_at, self.sgd_lr, self.tolerance = params, lr, switch_at, sgd_lr, tolerance
        self.m, self.v = ([np.zeros_like(p) for p in params] for _ in range(2))
        self.t, self.average, self.switched = 0, 0.0, False

    def step(self, grads: list[Array]) -> None:
        if self.switched:
            assert self.sgd_lr is not None
            for p, b, g in zip(self.p, self.m, grads, strict=True):
                b[...] = 0.9 * b + g
                p -= self.sgd_lr * b
            return
        self.t += 1
        of_direction = of_gradient = 0.0
        for p, m, v, g in zip(self.p, self.m, self.v, grads, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            d = self.lr * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
            p -= d
            of_direction += float(np.sum(d * d))
            of_gradient += float(np.sum(d * g))
        gamma = of_direction / of_gradient
        self.average = 0.999 * self.average + 0.001 * gamma
        rate = self.average / (1 - 0.999**self.t)
        settled = self.t > 1 and abs(rate - gamma) < self.tolerance
        if settled if self.switch_at is None else self.t >= self.switch_at:
            self.switched = True
            for m in self.m:
                m /= (1 - 0.9**self.t) * 0.1
            self.sgd_lr = 0.1 * rate if self.sgd_lr is None else self.sgd_lr


@pytest.mark.parametrize(
    "options",
    [
        {"switch_at": 1, "sgd_lr": 0.02},
        {"switch_at": 5, "sgd_lr": 0.02},
        {"switch_at": 5, "sgd_lr": None},
        {"switch_at": None, "sgd_lr": None, "tolerance": 3e-5},
        {"switch_at": None, "sgd_lr": 0.02, "tolerance": 3e-5},
    ],
    ids=str,
)
def test_a_switch_is_the_formula(options: Options, rng: Generator) -> None:
    """The problem is a quadratic, on which γ settles."""
    params = [ordinary(rng, (20,)), ordinary(rng, (4, 5))]
    twins = copies(params)
    opt = optim.SwitchOptimizer(params, lr=0.01, **options)
    formula = Switched(twins, 0.01, **{"tolerance": 1e-9, **options})
    switches = []
    for step in range(30):
        info = opt.step([0.5 * p for p in params])
        formula.step([0.5 * p for p in twins])
        assert info.step == step + 1
        assert opt.switched == formula.switched
        switches.append(opt.switched)
    assert switches[-1]
    assert options["switch_at"] is None or switches.index(True) + 1 == options["switch_at"]
    assert options["switch_at"] is not None or switches.index(True) > 1
    assert_close(params, twins, 1e-11)
    assert opt.param_groups[0]["sgd_lr"] == pytest.approx(formula.sgd_lr, rel=1e-10)
    assert_close([one["momentum_buffer"] for one in opt.state], formula.m, 1e-11)
    assert not any("exp_avg_sq" in one for one in opt.state)


def test_groups_switch_with_rates_of_their_own(rng: Generator) -> None:
    """One rate is given, and the other is projected."""
    params = [ordinary(rng, (20,)), ordinary(rng, (4, 5))]
    opt = optim.SwitchOptimizer([{"params": params[:1], "sgd_lr": 0.02}, {"params": params[1:]}], lr=0.01, switch_at=3)
    plain = optim.Adam(twins := copies(params), lr=0.01)
    for _ in range(3):
        plain.step([0.5 * p for p in twins])
        opt.step([[0.5 * params[0]], [0.5 * params[1]]])
    assert_close(params, twins)
    assert opt.switched
    first, second = (group["sgd_lr"] for group in opt.param_groups)
    assert first == 0.02
    assert 0 < second < 1
    buffers = copies([one["momentum_buffer"] for one in opt.state])
    before = copies(params)
    opt.step([[0.5 * params[0]], [0.5 * params[1]]])
    for p, b, m, lr in zip(params, before, buffers, (first, second), strict=True):
        assert_close(p, b - lr * (0.9 * m + 0.5 * b))
    assert_close(buffers[0], plain.state[0]["exp_avg"] / (1 - 0.9**3) / 0.1)


def test_a_parameter_without_gradients_switches_too(rng: Generator) -> None:
    """Its momentum begins with its first gradient."""
    params = [ordinary(rng, (5,)), ordinary(rng, (4,))]
    opt = optim.SwitchOptimizer(params, lr=0.01, switch_at=2, sgd_lr=0.1)
    before = params[1].copy()
    for _ in range(3):
        opt.step([params[0] * 0.5, None])
    assert opt.switched
    opt.step([None, np.ones(4)])
    assert_close(params[1], before - 0.1)


def test_a_skipped_step_is_no_step_to_the_switch() -> None:
    p = np.ones(3)
    opt = optim.SwitchOptimizer([p], lr=0.01, switch_at=2, sgd_lr=0.1)
    opt.step([np.ones(3)])
    for _ in range(3):
        assert opt.step([np.full(3, np.nan)], skip_nonfinite=True).skipped
    assert not opt.switched
    opt.step([np.ones(3)])
    assert opt.switched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_at": 0}, "switch_at must be in"),
        ({"switch_at": 1.5}, "switch_at must be an integer"),
        ({"sgd_lr": -1.0}, "sgd_lr must be"),
        ({"tolerance": -1.0}, "tolerance must be"),
    ],
)
def test_switches_that_make_no_sense_are_errors(options: Options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^SwitchOptimizer: {message}"):
        optim.SwitchOptimizer([np.ones(3)], **options)
