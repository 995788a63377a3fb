"""Schedules that consist of others: one after another, or several at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from .base import Draft, LRScheduler, Optimizer


class Composite(LRScheduler):
    """A schedule that consists of others."""

    schedulers: list[LRScheduler]

    def _members(self, schedulers: Any, optimizer: Optimizer | None) -> list[LRScheduler]:
        members = self._list("schedulers", schedulers)
        if not members:
            raise ValueError(f"{self._name}: schedulers must not be empty")
        for i, member in enumerate(members):
            if not isinstance(member, LRScheduler):
                raise TypeError(
                    f"{self._name}: schedulers[{i}] must be a schedule whose step takes no argument, got {type(member).__name__}"
                )
            if member.optimizer is not (members[0].optimizer if optimizer is None else optimizer):
                raise ValueError(f"{self._name}: schedulers[{i}] belongs to another optimizer")
            member._found()  # raises if groups were added or removed since the schedule was made
        return members

    def _checked(self, name: str, value: Any) -> Any:
        if name in ("schedulers", "optimizer"):
            raise AttributeError(f"{self._name}: {name} cannot be set; make a new schedule")
        if name != "milestones":
            return super()._checked(name, value)
        return self._milestones(value)

    def _milestones(self, milestones: Any) -> list[int]:
        epochs = self._epochs("milestones", milestones, 0)
        if len(epochs) != len(self.schedulers) - 1:
            raise ValueError(
                f"{self._name}: milestones has {len(epochs)} entries, expected {len(self.schedulers) - 1},"
                " one less than schedulers"
            )
        return epochs

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in numbers, strings, lists and dicts, which JSON has; the schedules' too."""
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def _load(self, draft: Draft, state: Any) -> None:
        super()._load(draft, state)
        lrs = draft.lrs
        parts = self._list("schedulers", state["schedulers"])
        if len(parts) != len(self.schedulers):
            raise ValueError(f"{self._name}: state_dict has {len(parts)} schedulers, expected {len(self.schedulers)}")
        for schedule, part in zip(self.schedulers, parts, strict=True):
            schedule._load(draft, part)
        draft.lrs = lrs  # loading the parts has set those of the last one


class ChainedScheduler(Composite):
    """Several schedules at once: each multiplies the learning rate that the one before it has set.

    Args:
        schedulers: The schedules, in the order in which they multiply.  The learning rates that they set when they were made
            stay.
        optimizer: The optimizer of all of them.

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

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self.schedulers = self._members(schedulers, optimizer)
        self._start(self.schedulers[0].optimizer).commit()  # the schedules in it have already taken their first step

    def _begin(self, draft: Draft, again: bool = False) -> None:
        draft.lrs = list(self.base_lrs)
        for schedule in self.schedulers:
            schedule._begin(draft)
        self._set(draft, 0, draft.lrs)

    def _advance(self, draft: Draft) -> None:
        epoch = self._epoch(draft)
        for schedule in self.schedulers:
            schedule._advance(draft)
        self._set(draft, epoch, draft.lrs)

    def step(self) -> None:
        """Moves each schedule on by one epoch, one after another."""
        self._step_drafted()


class SequentialLR(Composite):
    """One schedule after another, each from its own epoch 0 and the groups' first learning rates.

    Args:
        optimizer: The optimizer of the schedules.
        schedulers: The schedules, in this order.
        milestones: The epochs in which the second and each later schedule begins: increasing integers, at least 0.
        last_epoch: k to continue after epoch k, -1 to begin.

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
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self.schedulers = self._members(schedulers, optimizer)
        self.milestones = self._milestones(milestones)
        super().__init__(optimizer, last_epoch)

    def _begin(self, draft: Draft, again: bool = False) -> None:
        draft.lrs = list(self.base_lrs)
        self.schedulers[bisect_right(self.milestones, 0)]._begin(draft)
        self._set(draft, 0, draft.lrs)

    def _advance(self, draft: Draft) -> None:
        epoch = self._epoch(draft)
        k = bisect_right(self.milestones, epoch)
        if k > 0 and self.milestones[k - 1] == epoch:
            self.schedulers[k]._begin(draft, again=True)
        else:
            self.schedulers[k]._advance(draft)
        self._set(draft, epoch, draft.lrs)

    def step(self) -> None:
        """Moves the schedule whose turn it is on by one epoch."""
        self._step_drafted()
