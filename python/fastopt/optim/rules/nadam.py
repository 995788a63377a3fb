"""NAdam."""

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


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's momentum.

    .. code-block:: text

        μ_t = β₁(1 − ½·0.96^(t·momentum_decay));   Π_t = μ₁⋯μ_t;   m, v as :class:`Adam`
        p ← p − lr·((1−μ_t)/(1−Π_t)·g + μ_{t+1}/(1−Π_t·μ_{t+1})·m) / (√(v/(1−β₂ᵗ)) + ε)

    Keras's Nadam has ``momentum_decay=1``.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        momentum_decay: Speed at which the momentum grows to β₁, at least 0.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.NAdam([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.8944, 0.8944])

    References:
        Dozat 2016, "Incorporating Nesterov momentum into Adam", in torch's form.
    """

    kernels = ("nadam",)
    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({"mu_product": 1.0})

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("nadam", **h.betas(2), eps=h.number("eps"), momentum_decay=h.number("momentum_decay"))
