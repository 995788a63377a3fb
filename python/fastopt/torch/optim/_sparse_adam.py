"""torch's SparseAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ... import optim
from .optimizer import Optimizer


class SparseAdam(Optimizer):
    """torch.optim.SparseAdam, with steps of fastopt's: Adam for sparse gradients, which updates the rows that occur.

    As in torch, ε joins √v before bias correction.  :class:`Adam` with ``eps_hat=True`` takes the same steps for a sparse gradient,
    and takes dense gradients too.

    Args:
        params: Tensors, groups, or named tensors.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        maximize: The gradient is negated.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> words = torch.nn.Embedding(1000, 4, sparse=True)
        >>> opt = optim.SparseAdam(words.parameters(), lr=0.1)
        >>> words(torch.tensor([7, 3, 7])).sum().backward()
        >>> opt.step()

    References:
        Kingma & Ba 2015, arXiv:1412.6980.
    """

    rule = optim.Adam
    only_sparse = "SparseAdam does not support dense gradients, please consider Adam instead"

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults: dict[str, Any] = dict(lr=lr, betas=betas, eps=eps, maximize=maximize, eps_hat=True)
        super().__init__(params, {**optim.Adam([]).defaults, **defaults})
