"""Every schedule, the arguments with which it is tried, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastopt import schedules

Make = Callable[[Any, Any], Any]


STEPS = 260


def inverse(epoch: int) -> float:
    return 1 / (1 + epoch)


# Each case takes a module with the schedules, ours or torch's, and an optimizer with two groups.
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
    "cyclic": lambda s, opt: s.CyclicLR(opt, 0.001, 0.1, step_size_up=30),
    "cyclic uneven": lambda s, opt: s.CyclicLR(
        opt, [0.01, 0.02], [0.5, 0.1], 7, 12, base_momentum=[0.7, 0.8], max_momentum=0.95
    ),
    "cyclic halves": lambda s, opt: s.CyclicLR(opt, 0.01, 0.2, 11, mode="triangular2", cycle_momentum=False),
    "cyclic powers": lambda s, opt: s.CyclicLR(opt, 0.01, 0.2, 13, 5, mode="exp_range", gamma=0.99),
    "cyclic scaled": lambda s, opt: s.CyclicLR(opt, 0.0, 0.1, 9, 3, scale_fn=inverse),
    "cyclic scaled by steps": lambda s, opt: s.CyclicLR(
        opt, 0.3, 0.1, 9, mode="exp_range", scale_fn=inverse, scale_mode="iterations"
    ),
    "cyclic saws": lambda s, opt: s.CyclicLR(opt, 0.01, 0.1, 10, 0),
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
    "sequential cyclic": lambda s, opt: s.SequentialLR(
        opt, [s.ConstantLR(opt, 0.1, 40), s.CyclicLR(opt, 0.2, 0.5, 17)], [40]
    ),
}


# Schedules and options that torch does not have.
OURS: dict[str, Make] = {
    "inverse root": lambda s, opt: s.InverseSqrtLR(opt, 40),
    "warm-up and cosine": lambda s, opt: s.WarmupCosineLR(opt, 20, 200, 1e-4),
    "stable": lambda s, opt: s.WarmupStableDecayLR(opt, 20, 200, 50),
    "stable cosine": lambda s, opt: s.WarmupStableDecayLR(opt, 0, 240, 240, "cosine", 1e-4),
    "stable root": lambda s, opt: s.WarmupStableDecayLR(opt, 10, 200, 20, decay_type="1-sqrt"),
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
    "cyclic uneven": lambda opt, k: schedules.CyclicLR(
        opt, [0.01, 0.02], [0.5, 0.1], 7, 12, base_momentum=[0.7, 0.8], max_momentum=0.95, last_epoch=k
    ),
    "sequential": lambda opt, k: schedules.SequentialLR(
        opt, [schedules.LinearLR(opt, 0.01, total_iters=20), schedules.CosineAnnealingLR(opt, 240)], [20], k
    ),
    "inverse root": lambda opt, k: schedules.InverseSqrtLR(opt, 40, k),
    "warm-up and cosine": lambda opt, k: schedules.WarmupCosineLR(opt, 20, 200, 1e-4, k),
    "stable": lambda opt, k: schedules.WarmupStableDecayLR(opt, 20, 200, 50, last_epoch=k),
    "piecewise": lambda opt, k: schedules.PiecewiseLR(opt, [10, 50], [1.0, 0.5, 0.1], last_epoch=k),
}


class Groups:
    """The part of an optimizer that a schedule needs."""

    def __init__(self, *groups: dict[str, Any]) -> None:
        self.param_groups = [*groups]

    def step(self) -> None:
        pass


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
    """Noisy losses that fall in stages; some of them are NaN or infinite."""
    noise = np.random.default_rng(7).standard_normal(STEPS) / 20
    for i in range(STEPS):
        yield math.nan if i in (40, 41) else math.inf if i == 0 else float(math.exp(-i // 60) + noise[i])


def run(opt: Any, schedule: Any, steps: int) -> list[list[Any]]:
    """The values in each of the next steps."""
    seen = []
    for _ in range(steps):
        opt.step()
        seen.append([*values(opt), *schedule.get_last_lr()])
        schedule.step()
    return seen
