"""Learning-rate schedules: names, arguments, defaults and values are torch's.

A schedule sets the learning rate of each of an optimizer's groups when it is made, and again whenever its ``step`` is called:
once after each of the optimizer's steps, or once an epoch; what it counts is up to the caller.

>>> import numpy as np, fastopt as fo
>>> opt = fo.optim.SGD([np.ones(3)], lr=0.1)
>>> schedule = fo.schedules.LinearLR(opt, start_factor=0.25, total_iters=3)
>>> for _ in range(4):
...     info = opt.step([np.ones(3)])
...     print(round(schedule.get_last_lr()[0], 6))
...     schedule.step()
0.025
0.05
0.075
0.1

Where torch's schedule multiplies the learning rate that it finds, so does ours, and several can act on one optimizer
(:class:`ChainedScheduler`).  :class:`LambdaLR`, :class:`CosineAnnealingWarmRestarts`, :class:`OneCycleLR` and those that torch
has not set it, whatever it was.

What differs from torch:

- ``load_state_dict`` brings back learning rates and momenta too: it may come before or after the optimizer's.  The arguments
  are not in the state: the new schedule has those that it was made with.
- ``last_epoch=k`` makes a schedule as it is after k + 1 steps from the groups' ``initial_lr``.  Torch's classes disagree
  about what it means.
- When a group has been added to the optimizer, the next ``step`` is an error: make a new schedule.
- :class:`OneCycleLR` stays at its end; torch extrapolates in the step after the last, to below ``min_lr`` if linear.
- In a :class:`SequentialLR` there may be a :class:`ChainedScheduler` or another :class:`SequentialLR`.
- Arguments with which torch divides by zero, or does not do what it says, are errors.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "InverseSqrtLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PiecewiseLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
]

Factor: TypeAlias = Callable[[int], float]


class _Optimizer(Protocol):
    """What a schedule needs of an optimizer."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


