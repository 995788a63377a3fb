"""Gradients of micro-batches, added up for one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._core import kernels
from .._rules import AROUND, Hyperparameters
from ._formats import zeros_like
from .parameters import Array
from .plan import Member


class Accumulator:
    """The sums of gradients.  They are zero, and all counts too, when a step has used them."""

    def __init__(self, function: str, params: list[Array], labels: list[str]) -> None:
        self.params = params
        self._function, self._labels = function, labels
        self._sums = [zeros_like(param) for param in params]
        self._counts = [np.zeros((), np.int64) for _ in params]  # how many gradients are in each sum
        self._micro_batches = np.zeros((), np.int64)
        self._make_plan()

    def _make_plan(self) -> None:
        rule = Hyperparameters(self._function, {**AROUND, "weight_decay": 0.0}).rule("sgd", lr=-1.0)  # p ← p + g
        members = [
            Member.stateless(label, rule, total, count)
            for label, total, count in zip(self._labels, self._sums, self._counts, strict=True)
        ]
        self.plan = kernels.Plan(self._function, members, self._micro_batches)
        self.plan.set_options([rule.options])

    @property
    def micro_batches(self) -> int:
        """How many there are since the last step."""
        return int(self._micro_batches)

    def add(self, grads: list[Any]) -> None:
        """Adds the gradients of one micro-batch, all or none."""
        if self.plan.step(grads) is None:
            raise ValueError(f"{self._function}: the sums of accumulate were changed by somebody else")

    def gathered(self) -> list[Array | None]:
        """The sums, and None for parameters that got no gradient."""
        return [total if count else None for total, count in zip(self._sums, self._counts, strict=True)]

    def empty(self) -> None:
        """Begins anew."""
        for total in self._sums:
            total[...] = 0
        self.plan.restart()

    def __getstate__(self) -> Mapping[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "plan"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._sums = [np.array(total) for total in self._sums]
        self._make_plan()
