"""Adan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Adan(Optimizer, decoupled_weight_decay=None):
    """Adan: Nesterov's momentum from the differences of gradients.

    .. code-block:: text

        d = g − g_prev, 0 at the first step
        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) d;   n ← β₃ n + (1−β₃) (g + β₂ d)²
        p ← (p − lr·(m/(1−β₁ᵗ) + β₂ v/(1−β₂ᵗ)) / (√(n/(1−β₃ᵗ)) + ε)) / (1 + lr·λ)

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁, β₂ and β₃, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; proximal by default; ``decoupled_weight_decay=True`` is the authors' ``no_prox``.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.Adan([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        Xie et al. 2024, arXiv:2208.06677, algorithm 1; β are those of the authors' code, 1 − the paper's.
    """

    kernels = ("adan",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("adan", **h.betas(3), eps=h.number("eps"))
