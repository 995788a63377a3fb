"""Schedules: torch's values, step by step; resumed to the last bit; and what they refuse."""

from __future__ import annotations

import copy
import json
import math
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastopt import schedules
from fastopt.optim import SGD, AdamW

STEPS = 260
Make = Callable[[Any, Any], Any]

# From a module with the schedules, ours or torch's, and an optimizer with two groups.
CASES: dict[str, Make] = {
    "constant": lambda s, opt: s.ConstantLR(opt),
    "constant long": lambda s, opt: s.ConstantLR(opt, 0.07, 123),
    "constant one": lambda s, opt: s.ConstantLR(opt, 1, 1),
    "step": lambda s, opt: s.StepLR(opt, 30),
    "step each": lambda s, opt: s.StepLR(opt, step_size=1, gamma=0.97),
    "step up": lambda s, opt: s.StepLR(opt, 100, gamma=1.7),
    "multi": lambda s, opt: s.MultiStepLR(opt, [20, 50, 51, 200]),
    "multi twice": lambda s, opt: s.MultiStepLR(opt, [0, 7, 7, 7, 90], gamma=0.3),
    "linear": lambda s, opt: s.LinearLR(opt),
    "linear long": lambda s, opt: s.LinearLR(opt, 1e-3, 0.9, 210),
    "linear down": lambda s, opt: s.LinearLR(opt, start_factor=1.0, end_factor=0.0, total_iters=100),
    "exponential": lambda s, opt: s.ExponentialLR(opt, 0.98),
    "exponential up": lambda s, opt: s.ExponentialLR(opt, gamma=1.01),
    "polynomial": lambda s, opt: s.PolynomialLR(opt),
    "polynomial long": lambda s, opt: s.PolynomialLR(opt, total_iters=250, power=0.9),
    "polynomial square": lambda s, opt: s.PolynomialLR(opt, 70, 2.0),
    "cosine": lambda s, opt: s.CosineAnnealingLR(opt, T_max=250),
    "cosine often": lambda s, opt: s.CosineAnnealingLR(opt, 17, 1e-4),
    "cosine one": lambda s, opt: s.CosineAnnealingLR(opt, 1, eta_min=1e-5),
    "restarts": lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 30),
    "restarts longer": lambda s, opt: s.CosineAnnealingWarmRestarts(opt, T_0=7, T_mult=2, eta_min=1e-3),
    "restarts thrice": lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 1, 3),
    "lambda": lambda s, opt: s.LambdaLR(opt, lambda epoch: 0.95**epoch),
    "lambdas": lambda s, opt: s.LambdaLR(opt, [lambda epoch: 1 / (1 + epoch), lambda epoch: epoch % 7]),
    "multiplicative": lambda s, opt: s.MultiplicativeLR(opt, lambda epoch: 0.99),
    "multiplicatives": lambda s, opt: s.MultiplicativeLR(opt, [lambda epoch: 0.9, lambda epoch: 1 + 1 / epoch]),
    "cycle": lambda s, opt: s.OneCycleLR(opt, max_lr=0.5, total_steps=STEPS + 1),
    "cycle linear": lambda s, opt: s.OneCycleLR(
        opt, [0.5, 0.2], epochs=27, steps_per_epoch=10, anneal_strategy="linear", pct_start=0.37
    ),
    "cycle of three": lambda s, opt: s.OneCycleLR(
        opt,
        0.1,
        301,
        three_phase=True,
        base_momentum=[0.7, 0.8],
        max_momentum=0.9,
        div_factor=10,
        final_div_factor=100.0,
    ),
    "cycle of three, linear": lambda s, opt: s.OneCycleLR(
        opt, 0.1, 270, three_phase=True, anneal_strategy="linear", pct_start=0.2
    ),
    "cycle without momentum": lambda s, opt: s.OneCycleLR(opt, 0.3, 1000, cycle_momentum=False, pct_start=0.01),
    "cycle down": lambda s, opt: s.OneCycleLR(opt, 0.3, 300, pct_start=0.0),
    "chained": lambda s, opt: s.ChainedScheduler([s.ConstantLR(opt, 0.1, 20), s.ExponentialLR(opt, 0.99)]),
    "chained more": lambda s, opt: s.ChainedScheduler(
        [s.LinearLR(opt, total_iters=50), s.StepLR(opt, 33, 0.5), s.MultiplicativeLR(opt, lambda epoch: 0.999)], opt
    ),
    "chained cosine": lambda s, opt: s.ChainedScheduler(
        [s.LinearLR(opt, 0.01, total_iters=20), s.CosineAnnealingLR(opt, 100, 1e-4), s.MultiStepLR(opt, [150])]
    ),
    "sequential": lambda s, opt: s.SequentialLR(
        opt, [s.LinearLR(opt, 0.01, total_iters=20), s.CosineAnnealingLR(opt, 240)], [20]
    ),
    "sequential more": lambda s, opt: s.SequentialLR(
        opt,
        [
            s.ConstantLR(opt, 0.1, 10),
            s.ExponentialLR(opt, 0.9),
            s.CosineAnnealingLR(opt, 30, 1e-4),
            s.PolynomialLR(opt, 40),
            s.MultiplicativeLR(opt, lambda epoch: 1.01),
            s.CosineAnnealingWarmRestarts(opt, 10, 2, 1e-3),
            s.StepLR(opt, 3),
            s.LambdaLR(opt, lambda epoch: 1 + epoch),
            s.MultiStepLR(opt, [0, 5]),
            s.LinearLR(opt, 0.5, 0.1, 9),
        ],
        [15, 30, 80, 110, 130, 160, 180, 200, 230],
    ),
    "sequential at once": lambda s, opt: s.SequentialLR(
        opt, [s.ConstantLR(opt), s.StepLR(opt, 9, 0.5)], milestones=[0]
    ),
    "sequential cycle": lambda s, opt: s.SequentialLR(
        opt, [s.ConstantLR(opt, 0.1, 40), s.OneCycleLR(opt, 0.2, 300)], [40]
    ),
}
# What torch has not, or cannot do.
OURS: dict[str, Make] = {
    "inverse root": lambda s, opt: s.InverseSqrtLR(opt, 40),
    "warm-up and cosine": lambda s, opt: s.WarmupCosineLR(opt, 20, 200, 1e-4),
    "piecewise": lambda s, opt: s.PiecewiseLR(opt, [10, 50], [1.0, 0.5, 0.1]),
    "piecewise linear": lambda s, opt: s.PiecewiseLR(opt, [10, 50], [[1.0, 0.5, 0.1], [0, 1, 0]], interpolate=True),
    "nested": lambda s, opt: s.SequentialLR(
        opt,
        [
            s.ChainedScheduler([s.ConstantLR(opt, 0.1, 20), s.ExponentialLR(opt, 0.99)]),
            s.SequentialLR(opt, [s.LinearLR(opt, 0.5, total_iters=9), s.StepLR(opt, 3)], [9]),
            s.ChainedScheduler([s.CosineAnnealingLR(opt, 9, 1e-4), s.ExponentialLR(opt, 0.9)]),
        ],
        [30, 60],
    ),
}
PLATEAUS: dict[str, dict[str, Any]] = {
    "plateau": dict(),
    "plateau rel": dict(patience=3, threshold=0.1),
    "plateau max": dict(mode="max", patience=3, factor=0.5, threshold=0.1),
    "plateau abs": dict(threshold_mode="abs", patience=2, threshold=0.1, cooldown=5),
    "plateau max abs": dict(
        mode="max", threshold_mode="abs", patience=0, threshold=0.0, min_lr=[0.01, 1e-3], factor=0.9
    ),
    "plateau eps": dict(patience=1, eps=1e-3, factor=0.3, min_lr=1e-3),
}


