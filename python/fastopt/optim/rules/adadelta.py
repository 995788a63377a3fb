"""Adadelta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Adadelta(Optimizer):
    """Adadelta: steps in the units of the weights.

    .. code-block:: text

        v ← ρ v + (1−ρ) g²;   Δ = √(u + ε) / √(v + ε) · g;   u ← ρ u + (1−ρ) Δ²;   p ← p − lr·Δ

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        rho: ρ, in [0, 1].
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.Adadelta([w], eps=1e-2)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.7327, 0.7327])

    References:
        Zeiler 2012, arXiv:1212.5701, algorithm 1.
    """

    kernels = ("adadelta",)

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("adadelta", rho=h.number("rho", 0, 1), eps=h.number("eps"))
