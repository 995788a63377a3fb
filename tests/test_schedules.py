"""Schedules: torch's values, step by step; resuming to the last bit; and the errors."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schedule_cases import (
    CASES,
    LATER,
    OURS,
    PLATEAUS,
    STEPS,
    Groups,
    Make,
    groups,
    inverse,
    losses,
    run,
    torch_groups,
    values,
)

from fastopt import schedules
from fastopt.optim import SGD, AdamW


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("case", CASES)
def test_torch(case: str, kind: str) -> None:
    """The values are equal, not only close."""
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
    """A phase without steps is skipped."""
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
    """Each part has the same values as alone, from the first learning rates."""
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
    """The state goes through JSON into a schedule of a new optimizer."""
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
    """The schedule continues from ``last_epoch``; a ChainedScheduler is resumed by its state instead."""
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
    """Every class is in the tables above."""
    made = set()
    for make in {**CASES, **OURS}.values():
        schedule = make(schedules, groups())
        made |= {type(schedule).__name__, *(type(part).__name__ for part in getattr(schedule, "schedulers", []))}
    assert made | {"ReduceLROnPlateau", "LRScheduler"} == set(schedules.__all__)


def test_every_class_of_torchs_is_here() -> None:
    """By introspection: a schedule that torch has and we do not would make the documentation wrong."""
    lr_scheduler = pytest.importorskip("torch").optim.lr_scheduler
    theirs = {
        name
        for name, one in vars(lr_scheduler).items()
        if isinstance(one, type) and issubclass(one, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert theirs >= {"LambdaLR", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau"}
    assert theirs <= set(schedules.__all__)
    for name in theirs - {"LRScheduler", "ReduceLROnPlateau"}:
        ours, other = (
            inspect.signature(getattr(module, name)).parameters.values() for module in (schedules, lr_scheduler)
        )
        assert [(one.name, one.kind) for one in ours] == [(one.name, one.kind) for one in other], name
        assert [one.default for one in ours] == [one.default for one in other], name


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay(decay: Any) -> None:
    opt = groups()
    lrs = np.array(run(opt, schedules.WarmupStableDecayLR(opt, 20, 200, 50, decay, 1e-4), STEPS))
    t = np.arange(STEPS)
    d = np.clip((t - 150) / 50, 0, 1)
    f = {"linear": 1 - d, "cosine": (1 + np.cos(np.pi * d)) / 2, "1-sqrt": 1 - np.sqrt(d)}[decay]
    for column, first in (0, 0.1), (2, 0.003):
        expected = np.where(t < 20, first * (t + 1) / 20, 1e-4 + (first - 1e-4) * f)
        np.testing.assert_allclose(lrs[:, column], expected, rtol=1e-12)
    assert (lrs[19:151, 0] == 0.1).all() and lrs[151, 0] < 0.1 and (lrs[200:, 0] == 1e-4).all()


def test_the_end_of_a_stable_phase_may_be_put_off_or_brought_forward() -> None:
    """The point of WSD: a checkpoint of the stable phase goes on for longer, or is decayed at once."""
    opt = groups()
    schedule = schedules.WarmupStableDecayLR(opt, 5, 100, 20)
    run(opt, schedule, 50)
    state = schedule.state_dict()
    schedule.total_steps = 200
    assert {lr for lr, *_ in run(opt, schedule, 100)} == {0.1}
    run(opt, schedule, 50)
    assert values(opt)[0] == 0.0
    other = groups()
    decayed = schedules.WarmupStableDecayLR(other, 5, 60, 10)
    decayed.load_state_dict(state)
    lrs = [lr for lr, *_ in run(other, decayed, 12)]
    np.testing.assert_allclose(lrs, [0.1 * max(1 - t / 10, 0) for t in range(12)], rtol=1e-12, atol=1e-16)
    with pytest.raises(ValueError, match=r"^WarmupStableDecayLR: total_steps must be at least warmup_steps"):
        schedule.total_steps = 24


def test_initial_lr_in_groups(tmp_path: Path) -> None:
    """Torch's idiom for resuming: given to the constructor, to add_param_group, or in a loaded state."""
    lr_scheduler = pytest.importorskip("torch").optim.lr_scheduler
    torch = pytest.importorskip("torch")

    def ours() -> Any:
        opt = AdamW([{"params": [np.ones(3)], "lr": 7.0, "initial_lr": 0.1}], lr=1.0)
        opt.add_param_group({"params": [np.ones(2)], "lr": 7.0, "initial_lr": 0.003})
        return opt

    theirs = torch.optim.AdamW([{"params": [torch.ones(3)], "lr": 0.1, "initial_lr": 0.1}])
    theirs.add_param_group({"params": [torch.ones(2)], "lr": 0.003, "initial_lr": 0.003})
    for make in (
        lambda s, o: s.StepLR(o, 3, 0.5, last_epoch=7),
        lambda s, o: s.LambdaLR(o, inverse, last_epoch=7),
        lambda s, o: s.CyclicLR(o, 0.1, 0.5, 10, last_epoch=7),
    ):
        opt = ours()
        schedule = make(schedules, opt)
        assert schedule.last_epoch == 8
        for group, other in zip(opt.param_groups, theirs.param_groups, strict=True):
            assert group["initial_lr"] == other["initial_lr"]
    # Where torch's classes mean by last_epoch what ours mean:
    opt = ours()
    schedule, other = (
        module.LambdaLR(o, inverse, last_epoch=7) for module, o in ((schedules, opt), (lr_scheduler, theirs))
    )
    assert run(Groups(*opt.param_groups), schedule, 20) == run(theirs, other, 20)

    state = ours().state_dict()
    assert [group["initial_lr"] for group in state["param_groups"]] == [0.1, 0.003]
    ours().save(tmp_path / "state")
    for load in (
        lambda o: o.load_state_dict(state),
        lambda o: o.load(tmp_path / "state"),
        lambda o: o.load_state_dict(theirs.state_dict()),
    ):
        opt = AdamW([{"params": [np.ones(3)]}, {"params": [np.ones(2)]}])
        with pytest.raises(
            ValueError, match=r"^StepLR: last_epoch needs param_groups\[0\]\['initial_lr'\], which is missing"
        ):
            schedules.StepLR(opt, 3, last_epoch=0)
        load(opt)
        assert schedules.StepLR(opt, 3, last_epoch=0).base_lrs == [0.1, 0.003]
    for wrong, error in (("x", TypeError), (-1.0, ValueError), (math.nan, ValueError)):
        for make_wrong in (
            lambda: AdamW([{"params": [np.ones(3)], "initial_lr": wrong}]),  # noqa: B023
            lambda: ours().add_param_group({"params": [np.ones(1)], "initial_lr": wrong}),  # noqa: B023
        ):
            with pytest.raises(error, match=r"^AdamW: initial_lr must be"):
                make_wrong()