# One case of each class that has last_epoch.
LATER: dict[str, Callable[[Any, int], Any]] = {
    "constant": lambda opt, k: schedules.ConstantLR(opt, last_epoch=k),
    "step": lambda opt, k: schedules.StepLR(opt, 30, last_epoch=k),
    "multi": lambda opt, k: schedules.MultiStepLR(opt, [20, 50, 51, 200], last_epoch=k),
    "linear": lambda opt, k: schedules.LinearLR(opt, last_epoch=k),
    "exponential": lambda opt, k: schedules.ExponentialLR(opt, 0.98, last_epoch=k),
    "polynomial": lambda opt, k: schedules.PolynomialLR(opt, last_epoch=k),
    "cosine often": lambda opt, k: schedules.CosineAnnealingLR(opt, 17, 1e-4, last_epoch=k),
    "restarts": lambda opt, k: schedules.CosineAnnealingWarmRestarts(opt, 30, last_epoch=k),
    "lambda": lambda opt, k: schedules.LambdaLR(opt, lambda epoch: 0.95**epoch, last_epoch=k),
    "multiplicative": lambda opt, k: schedules.MultiplicativeLR(opt, lambda epoch: 0.99, last_epoch=k),
    "cycle": lambda opt, k: schedules.OneCycleLR(opt, max_lr=0.5, total_steps=STEPS + 1, last_epoch=k),
    "sequential": lambda opt, k: schedules.SequentialLR(
        opt, [schedules.LinearLR(opt, 0.01, total_iters=20), schedules.CosineAnnealingLR(opt, 240)], [20], k
    ),
    "inverse root": lambda opt, k: schedules.InverseSqrtLR(opt, 40, k),
    "warm-up and cosine": lambda opt, k: schedules.WarmupCosineLR(opt, 20, 200, 1e-4, k),
    "piecewise": lambda opt, k: schedules.PiecewiseLR(opt, [10, 50], [1.0, 0.5, 0.1], last_epoch=k),
}


class Groups:
    """All that a schedule needs of an optimizer."""

    def __init__(self, *groups: dict[str, Any]) -> None:
        self.param_groups = [*groups]

    def step(self) -> None:
        pass


def inverse(epoch: int) -> float:
    return 1 / (1 + epoch)


def groups(kind: str = "momentum") -> Groups:
    options: dict[str, Any] = {"momentum": 0.9} if kind == "momentum" else {"betas": (0.9, 0.999)}
    return Groups(dict(lr=0.1, **options), dict(lr=0.003, **options))


def torch_groups(kind: str = "momentum") -> Any:
    torch = pytest.importorskip("torch")
    params = [dict(params=[torch.zeros(1)], lr=lr) for lr in (0.1, 0.003)]
    return torch.optim.SGD(params, momentum=0.9) if kind == "momentum" else torch.optim.Adam(params)


def values(opt: Any) -> list[Any]:
    return [group[name] for group in opt.param_groups for name in ("lr", "momentum", "betas") if name in group]


