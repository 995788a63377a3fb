"""GELU as a function that autograd differentiates."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu as torch_gelu

from ... import functional as F
from . import _choice
from ._choice import is_readable, takes
from ._tensors import array_of, gradients, inverse, memory_order, tensor_of

__all__ = ["gelu"]

_COMPUTED = (torch.float32, torch.float64)
_Name = Literal["gelu", "gelu_tanh"]
_NAMES: dict[str, _Name] = {"none": "gelu", "tanh": "gelu_tanh"}


def _forward(x: Any, name: _Name) -> Any:
    """The kernel's result in the memory order of x."""
    if x.is_contiguous():
        return tensor_of(F.activate(array_of(x), name)[0])
    axes = memory_order(x)
    return tensor_of(F.activate(array_of(x).transpose(axes), name)[0].transpose(inverse(axes)))


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, approximate: str) -> Any:
        ctx.approximate = approximate
        ctx.save_for_backward(x)
        return _forward(x, _NAMES[approximate])

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_readable(dy):
            return *gradients(lambda x: torch_gelu(x, approximate=ctx.approximate), (x,), (True,), dy), None
        axes = memory_order(x)
        own_dy, own_x = (array_of(one).transpose(axes) for one in (dy, x))
        dx, _ = F.activate_backward(own_dy, own_x, _NAMES[ctx.approximate])
        return tensor_of(dx.transpose(inverse(axes))), None


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """torch's ``gelu``, by the kernel of :func:`fastopt.functional.activate` where that is faster: with the tanh.

    .. code-block:: text

        none: x·(1 + erf(x/√2))/2   tanh: x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2

    Args:
        input: Any shape and memory layout.
        approximate: "none" or "tanh".

    Returns:
        y, like input, in its memory order.

    Raises:
        RuntimeError: approximate is another name; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.gelu(torch.tensor([-1.0, 2.0]), approximate="tanh")
        tensor([-0.1588,  1.9546])

    References:
        Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    least = _choice.GELU_TANH if approximate == "tanh" else _choice.GELU
    if takes(least, input) and input.dtype in _COMPUTED and approximate in _NAMES:
        if torch.is_grad_enabled() and input.requires_grad:
            return _GELU.apply(input, approximate)
        return _forward(input, _NAMES[approximate])
    return torch_gelu(input, approximate=approximate)
