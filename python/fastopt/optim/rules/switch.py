"""From Adam to stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._check import flag, number, whole
from ..._rules import Hyperparameters, Rule
from .._formats import copy_of, numbers_of
from ..optimizer import Optimizer, StepInfo
from ..parameters import Grads, Params
from ..state_dict import plain

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class _Ratio(NamedTuple):
    """The average of γ after a step."""

    average: float = 0.0  # Λ, uncorrected
    since: int = 0  # number of steps in it
    decay: float = 1.0  # the product of their β₂
    step: int = 0
    settled: float = math.inf  # distance of the last γ from the average

    @property
    def rate(self) -> float | None:
        """The corrected average; None before the first γ."""
        return self.average / (1 - self.decay) if self.since else None

    def after(self, sums: list[float], step: int, beta2: float) -> _Ratio:
        """The average after one more step, from the sums that the step has measured; they are 0 if it has measured nothing."""
        squares, products = sums
        if not products > 0 or not math.isfinite(squares / products):
            return self._replace(step=step, settled=math.inf)
        gamma = squares / products
        new = _Ratio(beta2 * self.average + (1 - beta2) * gamma, self.since + 1, self.decay * beta2, step)
        assert new.rate is not None
        return new._replace(settled=abs(new.rate - gamma)) if new.since > 1 else new


class SwitchOptimizer(Optimizer):
    """Adam at first, for its fast start, then stochastic gradient descent, for its better end.

    .. code-block:: text

        first:  Adam's step d;   γ = dᵀd / dᵀg over all parameters;   Λ ← β₂ Λ + (1−β₂) γ
        switch: at step switch_at, or when |Λ/(1−β₂ᵗ) − γ| < tolerance;   b = m/(1−β₁ᵗ)/(1−β₁)
        later:  b ← β₁ b + g;   p ← p − sgd_lr·(lr/lr at the switch)·b,   sgd_lr = (1−β₁)·Λ/(1−β₂ᵗ) if it is not given

    γ is the rate at which SGD's step would have Adam's projected length.  The momentum is carried over, in SGD's units; the
    paper begins with none.  A schedule of ``lr`` continues after the switch: SGD's rate follows it in proportion.  The switch
    is part of the state.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Adam's learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1); β₁ is SGD's momentum too.
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        switch_at: The last step of Adam, at least 1; ``None`` for the step in which γ has settled.
        sgd_lr: SGD's learning rate, at least 0; ``None`` for the projected one.
        tolerance: Distance from its average below which γ has settled, at least 0.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

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
    elementwise = False
    function = None  # a stateless function has one rule
    _private = ("_ratio", "_switched")
    _ratio = _Ratio()
    _switched = False

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
        self.switch_at, self.tolerance = switch_at, tolerance
        super().__init__(
            params, around, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, sgd_lr=sgd_lr, switch_lr=None
        )

    @property
    def switch_at(self) -> int | None:
        """The last step of Adam, at least 1; ``None`` for the step in which γ has settled."""
        return self._switch_at

    @switch_at.setter
    def switch_at(self, value: int | None) -> None:
        self._switch_at = None if value is None else whole(type(self).__name__, "switch_at", value, 1)
        vars(self).get("_changed", [False])[0] = True  # the kernel with or without the projection is needed

    @property
    def tolerance(self) -> float:
        """Distance from its average below which γ has settled, at least 0."""
        return self._tolerance

    @tolerance.setter
    def tolerance(self, value: float) -> None:
        self._tolerance = number(type(self).__name__, "tolerance", value, 0)

    @property
    def switched(self) -> bool:
        """Whether the optimizer has switched to SGD."""
        return self._switched

    def _rule(self, h: Hyperparameters) -> Rule:  # type: ignore[override]
        betas = h.betas(2)
        eps, sgd_lr = h.number("eps"), h.values["sgd_lr"]
        if sgd_lr is not None:
            sgd_lr = h.number("sgd_lr")
        if self._switched:
            if sgd_lr is None:
                raise ValueError(f"{h.function}: sgd_lr must be set for every group after the switch")
            lr, at = h.number("lr"), h.values["switch_lr"]  # for a group that was added later, lr when it was added
            rate = sgd_lr if at is None or lr == h.number("switch_lr") or at == 0 else sgd_lr * (lr / at)
            if not math.isfinite(rate):
                raise ValueError(
                    f"{h.function}: sgd_lr·lr/switch_lr must be finite, got {sgd_lr}·{lr}/{at}; set sgd_lr and switch_lr"
                )
            return h.rule("sgd_momentum", lr=rate, momentum=betas["beta1"], dampening=0.0, nesterov=0.0)
        projects = self.switch_at is None or sgd_lr is None
        return h.rule("adam_projected" if projects else "adam", **betas, eps=eps, eps_hat=0.0)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        if self._switched and isinstance(param_group, Mapping):
            param_group = {"switch_lr": param_group.get("lr", self.defaults["lr"]), **param_group}
        super().add_param_group(param_group)

    add_param_group.__doc__ = Optimizer.add_param_group.__doc__

    def _take(self, grads: Grads | None, options: tuple[float, ...] | None) -> StepInfo:
        info = super()._take(grads, options)
        with suppress(Exception):  # this step has been taken; the next one raises the error before it begins
            self._advance()
        return info

    def _ready(self, grads: Any, options: tuple[float, ...] | None = None, gathered: bool = False) -> list[Any]:
        self._advance()
        return super()._ready(grads, options, gathered)

    def _follow(self) -> None:
        self._advance()
        super()._follow()

    def _advance(self) -> None:
        """Averages the γ of the last step and switches, unless that has been done."""
        if self._switched or not self.param_groups:
            return
        if self._ratio.step != int(self._count):
            beta2 = float(plain(self.param_groups[0]["betas"])[1])
            self._ratio = self._ratio.after(self._plan.measured(), int(self._count), beta2)
        ratio, at = self._ratio, self.switch_at
        if ratio.step >= at if at is not None else ratio.settled < self.tolerance:
            super()._follow()
            if not self._plan.unmoved():
                self._adopt(self._planned(anew=True))
            self._switch(ratio)

    def _switch(self, ratio: _Ratio) -> bool:
        """Switches to SGD, at the projected rate in groups without ``sgd_lr``; False if that rate is not known yet."""
        changes = []
        for group in self.param_groups:
            sgd_lr, rate = group["sgd_lr"], ratio.rate
            if sgd_lr is None:
                if rate is None:
                    return False
                sgd_lr = (1 - float(plain(group["betas"])[0])) * rate
            changes.append({"sgd_lr": sgd_lr, "switch_lr": plain(group["lr"])})
        states, records = [], iter(self._records)
        for group in self.param_groups:
            beta1 = float(plain(group["betas"])[0])
            for param in group["params"]:
                one = dict(next(records).state)
                m, step = numbers_of(one, "exp_avg", "moment"), int(one["step"])
                for name in "exp_avg", "exp_avg_sq":
                    one.pop(name)
                    one.pop(f"{name}_scale", None)
                if step:
                    m = m * m.dtype.type(1 / ((1 - beta1**step) * (1 - beta1)))
                one["momentum_buffer"] = copy_of(m, param)
                states.append(one)
        plan = self._plan
        try:
            self._switched = True
            changed = [{**group, **change} for group, change in zip(self.param_groups, changes, strict=True)]
            rules = [self._rule_for(group) for group in changed]
            values = [self._values(group) for group in changed]
            new = self._plan_of(self._groups, self._labels, self._records, rules, values, states)
            self._adopt(new, [(vars(self), {"_ratio": ratio}), *zip(self.param_groups, changes, strict=True)])
        except BaseException:
            self._switched = self._plan is not plan
            raise
        return True

    def _extra(self) -> dict[str, Any]:
        return {
            "switched": self._switched,
            "switch_at": self.switch_at,
            "tolerance": self.tolerance,
            "average": self._ratio.average,
            "since": self._ratio.since,
            "decay": self._ratio.decay,
        }

    def _restore(self, extra: Mapping[str, Any]) -> None:
        name = f"{self._name}: the switch in state_dict"
        if not extra.keys() >= self._extra().keys():
            raise ValueError(f"{name} is missing")
        switch_at = extra["switch_at"]
        ratio = _Ratio(
            number(name, "average", extra["average"]),
            whole(name, "since", extra["since"]),
            number(name, "decay", extra["decay"], 0, 1),
            whole(name, "step", extra.get("step", 0)),
        )
        restored = (
            flag(name, "switched", extra["switched"]),
            None if switch_at is None else whole(name, "switch_at", switch_at, 1),
            number(name, "tolerance", extra["tolerance"], 0),
        )
        self._switched, self.switch_at, self.tolerance = restored
        self._ratio = ratio