class _Schedule:
    """What all schedules share: the groups, the learning rates that they began with, the count, the state."""

    _state: ClassVar[tuple[str, ...]] = ()  # what else changes: numbers and strings

    def __init__(self, optimizer: _Optimizer, base_lrs: list[float] | None = None, resume: bool = False) -> None:
        groups = self._groups_of(optimizer)
        lrs = [self._number(f"param_groups[{i}]['lr']", group["lr"]) for i, group in enumerate(groups)]
        for i, group in enumerate(groups):
            if resume and base_lrs is None and "initial_lr" not in group:
                raise ValueError(f"{self._name}: last_epoch needs param_groups[{i}]['initial_lr'], which is not there")
        self.optimizer = optimizer
        for group, lr in zip(groups, base_lrs or lrs, strict=True):
            if base_lrs is None:
                group.setdefault("initial_lr", lr)
            else:
                group["initial_lr"] = lr
        self.base_lrs = [float(group["initial_lr"]) for group in groups]
        self.last_epoch = 0
        self._last_lr = lrs

    @property
    def _name(self) -> str:
        return type(self).__name__

    def get_last_lr(self) -> list[float]:
        """The learning rates that the schedule has set last, one a group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """All that changes, in numbers, strings, lists and dicts, which JSON can say."""
        return {
            "class": self._name,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "lrs": [float(group["lr"]) for group in self._groups()],
            "last_lr": self.get_last_lr(),
            **{name: getattr(self, name) for name in self._state},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where another schedule of this class, with the same arguments, was; sets the learning rates that were set then.

        Args:
            state_dict: What its :meth:`state_dict` returned.

        Raises:
            TypeError: It is not a dict, or a value has the wrong type.
            ValueError: It is of another class, or of another number of groups.  Nothing has been changed then.
        """
        self._check(state_dict)
        self._load(state_dict)

    def _check(self, state: Mapping[str, Any]) -> None:
        groups = self._groups()
        if not isinstance(state, Mapping):
            raise TypeError(f"{self._name}: state_dict must be a dict, got {type(state).__name__}")
        if state.get("class") != self._name:
            raise ValueError(f"{self._name}: state_dict must be of the same class, got {state.get('class')!r}")
        if state.keys() != (keys := self.state_dict().keys()):
            raise ValueError(f"{self._name}: state_dict must have the keys {[*keys]}, got {[*state]}")
        self._integer("last_epoch", state["last_epoch"], 0)
        for name in "base_lrs", "lrs", "last_lr":
            if len(self._numbers(name, state[name])) != len(groups):
                raise ValueError(f"{self._name}: state_dict is of {len(state[name])} groups, expected {len(groups)}")

    def _load(self, state: Mapping[str, Any]) -> None:
        self.last_epoch = state["last_epoch"]
        self.base_lrs = self._numbers("base_lrs", state["base_lrs"])
        for name in self._state:
            setattr(self, name, state[name])
        self._set(self._numbers("lrs", state["lrs"]))
        self._last_lr = self._numbers("last_lr", state["last_lr"])

    def _set(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self._groups(), lrs, strict=True):
            group["lr"] = lr
        self._last_lr = list(lrs)

    def _groups(self) -> list[dict[str, Any]]:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"{self._name}: the optimizer has {len(groups)} groups, and had {len(self.base_lrs)} when the schedule was made;"
                " make a new schedule after add_param_group"
            )
        return groups

    # Arguments, checked.

    def _groups_of(self, optimizer: Any) -> list[dict[str, Any]]:
        groups = getattr(optimizer, "param_groups", None)
        if not isinstance(groups, list) or not all(isinstance(group, dict) and "lr" in group for group in groups):
            raise TypeError(
                f"{self._name}: optimizer must have param_groups, a list of dicts with 'lr', got {type(optimizer).__name__}"
            )
        return groups

    def _number(self, name: str, value: Any, low: float = 0, high: float = math.inf, ends: str = "[]") -> float:
        """A number in the interval, whose ends belong to it or not."""
        try:
            if isinstance(value, str | bytes | bool):
                raise TypeError
            number = float(value)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            raise TypeError(f"{self._name}: {name} must be a number, got {value!r}") from None
        above = number > low or (ends[0] == "[" and number == low)
        below = number < high or (ends[1] == "]" and number == high)
        if math.isfinite(number) and above and below:
            return number
        if math.isinf(high):
            constraint = f"finite and {'>=' if ends[0] == '[' else '>'} {low:g}"
        else:
            constraint = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ValueError(f"{self._name}: {name} must be {constraint}, got {value}")

    def _integer(self, name: str, value: Any, low: int = 1) -> int:
        kind = "a positive integer" if low == 1 else f"an integer >= {low}"
        try:
            if isinstance(value, bool):
                raise TypeError
            number = index(value)
        except TypeError:
            raise TypeError(f"{self._name}: {name} must be {kind}, got {value!r}") from None
        if number < low:
            raise ValueError(f"{self._name}: {name} must be {kind}, got {value}")
        return number

    def _list(self, name: str, values: Any) -> list[Any]:
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise TypeError(f"{self._name}: {name} must be a list, got {values!r}")
        return list(values)

    def _numbers(self, name: str, values: Any) -> list[float]:
        return [self._number(f"{name}[{i}]", value) for i, value in enumerate(self._list(name, values))]

    def _epochs(self, name: str, values: Any, low: int, strict: bool = False) -> list[int]:
        """Integers in their order."""
        epochs = [self._integer(f"{name}[{i}]", value, low) for i, value in enumerate(self._list(name, values))]
        if any(left > right or (strict and left == right) for left, right in pairwise(epochs)):
            raise ValueError(f"{self._name}: {name} must be increasing, got {epochs}")
        return epochs

    def _each(self, optimizer: _Optimizer, name: str, value: Any) -> list[tuple[str, Any]]:
        """For each group what is said of it, and its name in errors."""
        groups = self._groups_of(optimizer)
        if not isinstance(value, list | tuple):
            return [(name, value)] * len(groups)
        if len(value) != len(groups):
            raise ValueError(f"{self._name}: {name} has {len(value)} entries, expected {len(groups)}, one a group")
        return [(f"{name}[{i}]", one) for i, one in enumerate(value)]

    def _choice(self, name: str, value: Any, choices: Sequence[str]) -> Any:
        if not isinstance(value, str):
            raise TypeError(f"{self._name}: {name} must be a string, got {value!r}")
        if value not in choices:
            raise ValueError(f"{self._name}: {name} must be {' or '.join(map(repr, choices))}, got {value!r}")
        return value

    def _flag(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError(f"{self._name}: {name} must be a bool, got {value!r}")
        return value


class LRScheduler(_Schedule):
    """A schedule that counts its steps.

    A subclass is a formula: ``_lr(epoch, i, lr)`` is the learning rate of group i, which was lr in the epoch before.  In epoch 0,
    when the schedule is made, lr is what it finds.
    """

    def __init__(self, optimizer: _Optimizer, last_epoch: int = -1, base_lrs: list[float] | None = None) -> None:
        done = self._integer("last_epoch", last_epoch, -1) + 1
        super().__init__(optimizer, base_lrs, done > 0)
        if done:
            self._set(self.base_lrs)
        self._begin()
        for _ in range(done):
            self.step()

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        raise NotImplementedError

    def _lr_again(self, i: int, lr: float) -> float:
        """In epoch 0 after another schedule's end, which left lr."""
        return self._lr(0, i, self.base_lrs[i])

    def _begin(self, again: bool = False) -> None:
        lrs = [float(group["lr"]) for group in self._groups()]
        lrs = [self._lr_again(i, lr) if again else self._lr(0, i, lr) for i, lr in enumerate(lrs)]
        self.last_epoch = 0
        self._set(lrs)

    def step(self) -> None:
        """Moves on by one epoch and sets the learning rates."""
        epoch = self.last_epoch + 1
        lrs = [self._lr(epoch, i, float(group["lr"])) for i, group in enumerate(self._groups())]
        self.last_epoch = epoch
        self._set(lrs)


class ConstantLR(LRScheduler):
    """A smaller learning rate in the beginning.

    .. code-block:: text

        ηₜ = factor·η₀ for t < total_iters, then η₀

    Args:
        optimizer: Whose groups' learning rates are set.
        factor: In (0, 1].
        total_iters: For how many steps, at least 1.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=0.5)
        >>> schedule = fo.schedules.ConstantLR(opt, factor=0.5, total_iters=2)
        >>> for _ in range(3):
        ...     print(schedule.get_last_lr())
        ...     schedule.step()
        [0.25]
        [0.25]
        [0.5]
    """

    def __init__(
        self, optimizer: _Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        self.factor = self._number("factor", factor, 0, 1, "(]")
        self.total_iters = self._integer("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0:
            return lr * self.factor
        return lr * (1.0 / self.factor) if epoch == self.total_iters else lr


class StepLR(LRScheduler):
    """Decay by a factor every so many steps.

    .. code-block:: text

        ηₜ = η₀·gamma^⌊t/step_size⌋

    Args:
        optimizer: Whose groups' learning rates are set.
        step_size: After how many steps each, at least 1.
        gamma: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.StepLR(opt, step_size=2, gamma=0.5)
        >>> for _ in range(4):
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: _Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = self._integer("step_size", step_size)
        self.gamma = self._number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * self.gamma if epoch > 0 and epoch % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """Decay by a factor at each milestone.

    .. code-block:: text

        ηₜ = η₀·gamma^(number of milestones ≤ t)

    Args:
        optimizer: Whose groups' learning rates are set.
        milestones: Increasing integers, at least 0; one that is there twice counts twice.
        gamma: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.MultiStepLR(opt, milestones=[1, 3], gamma=0.5)
        >>> for _ in range(3):
        ...     schedule.step()
        ...     print(schedule.get_last_lr())
        [0.5]
        [0.5]
        [0.25]
    """

    def __init__(
        self, optimizer: _Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = self._epochs("milestones", milestones, 0)
        self.gamma = self._number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * math.pow(self.gamma, self.milestones.count(epoch))


class LinearLR(LRScheduler):
    """Linear from one factor to another, such as a warm-up.

    .. code-block:: text

        ηₜ = η₀·(start_factor + (end_factor − start_factor)·min(t/total_iters, 1))

    Args:
        optimizer: Whose groups' learning rates are set.
        start_factor: In (0, 1].
        end_factor: In [0, 1].
        total_iters: After how many steps end_factor is reached, at least 1.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.LinearLR(opt, start_factor=0.5, total_iters=2)
        >>> for _ in range(3):
        ...     print(schedule.get_last_lr())
        ...     schedule.step()
        [0.5]
        [0.75]
        [1.0]

    References:
        Goyal et al. 2017, arXiv:1706.02677, section 2.2.
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = self._number("start_factor", start_factor, 0, 1, "(]")
        self.end_factor = self._number("end_factor", end_factor, 0, 1)
        self.total_iters = self._integer("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0:
            return lr * self.start_factor
        if epoch > self.total_iters:
            return lr
        slope = self.end_factor - self.start_factor
        return lr * (1.0 + slope / (self.total_iters * self.start_factor + (epoch - 1) * slope))


class ExponentialLR(LRScheduler):
    """Decay by a factor in every step.

    .. code-block:: text

        ηₜ = η₀·gammaᵗ

    Args:
        optimizer: Whose groups' learning rates are set.
        gamma: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.ExponentialLR(opt, gamma=0.5)
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: _Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = self._number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * self.gamma if epoch > 0 else lr


class PolynomialLR(LRScheduler):
    """Down to zero as a power of the steps that are left.

    .. code-block:: text

        ηₜ = η₀·(1 − min(t/total_iters, 1))^power

    Args:
        optimizer: Whose groups' learning rates are set.
        total_iters: After how many steps it is zero, at least 1.
        power: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.PolynomialLR(opt, total_iters=4, power=2)
        >>> for _ in range(2):
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: _Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = self._integer("total_iters", total_iters)
        self.power = self._number("power", power)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0 or epoch > self.total_iters:
            return lr
        left, before = (1.0 - t / self.total_iters for t in (epoch, epoch - 1))
        return lr * math.pow(left / before, self.power)


def _cosine(start: float, end: float, t: int, total: int) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * t / total)) / 2


class CosineAnnealingLR(LRScheduler):
    """Along a cosine to its minimum, and up again if there are more steps.

    .. code-block:: text

        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·t/T_max))/2

    Args:
        optimizer: Whose groups' learning rates are set.
        T_max: After how many steps it is eta_min, at least 1.
        eta_min: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.CosineAnnealingLR(opt, T_max=2)
        >>> for _ in range(2):
        ...     schedule.step()
        ...     print(schedule.get_last_lr())
        [0.5]
        [0.0]

    References:
        Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """

    def __init__(self, optimizer: _Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = self._integer("T_max", T_max)
        self.eta_min = self._number("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0:
            return lr
        if (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # from the minimum, where there is nothing to multiply
            return lr + (self.base_lrs[i] - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        now, before = (1 + math.cos(math.pi * t / self.T_max) for t in (epoch, epoch - 1))
        return now / before * (lr - self.eta_min) + self.eta_min

    def _lr_again(self, i: int, lr: float) -> float:
        return _cosine(self.base_lrs[i], self.eta_min, 0, self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Along a cosine to its minimum, again and again.

    .. code-block:: text

        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·T_cur/Tᵢ))/2

    T_cur counts the steps since the last restart; the i-th period, from 0, has Tᵢ = T_0·T_multⁱ of them.

    Args:
        optimizer: Whose groups' learning rates are set.
        T_0: How many steps the first period has, at least 1.
        T_mult: How many times longer the next one is each time, at least 1.
        eta_min: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.CosineAnnealingWarmRestarts(opt, T_0=2)
        >>> for _ in range(2):
        ...     schedule.step()
        ...     print(schedule.get_last_lr())
        [0.5]
        [1.0]

    References:
        Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.
    """

    def __init__(
        self, optimizer: _Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = self._integer("T_0", T_0)
        self.T_mult = self._integer("T_mult", T_mult)
        self.eta_min = self._number("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        t, period = epoch, self.T_0
        if self.T_mult == 1:
            t %= period  # at once, what the loop would do
        while t >= period:
            t, period = t - period, period * self.T_mult
        return _cosine(self.base_lrs[i], self.eta_min, t, period)


class OneCycleLR(LRScheduler):
    """One cycle: up to max_lr, and down to far less than at first; momentum, or β₁, the other way round.

    .. code-block:: text

        initial_lr = max_lr/div_factor;   min_lr = initial_lr/final_div_factor
        initial_lr → max_lr → min_lr;   three_phase: initial_lr → max_lr → initial_lr → min_lr
        max_momentum → base_momentum → max_momentum

    Groups with ``betas`` have β₁ in place of momentum.

    Args:
        optimizer: Whose groups' learning rates and momenta are set.
        max_lr: The largest learning rate, above 0, or a list of them, one a group.
        total_steps: How many steps the cycle has, at least 1; or give the next two.
        epochs: How many epochs it has.
        steps_per_epoch: How many steps they have.
        pct_start: Which part of the cycle goes up, in [0, 1]; in [0, 0.5] if three_phase.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: Whether momentum is set.
        base_momentum: The smallest momentum, in [0, 1), or a list of them, one a group.
        max_momentum: The largest, likewise.
        div_factor: max_lr is so many times the first learning rate, above 0.
        final_div_factor: And that so many times the last one, above 0.
        three_phase: Down as fast as up, and then on to min_lr, as in the paper.
        last_epoch: k to go on after step k, -1 to begin.

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
        optimizer: _Optimizer,
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
            self.total_steps = self._integer("total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = self._integer("epochs", epochs) * self._integer("steps_per_epoch", steps_per_epoch)
        else:
            raise ValueError(f"{self._name}: total_steps must be given, or both epochs and steps_per_epoch")
        three_phase = self._flag("three_phase", three_phase)
        start = self._number("pct_start", pct_start, 0, 0.5 if three_phase else 1)
        self.anneal_strategy = self._choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.cycle_momentum = self._flag("cycle_momentum", cycle_momentum)
        div_factor = self._number("div_factor", div_factor, 0, ends="(]")
        final_div_factor = self._number("final_div_factor", final_div_factor, 0, ends="(]")
        highest = [self._number(*each, 0, ends="(]") for each in self._each(optimizer, "max_lr", max_lr)]
        least, most = (
            [self._number(*each, 0, 1, "[)") for each in self._each(optimizer, name, value)]
            for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum))
        )
        groups = self._groups_of(optimizer)
        if self.cycle_momentum and not all("betas" in group or "momentum" in group for group in groups):
            raise ValueError(f"{self._name}: cycle_momentum needs an optimizer with momentum or betas")
        if self._integer("last_epoch", last_epoch, -1) >= self.total_steps:
            raise ValueError(
                f"{self._name}: last_epoch must be less than the {self.total_steps} steps of the cycle, got {last_epoch}"
            )

        # For each group what it passes through, and when.
        initial = [lr / div_factor for lr in highest]
        last = [lr / final_div_factor for lr in initial]
        if three_phase:
            self._ends = [start * self.total_steps - 1, 2 * start * self.total_steps - 2, self.total_steps - 1]
            lrs, momenta = [initial, highest, initial, last], [most, least, most, most]
        else:
            self._ends = [start * self.total_steps - 1, self.total_steps - 1]
            lrs, momenta = [initial, highest, last], [most, least, most]
        self._lrs, self._momenta = (list(zip(*corners, strict=True)) for corners in (lrs, momenta))
        super().__init__(optimizer, last_epoch, initial)

    def _between(self, corners: Sequence[float], epoch: int) -> float:
        begin = 0.0
        for k, end in enumerate(self._ends):
            if epoch <= end or k == len(self._ends) - 1:
                break
            begin = end
        done = min((epoch - begin) / (end - begin), 1.0) if end != begin else 1.0
        if self.anneal_strategy == "linear":
            return (corners[k + 1] - corners[k]) * done + corners[k]
        return corners[k + 1] + (corners[k] - corners[k + 1]) / 2.0 * (math.cos(math.pi * done) + 1)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch > self.total_steps:
            raise ValueError(f"{self._name}: step was called more often than the {self.total_steps} steps of the cycle")
        return self._between(self._lrs[i], epoch)

    def _set(self, lrs: Sequence[float]) -> None:
        super()._set(lrs)
        if self.cycle_momentum:
            for group, corners in zip(self._groups(), self._momenta, strict=True):
                momentum = self._between(corners, self.last_epoch)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class InverseSqrtLR(LRScheduler):
    """Linear warm-up to the groups' learning rates, then down with the square root of the steps.

    .. code-block:: text

        ηₜ = η₀·min(s/warmup_steps, √(warmup_steps/s)),   s = t + 1

    Args:
        optimizer: Whose groups' learning rates are set.
        warmup_steps: With which step the largest is reached, at least 1, the first one.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.InverseSqrtLR(opt, warmup_steps=2)
        >>> lrs = []
        >>> for _ in range(8):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> [round(lr, 3) for lr in lrs]
        [0.5, 1.0, 0.816, 0.707, 0.632, 0.577, 0.535, 0.5]

    References:
        Vaswani et al. 2017, arXiv:1706.03762, equation 3, where η₀ = 1/√(d_model·warmup_steps).
    """

    def __init__(self, optimizer: _Optimizer, warmup_steps: int, last_epoch: int = -1) -> None:
        self.warmup_steps = self._integer("warmup_steps", warmup_steps)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        part = (epoch + 1) / self.warmup_steps
        return self.base_lrs[i] * min(part, 1 / math.sqrt(part))


class WarmupCosineLR(LRScheduler):
    """Linear warm-up to the groups' learning rates, then along a cosine to the minimum, where it stays.

    .. code-block:: text

        ηₜ = η₀·(t + 1)/warmup_steps                                    for t < warmup_steps
        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·(t − warmup_steps)/(total_steps − warmup_steps)))/2

    Args:
        optimizer: Whose groups' learning rates are set.
        warmup_steps: With which step the largest is reached, at least 0.
        total_steps: After how many steps it is eta_min, more than warmup_steps.
        eta_min: At least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.WarmupCosineLR(opt, warmup_steps=2, total_steps=4)
        >>> lrs = []
        >>> for _ in range(5):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> lrs
        [0.5, 1.0, 1.0, 0.5, 0.0]

    References:
        Goyal et al. 2017, arXiv:1706.02677, section 2.2; Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        warmup_steps: int,
        total_steps: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = self._integer("warmup_steps", warmup_steps, 0)
        self.total_steps = self._integer("total_steps", total_steps)
        if self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"{self._name}: total_steps must be more than warmup_steps = {warmup_steps}, got {total_steps}"
            )
        self.eta_min = self._number("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch < self.warmup_steps:
            return self.base_lrs[i] * (epoch + 1) / self.warmup_steps
        t = min(epoch, self.total_steps) - self.warmup_steps
        return _cosine(self.base_lrs[i], self.eta_min, t, self.total_steps - self.warmup_steps)


class PiecewiseLR(LRScheduler):
    """Learning rates between boundaries, or on a line from one to the next.

    .. code-block:: text

        ηₜ = values[k], k = number of boundaries ≤ t
        interpolate: the line through (0, values[0]), (boundaries[0], values[1]), (boundaries[1], values[2]), …,
                     and after the last boundary the last value

    Args:
        optimizer: Whose groups' learning rates are set.
        boundaries: Increasing integers, at least 1.
        values: Learning rates, one more than boundaries, or a list of such lists, one a group.  The groups' own do not matter.
        interpolate: A line instead of steps.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.PiecewiseLR(opt, boundaries=[2, 4], values=[1.0, 0.5, 0.25])
        >>> lrs = []
        >>> for _ in range(5):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> lrs
        [1.0, 1.0, 0.5, 0.5, 0.25]
        >>> schedule = fo.schedules.PiecewiseLR(opt, boundaries=[2, 4], values=[1.0, 0.5, 0.25], interpolate=True)
        >>> lrs = []
        >>> for _ in range(5):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> lrs
        [1.0, 0.75, 0.5, 0.375, 0.25]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        boundaries: Sequence[int],
        values: Sequence[float] | Sequence[Sequence[float]],
        interpolate: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.boundaries = self._epochs("boundaries", boundaries, 1, strict=True)
        given: Any = self._list("values", values)
        own = any(isinstance(value, list | tuple) for value in given)
        each = self._each(optimizer, "values", given) if own else [("values", given)] * len(self._groups_of(optimizer))
        self.values = [self._numbers(*one) for one in each]
        for name, one in each:
            if len(one) != len(self.boundaries) + 1:
                raise ValueError(
                    f"{self._name}: {name} has {len(one)} entries, expected {len(self.boundaries) + 1}, one more than boundaries"
                )
        self.interpolate = self._flag("interpolate", interpolate)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        k = bisect_right(self.boundaries, epoch)
        values = self.values[i]
        if not self.interpolate or k == len(self.boundaries):
            return values[k]
        begin, end = ([0, *self.boundaries])[k : k + 2]
        return values[k] + (values[k + 1] - values[k]) * (epoch - begin) / (end - begin)


class LambdaLR(LRScheduler):
    """The first learning rate times a function of the epoch.

    .. code-block:: text

        ηₜ = η₀·lr_lambda(t)

    The functions are not part of the state.

    Args:
        optimizer: Whose groups' learning rates are set.
        lr_lambda: From the epoch to a factor, at least 0, or a list of such functions, one a group.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.LambdaLR(opt, lambda epoch: 1 / (1 + epoch))
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: _Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1) -> None:
        self.lr_lambdas: list[Factor] = []
        for name, function in self._each(optimizer, "lr_lambda", lr_lambda):
            if not callable(function):
                raise TypeError(f"{self._name}: {name} must be a function, got {function!r}")
            self.lr_lambdas.append(function)
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int, i: int) -> float:
        return self._number(f"lr_lambda({epoch})", self.lr_lambdas[i](epoch))

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return self.base_lrs[i] * self._factor(epoch, i)


class MultiplicativeLR(LambdaLR):
    """In each epoch the learning rate times a function of the epoch.

    .. code-block:: text

        ηₜ = ηₜ₋₁·lr_lambda(t)

    The functions are not part of the state.

    Args:
        optimizer: Whose groups' learning rates are set.
        lr_lambda: From the epoch to a factor, at least 0, or a list of such functions, one a group.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.MultiplicativeLR(opt, lambda epoch: 0.5)
        >>> for _ in range(2):
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * self._factor(epoch, i) if epoch > 0 else lr

    def _lr_again(self, i: int, lr: float) -> float:
        return lr * self._factor(0, i)  # goes on from there, as torch's does


class _Schedules(LRScheduler):
    """A schedule made of others."""

    schedulers: list[LRScheduler]

    def _members(self, schedulers: Any, optimizer: _Optimizer | None) -> list[LRScheduler]:
        members = self._list("schedulers", schedulers)
        if not members:
            raise ValueError(f"{self._name}: schedulers must not be empty")
        for i, member in enumerate(members):
            if not isinstance(member, LRScheduler):
                raise TypeError(
                    f"{self._name}: schedulers[{i}] must be a schedule whose step takes nothing, got {type(member).__name__}"
                )
            if member.optimizer is not (members[0].optimizer if optimizer is None else optimizer):
                raise ValueError(f"{self._name}: schedulers[{i}] must have the same optimizer, it has another one")
        return members

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def _check(self, state: Mapping[str, Any]) -> None:
        super()._check(state)
        parts = self._list("schedulers", state["schedulers"])
        if len(parts) != len(self.schedulers):
            raise ValueError(f"{self._name}: state_dict is of {len(parts)} schedulers, expected {len(self.schedulers)}")
        for schedule, part in zip(self.schedulers, parts, strict=True):
            schedule._check(part)

    def _load(self, state: Mapping[str, Any]) -> None:
        for schedule, part in zip(self.schedulers, state["schedulers"], strict=True):
            schedule._load(part)
        super()._load(state)


class ChainedScheduler(_Schedules):
    """Several schedules at once: each multiplies the learning rate that the one before it has set.

    Args:
        schedulers: In this order.  What they have done when they were made counts.
        optimizer: Theirs; they all have the same one.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> warmup = fo.schedules.ConstantLR(opt, factor=0.5, total_iters=2)
        >>> schedule = fo.schedules.ChainedScheduler([warmup, fo.schedules.ExponentialLR(opt, gamma=0.5)])
        >>> for _ in range(3):
        ...     print(schedule.get_last_lr())
        ...     schedule.step()
        [0.5]
        [0.25]
        [0.25]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: _Optimizer | None = None) -> None:
        self.schedulers = self._members(schedulers, optimizer)
        _Schedule.__init__(self, self.schedulers[0].optimizer)  # they have begun already

    def _begin(self, again: bool = False) -> None:
        self._set(self.base_lrs)
        for schedule in self.schedulers:
            schedule._begin()
        self.last_epoch = 0
        self._last_lr = self.schedulers[-1].get_last_lr()

    def step(self) -> None:
        """Moves all schedules on by one epoch, one after another."""
        for schedule in self.schedulers:
            schedule.step()
        self.last_epoch += 1
        self._last_lr = self.schedulers[-1].get_last_lr()


class SequentialLR(_Schedules):
    """One schedule after another, each from its own epoch 0 and the groups' first learning rates.

    Args:
        optimizer: The schedules'.
        schedulers: In this order.
        milestones: In which epoch each but the first begins: increasing integers, at least 0.
        last_epoch: k to go on after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> warmup = fo.schedules.LinearLR(opt, start_factor=0.5, total_iters=2)
        >>> decay = fo.schedules.CosineAnnealingLR(opt, T_max=2)
        >>> schedule = fo.schedules.SequentialLR(opt, [warmup, decay], milestones=[2])
        >>> lrs = []
        >>> for _ in range(5):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> lrs
        [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self.schedulers = self._members(schedulers, optimizer)
        self.milestones = self._epochs("milestones", milestones, 0)
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"{self._name}: milestones has {len(self.milestones)} entries, expected {len(self.schedulers) - 1},"
                " one less than schedulers"
            )
        super().__init__(optimizer, last_epoch)

    def _begin(self, again: bool = False) -> None:
        self._set(self.base_lrs)
        schedule = self.schedulers[bisect_right(self.milestones, 0)]
        schedule._begin()
        self.last_epoch = 0
        self._last_lr = schedule.get_last_lr()

    def step(self) -> None:
        """Moves the schedule whose turn it is on by one epoch."""
        epoch = self.last_epoch + 1
        k = bisect_right(self.milestones, epoch)
        if k > 0 and self.milestones[k - 1] == epoch:
            self.schedulers[k]._begin(again=True)
        else:
            self.schedulers[k].step()
        self.last_epoch = epoch
        self._last_lr = self.schedulers[k].get_last_lr()


class ReduceLROnPlateau(_Schedule):
    """Reduces the learning rate when a number stops improving.

    .. code-block:: text

        after more than patience steps without improvement, cooldown steps after the last reduction not counted:
        η ← max(factor·η, min_lr), if that is more than eps less

    An improvement is less than best·(1 − threshold), or best − threshold with ``threshold_mode="abs"``; with ``mode="max"`` it is
    more than best·(1 + threshold), or best + threshold.

    Args:
        optimizer: Whose groups' learning rates are set.
        mode: ``"min"`` or ``"max"``: which numbers are better.
        factor: In [0, 1).
        patience: How many steps without improvement there may be, at least 0.
        threshold: At least 0; below 1 where the smaller is better by a part.
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: At least 0.
        min_lr: At least 0, or a list, one a group.
        eps: At least 0.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.ReduceLROnPlateau(opt, factor=0.5, patience=1)
        >>> for loss in 0.9, 0.8, 0.8, 0.8:
        ...     schedule.step(loss)
        >>> schedule.get_last_lr()
        [0.5]
    """

    _state = ("best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: _Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        self.mode = self._choice("mode", mode, ("min", "max"))
        self.factor = self._number("factor", factor, 0, 1, "[)")
        self.patience = self._integer("patience", patience, 0)
        self.threshold_mode = self._choice("threshold_mode", threshold_mode, ("rel", "abs"))
        limit = 1 if (mode, threshold_mode) == ("min", "rel") else math.inf
        self.threshold = self._number("threshold", threshold, 0, limit, "[)")
        self.cooldown = self._integer("cooldown", cooldown, 0)
        self.min_lrs = [self._number(*each) for each in self._each(optimizer, "min_lr", min_lr)]
        self.eps = self._number("eps", eps)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        super().__init__(optimizer)

    def step(self, metrics: float) -> None:
        """Counts one epoch, and reduces the learning rates if metrics has not improved for too long.

        Args:
            metrics: What should become less, or more; NaN is no improvement.
        """
        try:
            current = float(metrics)
        except (TypeError, ValueError):
            raise TypeError(f"{self._name}: metrics must be a number, got {metrics!r}") from None
        groups = self._groups()
        self.last_epoch += 1
        if self._better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        lrs = [float(group["lr"]) for group in groups]
        if self.num_bad_epochs > self.patience:
            reduced = [max(lr * self.factor, least) for lr, least in zip(lrs, self.min_lrs, strict=True)]
            lrs = [less if lr - less > self.eps else lr for lr, less in zip(lrs, reduced, strict=True)]
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._set(lrs)

    def state_dict(self) -> dict[str, Any]:
        """All that changes; an infinite best is a string, since JSON has no infinities."""
        return {**super().state_dict(), "best": self.best if math.isfinite(self.best) else str(self.best)}

    def _check(self, state: Mapping[str, Any]) -> None:
        super()._check(state)
        self._integer("num_bad_epochs", state["num_bad_epochs"], 0)
        self._integer("cooldown_counter", state["cooldown_counter"], 0)
        if state["best"] not in ("inf", "-inf"):
            self._number("best", state["best"], -math.inf)

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load({**state, "best": float(state["best"])})

    def _better(self, current: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * current > sign * (self.best * (1.0 + sign * self.threshold))
        return sign * current > sign * (self.best + sign * self.threshold)