def losses() -> Iterator[float]:
    """They fall, with noise, and stay, and fall; with a few that are none."""
    noise = np.random.default_rng(7).standard_normal(STEPS) / 20
    for i in range(STEPS):
        yield math.nan if i in (40, 41) else math.inf if i == 0 else float(math.exp(-i // 60) + noise[i])


def run(opt: Any, schedule: Any, steps: int) -> list[list[Any]]:
    """The values in each step from now on."""
    seen = []
    for _ in range(steps):
        opt.step()
        seen.append([*values(opt), *schedule.get_last_lr()])
        schedule.step()
    return seen


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("case", CASES)
def test_torch(case: str, kind: str) -> None:
    """Equal, not only close."""
    theirs = torch_groups(kind)
    from torch.optim import lr_scheduler

    ours = groups(kind)
    mine, other = CASES[case](schedules, ours), CASES[case](lr_scheduler, theirs)
    for step, (left, right) in enumerate(zip(run(ours, mine, STEPS), run(theirs, other, STEPS), strict=True)):
        assert left == right, step
    if not isinstance(mine, schedules.ChainedScheduler):
        assert mine.last_epoch == other.last_epoch == STEPS
    assert [group["initial_lr"] for group in ours.param_groups] == [
        group["initial_lr"] for group in theirs.param_groups
    ]


@pytest.mark.parametrize("case", PLATEAUS)
def test_torch_plateau(case: str) -> None:
    theirs = torch_groups()
    from torch.optim import lr_scheduler

    ours = groups()
    mine = schedules.ReduceLROnPlateau(ours, **PLATEAUS[case])
    other = lr_scheduler.ReduceLROnPlateau(theirs, **PLATEAUS[case])
    seen = set()
    for loss in losses():
        mine.step(loss)
        other.step(loss)
        assert values(ours) == values(theirs)
        assert mine.get_last_lr() == other.get_last_lr()
        assert (mine.num_bad_epochs, mine.cooldown_counter) == (other.num_bad_epochs, other.cooldown_counter)
        assert mine.last_epoch == other.last_epoch
        seen.add(values(ours)[0])
    assert len(seen) > 1


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_cycle_stays_at_its_end(strategy: Any) -> None:
    opt = groups()
    schedule = schedules.OneCycleLR(opt, 0.5, 100, anneal_strategy=strategy, final_div_factor=50)
    run(opt, schedule, 99)
    end = values(opt)
    assert end == pytest.approx([0.5 / 25 / 50, 0.95] * 2, rel=1e-12)
    schedule.step()
    assert values(opt) == end
    with pytest.raises(ValueError, match=r"^OneCycleLR: step was called more often than the 100 steps of the cycle$"):
        schedule.step()
    assert values(opt) == end and schedule.last_epoch == 100


@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("start", [0, 0.1, 1 / 3, 0.5, 1])
def test_short_cycles(total: int, start: float) -> None:
    """A phase without steps is passed over."""
    opt = groups()
    schedule = schedules.OneCycleLR(opt, 0.5, total, pct_start=start)
    lrs = [lr for lr, *_ in run(opt, schedule, total)]
    assert max(lrs) <= 0.5 and min(lrs) > 0
    assert values(opt)[0] == pytest.approx(0.5 / 25e4)


def test_inverse_root() -> None:
    opt = groups()
    lrs = np.array(run(opt, schedules.InverseSqrtLR(opt, 40), STEPS))
    s = np.arange(1, STEPS + 1)
    expected = np.minimum(s / 40, np.sqrt(40 / s))
    np.testing.assert_allclose(lrs[:, 0], 0.1 * expected, rtol=1e-14)
    np.testing.assert_allclose(lrs[:, 2], 0.003 * expected, rtol=1e-14)
    assert lrs[:, 0].argmax() == 39


def test_warmup_and_cosine() -> None:
    opt, plain = groups(), groups()
    lrs = np.array(run(opt, schedules.WarmupCosineLR(opt, 20, 200, 1e-4), STEPS))[:, 0]
    np.testing.assert_allclose(lrs[:20], 0.1 * np.arange(1, 21) / 20, rtol=1e-14)
    cosine = np.array(run(plain, schedules.CosineAnnealingLR(plain, 180, 1e-4), 181))[:, 0]
    np.testing.assert_allclose(lrs[20:201], cosine, rtol=1e-12)
    assert (lrs[200:] == 1e-4).all()


def test_piecewise() -> None:
    opt = groups()
    lrs = np.array(run(opt, schedules.PiecewiseLR(opt, [10, 50], [1.0, 0.5, 0.1]), 100))
    assert (lrs[:, 0] == [1.0] * 10 + [0.5] * 40 + [0.1] * 50).all()
    assert (lrs[:, 2] == lrs[:, 0]).all()


def test_piecewise_linear() -> None:
    opt = groups()
    each = [[0, 1.0, 0.1], [1.0, 0.5, 0.5]]
    lrs = np.array(run(opt, schedules.PiecewiseLR(opt, [10, 50], each, interpolate=True), 100))
    for column, ys in zip((0, 2), each, strict=True):
        np.testing.assert_allclose(lrs[:, column], np.interp(np.arange(100), [0, 10, 50], ys), rtol=1e-12, atol=1e-16)


def test_nested() -> None:
    """Each part as it is alone, from the first learning rates."""
    opt = groups()
    nested = OURS["nested"](schedules, opt)
    whole = run(opt, nested, 100)
    parts: list[tuple[Make, int]] = [
        (lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 20), s.ExponentialLR(o, 0.99)]), 30),
        (lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.5, total_iters=9), s.StepLR(o, 3)], [9]), 30),
        (lambda s, o: s.ChainedScheduler([s.CosineAnnealingLR(o, 9, 1e-4), s.ExponentialLR(o, 0.9)]), 40),
    ]
    expected = []
    for make, steps in parts:
        alone = groups()
        expected += run(alone, make(schedules, alone), steps)
    assert whole == expected
    assert [part.last_epoch for part in nested.schedulers] == [29, 29, 40]


def test_a_chain_goes_on_from_what_it_finds() -> None:
    opt = groups()
    decay = schedules.ExponentialLR(opt, 0.5)
    decay.step()
    schedule = schedules.ChainedScheduler([decay])
    assert schedule.get_last_lr() == [0.05, 0.0015]
    schedule.step()
    assert values(opt)[::2] == schedule.get_last_lr() == [0.025, 0.00075]


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("case", [*CASES, *OURS])
def test_resumed(case: str, kind: str) -> None:
    """Through JSON, into a schedule of a new optimizer."""
    make = {**CASES, **OURS}[case]
    opt = groups(kind)
    through = run(opt, make(schedules, opt), STEPS)
    for after in 0, 1, 33, 161:
        opt, new = groups(kind), groups(kind)
        for group in new.param_groups:
            group["lr"] = 7.0  # it comes from the state
        schedule, resumed = make(schedules, opt), make(schedules, new)
        run(opt, schedule, after)
        text = json.dumps(schedule.state_dict(), allow_nan=False)
        resumed.load_state_dict(json.loads(text))
        assert resumed.last_epoch == schedule.last_epoch == after
        assert json.dumps(resumed.state_dict()) == text
        assert run(new, resumed, STEPS - after) == through[after:]


def test_resumed_after_somebody_changed_the_learning_rate() -> None:
    opt, new = groups(), groups()
    schedule, resumed = schedules.ExponentialLR(opt, 0.9), schedules.ExponentialLR(new, 0.9)
    schedule.step()
    opt.param_groups[1]["lr"] = 0.5
    resumed.load_state_dict(schedule.state_dict())
    assert values(new) == values(opt)
    assert resumed.get_last_lr() == schedule.get_last_lr() != [0.09, 0.5]
    assert run(new, resumed, 9) == run(opt, schedule, 9)


@pytest.mark.parametrize("case", PLATEAUS)
def test_resumed_plateau(case: str) -> None:
    for after in 0, 1, 33, 161:
        opt, new = groups(), groups()
        schedule, resumed = (schedules.ReduceLROnPlateau(one, **PLATEAUS[case]) for one in (opt, new))
        for i, loss in enumerate(losses()):
            if i == after:
                resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict(), allow_nan=False)))
            schedule.step(loss)
            if i >= after:
                resumed.step(loss)
                assert values(new) == values(opt)
                assert resumed.state_dict() == schedule.state_dict()


@pytest.mark.parametrize("case", LATER)
def test_last_epoch(case: str) -> None:
    """Where it would be now; a ChainedScheduler is resumed by its state instead."""
    opt = groups()
    through = run(opt, {**CASES, **OURS}[case](schedules, opt), STEPS)
    for k in 0, 5, 19, 200:
        opt = groups()
        for group in opt.param_groups:
            group["initial_lr"], group["lr"] = group["lr"], 7.0  # wherever it was
        schedule = LATER[case](opt, k)
        assert schedule.last_epoch == k + 1
        assert run(opt, schedule, STEPS - k - 1) == through[k + 1 :]


def test_every_class_is_here() -> None:
    """In the tables above."""
    made = set()
    for make in {**CASES, **OURS}.values():
        schedule = make(schedules, groups())
        made |= {type(schedule).__name__, *(type(part).__name__ for part in getattr(schedule, "schedulers", []))}
    assert made | {"ReduceLROnPlateau", "LRScheduler"} == set(schedules.__all__)


def test_initial_lr_stays() -> None:
    """What is there already is the first learning rate, as in torch."""
    opt = Groups(dict(lr=0.1, initial_lr=1.0), dict(lr=0.3))
    schedule = schedules.LambdaLR(opt, lambda epoch: 0.5)
    assert schedule.base_lrs == [1.0, 0.3]
    assert schedule.get_last_lr() == [group["lr"] for group in opt.param_groups] == [0.5, 0.15]
    assert [group["initial_lr"] for group in opt.param_groups] == [1.0, 0.3]


