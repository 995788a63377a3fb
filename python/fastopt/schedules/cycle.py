"""Schedules that raise and lower the learning rate, once or again and again, and move momentum the other way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from .._check import choice, flag, number, whole
from .base import Draft, LRScheduler, Optimizer


class _OfMomentum(LRScheduler):
    """A schedule that sets momentum too, or β₁ in groups with ``betas``."""

    def _bounds(self, optimizer: Optimizer, base_momentum: Any, max_momentum: Any) -> tuple[list[float], list[float]]:
        """The checked limits of momentum, for each group."""
        base, most = (
            [number(self._name, *each, 0, 1, below=True) for each in self._each(optimizer, name, value)]
            for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum))
        )
        return base, most

    def _expect_momentum(self, optimizer: Optimizer) -> None:
        if not all("betas" in group or "momentum" in group for group in self._groups_of(optimizer)):
            raise ValueError(
                f"{self._name}: cycle_momentum needs an optimizer with momentum or betas; this one takes cycle_momentum=False"
            )

    def _momenta_in(self, epoch: int) -> list[float] | None:
        """The momentum of each group in an epoch; ``None`` if it is not set."""
        raise NotImplementedError

    def step(self) -> None:
        """Moves the schedule on by one step and sets the learning rates and momenta."""
        self._step_drafted()

    def _set(self, draft: Draft, epoch: int, lrs: list[float]) -> None:
        super()._set(draft, epoch, lrs)
        momenta = self._momenta_in(epoch)
        if momenta is not None:
            draft.values += tuple(
                (group, "betas", (momentum, *group["betas"][1:])) if "betas" in group else (group, "momentum", momentum)
                for group, momentum in zip(draft.groups, momenta, strict=True)
            )


class CyclicLR(_OfMomentum):
    """Cycles of the learning rate, up from base_lr to max_lr and down again; momentum, or β₁, moves the other way.

    .. code-block:: text

        n = step_size_up + step_size_down;   c = ⌊1 + t/n⌋, the number of the cycle;   x = t/n − (c − 1)
        s = x/r up to r = step_size_up/n, and (1 − x)/(1 − r) from there;   s ← s·scale_fn(c), or s·scale_fn(t)
        ηₜ = base_lr + (max_lr − base_lr)·s;   momentum = max_momentum − (max_momentum − base_momentum)·s

    In groups with ``betas``, β₁ takes the place of momentum.  All arguments but the optimizer are attributes, and may be changed
    between steps: what takes one value per group has an s at its end, such as ``max_lrs``.

    Args:
        optimizer: The optimizer whose learning rates and momenta are set.
        base_lr: The smallest learning rate, at least 0, or a list of them, one per group.
        max_lr: The largest learning rate, at least 0, or a list of them, one per group.
        step_size_up: The number of steps from base_lr to max_lr, at least 1.
        step_size_down: The number of steps back, at least 0; ``None`` for as many.
        mode: The scale of the cycles: ``"triangular"`` for 1, ``"triangular2"`` for 1/2ᶜ⁻¹, ``"exp_range"`` for gammaᵗ.
        gamma: The base of the powers in ``"exp_range"``, at least 0.
        scale_fn: A function that is used in place of mode and gives the scale, at least 0; it is not part of the state.
        scale_mode: The argument of scale_fn: ``"cycle"`` for c, which begins with 1, ``"iterations"`` for t.
        cycle_momentum: Whether to set momentum.
        base_momentum: The smallest momentum, in [0, 1), or a list of them, one per group.
        max_momentum: The largest momentum, in [0, 1), or a list of them, one per group.
        last_epoch: k to continue after step k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0, momentum=0.9)
        >>> schedule = fo.schedules.CyclicLR(opt, base_lr=0.25, max_lr=1.25, step_size_up=2, mode="triangular2")
        >>> for _ in range(8):
        ...     print(schedule.get_last_lr()[0], round(opt.param_groups[0]["momentum"], 4))
        ...     schedule.step()
        0.25 0.9
        0.75 0.85
        1.25 0.8
        0.75 0.85
        0.25 0.9
        0.5 0.875
        0.75 0.85
        0.5 0.875

    References:
        Smith 2017, arXiv:1506.01186.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[int], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        base_lrs = [number(self._name, *each, 0) for each in self._each(optimizer, "base_lr", base_lr)]
        self.max_lrs = [number(self._name, *each, 0) for each in self._each(optimizer, "max_lr", max_lr)]
        self.step_size_up = whole(self._name, "step_size_up", step_size_up, 1)
        self.step_size_down = (
            self.step_size_up if step_size_down is None else whole(self._name, "step_size_down", step_size_down)
        )
        self.mode = choice(self._name, "mode", mode, ("triangular", "triangular2", "exp_range"))
        self.gamma = number(self._name, "gamma", gamma, 0)
        if scale_fn is not None and not callable(scale_fn):
            raise TypeError(f"{self._name}: scale_fn must be a function or None, got {scale_fn!r}")
        self.scale_fn = scale_fn
        self.scale_mode = choice(self._name, "scale_mode", scale_mode, ("cycle", "iterations"))
        self.cycle_momentum = flag(self._name, "cycle_momentum", cycle_momentum)
        self.base_momentums, self.max_momentums = self._bounds(optimizer, base_momentum, max_momentum)
        if self.cycle_momentum:
            self._expect_momentum(optimizer)
        super().__init__(optimizer, last_epoch, base_lrs)

    def _start(self, optimizer: Optimizer, base_lrs: list[float] | None = None, resume: bool = False) -> Draft:
        draft = super()._start(optimizer, base_lrs, resume)
        draft.values = tuple(one for one in draft.values if "initial_lr" not in one[0])  # as in torch
        return draft

    def _scaled(self, epoch: int, height: float) -> float:
        """The part of a height that is reached in an epoch; in torch's order of operations."""
        total = float(self.step_size_up + self.step_size_down)
        turn, cycle = self.step_size_up / total, math.floor(1 + epoch / total)
        x = 1.0 + epoch / total - cycle
        height *= x / turn if x <= turn else (x - 1) / (turn - 1)
        if self.scale_fn is not None:
            argument = cycle if self.scale_mode == "cycle" else epoch
            return height * number(self._name, f"scale_fn({argument})", self.scale_fn(argument), 0)
        if self.mode == "triangular2":
            return height * 0.5 ** (cycle - 1)
        if self.mode == "exp_range":
            try:
                return height * self.gamma**epoch
            except OverflowError:
                return math.copysign(math.inf, height)  # an error, as no learning rate is infinite
        return height

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return self.base_lrs[i] + self._scaled(epoch, self.max_lrs[i] - self.base_lrs[i])

    def _momenta_in(self, epoch: int) -> list[float] | None:
        if not self.cycle_momentum:
            return None
        return [
            most - self._scaled(epoch, most - base)
            for base, most in zip(self.base_momentums, self.max_momentums, strict=True)
        ]


