"""Rules with a trust ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class LAMB(Optimizer, decoupled_weight_decay=None):
    """LAMB: Adam with each tensor's step scaled to lr times the norm of the parameter.

    .. code-block:: text

        m, v as :class:`Adam`;   u = m̂ / (√v̂ + ε) + λ p;   p ← p − lr·‖p‖/‖u‖·u

    The ratio is 1 where ‖p‖ or ‖u‖ is 0.  ``decoupled_weight_decay`` decays p separately instead.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; part of u by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.LAMB([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        You et al. 2020, arXiv:1904.00962, algorithm 2, with φ(z) = z, as in optax.
    """

    kernels = ("lamb",)
    elementwise = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule("lamb", **h.betas(2), eps=h.number("eps"))


class LARS(Optimizer, decoupled_weight_decay=None):
    """LARS: momentum with each tensor's gradient scaled to the norm of the parameter.

    .. code-block:: text

        u = g + λ p;   r = lr·trust_coefficient·‖p‖/(‖u‖ + ε);   b ← μ b + r·u;   p ← p − b, with nesterov p ← p − (r·u + μ b)

    The ratio trust_coefficient·‖p‖/(‖u‖ + ε) is 1 where ‖p‖ or ‖u‖ is 0, as in optax: a bias that is still zero takes a
    step of lr·u.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        momentum: μ, in [0, 1].
        weight_decay: λ, at least 0; part of u by default.
        trust_coefficient: Factor of the ratio, at least 0.
        eps: ε, at least 0.
        nesterov: Take the step from where the momentum leads.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.LARS([w], lr=100.0)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        You, Gitman & Ginsburg 2017, arXiv:1708.03888, algorithm 1, in optax's form.
    """

    kernels = ("lars",)
    elementwise = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        nesterov: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        return h.rule(
            "lars",
            momentum=h.number("momentum", 0, 1),
            trust_coefficient=h.number("trust_coefficient"),
            eps=h.number("eps"),
            nesterov=h.flag("nesterov"),
        )