def test_last_lr_is_a_copy() -> None:
    schedule = schedules.StepLR(groups(), 3)
    schedule.get_last_lr().clear()
    schedule.state_dict()["base_lrs"].clear()
    assert schedule.get_last_lr() == schedule.base_lrs == [0.1, 0.003]


def test_numbers_of_numpys() -> None:
    opt = Groups(dict(lr=np.float32(0.1)))
    schedule = schedules.StepLR(opt, np.int64(2), np.float64(0.5))
    run(opt, schedule, 2)
    assert schedule.get_last_lr() == [float(np.float32(0.1)) / 2]
    assert type(opt.param_groups[0]["lr"]) is float
    json.dumps(schedule.state_dict())


def test_sgd() -> None:
    w = np.ones(3)
    opt = SGD([w], lr=0.1)
    schedule = schedules.StepLR(opt, 1, gamma=0.5)
    for _ in range(3):
        opt.step([np.ones(3)])
        schedule.step()
    np.testing.assert_allclose(w, 1 - 0.1 * (1 + 0.5 + 0.25), rtol=1e-14)


def test_adamw_in_a_cycle() -> None:
    opt = AdamW([np.ones(3)], lr=0.1)
    schedule = schedules.OneCycleLR(opt, 0.1, 10)
    for _ in range(10):
        opt.step([np.ones(3)])
        schedule.step()
    assert opt.param_groups[0]["betas"] == pytest.approx((0.95, 0.999))


def test_a_new_group() -> None:
    opt = SGD([np.ones(3)], lr=0.1)
    made = [schedules.StepLR(opt, 1), schedules.ReduceLROnPlateau(opt), schedules.ExponentialLR(opt, 0.5)]
    both = [schedules.ChainedScheduler([made[0]]), schedules.SequentialLR(opt, [made[2]], [])]
    opt.add_param_group({"params": [np.ones(1)], "lr": 0.5})
    for schedule in [*made, *both]:
        with pytest.raises(
            ValueError,
            match=r"^\w+: the optimizer has 2 groups, and had 1 when the schedule was made; make a new schedule",
        ):
            schedule.step(*([1.0] if isinstance(schedule, schedules.ReduceLROnPlateau) else []))
        assert schedule.last_epoch == 0
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.5]


