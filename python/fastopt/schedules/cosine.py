"""Schedules that follow a cosine, once or repeatedly, and those with a warm-up whose decay may be one."""

from __future__ import annotations

import math
from typing import Literal

from .._check import choice, number, whole
from .base import LRScheduler, Optimizer


def _cosine(start: float, end: float, t: int, total: int) -> float:
    """The value at step ``t`` of ``total`` on half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * t / total)) / 2


class CosineAnnealingLR(LRScheduler):
    """A cosine down to its minimum, and up again if there are more steps.

    .. code-block:: text

        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·t/T_max))/2

    Args:
        optimizer: The optimizer whose learning rates are set.
        T_max: The number of steps to eta_min, at least 1.
        eta_min: The smallest learning rate, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

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

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = whole(self._name, "T_max", T_max, 1)
        self.eta_min = number(self._name, "eta_min", eta_min, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch == 0:
            return lr
        if (epoch - 1 - self.T_max) % (
            2 * self.T_max
        ) == 0:  # one step after the minimum the ratio below would divide by zero
            return lr + (self.base_lrs[i] - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        now, before = (1 + math.cos(math.pi * t / self.T_max) for t in (epoch, epoch - 1))
        return now / before * (lr - self.eta_min) + self.eta_min

    def _lr_again(self, i: int, lr: float) -> float:
        return _cosine(self.base_lrs[i], self.eta_min, 0, self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """A cosine down to its minimum, repeatedly.

    .. code-block:: text

        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·T_cur/Tᵢ))/2

    T_cur counts the steps since the last restart; the i-th period, from 0, has Tᵢ = T_0·T_multⁱ of them.

    Args:
        optimizer: The optimizer whose learning rates are set.
        T_0: The number of steps in the first period, at least 1.
        T_mult: The ratio of each period's length to that of the one before, at least 1.
        eta_min: The smallest learning rate, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = whole(self._name, "T_0", T_0, 1)
        self.T_mult = whole(self._name, "T_mult", T_mult, 1)
        self.eta_min = number(self._name, "eta_min", eta_min, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        t, period = epoch, self.T_0
        if self.T_mult == 1:
            t %= period  # the loop would do the same, slowly
        while t >= period:
            t, period = t - period, period * self.T_mult
        return _cosine(self.base_lrs[i], self.eta_min, t, period)


class WarmupCosineLR(LRScheduler):
    """Linear warm-up to the groups' learning rates, then a cosine down to the minimum, where it stays.

    .. code-block:: text

        ηₜ = η₀·(t + 1)/warmup_steps                                    for t < warmup_steps
        ηₜ = eta_min + (η₀ − eta_min)·(1 + cos(π·(t − warmup_steps)/(total_steps − warmup_steps)))/2

    Args:
        optimizer: The optimizer whose learning rates are set.
        warmup_steps: The number of the step with the largest learning rate, at least 0.
        total_steps: The number of steps to eta_min, more than warmup_steps.
        eta_min: The smallest learning rate, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = whole(self._name, "warmup_steps", warmup_steps)
        self.total_steps = whole(self._name, "total_steps", total_steps, 1)
        if self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"{self._name}: total_steps must be more than warmup_steps = {warmup_steps}, got {total_steps}"
            )
        self.eta_min = number(self._name, "eta_min", eta_min, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        if epoch < self.warmup_steps:
            return self.base_lrs[i] * (epoch + 1) / self.warmup_steps
        t = min(epoch, self.total_steps) - self.warmup_steps
        return _cosine(self.base_lrs[i], self.eta_min, t, self.total_steps - self.warmup_steps)


class WarmupStableDecayLR(LRScheduler):
    """WSD: linear warm-up to the groups' learning rates, which then stay until a short decay at the end.

    .. code-block:: text

        ηₜ = η₀·(t + 1)/warmup_steps                      for t < warmup_steps
        ηₜ = η₀                                           until decay_steps before total_steps
        ηₜ = eta_min + (η₀ − eta_min)·f(d),   d = (t − total_steps + decay_steps)/decay_steps, at most 1
        linear: f(d) = 1 − d;   cosine: f(d) = (1 + cos(π·d))/2;   1-sqrt: f(d) = 1 − √d

    The end need not be known in the beginning: as long as the decay has not begun, ``schedule.total_steps`` may be set to another
    number.  A checkpoint from the stable phase can be continued for longer, or decayed at once, by a new schedule with other
    numbers that loads the state.

    Args:
        optimizer: The optimizer whose learning rates are set.
        warmup_steps: The number of the step with the largest learning rate, at least 0.
        total_steps: The number of steps to eta_min, at least warmup_steps + decay_steps.
        decay_steps: The number of steps in which the learning rate falls, at least 1; often a tenth of all.
        decay_type: The shape of the decay: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.
        eta_min: The smallest learning rate, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.WarmupStableDecayLR(opt, warmup_steps=2, total_steps=8, decay_steps=4)
        >>> lrs = []
        >>> for _ in range(9):
        ...     lrs += schedule.get_last_lr()
        ...     schedule.step()
        >>> lrs
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
        Hu et al. 2024, arXiv:2404.06395, section 4.2, whose own decay is exponential; Hägele et al. 2024, arXiv:2405.18392,
        section 3, for the linear one and 1-sqrt.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        decay_steps: int,
        decay_type: Literal["linear", "cosine", "1-sqrt"] = "linear",
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = whole(self._name, "warmup_steps", warmup_steps)
        self.total_steps = whole(self._name, "total_steps", total_steps, 1)
        self.decay_steps = whole(self._name, "decay_steps", decay_steps, 1)
        if self.total_steps < self.warmup_steps + self.decay_steps:
            raise ValueError(
                f"{self._name}: total_steps must be at least warmup_steps + decay_steps = "
                f"{self.warmup_steps + self.decay_steps}, got {total_steps}"
            )
        self.decay_type = choice(self._name, "decay_type", decay_type, ("linear", "cosine", "1-sqrt"))
        self.eta_min = number(self._name, "eta_min", eta_min, 0)
        super().__init__(optimizer, last_epoch)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        first = self.base_lrs[i]
        if epoch < self.warmup_steps:
            return first * (epoch + 1) / self.warmup_steps
        t = min(epoch, self.total_steps) - (self.total_steps - self.decay_steps)
        if t <= 0:
            return first
        if self.decay_type == "cosine":
            return _cosine(first, self.eta_min, t, self.decay_steps)
        done = t / self.decay_steps
        return self.eta_min + (first - self.eta_min) * (1 - (done if self.decay_type == "linear" else math.sqrt(done)))
