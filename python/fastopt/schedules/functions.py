"""Schedules from a function or a table that the caller gives."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .._check import flag, number
from .base import LRScheduler, Optimizer

Factor: TypeAlias = Callable[[int], float]


class PiecewiseLR(LRScheduler):
    """Constant learning rates between boundaries, or lines from one to the next.

    .. code-block:: text

        ηₜ = values[k], k = number of boundaries ≤ t
        interpolate: the line through (0, values[0]), (boundaries[0], values[1]), (boundaries[1], values[2]), …,
                     and after the last boundary the last value

    Args:
        optimizer: The optimizer whose learning rates are set.
        boundaries: Increasing integers, at least 1.
        values: Learning rates, one more than boundaries, or a list of such lists, one per group.  The groups' own are not used.
        interpolate: Whether to interpolate linearly.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        optimizer: Optimizer,
        boundaries: Sequence[int],
        values: Sequence[float] | Sequence[Sequence[float]],
        interpolate: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.boundaries = self._epochs("boundaries", boundaries, 1, strict=True)
        given: Any = self._list("values", values)
        own = any(isinstance(value, list | tuple) for value in given)
        each = self._each(optimizer, "values", given) if own else [("values", given)] * len(self._groups_of(optimizer))
        self.values = [self._numbers(*one, 0) for one in each]
        for name, one in each:
            if len(one) != len(self.boundaries) + 1:
                raise ValueError(
                    f"{self._name}: {name} has {len(one)} entries, expected {len(self.boundaries) + 1}, one more than boundaries"
                )
        self.interpolate = flag(self._name, "interpolate", interpolate)
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
        optimizer: The optimizer whose learning rates are set.
        lr_lambda: A function from the epoch to a factor, at least 0, or a list of such functions, one per group.
        last_epoch: k to continue after epoch k, -1 to begin.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.SGD([np.ones(3)], lr=1.0)
        >>> schedule = fo.schedules.LambdaLR(opt, lambda epoch: 1 / (1 + epoch))
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1) -> None:
        self.lr_lambdas: list[Factor] = []
        for name, function in self._each(optimizer, "lr_lambda", lr_lambda):
            if not callable(function):
                raise TypeError(f"{self._name}: {name} must be a function, got {function!r}")
            self.lr_lambdas.append(function)
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int, i: int) -> float:
        return number(self._name, f"lr_lambda({epoch})", self.lr_lambdas[i](epoch), 0)

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        return self.base_lrs[i] * self._factor(epoch, i)


class MultiplicativeLR(LambdaLR):
    """Multiplies the learning rate in each epoch by a function of the epoch.

    .. code-block:: text

        ηₜ = ηₜ₋₁·lr_lambda(t)

    The functions are not part of the state.

    Args:
        optimizer: The optimizer whose learning rates are set.
        lr_lambda: A function from the epoch to a factor, at least 0, or a list of such functions, one per group.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        return lr * self._factor(0, i)  # continues from the present learning rate, as torch's does
