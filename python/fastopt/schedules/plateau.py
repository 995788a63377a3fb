"""A schedule that depends on the progress of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from .._check import choice, number, real, whole
from .base import Draft, Optimizer, Schedule


class ReduceLROnPlateau(Schedule):
    """Reduces the learning rate when a metric stops improving.

    .. code-block:: text

        after more than patience steps without improvement, cooldown steps after the last reduction not counted:
        η ← max(factor·η, min_lr), if that is more than eps less

    A value is an improvement if it is less than best·(1 − threshold), or best − threshold with ``threshold_mode="abs"``; with
    ``mode="max"`` if it is more than best·(1 + threshold), or best + threshold.

    Args:
        optimizer: The optimizer whose learning rates are set.
        mode: ``"min"`` if smaller values are better, ``"max"`` if larger ones are.
        factor: The factor of a reduction, in [0, 1).
        patience: The number of steps without improvement that are tolerated, at least 0.
        threshold: The least improvement, relative or absolute, at least 0; below 1 with ``"min"`` and ``"rel"``.
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: The number of steps after a reduction that are not counted, at least 0.
        min_lr: The smallest learning rate, at least 0, or a list of them, one per group.
        eps: Reductions by at most eps are not made; at least 0.

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
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        self.mode = choice(self._name, "mode", mode, ("min", "max"))
        self.factor = number(self._name, "factor", factor, 0, 1, below=True)
        self.patience = whole(self._name, "patience", patience)
        self.threshold_mode = choice(self._name, "threshold_mode", threshold_mode, ("rel", "abs"))
        limit = 1 if (mode, threshold_mode) == ("min", "rel") else math.inf
        self.threshold = number(self._name, "threshold", threshold, 0, limit, below=True)
        self.cooldown = whole(self._name, "cooldown", cooldown)
        self.min_lrs = [number(self._name, *each, 0) for each in self._each(optimizer, "min_lr", min_lr)]
        self.eps = number(self._name, "eps", eps, 0)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self._start(optimizer).commit()

    def step(self, metrics: float) -> None:
        """Counts one epoch, and reduces the learning rates if metrics has not improved for too long.

        Args:
            metrics: The value that should become smaller, or larger; NaN is no improvement.
        """
        current = real(self._name, "metrics", metrics)
        draft = Draft(*self._found())
        best, bad, cooldown, lrs = self.best, self.num_bad_epochs + 1, self.cooldown_counter, draft.lrs
        if self._better(current):
            best, bad = current, 0
        if cooldown > 0:
            bad, cooldown = 0, cooldown - 1
        if bad > self.patience:
            reduced = [max(lr * self.factor, least) for lr, least in zip(lrs, self.min_lrs, strict=True)]
            lrs = [less if lr - less > self.eps else lr for lr, less in zip(lrs, reduced, strict=True)]
            bad, cooldown = 0, self.cooldown
        self._set(draft, self.last_epoch + 1, lrs)
        draft.attributes += (
            (self, "best", best),
            (self, "num_bad_epochs", bad),
            (self, "cooldown_counter", cooldown),
        )
        draft.commit()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes; an infinite best is a string, since JSON has no infinities."""
        return {**super().state_dict(), "best": self.best if math.isfinite(self.best) else str(self.best)}

    def _load(self, draft: Draft, state: Any) -> None:
        super()._load(draft, state)
        best = state["best"]
        draft.attributes += (
            (self, "best", float(best) if best in ("inf", "-inf") else number(self._name, "best", best)),
            (self, "num_bad_epochs", whole(self._name, "num_bad_epochs", state["num_bad_epochs"])),
            (self, "cooldown_counter", whole(self._name, "cooldown_counter", state["cooldown_counter"])),
        )

    def _better(self, current: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * current > sign * (self.best * (1.0 + sign * self.threshold))
        return sign * current > sign * (self.best + sign * self.threshold)
