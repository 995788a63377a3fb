"""Sums of the gradients of micro-batches, for one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._check import number
from .._core import kernels
from .._rules import AROUND, Hyperparameters
from ._formats import zeros_like
from .parameters import Array
from .plan import Member


class Accumulator:
    """The weighted sums of gradients, and how many gradients are in each; a step that uses the sums sets all of it to zero."""

    def __init__(
        self,
        function: str,
        params: list[Array],
        labels: list[str],
        micro_batches: int = 0,
        counts: Sequence[int] | None = None,
        sums: list[Array] | None = None,
        weight: float | None = None,
    ) -> None:
        self.params = params
        self._function = function
        self._sums = [zeros_like(param) for param in params] if sums is None else sums
        self._counts = [np.array(count, np.int64) for count in counts or [0] * len(params)]  # of gradients in each sum
        self._micro_batches = np.array(micro_batches, np.int64)
        # The number of a micro-batch, and the sum of the weights with it and before it; None without weights.  It is set before
        # the micro-batch is added, and the number says whether it has been: an interrupt finds the right sum.
        self._weights: tuple[int, float | None, float | None] = (micro_batches, weight, weight)
        rule = Hyperparameters(function, {**AROUND, "weight_decay": 0.0}).rule("sgd", lr=-1.0)  # p ← p + g
        members = [
            Member.stateless(label, rule, total, count)
            for label, total, count in zip(labels, self._sums, self._counts, strict=True)
        ]
        self.plan = kernels.Plan(function, members, self._micro_batches)
        self._rule = rule

    def contents(self) -> tuple[int, list[int], list[Array], float | None]:
        """The number of micro-batches, the numbers of gradients, the sums and that of the weights, as the constructor takes them."""
        return int(self._micro_batches), [int(count) for count in self._counts], self._sums, self._weight()

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches since the last step."""
        return int(self._micro_batches)

    @property
    def total(self) -> float:
        """What the sums are to be divided by: the sum of the weights, or the number of micro-batches."""
        weight = self._weight()
        return float(self._micro_batches) if weight is None else weight

    def _weight(self) -> float | None:
        """The sum of the weights; ``None`` if the micro-batches have none."""
        number, total, before = self._weights
        return total if self._micro_batches == number else before

    def expect_alike(self, weight: float | None) -> None:
        """Raises if micro-batches with weights would meet others without."""
        if self._micro_batches and (self._weight() is None) != (weight is None):
            some, others = ("has no weight", "have one") if weight is None else ("has a weight", "have none")
            raise ValueError(
                f"{self._function}: this micro-batch {some}, and those that were accumulated before {others}; give all of them "
                "a weight or none, or drop those before with discard_accumulated()"
            )

    def add(self, grads: list[Any], weight: float | None) -> None:
        """Adds the gradients of one micro-batch times its weight, all or none."""
        self.expect_alike(weight)
        before = self._weight() if self._micro_batches else None
        total = None if weight is None else (before or 0.0) + weight
        self._weights = (self.micro_batches + 1, total, before)
        self.plan.set_options([self._rule.but({"lr": -1.0 if weight is None else -weight}).options])
        if self.plan.step(grads) is None:
            raise ValueError(
                f"{self._function}: somebody has changed the shape or dtype of the sums that accumulate keeps; undo that"
            )

    def gathered(self) -> list[Array | None]:
        """The sums; None for parameters that got no gradient."""
        return [total if count else None for total, count in zip(self._sums, self._counts, strict=True)]


def weight_of(function: str, weight: Any) -> float:
    """The weight of a micro-batch, checked: one that float32 can multiply by and that a sum can be divided by."""
    new = number(function, "weight", weight, 0)
    if new and not 2.0**-53 <= new <= 2.0**53:
        raise ValueError(f"{function}: weight must be 0 or in [2**-53, 2**53], got {weight}")
    return new
