"""AdEMAMix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class AdEMAMix(Optimizer, decoupled_weight_decay=None):
    """AdEMAMix: Adam with a second, much slower momentum.

    .. code-block:: text

        m₁ ← β₁ m₁ + (1−β₁) g;   m₂ ← β₃(t) m₂ + (1−β₃(t)) g;   v ← β₂ v + (1−β₂) g²
        p ← p − lr·((m₁/(1−β₁ᵗ) + α(t) m₂) / (√(v/(1−β₂ᵗ)) + ε) + λ p)

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁, β₂ and β₃, in [0, 1).
        alpha: α, the weight of the slow momentum, at least 0.
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the paper's term λp by default.
        alpha_warmup: Steps in which α grows from 0.
        beta3_warmup: Steps in which β₃ grows from β₁, so that its half-life grows linearly.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.AdEMAMix([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        Pagliardini, Ablin & Grangier 2025, arXiv:2409.03137, algorithm 1, with the defaults of the authors' code.
    """

    kernels = ("ademamix",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        alpha_warmup: int | None = None,
        beta3_warmup: int | None = None,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        warmups = {name: 0 if h.values[name] is None else h.whole(name) for name in ("alpha_warmup", "beta3_warmup")}
        return h.rule("ademamix", **h.betas(3), alpha=h.number("alpha"), eps=h.number("eps"), **warmups)
