"""Muon."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._check import number
from ..._core import kernels
from ..._rules import Hyperparameters, Rule
from .._formats import copy_of, zeros_like
from ..optimizer import Optimizer, own
from ..parameters import Array, Params
from ..plan import Member, Plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


def _orthogonalized(u: Array, coefficients: tuple[float, ...], eps: float, steps: int) -> Array:
    """A rough approximation of the nearest semi-orthogonal matrix: Newton-Schulz iterations bring singular values to about 1."""
    a, b, c = (u.dtype.type(one) for one in coefficients)
    norm = math.sqrt(kernels.square_sum(u))
    with np.errstate(all="ignore"):  # infinities and NaN come from the gradient
        x = u * u.dtype.type(norm if math.isnan(norm) else 1 / max(norm, eps))
        tall = x.shape[0] > x.shape[1]
        if tall:
            x = np.ascontiguousarray(x.T)
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return np.ascontiguousarray(x.T) if tall else x


class _Plan:
    """Takes steps in three parts: the momentum, its orthogonalization by matrix products, and the update.

    The first part updates copies of the momentum.  After the products, one call updates the momentum itself and the parameters,
    so that an interrupt finds the step taken or not begun.
    """

    def __init__(self, function: str, members: list[Member], count: Array | None) -> None:
        for member in members:
            if member.param.ndim != 2:
                raise ValueError(f"{function}: params{member.label} must be a matrix, got shape {member.param.shape}")
        self._counts = [np.zeros((), np.int64) for _ in members]
        descent = [
            member._replace(rule="sgd", group=i, states=[], scales=[], numbers=[], step=step)
            for i, (member, step) in enumerate(zip(members, self._counts, strict=True))
        ]
        self._descent = kernels.Plan(function, descent)
        self._members = members
        self._updates = [zeros_like(member.param) for member in members]
        self._rules: list[Rule] = []
        self._plan = kernels.Plan(function, [_with(*both) for both in zip(members, self._updates, strict=True)], count)
        self._trial = [_copied(member) for member in members]
        self._trial_plan = kernels.Plan(
            function, [_with(*both) for both in zip(self._trial, self._updates, strict=True)]
        )
        self.watch, self.check = self._plan.watch, self._plan.check
        self.current, self.same_members = self._plan.current, self._plan.same_members
        self.unmoved = self._plan.unmoved

    def set_options(self, options: list[Rule]) -> None:
        self._rules = options
        momentum = [rule.options for rule in options]
        self._plan.set_options(momentum)
        self._trial_plan.set_options(momentum)

    def measured(self) -> list[float]:
        return self._plan.measured()

    def step(
        self, grads: list[Any], options: tuple[float, ...] | None = None, emptied: Any = None
    ) -> tuple[int, float | None, bool] | None:
        if not self._plan.unmoved():
            return None
        grads = [*grads]  # a copy: another thread may change the list
        for member, trial in zip(self._members, self._trial, strict=True):
            for mine, its in zip(_written(trial), _written(member), strict=True):
                mine[...] = its
        tried = self._trial_plan.step(grads, None if options is None else (*options[:6], 0.0))
        if tried is None:
            return None
        if tried[2]:  # the step is to be skipped
            return self._plan.step(grads, options, emptied)
        directions: list[Array | None] = []
        descent = []
        at = kernels.rules["sgd"][2].index("lr")
        kernels.expect_products()
        for grad, update, member in zip(grads, self._updates, self._members, strict=True):
            coefficients, eps, steps, adjust, of_update = self._rules[member.group].more
            directions.append(None if grad is None else _orthogonalized(update, coefficients, eps, steps))
            descent.append((*of_update[:at], of_update[at] * adjust(update.shape), *of_update[at + 1 :]))
        for count, member in zip(self._counts, self._members, strict=True):
            count[...] = member.step
        self._descent.set_options(descent)
        return self._plan.step(grads, options, emptied, self._descent, directions)


def _with(member: Member, update: Array) -> Member:
    """The member whose rule writes its direction into ``update`` instead of moving the parameter."""
    return member._replace(states=[*member.states, update], scales=[*member.scales, None])


def _written(member: Member) -> list[Array]:
    """The arrays that the momentum's plan writes."""
    return [*member.states, *(scale for scale in member.scales if scale is not None), member.step]


