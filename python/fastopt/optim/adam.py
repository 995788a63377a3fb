"""Adam and AdamW."""

from __future__ import annotations

from functools import partial

from .. import _rules
from .base import Optimizer, Params


class Adam(Optimizer):
    """Adam, or AMSGrad.

    .. code-block:: text

        g ← g + weight_decay·p + l1·sign(p)
        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²;   amsgrad: v̂ ← max(v̂, v)
        p ← p − lr/(1−β₁ᵗ) · m / (√v̂/√(1−β₂ᵗ) + ε)
        eps_hat:  p ← p − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v̂ + ε̂)

    t counts each parameter's own steps: one whose gradient was ``None`` stays behind.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ of L2 regularization (coupled: part of the gradient), at least 0.
        amsgrad: Divide by the largest v so far.
        maximize: Ascend: the gradient is negated before weight decay is added.
        l1: Coefficient of L1 regularization, at least 0.
        eps_hat: ε joins √v before bias correction, as in TensorFlow, Keras, scikit-learn and ONNX.

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

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0.0,
        eps_hat: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            l1=l1,
            eps_hat=eps_hat,
        )

    _rule = staticmethod(_rules.adam)


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay.

    .. code-block:: text

        p ← (1 − lr·weight_decay) p, then Adam's step from the undecayed gradient

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ of the decoupled decay, at least 0.
        amsgrad: Divide by the largest v so far.
        maximize: Ascend: the gradient is negated.
        l1: Coefficient of L1 regularization, at least 0; part of the gradient.
        eps_hat: ε joins √v before bias correction, see :class:`Adam`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> weight, bias = np.ones(2), np.ones(1)
        >>> opt = fo.optim.AdamW([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5)
        >>> info = opt.step([[np.full(2, 0.5)], [np.full(1, 0.5)]])
        >>> weight.round(6), bias.round(6)
        (array([0.85, 0.85]), array([0.9]))

    References:
        Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, where torch and we multiply the decay with lr.
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
        maximize: bool = False,
        l1: float = 0.0,
        eps_hat: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, l1=l1, eps_hat=eps_hat)

    _rule = staticmethod(partial(_rules.adam, decoupled=True))
