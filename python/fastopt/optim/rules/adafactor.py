"""Adafactor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._check import number
from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Array, Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Adafactor(Optimizer, decoupled_weight_decay=True):
    """Adafactor: second moments of rows and columns in place of those of elements.

    .. code-block:: text

        ω = t^beta2_decay;   ρ = min(lr, 1/√t)
        vectors:   v ← (1−ω) v + ω g²
        matrices:  r ← (1−ω) r + ω mean(g² of each row);   c ← (1−ω) c + ω mean(g² of each column);   v = r cᵀ / max(mean(r), ε₁)
        u = g / √max(v, ε₁²);   p ← p − max(ε₂, rms(p))·ρ / max(1, rms(u)/d) · u

    The last two axes of an array span its matrices.  The state of a matrix is one number per row and one per column.

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Largest relative step ρ, at least 0.
        beta2_decay: Power of t with which new gradients lose weight, at most 0.
        eps: ε₁, at least 0, or ``None`` for the epsilon of the parameter's dtype, and ε₂, at least 0.
        d: Largest root mean square of u, above 0.
        weight_decay: λ, at least 0; decoupled by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones((2, 2))
        >>> opt = fo.optim.Adafactor([w], lr=0.1)
        >>> opt.step([np.full((2, 2), 0.5)]).step
        1
        >>> w.round(4)
        array([[0.9, 0.9],
               [0.9, 0.9]])

    References:
        Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5, in torch's form.
    """

    kernels = ("adafactor_factored", "adafactor")
    elementwise = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        eps1, eps2 = h.several("eps", 2)
        d = h.number("d")
        if d == 0:
            raise ValueError(f"{h.function}: d must be > 0, got 0")
        return h.rule(
            "adafactor",
            beta2_decay=h.number("beta2_decay", -float("inf"), 0),
            eps1=-1.0 if eps1 is None else number(h.function, "eps1", eps1, 0),
            eps2=number(h.function, "eps2", eps2, 0),
            d=d,
        )

    @classmethod
    def _rule_of(cls, rule: Rule, param: Array) -> Rule:
        return rule._replace(name="adafactor_factored") if param.ndim > 1 else rule

    @classmethod
    def _shape_of(cls, name: str, param: Array) -> tuple[int, ...]:
        if name == "row_var":
            return (*param.shape[:-1], 1)
        if name == "col_var":
            return (*param.shape[:-2], 1, param.shape[-1])
        return param.shape