BAD: list[tuple[str, Make, str]] = [
    ("range", lambda s, o: s.StepLR(o, 0), "StepLR: step_size must be in [1, 2**53), got 0"),
    ("type", lambda s, o: s.StepLR(o, 2.0), "StepLR: step_size must be an integer, got 2.0"),
    ("type", lambda s, o: s.StepLR(o, True), "StepLR: step_size must be an integer, got True"),
    ("range", lambda s, o: s.StepLR(o, 1, -0.1), "StepLR: gamma must be finite and >= 0, got -0.1"),
    ("range", lambda s, o: s.StepLR(o, 1, math.nan), "StepLR: gamma must be finite and >= 0, got nan"),
    ("range", lambda s, o: s.StepLR(o, 1, math.inf), "StepLR: gamma must be finite and >= 0, got inf"),
    ("range", lambda s, o: s.StepLR(o, 1, 10**400), "StepLR: gamma must be finite and >= 0, got 1000"),
    ("type", lambda s, o: s.StepLR(o, 1, "0.1"), "StepLR: gamma must be a number, got '0.1'"),
    ("type", lambda s, o: s.StepLR(o, 1, None), "StepLR: gamma must be a number, got None"),
    ("range", lambda s, o: s.StepLR(o, 1, last_epoch=-2), "StepLR: last_epoch must be in [-1, 2**53), got -2"),
    ("range", lambda s, o: s.StepLR(o, 1, last_epoch=3), "StepLR: last_epoch needs param_groups[0]['initial_lr'], which is missing"),
    ("type", lambda s, o: s.StepLR([], 1), "StepLR: optimizer must have param_groups, a list of dicts with 'lr', got list"),
    ("type", lambda s, o: s.StepLR(Groups({}), 1), "StepLR: optimizer must have param_groups, a list of dicts with 'lr', got Groups"),
    ("range", lambda s, o: s.StepLR(Groups(dict(lr=-1)), 1), "StepLR: param_groups[0]['lr'] must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.MultiStepLR(o, [3, 2]), "MultiStepLR: milestones must be increasing, got [3, 2]"),
    ("range", lambda s, o: s.MultiStepLR(o, [-1]), "MultiStepLR: milestones[0] must be in [0, 2**53), got -1"),
    ("type", lambda s, o: s.MultiStepLR(o, 3), "MultiStepLR: milestones must be a list, got 3"),
    ("type", lambda s, o: s.MultiStepLR(o, [1, "2"]), "MultiStepLR: milestones[1] must be an integer, got '2'"),
    ("range", lambda s, o: s.MultiStepLR(o, [1], -1), "MultiStepLR: gamma must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.ConstantLR(o, 0), "ConstantLR: factor must be in (0, 1], got 0"),
    ("range", lambda s, o: s.ConstantLR(o, 1.1), "ConstantLR: factor must be in (0, 1], got 1.1"),
    ("range", lambda s, o: s.ConstantLR(o, total_iters=0), "ConstantLR: total_iters must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.LinearLR(o, 0), "LinearLR: start_factor must be in (0, 1], got 0"),
    ("range", lambda s, o: s.LinearLR(o, 1, -0.1), "LinearLR: end_factor must be in [0, 1], got -0.1"),
    ("range", lambda s, o: s.LinearLR(o, total_iters=-1), "LinearLR: total_iters must be in [1, 2**53), got -1"),
    ("range", lambda s, o: s.ExponentialLR(o, -1), "ExponentialLR: gamma must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.PolynomialLR(o, 0), "PolynomialLR: total_iters must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.PolynomialLR(o, 5, -1), "PolynomialLR: power must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.CosineAnnealingLR(o, 0), "CosineAnnealingLR: T_max must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.CosineAnnealingLR(o, 9, -1), "CosineAnnealingLR: eta_min must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.CosineAnnealingWarmRestarts(o, 0), "CosineAnnealingWarmRestarts: T_0 must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.CosineAnnealingWarmRestarts(o, 1, 0), "CosineAnnealingWarmRestarts: T_mult must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.CosineAnnealingWarmRestarts(o, 1, 1, -1), "CosineAnnealingWarmRestarts: eta_min must be finite"),
    ("type", lambda s, o: s.LambdaLR(o, 0.5), "LambdaLR: lr_lambda must be a function, got 0.5"),
    ("type", lambda s, o: s.LambdaLR(o, [abs, 1]), "LambdaLR: lr_lambda[1] must be a function, got 1"),
    ("range", lambda s, o: s.LambdaLR(o, [abs]), "LambdaLR: lr_lambda has 1 entries, expected 2, one for each group"),
    ("type", lambda s, o: s.MultiplicativeLR(o, None), "MultiplicativeLR: lr_lambda must be a function, got None"),
    ("range", lambda s, o: s.OneCycleLR(o, 0, 9), "OneCycleLR: max_lr must be finite and > 0, got 0"),
    ("range", lambda s, o: s.OneCycleLR(o, [1, -1], 9), "OneCycleLR: max_lr[1] must be finite and > 0, got -1"),
    ("range", lambda s, o: s.OneCycleLR(o, [1, 1, 1], 9), "OneCycleLR: max_lr has 3 entries, expected 2, one for each group"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 0), "OneCycleLR: total_steps must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, epochs=0, steps_per_epoch=1), "OneCycleLR: epochs must be in [1, 2**53), got 0"),
    ("type", lambda s, o: s.OneCycleLR(o, 1, epochs=1, steps_per_epoch=1.5), "OneCycleLR: steps_per_epoch must be an integer, got 1.5"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, epochs=1), "OneCycleLR: total_steps must be given, or both epochs and steps_per_epoch"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, pct_start=1.5), "OneCycleLR: pct_start must be in [0, 1], got 1.5"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, pct_start=0.6, three_phase=True), "OneCycleLR: pct_start must be in [0, 0.5], got"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, anneal_strategy="up"), "OneCycleLR: anneal_strategy must be 'cos' or 'linear', got 'up'"),
    ("type", lambda s, o: s.OneCycleLR(o, 1, 9, anneal_strategy=1), "OneCycleLR: anneal_strategy must be a string, got 1"),
    ("type", lambda s, o: s.OneCycleLR(o, 1, 9, three_phase=1), "OneCycleLR: three_phase must be a bool, got 1"),
    ("type", lambda s, o: s.OneCycleLR(o, 1, 9, cycle_momentum=1), "OneCycleLR: cycle_momentum must be a bool, got 1"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, base_momentum=-0.1), "OneCycleLR: base_momentum must be in [0, 1), got -0.1"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, max_momentum=[0.5, 1]), "OneCycleLR: max_momentum[1] must be in [0, 1), got 1"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, div_factor=0), "OneCycleLR: div_factor must be finite and > 0, got 0"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, final_div_factor=-1), "OneCycleLR: final_div_factor must be finite and > 0, got"),
    ("range", lambda s, o: s.OneCycleLR(o, 1, 9, last_epoch=9), "OneCycleLR: last_epoch must be less than the 9 steps of the cycle, got 9"),
    ("range", lambda s, o: s.OneCycleLR(Groups(dict(lr=1)), 1, 9), "OneCycleLR: cycle_momentum needs an optimizer with momentum or"),
    ("range", lambda s, o: s.InverseSqrtLR(o, 0), "InverseSqrtLR: warmup_steps must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.WarmupCosineLR(o, -1, 9), "WarmupCosineLR: warmup_steps must be in [0, 2**53), got -1"),
    ("range", lambda s, o: s.WarmupCosineLR(o, 9, 9), "WarmupCosineLR: total_steps must be more than warmup_steps = 9, got 9"),
    ("range", lambda s, o: s.WarmupCosineLR(o, 1, 9, -1), "WarmupCosineLR: eta_min must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.PiecewiseLR(o, [2, 2], [1, 2, 3]), "PiecewiseLR: boundaries must be increasing, got [2, 2]"),
    ("range", lambda s, o: s.PiecewiseLR(o, [0], [1, 2]), "PiecewiseLR: boundaries[0] must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.PiecewiseLR(o, [1], [1]), "PiecewiseLR: values has 1 entries, expected 2, one more than boundaries"),
    ("range", lambda s, o: s.PiecewiseLR(o, [1], [[1, 2], [1]]), "PiecewiseLR: values[1] has 1 entries, expected 2, one more than"),
    ("range", lambda s, o: s.PiecewiseLR(o, [1], [[1, 2]]), "PiecewiseLR: values has 1 entries, expected 2, one for each group"),
    ("type", lambda s, o: s.PiecewiseLR(o, [1], [[1, 2], 3]), "PiecewiseLR: values[1] must be a list, got 3"),
    ("range", lambda s, o: s.PiecewiseLR(o, [1], [1, -2]), "PiecewiseLR: values[1] must be finite and >= 0, got -2"),
    ("type", lambda s, o: s.PiecewiseLR(o, [1], [1, 2], 1), "PiecewiseLR: interpolate must be a bool, got 1"),
    ("range", lambda s, o: s.ChainedScheduler([]), "ChainedScheduler: schedulers must not be empty"),
    ("type", lambda s, o: s.ChainedScheduler([1]), "ChainedScheduler: schedulers[0] must be a schedule whose step takes no argument, got int"),
    ("type", lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []), "SequentialLR: schedulers[0] must be a schedule whose"),
    ("range", lambda s, o: s.SequentialLR(groups(), [s.StepLR(o, 1)], []), "SequentialLR: schedulers[0] belongs to another optimizer"),
    ("range", lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [1]), "SequentialLR: milestones has 1 entries, expected 0, one less"),
    ("range", lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [2, 1]), "SequentialLR: milestones must be increasing, got [2, 1]"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, "less"), "ReduceLROnPlateau: mode must be 'min' or 'max', got 'less'"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, factor=1), "ReduceLROnPlateau: factor must be in [0, 1), got 1"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, patience=-1), "ReduceLROnPlateau: patience must be in [0, 2**53), got -1"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, threshold=1), "ReduceLROnPlateau: threshold must be in [0, 1), got 1"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, "max", threshold=-1), "ReduceLROnPlateau: threshold must be finite and >= 0, got"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="x"), "ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', got"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, cooldown=-1), "ReduceLROnPlateau: cooldown must be in [0, 2**53), got -1"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0, -1]), "ReduceLROnPlateau: min_lr[1] must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.ReduceLROnPlateau(o, eps=-1), "ReduceLROnPlateau: eps must be finite and >= 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "make", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_arguments(kind: str, make: Make, message: str) -> None:
    opt = groups()
    with pytest.raises((TypeError, ValueError)) as error:
        make(schedules, opt)
    assert type(error.value) is {"type": TypeError, "range": ValueError}[kind]
    assert str(error.value).startswith(message)
    for group in opt.param_groups:
        group.pop("initial_lr", None) if message.startswith("SequentialLR") else None  # of the schedules in it
    assert opt.param_groups == groups().param_groups


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
@pytest.mark.parametrize(("result", "error"), [(math.nan, ValueError), (-1, ValueError), ("x", TypeError)])
def test_bad_factors(name: str, result: Any, error: type[Exception]) -> None:
    opt = groups()
    schedule = getattr(schedules, name)(opt, lambda epoch: result if epoch == 2 else 1)
    schedule.step()
    with pytest.raises(error, match=rf"^{name}: lr_lambda\(2\) must be .*, got {result!r}$"):
        schedule.step()
    assert schedule.last_epoch == 1
    assert schedule.get_last_lr() == [group["lr"] for group in opt.param_groups] == [0.1, 0.003]


