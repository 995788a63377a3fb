"""Schedules as objects: copied and pickled, interrupted, and changed from outside."""

from __future__ import annotations

import copy
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from schedule_cases import CASES, OURS, PLATEAUS, Groups, Make, groups, inverse, torch_groups, values

from fastopt import schedules
from fastopt.optim import SGD

# Copies


def moved(make: Make, opt: Any, losses: int = 0) -> tuple[Any, Any]:
    """A schedule after a few steps, and a function that takes one more."""
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
    """The copies refer to each other and to nothing else."""
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
    """Sends many signals.  If the list has an entry, the next signal removes it and raises KeyboardInterrupt."""
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
        time.sleep(0.001)  # so that a last signal still finds its handler
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


# Changes from outside


@pytest.mark.parametrize("lr", [np.float32(0.25), np.float64(0.25), 1, np.array(1)], ids=repr)
def test_learning_rates_in_other_forms(lr: Any) -> None:
    """They are read at every step, and replaced by floats; an array of integers is left alone."""
    opt = Groups(dict(lr=lr))
    schedule = schedules.ExponentialLR(opt, 0.5)
    assert opt.param_groups[0]["lr"] == opt.param_groups[0]["initial_lr"] == lr
    opt.param_groups[0]["lr"] = lr
    schedule.step()
    assert opt.param_groups[0]["lr"] == lr / 2 and type(opt.param_groups[0]["lr"]) is float
    assert lr in (0.25, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_learning_rates_in_arrays(dtype: Any) -> None:
    """A step, a loaded state and a sequence write into the array, which stays the group's; the first value is kept as a number."""
    lr, other = np.array(0.25, dtype), np.array(0.5, dtype)
    opt = Groups(dict(lr=lr), dict(lr=0.5), dict(lr=other))
    schedule = schedules.ExponentialLR(opt, 0.5)
    state = schedule.state_dict()
    schedule.step()
    assert [group["lr"] for group in opt.param_groups] == [0.125, 0.25, 0.25]
    assert opt.param_groups[0]["lr"] is lr and opt.param_groups[2]["lr"] is other
    assert type(opt.param_groups[1]["lr"]) is float
    assert [group["initial_lr"] for group in opt.param_groups] == schedule.base_lrs == [0.25, 0.5, 0.5]
    schedule.load_state_dict(state)
    assert opt.param_groups[0]["lr"] is lr and lr == 0.25
    plateau = schedules.ReduceLROnPlateau(opt, patience=0, factor=0.5)
    for _ in range(2):
        plateau.step(1.0)
    assert opt.param_groups[2]["lr"] is other and other == 0.25


def test_a_learning_rate_in_an_array_that_cannot_be_written() -> None:
    lr = np.array(0.25)
    lr.flags.writeable = False
    opt = Groups(dict(lr=lr))
    schedules.ExponentialLR(opt, 0.5).step()
    assert opt.param_groups[0]["lr"] == 0.125 and lr == 0.25


def test_an_optimizer_follows_the_array_of_its_learning_rate() -> None:
    w, lr = np.ones(2), np.array(0.5)
    opt = SGD([w], lr=lr)  # type: ignore[arg-type]
    schedule = schedules.StepLR(opt, 1, 0.5)
    for expected in 0.5, 0.25:
        opt.step([np.ones(2)])
        schedule.step()
        assert np.array_equal(w, [expected] * 2)
    assert opt.param_groups[0]["lr"] is lr and lr == 0.125


@pytest.mark.parametrize("requires_grad", [False, True])
def test_learning_rates_in_tensors(requires_grad: bool) -> None:
    torch = pytest.importorskip("torch")
    lr = torch.tensor(0.25, requires_grad=requires_grad)
    opt = Groups(dict(lr=lr))
    schedule = schedules.ExponentialLR(opt, torch.tensor(0.5))
    schedule.step()
    assert opt.param_groups[0]["lr"] is lr and float(lr.detach()) == 0.125
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
    """Attributes that have an effect can be changed; others are refused, except in users' own classes."""
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


# Cycles


def test_the_arguments_of_a_cycle_may_be_changed() -> None:
    """The next step is that of a schedule that was made with them."""
    opt, others = groups(), groups()
    schedule = schedules.CyclicLR(opt, 0.1, 0.5, 10)
    changed: dict[str, Any] = dict(
        max_lrs=[0.7, 0.6],
        step_size_up=5,
        step_size_down=20,
        mode="exp_range",
        gamma=0.9,
        base_momentums=[0.1, 0.2],
        max_momentums=[0.6, 0.7],
    )
    for name, value in changed.items():
        setattr(schedule, name, value)
    arguments = {
        {"max_lrs": "max_lr", "base_momentums": "base_momentum", "max_momentums": "max_momentum"}.get(name, name): value
        for name, value in changed.items()
    }
    other = schedules.CyclicLR(others, 0.1, **arguments)
    for _ in range(40):
        schedule.step()
        other.step()
        assert values(opt) == values(others)
    assert repr(schedule) == repr(other)
    for name, value in dict(
        step_size_up=0, mode="square", gamma=-1, max_lrs=[0.1], scale_fn=3, max_momentums=1
    ).items():
        before = snapshot(opt, schedule)
        with pytest.raises((TypeError, ValueError), match=f"^CyclicLR: {name.removesuffix('s')}"):
            setattr(schedule, name, value)
        assert snapshot(opt, schedule) == before


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("cyclic")])
def test_cycles_resume_as_torchs(case: str, kind: str) -> None:
    """After a state has been loaded into a new schedule of a new optimizer, both go on alike; functions are given again."""
    ends = []
    for module, make in (schedules, groups), (pytest.importorskip("torch").optim.lr_scheduler, torch_groups):
        opt, new = make(kind), make(kind)
        schedule = CASES[case](module, opt)
        for _ in range(23):
            opt.step()
            schedule.step()
        resumed = CASES[case](module, new)
        resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
        new.step()
        resumed.step()
        ends.append([values(new), resumed.get_last_lr(), resumed.last_epoch])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("k", [0, 1, 12, 40])
def test_cycles_continue_after_an_epoch_as_torchs(k: int) -> None:
    """With last_epoch = k, the idiom of scripts that save a number only."""
    ends = []
    for module, make in (schedules, groups), (pytest.importorskip("torch").optim.lr_scheduler, torch_groups):
        opt = make()
        for group in opt.param_groups:
            group["initial_lr"] = 0.01  # by the schedule of the first part of the run
        schedule = module.CyclicLR(opt, 0.01, 0.5, 7, last_epoch=k)
        seen = []
        for _ in range(30):
            seen.append([*values(opt), *schedule.get_last_lr(), schedule.last_epoch])
            opt.step()
            schedule.step()
        ends.append(seen)
    assert ends[0] == ends[1]


def test_a_scale_that_overflows_or_is_no_number() -> None:
    opt = groups()
    schedule = schedules.CyclicLR(opt, 0.0, 0.5, 3, mode="exp_range", gamma=1e200)
    schedule.step()
    text = r"^CyclicLR: the learning rate of param_groups\[0\] must be finite, got inf in epoch 2$"
    with pytest.raises(ValueError, match=text):
        schedule.step()
    assert schedule.last_epoch == 1
    with pytest.raises(TypeError, match=r"^CyclicLR: scale_fn\(1\) must be a number, got 'x'$"):
        schedules.CyclicLR(groups(), 0.0, 0.5, 3, scale_fn=lambda cycle: "x")  # type: ignore[arg-type, return-value]
