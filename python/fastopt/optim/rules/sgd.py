"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    .. code-block:: text

        b ← g at the first step, momentum·b + (1 − dampening)·g later;   p ← p − lr·b, with nesterov p ← p − lr·(g + momentum·b)
        velocity:  v ← momentum·v − lr·g;   p ← p + v, with nesterov p ← p + momentum·v − lr·g

    Both classical forms of momentum are available: torch's, whose buffer is a sum of gradients, and with ``velocity`` that of
    Keras and scikit-learn, whose buffer is a sum of updates.  They differ once lr changes: a new lr rescales torch's whole
    buffer, and only new terms of a velocity.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        momentum: μ, in [0, 1].
        dampening: τ, the part of a new gradient that is left out.
        weight_decay: λ, at least 0; coupled (L2) by default.
        nesterov: Take the step from where the momentum leads.
        velocity: Keep a sum of updates in place of torch's buffer.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2, np.float32)
        >>> opt = fo.optim.SGD([w], lr=0.5, momentum=0.9)
        >>> opt.step([np.full(2, 0.5, np.float32)]).step
        1
        >>> w
        array([0.75, 0.75], dtype=float32)

    References:
        Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", eq. 1-4.
    """

    kernels = ("sgd", "sgd_momentum", "sgd_velocity")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        velocity: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        momentum, nesterov, velocity = h.number("momentum", 0, 1), h.flag("nesterov"), h.flag("velocity")
        dampening = h.number("dampening", -float("inf"))
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"{h.function}: nesterov needs momentum > 0 and dampening = 0, got {momentum:g} and {dampening:g}"
            )
        if velocity and dampening != 0:
            raise ValueError(f"{h.function}: velocity has no dampening, got {dampening:g}")
        name = "sgd" if momentum == 0 else "sgd_velocity" if velocity else "sgd_momentum"
        return h.rule(name, momentum=momentum, dampening=dampening, nesterov=nesterov)
