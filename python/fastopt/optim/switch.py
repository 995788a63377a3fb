"""From Adam to stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._check import flag, number, whole
from .._rules import Hyperparameters, Rule
from ._formats import copy_of, numbers_of
from .base import Array, Optimizer, Params, StepInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._rules import Around


class SwitchOptimizer(Optimizer):
    """Adam first, for its fast start, and stochastic gradient descent later, for where it ends.

    .. code-block:: text

        first:  Adam's step d;   γ = dᵀd / dᵀg over all parameters;   Λ ← β₂ Λ + (1−β₂) γ
        switch: at step switch_at, or when |Λ/(1−β₂ᵗ) − γ| < tolerance;   b = m/(1−β₁ᵗ)/(1−β₁)
        later:  b ← β₁ b + g;   p ← p − sgd_lr·b,   sgd_lr = (1−β₁)·Λ/(1−β₂ᵗ) if it is not given

    γ is the rate at which SGD's step would have Adam's projected length.  The momentum is carried over, in SGD's units, where
    the paper begins anew.  The switch is part of the state.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Adam's learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1); β₁ is SGD's momentum too.
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        switch_at: The last step of Adam, at least 1; ``None`` for when γ has settled.
        sgd_lr: SGD's learning rate, at least 0; ``None`` for the projected one.
        tolerance: How little γ may differ from its average to have settled, at least 0.
        around: What every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.SwitchOptimizer([w], lr=0.1, switch_at=1, sgd_lr=0.01)
        >>> for _ in range(2):
        ...     info = opt.step([np.full(2, 0.5)])
        >>> opt.switched, w.round(4)
        (True, array([0.85, 0.85]))

    References:
        Keskar & Socher 2017, arXiv:1712.07628, algorithm 1 (SWATS), with one rate for all parameters.
    """

    kernels = ("adam", "adam_projected", "sgd_momentum")
    function = None  # it is two rules, not one

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        switch_at: int | None = None,
        sgd_lr: float | None = None,
        tolerance: float = 1e-9,
        **around: Unpack[Around],
    ) -> None:
        name = type(self).__name__
        self.switch_at = None if switch_at is None else whole(name, "switch_at", switch_at, 1)
        self.tolerance = number(name, "tolerance", tolerance, 0)
        self._average = 0.0  # Λ, uncorrected
        self._since = 0  # how many steps it is the average of
        self._decay = 1.0  # the product of their β₂
        self._switched = False
        super().__init__(params, around, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, sgd_lr=sgd_lr)

    @property
    def switched(self) -> bool:
        """Whether the rule is SGD by now."""
        return self._switched

    def _rule(self, h: Hyperparameters) -> Rule:  # type: ignore[override]
        betas = h.betas(2)
        eps, sgd_lr = h.number("eps"), h.values["sgd_lr"]
        if sgd_lr is not None:
            sgd_lr = h.number("sgd_lr")
        if self._switched:
            return h.rule("sgd_momentum", lr=sgd_lr, momentum=betas["beta1"], dampening=0.0, nesterov=0.0)
        projects = self.switch_at is None or sgd_lr is None
        return h.rule("adam_projected" if projects else "adam", **betas, eps=eps, eps_hat=0.0)

    def _take(self, flat: list[Array | None], around: tuple[float, ...] | None) -> StepInfo:
        info = super()._take(flat, around)
        if self._switched or info.skipped:
            return info
        beta2 = float(self.param_groups[0]["betas"][1])
        rate, settled = None, False
        if any(rule.name == "adam_projected" for rule in self._plan.rules):
            squares, products = self._plan.engine.plan.measured()
            if products > 0:
                gamma = squares / products
                self._average = beta2 * self._average + (1 - beta2) * gamma
                self._decay *= beta2
                self._since += 1
            if self._since:
                rate = self._average / (1 - self._decay)
                settled = self._since > 1 and products > 0 and abs(rate - squares / products) < self.tolerance
        if settled if self.switch_at is None else info.step >= self.switch_at:
            self._switch(rate)
        return info

    def _switch(self, rate: float | None) -> None:
        """Goes on with SGD, at a rate without its momentum if groups have none of their own."""
        groups = [dict(group) for group in self.param_groups]
        for group in groups:
            if group["sgd_lr"] is None:
                if rate is None:
                    return  # no gradient has told one yet
                group["sgd_lr"] = (1 - float(group["betas"][0])) * rate
        state, members = [], iter(self.state)
        for group in groups:
            beta1 = float(group["betas"][0])
            for param in group["params"]:
                one = dict(next(members))
                m, step = numbers_of(one, "exp_avg", "moment"), int(one["step"])
                for name in "exp_avg", "exp_avg_sq":
                    one.pop(name)
                    one.pop(f"{name}_scale", None)
                if step:
                    m = m * m.dtype.type(1 / ((1 - beta1**step) * (1 - beta1)))
                one["momentum_buffer"] = copy_of(m, param)
                state.append(one)
        self._switched = True
        self._plan = self._planned(groups, self._labels, state)
        for group, new in zip(self.param_groups, groups, strict=True):
            group["sgd_lr"] = new["sgd_lr"]
        self._plan = self._plan._replace(values=[self._values(group) for group in self.param_groups])

    def _extra(self) -> dict[str, Any]:
        return {
            "switched": self._switched,
            "switch_at": self.switch_at,
            "tolerance": self.tolerance,
            "average": self._average,
            "since": self._since,
            "decay": self._decay,
        }

    def _restore(self, extra: Mapping[str, Any]) -> None:
        name = f"{self._name}: the switch in state_dict"
        if not extra.keys() >= self._extra().keys():
            raise ValueError(f"{name} is not there")
        switch_at = extra["switch_at"]
        restored = (
            flag(name, "switched", extra["switched"]),
            None if switch_at is None else whole(name, "switch_at", switch_at, 1),
            number(name, "tolerance", extra["tolerance"], 0),
            number(name, "average", extra["average"]),
            whole(name, "since", extra["since"]),
            number(name, "decay", extra["decay"], 0, 1),
        )
        self._switched, self.switch_at, self.tolerance, self._average, self._since, self._decay = restored
