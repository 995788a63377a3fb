"""Averaged stochastic gradient descent."""

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


class ASGD(Optimizer):
    """Averaged stochastic gradient descent.

    .. code-block:: text

        p ← (1 − λη_t) p − η_t g;   a ← a + μ_t (p − a)
        η₁ = lr, η_{t+1} = lr/(1 + λ·lr·t)^α;   μ₁ = 1, μ_{t+1} = 1/max(1, t − t₀)

    The average a is the state ``ax``.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        lambd: λ, the decay, at least 0.
        alpha: α, the power with which the rate falls, at least 0.
        t0: t₀, the step after which averaging begins, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.ASGD([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.95, 0.95])

    References:
        Polyak & Juditsky 1992, with Bottou's rates, in torch's form.
    """

    kernels = ("asgd",)
    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({"eta": "lr", "mu": 1.0})

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("asgd", lambd=h.number("lambd"), alpha=h.number("alpha"), t0=h.number("t0"))
