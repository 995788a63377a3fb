"""Schedules that multiply the present learning rate, and schedules that fall with a power of the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .._check import number, whole
from .base import LRScheduler, Optimizer


class ConstantLR(LRScheduler):
    """A smaller learning rate in the beginning.

    .. code-block:: text

        ηₜ = factor·η₀ for t < total_iters, then η₀

    Args:
        optimizer: The optimizer whose learning rates are set.
        factor: The factor at the beginning, in (0, 1].
        total_iters: The number of steps with the factor, at least 1.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        self.factor = number(self._name, "factor", factor, 0, 1, above=True)
        self.total_iters = whole(self._name, "total_iters", total_iters, 1)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0:
            return lr * self.factor
        return lr * (1.0 / self.factor) if epoch == self.total_iters else lr


class StepLR(LRScheduler):
    """Decay by a factor every ``step_size`` steps.

    .. code-block:: text

        ηₜ = η₀·gamma^⌊t/step_size⌋

    Args:
        optimizer: The optimizer whose learning rates are set.
        step_size: The number of steps from one decay to the next, at least 1.
        gamma: The factor, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.StepLR(opt, step_size=2, gamma=0.5)
        >>> for _ in range(4):
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = whole(self._name, "step_size", step_size, 1)
        self.gamma = number(self._name, "gamma", gamma, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * self.gamma if epoch > 0 and epoch % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """Decay by a factor at each milestone.

    .. code-block:: text

        ηₜ = η₀·gamma^(number of milestones ≤ t)

    Args:
        optimizer: The optimizer whose learning rates are set.
        milestones: Increasing integers, at least 0; a repeated one counts repeatedly.
        gamma: The factor, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = self._epochs("milestones", milestones, 0)
        self.gamma = number(self._name, "gamma", gamma, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        try:
            return lr * math.pow(self.gamma, self.milestones.count(epoch))
        except OverflowError:
            return math.inf


class LinearLR(LRScheduler):
    """A line from one factor to another, such as a warm-up.

    .. code-block:: text

        ηₜ = η₀·(start_factor + (end_factor − start_factor)·min(t/total_iters, 1))

    Args:
        optimizer: The optimizer whose learning rates are set.
        start_factor: The first factor, in (0, 1].
        end_factor: The last factor, in [0, 1].
        total_iters: The number of steps to end_factor, at least 1.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = number(self._name, "start_factor", start_factor, 0, 1, above=True)
        self.end_factor = number(self._name, "end_factor", end_factor, 0, 1)
        self.total_iters = whole(self._name, "total_iters", total_iters, 1)
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
        optimizer: The optimizer whose learning rates are set.
        gamma: The factor, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.ExponentialLR(opt, gamma=0.5)
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = number(self._name, "gamma", gamma, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return lr * self.gamma if epoch > 0 else lr


class PolynomialLR(LRScheduler):
    """Decay to zero with a power of the remaining steps.

    .. code-block:: text

        ηₜ = η₀·(1 − min(t/total_iters, 1))^power

    Args:
        optimizer: The optimizer whose learning rates are set.
        total_iters: The number of steps to zero, at least 1.
        power: The power, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.PolynomialLR(opt, total_iters=4, power=2)
        >>> for _ in range(2):
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = whole(self._name, "total_iters", total_iters, 1)
        self.power = number(self._name, "power", power, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0 or epoch > self.total_iters:
            return lr
        left, before = (1.0 - t / self.total_iters for t in (epoch, epoch - 1))
        return lr * math.pow(left / before, self.power)


class InverseSqrtLR(LRScheduler):
    """Linear warm-up to the groups' learning rates, then decay with the inverse square root of the steps.

    .. code-block:: text

        ηₜ = η₀·min(s/warmup_steps, √(warmup_steps/s)),   s = t + 1

    Args:
        optimizer: The optimizer whose learning rates are set.
        warmup_steps: The number of the step with the largest learning rate, counted from 1.
        last_epoch: k to continue after epoch k, -1 to begin.

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

    def __init__(self, optimizer: Optimizer, warmup_steps: int, last_epoch: int = -1) -> None:
        self.warmup_steps = whole(self._name, "warmup_steps", warmup_steps, 1)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        part = (epoch + 1) / self.warmup_steps
        return self.base_lrs[i] * min(part, 1 / math.sqrt(part))
