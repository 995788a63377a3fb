"""RAdam."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class RAdam(Optimizer):
    """RAdam: Adam that divides by √v only once the variance of its adaptive rate is known.

    .. code-block:: text

        ρ_∞ = 2/(1−β₂) − 1;   ρ_t = ρ_∞ − 2tβ₂ᵗ/(1−β₂ᵗ);   m, v as :class:`Adam`
        ρ_t > 5:    p ← p − lr/(1−β₁ᵗ)·r_t·√(1−β₂ᵗ) · m / (√v + ε),   r_t = √((ρ_t−4)(ρ_t−2)ρ_∞ / ((ρ_∞−4)(ρ_∞−2)ρ_t))
        otherwise:  p ← p − lr/(1−β₁ᵗ) · m

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.RAdam([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.95, 0.95])

    References:
        Liu et al. 2020, arXiv:1908.03265, algorithm 2, with torch's threshold and ε.
    """

    kernels = ("radam",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("radam", **h.betas(2), eps=h.number("eps"))
