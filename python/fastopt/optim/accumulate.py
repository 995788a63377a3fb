"""Sums of the gradients of micro-batches, for one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core import kernels
from .._rules import AROUND, Hyperparameters
from ._formats import zeros_like
from .parameters import Array
from .plan import Member


class Accumulator:
    """The sums of gradients, and how many gradients are in each; a step that uses the sums sets all of it to zero."""

    def __init__(
        self,
        function: str,
        params: list[Array],
        labels: list[str],
        micro_batches: int = 0,
        counts: Sequence[int] | None = None,
        sums: list[Array] | None = None,
    ) -> None:
        self.params = params
        self._function = function
        self._sums = [zeros_like(param) for param in params] if sums is None else sums
        self._counts = [np.array(count, np.int64) for count in counts or [0] * len(params)]  # of gradients in each sum
        self._micro_batches = np.array(micro_batches, np.int64)
        rule = Hyperparameters(function, {**AROUND, "weight_decay": 0.0}).rule("sgd", lr=-1.0)  # p ← p + g
        members = [
            Member.stateless(label, rule, total, count)
            for label, total, count in zip(labels, self._sums, self._counts, strict=True)
        ]
        self.plan = kernels.Plan(function, members, self._micro_batches)
        self.plan.set_options([rule.options])

    def contents(self) -> tuple[int, list[int], list[Array]]:
        """The number of micro-batches, the numbers of gradients and the sums, as the constructor takes them."""
        return int(self._micro_batches), [int(count) for count in self._counts], self._sums

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches since the last step."""
        return int(self._micro_batches)

    def add(self, grads: list[Any]) -> None:
        """Adds the gradients of one micro-batch, all or none."""
        if self.plan.step(grads) is None:
            raise ValueError(
                f"{self._function}: somebody has changed the shape or dtype of the sums that accumulate keeps; undo that"
            )

    def gathered(self) -> list[Array | None]:
        """The sums; None for parameters that got no gradient."""
        return [total if count else None for total, count in zip(self._sums, self._counts, strict=True)]
