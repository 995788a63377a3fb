"""fastopt's optimizers on the arrays of scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import is_
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .. import optim

Array = NDArray[Any]


class Step:
    """fastopt's step on the parameters of an optimizer of scikit-learn's, whose state becomes the arrays that are updated here.

    The coefficients, which have the L2 penalty, and the intercepts have an optimizer each: groups of one would take longer.
    """

    rate: ClassVar[str]  # the attribute of scikit-learn's optimizer that is the learning rate
    constants: ClassVar[tuple[str, ...]]  # and those that no step changes
    keys: ClassVar[Mapping[str, str]]  # its lists of a state, and fastopt's names of their arrays

    def __init__(self, optimizer: Any, params: list[Array]) -> None:
        self.params, self.half = params, len(params) // 2
        self.seen = self.seen_in(optimizer)
        self.lr = getattr(optimizer, self.rate)
        self.coefs = self.make(optimizer, params[: self.half])
        self.intercepts = self.make(optimizer, params[self.half :])
        self.lists = dict[str, list[Array]]()
        for theirs, ours in self.keys.items():
            arrays = [state[ours] for state in self.states]
            for array, before in zip(arrays, getattr(optimizer, theirs), strict=True):
                array[...] = before
            self.lists[theirs] = arrays
        for theirs, arrays in self.lists.items():
            setattr(optimizer, theirs, [*arrays])

    @property
    def states(self) -> list[dict[str, Any]]:
        """The states of all parameters, in their order."""
        return [*self.coefs.state, *self.intercepts.state]

    def seen_in(self, optimizer: Any) -> list[Any]:
        """The hyperparameters that this was made with, if none has been changed."""
        return [getattr(optimizer, name) for name in self.constants]

    def make(self, optimizer: Any, params: list[Array]) -> optim.Optimizer:
        """An optimizer with the hyperparameters of scikit-learn's, and its count of steps."""
        raise NotImplementedError

    def fits(self, optimizer: Any, params: list[Array]) -> bool:
        """Whether these are the parameters, the state and the hyperparameters that it works on."""
        lists = self.lists.items()
        return (
            _same(params, self.params)
            and all(_same(getattr(optimizer, name), arrays) for name, arrays in lists)
            and self.seen == self.seen_in(optimizer)
            and (getattr(optimizer, self.rate) == self.lr or self.follow(getattr(optimizer, self.rate)))
        )

    def follow(self, rate: Any) -> bool:
        """Takes over a learning rate, if fastopt takes it."""
        lr = float(rate)
        if not 0 <= lr < math.inf:
            return False
        self.lr = self.coefs.param_groups[0]["lr"] = self.intercepts.param_groups[0]["lr"] = lr
        return True

    def take(self, optimizer: Any, grads: list[Array], decay: float) -> None:
        """Takes a step from gradients that lack decay·coefs."""
        group = self.coefs.param_groups[0]
        if group["weight_decay"] != decay:
            group["weight_decay"] = decay
        self.coefs.step(grads[: self.half])
        self.intercepts.step(grads[self.half :])


class AdamStep(Step):
    rate = "learning_rate_init"
    constants = ("beta_1", "beta_2", "epsilon")
    keys: ClassVar = {"ms": "exp_avg", "vs": "exp_avg_sq"}

    def __init__(self, optimizer: Any, params: list[Array]) -> None:
        self.t = int(optimizer.t)
        super().__init__(optimizer, params)

    def make(self, optimizer: Any, params: list[Array]) -> optim.Optimizer:
        betas = float(optimizer.beta_1), float(optimizer.beta_2)
        own = optim.Adam(params, lr=float(self.lr), betas=betas, eps=float(optimizer.epsilon), eps_hat=True)
        for state in own.state:
            state["step"][...] = self.t
        return own

    def fits(self, optimizer: Any, params: list[Array]) -> bool:
        return bool(optimizer.t == self.t) and super().fits(optimizer, params)

    def take(self, optimizer: Any, grads: list[Array], decay: float) -> None:
        super().take(optimizer, grads, decay)
        optimizer.t = self.t = t = self.t + 1
        root = np.sqrt(1 - optimizer.beta_2**t)
        optimizer.learning_rate = optimizer.learning_rate_init * root / (1 - optimizer.beta_1**t)


class SGDStep(Step):
    rate = "learning_rate"
    constants = ("momentum", "nesterov")
    keys: ClassVar = {"velocities": "velocity_buffer"}

    def make(self, optimizer: Any, params: list[Array]) -> optim.Optimizer:
        # Without momentum scikit-learn's velocity is −lr·g.  Kernels take the smallest positive number for 0.
        momentum, nesterov = float(optimizer.momentum) or math.ulp(0.0), bool(optimizer.nesterov)
        return optim.SGD(params, lr=float(self.lr), momentum=momentum, nesterov=nesterov, velocity=True)


_steps: WeakKeyDictionary[Any, Step] = WeakKeyDictionary()  # partial_fit goes on with the same one


def step_of(kinds: Mapping[type, type[Step]], optimizer: Any, params: list[Array]) -> Step | None:
    """The step of an optimizer; None if fastopt takes no such parameters, state or hyperparameters."""
    step = _steps.get(optimizer)
    if step is None or not step.fits(optimizer, params):
        kind = kinds.get(type(optimizer))
        if kind is None:
            return None
        try:
            step = _steps[optimizer] = kind(optimizer, params)
        except (TypeError, ValueError):
            return None
    return step


def _same(some: list[Array], others: list[Array]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