class OneCycleLR(_OfMomentum):
    """One cycle: up to max_lr, then down to far less than at first; momentum, or β₁, moves the other way.

    .. code-block:: text

        initial_lr = max_lr/div_factor;   min_lr = initial_lr/final_div_factor
        initial_lr → max_lr → min_lr;   three_phase: initial_lr → max_lr → initial_lr → min_lr
        max_momentum → base_momentum → max_momentum

    In groups with ``betas``, β₁ takes the place of momentum.

    Args:
        optimizer: The optimizer whose learning rates and momenta are set.
        max_lr: The largest learning rate, above 0, or a list of them, one per group.
        total_steps: The number of steps in the cycle, at least 1; or give the next two.
        epochs: The number of epochs in the cycle.
        steps_per_epoch: The number of steps in an epoch.
        pct_start: The part of the cycle that goes up, in [0, 1]; in [0, 0.5] with three_phase.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: Whether to set momentum.
        base_momentum: The smallest momentum, in [0, 1), or a list of them, one per group.
        max_momentum: The largest momentum, in [0, 1), or a list of them, one per group.
        div_factor: The ratio of max_lr to the first learning rate, above 0.
        final_div_factor: The ratio of the first learning rate to the last one, above 0.
        three_phase: Whether to go down as fast as up, and then on to min_lr, as in the paper.
        last_epoch: k to continue after step k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0, momentum=0.9)
        >>> schedule = fo.schedules.OneCycleLR(opt, max_lr=1.0, total_steps=11, pct_start=6 / 11, anneal_strategy="linear")
        >>> for _ in range(6):
        ...     print(round(schedule.get_last_lr()[0], 4), round(opt.param_groups[0]["momentum"], 4))
        ...     schedule.step()
        0.04 0.95
        0.232 0.93
        0.424 0.91
        0.616 0.89
        0.808 0.87
        1.0 0.85

    References:
        Smith & Topin 2017, arXiv:1708.07120.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is not None:
            self._total_steps = whole(self._name, "total_steps", total_steps, 1)
        elif epochs is not None and steps_per_epoch is not None:
            steps = whole(self._name, "epochs", epochs, 1) * whole(self._name, "steps_per_epoch", steps_per_epoch, 1)
            self._total_steps = whole(self._name, "epochs times steps_per_epoch", steps, 1)
        else:
            raise ValueError(f"{self._name}: total_steps must be given, or both epochs and steps_per_epoch")
        self._three_phase = flag(self._name, "three_phase", three_phase)
        self._pct_start = number(self._name, "pct_start", pct_start, 0, 0.5 if three_phase else 1)
        self._anneal_strategy = choice(self._name, "anneal_strategy", anneal_strategy, ("cos", "linear"))
        self._cycle_momentum = flag(self._name, "cycle_momentum", cycle_momentum)
        self._div_factor = number(self._name, "div_factor", div_factor, 0, above=True)
        self._final_div_factor = number(self._name, "final_div_factor", final_div_factor, 0, above=True)
        self._max_lr = [number(self._name, *each, 0, above=True) for each in self._each(optimizer, "max_lr", max_lr)]
        self._base_momentum, self._max_momentum = self._bounds(optimizer, base_momentum, max_momentum)
        if self._cycle_momentum:
            self._expect_momentum(optimizer)
        if whole(self._name, "last_epoch", last_epoch, -1) >= self.total_steps:
            raise ValueError(
                f"{self._name}: last_epoch must be less than the {self.total_steps} steps of the cycle, got {last_epoch}"
            )

        # For each group, the values that it passes through and the steps in which it does.
        total, start, three = self._total_steps, self._pct_start, self._three_phase
        initial = [lr / self._div_factor for lr in self._max_lr]
        last = [lr / self._final_div_factor for lr in initial]
        self._ends = [start * total - 1, *([2 * start * total - 2] if three else []), total - 1]
        lrs = [initial, self._max_lr, *([initial] if three else []), last]
        momenta = [
            self._max_momentum,
            self._base_momentum,
            *([self._max_momentum] if three else []),
            self._max_momentum,
        ]
        self._lrs, self._momenta = (list(zip(*corners, strict=True)) for corners in (lrs, momenta))
        super().__init__(optimizer, last_epoch, initial)

    @property
    def total_steps(self) -> int:
        """The number of steps in the cycle."""
        return self._total_steps

    def _between(self, corners: Sequence[float], epoch: int) -> float:
        begin = 0.0
        for k, end in enumerate(self._ends):
            if epoch <= end or k == len(self._ends) - 1:
                break
            begin = end
        done = min((epoch - begin) / (end - begin), 1.0) if end != begin else 1.0
        if self._anneal_strategy == "linear":
            return (corners[k + 1] - corners[k]) * done + corners[k]
        return corners[k + 1] + (corners[k] - corners[k + 1]) / 2.0 * (math.cos(math.pi * done) + 1)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch > self._total_steps:
            raise ValueError(
                f"{self._name}: step was called more often than the {self._total_steps} steps of the cycle"
            )
        return self._between(self._lrs[i], epoch)

    def _momenta_in(self, epoch: int) -> list[float] | None:
        return [self._between(corners, epoch) for corners in self._momenta] if self._cycle_momentum else None