def test_bad_metrics() -> None:
    schedule = schedules.ReduceLROnPlateau(groups())
    with pytest.raises(TypeError, match=r"^ReduceLROnPlateau: metrics must be a number, got 'x'$"):
        schedule.step("x")  # type: ignore[arg-type]
    assert schedule.last_epoch == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "StepLR"}, r"state_dict must be of the same class, got 'StepLR'"),
        (dict(more=1), r"state_dict must have the keys \[.*\], got \[.*'more'\]"),
        (dict(lrs=[0.1]), "state_dict is of 1 groups, expected 2"),
        (dict(base_lrs=[0.1, -1]), r"base_lrs\[1\] must be finite and >= 0, got -1"),
        (dict(last_lr=7), "last_lr must be a list, got 7"),
        (dict(last_epoch=1.5), "last_epoch must be an integer, got 1.5"),
    ],
)
def test_bad_states(change: dict[str, Any], message: str) -> None:
    opt = groups()
    schedule = schedules.ChainedScheduler([schedules.ExponentialLR(opt, 0.5), schedules.ExponentialLR(opt, 0.5)])
    schedule.step()
    state = schedule.state_dict()
    before = json.dumps([state, values(opt)])
    bad = {**state, "last_epoch": 9, "schedulers": [state["schedulers"][0], {**state["schedulers"][1], **change}]}
    for one in bad, {**state, "last_epoch": 9, **change}:
        with pytest.raises((TypeError, ValueError), match=f"(ExponentialLR|ChainedScheduler): {message}"):
            schedule.load_state_dict(one)
    with pytest.raises(ValueError, match="ChainedScheduler: state_dict is of 1 schedulers, expected 2"):
        schedule.load_state_dict({**state, "schedulers": state["schedulers"][:1]})
    with pytest.raises(TypeError, match="ChainedScheduler: state_dict must be a dict, got list"):
        schedule.load_state_dict([])  # type: ignore[arg-type]
    assert json.dumps([schedule.state_dict(), values(opt)]) == before


@pytest.mark.parametrize("change", [dict(best="x"), dict(num_bad_epochs=-1), dict(cooldown_counter=0.5)])
def test_bad_states_of_plateaus(change: dict[str, Any]) -> None:
    schedule = schedules.ReduceLROnPlateau(groups())
    state = schedule.state_dict()
    with pytest.raises((TypeError, ValueError), match=f"ReduceLROnPlateau: {next(iter(change))} must be"):
        schedule.load_state_dict({**state, **change})
    assert schedule.state_dict() == state


# Copies


def moved(make: Make, opt: Any, losses: int = 0) -> tuple[Any, Any]:
    """A schedule after a few steps, and what takes one more."""
    schedule = make(schedules, opt)
    args = [1.0] if isinstance(schedule, schedules.ReduceLROnPlateau) else []
    for _ in range(7):
        schedule.step(*args)
    return schedule, lambda one: one.step(*args)


def snapshot(opt: Any, schedule: Any) -> str:
    return repr((opt.param_groups, schedule.state_dict()))


EVERY: dict[str, Make] = {
    **CASES,
    **OURS,
    "lambda of a module": lambda s, opt: s.LambdaLR(opt, inverse),
    **{name: lambda s, opt, o=options: s.ReduceLROnPlateau(opt, **o) for name, options in PLATEAUS.items()},  # type: ignore[misc]
}


def without_functions(schedule: Any) -> bool:
    return "lambda>" not in repr(schedule)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("case", EVERY)
def test_copied_with_its_optimizer(case: str, how: str) -> None:
    """The copies know each other and nobody else."""
    opt = groups()
    schedule, step = moved(EVERY[case], opt)
    before = snapshot(opt, schedule)
    if how == "pickle" and not without_functions(schedule):
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            pickle.dumps((opt, schedule))
        assert snapshot(opt, schedule) == before
        return
    other, twin = copy.deepcopy((opt, schedule)) if how == "deepcopy" else pickle.loads(pickle.dumps((opt, schedule)))
    assert twin.optimizer is other
    assert all(part.optimizer is other for part in getattr(twin, "schedulers", []))
    for _ in range(20):
        step(twin)
    assert snapshot(opt, schedule) == before
    for _ in range(20):
        step(schedule)
    assert snapshot(opt, schedule) == snapshot(other, twin)


def test_pickles_name_public_paths() -> None:
    for name in schedules.__all__:
        assert getattr(schedules, name).__module__ == "fastopt.schedules"
    text = pickle.dumps(moved(EVERY["nested"], groups())[0], protocol=0)
    assert b"cfastopt.schedules\n" in text and b"fastopt.schedules." not in text


def test_copied_with_an_optimizer_of_fastopts() -> None:
    w = np.ones(3)
    opt = SGD([w], lr=0.1)
    schedule = schedules.ExponentialLR(opt, 0.5)
    try:
        copy.deepcopy(opt)
    except TypeError:
        pytest.skip("optimizers cannot be copied")
    v, other, twin = copy.deepcopy((w, opt, schedule))
    for one, o in (schedule, opt), (twin, other):
        o.step([np.ones(3)])
        one.step()
    assert v is not w and np.array_equal(v, w)
    assert twin.optimizer is other and other.param_groups[0]["lr"] == opt.param_groups[0]["lr"] == 0.05


def test_copied_with_an_optimizer_of_torchs() -> None:
    opt = torch_groups()
    schedule = schedules.OneCycleLR(opt, 0.5, 20)
    other, twin = copy.deepcopy((opt, schedule))
    twin.step()
    assert twin.optimizer is other
    assert values(other) != values(opt)


# Interrupts


@pytest.fixture
def interrupts() -> Iterator[list[bool]]:
    """While the list has an entry, which goes with it, the next signal of a storm is a KeyboardInterrupt."""
    armed: list[bool] = []

    def interrupt(*_: Any) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 5e-5, 5e-5)
    try:
        yield armed
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.001)  # a last signal still finds its handler
        signal.signal(signal.SIGALRM, before)


