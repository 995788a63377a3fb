"""Resilient propagation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from ..._check import number
from ..._rules import Hyperparameters, Rule
from ..optimizer import Optimizer, own
from ..parameters import Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._rules import Around


class Rprop(Optimizer):
    """Rprop: steps that depend on the signs of the gradients only; for full batches.

    .. code-block:: text

        g kept its sign:  s ← min(η⁺ s, s_max);      g changed it:  s ← max(η⁻ s, s_min), g ← 0
        p ← p − sign(g)·s

    Args:
        params: A list or dict of arrays, or a list of groups.
        lr: Learning rate, at least 0.
        etas: η⁻ in (0, 1) and η⁺ > 1.
        step_sizes: s_min and s_max.
        weight_decay: λ, at least 0; coupled (L2) by default.
        around: The hyperparameters that every rule has, see :class:`Optimizer`.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = np.ones(2)
        >>> opt = fo.optim.Rprop([w], lr=0.1)
        >>> opt.step([np.full(2, 0.5)]).step
        1
        >>> w.round(4)
        array([0.9, 0.9])

    References:
        Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop⁻), as in torch, but comparing signs: products may underflow.
    """

    kernels = ("rprop",)
    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({"step_size": "lr"})

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        weight_decay: float = 0.0,
        **around: Unpack[Around],
    ) -> None:
        super().__init__(params, around, **own(locals()))

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        minus, plus = h.several("etas", 2)
        least, most = h.several("step_sizes", 2)
        minus, plus = number(h.function, "etaminus", minus), number(h.function, "etaplus", plus)
        least, most = number(h.function, "step_size_min", least, 0), number(h.function, "step_size_max", most, 0)
        if not 0 < minus < 1 < plus:
            raise ValueError(f"{h.function}: etas must be 0 < etaminus < 1 < etaplus, got {minus:g} and {plus:g}")
        if least > most:
            raise ValueError(f"{h.function}: step_sizes must be in order, got {least:g} and {most:g}")
        return h.rule("rprop", etaminus=minus, etaplus=plus, step_size_min=least, step_size_max=most)
