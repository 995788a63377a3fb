"""Schedule-free learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..._check import flag
from ..._commit import commit
from ..._rules import Hyperparameters, Rule
from .._formats import moved, weights_of
from ..optimizer import Optimizer, own
from ..parameters import Array, Params
from ..plan import begin, is_writeable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class ScheduleFree(Optimizer):
    """An optimizer whose parameters have one set of values for training and one for evaluation."""

    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({"z": "param"})
    _private = ("_training",)

    def __init__(self, params: Params, around: Mapping[str, Any], **defaults: Any) -> None:
        self._training = np.ones((), np.bool_)
        super().__init__(params, around, **defaults)

    @classmethod
    def _beta(cls, group: Mapping[str, Any]) -> float:
        """The weight of the average in the parameters for training."""
        raise NotImplementedError

    def train(self) -> None:
        """Sets the parameters to y, where gradients are taken; all or none.

        Raises:
            TypeError: A parameter is read-only.  Nothing has been changed then.
            ValueError: The parameters are swapped for their averages.
        """
        with self._turn:
            self._expect_unswapped()
            if not self._training:
                self._settle()
                self._move(lambda beta: 1 - beta, training=True)

    def eval(self) -> None:
        """Sets the parameters to x, the average, for evaluation; all or none.

        Raises:
            TypeError: A parameter is read-only.  Nothing has been changed then.
            ValueError: The parameters are swapped for their averages.
        """
        with self._turn:
            self._expect_unswapped()
            if self._training:
                self._settle()
                self._move(lambda beta: 1 - 1 / beta, training=False)

    def _move(self, weight: Callable[[float], float], training: bool) -> None:
        """Moves the parameters towards z by the part ``weight(beta)``, and sets the flag ``training``."""
        self._simple[0] = None  # the next step must check the flag
        is_writeable(self._name, [record.param for record in self._records], self._labels)
        records = iter(self._records)
        both: list[tuple[Array, Any]] = []
        for group in self.param_groups:
            of_beta = weight(self._beta(group))
            for _ in group["params"]:
                record = next(records)
                one = record.state
                if one["step"] != 0:
                    begin(record)
                    weights = weights_of(one, record.param)
                    both += moved(one, record.param, weights + (one["z"] - weights) * one["z"].dtype.type(of_beta))
        targets, sources = [target for target, _ in both], [source for _, source in both]
        commit([*targets, self._training], [*sources, np.bool_(training)])
        for record in self._records:  # master weights have moved too: they must not begin as the rounded parameters
            count, keys = record.fresh
            if record.state["step"] != 0:
                record.fresh = count, tuple(key for key in keys if key != "master_param")

    def _expect_ready(self) -> None:
        super()._expect_ready()
        if not self._training:
            raise ValueError(f"{self._name}: the parameters are set for evaluation; call train() first")

    def _extra(self) -> dict[str, Any]:
        return {"training": bool(self._training)}

    def _restore(self, extra: Mapping[str, Any]) -> None:
        self._training = np.array(flag(f"{self._name}: state_dict", "training", extra.get("training", True)))


def _weights(h: Hyperparameters) -> dict[str, float]:
    decoupled = h.values["decoupled_weight_decay"]
    if (decoupled is not None and h.flag("decoupled_weight_decay")) or h.proximal():
        raise ValueError(
            f"{h.function}: decoupled_weight_decay and proximal_l1 would act on y only, and z would undo that"
        )
    return {
        "warmup_steps": h.whole("warmup_steps"),
        "r": h.number("r"),
        "weight_lr_power": h.number("weight_lr_power"),
    }


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD.

    .. code-block:: text

        w_t = tʳ·(max lr)^weight_lr_power;   c = w_t / Σw
        y ← y + c (z − y) + lr·(momentum·(1−c) − 1)·g;   z ← z − lr·g

    In training the parameters are y, where gradients are taken; ``eval()`` turns them into the average x, and ``train()`` back
    into y.  A step in evaluation is an error.  Decoupled decay and ``proximal_l1`` are errors, as they would act on y only.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        momentum: β, in (0, 1].
        weight_decay: λ, at least 0; coupled (L2) by default.
        warmup_steps: Number of steps in which the rate grows linearly.
        r: Power of t in the weights of the average.
        weight_lr_power: Power of the largest rate in the weights of the average.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.ScheduleFreeSGD([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.95, 0.95])

    References:
        Defazio et al. 2024, arXiv:2405.15682, in the form of the authors' package.
    """

    kernels = ("schedule_free_sgd",)
    function = "schedule_free_sgd"

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        momentum = h.number("momentum", 0, 1)
        if momentum == 0:
            raise ValueError(f"{h.function}: momentum must be > 0, got 0")
        return h.rule("schedule_free_sgd", momentum=momentum, **_weights(h))

    @classmethod
    def _beta(cls, group: Mapping[str, Any]) -> float:
        return float(group["momentum"])


class ScheduleFreeAdamW(ScheduleFree, decoupled_weight_decay=None):
    """Schedule-free AdamW.

    .. code-block:: text

        v ← β₂ v + (1−β₂) g²;   u = g / (√(v/(1−β₂ᵗ)) + ε) + λ y;   w_t = tʳ·(max lr)^weight_lr_power;   c = w_t / Σw
        y ← y + c (z − y) + lr·(β₁(1−c) − 1)·u;   z ← z − lr·u

    In training the parameters are y, where gradients are taken; ``eval()`` turns them into the average x, and ``train()`` back
    into y.  A step in evaluation is an error.  Decoupled decay and ``proximal_l1`` are errors, as they would act on y only.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the authors' term λy by default.
        warmup_steps: Number of steps in which the rate grows linearly.
        r: Power of t in the weights of the average.
        weight_lr_power: Power of the largest rate in the weights of the average.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.ScheduleFreeAdamW([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        Defazio et al. 2024, arXiv:2405.15682, algorithm 1, in the form of the authors' package.
    """

    kernels = ("schedule_free_adamw",)
    function = "schedule_free_adamw"

    def __init__(
        self,
        params: Params,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        betas = h.betas(2)
        if betas["beta1"] == 0:
            raise ValueError(f"{h.function}: beta1 must be > 0, got 0")
        return h.rule("schedule_free_adamw", **betas, eps=h.number("eps"), **_weights(h))

    @classmethod
    def _beta(cls, group: Mapping[str, Any]) -> float:
        return float(group["betas"][0])