def interrupted(armed: list[bool], call: Callable[[], Any]) -> bool:
    try:
        armed.append(True)
        call()
        armed.clear()
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("case", ["step", "cycle", "sequential", "chained more", "nested", "plateau"])
def test_an_interrupted_step_is_taken_or_not(case: str, interrupts: list[bool]) -> None:
    opt, twins = groups(), groups()
    (schedule, step), (twin, _) = moved(EVERY[case], opt), moved(EVERY[case], twins)
    seen = 0
    for _ in range(20_000):
        if schedule.last_epoch >= 200:  # where a cycle ends
            (schedule, _), (twin, _) = moved(EVERY[case], opt := groups()), moved(EVERY[case], twins := groups())
        before = snapshot(twins, twin)
        hit = interrupted(interrupts, lambda: step(schedule))  # noqa: B023
        after = snapshot(opt, schedule)
        if not hit or after != before:
            step(twin)
            assert after == snapshot(twins, twin)
        seen += hit
        if seen == 100:
            break
    assert seen > 0


@pytest.mark.parametrize("case", ["cycle", "sequential", "nested", "plateau"])
def test_an_interrupted_load_is_done_or_not(case: str, interrupts: list[bool]) -> None:
    ends = []
    for steps in 1, 9:
        opt = groups()
        schedule, step = moved(EVERY[case], opt)
        for _ in range(steps):
            step(schedule)
        ends.append((schedule.state_dict(), snapshot(opt, schedule)))
    seen = 0
    for i in range(5_000):
        seen += interrupted(interrupts, lambda: schedule.load_state_dict(ends[i % 2][0]))  # noqa: B023
        assert snapshot(opt, schedule) in (ends[0][1], ends[1][1])
        if seen == 100:
            break
    assert seen > 0


@pytest.mark.parametrize("case", ["step", "cycle"])
def test_an_interrupted_constructor_changes_all_groups_or_none(case: str, interrupts: list[bool]) -> None:
    done = groups()
    EVERY[case](schedules, done)
    seen = 0
    for _ in range(5_000):
        opt = groups()
        seen += interrupted(interrupts, lambda: EVERY[case](schedules, opt))  # noqa: B023
        assert opt.param_groups in (groups().param_groups, done.param_groups)
        if seen == 100:
            break
    assert seen > 0


def test_a_chain_that_raises_has_not_begun() -> None:
    opt = groups()
    parts = [schedules.ExponentialLR(opt, 0.5), schedules.LambdaLR(opt, lambda epoch: 1 if epoch < 2 else "x")]  # type: ignore[arg-type, return-value]
    schedule = schedules.ChainedScheduler(parts)
    schedule.step()
    before = snapshot(opt, schedule)
    with pytest.raises(TypeError, match=r"^LambdaLR: lr_lambda\(2\) must be a number, got 'x'$"):
        schedule.step()
    assert snapshot(opt, schedule) == before


# What changes from outside


def scalars(value: float) -> list[Any]:
    return [np.float32(value), np.float64(value), np.array(value), np.array(value, np.float32)]


@pytest.mark.parametrize("index", range(4))
def test_learning_rates_in_other_forms(index: int) -> None:
    """They are read at every step, and replaced by floats; the array is left alone."""
    lr = scalars(0.25)[index]
    opt = Groups(dict(lr=lr))
    schedule = schedules.ExponentialLR(opt, 0.5)
    assert opt.param_groups[0]["lr"] == opt.param_groups[0]["initial_lr"] == 0.25
    opt.param_groups[0]["lr"] = lr
    schedule.step()
    assert opt.param_groups[0]["lr"] == 0.125 and type(opt.param_groups[0]["lr"]) is float
    assert lr == 0.25


def test_learning_rates_in_tensors() -> None:
    torch = pytest.importorskip("torch")
    lr = torch.tensor(0.25, requires_grad=True)
    opt = Groups(dict(lr=lr))
    schedule = schedules.ExponentialLR(opt, torch.tensor(0.5))
    schedule.step()
    assert opt.param_groups[0]["lr"] == 0.125 and type(opt.param_groups[0]["lr"]) is float
    assert float(lr.detach()) == 0.25
    plateau = schedules.ReduceLROnPlateau(opt, patience=0)
    plateau.step(torch.tensor(2.0, requires_grad=True))
    assert plateau.best == 2.0


@pytest.mark.parametrize("lr", ["0.1", True, None, [0.1], np.array(True), np.array([0.1])])
def test_a_learning_rate_that_is_no_number(lr: Any) -> None:
    opt = groups()
    schedule = schedules.StepLR(opt, 1)
    opt.param_groups[1]["lr"] = lr
    with pytest.raises(TypeError, match=r"^StepLR: param_groups\[1\]\['lr'\] must be a number, got"):
        schedule.step()
    assert schedule.last_epoch == 0 and opt.param_groups[0]["lr"] == 0.1


def test_a_group_without_a_learning_rate() -> None:
    opt = groups()
    schedule = schedules.StepLR(opt, 1)
    del opt.param_groups[1]["lr"]
    for call in schedule.step, schedule.state_dict:
        with pytest.raises(
            ValueError, match=r"^StepLR: param_groups\[1\] of the optimizer has no 'lr' any more; set it"
        ):
            call()
    with pytest.raises(TypeError, match=r"^StepLR: optimizer must have .*, whose param_groups\[1\] has no 'lr'$"):
        schedules.StepLR(opt, 1)
    assert schedule.last_epoch == 0 and opt.param_groups[0]["lr"] == 0.1


def test_a_removed_group() -> None:
    opt = groups()
    schedule = schedules.StepLR(opt, 1)
    del opt.param_groups[0]
    with pytest.raises(
        ValueError, match=r"has 1 groups, and had 2 when .*; make a new schedule when groups have been added"
    ):
        schedule.step()
    with pytest.raises(ValueError, match=r"^StepLR: the optimizer has 1 groups, and had 2"):
        schedules.SequentialLR(opt, [schedule], [])


def test_learning_rates_that_overflow() -> None:
    for schedule in (
        schedules.ExponentialLR(groups(), 1e200),
        schedules.MultiStepLR(groups(), [2, 2, 2], 1e200),
        schedules.ConstantLR(groups(), 1e-310, 2),
    ):
        schedule.step()
        with pytest.raises(
            ValueError, match=r"the learning rate of param_groups\[0\] must be finite, got .* in epoch 2$"
        ):
            schedule.step()
        assert schedule.last_epoch == 1


def test_attributes() -> None:
    """What has an effect can be changed; what has none is refused, but in classes of one's own."""
    opt = groups()
    schedule = schedules.StepLR(opt, 1, gamma=0.5)
    schedule.gamma = 0.25
    schedule.last_epoch = 4
    schedule.step()
    assert (schedule.get_last_lr()[0], schedule.last_epoch) == (0.025, 5)
    with pytest.raises(AttributeError, match=r"^StepLR: there is no gama to be set; did you mean gamma\?$"):
        schedule.gama = 1.0  # type: ignore[attr-defined]
    with pytest.raises(
        AttributeError, match=r"^StepLR: there is no lr to be set; it has base_lrs, gamma, optimizer, step_"
    ):
        schedule.lr = 1.0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^StepLR: last_epoch must be in \[0, 2\*\*53\), got -1$"):
        schedule.last_epoch = -1
    with pytest.raises(AttributeError, match="total_steps"):
        schedules.OneCycleLR(opt, 1, 9).total_steps = 10  # type: ignore[misc]

    sequence = schedules.SequentialLR(opt, [schedule, schedules.ConstantLR(opt)], [3])
    for name in "optimizer", "schedulers":
        with pytest.raises(AttributeError, match=f"^SequentialLR: {name} cannot be set; make a new schedule$"):
            setattr(sequence, name, getattr(sequence, name))

    class Halved(schedules.LRScheduler):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer)
            self.note = "mine"

        def _lr(self, epoch: int, i: int, lr: float) -> float:
            return lr / 2

    assert Halved(opt).note == "mine"


