"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Adagrad(Optimizer):
    """Adagrad: each weight's rate falls with the sum of its squared gradients.

    .. code-block:: text

        s ← s + g²;   p ← p − lr/(1 + (t−1)·lr_decay) · g / (√s + ε), with eps_in_sqrt g / √(s + ε)

    Torch's meaning is the default.  Keras's and optax's is ``eps_in_sqrt=True`` with initial_accumulator_value=0.1 and eps=1e-7.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        lr_decay: Decay of the rate over the steps, as in the formula, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        initial_accumulator_value: s before the first step, at least 0.
        eps: ε, at least 0.
        eps_in_sqrt: ε joins s inside of the root, as in Keras and optax.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.Adagrad([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        Duchi, Hazan & Singer 2011, JMLR 12, 2121-2159.
    """

    kernels = ("adagrad",)
    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({"sum": "initial_accumulator_value"})

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        eps_in_sqrt: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        h.number("initial_accumulator_value")
        return h.rule("adagrad", lr_decay=h.number("lr_decay"), eps=h.number("eps"), eps_in_sqrt=h.flag("eps_in_sqrt"))
