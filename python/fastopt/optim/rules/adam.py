"""Adam and AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Adam(Optimizer):
    """Adam, or AMSGrad.

    .. code-block:: text

        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²;   amsgrad: v̂ ← max(v̂, v)
        p ← p − lr/(1−β₁ᵗ) · m / (√v̂/√(1−β₂ᵗ) + ε)
        eps_hat:  p ← p − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v̂ + ε̂)

    t counts the steps of each parameter: it does not grow in a step in which the gradient is ``None``.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        amsgrad: Divide by the largest v so far.
        eps_hat: ε joins √v before bias correction, as in TensorFlow, Keras, scikit-learn and ONNX.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = {"weight": np.ones(2), "bias": np.ones(1)}
        >>> opt = fo.optim.Adam(w, lr=0.1)
        >>> opt.step({"weight": np.full(2, 0.5), "bias": None}).step
        1
        >>> w["weight"].round(6), w["bias"]
        (array([0.9, 0.9]), array([1.]))

    References:
        Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2, here with
        Adam's bias correction, and the maximum of the uncorrected v, as in torch.
    """

    kernels = ("adam", "amsgrad")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        eps_hat: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        name = "amsgrad" if h.flag("amsgrad") else "adam"
        return h.rule(name, **h.betas(2), eps=h.number("eps"), eps_hat=h.flag("eps_hat"))


class AdamW(Adam, decoupled_weight_decay=True):
    """AdamW: Adam with decoupled weight decay.

    .. code-block:: text

        p ← (1 − lr·weight_decay) p, then Adam's step from the undecayed gradient

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; decoupled by default.
        amsgrad: Divide by the largest v so far.
        eps_hat: ε joins √v before bias correction, see :class:`Adam`.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> weight, bias = np.ones(2), np.ones(1)
        >>> opt = fo.optim.AdamW([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5)
        >>> info = opt.step([[np.full(2, 0.5)], [np.full(1, 0.5)]])
        >>> weight.round(6), bias.round(6)
        (array([0.85, 0.85]), array([0.9]))

    References:
        Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, here, as in torch, with the decay multiplied by lr.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        eps_hat: bool = False,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, eps_hat=eps_hat, **around)