@pytest.mark.parametrize(
    ("make", "name", "good", "bad"),
    [
        (lambda o: schedules.StepLR(o, 2), "step_size", 3, [0, -1, 1.5, "2", None]),
        (lambda o: schedules.StepLR(o, 2), "gamma", 0.5, ["x", np.nan, -1, None]),
        (lambda o: schedules.StepLR(o, 2), "optimizer", groups(), [None, 3, SimpleNamespace(param_groups=[])]),
        (lambda o: schedules.StepLR(o, 2), "base_lrs", [0.5, 0.25], [0.5, [0.5], [0.5, "x"], [0.5, np.nan]]),
        (lambda o: schedules.MultiStepLR(o, [2, 4]), "milestones", [1, 5], [[3, 1], 4, ["a"], None]),
        (lambda o: schedules.CosineAnnealingLR(o, 5), "T_max", 6, [0, None, 0.5]),
        (lambda o: schedules.CosineAnnealingWarmRestarts(o, 5), "T_mult", 2, [0, 1.5]),
        (lambda o: schedules.WarmupCosineLR(o, 2, 5), "total_steps", 6, [0, 1, "6"]),
        (lambda o: schedules.PiecewiseLR(o, [2], [1, 0.5]), "boundaries", [3], [[1, 2], [0], "x"]),
        (
            lambda o: schedules.PiecewiseLR(o, [2], [1, 0.5]),
            "values",
            [[1.0, 2.0]] * 2,
            [[[1.0]] * 2, 3, [["a", 1]] * 2],
        ),
        (lambda o: schedules.LambdaLR(o, lambda t: 1), "lr_lambdas", [abs, abs], [[abs], [1, 2], None]),
        (lambda o: schedules.ReduceLROnPlateau(o), "mode", "max", ["x", 1]),
        (lambda o: schedules.ReduceLROnPlateau(o), "min_lrs", [0.1, 0.2], [[0.1], [-1, 0], "x"]),
        (lambda o: schedules.ReduceLROnPlateau(o), "num_bad_epochs", 3, [-1, 1.5, "x"]),
        (lambda o: schedules.ReduceLROnPlateau(o), "best", 0.5, ["x", None]),
        (
            lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 2), schedules.StepLR(o, 3)], [4]),
            "milestones",
            [5],
            [[1, 2], ["a"], 3],
        ),
    ],
)
def test_attributes_are_checked_as_arguments_are(make: Any, name: str, good: Any, bad: list[Any]) -> None:
    schedule = make(groups())
    before = getattr(schedule, name)
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=rf"^{type(schedule).__name__}: "):
            setattr(schedule, name, value)
        assert getattr(schedule, name) is before
    setattr(schedule, name, good)
    assert getattr(schedule, name) == good
    if not isinstance(schedule, schedules.ReduceLROnPlateau):
        schedule.step()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda s, o: s.StepLR(o, 2), "StepLR(step_size=2, gamma=0.1) at epoch 7"),
        (lambda s, o: s.LambdaLR(o, inverse), "LambdaLR(lr_lambda=inverse) at epoch 7"),
        (
            lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.5), s.ExponentialLR(o, 0.9)], [5]),
            "SequentialLR(schedulers=[LinearLR(start_factor=0.5, end_factor=1.0, total_iters=5) at epoch 4, "
            "ExponentialLR(gamma=0.9) at epoch 2], milestones=[5]) at epoch 7",
        ),
        (
            lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1, 0.2]),
            "ReduceLROnPlateau(mode='min', factor=0.1, patience=10, threshold=0.0001, threshold_mode='rel', cooldown=0, "
            "min_lr=[0.1, 0.2], eps=1e-08) at epoch 7",
        ),
        (
            lambda s, o: s.OneCycleLR(o, 0.5, 9),
            "OneCycleLR(max_lr=0.5, total_steps=9, pct_start=0.3, anneal_strategy='cos', cycle_momentum=True, "
            "base_momentum=0.85, max_momentum=0.95, div_factor=25.0, final_div_factor=10000.0, three_phase=False) at epoch 7",
        ),
    ],
)
def test_repr(make: Make, text: str) -> None:
    assert repr(moved(make, groups())[0]) == text


@pytest.mark.parametrize(
    "number",
    [
        np.array(True),
        np.bool_(True),
        np.array("1"),
        np.complex64(1),
        bytearray(b"1"),
        b"1",
        np.ma.masked,
        np.array([1.0]),
    ],
)
def test_what_is_no_number(number: Any) -> None:
    opt = groups()
    for make in (
        lambda: schedules.ExponentialLR(opt, number),
        lambda: schedules.LambdaLR(opt, lambda epoch: number),
        lambda: schedules.ReduceLROnPlateau(opt).step(number),
    ):
        with pytest.raises(TypeError, match=" must be a number, got "):
            make()
    with pytest.raises(TypeError, match=r"^StepLR: step_size must be an integer, got "):
        schedules.StepLR(opt, number)


def test_one_dialect() -> None:
    opt = groups()
    assert schedules.PiecewiseLR(opt, np.array([2]), np.array([1.0, 2.0]), np.True_).interpolate is True
    assert schedules.OneCycleLR(opt, np.array([0.1, 0.2]), np.int8(9), three_phase=np.False_).base_lrs == [
        0.1 / 25,
        0.2 / 25,
    ]
    assert schedules.StepLR(opt, np.array(3), np.array(0.5, np.float32)).step_size == 3
    for value in 2**53, 2**63, 10**400:
        with pytest.raises(ValueError, match=r"^CosineAnnealingLR: T_max must be in \[1, 2\*\*53\), got"):
            schedules.CosineAnnealingLR(opt, value)
    with pytest.raises(ValueError, match=r"^OneCycleLR: epochs times steps_per_epoch must be in"):
        schedules.OneCycleLR(opt, 1, epochs=2**52, steps_per_epoch=2)
    with pytest.raises(TypeError, match=r"^MultiStepLR: milestones must be a list, got array\(3\)$"):
        schedules.MultiStepLR(opt, np.array(3))  # type: ignore[arg-type]