def test_initial_lr_stays() -> None:
    """As in torch, an existing ``initial_lr`` is the first learning rate."""
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
    ("range", lambda s, o: s.CyclicLR(o, -1, 1), "CyclicLR: base_lr must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.CyclicLR(o, [1], 1), "CyclicLR: base_lr has 1 entries, expected 2, one for each group"),
    ("range", lambda s, o: s.CyclicLR(o, 0, [1, -1]), "CyclicLR: max_lr[1] must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, 0), "CyclicLR: step_size_up must be in [1, 2**53), got 0"),
    ("type", lambda s, o: s.CyclicLR(o, 0, 1, 2.5), "CyclicLR: step_size_up must be an integer, got 2.5"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, 1, -1), "CyclicLR: step_size_down must be in [0, 2**53), got -1"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, mode="square"), "CyclicLR: mode must be 'triangular', 'triangular2' or 'exp_range', got 'square'"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, gamma=-1), "CyclicLR: gamma must be finite and >= 0, got -1"),
    ("type", lambda s, o: s.CyclicLR(o, 0, 1, scale_fn=1), "CyclicLR: scale_fn must be a function or None, got 1"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, scale_mode="x"), "CyclicLR: scale_mode must be 'cycle' or 'iterations', got 'x'"),
    ("type", lambda s, o: s.CyclicLR(o, 0, 1, cycle_momentum=1), "CyclicLR: cycle_momentum must be a bool, got 1"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, base_momentum=1), "CyclicLR: base_momentum must be in [0, 1), got 1"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, max_momentum=[0, -1]), "CyclicLR: max_momentum[1] must be in [0, 1), got -1"),
    ("range", lambda s, o: s.CyclicLR(Groups(dict(lr=1)), 0, 1), "CyclicLR: cycle_momentum needs an optimizer with momentum or"),
    ("range", lambda s, o: s.CyclicLR(o, 0, 1, scale_fn=lambda cycle: -1), "CyclicLR: scale_fn(1) must be finite and >= 0, got -1"),
    ("range", lambda s, o: s.WarmupStableDecayLR(o, 5, 14, 10), "WarmupStableDecayLR: total_steps must be at least warmup_steps + decay_steps = 15, got 14"),
    ("range", lambda s, o: s.WarmupStableDecayLR(o, 0, 9, 0), "WarmupStableDecayLR: decay_steps must be in [1, 2**53), got 0"),
    ("range", lambda s, o: s.WarmupStableDecayLR(o, 0, 9, 1, "sqrt"), "WarmupStableDecayLR: decay_type must be 'linear', 'cosine' or '1-sqrt'"),
    ("range", lambda s, o: s.WarmupStableDecayLR(o, 0, 9, 1, eta_min=-1), "WarmupStableDecayLR: eta_min must be finite and >= 0"),
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
        (dict(lrs=[0.1]), "state_dict has 1 groups, expected 2"),
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
    with pytest.raises(ValueError, match="ChainedScheduler: state_dict has 1 schedulers, expected 2"):
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