def _copied(member: Member) -> Member:
    """The same member with copies of the arrays that the momentum's plan writes."""
    return member._replace(
        states=[copy_of(state, member.param, state.dtype) for state in member.states],
        scales=[None if scale is None else scale.copy() for scale in member.scales],
        step=member.step.copy(),
    )


def _original(shape: tuple[int, ...]) -> float:
    return math.sqrt(max(1.0, shape[0] / shape[1])) if shape[1] else 1.0


def _match_rms_adamw(shape: tuple[int, ...]) -> float:
    return 0.2 * math.sqrt(max(shape))


_ADJUST = {None: _original, "original": _original, "match_rms_adamw": _match_rms_adamw}


class Muon(Optimizer, decoupled_weight_decay=True):
    """Muon: momentum whose singular values are all brought to about 1; for the matrices of hidden layers.

    .. code-block:: text

        b ← μ b + (1−μ) g;   u = b, with nesterov (1−μ) g + μ b
        X = u/‖u‖;   ns_steps times: A = X Xᵀ, X ← a X + (b A + c A²) X
        p ← (1 − lr·weight_decay) p − lr·f·X

    f is √max(1, rows/columns), or with ``adjust_lr_fn="match_rms_adamw"`` 0.2·√max(rows, columns).  The matrix products
    are NumPy's, so that the result may depend on its BLAS and the number of its threads.

    Args:
        params: A list or dict of matrices, or a list of groups; give other parameters to another optimizer.
        lr: Learning rate, at least 0.
        weight_decay: λ, at least 0; decoupled by default.
        momentum: μ, in [0, 1).
        nesterov: Take the step from where the momentum leads.
        ns_coefficients: a, b and c.
        eps: Least norm of u to divide by, above 0.
        ns_steps: Iterations, below 100.
        adjust_lr_fn: ``None``, ``"original"`` or ``"match_rms_adamw"``.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones((2, 2))
        >>> opt = fo.optim.Muon([w], lr=0.1, weight_decay=0.0)
        >>> opt.step([np.eye(2)]).step
        1
        >>> bool(np.all(np.diag(w) < 0.95)), w[0, 1].round(6)
        (True, np.float64(1.0))

    References:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025, arXiv:2502.16982.  In torch's form, but
        in the parameters' own precision (of 16 bits: float32), where torch computes in bfloat16.
    """

    kernels = ("muon_momentum",)
    elementwise = False
    hidden = ("update",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        coefficients = tuple(number(h.function, "ns_coefficients", one) for one in h.several("ns_coefficients", 3))
        eps, steps, adjust = h.number("eps"), h.whole("ns_steps"), h.values["adjust_lr_fn"]
        if eps == 0:
            raise ValueError(f"{h.function}: eps must be > 0, got 0")
        if steps >= 100:
            raise ValueError(f"{h.function}: ns_steps must be < 100, got {steps}")
        if not (adjust is None or isinstance(adjust, str)) or adjust not in _ADJUST:
            raise ValueError(
                f"{h.function}: adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got {adjust!r}"
            )
        momentum = h.rule("muon_momentum", momentum=h.number("momentum", 0, 1, below=True), nesterov=h.flag("nesterov"))
        # The momentum's kernel takes the hyperparameters that change the gradient, the update's those that change the parameter.
        after = {"decay": 1.0, "pull": 0.0, "threshold": 0.0, "proximal": 0.0, "ema_decay": -1.0, "swa_start": 0.0}
        before = {"maximize": 0.0, "l2": 0.0, "l1": 0.0, "l2_init": 0.0, "noise": 0.0}
        more: tuple[Any, ...] = (coefficients, eps, steps, _ADJUST[adjust])
        return momentum.but(after)._replace(more=(*more, h.rule("sgd").but(before).options))

    @classmethod
    def _options(cls, rules: list[Rule]) -> list[Any]:
        return list(rules)

    @classmethod
    def _make_plan(cls, function: str, members: list[Member], count: Array | None = None) -> Plan:
        return _Plan(function, members, count)
