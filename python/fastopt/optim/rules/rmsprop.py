"""RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class RMSprop(Optimizer):
    """RMSprop, plain or centered, with or without momentum.

    .. code-block:: text

        v ← α v + (1−α) g²;   centered: ḡ ← α ḡ + (1−α) g, and v − ḡ² in place of v below
        d = g / (√v + ε), with eps_in_sqrt d = g / √(v + ε)
        p ← p − lr·d;   momentum: b ← μ b + d, p ← p − lr·b;   velocity: u ← μ u − lr·d, p ← p + u

    Torch's meaning is the default.  Keras's and TensorFlow's is ``eps_in_sqrt=True, velocity=True``, with alpha=0.9 (rho) and
    eps=1e-7; optax's default too, with alpha=0.9 (decay).  Both forms of momentum are the same while lr is: a new lr rescales
    the whole buffer b, and only new terms of u.

    v − ḡ² is raised to 0 where rounding makes it negative; in torch the weight becomes NaN then.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        alpha: α, in [0, 1].
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        momentum: μ, in [0, 1].
        centered: Divide by the standard deviation of the gradient.
        eps_in_sqrt: ε joins v inside of the root, as in Keras and, by default, in optax.
        velocity: With momentum, keep a sum of updates in place of torch's buffer, as Keras and optax do.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.RMSprop([w], lr=0.1, alpha=0.75)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.8, 0.8])

    References:
        Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning"; centered: Graves 2013, arXiv:1308.0850,
        eq. 38-43.
    """

    kernels = (
        "rmsprop",
        "rmsprop_centered",
        "rmsprop_centered_momentum",
        "rmsprop_momentum",
        "rmsprop_centered_velocity",
        "rmsprop_velocity",
    )

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        eps_in_sqrt: bool = False,
        velocity: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        alpha, momentum, velocity = h.number("alpha", 0, 1), h.number("momentum", 0, 1), h.flag("velocity")
        form = "" if momentum == 0 else "_velocity" if velocity else "_momentum"
        return h.rule(
            "rmsprop" + "_centered" * h.flag("centered") + form,
            alpha=alpha,
            eps=h.number("eps"),
            momentum=momentum,
            eps_in_sqrt=h.flag("eps_in_sqrt"),
        )
