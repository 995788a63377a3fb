"""Stochastic gradient descent."""

from __future__ import annotations

from .. import _rules
from .base import Optimizer, Params


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    .. code-block:: text

        g ← g + weight_decay·p + l1·sign(p)
        b ← g at the first step, momentum·b + (1 − dampening)·g later;   p ← p − lr·b, with nesterov p ← p − lr·(g + momentum·b)
        velocity:  v ← momentum·v − lr·g;   p ← p + v, with nesterov p ← p + momentum·v − lr·g

    Both classical forms of momentum are here: torch's, whose buffer is a sum of gradients, and with ``velocity`` that of
    Keras and scikit-learn, whose buffer is a sum of updates.  They differ as soon as lr changes: torch's rescales what has
    been gathered, the velocity does not.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        momentum: μ, in [0, 1].
        dampening: τ, how much of a new gradient is left out.
        weight_decay: λ of L2 regularization (coupled), at least 0.
        nesterov: Take the step from where the momentum leads.
        maximize: Ascend: the gradient is negated before weight decay is added.
        l1: Coefficient of L1 regularization, at least 0.
        velocity: Keep a velocity in place of torch's buffer.

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

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0.0,
        velocity: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            l1=l1,
            velocity=velocity,
        )

    _rule = staticmethod(_rules.sgd)
