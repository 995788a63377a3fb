"""Dropout as a function that autograd differentiates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import dropout as torch_dropout

from ... import functional as F
from . import _choice
from ._choice import is_readable, takes
from ._tensors import STORED, array_of, memory_order, tensor_of

__all__ = ["dropout"]


class _Dropout(torch.autograd.Function):
    """Nothing is saved: which elements are dropped is a function of the seed and of their places in memory."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: float, seed: int, order: tuple[int, ...], inplace: bool) -> Any:
        ctx.options = p, seed, order
        array = array_of(x)
        if not inplace:
            ctx.shape, ctx.dtype = array.shape, array.dtype
            return tensor_of(F.dropout(array, p, seed=seed, order=order))
        ctx.shape, ctx.dtype = array.shape, array.dtype
        F.dropout(array, p, seed=seed, order=order, out=array)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        p, seed, order = ctx.options
        if not is_readable(dy):
            dx = dy * tensor_of(F.dropout(np.ones(ctx.shape, ctx.dtype), p, seed=seed, order=order))
        elif torch.is_grad_enabled():
            dx = _Dropout.apply(dy, p, seed, order, False)  # the gradient is the same function
        else:
            dx = tensor_of(F.dropout_backward(array_of(dy), p, seed=seed, order=order))
        return dx, None, None, None, None


def _can_change(input: Any) -> bool:
    """Whether dropout in place is simple: autograd has no rule about this tensor that torch's own operation would check first."""
    return not input._is_view() and not (input.requires_grad and input.is_leaf) and not input.is_inference()


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """torch's ``dropout``, by the kernel of :func:`fastopt.functional.dropout` where that is faster.

    .. code-block:: text

        y = x/(1 − p) with probability 1 − p, otherwise 0;   without training y = x

    The seed of each call is one number from torch's default generator, so that ``torch.manual_seed`` repeats a run, and activation
    checkpointing the call; the numbers are not those that torch's own dropout draws.  Backward computes the mask again.  Dropped
    elements are +0, also where the input is NaN or infinite, which torch makes NaN.

    Args:
        input: Any shape and memory layout.
        p: The probability that an element is dropped, in [0, 1].
        training: Whether to drop; otherwise y is the input itself.
        inplace: Whether to write y into the input.

    Returns:
        y, like input; the input itself if inplace, or without training.

    Raises:
        ValueError: p is not in [0, 1]; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> sorted({*F.dropout(torch.ones(1000), 0.5).tolist()})
        [0.0, 2.0]

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from
        overfitting", JMLR 15.
    """
    if (
        training
        and 0 < p < 1
        and takes(_choice.DROPOUT, input)
        and input.dtype in STORED
        and (not inplace or _can_change(input))
    ):
        try:
            return _drop(input, p, inplace)
        except (TypeError, ValueError):
            pass  # in place, and the input has gaps in memory
    return torch_dropout(input, p, training, inplace)


def _drop(input: Any, p: float, inplace: bool) -> Any:
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    order = memory_order(input)
    if torch.is_grad_enabled() and input.requires_grad:
        return _Dropout.apply(input, p, seed, order, inplace)
    array = array_of(input)
    if not inplace:
        return tensor_of(F.dropout(array, p, seed=seed, order=order))
    F.dropout(array, p, seed=seed, order=order, out=array)
    torch.autograd.graph.increment_version(input)  # which NumPy has written
    return input
