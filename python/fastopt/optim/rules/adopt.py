"""ADOPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._check import number
from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class ADOPT(Optimizer):
    """ADOPT: Adam that divides by the second moment of earlier gradients, and so converges with any β₂.

    .. code-block:: text

        first step:  v ← g²
        later:       m ← β₁ m + (1−β₁) clip(g / max(√v, ε), (t−1)^clip_exponent);   p ← p − lr·m
                     v ← β₂ v + (1−β₂) g²

    The first step of a parameter sets v and leaves the parameter alone, but for decoupled decay.  An infinite
    gradient makes v infinite, and its element then stays where it is; ``step(..., skip_nonfinite=True)`` spares it that.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        clip_exponent: Exponent of the bound on the normalized gradient, at least 0, or ``None`` for no bound.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.ADOPT([w], lr=0.1)
        >>> [opt.step([np.full(2, 0.5)]).step for _ in range(2)]
        [1, 2]
        >>> w.round(4)
        array([0.99, 0.99])

    References:
        Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2, with the bound of the authors' code.  Decoupled decay also
        acts in the first step here; in their code it does not.
    """

    kernels = ("adopt",)
    moves_from = 2

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip_exponent: float | None = 0.25,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        exponent = h.values["clip_exponent"]
        return h.rule(
            "adopt",
            **h.betas(2),
            eps=h.number("eps"),
            clip_exponent=-1.0 if exponent is None else number(h.function, "clip_exponent", exponent, 0),
        )
